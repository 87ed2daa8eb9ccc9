// moebius finetune: a LoRA adapter on a frozen model.
#include <memory>

#include <fmt/format.h>

#include "engine/train/finetuning.h"
#include "tools/command.h"
#include "tools/training_loop.h"

namespace moebius {
namespace {

struct Options {
  FinetuningOptions job;
  TrainingLoopOptions loop;
};

int finetune(Options options) {
  options.loop.out = options.job.out;
  const auto open = [&](const JobProgress& progress) { return open_finetuning(options.job, progress); };
  return run_training("finetune", options.loop, open);
}

}  // namespace

void add_finetune(CLI::App& app, Run& run) {
  auto options = std::make_shared<Options>();
  FinetuningOptions& o = options->job;
  o.trainer.steps = 0;
  o.trainer.lr = 2e-3;
  o.epochs = 3;
  CLI::App* command =
      app.add_subcommand("finetune", "teach a model from examples: a LoRA adapter, with Muon");
  command->option_defaults()->take_last();
  command->add_option(
      "-m,--model", o.model,
      "checkpoint folder, or a Hugging Face id already in the cache (default: the shipped model)");
  command
      ->add_option("--data", o.data,
                   "examples, JSONL: {\"messages\": [...]}, {\"prompt\", \"completion\"} or {\"text\"}")
      ->required();
  command->add_option("--eval-data", o.eval_data, "held-out examples, JSONL");
  command
      ->add_option("--eval-part", o.eval_part,
                   "of the data, held out when there is no --eval-data (default 0.05)")
      ->check(CLI::Range(0.0, 0.5));
  command->add_option("-o,--out", o.out, "folder for the adapter, its log and its checkpoints")->required();
  command->add_option("--epochs", o.epochs, "passes over the data, unless --steps is given (default 3)")
      ->check(CLI::Range(0.01, 1000.0));
  command->add_option("--max-tokens", o.max_tokens, "of an example (default: what --micro-tokens holds)")
      ->check(CLI::NonNegativeNumber);
  command->add_flag("--cut-long", o.cut_long, "cut examples that are too long instead of refusing them");
  add_lora_options(*command, o.lora);
  add_choice<AdapterLayout>(*command, "--adapter-layout", o.layout,
                            {{"fused", AdapterLayout::kFused}, {"per-expert", AdapterLayout::kPerExpert}},
                            "of routed experts: fused, for peft on transformers 5 (default), or per-expert");
  add_trainer_options(*command, o.trainer);
  command->add_flag("--exact-activations", o.exact_activations,
                    "int4 and int8 weights on unrounded activations");
  command->add_option("-t,--threads", o.threads, "CPU threads (default: one per physical core)")
      ->check(CLI::Range(0, 4096));
  add_device_options(*command, o.device);
  add_training_loop_options(*command, options->loop);
  command->footer(
      "\nExample:\n  moebius finetune --data new-task.jsonl -o adapter && moebius chat --adapter adapter");
  command->callback([options, &run] { run = [options] { return finetune(*options); }; });
}

}  // namespace moebius
