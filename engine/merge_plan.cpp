#include <algorithm>
#include <map>
#include <set>
#include <unordered_map>

#include <fmt/format.h>

#include "engine/merge.h"
#include "models/safetensors_header.h"

namespace moebius {
namespace {

bool is_quantized(Format format) { return is_integer(format) || format == Format::kFp8Block; }

DType type_of(Format base, MergeType type) {
  if (type == MergeType::kF32) return DType::kF32;
  if (type == MergeType::kBF16) return DType::kBF16;
  if (base == Format::kF32) return DType::kF32;
  return base == Format::kF16 ? DType::kF16 : DType::kBF16;
}

// "model.layers.3.mlp.experts" of a routed expert's matrix, or all of another name.
std::string module_of(const std::string& name, Role role) {
  constexpr std::string_view kExperts = ".experts.";
  const size_t at = role == Role::kExpert ? name.find(kExperts) : name.npos;
  return at == name.npos ? name : name.substr(0, at + kExperts.size() - 1);
}

struct ModelMatrixView {
  std::string name;
  Role role = Role::kAttention;
  Matrix w;
  const AdapterFactors* factors = nullptr;
};

class MergePlanner {
 public:
  MergePlanner(const ModelFiles& model, MergeType type) : model_(model) { plan_.type = type; }

  Status visit(std::span<const AdapterFactors> factors);
  void place();
  Status finish();
  MergePlan take() { return std::move(plan_); }

 private:
  void add_part(const ModelMatrixView& m, const TensorEntry& entry);
  Status complete(MergeTensor& tensor) const;

