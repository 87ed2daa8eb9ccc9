#include <algorithm>

#include <fmt/format.h>

#include "engine/checkpoint_folder.h"
#include "engine/prune/pruned_checkpoint.h"
#include "engine/write_progress.h"
#include "models/file_io.h"
#include "models/json_fields.h"

namespace moebius {
namespace {

using Json = nlohmann::ordered_json;

// Scores that are shares of all rows' or of the chosen ones' halve when every row is there twice.
void put_halves(const MoeConfig& moe, Json& config) {
  config["moe_expert_halves"] = true;
  config["num_experts_per_tok"] = 2 * moe.top_k;
  if (moe.zero_experts > 0)
    for (Json& count : config["zce_nums"]) count = 2 * count.get<int64_t>();
  if (moe.normalize || moe.scoring == Scoring::kSoftmax) config["routed_scaling_factor"] = 2 * moe.scale;
}

}  // namespace

class PrunedCheckpoint::Writer {
 public:
  Writer(const PruneWriteOptions& options, int64_t total)
      : pool_(options.threads), written_(options.progress, total) {}

  Status write(const Shard& shard, const std::string& path) {
    SafetensorsWriter writer(path, shard.metadata);
    for (const Item& item : shard.items)
      for (Part& part : parts_of(item))
        writer.declare(std::move(part.name), part.dtype, std::move(part.shape));
    for (const Item& item : shard.items)
      MOEBIUS_TRY(item.copy ? written_.put(item.copy->data, item.copy->bytes, writer) : cut(item, writer));
    return writer.finish();
  }

 private:
  Status cut(const Item& item, SafetensorsWriter& writer) {
    const MatrixCut cut = cut_of(item);
    if (!store_cut(cut, pool_, stored_)) {
      return invalid(
          fmt::format("{}: numbers are not finite, or not in the range of its scales; the file is "
                      "damaged, or not what its configuration says",
                      item.name));
    }
    MOEBIUS_TRY(written_.put(stored_.data.data(), std::ssize(stored_.data), writer));
    MOEBIUS_TRY(written_.put(stored_.scales.data(), std::ssize(stored_.scales), writer));
    if (!is_integer(item.from.format)) return Status();
    const int64_t shape[] = {cut.row_count(), cut.col_count()};
    const int32_t narrow[] = {static_cast<int32_t>(shape[0]), static_cast<int32_t>(shape[1])};
    return item.shape_dtype == DType::kI64 ? written_.put(shape, sizeof shape, writer)
                                           : written_.put(narrow, sizeof narrow, writer);
  }

  ThreadPool pool_;
  StoredMatrix stored_;
  WriteProgress written_;
};

Result<std::string> PrunedCheckpoint::config() const {
  const std::string path = model_->checkpoint().dir() + "/config.json";
  MOEBIUS_ASSIGN(const std::string text, read_text_file(path, kMaxConfigBytes));
  Json config = parse_ordered_json(text);
  if (!config.is_object()) return invalid(fmt::format("{}: not a JSON object", path));
  config["moe_intermediate_size"] = widest_;
  const bool ragged = std::ranges::any_of(widths_, [&](const std::vector<int64_t>& layer) {
    return std::ranges::any_of(layer, [&](int64_t width) { return width != widest_; });
  });
  if (ragged) {
    config["moe_intermediate_sizes"] = widths_;
  } else {
    config.erase("moe_intermediate_sizes");
  }
  if (sizes_.shared > 0) config["n_shared_experts"] = sizes_.shared / widest_;
  for (const char* name : {"n_routed_experts", "num_experts", "num_local_experts"})
    if (config.contains(name)) config[name] = widths_.front().size();
  if (halves_) put_halves(model_->config().moe, config);
  return config.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

Status PrunedCheckpoint::write(const std::string& dir, const PruneWriteOptions& options) const {
  MOEBIUS_ASSIGN(const std::string text, config());
  MOEBIUS_TRY(write_text_file(dir + "/config.json", text));
  MOEBIUS_TRY(copy_companions(model_->checkpoint().dir(), dir));
  Writer writer(options, sizes_.bytes);
  std::vector<std::pair<std::string, std::string>> places;
  for (const Shard& shard : shards_) {
    MOEBIUS_TRY(writer.write(shard, dir + "/" + shard.file));
    for (const Item& item : shard.items)
      for (const Part& part : parts_of(item)) places.emplace_back(part.name, shard.file);
  }
  const bool single = shards_.size() == 1 && shards_.front().file == "model.safetensors";
  if (!single) MOEBIUS_TRY(write_shard_index(dir, sizes_.bytes, places));
  return model_->checkpoint().check_unchanged();
}

}  // namespace moebius
