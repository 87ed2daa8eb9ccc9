// DiskTier: a layer's experts where memory does not hold all: what is asked of an ExpertCache, and when. All
// that were chosen, at once, so that the disk works while those that are in memory are computed; and for the
// next layer (after the last, the first) those that its last tokens chose, since the next token often chooses
// them again (MoE-Infinity, arXiv 2401.14361, prefetches by such traces).
#pragma once

#include <array>
#include <cstdint>
#include <mutex>
#include <vector>

#include "engine/expert_cache.h"

namespace moebius {

class DiskTier {
 public:
  DiskTier(const Weights& host, const std::vector<MappedFile>& files, const ExpertCache::Options& options)
      : cache_(host, files, options), last_{Choices(host.layers.size()), Choices(host.layers.size())} {}

  int64_t room() const { return cache_.slots(); }  // experts that memory holds at most
  // What tokens chose in a layer; its experts stay where they are as long as it lives.
  struct Chosen {
    ExpertCache::Hold hold;
    // As the ids, but each with -1 for what is the other's: experts that are in memory or in no cache, and
    // those on their way.
    std::vector<int32_t> here, coming;
    std::vector<int64_t> shape;
  };
  // ids I32 [n, k] on the host, each -1 or an expert of the layer. experts: as this side has them; those
  // elsewhere are left out. From any thread.
  Chosen chosen(int64_t layer, const Tensor& ids, const std::vector<ExpertWeights>& experts);
  // The same experts, with the addresses that those have now which were chosen.
  std::vector<ExpertWeights> placed(const Chosen& chosen, std::vector<ExpertWeights> experts) const {
    cache_.place(chosen.hold, experts);
    return experts;
  }
  void wait(const Chosen& chosen) { cache_.wait(chosen.hold); }
  // Calls run(ids) with the part of the ids that is here, then, once they have come, with that of the others.
  template <class Run>
  void in_two(Chosen& chosen, const Run& run) {
    const auto some = [](const std::vector<int32_t>& ids) {
      return std::ranges::any_of(ids, [](int32_t id) { return id >= 0; });
    };
    const auto tensor = [&](std::vector<int32_t>& ids) {
      return Tensor(ids.data(), DType::kI32, {chosen.shape[0], chosen.shape[1]}, Space::kHost);
    };
    if (some(chosen.here)) run(tensor(chosen.here));
    if (!some(chosen.coming)) return;
    wait(chosen);
    run(tensor(chosen.coming));
  }
  bool in_cache(int64_t layer, int64_t expert) const { return cache_.here(layer, expert); }

 private:
  using Choices = std::vector<std::vector<int32_t>>;  // [layer]: distinct
  void guess(int64_t layer, std::vector<int32_t> now, ExpertCache::For use);
  ExpertCache cache_;
  std::mutex mutex_;             // of all below
  std::array<Choices, 2> last_;  // of the last decoded tokens, of all prompts
  ExpertCache::Hold ahead_;      // what was asked for in the next layer
};

// An expert's bytes in the mapped file: will be read, or will not be for long.
void will_need(const ExpertWeights& expert);
void give_up(const ExpertWeights& expert);

}  // namespace moebius
