// Fields: reads typed, ranged fields of a JSON object that a client sent. The first problem is kept and the
// rest is read on with defaults, so that a schema is a list of calls with one check at the end. null counts
// as absent.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "server/errors.h"

namespace moebius {

// The string of that name, or "" where there is none.
std::string text_of(const Json& object, const char* name);

class Fields {
 public:
  // prefix: put before names in messages and `param`, for nested objects ("stream_options."). object must be
  // an object and outlive this.
  explicit Fields(const Json& object, std::string prefix = {})
      : object_(object), prefix_(std::move(prefix)) {}

  const Json* find(std::string_view name) const;  // nullptr: absent or null

  // Each leaves the target alone where the field is absent.
  void boolean(std::string_view name, bool& target);
  void integer(std::string_view name, int64_t low, int64_t high, int64_t& target);
  void number(std::string_view name, double low, double high, float& target);
  void text(std::string_view name, std::string& target);
  const Json* object(std::string_view name);  // nullptr: absent or not an object
  const Json* array(std::string_view name);

  // Refuses by name a field that is known, but not done here; `instead` says what to do.
  void unsupported(std::string_view name, std::string_view instead);
  void fail(std::string_view name, std::string message);
  void fail(ApiError error);

  bool failed() const { return error_.has_value(); }
  const std::optional<ApiError>& error() const { return error_; }
  std::string path(std::string_view name) const { return prefix_ + std::string(name); }

 private:
  const Json& object_;
  std::string prefix_;
  std::optional<ApiError> error_;
};

}  // namespace moebius
