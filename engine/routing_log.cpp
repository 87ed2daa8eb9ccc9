#include "engine/routing_log.h"

namespace moebius {
namespace {

// Of a sequence with one token more (the mixing step of SplitMix64).
uint64_t hash_on(uint64_t hash, int32_t id) {
  uint64_t z = hash + 0x9e3779b97f4a7c15u + static_cast<uint32_t>(id);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

}  // namespace

Tensor routing_of_layer(const int32_t* routing, int64_t tokens, int64_t layers, int64_t top_k,
                        int64_t layer) {
  Tensor t(const_cast<int32_t*>(routing) + layer * top_k, DType::kI32, {tokens, top_k});
  t.stride[0] = layers * top_k;
  return t;
}

RoutingLog::RoutingLog(const ModelConfig& config) : top_k_(config.moe.top_k) {
  for (const bool moe : config.moe_layer) {
    place_.push_back(layers_);
    layers_ += moe;
  }
}

void RoutingLog::begin(int64_t n) {
  tokens_ = n;
  pass_.resize(static_cast<size_t>(n * layers_ * top_k_));
}

Tensor RoutingLog::chosen(int64_t layer) const {
  return routing_of_layer(pass_.data(), tokens_, layers_, top_k_, place_[static_cast<size_t>(layer)]);
}

void RoutingLog::keep(std::span<const int32_t> sequence, int64_t begin, int64_t count) {
  const int64_t before = std::ssize(sequence) - count, numbers = layers_ * top_k_;
  uint64_t hash = 0;
  for (int64_t t = 0; t < std::ssize(sequence); ++t) {
    hash = hash_on(hash, sequence[static_cast<size_t>(t)]);
    if (t < before) continue;
    const auto from = pass_.begin() + (begin + t - before) * numbers;
    kept_[hash].assign(from, from + numbers);
  }
}

bool RoutingLog::read(std::span<const int32_t> sequence, std::vector<int32_t>& out) const {
  const size_t size = out.size();
  uint64_t hash = 0;
  for (const int32_t id : sequence) {
    hash = hash_on(hash, id);
    const auto at = kept_.find(hash);
    if (at == kept_.end()) {
      out.resize(size);
      return false;
    }
    out.insert(out.end(), at->second.begin(), at->second.end());
  }
  return true;
}

}  // namespace moebius
