// open_training: a model from scratch.

#include <algorithm>
#include <filesystem>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "engine/train/checkpoint.h"
#include "engine/train/job.h"
#include "engine/train/lines.h"
#include "models/file_io.h"
#include "models/json_fields.h"
#include "models/tokenizer_train.h"

namespace moebius {
namespace {

constexpr size_t kMaxSmallFile = 16 << 20;
constexpr int64_t kTokenizerLines = 100'000;  // of the data, to train a tokenizer on

const char* const kCopied[] = {"config.json", "chat_template.jinja", "generation_config.json"};
const char* const kTokenizerFiles[] = {"tokenizer.model", "tokenizer.json", "tokenizer_config.json",
                                       "special_tokens_map.json", "tiktoken.model"};

bool has_tokenizer(const std::string& dir) {
  return std::ranges::any_of(kTokenizerFiles,
                             [&](const char* name) { return path_exists(dir + "/" + name); });
}

// The texts of a JSONL line, of any of the shapes of dataset.h.
void append_texts(const nlohmann::json& line, std::vector<std::string>& texts) {
  const auto take = [&](const nlohmann::json& value) {
    if (value.is_string() && !value.get_ref<const std::string&>().empty()) texts.push_back(value);
  };
  if (!line.is_object()) return;
  for (const char* key : {"text", "prompt", "completion"})
    if (line.contains(key)) take(line[key]);
  if (!line.contains("messages") || !line["messages"].is_array()) return;
  for (const nlohmann::json& message : line["messages"])
    if (message.is_object() && message.contains("content")) take(message["content"]);
}

Status make_tokenizer(const TrainingOptions& options, int64_t vocab, int64_t context) {
  TokenizerTraining training = pebble_tokenizer();
  training.vocab_size = static_cast<int32_t>(vocab);
  training.context = context;
  training.seed = options.trainer.seed;
  std::vector<std::string> texts;
  MOEBIUS_ASSIGN(LineReader reader, LineReader::open(options.data));
  LineBlock block;
  for (int64_t lines = 0; lines < kTokenizerLines;) {
    MOEBIUS_ASSIGN(const bool more, reader.next(block));
    if (!more) break;
    for (size_t i = 0; i < block.lines.size() && lines < kTokenizerLines; ++i, ++lines)
      append_texts(parse_json(block.lines[i]), texts);
  }
  size_t next = 0;
  const auto source = [&](std::string& text) -> Result<bool> {
    if (next == texts.size()) return false;
    text = std::move(texts[next++]);
    return true;
  };
  MOEBIUS_ASSIGN(const TrainedTokenizer trained, train_tokenizer(training, source, options.out));
  if (trained.vocab_size > vocab)
    return invalid(
        fmt::format("the tokenizer has {} ids, config.json says vocab_size {}", trained.vocab_size, vocab));
  return Status();
}

class ScratchTraining final : public TrainingJob {
 public:
  explicit ScratchTraining(const TrainingOptions& options) : options_(options) {}

  Status open(const JobProgress& progress) {
    MOEBIUS_TRY(prepare_folder());
    MOEBIUS_ASSIGN(config_, ModelConfig::load(options_.out));
    if (!resumed_ && !has_tokenizer(options_.recipe))
      MOEBIUS_TRY(make_tokenizer(options_, config_.vocab, config_.context));
    MOEBIUS_TRY(load_data(progress));
    const int threads = options_.threads > 0 ? options_.threads : physical_cores();
    backend_ = make_host_backend({threads});
    rotary_ = rotary_table(config_.rotary);
    options_.full.seed = options_.trainer.seed;
    MOEBIUS_ASSIGN(model_, FullModel::random(config_, options_.full, *backend_));
    if (options_.keep_weights && !resumed_) {
      MOEBIUS_ASSIGN(const std::unique_ptr<ModelFiles> files, ModelFiles::open(options_.recipe));
      MOEBIUS_TRY(model_->start_from(files->weights()));
    }
    const Model model{config_, model_->weights(), rotary_, *backend_};
    MOEBIUS_ASSIGN(trainer_,
                   Trainer::create(model, *model_, all_of(data_), options_.trainer, threads, settings()));
    return Status();
  }

  Trainer& trainer() override { return *trainer_; }
  TrainingSet training() const override { return all_of(data_); }
  const TrainingSet& evaluation() const override { return evaluation_; }
  std::vector<std::string> notes() const override { return model_->notes(); }
  std::string describe() const override {
    int64_t parameters = 0;
    for (const optim::NamedGradient& g : model_->named_gradients()) parameters += g.values.size();
    return fmt::format("{}: {} of {:.2f} M parameters, {} examples of {:.1f} M tokens, on {}", options_.out,
                       config_.model_type, static_cast<double>(parameters) / 1e6, data_.size(),
                       static_cast<double>(data_.tokens()) / 1e6, backend_->name());
  }
  Status write_result(const std::string& folder) override {
    return model_->write_weights(folder + "/model.safetensors");
  }

