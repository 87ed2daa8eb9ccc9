#include "engine/train/batches.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <utility>

#include <fmt/format.h>

namespace moebius {
namespace {

// SplitMix64 (Steele, Lea, Flood, OOPSLA 2014).
class Random {
 public:
  explicit Random(uint64_t state) : state_(state) {}
  uint64_t next() {
    uint64_t value = state_ += 0x9e3779b97f4a7c15u;
    value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9u;
    value = (value ^ (value >> 27)) * 0x94d049bb133111ebu;
    return value ^ (value >> 31);
  }
  // Uniform in [0, bound): draws from the incomplete last range are thrown away.
  uint64_t below(uint64_t bound) {
    const uint64_t limit = std::numeric_limits<uint64_t>::max() / bound * bound;
    uint64_t value = next();
    while (value >= limit) value = next();
    return value % bound;
  }

 private:
  uint64_t state_;
};

void shuffle(std::vector<int64_t>& values, Random random) {  // Fisher-Yates
  for (size_t i = values.size(); i > 1; --i) std::swap(values[i - 1], values[random.below(i)]);
}

// Seeds that differ in one bit must not give orders that are alike.
Random stream(uint64_t seed, uint64_t number) { return Random(Random(seed).next() ^ Random(~number).next()); }

}  // namespace

void shuffle_for_epoch(std::vector<int64_t>& values, uint64_t seed, int64_t epoch) {
  shuffle(values, stream(seed, static_cast<uint64_t>(epoch)));
}

Result<Batches> Batches::create(const Dataset& dataset, std::span<const int64_t> examples,
                                const BatchOptions& options) {
  constexpr int64_t kMaxRows = std::numeric_limits<int32_t>::max();
  if (options.max_rows < 1 || options.max_rows > kMaxRows) {
    return invalid(fmt::format("a micro-batch of {} rows; 1 to {} are allowed", options.max_rows, kMaxRows));
  }
  if (options.micro_batches < 1) {
    return invalid(fmt::format("{} micro-batches a step; at least 1 is needed", options.micro_batches));
  }
  if (options.examples < 0) return invalid(fmt::format("a step of {} examples", options.examples));
  Batches out(dataset, options);
  for (const int64_t index : examples) {
    if (index < 0 || index >= dataset.size()) {
      return invalid(fmt::format("example {} of a dataset of {}", index, dataset.size()));
    }
    const int64_t rows = dataset.tokens_of(index) - 1;
    if (rows > options.max_rows) {
      return invalid(
          fmt::format("example {} takes {} rows but a micro-batch has {}; raise that, or cut the examples",
                      index, rows, options.max_rows));
    }
    if (rows > 0) out.examples_.push_back(index);
  }
  if (out.examples_.empty()) return invalid("no example of at least two tokens; add data");
  return out;
}

const std::vector<int64_t>& Batches::order_of(int64_t epoch) {
  if (!options_.shuffle) return examples_;
  if (order_epoch_ != epoch) {
    order_ = examples_;
    shuffle_for_epoch(order_, options_.seed, epoch);
    order_epoch_ = epoch;
  }
  return order_;
}

int64_t Batches::limit_of(int64_t index) const {
  return options_.examples > 0 ? std::min(examples(), index + options_.examples) : examples();
}

int64_t Batches::end_of(const std::vector<int64_t>& order, int64_t index, int64_t limit) const {
  int64_t rows = 0;
  while (index < limit) {
    rows += dataset_->tokens_of(order[static_cast<size_t>(index)]) - 1;
    if (rows > options_.max_rows) break;
    ++index;
  }
  return index;
}

MicroBatch Batches::build(std::span<const int64_t> examples) const {
  MicroBatch out;
  out.starts.push_back(0);
  for (const int64_t index : examples) {
    const Dataset::Example example = dataset_->example(index);
    for (size_t i = 1; i < example.ids.size(); ++i) {
      const bool counts = example.mask[i] != 0;
      out.ids.push_back(example.ids[i - 1]);
      out.targets.push_back(counts ? example.ids[i] : -1);
      out.weights.push_back(counts ? 1.0f : 0.0f);
      out.counted += counts;
    }
    out.starts.push_back(static_cast<int64_t>(out.ids.size()));
  }
  return out;
}

Result<std::vector<MicroBatch>> Batches::next(BatchPosition& position) {
  if (position.epoch < 0 || position.epoch == std::numeric_limits<int64_t>::max() || position.index < 0 ||
      position.index >= examples()) {
    return invalid(
        fmt::format("position {} of epoch {} is outside this dataset of {} examples; resume with "
                    "the dataset that the run began with",
                    position.index, position.epoch, examples()));
  }
  const std::vector<int64_t>& order = order_of(position.epoch);
  std::vector<MicroBatch> step;
  int64_t index = position.index;
  const int64_t limit = limit_of(index);
  const int64_t most = options_.examples > 0 ? limit : options_.micro_batches;
  while (index < limit && static_cast<int64_t>(step.size()) < most) {
    const int64_t end = end_of(order, index, limit);
    step.push_back(
        build(std::span(order).subspan(static_cast<size_t>(index), static_cast<size_t>(end - index))));
    index = end;
  }
  position = index < examples() ? BatchPosition{position.epoch, index} : BatchPosition{position.epoch + 1, 0};
  return step;
}

int64_t Batches::steps(int64_t epochs) {
  if (options_.examples > 0) return epochs * ((examples() + options_.examples - 1) / options_.examples);
  int64_t total = 0;
  for (int64_t epoch = 0; epoch < epochs; ++epoch) {
    const std::vector<int64_t>& order = order_of(epoch);
    int64_t micro_batches = 0;
    for (int64_t index = 0; index < examples(); index = end_of(order, index, examples())) ++micro_batches;
    total += (micro_batches + options_.micro_batches - 1) / options_.micro_batches;
  }
  return total;
}

DatasetSplit split_dataset(int64_t size, int64_t evaluation, uint64_t seed) {
  std::vector<int64_t> order(static_cast<size_t>(size));
  std::iota(order.begin(), order.end(), int64_t{0});
  shuffle(order, stream(seed, std::numeric_limits<uint64_t>::max()));
  const auto middle = order.begin() + static_cast<ptrdiff_t>(std::clamp<int64_t>(evaluation, 0, size / 2));
  DatasetSplit out{{middle, order.end()}, {order.begin(), middle}};
  std::sort(out.training.begin(), out.training.end());
  std::sort(out.evaluation.begin(), out.evaluation.end());
  return out;
}

}  // namespace moebius
