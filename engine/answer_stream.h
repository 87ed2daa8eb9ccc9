// AnswerStream: what may be shown of an answer while its tokens come: text in whole characters, without what
// belongs to a stop string or could still become one, and, with a form, thinking and tool calls apart.
// Knows nothing of how tokens are computed: one object per answer.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "models/markup/answer_parser.h"

namespace moebius {

// How answers to a conversation are read.
struct AnswerForm {
  ChatMarkup markup;
  std::shared_ptr<const TextArguments> texts;  // null: no function has any
};

class AnswerStream {
 public:
  // tokenizer and stops outlive this. form: null for plain text, markup included. Stop strings end the
  // content, not thinking or calls.
  AnswerStream(const Tokenizer& tokenizer, const std::vector<std::string>& stops, const AnswerForm* form,
               std::span<const int32_t> prompt);

  AnswerText push(int32_t id);
  AnswerText finish();
  const std::optional<std::string>& matched() const { return matched_; }  // the stop string that ended it
  bool thinking() const { return parser_ && parser_->thinking(); }        // after the tokens so far

 private:
  void filter(AnswerText& text);
  size_t possible_stop() const;

  const std::vector<std::string>& stops_;
  StreamDecoder decoder_;
  std::optional<AnswerParser> parser_;  // none: plain text
  std::string held_;
  std::optional<std::string> matched_;
};

}  // namespace moebius
