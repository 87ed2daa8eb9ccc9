#include "kernels/cuda/runtime/stream_trace.h"

#include <chrono>

namespace moebius::cuda {

StreamTrace::~StreamTrace() {
  for (const Work& work : ended_) free_.push_back(work.begin), free_.push_back(work.end);
  for (const auto* open : {&begun_, &timing_}) free_.insert(free_.end(), open->begin(), open->end());
  for (const std::vector<Timed>& parts : timed_)
    for (const Timed& part : parts) free_.push_back(part.begin), free_.push_back(part.end);
  free_.push_back(reference_);
  for (cudaEvent_t event : free_)
    if (event) cudaEventDestroy(event);
}

cudaEvent_t StreamTrace::record(Stream stream) {
  cudaEvent_t event = nullptr;
  if (!free_.empty()) {
    event = free_.back();
    free_.pop_back();
  } else if (!failure_.ok(cudaEventCreate(&event), "making an event")) {
    return nullptr;
  }
  failure_.ok(cudaEventRecord(event, streams_[static_cast<size_t>(stream)]), "recording an event");
  return event;
}

// Anew at every tell(): milliseconds since the reference are float32, and the two clocks drift apart.
void StreamTrace::set_reference() {
  if (reference_) free_.push_back(reference_);
  reference_ = record(Stream::kCompute);
  if (reference_) failure_.ok(cudaEventSynchronize(reference_), "an event");
  reference_time_ = Tracer::Clock::now();
}

void StreamTrace::start(Tracer* tracer) {
  tell();
  tracer_ = tracer;
  if (tracer_) set_reference();
}

void StreamTrace::begin(Stream stream) {
  if (tracer_) begun_[static_cast<size_t>(stream)] = record(stream);
}

void StreamTrace::end(Stream stream, const char* name) {
  cudaEvent_t& begun = begun_[static_cast<size_t>(stream)];
  if (!begun) return;
  if (cudaEvent_t ended = record(stream)) ended_.push_back({stream, name, begun, ended});
  begun = nullptr;
}

void StreamTrace::begin_timing(Stream stream) { timing_[static_cast<size_t>(stream)] = record(stream); }

void StreamTrace::end_timing(Stream stream, std::atomic<int64_t>& ns) {
  cudaEvent_t& begun = timing_[static_cast<size_t>(stream)];
  if (!begun) return;
  if (cudaEvent_t ended = record(stream)) timed_[static_cast<size_t>(stream)].push_back({begun, ended, &ns});
  begun = nullptr;
}

void StreamTrace::add_times(Stream stream) {
  std::vector<Timed>& parts = timed_[static_cast<size_t>(stream)];
  for (const Timed& part : parts) {
    float ms = 0;
    if (failure_.first().ok()) failure_.ok(cudaEventElapsedTime(&ms, part.begin, part.end), "an event");
    *part.ns += static_cast<int64_t>(1e6 * static_cast<double>(ms));
    free_.push_back(part.begin), free_.push_back(part.end);
  }
  parts.clear();
}

void StreamTrace::tell() {
  for (const Stream stream : {Stream::kCompute, Stream::kLoad}) add_times(stream);
  if (!tracer_) return;
  const auto time = [&](cudaEvent_t event) {
    float ms = 0;
    if (failure_.first().ok()) failure_.ok(cudaEventElapsedTime(&ms, reference_, event), "an event");
    const std::chrono::duration<double, std::milli> since(ms);
    return reference_time_ + std::chrono::duration_cast<Tracer::Clock::duration>(since);
  };
  for (const Work& work : ended_) {
    const Tracer::Row row = work.stream == Stream::kCompute ? Tracer::Row::kCompute : Tracer::Row::kLoad;
    const Tracer::Span span{row, work.name, -1, time(work.begin), time(work.end)};
    if (failure_.first().ok()) tracer_->add(span);
    free_.push_back(work.begin), free_.push_back(work.end);
  }
  ended_.clear();
  if (failure_.first().ok()) set_reference();
}

}  // namespace moebius::cuda
