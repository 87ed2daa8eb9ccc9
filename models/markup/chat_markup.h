// ChatMarkup: the tokens by which a family of models marks its thinking and its tool calls.
//
// Kimi-K2     <|tool_calls_section_begin|> (<|tool_call_begin|> functions.NAME:INDEX
//             <|tool_call_argument_begin|> JSON <|tool_call_end|>)* <|tool_calls_section_end|>
// DeepSeek-V3 <｜tool▁calls▁begin｜> (<｜tool▁call▁begin｜> NAME <｜tool▁sep｜> JSON <｜tool▁call▁end｜>)*
//             <｜tool▁calls▁end｜>; V3 and R1 have `function` for NAME, and NAME, a line and a block ```json
//             for JSON
// GLM-4.5 on  <tool_call> NAME (<arg_key> KEY </arg_key> <arg_value> VALUE </arg_value>)* </tool_call>, with
//             texts as they are and other values as JSON
// Qwen3, pebble  <tool_call> {"name": NAME, "arguments": JSON} </tool_call>
//
// Thinking stands between <think> and </think>.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "models/tokenizer.h"

namespace moebius {

enum class CallForm : uint8_t { kNone, kJson, kKimi, kDeepSeek, kGlm };

struct ChatMarkup {
  CallForm calls = CallForm::kNone;
  // Ids, -1 where the family has none.
  int32_t think_begin = -1, think_end = -1;
  int32_t call_begin = -1, call_end = -1,
          separator = -1;  // separator: between a call's name and its arguments
  int32_t key_begin = -1, key_end = -1, value_begin = -1, value_end = -1;
  std::vector<int32_t> section_begin, section_end;  // the first spelling is the one to write
  bool json_block = false;                          // DeepSeek-V3 and R1
  bool call_lines = false;                          // Qwen3: line breaks within the tags and between calls
  int64_t think_limit = -1;  // tokens after which thinking must end, as a request may want; -1: whenever

  std::vector<int32_t> ids() const;  // all of them
  // Whether an answer to this prompt begins in the middle of thinking: its last mark of thinking opens it.
  bool opens_thinking(std::span<const int32_t> prompt) const {
    return last_mark(prompt) == think_begin && think_begin >= 0;
  }
  // Or after thinking that the prompt has closed already: the model is not to think.
  bool closes_thinking(std::span<const int32_t> prompt) const {
    return last_mark(prompt) == think_end && think_end >= 0;
  }

 private:
  int32_t last_mark(std::span<const int32_t> prompt) const;  // of thinking, near the end; -1: none
};

// By the tokens a tokenizer has and how its chat template (its source; "" for none) writes calls.
ChatMarkup chat_markup(const Tokenizer& tokenizer, std::string_view chat_template);

}  // namespace moebius