  const ModelFiles& model_;
  MergePlan plan_;
  std::vector<ModelMatrixView> matrices_;
  std::unordered_map<const TensorEntry*, MergeTensor> merged_;
  std::set<std::string> dropped_;  // tensors that belong to what is not packed any more
};

Status MergePlanner::visit(std::span<const AdapterFactors> factors) {
  std::map<std::string, const AdapterFactors*> wanted;
  for (const AdapterFactors& f : factors) {
    if (!wanted.emplace(f.module, &f).second)
      return invalid(fmt::format("adapter: {} comes twice", f.module));
  }
  WeightVisitor visitor;
  visitor.matrix = [&](const std::string& name, Role role, int64_t rows, int64_t cols, Matrix& w) -> Status {
    ModelMatrixView m{name, role, w, nullptr};
    const auto at = wanted.find(name);
    if (at != wanted.end()) {
      const AdapterFactors& f = *at->second;
      if (f.out != rows || f.in != cols || f.rank < 1 || std::ssize(f.a) != f.rank * f.in ||
          std::ssize(f.b) != f.out * f.rank) {
        return invalid(fmt::format("adapter: {}: it is for [{}, {}], the model has [{}, {}]", name, f.out,
                                   f.in, rows, cols));
      }
      m.factors = &f;
      ++plan_.merged[static_cast<size_t>(role)];
      wanted.erase(at);
    }
    matrices_.push_back(std::move(m));
    return Status();
  };
  visitor.vector = [](const std::string&, int64_t, Tensor&) { return Status(); };
  Weights views = model_.weights();
  MOEBIUS_TRY(visit_weights(model_.config(), views, visitor));
  if (wanted.empty()) return Status();
  return invalid(fmt::format("adapter: {} is no matrix of this model", wanted.begin()->first));
}

void MergePlanner::place() {
  std::set<std::string> unpacked;        // modules that must become plain
  std::set<const TensorEntry*> touched;  // float tensors with an adapted part
  for (const ModelMatrixView& m : matrices_) {
    if (m.factors && is_quantized(m.w.format)) unpacked.insert(module_of(m.name, m.role));
    if (m.factors && !is_quantized(m.w.format)) touched.insert(model_.checkpoint().holding(m.w.data));
  }
  std::set<std::string> plain;
  for (const ModelMatrixView& m : matrices_) {
    const TensorEntry* entry = model_.checkpoint().holding(m.w.data);
    MOEBIUS_CHECK(entry != nullptr, m.name);
    const std::string module = module_of(m.name, m.role);
    if (!is_quantized(m.w.format)) {
      if (m.role != Role::kEmbed) plain.insert(module);
      if (touched.contains(entry)) add_part(m, *entry);
    } else if (unpacked.contains(module)) {
      add_part(m, *entry);
      ++plan_.unpacked;
      plan_.unpacked_alone += m.factors == nullptr;
      for (const char* part : {".weight_scale", ".weight_shape", ".weight_scale_inv"})
        dropped_.insert(m.name + part);
    }
  }
  plan_.unpacked_modules.assign(unpacked.begin(), unpacked.end());
  plan_.plain_modules.assign(plain.begin(), plain.end());
}

void MergePlanner::add_part(const ModelMatrixView& m, const TensorEntry& entry) {
  MergeTensor& tensor = merged_[&entry];
  if (tensor.parts.empty()) {
    tensor.dtype = type_of(m.w.format, plan_.type);
    const bool quantized = is_quantized(m.w.format);
    tensor.name = quantized ? m.name + ".weight" : entry.name;
    tensor.shape = quantized ? std::vector<int64_t>{m.w.rows, m.w.cols} : entry.shape;
  }
  const int64_t skipped = static_cast<const char*>(m.w.data) - static_cast<const char*>(entry.data);
  tensor.parts.push_back({skipped / m.w.row_bytes(), m.w, m.factors});
}

// Parts in order of their rows, and nothing between or beyond them.
Status MergePlanner::complete(MergeTensor& tensor) const {
  std::sort(tensor.parts.begin(), tensor.parts.end(),
            [](const MergePart& a, const MergePart& b) { return a.row < b.row; });
  int64_t row = 0, numbers = 1;
  bool whole = tensor_bytes(tensor.dtype, tensor.shape, &numbers);
  numbers /= static_cast<int64_t>(dtype_bytes(tensor.dtype));
  for (const MergePart& part : tensor.parts) {
    whole = whole && part.row == row && part.base.cols == tensor.shape.back();
    row += part.base.rows;
  }
  if (whole && row * tensor.shape.back() == numbers) return Status();
  return invalid(fmt::format("{}: tensor {} holds more than config.json says; its adapter cannot be merged",
                             model_.checkpoint().dir(), tensor.name));
}

Status MergePlanner::finish() {
  std::set<std::string> names;
  for (const Checkpoint::Shard& from : model_.checkpoint().shards()) {
    MergeShard shard{from.name, from.file->metadata(), {}};
    const auto is_format = [](const auto& pair) { return pair.first == "format"; };
    // transformers refuses files that do not say this.
    if (std::none_of(shard.metadata.begin(), shard.metadata.end(), is_format))
      shard.metadata.emplace_back("format", "pt");
    for (const TensorEntry& entry : from.file->tensors()) {
      if (dropped_.contains(entry.name)) continue;
      MergeTensor tensor{entry.name, entry.dtype, entry.shape, entry.bytes, &entry, {}};
      if (const auto at = merged_.find(&entry); at != merged_.end()) {
        tensor = std::move(at->second);
        tensor.source = &entry;
        MOEBIUS_TRY(complete(tensor));
        tensor_bytes(tensor.dtype, tensor.shape, &tensor.bytes);
      } else {
        plan_.quantized |= entry.dtype == DType::kF8E4M3 || entry.name.ends_with(".weight_packed");
      }
      if (!names.insert(tensor.name).second) {
        return invalid(fmt::format("{}: {} is there both packed and plain; remove one of them",
                                   model_.checkpoint().dir(), tensor.name));
      }
      if (__builtin_add_overflow(plan_.bytes, tensor.bytes, &plan_.bytes))
        return invalid("the merged checkpoint's size overflows");
      shard.tensors.push_back(std::move(tensor));
    }
    if (!shard.tensors.empty()) plan_.shards.push_back(std::move(shard));
  }
  return Status();
}

}  // namespace

Result<MergePlan> plan_merge(const ModelFiles& model, std::span<const AdapterFactors> factors,
                             MergeType type) {
  MergePlanner planner(model, type);
  MOEBIUS_TRY(planner.visit(factors));
  planner.place();
  MOEBIUS_TRY(planner.finish());
  return planner.take();
}

}  // namespace moebius
