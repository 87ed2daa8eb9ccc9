// A subcommand of `moebius`: one file in tools/ that declares its options and sets what to run.
//
// Exit codes: 0 done, 1 failed (one line on stderr that names the remedy), 2 usage (CLI11 prints it).
#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include "engine/options.h"
#include "kernels/status.h"

namespace moebius {

using Run = std::function<int()>;  // the exit code

// Each adds its subcommand to app and, once parsed, leaves in run what to do. Values the options write to
// live in the closure (a shared_ptr to a struct of options).
void add_chat(CLI::App& app, Run& run);
void add_serve(CLI::App& app, Run& run);
void add_logits(CLI::App& app, Run& run);
void add_tokenize(CLI::App& app, Run& run);
void add_template(CLI::App& app, Run& run);
void add_inspect(CLI::App& app, Run& run);
void add_plan(CLI::App& app, Run& run);
void add_synth(CLI::App& app, Run& run);
void add_corpus(CLI::App& app, Run& run);
void add_eval(CLI::App& app, Run& run);
void add_train(CLI::App& app, Run& run);
void add_finetune(CLI::App& app, Run& run);
void add_merge(CLI::App& app, Run& run);
void add_tenp(CLI::App& app, Run& run);
void add_zeda(CLI::App& app, Run& run);
void add_quantize(CLI::App& app, Run& run);
void add_bench(CLI::App& app, Run& run);
void add_doctor(CLI::App& app, Run& run);

// -m/--model, --adapter, -c/--ctx-size, -t/--threads, --cache-type, --cpu-gemm, --exact-activations,
// --prefill-chunk.
void add_cache_type(CLI::App& app, CacheType& type);
void add_device_options(CLI::App& app, DeviceOptions& options);
void add_engine_options(CLI::App& app, EngineOptions& options);
void add_saliency_options(CLI::App& app, EngineOptions& options);

// An option whose values are words: help shows them, anything else is a usage error. value must outlive the
// parsing.
template <class Enum>
CLI::Option* add_choice(CLI::App& app, const std::string& name, Enum& value,
                        const std::map<std::string, Enum>& words, const std::string& help) {
  std::vector<std::string> known;
  for (const auto& [word, meaning] : words) known.push_back(word);
  const auto take = [&value, words](const std::string& word) { value = words.at(word); };
  return app.add_option_function<std::string>(name, take, help)
      ->check(CLI::IsMember(known))
      ->type_name("WORD");
}

// Prints "moebius: <message>" on stderr and returns 1.
int fail(const Status& status);
int fail(const std::string& message);

}  // namespace moebius
