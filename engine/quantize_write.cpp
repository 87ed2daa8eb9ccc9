#include <algorithm>
#include <atomic>
#include <cstring>

#include <fmt/format.h>

#include "engine/checkpoint_folder.h"
#include "engine/quantize.h"
#include "engine/write_progress.h"
#include "kernels/backend.h"
#include "kernels/half.h"
#include "kernels/parallel.h"
#include "models/file_io.h"

namespace moebius {
namespace {

using Part = QuantizeTensor::Part;

constexpr int64_t kPackedAtOnce = 16 << 20;  // numbers, in whole rows
constexpr int64_t kPackGrain = 64 << 10;

class QuantizeWriter {
 public:
  QuantizeWriter(const QuantizePlan& plan, const QuantizeRun& run)
      : plan_(plan),
        run_(run),
        pool_(run.threads),
        isa_(cpu_features().isa()),
        written_(run.progress, plan.bytes) {}

  Status write(const QuantizeShard& shard, const std::string& path) {
    SafetensorsWriter writer(path, shard.metadata);
    for (const QuantizeTensor& t : shard.tensors) writer.declare(t.name, t.dtype, t.shape);
    for (const QuantizeTensor& t : shard.tensors) MOEBIUS_TRY(write(t, writer));
    return writer.finish();
  }

  const QuantizeErrors& errors() const { return errors_; }

 private:
  Status write(const QuantizeTensor& tensor, SafetensorsWriter& writer) {
    if (tensor.part == Part::kCopy) return written_.put(tensor.source->data, tensor.source->bytes, writer);
    const QuantizeMatrix& m = plan_.matrices[tensor.matrix];
    switch (tensor.part) {
      case Part::kCodes:
        return pack(m, writer);
      case Part::kScales:
        return written_.put(scales_.data(), tensor.bytes, writer);
      case Part::kShape: {
        const int64_t shape[2] = {m.w.rows, m.w.cols};
        return written_.put(shape, sizeof shape, writer);
      }
      default:
        return widen(m, writer);
    }
  }

  // body(from, to, numbers of rows [from, to)) in parallel over the rows of a block, after which `after` gets
  // the block's first row and its rows.
  template <class Body, class After>
  Status by_blocks(const Matrix& w, const Body& body, const After& after) {
    const int64_t block = std::clamp<int64_t>(kPackedAtOnce / w.cols, 1, w.rows);
    const int64_t grain = std::max<int64_t>(1, kPackGrain / w.cols);
    numbers_.resize(static_cast<size_t>(block * w.cols));
    for (int64_t begin = 0; begin < w.rows; begin += block) {
      const int64_t rows = std::min(block, w.rows - begin);
      parallel_for(pool_, rows, grain, [&](int64_t from, int64_t to) {
        float* numbers = numbers_.data() + from * w.cols;
        best_kernels(w.format, isa_).dequantize_rows(w, begin + from, begin + to, numbers, w.cols);
        body(begin, from, to, numbers);
      });
      MOEBIUS_TRY(after(begin, rows));
    }
    return Status();
  }

  Status pack(const QuantizeMatrix& m, SafetensorsWriter& writer) {
    const Matrix& w = m.w;
    const int64_t code_bytes = m.format.row_bytes(w.cols), scale_bytes = m.format.scale_bytes(w.cols);
    const float* weights = column_weights(m);
    const int64_t block = std::clamp<int64_t>(kPackedAtOnce / w.cols, 1, w.rows);
    bytes_.resize(static_cast<size_t>(block * code_bytes));
    scales_.resize(static_cast<size_t>(w.rows * scale_bytes));
    row_errors_.assign(static_cast<size_t>(w.rows), PackError());
    std::atomic<int64_t> bad{w.rows};  // the first row that cannot be packed
    MOEBIUS_TRY(by_blocks(
        w,
        [&](int64_t begin, int64_t from, int64_t to, const float* numbers) {
          for (int64_t r = from; r < to; ++r, numbers += w.cols) {
            PackError& error = row_errors_[static_cast<size_t>(begin + r)];
            if (pack_row(m.format, numbers, w.cols, weights, bytes_.data() + r * code_bytes,
                         scales_.data() + (begin + r) * scale_bytes, error))
              continue;
            int64_t seen = bad.load();
            while (begin + r < seen && !bad.compare_exchange_weak(seen, begin + r)) {
            }
          }
        },
        [&](int64_t, int64_t rows) -> Status {
          if (bad.load() < w.rows) return cannot_pack(m, bad.load());
          return written_.put(bytes_.data(), rows * code_bytes, writer);
        }));
    QuantizeError& sum = errors_[static_cast<size_t>(m.role)];
    for (const PackError& e : row_errors_) sum.error += e.error, sum.square += e.square;
    sum.weights += w.rows * w.cols, sum.bytes += m.bytes_after;
    return Status();
  }

