#include <cstdlib>
#include <set>

#include <fmt/format.h>

#include "kernels/half.h"
#include "models/weights.h"

namespace moebius {
namespace {

std::string shape_text(const std::vector<int64_t>& shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

// Finds a matrix in the checkpoint in whichever form it is stored.
class Binder {
 public:
  Binder(const Checkpoint& checkpoint, std::vector<Buffer>& vectors)
      : checkpoint_(checkpoint), vectors_(vectors) {}

  Status matrix(const std::string& name, int64_t rows, int64_t cols, Matrix& w) {
    if (const TensorEntry* packed = find(name + ".weight_packed"))
      return bind_packed(name, *packed, rows, cols, w);
    if (const TensorEntry* entry = find(name + ".weight")) return bind_dense(name, *entry, rows, cols, w);
    if (bind_fused(name, cols, w)) return check_shape(name, w.rows, w.cols, rows, cols);
    return not_found(
        fmt::format("{}: tensor {}.weight is missing; the download may be incomplete, or config.json "
                    "belongs to another model",
                    checkpoint_.dir(), name));
  }

  Status vector(const std::string& name, int64_t size, Tensor& v) {
    const TensorEntry* entry = find(name);
    if (!entry) return not_found(fmt::format("{}: tensor {} is missing", checkpoint_.dir(), name));
    if (entry->shape != std::vector<int64_t>{size}) {
      return invalid(fmt::format("{}: tensor {} has shape {}, expected [{}]", checkpoint_.dir(), name,
                                 shape_text(entry->shape), size));
    }
    Matrix row;
    MOEBIUS_TRY(float_format(name, *entry, &row.format));
    MOEBIUS_ASSIGN(Buffer buffer, Buffer::host(static_cast<size_t>(size) * sizeof(float)));
    row.rows = 1, row.cols = size, row.data = entry->data;
    format_kernels(row.format).back().dequantize_rows(row, 0, 1, buffer.as<float>(), size);
    v = f32_tensor(buffer.as<float>(), {size});
    vectors_.push_back(std::move(buffer));
    return Status();
  }

  bool used(const std::string& name) const { return used_.contains(name); }

 private:
  const TensorEntry* find(const std::string& name) {
    const TensorEntry* entry = checkpoint_.find(name);
    if (entry) used_.insert(name);
    return entry;
  }

  Status wrong(const std::string& name, const std::string& what) const {
    return invalid(fmt::format("{}: tensor {}: {}", checkpoint_.dir(), name, what));
  }

  Status check_shape(const std::string& name, int64_t have_rows, int64_t have_cols, int64_t rows,
                     int64_t cols) const {
    if (have_rows == rows && have_cols == cols) return Status();
    return wrong(name, fmt::format("shape [{}, {}], but config.json asks for [{}, {}]", have_rows, have_cols,
                                   rows, cols));
  }

  Status float_format(const std::string& name, const TensorEntry& entry, Format* format) const {
    switch (entry.dtype) {
      case DType::kF32:
        *format = Format::kF32;
        return Status();
      case DType::kBF16:
        *format = Format::kBF16;
        return Status();
      case DType::kF16:
        *format = Format::kF16;
        return Status();
      default:
        break;
    }
    return unsupported(
        fmt::format("{}: tensor {} has dtype {}; F32, BF16, F16, F8_E4M3 with scales and packed int4 or int8 "
                    "are supported",
                    checkpoint_.dir(), name, dtype_name(entry.dtype)));
  }

  Status bind_dense(const std::string& name, const TensorEntry& entry, int64_t rows, int64_t cols,
                    Matrix& w) {
    if (entry.shape.size() != 2) return wrong(name, "shape " + shape_text(entry.shape) + " is not a matrix");
    MOEBIUS_TRY(check_shape(name, entry.shape[0], entry.shape[1], rows, cols));
    w.rows = entry.shape[0], w.cols = entry.shape[1], w.data = entry.data;
    if (entry.dtype != DType::kF8E4M3) return float_format(name, entry, &w.format);
    const TensorEntry* scales = find(name + ".weight_scale_inv");
    if (!scales) return wrong(name, "F8_E4M3 weights without weight_scale_inv");
    const std::vector<int64_t> expected{(w.rows + kFp8Block - 1) / kFp8Block,
                                        (w.cols + kFp8Block - 1) / kFp8Block};
    if (scales->shape != expected) {
      return wrong(name, fmt::format("weight_scale_inv has shape {}, expected {}", shape_text(scales->shape),
                                     shape_text(expected)));
    }
    w.format = Format::kFp8Block, w.group = kFp8Block;
    return bind_scales(name, *scales, w);
  }

  Status bind_scales(const std::string& name, const TensorEntry& scales, Matrix& w) {
    if (scales.dtype != DType::kF32 && scales.dtype != DType::kBF16 && scales.dtype != DType::kF16) {
      return wrong(name, fmt::format("scales of dtype {} are not supported", dtype_name(scales.dtype)));
    }
    w.scales = scales.data, w.scale_dtype = scales.dtype;
    return Status();
  }

  // compressed-tensors: bits and group follow from the shapes of weight_packed, weight_scale and
  // weight_shape.
  Status bind_packed(const std::string& name, const TensorEntry& packed, int64_t rows, int64_t cols,
                     Matrix& w) {
    const TensorEntry* shape = find(name + ".weight_shape");
    const TensorEntry* scales = find(name + ".weight_scale");
    if (!shape || !scales) return wrong(name, "weight_packed without weight_shape and weight_scale");
    for (const char* extra : {".weight_zero_point", ".weight_g_idx"}) {
      if (find(name + extra))
        return wrong(name, fmt::format("{} (asymmetric or reordered groups) is not supported", extra + 1));
    }
    if (shape->shape != std::vector<int64_t>{2} ||
        (shape->dtype != DType::kI32 && shape->dtype != DType::kI64)) {
      return wrong(name, "weight_shape must be two integers");
    }
    const bool wide = shape->dtype == DType::kI64;
    w.rows = wide ? load_unaligned<int64_t>(shape->data, 0) : load_unaligned<int32_t>(shape->data, 0);
    w.cols = wide ? load_unaligned<int64_t>(shape->data, 1) : load_unaligned<int32_t>(shape->data, 1);
    MOEBIUS_TRY(check_shape(name, w.rows, w.cols, rows, cols));
    if (w.rows < 1 || w.cols < 1 || packed.dtype != DType::kI32 || packed.shape.size() != 2 ||
        packed.shape[0] != w.rows) {
      return wrong(name, "weight_packed must be I32 with one row per output");
    }
    const int64_t words = packed.shape[1];
    if (words == (w.cols + 7) / 8) {
      w.format = Format::kInt4;
    } else if (words == (w.cols + 3) / 4) {
      w.format = Format::kInt8;
    } else {
      return wrong(name,
                   fmt::format("{} words per row of {} numbers is neither int4 nor int8", words, w.cols));
    }
    w.data = packed.data;
    return bind_groups(name, *scales, w);
  }

  Status bind_groups(const std::string& name, const TensorEntry& scales, Matrix& w) {
    if (scales.shape.size() != 2 || scales.shape[0] != w.rows || scales.shape[1] < 1) {
      return wrong(name, "weight_scale must have one row per output");
    }
    const int64_t per_row = scales.shape[1];
    w.group = (w.cols + per_row - 1) / per_row;
    if (per_row == 1) w.group = (w.cols + kActivationGroup - 1) / kActivationGroup * kActivationGroup;
    if (w.group % kActivationGroup != 0 || w.scales_per_row() != per_row) {
      return wrong(name,
                   fmt::format("{} scales for {} columns: groups must be a multiple of 32", per_row, w.cols));
    }
    return bind_scales(name, scales, w);
  }

  // transformers 5 may store all experts of a layer as [E, 2 * width, hidden] (gate, then up) and [E, hidden,
  // width].
  bool bind_fused(const std::string& name, int64_t cols, Matrix& w) {
    const size_t experts = name.find(".experts.");
    if (experts == std::string::npos) return false;
    const std::string base = name.substr(0, experts + 9);
    const size_t dot = name.find('.', base.size());
    if (dot == std::string::npos) return false;
    const int64_t index = std::stoll(name.substr(base.size(), dot - base.size()));
    const std::string part = name.substr(dot + 1);
    const bool down = part == "down_proj";
    const TensorEntry* all = find(base + (down ? "down_proj" : "gate_up_proj"));
    if (!all || all->shape.size() != 3 || index >= all->shape[0] || all->shape[2] != cols) {
      return false;
    }
    if (!float_format(name, *all, &w.format).ok() || (!down && all->shape[1] % 2 != 0)) return false;
    w.rows = down ? all->shape[1] : all->shape[1] / 2;
    w.cols = all->shape[2];
    w.data = all->data;
    const int64_t skipped = index * all->shape[1] + (part == "up_proj" ? w.rows : 0);
    w.data = w.row(skipped);
    return true;
  }

  const Checkpoint& checkpoint_;
  std::vector<Buffer>& vectors_;
  std::set<std::string> used_;
};

// Tensors that no role asked for: extra prediction layers are expected, others are worth a line.
void note_unused(const ModelConfig& config, const Checkpoint& checkpoint, const Binder& binder,
                 std::vector<std::string>& notes) {
  int64_t extra_layers = 0, others = 0;
  std::string first;
  for (const TensorEntry* entry : checkpoint.tensors()) {
    if (binder.used(entry->name) || entry->name.ends_with("rotary_emb.inv_freq")) continue;
    const std::string prefix = "model.layers.";
    const bool layer = entry->name.starts_with(prefix);
    if (layer && std::strtoll(entry->name.c_str() + prefix.size(), nullptr, 10) >= config.layers) {
      ++extra_layers;
    } else if (others++ == 0) {
      first = entry->name;
    }
  }
  if (extra_layers > 0) {
    notes.push_back(fmt::format("skipped {} tensors of multi-token-prediction layers", extra_layers));
  }
  if (others > 0)
    notes.push_back(fmt::format("{} tensors are not used by {}: {} ...", others, config.model_type, first));
}

}  // namespace

Result<std::unique_ptr<ModelFiles>> ModelFiles::open(const std::string& dir) {
  std::unique_ptr<ModelFiles> files(new ModelFiles);
  MOEBIUS_ASSIGN(files->config_, ModelConfig::load(dir));
  MOEBIUS_ASSIGN(files->checkpoint_, Checkpoint::open(dir));
  Binder binder(*files->checkpoint_, files->vectors_);
  WeightVisitor visitor;
  visitor.matrix = [&](const std::string& name, Role, int64_t rows, int64_t cols, Matrix& w) {
    return binder.matrix(name, rows, cols, w);
  };
  visitor.vector = [&](const std::string& name, int64_t size, Tensor& v) {
    return binder.vector(name, size, v);
  };
  MOEBIUS_TRY(visit_weights(files->config_, files->weights_, visitor));
  if (files->config_.tied_head && files->checkpoint_->find("lm_head.weight")) {
    files->notes_.push_back("lm_head.weight is ignored: config.json ties the head to the embedding");
  }
  note_unused(files->config_, *files->checkpoint_, binder, files->notes_);
  return files;
}

}  // namespace moebius
