#include "engine/checkpoint_folder.h"

#include <algorithm>
#include <filesystem>

#include <nlohmann/json.hpp>

#include "models/file_io.h"

namespace moebius {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMaxFileBytes = size_t{512} << 20;

bool is_companion(const std::string& name) {
  constexpr const char* kNames[] = {"generation_config.json",
                                    "tokenizer.json",
                                    "tokenizer_config.json",
                                    "tokenizer.model",
                                    "tiktoken.model",
                                    "special_tokens_map.json",
                                    "added_tokens.json",
                                    "vocab.json",
                                    "merges.txt",
                                    "chat_template.json",
                                    "processor_config.json",
                                    "preprocessor_config.json"};
  if (std::find(std::begin(kNames), std::end(kNames), name) != std::end(kNames)) return true;
  for (const char* beginning : {"LICENSE", "NOTICE", "THIRD_PARTY_NOTICES"})
    if (name.starts_with(beginning)) return true;
  return name.ends_with(".py") || name.ends_with(".jinja");
}

}  // namespace

Status copy_companions(const std::string& from, const std::string& to) {
  std::error_code error;
  for (fs::directory_iterator it(from, error), end; !error && it != end; it.increment(error)) {
    const std::string name = it->path().filename().string();
    std::error_code ignored;
    if (!is_companion(name) || !fs::is_regular_file(it->path(), ignored)) continue;
    MOEBIUS_ASSIGN(const std::string text, read_text_file(it->path().string(), kMaxFileBytes));
    MOEBIUS_TRY(write_text_file((fs::path(to) / name).string(), text));
  }
  return error ? system_error("look into", from, error.value()) : Status();
}

Status write_shard_index(const std::string& dir, int64_t bytes,
                         const std::vector<std::pair<std::string, std::string>>& shards) {
  nlohmann::json map = nlohmann::json::object();
  for (const auto& [tensor, file] : shards) map[tensor] = file;
  const nlohmann::json index = {{"metadata", {{"total_size", bytes}}}, {"weight_map", std::move(map)}};
  return write_text_file(dir + "/model.safetensors.index.json",
                         index.dump(1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n");
}

}  // namespace moebius
