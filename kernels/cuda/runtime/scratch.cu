#include "kernels/cuda/runtime/scratch.h"

#include <algorithm>
#include <cstring>

namespace moebius::cuda {
namespace {

constexpr int64_t kAlign = 256;

}  // namespace

DeviceScratch::~DeviceScratch() {
  for (const Block& block : blocks_) cudaFree(block.at);
}

bool DeviceScratch::add_block(int64_t bytes) {
  void* at = nullptr;
  if (!failure_.ok(cudaMalloc(&at, static_cast<size_t>(bytes)), "taking scratch memory")) return false;
  blocks_.push_back({static_cast<char*>(at), bytes, 0});
  return true;
}

Status DeviceScratch::create(int64_t bytes) {
  most_used_ = bytes;
  add_block(bytes);
  return failure_.first();
}

void* DeviceScratch::take(int64_t bytes) {
  const int64_t size = std::max(kAlign, (bytes + kAlign - 1) / kAlign * kAlign);
  const auto holds = [&](const Block& block) { return block.bytes - block.used >= size; };
  auto block = std::find_if(blocks_.begin(), blocks_.end(), holds);
  if (block == blocks_.end()) {
    if (!add_block(size)) return nullptr;
    block = blocks_.end() - 1;
  }
  block->used += size;
  most_used_ = std::max(most_used_, used_ += size);
  return block->at + block->used - size;
}

void DeviceScratch::reset() {
  used_ = 0;
  for (Block& block : blocks_) block.used = 0;
}

void DeviceScratch::merge() {
  if (blocks_.size() <= 1) return;
  for (const Block& block : blocks_) cudaFree(block.at);
  blocks_.clear(), used_ = 0;
  add_block(most_used_);
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
