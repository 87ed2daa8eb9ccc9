// A subcommand of `moebius`: one file in tools/ that declares its options and sets what to run.
//
// Exit codes: 0 done, 1 failed (one line on stderr that names the remedy), 2 usage (CLI11 prints it).
#pragma once

#include <functional>
#include <string>

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
void add_synth(CLI::App& app, Run& run);
void add_eval(CLI::App& app, Run& run);
void add_bench(CLI::App& app, Run& run);
void add_doctor(CLI::App& app, Run& run);

// -m/--model, -c/--ctx-size, -t/--threads, --cache-type, --cpu-gemm, --exact-activations, --prefill-chunk.
void add_engine_options(CLI::App& app, EngineOptions& options);

// Prints "moebius: <message>" on stderr and returns 1.
int fail(const Status& status);
int fail(const std::string& message);

}  // namespace moebius
