#include "engine/kv_cache.h"

#include <fmt/format.h>

namespace moebius {

Result<KvCache> KvCache::create(const ModelConfig& config, int64_t layers, DType dtype, int64_t tokens,
                                Backend& backend) {
  KvCache cache;
  cache.dtype_ = dtype;
  cache.layers_ = layers;
  cache.width_ = config.cache_width();
  cache.pages_ = (tokens + kPageTokens - 1) / kPageTokens;
  MOEBIUS_ASSIGN(const int64_t size, bytes(config, layers, dtype, tokens));
  MOEBIUS_ASSIGN(cache.memory_, backend.alloc(static_cast<size_t>(size)));
  for (int64_t page = cache.pages_ - 1; page >= 0; --page) cache.free_.push_back(static_cast<int32_t>(page));
  return cache;
}

Result<int64_t> KvCache::bytes(const ModelConfig& config, int64_t layers, DType dtype, int64_t tokens) {
  const int64_t rows = (tokens + kPageTokens - 1) / kPageTokens * kPageTokens * layers;
  int64_t bytes = 0;
  if (!checked_mul(rows, cache_row_bytes(dtype, config.cache_width()), &bytes))
    return no_memory(fmt::format("a cache of {} tokens is too large; lower --ctx-size", tokens));
  return bytes;
}

Status KvCache::reserve(PageTable& table, int64_t tokens) {
  const size_t needed = static_cast<size_t>((tokens + kPageTokens - 1) / kPageTokens);
  if (needed > table.pages.size() + free_.size()) {
    return no_memory(
        fmt::format("the cache is full: {} tokens asked for, {} pages of {} tokens left; raise --parallel or "
                    "--ctx-size",
                    tokens, free_.size(), kPageTokens));
  }
  while (table.pages.size() < needed) {
    table.pages.push_back(free_.back());
    free_.pop_back();
  }
  return Status();
}

void KvCache::release(PageTable& table) {
  free_.insert(free_.end(), table.pages.rbegin(), table.pages.rend());
  table.pages.clear();
}

CacheView KvCache::view(const PageTable& table, int64_t layer) const {
  CacheView view;
  const int64_t layer_bytes = pages_ * kPageTokens * row_bytes();
  view.base = memory_.as<char>() + layer % layers_ * layer_bytes;
  view.dtype = dtype_;
  view.space = memory_.space();
  view.width = width_;
  view.page_tokens = kPageTokens;
  view.pages = table.pages.data();
  view.capacity = static_cast<int64_t>(table.pages.size()) * kPageTokens;
  return view;
}

}  // namespace moebius
