#include "models/pretokenizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "models/file_io.h"
#include "models/tokenizer_files.h"
#include "models/tokenizer_text.h"

namespace moebius {
namespace {

// What ByteLevel cuts by when `use_regex` is true.
constexpr std::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
// DeepSeek-V2's. A search for it tries every beginning in a run of spaces, which is quadratic.
constexpr std::string_view kSpacesAtLineEndPattern = R"(\s+$)";

Result<SplitBehavior> behavior_named(const std::string& name) {
  if (name == "Isolated") return SplitBehavior::kIsolated;
  if (name == "Removed") return SplitBehavior::kRemoved;
  if (name == "MergedWithPrevious") return SplitBehavior::kMergedWithPrevious;
  if (name == "MergedWithNext") return SplitBehavior::kMergedWithNext;
  if (name == "Contiguous") return SplitBehavior::kContiguous;
  return unsupported(fmt::format("pre_tokenizer: split behavior '{}' is not supported", printable(name)));
}

// Joins spans in place as the behavior says; spans cover the piece in order.
template <class Spans>
void join_spans(SplitBehavior behavior, Spans& spans) {
  Spans joined;
  joined.reserve(spans.size());
  bool previous = false;
  if (behavior == SplitBehavior::kMergedWithNext) {
    for (auto span = spans.rbegin(); span != spans.rend(); ++span) {
      if (span->matched && !previous && !joined.empty()) {
        joined.back().begin = span->begin;
      } else {
        joined.push_back(*span);
      }
      previous = span->matched;
    }
    std::reverse(joined.begin(), joined.end());
  } else {
    for (const auto& span : spans) {
      const bool join =
          behavior == SplitBehavior::kContiguous ? span.matched == previous : span.matched && !previous;
      if (join && !joined.empty()) {
        joined.back().end = span.end;
      } else {
        joined.push_back(span);
      }
      previous = span.matched;
    }
  }
  spans.swap(joined);
}

}  // namespace

Result<Pretokenizer> Pretokenizer::from_json(const nlohmann::json& node) {
  Pretokenizer result;
  MOEBIUS_TRY(result.add_node(node));
  if (!result.byte_level_)
    return unsupported("pre_tokenizer: one that does not end in ByteLevel is not supported");
  return result;
}

Result<Pretokenizer> Pretokenizer::from_pattern(std::string_view pattern) {
  Pretokenizer result;
  MOEBIUS_TRY(result.add_pattern(pattern, SplitBehavior::kIsolated, false));
  return result;
}

Status Pretokenizer::add_node(const nlohmann::json& node) {
  if (!node.is_object()) return unsupported("pre_tokenizer: none, or not an object; ByteLevel is needed");
  const std::string type = text_in(node, "type");
  if (byte_level_)
    return unsupported(fmt::format("pre_tokenizer: '{}' after ByteLevel is not supported", printable(type)));
  if (type == "Sequence") {
    const auto list = node.find("pretokenizers");
    if (list == node.end() || !list->is_array())
      return invalid("pre_tokenizer: a Sequence without pretokenizers");
    for (const auto& element : *list) MOEBIUS_TRY(add_node(element));
    return {};
  }
  if (type == "Split") return add_split(node);
  if (type == "Digits") {
    const bool single = flag_in(node, "individual_digits").value_or(false);
    return add_pattern(R"(\p{N})", single ? SplitBehavior::kIsolated : SplitBehavior::kContiguous, false);
  }
  if (type == "ByteLevel") return add_byte_level(node);
  return unsupported(fmt::format("pre_tokenizer: type '{}' is not supported", printable(type)));
}

Status Pretokenizer::add_split(const nlohmann::json& node) {
  MOEBIUS_ASSIGN(const SplitBehavior behavior, behavior_named(text_in(node, "behavior")));
  const bool invert = flag_in(node, "invert").value_or(false);
  const auto pattern = node.find("pattern");
  if (pattern != node.end() && pattern->is_object()) {
    if (pattern->contains("Regex")) return add_pattern(text_in(*pattern, "Regex"), behavior, invert);
    if (pattern->contains("String")) {
      Step step;
      step.kind = Step::Kind::kLiteral;
      step.text = text_in(*pattern, "String");
      step.behavior = behavior;
      step.invert = invert;
      if (step.text.empty()) return unsupported("pre_tokenizer: a Split by an empty text is not supported");
      steps_.push_back(std::move(step));
      return {};
    }
  }
  return invalid("pre_tokenizer: a Split needs a pattern with Regex or String");
}

Status Pretokenizer::add_byte_level(const nlohmann::json& node) {
  byte_level_ = true;
  if (flag_in(node, "add_prefix_space").value_or(true)) {
    Step step;
    step.kind = Step::Kind::kSpaceBefore;
    steps_.push_back(std::move(step));
  }
  if (flag_in(node, "use_regex").value_or(true))
    return add_pattern(kGpt2Pattern, SplitBehavior::kIsolated, false);
  return {};
}

Status Pretokenizer::add_pattern(std::string_view pattern, SplitBehavior behavior, bool invert) {
  Step step;
  step.text = pattern;
  step.behavior = behavior;
  step.invert = invert;
  if (pattern == kSpacesAtLineEndPattern) {
    step.kind = Step::Kind::kSpacesAtLineEnd;
  } else {
    MOEBIUS_ASSIGN(step.pattern, Pattern::compile(pattern));
  }
  steps_.push_back(std::move(step));
  return {};
}

Status Pretokenizer::split(std::string& text, std::vector<TextRange>& pieces, PatternScratch& scratch) const {
  pieces.clear();
  if (!text.empty()) pieces.push_back({0, static_cast<uint32_t>(text.size())});
  std::vector<TextRange> cut;
  std::vector<Span> spans;
  for (const Step& step : steps_) {
    cut.clear();
    if (step.kind == Step::Kind::kSpaceBefore) {
      std::string spaced;
      spaced.reserve(text.size() + pieces.size());
      for (const TextRange& piece : pieces) {
        const auto begin = static_cast<uint32_t>(spaced.size());
        if (text[piece.begin] != ' ') spaced += ' ';
        spaced.append(text, piece.begin, piece.end - piece.begin);
        cut.push_back({begin, static_cast<uint32_t>(spaced.size())});
      }
      text.swap(spaced);
      pieces.swap(cut);
      continue;
    }
    for (const TextRange& piece : pieces) {
      const auto part = std::string_view(text).substr(piece.begin, piece.end - piece.begin);
      spans.clear();
      MOEBIUS_TRY(find_spans(step, part, scratch, spans));
      for (const Span& span : spans) {
        const bool removed = step.behavior == SplitBehavior::kRemoved && span.matched;
        if (span.begin < span.end && !removed)
          cut.push_back({piece.begin + span.begin, piece.begin + span.end});
      }
    }
    pieces.swap(cut);
  }
  return {};
}

Status Pretokenizer::find_spans(const Step& step, std::string_view piece, PatternScratch& scratch,
                                std::vector<Span>& spans) {
  switch (step.kind) {
    case Step::Kind::kPattern:
      MOEBIUS_TRY(find_pattern_spans(step, piece, scratch, spans));
      break;
    case Step::Kind::kLiteral:
      find_literal_spans(step.text, piece, spans);
      break;
    case Step::Kind::kSpacesAtLineEnd:
      find_line_end_spaces(piece, spans);
      break;
    case Step::Kind::kSpaceBefore:
      MOEBIUS_CHECK(false, "not a step that cuts");
  }
  const uint32_t last = spans.empty() ? 0 : spans.back().end;
  if (last < piece.size()) spans.push_back({last, static_cast<uint32_t>(piece.size()), false});
  if (step.invert) {
    for (Span& span : spans) span.matched = !span.matched;
  }
  if (step.behavior != SplitBehavior::kIsolated && step.behavior != SplitBehavior::kRemoved) {
    join_spans(step.behavior, spans);
  }
  return {};
}

Status Pretokenizer::find_pattern_spans(const Step& step, std::string_view piece, PatternScratch& scratch,
                                        std::vector<Span>& spans) {
  uint32_t last = 0;  // where the last match ended
  bool any = false;   // whether there was one
  for (size_t from = 0; from <= piece.size();) {
    size_t begin = 0, end = 0;
    const Pattern::Found found = step.pattern.find(piece, from, scratch, &begin, &end);
    if (found == Pattern::Found::kNone) break;
    if (found == Pattern::Found::kGaveUp) {
      return invalid(
          fmt::format("the tokenizer's pattern {} takes too many steps on this text", printable(step.text)));
    }
    if (begin == end && any && end == last) {  // an empty match right after a match is none
      if (from == piece.size()) break;
      utf8_next(piece, from);
      continue;
    }
    // \K and lookbehind could report a match before what is already cut.
    if (begin < last)
      return unsupported(fmt::format("pattern {}: its matches overlap", printable(step.text)));
    if (begin > last) spans.push_back({last, static_cast<uint32_t>(begin), false});
    spans.push_back({static_cast<uint32_t>(begin), static_cast<uint32_t>(end), true});
    last = static_cast<uint32_t>(end);
    any = true;
    from = end;
  }
  return {};
}

void Pretokenizer::find_literal_spans(std::string_view literal, std::string_view piece,
                                      std::vector<Span>& spans) {
  size_t last = 0;
  for (size_t at = piece.find(literal); at != std::string_view::npos; at = piece.find(literal, last)) {
    if (at > last) spans.push_back({static_cast<uint32_t>(last), static_cast<uint32_t>(at), false});
    last = at + literal.size();
    spans.push_back({static_cast<uint32_t>(at), static_cast<uint32_t>(last), true});
  }
}

// In each run of spaces: from its beginning to the end of the text, or to its last line end but the first
// character.
void Pretokenizer::find_line_end_spaces(std::string_view piece, std::vector<Span>& spans) {
  size_t last = 0;
  for (size_t position = 0; position < piece.size();) {
    const size_t begin = position;
    size_t end = position;  // of the match
    size_t next = position;
    while (next < piece.size()) {
      const size_t at = next;
      const char32_t c = utf8_next(piece, next);
      if (!is_unicode_space(c)) {
        next = at;
        break;
      }
      if (c == '\n' && at > begin) end = at;
    }
    if (next == begin) {
      utf8_next(piece, position);
      continue;
    }
    if (next == piece.size()) end = next;
    if (end > begin) {
      if (begin > last) spans.push_back({static_cast<uint32_t>(last), static_cast<uint32_t>(begin), false});
      spans.push_back({static_cast<uint32_t>(begin), static_cast<uint32_t>(end), true});
      last = end;
    }
    position = next;
  }
}

}  // namespace moebius
