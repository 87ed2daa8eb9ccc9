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
  add_training_loop_options(*command, options->loop);
  command->footer(
      "\nExample:\n  moebius finetune --data new-task.jsonl -o adapter && moebius chat --adapter adapter");
  command->callback([options, &run] { run = [options] { return finetune(*options); }; });
}

}  // namespace moebius
