#include "tools/plan_speeds.h"

#include <fmt/format.h>

#include "engine/measure_speeds.h"
#include "kernels/backend.h"
#include "kernels/probe.h"

namespace moebius {
namespace {

constexpr double kProbeSeconds = 0.3;
// What steps reach of the probes: from 60 to 85 % of memory when decoding, from 70 to 90 % of the multipliers
// in a prefill, and of formats that AMX multiplies more than the probes, which do without it: integers from
// 105 to 140 %, BF16 and FP8 from 135 to 165 %, as `moebius bench` shows them (README, "Speed").
constexpr double kReachedMemory = 0.7, kReachedMultipliers = 0.8;
constexpr double kReachedByTiles = 1.2, kReachedByBf16Tiles = 1.4;

double reached_multipliers(Format format) {
  if (cpu_features().isa() < Isa::kAmx) return kReachedMultipliers;
  if (is_integer(format)) return kReachedByTiles;
  return format == Format::kBF16 || format == Format::kFp8Block ? kReachedByBf16Tiles : kReachedMultipliers;
}

Speed chosen(const char* name, const char* what, std::optional<double> given, double assumed,
             const char* why) {
  if (given) return {name, what, *given, "given"};
  return {name, what, assumed, fmt::format("assumed: {}", why)};
}

Speed probed(const char* name, const char* what, double probe, double reached) {
  if (!(probe > 0)) return {name, what, 10, "assumed: the probe does not run here"};
  return {name, what, probe * reached,
          fmt::format("{:.0f} % of the {:.0f} probed here", reached * 100, probe)};
}

Result<Speed> ram_speed(const SpeedOptions& options, int threads) {
  constexpr const char *kName = "ram_GBs", *kWhat = "RAM, GB/s";
  if (options.ram_GBs) return chosen(kName, kWhat, options.ram_GBs, 0, "");
  MOEBIUS_ASSIGN(const double probe, probe_memory_read_GBs(threads, probe_buffer_bytes(), kProbeSeconds));
  return probed(kName, kWhat, probe, kReachedMemory);
}

Speed cpu_speed(const SpeedOptions& options, int threads, Format format) {
  constexpr const char *kName = "cpu_GFLOPs", *kWhat = "CPU, GFLOP/s";
  if (options.cpu_GFLOPs) return chosen(kName, kWhat, options.cpu_GFLOPs, 0, "");
  const double integer = is_integer(format) ? probe_int8_GOPs(threads, kProbeSeconds) : 0;
  const double probe = integer > 0 ? integer : probe_float32_GFLOPs(threads, kProbeSeconds);
  return probed(kName, kWhat, probe, reached_multipliers(format));
}

}  // namespace

Result<Speeds> find_speeds(const SpeedOptions& options, Format format) {
  const int threads = options.threads > 0 ? options.threads : physical_cores();
  MOEBIUS_ASSIGN(const Speed ram, ram_speed(options, threads));
  return Speeds{
      chosen("gpu_GBs", "GPU memory, GB/s", options.gpu_GBs, 400, "80 % of a 12 GB card's 504"),
      chosen("gpu_TFLOPs", "GPU, TFLOP/s", options.gpu_TFLOPs, 30, "half of such a card's 59"),
      chosen("link_GBs", "link, GB/s", options.link_GBs, 20, "PCIe 4.0 x16"),
      ram,
      cpu_speed(options, threads, format),
      chosen("disk_GBs", "disk, GB/s", options.disk_GBs, kAssumedDiskGBs, "NVMe"),
      chosen("handoff_us", "hand-off, us", options.handoff_us, 20, "a layer's way to the CPU and back"),
      chosen("gpu_op_us", "small GPU operation, us", options.gpu_op_us, 4, "a launch and little more")};
}

MachineSpeeds machine_speeds(const Speeds& s) {
  return {s[0].value, s[1].value * 1e3, s[2].value, s[3].value,
          s[4].value, s[5].value,       s[6].value, s[7].value};
}

}  // namespace moebius
