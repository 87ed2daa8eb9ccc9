#include "engine/train/finetuning.h"

#include <algorithm>
#include <cmath>
#include <filesystem>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "engine/options.h"
#include "models/file_io.h"

namespace moebius {
namespace {

class Finetuning final : public TrainingJob {
 public:
  explicit Finetuning(const FinetuningOptions& options) : options_(options) {}

  Status open(const JobProgress& progress) {
    MOEBIUS_TRY(open_model());
    MOEBIUS_TRY(load_data(progress));
    const int threads = options_.threads > 0 ? options_.threads : physical_cores();
    backend_ = make_host_backend({threads, options_.exact_activations});
    rotary_ = rotary_table(files_->config().rotary);
    options_.lora.seed = options_.trainer.seed;
    MOEBIUS_ASSIGN(lora_, LoraModel::create(files_->config(), files_->weights(), options_.lora));
    MOEBIUS_TRY(check_layout());
    const Model model{files_->config(), lora_->weights(), rotary_, *backend_};
    MOEBIUS_TRY(count_steps());
    MOEBIUS_ASSIGN(trainer_,
                   Trainer::create(model, *lora_, training_, options_.trainer, threads, settings()));
    return Status();
  }

  Trainer& trainer() override { return *trainer_; }
  TrainingSet training() const override { return training_; }
  const TrainingSet& evaluation() const override { return evaluation_; }
  std::vector<std::string> notes() const override {
    std::vector<std::string> notes = files_->notes();
    if (data_.cut() > 0)
      notes.push_back(fmt::format("{} examples were cut to {} tokens", data_.cut(), max_tokens()));
    return notes;
  }
  std::string describe() const override {
    return fmt::format(
        "{}: {:.2f} M trained numbers on {} matrices ({}), {} examples of {:.1f} k tokens, on {}",
        options_.model, static_cast<double>(lora_->parameters()) / 1e6, lora_->named_gradients().size() / 2,
        targets(), training_.examples.size(), static_cast<double>(data_.tokens()) / 1e3, backend_->name());
  }
  Status write_result(const std::string& folder) override {
    const char* const names[] = {"Muon", "LoRA-Muon", "AdamW"};
    AdapterWriteOptions how;
    how.layout = options_.layout;
    how.base_model = options_.model;
    how.method =
        fmt::format("supervised fine-tuning, {} steps of {}, learning rate {}", trainer_->steps_done(),
                    names[static_cast<size_t>(options_.lora.optimizer)], options_.trainer.lr);
    how.data_file = options_.data;
    return write_adapter(folder, files_->config(), lora_->factors(), how);
  }

 private:
  std::string targets() const {
    return options_.lora.targets.empty() ? "all but the router"
                                         : fmt::format("{}", fmt::join(options_.lora.targets, ", "));
  }

  int64_t max_tokens() const {
    const int64_t most = std::min(files_->config().context, options_.trainer.micro_tokens + 1);
    return options_.max_tokens > 0 ? std::min(options_.max_tokens, most) : most;
  }

  Status open_model() {
    if (options_.model.empty()) {
      MOEBIUS_ASSIGN(options_.model, default_model_dir());
    } else {
      MOEBIUS_ASSIGN(options_.model, resolve_model_dir(options_.model, hub_cache_dir()));
    }
    MOEBIUS_ASSIGN(files_, ModelFiles::open(options_.model));
    std::error_code error;
    std::filesystem::create_directories(options_.out, error);
    if (error) return system_error("make folder", options_.out, error.value());
    return Status();
  }

  Status load_data(const JobProgress& progress) {
    MOEBIUS_ASSIGN(tokenizer_, Tokenizer::open(options_.model));
    MOEBIUS_ASSIGN(prompts_, PromptRenderer::open(options_.model));
    MOEBIUS_ASSIGN(const GenerationConfig generation,
                   GenerationConfig::load(options_.model, files_->config()));
    DatasetOptions how;
    how.max_tokens = max_tokens();
    how.too_long = options_.cut_long ? DatasetOptions::TooLong::kCut : DatasetOptions::TooLong::kRefuse;
    how.vocab = files_->config().vocab;
    how.stop_ids = generation.eos_ids;
    how.threads = options_.threads;
    how.progress = progress;
    MOEBIUS_ASSIGN(data_, Dataset::load(options_.data, *tokenizer_, prompts_, how));
    training_.dataset = &data_, evaluation_.dataset = &data_;
    if (!options_.eval_data.empty()) {
      MOEBIUS_ASSIGN(eval_, Dataset::load(options_.eval_data, *tokenizer_, prompts_, how));
      evaluation_ = all_of(eval_);
    }
    const bool split = options_.eval_data.empty() && options_.eval_part > 0;
    const double held_out = split ? options_.eval_part * static_cast<double>(data_.size()) : 0;
    DatasetSplit parts =
        split_dataset(data_.size(), static_cast<int64_t>(std::llround(held_out)), options_.trainer.seed);
    training_.examples = std::move(parts.training);
    if (split) evaluation_.examples = std::move(parts.evaluation);
    return Status();
  }

