// Pattern: a regular expression of a tokenizer file, run by PCRE2.
//
// Tokenizer files are written for Oniguruma in its Ruby dialect (tokenizer.json) or for Rust's regex
// (tiktoken). What reads differently there is rewritten: class intersection and nesting, \s \w \d \h, script
// names, ^ and $ (which see lines), {,n} and {n,m}+. What would keep a different meaning is refused.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "kernels/status.h"

namespace moebius {

// The same expression for PCRE2; kInvalid or kUnsupported with the pattern's text.
Result<std::string> rewrite_pattern(std::string_view pattern);

// What one thread needs to run patterns; reusable, never shared.
class PatternScratch {
 public:
  PatternScratch();
  ~PatternScratch();
  PatternScratch(const PatternScratch&) = delete;
  PatternScratch& operator=(const PatternScratch&) = delete;

 private:
  friend class Pattern;
  struct State;
  std::unique_ptr<State> state_;
};

class Pattern {
 public:
  static Result<Pattern> compile(std::string_view pattern);

  enum class Found { kMatch, kNone, kGaveUp };
  // The first match in subject (valid UTF-8, at most 1 GiB) at or after start, as [*begin, *end) in bytes.
  // kGaveUp: the match took more steps or memory than the length of the subject allows.
  Found find(std::string_view subject, size_t start, PatternScratch& scratch, size_t* begin,
             size_t* end) const;

 private:
  std::shared_ptr<const void> code_;  // pcre2_code, immutable
};

}  // namespace moebius
