#include "engine/self_check.h"

#include <algorithm>
#include <cmath>
#include <deque>
#include <optional>
#include <random>

#include <fmt/format.h>

#include "engine/expert_store.h"
#include "engine/uploader.h"
#include "engine/workspace.h"

namespace moebius {
namespace {

constexpr int kLayersChecked = 3;  // of those with experts on the device: the first, one between, the last

// Float sums of a device may be in another order than the host's, and its products of 16-bit weights may be
// rounded to tensor cores' inputs; what is wrong is wrong by far more.
constexpr double kAllowed = 0.02;  // of the largest number

std::vector<size_t> layers_with_experts(const Weights& placed) {
  std::vector<size_t> all, some;
  const auto here = [](const ExpertWeights& e) { return !e.elsewhere(); };
  for (size_t l = 0; l < placed.layers.size(); ++l)
    if (std::ranges::any_of(placed.layers[l].experts, here)) all.push_back(l);
  if (all.size() <= kLayersChecked) return all;
  return {all.front(), all[all.size() / 2], all.back()};
}

class Check {
 public:
  explicit Check(Backend& device) : device_(device), host_(make_host_backend({.threads = 1})) {}

  Status make_room(int64_t numbers) {
    MOEBIUS_ASSIGN(there_, device_.alloc(static_cast<size_t>(numbers) * 3 * sizeof(float)));
    MOEBIUS_ASSIGN(back_, device_.alloc_pinned(static_cast<size_t>(numbers) * 3 * sizeof(float)));
    MOEBIUS_ASSIGN(here_, Buffer::host(static_cast<size_t>(numbers) * 3 * sizeof(float)));
    return Status();
  }

  // run(backend, x [1, in], ids [1, 1], y [1, out]) on both sides with random x.
  template <class Run>
  Status compare(const std::string& what, int64_t in, int64_t out, int32_t id, const Run& run) {
    Arena here(here_), there(there_), back(back_);
    struct Side {
      Tensor x, ids, y;
    };
    const auto side = [&](Arena& arena) {
      return Side{arena.take(DType::kF32, {1, in}), arena.take(DType::kI32, {1, 1}),
                  arena.take(DType::kF32, {1, out})};
    };
    const Side h = side(here), d = side(there), b = side(back);
    std::mt19937 random(1);
    std::normal_distribution<float> normal;
    for (int64_t i = 0; i < in; ++i) b.x.f32()[i] = h.x.f32()[i] = normal(random);
    *b.ids.i32() = *h.ids.i32() = id;
    run(*host_, true, h.x, h.ids, h.y);
    device_.copy(b.x, d.x);
    device_.copy(b.ids, d.ids);
    run(device_, false, d.x, d.ids, d.y);
    device_.copy(d.y, b.y);
    MOEBIUS_TRY(device_.sync());
    double largest = 0, error = 0;
    for (int64_t i = 0; i < out; ++i) {
      const double want = static_cast<double>(h.y.f32()[i]), got = static_cast<double>(b.y.f32()[i]);
      largest = std::max(largest, std::fabs(want));
      error = std::isnan(got) ? INFINITY : std::max(error, std::fabs(got - want));
      if (std::isinf(error)) break;
    }
    if (error <= kAllowed * largest) return Status();
    return io_error(
        fmt::format("self-check: {} [{} -> {}] differs by {:.3g} between {} and host, where the largest "
                    "number is {:.3g}; use --device host, and report this with `moebius doctor`",
                    what, in, out, error, device_.name(), largest));
  }

 private:
  Backend& device_;
  const std::unique_ptr<Backend> host_;
  Buffer there_, back_, here_;
};

// An expert of the host's weights on the device, for a while.
struct Guest {
  size_t layer = 0;
  std::vector<ExpertWeights> experts;  // of the layer; all others are elsewhere
  std::deque<Lora> loras;
  Buffer memory;
};

// The first expert of the first layer that has some; nullopt: there is none, or no room.
Result<std::optional<Guest>> bring_one(const Weights& host, Backend& device) {
  const auto moe = std::ranges::find_if(host.layers, [](const auto& l) { return !l.experts.empty(); });
  if (moe == host.layers.end()) return std::optional<Guest>();
  const ExpertWeights& expert = moe->experts.front();
  Result<Buffer> memory = device.alloc(static_cast<size_t>(expert_bytes(expert)));
  if (!memory.ok() && memory.status().code() != Code::kNoMemory) return memory.status();
  if (!memory.ok()) return std::optional<Guest>();
  Guest guest{static_cast<size_t>(moe - host.layers.begin()), {}, {}, std::move(*memory)};
  guest.experts.resize(moe->experts.size());
  guest.experts.front() = expert;
  Uploader(guest.memory.as<char>(), &device).put(guest.experts.front(), guest.loras);
  MOEBIUS_TRY(device.sync());
  return std::optional(std::move(guest));
}

Status check_expert(Check& check, const ModelConfig& config, const Weights& host, size_t l,
                    const std::vector<ExpertWeights>& there) {
  const auto first = std::ranges::find_if(there, [](const ExpertWeights& e) { return !e.elsewhere(); });
  const int32_t id = static_cast<int32_t>(first - there.begin());
  return check.compare(
      fmt::format("expert_ffn, expert {} of layer {}", id, l), config.hidden, config.hidden, id,
      [&](Backend& be, bool on_host, const Tensor& x, const Tensor& ids, const Tensor& y) {
        const auto& experts = on_host ? host.layers[l].experts : there;
        be.expert_ffn({x, experts.data(), std::ssize(experts), ids, y.reshape({1, 1, config.hidden})});
      });
}

}  // namespace

Status self_check(const ModelConfig& config, const Weights& host, const Weights& placed, Backend& device) {
  const auto query = [&](const Weights& w) -> const Matrix& {
    return config.q_lora > 0 ? w.layers[0].q_a : w.layers[0].q;
  };
  const Matrix& q = query(host);
  Check check(device);
  MOEBIUS_TRY(check.make_room(std::max({q.rows, q.cols, config.hidden}) + 64));
  MOEBIUS_TRY(check.compare("linear, queries of layer 0", q.cols, q.rows, 0,
                            [&](Backend& be, bool on_host, const Tensor& x, const Tensor&, const Tensor& y) {
                              be.linear({query(on_host ? host : placed), x, Tensor(), y});
                            }));
  const std::vector<size_t> layers = layers_with_experts(placed);
  for (const size_t l : layers) MOEBIUS_TRY(check_expert(check, config, host, l, placed.layers[l].experts));
  if (!layers.empty()) return Status();
  MOEBIUS_ASSIGN(const std::optional<Guest> guest, bring_one(host, device));
  if (guest) return check_expert(check, config, host, guest->layer, guest->experts);
  return Status();
}

}  // namespace moebius
