#include "kernels/staging.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <new>

namespace moebius {
namespace {

constexpr size_t kFlagBytes = 64;             // each has a cache line
constexpr size_t kCopied = size_t{64} << 10;  // at a time: larger memcpys go past the caches
constexpr std::chrono::microseconds kLook{20};

void copy_through_caches(const char* from, char* to, size_t bytes) {
  for (size_t at = 0; at < bytes; at += kCopied)
    std::memcpy(to + at, from + at, std::min(kCopied, bytes - at));
}

}  // namespace

bool Ranges::contain(const void* at, size_t bytes) const {
  const char* p = static_cast<const char*>(at);
  auto piece = pieces_.upper_bound(p);
  if (piece == pieces_.begin()) return false;
  --piece;
  const size_t offset = static_cast<size_t>(p - piece->first);
  return offset <= piece->second && bytes <= piece->second - offset;
}

Result<std::unique_ptr<Staging>> Staging::create(int threads, Backend& backend, Streams& streams) {
  std::unique_ptr<Staging> staging(new Staging(streams));
  MOEBIUS_ASSIGN(staging->memory_, backend.alloc_pinned(kChunks * (kChunkBytes + 2 * kFlagBytes)));
  char* at = staging->memory_.as<char>();
  for (Chunk& chunk : staging->chunks_) {
    chunk.memory = at, at += kChunkBytes;
    chunk.host = new (at) Flag(0), at += kFlagBytes;
    chunk.device = new (at) Flag(0), at += kFlagBytes;
  }
  for (int i = 0; i < threads; ++i) staging->threads_.emplace_back([s = staging.get()] { s->work(); });
  return staging;
}

Staging::~Staging() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

Staging::Piece Staging::begin(Stream stream, size_t bytes) {
  Chunk& chunk = chunks_[pieces_ % kChunks];
  const Piece piece{&chunk, chunk.last, ++pieces_, nullptr, nullptr, std::min(bytes, kChunkBytes)};
  chunk.last = piece.number;
  streams_.await_on(stream, *chunk.host, piece.number);
  return piece;
}

void Staging::queue(const Piece& piece) {
  {
    const std::lock_guard lock(mutex_);
    queue_.push_back(piece);
  }
  changed_.notify_all();
}

void Staging::to_device(Stream stream, const void* from, void* to, size_t bytes) {
  const char* source = static_cast<const char*>(from);
  for (char* target = static_cast<char*>(to); bytes > 0;) {
    Piece piece = begin(stream, bytes);
    streams_.copy_pinned(stream, piece.chunk->memory, target, piece.bytes);
    streams_.raise_on(stream, *piece.chunk->device, piece.number);
    piece.from = source;
    queue(piece);
    source += piece.bytes, target += piece.bytes, bytes -= piece.bytes;
  }
}

void Staging::to_host(Stream stream, const void* from, void* to, size_t bytes) {
  char* target = static_cast<char*>(to);
  for (const char* source = static_cast<const char*>(from); bytes > 0;) {
    Piece piece = begin(stream, bytes);
    streams_.copy_pinned(stream, source, piece.chunk->memory, piece.bytes);
    streams_.raise_on(stream, *piece.chunk->device, piece.number);
    piece.to = target;
    queue(piece);
    source += piece.bytes, target += piece.bytes, bytes -= piece.bytes;
  }
}

void Staging::finish() {
  // A device that failed may have left some out.
  for (const Chunk& chunk : chunks_)
    if (chunk.device->load(std::memory_order_acquire) < chunk.last)
      chunk.device->store(chunk.last, std::memory_order_release);
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return queue_.empty() && moving_ == 0; });
}

bool Staging::next_may_begin() const {
  return !queue_.empty() && !to_host_ && (queue_.front().to == nullptr || moving_ == 0);
}

void Staging::work() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [&] { return stop_ || next_may_begin(); });
    if (stop_) return;
    const Piece piece = queue_.front();
    queue_.pop_front();
    ++moving_, to_host_ = piece.to != nullptr;
    lock.unlock();
    move(piece);
    lock.lock();
    --moving_, to_host_ = false;
    changed_.notify_all();
  }
}

void Staging::move(const Piece& piece) {
  const Chunk& chunk = *piece.chunk;
  if (!reached(*chunk.device, piece.before)) return;
  if (piece.from) copy_through_caches(piece.from, chunk.memory, piece.bytes);
  chunk.host->store(piece.number, std::memory_order_release);
  chunk.host->notify_all();
  if (piece.to && reached(*chunk.device, piece.number))
    copy_through_caches(chunk.memory, piece.to, piece.bytes);
}

// The device's own write wakes nobody, and cores have better to do than to look all the time.
bool Staging::reached(const Flag& flag, uint64_t value) const {
  while (flag.load(std::memory_order_acquire) < value) {
    if (stop_) return false;
    std::this_thread::sleep_for(kLook);
  }
  return true;
}

}  // namespace moebius
