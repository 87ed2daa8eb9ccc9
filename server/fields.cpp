#include "server/fields.h"

#include <cmath>

#include <fmt/format.h>

namespace moebius {

std::string text_of(const Json& object, const char* name) {
  const auto value = object.find(name);
  return value != object.end() && value->is_string() ? value->get<std::string>() : "";
}

const Json* Fields::find(std::string_view name) const {
  const auto it = object_.find(name);
  return it == object_.end() || it->is_null() ? nullptr : &*it;
}

void Fields::fail(ApiError error) {
  if (!error_) error_ = std::move(error);
}

void Fields::fail(std::string_view name, std::string message) {
  fail(bad_request(fmt::format("`{}` {}", path(name), message), path(name)));
}

void Fields::boolean(std::string_view name, bool& target) {
  const Json* value = find(name);
  if (value == nullptr) return;
  if (!value->is_boolean()) return fail(name, "must be true or false");
  target = value->get<bool>();
}

void Fields::integer(std::string_view name, int64_t low, int64_t high, int64_t& target) {
  const Json* value = find(name);
  if (value == nullptr) return;
  if (!value->is_number_integer()) return fail(name, "must be an integer");
  const bool too_big =
      value->is_number_unsigned() && value->get<uint64_t>() > static_cast<uint64_t>(INT64_MAX);
  if (too_big || value->get<int64_t>() < low || value->get<int64_t>() > high) {
    return fail(name, fmt::format("must be from {} to {}", low, high));
  }
  target = value->get<int64_t>();
}

void Fields::number(std::string_view name, double low, double high, float& target) {
  const Json* value = find(name);
  if (value == nullptr) return;
  if (!value->is_number()) return fail(name, "must be a number");
  const double number = value->get<double>();
  if (!std::isfinite(number) || number < low || number > high) {
    return fail(name, fmt::format("must be from {} to {}", low, high));
  }
  target = static_cast<float>(number);
}

void Fields::text(std::string_view name, std::string& target) {
  const Json* value = find(name);
  if (value == nullptr) return;
  if (!value->is_string()) return fail(name, "must be a string");
  target = value->get_ref<const std::string&>();
}

const Json* Fields::object(std::string_view name) {
  const Json* value = find(name);
  if (value == nullptr || value->is_object()) return value;
  fail(name, "must be an object");
  return nullptr;
}

const Json* Fields::array(std::string_view name) {
  const Json* value = find(name);
  if (value == nullptr || value->is_array()) return value;
  fail(name, "must be a list");
  return nullptr;
}

void Fields::unsupported(std::string_view name, std::string_view instead) {
  if (find(name) == nullptr) return;
  fail(bad_request(fmt::format("`{}` is not supported here; {}", path(name), instead), path(name),
                   "unsupported_parameter"));
}

}  // namespace moebius
