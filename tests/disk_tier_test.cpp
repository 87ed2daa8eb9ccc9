// Experts on disk: what is asked for comes into memory by itself, what is given up leaves it; and a model
// that is said to be larger than the memory answers as ever.
#include <gtest/gtest.h>

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <thread>

#include "engine/disk_tier.h"
#include "tests/device_models.h"

namespace moebius {
namespace {

constexpr int64_t kLayers = 3, kExperts = 4, kMatrixBytes = 256 << 10;

// Three layers of four experts of three matrices each in a mapped file, of which no page is in memory; the
// first layer is dense.
class MappedExperts {
 public:
  MappedExperts() {
    const size_t bytes = kLayers * kExperts * 3 * kMatrixBytes;
    std::string path = testing::TempDir() + "experts-XXXXXX";
    file_ = mkstemp(path.data());
    unlink(path.c_str());
    const std::string zeros(bytes, '\1');
    MOEBIUS_CHECK(write(file_, zeros.data(), bytes) == static_cast<ssize_t>(bytes) && fsync(file_) == 0);
    bytes_ = bytes;
    base_ = static_cast<char*>(mmap(nullptr, bytes, PROT_READ, MAP_SHARED, file_, 0));
    MOEBIUS_CHECK(base_ != MAP_FAILED);
    madvise(base_, bytes, MADV_RANDOM);  // nothing is read ahead that was not asked for
    weights.layers.resize(kLayers);
    char* at = base_;
    for (LayerWeights& layer : weights.layers) {
      layer.experts.resize(&layer == &weights.layers[0] ? 0 : kExperts);
      for (ExpertWeights& e : layer.experts)
        for (Matrix* w : {&e.gate, &e.up, &e.down}) {
          w->format = Format::kBF16, w->rows = 256, w->cols = 512, w->data = at;
          at += kMatrixBytes;
        }
    }
    forget();
  }
  ~MappedExperts() {
    munmap(base_, bytes_);
    close(file_);
  }
  void forget() const { posix_fadvise(file_, 0, 0, POSIX_FADV_DONTNEED); }

  // Of its pages.
  double share_in_memory(int64_t layer, int64_t expert) const {
    const ExpertWeights& e = weights.layers[static_cast<size_t>(layer)].experts[static_cast<size_t>(expert)];
    const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    std::vector<unsigned char> there(3 * kMatrixBytes / page);
    MOEBIUS_CHECK(mincore(const_cast<void*>(e.gate.data), 3 * kMatrixBytes, there.data()) == 0);
    return static_cast<double>(std::ranges::count_if(there, [](unsigned char p) { return p & 1; })) /
           static_cast<double>(there.size());
  }
  bool comes(int64_t layer, int64_t expert) const {
    for (int i = 0; i < 500 && share_in_memory(layer, expert) < 1; ++i)
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    return share_in_memory(layer, expert) == 1;
  }
  bool forgotten() const { return share_in_memory(1, 0) == 0 && share_in_memory(2, 3) == 0; }

  Weights weights;

 private:
  int file_ = -1;
  char* base_ = nullptr;
  size_t bytes_ = 0;
};

struct Ids {
  explicit Ids(std::vector<int32_t> of) : values(std::move(of)) {}
  Tensor tensor(int64_t tokens = 1) {
    return Tensor(values.data(), DType::kI32, {tokens, std::ssize(values) / tokens}, Space::kHost);
  }
  std::vector<int32_t> values;
};

#define SKIP_IF_NOT_FORGOTTEN(mapped) \
  if (!(mapped).forgotten()) GTEST_SKIP() << "skipped: this file system keeps its files in memory"

TEST(DiskTier, BringsWhatWasChosenAndWhatTheNextLayerChoseLast) {
  MappedExperts mapped;
  SKIP_IF_NOT_FORGOTTEN(mapped);
  DiskTier disk(mapped.weights);
  Ids first({2, -1, 2}), second({3, 1, -1});
  disk.chosen(2, first.tensor(), mapped.weights.layers[2].experts);
  EXPECT_TRUE(mapped.comes(2, 2));
  for (int64_t e : {0, 1, 3}) EXPECT_EQ(mapped.share_in_memory(2, e), 0) << e;
  mapped.forget();
  disk.chosen(1, second.tensor(), mapped.weights.layers[1].experts);
  EXPECT_TRUE(mapped.comes(1, 3));
  EXPECT_TRUE(mapped.comes(1, 1));
  EXPECT_TRUE(mapped.comes(2, 2)) << "the last choice of the layer that is next";
  EXPECT_EQ(mapped.share_in_memory(1, 0), 0);
  mapped.forget();
  disk.chosen(2, second.tensor(), mapped.weights.layers[2].experts);
  EXPECT_TRUE(mapped.comes(1, 1)) << "after the last layer comes the first that has experts";
}

TEST(DiskTier, LeavesOutWhatIsElsewhereAndTheChoicesOfManyTokens) {
  MappedExperts mapped;
  SKIP_IF_NOT_FORGOTTEN(mapped);
  DiskTier disk(mapped.weights);
  std::vector<ExpertWeights> here = mapped.weights.layers[2].experts;
  here[1] = ExpertWeights();
  Ids many(std::vector<int32_t>(34, 1)), few({0, 1});
  many.values[0] = 0;
  disk.chosen(2, many.tensor(17), here);
  EXPECT_TRUE(mapped.comes(2, 0));
  EXPECT_EQ(mapped.share_in_memory(2, 1), 0);
  mapped.forget();
  disk.chosen(1, few.tensor(), mapped.weights.layers[1].experts);
  EXPECT_TRUE(mapped.comes(1, 0));
  EXPECT_EQ(mapped.share_in_memory(2, 0), 0) << "of a prompt, the last choice says little";
}

TEST(DiskTier, GivesUpMemory) {
  MappedExperts mapped;
  SKIP_IF_NOT_FORGOTTEN(mapped);
  const ExpertWeights& expert = mapped.weights.layers[1].experts[1];
  int64_t sum = 0;  // read, as an upload reads it
  for (int64_t i = 0; i < 3 * kMatrixBytes; ++i) sum += static_cast<const char*>(expert.gate.data)[i];
  ASSERT_EQ(sum, 3 * kMatrixBytes);
  ASSERT_EQ(mapped.share_in_memory(1, 1), 1);
  give_up(expert);
  if (mapped.share_in_memory(1, 1) == 1) GTEST_SKIP() << "skipped: this system does not take MADV_PAGEOUT";
  // But for a page or two, of its 192, that the page cache holds in one piece with others.
  EXPECT_LE(mapped.share_in_memory(1, 1), 2.0 / 192);
}

TEST(DiskTier, AModelLargerThanTheMemoryAnswersAsEver) {
  for (const std::string model : {"deepseek_v3_int4", "qwen3_moe"}) {
    EngineOptions options = options_for(model);
    const std::vector<float> want = prompt_logits(*open(options));
    options.ram = 1;
    EXPECT_EQ(prompt_logits(*open(options)), want) << model;
    options.device = DeviceKind::kSim, options.speeds = speeds(1, 1);
    for (const double experts : {0.0, 0.5, 1.0}) {
      options.device_memory = budget(options, experts);
      const auto engine = open(options);
      EXPECT_EQ(engine->plan()->experts_on_disk > 0, experts < 1);
      EXPECT_EQ(engine->plan()->experts_released > 0, experts > 0);
      if (model != "deepseek_v3_int4") continue;  // sums of float formats depend on how tokens come together
      EXPECT_EQ(prompt_logits(*engine), want) << experts;
    }
  }
}

}  // namespace
}  // namespace moebius
