#include "engine/zeda/zero_experts.h"

#include <algorithm>
#include <cmath>
#include <map>

#include <fmt/format.h>

#include "engine/checkpoint_folder.h"
#include "engine/train/random.h"
#include "engine/write_progress.h"
#include "kernels/half.h"
#include "models/file_io.h"
#include "models/json_fields.h"

namespace moebius {
namespace {

using Json = nlohmann::ordered_json;

constexpr int64_t kMostZeroExperts = 1 << 20;  // as config.json may say
constexpr const char* kMark = "zeda";          // in the metadata of the files that write_injected() writes
constexpr const char* kInjected = "injected";

struct Layout {
  const char* model_type;
  const char* with_zero_experts;
};
constexpr Layout kLayouts[] = {{"qwen3_moe", "qwen3_moe_plus_plus"},
                               {"glm4_moe_lite", "glm4_moe_lite_plus_plus"},
                               {"deepseek_v3", "deepseek_v3_plus_plus"},
                               {"kimi_k2", "deepseek_v3_plus_plus"}};

const char* layout_of(const std::string& model_type) {
  for (const Layout& l : kLayouts)
    if (model_type == l.model_type) return l.with_zero_experts;
  return nullptr;
}

int64_t zero_experts_of(const ModelFiles& model, const InjectOptions& options) {
  return options.zero_experts > 0 ? options.zero_experts : model.config().moe.n_experts / 2;
}

float number_at(const TensorEntry& t, int64_t i) {
  if (t.dtype == DType::kF32) {
    float value;
    std::memcpy(&value, static_cast<const char*>(t.data) + 4 * i, sizeof value);
    return value;
  }
  uint16_t bits;
  std::memcpy(&bits, static_cast<const char*>(t.data) + 2 * i, sizeof bits);
  return t.dtype == DType::kF16 ? f16_to_f32(bits) : bf16_to_f32(bits);
}

void append_number(DType dtype, float value, std::vector<uint8_t>& bytes) {
  const size_t at = bytes.size(), width = dtype_bytes(dtype);
  bytes.resize(at + width);
  if (dtype == DType::kF32) {
    std::memcpy(bytes.data() + at, &value, width);
    return;
  }
  const uint16_t bits = dtype == DType::kF16 ? f32_to_f16(value) : f32_to_bf16(value);
  std::memcpy(bytes.data() + at, &bits, width);
}

// What stands in for a tensor of the model.
struct Replacement {
  std::vector<int64_t> shape;
  std::vector<uint8_t> bytes;
};
using Replacements = std::map<std::string, Replacement, std::less<>>;

// `more` rows below those of t, [rows, cols] or [rows]: each column drawn like the numbers that it has.
Replacement grown(const TensorEntry& t, int64_t more, uint64_t seed) {
  const int64_t rows = t.shape[0], cols = t.shape.size() == 2 ? t.shape[1] : 1;
  std::vector<double> mean(static_cast<size_t>(cols)), deviation(mean.size());
  for (int64_t j = 0; j < cols; ++j) {
    double sum = 0, squares = 0;
    for (int64_t i = 0; i < rows; ++i) sum += number_at(t, i * cols + j);
    mean[j] = sum / static_cast<double>(rows);
    for (int64_t i = 0; i < rows; ++i) squares += std::pow(number_at(t, i * cols + j) - mean[j], 2);
    deviation[j] = rows > 1 ? std::sqrt(squares / static_cast<double>(rows - 1)) : 0;
  }
  Replacement out{t.shape, {}};
  out.shape[0] += more;
  const auto* old = static_cast<const uint8_t*>(t.data);
  out.bytes.assign(old, old + t.bytes);
  NamedRandom random(seed, t.name);
  for (int64_t i = 0; i < more; ++i)
    for (size_t j = 0; j < mean.size(); ++j)
      append_number(t.dtype, static_cast<float>(mean[j] + deviation[j] * random.normal()), out.bytes);
  return out;
}

Result<const TensorEntry*> plain_tensor(const ModelFiles& model, const std::string& name) {
  const TensorEntry* t = model.checkpoint().find(name);
  if (t && (t->dtype == DType::kF32 || t->dtype == DType::kF16 || t->dtype == DType::kBF16)) return t;
  return unsupported(
      fmt::format("{}: {} is not stored as F32, F16 or BF16, and cannot get rows of zero experts",
                  model.checkpoint().dir(), name));
}

// on_tensor for each router and selection bias.
Status visit_routers(const ModelFiles& model, const std::function<Status(const TensorEntry&)>& on_tensor) {
  WeightVisitor visitor;
  visitor.matrix = [&](const std::string& name, Role role, int64_t, int64_t, Matrix&) -> Status {
    if (role != Role::kRouter) return Status();
    MOEBIUS_ASSIGN(const TensorEntry* t, plain_tensor(model, name + ".weight"));
    return on_tensor(*t);
  };
  visitor.vector = [&](const std::string& name, int64_t, Tensor&) -> Status {
    if (!name.ends_with(".e_score_correction_bias")) return Status();
    MOEBIUS_ASSIGN(const TensorEntry* t, plain_tensor(model, name));
    return on_tensor(*t);
  };
  Weights views = model.weights();
  return visit_weights(model.config(), views, visitor);
}

Result<Json> read_config(const ModelFiles& model) {
  const std::string path = model.checkpoint().dir() + "/config.json";
  MOEBIUS_ASSIGN(const std::string text, read_text_file(path, kMaxConfigBytes));
  Json config = parse_ordered_json(text);
  if (!config.is_object()) return invalid(fmt::format("{}: not a JSON object", path));
  return config;
}

// The model's shards with some tensors replaced.
class Rewriter {
 public:
  Rewriter(const ModelFiles& model, const Replacements& replaced, const WriteProgress::Progress& progress)
      : model_(model.checkpoint()), replaced_(replaced), written_(progress, total_bytes()) {}

