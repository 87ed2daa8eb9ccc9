// Many tokens in pieces, so that an operation's scratch does not grow with them.
#pragma once

#include <algorithm>

#include "kernels/cuda/context.h"

namespace moebius::cuda {

// Calls piece(first, count) for all of n tokens, in as few pieces of about one length as the scratch allows.
// A piece takes fixed_bytes and, for each of its tokens, token_bytes; it finds nothing there of the one
// before.
template <class Piece>
void in_pieces(Context& context, int64_t n, int64_t fixed_bytes, int64_t token_bytes, const Piece& piece) {
  const int64_t room = context.scratch_bytes() - fixed_bytes;
  const int64_t most = std::clamp<int64_t>(room / std::max<int64_t>(1, token_bytes), 1, n);
  const int64_t each = blocks_for(n, blocks_for(n, most));
  for (int64_t first = 0; first < n; first += each) {
    if (first > 0) context.reuse_scratch();
    piece(first, std::min(each, n - first));
  }
}

// What alignment may add to so many pieces of memory.
inline constexpr int64_t scratch_slack(int64_t takes) { return 256 * takes; }

}  // namespace moebius::cuda
