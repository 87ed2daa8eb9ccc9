// Status, Result and MOEBIUS_CHECK: how Moebius says that something went wrong.
//
// Status and Result<T> carry what the world does wrong: files, user input, missing memory. The message is one
// line that says what, where and the remedy; it is shown to users as it stands. MOEBIUS_CHECK is for broken
// invariants of this program: it prints operation, file and line, and aborts. No exception crosses a folder.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <optional>
#include <string>
#include <utility>

namespace moebius {

enum class Code {
  kOk,
  kInvalid,      // a file or a request breaks its format; the caller must change it
  kNotFound,     // a file, tensor, name or id that does not exist
  kUnsupported,  // well-formed, but not something this build or program does
  kNoMemory,     // an allocation was refused
  kIo,           // the operating system failed a read, a write or a rename
  kCancelled,    // the caller asked to stop
};

class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(Code code, std::string message) : code_(code), message_(std::move(message)) {}

  bool ok() const { return code_ == Code::kOk; }
  Code code() const { return code_; }
  const std::string& message() const { return message_; }

 private:
  Code code_ = Code::kOk;
  std::string message_;
};

inline Status invalid(std::string message) { return {Code::kInvalid, std::move(message)}; }
inline Status not_found(std::string message) { return {Code::kNotFound, std::move(message)}; }
inline Status unsupported(std::string message) { return {Code::kUnsupported, std::move(message)}; }
inline Status no_memory(std::string message) { return {Code::kNoMemory, std::move(message)}; }
inline Status io_error(std::string message) { return {Code::kIo, std::move(message)}; }

[[noreturn]] inline void check_failed(const char* expression, const char* file, int line,
                                      const std::string& detail) {
  std::fprintf(stderr, "%s:%d: check failed: %s%s%s\n", file, line, expression, detail.empty() ? "" : ": ",
               detail.c_str());
  std::abort();
}

// MOEBIUS_CHECK(condition) or MOEBIUS_CHECK(condition, detail string); never triggered by user input.
#define MOEBIUS_CHECK(condition, ...)                                                                    \
  do {                                                                                                   \
    if (!(condition)) ::moebius::check_failed(#condition, __FILE__, __LINE__, std::string(__VA_ARGS__)); \
  } while (0)

// Either a value or a Status that is not ok.
template <class T>
class [[nodiscard]] Result {
 public:
  Result(T value) : value_(std::move(value)) {}         // NOLINT: implicit on purpose
  Result(Status status) : status_(std::move(status)) {  // NOLINT
    MOEBIUS_CHECK(!status_.ok(), "a Result without a value needs an error");
  }

  bool ok() const { return value_.has_value(); }
  const Status& status() const { return status_; }
  T& operator*() & { return get(); }
  const T& operator*() const& { return get(); }
  T&& operator*() && { return std::move(get()); }
  T* operator->() { return &get(); }
  const T* operator->() const { return &get(); }

 private:
  T& get() {
    MOEBIUS_CHECK(value_.has_value(), status_.message());
    return *value_;
  }
  const T& get() const {
    MOEBIUS_CHECK(value_.has_value(), status_.message());
    return *value_;
  }
  std::optional<T> value_;
  Status status_;
};

#define MOEBIUS_CONCAT2(a, b) a##b
#define MOEBIUS_CONCAT(a, b) MOEBIUS_CONCAT2(a, b)

// MOEBIUS_TRY(f()): returns from the enclosing function with the status of f() unless it is ok.
#define MOEBIUS_TRY(expression)                                                                       \
  do {                                                                                                \
    if (::moebius::Status moebius_status = (expression); !moebius_status.ok()) return moebius_status; \
  } while (0)

// MOEBIUS_ASSIGN(auto x, f()): x is the value of f(), or the enclosing function returns f()'s status.
#define MOEBIUS_ASSIGN(declaration, expression) \
  MOEBIUS_ASSIGN_IMPL(MOEBIUS_CONCAT(moebius_result_, __LINE__), declaration, expression)
#define MOEBIUS_ASSIGN_IMPL(tmp, declaration, expression) \
  auto tmp = (expression);                                \
  if (!tmp.ok()) return tmp.status();                     \
  declaration = std::move(*tmp)

}  // namespace moebius
