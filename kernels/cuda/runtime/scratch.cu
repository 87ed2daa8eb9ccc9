#include "kernels/cuda/runtime/scratch.h"

#include <algorithm>
#include <cstring>

namespace moebius::cuda {
namespace {

constexpr int64_t kAlign = 256;
constexpr int64_t kLeastBlock = int64_t{16} << 20;

}  // namespace

DeviceScratch::~DeviceScratch() {
  for (const Block& block : blocks_) cudaFree(block.at);
}

void* DeviceScratch::take(int64_t bytes) {
  const int64_t size = std::max(kAlign, (bytes + kAlign - 1) / kAlign * kAlign);
  for (Block& block : blocks_) {
    if (block.bytes - block.used < size) continue;
    block.used += size;
    return block.at + block.used - size;
  }
  Block block{nullptr, std::max(size, kLeastBlock), size};
  void* at = nullptr;
  if (!failure_.ok(cudaMalloc(&at, static_cast<size_t>(block.bytes)), "taking scratch memory"))
    return nullptr;
  block.at = static_cast<char*>(at);
  blocks_.push_back(block);
  return at;
}

void DeviceScratch::reset() {
  for (Block& block : blocks_) block.used = 0;
}

UploadRing::~UploadRing() {
  for (cudaEvent_t event : copied_)
    if (event) cudaEventDestroy(event);
  cudaFreeHost(memory_);
}

Status UploadRing::create() {
  void* at = nullptr;
  failure_.ok(cudaHostAlloc(&at, kPartBytes * kParts, cudaHostAllocPortable), "taking pinned memory");
  memory_ = static_cast<char*>(at);
  for (cudaEvent_t& event : copied_)
    failure_.ok(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "making an event");
  return failure_.first();
}

void UploadRing::copy(const void* from, void* to, int64_t bytes, cudaStream_t stream) {
  const char* source = static_cast<const char*>(from);
  char* target = static_cast<char*>(to);
  while (bytes > 0) {
    if (used_ == kPartBytes) {
      failure_.ok(cudaEventRecord(copied_[part_], stream), "an upload");
      part_ = (part_ + 1) % kParts, used_ = 0;
      failure_.ok(cudaEventSynchronize(copied_[part_]), "an upload");  // of its last round
    }
    const int64_t piece = std::min(bytes, kPartBytes - used_);
    char* pinned = memory_ + static_cast<int64_t>(part_) * kPartBytes + used_;
    std::memcpy(pinned, source, static_cast<size_t>(piece));
    failure_.ok(cudaMemcpyAsync(target, pinned, static_cast<size_t>(piece), cudaMemcpyHostToDevice, stream),
                "an upload");
    used_ += piece, source += piece, target += piece, bytes -= piece;
  }
}

}  // namespace moebius::cuda
