#include "tools/size_text.h"

#include <cctype>
#include <charconv>
#include <cmath>

#include <fmt/format.h>

#include "models/file_io.h"

namespace moebius {
namespace {

// The power of 1024 that a unit stands for; -1 for what is none.
int unit_power(std::string unit) {
  for (char& c : unit) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  if (unit.empty() || unit == "b") return 0;
  const size_t power = std::string_view("kmgt").find(unit[0]);
  const std::string rest = unit.substr(1);
  const bool known = power != std::string_view::npos && (rest.empty() || rest == "b" || rest == "ib");
  return known ? static_cast<int>(power) + 1 : -1;
}

}  // namespace

Result<int64_t> parse_size(std::string_view text) {
  const Status unreadable = invalid(
      fmt::format("'{}' is not a size; write a number and a unit, such as 12GiB", printable(text, 40)));
  double number = 0;
  const auto [end, error] =
      std::from_chars(text.data(), text.data() + text.size(), number, std::chars_format::fixed);
  if (error != std::errc() || !(number >= 0)) return unreadable;
  std::string_view unit(end, static_cast<size_t>(text.data() + text.size() - end));
  while (unit.starts_with(' ')) unit.remove_prefix(1);
  const int power = unit_power(std::string(unit));
  if (power < 0) return unreadable;
  const double bytes = std::ldexp(number, 10 * power);
  if (!(bytes < 0x1p60))
    return invalid(fmt::format("'{}' is more than any machine has", printable(text, 40)));
  if (power == 0 && bytes > 0 && bytes < 0x1p20) {
    return invalid(fmt::format("'{}' would be bytes; write its unit, such as {}GiB", printable(text, 40),
                               printable(text.substr(0, text.size() - unit.size()), 40)));
  }
  return static_cast<int64_t>(bytes);
}

CLI::Option* add_size(CLI::App& app, const std::string& name, int64_t& bytes, const std::string& help) {
  const auto take = [&bytes, name](const std::string& text) {
    const Result<int64_t> size = parse_size(text);
    if (!size.ok()) throw CLI::ValidationError(name, size.status().message());
    bytes = *size;
  };
  return app.add_option_function<std::string>(name, take, help)->type_name("SIZE");
}

}  // namespace moebius
