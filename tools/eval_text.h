// How well a model predicts a text, alone or beside another: what `eval --text` prints.
#pragma once

#include <string>

#include <nlohmann/json.hpp>

#include "engine/options.h"
#include "kernels/status.h"

namespace moebius {

struct EvalText {
  EngineOptions engine;
  // One of them: a text file, or one of token ids, - for standard input; or JSONL examples, each on its own,
  // of which only what an assistant says counts.
  std::string text, ids_file, data;
  std::string against;             // checkpoint of the reference; "": none
  int64_t window = 0, stride = 0;  // tokens the model sees at once, and between two starts; 0: defaults
  bool no_special = false;         // no beginning of sequence before every window
};

// "tokens", "scored", "windows", "nats", "nats_per_token", "perplexity"; with a reference "against" of
// "nats_per_token", "perplexity", "kl_mean", "kl_median", "kl_p99", "kl_max", "top1_agreement". Prints the
// models' notes and a progress bar on stderr.
Result<nlohmann::ordered_json> evaluate_text(const EvalText& options);

std::string describe_evaluation(const nlohmann::ordered_json& report);

}  // namespace moebius
