#include "tests/cuda_emulator/memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "kernels/status.h"

namespace moebius::cuda::emulator {
namespace {

constexpr uint8_t kBeside = 0xa5;

// The largest power of two up to 256 that divides bytes.
int64_t natural_alignment(int64_t bytes) {
  int64_t align = 1;
  while (align < 256 && bytes % (2 * align) == 0) align *= 2;
  return align;
}

template <class Map>
bool within(const Map& pieces, const void* at, int64_t (*size)(const typename Map::mapped_type&)) {
  auto piece = pieces.upper_bound(at);
  if (piece == pieces.begin()) return false;
  --piece;
  return static_cast<const char*>(at) <= static_cast<const char*>(piece->first) + size(piece->second);
}

}  // namespace

DeviceMemory::~DeviceMemory() {
  while (!pieces_.empty()) give_back(const_cast<void*>(pieces_.begin()->first));
}

void* DeviceMemory::take(int64_t bytes, uint8_t fill, int64_t align) {
  const int64_t page = sysconf(_SC_PAGESIZE);
  Piece piece{};
  piece.bytes = bytes;
  piece.page_bytes = std::max<int64_t>(1, (bytes + page - 1) / page) * page;
  piece.map_bytes = piece.page_bytes + 2 * page;
  void* map = mmap(nullptr, static_cast<size_t>(piece.map_bytes), PROT_NONE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (map == MAP_FAILED) return nullptr;
  piece.map = static_cast<char*>(map), piece.pages = piece.map + page;
  char* at = piece.pages;
  if (fit_ == Fit::kEnd) {
    const int64_t step = std::max(align, natural_alignment(bytes));
    at += (piece.page_bytes - bytes) / step * step;
  }
  mprotect(piece.pages, static_cast<size_t>(piece.page_bytes), PROT_READ | PROT_WRITE);
  std::memset(piece.pages, kBeside, static_cast<size_t>(piece.page_bytes));
  std::memset(at, fill, static_cast<size_t>(bytes));
  protect(piece);
  pieces_[at] = piece;
  return at;
}

void DeviceMemory::give_back(void* at) {
  const auto found = pieces_.find(at);
  MOEBIUS_CHECK(found != pieces_.end(), "device memory released twice, or never taken");
  const Piece piece = found->second;
  pieces_.erase(found);
  mprotect(piece.pages, static_cast<size_t>(piece.page_bytes), PROT_READ);
  const char *begin = static_cast<char*>(at), *end = begin + piece.bytes;
  const auto untouched = [](char c) { return static_cast<uint8_t>(c) == kBeside; };
  MOEBIUS_CHECK(
      std::all_of(static_cast<const char*>(piece.pages), begin, untouched) &&
          std::all_of(end, static_cast<const char*>(piece.pages) + piece.page_bytes, untouched),
      "a kernel wrote beside a piece of " + std::to_string(piece.bytes) + " bytes of device memory");
  munmap(piece.map, static_cast<size_t>(piece.map_bytes));
}

bool DeviceMemory::owns(const void* at) const {
  return within(
      pieces_, at, +[](const Piece& piece) { return piece.bytes; });
}

bool DeviceMemory::reachable(const void* at) const {
  return owns(at) || within(
                         pinned_, at, +[](const int64_t& bytes) { return bytes; });
}

void DeviceMemory::open(int change) {
  const bool was_open = opened_ > 0;
  opened_ += change;
  if (was_open == (opened_ > 0)) return;
  for (const auto& [at, piece] : pieces_) protect(piece);
}

void DeviceMemory::protect(const Piece& piece) const {
  mprotect(piece.pages, static_cast<size_t>(piece.page_bytes),
           opened_ > 0 ? PROT_READ | PROT_WRITE : PROT_NONE);
}

}  // namespace moebius::cuda::emulator
