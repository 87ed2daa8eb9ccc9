#include "engine/disk_tier.h"

#include <algorithm>

#include "kernels/mapped.h"

namespace moebius {
namespace {

constexpr int64_t kFewTokens =
    16;  // of a step of decoding; what many tokens choose says little about the next

template <class Advise>
void each_part(const ExpertWeights& expert, const Advise& advise) {
  for (const Matrix* w : {&expert.gate, &expert.up, &expert.down}) {
    const int64_t data = w->rows * w->row_bytes();
    advise(w->data, static_cast<size_t>(data));
    if (w->scales) advise(w->scales, static_cast<size_t>(w->bytes() - data));
  }
}

std::vector<int32_t> distinct(const Tensor& ids) {
  std::vector<int32_t> all(ids.i32(), ids.i32() + ids.numel());
  std::ranges::sort(all);
  const auto repeated = std::ranges::unique(all);
  all.erase(repeated.begin(), repeated.end());
  if (!all.empty() && all.front() < 0) all.erase(all.begin());
  return all;
}

}  // namespace

void will_need(const ExpertWeights& expert) {
  each_part(expert, [](const void* data, size_t bytes) { will_need(data, bytes); });
}

void give_up(const ExpertWeights& expert) {
  each_part(expert, [](const void* data, size_t bytes) { give_up(data, bytes); });
}

void DiskTier::chosen(int64_t layer, const Tensor& ids, const std::vector<ExpertWeights>& here) {
  const size_t l = static_cast<size_t>(layer);
  std::vector<int32_t> now = distinct(ids);
  std::erase_if(now, [&](int32_t id) { return here[static_cast<size_t>(id)].elsewhere(); });
  for (const int32_t id : now) will_need(here[static_cast<size_t>(id)]);
  if (ids.shape[0] <= kFewTokens) last_[l] = std::move(now);
  size_t next = (l + 1) % last_.size();
  while (host_.layers[next].experts.empty()) next = (next + 1) % last_.size();
  for (const int32_t id : last_[next]) will_need(host_.layers[next].experts[static_cast<size_t>(id)]);
}

}  // namespace moebius
