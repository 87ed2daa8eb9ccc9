// Writing a checkpoint that takes minutes: how far it is, and whether it is to go on.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>

#include "models/safetensors.h"

namespace moebius {

class WriteProgress {
 public:
  // progress, which outlives this, is called with bytes written and in total (it may be empty); false from it
  // cancels.
  using Progress = std::function<bool(int64_t done, int64_t total)>;
  WriteProgress(const Progress& progress, int64_t total) : progress_(progress), total_(total) {}

  int64_t total() const { return total_; }

  // Appends bytes, a piece at a time. kCancelled: progress said so.
  Status put(const void* data, int64_t bytes, SafetensorsWriter& writer) {
    for (int64_t begin = 0; begin < bytes; begin += kPieceBytes) {
      const int64_t piece = std::min(kPieceBytes, bytes - begin);
      MOEBIUS_TRY(writer.append(static_cast<const char*>(data) + begin, static_cast<size_t>(piece)));
      done_ += piece;
      if (progress_ && !progress_(done_, total_)) return {Code::kCancelled, "cancelled"};
    }
    return Status();
  }

 private:
  static constexpr int64_t kPieceBytes = 16 << 20;
  const Progress& progress_;
  int64_t done_ = 0, total_ = 0;
};

}  // namespace moebius
