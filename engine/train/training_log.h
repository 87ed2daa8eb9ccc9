// TrainingLog: the course of a training run as CSV, one row a step.
//
// The first line names the columns; a cell is empty where nothing was measured, and a log that was begun
// before there were all of them has the first ones. Every row is handed to the
// operating system before append() returns, so that a crash loses none and `tail -f` shows them at once.
#pragma once

#include <cstdint>
#include <limits>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "kernels/status.h"

namespace moebius {

inline constexpr double kNotMeasured = std::numeric_limits<double>::quiet_NaN();

struct TrainingRow {
  int64_t step = 0;                 // counted from 1
  int64_t tokens = 0;               // trained on up to and with this step
  double seconds = 0;               // of training up to here, over all runs
  double loss = kNotMeasured;       // mean over the step's targets, before the step
  double lr = kNotMeasured;         // of the step
  double grad_norm = kNotMeasured;  // before clipping
  double tokens_per_s = kNotMeasured;
  double eval_loss = kNotMeasured;    // mean over the evaluation set's targets, after the step
  double expert_load = kNotMeasured;  // of the fullest expert of any layer, over the mean: 1 is balanced
  double max_logit = kNotMeasured;    // largest attention logit of any head
  double accuracy = kNotMeasured;     // as loss: the part of the targets that was the likeliest token
  double eval_accuracy = kNotMeasured;
  double zero_rate = kNotMeasured;    // share of expert slots that chose zero experts
};

class TrainingLog {
 public:
  // Opens path to go on after step `after`: rows of later steps and a last line without its end are removed,
  // atomically; 0 begins a new log. kInvalid where the file is something else, which is left as it is.
  static Result<std::unique_ptr<TrainingLog>> open(const std::string& path, int64_t after);
  ~TrainingLog();
  TrainingLog(const TrainingLog&) = delete;
  TrainingLog& operator=(const TrainingLog&) = delete;

  // row.step: above the last row's. kIo where it cannot be written.
  Status append(const TrainingRow& row);
  std::span<const TrainingRow> rows() const { return rows_; }  // those kept at open() too

 private:
  TrainingLog() = default;
  std::string path_;
  int fd_ = -1;
  std::vector<TrainingRow> rows_;
};

// The rows that were appended since the last call, of a log that a running TrainingLog writes. offset: where
// that call ended, 0 at first.
Result<std::vector<TrainingRow>> read_new_rows(const std::string& path, int64_t& offset);

// The rows of a log; a last line without its end is left out. kInvalid names the line that is wrong.
Result<std::vector<TrainingRow>> read_training_log(const std::string& path);

}  // namespace moebius
