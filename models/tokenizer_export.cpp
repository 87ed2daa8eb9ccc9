#include "models/tokenizer_export.h"

#include <fmt/format.h>
#include <sentencepiece_processor.h>

#include <nlohmann/json.hpp>
#include <string>
#include <unordered_set>
#include <vector>

#include "models/tokenizer_text.h"

namespace moebius {
namespace {

using nlohmann::ordered_json;
using sentencepiece::SentencePieceProcessor;

// Of what a text can never match in a unigram model: far below any text's score, near enough that sums with
// it stay exact to the last bits of a float.
constexpr double kNeverScore = -1e5;

struct Symbol {
  int32_t id;
  std::string text;
  bool special;
};

std::vector<Symbol> symbols_of(const TokenizerTraining& o) {
  std::vector<Symbol> symbols;
  const auto add = [&](const std::string& text, bool special) {
    symbols.push_back({static_cast<int32_t>(symbols.size()), text, special});
  };
  for (const std::string& text : {o.unknown, o.bos, o.eos, o.pad}) add(text, true);
  for (const std::string& text : o.control) add(text, true);
  for (const std::string& text : o.visible) add(text, false);
  return symbols;
}

ordered_json added_token(const Symbol& symbol) {
  return {{"content", symbol.text}, {"single_word", false}, {"lstrip", false},
          {"rstrip", false},        {"normalized", false},  {"special", symbol.special}};
}

std::string quoted(const std::string& text) { return ordered_json(text).dump(); }

// All ways to make a piece of two pieces, best piece first. The library merges by the score of the result
// and, of equal ones, the leftmost; merges of one result must therefore stand together.
std::string merges_text(const SentencePieceProcessor& model, int first) {
  std::unordered_set<std::string> pieces;
  for (int id = first; id < model.GetPieceSize(); ++id) pieces.insert(model.IdToPiece(id));
  std::string text;
  for (int id = first; id < model.GetPieceSize(); ++id) {  // ids ascend as scores fall
    const std::string& piece = model.IdToPiece(id);
    for (size_t at = 0; at < piece.size();) {
      utf8_next(piece, at);
      if (at == piece.size()) break;
      const std::string left = piece.substr(0, at), right = piece.substr(at);
      if (!pieces.count(left) || !pieces.count(right)) continue;
      text += fmt::format("{}[{},{}]", text.empty() ? "" : ",\n", quoted(left), quoted(right));
    }
  }
  return text;
}

// The object without its last brace, to be followed by members given as text: an ordered object of a large
// vocabulary would take time quadratic in its size.
std::string opened(const ordered_json& object) {
  std::string text = object.dump();
  text.pop_back();
  return text;
}

std::string bpe_text(const TokenizerTraining& o, const SentencePieceProcessor& model, int first) {
  std::string vocab;
  for (int id = 0; id < model.GetPieceSize(); ++id) {
    vocab += fmt::format("{}{}:{}", id == 0 ? "" : ",\n", quoted(model.IdToPiece(id)), id);
  }
  const std::string head = opened({{"type", "BPE"},
                                   {"dropout", nullptr},
                                   {"unk_token", o.unknown},
                                   {"continuing_subword_prefix", nullptr},
                                   {"end_of_word_suffix", nullptr},
                                   {"fuse_unk", true},
                                   {"byte_fallback", true},
                                   {"ignore_merges", false}});
  return fmt::format("{},\"vocab\":{{\n{}\n}},\"merges\":[\n{}\n]}}", head, vocab, merges_text(model, first));
}

std::string unigram_text(const SentencePieceProcessor& model, int first) {
  std::string vocab;
  for (int id = 0; id < model.GetPieceSize(); ++id) {
    const double score = id < first ? kNeverScore : static_cast<double>(model.GetScore(id));
    vocab += fmt::format("{}[{},{}]", id == 0 ? "" : ",\n", quoted(model.IdToPiece(id)), score);
  }
  const std::string head = opened({{"type", "Unigram"}, {"unk_id", 0}, {"byte_fallback", true}});
  return fmt::format("{},\"vocab\":[\n{}\n]}}", head, vocab);
}

ordered_json replace(std::string_view pattern, std::string_view content) {
  return {{"type", "Replace"}, {"pattern", {{"String", pattern}}}, {"content", content}};
}

std::string json_text(const TokenizerTraining& o, const SentencePieceProcessor& model) {
  const std::vector<Symbol> symbols = symbols_of(o);
  ordered_json added = ordered_json::array();
  for (const Symbol& symbol : symbols) {
    ordered_json token = {{"id", symbol.id}};
    token.update(added_token(symbol));
    added.push_back(token);
  }
  const ordered_json decoders = {replace(kSpaceMark, " "), {{"type", "ByteFallback"}}, {{"type", "Fuse"}}};
  const std::string head = opened({{"version", "1.0"},
                                   {"truncation", nullptr},
                                   {"padding", nullptr},
                                   {"added_tokens", added},
                                   {"normalizer", replace(" ", kSpaceMark)},
                                   {"pre_tokenizer", nullptr},
                                   {"post_processor", nullptr},
                                   {"decoder", {{"type", "Sequence"}, {"decoders", decoders}}}});
  const int first = static_cast<int>(symbols.size()) + 256;
  return fmt::format("{},\"model\":{}}}\n", head,
                     o.model == PieceModel::kBpe ? bpe_text(o, model, first) : unigram_text(model, first));
}

std::string config_text(const TokenizerTraining& o) {
  ordered_json decoder = ordered_json::object();
  for (const Symbol& symbol : symbols_of(o)) decoder[std::to_string(symbol.id)] = added_token(symbol);
  ordered_json config = {{"tokenizer_class", "PreTrainedTokenizerFast"},
                         {"added_tokens_decoder", decoder},
                         {"unk_token", o.unknown},
                         {"bos_token", o.bos},
                         {"eos_token", o.eos},
                         {"pad_token", o.pad},
                         {"additional_special_tokens", o.control},
                         {"add_bos_token", false},
                         {"add_eos_token", false},
                         {"clean_up_tokenization_spaces", false}};
  if (o.context > 0) config["model_max_length"] = o.context;
  return config.dump(2) + "\n";
}

}  // namespace

Result<TokenizerFiles> export_tokenizer(const TokenizerTraining& options, std::string_view model) {
  SentencePieceProcessor processor;
  if (const auto status = processor.LoadFromSerializedProto(model); !status.ok())
    return invalid(fmt::format("not a sentencepiece model: {}", status.ToString()));
  return TokenizerFiles{json_text(options, processor), config_text(options)};
}

}  // namespace moebius
