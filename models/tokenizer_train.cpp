#include "models/tokenizer_train.h"

#include <fmt/format.h>
#include <sentencepiece_trainer.h>

#include <algorithm>
#include <exception>
#include <set>
#include <unordered_map>

#include "models/file_io.h"
#include "models/tokenizer.h"
#include "models/tokenizer_added.h"
#include "models/tokenizer_export.h"
#include "models/tokenizer_text.h"

namespace moebius {
namespace {

constexpr int32_t kMaxTrainedVocab = 1'000'000;
constexpr size_t kMaxSymbolBytes = 1024;
constexpr size_t kMaxSymbols = 10'000;
// The trainer counts characters of a word in 16 bits; longer lines are cut.
constexpr size_t kMaxLineBytes = 4096;
// The trainer keeps these for itself and skips lines that hold one; they become byte pieces.
constexpr std::string_view kReserved[] = {"\t", "\xE2\x96\x85", std::string_view("\0", 1)};

// Lines from texts, at most a given number of them: of more, each is kept equally likely (Vitter: Random
// sampling with a reservoir, 1985, algorithm R).
class Lines : public sentencepiece::SentenceIterator {
 public:
  Lines(int64_t limit, uint64_t seed) : limit_(limit), state_(seed) {}

  void add_text(std::string_view text) {
    for (size_t at = 0; at < text.size();) {
      const size_t newline = text.find('\n', at);
      const size_t end = newline == std::string_view::npos ? text.size() : newline + 1;
      add_line(text.substr(at, end - at));
      at = end;
    }
  }
  int64_t size() const { return static_cast<int64_t>(lines_.size()); }

  // After the last text. Puts in as many spaces as it takes for the space to be a piece: what covers the
  // characters but for a share of 1 - coverage then has it among them. Bytes would not do: decoders turn the
  // character that stands for a space back into one, not its bytes.
  void finish(double coverage) {
    int64_t characters = 0, spaces = 0;
    for (const std::string& line : lines_) {
      for (const char c : line) {
        characters += (c & 0xC0) != 0x80;
        spaces += c == ' ';
      }
    }
    const double missing =
        ((1 - coverage) * static_cast<double>(characters) - static_cast<double>(spaces)) / coverage;
    if (spaces == 0 || missing >= 0) {
      lines_.push_back(" ");
      last_count_ = std::max<int64_t>(static_cast<int64_t>(missing) + 1, 1);
    }
    prepare();
  }

  bool done() const override { return at_ >= lines_.size(); }
  void Next() override {
    ++at_;
    prepare();
  }
  const std::string& value() const override { return line_; }
  sentencepiece::util::Status status() const override { return {}; }

 private:
  void add_line(std::string_view line) {
    while (!line.empty()) {
      size_t end = line.size(), skipped = 0;
      for (const std::string_view reserved : kReserved) {
        const size_t found = line.find(reserved);
        if (found < end) end = found, skipped = reserved.size();
      }
      if (end > kMaxLineBytes) {
        skipped = 0;
        end = kMaxLineBytes - utf8_incomplete_tail(line.substr(0, kMaxLineBytes));
      }
      if (end > 0) keep(line.substr(0, end));
      line.remove_prefix(end + skipped);
    }
  }

  void keep(std::string_view part) {
    ++seen_;
    if (size() < limit_) {
      lines_.emplace_back(part);
      return;
    }
    const uint64_t place = random() % static_cast<uint64_t>(seen_);
    if (place < lines_.size()) lines_[place] = part;
  }

  void prepare() {  // "line<TAB>count", the format of input_format tsv
    if (done()) return;
    const bool last = at_ + 1 == lines_.size();
    line_ = fmt::format("{}\t{}", lines_[at_], last ? last_count_ : 1);
  }

  uint64_t random() {  // SplitMix64
    uint64_t z = state_ += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }

