#include "tools/training_loop.h"

#include <sys/prctl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <filesystem>

#include <fmt/format.h>

#include "engine/train/checkpoint.h"
#include "engine/train/loss_plot.h"
#include "engine/train/training_log.h"
#include "models/file_io.h"
#include "tools/chat_interrupt.h"
#include "tools/progress.h"
#include "tools/text_io.h"

namespace moebius {
namespace {

constexpr int64_t kKeptCheckpoints = 2;
constexpr double kParts = 10;  // of a run between two evaluations or checkpoints, by default

int64_t every(int64_t asked, int64_t steps) {
  return asked > 0 ? asked : std::max<int64_t>(1, static_cast<int64_t>(static_cast<double>(steps) / kParts));
}

class Loop {
 public:
  Loop(const std::string& name, const TrainingLoopOptions& options, TrainingJob& job, int64_t steps)
      : name_(name),
        options_(options),
        job_(job),
        steps_(steps),
        bar_(name),
        checkpoints_(checkpoint_folder(options.out)) {}

  // Everything but the last report; kCancelled after Ctrl-C, with a checkpoint written.
  Status run(Interrupts& interrupts) {
    MOEBIUS_TRY(prepare());
    const int64_t eval_every = every(options_.eval_every, steps_),
                  save_every = every(options_.save_every, steps_);
    bool stop = ended_early();
    while (!stop && job_.trainer().steps_done() < steps_) {
      MOEBIUS_ASSIGN(const StepReport step, job_.trainer().step());
      TrainingRow row = row_of(step);
      const bool last = step.step == steps_, evaluate = step.step % eval_every == 0 || last;
      if (evaluate) MOEBIUS_TRY(evaluate_and_keep(row));
      stop = ended_early();
      MOEBIUS_TRY(log_->append(row));
      bar_.update(step.step, steps_, step.loss, row.tokens_per_s);
      const bool interrupted = interrupts.take();
      if (step.step % save_every == 0 || last || stop || interrupted) MOEBIUS_TRY(save());
      if (interrupted && !last && !stop)
        return {Code::kCancelled,
                fmt::format("interrupted at step {}; go on with the same command and --resume", step.step)};
    }
    if (stop) {
      say(fmt::format("stopped at step {}: {} evaluations without a better loss than {:.4f}",
                      job_.trainer().steps_done(), worse_, best_));
    }
    return plot();
  }

  void report() {
    bar_.clear();
    TrainingRow row;
    row.step = job_.trainer().steps_done();
    if (!log_->rows().empty()) row = log_->rows().back();
    const double eval_loss = last_eval_;
    if (options_.json) {
      nlohmann::ordered_json out = {{"out", options_.out},
                                    {"steps", row.step},
                                    {"tokens", row.tokens},
                                    {"seconds", row.seconds},
                                    {"loss", row.loss}};
      if (!std::isnan(eval_loss)) out["eval_loss"] = eval_loss;
      print_output(to_text(out) + "\n");
      return;
    }
    print_output(fmt::format("{}: {} steps, {:.1f} M tokens, {:.0f} s, loss {:.4f}{}\n", options_.out,
                             row.step, static_cast<double>(row.tokens) / 1e6, row.seconds, row.loss,
                             std::isnan(eval_loss) ? "" : fmt::format(", evaluation {:.4f}", eval_loss)));
  }

 private:
  void say(const std::string& line) { bar_.note("moebius: " + line); }

  Status prepare() {
    std::error_code error;
    std::filesystem::create_directories(checkpoints_, error);
    if (error) return system_error("make folder", checkpoints_, error.value());
    const std::string newest = newest_checkpoint(checkpoints_);
    if (!newest.empty()) {
      MOEBIUS_TRY(job_.trainer().restore(newest));
      say(fmt::format("goes on after step {} from {}", job_.trainer().steps_done(), newest));
    }
    remove_partial_files(checkpoints_);
    remove_partial_files(options_.out);
    MOEBIUS_ASSIGN(log_, TrainingLog::open(options_.out + "/log.csv", job_.trainer().steps_done()));
    for (const TrainingRow& row : log_->rows()) {
      tokens_ = row.tokens, seconds_ = row.seconds;
      if (!std::isnan(row.eval_loss)) note_evaluation(row.eval_loss);
    }
    return describe_run();
  }

  Status describe_run() const {
    const nlohmann::ordered_json run = {{"steps", steps_},
                                        {"examples", job_.training().examples.size()},
                                        {"eval_examples", job_.evaluation().examples.size()},
                                        {"description", job_.describe()}};
    return write_text_file(options_.out + "/run.json", to_text(run) + "\n");
  }