  Status write(const std::string& dir, bool mark) {
    std::vector<std::pair<std::string, std::string>> places;
    for (const Checkpoint::Shard& shard : model_.shards()) {
      auto metadata = shard.file->metadata();
      std::erase_if(metadata, [](const auto& entry) { return entry.first == kMark; });
      if (mark) metadata.emplace_back(kMark, kInjected);
      SafetensorsWriter writer(dir + "/" + shard.name, metadata);
      for (const TensorEntry& t : shard.file->tensors()) {
        const Replacement* other = replacement(t);
        writer.declare(t.name, t.dtype, other ? other->shape : t.shape);
        places.emplace_back(t.name, shard.name);
      }
      for (const TensorEntry& t : shard.file->tensors()) {
        const Replacement* other = replacement(t);
        MOEBIUS_TRY(written_.put(other ? other->bytes.data() : t.data, bytes_of(t), writer));
      }
      MOEBIUS_TRY(writer.finish());
    }
    const bool single = model_.shards().size() == 1 && model_.shards().front().name == "model.safetensors";
    if (!single) MOEBIUS_TRY(write_shard_index(dir, written_.total(), places));
    MOEBIUS_TRY(copy_companions(model_.dir(), dir));
    return model_.check_unchanged();
  }

 private:
  const Replacement* replacement(const TensorEntry& t) const {
    const auto at = replaced_.find(t.name);
    return at == replaced_.end() ? nullptr : &at->second;
  }
  int64_t bytes_of(const TensorEntry& t) const {
    const Replacement* other = replacement(t);
    return other ? std::ssize(other->bytes) : t.bytes;
  }
  int64_t total_bytes() const {
    int64_t total = 0;
    for (const TensorEntry* t : model_.tensors()) total += bytes_of(*t);
    return total;
  }

