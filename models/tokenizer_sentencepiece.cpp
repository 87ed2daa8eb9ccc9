// sentencepiece's tokenizer.model, run by its library.
//
// The library knows no special tokens in a text: control pieces and the tokens of tokenizer_config.json are
// cut out here first. What follows such a token is encoded without the dummy space that begins a text, unless
// the configuration says `legacy`, so that decode() gives the text back.
#include <fmt/format.h>
#include <sentencepiece_processor.h>

#include <algorithm>

#include "models/file_io.h"
#include "models/tokenizer_bpe.h"
#include "models/tokenizer_files.h"

namespace moebius {
namespace {

using sentencepiece::SentencePieceProcessor;

constexpr std::string_view kMarkupBytes = "<[\xEF";  // that begin what looks_like_markup()
// A second normalizer_spec at the end of the file, which protobuf merges into the first: add_dummy_prefix and
// remove_extra_whitespaces false.
constexpr std::string_view kNoSpaceChanges("\x1A\x04\x18\x00\x20\x00", 6);

std::string with_spaces(std::string_view piece) {
  std::string text;
  for (size_t at = 0; at < piece.size();) {
    const bool mark = piece.substr(at).starts_with(kSpaceMark);
    text += mark ? ' ' : piece[at];
    at += mark ? kSpaceMark.size() : 1;
  }
  return text;
}

// The value of a byte piece, "<0x41>".
std::string byte_of(const std::string& piece) {
  int value = 0;
  for (const char digit : piece.substr(std::min<size_t>(3, piece.size()), 2)) {
    value = value * 16 + (digit <= '9' ? digit - '0' : (digit | 32) - 'a' + 10);
  }
  return std::string(1, static_cast<char>(value));
}

class SentencePieceTokenizer : public Tokenizer {
 public:
  Status load(std::string_view file, const TokenizerConfig& config) {
    if (const auto status = first_.LoadFromSerializedProto(file); !status.ok()) {
      return invalid(fmt::format("not a sentencepiece model: {}", status.ToString()));
    }
    const std::string continued = std::string(file) + std::string(kNoSpaceChanges);
    if (const auto status = later_.LoadFromSerializedProto(continued); !status.ok()) {
      return invalid(fmt::format("not a sentencepiece model: {}", status.ToString()));
    }
    legacy_ = config.legacy;
    MOEBIUS_TRY(add_pieces());
    MOEBIUS_TRY(add_configured(config));
    added_.build([](std::string_view text) { return std::string(text); });
    set_ends(config);
    return {};
  }

  Result<std::vector<int32_t>> encode(std::string_view text, EncodeOptions options) const override {
    if (text.size() > kMaxTextBytes) {
      return invalid(fmt::format("a text of {} bytes; the limit is {}", text.size(), kMaxTextBytes));
    }
    std::string storage;
    text = utf8_lossy(text, storage);
    std::vector<int32_t> ids;
    if (options.add_special && add_bos_) ids.push_back(*bos_id_);
    bool first = true;
    MOEBIUS_TRY(added_.split(text, AddedTokens::Group::kVerbatim, options.parse_special,
                             [&](std::string_view part, std::optional<int32_t> id) -> Status {
                               const SentencePieceProcessor& processor = first || legacy_ ? first_ : later_;
                               first = false;
                               if (!id) return encode_part(part, options.parse_special, processor, ids);
                               ids.push_back(*id);
                               return {};
                             }));
    if (options.add_special && add_eos_) ids.push_back(*eos_id_);
    return ids;
  }

  int32_t vocab_size() const override {
    return std::max(static_cast<int32_t>(bytes_.size()), added_.id_end());
  }
  bool is_special(int32_t id) const override {
    const AddedToken* token = added_.by_id(id);
    if (token != nullptr) return token->special;
    return in_file(id) && first_.IsControl(id);
  }
  std::optional<int32_t> id_of(std::string_view token) const override {
    if (const AddedToken* added = added_.by_text(token)) return added->id;
    const int id = first_.PieceToId(token);
    if (!in_file(id) || first_.IdToPiece(id) != token) return std::nullopt;
    return id;
  }
  std::string token_text(int32_t id) const override {
    if (const AddedToken* added = added_.by_id(id)) return added->content;
    return in_file(id) ? first_.IdToPiece(id) : "";
  }
  std::string_view token_bytes(int32_t id) const override {
    if (const AddedToken* added = added_.by_id(id)) return added->content;
    return in_file(id) ? std::string_view(bytes_[static_cast<size_t>(id)]) : std::string_view();
  }
  bool drops_first_space(int32_t id) const override {
    return added_.by_id(id) == nullptr && in_file(id) && first_.IdToPiece(id).starts_with(kSpaceMark) &&
           dummy_space_;
  }

 private:
  bool in_file(int32_t id) const { return id >= 0 && id < first_.GetPieceSize(); }

