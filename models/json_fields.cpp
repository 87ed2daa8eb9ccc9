#include "models/json_fields.h"

#include <cmath>

#include <fmt/format.h>

namespace moebius {
namespace {

using Json = nlohmann::json;

template <class Document>
Document parse_bounded(std::string_view text) {
  bool too_deep = false;
  const auto depth_guard = [&](int depth, typename Document::parse_event_t, Document&) {
    if (depth > kMaxJsonDepth) too_deep = true;
    return !too_deep;
  };
  Document document = Document::parse(text.begin(), text.end(), depth_guard, /*allow_exceptions=*/false);
  return too_deep ? Document(Document::value_t::discarded) : document;
}

}  // namespace

Json parse_json(std::string_view text) { return parse_bounded<Json>(text); }

nlohmann::ordered_json parse_ordered_json(std::string_view text) {
  return parse_bounded<nlohmann::ordered_json>(text);
}

JsonFields::JsonFields(const Json& object, std::string origin) : origin_(std::move(origin)) {
  if (object.is_object()) object_ = &object;
}

const Json* JsonFields::field(const char* name) const {
  if (!object_) return nullptr;
  const auto it = object_->find(name);
  return it == object_->end() || it->is_null() ? nullptr : &*it;
}

Status JsonFields::error(const std::string& name, const std::string& what) const {
  return invalid(fmt::format("{}: field {}: {}", origin_, name, what));
}

void JsonFields::wrong(const char* name, const std::string& what) {
  if (status_.ok()) status_ = error(name, what);
}

bool JsonFields::read_integer(const char* name, const Json& value, int64_t low, int64_t high, int64_t* out) {
  if (!value.is_number_integer() || (value.is_number_unsigned() && value.get<uint64_t>() > INT64_MAX)) {
    wrong(name, "must be an integer");
    return false;
  }
  *out = value.get<int64_t>();
  if (*out >= low && *out <= high) return true;
  wrong(name, fmt::format("{} is outside {} .. {}", *out, low, high));
  return false;
}

int64_t JsonFields::integer(const char* name, int64_t low, int64_t high) {
  if (!field(name)) wrong(name, "is missing");
  return integer(name, low, low, high);
}

int64_t JsonFields::integer(const char* name, int64_t absent, int64_t low, int64_t high) {
  int64_t value = absent;
  const Json* f = field(name);
  return f && read_integer(name, *f, low, high, &value) ? value : absent;
}

double JsonFields::number(const char* name, double low, double high) {
  if (!field(name)) wrong(name, "is missing");
  return number(name, low, low, high);
}

double JsonFields::number(const char* name, double absent, double low, double high) {
  const Json* f = field(name);
  if (!f) return absent;
  if (!f->is_number()) return wrong(name, "must be a number"), absent;
  const double value = f->get<double>();
  if (std::isfinite(value) && value >= low && value <= high) return value;
  wrong(name, fmt::format("{} is outside {} .. {}", value, low, high));
  return absent;
}

bool JsonFields::boolean(const char* name, bool absent) {
  const Json* f = field(name);
  if (!f) return absent;
  if (!f->is_boolean()) return wrong(name, "must be true or false"), absent;
  return f->get<bool>();
}

std::string JsonFields::text(const char* name, const std::string& absent) {
  const Json* f = field(name);
  if (!f) return absent;
  if (!f->is_string()) return wrong(name, "must be a string"), absent;
  return f->get<std::string>();
}

std::vector<int64_t> JsonFields::integers(const char* name, int64_t low, int64_t high) {
  std::vector<int64_t> values;
  const Json* f = field(name);
  if (!f) return values;
  const Json list = f->is_array() ? *f : Json::array({*f});
  for (const Json& item : list) {
    int64_t value = 0;
    if (!read_integer(name, item, low, high, &value)) return {};
    values.push_back(value);
  }
  return values;
}

std::vector<std::vector<int64_t>> JsonFields::integer_lists(const char* name, int64_t low, int64_t high) {
  std::vector<std::vector<int64_t>> lists;
  const Json* f = field(name);
  if (!f) return lists;
  if (!f->is_array()) return wrong(name, "must be a list of lists of integers"), lists;
  for (const Json& item : *f) {
    if (!item.is_array()) return wrong(name, "must be a list of lists of integers"), lists;
    std::vector<int64_t>& list = lists.emplace_back();
    for (const Json& number : item) {
      int64_t value = 0;
      if (!read_integer(name, number, low, high, &value)) return {};
      list.push_back(value);
    }
  }
  return lists;
}

std::vector<std::string> JsonFields::texts(const char* name) {
  std::vector<std::string> values;
  const Json* f = field(name);
  if (!f) return values;
  if (!f->is_array()) return wrong(name, "must be a list of strings"), values;
  for (const Json& item : *f) {
    if (!item.is_string()) return wrong(name, "must be a list of strings"), values;
    values.push_back(item.get<std::string>());
  }
  return values;
}

JsonFields JsonFields::object(const char* name) {
  static const Json kEmpty = Json::object();
  const Json* f = field(name);
  if (f && !f->is_object()) wrong(name, "must be an object");
  return JsonFields(f && f->is_object() ? *f : kEmpty, fmt::format("{}: {}", origin_, name));
}

std::vector<JsonFields> JsonFields::objects(const char* name) {
  std::vector<JsonFields> values;
  const Json* f = field(name);
  if (!f) return values;
  if (!f->is_structured()) return wrong(name, "must hold objects"), values;
  for (const Json& item : *f) values.emplace_back(item, fmt::format("{}: {}", origin_, name));
  return values;
}

}  // namespace moebius
