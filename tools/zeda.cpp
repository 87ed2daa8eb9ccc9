// moebius zeda: a model that skips experts for easy tokens.
#include <filesystem>
#include <memory>

#include <fmt/format.h>

#include "engine/options.h"
#include "engine/zeda/adaptation.h"
#include "engine/zeda/zero_experts.h"
#include "models/file_io.h"
#include "tools/chat_interrupt.h"
#include "tools/command.h"
#include "tools/progress.h"
#include "tools/synth_folder.h"
#include "tools/text_io.h"
#include "tools/training_loop.h"
#include "tools/zeda_report.h"

namespace moebius {
namespace {

constexpr int64_t kOtherBytes = 64 << 20;  // tokenizer, configuration, headers and index, amply

// ---- inject ----

struct InjectCommand {
  std::string model, out;
  InjectOptions inject;
};

Result<std::string> inject(InjectCommand o) {
  if (o.model.empty()) {
    MOEBIUS_ASSIGN(o.model, default_model_dir());
  } else {
    MOEBIUS_ASSIGN(o.model, resolve_model_dir(o.model, hub_cache_dir()));
  }
  MOEBIUS_ASSIGN(const std::unique_ptr<ModelFiles> files, ModelFiles::open(o.model));
  MOEBIUS_TRY(check_injectable(*files, o.inject));
  MOEBIUS_ASSIGN(FolderInMaking folder,
                 FolderInMaking::create(o.out, files->checkpoint().total_bytes() + kOtherBytes, {}, ""));
  Interrupts interrupts;
  ProgressBar bar("write, MB");
  o.inject.progress = [&](int64_t done, int64_t total) {
    bar.update(done / 1'000'000, total / 1'000'000);
    return !interrupts.take();
  };
  MOEBIUS_TRY(write_injected(*files, o.inject, folder.dir()));
  MOEBIUS_TRY(folder.commit());
  bar.clear();
  MOEBIUS_ASSIGN(const ModelConfig config, ModelConfig::load(o.out));
  return fmt::format(
      "{}: {}, {} experts and {} zero experts a layer, of which a token chooses {}; adapt it next\n",
      printable(o.out, 4096), config.model_type, config.moe.n_experts, config.moe.zero_experts,
      config.moe.top_k);
}

void add_inject(CLI::App& zeda, Run& run) {
  auto options = std::make_shared<InjectCommand>();
  InjectCommand& o = *options;
  CLI::App* command =
      zeda.add_subcommand("inject", "give a model zero experts, which it has yet to learn to choose");
  command->option_defaults()->take_last();
  command->add_option(
      "-m,--model", o.model,
      "checkpoint folder, or a Hugging Face id already in the cache (default: the shipped model)");
  command->add_option("-o,--out", o.out, "folder to write, which must be new or empty")->required();
  command
      ->add_option("--zero-experts", o.inject.zero_experts,
                   "of each layer with experts (default: half as many as it has experts)")
      ->check(CLI::PositiveNumber);
  command->add_option("--seed", o.inject.seed, "of the routers' new rows (default 0)");
  command->callback([options, &run] {
    run = [options] {
      const Result<std::string> text = inject(*options);
      return text.ok() ? print_output(*text) : fail(text.status());
    };
  });
}

// ---- adapt ----

struct AdaptCommand {
  AdaptationOptions adapt;
  TrainingLoopOptions loop;
};

Status sample(Adaptation& adaptation) {
  Interrupts interrupts;
  ProgressBar bar("the teacher answers");
  const Status status = adaptation.sample([&](int64_t done, int64_t total) {
    bar.update(done, total);
    return !interrupts.take();
  });
  bar.clear();
  if (status.code() != Code::kCancelled) return status;
  return {Code::kCancelled, "interrupted; go on with the same command and --resume"};
}

int adapt(const AdaptCommand& o) {
  const std::string answers = o.adapt.out + "/answers.jsonl";
  if (!o.loop.resume && std::filesystem::exists(answers))
    return fail(fmt::format("{} is of an earlier run; go on with --resume, or choose another -o", answers));
  Result<std::unique_ptr<Adaptation>> opened = Adaptation::open(o.adapt);
  if (!opened.ok()) return fail(opened.status());
  Adaptation& adaptation = **opened;
  if (const Status status = sample(adaptation); !status.ok()) return fail(status);
  TrainingLoopOptions loop = o.loop;
  loop.out = o.adapt.out + "/sft";
  const int code = run_training("zeda adapt, stage one", loop,
                                [&](const JobProgress&) { return adaptation.supervised(); });
  if (code != 0 || o.adapt.opd.steps == 0) return code;
  loop.out = o.adapt.out + "/opd";
  return run_training("zeda adapt, stage two", loop,
                      [&](const JobProgress&) { return adaptation.on_policy(); });
}

void add_stage_options(CLI::App& command, AdaptationOptions& o) {
  TrainerOptions &sft = o.sft, &opd = o.opd;
  sft.steps = 0, sft.lr = 5e-4, sft.floor = 0, sft.warmup = 20, sft.micro_tokens = opd.micro_tokens = 4096;
  opd.steps = 100, opd.lr = 1e-4, opd.shape = LrShape::kConstant;
  command
      .add_option("--epochs", o.epochs,
                  "stage one: passes over the teacher's answers, unless --sft-steps (default 1)")
      ->check(CLI::Range(0.01, 1000.0));
  command.add_option("--sft-steps", sft.steps, "stage one: steps")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 40));
  command.add_option("--sft-lr", sft.lr, "stage one: peak learning rate, with a cosine to 0 (default 5e-4)")
      ->check(CLI::PositiveNumber);
  command.add_option("--warmup", sft.warmup, "stage one: steps (default 20)")->check(CLI::NonNegativeNumber);
  command.add_option("--opd-steps", opd.steps, "stage two: steps; 0 leaves it out (default 100)")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 40));
  command.add_option("--opd-lr", opd.lr, "stage two: learning rate (default 1e-4)")
      ->check(CLI::PositiveNumber);
  command.add_option("--opd-prompts", o.opd_prompts, "stage two: prompts of a step (default 16)")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 20));
  command.add_option("--opd-samples", o.opd_samples, "stage two: answers to each (default 2)")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 20));
  command
      .add_option_function<int64_t>(
          "--micro-tokens", [&o](int64_t n) { o.sft.micro_tokens = o.opd.micro_tokens = n; },
          "tokens that go through the model at once, at most (default 4096)")
      ->check(CLI::Range(int64_t{2}, int64_t{1} << 24));
  command.add_option("--accumulate", sft.accumulation, "stage one: such micro-batches in a step (default 1)")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 20));
}

