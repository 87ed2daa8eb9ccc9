// Synthetic checkpoints: random weights of a given geometry in a published format, with a working tokenizer.
//
// The files are what the same model would publish (names, dtypes, quantization_config, shards), so that every
// reader of such a model reads them; only the answers are noise.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "kernels/quant.h"
#include "kernels/status.h"

namespace moebius {

struct SynthOptions {
  std::string geometry;           // as geometry_config() takes it
  Format format = Format::kInt4;  // of linear weights: kBF16, kFp8Block, kInt8 or kInt4
  bool experts_only = false;      // format is that of the routed experts; all else is BF16
  int64_t layers = 0;             // 0: as many as the geometry has
  uint64_t seed = 0;
  int threads = 1;  // the bytes written do not depend on it
  int64_t shard_bytes = int64_t{9} << 29;
  std::string out;
  bool force = false;  // replace a folder that synth wrote before
};

struct SynthReport {
  std::string model_type;
  int64_t layers = 0;
  int64_t bytes = 0;  // of all tensors
  int64_t files = 0;  // safetensors files
  std::vector<std::string> notes;
};

// Called between pieces with the bytes done and in total; false cancels.
using SynthProgress = std::function<bool(int64_t done, int64_t total)>;

// Writes into a temporary folder beside out and renames it at the end, so that out appears whole or not at
// all. Refused before anything is written: a geometry that does not parse, an out that is not empty (see
// force), a disk without room for it (kNoMemory).
Result<SynthReport> synthesize(const SynthOptions& options, const SynthProgress& progress = {});

std::map<std::string, Format> synth_formats();  // what --dtype and --quant take

// The bytes of the files synthesize() would write.
Result<int64_t> synth_bytes(const SynthOptions& options);

}  // namespace moebius
