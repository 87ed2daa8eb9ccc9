// Memory of mapped files: what becomes large pages keeps its content and its addresses.
#include "kernels/mapped.h"

#include <gtest/gtest.h>

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <numeric>
#include <vector>

namespace moebius {
namespace {

constexpr size_t kBytes = 3 * kLargePage + 4097;  // two or three whole large pages, wherever it is mapped

class Mapped : public testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/moebius-mapped-XXXXXX";
    file_ = mkstemp(name);
    ASSERT_GE(file_, 0);
    unlink(name);
    words_.resize(kBytes / sizeof(uint32_t) + 1);
    std::iota(words_.begin(), words_.end(), 1u);
    ASSERT_EQ(pwrite(file_, words_.data(), kBytes, 0), static_cast<ssize_t>(kBytes));
    data_ = static_cast<const char*>(mmap(nullptr, kBytes, PROT_READ, MAP_SHARED, file_, 0));
    ASSERT_NE(data_, MAP_FAILED);
  }
  void TearDown() override {
    munmap(const_cast<char*>(data_), kBytes);
    close(file_);
  }
  bool as_written() const { return std::memcmp(data_, words_.data(), kBytes) == 0; }

  int file_ = -1;
  const char* data_ = nullptr;
  std::vector<uint32_t> words_;
};

TEST_F(Mapped, CopiesToLargePagesInPlace) {
  if (!copy_to_large_pages(file_, 0, data_, kBytes))
    GTEST_SKIP() << "skipped: this system gives no large pages";
  EXPECT_TRUE(as_written());
  const uint32_t other = 77;  // whoever writes to the file writes to no copy of it
  const size_t at = kLargePage + kLargePage / 2;
  ASSERT_EQ(pwrite(file_, &other, sizeof other, static_cast<off_t>(at)), 4);
  EXPECT_TRUE(as_written());
}

TEST_F(Mapped, CopiesFromAnOffset) {
  constexpr size_t kSkipped = 12345;
  if (!copy_to_large_pages(file_, kSkipped, data_ + kSkipped, kBytes - kSkipped))
    GTEST_SKIP() << "skipped: this system gives no large pages";
  EXPECT_TRUE(as_written());
}

TEST_F(Mapped, StaysWhatItWasWhereTheFileCannotBeRead) {
  EXPECT_FALSE(copy_to_large_pages(-1, 0, data_, kBytes));
  EXPECT_FALSE(copy_to_large_pages(file_, 2 * kBytes, data_, kBytes));  // nothing is there
  EXPECT_TRUE(as_written());
}

TEST_F(Mapped, LeavesLessThanALargePageAlone) {
  EXPECT_TRUE(copy_to_large_pages(-1, 0, data_, 100));
  EXPECT_TRUE(in_large_pages(data_, 100));  // none is missing
  EXPECT_TRUE(as_written());
}

}  // namespace
}  // namespace moebius
