// Memory of the CUDA device: operations with less scratch than all their tokens would take go in pieces,
// which stay within it and give what the reference does.
#include <gtest/gtest.h>

#include "kernels/cpu/host_grad.h"
#include "kernels/cuda/no_memory.h"
#include "tests/op_cases_experts.h"
#include "tests/op_device.h"

#ifdef MOEBIUS_EMULATE_CUDA
#include "tests/cuda_emulator/backend.h"

namespace moebius::test {
namespace {

using namespace cuda::emulator;

void reference(const LinearArgs& args) { ref::linear(args, false); }
void reference(const ExpertFfnArgs& args) { ref::expert_ffn(args, false); }

template <class Args>
ScratchUse expect_reference(Case<Args>& c, const Snapshot& before, const Snapshot& want,
                            int64_t scratch_bytes) {
  ScratchUse use;
  const auto backend = make_emulated_backend(3, Fit::kEnd, scratch_bytes, &use);
  restore(c.outputs, before);
  Mirror mirror(*backend, c.arena);
  mirror.upload(c.outputs);
  call(*backend, mirror(c.args));
  EXPECT_TRUE(mirror.fetch(c.outputs).ok());
  EXPECT_EQ(difference(c.outputs, snapshot(c.outputs), want, false), "")
      << scratch_bytes << " bytes of scratch";
  return use;
}

// Whole, then with a part of what that took.
template <class Args>
void expect_pieces(Case<Args> c, int part) {
  const Snapshot before = snapshot(c.outputs);
  reference(c.args);
  const Snapshot want = snapshot(c.outputs);
  const ScratchUse whole = expect_reference(c, before, want, int64_t{1} << 30);
  EXPECT_EQ(whole.pieces, 0);
  const int64_t bytes = whole.most_bytes / part;
  const ScratchUse use = expect_reference(c, before, want, bytes);
  EXPECT_LE(use.most_bytes, bytes);
  EXPECT_GE(use.pieces, part - 1);
}

TEST(ScratchOfCuda, LinearStaysWithinIt) {
  for (const Format format : kEveryFormat) {
    SCOPED_TRACE(format_name(format));
    expect_pieces(linear_case({{format, 40, 130}, 150, 0, true, true, false, 3}, Mode::kTest), 4);
  }
  expect_pieces(linear_case({{Format::kInt4, 20, 260}, 70, 1}, Mode::kTest), 30);
}

TEST(ScratchOfCuda, ExpertFfnStaysWithinIt) {
  for (const Format format : kEveryFormat) {
    SCOPED_TRACE(format_name(format));
    expect_pieces(expert_case({format, format, 90, 2, 3, 70, 40, 0.1, true, false, 4}, Mode::kTest), 3);
  }
  expect_pieces(expert_case({Format::kInt8, Format::kInt8, 50, 2, 40, 70, 40, 0.1, true}, Mode::kTest), 2);
  expect_pieces(expert_case({Format::kInt4, Format::kBF16, 60, 3, 5, 100, 48, 0.2, true}, Mode::kTest), 7);
}

TEST(ScratchOfCuda, OneTokenMayTakeMore) {
  Case<LinearArgs> c = linear_case({{Format::kInt4, 40, 260}, 5}, Mode::kTest);
  const Snapshot before = snapshot(c.outputs);
  reference(c.args);
  const Snapshot want = snapshot(c.outputs);
  EXPECT_EQ(expect_reference(c, before, want, 1).pieces, 4);
}

TEST(MemoryOfCuda, TooLittleIsToldFromTakenByOthers) {
  const Status over = cuda::no_device_memory(300, 200, 1000), full = cuda::no_device_memory(300, 500, 100);
  for (const Status& status : {over, full}) EXPECT_EQ(status.code(), Code::kNoMemory);
  EXPECT_EQ(over.message(),
            "300 bytes of the GPU's memory are needed, 200 of --gpu-memory are left; raise it");
  EXPECT_EQ(full.message(),
            "300 bytes of the GPU's memory are needed, 100 are free; close other programs that use "
            "it, or lower --gpu-memory");
}

}  // namespace
}  // namespace moebius::test
#else
TEST(ScratchOfCuda, Skipped) { GTEST_SKIP() << "skipped: the thread sanitizer does not know of fibers"; }
#endif
