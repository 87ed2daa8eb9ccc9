// CallReader: one family's tool calls, from marks and the text between them.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "models/markup/answer_parser.h"

namespace moebius {

class CallReader {
 public:
  // kNone: null.
  static std::unique_ptr<CallReader> of(const ChatMarkup& markup, std::shared_ptr<const TextArguments> texts);
  virtual ~CallReader() = default;

  // Takes any mark of its family; one that makes no sense here is passed over.
  virtual void take_mark(int32_t id, AnswerText& out) = 0;
  // Text after a mark that opened something; only while open().
  virtual void take_text(std::string_view text, AnswerText& out) = 0;
  virtual bool open() const = 0;
  // Ends what is open; the answer is over.
  virtual void finish(AnswerText& out) = 0;
  bool called() const { return count_ > 0; }

 protected:
  void begin_call(std::string id, std::string name, AnswerText& out) {
    out.calls.push_back({count_++, std::move(id), std::move(name), ""});
  }
  void arguments(std::string_view text, AnswerText& out) {
    if (text.empty()) return;
    if (out.calls.empty() || out.calls.back().index != count_ - 1)
      out.calls.push_back({count_ - 1, "", "", ""});
    out.calls.back().arguments += text;
  }

 private:
  int count_ = 0;
};

std::unique_ptr<CallReader> make_json_call_reader(const ChatMarkup& markup);
std::unique_ptr<CallReader> make_section_call_reader(const ChatMarkup& markup);  // Kimi and DeepSeek
std::unique_ptr<CallReader> make_glm_call_reader(const ChatMarkup& markup,
                                                 std::shared_ptr<const TextArguments> texts);

std::string_view without_space(std::string_view text);  // at both ends

}  // namespace moebius
