#include "server/route_pattern.h"

namespace moebius {

namespace {

// Takes the first segment off, with the slash before it.
std::string_view take_segment(std::string_view& path) {
  path.remove_prefix(1);
  const std::string_view segment = path.substr(0, path.find('/'));
  path.remove_prefix(segment.size());
  return segment;
}

}  // namespace

bool match_pattern(std::string_view pattern, std::string_view path, std::vector<std::string>& arguments) {
  arguments.clear();
  while (!pattern.empty() && !path.empty() && path.front() == '/') {
    const std::string_view whole = path, wanted = take_segment(pattern), given = take_segment(path);
    if (!wanted.starts_with('{')) {
      if (wanted != given) return false;
      continue;
    }
    const bool rest = wanted.ends_with("*}");
    const std::string_view argument = rest ? whole.substr(1) : given;
    if (argument.empty()) return false;
    arguments.emplace_back(argument);
    if (rest) return true;
  }
  return pattern.empty() && path.empty();
}

}  // namespace moebius
