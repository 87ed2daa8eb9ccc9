// ChunkGuard: checks the framing of a chunked body as its bytes go by, before the HTTP library reads them:
// the library takes for a size whatever strtoul does, and lines that end in LF alone.
//
// Taken is RFC 9112, section 7.1, without what nobody sends and attacks are made of: extensions of chunks and
// trailers are refused, and so is a size of more than eight digits.
#pragma once

#include <cstdint>
#include <string_view>

namespace moebius {

class ChunkGuard {
 public:
  // The next bytes; false once they are malformed. What follows the last chunk is not looked at.
  bool take(std::string_view bytes);

 private:
  enum class State : uint8_t { kSize, kSizeEnd, kData, kDataCr, kDataLf, kEndCr, kEndLf, kDone, kBad };
  State next(char c);

  State state_ = State::kSize;
  int digits_ = 0;
  uint64_t left_ = 0;  // of the chunk
};

}  // namespace moebius