  TrainingRow row_of(const StepReport& step) {
    tokens_ += step.tokens, seconds_ += step.seconds;
    TrainingRow row;
    row.step = step.step, row.tokens = tokens_, row.seconds = seconds_;
    row.loss = step.loss, row.accuracy = step.accuracy, row.lr = step.lr, row.grad_norm = step.gradient_norm;
    row.tokens_per_s = static_cast<double>(step.tokens) / step.seconds;
    if (step.expert_load > 0) row.expert_load = step.expert_load;
    row.max_logit = step.max_logit;
    if (step.zero_rate > 0) row.zero_rate = step.zero_rate;
    return row;
  }

  // Whether this is the best loss so far.
  bool note_evaluation(double loss) {
    last_eval_ = loss;
    const bool better = !(loss >= best_);
    best_ = better ? loss : best_;
    worse_ = better ? 0 : worse_ + 1;
    return better;
  }

  bool ended_early() const { return options_.patience > 0 && worse_ >= options_.patience; }

  // Where a run may end early, what is written is the best so far; elsewhere the latest.
  Status evaluate_and_keep(TrainingRow& row) {
    bool better = true;
    if (!job_.evaluation().examples.empty()) {
      MOEBIUS_ASSIGN(const EvalReport eval, job_.trainer().evaluate(job_.evaluation()));
      row.eval_loss = eval.loss, row.eval_accuracy = eval.accuracy;
      better = note_evaluation(eval.loss);
      say(fmt::format("step {}: evaluation loss {:.4f}{}", row.step, eval.loss,
                      better ? "" : ", not better"));
    }
    if (!better && options_.patience > 0) return Status();
    MOEBIUS_TRY(job_.trainer().check());
    MOEBIUS_TRY(job_.write_result(options_.out));
    return options_.keep > 0 ? keep_result(row.step) : Status();
  }

  // In a folder of its own, that is there once it is whole.
  Status keep_result(int64_t step) {
    const std::string folder = fmt::format("{}/step-{:06}", options_.out, step),
                      unfinished = folder + ".part";
    std::error_code error;
    std::filesystem::remove_all(unfinished, error);
    std::filesystem::create_directories(unfinished, error);
    if (error) return system_error("make folder", unfinished, error.value());
    MOEBIUS_TRY(job_.write_result(unfinished));
    std::filesystem::remove_all(folder, error);  // of a run that did this step before it was killed
    std::filesystem::rename(unfinished, folder, error);
    if (error) return system_error("make folder", folder, error.value());
    return drop_results();
  }

  Status drop_results() const {
    std::vector<std::filesystem::path> kept;
    std::error_code error;
    for (std::filesystem::directory_iterator it(options_.out, error), end; !error && it != end;
         it.increment(error))
      if (it->path().filename().string().starts_with("step-")) kept.push_back(it->path());
    std::sort(kept.begin(), kept.end());
    for (int64_t i = 0; i < std::ssize(kept) - options_.keep && !error; ++i)
      std::filesystem::remove_all(kept[static_cast<size_t>(i)], error);
    return error ? system_error("remove old results in", options_.out, error.value()) : Status();
  }

  Status save() {
    MOEBIUS_TRY(job_.trainer().save(checkpoint_path(checkpoints_, job_.trainer().steps_done())));
    MOEBIUS_TRY(prune_checkpoints(checkpoints_, kKeptCheckpoints));
    return plot();
  }

  Status plot() {
    const std::string title = "moebius " + name_;
    MOEBIUS_TRY(write_text_file(options_.out + "/loss.svg", loss_plot(log_->rows(), title)));
    if (log_->rows().empty() || std::isnan(log_->rows().back().zero_rate)) return Status();
    return write_text_file(options_.out + "/zero_rate.svg", zero_rate_plot(log_->rows(), title));
  }

