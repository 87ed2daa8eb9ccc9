#include "kernels/sim/arena.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include <fmt/format.h>

namespace moebius {
namespace {

constexpr int64_t kAlign = 256;
constexpr int64_t kMost = int64_t{1} << 44;  // 16 TiB

// Whole pages of [at, at + bytes) cost the machine nothing until they are touched again.
void give_pages_back(char* at, int64_t bytes) {
  const uintptr_t page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE)),
                  begin = reinterpret_cast<uintptr_t>(at);
  const uintptr_t first = (begin + page - 1) / page * page,
                  end = (begin + static_cast<uintptr_t>(bytes)) / page * page;
  if (first < end) madvise(reinterpret_cast<void*>(first), end - first, MADV_REMOVE);
}

}  // namespace

Result<std::unique_ptr<SimArena>> SimArena::create(int64_t bytes) {
  if (bytes < 1 || bytes > kMost)
    return invalid(fmt::format("a simulated device of {} bytes; give between 1 and {}", bytes, kMost));
  const int64_t page = sysconf(_SC_PAGESIZE), size = (bytes + page - 1) / page * page;
  const Status refused =
      no_memory(fmt::format("no room for a simulated device of {} bytes; lower --gpu-memory", bytes));
  // The file has no name and costs memory only where it is touched.
  const int file = memfd_create("moebius-sim", MFD_CLOEXEC);
  if (file < 0) return refused;
  const size_t length = static_cast<size_t>(size);
  void *device = MAP_FAILED, *alias = MAP_FAILED;
  if (ftruncate(file, size) == 0) {
    device = mmap(nullptr, length, PROT_NONE, MAP_SHARED | MAP_NORESERVE, file, 0);
    alias = mmap(nullptr, length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, file, 0);
  }
  close(file);
  if (device != MAP_FAILED && alias != MAP_FAILED)
    return std::unique_ptr<SimArena>(
        new SimArena(size, static_cast<char*>(device), static_cast<char*>(alias)));
  for (void* at : {device, alias})
    if (at != MAP_FAILED) munmap(at, length);
  return refused;
}

SimArena::SimArena(int64_t bytes, char* device, char* alias)
    : bytes_(bytes), device_(device), alias_(alias), free_{{0, bytes}} {}

SimArena::~SimArena() {
  munmap(device_, static_cast<size_t>(bytes_));
  munmap(alias_, static_cast<size_t>(bytes_));
}

Result<void*> SimArena::take(int64_t bytes) {
  const int64_t size = std::max(kAlign, (bytes + kAlign - 1) / kAlign * kAlign);
  const auto gap = std::find_if(free_.begin(), free_.end(), [&](const auto& g) { return g.second >= size; });
  if (bytes < 0 || gap == free_.end()) {
    return no_memory(
        fmt::format("the simulated device has {} of {} bytes left, {} are needed; raise --gpu-memory",
                    bytes_ - used_, bytes_, bytes));
  }
  const auto [offset, room] = *gap;
  free_.erase(gap);
  if (room > size) free_[offset + size] = room - size;
  taken_[offset] = size;
  used_ += size;
  std::memset(alias_ + offset, 0, static_cast<size_t>(size));
  return static_cast<void*>(device_ + offset);
}

void SimArena::give_back(void* at) {
  const auto piece = taken_.find(static_cast<char*>(at) - device_);
  MOEBIUS_CHECK(piece != taken_.end(), "released twice, or never taken");
  auto [offset, size] = *piece;
  taken_.erase(piece);
  used_ -= size;
  give_pages_back(alias_ + offset, size);
  auto next = free_.lower_bound(offset);
  if (next != free_.end() && next->first == offset + size) {
    size += next->second;
    next = free_.erase(next);
  }
  if (next != free_.begin()) {
    const auto before = std::prev(next);
    if (before->first + before->second == offset) {
      before->second += size;
      return;
    }
  }
  free_[offset] = size;
}

bool SimArena::owns(const void* at, int64_t bytes) const {
  const char* p = static_cast<const char*>(at);
  return p >= device_ && p <= device_ + bytes_ && bytes >= 0 && bytes <= device_ + bytes_ - p;
}

}  // namespace moebius
