// tiktoken.model of Kimi and Moonlight: a line per token, "<base64 of its bytes> <rank>", rank = id.
#include <fmt/format.h>

#include <array>
#include <charconv>

#include "models/file_io.h"
#include "models/tokenizer_bpe.h"
#include "models/tokenizer_files.h"

namespace moebius {
namespace {

// The ids after the ranks that belong to special tokens, named or not.
constexpr int32_t kReservedSpecials = 256;

// How these models cut text; the file does not say it.
constexpr std::string_view kKimiPattern =
    R"([\p{Han}]+)"
    R"(|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?)"
    R"(|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?)"
    R"(|\p{N}{1,3})"
    R"(| ?[^\s\p{L}\p{N}]+[\r\n]*)"
    R"(|\s*[\r\n]+)"
    R"(|\s+(?!\S))"
    R"(|\s+)";

constexpr std::array<int8_t, 256> kBase64 = [] {
  std::array<int8_t, 256> values{};
  for (auto& value : values) value = -1;
  constexpr std::string_view kAlphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  for (size_t i = 0; i < kAlphabet.size(); ++i)
    values[static_cast<uint8_t>(kAlphabet[i])] = static_cast<int8_t>(i);
  return values;
}();

// false: not base64 with its padding, or nothing in it.
bool decode_base64(std::string_view text, std::string& out) {
  out.clear();
  if (text.empty() || text.size() % 4 != 0) return false;
  size_t padding = 0;
  while (padding < 2 && text[text.size() - 1 - padding] == '=') ++padding;
  uint32_t bits = 0;
  int count = 0;
  for (const char c : text.substr(0, text.size() - padding)) {
    const int8_t value = kBase64[static_cast<uint8_t>(c)];
    if (value < 0) return false;
    bits = bits << 6 | static_cast<uint32_t>(value);
    count += 6;
    if (count >= 8) {
      count -= 8;
      out += static_cast<char>(bits >> count & 0xFF);
    }
  }
  return !out.empty();
}

Status add_ranks(std::string_view file, TokenTable& tokens) {
  std::string bytes;
  int64_t line_number = 0;
  while (!file.empty()) {
    ++line_number;
    const size_t end = file.find('\n');
    std::string_view line = file.substr(0, end);
    file.remove_prefix(end == std::string_view::npos ? file.size() : end + 1);
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.empty()) continue;
    const size_t space = line.find(' ');
    const std::string_view number = space == std::string_view::npos ? "" : line.substr(space + 1);
    int64_t rank = -1;
    const auto parsed = std::from_chars(number.data(), number.data() + number.size(), rank);
    const bool whole = parsed.ec == std::errc() && parsed.ptr == number.data() + number.size();
    if (!whole || !decode_base64(line.substr(0, space), bytes)) {
      return invalid(fmt::format("line {} is not base64, a space and a rank", line_number));
    }
    if (Status status = tokens.add(bytes, rank); !status.ok()) {
      return invalid(fmt::format("line {}: {}", line_number, status.message()));
    }
  }
  return {};
}

Status add_specials(const TokenizerConfig& config, BpeParts& parts) {
  const int32_t first = parts.tokens.size();
  for (const AddedToken& token : config.added) {
    if (token.id < first) {
      return invalid(
          fmt::format("tokenizer_config.json: special token '{}' has the id {} of a rank; they begin at {}",
                      printable(token.content), token.id, first));
    }
    AddedToken special = token;
    // These files know no other kind: the text is cut at them before anything else.
    special.normalized = special.lstrip = special.rstrip = special.single_word = false;
    MOEBIUS_TRY(parts.added.add(std::move(special)));
  }
  for (int32_t id = first; id < first + kReservedSpecials; ++id) {
    if (parts.added.by_id(id) != nullptr) continue;
    AddedToken reserved;
    reserved.id = id;
    reserved.content = fmt::format("<|reserved_token_{}|>", id);
    reserved.special = true;
    MOEBIUS_TRY(parts.added.add(std::move(reserved)));
  }
  return {};
}

}  // namespace

Result<std::unique_ptr<Tokenizer>> tokenizer_from_tiktoken(std::string_view file,
                                                           const TokenizerConfig& config) {
  BpeParts parts;
  parts.whole_piece_first = true;
  MOEBIUS_TRY(add_ranks(file, parts.tokens));
  MOEBIUS_ASSIGN(parts.pretokenizer, Pretokenizer::from_pattern(kKimiPattern));
  MOEBIUS_TRY(add_specials(config, parts));
  const auto id_of = [&](const std::string& text) -> std::optional<int32_t> {
    const AddedToken* token = parts.added.by_text(text);
    return token == nullptr ? std::nullopt : std::optional<int32_t>(token->id);
  };
  parts.bos_id = id_of(config.bos_token);
  parts.eos_id = id_of(config.eos_token);
  if (config.add_bos_token.value_or(false) && parts.bos_id) parts.prefix.push_back(*parts.bos_id);
  if (config.add_eos_token.value_or(false) && parts.eos_id) parts.suffix.push_back(*parts.eos_id);
  return BpeTokenizer::create(std::move(parts));
}

}  // namespace moebius
