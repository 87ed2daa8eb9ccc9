// Batches: in which order a model sees the examples of a dataset, and which of them lie in one micro-batch.
//
// Everything is a pure function of the dataset, the options and a BatchPosition, in integers only: a run that
// is resumed from a saved position gets the batches it would have had, on any machine.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "engine/train/dataset.h"

namespace moebius {

// The next example to take: index in the order of an epoch, from 0.
struct BatchPosition {
  int64_t epoch = 0;
  int64_t index = 0;
  bool operator==(const BatchPosition&) const = default;
};

// Whole examples one after another, nothing padded. An example of m tokens gives m - 1 rows, since its last
// token predicts nothing.
struct MicroBatch {
  std::vector<int32_t> ids;      // [rows]
  std::vector<int32_t> targets;  // [rows], the id to predict at a row, or -1
  std::vector<float> weights;    // [rows], 1 where there is a target, else 0
  std::vector<int64_t> starts;   // [examples + 1]: example i is rows [starts[i], starts[i + 1])
  int64_t counted = 0;           // rows with a target
  std::vector<int32_t> routing;  // as TrainBatch's; or empty
  // What the step reports in place of the sum of weighted losses, where that says nothing (weights that are
  // advantages).
  std::optional<double> reported;
};

struct BatchOptions {
  uint64_t seed = 0;
  bool shuffle = true;        // each epoch in an order of its own; false: always as listed
  int64_t max_rows = 0;       // of a micro-batch
  int64_t micro_batches = 1;  // of a step
  int64_t examples = 0;       // of a step, in as many micro-batches as they need; 0: what micro_batches hold
};

// Where the steps of a run come from.
class StepSource {
 public:
  virtual ~StepSource() = default;
  // The micro-batches of the step from position on, which moves past them. The same for the same position and
  // the same weights of the model.
  virtual Result<std::vector<MicroBatch>> next(BatchPosition& position) = 0;
};

class Batches final : public StepSource {
 public:
  // examples: indices into the dataset, which must outlive this; those of one token are left out. kInvalid:
  // an example with more rows than max_rows, no example with a row, or options out of range.
  static Result<Batches> create(const Dataset& dataset, std::span<const int64_t> examples,
                                const BatchOptions& options);

  // The micro-batches of one step from position on, which moves past them. Each takes examples in order
  // until the next does not fit. A step ends with its epoch: its last micro-batch may then be small, and
  // there may be fewer of them. kInvalid: a position that no run has.
  Result<std::vector<MicroBatch>> next(BatchPosition& position) override;

  // How many steps the first epochs take.
  int64_t steps(int64_t epochs);
  int64_t examples() const { return static_cast<int64_t>(examples_.size()); }  // of an epoch

 private:
  Batches(const Dataset& dataset, const BatchOptions& options) : dataset_(&dataset), options_(options) {}
  const std::vector<int64_t>& order_of(int64_t epoch);
  // One past the last example of the micro-batch that begins at index, where its step ends before `limit`.
  int64_t end_of(const std::vector<int64_t>& order, int64_t index, int64_t limit) const;
  // One past the last example that a step which begins at index may take.
  int64_t limit_of(int64_t index) const;
  MicroBatch build(std::span<const int64_t> examples) const;

  const Dataset* dataset_;
  BatchOptions options_;
  std::vector<int64_t> examples_;
  std::vector<int64_t> order_;  // of order_epoch_
  int64_t order_epoch_ = -1;
};

// The order of an epoch: the same for the same seed and epoch on any machine.
void shuffle_for_epoch(std::vector<int64_t>& values, uint64_t seed, int64_t epoch);

// Indices of a dataset of `size` examples in ascending order: `evaluation` of them drawn by the seed, at most
// half, and the rest.
struct DatasetSplit {
  std::vector<int64_t> training, evaluation;
};
DatasetSplit split_dataset(int64_t size, int64_t evaluation, uint64_t seed);

}  // namespace moebius
