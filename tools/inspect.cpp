// moebius inspect: what a checkpoint holds and what a token of it costs, from its headers alone.
#include <chrono>
#include <memory>

#include <fmt/format.h>

#include "models/file_io.h"
#include "models/tokenizer.h"
#include "tools/command.h"
#include "tools/model_cost.h"
#include "tools/text_io.h"

namespace moebius {
namespace {

using nlohmann::ordered_json;

struct Options {
  std::string model;
  bool json = false, tensors = false;
};

ordered_json attention_facts(const ModelConfig& c) {
  const bool mla = c.attention == AttentionKind::kMla;
  ordered_json out = {{"kind", mla ? "mla" : "gqa"}, {"heads", c.heads}};
  if (mla) {
    out["q_lora"] = c.q_lora;
    out["kv_lora"] = c.kv_lora;
    out["nope"] = c.nope;
    out["rope"] = c.rope;
    out["v_dim"] = c.v_dim;
  } else {
    out["kv_heads"] = c.kv_heads;
    out["head_dim"] = c.head_dim;
    out["qk_norm"] = c.qk_norm;
  }
  return out;
}

ordered_json rotary_facts(const RotaryConfig& r) {
  ordered_json out = {{"dim", r.dim}, {"theta", r.theta}, {"interleaved", r.interleaved}};
  if (r.yarn) out["yarn"] = {{"factor", r.factor}, {"original_context", r.original_context}};
  return out;
}

ordered_json moe_facts(const ModelConfig& c) {
  const MoeConfig& m = c.moe;
  if (m.n_experts == 0) return nullptr;
  const auto moe_layers = std::count(c.moe_layer.begin(), c.moe_layer.end(), true);
  ordered_json out = {{"layers", moe_layers},
                      {"experts", m.n_experts},
                      {"top_k", m.top_k},
                      {"width", m.width},
                      {"shared_width", m.shared_width},
                      {"scoring", m.scoring == Scoring::kSigmoid ? "sigmoid" : "softmax"},
                      {"normalized", m.normalize},
                      {"scale", m.scale}};
  if (m.zero_experts > 0) out["zero_experts"] = m.zero_experts;
  if (m.n_group > 1) out["groups"] = m.n_group, out["top_groups"] = m.topk_group;
  if (!m.widths.empty()) out["ragged"] = true;
  return out;
}

ordered_json class_facts(const ModelCost& cost) {
  ordered_json out = ordered_json::array();
  for (int i = 0; i < kRoles; ++i) {
    const RoleCost& r = cost.roles[static_cast<size_t>(i)];
    if (r.matrices == 0) continue;
    ordered_json formats = ordered_json::object();
    for (const auto& [name, bytes] : r.formats) formats[name] = bytes;
    out.push_back({{"class", role_name(static_cast<Role>(i))},
                   {"matrices", r.matrices},
                   {"weights", r.weights},
                   {"bytes", r.bytes},
                   {"formats", formats}});
  }
  return out;
}

ordered_json tensor_facts(const Checkpoint& checkpoint) {
  ordered_json out = ordered_json::array();
  for (const TensorEntry* t : checkpoint.tensors()) {
    out.push_back(
        {{"name", t->name}, {"dtype", dtype_name(t->dtype)}, {"shape", t->shape}, {"bytes", t->bytes}});
  }
  return out;
}

ordered_json facts(const ModelFiles& files, double open_ms) {
  const ModelConfig& c = files.config();
  const ModelCost cost = model_cost(c, files.weights(), DType::kBF16);
  return {{"folder", files.checkpoint().dir()},
          {"model_type", c.model_type},
          {"random_weights", c.random_weights},
          {"layers", c.layers},
          {"hidden", c.hidden},
          {"vocab", c.vocab},
          {"context", c.context},
          {"dense_width", c.dense_width},
          {"tied_head", c.tied_head},
          {"attention", attention_facts(c)},
          {"rotary", rotary_facts(c.rotary)},
          {"moe", moe_facts(c)},
          {"classes", class_facts(cost)},
          {"weights", cost.weights},
          {"bytes", files.checkpoint().total_bytes()},
          {"active_weights_per_token", cost.active_weights},
          {"active_bytes_per_token", cost.active_bytes},
          {"cache_bytes_per_token_bf16", cost.cache_bytes_per_token},
          {"notes", files.notes()},
          {"open_ms", open_ms}};
}

std::string field(const ordered_json& value) {
  return value.is_string() ? value.get<std::string>() : value.dump();
}

// {"a": 1, "b": "x"} as "a 1, b x"
std::string sentence(const ordered_json& object) {
  std::string text;
  for (const auto& [key, value] : object.items()) {
    if (!text.empty()) text += ", ";
    text += value.is_object() ? fmt::format("{} ({})", key, sentence(value))
                              : fmt::format("{} {}", key, field(value));
  }
  return text;
}

double giga(const ordered_json& value) { return static_cast<double>(value.get<int64_t>()) * 1e-9; }

std::string table(const ordered_json& f) {
  std::string text =
      fmt::format("{}\n{}{}: {} layers, hidden {}, vocabulary {}, context {}\n",
                  printable(f["folder"].get<std::string>(), 4096), f["model_type"].get<std::string>(),
                  f["random_weights"].get<bool>() ? " (random weights)" : "", f["layers"].dump(),
                  f["hidden"].dump(), f["vocab"].dump(), f["context"].dump());
  text += fmt::format("attention   {}\nrotary      {}\n", sentence(f["attention"]), sentence(f["rotary"]));
  if (!f["moe"].is_null()) text += fmt::format("experts     {}\n", sentence(f["moe"]));
  text += fmt::format("\n{:<16}{:>10}{:>14}{:>12}  {}\n", "class", "matrices", "weights", "GB", "formats");
  for (const ordered_json& row : f["classes"]) {
    std::string formats;
    for (const auto& [name, bytes] : row["formats"].items())
      formats += fmt::format("{}{}", formats.empty() ? "" : ", ", name);
    text += fmt::format("{:<16}{:>10}{:>12.3f} G{:>12.3f}  {}\n", row["class"].get<std::string>(),
                        row["matrices"].dump(), giga(row["weights"]), giga(row["bytes"]), formats);
  }
  text += fmt::format("{:<16}{:>10}{:>12.3f} G{:>12.3f}\n", "all tensors", "", giga(f["weights"]),
                      giga(f["bytes"]));
  text += fmt::format("{:<16}{:>10}{:>12.3f} G{:>12.3f}\n", "read per token", "",
                      giga(f["active_weights_per_token"]), giga(f["active_bytes_per_token"]));
  text += fmt::format("\ncache       {:.1f} KB per token in BF16\nopened in   {:.1f} ms\n",
                      static_cast<double>(f["cache_bytes_per_token_bf16"].get<int64_t>()) * 1e-3,
                      f["open_ms"].get<double>());
  for (const ordered_json& note : f["notes"])
    text += fmt::format("note        {}\n", note.get<std::string>());
  return text;
}

std::string tensor_table(const ordered_json& tensors) {
  std::string text = "\n";
  for (const ordered_json& t : tensors) {
    text += fmt::format("{:<9}{:<22}{:>14}  {}\n", t["dtype"].get<std::string>(), t["shape"].dump(),
                        t["bytes"].dump(), printable(t["name"].get<std::string>()));
  }
  return text;
}

Result<std::string> inspect(const Options& options) {
  std::string dir;
  if (options.model.empty()) {
    MOEBIUS_ASSIGN(dir, default_model_dir());
  } else {
    MOEBIUS_ASSIGN(dir, resolve_model_dir(options.model, hub_cache_dir()));
  }
  const auto start = std::chrono::steady_clock::now();
  MOEBIUS_ASSIGN(const std::unique_ptr<ModelFiles> files, ModelFiles::open(dir));
  const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - start;
  ordered_json all = facts(*files, took.count());
  if (options.json) {
    if (options.tensors) all["tensors"] = tensor_facts(files->checkpoint());
    return to_text(all, 2) + "\n";
  }
  return table(all) + (options.tensors ? tensor_table(tensor_facts(files->checkpoint())) : "");
}

}  // namespace

void add_inspect(CLI::App& app, Run& run) {
  auto options = std::make_shared<Options>();
  CLI::App* command =
      app.add_subcommand("inspect", "show a checkpoint's geometry, its tensors by class, and a token's cost");
  command->add_option(
      "-m,--model", options->model,
      "checkpoint folder, or a Hugging Face id already in the cache (default: the shipped model)");
  command->add_flag("--tensors", options->tensors, "list every tensor too");
  command->add_flag("--json", options->json, "print JSON");
  command->callback([options, &run] {
    run = [options] {
      const Result<std::string> text = inspect(*options);
      return text.ok() ? print_output(*text) : fail(text.status());
    };
  });
}

}  // namespace moebius
