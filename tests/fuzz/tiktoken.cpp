// Fuzzes tiktoken.model with its tokenizer_config.json: what is accepted must give every text back.
//
// Input: a file, a NUL byte, a configuration, a NUL byte, a text. A file that begins with '+' follows a table
// of all single bytes, without which none is accepted. Seeds: tests/golden/tokenizers/kimi.
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "models/tokenizer_files.h"
#include "models/tokenizer_text.h"

namespace {

using namespace moebius;

std::string byte_lines() {
  constexpr char kDigits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string lines;
  for (int byte = 0; byte < 256; ++byte) {
    lines += kDigits[byte >> 2];
    lines += kDigits[(byte & 3) << 4];
    lines += "== " + std::to_string(byte) + "\n";
  }
  return lines;
}

std::string_view take_part(std::string_view& input) {
  const size_t end = input.find('\0');
  const std::string_view part = input.substr(0, end);
  input.remove_prefix(end == std::string_view::npos ? input.size() : end + 1);
  return part;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string_view text(reinterpret_cast<const char*>(data), size);
  const std::string_view file = take_part(text);
  const auto parsed = parse_tokenizer_config(take_part(text));
  const TokenizerConfig config = parsed.ok() ? *parsed : TokenizerConfig();
  const std::string whole =
      file.starts_with('+') ? byte_lines() + std::string(file.substr(1)) : std::string(file);
  const auto tokenizer = tokenizer_from_tiktoken(whole, config);
  if (!tokenizer.ok()) {
    MOEBIUS_CHECK(tokenizer.status().message().find('\n') == std::string::npos, "a message of one line");
    return 0;
  }
  std::string storage;
  const std::string_view valid = utf8_lossy(text, storage);
  for (const bool parse : {true, false}) {
    const auto ids = (*tokenizer)->encode(text, {.parse_special = parse});
    MOEBIUS_CHECK(ids.ok(), "the built-in pattern never gives up");
    const auto decoded = (*tokenizer)->decode(*ids);
    MOEBIUS_CHECK(decoded.ok() && *decoded == valid, "the text comes back");
    StreamDecoder stream(**tokenizer, false);
    std::string streamed;
    for (const int32_t id : *ids) streamed += stream.push(id);
    MOEBIUS_CHECK(streamed + stream.finish() == valid, "streaming changes nothing");
  }
  return 0;
}
