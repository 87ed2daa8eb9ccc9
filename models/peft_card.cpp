#include "models/peft_card.h"

#include <algorithm>
#include <filesystem>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "models/file_io.h"

namespace moebius {
namespace {

// A JSON string is a YAML string too.
std::string yaml_string(const std::string& text) {
  return nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

// "organisation/name"; the hub refuses cards that name a path.
bool is_hub_id(const std::string& name) {
  const bool plain = std::all_of(name.begin(), name.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
           c == '_' || c == '.' || c == '/';
  });
  return plain && std::count(name.begin(), name.end(), '/') == 1 && name.front() != '/' &&
         name.front() != '.' && name.back() != '/';
}

// One line that Markdown leaves as it is.
std::string code(const std::string& text) {
  std::string line = printable(text);
  std::replace(line.begin(), line.end(), '`', '\'');
  return "`" + line + "`";
}

}  // namespace

std::string adapter_card(const AdapterWriteOptions& options, int64_t matrices, int64_t smallest_rank,
                         int64_t largest_rank) {
  std::string card = "---\n";
  if (is_hub_id(options.base_model)) card += fmt::format("base_model: {}\n", yaml_string(options.base_model));
  card +=
      "library_name: peft\npipeline_tag: text-generation\ntags:\n- lora\n- moebius\n---\n\n# LoRA "
      "adapter\n\n";
  const auto row = [&](const char* name, const std::string& value) {
    card += fmt::format("- {}: {}\n", name, value);
  };
  if (!options.base_model.empty()) row("Base model", code(options.base_model));
  if (!options.revision.empty()) row("Revision", code(options.revision));
  if (!options.method.empty()) row("Method", code(options.method));
  if (!options.data_file.empty()) {
    row("Training data", code(std::filesystem::path(options.data_file).filename().string()));
  }
  row("Rank", smallest_rank == largest_rank ? std::to_string(largest_rank)
                                            : fmt::format("{} to {}", smallest_rank, largest_rank));
  row("Adapted matrices", std::to_string(matrices));
  const bool fused = options.layout == AdapterLayout::kFused;
  card +=
      fused ? "\nRouted experts, where adapted, are stored as `target_parameters` of the fused weights of\n"
              "transformers 5, gate and up together at the sum of their ranks. Needs peft >= 0.19.1.\n"
            : "\nRouted experts, where adapted, are stored one by one, as transformers 4 names them. peft\n"
              "fuses them when it loads them on transformers 5, if all experts of a layer have gate and up\n"
              "of one rank.\n";
  card += fmt::format("Tested with peft {} and transformers {}.\n", kPeftVersion, kPeftTransformersVersion);
  card +=
      "\n```python\nfrom peft import PeftModel\nfrom transformers import AutoModelForCausalLM\n\n"
      "base = AutoModelForCausalLM.from_pretrained(BASE_MODEL)\n"
      "model = PeftModel.from_pretrained(base, ADAPTER_FOLDER)\n```\n";
  return card;
}

}  // namespace moebius
