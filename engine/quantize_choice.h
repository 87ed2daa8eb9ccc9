// Which matrices an entry of `quantize --keep` means.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "models/peft_pattern.h"
#include "models/weights.h"

namespace moebius {

class QuantizeChoice {
 public:
  // kInvalid: a regular expression that does not parse.
  static Result<QuantizeChoice> create(const std::vector<std::string>& entries);

  // Whether one of the entries means this matrix.
  Result<bool> takes(const std::string& module, Role role);
  // kInvalid names an entry, other than a role, that has meant nothing so far.
  Status all_used() const;

 private:
  struct Entry {
    std::string text;
    std::optional<Role> role;
    std::optional<NamePattern> pattern;
    bool used = false;
  };
  std::vector<Entry> entries_;
};

}  // namespace moebius
