// Fuzzes tokenizer.json: whatever is accepted must encode any text and decode it in any split.
//
// Input: a byte, then a file up to a NUL byte, then a text. The byte 'P' makes the file a pattern, which cuts
// the text. Seeds: the tokenizer.json files of tests/golden/tokenizers, with a byte before them.
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "models/pretokenizer.h"
#include "models/tokenizer_files.h"
#include "models/tokenizer_text.h"

namespace {

using namespace moebius;

std::string valid(std::string_view text) {
  std::string storage;
  return std::string(utf8_lossy(text, storage));
}

void check_message(const Status& status) {
  MOEBIUS_CHECK(status.message().find('\n') == std::string::npos, "a message of one line");
}

void check_pattern(std::string_view pattern, std::string_view text) {
  const auto pretokenizer = Pretokenizer::from_pattern(pattern);
  if (!pretokenizer.ok()) return check_message(pretokenizer.status());
  std::string subject = valid(text);
  std::vector<TextRange> pieces;
  PatternScratch scratch;
  if (const Status status = pretokenizer->split(subject, pieces, scratch); !status.ok())
    return check_message(status);
  uint32_t end = 0;
  for (const TextRange& piece : pieces) {
    MOEBIUS_CHECK(piece.begin == end && piece.end > end, "pieces cover the text");
    end = piece.end;
  }
  MOEBIUS_CHECK(end == subject.size(), "pieces cover the text");
}

void check_tokenizer(const Tokenizer& tokenizer, std::string_view text) {
  for (const bool parse : {true, false}) {
    const auto ids = tokenizer.encode(text, {.add_special = parse, .parse_special = parse});
    if (!ids.ok()) return check_message(ids.status());
    StreamDecoder stream(tokenizer, false);
    std::string streamed;
    for (const int32_t id : *ids) streamed += stream.push(id);
    streamed += stream.finish();
    const auto decoded = tokenizer.decode(*ids);
    // A post-processor may name an id that no token has.
    if (!decoded.ok()) return check_message(decoded.status());
    MOEBIUS_CHECK(streamed == valid(*decoded), "streaming changes nothing");
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string_view input(reinterpret_cast<const char*>(data) + 1, size - 1);
  const size_t end = input.find('\0');
  const std::string_view file = input.substr(0, end);
  const std::string_view text =
      end == std::string_view::npos ? "It's 1234 \xE6\xBC\xA2<|im_end|>\r\n" : input.substr(end + 1);
  if (data[0] == 'P') {
    check_pattern(file, text);
    return 0;
  }
  TokenizerConfig config;
  config.bos_token = "<s>";
  config.add_bos_token = true;
  const auto tokenizer = tokenizer_from_json(file, config);
  if (!tokenizer.ok()) {
    check_message(tokenizer.status());
  } else {
    check_tokenizer(**tokenizer, text);
  }
  return 0;
}
