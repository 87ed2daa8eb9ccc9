#include "kernels/mapped.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <fstream>
#include <string>
#include <vector>

namespace moebius {
namespace {

void advise(uintptr_t begin, uintptr_t end, int advice) {
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, advice);
}

uintptr_t page_bytes() { return static_cast<uintptr_t>(sysconf(_SC_PAGESIZE)); }

struct Range {
  uintptr_t begin, end;
  size_t bytes() const { return end - begin; }
};

Range whole_large_pages(const void* data, size_t bytes) {
  const uintptr_t at = reinterpret_cast<uintptr_t>(data);
  const Range range{(at + kLargePage - 1) / kLargePage * kLargePage, (at + bytes) / kLargePage * kLargePage};
  return {range.begin, std::max(range.begin, range.end)};
}

// PAGEMAP_SCAN of Linux 6.7, as its documentation (admin-guide/mm/pagemap) describes it: older headers lack
// it.
struct PageRegion {
  uint64_t start, end, categories;
};
struct PagemapScan {
  uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
  uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};
constexpr unsigned long kPagemapScan = _IOWR('f', 16, PagemapScan);
constexpr uint64_t kPageIsHuge = 1 << 6;

// Bytes of the range that are mapped in large pages.
size_t bytes_in_large_pages(const Range& range) {
  const int pagemap = ::open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
  if (pagemap < 0) return 0;
  std::array<PageRegion, 64> regions;
  size_t found = 0;
  for (uintptr_t at = range.begin; at < range.end;) {
    PagemapScan scan{};
    scan.size = sizeof scan, scan.start = at, scan.end = range.end;
    scan.vec = reinterpret_cast<uintptr_t>(regions.data()), scan.vec_len = regions.size();
    scan.category_mask = scan.return_mask = kPageIsHuge;
    const int count = ioctl(pagemap, kPagemapScan, &scan);
    if (count < 0 || scan.walk_end <= at) break;
    for (int i = 0; i < count; ++i) {
      const PageRegion& region = regions[static_cast<size_t>(i)];
      found += static_cast<size_t>(region.end - region.start);
    }
    at = static_cast<uintptr_t>(scan.walk_end);
  }
  ::close(pagemap);
  return found;
}

// Whether the system's administrator lets programs have large pages.
bool large_pages_allowed() {
  std::ifstream file("/sys/kernel/mm/transparent_hugepage/enabled");
  std::string line;
  return std::getline(file, line) && line.find("[never]") == std::string::npos;
}

bool read_all(int file, int64_t offset, void* to, size_t bytes) {
  for (size_t done = 0; done < bytes;) {
    const ssize_t got =
        pread(file, static_cast<char*>(to) + done, bytes - done, offset + static_cast<int64_t>(done));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return false;
    done += static_cast<size_t>(got);
  }
  return true;
}

// Memory that may lie in large pages, and is unmapped with its rims unless it moved elsewhere.
class LargePages {
 public:
  explicit LargePages(size_t bytes) : bytes_(bytes) {
    mapped_ = mmap(nullptr, bytes + kLargePage, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (!ok()) return;
    const uintptr_t at = reinterpret_cast<uintptr_t>(mapped_);
    at_ = (at + kLargePage - 1) / kLargePage * kLargePage;
#ifdef MADV_HUGEPAGE
    advise(at_, at_ + bytes, MADV_HUGEPAGE);
#endif
  }
  ~LargePages() {
    if (!ok()) return;
    const uintptr_t begin = reinterpret_cast<uintptr_t>(mapped_), end = begin + bytes_ + kLargePage;
    if (!moved_) munmap(mapped_, end - begin);
    if (moved_ && at_ > begin) munmap(mapped_, at_ - begin);
    if (moved_ && end > at_ + bytes_) munmap(reinterpret_cast<void*>(at_ + bytes_), end - at_ - bytes_);
  }
  LargePages(const LargePages&) = delete;
  LargePages& operator=(const LargePages&) = delete;

  bool ok() const { return mapped_ != MAP_FAILED; }
  void* data() const { return reinterpret_cast<void*>(at_); }
  // Takes the place of what is mapped at `to`, readable only.
  bool move_to(void* to) {
    if (mprotect(data(), bytes_, PROT_READ) != 0) return false;
    moved_ = mremap(data(), bytes_, bytes_, MREMAP_MAYMOVE | MREMAP_FIXED, to) == to;
    return moved_;
  }

 private:
  size_t bytes_;
  void* mapped_;
  uintptr_t at_ = 0;
  bool moved_ = false;
};

}  // namespace

void will_need(const void* data, size_t bytes) {
  const uintptr_t at = reinterpret_cast<uintptr_t>(data), page = page_bytes();
  advise(at / page * page, (at + bytes + page - 1) / page * page, MADV_WILLNEED);
}

void give_up(const void* data, size_t bytes) {
#ifdef MADV_PAGEOUT
  const uintptr_t at = reinterpret_cast<uintptr_t>(data), page = page_bytes();
  advise((at + page - 1) / page * page, (at + bytes) / page * page, MADV_PAGEOUT);
#endif
}

void prefer_large_pages(const void* data, size_t bytes) {
#ifdef MADV_HUGEPAGE
  const uintptr_t at = reinterpret_cast<uintptr_t>(data), page = page_bytes();
  advise(at / page * page, (at + bytes + page - 1) / page * page, MADV_HUGEPAGE);
#endif
}

bool read_in(const void* data, size_t bytes) {
  const uintptr_t at = reinterpret_cast<uintptr_t>(data), page = page_bytes(), begin = at / page * page;
  [[maybe_unused]] const auto ask = [&](int advice) {
    return madvise(reinterpret_cast<void*>(begin), at + bytes - begin, advice);
  };
#ifdef MADV_POPULATE_READ
  if (ask(MADV_POPULATE_READ) == 0) return true;
  if (errno != EINVAL) return false;  // else a system from before Linux 5.14
#endif
  const auto* from = static_cast<const volatile uint8_t*>(data);
  for (size_t i = 0; i < bytes; i += page) static_cast<void>(from[i]);
  return true;
}

bool in_large_pages(const void* data, size_t bytes) {
  const Range range = whole_large_pages(data, bytes);
  return bytes_in_large_pages(range) == range.bytes();
}

bool copy_to_large_pages(int file, int64_t offset, const void* data, size_t bytes) {
  const Range range = whole_large_pages(data, bytes);
  if (range.bytes() == 0) return true;
  if (!large_pages_allowed()) return false;
  const auto skipped = static_cast<int64_t>(range.begin - reinterpret_cast<uintptr_t>(data));
  LargePages pages(range.bytes());
  return pages.ok() && read_all(file, offset + skipped, pages.data(), range.bytes()) &&
         pages.move_to(reinterpret_cast<void*>(range.begin));
}

bool in_memory(const void* data, size_t bytes) {
  const uintptr_t at = reinterpret_cast<uintptr_t>(data), page = page_bytes(), begin = at / page * page;
  std::vector<unsigned char> pages((at + bytes - begin + page - 1) / page);
  if (mincore(reinterpret_cast<void*>(begin), at + bytes - begin, pages.data()) != 0) return true;
  const auto here = std::count_if(pages.begin(), pages.end(), [](unsigned char flags) { return flags & 1; });
  return 2 * static_cast<size_t>(here) >= pages.size();
}

}  // namespace moebius