 private:
  // A run that goes on keeps the files it began with; those of the recipe must be the same.
  Status prepare_folder() {
    if (!path_exists(options_.recipe + "/config.json"))
      return not_found(fmt::format(
          "{}/config.json is missing; --recipe is a folder with a model's config.json", options_.recipe));
    MOEBIUS_TRY(ModelConfig::load(options_.recipe).status());
    resumed_ = !newest_checkpoint(checkpoint_folder(options_.out)).empty();
    std::error_code error;
    std::filesystem::create_directories(options_.out, error);
    if (error) return system_error("make folder", options_.out, error.value());
    for (const char* name : kCopied) MOEBIUS_TRY(resumed_ ? compare(name) : copy(name));
    for (const char* name : kTokenizerFiles) MOEBIUS_TRY(resumed_ ? compare(name) : copy(name));
    return Status();
  }

  Status copy(const std::string& name) const {
    const std::string from = options_.recipe + "/" + name;
    if (!path_exists(from)) return Status();
    MOEBIUS_ASSIGN(const std::string text, read_text_file(from, kMaxSmallFile));
    return write_text_file(options_.out + "/" + name, text);
  }

  Status compare(const std::string& name) const {
    const std::string theirs = options_.recipe + "/" + name, ours = options_.out + "/" + name;
    if (!path_exists(theirs)) return Status();
    MOEBIUS_ASSIGN(const std::string text, read_text_file(theirs, kMaxSmallFile));
    MOEBIUS_ASSIGN(const std::string kept, read_text_file(ours, kMaxSmallFile));
    if (text == kept) return Status();
    return invalid(
        fmt::format("{} is not the {} that this run began with; use that recipe, or start anew in "
                    "another folder",
                    theirs, ours));
  }

  Status load_data(const JobProgress& progress) {
    MOEBIUS_ASSIGN(tokenizer_, Tokenizer::open(options_.out));
    MOEBIUS_ASSIGN(prompts_, PromptRenderer::open(options_.out));
    MOEBIUS_ASSIGN(const GenerationConfig generation, GenerationConfig::load(options_.out, config_));
    DatasetOptions how;
    how.max_tokens = std::min(config_.context, options_.trainer.micro_tokens);
    how.vocab = config_.vocab;
    how.stop_ids = generation.eos_ids;
    how.threads = options_.threads;
    how.progress = progress;
    MOEBIUS_ASSIGN(data_, Dataset::load(options_.data, *tokenizer_, prompts_, how));
    if (options_.eval_data.empty()) return Status();
    MOEBIUS_ASSIGN(eval_, Dataset::load(options_.eval_data, *tokenizer_, prompts_, how));
    evaluation_ = all_of(eval_);
    return Status();
  }

  std::string settings() const {
    const TrainerOptions& t = options_.trainer;
    const FullOptions& f = options_.full;
    return fmt::format(
        "data {:016x}\nsteps {}\nmicro tokens {}\naccumulation {}\nlr {}\nshape {}\nwarmup {}\ndecay part "
        "{}\n"
        "floor {}\nclip {}\nseed {}\nin order {}\nmatrices {}\nembeddings {}\nvectors {}\nbalance "
        "{}\nbalance loss {}\nqk "
        "clip {}\nkeep weights {}\n",
        data_.fingerprint(), t.steps, t.micro_tokens, step_size(t), t.lr, static_cast<int>(t.shape), t.warmup,
        t.decay_part, t.floor, t.clip, t.seed, t.in_order, optim::describe(f.matrices),
        optim::describe(f.embeddings), optim::describe(f.vectors), f.balance_gamma, t.balance_loss, f.qk_clip,
        options_.keep_weights);
  }

  TrainingOptions options_;
  bool resumed_ = false;
  ModelConfig config_;
  std::unique_ptr<Tokenizer> tokenizer_;
  PromptRenderer prompts_;
  Dataset data_, eval_;
  TrainingSet evaluation_;
  std::unique_ptr<Backend> backend_;
  RotaryTable rotary_;
  std::unique_ptr<FullModel> model_;
  std::unique_ptr<Trainer> trainer_;
};

}  // namespace

Result<std::unique_ptr<TrainingJob>> open_training(const TrainingOptions& options,
                                                   const JobProgress& progress) {
  auto job = std::make_unique<ScratchTraining>(options);
  MOEBIUS_TRY(job->open(progress));
  return std::unique_ptr<TrainingJob>(std::move(job));
}

}  // namespace moebius
