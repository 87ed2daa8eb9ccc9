#include "models/tokenizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "models/file_io.h"
#include "models/json_fields.h"
#include "models/tokenizer_bpe.h"
#include "models/tokenizer_files.h"
#include "models/tokenizer_text.h"

namespace moebius {
namespace {

using Json = nlohmann::json;

constexpr size_t kMaxFileBytes = size_t{512} << 20;
constexpr size_t kMaxTokenizerConfigBytes = size_t{32} << 20;

// A token is its text, or an object with the text as "content".
std::string token_text_in(const Json& root, const char* key) {
  const auto found = root.find(key);
  if (found == root.end()) return "";
  if (found->is_string()) return found->get<std::string>();
  if (!found->is_object()) return "";
  const auto content = found->find("content");
  return content != found->end() && content->is_string() ? content->get<std::string>() : "";
}

Status add_configured_tokens(const Json& root, std::vector<AddedToken>& added) {
  const auto table = root.find("added_tokens_decoder");
  if (table == root.end() || !table->is_object()) return {};
  for (const auto& [key, node] : table->items()) {
    int64_t id = -1;
    const auto parsed = std::from_chars(key.data(), key.data() + key.size(), id);
    if (parsed.ec != std::errc() || parsed.ptr != key.data() + key.size() || id < 0 || id >= kMaxVocab) {
      return invalid(
          fmt::format("added_tokens_decoder: '{}' is not an id in 0..{}", printable(key), kMaxVocab - 1));
    }
    MOEBIUS_ASSIGN(AddedToken token, parse_added_token(node));
    token.id = static_cast<int32_t>(id);
    added.push_back(std::move(token));
  }
  std::sort(added.begin(), added.end(), [](const AddedToken& a, const AddedToken& b) { return a.id < b.id; });
  return {};
}

using FromBytes = Result<std::unique_ptr<Tokenizer>> (*)(std::string_view, const TokenizerConfig&);
constexpr std::pair<const char*, FromBytes> kFiles[] = {
    {"tokenizer.json", tokenizer_from_json},
    {"tiktoken.model", tokenizer_from_tiktoken},
    {"tokenizer.model", tokenizer_from_sentencepiece},
};

Status in_file(const std::string& path, const Status& status) {
  return {status.code(), fmt::format("{}: {}", path, status.message())};
}

}  // namespace

Result<TokenizerConfig> parse_tokenizer_config(std::string_view text) {
  const Json root = parse_json(text);
  if (!root.is_object()) return invalid("not a JSON object of at most 64 levels");
  TokenizerConfig config;
  config.bos_token = token_text_in(root, "bos_token");
  config.eos_token = token_text_in(root, "eos_token");
  config.add_bos_token = flag_in(root, "add_bos_token");
  config.add_eos_token = flag_in(root, "add_eos_token");
  config.legacy = flag_in(root, "legacy").value_or(false);
  MOEBIUS_TRY(add_configured_tokens(root, config.added));
  return config;
}

Result<std::unique_ptr<Tokenizer>> Tokenizer::open(const std::string& dir) {
  TokenizerConfig config;
  const std::string config_path = dir + "/tokenizer_config.json";
  const auto config_text = read_text_file(config_path, kMaxTokenizerConfigBytes);
  if (config_text.ok()) {
    auto parsed = parse_tokenizer_config(*config_text);
    if (!parsed.ok()) return in_file(config_path, parsed.status());
    config = std::move(*parsed);
  } else if (config_text.status().code() != Code::kNotFound) {
    return config_text.status();
  }
  Status first_refusal;
  for (const auto& [name, from_bytes] : kFiles) {
    const std::string path = dir + "/" + name;
    const auto bytes = read_text_file(path, kMaxFileBytes);
    if (!bytes.ok() && bytes.status().code() == Code::kNotFound) continue;
    if (!bytes.ok()) return bytes.status();
    auto tokenizer = from_bytes(*bytes, config);
    if (tokenizer.ok()) return tokenizer;
    const Status refusal = in_file(path, tokenizer.status());
    if (refusal.code() != Code::kUnsupported) return refusal;
    if (first_refusal.ok()) first_refusal = refusal;
  }
  if (!first_refusal.ok()) return first_refusal;
  return not_found(fmt::format(
      "{} has no tokenizer.json, tiktoken.model or tokenizer.model: copy the one of the model", dir));
}

Result<std::string> Tokenizer::decode(std::span<const int32_t> ids, bool skip_special) const {
  std::string text;
  bool started = false;
  for (const int32_t id : ids) {
    if (id < 0 || id >= vocab_size()) {
      return invalid(fmt::format("token id {} is outside the vocabulary of {}", id, vocab_size()));
    }
    if (skip_special && is_special(id)) continue;
    std::string_view bytes = token_bytes(id);
    const bool first = !started && !bytes.empty();
    started = started || first;
    if (first && bytes.front() == ' ' && drops_first_space(id)) bytes.remove_prefix(1);
    text += bytes;
  }
  return text;
}

std::string StreamDecoder::push(int32_t id) {
  if (skip_special_ && tokenizer_.is_special(id)) return "";
  std::string_view bytes = tokenizer_.token_bytes(id);
  const bool first = !started_ && !bytes.empty();
  started_ = started_ || first;
  if (first && bytes.front() == ' ' && tokenizer_.drops_first_space(id)) bytes.remove_prefix(1);
  held_ += bytes;
  const size_t shown = held_.size() - utf8_incomplete_tail(held_);
  std::string storage;
  std::string text(utf8_lossy(std::string_view(held_).substr(0, shown), storage));
  held_.erase(0, shown);
  return text;
}

std::string StreamDecoder::flush() {
  std::string storage;
  std::string text(utf8_lossy(held_, storage));
  held_.clear();
  return text;
}

std::string StreamDecoder::finish() {
  started_ = false;
  return flush();
}

}  // namespace moebius
