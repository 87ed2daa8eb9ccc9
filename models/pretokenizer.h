// Pretokenizer: cuts a text into the pieces within which BPE may merge.
//
// The steps of tokenizer.json's `pre_tokenizer`, as the `tokenizers` library runs them: each step cuts the
// pieces of the step before, and sees nothing beyond the piece.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/status.h"
#include "models/tokenizer_pattern.h"

namespace moebius {

struct TextRange {  // [begin, end) in bytes
  uint32_t begin;
  uint32_t end;
};

// What becomes of a match and of the text between matches.
enum class SplitBehavior { kIsolated, kRemoved, kMergedWithPrevious, kMergedWithNext, kContiguous };

class Pretokenizer {
 public:
  // node: the value of "pre_tokenizer". Sequence, Split, Digits and, at the end, ByteLevel are known; another
  // kind is kUnsupported by name.
  static Result<Pretokenizer> from_json(const nlohmann::json& node);
  // Pieces are the matches of one pattern and what lies between them.
  static Result<Pretokenizer> from_pattern(std::string_view pattern);

  // text: valid UTF-8 of at most 1 GiB; it is changed where a space is put before a piece. pieces are the
  // non-empty ranges of it, in order.
  Status split(std::string& text, std::vector<TextRange>& pieces, PatternScratch& scratch) const;

 private:
  struct Step {
    enum class Kind { kPattern, kLiteral, kSpacesAtLineEnd, kSpaceBefore } kind = Kind::kPattern;
    Pattern pattern;
    std::string text;  // of the literal, or of the pattern for messages
    SplitBehavior behavior = SplitBehavior::kIsolated;
    bool invert = false;
  };
  struct Span {
    uint32_t begin, end;
    bool matched;
  };

  Status add_node(const nlohmann::json& node);
  Status add_split(const nlohmann::json& node);
  Status add_byte_level(const nlohmann::json& node);
  Status add_pattern(std::string_view pattern, SplitBehavior behavior, bool invert);
  static Status find_spans(const Step& step, std::string_view piece, PatternScratch& scratch,
                           std::vector<Span>& spans);
  static Status find_pattern_spans(const Step& step, std::string_view piece, PatternScratch& scratch,
                                   std::vector<Span>& spans);
  static void find_literal_spans(std::string_view literal, std::string_view piece, std::vector<Span>& spans);
  static void find_line_end_spaces(std::string_view piece, std::vector<Span>& spans);

  std::vector<Step> steps_;
  bool byte_level_ = false;
};

}  // namespace moebius
