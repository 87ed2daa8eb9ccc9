// Staging: the way between a device and memory of the host that is not pinned, such as mapped weights.
//
// Drivers copy beside the caller only from and to pinned memory; for any other the calling thread would stand
// still. So these copies go in pieces through a few chunks of pinned memory, taken at the start, which
// threads of the host fill and empty. The caller only queues:
//
//   to the device     a thread waits until the chunk is free, fills it, and raises its `host` flag;
//                     the stream waits for that, copies, and raises its `device` flag: the chunk is free
//   to the host       a thread waits until the chunk is free, and raises `host`;
//                     the stream waits for that, copies, and raises `device`;
//                     the thread waits for that, and empties the chunk
//
// Threads begin pieces in the order of the calls, and a piece to the host ends before the next begins: so
// the host's memory sees copies in that order, of whatever streams, and each piece waits for earlier calls
// alone, never in a circle. An error of the device raises its flags all the same; what was on its way to the
// host then may be anything.
//
// Registering the mapping with the driver (cudaHostRegister, read only) would save the copy into the chunk,
// but holds all of the file in RAM, where experts on disk and the residents' released copies are to leave it,
// takes long for hundreds of GB, and is refused by some systems and file systems; and there would be two
// ways. The chunks together are small enough to stay in a processor's last cache: of RAM, staging costs the
// one read that a copy by the link would cost.
#pragma once

#include <array>
#include <condition_variable>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "kernels/backend.h"

namespace moebius {

// Pieces of memory that were handed out.
class Ranges {
 public:
  void add(const void* at, size_t bytes) { pieces_[static_cast<const char*>(at)] = bytes; }
  void remove(const void* at) { pieces_.erase(static_cast<const char*>(at)); }
  bool contain(const void* at, size_t bytes) const;

 private:
  std::map<const char*, size_t> pieces_;
};

inline constexpr int64_t kStagingBytes = int64_t{8} << 20;  // pinned, of a device

class Staging {
 public:
  // What it asks of the device, in order on each stream. Flags also after an error.
  class Streams {
   public:
    virtual ~Streams() = default;
    virtual void copy_pinned(Stream stream, const void* from, void* to, size_t bytes) = 0;
    virtual void raise_on(Stream stream, Flag& flag, uint64_t value) = 0;
    virtual void await_on(Stream stream, Flag& flag, uint64_t value) = 0;
  };

  // backend: of the pinned memory. Both must outlive it. kNoMemory.
  static Result<std::unique_ptr<Staging>> create(int threads, Backend& backend, Streams& streams);
  // The streams must be idle. What has not come to the host yet does not come any more.
  ~Staging();

  // Queues a copy; the host's side must stay as it is until finish(). From one thread at a time.
  void to_device(Stream stream, const void* from, void* to, size_t bytes);
  void to_host(Stream stream, const void* from, void* to, size_t bytes);
  // Once the streams are idle: returns when everything has arrived.
  void finish();

 private:
  static constexpr size_t kChunks = 8, kChunkBytes = static_cast<size_t>(kStagingBytes) / kChunks;
  struct Chunk {
    char* memory = nullptr;
    Flag *host = nullptr, *device = nullptr;  // the last piece that each side is done with
    uint64_t last = 0;                        // piece
  };
  struct Piece {
    const Chunk* chunk;
    uint64_t before, number;  // of the chunk's last piece, and its own
    const char* from;         // null: the chunk
    char* to;                 // null: the chunk
    size_t bytes;
  };
  explicit Staging(Streams& streams) : streams_(streams) {}
  Piece begin(Stream stream, size_t bytes);
  void queue(const Piece& piece);
  bool next_may_begin() const;
  void work();
  void move(const Piece& piece);
  bool reached(const Flag& flag, uint64_t value) const;  // waits; false: it is over

  Streams& streams_;
  Buffer memory_;
  std::array<Chunk, kChunks> chunks_;
  uint64_t pieces_ = 0;

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Piece> queue_;
  int moving_ = 0;
  bool to_host_ = false;  // the piece that is moving
  std::atomic<bool> stop_{false};
  std::vector<std::thread> threads_;
};

}  // namespace moebius
