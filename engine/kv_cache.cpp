#include "engine/kv_cache.h"

#include <algorithm>

#include <fmt/format.h>

#include "kernels/mapped.h"

namespace moebius {

Result<KvCache> KvCache::create(const ModelConfig& config, int64_t layers, DType dtype, int64_t tokens,
                                Backend& backend) {
  KvCache cache;
  cache.dtype_ = dtype;
  cache.layers_ = layers;
  cache.width_ = config.cache_width();
  cache.backend_ = &backend;
  cache.pages_ = pages_of(tokens);
  MOEBIUS_ASSIGN(const int64_t size, bytes(config, layers, dtype, tokens));
  MOEBIUS_ASSIGN(cache.memory_, backend.alloc(static_cast<size_t>(size)));
  // Attention walks megabytes of every layer for each token: from large pages in nine tenths of the time.
  if (cache.memory_.space() == Space::kHost) prefer_large_pages(cache.memory_.data(), cache.memory_.bytes());
  for (int64_t page = cache.pages_ - 1; page >= 0; --page) cache.free_.push_back(static_cast<int32_t>(page));
  cache.users_.resize(static_cast<size_t>(cache.pages_));
  return cache;
}

Result<int64_t> KvCache::bytes(const ModelConfig& config, int64_t layers, DType dtype, int64_t tokens) {
  const int64_t rows = pages_of(tokens) * kPageTokens * layers;
  int64_t bytes = 0;
  if (!checked_mul(rows, cache_row_bytes(dtype, config.cache_width()), &bytes))
    return no_memory(fmt::format("a cache of {} tokens is too large; lower --ctx-size", tokens));
  return bytes;
}

int64_t KvCache::pages_to_reserve(const PageTable& table, int64_t first, int64_t tokens) const {
  const int64_t held = std::ssize(table.pages);
  int64_t count = std::max<int64_t>(0, pages_of(tokens) - held);
  for (int64_t i = first / kPageTokens; i < std::min(held, pages_of(tokens)); ++i)
    count += users(table.pages[static_cast<size_t>(i)]) > 1;
  return count;
}

Status KvCache::reserve(PageTable& table, int64_t first, int64_t tokens) {
  if (pages_to_reserve(table, first, tokens) > free_pages()) {
    return no_memory(
        fmt::format("the cache is full: {} tokens asked for, {} pages of {} tokens left; raise --parallel or "
                    "--ctx-size",
                    tokens, free_.size(), kPageTokens));
  }
  const auto take = [&] {
    const int32_t page = free_.back();
    free_.pop_back();
    hold(page);
    return page;
  };
  const int64_t needed = pages_of(tokens);
  for (int64_t i = first / kPageTokens; i < std::min(std::ssize(table.pages), needed); ++i) {
    int32_t& page = table.pages[static_cast<size_t>(i)];
    if (users(page) == 1) continue;
    const int32_t own = take();
    copy_rows(page, own, std::max<int64_t>(0, first - i * kPageTokens));
    drop(page);
    page = own;
  }
  while (std::ssize(table.pages) < needed) table.pages.push_back(take());
  return Status();
}

void KvCache::copy_rows(int32_t from, int32_t to, int64_t rows) {
  for (int64_t layer = 0; layer < layers_ && rows > 0; ++layer)
    backend_->copy_bytes(Stream::kCompute, rows_of(from, layer), rows_of(to, layer),
                         static_cast<size_t>(rows * row_bytes()));
}

Status KvCache::read_page(int32_t page, std::span<char> to) const {
  const int64_t bytes = kPageTokens * row_bytes();
  MOEBIUS_CHECK(std::ssize(to) == page_bytes());
  for (int64_t layer = 0; layer < layers_; ++layer)
    backend_->copy_bytes(Stream::kCompute, rows_of(page, layer), to.data() + layer * bytes,
                         static_cast<size_t>(bytes));
  return backend_->sync();
}

Status KvCache::write_page(int32_t page, std::span<const char> from) {
  const int64_t bytes = kPageTokens * row_bytes();
  MOEBIUS_CHECK(std::ssize(from) == page_bytes());
  for (int64_t layer = 0; layer < layers_; ++layer)
    backend_->copy_bytes(Stream::kCompute, from.data() + layer * bytes, rows_of(page, layer),
                         static_cast<size_t>(bytes));
  return backend_->sync();
}

void KvCache::share(std::span<const int32_t> pages, PageTable& table) {
  for (const int32_t page : pages) hold(page);
  table.pages.insert(table.pages.end(), pages.begin(), pages.end());
}

void KvCache::drop(int32_t page) {
  MOEBIUS_CHECK(users(page) > 0);
  if (--users_[static_cast<size_t>(page)] == 0) free_.push_back(page);
}

void KvCache::release(PageTable& table) {
  for (size_t i = table.pages.size(); i > 0; --i) drop(table.pages[i - 1]);
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