  int64_t limit_, seen_ = 0;
  uint64_t state_;
  std::vector<std::string> lines_;
  int64_t last_count_ = 1;  // how often the last line counts
  size_t at_ = 0;
  std::string line_;
};

std::vector<std::string> all_symbols(const TokenizerTraining& o) {
  std::vector<std::string> symbols = {o.unknown, o.bos, o.eos, o.pad};
  symbols.insert(symbols.end(), o.control.begin(), o.control.end());
  symbols.insert(symbols.end(), o.visible.begin(), o.visible.end());
  return symbols;
}

Status check(const TokenizerTraining& o, const std::vector<std::string>& symbols) {
  if (o.vocab_size < 1 || o.vocab_size > kMaxTrainedVocab)
    return invalid(fmt::format("a vocabulary of {}; choose 1 to {}", o.vocab_size, kMaxTrainedVocab));
  if (!(o.character_coverage >= 0.5 && o.character_coverage <= 1))
    return invalid(fmt::format("character coverage {}; choose 0.5 to 1", o.character_coverage));
  if (o.max_lines < 1) return invalid("a sample of no lines; choose at least 1");
  if (symbols.size() > kMaxSymbols)
    return invalid(fmt::format("{} symbols; the limit is {}", symbols.size(), kMaxSymbols));
  std::set<std::string> seen;
  for (const std::string& symbol : symbols) {
    const bool text = !symbol.empty() && symbol.size() <= kMaxSymbolBytes &&
                      utf8_valid_prefix(symbol) == symbol.size() &&
                      symbol.find_first_of(std::string_view(" \t\r\n\"\0", 6)) == std::string::npos;
    if (!text) {
      return invalid(fmt::format(
          "'{}' is not a symbol: it needs 1 to {} bytes of UTF-8 without spaces or quotation marks",
          printable(symbol), kMaxSymbolBytes));
    }
    if (!seen.insert(symbol).second)
      return invalid(fmt::format("the symbol '{}' is given twice; name it once", printable(symbol)));
  }
  return {};
}

Status collect(const TextSource& texts, const std::vector<std::string>& symbols, Lines& lines) {
  AddedTokens cut;
  for (const std::string& symbol : symbols) {
    AddedToken token;
    token.id = static_cast<int32_t>(cut.all().size());
    token.content = symbol;
    MOEBIUS_TRY(cut.add(std::move(token)));
  }
  cut.build([](std::string_view text) { return std::string(text); });
  std::string text, storage;
  while (true) {
    MOEBIUS_ASSIGN(const bool more, texts(text));
    if (!more) break;
    MOEBIUS_TRY(cut.split(utf8_lossy(text, storage), AddedTokens::Group::kVerbatim, true,
                          [&](std::string_view part, std::optional<int32_t> id) -> Status {
                            if (!id) lines.add_text(part);
                            return {};
                          }));
  }
  return {};
}

// A list as the library's command line takes it.
std::string quoted_list(const std::vector<std::string>& symbols) {
  std::string list;
  for (const std::string& symbol : symbols) {
    list += list.empty() ? "\"" : ",\"";
    list += symbol + "\"";
  }
  return list;
}

Result<std::string> train(const TokenizerTraining& o, Lines& lines) {
  const std::unordered_map<std::string, std::string> settings = {
      {"model_type", o.model == PieceModel::kBpe ? "bpe" : "unigram"},
      {"vocab_size", std::to_string(o.vocab_size)},
      {"hard_vocab_limit", "false"},
      {"character_coverage", fmt::format("{}", o.character_coverage)},
      {"input_format", "tsv"},
      {"max_sentence_length", std::to_string(kMaxLineBytes)},
      {"num_threads", "16"},  // sums are formed per thread: a fixed number gives the same on every machine
      {"split_digits", "true"},
      {"byte_fallback", "true"},
      {"allow_whitespace_only_pieces", "true"},
      {"normalization_rule_name", "identity"},
      {"remove_extra_whitespaces", "false"},
      {"add_dummy_prefix", "false"},
      {"unk_id", "0"},
      {"bos_id", "1"},
      {"eos_id", "2"},
      {"pad_id", "3"},
      {"unk_piece", o.unknown},
      {"bos_piece", o.bos},
      {"eos_piece", o.eos},
      {"pad_piece", o.pad},
      {"unk_surface", o.unknown},
      {"control_symbols", quoted_list(o.control)},
      {"user_defined_symbols", quoted_list(o.visible)},
      {"minloglevel", "3"}};  // all but what aborts: its progress goes to stderr
  try {
    std::string model;
    const auto status = sentencepiece::SentencePieceTrainer::Train(settings, &lines, &model);
    if (status.ok()) return model;
    return invalid(
        fmt::format("sentencepiece does not train on these texts: {}", printable(status.ToString())));
  } catch (const std::bad_alloc&) {
    return no_memory("no memory to train a tokenizer on these texts; give fewer lines");
  } catch (const std::exception& error) {
    return invalid(fmt::format("sentencepiece does not train on these texts: {}", printable(error.what())));
  }
}

Result<TrainedTokenizer> describe(const TokenizerTraining& o, const std::string& dir) {
  MOEBIUS_ASSIGN(const auto tokenizer, Tokenizer::open(dir));
  TrainedTokenizer out;
  out.vocab_size = tokenizer->vocab_size();
  int32_t next = 0;
  const auto take = [&](const std::string& symbol, int32_t& id) -> Status {
    id = next++;
    if (tokenizer->id_of(symbol) == id) return {};
    return invalid(fmt::format("sentencepiece gave the symbol '{}' no id of its own; name it otherwise",
                               printable(symbol)));
  };
  MOEBIUS_TRY(take(o.unknown, out.unknown_id));
  MOEBIUS_TRY(take(o.bos, out.bos_id));
  MOEBIUS_TRY(take(o.eos, out.eos_id));
  MOEBIUS_TRY(take(o.pad, out.pad_id));
  for (const std::string& symbol : o.control) MOEBIUS_TRY(take(symbol, out.control_ids.emplace_back()));
  for (const std::string& symbol : o.visible) MOEBIUS_TRY(take(symbol, out.visible_ids.emplace_back()));
  return out;
}

}  // namespace

Result<PieceModel> parse_piece_model(std::string_view name) {
  if (name == "bpe") return PieceModel::kBpe;
  if (name == "unigram") return PieceModel::kUnigram;
  return invalid(fmt::format("'{}' is not a kind of tokenizer; choose bpe or unigram", printable(name)));
}

TokenizerTraining pebble_tokenizer() {
  TokenizerTraining options;
  options.control = {"<|im_end|>", "<|im_user|>", "<|im_assistant|>", "<|im_system|>", "<|im_middle|>"};
  options.visible = {"<tool_call>", "</tool_call>"};
  return options;
}

Result<TrainedTokenizer> train_tokenizer(const TokenizerTraining& options, const TextSource& texts,
                                         const std::string& dir) {
  const std::vector<std::string> symbols = all_symbols(options);
  MOEBIUS_TRY(check(options, symbols));
  Lines lines(options.max_lines, options.seed);
  MOEBIUS_TRY(collect(texts, symbols, lines));
  if (lines.size() == 0) return invalid("no text to train a tokenizer on; give it some");
  const int64_t given = lines.size();
  lines.finish(options.character_coverage);
  MOEBIUS_ASSIGN(const std::string model, train(options, lines));
  MOEBIUS_ASSIGN(const TokenizerFiles files, export_tokenizer(options, model));
  // The model last: with it the folder is a tokenizer.
  if (!options.chat_template.empty())
    MOEBIUS_TRY(write_text_file(dir + "/chat_template.jinja", options.chat_template));
  MOEBIUS_TRY(write_text_file(dir + "/tokenizer_config.json", files.config));
  MOEBIUS_TRY(write_text_file(dir + "/tokenizer.json", files.json));
  MOEBIUS_TRY(write_text_file(dir + "/tokenizer.model", model));
  MOEBIUS_ASSIGN(TrainedTokenizer out, describe(options, dir));
  out.lines = given;
  return out;
}

}  // namespace moebius
