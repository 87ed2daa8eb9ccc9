// The order and packing of training examples.
#include "engine/train/batches.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <set>

namespace moebius {
namespace {

// Example i has lengths[i] tokens, each of them i * 1000 + its position; every third does not count.
Dataset dataset_of(const std::vector<int64_t>& lengths) {
  Dataset dataset;
  for (size_t i = 0; i < lengths.size(); ++i) {
    std::vector<int32_t> ids;
    std::vector<uint8_t> mask;
    for (int32_t at = 0; at < lengths[i]; ++at) {
      ids.push_back(static_cast<int32_t>(i) * 1000 + at);
      mask.push_back(at % 3 != 0);
    }
    dataset.add(ids, mask);
  }
  return dataset;
}

std::vector<int64_t> all_of(const Dataset& dataset) {
  std::vector<int64_t> indices(static_cast<size_t>(dataset.size()));
  std::iota(indices.begin(), indices.end(), int64_t{0});
  return indices;
}

Batches batches_of(const Dataset& dataset, const BatchOptions& options) {
  auto batches = Batches::create(dataset, all_of(dataset), options);
  EXPECT_TRUE(batches.ok()) << batches.status().message();
  return std::move(*batches);
}

std::vector<MicroBatch> next(Batches& batches, BatchPosition& position) {
  auto step = batches.next(position);
  EXPECT_TRUE(step.ok()) << step.status().message();
  return step.ok() ? std::move(*step) : std::vector<MicroBatch>{};
}

// The examples of a micro-batch, by their first ids.
std::vector<int64_t> examples_in(const MicroBatch& batch) {
  std::vector<int64_t> out;
  for (size_t i = 0; i + 1 < batch.starts.size(); ++i) {
    out.push_back(batch.ids[static_cast<size_t>(batch.starts[i])] / 1000);
  }
  return out;
}

// Steps of a number of examples, whatever they take: each epoch whole, the last step of it with the rest.
TEST(Batches, TakesAsManyExamplesAsAreAskedFor) {
  const Dataset dataset = dataset_of({5, 9, 3, 7, 2, 8, 6, 4, 9, 5, 3});
  for (const int64_t examples : {1, 4, 11, 50}) {
    const BatchOptions options{.seed = 5, .max_rows = 12, .examples = examples};
    Batches batches = batches_of(dataset, options);
    BatchPosition position;
    for (int64_t epoch = 0; epoch < 2; ++epoch) {
      std::vector<int64_t> seen;
      int64_t steps = 0;
      for (; position.epoch == epoch; ++steps) {
        const size_t before = seen.size();
        for (const MicroBatch& micro : next(batches, position)) {
          EXPECT_LE(std::ssize(micro.ids), options.max_rows);
          for (const int64_t example : examples_in(micro)) seen.push_back(example);
        }
        EXPECT_EQ(seen.size() - before, std::min<size_t>(static_cast<size_t>(examples), 11 - before));
      }
      EXPECT_EQ(steps * 2, batches.steps(2));
      std::sort(seen.begin(), seen.end());
      EXPECT_EQ(seen, all_of(dataset));
    }
  }
}

std::vector<int64_t> lengths_of(size_t count) {
  std::vector<int64_t> lengths(count);
  for (size_t i = 0; i < count; ++i) lengths[i] = 2 + static_cast<int64_t>(i * 7 % 13);
  return lengths;
}

TEST(Batches, RowsOfAMicroBatch) {
  Dataset dataset;
  dataset.add(std::vector<int32_t>{5, 6, 7, 8}, std::vector<uint8_t>{0, 0, 1, 1});
  dataset.add(std::vector<int32_t>{9}, std::vector<uint8_t>{0});
  dataset.add(std::vector<int32_t>{10, 11, 12}, std::vector<uint8_t>{1, 1, 0});
  Batches batches = batches_of(dataset, {.shuffle = false, .max_rows = 5});
  EXPECT_EQ(batches.examples(), 2);
  BatchPosition position;
  const std::vector<MicroBatch> step = next(batches, position);
  ASSERT_EQ(step.size(), 1u);
  EXPECT_EQ(step[0].ids, (std::vector<int32_t>{5, 6, 7, 10, 11}));
  EXPECT_EQ(step[0].targets, (std::vector<int32_t>{-1, 7, 8, 11, -1}));
  EXPECT_EQ(step[0].weights, (std::vector<float>{0, 1, 1, 1, 0}));
  EXPECT_EQ(step[0].starts, (std::vector<int64_t>{0, 3, 5}));
  EXPECT_EQ(step[0].counted, 3);
  EXPECT_EQ(position, (BatchPosition{1, 0}));
}

TEST(Batches, FillWithoutSplitting) {
  const Dataset dataset = dataset_of({4, 4, 6, 11, 2, 2, 2});  // rows 3 3 5 10 1 1 1
  Batches batches = batches_of(dataset, {.shuffle = false, .max_rows = 10, .micro_batches = 2});
  BatchPosition position;
  std::vector<MicroBatch> step = next(batches, position);
  ASSERT_EQ(step.size(), 2u);
  EXPECT_EQ(examples_in(step[0]), (std::vector<int64_t>{0, 1}));
  EXPECT_EQ(examples_in(step[1]), (std::vector<int64_t>{2}));
  EXPECT_EQ(position, (BatchPosition{0, 3}));
  step = next(batches, position);
  ASSERT_EQ(step.size(), 2u);
  EXPECT_EQ(examples_in(step[0]), (std::vector<int64_t>{3}));
  EXPECT_EQ(examples_in(step[1]), (std::vector<int64_t>{4, 5, 6}));
  EXPECT_EQ(position, (BatchPosition{1, 0}));
  EXPECT_EQ(batches.steps(1), 2);
  EXPECT_EQ(batches.steps(5), 10);
  EXPECT_EQ(batches.steps(0), 0);
}

TEST(Batches, AnEpochHasEveryExampleOnceInAnOrderOfItsOwn) {
  const Dataset dataset = dataset_of(lengths_of(200));
  Batches batches = batches_of(dataset, {.seed = 3, .max_rows = 40, .micro_batches = 3});
  BatchPosition position;
  std::set<std::vector<int64_t>> orders;
  int64_t steps = 0;
  for (int64_t epoch = 0; epoch < 5; ++epoch) {
    std::vector<int64_t> order;
    while (position.epoch == epoch) {
      ++steps;
      for (const MicroBatch& batch : next(batches, position)) {
        EXPECT_LE(batch.ids.size(), 40u);
        for (const int64_t example : examples_in(batch)) order.push_back(example);
      }
    }
    EXPECT_TRUE(orders.insert(order).second) << "each epoch has another order";
    std::sort(order.begin(), order.end());
    EXPECT_EQ(order, all_of(dataset));
  }
  EXPECT_EQ(batches.steps(5), steps);
}

TEST(Batches, ResumeAnywhere) {
  const Dataset dataset = dataset_of(lengths_of(60));
  const BatchOptions options{.seed = 11, .max_rows = 30, .micro_batches = 2};
  Batches straight = batches_of(dataset, options);
  BatchPosition position;
  for (int step = 0; step < 30; ++step) {
    BatchPosition saved = position;
    const std::vector<MicroBatch> expected = next(straight, position);
    Batches fresh = batches_of(dataset, options);
    const std::vector<MicroBatch> resumed = next(fresh, saved);
    EXPECT_EQ(saved, position);
    ASSERT_EQ(resumed.size(), expected.size());
    for (size_t i = 0; i < resumed.size(); ++i) {
      EXPECT_EQ(resumed[i].ids, expected[i].ids);
      EXPECT_EQ(resumed[i].targets, expected[i].targets);
      EXPECT_EQ(resumed[i].weights, expected[i].weights);
      EXPECT_EQ(resumed[i].starts, expected[i].starts);
    }
  }
  EXPECT_GT(position.epoch, 0);
}

// By a separate program of the same rule. A change of the order would break every run that is to be resumed.
TEST(Batches, TheOrderIsTheSameEverywhere) {
  const Dataset dataset = dataset_of(std::vector<int64_t>(10, 2));
  Batches batches = batches_of(dataset, {.seed = 42, .max_rows = 10});
  BatchPosition position{1, 0};
  EXPECT_EQ(examples_in(next(batches, position)[0]), (std::vector<int64_t>{8, 0, 6, 9, 3, 1, 5, 7, 4, 2}));
}

TEST(Batches, OrdersAreUniform) {
  const Dataset dataset = dataset_of({2, 2, 2, 2});
  std::map<std::vector<int64_t>, int> seen;
  Batches batches = batches_of(dataset, {.seed = 5, .max_rows = 4});
  constexpr int kEpochs = 24'000;
  BatchPosition position;
  while (position.epoch < kEpochs) ++seen[examples_in(next(batches, position)[0])];
  ASSERT_EQ(seen.size(), 24u);
  double chi = 0;
  for (const auto& [order, count] : seen) chi += (count - 1000.0) * (count - 1000.0) / 1000.0;
  EXPECT_LT(chi, 49.7) << "the 0.999 quantile of chi squared with 23 degrees of freedom";
}

TEST(Batches, SeedsGiveOtherOrders) {
  const Dataset dataset = dataset_of(lengths_of(50));
  std::set<std::vector<int32_t>> seen;
  for (uint64_t seed = 0; seed < 20; ++seed) {
    Batches batches = batches_of(dataset, {.seed = seed, .max_rows = 1000});
    for (int64_t epoch = 0; epoch < 20; ++epoch) {
      BatchPosition position{epoch, 0};
      EXPECT_TRUE(seen.insert(next(batches, position)[0].ids).second) << seed << ", " << epoch;
    }
  }
}

TEST(Batches, RefuseWhatCannotBe) {
  const Dataset dataset = dataset_of({4, 12, 1});
  const auto error = [&](std::vector<int64_t> examples, const BatchOptions& options) {
    const auto batches = Batches::create(dataset, examples, options);
    return batches.ok() ? "" : batches.status().message();
  };
  EXPECT_EQ(error({0, 1, 2}, {.max_rows = 11}), "");
  EXPECT_EQ(error({0, 1}, {.max_rows = 10}),
            "example 1 takes 11 rows but a micro-batch has 10; raise that, or cut the examples");
  EXPECT_EQ(error({0}, {.max_rows = 10}), "");
  EXPECT_EQ(error({2}, {.max_rows = 10}), "no example of at least two tokens; add data");
  EXPECT_EQ(error({}, {.max_rows = 10}), "no example of at least two tokens; add data");
  EXPECT_EQ(error({3}, {.max_rows = 11}), "example 3 of a dataset of 3");
  EXPECT_EQ(error({0}, {.max_rows = 0}), "a micro-batch of 0 rows; 1 to 2147483647 are allowed");
  EXPECT_EQ(error({0}, {.max_rows = 11, .micro_batches = 0}), "0 micro-batches a step; at least 1 is needed");
  Batches batches = batches_of(dataset, {.max_rows = 11});
  for (const BatchPosition bad :
       {BatchPosition{0, 2}, BatchPosition{0, -1}, BatchPosition{-1, 0}, BatchPosition{INT64_MAX, 0}}) {
    BatchPosition position = bad;
    EXPECT_EQ(batches.next(position).status().code(), Code::kInvalid);
    EXPECT_EQ(position, bad);
  }
}

TEST(DatasetSplit, IsAPartition) {
  const DatasetSplit split = split_dataset(1000, 50, 7);
  EXPECT_EQ(split.evaluation.size(), 50u);
  EXPECT_TRUE(std::is_sorted(split.training.begin(), split.training.end()));
  EXPECT_TRUE(std::is_sorted(split.evaluation.begin(), split.evaluation.end()));
  std::vector<int64_t> all = split.training;
  all.insert(all.end(), split.evaluation.begin(), split.evaluation.end());
  std::sort(all.begin(), all.end());
  for (int64_t i = 0; i < 1000; ++i) ASSERT_EQ(all[static_cast<size_t>(i)], i);
  EXPECT_EQ(split_dataset(1000, 50, 7).evaluation, split.evaluation);
  EXPECT_NE(split_dataset(1000, 50, 8).evaluation, split.evaluation);
  EXPECT_NE(split.evaluation.back(), 49) << "not simply the first";
  EXPECT_TRUE(split_dataset(10, 0, 0).evaluation.empty());
  EXPECT_EQ(split_dataset(3, 100, 0).evaluation.size(), 1u);
  EXPECT_EQ(split_dataset(1, 1, 0).training.size(), 1u);
  EXPECT_TRUE(split_dataset(0, 1, 0).training.empty());
}

}  // namespace
}  // namespace moebius
