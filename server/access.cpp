#include "server/access.h"

#include <algorithm>
#include <cctype>
#include <fstream>

#include <fmt/format.h>

#include "server/request_head.h"

namespace moebius {

namespace {

constexpr size_t kMaxKeyFile = 1 << 20;

bool all_digits(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](unsigned char c) { return std::isdigit(c); });
}

// "name:80" and "[::1]:80" without their port; "" where the port is malformed.
std::string_view without_port(std::string_view host) {
  const size_t from = host.starts_with('[') ? host.find(']') : 0;
  if (from == std::string_view::npos) return {};
  const size_t colon = host.find(':', from);
  if (colon == std::string_view::npos) return from == 0 || from + 1 == host.size() ? host : "";
  const std::string_view port = host.substr(colon + 1);
  if (port.size() > 5 || !all_digits(port) || (from != 0 && colon != from + 1)) return {};
  return host.substr(0, colon);
}

std::string_view without_spaces(std::string_view text) {
  const auto space = [](char c) { return c == ' ' || c == '\t' || c == '\r'; };
  while (!text.empty() && space(text.front())) text.remove_prefix(1);
  while (!text.empty() && space(text.back())) text.remove_suffix(1);
  return text;
}

}  // namespace

Result<std::vector<std::string>> read_key_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return io_error(fmt::format("{}: cannot be read; check the path given to --api-key-file", path));
  std::vector<std::string> keys;
  std::string line;
  size_t bytes = 0;
  while (std::getline(file, line)) {
    if ((bytes += line.size() + 1) > kMaxKeyFile) {
      return invalid(fmt::format("{}: larger than {} bytes, which no file of keys is", path, kMaxKeyFile));
    }
    const std::string_view key = without_spaces(line);
    if (key.empty() || key.starts_with('#')) continue;
    if (!std::all_of(key.begin(), key.end(), [](char c) { return c > ' ' && c <= '~'; })) {
      return invalid(fmt::format("{}: a key may hold printable ASCII without spaces only", path));
    }
    keys.emplace_back(key);
  }
  if (keys.empty()) return invalid(fmt::format("{}: holds no key; write one per line", path));
  return keys;
}

std::string_view bearer_token(std::string_view authorization) {
  constexpr std::string_view kScheme = "bearer ";
  if (authorization.size() <= kScheme.size()) return {};
  if (!same_name(authorization.substr(0, kScheme.size()), kScheme)) return {};
  return without_spaces(authorization.substr(kScheme.size()));
}

bool is_loopback(std::string_view host) {
  if (same_name(host, "localhost") || host == "::1" || host == "[::1]") return true;
  if (!host.starts_with("127.")) return false;
  int dots = 0;
  size_t digits = 0;
  for (const char c : host) {
    if (c == '.' ? digits == 0 : !std::isdigit(static_cast<unsigned char>(c))) return false;
    dots += c == '.';
    digits = c == '.' ? 0 : digits + 1;
    if (digits > 3) return false;
  }
  return dots == 3 && digits > 0;
}

bool host_allowed(std::string_view host, const std::vector<std::string>& more) {
  const std::string_view name = without_port(host);
  if (name.empty()) return false;
  if (is_loopback(name)) return true;
  return std::any_of(more.begin(), more.end(), [&](const std::string& allowed) {
    return same_name(allowed, name) || same_name(allowed, host);
  });
}

bool origin_allowed(std::string_view origin, const std::vector<std::string>& more) {
  for (const std::string_view scheme : {"http://", "https://"}) {
    if (origin.starts_with(scheme)) return host_allowed(origin.substr(scheme.size()), more);
  }
  return false;
}

}  // namespace moebius
