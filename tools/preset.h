// Reading a preset file; see tools/settings.h.
#pragma once

#include <string>
#include <vector>

#include "kernels/status.h"

namespace moebius {

struct PresetEntry {
  std::string key, value;
  int line = 0;
};

struct PresetSection {
  std::string name;
  std::vector<PresetEntry> entries;
};

// kIo: the file cannot be read. kInvalid names the file and the line: not an INI file, another version, a
// section or key twice.
Result<std::vector<PresetSection>> read_preset(const std::string& path);

}  // namespace moebius
