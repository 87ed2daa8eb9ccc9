#include "tools/text_io.h"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <limits>

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include "models/file_io.h"
#include "models/json_fields.h"
#include "tools/command.h"

namespace moebius {
namespace {

using nlohmann::ordered_json;

Result<std::string> read_descriptor(int fd, const std::string& path, size_t max_bytes) {
  std::string text;
  char block[1 << 16];
  while (true) {
    const ssize_t count = ::read(fd, block, sizeof block);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return system_error("read", path, errno);
    if (count == 0) return text;
    text.append(block, static_cast<size_t>(count));
    if (text.size() > max_bytes) {
      return invalid(
          fmt::format("'{}' is larger than {} bytes; pass a smaller file", printable(path), max_bytes));
    }
  }
}

Result<std::vector<int32_t>> ids_of_json(std::string_view text, const std::string& origin) {
  MOEBIUS_ASSIGN(const ordered_json document, parse_document(text, origin));
  const ordered_json* list = &document;
  if (document.is_object() && document.contains("ids")) list = &document["ids"];
  if (!list->is_array())
    return invalid(fmt::format("{} holds no list of ids; write [1, 2] or {{\"ids\": [1, 2]}}", origin));
  std::vector<int32_t> ids;
  ids.reserve(list->size());
  for (const ordered_json& value : *list) {
    const bool fits = value.is_number_unsigned() &&
                      value.get<uint64_t>() <= static_cast<uint64_t>(std::numeric_limits<int32_t>::max());
    if (!fits) {
      return invalid(fmt::format("entry {} of {} is not a token id; ids are whole numbers from 0 on",
                                 ids.size(), origin));
    }
    ids.push_back(value.get<int32_t>());
  }
  return ids;
}

}  // namespace

Result<std::string> read_input(const std::string& path, size_t max_bytes) {
  if (path == "-") return read_descriptor(STDIN_FILENO, "standard input", max_bytes);
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);  // pipes too: <(command)
  if (fd < 0) return system_error("open", path, errno);
  Result<std::string> text = read_descriptor(fd, path, max_bytes);
  ::close(fd);
  return text;
}

std::string valid_utf8(std::string_view text) {
  const std::string quoted =
      nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  return nlohmann::json::parse(quoted, nullptr, false).get<std::string>();
}

Result<ordered_json> parse_document(std::string_view text, const std::string& origin) {
  ordered_json document = parse_ordered_json(text);
  if (!document.is_discarded()) return document;
  return invalid(fmt::format("{} is not valid JSON, or nests too deep; check it with a JSON tool", origin));
}

Result<ordered_json> read_json(const std::string& path) {
  MOEBIUS_ASSIGN(const std::string text, read_input(path));
  return parse_document(text, path == "-" ? "standard input" : fmt::format("'{}'", printable(path)));
}

std::string to_text(const ordered_json& value, int indent) {
  return value.dump(indent, ' ', false, ordered_json::error_handler_t::replace);
}

Result<std::vector<int32_t>> parse_ids(std::string_view text, const std::string& origin) {
  constexpr std::string_view kSeparators = " \t\r\n,";
  const size_t start = text.find_first_not_of(kSeparators);
  if (start == std::string_view::npos) return std::vector<int32_t>{};
  if (text[start] == '[' || text[start] == '{') return ids_of_json(text, origin);
  std::vector<int32_t> ids;
  for (size_t at = start; at < text.size(); at = text.find_first_not_of(kSeparators, at)) {
    const size_t end = std::min(text.find_first_of(kSeparators, at), text.size());
    int32_t id = 0;
    const auto [stop, error] = std::from_chars(text.data() + at, text.data() + end, id);
    if (error != std::errc() || stop != text.data() + end || id < 0) {
      return invalid(fmt::format("'{}' in {} is not a token id; ids are whole numbers from 0 on",
                                 printable(text.substr(at, end - at), 40), origin));
    }
    ids.push_back(id);
    at = end;
  }
  return ids;
}

Status check_ids(const std::vector<int32_t>& ids, int64_t vocab) {
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] < 0 || ids[i] >= vocab) {
      return invalid(fmt::format("id {} at position {} is out of range; this model has the ids 0 to {}",
                                 ids[i], i, vocab - 1));
    }
  }
  return {};
}

int print_output(std::string_view text) {
  const bool written = std::fwrite(text.data(), 1, text.size(), stdout) == text.size();
  if (written && std::fflush(stdout) == 0) return 0;
  return fail(system_error("write to", "standard output", errno));
}

}  // namespace moebius
