#include "engine/prune/pruned_checkpoint.h"

#include <algorithm>
#include <map>
#include <numeric>

#include <fmt/format.h>

namespace moebius {
namespace {

DType float_dtype(Format format) {
  if (format == Format::kF32) return DType::kF32;
  return format == Format::kF16 ? DType::kF16 : DType::kBF16;
}

int64_t part_bytes(DType dtype, const std::vector<int64_t>& shape) {
  return std::accumulate(shape.begin(), shape.end(), static_cast<int64_t>(dtype_bytes(dtype)),
                         std::multiplies<>());
}

}  // namespace

MatrixCut PrunedCheckpoint::cut_of(const Item& item) {
  MatrixCut cut{item.from, {}, {}};
  if (item.rows) cut.rows = *item.rows;
  if (item.cols) cut.cols = *item.cols;
  return cut;
}

std::vector<PrunedCheckpoint::Part> PrunedCheckpoint::parts_of(const Item& item) {
  if (item.copy) return {{item.copy->name, item.copy->dtype, item.copy->shape}};
  const Matrix& w = item.from;
  const int64_t rows = item.rows ? std::ssize(*item.rows) : w.rows;
  const int64_t cols = item.cols ? std::ssize(*item.cols) : w.cols;
  if (item.vector) return {{item.name, float_dtype(w.format), {rows}}};
  if (is_integer(w.format)) {
    const int64_t in_word = w.format == Format::kInt4 ? 8 : 4;
    const int64_t scales = w.scales_per_row() == 1 ? 1 : (cols + w.group - 1) / w.group;
    return {{item.name + ".weight_packed", DType::kI32, {rows, (cols + in_word - 1) / in_word}},
            {item.name + ".weight_scale", w.scale_dtype, {rows, scales}},
            {item.name + ".weight_shape", item.shape_dtype, {2}}};
  }
  if (w.format != Format::kFp8Block) return {{item.name + ".weight", float_dtype(w.format), {rows, cols}}};
  const int64_t down = (rows + kFp8Block - 1) / kFp8Block, across = (cols + kFp8Block - 1) / kFp8Block;
  return {{item.name + ".weight", DType::kF8E4M3, {rows, cols}},
          {item.name + ".weight_scale_inv", w.scale_dtype, {down, across}}};
}

// Finds what changes by role, and puts it where the model has it.
class PrunedCheckpoint::Builder {
 public:
  Builder(const ModelFiles& model, const PrunePlan& plan, PrunedCheckpoint& out)
      : model_(model), moe_(model.config().moe), plan_(plan), out_(out) {}

  Status build() {
    number_experts();
    widen_shared();
    WeightVisitor visitor;
    visitor.matrix = [&](const std::string& name, Role role, int64_t, int64_t, Matrix& w) {
      if (role == Role::kExpert) return expert(name, w);
      if (role == Role::kShared) return shared(name, w);
      return role == Role::kRouter ? router(name, w) : Status();
    };
    visitor.vector = [&](const std::string& name, int64_t, Tensor&) {
      return name.ends_with(".e_score_correction_bias") ? bias(name) : Status();
    };
    Weights views = model_.weights();
    MOEBIUS_TRY(visit_weights(model_.config(), views, visitor));
    place();
    return Status();
  }

 private:
  static Indices shared_indices(std::vector<int32_t> indices) {
    return std::make_shared<const std::vector<int32_t>>(std::move(indices));
  }

  // Experts that stay get new numbers, and their rows of the router, and zero experts' ones, are kept.
  void number_experts() {
    for (const std::vector<int64_t>& layer : plan_.widths) {
      std::vector<int64_t>& widths = out_.widths_.emplace_back();
      std::vector<int32_t> rows;
      for (int32_t e = 0; e < std::ssize(layer); ++e) {
        const int64_t width = layer[static_cast<size_t>(e)], major = plan_.major_width(width);
        if (width == 0) continue;
        widths.push_back(plan_.halves ? major : width);
        if (plan_.halves) widths.push_back(width - major);
        rows.push_back(e);
      }
      out_.widest_ = std::max(out_.widest_, std::ranges::max(widths));
      const bool all = std::ssize(rows) == moe_.n_experts && !plan_.halves;
      for (int64_t e = 0; e < moe_.zero_experts; ++e)
        rows.push_back(static_cast<int32_t>(moe_.n_experts + e));
      router_rows_.push_back(all ? nullptr : shared_indices(plan_.halves ? twice(rows) : std::move(rows)));
    }
    out_.halves_ = plan_.halves;
  }

  static std::vector<int32_t> twice(const std::vector<int32_t>& rows) {
    std::vector<int32_t> out;
    for (const int32_t row : rows) out.insert(out.end(), 2, row);
    return out;
  }

  // The neurons of what an expert becomes: itself, or two halves.
  std::vector<Indices> neurons_of(size_t layer, size_t e) const {
    const std::vector<int32_t>& kept = plan_.kept[layer][e];
    const int64_t width = plan_.widths[layer][e];
    if (plan_.halves && width > 0) {
      const auto middle = kept.begin() + plan_.major_width(width);
      return {shared_indices({kept.begin(), middle}), shared_indices({middle, kept.end()})};
    }
    return {width == plan_.width ? nullptr : shared_indices(kept)};
  }

  void widen_shared() {
    const int64_t width = moe_.shared_width, step = out_.widest_;
    out_.sizes_.shared = out_.sizes_.shared_before = width;
    if (width == 0 || width % step == 0) return;
    out_.sizes_.shared = (width + step - 1) / step * step;
    std::vector<int32_t> neurons(static_cast<size_t>(out_.sizes_.shared), -1);
    std::iota(neurons.begin(), neurons.begin() + width, 0);
    shared_ = shared_indices(std::move(neurons));
  }

