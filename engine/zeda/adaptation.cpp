#include "engine/zeda/adaptation.h"

#include <algorithm>
#include <cmath>
#include <filesystem>

#include <fmt/format.h>

#include "engine/fingerprint.h"
#include "engine/options.h"
#include "engine/train/batches.h"
#include "engine/zeda/answer_file.h"
#include "engine/zeda/on_policy.h"
#include "engine/zeda/student.h"
#include "engine/zeda/zero_experts.h"
#include "models/file_io.h"

namespace moebius {
namespace {

constexpr int64_t kAtOnce = 32;  // answers on their way

std::string settings_of(const TrainerOptions& t) {
  return fmt::format(
      "steps {}\nmicro tokens {}\naccumulation {}\nlr {}\nshape {}\nwarmup {}\ndecay part {}\nfloor {}\nclip "
      "{}\nseed {}\nin order {}\ngroup balance {}\nzero weight {}\n",
      t.steps, t.micro_tokens, t.accumulation, t.lr, static_cast<int>(t.shape), t.warmup, t.decay_part,
      t.floor, t.clip, t.seed, t.in_order, t.group_balance, t.zero_weight);
}

// What comes before the last answer of an example.
std::vector<int32_t> prompt_of(const Dataset::Example& example) {
  size_t end = example.ids.size();
  while (end > 0 && example.mask[end - 1] == 0) --end;
  while (end > 0 && example.mask[end - 1] != 0) --end;
  return {example.ids.begin(), example.ids.begin() + static_cast<ptrdiff_t>(end)};
}

Status check_options(const AdaptationOptions& o) {
  const auto refuse = [](const std::string& what) { return invalid(what); };
  if (!(o.zero_rate > 0 && o.zero_rate < 1))
    return refuse(fmt::format("--zero-rate is {}; it must be above 0 and below 1", o.zero_rate));
  if (!(o.balance > 0) || !std::isfinite(o.balance))
    return refuse(fmt::format("--balance is {}; it must be above 0", o.balance));
  if (!(o.temperature > 0 && o.temperature <= 100))
    return refuse(
        fmt::format("--temp is {}; answers to learn from need one above 0, at most 100", o.temperature));
  if (!(o.eval_part >= 0 && o.eval_part <= 0.5))
    return refuse(fmt::format("--eval-part is {}; it must be in 0 .. 0.5", o.eval_part));
  return Status();
}

}  // namespace

double zero_weight_for(double zero_rate, int64_t experts, int64_t zero_experts) {
  return zero_rate / (1 - zero_rate) * static_cast<double>(experts) / static_cast<double>(zero_experts);
}

struct Adaptation::Impl {
  AdaptationOptions options;
  int threads = 1;
  std::unique_ptr<ModelFiles> files;
  ModelConfig teacher_config;
  Weights teacher_weights;
  std::unique_ptr<Tokenizer> tokenizer;
  PromptRenderer renderer;
  std::unique_ptr<Backend> backend;
  RotaryTable rotary;
  std::vector<std::vector<int32_t>> prompts;
  std::string about_prompts;  // of settings: model, prompts, answers
  std::unique_ptr<AnswerFile> answers;
  std::shared_ptr<Student> first;  // of stage one

