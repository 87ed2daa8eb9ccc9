#include "server/chunk_guard.h"

#include <algorithm>

namespace moebius {

namespace {

constexpr int kDigits = 8;

int hex_value(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

}  // namespace

bool ChunkGuard::take(std::string_view bytes) {
  while (!bytes.empty() && state_ != State::kBad && state_ != State::kDone) {
    if (state_ == State::kData) {
      const size_t n = std::min<uint64_t>(left_, bytes.size());
      left_ -= n;
      bytes.remove_prefix(n);
      if (left_ == 0) state_ = State::kDataCr;
    } else {
      state_ = next(bytes.front());
      bytes.remove_prefix(1);
    }
  }
  return state_ != State::kBad;
}

ChunkGuard::State ChunkGuard::next(char c) {
  const auto only = [c](char wanted, State then) { return c == wanted ? then : State::kBad; };
  switch (state_) {
    case State::kSize:
      if (c == '\r') return digits_ > 0 ? State::kSizeEnd : State::kBad;
      if (hex_value(c) < 0 || ++digits_ > kDigits) return State::kBad;
      left_ = left_ * 16 + static_cast<uint64_t>(hex_value(c));
      return State::kSize;
    case State::kSizeEnd:
      digits_ = 0;
      return only('\n', left_ == 0 ? State::kEndCr : State::kData);
    case State::kDataCr:
      return only('\r', State::kDataLf);
    case State::kDataLf:
      return only('\n', State::kSize);
    case State::kEndCr:
      return only('\r', State::kEndLf);
    case State::kEndLf:
      return only('\n', State::kDone);
    default:
      return state_;
  }
}

}  // namespace moebius
