// ApiError: what a client did wrong, or what went wrong here, in the form OpenAI's clients understand.
//
// Messages name fields, limits and remedies; they hold no paths, no addresses and nothing of a prompt.
#pragma once

#include <optional>
#include <string>

#include <nlohmann/json.hpp>

namespace moebius {

using Json = nlohmann::ordered_json;

enum class ErrorStyle : uint8_t {
  kOpenAi,     // {"error": {"message", "type", "param", "code", ...extra}}; the first four are always there
  kAnthropic,  // {"type": "error", "error": {"type", "message", ...extra}}
};

struct ApiError {
  int status = 400;  // of HTTP
  std::string type, message;
  std::optional<std::string> param, code;
  Json extra = Json::object();  // further keys of the error object
  int retry_s = 0;              // after so many seconds it is worth asking again; 0: it is not said

  Json json(ErrorStyle style = ErrorStyle::kOpenAi) const;
  std::string body(ErrorStyle style = ErrorStyle::kOpenAi) const { return to_text(json(style)); }

  // Compact text; bytes that are not UTF-8 become U+FFFD.
  static std::string to_text(const Json& json);
};

constexpr const char* kCancelledCode = "cancelled";  // of an answer that was cancelled on request

ApiError bad_request(std::string message, std::optional<std::string> param = {},
                     std::optional<std::string> code = {});
ApiError unauthorized();
ApiError forbidden(std::string message, std::string code);
ApiError unknown_route();
ApiError wrong_method(const std::string& allowed);
ApiError model_not_found(const std::string& served);
ApiError too_large(int64_t limit_bytes);
ApiError queue_full(int64_t limit, int retry_s);
ApiError key_busy(int retry_s);
ApiError unavailable(std::string message, std::string code, int retry_s);
ApiError shutting_down();
ApiError internal_error();
ApiError disk_error(const std::string& what);  // what could not be written: "file"
// param: the field that holds the prompt
ApiError context_exceeded(int64_t prompt_tokens, int64_t context, std::string param);

// For a status that the HTTP library chose by itself.
ApiError error_for_status(int status);

}  // namespace moebius
