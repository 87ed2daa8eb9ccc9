// Fuzzes the reading of forms. Input: a byte that says how many bytes come at a time, a byte that says
// whether it begins as a form must, then the body. However it is cut it must say the same.
#include <cstddef>
#include <cstdint>
#include <string>

#include "kernels/status.h"
#include "server/files/multipart.h"

namespace {

using namespace moebius;

// Everything that a form says, or its error, as one text.
std::string read(std::string_view body, size_t step) {
  std::string out;
  MultipartReader reader("X", {[&](const FormPart& part) -> std::optional<ApiError> {
                                 MOEBIUS_CHECK(part.name.size() <= MultipartReader::kHeadBytes);
                                 out += "[" + part.name + "|" + part.filename.value_or("") + "]";
                                 return {};
                               },
                               [&](std::string_view data) -> std::optional<ApiError> {
                                 MOEBIUS_CHECK(!data.empty());
                                 out += data;
                                 return {};
                               }});
  for (size_t at = 0; at < body.size(); at += step)
    if (const auto error = reader.take(body.substr(at, step))) return "error";
  return reader.end() ? "error" : out;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2) return 0;
  std::string body(reinterpret_cast<const char*>(data + 2), size - 2);
  form_boundary(body);
  if (data[1] % 2 == 0) body = "--X\r\nContent-Disposition: form-data; name=\"file\"; filename=\"" + body;
  const std::string whole = read(body, body.size() + 1);
  MOEBIUS_CHECK(whole == read(body, 1 + data[0] % 16), "cut another way, the form says something else");
  return 0;
}
