// Probes of the machine's limits, for `doctor`, benches and, later, plans: what a figure is a share of.
// Each runs for about the seconds given, in passes; 0 where the probe does not run here. Of memory, which
// others on the machine use too, the median pass counts, of multipliers the best one.
#pragma once

#include <cstdint>
#include <string>

#include "kernels/status.h"

namespace moebius {

// Bytes per second, in 1e9, that the threads together load from memory of the caller: for what weights are
// read at, pages of a mapped file that are in memory. Much more of it than the last cache holds.
double probe_read_GBs(int threads, const void* memory, int64_t bytes, double seconds);

// The same of a buffer of that many bytes, in huge pages where the system has them: what the memory itself is
// good for. kNoMemory.
Result<double> probe_memory_read_GBs(int threads, int64_t buffer_bytes, double seconds);

// Independent chains of float32 fused multiply-adds, in 1e9 operations (two per multiply-add) per second.
double probe_float32_GFLOPs(int threads, double seconds);

// maddubs, madd and add of 32 bits, as exact int8 dot products use: 1e9 operations (two per product) per
// second. 0 without AVX2.
double probe_int8_GOPs(int threads, double seconds);

// The buffer for the memory probe on this machine: eight times the last cache, 256 MiB to 1 GiB.
int64_t probe_buffer_bytes();

std::string onednn_version();  // "2.6.3", or "" when the program was built without it

}  // namespace moebius
