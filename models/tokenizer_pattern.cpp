#include "models/tokenizer_pattern.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <fmt/format.h>
#include <pcre2.h>

#include <algorithm>

#include "models/file_io.h"

namespace moebius {
namespace {

constexpr size_t kJitStackStart = 32 * 1024;
constexpr size_t kJitStackMax = 4 * 1024 * 1024;
constexpr uint32_t kHeapMaxKiB = 256 * 1024;
// A pattern that covers a text as tokenizers do takes a few steps a character.
constexpr size_t kStepsBase = 20'000;
constexpr size_t kStepsPerByte = 32;
constexpr size_t kStepsMax = 2'000'000'000;

}  // namespace

struct PatternScratch::State {
  pcre2_match_data* data = pcre2_match_data_create(1, nullptr);
  pcre2_match_context* context = pcre2_match_context_create(nullptr);
  pcre2_jit_stack* stack = pcre2_jit_stack_create(kJitStackStart, kJitStackMax, nullptr);

  State() {
    MOEBIUS_CHECK(data != nullptr && context != nullptr, "out of memory for a pattern");
    pcre2_set_heap_limit(context, kHeapMaxKiB);
    if (stack != nullptr) pcre2_jit_stack_assign(context, nullptr, stack);
  }
  ~State() {
    pcre2_jit_stack_free(stack);
    pcre2_match_context_free(context);
    pcre2_match_data_free(data);
  }
  State(const State&) = delete;
  State& operator=(const State&) = delete;
};

PatternScratch::PatternScratch() : state_(std::make_unique<State>()) {}
PatternScratch::~PatternScratch() = default;

Result<Pattern> Pattern::compile(std::string_view pattern) {
  MOEBIUS_ASSIGN(const std::string rewritten, rewrite_pattern(pattern));
  std::unique_ptr<pcre2_compile_context, void (*)(pcre2_compile_context*)> context(
      pcre2_compile_context_create(nullptr), pcre2_compile_context_free);
  if (!context) return no_memory("no memory to compile a pattern");
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  const uint32_t options =
      PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NO_AUTO_CAPTURE | PCRE2_NEVER_BACKSLASH_C;
  int error = 0;
  PCRE2_SIZE offset = 0;
  pcre2_code* code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(rewritten.data()), rewritten.size(), options,
                                   &error, &offset, context.get());
  if (code == nullptr) {
    PCRE2_UCHAR message[256] = {};
    pcre2_get_error_message(error, message, sizeof message);
    return invalid(fmt::format("pattern {} does not compile: {}", printable(pattern),
                               reinterpret_cast<const char*>(message)));
  }
  // Without leave to make executable memory the interpreter does the same work.
  static_cast<void>(pcre2_jit_compile(code, PCRE2_JIT_COMPLETE));
  Pattern result;
  result.code_ = std::shared_ptr<const void>(
      code, [](const void* p) { pcre2_code_free(static_cast<pcre2_code*>(const_cast<void*>(p))); });
  return result;
}

Pattern::Found Pattern::find(std::string_view subject, size_t start, PatternScratch& scratch, size_t* begin,
                             size_t* end) const {
  PatternScratch::State& state = *scratch.state_;
  const size_t steps = std::min(kStepsMax, kStepsBase + kStepsPerByte * subject.size());
  pcre2_set_match_limit(state.context, static_cast<uint32_t>(steps));
  pcre2_set_depth_limit(state.context, static_cast<uint32_t>(steps));
  const auto* code = static_cast<const pcre2_code*>(code_.get());
  const auto match = [&](uint32_t options) {
    return pcre2_match(code, reinterpret_cast<PCRE2_SPTR>(subject.data()), subject.size(), start,
                       PCRE2_NO_UTF_CHECK | options, state.data, state.context);
  };
  int rc = match(0);
  if (rc == PCRE2_ERROR_JIT_STACKLIMIT) rc = match(PCRE2_NO_JIT);
  if (rc == PCRE2_ERROR_NOMATCH) return Found::kNone;
  if (rc < 0) return Found::kGaveUp;
  const PCRE2_SIZE* offsets = pcre2_get_ovector_pointer(state.data);
  *begin = offsets[0];
  *end = std::max(offsets[0], offsets[1]);
  return Found::kMatch;
}

}  // namespace moebius
