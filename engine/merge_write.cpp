#include <algorithm>
#include <atomic>
#include <cmath>

#include <fmt/format.h>

#include "engine/adapted_weights.h"
#include "engine/checkpoint_folder.h"
#include "engine/merge.h"
#include "engine/write_progress.h"
#include "kernels/half.h"
#include "kernels/parallel.h"
#include "models/file_io.h"

namespace moebius {
namespace {

constexpr int64_t kMergedAtOnce = 4 << 20;  // numbers, in whole rows
constexpr int64_t kMergeGrain = 64 << 10;

// Rounds numbers to dtype, to nearest even; false when one of them is not finite there.
bool store(DType dtype, const float* from, int64_t count, uint8_t* to) {
  bool finite = true;
  if (dtype == DType::kF32) {
    std::memcpy(to, from, static_cast<size_t>(count) * sizeof(float));
    for (int64_t i = 0; i < count; ++i) finite &= std::isfinite(from[i]);
    return finite;
  }
  const uint16_t exponent = dtype == DType::kF16 ? 0x7c00 : 0x7f80;
  for (int64_t i = 0; i < count; ++i) {
    const uint16_t bits = dtype == DType::kF16 ? f32_to_f16(from[i]) : f32_to_bf16(from[i]);
    finite &= (bits & exponent) != exponent;
    std::memcpy(to + 2 * i, &bits, sizeof bits);
  }
  return finite;
}

class MergeWriter {
 public:
  MergeWriter(const MergeOptions& options, int64_t total)
      : pool_(options.threads), written_(options.progress, total) {}

  Status write(const MergeShard& shard, const std::string& path) {
    SafetensorsWriter writer(path, shard.metadata);
    for (const MergeTensor& tensor : shard.tensors) writer.declare(tensor.name, tensor.dtype, tensor.shape);
    for (const MergeTensor& tensor : shard.tensors) {
      if (tensor.parts.empty()) MOEBIUS_TRY(written_.put(tensor.source->data, tensor.source->bytes, writer));
      for (const MergePart& part : tensor.parts) MOEBIUS_TRY(merge(tensor, part, writer));
    }
    return writer.finish();
  }

 private:
  Status merge(const MergeTensor& tensor, const MergePart& part, SafetensorsWriter& writer) {
    const Matrix& w = part.base;
    const int64_t width = static_cast<int64_t>(dtype_bytes(tensor.dtype));
    const int64_t block = std::clamp<int64_t>(kMergedAtOnce / w.cols, 1, w.rows);
    const int64_t grain = std::max<int64_t>(1, kMergeGrain / w.cols);
    numbers_.resize(static_cast<size_t>(block * w.cols));
    bytes_.resize(static_cast<size_t>(block * w.cols * width));
    std::atomic<bool> fits{true};
    for (int64_t begin = 0; begin < w.rows; begin += block) {
      const int64_t rows = std::min(block, w.rows - begin);
      parallel_for(pool_, rows, grain, [&](int64_t from, int64_t to) {
        float* numbers = numbers_.data() + from * w.cols;
        if (part.factors) {
          merge_adapter(w, *part.factors, begin + from, begin + to, numbers);
        } else {
          format_kernels(w.format).back().dequantize_rows(w, begin + from, begin + to, numbers, w.cols);
        }
        uint8_t* to_bytes = bytes_.data() + from * w.cols * width;
        const bool finite = store(tensor.dtype, numbers, (to - from) * w.cols, to_bytes);
        if (part.factors && !finite) fits.store(false);
      });
      if (!fits.load()) {
        return invalid(
            fmt::format("{}: merged numbers do not fit {}; use another --dtype, or check the adapter",
                        part.factors->module, dtype_name(tensor.dtype)));
      }
      MOEBIUS_TRY(written_.put(bytes_.data(), rows * w.cols * width, writer));
    }
    return Status();
  }

  ThreadPool pool_;
  std::vector<float> numbers_;
  std::vector<uint8_t> bytes_;
  WriteProgress written_;
};

}  // namespace

Status write_merged(const ModelFiles& model, const MergePlan& plan, const std::string& dir,
                    const MergeOptions& options) {
  const std::string& base = model.checkpoint().dir();
  const std::string origin = base + "/config.json";
  MOEBIUS_ASSIGN(const std::string text, read_text_file(origin, kMaxConfigBytes));
  MOEBIUS_ASSIGN(const std::string config, merged_config(text, plan, origin));
  MOEBIUS_TRY(write_text_file(dir + "/config.json", config));
  MOEBIUS_TRY(copy_companions(base, dir));
  MergeWriter writer(options, plan.bytes);
  for (const MergeShard& shard : plan.shards) MOEBIUS_TRY(writer.write(shard, dir + "/" + shard.file));
  const bool single = plan.shards.size() == 1 && plan.shards.front().file == "model.safetensors";
  if (!single) {
    std::vector<std::pair<std::string, std::string>> places;
    for (const MergeShard& shard : plan.shards)
      for (const MergeTensor& tensor : shard.tensors) places.emplace_back(tensor.name, shard.file);
    MOEBIUS_TRY(write_shard_index(dir, plan.bytes, places));
  }
  return model.checkpoint().check_unchanged();
}

}  // namespace moebius
