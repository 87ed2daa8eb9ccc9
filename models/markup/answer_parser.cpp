#include "models/markup/answer_parser.h"

#include <algorithm>

#include "models/markup/call_reader.h"

namespace moebius {

std::string_view without_space(std::string_view text) {
  constexpr std::string_view kSpaces = " \t\r\n";
  const size_t begin = text.find_first_not_of(kSpaces);
  if (begin == text.npos) return {};
  return text.substr(begin, text.find_last_not_of(kSpaces) - begin + 1);
}

std::unique_ptr<CallReader> CallReader::of(const ChatMarkup& markup,
                                           std::shared_ptr<const TextArguments> texts) {
  switch (markup.calls) {
    case CallForm::kJson:
      return make_json_call_reader(markup);
    case CallForm::kKimi:
    case CallForm::kDeepSeek:
      return make_section_call_reader(markup);
    case CallForm::kGlm:
      return make_glm_call_reader(markup, std::move(texts));
    case CallForm::kNone:
      break;
  }
  return nullptr;
}

AnswerParser::AnswerParser(ChatMarkup markup, const Tokenizer& tokenizer,
                           std::shared_ptr<const TextArguments> texts, bool thinking)
    : markup_(std::move(markup)),
      marks_(markup_.ids()),
      decoder_(tokenizer),
      calls_(CallReader::of(markup_, std::move(texts))),
      thinking_(thinking),
      at_beginning_(thinking) {
  std::sort(marks_.begin(), marks_.end());
}
AnswerParser::~AnswerParser() = default;

void AnswerParser::flush(AnswerText& out) { take(decoder_.flush(), out); }

// Line breaks beside marks belong to the markup: those at the end of what came so far are held until more
// comes.
void AnswerParser::take(std::string_view text, AnswerText& out) {
  if (text.empty()) return;
  if (calls_ && calls_->open()) return calls_->take_text(text, out);
  if (at_beginning_) {
    text.remove_prefix(std::min(text.find_first_not_of("\r\n"), text.size()));
    if (text.empty()) return;
    at_beginning_ = false;
  }
  std::string all = std::exchange(held_, "");
  all += text;
  if (thinking_ || calls_) {
    const size_t end = all.find_last_not_of("\r\n") + 1;  // npos + 1 is 0
    held_ = all.substr(end);
    all.resize(end);
  }
  (thinking_ ? out.reasoning : out.content) += all;
}

AnswerText AnswerParser::push(int32_t id) {
  AnswerText out;
  if (!std::binary_search(marks_.begin(), marks_.end(), id)) {
    take(decoder_.push(id), out);
    return out;
  }
  flush(out);
  const bool opens = id == markup_.think_begin;
  if (opens || id == markup_.think_end) {
    if (thinking_ || opens) held_.clear();
    thinking_ = opens;
  } else if (calls_) {
    held_.clear();
    thinking_ = false;  // forgotten to end it
    calls_->take_mark(id, out);
  }
  at_beginning_ = true;
  return out;
}

AnswerText AnswerParser::finish() {
  AnswerText out;
  flush(out);
  if (!thinking_ && !(calls_ && calls_->called())) out.content += held_;
  held_.clear();
  if (calls_) calls_->finish(out);
  return out;
}

}  // namespace moebius