  // Steps from epochs.
  Status count_steps() {
    TrainerOptions& t = options_.trainer;
    if (t.steps > 0) return Status();
    MOEBIUS_ASSIGN(Batches batches,
                   Batches::create(data_, training_.examples,
                                   {t.seed, !t.in_order, t.micro_tokens, t.accumulation, t.batch}));
    const double whole = std::floor(options_.epochs);
    const double part = options_.epochs - whole;
    const double steps = static_cast<double>(batches.steps(static_cast<int64_t>(whole))) +
                         part * static_cast<double>(batches.steps(1));
    t.steps = std::max<int64_t>(1, std::llround(steps));
    if (t.warmup > t.steps) t.warmup = t.steps;
    return Status();
  }

  // FNV-1a of the first bytes of every tensor but those of most experts: tells two models of one shape apart
  // without reading either.
  uint64_t base_fingerprint() const {
    constexpr int64_t kBytes = 4096;
    uint64_t hash = 0xcbf29ce484222325u;
    for (const TensorEntry* t : files_->checkpoint().tensors()) {
      if (t->name.find(".experts.") != std::string::npos && t->name.find(".experts.0.") == std::string::npos)
        continue;
      const auto* bytes = static_cast<const unsigned char*>(t->data);
      for (int64_t i = 0; i < std::min(kBytes, t->bytes); ++i) hash = (hash ^ bytes[i]) * 0x100000001b3u;
    }
    return hash;
  }

  // What the adapter's layout cannot hold shows before hours of work.
  Status check_layout() const {
    const MoeConfig& moe = files_->config().moe;
    const bool even = moe.widths.empty() && moe.zero_experts == 0;
    if (even || options_.layout != AdapterLayout::kFused) return Status();
    for (const AdapterFactors& f : lora_->factors()) {
      if (f.module.find(".experts.") == std::string::npos) continue;
      return unsupported(
          "experts of different widths and zero experts have no fused layout; give --adapter-layout "
          "per-expert, or --targets without experts");
    }
    return Status();
  }

  std::string settings() const {
    const TrainerOptions& t = options_.trainer;
    const LoraOptions& l = options_.lora;
    return fmt::format(
        "model {} of {} bytes, {:016x}\ndata {:016x}\ntraining examples {}\nsteps {}\nmicro tokens "
        "{}\naccumulation "
        "{}\n"
        "lr {}\nshape {}\nwarmup {}\ndecay part {}\nfloor {}\nclip {}\nseed {}\nin order {}\nrank {}\nalpha "
        "{}\n"
        "targets {}\noptimizer {}\nweight decay {}\nexact activations {}\n",
        files_->config().model_type, files_->checkpoint().total_bytes(), base_fingerprint(),
        data_.fingerprint(), training_.examples.size(), t.steps, t.micro_tokens, step_size(t), t.lr,
        static_cast<int>(t.shape), t.warmup, t.decay_part, t.floor, t.clip, t.seed, t.in_order, l.rank,
        l.alpha, targets(), static_cast<int>(l.optimizer), l.decay, options_.exact_activations);
  }

  FinetuningOptions options_;
  std::unique_ptr<ModelFiles> files_;
  std::unique_ptr<Tokenizer> tokenizer_;
  PromptRenderer prompts_;
  Dataset data_, eval_;
  TrainingSet training_, evaluation_;
  std::unique_ptr<Backend> backend_;
  RotaryTable rotary_;
  std::unique_ptr<LoraModel> lora_;
  std::unique_ptr<Trainer> trainer_;
};

}  // namespace

Result<std::unique_ptr<TrainingJob>> open_finetuning(const FinetuningOptions& options,
                                                     const JobProgress& progress) {
  auto job = std::make_unique<Finetuning>(options);
  MOEBIUS_TRY(job->open(progress));
  return std::unique_ptr<TrainingJob>(std::move(job));
}

}  // namespace moebius
