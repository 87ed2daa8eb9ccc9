#include <algorithm>
#include <cstdlib>
#include <map>
#include <set>

#include <fmt/format.h>

#include "engine/quantize.h"
#include "engine/quantize_choice.h"
#include "models/safetensors_header.h"

namespace moebius {
namespace {

using Part = QuantizeTensor::Part;

DType scale_type(Format format) {
  if (format == Format::kF32) return DType::kF32;
  return format == Format::kF16 ? DType::kF16 : DType::kBF16;
}

class QuantizePlanner {
 public:
  QuantizePlanner(const ModelFiles& model, const QuantizeOptions& options)
      : model_(model), options_(options) {}

  Status choose();
  Status check_experts();
  Status lay_out();
  QuantizePlan take() { return std::move(plan_); }

 private:
  Status choose(QuantizeMatrix& m, QuantizeChoice& keep);
  bool is_left_out(const TensorEntry& entry) const;
  Status add_tensors(const TensorEntry& entry, QuantizeShard& shard);
  Status add_packed(size_t index, QuantizeShard& shard);
  Status add(QuantizeTensor tensor, QuantizeShard& shard);
  std::string origin() const { return model_.checkpoint().dir(); }

  const ModelFiles& model_;
  const QuantizeOptions& options_;
  QuantizePlan plan_;
  std::map<const TensorEntry*, std::vector<size_t>> in_tensor_;  // matrices that change, in file order
  std::set<const TensorEntry*> scales_;                          // of FP8 matrices, which go
};

Status QuantizePlanner::choose() {
  MOEBIUS_ASSIGN(QuantizeChoice keep, QuantizeChoice::create(options_.keep));
  WeightVisitor visitor;
  visitor.matrix = [&](const std::string& name, Role role, int64_t, int64_t, Matrix& w) -> Status {
    if (is_integer(w.format)) {
      return invalid(fmt::format("{}: {} is {} already; quantise the original checkpoint", origin(), name,
                                 format_name(w.format)));
    }
    QuantizeMatrix m{name, role, w, false, {}, w.bytes()};
    if (role != Role::kEmbed && role != Role::kRouter) MOEBIUS_TRY(choose(m, keep));
    plan_.matrices.push_back(std::move(m));
    return Status();
  };
  visitor.vector = [](const std::string&, int64_t, Tensor&) { return Status(); };
  Weights views = model_.weights();
  MOEBIUS_TRY(visit_weights(model_.config(), views, visitor));
  return keep.all_used();
}

Status QuantizePlanner::choose(QuantizeMatrix& m, QuantizeChoice& keep) {
  MOEBIUS_ASSIGN(const bool kept, keep.takes(m.name, m.role));
  if (kept) return Status();
  if (m.w.cols % options_.group != 0 && m.role == Role::kExpert && !model_.config().moe.widths.empty()) {
    return invalid(
        fmt::format("{}: {} has {} columns, which groups of {} do not divide; prune with tenp --multiple {}",
                    origin(), m.name, m.w.cols, options_.group, options_.group));
  }
  if (m.w.cols % options_.group != 0) {
    return invalid(fmt::format(
        "{}: {} has {} columns, which groups of {} do not divide; choose another --group, or leave "
        "it out with --keep {}",
        origin(), m.name, m.w.cols, options_.group, m.name.substr(m.name.rfind('.') + 1)));
  }
  m.packed = true;
  m.format = {options_.format, options_.group, scale_type(m.w.format)};
  m.bytes_after = m.w.rows * (m.format.row_bytes(m.w.cols) + m.format.scale_bytes(m.w.cols));
  return Status();
}

// transformers and vLLM hold the routed experts of a layer as one tensor.
Status QuantizePlanner::check_experts() {
  const QuantizeMatrix* first = nullptr;
  std::string_view layer;
  for (const QuantizeMatrix& m : plan_.matrices) {
    if (m.role != Role::kExpert) continue;
    ++(m.packed ? plan_.packed_experts : plan_.plain_experts);
    const std::string_view at = std::string_view(m.name).substr(0, m.name.find(".experts."));
    if (at != layer) layer = at, first = &m;
    if (m.packed == first->packed) continue;
    return invalid(
        fmt::format("--keep: {} and {} would be stored differently; name all routed experts of a layer or "
                    "none, since programs hold them in one format",
                    first->name, m.name));
  }
  return Status();
}

// Of a layer that only multi-token prediction has.
bool QuantizePlanner::is_left_out(const TensorEntry& entry) const {
  constexpr std::string_view kLayers = "model.layers.";
  return entry.name.starts_with(kLayers) &&
         std::strtoll(entry.name.c_str() + kLayers.size(), nullptr, 10) >= model_.config().layers;
}

Status QuantizePlanner::lay_out() {
  const Checkpoint& checkpoint = model_.checkpoint();
  for (size_t i = 0; i < plan_.matrices.size(); ++i) {
    const QuantizeMatrix& m = plan_.matrices[i];
    const bool fp8 = m.w.format == Format::kFp8Block;
    if (fp8) scales_.insert(checkpoint.holding(m.w.scales));
    if (m.packed || fp8) in_tensor_[checkpoint.holding(m.w.data)].push_back(i);
  }
  for (const Checkpoint::Shard& from : checkpoint.shards()) {
    QuantizeShard shard{from.name, from.file->metadata(), {}};
    const auto is_format = [](const auto& pair) { return pair.first == "format"; };
    // transformers refuses files that do not say this.
    if (std::none_of(shard.metadata.begin(), shard.metadata.end(), is_format))
      shard.metadata.emplace_back("format", "pt");
    for (const TensorEntry& entry : from.file->tensors()) MOEBIUS_TRY(add_tensors(entry, shard));
    if (!shard.tensors.empty()) plan_.shards.push_back(std::move(shard));
  }
  return Status();
}

// What stands for a tensor of the original: itself, its matrices packed, or its numbers in BF16.
Status QuantizePlanner::add_tensors(const TensorEntry& entry, QuantizeShard& shard) {
  if (scales_.contains(&entry)) return Status();
  if (is_left_out(entry)) {
    ++plan_.dropped;
    return Status();
  }
  const auto at = in_tensor_.find(&entry);
  if (at == in_tensor_.end())
    return add({entry.name, entry.dtype, entry.shape, entry.bytes, Part::kCopy, &entry}, shard);
  int64_t covered = 0;
  for (const size_t i : at->second) covered += plan_.matrices[i].w.rows * plan_.matrices[i].w.row_bytes();
  if (covered != entry.bytes)
    return invalid(fmt::format("{}: tensor {} holds more than config.json says; correct one of them",
                               origin(), entry.name));
  for (const size_t i : at->second) {
    const QuantizeMatrix& m = plan_.matrices[i];
    if (m.packed) {
      MOEBIUS_TRY(add_packed(i, shard));
    } else {
      MOEBIUS_TRY(
          add({m.name + ".weight", DType::kBF16, {m.w.rows, m.w.cols}, 0, Part::kPlain, nullptr, i}, shard));
      plan_.matrices[i].bytes_after = shard.tensors.back().bytes;
    }
  }
  return Status();
}

Status QuantizePlanner::add_packed(size_t index, QuantizeShard& shard) {
  const QuantizeMatrix& m = plan_.matrices[index];
  const int64_t words = m.format.row_bytes(m.w.cols) / static_cast<int64_t>(sizeof(int32_t));
  const int64_t groups = m.w.cols / m.format.group;
  MOEBIUS_TRY(add(
      {m.name + ".weight_packed", DType::kI32, {m.w.rows, words}, 0, Part::kCodes, nullptr, index}, shard));
  MOEBIUS_TRY(add(
      {m.name + ".weight_scale", m.format.scale_dtype, {m.w.rows, groups}, 0, Part::kScales, nullptr, index},
      shard));
  return add({m.name + ".weight_shape", DType::kI64, {2}, 0, Part::kShape, nullptr, index}, shard);
}

Status QuantizePlanner::add(QuantizeTensor tensor, QuantizeShard& shard) {
  if (!tensor_bytes(tensor.dtype, tensor.shape, &tensor.bytes) ||
      __builtin_add_overflow(plan_.bytes, tensor.bytes, &plan_.bytes))
    return invalid(fmt::format("{}: the size of {} overflows", origin(), tensor.name));
  shard.tensors.push_back(std::move(tensor));
  return Status();
}

}  // namespace

Result<QuantizePlan> plan_quantize(const ModelFiles& model, const QuantizeOptions& options) {
  QuantizePlanner planner(model, options);
  MOEBIUS_TRY(planner.choose());
  MOEBIUS_TRY(planner.check_experts());
  MOEBIUS_TRY(planner.lay_out());
  return planner.take();
}

}  // namespace moebius