  static Status cannot_pack(const QuantizeMatrix& m, int64_t row) {
    return invalid(fmt::format(
        "tensor {}.weight: row {} holds a NaN, an infinity, or a number too large for {} scales; the "
        "checkpoint is damaged, or leave it out with --keep {}",
        m.name, row, dtype_name(m.format.scale_dtype), m.name));
  }

  Status widen(const QuantizeMatrix& m, SafetensorsWriter& writer) {  // FP8 to BF16
    const int64_t cols = m.w.cols, row_bytes = cols * 2;
    bytes_.resize(static_cast<size_t>(std::clamp<int64_t>(kPackedAtOnce / cols, 1, m.w.rows) * row_bytes));
    return by_blocks(
        m.w,
        [&](int64_t, int64_t from, int64_t to, const float* numbers) {
          for (int64_t i = 0; i < (to - from) * cols; ++i) {
            const uint16_t bits = f32_to_bf16(numbers[i]);
            std::memcpy(bytes_.data() + from * row_bytes + 2 * i, &bits, sizeof bits);
          }
        },
        [&](int64_t, int64_t rows) { return written_.put(bytes_.data(), rows * row_bytes, writer); });
  }

  const float* column_weights(const QuantizeMatrix& m) {
    const auto at = run_.weights.find(m.w.data);
    if (at != run_.weights.end()) return at->second.data();
    ones_.resize(std::max(ones_.size(), static_cast<size_t>(m.w.cols)), 1.0f);
    return ones_.data();
  }

  const QuantizePlan& plan_;
  const QuantizeRun& run_;
  ThreadPool pool_;
  Isa isa_;
  std::vector<float> numbers_, ones_;
  std::vector<uint8_t> bytes_, scales_;  // of a block; of the last matrix packed
  std::vector<PackError> row_errors_;
  QuantizeErrors errors_{};
  WriteProgress written_;
};

Status write_index(const QuantizePlan& plan, const std::string& dir) {
  if (plan.shards.size() == 1 && plan.shards.front().file == "model.safetensors") return Status();
  std::vector<std::pair<std::string, std::string>> places;
  for (const QuantizeShard& shard : plan.shards)
    for (const QuantizeTensor& tensor : shard.tensors) places.emplace_back(tensor.name, shard.file);
  return write_shard_index(dir, plan.bytes, places);
}

}  // namespace

Result<QuantizeErrors> write_quantized(const ModelFiles& model, const QuantizePlan& plan,
                                       const std::string& dir, const QuantizeRun& run) {
  const std::string& base = model.checkpoint().dir();
  const std::string origin = base + "/config.json";
  MOEBIUS_ASSIGN(const std::string text, read_text_file(origin, kMaxConfigBytes));
  MOEBIUS_ASSIGN(const std::string config, quantized_config(text, plan, origin));
  MOEBIUS_TRY(write_text_file(dir + "/config.json", config));
  MOEBIUS_TRY(copy_companions(base, dir));
  QuantizeWriter writer(plan, run);
  for (const QuantizeShard& shard : plan.shards) MOEBIUS_TRY(writer.write(shard, dir + "/" + shard.file));
  MOEBIUS_TRY(write_index(plan, dir));
  MOEBIUS_TRY(model.checkpoint().check_unchanged());
  return writer.errors();
}

}  // namespace moebius
