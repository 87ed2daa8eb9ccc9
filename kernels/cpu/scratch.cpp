#include <algorithm>

#include "kernels/cpu/host.h"

namespace moebius {

void* Scratch::take_bytes(size_t bytes) {
  constexpr size_t kAlign = 64, kFirstBlock = size_t{1} << 20;
  const size_t need = (bytes + kAlign - 1) / kAlign * kAlign;
  MOEBIUS_CHECK(need >= bytes, "scratch: the size overflows");
  const bool fits = block_ < blocks_.size() && blocks_[block_].bytes() - used_ >= need;
  if (!fits) {
    // Everything behind the current block is free, and so is a block of which nothing is used: such a block
    // grows in place, so that a step's frames settle into as few blocks as they need.
    if (used_ > 0) ++block_, used_ = 0;
    if (block_ == blocks_.size() || blocks_[block_].bytes() < need) {
      const size_t last = block_ > 0 ? blocks_[block_ - 1].bytes() : kFirstBlock / 2;
      const size_t size = std::max(need, 2 * last);
      if (block_ < blocks_.size()) blocks_[block_].reset();
      Result<Buffer> block = Buffer::host(size);
      if (!block.ok() && size > need) block = Buffer::host(need);
      MOEBIUS_CHECK(block.ok(), block.status().message());
      if (block_ == blocks_.size())
        blocks_.push_back(std::move(*block));
      else
        blocks_[block_] = std::move(*block);
    }
  }
  char* at = blocks_[block_].as<char>() + used_;
  used_ += need;
  return at;
}

}  // namespace moebius
