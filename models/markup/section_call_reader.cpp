// The calls of Kimi and DeepSeek: a head, a separator, arguments; all within a section, whose marks may be
// missing.
#include <algorithm>
#include <cctype>

#include "models/markup/call_reader.h"

namespace moebius {

namespace {

constexpr std::string_view kFence = "```";

bool holds(const std::vector<int32_t>& ids, int32_t id) {
  return std::find(ids.begin(), ids.end(), id) != ids.end();
}

// NAME of functions.NAME:3
std::string name_in(std::string_view id) {
  constexpr std::string_view kPrefix = "functions.";
  if (id.starts_with(kPrefix)) id.remove_prefix(kPrefix.size());
  const size_t colon = id.rfind(':');
  const bool numbered =
      colon != id.npos && std::all_of(id.begin() + static_cast<std::ptrdiff_t>(colon) + 1, id.end(),
                                      [](unsigned char c) { return std::isdigit(c); });
  return std::string(numbered ? id.substr(0, colon) : id);
}

class SectionCallReader : public CallReader {
 public:
  explicit SectionCallReader(const ChatMarkup& markup) : markup_(markup) {}

  void take_mark(int32_t id, AnswerText& out) override {
    if (id == markup_.separator && at_ == At::kHead) return separate(out);
    end_call(out);
    if (id == markup_.call_begin) {
      at_ = At::kHead;
    } else {
      at_ = holds(markup_.section_end, id) ? At::kOutside : At::kSection;
    }
  }

  void take_text(std::string_view text, AnswerText& out) override {
    switch (at_) {
      case At::kHead:
        head_ += text;
        return;
      case At::kBlock:
        head_ += text;
        return find_block(out);
      case At::kArguments:
        return take_arguments(text, out);
      default:
        return;  // line breaks between calls
    }
  }

  bool open() const override { return at_ != At::kOutside; }
  void finish(AnswerText& out) override {
    end_call(out);
    at_ = At::kOutside;
  }

 private:
  // kBlock: after `function` and a separator, before the first byte of the arguments.
  enum class At : uint8_t { kOutside, kSection, kHead, kBlock, kArguments };

  void separate(AnswerText& out) {
    const std::string head(without_space(head_));
    head_.clear();
    fenced_ = false;
    at_ = At::kArguments;
    if (markup_.calls == CallForm::kKimi) {
      begin_call(head, name_in(head), out);
    } else if (head == "function") {
      at_ = At::kBlock;
    } else {
      begin_call("", head, out);
    }
  }

  // NAME, a line break, ```json, a line break, then the arguments; or at once the arguments of a function
  // that is called `function`.
  void find_block(AnswerText& out) {
    const size_t begin = head_.find('{');
    if (begin == head_.npos) return;
    const std::string before(without_space(std::string_view(head_).substr(0, begin)));
    const size_t line = before.find_first_of("\r\n`");
    begin_call("", before.empty() ? "function" : std::string(without_space(before.substr(0, line))), out);
    fenced_ = before.find(kFence) != before.npos;
    at_ = At::kArguments;
    take_arguments(std::exchange(head_, "").substr(begin), out);
  }

  // Spaces, and a fence, at the end are no part of the arguments.
  void take_arguments(std::string_view text, AnswerText& out) {
    std::string all = std::exchange(held_, "");
    all += text;
    const std::string_view passing = fenced_ ? " \t\r\n`" : " \t\r\n";
    if (!started_) all.erase(0, std::min(all.find_first_not_of(" \t\r\n"), all.size()));
    started_ |= !all.empty();
    const size_t end = all.find_last_not_of(passing) + 1;  // npos + 1 is 0
    held_ = all.substr(end);
    has_arguments_ |= end > 0;
    arguments(std::string_view(all).substr(0, end), out);
  }

  void end_call(AnswerText& out) {
    if (at_ == At::kArguments && !has_arguments_) arguments("{}", out);
    if (at_ == At::kBlock && !without_space(head_).empty()) {  // cut off, or without arguments
      const std::string head(without_space(head_));
      begin_call("", std::string(without_space(head.substr(0, head.find_first_of("\r\n`")))), out);
      arguments("{}", out);
    }
    head_.clear();
    held_.clear();
    started_ = has_arguments_ = false;
  }

  const ChatMarkup markup_;
  At at_ = At::kOutside;
  bool fenced_ = false, started_ = false, has_arguments_ = false;
  std::string head_, held_;
};

}  // namespace

std::unique_ptr<CallReader> make_section_call_reader(const ChatMarkup& markup) {
  return std::make_unique<SectionCallReader>(markup);
}

}  // namespace moebius
