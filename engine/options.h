// EngineOptions: every knob of the engine, with its default and unit; and the only place that reads the
// environment.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "engine/plan_layer.h"
#include "kernels/backend.h"

namespace moebius {

class RoutingLog;  // engine/routing_log.h

// kAuto: float32 for float32 models, else BF16. kInt8: kI8 of kernels/ops.h, not on CUDA devices.
enum class CacheType : uint8_t { kAuto, kF32, kBF16, kInt8 };

// float32: whether the model's weights are.
DType cache_dtype(CacheType asked, bool float32);

enum class DeviceKind : uint8_t { kAuto, kHost, kSim, kCuda };  // kAuto: the first GPU, else the host

// The device that a model runs or is trained on, beside the host.
struct DeviceOptions {
  DeviceKind device = DeviceKind::kHost;
  int64_t device_memory = 0;  // bytes that may be taken there; 0: nine tenths of what a GPU has free, of a
                              // simulated one as much as the whole model needs
  double link_GBs = 0;        // kSim: of the link to the host; 0: as fast as memory
  double device_GBs = 0;      // kSim: of the device's memory; 0: no limit
  uint64_t sim_seed = 0;      // kSim: of random delays; 0: none
  uint64_t sim_fail_work = 0, sim_fail_alloc = 0;  // kSim: as SimOptions
  int64_t ram = 0;                                 // bytes of memory that may be counted on; 0: the machine's
  MachineSpeeds speeds;  // that the plan is made by; link_GBs 0: measured at the start
  bool overlap = true;   // the host computes its experts while the device goes on
};

// kMapped: weights stay in their files, shared with other programs, and come from disk as they are first
// used. kEager: all are read at the start, and lie in large pages. kAuto: mapped, and while the model already
// runs on the host they move to large pages, if the memory that is available holds all of them.
enum class Load : uint8_t { kMapped, kEager, kAuto };

struct EngineOptions : DeviceOptions {
  std::string model;           // folder, or Hugging Face cache id; "": the model that ships with the program
  std::string adapter;         // folder of a PEFT LoRA adapter to add to the weights; "": none
  int64_t context = 0;         // tokens a session can hold; 0: the model's own limit, at most 16,384
  int threads = 0;             // 0: one per physical core
  uint64_t host_fail = 0;      // the request for the host's experts that fails, from 1, for tests; 0: none
  int64_t adapter_memory = 0;  // of the device, in bytes: kept free for adapters of single sessions
  std::string trace;     // file for what the device's streams did, written when the engine ends; "": none
  std::string heat_dir;  // folder for what is known of the use of models' experts; "": forget it
  std::string
      saliency;  // on the host: file for scores of experts and neurons, gathered while running; "": none
  int64_t saliency_every = 64;    // passes, of which one is scored
  RoutingLog* routing = nullptr;  // on the host: gets what routers choose of each token; outlives the engine
  // Of an expert's share of its token's scores: below which it is left out, and below which its minor half
  // is, in a model with experts in halves; 0: off.
  double skip_threshold = 0, skip_minor_threshold = 0;
  int64_t sessions = 1;      // sequences that are computed at once
  int64_t cache_tokens = 0;  // that the caches of all hold together; 0: `context` for each of the sessions
  Load load = Load::kMapped;
  std::function<bool(int64_t done, int64_t total)> on_load;  // kEager: called with bytes; false cancels
  CacheType cache = CacheType::kAuto;
  CpuGemm gemm = CpuGemm::kAuto;
  Isa isa = Isa::kAmx;             // the most that host kernels use; less where the processor has less
  bool exact_activations = false;  // unrounded, with integer formats and over BF16 caches (for comparison)
  int64_t prefill_chunk = 512;     // tokens per forward pass of a prompt
  bool meter = false;              // on the host: measure every operation, see Engine::op_totals()
};

// $HF_HUB_CACHE, else $HF_HOME/hub, else ~/.cache/huggingface/hub.
std::string hub_cache_dir();
// A folder for small files kept between runs: $XDG_DATA_HOME/moebius or ~/.local/share/moebius; "" without a
// home.
std::string user_data_dir();
// The same options with a heat_dir in user_data_dir(): for programs that people talk to.
EngineOptions remembering_experts(EngineOptions options);
// Of this machine, in bytes, as far as this program's control groups let it have them.
int64_t machine_memory();
// That this program could take now without pushing others out, the page cache counted, and within its control
// groups; 0: unknown.
int64_t available_memory();
// True when $NO_COLOR is set and not empty.
bool no_color();
// The folder of the model that ships with the program; kNotFound says where it was looked for.
Result<std::string> default_model_dir();

}  // namespace moebius
