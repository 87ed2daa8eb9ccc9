// A model of dense layers alone, for commands that need routed experts.
#pragma once

#include <nlohmann/json.hpp>

#include "tests/tools_process.h"

namespace moebius {

inline std::string dense_model(const process::Scratch& scratch) {
  auto config =
      nlohmann::json::parse(process::read_file("tests/golden/models/deepseek_v3_tiny/config.json"));
  config["first_k_dense_replace"] = config["num_hidden_layers"];
  const std::string out = scratch.file("dense"), geometry = scratch.write("dense.json", config.dump());
  const process::Finished done =
      process::run({"synth", "--geometry", geometry, "--dtype", "bf16", "--out", out});
  EXPECT_EQ(done.code, 0) << done.err;
  return out;
}

}  // namespace moebius
