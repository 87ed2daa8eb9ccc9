#include "engine/answer_stream.h"

#include <algorithm>

namespace moebius {

AnswerStream::AnswerStream(const Tokenizer& tokenizer, const std::vector<std::string>& stops,
                           const AnswerForm* form, std::span<const int32_t> prompt)
    : stops_(stops), decoder_(tokenizer) {
  if (form != nullptr)
    parser_.emplace(form->markup, tokenizer, form->texts, form->markup.opens_thinking(prompt));
}

AnswerText AnswerStream::push(int32_t id) {
  AnswerText out;
  if (parser_) {
    out = parser_->push(id);
  } else {
    out.content = decoder_.push(id);
  }
  filter(out);
  return out;
}

AnswerText AnswerStream::finish() {
  AnswerText out;
  if (matched_) return out;
  if (parser_) {
    out = parser_->finish();
  } else {
    out.content = decoder_.finish();
  }
  filter(out);
  if (!matched_) out.content += std::exchange(held_, "");
  return out;
}

// Content before a call is shown at once: no stop string goes across it.
void AnswerStream::filter(AnswerText& text) {
  held_ += text.content;
  size_t at = std::string::npos;
  for (const std::string& stop : stops_) {
    const size_t found = stop.empty() ? std::string::npos : held_.find(stop);
    if (found < at) at = found, matched_ = stop;
  }
  if (matched_) {
    text.content = held_.substr(0, at);
    text.calls.clear();
    held_.clear();
    return;
  }
  const size_t keep = text.calls.empty() ? possible_stop() : 0;
  text.content = held_.substr(0, held_.size() - keep);
  held_.erase(0, text.content.size());
}

// Length of the longest end of held_ that begins a stop string.
size_t AnswerStream::possible_stop() const {
  size_t longest = 0;
  for (const std::string& stop : stops_) {
    for (size_t n = std::min(stop.size(), held_.size()); n > longest; --n) {
      if (held_.compare(held_.size() - n, n, stop, 0, n) == 0) longest = n;
    }
  }
  return longest;
}

}  // namespace moebius
