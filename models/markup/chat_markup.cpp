#include "models/markup/chat_markup.h"

#include <algorithm>

namespace moebius {

namespace {

constexpr size_t kTail = 16;  // tokens at a prompt's end that a template's opening of the answer may take

class Ids {
 public:
  explicit Ids(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {}
  int32_t of(std::string_view text) const { return tokenizer_.id_of(text).value_or(-1); }
  std::vector<int32_t> all(std::initializer_list<std::string_view> texts) const {
    std::vector<int32_t> out;
    for (const std::string_view text : texts) {
      if (const int32_t id = of(text); id >= 0) out.push_back(id);
    }
    return out;
  }

 private:
  const Tokenizer& tokenizer_;
};

bool read_kimi(const Ids& ids, ChatMarkup& out) {
  out.call_begin = ids.of("<|tool_call_begin|>");
  out.separator = ids.of("<|tool_call_argument_begin|>");
  out.call_end = ids.of("<|tool_call_end|>");
  out.section_begin = ids.all({"<|tool_calls_section_begin|>", "<|tool_call_section_begin|>"});
  out.section_end = ids.all({"<|tool_calls_section_end|>", "<|tool_call_section_end|>"});
  return out.call_begin >= 0 && out.separator >= 0 && out.call_end >= 0 && !out.section_begin.empty() &&
         !out.section_end.empty();
}

bool read_deepseek(const Ids& ids, std::string_view chat_template, ChatMarkup& out) {
  out.call_begin = ids.of("<｜tool▁call▁begin｜>");
  out.separator = ids.of("<｜tool▁sep｜>");
  out.call_end = ids.of("<｜tool▁call▁end｜>");
  out.section_begin = ids.all({"<｜tool▁calls▁begin｜>"});
  out.section_end = ids.all({"<｜tool▁calls▁end｜>"});
  out.json_block = chat_template.find("```json") != std::string_view::npos;
  return out.call_begin >= 0 && out.separator >= 0 && out.call_end >= 0 && !out.section_begin.empty() &&
         !out.section_end.empty();
}

bool read_glm(const Ids& ids, ChatMarkup& out) {
  out.call_begin = ids.of("<tool_call>");
  out.call_end = ids.of("</tool_call>");
  out.key_begin = ids.of("<arg_key>");
  out.key_end = ids.of("</arg_key>");
  out.value_begin = ids.of("<arg_value>");
  out.value_end = ids.of("</arg_value>");
  return std::min(
             {out.call_begin, out.call_end, out.key_begin, out.key_end, out.value_begin, out.value_end}) >= 0;
}

bool read_json(const Ids& ids, std::string_view chat_template, ChatMarkup& out) {
  out.call_begin = ids.of("<tool_call>");
  out.call_end = ids.of("</tool_call>");
  out.call_lines = chat_template.find("<tool_call>\\n") != std::string_view::npos;
  // The same tags may hold another form, such as <function=NAME>.
  return std::min(out.call_begin, out.call_end) >= 0 &&
         chat_template.find("\"arguments\"") != std::string_view::npos;
}

}  // namespace

std::vector<int32_t> ChatMarkup::ids() const {
  std::vector<int32_t> out = {think_begin, think_end, call_begin,  call_end, separator,
                              key_begin,   key_end,   value_begin, value_end};
  out.insert(out.end(), section_begin.begin(), section_begin.end());
  out.insert(out.end(), section_end.begin(), section_end.end());
  std::erase(out, -1);
  return out;
}

int32_t ChatMarkup::last_mark(std::span<const int32_t> prompt) const {
  const auto tail = prompt.last(std::min(prompt.size(), kTail));
  const auto found = std::find_if(tail.rbegin(), tail.rend(), [&](int32_t id) {
    return id >= 0 && (id == think_begin || id == think_end);
  });
  return found == tail.rend() ? -1 : *found;
}

ChatMarkup chat_markup(const Tokenizer& tokenizer, std::string_view chat_template) {
  const Ids ids(tokenizer);
  ChatMarkup thinking;
  thinking.think_begin = ids.of("<think>");
  thinking.think_end = ids.of("</think>");
  if (thinking.think_begin < 0 || thinking.think_end < 0) thinking.think_begin = thinking.think_end = -1;
  ChatMarkup out = thinking;
  out.calls = CallForm::kKimi;
  if (read_kimi(ids, out)) return out;
  out = thinking;
  out.calls = CallForm::kDeepSeek;
  if (read_deepseek(ids, chat_template, out)) return out;
  out = thinking;
  out.calls = CallForm::kGlm;
  if (read_glm(ids, out)) return out;
  out = thinking;
  out.calls = CallForm::kJson;
  if (read_json(ids, chat_template, out)) return out;
  return thinking;
}

}  // namespace moebius
