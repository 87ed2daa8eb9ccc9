#include "tools/synth_weights.h"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "kernels/parallel.h"
#include "models/file_io.h"
#include "models/safetensors.h"
#include "models/weights.h"

namespace moebius {
namespace {

constexpr int64_t kPieceBytes = 16 << 20, kGrainBytes = 64 << 10;

// Deviations: a linear map keeps the size of its input, so that queries, hidden units and logits are of
// order 1; maps into the residual stream are smaller by sqrt(layers), so that all layers together add about
// as much as the embedding brings. Router rows give logits of deviation 1.5, which spreads tokens over all
// experts while each token has clear favourites.
class Planner {
 public:
  Planner(const ModelConfig& config, const SynthOptions& options) : config_(config), options_(options) {}

  Status matrix(const std::string& name, Role role, int64_t rows, int64_t cols) {
    const float deviation = matrix_deviation(name, role, cols);
    std::vector<TensorSpec> parts;
    switch (format_of(role)) {
      case Format::kFp8Block: {
        parts.push_back({name + ".weight", DType::kF8E4M3, {rows, cols}, Fill::kFp8});
        const int64_t down = (rows + kFp8Block - 1) / kFp8Block, across = (cols + kFp8Block - 1) / kFp8Block;
        parts.push_back(
            {name + ".weight_scale_inv", DType::kF32, {down, across}, Fill::kUniform, deviation / kFp8Rms});
        break;
      }
      case Format::kInt4:
      case Format::kInt8:
        if (cols % kActivationGroup != 0) {
          return unsupported(
              fmt::format("{}: {} has {} inputs, and groups of {} need a multiple of that; use --dtype bf16",
                          options_.geometry, name, cols, kActivationGroup));
        }
        parts = packed(name, format_of(role), rows, cols, deviation);
        break;
      default:
        parts.push_back({name + ".weight", DType::kBF16, {rows, cols}, Fill::kNormal, 0, deviation});
    }
    return add(std::move(parts));
  }

  Status vector(const std::string& name, int64_t size) {
    if (name.ends_with("e_score_correction_bias"))
      return add({{name, DType::kF32, {size}, Fill::kNormal, 0, 0.02f}});
    const bool norm = name.ends_with(".weight");
    return add({{name, DType::kBF16, {size}, Fill::kNormal, norm ? 1.0f : 0.0f, norm ? 0.05f : 0.02f}});
  }

  std::vector<ShardPlan> finish() {
    const size_t n = shards_.size();
    for (size_t i = 0; i < n; ++i) {
      shards_[i].file =
          n == 1 ? "model.safetensors" : fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, n);
    }
    return std::move(shards_);
  }

 private:
  Format format_of(Role role) const {
    if (role == Role::kEmbed || role == Role::kRouter) return Format::kBF16;
    return options_.experts_only && role != Role::kExpert ? Format::kBF16 : options_.format;
  }

  float matrix_deviation(const std::string& name, Role role, int64_t cols) const {
    if (role == Role::kEmbed) return 1;
    const float kept = 1 / std::sqrt(static_cast<float>(cols));
    if (role == Role::kRouter) return 1.5f * kept;
    const bool residual = name.ends_with(".o_proj") || name.ends_with(".down_proj");
    return residual ? kept / std::sqrt(static_cast<float>(config_.layers)) : kept;
  }

  static std::vector<TensorSpec> packed(const std::string& name, Format format, int64_t rows, int64_t cols,
                                        float deviation) {
    const bool four = format == Format::kInt4;
    TensorSpec shape{name + ".weight_shape", DType::kI64, {2}, Fill::kShape};
    shape.rows = rows, shape.cols = cols;
    const float rms = four ? kNibblesRms : kBytesRms;
    return {{name + ".weight_packed",
             DType::kI32,
             {rows, cols / (four ? 8 : 4)},
             four ? Fill::kNibbles : Fill::kBytes},
            {name + ".weight_scale",
             DType::kBF16,
             {rows, cols / kActivationGroup},
             Fill::kUniform,
             deviation / rms},
            shape};
  }

