// How long the streams of a CUDA device take, by events whose times are asked for once a stream is idle:
// spans for a Tracer, with an event before and after each piece of work, which take time of their own, so
// that there are none without a tracer; and sums of a few longer parts. It has not run on a GPU yet.
#pragma once

#include <array>
#include <atomic>
#include <vector>

#include "kernels/backend.h"
#include "kernels/cuda/runtime/failure.h"

namespace moebius::cuda {

class StreamTrace {
 public:
  using Streams = std::array<cudaStream_t, kStreams>;
  StreamTrace(Failure& failure, const Streams& streams) : failure_(failure), streams_(streams) {}
  ~StreamTrace();
  StreamTrace(const StreamTrace&) = delete;
  StreamTrace& operator=(const StreamTrace&) = delete;

  void start(Tracer* tracer);  // while the streams are idle; null: tells nobody
  // Around what is queued; without a tracer they do nothing. name: as of Tracer::Span.
  void begin(Stream stream);
  void end(Stream stream, const char* name);
  void tell();  // while the streams are idle: all that has ended
  // As Backend's.
  void begin_timing(Stream stream);
  void end_timing(Stream stream, std::atomic<int64_t>& ns);
  void add_times(Stream stream);  // while it is idle

  class Piece {
   public:
    Piece(StreamTrace& trace, Stream stream, const char* name) : trace_(trace), stream_(stream), name_(name) {
      trace_.begin(stream_);
    }
    ~Piece() { trace_.end(stream_, name_); }
    Piece(const Piece&) = delete;
    Piece& operator=(const Piece&) = delete;

   private:
    StreamTrace& trace_;
    const Stream stream_;
    const char* const name_;
  };

 private:
  struct Work {
    Stream stream;
    const char* name;
    cudaEvent_t begin, end;
  };
  struct Timed {
    cudaEvent_t begin, end;
    std::atomic<int64_t>* ns;
  };
  cudaEvent_t record(Stream stream);  // null after a failure
  void set_reference();

  Failure& failure_;
  const Streams& streams_;
  Tracer* tracer_ = nullptr;
  cudaEvent_t reference_ = nullptr;  // when the host's clock showed reference_time_
  Tracer::Clock::time_point reference_time_;
  std::array<cudaEvent_t, kStreams> begun_{};
  std::vector<Work> ended_;
  std::array<cudaEvent_t, kStreams> timing_{};
  std::array<std::vector<Timed>, kStreams> timed_;
  std::vector<cudaEvent_t> free_;
};

}  // namespace moebius::cuda
