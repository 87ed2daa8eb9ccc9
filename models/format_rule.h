// FormatRule: how the matrices of a model are stored, as far as its config.json alone tells, for plans of
// models whose files are not at hand.
#pragma once

#include <functional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "models/peft_pattern.h"
#include "models/weights.h"

namespace moebius {

class JsonFields;

// Modules that a quantization_config names: by parts of their dotted names ("mlp.gate" is
// model.layers.3.mlp.gate and not mlp.gate_proj), or by "re:" and an expression for the start of a name, as
// Python's re.match takes it.
class ModuleNames {
 public:
  // kInvalid: an expression that does not compile, or too many of them.
  static Result<ModuleNames> create(const std::vector<std::string>& entries, const std::string& origin);
  Result<bool> have(std::string_view module) const;

 private:
  std::set<std::string, std::less<>> parts_;
  std::vector<NamePattern> patterns_;
};

class FormatRule {
 public:
  // All linear weights in one format, or the routed experts alone; what is left is BF16.
  FormatRule(Format linear = Format::kBF16, bool experts_only = false);
  // By the fields quantization_config and dtype of a config.json that ModelConfig takes.
  static Result<FormatRule> read(std::string_view json, const std::string& origin);

  // The matrix as it would lie in a file; nothing may look at its data. Embeddings and routers are never
  // quantised, nor is the head in FP8: no published checkpoint has it so, and none says it.
  Result<Matrix> stored(const std::string& module, Role role, int64_t rows, int64_t cols) const;

 private:
  // Of config_groups in compressed-tensors; FP8 has one.
  struct Group {
    bool all = true;  // linear weights; else those of `targets`
    ModuleNames targets;
    Format format = Format::kBF16;
    int64_t columns = 0;  // with one scale; 0: a whole row
  };
  Status read_groups(JsonFields& quant);
  Result<const Group*> group_of(const std::string& module, Role role) const;

  Format plain_ = Format::kBF16;
  bool experts_only_ = false;
  ModuleNames left_out_;
  std::vector<Group> groups_;
};

}  // namespace moebius
