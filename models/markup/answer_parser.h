// AnswerParser: the tokens of an answer, sorted into thinking, content and tool calls.
//
// Markup is known by token ids, never by its text, so that how the text between is cut into tokens changes
// nothing: the joined pieces are the same for any cut. Marks that are missing where an answer was cut off, or
// forgotten, are taken as given.
#pragma once

#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "models/markup/chat_markup.h"

namespace moebius {

struct CallPiece {
  int index = 0;         // of the call in the answer
  std::string id, name;  // with a call's first piece; id: the family's own, "" where it has none
  std::string arguments;
};

// What came of one token. In the order of the fields.
struct AnswerText {
  std::string reasoning, content;
  std::vector<CallPiece> calls;
};

// Of each function, the arguments that are texts: only GLM's markup does not say.
using TextArguments = std::map<std::string, std::set<std::string>>;

class CallReader;

class AnswerParser {
 public:
  // The tokenizer outlives this. thinking: the answer begins in the middle of it
  // (ChatMarkup::opens_thinking).
  AnswerParser(ChatMarkup markup, const Tokenizer& tokenizer, std::shared_ptr<const TextArguments> texts,
               bool thinking);
  ~AnswerParser();

  AnswerText push(int32_t id);
  AnswerText finish();  // nothing follows
  bool thinking() const { return thinking_; }

 private:
  void flush(AnswerText& out);
  void take(std::string_view text, AnswerText& out);

  const ChatMarkup markup_;
  std::vector<int32_t> marks_;  // its ids, ascending
  StreamDecoder decoder_;
  std::unique_ptr<CallReader> calls_;  // null: the family has none
  bool thinking_;
  bool at_beginning_ = true;  // line breaks are dropped: of thinking, or of what follows it
  std::string held_;          // line breaks that end what came so far; dropped before a mark
};

}  // namespace moebius
