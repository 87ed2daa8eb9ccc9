// What long work shows on stderr: ProgressBar, and TrainingProgress for runs of hours.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>

namespace moebius {

// One line, shown only on a terminal and wiped at the end.
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

// On a terminal one line, as wide as that allows:
//   train 1200/9000 [####......] loss 0.412  8.1k tok/s  ETA 41:10
// elsewhere, as in the log file of a long run, such a line (13.3 % in place of the bar) for the first step,
// then every plain_every, and for the last step. Loss and speed are means that favour the last ten or so
// steps.
class TrainingProgress {
 public:
  explicit TrainingProgress(std::string label, std::chrono::seconds plain_every = std::chrono::seconds(30));
  ~TrainingProgress();
  TrainingProgress(const TrainingProgress&) = delete;
  TrainingProgress& operator=(const TrainingProgress&) = delete;

  // After a step, counted from 1 to total; the first one may be any where a run is resumed. The time left is
  // reckoned from the time since this object was made, evaluations and checkpoints included.
  void update(int64_t step, int64_t total, double loss, double tokens_per_s);
  void note(std::string_view line);  // a line of its own above the bar: an evaluation, a checkpoint
  void clear();                      // wipes the bar, before other output

 private:
  using Clock = std::chrono::steady_clock;

  std::string label_;
  bool terminal_;
  bool shown_ = false;
  std::chrono::seconds plain_every_;
  Clock::time_point start_, drawn_;
  int64_t steps_ = 0;  // updates
  double weight_ = 0, loss_ = 0, tokens_per_s_ = 0;
};

}  // namespace moebius