  Status open();
  Status load_prompts();
  EngineOptions engine_options() const;
  Model model(const ModelConfig& config, const Weights& weights) const {
    return {config, weights, rotary, *backend};
  }
  Result<std::unique_ptr<Student>> new_student() const {
    return options.lora ? lora_student(*files, options.adapters) : full_student(*files, *backend);
  }
};

Status Adaptation::Impl::open() {
  MOEBIUS_TRY(check_options(options));
  MOEBIUS_ASSIGN(options.model, resolve_model_dir(options.model, hub_cache_dir()));
  MOEBIUS_ASSIGN(files, ModelFiles::open(options.model));
  const MoeConfig& moe = files->config().moe;
  if (moe.zero_experts == 0) {
    return invalid(
        fmt::format("{}: it has no zero experts; `moebius zeda inject -m {} -o FOLDER` gives it some",
                    options.model, options.model));
  }
  if (!is_injected(*files)) {
    return invalid(
        fmt::format("{}: it was adapted already, or not made by `moebius zeda inject`; the model it "
                    "learns from is no longer in it. Inject the original again",
                    options.model));
  }
  const double weight = zero_weight_for(options.zero_rate, moe.n_experts, moe.zero_experts);
  for (TrainerOptions* t : {&options.sft, &options.opd})
    t->group_balance = options.balance, t->zero_weight = weight, t->seed = options.seed;
  options.adapters.seed = options.seed;
  threads = options.threads > 0 ? options.threads : physical_cores();
  teacher_config = without_zero_experts(files->config());
  teacher_weights = without_zero_experts(files->config(), files->weights());
  backend = make_host_backend({threads});
  rotary = rotary_table(files->config().rotary);
  std::error_code error;
  std::filesystem::create_directories(options.out, error);
  if (error) return system_error("make folder", options.out, error.value());
  return load_prompts();
}

Status Adaptation::Impl::load_prompts() {
  MOEBIUS_ASSIGN(tokenizer, Tokenizer::open(options.model));
  MOEBIUS_ASSIGN(renderer, PromptRenderer::open(options.model));
  const ModelConfig& config = files->config();
  MOEBIUS_ASSIGN(const GenerationConfig generation, GenerationConfig::load(options.model, config));
  DatasetOptions how;
  how.max_tokens = config.context;
  how.too_long = DatasetOptions::TooLong::kCut;
  how.vocab = config.vocab;
  how.stop_ids = generation.eos_ids;
  how.threads = threads;
  MOEBIUS_ASSIGN(const Dataset data, Dataset::load(options.data, *tokenizer, renderer, how));
  const int64_t longest = std::min(config.context, options.sft.micro_tokens + 1) - 1;
  uint64_t hash = 0;
  for (int64_t i = 0; i < data.size(); ++i) {
    if (options.prompts > 0 && std::ssize(prompts) == options.prompts) break;
    std::vector<int32_t> prompt = prompt_of(data.example(i));
    if (prompt.empty() || std::ssize(prompt) >= longest) continue;
    hash = hash_of(fmt::format("{:x} {}", hash, fmt::join(prompt, " ")));
    prompts.push_back(std::move(prompt));
  }
  if (prompts.empty()) {
    return invalid(
        fmt::format("'{}' holds no prompt that leaves room for an answer in {} tokens; raise "
                    "--micro-tokens, or give other data",
                    printable(options.data), longest + 1));
  }
  about_prompts = fmt::format("model {} of {} bytes, {} prompts {:016x}, answers of {} tokens at {}, seed {}",
                              config.model_type, files->checkpoint().total_bytes(), prompts.size(), hash,
                              options.answer_tokens, options.temperature, options.seed);
  return Status();
}

// With room for the longest prompt and its answer.
EngineOptions Adaptation::Impl::engine_options() const {
  EngineOptions engine;
  engine.model = options.model;
  engine.threads = threads;
  engine.sessions = std::min<int64_t>(kAtOnce, std::ssize(prompts));
  size_t longest = 0;
  for (const auto& prompt : prompts) longest = std::max(longest, prompt.size());
  const int64_t most = std::min(files->config().context, options.sft.micro_tokens + 1);
  engine.context = std::min(most, static_cast<int64_t>(longest) + options.answer_tokens);
  return engine;
}

Adaptation::Adaptation(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Adaptation::~Adaptation() = default;

Result<std::unique_ptr<Adaptation>> Adaptation::open(const AdaptationOptions& options) {
  auto impl = std::make_unique<Impl>();
  impl->options = options;
  MOEBIUS_TRY(impl->open());
  return std::unique_ptr<Adaptation>(new Adaptation(std::move(impl)));
}

Status Adaptation::sample(const JobProgress& progress) {
  Impl& a = *impl_;
  MOEBIUS_ASSIGN(a.answers, AnswerFile::open(a.options.out + "/answers.jsonl", a.about_prompts));
  const int64_t total = std::ssize(a.prompts), kept = a.answers->size();
  if (kept >= total) return Status();
  MOEBIUS_ASSIGN(const std::unique_ptr<Engine> engine,
                 Engine::open(a.engine_options(), a.teacher_config, a.teacher_weights));
  AnswerSampler sampler(*engine);
  SampleOptions how;
  how.temperature = a.options.temperature, how.seed = a.options.seed;
  how.first = kept, how.max_tokens = a.options.answer_tokens;
  const std::span rest = std::span(a.prompts).subspan(static_cast<size_t>(kept));
  return sampler.run(rest, how, [&](int64_t i, const SampledAnswer& answer) -> Status {
    MOEBIUS_TRY(a.answers->append(rest[static_cast<size_t>(i)], answer.ids));
    if (!progress(a.answers->size(), total)) return {Code::kCancelled, "cancelled"};
    return Status();
  });
}

namespace {

// What both stages share.
class Stage : public TrainingJob {
 public:
  Stage(std::shared_ptr<Student> student, const std::string& out, const Dataset& answers, double eval_part,
        uint64_t seed)
      : student_(std::move(student)), out_(out) {
    const auto held_out = std::llround(eval_part * static_cast<double>(answers.size()));
    DatasetSplit parts = split_dataset(answers.size(), held_out, seed);
    training_ = {&answers, std::move(parts.training)};
    evaluation_ = {&answers, std::move(parts.evaluation)};
  }

  Trainer& trainer() override { return *trainer_; }
  const TrainingSet& evaluation() const override { return evaluation_; }
  std::vector<std::string> notes() const override { return {}; }
  std::string describe() const override { return about_; }
  TrainingSet training() const override { return training_; }
  // The folder of a stage has its logs; the model goes where the user wants it.
  Status write_result(const std::string& folder) override {
    const bool of_stage = folder == out_ + "/sft" || folder == out_ + "/opd";
    return student_->write(of_stage ? out_ : folder, trainer_->steps_done() == trainer_->total_steps());
  }

 protected:
  std::shared_ptr<Student> student_;
  std::string out_, about_;
  TrainingSet training_, evaluation_;
  std::unique_ptr<RoutingLog> routing_;    // of stage two
  std::unique_ptr<Engine> engine_;         // of stage two, on the student's weights
  std::unique_ptr<TrainingPass> teacher_;  // of stage two
  std::unique_ptr<Trainer> trainer_;       // goes first
  friend class moebius::Adaptation;
};

}  // namespace

Result<std::unique_ptr<TrainingJob>> Adaptation::supervised() {
  Impl& a = *impl_;
  MOEBIUS_ASSIGN(std::unique_ptr<Student> student, a.new_student());
  a.first = std::move(student);
  auto stage = std::make_unique<Stage>(a.first, a.options.out, a.answers->answers(), a.options.eval_part,
                                       a.options.seed);
  TrainerOptions t = a.options.sft;
  MOEBIUS_ASSIGN(Batches batches, Batches::create(a.answers->answers(), stage->training_.examples,
                                                  {t.seed, !t.in_order, t.micro_tokens, t.accumulation}));
  if (t.steps == 0)
    t.steps = std::max<int64_t>(1, std::llround(a.options.epochs * static_cast<double>(batches.steps(1))));
  t.warmup = std::min(t.warmup, t.steps);
  const std::string settings = fmt::format("{}\nanswers {:016x}\n{}", a.about_prompts,
                                           a.answers->answers().fingerprint(), settings_of(t));
  stage->about_ = fmt::format(
      "stage one: {:.2f} M trained numbers, {} answers of {:.1f} k tokens, zero experts "
      "towards {:.0f} % of slots",
      static_cast<double>(a.first->parameters()) / 1e6, stage->training_.examples.size(),
      static_cast<double>(a.answers->answers().tokens()) / 1e3, 100 * a.options.zero_rate);
  MOEBIUS_ASSIGN(stage->trainer_, Trainer::create(a.model(a.files->config(), a.first->weights()), *a.first,
                                                  stage->training_, t, a.threads, settings));
  return std::unique_ptr<TrainingJob>(std::move(stage));
}

Result<std::unique_ptr<TrainingJob>> Adaptation::on_policy() {
  Impl& a = *impl_;
  MOEBIUS_CHECK(a.first && a.answers);
  MOEBIUS_ASSIGN(std::unique_ptr<Student> student, a.new_student());
  MOEBIUS_TRY(student->start_from(*a.first));
  a.first = nullptr;
  const AdaptationOptions& o = a.options;
  auto stage = std::make_unique<Stage>(std::move(student), o.out, a.answers->answers(), o.eval_part, o.seed);
  const Student& weights = *stage->student_;
  stage->routing_ = std::make_unique<RoutingLog>(a.files->config());
  EngineOptions engine = a.engine_options();
  engine.routing = stage->routing_.get();
  MOEBIUS_ASSIGN(stage->engine_, Engine::open(engine, a.files->config(), weights.weights()));
  MOEBIUS_ASSIGN(stage->teacher_,
                 TrainingPass::create(a.model(a.teacher_config, a.teacher_weights), {o.opd.micro_tokens, 0}));
  const OnPolicyOptions how{o.opd_prompts,      o.opd_samples, o.answer_tokens,
                            o.opd.micro_tokens, o.temperature, o.seed};
  const std::string settings = fmt::format(
      "{}\nanswers {:016x}\n{} x {} answers a step\nafter\n{}stage two\n{}", a.about_prompts,
      a.answers->answers().fingerprint(), how.prompts, how.samples, settings_of(o.sft), settings_of(o.opd));
  stage->about_ = fmt::format("stage two: {} steps of {} own answers to {} prompts", o.opd.steps,
                              how.prompts * how.samples, a.prompts.size());
  MOEBIUS_ASSIGN(stage->trainer_,
                 Trainer::create(a.model(a.files->config(), weights.weights()), *stage->student_,
                                 std::make_unique<OnPolicySteps>(a.prompts, *stage->engine_, *stage->routing_,
                                                                 *stage->teacher_, how),
                                 o.opd, a.threads, settings));
  return std::unique_ptr<TrainingJob>(std::move(stage));
}

}  // namespace moebius
