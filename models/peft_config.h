// PeftConfig: adapter_config.json, read and judged.
//
// PEFT keeps adding options that change what an adapter computes, so options are refused unless they are
// known here: to be implemented, to matter only while training starts, or to be unset.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_set>
#include <utility>
#include <vector>

#include "kernels/status.h"
#include "models/json_fields.h"
#include "models/peft_pattern.h"

namespace moebius {

class PeftConfig {
 public:
  // kUnsupported names an option that would change the result; kInvalid a field that makes no sense.
  static Result<PeftConfig> parse(std::string_view json, const std::string& origin);

  const std::string& origin() const { return origin_; }
  const std::string& base_model() const { return base_model_; }
  const std::string& revision() const { return revision_; }
  const std::string& base_class() const { return base_class_; }  // "Qwen3MoeForCausalLM", or empty

  // Which side of a fused [E, out, in] parameter lora_A's columns are: peft below 0.19.1 took `out` for the
  // input. Unknown when the file does not say which peft wrote it.
  enum class FusedInput : uint8_t { kIn, kOut, kUnknown };
  FusedInput fused_input() const { return fused_input_; }

  // module: a name without ".weight"; parameter: "....mlp.gate.weight", "....mlp.experts.down_proj".
  Result<bool> targets_module(const std::string& module) const;
  bool targets_parameter(const std::string& parameter) const;

  struct Scaling {
    int64_t rank = 0;
    float scale = 0;
  };
  // name: the module or the parameter that is targeted.
  Result<Scaling> scaling(const std::string& name) const;
  Scaling default_scaling() const { return scaling_of(rank_, alpha_); }

  // How many patterns scaling() may try for one name, and how many of them are more than names.
  size_t patterns() const { return rank_patterns_.size() + alpha_patterns_.size(); }
  size_t regular_expressions() const;

 private:
  Status read_targets(const nlohmann::ordered_json& document);
  Status read_layers(const nlohmann::ordered_json& document);
  Status read_base(const nlohmann::ordered_json& document);
  Scaling scaling_of(int64_t rank, double alpha) const;

  using Names = std::unordered_set<std::string>;
  struct Targets {
    bool given = false;
    bool all_linear = false;
    std::optional<NamePattern> pattern;
    Names names;
  };
  static Result<bool> hits(const Targets& targets, const std::string& name);

  std::string origin_, base_model_, revision_, base_class_;
  FusedInput fused_input_ = FusedInput::kUnknown;
  int64_t rank_ = 8;
  double alpha_ = 8;
  bool rank_stabilized_ = false;
  std::vector<std::pair<NamePattern, int64_t>> rank_patterns_;
  std::vector<std::pair<NamePattern, double>> alpha_patterns_;
  Targets modules_, excluded_;
  Names parameters_;
  std::optional<std::unordered_set<int64_t>> layers_;
};

}  // namespace moebius
