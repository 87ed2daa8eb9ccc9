// Copies between memory that is not pinned and the simulated device: in order, beside the caller, and ended
// by any fault.
#include <gtest/gtest.h>

#include <chrono>
#include <numeric>
#include <random>

#include "kernels/staging.h"

namespace moebius {
namespace {

std::unique_ptr<Backend> sim(const SimOptions& options) {
  auto backend = make_sim_backend(options);
  MOEBIUS_CHECK(backend.ok(), backend.status().message());
  return std::move(*backend);
}

std::vector<uint8_t> pattern(size_t bytes, uint8_t first) {
  std::vector<uint8_t> out(bytes);
  std::iota(out.begin(), out.end(), first);
  return out;
}

// Anything to anywhere on either stream, with the host's memory as the truth.
TEST(Staging, CopiesKeepTheirOrder) {
  constexpr size_t kBytes = size_t{5} << 20, kBlocks = 40;
  for (uint64_t seed = 1; seed <= 5; ++seed) {
    SimOptions options;
    options.seed = seed;
    const auto backend = sim(options);
    const Result<Buffer> memory = backend->alloc(kBytes);
    char* const there = memory->as<char>();
    std::vector<uint8_t> here = pattern(kBytes, 0), want_here = here, want_there(kBytes);
    std::mt19937 random(static_cast<uint32_t>(seed));
    for (size_t i = 0; i < kBlocks; ++i) {
      const size_t bytes = random() % 8 == 0 ? random() % (kBytes / 2) : random() % 5000;
      const size_t at = random() % (kBytes - bytes), from = random() % (kBytes - bytes);
      const Stream stream = random() % 2 == 0 ? Stream::kLoad : Stream::kCompute;
      const Stream other = stream == Stream::kLoad ? Stream::kCompute : Stream::kLoad;
      backend->wait(stream, backend->record(other));
      if (random() % 2 == 0) {
        backend->copy_bytes(stream, &here[from], there + at, bytes);
        std::copy_n(&want_here[from], bytes, &want_there[at]);
      } else {
        backend->copy_bytes(stream, there + from, &here[at], bytes);
        std::copy_n(&want_there[from], bytes, &want_here[at]);
      }
    }
    ASSERT_TRUE(backend->sync().ok());
    EXPECT_EQ(here, want_here) << seed;
    backend->copy_bytes(Stream::kLoad, there, here.data(), kBytes);
    ASSERT_TRUE(backend->sync().ok());
    EXPECT_EQ(here, want_there) << seed;
  }
}

TEST(Staging, TheCallerDoesNotWait) {
  SimOptions options;
  options.link_GBs = 0.2;
  const auto backend = sim(options);
  const size_t bytes = 4 * static_cast<size_t>(kStagingBytes);
  const Result<Buffer> memory = backend->alloc(bytes);
  const std::vector<uint8_t> here = pattern(bytes, 7);
  const auto start = std::chrono::steady_clock::now();
  backend->copy_bytes(Stream::kLoad, here.data(), memory->data(), bytes);
  const auto queued = std::chrono::steady_clock::now();
  ASSERT_TRUE(backend->sync().ok());
  const auto done = std::chrono::steady_clock::now();
  EXPECT_GE(done - start, std::chrono::milliseconds(160)) << "32 MiB at 0.2 GB/s";
  EXPECT_LE(queued - start, (done - start) / 4);
}

TEST(Staging, AnyPieceMayFail) {
  const size_t bytes = 2 * static_cast<size_t>(kStagingBytes) + 1000;
  const std::vector<uint8_t> here = pattern(bytes, 3);
  for (uint64_t piece = 1; piece <= 34; piece += 3) {
    SimOptions options;
    options.fail_work = piece, options.seed = piece % 3;
    const auto backend = sim(options);
    const Result<Buffer> memory = backend->alloc(bytes);
    std::vector<uint8_t> back(bytes);
    const auto there_and_back = [&] {
      backend->copy_bytes(Stream::kLoad, here.data(), memory->data(), bytes);
      backend->wait(Stream::kCompute, backend->record(Stream::kLoad));
      backend->copy_bytes(Stream::kCompute, memory->data(), back.data(), bytes);
      return backend->sync();
    };
    EXPECT_EQ(there_and_back().code(), Code::kIo) << "of 17 pieces each way, " << piece;
    backend->clear_error();
    ASSERT_TRUE(there_and_back().ok());
    EXPECT_EQ(back, here) << piece;
  }
}

TEST(Staging, EndsInTheMiddle) {
  const size_t bytes = 2 * static_cast<size_t>(kStagingBytes);
  std::vector<uint8_t> here = pattern(bytes, 3);
  for (uint64_t fail = 0; fail < 20; fail += 4) {
    SimOptions options;
    options.fail_work = fail, options.seed = 1;
    const auto backend = sim(options);
    const Result<Buffer> memory = backend->alloc(bytes);
    backend->copy_bytes(Stream::kLoad, here.data(), memory->data(), bytes);
    backend->copy_bytes(Stream::kCompute, memory->data(), here.data(), bytes);
  }
}

TEST(Staging, ItsMemoryMayBeRefused) {
  SimOptions options;
  options.fail_alloc = 1;
  EXPECT_EQ(make_sim_backend(options).status().code(), Code::kNoMemory);
}

TEST(StagingDeathTest, AStreamCopiesFromPinnedMemoryAlone) {
  const auto backend = sim({});
  const Result<Buffer> memory = backend->alloc(64);
  std::vector<float> x(4);
  const Tensor there(memory->data(), DType::kF32, {2, 2}, Space::kDevice);
  const Tensor host = f32_tensor(x.data(), {2, 2}), said(x.data(), DType::kF32, {2, 2}, Space::kPinned);
  EXPECT_DEATH(backend->copy(host, there), "copy: a tensor is not pinned");
  EXPECT_DEATH(backend->copy(there, said), "copy: a tensor is not pinned");
  EXPECT_DEATH(backend->swiglu({said, there, there}), "swiglu: an argument is not pinned");
}

TEST(Ranges, KnowWhatIsWhollyInside) {
  std::vector<char> a(100), b(50);
  Ranges ranges;
  ranges.add(a.data(), 100), ranges.add(b.data(), 50);
  EXPECT_TRUE(ranges.contain(a.data(), 100) && ranges.contain(&a[99], 1) && ranges.contain(&b[10], 40));
  EXPECT_FALSE(ranges.contain(a.data(), 101) || ranges.contain(&b[10], 41) || ranges.contain(&a[0] - 1, 1));
  ranges.remove(a.data());
  EXPECT_FALSE(ranges.contain(a.data(), 1));
  EXPECT_TRUE(ranges.contain(b.data(), 1));
}

}  // namespace
}  // namespace moebius