  Status add(std::vector<TensorSpec> parts) {
    int64_t bytes = 0;
    for (TensorSpec& part : parts) {
      part.bytes = static_cast<int64_t>(dtype_bytes(part.dtype));
      bool fits = true;
      for (const int64_t size : part.shape) fits = fits && checked_mul(part.bytes, size, &part.bytes);
      if (!fits || __builtin_add_overflow(bytes, part.bytes, &bytes) || total_ > INT64_MAX - bytes)
        return invalid(fmt::format("{}: the size of {} overflows", options_.geometry, part.name));
    }
    if (shards_.empty() || (in_shard_ > 0 && in_shard_ + bytes > options_.shard_bytes)) {
      shards_.emplace_back();
      in_shard_ = 0;
    }
    in_shard_ += bytes;
    total_ += bytes;
    std::move(parts.begin(), parts.end(), std::back_inserter(shards_.back().tensors));
    return Status();
  }

  const ModelConfig& config_;
  const SynthOptions& options_;
  std::vector<ShardPlan> shards_;
  int64_t in_shard_ = 0, total_ = 0;
};

class ShardWriter {
 public:
  ShardWriter(const SynthOptions& options, const SynthProgress& progress, int64_t total)
      : options_(options), progress_(progress), pool_(options.threads), total_(total) {}

  Status write(const ShardPlan& shard, const std::string& path) {
    SafetensorsWriter writer(path, {{"format", "pt"}});
    for (const TensorSpec& spec : shard.tensors) writer.declare(spec.name, spec.dtype, spec.shape);
    for (const TensorSpec& spec : shard.tensors) {
      content_.start(spec, options_.seed);
      for (int64_t begin = 0; begin < spec.bytes; begin += kPieceBytes) {
        const int64_t bytes = std::min(kPieceBytes, spec.bytes - begin);
        if (piece_.size() < static_cast<size_t>(bytes)) piece_.resize(static_cast<size_t>(bytes));
        parallel_for(pool_, bytes, kGrainBytes, [&](int64_t from, int64_t to) {
          content_.write(begin + from, to - from, piece_.data() + from);
        });
        MOEBIUS_TRY(writer.append(piece_.data(), static_cast<size_t>(bytes)));
        done_ += bytes;
        if (progress_ && !progress_(done_, total_)) return {Code::kCancelled, "cancelled"};
      }
    }
    return writer.finish();
  }

 private:
  const SynthOptions& options_;
  const SynthProgress& progress_;
  ThreadPool pool_;
  RandomContent content_;
  std::vector<uint8_t> piece_;
  int64_t done_ = 0, total_ = 0;
};

Status write_index(const std::vector<ShardPlan>& shards, const std::string& dir) {
  nlohmann::json map = nlohmann::json::object();
  for (const ShardPlan& shard : shards) {
    for (const TensorSpec& spec : shard.tensors) map[spec.name] = shard.file;
  }
  const nlohmann::json index = {{"metadata", {{"total_size", plan_bytes(shards)}}},
                                {"weight_map", std::move(map)}};
  return write_text_file(dir + "/model.safetensors.index.json", index.dump(1) + "\n");
}

}  // namespace

Result<std::vector<ShardPlan>> plan_shards(const ModelConfig& config, const SynthOptions& options) {
  Planner planner(config, options);
  Weights weights;
  WeightVisitor visitor;
  visitor.matrix = [&](const std::string& name, Role role, int64_t rows, int64_t cols, Matrix&) {
    return planner.matrix(name, role, rows, cols);
  };
  visitor.vector = [&](const std::string& name, int64_t size, Tensor&) { return planner.vector(name, size); };
  MOEBIUS_TRY(visit_weights(config, weights, visitor));
  return planner.finish();
}

int64_t plan_bytes(const std::vector<ShardPlan>& shards) {
  int64_t bytes = 0;
  for (const ShardPlan& shard : shards) {
    for (const TensorSpec& spec : shard.tensors) bytes += spec.bytes;
  }
  return bytes;
}

Status write_shards(const std::vector<ShardPlan>& shards, const std::string& dir, const SynthOptions& options,
                    const SynthProgress& progress) {
  ShardWriter writer(options, progress, plan_bytes(shards));
  for (const ShardPlan& shard : shards) MOEBIUS_TRY(writer.write(shard, dir + "/" + shard.file));
  return shards.size() > 1 ? write_index(shards, dir) : Status();
}

}  // namespace moebius
