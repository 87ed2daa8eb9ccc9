#include "models/peft_pattern.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <fmt/format.h>
#include <pcre2.h>

#include <algorithm>

#include "models/file_io.h"

namespace moebius {
namespace {

constexpr size_t kMaxNamePatternBytes = 64 * 1024;
constexpr uint32_t kMatchLimit = 10'000;
constexpr uint32_t kDepthLimit = 10'000;
constexpr uint32_t kHeapLimitKiB = 16 * 1024;

// '.' is a wildcard here, as in the expression it stands for.
bool ends_with_name(std::string_view name, std::string_view pattern) {
  if (name.size() < pattern.size()) return false;
  const size_t skipped = name.size() - pattern.size();
  if (skipped > 0 && name[skipped - 1] != '.') return false;
  return std::equal(pattern.begin(), pattern.end(), name.begin() + static_cast<std::ptrdiff_t>(skipped),
                    [](char p, char c) { return p == '.' || p == c; });
}

bool holds_a_name(std::string_view pattern) {
  return std::all_of(pattern.begin(), pattern.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '.';
  });
}

}  // namespace

Result<NamePattern> NamePattern::whole(std::string_view pattern, const std::string& origin) {
  return compile(pattern, fmt::format("(?:{})\\z", pattern), origin);
}

Result<NamePattern> NamePattern::ending(std::string_view pattern, const std::string& origin) {
  if (!holds_a_name(pattern)) return compile(pattern, fmt::format("(.*\\.)?({})$", pattern), origin);
  NamePattern result;
  result.text_ = pattern;
  result.is_name_ = true;
  return result;
}

Result<NamePattern> NamePattern::starting(std::string_view pattern, const std::string& origin) {
  return compile(pattern, fmt::format("(?:{})", pattern), origin);
}

Result<NamePattern> NamePattern::compile(std::string_view pattern, std::string expression,
                                         const std::string& origin) {
  if (pattern.size() > kMaxNamePatternBytes) {
    return invalid(fmt::format("{}: pattern {} is longer than {} bytes", origin, printable(pattern, 64),
                               kMaxNamePatternBytes));
  }
  const uint32_t options = PCRE2_UTF | PCRE2_UCP | PCRE2_ANCHORED | PCRE2_NEVER_BACKSLASH_C;
  int error = 0;
  PCRE2_SIZE offset = 0;
  pcre2_code* code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(expression.data()), expression.size(),
                                   options, &error, &offset, nullptr);
  if (code == nullptr) {
    PCRE2_UCHAR message[256] = {};
    pcre2_get_error_message(error, message, sizeof message);
    return invalid(fmt::format("{}: pattern {} does not compile: {}", origin, printable(pattern),
                               reinterpret_cast<const char*>(message)));
  }
  NamePattern result;
  result.text_ = pattern;
  result.origin_ = origin;
  result.code_ = std::shared_ptr<const void>(
      code, [](const void* p) { pcre2_code_free(static_cast<pcre2_code*>(const_cast<void*>(p))); });
  return result;
}

Result<bool> NamePattern::matches(std::string_view name) const {
  if (is_name_) return ends_with_name(name, text_);
  const std::unique_ptr<pcre2_match_data, void (*)(pcre2_match_data*)> data(
      pcre2_match_data_create(1, nullptr), pcre2_match_data_free);
  const std::unique_ptr<pcre2_match_context, void (*)(pcre2_match_context*)> context(
      pcre2_match_context_create(nullptr), pcre2_match_context_free);
  if (!data || !context) return no_memory("no memory to match a pattern");
  pcre2_set_match_limit(context.get(), kMatchLimit);
  pcre2_set_depth_limit(context.get(), kDepthLimit);
  pcre2_set_heap_limit(context.get(), kHeapLimitKiB);
  const int rc =
      pcre2_match(static_cast<const pcre2_code*>(code_.get()), reinterpret_cast<PCRE2_SPTR>(name.data()),
                  name.size(), 0, 0, data.get(), context.get());
  if (rc >= 0) return true;
  if (rc == PCRE2_ERROR_NOMATCH) return false;
  return invalid(
      fmt::format("{}: pattern {} takes too many steps; write a simpler one", origin_, printable(text_)));
}

}  // namespace moebius
