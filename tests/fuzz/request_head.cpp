// Any bytes as a request: what the check of the head lets through has one reading, and the guard of chunked
// bodies comes to the same verdict in whatever parts they come.
#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <string>

#include "server/chunk_guard.h"
#include "server/request_head.h"

namespace {

int fields_named(std::string head, const std::string& name) {
  std::transform(head.begin(), head.end(), head.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  int n = 0;
  for (size_t at = head.find("\r\n" + name); at != std::string::npos; at = head.find("\r\n" + name, at + 1))
    n += head.find_first_of(" \t:", at + 2) == at + 2 + name.size();
  return n;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  const size_t end = text.find("\r\n\r\n");
  const std::string head = end == std::string::npos ? text : text.substr(0, end + 4);
  if (!moebius::check_head(head, {}) && end != std::string::npos) {
    const int lengths = fields_named(head, "content-length"),
              encodings = fields_named(head, "transfer-encoding");
    if (lengths + encodings > 1 || fields_named(head, "host") > 1) std::abort();
    if (moebius::is_chunked(head) != (encodings == 1)) std::abort();
    for (size_t i = 0; i < head.size(); ++i)
      if (head[i] == '\0' || (head[i] == '\n') != (i > 0 && head[i - 1] == '\r')) std::abort();
  }
  const std::string body = end == std::string::npos ? text : text.substr(end + 4);
  moebius::ChunkGuard whole, parts;
  const size_t cut = body.size() / 3;
  const bool verdict = parts.take(body.substr(0, cut)) && parts.take(body.substr(cut));
  if (whole.take(body) != verdict) std::abort();
  return 0;
}