  // Which of an expert's three matrices come in order: gate, up, down.
  Status expert(const std::string& name, const Matrix& w) {
    const int64_t index = experts_seen_++ / 3, part = (experts_seen_ - 1) % 3;
    const size_t layer = static_cast<size_t>(index / moe_.n_experts);
    const size_t e = static_cast<size_t>(index % moe_.n_experts);
    if (part == 0) {
      neurons_ = neurons_of(layer, e);
      new_number_ = e == 0 ? 0 : new_number_;
    }
    out_.sizes_.expert_bytes_before += w.bytes();
    const bool stays = plan_.widths[layer][e] > 0;
    const size_t at = name.find(".experts.") + 9;
    int64_t number = new_number_;
    for (const Indices& neurons : neurons_) {
      Item item;
      item.from = w;
      (part == 2 ? item.cols : item.rows) = neurons;
      item.name = fmt::format("{}{}{}", name.substr(0, at), number, name.substr(name.find('.', at)));
      number += stays;
      if (stays) {
        for (const Part& p : parts_of(item)) {
          if (!p.name.ends_with(".weight_shape")) out_.sizes_.expert_bytes += part_bytes(p.dtype, p.shape);
        }
      }
      MOEBIUS_TRY(replace(name, std::move(item), stays));
    }
    if (part == 2) new_number_ = number;
    return Status();
  }

  Status shared(const std::string& name, const Matrix& w) {
    if (!shared_) return Status();
    Item item;
    item.name = name, item.from = w;
    const bool down = name.ends_with(".down_proj");
    (down ? item.cols : item.rows) = shared_;
    if (down && is_integer(w.format) && std::ssize(*shared_) % (w.scales_per_row() > 1 ? w.group : 32) != 0) {
      return invalid(
          fmt::format("the shared experts must grow from {} to {} neurons, of which {} share a "
                      "scale; give a --multiple of that",
                      w.cols, shared_->size(), w.group));
    }
    return replace(name, std::move(item), true);
  }

  Status router(const std::string& name, const Matrix& w) {
    const Indices& rows = router_rows_[routers_seen_++];
    if (!rows) return Status();
    Item item;
    item.name = name, item.from = w, item.rows = rows;
    return replace(name, std::move(item), true);
  }

  Status bias(const std::string& name) {
    const Indices& rows = router_rows_[routers_seen_ - 1];  // the router came just before
    if (!rows) return Status();
    const TensorEntry* entry = model_.checkpoint().find(name);
    Item item;
    item.name = name, item.rows = rows, item.vector = true;
    item.from.format = entry->dtype == DType::kF32   ? Format::kF32
                       : entry->dtype == DType::kF16 ? Format::kF16
                                                     : Format::kBF16;
    item.from.rows = entry->shape[0], item.from.cols = 1, item.from.data = entry->data;
    replaced_[entry].push_back(std::move(item));
    return Status();
  }

  // Puts the item, or nothing, in the place of the tensors of a matrix.
  Status replace(const std::string& name, Item item, bool stays) {
    const Checkpoint& files = model_.checkpoint();
    const TensorEntry* at = files.find(name + ".weight_packed");
    if (!at) at = files.find(name + ".weight");
    if (!at) {  // fused: all experts in one
      const std::string base = name.substr(0, name.find(".experts.") + 9);
      at = files.find(base + (name.ends_with(".down_proj") ? "down_proj" : "gate_up_proj"));
    }
    MOEBIUS_CHECK(at != nullptr, name);
    for (const char* other : {".weight_scale", ".weight_shape", ".weight_scale_inv"}) {
      const TensorEntry* entry = files.find(name + other);
      if (!entry) continue;
      replaced_[entry];
      if (std::string_view(other) == ".weight_shape") item.shape_dtype = entry->dtype;
    }
    std::vector<Item>& items = replaced_[at];
    if (stays) items.push_back(std::move(item));
    return Status();
  }

  void place() {
    for (const Checkpoint::Shard& from : model_.checkpoint().shards()) {
      Shard shard{from.name, from.file->metadata(), {}};
      const auto is_format = [](const auto& pair) { return pair.first == "format"; };
      // transformers refuses files that do not say this.
      if (std::ranges::none_of(shard.metadata, is_format)) shard.metadata.emplace_back("format", "pt");
      for (const TensorEntry& entry : from.file->tensors()) {
        out_.sizes_.bytes_before += entry.bytes;
        if (const auto at = replaced_.find(&entry); at != replaced_.end()) {
          std::move(at->second.begin(), at->second.end(), std::back_inserter(shard.items));
          continue;
        }
        Item item;
        item.copy = &entry;
        shard.items.push_back(std::move(item));
      }
      for (const Item& item : shard.items)
        for (const Part& p : parts_of(item)) out_.sizes_.bytes += part_bytes(p.dtype, p.shape);
      if (!shard.items.empty()) out_.shards_.push_back(std::move(shard));
    }
  }

  const ModelFiles& model_;
  const MoeConfig& moe_;
  const PrunePlan& plan_;
  PrunedCheckpoint& out_;
  std::vector<Indices> router_rows_;  // [MoE layer]; null: all
  Indices shared_;                    // null: as they are
  std::vector<Indices> neurons_;      // of what the current expert becomes
  int64_t experts_seen_ = 0, new_number_ = 0;
  size_t routers_seen_ = 0;
  std::map<const TensorEntry*, std::vector<Item>> replaced_;
};

Result<PrunedCheckpoint> PrunedCheckpoint::create(const ModelFiles& model, const PrunePlan& plan) {
  PrunedCheckpoint out(model);
  Builder builder(model, plan, out);
  MOEBIUS_TRY(builder.build());
  return out;
}

}  // namespace moebius