  Status add_pieces() {
    const int size = first_.GetPieceSize();
    if (size <= 0 || size > kMaxVocab)
      return invalid(fmt::format("{} pieces; 1 to {} are allowed", size, kMaxVocab));
    bytes_.resize(static_cast<size_t>(size));
    for (int id = 0; id < size; ++id) {
      const std::string& piece = first_.IdToPiece(id);
      std::string& bytes = bytes_[static_cast<size_t>(id)];
      if (piece.size() > kMaxTokenBytes)
        return invalid(fmt::format("piece {} has {} bytes", id, piece.size()));
      if (first_.IsByte(id)) {
        bytes = byte_of(piece);
      } else if (first_.IsUnknown(id)) {
        const auto status = first_.Decode(std::vector<int>{id}, &bytes);
        if (!status.ok()) return invalid(fmt::format("piece {} does not decode: {}", id, status.ToString()));
      } else {
        bytes = with_spaces(piece);
      }
      if (first_.IsControl(id)) MOEBIUS_TRY(add_control(id, piece));
      const bool plain =
          !first_.IsControl(id) && !first_.IsByte(id) && !first_.IsUnknown(id) && !first_.IsUnused(id);
      if (plain && looks_like_markup(piece)) markup_.push_back(piece);
    }
    // Whether the file puts a space before a text: its own decoder then drops one.
    std::string probe;
    std::vector<int> ids;
    if (first_.Encode("a", &ids).ok() && !ids.empty()) probe = first_.IdToPiece(ids[0]);
    dummy_space_ = probe.starts_with(kSpaceMark);
    return {};
  }

  Status add_control(int32_t id, const std::string& piece) {
    AddedToken token;
    token.id = id;
    token.content = piece;
    token.special = true;
    return added_.add(std::move(token));
  }

  Status add_configured(const TokenizerConfig& config) {
    for (const AddedToken& configured : config.added) {
      AddedToken token = configured;
      token.normalized = false;
      const AddedToken* known = added_.by_id(token.id);
      if (known != nullptr && known->content == token.content) continue;
      if (in_file(token.id) && first_.IdToPiece(token.id) != token.content) {
        return invalid(fmt::format("tokenizer_config.json: token '{}' has the id {} of the piece '{}'",
                                   printable(token.content), token.id,
                                   printable(first_.IdToPiece(token.id))));
      }
      MOEBIUS_TRY(added_.add(std::move(token)));
    }
    return {};
  }

  void set_ends(const TokenizerConfig& config) {
    if (first_.bos_id() >= 0) bos_id_ = first_.bos_id();
    if (first_.eos_id() >= 0) eos_id_ = first_.eos_id();
    if (!config.bos_token.empty()) bos_id_ = id_of(config.bos_token);
    if (!config.eos_token.empty()) eos_id_ = id_of(config.eos_token);
    add_bos_ = bos_id_ && config.add_bos_token.value_or(true);
    add_eos_ = eos_id_ && config.add_eos_token.value_or(false);
  }

  // The library finds user-defined pieces in any text. Where they are not wanted, each that looks like markup
  // is cut after its first character, so that neither part is the piece.
  Status encode_part(std::string_view part, bool parse_special, const SentencePieceProcessor& processor,
                     std::vector<int32_t>& ids) const {
    if (parse_special || markup_.empty()) return encode_with(part, processor, ids);
    const SentencePieceProcessor* next = &processor;
    size_t done = 0;
    for (size_t at = 0; at < part.size();) {
      const std::string_view rest = part.substr(at);
      utf8_next(part, at);
      const bool marked = kMarkupBytes.find(rest.front()) != std::string_view::npos &&
                          std::any_of(markup_.begin(), markup_.end(),
                                      [&](const std::string& piece) { return rest.starts_with(piece); });
      if (!marked) continue;
      MOEBIUS_TRY(encode_with(part.substr(done, at - done), *next, ids));
      next = &later_;
      done = at;
    }
    return encode_with(part.substr(done), *next, ids);
  }

  static Status encode_with(std::string_view part, const SentencePieceProcessor& processor,
                            std::vector<int32_t>& ids) {
    std::vector<int> encoded;
    const auto status = processor.Encode(part, &encoded);
    if (!status.ok())
      return invalid(fmt::format("sentencepiece does not encode this text: {}", status.ToString()));
    ids.insert(ids.end(), encoded.begin(), encoded.end());
    return {};
  }

  SentencePieceProcessor first_;  // for the beginning of a text
  SentencePieceProcessor later_;  // for what follows a special token
  AddedTokens added_;             // control pieces and the tokens of tokenizer_config.json
  std::vector<std::string> bytes_;
  std::vector<std::string> markup_;  // user-defined pieces that look like markup
  bool legacy_ = false, dummy_space_ = false, add_bos_ = false, add_eos_ = false;
};

}  // namespace

Result<std::unique_ptr<Tokenizer>> tokenizer_from_sentencepiece(std::string_view file,
                                                                const TokenizerConfig& config) {
  auto tokenizer = std::make_unique<SentencePieceTokenizer>();
  MOEBIUS_TRY(tokenizer->load(file, config));
  return std::unique_ptr<Tokenizer>(std::move(tokenizer));
}

}  // namespace moebius
