// What the processor and the operating system offer. Asked by CPUID rather than by a compiler's builtin,
// whose list of names differs between compilers.
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <fstream>
#include <set>
#include <string>
#include <vector>

#include <fmt/format.h>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include "kernels/backend.h"

namespace moebius {

namespace {

#if defined(__x86_64__)
// Linux gives a process room for what tiles hold, 8 KB a thread, when it asks for it.
bool may_use_tiles() {
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}
#endif

}  // namespace

CpuFeatures cpu_features() {
  CpuFeatures features;
#if defined(__x86_64__)
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid(1, &a, &b, &c, &d)) return features;
  const bool osxsave = c & bit_OSXSAVE, avx = c & bit_AVX, fma = c & bit_FMA, f16c = c & bit_F16C;
  if (!osxsave || !avx) return features;
  unsigned saved_low = 0, saved_high = 0;  // XCR0: the registers that the system saves on a switch
  __asm__("xgetbv" : "=a"(saved_low), "=d"(saved_high) : "c"(0));
  const bool ymm = (saved_low & 0x6) == 0x6, zmm = (saved_low & 0xe6) == 0xe6;
  const bool tiles = (saved_low & 0x60000) == 0x60000;
  if (!ymm || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return features;
  const unsigned leaf7_b = b, leaf7_c = c, leaf7_d = d;
  features.avx2 = (leaf7_b & (1u << 5)) && fma && f16c;
  constexpr unsigned kAvx512 = (1u << 16) | (1u << 17) | (1u << 30) | (1u << 31);  // F, DQ, BW, VL
  features.avx512 = zmm && (leaf7_b & kAvx512) == kAvx512;
  features.avx512_vnni = features.avx512 && (leaf7_c & (1u << 11));
  features.avx512_vbmi = features.avx512 && (leaf7_c & (1u << 1));
  if (__get_cpuid_count(7, 1, &a, &b, &c, &d)) features.avx512_bf16 = features.avx512 && (a & (1u << 5));
  constexpr unsigned kAmx = (1u << 22) | (1u << 24) | (1u << 25);  // BF16, tiles, INT8
  features.amx = tiles && (leaf7_d & kAmx) == kAmx && may_use_tiles();
#endif
  return features;
}

Isa CpuFeatures::isa() const {
  if (!avx2) return Isa::kScalar;
  if (!avx512_vnni) return Isa::kAvx2;
  return avx512_bf16 && avx512_vbmi && amx ? Isa::kAmx : Isa::kAvx512;
}

const char* isa_name(Isa isa) {
  static constexpr const char* kNames[] = {"scalar", "AVX2", "AVX-512", "AMX"};
  return kNames[static_cast<int>(isa)];
}

std::string CpuFeatures::describe() const {
  std::string text;
  const auto add = [&text](bool have, const char* name) {
    if (!have) return;
    if (!text.empty()) text += ' ';
    text += name;
  };
  add(avx2, "AVX2 FMA F16C");
  add(avx512, "AVX-512");
  add(avx512_vnni, "VNNI");
  add(avx512_bf16, "BF16");
  add(amx, "AMX");
  return text.empty() ? "no vector extensions this program uses" : text;
}

namespace {

std::vector<int> usable_cpus() {  // of the affinity mask; empty when the system does not tell
  for (int size = 1024; size <= (1 << 20); size *= 4) {
    cpu_set_t* set = CPU_ALLOC(size);
    if (!set) return {};
    const size_t bytes = CPU_ALLOC_SIZE(size);
    CPU_ZERO_S(bytes, set);
    const bool got = sched_getaffinity(0, bytes, set) == 0;
    const bool retry = !got && errno == EINVAL;  // the mask is longer than the set
    std::vector<int> cpus;
    for (int cpu = 0; got && cpu < size; ++cpu)
      if (CPU_ISSET_S(static_cast<size_t>(cpu), bytes, set)) cpus.push_back(cpu);
    CPU_FREE(set);
    if (!retry) return cpus;
  }
  return {};
}

}  // namespace

int physical_cores() {
  std::set<std::string> cores;  // the hardware threads of one core list the same siblings
  for (const int cpu : usable_cpus()) {
    std::ifstream file(fmt::format("/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list", cpu));
    std::string siblings;
    if (!std::getline(file, siblings)) siblings = fmt::format("cpu {}", cpu);
    cores.insert(siblings);
  }
  return cores.empty() ? 1 : static_cast<int>(cores.size());
}

}  // namespace moebius
