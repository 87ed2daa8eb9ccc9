// NamePattern: a regular expression of an adapter_config.json or a quantization_config, written for Python's
// `re`, run by PCRE2 with limits on its steps and memory.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "kernels/status.h"

namespace moebius {

class NamePattern {
 public:
  // Matches a whole name, as re.fullmatch does (target_modules, exclude_modules).
  static Result<NamePattern> whole(std::string_view pattern, const std::string& origin);
  // Matches a name or what follows one of its dots (rank_pattern, alpha_pattern).
  static Result<NamePattern> ending(std::string_view pattern, const std::string& origin);

  // Matches the start of a name, as re.match does (compressed-tensors).
  static Result<NamePattern> starting(std::string_view pattern, const std::string& origin);

  // An ending() of letters, digits, _ and '.', which is compared without PCRE2.
  bool is_name() const { return is_name_; }

  // kInvalid when the match takes more steps than allowed.
  Result<bool> matches(std::string_view name) const;

 private:
  static Result<NamePattern> compile(std::string_view pattern, std::string expression,
                                     const std::string& origin);
  std::string text_, origin_;
  bool is_name_ = false;
  std::shared_ptr<const void> code_;  // pcre2_code, immutable
};

}  // namespace moebius
