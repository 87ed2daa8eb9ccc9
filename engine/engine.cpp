#include "engine/engine.h"

#include <algorithm>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "engine/engine_impl.h"

namespace moebius {
namespace {

std::string format_of(const ModelConfig& config, const Weights& weights) {
  const Format linear = weights.layers.front().o.format;
  for (const LayerWeights& layer : weights.layers) {
    if (layer.experts.empty()) continue;
    const Format expert = layer.experts.front().gate.format;
    if (expert == linear) return format_name(linear);
    return fmt::format("{} with {} experts", format_name(linear), format_name(expert));
  }
  return format_name(linear);
}

}  // namespace

Engine::Engine(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Engine::~Engine() = default;

const ModelConfig& Engine::config() const { return impl_->model_config(); }
const GenerationConfig& Engine::generation() const { return impl_->generation; }
bool Engine::has_tokenizer() const { return impl_->tokenizer != nullptr; }
const EngineOptions& Engine::options() const { return impl_->options; }
void Engine::wait_loaded() {
  if (impl_->loader.joinable()) impl_->loader.join();
}
std::span<const char> Engine::weights_memory() const {
  std::span<const char> longest;
  if (!impl_->lent_weights)
    for (const Checkpoint::Shard& shard : impl_->files->checkpoint().shards())
      if (const auto memory = shard.file->memory(); memory.size() > longest.size()) longest = memory;
  return longest;
}
const std::vector<std::string>& Engine::notes() const { return impl_->notes; }

const Tokenizer& Engine::tokenizer() const {
  MOEBIUS_CHECK(impl_->tokenizer != nullptr, "look at has_tokenizer() first");
  return *impl_->tokenizer;
}

const ChatMarkup& Engine::markup() const { return impl_->markup; }

Result<std::shared_ptr<const Constraint>> Engine::constrain(const Grammar& grammar) const {
  std::call_once(impl_->vocabulary_made, [&] {
    impl_->vocabulary = TokenVocabulary::of(tokenizer(), config().vocab, impl_->markup.ids());
  });
  return Constraint::compile(grammar, impl_->vocabulary, generation().eos_ids);
}

std::string Engine::describe() const {
  const Impl& e = *impl_;
  const double gib = static_cast<double>(e.files->checkpoint().total_bytes()) / (1 << 30);
  std::string text = fmt::format("{}: {} {}, {:.2f} GiB, context {}, cache {}, on {}", e.options.model,
                                 config().model_type, format_of(config(), e.base_weights()), gib,
                                 e.options.context, dtype_name(e.cache_type), e.backend().name());
  const ExpertStore* experts = e.on_device ? e.on_device->experts() : nullptr;
  if (experts)
    text +=
        fmt::format(" with {} of {} experts, the others on the host", experts->resident(), experts->total());
  return text;
}

std::vector<LayerUse> Engine::expert_use() const {
  const ExpertStore* experts = impl_->on_device ? impl_->on_device->experts() : nullptr;
  return experts ? experts->use() : std::vector<LayerUse>();
}

std::vector<ExpertLayer> Engine::expert_map() const {
  const ExpertStore* experts = impl_->on_device ? impl_->on_device->experts() : nullptr;
  const DiskTier* disk = impl_->on_device ? impl_->on_device->disk() : impl_->disk ? &*impl_->disk : nullptr;
  std::vector<ExpertLayer> map = (experts ? experts->map() : *impl_->map).read(impl_->host_weights(), disk);
  for (ExpertLayer& layer : map) {
    if (impl_->on_device && !experts) layer.places.assign(layer.places.size(), ExpertPlace::kDevice);
  }
  return map;
}

const ModelPlan* Engine::plan() const { return impl_->on_device ? impl_->on_device->plan() : nullptr; }

SamplingParams Engine::default_sampling() const {
  const GenerationConfig& g = impl_->generation;
  SamplingParams params;
  params.temperature = g.do_sample ? static_cast<float>(g.temperature) : 0;
  params.top_k = g.top_k;
  params.top_p = static_cast<float>(g.top_p);
  params.min_p = static_cast<float>(g.min_p);
  params.repetition_penalty = static_cast<float>(g.repetition_penalty);
  return params;
}

OpTotals Engine::take_op_totals() {
  OpTotals totals = impl_->meter.totals();
  impl_->meter.clear();
  return totals;
}

Result<std::unique_ptr<Session>> Engine::new_session(std::shared_ptr<BatchAdapter> adapter) {
  if (adapter) MOEBIUS_TRY(adapter->place(impl_->parts->model));
  return std::unique_ptr<Session>(
      new Session(std::make_unique<Session::Impl>(*impl_->parts, std::move(adapter))));
}

Result<std::shared_ptr<BatchAdapter>> Engine::open_adapter(const std::string& dir) const {
  if (impl_->adapted)
    return invalid("adapters cannot be added to a model that has one already; start without --adapter");
  return BatchAdapter::open(dir, config(), impl_->base_weights());
}

Status Engine::append(std::span<Session* const> sessions, std::span<const int32_t> ids) {
  MOEBIUS_CHECK(!sessions.empty() && sessions.size() == ids.size());
  std::vector<Extension> more;
  for (size_t i = 0; i < sessions.size(); ++i) more.push_back({sessions[i]->impl_.get(), ids.subspan(i, 1)});
  return extend(more);
}

Result<std::string> Engine::render_chat(const nlohmann::ordered_json& request, bool generation_prompt) const {
  return impl_->prompt.render(request, generation_prompt);
}

}  // namespace moebius
