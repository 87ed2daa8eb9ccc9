// What device and host did for the routed experts of a layer: for people and tests to look at.
#pragma once

#include <cstdint>

namespace moebius {

// Since the start, of a layer that has experts on the host.
struct LayerUse {
  int64_t device_slots = 0, host_slots = 0;  // slots of tokens that each side computed
  double host_s = 0;                         // that the host took
  int64_t moves = 0, moved_bytes = 0;        // experts brought to the device
};

}  // namespace moebius
