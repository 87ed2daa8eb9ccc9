// MultipartReader: the body of a form that holds a file (multipart/form-data, RFC 7578), read as it comes.
//
// Whatever pieces a body arrives in, the calls say the same. Knows nothing of HTTP.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "server/errors.h"

namespace moebius {

struct FormPart {
  std::string name;
  std::optional<std::string> filename;  // as the client wrote it
};

struct MultipartCalls {
  std::function<std::optional<ApiError>(const FormPart&)> begin;
  std::function<std::optional<ApiError>(std::string_view)> data;  // of the part that began last
};

// The boundary of a Content-Type of such a form; nullopt for anything else.
std::optional<std::string> form_boundary(std::string_view content_type);

class MultipartReader {
 public:
  static constexpr size_t kHeadBytes = 4096;
  static constexpr int kParts = 32;

  MultipartReader(const std::string& boundary, MultipartCalls calls);

  // The next bytes of the body; an error of the calls or of the form ends the reading.
  std::optional<ApiError> take(std::string_view bytes);
  std::optional<ApiError> end() const;  // no more come: an error where the form is cut off

 private:
  enum class State : uint8_t { kStart, kAfterBoundary, kHead, kData, kOver };
  // One step on what is held; false: more bytes are needed.
  bool step(std::optional<ApiError>& error);
  bool read_boundary(std::optional<ApiError>& error);
  bool read_head(std::optional<ApiError>& error);
  bool read_data(std::optional<ApiError>& error);

  const std::string delimiter_;  // CR LF, two dashes, boundary
  const MultipartCalls calls_;
  State state_ = State::kStart;
  std::string held_ = "\r\n";  // so that the first boundary looks like the others
  int parts_ = 0;
};

}  // namespace moebius
