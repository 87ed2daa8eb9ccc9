#include "server/json_input.h"

#include <vector>

#include <fmt/format.h>

namespace moebius {

namespace {

// Walks the text without building anything and stops at the first breach of a limit.
class LimitCheck : public nlohmann::json_sax<Json> {
 public:
  explicit LimitCheck(const JsonLimits& limits) : limits_(limits) {}
  const std::string& problem() const { return problem_; }

  bool null() override { return value(); }
  bool boolean(bool) override { return value(); }
  bool number_integer(number_integer_t) override { return value(); }
  bool number_unsigned(number_unsigned_t) override { return value(); }
  bool number_float(number_float_t, const string_t&) override { return value(); }
  bool string(string_t&) override { return value(); }
  bool binary(binary_t&) override { return value(); }
  bool start_object(std::size_t) override { return open(); }
  bool start_array(std::size_t) override { return open(); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }

  bool key(string_t&) override {
    if (++keys_ > limits_.keys) return fail(fmt::format("more than {} keys", limits_.keys));
    if (++open_.back() > limits_.keys_per_object) {
      return fail(fmt::format("more than {} keys in one object", limits_.keys_per_object));
    }
    return true;
  }

  bool parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception&) override {
    return fail(fmt::format("not valid JSON in UTF-8, at byte {}", position));
  }

 private:
  bool fail(std::string problem) {
    problem_ = std::move(problem);
    return false;
  }
  bool value() {
    return ++values_ <= limits_.values || fail(fmt::format("more than {} values", limits_.values));
  }
  bool open() {
    if (static_cast<int>(open_.size()) >= limits_.depth) {
      return fail(fmt::format("nested deeper than {}", limits_.depth));
    }
    open_.push_back(0);
    return value();
  }
  bool close() {
    open_.pop_back();
    return true;
  }

  const JsonLimits limits_;
  int64_t values_ = 0, keys_ = 0;
  std::vector<int64_t> open_;  // keys of each container that is not closed yet
  std::string problem_;
};

}  // namespace

Result<Json> parse_json(std::string_view text, const JsonLimits& limits) {
  LimitCheck check(limits);
  if (!Json::sax_parse(text.begin(), text.end(), &check)) return invalid("the body is " + check.problem());
  Json json = Json::parse(text.begin(), text.end(), nullptr, false);
  if (json.is_discarded()) return invalid("the body is not valid JSON in UTF-8");
  return json;
}

}  // namespace moebius
