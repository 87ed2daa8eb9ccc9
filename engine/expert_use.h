// What device and host did for the routed experts of a layer, and where these are: for people and tests to
// look at.
#pragma once

#include <cstdint>
#include <numeric>
#include <vector>

namespace moebius {

// Since the start.
struct LayerUse {
  int64_t device_slots = 0, host_slots = 0;  // slots of tokens that each side computed
  int64_t streamed_slots = 0;                // of the device's, those whose expert was brought for them
  int64_t skipped_slots = 0;                 // that nobody had to: zero experts, and below --skip-threshold
  double host_s = 0, device_s = 0;           // that each took for them, the device with the shared experts
  double link_s = 0;                         // that experts took on their way to the device
  int64_t moves = 0, moved_bytes = 0;        // experts brought to the device to stay
  int64_t streamed_bytes = 0;                // of experts brought there for one pass of a prompt

  LayerUse& operator+=(const LayerUse& o) {
    device_slots += o.device_slots, host_slots += o.host_slots, streamed_slots += o.streamed_slots;
    skipped_slots += o.skipped_slots, host_s += o.host_s, device_s += o.device_s, link_s += o.link_s;
    moves += o.moves, moved_bytes += o.moved_bytes, streamed_bytes += o.streamed_bytes;
    return *this;
  }
  // The share of the slots whose expert was on the device already; 0 before the first.
  double hit_rate() const {
    const int64_t slots = device_slots + host_slots;
    return slots == 0 ? 0 : static_cast<double>(device_slots - streamed_slots) / static_cast<double>(slots);
  }
  double skip_rate() const {
    const int64_t slots = device_slots + host_slots + skipped_slots;
    return slots == 0 ? 0 : static_cast<double>(skipped_slots) / static_cast<double>(slots);
  }
};

enum class ExpertPlace : uint8_t { kHost, kDevice, kDisk };  // kDisk: in no memory at this moment

// Of a layer, [expert].
struct ExpertLayer {
  int64_t layer = 0;
  std::vector<int64_t> chosen;  // slots of tokens since the start
  int64_t skipped = 0;          // slots that nobody had to compute: zero experts, and below --skip-threshold
  std::vector<ExpertPlace> places;
};

struct SlotSum {
  int64_t all = 0, skipped = 0;

  double skip_rate() const { return all == 0 ? 0 : static_cast<double>(skipped) / static_cast<double>(all); }
};
inline SlotSum operator-(const SlotSum& after, const SlotSum& before) {
  return {after.all - before.all, after.skipped - before.skipped};
}
inline SlotSum slots_of(const ExpertLayer& layer) {
  return {std::accumulate(layer.chosen.begin(), layer.chosen.end(), layer.skipped), layer.skipped};
}
inline SlotSum slots_of(const std::vector<ExpertLayer>& layers) {
  SlotSum sum;
  for (const ExpertLayer& layer : layers) {
    const SlotSum more = slots_of(layer);
    sum.all += more.all, sum.skipped += more.skipped;
  }
  return sum;
}

}  // namespace moebius
