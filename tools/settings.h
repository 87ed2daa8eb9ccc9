// Settings: options of `moebius serve` that come from the environment or from a preset file, as users of
// llama-server know both. What the command line says goes first, then the environment, then the preset's
// section for the model, then its [*].
//
// An option --x-y is MOEBIUS_X_Y in the environment, and what llama-server calls it where it has it
// (LLAMA_ARG_PORT). A variable that is empty counts as absent; of options that may be repeated it holds a
// list with commas. Flags are true, 1, on, enabled or false, 0, off, disabled.
//
// A preset is an INI file:
//   version = 1
//   [*]                  ; for every model
//   parallel = 8
//   [moonlight]          ; for -m moonlight, or without -m where it is the only one
//   model = /models/Moonlight-16B-A3B-Instruct
// A key is an option's name without its dashes, short or long, or its name in the environment.
#pragma once

#include <string>
#include <vector>

#include "kernels/status.h"

namespace moebius {

// The arguments of a program, itself left out, with those that the environment ("NAME=value") and a preset
// give appended; others than those of `serve` come back as they are. `from` gets a line for each that was
// added: what, and where from. kInvalid: a preset or a value that cannot be taken, with file, line and key,
// or the variable.
Result<std::vector<std::string>> complete_arguments(std::vector<std::string> arguments,
                                                    const std::vector<std::string>& environment,
                                                    std::vector<std::string>& from);

}  // namespace moebius
