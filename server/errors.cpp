#include "server/errors.h"

#include <fmt/format.h>

namespace moebius {

namespace {

const char* anthropic_type(int status) {
  switch (status) {
    case 401:
      return "authentication_error";
    case 403:
      return "permission_error";
    case 404:
      return "not_found_error";
    case 413:
      return "request_too_large";
    case 429:
      return "rate_limit_error";
    case 503:
      return "overloaded_error";
    default:
      return status >= 500 ? "api_error" : "invalid_request_error";
  }
}

Json nullable(const std::optional<std::string>& text) { return text ? Json(*text) : Json(nullptr); }

}  // namespace

std::string ApiError::to_text(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

Json ApiError::json(ErrorStyle style) const {
  if (style == ErrorStyle::kAnthropic) {
    Json error = {{"type", anthropic_type(status)}, {"message", message}};
    error.update(extra);
    return {{"type", "error"}, {"error", std::move(error)}};
  }
  Json error = {{"message", message}, {"type", type}, {"param", nullable(param)}, {"code", nullable(code)}};
  error.update(extra);
  return {{"error", std::move(error)}};
}

ApiError bad_request(std::string message, std::optional<std::string> param, std::optional<std::string> code) {
  return {400, "invalid_request_error", std::move(message), std::move(param), std::move(code)};
}

ApiError unauthorized() {
  return {401,
          "authentication_error",
          "the API key is missing or wrong; send it as `Authorization: Bearer KEY`",
          {},
          "invalid_api_key"};
}

ApiError forbidden(std::string message, std::string code) {
  return {403, "permission_error", std::move(message), {}, std::move(code)};
}

ApiError unknown_route() {
  return {404, "not_found_error", "no such route; the API lies under /v1", {}, "unknown_url"};
}

ApiError wrong_method(const std::string& allowed) {
  return {405,
          "invalid_request_error",
          fmt::format("this route takes {} only", allowed),
          {},
          "method_not_allowed"};
}

ApiError model_not_found(const std::string& served) {
  return {404, "invalid_request_error", fmt::format("no such model; this server has `{}`", served), "model",
          "model_not_found"};
}

ApiError too_large(int64_t limit_bytes) {
  return {413,
          "invalid_request_error",
          fmt::format("the body exceeds the limit of {} bytes", limit_bytes),
          {},
          "request_too_large"};
}

ApiError queue_full(int64_t limit, int retry_s) {
  return {
      429,    "rate_limit_error",    fmt::format("{} requests are waiting already; try again later", limit),
      {},     "rate_limit_exceeded", Json::object(),
      retry_s};
}

ApiError key_busy(int retry_s) {
  return {429,
          "rate_limit_error",
          "as many requests as this key may have at once are on their way; try again later",
          {},
          "rate_limit_exceeded",
          Json::object(),
          retry_s};
}

ApiError unavailable(std::string message, std::string code, int retry_s) {
  return {503, "unavailable", std::move(message), {}, std::move(code), Json::object(), retry_s};
}

// Whatever answers at this address next needs a moment to start.
ApiError shutting_down() { return unavailable("the server is shutting down", "shutting_down", 5); }

ApiError internal_error() {
  return {500, "server_error", "the server failed to answer; its log says why", {}, "internal_error"};
}

ApiError disk_error(const std::string& what) {
  return {507,
          "server_error",
          fmt::format("the {} could not be written to the server's disk", what),
          {},
          "disk_error"};
}

ApiError context_exceeded(int64_t prompt_tokens, int64_t context, std::string param) {
  ApiError error =
      bad_request(fmt::format("the prompt has {} tokens, but the context holds {} together with the answer; "
                              "shorten it or start the server with a larger --ctx-size",
                              prompt_tokens, context),
                  std::move(param), "context_length_exceeded");
  error.extra = {{"n_prompt_tokens", prompt_tokens}, {"n_ctx", context}};
  return error;
}

ApiError error_for_status(int status) {
  switch (status) {
    case 400:
      return bad_request("the request is not well-formed HTTP");
    case 404:
      return unknown_route();
    case 413:
      return {413, "invalid_request_error", "the body is too large", {}, "request_too_large"};
    default:
      break;
  }
  if (status >= 500) return internal_error();
  return {status, "invalid_request_error", "the request cannot be served", {}, {}};
}

}  // namespace moebius
