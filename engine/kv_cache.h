// KvCache: pages of cached keys and values, shared by the sequences of one model.
//
// A page holds kPageTokens positions of every layer. Memory is [layers][pages][kPageTokens][width] in one
// allocation made at the start; sequences take pages as they grow and give them back. A page may stand in
// several tables, whose timelines begin alike, and is only read then: whoever is to write into it gets a copy
// first (reserve). A page is free again when the last table gave it back.
#pragma once

#include <span>
#include <vector>

#include "kernels/backend.h"
#include "models/config.h"

namespace moebius {

inline constexpr int64_t kPageTokens = 64;
constexpr int64_t pages_of(int64_t tokens) { return (tokens + kPageTokens - 1) / kPageTokens; }

// The pages of one timeline; positions [0, pages.size() * kPageTokens) can be written.
struct PageTable {
  std::vector<int32_t> pages;
};

class KvCache {
 public:
  // tokens: positions in total, rounded up to whole pages. dtype: kF32, kBF16 or kI8. The backend outlives
  // it.
  static Result<KvCache> create(const ModelConfig& config, DType dtype, int64_t tokens, Backend& backend) {
    return create(config, config.layers, dtype, tokens, backend);
  }
  // With memory for `layers` layers; layer l is at l % layers. One is enough where no layer looks back, as in
  // training.
  static Result<KvCache> create(const ModelConfig& config, int64_t layers, DType dtype, int64_t tokens,
                                Backend& backend);

  // What create() takes for all layers; kNoMemory when that is no number of bytes.
  static Result<int64_t> bytes(const ModelConfig& config, int64_t layers, DType dtype, int64_t tokens);

  // Makes positions [first, tokens) ready to be written: the table grows to hold them, and a page that others
  // have too is replaced by a copy of its positions before `first`, queued on the backend's compute stream.
  // Nothing queued may still read the table. kNoMemory when too few pages are free: the table is as before.
  Status reserve(PageTable& table, int64_t first, int64_t tokens);
  // Pages that reserve() would take.
  int64_t pages_to_reserve(const PageTable& table, int64_t first, int64_t tokens) const;
  // Ends the table with further pages that stand in another one, or that hold() holds.
  void share(std::span<const int32_t> pages, PageTable& table);
  void release(PageTable& table);

  // One user more, or less, of a page, that stands in no table for that.
  void hold(int32_t page) { ++users_[static_cast<size_t>(page)]; }
  void drop(int32_t page);
  int32_t users(int32_t page) const { return users_[static_cast<size_t>(page)]; }
  int64_t pages() const { return pages_; }
  int64_t free_pages() const { return std::ssize(free_); }

  // A page's bytes [layers][kPageTokens][row_bytes], to and from the host's memory, when all that was queued
  // on the backend is done; its first error.
  int64_t page_bytes() const { return kPageTokens * bytes_per_token(); }
  Status read_page(int32_t page, std::span<char> to) const;
  Status write_page(int32_t page, std::span<const char> from);

  CacheView view(const PageTable& table, int64_t layer) const;
  DType dtype() const { return dtype_; }
  int64_t width() const { return width_; }
  int64_t row_bytes() const { return cache_row_bytes(dtype_, width_); }
  int64_t bytes_per_token() const { return layers_ * row_bytes(); }

 private:
  void copy_rows(int32_t from, int32_t to, int64_t rows);
  char* rows_of(int32_t page, int64_t layer) const {
    return memory_.as<char>() + (layer * pages_ + page) * kPageTokens * row_bytes();
  }

  Backend* backend_ = nullptr;
  Buffer memory_;
  DType dtype_ = DType::kF32;
  int64_t layers_ = 0, width_ = 0, pages_ = 0;
  std::vector<int32_t> free_;   // the last one is handed out next
  std::vector<int32_t> users_;  // of each page: tables it stands in, and holds
};

}  // namespace moebius