  const std::string name_;
  const TrainingLoopOptions& options_;
  TrainingJob& job_;
  const int64_t steps_;
  TrainingProgress bar_;
  const std::string checkpoints_;
  std::unique_ptr<TrainingLog> log_;
  int64_t tokens_ = 0, worse_ = 0;
  double seconds_ = 0, best_ = kNotMeasured, last_eval_ = kNotMeasured;
};

}  // namespace

void add_lora_options(CLI::App& command, LoraOptions& lora) {
  command
      .add_option(
          "--targets", lora.targets,
          "matrices to adapt: q, kv, o, experts, shared, dense, router, or the last part of a module's "
          "name (default: all but the router)")
      ->delimiter(',')
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  command.add_option("-r,--rank", lora.rank, "of each adapter (default 16)")->check(CLI::Range(1, 65536));
  command.add_option("--alpha", lora.alpha, "the adapter counts alpha / rank times (default 32)");
  add_choice<LoraOptimizer>(
      command, "--optimizer", lora.optimizer,
      {{"muon", LoraOptimizer::kMuon},
       {"lora-muon", LoraOptimizer::kLoraMuon},
       {"adamw", LoraOptimizer::kAdamW}},
      "muon: on each factor (default); lora-muon: the spectral rule on the product; adamw");
  command.add_option("--weight-decay", lora.decay, "decoupled (default 0)")->check(CLI::NonNegativeNumber);
}

void add_trainer_options(CLI::App& app, TrainerOptions& t) {
  app.add_option("--steps", t.steps,
                 fmt::format("of the optimizer{}", t.steps > 0 ? fmt::format(" (default {})", t.steps) : ""))
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 40));
  app.add_option(
         "--micro-tokens", t.micro_tokens,
         fmt::format("tokens that go through the model at once, at most (default {})", t.micro_tokens))
      ->check(CLI::Range(int64_t{2}, int64_t{1} << 24));
  app.add_option("--accumulate", t.accumulation, "such micro-batches in a step (default 1)")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 20));
  app.add_option(
         "--batch-size", t.batch,
         "examples in a step, in as many micro-batches as they need (default: what --accumulate holds)")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 20))
      ->excludes("--accumulate");
  app.add_option("--lr", t.lr, fmt::format("peak learning rate (default {})", t.lr))
      ->check(CLI::PositiveNumber);
  add_choice<LrShape>(app, "--schedule", t.shape,
                      {{"cosine", LrShape::kCosine},
                       {"wsd", LrShape::kWsd},
                       {"linear", LrShape::kLinear},
                       {"constant", LrShape::kConstant}},
                      "of the learning rate after the warm-up (default cosine; wsd: stable, then decay)");
  app.add_option("--warmup", t.warmup, fmt::format("steps (default {})", t.warmup))
      ->check(CLI::NonNegativeNumber);
  app.add_option("--decay-part", t.decay_part, "wsd: the part of the steps that decays (default 0.2)")
      ->check(CLI::Range(0.0, 1.0));
  app.add_option("--floor", t.floor, "the last learning rate, as a part of the peak (default 0.1)")
      ->check(CLI::Range(0.0, 1.0));
  app.add_option("--clip", t.clip, "largest norm of all gradients together (default 1)")
      ->check(CLI::PositiveNumber);
  app.add_flag("--in-order", t.in_order,
               "take the examples as they are listed, not shuffled: for a curriculum");
  app.add_option("--seed", t.seed, "of the first weights and the order of the data (default 0)");
}

void add_training_loop_options(CLI::App& app, TrainingLoopOptions& o) {
  app.add_option("--eval-every", o.eval_every, "steps between evaluations (default: a tenth of the run)")
      ->check(CLI::NonNegativeNumber);
  app.add_option("--save-every", o.save_every, "steps between checkpoints (default: a tenth of the run)")
      ->check(CLI::NonNegativeNumber);
  app.add_option("--patience", o.patience,
                 "end after so many evaluations without a better loss, and keep the best (default 0: never)")
      ->check(CLI::NonNegativeNumber);
  app.add_option("--keep", o.keep,
                 "also keep what the last so many evaluations wrote, in folders step-NUMBER of the output "
                 "(default 0)")
      ->check(CLI::NonNegativeNumber);
  app.add_flag("--resume", o.resume, "go on from the newest checkpoint in the output folder, bit for bit");
  app.add_option("--parent", o.parent,
                 "process that started this one: when it ends, do as after Ctrl-C (default: go on)")
      ->check(CLI::PositiveNumber);
  app.add_flag("--json", o.json, "print the summary as JSON");
}

int run_training(const std::string& name, const TrainingLoopOptions& options, const OpenJob& open) {
  if (!options.resume && !newest_checkpoint(checkpoint_folder(options.out)).empty()) {
    return fail(fmt::format(
        "{} holds checkpoints of an earlier run; go on with --resume, or choose another -o", options.out));
  }
  Interrupts interrupts({SIGINT, SIGTERM});
  if (options.parent > 0) {
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != options.parent)
      return fail("the process of --parent did not start this one, or has ended");
  }
  ProgressBar preparing(name);
  auto job = open([&](int64_t done, int64_t total) {
    preparing.update(done, total);
    return !interrupts.take();
  });
  preparing.clear();
  if (!job.ok()) return fail(job.status());
  if (options.patience > 0 && (*job)->evaluation().examples.empty())
    return fail("--patience needs held-out examples; give --eval-data, or leave it out");
  fmt::print(stderr, "moebius: {}\n", printable((*job)->describe(), 4096));
  for (const std::string& note : (*job)->notes()) fmt::print(stderr, "moebius: {}\n", printable(note, 4096));
  Loop loop(name, options, **job, (*job)->trainer().total_steps());
  if (const Status status = loop.run(interrupts); !status.ok()) return fail(status);
  loop.report();
  return 0;
}

}  // namespace moebius