  const Checkpoint& model_;
  const Replacements& replaced_;
  WriteProgress written_;
};

}  // namespace

Status check_injectable(const ModelFiles& model, const InjectOptions& options) {
  const ModelConfig& c = model.config();
  const std::string& dir = model.checkpoint().dir();
  if (c.moe.zero_experts > 0) {
    return invalid(fmt::format("{}: it has {} zero experts a layer already; give the model it was made from",
                               dir, c.moe.zero_experts));
  }
  if (std::count(c.moe_layer.begin(), c.moe_layer.end(), true) == 0)
    return invalid(fmt::format("{}: a model without routed experts has none to skip", dir));
  if (!layout_of(c.model_type)) {
    return unsupported(fmt::format(
        "{}: there is no layout for zero experts in a model of type {}; there is for {}, {}, {} and {}", dir,
        c.model_type, kLayouts[0].model_type, kLayouts[1].model_type, kLayouts[2].model_type,
        kLayouts[3].model_type));
  }
  if (c.moe.n_group > 1) {
    return unsupported(
        fmt::format("{}: experts in {} groups leave no place for zero experts", dir, c.moe.n_group));
  }
  const int64_t zero = zero_experts_of(model, options);
  if (zero < 1 || zero > kMostZeroExperts) {
    return invalid(fmt::format("{} zero experts for {} experts are out of range; give 1 to {}", zero,
                               c.moe.n_experts, kMostZeroExperts));
  }
  return visit_routers(model, [](const TensorEntry&) { return Status(); });
}

Status write_injected(const ModelFiles& model, const InjectOptions& options, const std::string& dir) {
  MOEBIUS_TRY(check_injectable(model, options));
  const int64_t zero = zero_experts_of(model, options);
  MOEBIUS_ASSIGN(Json config, read_config(model));
  config["model_type"] = layout_of(model.config().model_type);
  config["zce_nums"] = {zero};
  config["zce_types"] = {"zero"};
  config["use_zce_mask"] = true;
  MOEBIUS_TRY(write_text_file(dir + "/config.json",
                              config.dump(2, ' ', false, Json::error_handler_t::replace) + "\n"));
  Replacements grown_tensors;
  MOEBIUS_TRY(visit_routers(model, [&](const TensorEntry& t) {
    grown_tensors[t.name] = grown(t, zero, options.seed);
    return Status();
  }));
  return Rewriter(model, grown_tensors, options.progress).write(dir, true);
}

Status write_with_routers(const ModelFiles& injected, const RouterValues& values, const std::string& dir,
                          const std::function<bool(int64_t, int64_t)>& progress) {
  MOEBIUS_ASSIGN(const Json config, read_config(injected));
  MOEBIUS_TRY(write_text_file(dir + "/config.json",
                              config.dump(2, ' ', false, Json::error_handler_t::replace) + "\n"));
  Replacements replaced;
  MOEBIUS_TRY(visit_routers(injected, [&](const TensorEntry& t) {
    const std::vector<float>* numbers = values(t.name);
    if (!numbers) return Status();
    Replacement& other = replaced[t.name];
    other.shape = t.shape;
    for (const float number : *numbers) append_number(t.dtype, number, other.bytes);
    MOEBIUS_CHECK(std::ssize(other.bytes) == t.bytes);
    return Status();
  }));
  return Rewriter(injected, replaced, progress).write(dir, false);
}

bool is_injected(const ModelFiles& model) {
  return std::ranges::all_of(model.checkpoint().shards(), [](const Checkpoint::Shard& shard) {
    return std::ranges::any_of(shard.file->metadata(), [](const auto& entry) {
      return entry.first == kMark && entry.second == kInjected;
    });
  });
}

ModelConfig without_zero_experts(const ModelConfig& config) {
  ModelConfig out = config;
  out.moe.zero_experts = 0;
  return out;
}

Weights without_zero_experts(const ModelConfig& config, const Weights& weights) {
  Weights out = weights;
  for (LayerWeights& layer : out.layers) {
    if (layer.router.empty()) continue;
    layer.router.rows = config.moe.n_experts;
    if (!layer.router_bias.empty()) layer.router_bias = layer.router_bias.slice(0, 0, config.moe.n_experts);
  }
  return out;
}

}  // namespace moebius
