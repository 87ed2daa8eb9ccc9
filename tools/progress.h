// ProgressBar: one line on stderr for long work, shown only on a terminal and wiped at the end.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace moebius {

class ProgressBar {
 public:
  explicit ProgressBar(std::string label);
  ~ProgressBar();
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;

  void update(int64_t done, int64_t total);  // redraws at most ten times a second
  void clear();                              // wipes the line, before other output

 private:
  std::string label_;
  bool terminal_;
  bool shown_ = false;
  std::chrono::steady_clock::time_point start_, drawn_;
};

}  // namespace moebius
