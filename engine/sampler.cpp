#include "engine/sampler.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <numeric>

#include <fmt/format.h>

namespace moebius {
namespace {

using Candidate = std::pair<float, int32_t>;

constexpr float kLowest = -std::numeric_limits<float>::infinity();

float clean(float logit) {
  if (std::isnan(logit)) return kLowest;
  return std::min(logit, std::numeric_limits<float>::max());
}

bool before(const Candidate& a, const Candidate& b) {
  return a.first != b.first ? a.first > b.first : a.second < b.second;
}

// The k best of logits in order; one pass over a heap, whose worst entry most logits fail at once.
void best(std::span<const float> logits, size_t k, std::vector<Candidate>* out) {
  out->clear();
  for (size_t i = 0; i < logits.size(); ++i) {
    if (out->size() == k && !(logits[i] > out->front().first)) continue;
    const Candidate candidate{clean(logits[i]), static_cast<int32_t>(i)};
    if (out->size() < k) {
      out->push_back(candidate);
      std::push_heap(out->begin(), out->end(), before);
    } else if (before(candidate, out->front())) {
      std::pop_heap(out->begin(), out->end(), before);
      out->back() = candidate;
      std::push_heap(out->begin(), out->end(), before);
    }
  }
  std::sort_heap(out->begin(), out->end(), before);
}

int32_t argmax(std::span<const float> logits) {
  size_t winner = 0;
  float highest = kLowest;
  for (size_t i = 0; i < logits.size(); ++i) {
    if (const float logit = clean(logits[i]); logit > highest) {
      highest = logit;
      winner = i;
    }
  }
  return static_cast<int32_t>(winner);
}

// e^x for x <= 0 within 2 units in the last place, 0 from -105 on. Without a branch
// or a call, so that compilers take several at once. x = n ln 2 + r, |r| <= ln(2) / 2, e^r by its Taylor
// series.
inline float exp_of_negative(float x) {
  x = x > -105.0f ? x : -105.0f;
  constexpr float kWhole = 0x1.8p23f;  // numbers this large have no fraction
  const float n = (x * 0x1.715476p+0f + kWhole) - kWhole;
  const float r = (x - n * 0x1.62e4p-1f) - n * 0x1.7f7d1cp-20f;
  float e = 1.0f / 5040 * r + 1.0f / 720;
  e = (((((e * r + 1.0f / 120) * r + 1.0f / 24) * r + 1.0f / 6) * r + 0.5f) * r + 1.0f) * r + 1.0f;
  const int32_t whole = static_cast<int32_t>(n), half = whole / 2;  // 2^n in two factors, for n down to -150
  const auto power = [](int32_t exponent) { return std::bit_cast<float>((exponent + 127) << 23); };
  return e * power(half) * power(whole - half);
}

// Weights in (0, 1] by their leading bits: larger weights are in no earlier bucket.
constexpr size_t kBuckets = 0x3f81;
size_t bucket_of(float weight) { return std::bit_cast<uint32_t>(weight) >> 16; }

// Sebastiano Vigna's generator of 2015: https://prng.di.unimi.it/splitmix64.c
uint64_t next_random(uint64_t* state) {
  uint64_t z = (*state += 0x9e3779b97f4a7c15u);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

// Kept apart, so that a large maximum does not swallow the logarithm.
struct Normalizer {
  float highest = kLowest;
  double log_sum = 0;  // of the exponentials relative to the highest
};

Normalizer normalize(std::span<const float> logits) {
  Normalizer out;
  for (float logit : logits) out.highest = std::max(out.highest, clean(logit));
  if (out.highest == kLowest) return out;
  double sum = 0;
  for (float logit : logits) sum += std::exp(static_cast<double>(clean(logit)) - out.highest);
  out.log_sum = std::log(sum);
  return out;
}

float log_share(float logit, const Normalizer& normalizer) {
  const double share = static_cast<double>(clean(logit)) - normalizer.highest - normalizer.log_sum;
  return std::isfinite(share) ? std::max(static_cast<float>(share), kImpossible) : kImpossible;
}

bool is_allowed(std::span<const uint64_t> allowed, int32_t id) {
  const auto word = static_cast<size_t>(id) / 64;
  return word < allowed.size() && (allowed[word] >> (id % 64) & 1);
}

int32_t first_allowed(std::span<const uint64_t> allowed) {
  for (size_t word = 0; word < allowed.size(); ++word) {
    if (allowed[word] != 0) return static_cast<int32_t>(64 * word) + std::countr_zero(allowed[word]);
  }
  MOEBIUS_CHECK(false, "a mask allows a token");
}

Status check_range(const char* name, float value, float low, float high, bool open_low = false) {
  if (value >= low && value <= high && !(open_low && value == low)) return {};
  return invalid(fmt::format("{} is {}; it must be {} {} and at most {}", name, value,
                             open_low ? "above" : "at least", low, high));
}

}  // namespace

Status SamplingParams::validate(int64_t vocab) const {
  MOEBIUS_TRY(check_range("temperature", temperature, 0, 100));
  if (top_k < 0) return invalid(fmt::format("top_k is {}; it must be 0 (all tokens) or more", top_k));
  MOEBIUS_TRY(check_range("top_p", top_p, 0, 1, true));
  MOEBIUS_TRY(check_range("min_p", min_p, 0, 1));
  MOEBIUS_TRY(check_range("repetition_penalty", repetition_penalty, 0, 10, true));
  MOEBIUS_TRY(check_range("dry_multiplier", dry_multiplier, 0, 100));
  MOEBIUS_TRY(check_range("dry_base", dry_base, 1, 100));
  if (dry_allowed_length < 1)
    return invalid(fmt::format("dry_allowed_length is {}; it must be at least 1", dry_allowed_length));
  MOEBIUS_TRY(check_range("xtc_probability", xtc_probability, 0, 1));
  MOEBIUS_TRY(check_range("xtc_threshold", xtc_threshold, 0, 1));
  MOEBIUS_TRY(check_range("presence_penalty", presence_penalty, -2, 2));
  MOEBIUS_TRY(check_range("frequency_penalty", frequency_penalty, -2, 2));
  for (const auto& [id, bias] : logit_bias) {
    if (id < 0 || id >= vocab) {
      return invalid(fmt::format("logit_bias names token {}; the vocabulary has 0 to {}", id, vocab - 1));
    }
    MOEBIUS_TRY(check_range("logit_bias", bias, -100, 100));
  }
  return {};
}

Sampler::Sampler(SamplingParams params, int64_t vocab)
    : params_(std::move(params)), vocab_(vocab), state_(params_.seed) {
  MOEBIUS_CHECK(vocab > 0);
  if (params_.repetition_penalty != 1) seen_.resize(static_cast<size_t>(vocab));
  if (params_.dry_multiplier == 0) return;
  breaks_.resize(static_cast<size_t>(vocab));
  for (const int32_t id : params_.dry_breakers)
    if (id >= 0 && id < vocab) breaks_[static_cast<size_t>(id)] = true;
}

void Sampler::observe_prompt(std::span<const int32_t> ids) {
  for (const int32_t id : ids)
    if (!breaks_.empty() && id >= 0 && id < vocab_) history_.push_back(id);
  if (seen_.empty()) return;
  for (int32_t id : ids) {
    if (id < 0 || id >= vocab_ || seen_[static_cast<size_t>(id)]) continue;
    seen_[static_cast<size_t>(id)] = true;
    seen_ids_.push_back(id);
  }
}

int32_t Sampler::sample(std::span<const float> logits, std::span<const uint64_t> allowed) {
  MOEBIUS_CHECK(static_cast<int64_t>(logits.size()) == vocab_);
  const std::span<const float> adjusted = adjust(logits, allowed);
  int32_t id = params_.temperature == 0 ? argmax(adjusted) : draw(exclude_top(keep(adjusted), &state_));
  if (!allowed.empty() && !is_allowed(allowed, id))
    id = first_allowed(allowed);  // all of them are impossible
  ++answer_counts_[id];
  observe_prompt({&id, 1});
  return id;
}

std::vector<std::pair<float, int32_t>> Sampler::distribution(std::span<const float> logits) {
  MOEBIUS_CHECK(static_cast<int64_t>(logits.size()) == vocab_);
  const std::span<const float> adjusted = adjust(logits, {});
  if (params_.temperature == 0) return {{1.f, argmax(adjusted)}};
  uint64_t state = state_;
  const double total = exclude_top(keep(adjusted), &state);
  if (total == 0) return {{1.f, 0}};
  std::vector<Candidate> out = candidates_;
  std::sort(out.begin(), out.end(), before);
  for (Candidate& candidate : out) candidate.first = static_cast<float>(candidate.first / total);
  return out;
}

std::span<const float> Sampler::adjust(std::span<const float> logits, std::span<const uint64_t> allowed) {
  const bool counts = params_.presence_penalty != 0 || params_.frequency_penalty != 0;
  const bool changes = !seen_ids_.empty() || !history_.empty() || !params_.logit_bias.empty() ||
                       (counts && !answer_counts_.empty());
  if (!changes && allowed.empty()) return logits;
  adjusted_.assign(logits.begin(), logits.end());
  for (int32_t id : seen_ids_) {
    float& logit = adjusted_[static_cast<size_t>(id)];
    logit = logit > 0 ? logit / params_.repetition_penalty : logit * params_.repetition_penalty;
  }
  if (counts) {
    for (const auto& [id, count] : answer_counts_) {
      adjusted_[static_cast<size_t>(id)] -=
          params_.presence_penalty + params_.frequency_penalty * static_cast<float>(count);
    }
  }
  punish_repetitions();
  for (const auto& [id, bias] : params_.logit_bias) adjusted_[static_cast<size_t>(id)] += bias;
  for (size_t word = 0; !allowed.empty() && 64 * word < adjusted_.size(); ++word) {
    const uint64_t bits = word < allowed.size() ? allowed[word] : 0;
    if (bits == ~uint64_t{0}) continue;
    const size_t end = std::min(adjusted_.size(), 64 * (word + 1));
    for (size_t i = 64 * word; i < end; ++i) {
      if (!(bits >> (i % 64) & 1)) adjusted_[i] = kLowest;
    }
  }
  return adjusted_;
}

// How long a repetition ends at each place of the history is its Z-function, read backwards.
void Sampler::punish_repetitions() {
  constexpr int64_t kLongest = 50;
  const int64_t last = params_.dry_last < 0 ? INT64_MAX : params_.dry_last;
  const int64_t n = std::min(std::ssize(history_), last);
  const auto token = [&](int64_t back) { return history_[history_.size() - 1 - static_cast<size_t>(back)]; };
  int64_t limit = 0;  // tokens since the last breaker
  while (limit < std::min(n, kLongest) && !breaks_[static_cast<size_t>(token(limit))]) ++limit;
  if (limit < params_.dry_allowed_length) return;
  repeated_.assign(static_cast<size_t>(n), 0);
  std::unordered_map<int32_t, int64_t> longest;  // of what each token would go on with
  for (int64_t i = 1, begin = 0, end = 0; i < n; ++i) {
    int64_t length = i < end ? std::min<int64_t>(end - i, repeated_[static_cast<size_t>(i - begin)]) : 0;
    while (i + length < n && token(length) == token(i + length)) ++length;
    repeated_[static_cast<size_t>(i)] = static_cast<int32_t>(length);
    if (i + length > end) begin = i, end = i + length;
    int64_t& best = longest[token(i - 1)];
    best = std::max(best, std::min(length, limit));
  }
  for (const auto& [id, length] : longest) {
    if (length < params_.dry_allowed_length || breaks_[static_cast<size_t>(id)]) continue;
    adjusted_[static_cast<size_t>(id)] -=
        params_.dry_multiplier *
        std::pow(params_.dry_base, static_cast<float>(length - params_.dry_allowed_length));
  }
}

// XTC on candidates_, whose weights sum up to total; returns the sum of what stays.
double Sampler::exclude_top(double total, uint64_t* state) {
  if (params_.xtc_probability == 0 || total == 0) return total;
  const double uniform = static_cast<double>(next_random(state) >> 11) * 0x1p-53;
  if (uniform >= params_.xtc_probability) return total;
  const auto top = [&](const Candidate& c) { return c.first >= params_.xtc_threshold * total; };
  const auto end = std::stable_partition(candidates_.begin(), candidates_.end(), top);
  if (end - candidates_.begin() < 2) return total;
  const Candidate least = *std::max_element(candidates_.begin(), end, before);
  candidates_.erase(candidates_.begin(), end - 1);
  candidates_.front() = least;
  return std::accumulate(candidates_.begin(), candidates_.end(), 0.0,
                         [](double sum, const Candidate& c) { return sum + c.first; });
}

// Leaves in candidates_ what may be drawn, with weights relative to the best; returns their sum, 0 if no
// token is possible.
double Sampler::keep(std::span<const float> logits) {
  if (params_.top_k == 0 || params_.top_k >= vocab_) return keep_of_all(logits);
  keep_top_k(logits);
  float highest = kLowest;
  for (const auto& [logit, id] : candidates_) highest = std::max(highest, logit);
  if (highest == kLowest) return 0;
  double total = 0;
  size_t kept = 0;
  for (const auto& [logit, id] : candidates_) {
    const double scaled = (static_cast<double>(logit) - highest) / params_.temperature;
    const float weight = std::exp(static_cast<float>(scaled));
    if (weight < params_.min_p || weight == 0) continue;
    candidates_[kept++] = {weight, id};
    total += weight;
  }
  candidates_.resize(kept);
  return params_.top_p < 1 ? keep_top_p(total) : total;
}

// The same of the whole vocabulary: a few passes over it, whatever it looks like, and no sort but of the
// tokens that stand where top-p cuts.
double Sampler::keep_of_all(std::span<const float> logits) {
  candidates_.clear();
  float highest = kLowest;
  for (const float logit : logits) highest = std::max(highest, clean(logit));
  if (highest == kLowest) return 0;
  weights_.resize(logits.size());
  const float temperature = params_.temperature;
  for (size_t i = 0; i < logits.size(); ++i) {
    const float scaled = (logits[i] - highest) / temperature;
    weights_[i] = exp_of_negative(scaled > 0 ? 0 : scaled);  // +inf is as good as the highest
  }
  const float least = std::max(params_.min_p, std::numeric_limits<float>::denorm_min());
  sums_.assign(kBuckets, 0);
  for (const float weight : weights_)
    if (weight >= least) sums_[bucket_of(weight)] += weight;
  const double total = std::accumulate(sums_.begin(), sums_.end(), 0.0);
  const double wanted = params_.top_p < 1 ? static_cast<double>(params_.top_p) * total : HUGE_VAL;
  size_t whole = kBuckets;  // from here on buckets are kept whole, and of the one before some tokens
  double sum = 0;
  while (whole > 0 && sum + sums_[whole - 1] < wanted) sum += sums_[--whole];
  edge_.clear();
  for (size_t i = 0; i < weights_.size(); ++i) {
    const float weight = weights_[i];
    if (weight < least || bucket_of(weight) + 1 < whole) continue;
    (bucket_of(weight) < whole ? edge_ : candidates_).push_back({weight, static_cast<int32_t>(i)});
  }
  if (!std::is_sorted(edge_.begin(), edge_.end(), before)) std::sort(edge_.begin(), edge_.end(), before);
  for (const Candidate& candidate : edge_) {
    if (sum >= wanted) break;
    candidates_.push_back(candidate);
    sum += candidate.first;
  }
  return sum;
}

void Sampler::keep_top_k(std::span<const float> logits) {
  constexpr int64_t kHeapLimit = 1024;  // beyond it partitioning everything is cheaper than the heap
  if (params_.top_k <= kHeapLimit) {
    return best(logits, static_cast<size_t>(params_.top_k), &candidates_);
  }
  candidates_.resize(logits.size());
  for (size_t i = 0; i < logits.size(); ++i) candidates_[i] = {clean(logits[i]), static_cast<int32_t>(i)};
  std::nth_element(candidates_.begin(), candidates_.begin() + params_.top_k, candidates_.end(), before);
  candidates_.resize(static_cast<size_t>(params_.top_k));
}

// Sorts only as much of the head as reaches top_p, in steps of growing size.
double Sampler::keep_top_p(double total) {
  const double wanted = static_cast<double>(params_.top_p) * total;
  double sum = 0;
  size_t sorted = 0;
  for (size_t step = 64; sorted < candidates_.size(); step *= 4) {
    const auto begin = candidates_.begin() + static_cast<std::ptrdiff_t>(sorted);
    const size_t count = std::min(step, candidates_.size() - sorted);
    const auto end = begin + static_cast<std::ptrdiff_t>(count);
    if (end != candidates_.end()) std::nth_element(begin, end, candidates_.end(), before);
    std::sort(begin, end, before);
    for (auto at = begin; at != end; ++at) {
      sum += at->first;
      if (sum < wanted) continue;
      candidates_.resize(static_cast<size_t>(at - candidates_.begin()) + 1);
      return sum;
    }
    sorted += count;
  }
  return sum;
}

int32_t Sampler::draw(double total) {
  if (total == 0) return 0;
  const double uniform = static_cast<double>(next_random(&state_) >> 11) * 0x1p-53;  // [0, 1)
  double left = uniform * total;
  for (const auto& [weight, id] : candidates_) {
    left -= weight;
    if (left < 0) return id;
  }
  return candidates_.back().second;  // rounding
}

TokenProbability log_probability(std::span<const float> logits, int32_t id) {
  MOEBIUS_CHECK(id >= 0 && static_cast<size_t>(id) < logits.size());
  return {id, log_share(logits[static_cast<size_t>(id)], normalize(logits))};
}

std::vector<TokenProbability> top_log_probabilities(std::span<const float> logits, int top) {
  std::vector<Candidate> candidates;
  if (top > 0) best(logits, static_cast<size_t>(top), &candidates);
  const Normalizer normalizer = normalize(logits);
  std::vector<TokenProbability> out;
  for (const auto& [logit, id] : candidates) out.push_back({id, log_share(logit, normalizer)});
  return out;
}

}  // namespace moebius
