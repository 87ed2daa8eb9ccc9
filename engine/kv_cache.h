// KvCache: pages of cached keys and values, shared by the sequences of one model.
//
// A page holds kPageTokens positions of every layer. Memory is [layers][pages][kPageTokens][width] in one
// allocation made at the start; sequences take pages as they grow and give them back.
#pragma once

#include <vector>

#include "kernels/backend.h"
#include "models/config.h"

namespace moebius {

inline constexpr int64_t kPageTokens = 64;

// The pages of one timeline; positions [0, pages.size() * kPageTokens) can be written.
struct PageTable {
  std::vector<int32_t> pages;
};

class KvCache {
 public:
  // tokens: positions in total, rounded up to whole pages. dtype: kF32, kBF16 or kI8.
  static Result<KvCache> create(const ModelConfig& config, DType dtype, int64_t tokens, Backend& backend) {
    return create(config, config.layers, dtype, tokens, backend);
  }
  // With memory for `layers` layers; layer l is at l % layers. One is enough where no layer looks back, as in
  // training.
  static Result<KvCache> create(const ModelConfig& config, int64_t layers, DType dtype, int64_t tokens,
                                Backend& backend);

  // What create() takes for all layers; kNoMemory when that is no number of bytes.
  static Result<int64_t> bytes(const ModelConfig& config, int64_t layers, DType dtype, int64_t tokens);

  // Grows the table to hold `tokens` positions. kNoMemory when no page is free: the table is as before.
  Status reserve(PageTable& table, int64_t tokens);
  void release(PageTable& table);

  CacheView view(const PageTable& table, int64_t layer) const;
  DType dtype() const { return dtype_; }
  int64_t width() const { return width_; }
  int64_t row_bytes() const { return cache_row_bytes(dtype_, width_); }
  int64_t bytes_per_token() const { return layers_ * row_bytes(); }

 private:
  Buffer memory_;
  DType dtype_ = DType::kF32;
  int64_t layers_ = 0, width_ = 0, pages_ = 0;
  std::vector<int32_t> free_;  // the last one is handed out next
};

}  // namespace moebius
