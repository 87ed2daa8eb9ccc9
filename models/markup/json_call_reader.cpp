// <tool_call> {"name": NAME, "arguments": JSON} </tool_call>
#include <nlohmann/json.hpp>

#include "models/json_fields.h"
#include "models/markup/call_reader.h"

namespace moebius {

namespace {

bool is_space(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }

// Follows a call's JSON byte by byte, so that arguments can be handed out while they are written.
class CallText {
 public:
  void take(char c) {
    switch (at_) {
      case At::kBefore:
        if (c == '{') at_ = At::kBetween;
        return;
      case At::kBetween:
        if (c == '}') at_ = At::kDone;
        if (c == '"') key_ = "\"", at_ = At::kKey, escaped_ = false;
        return;
      case At::kKey:
        key_ += c;
        if (ends_string(c)) at_ = At::kColon;
        return;
      case At::kColon:
        if (c == ':') value_.clear(), depth_ = 0, in_string_ = false, at_ = At::kValue;
        return;
      case At::kValue:
        if (!value_.empty() || !is_space(c)) take_value(c);
        return;
      case At::kDone:
        return;
    }
  }
  const std::string& name() const { return name_; }            // "" while it is not known
  const std::string& arguments() const { return arguments_; }  // as far as they came

 private:
  enum class At : uint8_t { kBefore, kBetween, kKey, kColon, kValue, kDone };

  bool ends_string(char c) {
    if (escaped_) return escaped_ = false;
    escaped_ = c == '\\';
    return c == '"';
  }

  void take_value(char c) {
    const bool scalar_ends = !in_string_ && depth_ == 0 && !value_.empty() && (c == ',' || c == '}');
    if (scalar_ends) {
      end_value();
      return take(c);
    }
    value_ += c;
    if (is_arguments() && value_[0] != '"') arguments_ += c;
    if (in_string_) {
      in_string_ = !ends_string(c);
      if (!in_string_ && depth_ == 0) end_value();
      return;
    }
    if (c == '"') in_string_ = true, escaped_ = false;
    if (c == '{' || c == '[') ++depth_;
    if ((c == '}' || c == ']') && --depth_ == 0) end_value();
  }

  void end_value() {
    at_ = At::kBetween;
    const bool is_name = key_ == "\"name\"" && name_.empty();
    const bool is_text = is_arguments() && value_[0] == '"';  // some write the arguments as a text of JSON
    has_arguments_ |= is_arguments();
    if (!is_name && !is_text) return;
    const nlohmann::json text = parse_json(value_);
    if (text.is_string()) (is_name ? name_ : arguments_) = text.get<std::string>();
  }

  // Of members that are there twice the first counts, since it was handed out.
  bool is_arguments() const {
    return !has_arguments_ && (key_ == "\"arguments\"" || key_ == "\"parameters\"");
  }

  At at_ = At::kBefore;
  bool in_string_ = false, escaped_ = false, has_arguments_ = false;
  int depth_ = 0;
  std::string key_, value_, name_, arguments_;
};

class JsonCallReader : public CallReader {
 public:
  explicit JsonCallReader(const ChatMarkup& markup) : begin_(markup.call_begin) {}

  void take_mark(int32_t id, AnswerText& out) override {
    finish(out);
    open_ = id == begin_;
  }

  void take_text(std::string_view text, AnswerText& out) override {
    all_ += text;
    for (const char c : text) call_.take(c);
    if (!begun_ && !call_.name().empty()) {
      begin_call("", call_.name(), out);
      begun_ = true;
    }
    if (!begun_) return;
    arguments(std::string_view(call_.arguments()).substr(handed_out_), out);
    handed_out_ = call_.arguments().size();
  }

  bool open() const override { return open_; }

  void finish(AnswerText& out) override {
    if (begun_ && handed_out_ == 0) arguments("{}", out);
    if (open_ && !begun_) out.content += without_space(all_);  // no call after all
    open_ = begun_ = false;
    call_ = CallText();
    handed_out_ = 0;
    all_.clear();
  }

 private:
  const int32_t begin_;
  bool open_ = false, begun_ = false;
  size_t handed_out_ = 0;
  std::string all_;  // of the call
  CallText call_;
};

}  // namespace

std::unique_ptr<CallReader> make_json_call_reader(const ChatMarkup& markup) {
  return std::make_unique<JsonCallReader>(markup);
}

}  // namespace moebius
