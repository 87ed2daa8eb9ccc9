// The speeds that a plan is made with: given, probed here, or assumed, and said to be so.
#pragma once

#include <array>
#include <optional>
#include <string>

#include "engine/placement.h"

namespace moebius {

struct Speed {
  const char* name;  // "gpu_GBs"
  const char* what;  // "GPU memory, GB/s"
  double value = 0;
  std::string source;  // "given", "probed ...", "assumed ..."
};

struct SpeedOptions {
  std::optional<double> gpu_GBs, gpu_TFLOPs, link_GBs, ram_GBs, cpu_GFLOPs, disk_GBs, handoff_us, gpu_op_us;
  int threads = 0;  // that the CPU is probed with; 0: one per physical core
};

inline constexpr size_t kSpeeds = 8;
using Speeds = std::array<Speed, kSpeeds>;

// Probes for about a second when memory or CPU are not given. format: of the experts, which decides what the
// CPU multiplies with. kNoMemory.
Result<Speeds> find_speeds(const SpeedOptions& options, Format format);

MachineSpeeds machine_speeds(const Speeds& speeds);

}  // namespace moebius
