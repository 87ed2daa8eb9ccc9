// JsonFields: checked reading of a JSON object's fields. The first thing wrong is kept in status(); later
// reads return their defaults, so that a parser can read all its fields and look once.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include "kernels/status.h"

namespace moebius {

inline constexpr int kMaxJsonDepth = 64;

// The document, or a discarded value (is_discarded()) if text is not JSON or nests deeper than kMaxJsonDepth.
nlohmann::json parse_json(std::string_view text);
nlohmann::ordered_json parse_ordered_json(std::string_view text);  // the same, fields in the file's order

class JsonFields {
 public:
  // object must outlive this. origin: the file, for messages.
  JsonFields(const nlohmann::json& object, std::string origin);

  bool empty() const { return object_ == nullptr || object_->empty(); }
  const std::string& origin() const { return origin_; }
  const Status& status() const { return status_; }
  Status error(const std::string& field, const std::string& what) const;

  // Without a default the field is required; null counts as absent. Values outside [low, high] are errors.
  int64_t integer(const char* name, int64_t low, int64_t high);
  int64_t integer(const char* name, int64_t absent, int64_t low, int64_t high);
  double number(const char* name, double low, double high);
  double number(const char* name, double absent, double low, double high);
  bool boolean(const char* name, bool absent);
  std::string text(const char* name, const std::string& absent);
  std::vector<int64_t> integers(const char* name, int64_t low,
                                int64_t high);  // a list, or one number as a list of one
  std::vector<std::vector<int64_t>> integer_lists(const char* name, int64_t low, int64_t high);
  std::vector<std::string> texts(const char* name);
  JsonFields object(const char* name);                // empty when absent
  std::vector<JsonFields> objects(const char* name);  // the values of an object, or of a list, of objects

 private:
  const nlohmann::json* field(const char* name) const;
  void wrong(const char* name, const std::string& what);
  bool read_integer(const char* name, const nlohmann::json& value, int64_t low, int64_t high, int64_t* out);

  const nlohmann::json* object_ = nullptr;
  std::string origin_;
  Status status_;
};

}  // namespace moebius
