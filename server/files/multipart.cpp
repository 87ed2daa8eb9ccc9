#include "server/files/multipart.h"

#include <algorithm>

#include "server/request_head.h"

namespace moebius {

namespace {

ApiError malformed_form(const std::string& what) {
  return bad_request("the form is malformed: " + what, {}, "invalid_form");
}

// What stands after "=": in quotes, where a backslash takes the next character, or up to the next semicolon.
std::optional<std::string> take_value(std::string_view& text) {
  std::string value;
  if (!text.starts_with('"')) {
    const size_t end = std::min(text.find(';'), text.size());
    value = trim(text.substr(0, end));
    text.remove_prefix(end);
    return value;
  }
  for (size_t i = 1; i < text.size(); ++i) {
    if (text[i] == '"') {
      text = trim(text.substr(i + 1));
      return value;
    }
    if (text[i] == '\\' && i + 1 < text.size()) ++i;
    value += text[i];
  }
  return {};
}

// The parameters of "KIND; a=b; c=d" one after another; false where it is not written so.
template <class Call>
bool for_parameters(std::string_view text, std::string_view kind, const Call& call) {
  const size_t end = std::min(text.find(';'), text.size());
  if (!same_name(trim(text.substr(0, end)), kind)) return false;
  text.remove_prefix(end);
  while (!text.empty()) {
    if (!text.starts_with(';')) return false;
    text = trim(text.substr(1));
    if (text.empty()) break;
    const size_t equals = text.find('=');
    if (equals == std::string_view::npos) return false;
    const std::string_view name = trim(text.substr(0, equals));
    text = trim(text.substr(equals + 1));
    std::optional<std::string> value = take_value(text);
    if (!value) return false;
    call(name, std::move(*value));
  }
  return true;
}

}  // namespace

std::optional<std::string> form_boundary(std::string_view content_type) {
  std::string boundary;
  const bool read =
      for_parameters(content_type, "multipart/form-data", [&](std::string_view name, std::string value) {
        if (same_name(name, "boundary")) boundary = std::move(value);
      });
  const bool fits =
      !boundary.empty() && boundary.size() <= 70 &&
      std::all_of(boundary.begin(), boundary.end(), [](char c) { return c >= ' ' && c <= '~'; });
  if (!read || !fits) return {};
  return boundary;
}

MultipartReader::MultipartReader(const std::string& boundary, MultipartCalls calls)
    : delimiter_("\r\n--" + boundary), calls_(std::move(calls)) {}

std::optional<ApiError> MultipartReader::take(std::string_view bytes) {
  held_.append(bytes);
  std::optional<ApiError> error;
  while (!error && step(error)) {
  }
  return error;
}

std::optional<ApiError> MultipartReader::end() const {
  if (state_ == State::kOver) return {};
  return malformed_form("it ends before its last boundary");
}

bool MultipartReader::step(std::optional<ApiError>& error) {
  switch (state_) {
    case State::kStart:
      if (!held_.starts_with(std::string_view(delimiter_).substr(0, held_.size()))) {
        error = malformed_form("it does not begin with its boundary");
        return false;
      }
      if (held_.size() < delimiter_.size()) return false;
      held_.erase(0, delimiter_.size());
      state_ = State::kAfterBoundary;
      return true;
    case State::kAfterBoundary:
      return read_boundary(error);
    case State::kHead:
      return read_head(error);
    case State::kData:
      return read_data(error);
    case State::kOver:
      held_.clear();  // what follows the last boundary means nothing
      return false;
  }
  return false;
}

bool MultipartReader::read_boundary(std::optional<ApiError>& error) {
  if (held_.size() < 2) return false;
  if (held_.starts_with("--")) {
    state_ = State::kOver;
    return true;
  }
  if (!held_.starts_with("\r\n")) error = malformed_form("a boundary's line does not end after it");
  if (!error && ++parts_ > kParts) error = malformed_form("it has more than 32 parts");
  if (error) return false;
  state_ = State::kHead;  // which begins with the line's end, so that an empty one is seen too
  return true;
}

bool MultipartReader::read_head(std::optional<ApiError>& error) {
  const size_t end = held_.find("\r\n\r\n");
  if (std::min(end, held_.size()) > kHeadBytes) error = malformed_form("the head of a part is too long");
  if (error || end == std::string::npos) return false;
  FormPart part;
  bool named = false;
  for (std::string_view head = std::string_view(held_).substr(2, end < 2 ? 0 : end - 2); !head.empty();) {
    const size_t line_end = std::min(head.find("\r\n"), head.size());
    const std::string_view line = head.substr(0, line_end);
    head.remove_prefix(std::min(line_end + 2, head.size()));
    const size_t colon = line.find(':');
    if (colon == std::string_view::npos || !same_name(line.substr(0, colon), "content-disposition")) continue;
    named = false;
    const bool read = for_parameters(trim(line.substr(colon + 1)), "form-data",
                                     [&](std::string_view name, std::string value) {
                                       if (same_name(name, "name"))
                                         part.name = std::move(value), named = true;
                                       if (same_name(name, "filename")) part.filename = std::move(value);
                                     });
    named = named && read;
  }
  if (!named) {
    error = malformed_form("a part has no Content-Disposition with a name");
    return false;
  }
  held_.erase(0, end + 4);
  error = calls_.begin(part);
  state_ = State::kData;
  return !error;
}

bool MultipartReader::read_data(std::optional<ApiError>& error) {
  const size_t end = held_.find(delimiter_);
  if (end != std::string::npos) {
    if (end > 0) error = calls_.data(std::string_view(held_).substr(0, end));
    held_.erase(0, end + delimiter_.size());
    state_ = State::kAfterBoundary;
    return !error;
  }
  if (held_.size() < delimiter_.size()) return false;
  const size_t sure = held_.size() - delimiter_.size() + 1;  // what is left may begin a boundary
  error = calls_.data(std::string_view(held_).substr(0, sure));
  held_.erase(0, sure);
  return false;
}

}  // namespace moebius