void add_student_options(CLI::App& command, AdaptationOptions& o) {
  add_choice<bool>(
      command, "--train", o.lora, {{"all", false}, {"lora", true}},
      "what learns: all weights, in float32 memory (default); lora: routers and adapters, for large "
      "models");
  command
      .add_option("--targets", o.adapters.targets,
                  "lora: matrices to adapt, as `moebius finetune` has them (default: all but the router)")
      ->delimiter(',')
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  command.add_option("-r,--rank", o.adapters.rank, "lora: of each adapter (default 16)")
      ->check(CLI::Range(1, 65536));
}

void add_adapt(CLI::App& zeda, Run& run) {
  auto options = std::make_shared<AdaptCommand>();
  AdaptationOptions& o = options->adapt;
  CLI::App* command = zeda.add_subcommand("adapt", "let an injected model learn to skip experts");
  command->option_defaults()->take_last();
  command->add_option("-m,--model", o.model, "folder that `moebius zeda inject` wrote")->required();
  command
      ->add_option("--data", o.data,
                   "prompts: JSONL as `moebius finetune` reads it; its answers are not used")
      ->required();
  command->add_option("-o,--out", o.out, "folder for the adapted model, its logs and its checkpoints")
      ->required();
  command->add_option("--zero-rate", o.zero_rate,
                      "share of expert slots to skip, that the balance loss asks for "
                      "(default 0.5)");
  command->add_option("--balance", o.balance, "alpha of that loss (default 0.1)");
  command->add_option("--prompts", o.prompts, "take the first N prompts of the data (default 0: all)")
      ->check(CLI::NonNegativeNumber);
  command->add_option("--answer-tokens", o.answer_tokens, "of an answer at most (default 512)")
      ->check(CLI::PositiveNumber);
  command->add_option("--temp", o.temperature, "of the answers (default 1)");
  command->add_option("--eval-part", o.eval_part, "of the teacher's answers, held out (default 0.02)");
  add_stage_options(*command, o);
  add_student_options(*command, o);
  command->add_option("--seed", o.seed, "of answers and order (default 0)");
  command->add_option("-t,--threads", o.threads, "CPU threads (default: one per physical core)")
      ->check(CLI::Range(0, 4096));
  add_training_loop_options(*command, options->loop);
  command->footer(
      "\nStage one trains on the original model's answers, stage two on the adapted model's own, each token "
      "by how\n"
      "much likelier the original finds it. In the folder: answers.jsonl, and in sft/ and opd/ log.csv, "
      "loss.svg,\n"
      "zero_rate.svg and checkpoints.");
  command->callback([options, &run] { run = [options] { return adapt(*options); }; });
}

}  // namespace

void add_zeda(CLI::App& app, Run& run) {
  CLI::App* command = app.add_subcommand("zeda", "make a model skip experts for easy tokens: zero experts");
  command->require_subcommand(1);
  add_inject(*command, run);
  add_adapt(*command, run);
  add_zeda_report(*command, run);
}

}  // namespace moebius
