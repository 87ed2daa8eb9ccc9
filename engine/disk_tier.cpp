#include "engine/disk_tier.h"

#include <algorithm>

#include "kernels/mapped.h"

namespace moebius {
namespace {

constexpr int64_t kFewTokens = 16;  // of a step of decoding; a prompt's choose nearly all

std::vector<int32_t> distinct(std::vector<int32_t> ids) {
  std::ranges::sort(ids);
  const auto repeated = std::ranges::unique(ids);
  ids.erase(repeated.begin(), repeated.end());
  return ids;
}

}  // namespace

void will_need(const ExpertWeights& expert) {
  for (const ExpertPart& part : expert_parts(expert)) will_need(part.data, static_cast<size_t>(part.bytes));
}

void give_up(const ExpertWeights& expert) {
  for (const ExpertPart& part : expert_parts(expert)) give_up(part.data, static_cast<size_t>(part.bytes));
}

DiskTier::Chosen DiskTier::chosen(int64_t layer, const Tensor& ids,
                                  const std::vector<ExpertWeights>& experts) {
  using For = ExpertCache::For;
  const For use = ids.shape[0] <= kFewTokens ? For::kDecoding : For::kPrompt;
  std::vector<int32_t> now = distinct({ids.i32(), ids.i32() + ids.numel()});
  std::erase_if(now, [&](int32_t id) { return id < 0 || experts[static_cast<size_t>(id)].elsewhere(); });
  const std::lock_guard lock(mutex_);
  Chosen chosen{cache_.ask(layer, now, use), {}, {}, {ids.shape[0], ids.shape[1]}};
  ExpertCache::Missing missing = cache_.missing(chosen.hold);
  if (!missing.refused.empty()) {  // what was guessed makes room
    ahead_ = ExpertCache::Hold();
    chosen.hold = cache_.ask(layer, now, use);
    missing = cache_.missing(chosen.hold);
  }
  for (const int32_t id : missing.refused) will_need(experts[static_cast<size_t>(id)]);
  for (int64_t i = 0; i < ids.numel(); ++i) {
    const int32_t id = ids.i32()[i];
    const bool comes = std::ranges::find(missing.coming, id) != missing.coming.end();
    chosen.here.push_back(comes ? -1 : id), chosen.coming.push_back(comes ? id : -1);
  }
  guess(layer, std::move(now), use);
  return chosen;
}

// Prompts choose nearly all, and end after the last layer.
void DiskTier::guess(int64_t layer, std::vector<int32_t> now, ExpertCache::For use) {
  Choices& last = last_[static_cast<size_t>(use)];
  std::vector<int32_t>& here = last[static_cast<size_t>(layer)];
  const bool decoding = use == ExpertCache::For::kDecoding;
  if (!decoding) {  // a part of the layer's may be another thread's
    now.insert(now.end(), here.begin(), here.end());
    now = distinct(std::move(now));
  }
  here = std::move(now);
  for (size_t next = static_cast<size_t>(layer) + 1; decoding || next < last.size(); ++next) {
    const size_t l = next % last.size();
    if (l == static_cast<size_t>(layer)) return;
    if (last[l].empty()) continue;
    ahead_ = ExpertCache::Hold();  // before others are asked for: it makes room
    ahead_ = cache_.ask(static_cast<int64_t>(l), last[l], use, true);
    return;
  }
}

}  // namespace moebius
