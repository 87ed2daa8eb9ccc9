#include "engine/train/finetuning.h"

#include <algorithm>
#include <cmath>
#include <filesystem>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "engine/device_choice.h"
#include "engine/measure_speeds.h"
#include "engine/train/device_training.h"
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
    MOEBIUS_TRY(count_steps());
    options_.trainer.memory.shortest = shortest();
    MOEBIUS_TRY(open_device(threads));
    const Model model = on_device_ ? on_device_->model(rotary_)
                                   : Model{files_->config(), lora_->weights(), rotary_, *backend_};
    Trained& trained = on_device_ ? static_cast<Trained&>(*on_device_) : *lora_;
    MOEBIUS_ASSIGN(trainer_,
                   Trainer::create(model, trained, training_, options_.trainer, threads, settings()));
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
        targets(), training_.examples.size(), static_cast<double>(data_.tokens()) / 1e3,
        on_device_ ? fmt::format("{}: {}", device_->name(), on_device_->describe()) : backend_->name());
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

  // Rows of the shortest example that any pass sees.
  int64_t shortest() const {
    int64_t rows = max_tokens();
    for (const TrainingSet* set : {&training_, &evaluation_})
      for (const int64_t i : set->examples)
        if (const int64_t n = set->dataset->tokens_of(i) - 1; n > 0) rows = std::min(rows, n);
    return rows;
  }

  Status open_device(int threads) {
    DeviceOptions& o = options_.device;
    MOEBIUS_ASSIGN(const MakeDevice make_device, device_maker(o, {threads, options_.exact_activations}));
    if (!make_device) return Status();
    const ModelConfig& config = files_->config();
    TrainingShape shape;
    shape.micro_tokens = options_.trainer.micro_tokens, shape.accumulation = options_.trainer.accumulation;
    shape.shortest = options_.trainer.memory.shortest, shape.lora = options_.lora;
    shape.sequence = data_.tokens() / std::max<int64_t>(1, data_.size());
    MOEBIUS_ASSIGN(const ModelBytes model, model_bytes(config, files_->weights(), DType::kF32));
    MOEBIUS_ASSIGN(const TrainingBytes bytes, training_bytes(config, model, shape));
    DeviceTraining::Options how;
    how.pass = options_.trainer.memory;
    how.pass.max_tokens = options_.trainer.micro_tokens;
    how.overlap = o.overlap, how.speeds = o.speeds;
    const int64_t least = DeviceTraining::least_bytes(config, lora_->weights(), how.pass);
    const int64_t own = own_bytes(o.device);
    TrainingBudgets budgets{o.device_memory - own, o.ram > 0 ? o.ram : machine_memory()};
    if (o.device_memory == 0) budgets.device_bytes = bytes_for_all(bytes, shape, budgets);
    if (budgets.device_bytes < least) {
      return no_memory(fmt::format(
          "--gpu-memory: attention and shared weights, their adapters and a micro-batch of {} tokens take {} "
          "bytes ({}), {} are given; give at least as much, or lower --micro-tokens or --rank",
          how.pass.max_tokens, least + own, gib_text(least + own), gib_text(o.device_memory)));
    }
    how.memory = budgets.device_bytes;
    MOEBIUS_ASSIGN(device_, make_device(how.memory + own));
    if (how.speeds.link_GBs == 0 && config.moe.n_experts > 0) {
      MOEBIUS_ASSIGN(how.speeds, measure_speeds(config, files_->weights(), *backend_, *device_));
    }
    const TrainingPlan plan = plan_training(bytes, shape, how.speeds, budgets);
    MOEBIUS_ASSIGN(on_device_, DeviceTraining::create(config, *lora_, plan, how, *backend_, *device_));
    options_.trainer.memory = on_device_->pass_options();
    return Status();
  }

  // With which everything is on the device.
  static int64_t bytes_for_all(const TrainingBytes& bytes, const TrainingShape& shape,
                               const TrainingBudgets& budgets) {
    static constexpr MachineSpeeds kAny{1, 1, 1, 1, 1, 1, 0, 0};
    const TrainingPlan plan = plan_training(bytes, shape, kAny, budgets);
    return plan.device_for_all + plan.device_for_all / 32;
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
    for (const AdapterFactors* f : lora_->factors()) {
      if (f->module.find(".experts.") == std::string::npos) continue;
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
  std::unique_ptr<Backend> device_;            // null: the host
  std::unique_ptr<DeviceTraining> on_device_;  // null on the host
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
