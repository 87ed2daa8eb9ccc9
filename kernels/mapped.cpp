#include "kernels/mapped.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <vector>

namespace moebius {
namespace {

void advise(uintptr_t begin, uintptr_t end, int advice) {
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, advice);
}

uintptr_t page_bytes() { return static_cast<uintptr_t>(sysconf(_SC_PAGESIZE)); }

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

bool read_in(const void* data, size_t bytes) {
  const uintptr_t at = reinterpret_cast<uintptr_t>(data), page = page_bytes(), begin = at / page * page;
  [[maybe_unused]] const auto ask = [&](int advice) {
    return madvise(reinterpret_cast<void*>(begin), at + bytes - begin, advice);
  };
#ifdef MADV_HUGEPAGE
  ask(MADV_HUGEPAGE);
#endif
#ifdef MADV_POPULATE_READ
  if (ask(MADV_POPULATE_READ) == 0) return true;
  if (errno != EINVAL) return false;  // else a system from before Linux 5.14
#endif
  const auto* from = static_cast<const volatile uint8_t*>(data);
  for (size_t i = 0; i < bytes; i += page) static_cast<void>(from[i]);
  return true;
}

bool in_memory(const void* data, size_t bytes) {
  const uintptr_t at = reinterpret_cast<uintptr_t>(data), page = page_bytes(), begin = at / page * page;
  std::vector<unsigned char> pages((at + bytes - begin + page - 1) / page);
  if (mincore(reinterpret_cast<void*>(begin), at + bytes - begin, pages.data()) != 0) return true;
  const auto here = std::count_if(pages.begin(), pages.end(), [](unsigned char flags) { return flags & 1; });
  return 2 * static_cast<size_t>(here) >= pages.size();
}

}  // namespace moebius
