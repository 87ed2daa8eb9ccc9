// plan_layer: which experts of a MoE layer a prefill computes where they lie on the device, which it streams
// there over the link, and which it leaves to the CPU. Pure: a value from values.
//
// The link, the device and the CPU work at the same time (arXiv 2606.10493, section on stream-loading
// prefill), so a layer takes as long as the slowest of the three; then what the CPU made of each token
// crosses the link. Streaming an expert of B bytes and W weights costs B on the link however many tokens it
// has. On the CPU, which does C operations a second, each of its tokens costs 2 W / C, and V bytes of a
// vector on the link of L bytes a second: they are equal at (B / L) / (2 W / C + V / L) tokens. That
// break-even says which experts are candidates; how many of them the CPU takes is found by trying every cut.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace moebius {

// What the parts of a machine reach, as kernels reach it and not as data sheets have it. All positive and
// finite; GB/s and GFLOP/s are 1e9 a second, an operation is a multiply or an add.
struct MachineSpeeds {
  double device_GBs = 0;     // weights read from device memory
  double device_GFLOPs = 0;  // of large products there
  double link_GBs = 0;       // host to device
  double ram_GBs = 0;        // weights read by all cores
  double cpu_GFLOPs = 0;
  double disk_GBs = 0;    // mapped files that are not in memory
  double handoff_us = 0;  // to the CPU and back within a layer: flags, small copies; may be 0
  double device_op_us =
      0;  // what an operation takes there whose bytes do not count: a norm of one token; may be 0
};

// An expert as a layer's plan sees it.
struct ExpertLoad {
  double tokens = 0;      // routed to it; 0: nothing to do
  double used = 1;        // share of the passes in which it has any (1 for counted tokens)
  double bytes = 0;       // of its weights, as they lie
  double weights = 0;     // numbers
  bool resident = false;  // on the device
  bool in_ram = true;     // false: the CPU and the link get it from disk
};

enum class Where : uint8_t { kIdle, kResident, kStreamed, kCpu };

// The work of a layer besides its routed experts, and whether the ring lets experts be streamed at all.
struct LayerFrame {
  double before_s = 0;      // attention and router: until then nobody knows who has which tokens
  double ahead_s = 0;       // of the link's work, what it can do meanwhile
  double device_s = 0;      // shared experts
  double cpu_s = 0;         // shared experts, when they are the CPU's
  double ask_s = 0;         // the tokens' vectors to the CPU, if it has any expert: device and CPU wait
  double vector_bytes = 0;  // of a token's vector, which an expert reads and writes
  // With so many tokens, of vectors of so many bytes.
  void bring(double tokens, double bytes, const MachineSpeeds& speeds) {
    vector_bytes = bytes, ask_s = 1e-9 * tokens * bytes / speeds.link_GBs;
  }
  bool can_stream = true;
  bool share_residents = true;  // the CPU may take resident experts when the device is the longer side
};

struct LayerPlan {
  std::vector<Where> where;  // of each expert
  int64_t resident = 0, streamed = 0, cpu = 0;
  double link_s = 0, device_s = 0, cpu_s = 0, disk_s = 0;  // each one's work; frame included
  double ask_s = 0, answer_s = 0;  // the tokens' vectors to the CPU, and what it made of them back
  double seconds = 0;              // before + max(link - ahead, ask + device, ask + cpu, disk) + answer
  LayerPlan& operator+=(const LayerPlan& other);  // but for `where`
};

// The tokens from which streaming an expert beats computing it on the CPU.
double break_even_tokens(double bytes, double weights, double vector_bytes, const MachineSpeeds& speeds);

// The minimum of LayerPlan::seconds over these plans, exact for experts of one size: of those that are not
// resident, the CPU takes the i with the fewest tokens and the others are streamed; of the resident ones it
// takes the j with the fewest tokens, those with a copy in RAM first. i and j run over everything the frame
// allows; on a tie the CPU takes fewer.
LayerPlan plan_layer(std::span<const ExpertLoad> experts, const MachineSpeeds& speeds,
                     const LayerFrame& frame = {});

}  // namespace moebius
