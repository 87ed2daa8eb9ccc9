// <tool_call> NAME (<arg_key> KEY </arg_key> <arg_value> VALUE </arg_value>)* </tool_call>, written anew as
// JSON.
#include <nlohmann/json.hpp>

#include "models/json_fields.h"
#include "models/markup/call_reader.h"

namespace moebius {

namespace {

std::string json_string(std::string_view text) {
  return nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

class GlmCallReader : public CallReader {
 public:
  GlmCallReader(const ChatMarkup& markup, std::shared_ptr<const TextArguments> texts)
      : markup_(markup), texts_(std::move(texts)) {}

  void take_mark(int32_t id, AnswerText& out) override {
    if (id == markup_.call_begin) {
      end_call(out);
      at_ = At::kName;
      return;
    }
    if (at_ == At::kOutside) return;
    if (id == markup_.key_begin) {
      end_value(out);
      begin(out);
      part_.clear();
      at_ = At::kKey;
    } else if (id == markup_.key_end && at_ == At::kKey) {
      end_key();
    } else if (id == markup_.value_begin && (at_ == At::kKey || at_ == At::kBetween)) {
      if (at_ == At::kKey) end_key();
      begin_value(out);
    } else if (id == markup_.value_end) {
      end_value(out);
    } else if (id == markup_.call_end) {
      end_call(out);
    }
  }

  void take_text(std::string_view text, AnswerText& out) override {
    if (at_ == At::kValue && is_text_) {
      const std::string json = json_string(text);
      arguments(std::string_view(json).substr(1, json.size() - 2), out);
    } else if (at_ != At::kBetween) {
      part_ += text;
    }
  }

  bool open() const override { return at_ != At::kOutside; }
  void finish(AnswerText& out) override { end_call(out); }

 private:
  enum class At : uint8_t { kOutside, kName, kKey, kBetween, kValue };

  void begin(AnswerText& out) {
    if (begun_) return;
    name_ = without_space(part_);
    begin_call("", name_, out);
    arguments("{", out);
    begun_ = true;
  }

  void end_key() {
    key_ = without_space(part_);
    at_ = At::kBetween;
  }

  void begin_value(AnswerText& out) {
    part_.clear();
    const auto function = texts_ ? texts_->find(name_) : TextArguments::const_iterator();
    is_text_ = texts_ && function != texts_->end() && function->second.count(key_) > 0;
    arguments((first_ ? "" : ", ") + json_string(key_) + ": " + (is_text_ ? "\"" : ""), out);
    first_ = false;
    at_ = At::kValue;
  }

  // JSON as it is; what is none is a text.
  void end_value(AnswerText& out) {
    if (at_ != At::kValue) return;
    if (is_text_) {
      arguments("\"", out);
    } else {
      const std::string_view text = without_space(part_);
      arguments(parse_json(text).is_discarded() ? json_string(part_) : std::string(text), out);
    }
    at_ = At::kBetween;
  }

  void end_call(AnswerText& out) {
    if (at_ == At::kOutside) return;
    end_value(out);
    if (at_ == At::kName && without_space(part_).empty()) {
      at_ = At::kOutside;  // no call after all
    } else {
      begin(out);
      arguments("}", out);
    }
    at_ = At::kOutside;
    part_.clear();
    begun_ = false;
    first_ = true;
  }

  const ChatMarkup markup_;
  const std::shared_ptr<const TextArguments> texts_;
  At at_ = At::kOutside;
  bool begun_ = false, first_ = true, is_text_ = false;
  std::string part_, name_, key_;
};

}  // namespace

std::unique_ptr<CallReader> make_glm_call_reader(const ChatMarkup& markup,
                                                 std::shared_ptr<const TextArguments> texts) {
  return std::make_unique<GlmCallReader>(markup, std::move(texts));
}

}  // namespace moebius
