// moebius train: a small model from scratch, with Muon.
#include <memory>

#include <fmt/format.h>

#include "engine/train/job.h"
#include "tools/command.h"
#include "tools/training_loop.h"

namespace moebius {
namespace {

enum class Matrices : uint8_t { kMuon, kPolarExpress, kAdamW };

struct Options {
  TrainingOptions training;
  TrainingLoopOptions loop;
  Matrices optimizer = Matrices::kMuon;
  double decay = 0.1;
};

optim::Recipe recipe_of(Matrices optimizer, double decay) {
  if (optimizer == Matrices::kAdamW) return optim::adamw(decay);
  if (optimizer == Matrices::kPolarExpress) return optim::muon(decay, optim::polar_express());
  return optim::muon(decay);
}

int train(Options options) {
  options.training.full.matrices = recipe_of(options.optimizer, options.decay);
  options.training.full.embeddings = optim::adamw(options.decay);
  options.loop.out = options.training.out;
  const auto open = [&](const JobProgress& progress) { return open_training(options.training, progress); };
  return run_training("train", options.loop, open);
}

}  // namespace

void add_train(CLI::App& app, Run& run) {
  auto options = std::make_shared<Options>();
  TrainingOptions& t = options->training;
  CLI::App* command = app.add_subcommand("train", "train every weight of a small model with Muon");
  command->option_defaults()->take_last();
  command
      ->add_option(
          "--recipe", t.recipe,
          "folder with config.json, chat_template.jinja, generation_config.json, and tokenizer files "
          "unless one is to be trained on the data")
      ->required();
  command->add_flag("--keep-weights", t.keep_weights,
                    "start from the weights of the recipe's folder, a checkpoint, and not from random ones");
  command->add_option("--data", t.data, "training examples, JSONL")->required();
  command->add_option("--eval-data", t.eval_data, "held-out examples, JSONL");
  command->add_option("-o,--out", t.out, "folder for the model, its log and its checkpoints")->required();
  add_trainer_options(*command, t.trainer);
  add_choice<Matrices>(
      *command, "--optimizer", options->optimizer,
      {{"muon", Matrices::kMuon}, {"muon-polar", Matrices::kPolarExpress}, {"adamw", Matrices::kAdamW}},
      "of hidden matrices (default muon; muon-polar: with Polar Express coefficients); embeddings, "
      "head, norms and biases are on AdamW");
  command->add_option("--weight-decay", options->decay, "decoupled, of all matrices (default 0.1)")
      ->check(CLI::NonNegativeNumber);
  command
      ->add_option("--balance", t.full.balance_gamma,
                   "step of the selection bias that balances experts (default 0.001; 0: off)")
      ->check(CLI::NonNegativeNumber);
  command
      ->add_option("--balance-loss", t.trainer.balance_loss,
                   "alpha of the sequence-level balance loss (default 0: none; DeepSeek-V3: 0.0001)")
      ->check(CLI::NonNegativeNumber);
  command->add_option("--qk-clip", t.full.qk_clip, "largest attention logit, by QK-Clip (default 0: off)")
      ->check(CLI::NonNegativeNumber);
  command->add_option("-t,--threads", t.threads, "CPU threads (default: one per physical core)")
      ->check(CLI::Range(0, 4096));
  add_training_loop_options(*command, options->loop);
  command->footer(
      "\nExample:\n  moebius corpus -o corpus && moebius train --recipe tools/pebble --data "
      "corpus/train.jsonl \\\n"
      "      --eval-data corpus/held_out.jsonl -o pebble --steps 3000");
  command->callback([options, &run] { run = [options] { return train(*options); }; });
}

}  // namespace moebius
