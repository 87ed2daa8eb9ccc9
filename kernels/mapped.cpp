#include "kernels/mapped.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>

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

}  // namespace moebius
