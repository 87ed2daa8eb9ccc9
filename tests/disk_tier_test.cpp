// Experts on disk: what is chosen comes into memory, as much as it is said to hold, what is given up leaves
// it; and a model that is said to be larger than the memory answers as ever.
#include <gtest/gtest.h>

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <random>
#include <string>
#include <thread>

#include "engine/disk_tier.h"
#include "tests/device_models.h"

namespace moebius {
namespace {

constexpr int64_t kLayers = 3, kExperts = 4, kMatrixBytes = 256 << 10;
constexpr int64_t kHeader = 1000;  // of the file, so that nothing begins or ends with a page

// Three layers of four experts of three matrices each in a mapped file, of which no page is in memory; the
// first layer is dense.
class MappedExperts {
 public:
  MappedExperts() {
    const size_t bytes = kHeader + (kLayers - 1) * kExperts * 3 * kMatrixBytes;
    std::string path = testing::TempDir() + "experts-XXXXXX";
    file_ = mkstemp(path.data());
    unlink(path.c_str());
    std::string content(bytes, '\1');
    for (size_t i = 0; kHeader + i < bytes; i += kMatrixBytes)
      content[kHeader + i] = static_cast<char>(i / kMatrixBytes);
    MOEBIUS_CHECK(write(file_, content.data(), bytes) == static_cast<ssize_t>(bytes) && fsync(file_) == 0);
    bytes_ = bytes;
    base_ = static_cast<char*>(mmap(nullptr, bytes, PROT_READ, MAP_SHARED, file_, 0));
    MOEBIUS_CHECK(base_ != MAP_FAILED);
    madvise(base_, bytes, MADV_RANDOM);  // nothing is read ahead that was not asked for
    weights.layers.resize(kLayers);
    char* at = base_ + kHeader;
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
    char* const at = static_cast<char*>(const_cast<void*>(e.gate.data));
    MOEBIUS_CHECK(mincore(at - (at - base_) % static_cast<ptrdiff_t>(page), 3 * kMatrixBytes, there.data()) ==
                  0);
    return static_cast<double>(std::ranges::count_if(there, [](unsigned char p) { return p & 1; })) /
           static_cast<double>(there.size());
  }
  std::vector<MappedFile> files() const { return {{file_, base_, static_cast<int64_t>(bytes_)}}; }
  const std::vector<ExpertWeights>& experts(int64_t layer) const {
    return weights.layers[static_cast<size_t>(layer)].experts;
  }

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

constexpr int64_t kSlotBytes = 3 * kMatrixBytes + 4096;  // whole pages

ExpertCache::Options room_for(int64_t experts) { return {experts * kSlotBytes, 0}; }

// Which experts of the layer are held, as digits.
std::string held(const ExpertCache& cache, int64_t layer) {
  std::string digits;
  for (int64_t e = 0; e < kExperts; ++e)
    if (cache.here(layer, e)) digits += static_cast<char>('0' + e);
  return digits;
}

std::string held(const DiskTier& disk, int64_t layer) {
  std::string digits;
  for (int64_t e = 0; e < kExperts; ++e)
    if (disk.in_cache(layer, e)) digits += static_cast<char>('0' + e);
  return digits;
}

// Chooses them for a token, waits, and holds none of them any more.
std::string use(ExpertCache& cache, const std::vector<int32_t>& experts,
                ExpertCache::For why = ExpertCache::For::kDecoding) {
  const ExpertCache::Hold hold = cache.ask(1, experts, why);
  cache.wait(hold);
  return held(cache, 1);
}

void choose(DiskTier& disk, const MappedExperts& mapped, int64_t layer, std::vector<int32_t> experts) {
  Ids ids(std::move(experts));
  const DiskTier::Chosen chosen = disk.chosen(layer, ids.tensor(), mapped.experts(layer));
  disk.wait(chosen);
}

// Every matrix begins with its number.
void expect_content(const ExpertWeights& e, int64_t layer, int64_t expert) {
  const int64_t first = ((layer - 1) * kExperts + expert) * 3;
  EXPECT_EQ(*static_cast<const char*>(e.gate.data), first);
  EXPECT_EQ(*static_cast<const char*>(e.up.data), first + 1);
  EXPECT_EQ(*static_cast<const char*>(e.down.data), first + 2);
  EXPECT_EQ(static_cast<const char*>(e.down.data)[kMatrixBytes - 1], 1);
}

TEST(ExpertCache, HoldsCopiesOfWhatWasAskedFor) {
  MappedExperts mapped;
  ExpertCache cache(mapped.weights, mapped.files(), room_for(3));
  const std::vector<int32_t> two{2, 0};
  const ExpertCache::Hold hold = cache.ask(2, two, ExpertCache::For::kDecoding);
  cache.wait(hold);
  EXPECT_TRUE(cache.missing(hold).coming.empty() && cache.missing(hold).refused.empty());
  std::vector<ExpertWeights> experts = mapped.experts(2);
  cache.place(hold, experts);
  for (size_t e = 0; e < kExperts; ++e) {
    EXPECT_EQ(experts[e].gate.data == mapped.experts(2)[e].gate.data, e % 2 == 1) << e;
    expect_content(experts[e], 2, static_cast<int64_t>(e));
  }
  EXPECT_EQ(held(cache, 2), "02");
  EXPECT_EQ(held(cache, 1), "");
}

TEST(ExpertCache, WhoWasUnusedLongestLeaves) {
  MappedExperts mapped;
  ExpertCache cache(mapped.weights, mapped.files(), room_for(3));
  EXPECT_EQ(use(cache, {0, 1, 2}), "012");
  EXPECT_EQ(use(cache, {0, 2}), "012");
  EXPECT_EQ(use(cache, {3}), "023");
  const std::vector<int32_t> two{2, 3};
  const ExpertCache::Hold hold = cache.ask(1, two, ExpertCache::For::kDecoding);
  EXPECT_EQ(use(cache, {1}), "123");
  EXPECT_EQ(use(cache, {0}), "023") << "the others are held";
}

TEST(ExpertCache, WhatAPromptBroughtLeavesFirst) {
  MappedExperts mapped;
  ExpertCache cache(mapped.weights, mapped.files(), room_for(3));
  using enum ExpertCache::For;
  EXPECT_EQ(use(cache, {0, 1}), "01");
  EXPECT_EQ(use(cache, {2}, kPrompt), "012");
  EXPECT_EQ(use(cache, {3}, kPrompt), "013");
  EXPECT_EQ(use(cache, {3}), "013") << "now it is decoding's";
  EXPECT_EQ(use(cache, {2}, kPrompt).size(), 3u);
  EXPECT_TRUE(cache.here(1, 3));
}

TEST(ExpertCache, HoldsWhatWasAskedForFirstWhereNotAllFit) {
  MappedExperts mapped;
  ExpertCache cache(mapped.weights, mapped.files(), room_for(2));
  for (int i = 0; i < 3; ++i)
    EXPECT_EQ(use(cache, {3, 1, 0, 2}, ExpertCache::For::kPrompt), "13") << "and none comes twice";
}

TEST(ExpertCache, HoldsNothingWhereItCannot) {
  MappedExperts mapped;
  ExpertCache none(mapped.weights, mapped.files(), {0, 0});
  ExpertCache less_than_none(mapped.weights, mapped.files(), {-5, 0});
  ExpertCache of_no_file(mapped.weights, {}, room_for(8));
  ExpertCache short_of_memory(mapped.weights, mapped.files(), {8 * kSlotBytes, int64_t{1} << 60});
  for (ExpertCache* cache : {&none, &less_than_none, &of_no_file, &short_of_memory})
    EXPECT_EQ(use(*cache, {0, 1}), "");
}

TEST(ExpertCache, LeavesAFileThatCannotBeRead) {
  MappedExperts mapped;
  const MappedFile all = mapped.files()[0];
  const int64_t first = kHeader + kExperts * 3 * kMatrixBytes;  // bytes up to the second layer's experts
  const int end = ::open("/dev/null", O_RDONLY);                // reads as a file that was cut short
  ExpertCache cache(mapped.weights, {{end, all.data, first}, {all.file, all.data + first, all.bytes - first}},
                    room_for(1));
  for (int i = 0; i < 3; ++i) EXPECT_EQ(use(cache, {0, 1}), "");
  const std::vector<int32_t> one{2};
  cache.wait(cache.ask(2, one, ExpertCache::For::kDecoding));
  EXPECT_EQ(held(cache, 2), "2") << "the only place was not lost";
  ::close(end);
}

TEST(ExpertCache, ServesManyThreads) {
  MappedExperts mapped;
  ExpertCache cache(mapped.weights, mapped.files(), room_for(3));
  const auto work = [&](uint32_t seed) {
    std::mt19937 random(seed);
    ExpertCache::Hold guess;
    for (int i = 0; i < 200; ++i) {
      const int64_t layer = 1 + random() % 2;
      const std::vector<int32_t> two{static_cast<int32_t>(random() % 2),
                                     static_cast<int32_t>(2 + random() % 2)};
      const ExpertCache::Hold hold =
          cache.ask(layer, two, ExpertCache::For{static_cast<uint8_t>(random() % 2)});
      guess = cache.ask(3 - layer, two, ExpertCache::For::kDecoding, true);
      cache.wait(hold);
      std::vector<ExpertWeights> experts = mapped.experts(layer);
      cache.place(hold, experts);
      for (const int32_t id : two) expect_content(experts[static_cast<size_t>(id)], layer, id);
    }
  };
  {
    std::vector<std::jthread> threads;
    for (uint32_t t = 0; t < 4; ++t) threads.emplace_back(work, t);
  }
  EXPECT_EQ(use(cache, {0, 1, 2}), "012") << "no place was lost";
}

TEST(DiskTier, ComputesWhatIsHereFirst) {
  MappedExperts mapped;
  DiskTier disk(mapped.weights, mapped.files(), room_for(4));
  choose(disk, mapped, 2, {1, -1});
  Ids ids({3, 1, -1, 1, 0, 3});
  std::vector<ExpertWeights> here = mapped.experts(2);
  here[0] = ExpertWeights();  // on the other side
  DiskTier::Chosen chosen = disk.chosen(2, ids.tensor(3), here);
  std::vector<std::vector<int32_t>> parts;
  disk.in_two(chosen, [&](const Tensor& part) {
    EXPECT_EQ(part.shape[0], 3);
    EXPECT_EQ(part.shape[1], 2);
    parts.emplace_back(part.i32(), part.i32() + part.numel());
    const std::vector<ExpertWeights> placed = disk.placed(chosen, here);
    for (const int32_t id : parts.back())
      if (id > 0) expect_content(placed[static_cast<size_t>(id)], 2, id);
    EXPECT_TRUE(placed[0].elsewhere());
  });
  ASSERT_FALSE(parts.empty());
  EXPECT_EQ(parts[0][1], 1) << "was here";
  EXPECT_EQ(parts[0][4], 0) << "the other side's";
  std::vector<int32_t> all = parts[0];
  for (size_t i = 0; parts.size() == 2 && i < all.size(); ++i) {  // else 3 has come at once
    EXPECT_EQ(parts[1][i], ids.values[i] == 3 ? 3 : -1);
    all[i] = std::max(all[i], parts[1][i]);
  }
  EXPECT_EQ(all, ids.values);
  EXPECT_EQ(held(disk, 2), "13");
}

TEST(DiskTier, KeepsWhatTheNextLayerChoseLast) {
  MappedExperts mapped;
  DiskTier disk(mapped.weights, mapped.files(), room_for(2));
  choose(disk, mapped, 2, {2});
  choose(disk, mapped, 1, {3});
  choose(disk, mapped, 1, {0});
  EXPECT_EQ(held(disk, 1), "0");
  EXPECT_EQ(held(disk, 2), "2") << "unused for longest, but a guess every time";
  choose(disk, mapped, 2, {0});
  EXPECT_TRUE(disk.in_cache(2, 0));
  for (int i = 0; i < 500 && !disk.in_cache(1, 0); ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  EXPECT_TRUE(disk.in_cache(1, 0)) << "after the last layer comes the first that has experts";
}

TEST(DiskTier, GivesUpMemory) {
  MappedExperts mapped;
  const ExpertWeights& expert = mapped.weights.layers[1].experts[1];
  int64_t sum = 0;  // read, as an upload reads it
  for (int64_t i = 0; i < 3 * kMatrixBytes; ++i) sum += static_cast<const char*>(expert.gate.data)[i];
  ASSERT_EQ(sum, 3 * kMatrixBytes + 9);  // three begin with their numbers, which are 3, 4 and 5
  ASSERT_EQ(mapped.share_in_memory(1, 1), 1);
  give_up(expert);
  if (mapped.share_in_memory(1, 1) == 1) GTEST_SKIP() << "skipped: this system does not take MADV_PAGEOUT";
  // But for what the page cache holds in one piece with others, at either end.
  EXPECT_LE(mapped.share_in_memory(1, 1), 0.25);
}

// How many experts memory holds at a time, of how many; all: the engine says nothing.
std::pair<int, int> experts_held(const Engine& engine) {
  int held = 0, of = 0;
  for (const std::string& note : engine.notes())
    if (const size_t at = note.find("memory holds "); at != std::string::npos)
      std::sscanf(note.c_str() + at, "memory holds %d of the %d experts", &held, &of);
  return {held, of};
}

TEST(DiskTier, AModelLargerThanTheMemoryAnswersAsEver) {
  for (const std::string model : {"deepseek_v3_int4", "qwen3_moe"}) {
    EngineOptions options = options_for(model);
    const std::vector<float> want = prompt_logits(*open(options));
    int some = 0;
    options.ram = least_ram(options);
    for (std::pair<int, int> held{0, 1}; held.second > 0; options.ram += options.ram / 8) {
      const auto engine = open(options);
      held = experts_held(*engine);
      some += held.first > 0 && held.first < held.second;
      EXPECT_EQ(prompt_logits(*engine), want) << model << ", " << held.first << " experts held";
      EXPECT_EQ(prompt_logits(*engine), want) << model << ", once more";
    }
    EXPECT_GT(some, 0) << model;
    options.device = DeviceKind::kSim, options.speeds = speeds(1, 1);
    for (const double experts : {0.0, 0.5, 1.0}) {
      options.ram = 0, options.device_memory = budget(options, experts);
      options.ram = least_ram(options);
      const auto engine = open(options);
      EXPECT_EQ(engine->plan()->experts_on_disk > 0, experts < 1);
      EXPECT_EQ(engine->plan()->experts_released > 0, experts > 0);
      if (model != "deepseek_v3_int4") continue;  // sums of float formats depend on how tokens come together
      EXPECT_EQ(prompt_logits(*engine), want) << experts;
    }
    options.ram = 0, options.device_memory = budget(options, 0.25);
    options.ram = open(options)->plan()->ram_for_all - all_expert_bytes(options.model) / 4;
    const auto engine = open(options);
    const ModelPlan& plan = *engine->plan();
    EXPECT_GT(plan.experts_on_disk, 0) << model;
    EXPECT_LT(plan.experts_on_disk, plan.experts - plan.experts_resident) << model;
    if (model != "deepseek_v3_int4") continue;
    EXPECT_EQ(prompt_logits(*engine), want) << "some on disk";
  }
}

}  // namespace
}  // namespace moebius
