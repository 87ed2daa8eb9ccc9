// Fuzzes the readers of thinking and tool calls: how an answer is cut into tokens must change nothing.
//
// Input: a byte that chooses the family, then an answer. Bytes below the number of the family's marks are
// those marks, the others are text, which is read byte by byte and in one piece.
#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <string>
#include <string_view>

#include "models/markup/answer_parser.h"

namespace {

using namespace moebius;

class TestTokenizer : public Tokenizer {
 public:
  explicit TestTokenizer(const std::vector<std::string>& marks) : marks_(static_cast<int32_t>(marks.size())) {
    texts_.assign(marks.begin(), marks.end());
  }
  // Never a mark, also where it is spelled like one.
  int32_t id(const std::string& text) {
    const auto [at, added] = ids_.try_emplace(text, static_cast<int32_t>(texts_.size()));
    if (added) texts_.push_back(text);
    return at->second;
  }
  Result<std::vector<int32_t>> encode(std::string_view, EncodeOptions) const override {
    return unsupported("not here");
  }
  int32_t vocab_size() const override { return static_cast<int32_t>(texts_.size()); }
  bool is_special(int32_t id) const override { return id < marks_; }
  std::optional<int32_t> id_of(std::string_view token) const override {
    for (int32_t mark = 0; mark < marks_; ++mark) {
      if (texts_[static_cast<size_t>(mark)] == token) return mark;
    }
    return std::nullopt;
  }
  std::string token_text(int32_t id) const override { return texts_[static_cast<size_t>(id)]; }
  std::string_view token_bytes(int32_t id) const override { return texts_[static_cast<size_t>(id)]; }

 private:
  const int32_t marks_;
  std::deque<std::string> texts_;
  std::map<std::string, int32_t> ids_;
};

struct Family {
  std::vector<std::string> marks;
  const char* chat_template;
};

const std::vector<Family>& families() {
  static const auto* all = new std::vector<Family>{
      {{"<think>", "</think>", "<tool_call>", "</tool_call>"}, "\"arguments\""},
      {{"<think>", "</think>", "<|tool_calls_section_begin|>", "<|tool_calls_section_end|>",
        "<|tool_call_begin|>", "<|tool_call_argument_begin|>", "<|tool_call_end|>"},
       ""},
      {{"<think>", "</think>", "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>", "<｜tool▁call▁begin｜>",
        "<｜tool▁call▁end｜>", "<｜tool▁sep｜>"},
       ""},
      {{"<think>", "</think>", "<tool_call>", "</tool_call>", "<arg_key>", "</arg_key>", "<arg_value>",
        "</arg_value>"},
       ""}};
  return *all;
}

// All that was read, as one text.
std::string read(TestTokenizer& tokenizer, const ChatMarkup& markup, const std::vector<int32_t>& ids) {
  auto texts = std::make_shared<TextArguments>();
  (*texts)["f"].insert("a");
  AnswerParser parser(markup, tokenizer, texts, false);
  std::string reasoning, content;
  std::vector<std::string> calls;
  const auto add = [&](const AnswerText& text) {
    reasoning += text.reasoning;
    content += text.content;
    for (const CallPiece& piece : text.calls) {
      const auto index = static_cast<size_t>(piece.index);
      MOEBIUS_CHECK(index == calls.size() || index + 1 == calls.size(), "calls come in order");
      if (index == calls.size()) calls.push_back(piece.id + "\n" + piece.name + "\n");
      calls.back() += piece.arguments;
    }
  };
  for (const int32_t id : ids) add(parser.push(id));
  add(parser.finish());
  std::string out = reasoning + "\n--\n" + content;
  for (const std::string& call : calls) out += "\n--\n" + call;
  return out;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const Family& family = families()[data[0] % families().size()];
  TestTokenizer tokenizer(family.marks);
  const ChatMarkup markup = chat_markup(tokenizer, family.chat_template);
  std::vector<int32_t> bytes, pieces;
  std::string text;
  const auto flush = [&] {
    if (!text.empty()) pieces.push_back(tokenizer.id(text));
    text.clear();
  };
  for (size_t i = 1; i < size; ++i) {
    const bool mark = data[i] < family.marks.size();
    if (mark) {
      flush();
      pieces.push_back(data[i]);
      bytes.push_back(data[i]);
    } else {
      text += static_cast<char>(data[i]);
      bytes.push_back(tokenizer.id(std::string(1, static_cast<char>(data[i]))));
    }
  }
  flush();
  MOEBIUS_CHECK(read(tokenizer, markup, bytes) == read(tokenizer, markup, pieces), "the cut changes nothing");
  return 0;
}
