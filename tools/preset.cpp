#include "tools/preset.h"

#include <algorithm>
#include <fstream>

#include <fmt/format.h>

namespace moebius {

namespace {

constexpr size_t kMostBytes = 1 << 20;

std::string trim(const std::string& text) {
  const size_t begin = text.find_first_not_of(" \t\r");
  if (begin == std::string::npos) return {};
  return text.substr(begin, text.find_last_not_of(" \t\r") - begin + 1);
}

class PresetReader {
 public:
  explicit PresetReader(const std::string& path) : path_(path) {}

  Status take(const std::string& raw) {
    ++line_;
    const std::string text = trim(raw);
    if (text.empty() || text[0] == '#' || text[0] == ';') return {};
    return text[0] == '[' ? begin_section(text) : add_entry(text);
  }
  Status end() const {
    return version_ ? Status() : invalid(path_ + ": has no `version = 1` before its first section");
  }
  std::vector<PresetSection> sections;

 private:
  Status wrong(const std::string& what) const {
    return invalid(fmt::format("{}:{}: {}", path_, line_, what));
  }

  Status begin_section(const std::string& text) {
    const std::string name = text.back() == ']' ? trim(text.substr(1, text.size() - 2)) : "";
    if (name.empty()) return wrong("a section is written [NAME]");
    for (const PresetSection& other : sections)
      if (other.name == name) return wrong(fmt::format("section [{}] stands there twice", name));
    sections.push_back({name, {}});
    return {};
  }

  Status add_entry(const std::string& text) {
    const size_t equals = text.find('=');
    const std::string key = trim(text.substr(0, equals));
    if (equals == std::string::npos || key.empty()) return wrong("expected KEY = VALUE or [SECTION]");
    const std::string value = trim(text.substr(equals + 1));
    if (sections.empty()) {
      if (key != "version") return wrong(fmt::format("`{}` stands before any section; put it into [*]", key));
      if (value != "1") return wrong(fmt::format("version {} is not known here; 1 is", value));
      version_ = true;
      return {};
    }
    sections.back().entries.push_back({key, value, line_});
    return {};
  }

  const std::string path_;
  int line_ = 0;
  bool version_ = false;
};

}  // namespace

Result<std::vector<PresetSection>> read_preset(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return io_error(path + ": cannot be read; check the path given to --preset");
  PresetReader reader(path);
  std::string line;
  size_t bytes = 0;
  while (std::getline(file, line)) {
    if ((bytes += line.size() + 1) > kMostBytes)
      return invalid(fmt::format("{}: larger than {} bytes, which no preset is", path, kMostBytes));
    if (const Status status = reader.take(line); !status.ok()) return status;
  }
  if (const Status status = reader.end(); !status.ok()) return status;
  return std::move(reader.sections);
}

}  // namespace moebius
