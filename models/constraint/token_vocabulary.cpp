#include "models/constraint/token_vocabulary.h"

#include <algorithm>

#include "models/tokenizer_text.h"

namespace moebius {

namespace {

constexpr int32_t kLengths = 16;  // up to so many characters, plain tokens have masks by length

void set_bit(TokenMask& mask, int32_t id) { mask[static_cast<size_t>(id) / 64] |= uint64_t{1} << (id % 64); }

void join(TokenMask& mask, const TokenMask& more) {
  for (size_t i = 0; i < mask.size(); ++i) mask[i] |= more[i];
}

bool is_plain(std::string_view text) {
  const bool simple = std::none_of(text.begin(), text.end(),
                                   [](unsigned char c) { return c < 0x20 || c == '"' || c == '\\'; });
  return simple && utf8_valid_prefix(text) == text.size();
}

int32_t characters(std::string_view text) {
  return static_cast<int32_t>(
      std::count_if(text.begin(), text.end(), [](unsigned char c) { return (c & 0xC0) != 0x80; }));
}

}  // namespace

std::shared_ptr<const TokenVocabulary> TokenVocabulary::of(const Tokenizer& tokenizer, int64_t size,
                                                           std::span<const int32_t> markup) {
  std::vector<std::string_view> texts(static_cast<size_t>(size));
  for (int32_t id = 0; id < std::min<int64_t>(size, tokenizer.vocab_size()); ++id) {
    if (!tokenizer.is_special(id)) texts[static_cast<size_t>(id)] = tokenizer.token_bytes(id);
  }
  for (const int32_t id : markup) {
    if (id < size) texts[static_cast<size_t>(id)] = {};
  }
  return of(texts);
}

std::shared_ptr<const TokenVocabulary> TokenVocabulary::of(std::span<const std::string_view> texts) {
  auto out = std::make_shared<TokenVocabulary>();
  out->size_ = static_cast<int64_t>(texts.size());
  out->texts_.assign(texts.begin(), texts.end());
  std::vector<std::pair<std::string_view, int32_t>> plain, others;
  for (size_t id = 0; id < texts.size(); ++id) {
    const std::string_view text = out->texts_[id];
    if (text.empty()) continue;
    (is_plain(text) ? plain : others).push_back({text, static_cast<int32_t>(id)});
    if (is_plain(text)) out->plain_by_length_.push_back({characters(text), static_cast<int32_t>(id)});
  }
  std::sort(out->plain_by_length_.begin(), out->plain_by_length_.end());
  const TokenMask none((texts.size() + 63) / 64);
  out->up_to_.assign(kLengths, none);
  out->all_plain_ = none;
  for (const auto& [length, id] : out->plain_by_length_) {
    set_bit(out->all_plain_, id);
    for (int32_t i = length; i <= kLengths; ++i) set_bit(out->up_to_[static_cast<size_t>(i - 1)], id);
  }
  out->plain_ = plant(std::move(plain));
  out->others_ = plant(std::move(others));
  return out;
}

std::string_view TokenVocabulary::text(int32_t id) const {
  return id >= 0 && id < size_ ? std::string_view(texts_[static_cast<size_t>(id)]) : std::string_view();
}

TokenVocabulary::Tree TokenVocabulary::plant(std::vector<std::pair<std::string_view, int32_t>> texts) {
  std::sort(texts.begin(), texts.end());
  Tree tree;
  std::vector<int32_t> way;  // the nodes of the text before
  std::string_view before;
  const auto close = [&](size_t depth) {
    for (; way.size() > depth; way.pop_back())
      tree.nodes[static_cast<size_t>(way.back())].skip = static_cast<int32_t>(tree.nodes.size());
  };
  for (const auto& [text, id] : texts) {
    const auto [end, unused] = std::mismatch(before.begin(), before.end(), text.begin(), text.end());
    close(static_cast<size_t>(end - before.begin()));
    while (way.size() < text.size()) {
      Node node;
      node.byte = static_cast<unsigned char>(text[way.size()]);
      node.depth = static_cast<int32_t>(way.size());
      node.tokens = node.tokens_end = static_cast<int32_t>(tree.tokens.size());
      way.push_back(static_cast<int32_t>(tree.nodes.size()));
      tree.nodes.push_back(node);
    }
    tree.tokens.push_back(id);
    tree.nodes[static_cast<size_t>(way.back())].tokens_end = static_cast<int32_t>(tree.tokens.size());
    tree.depth = std::max(tree.depth, static_cast<int32_t>(text.size()));
    before = text;
  }
  close(0);
  return tree;
}

void TokenVocabulary::walk(const Tree& tree, StateCache& cache, StateCache::StateId state,
                           TokenMask& mask) const {
  const Program& program = cache.program();
  std::vector<StateCache::StateId> states(static_cast<size_t>(tree.depth) + 1, state);
  const auto end = static_cast<int32_t>(tree.nodes.size());
  for (int32_t i = 0; i < end;) {
    const Node& node = tree.nodes[static_cast<size_t>(i)];
    const auto depth = static_cast<size_t>(node.depth);
    const StateCache::StateId next = cache.step(states[depth], program.class_of(node.byte));
    if (next == StateCache::kDead) {
      if (!cache.status().ok()) return;
      i = node.skip;
      continue;
    }
    states[depth + 1] = next;
    for (int32_t t = node.tokens; t < node.tokens_end; ++t)
      set_bit(mask, tree.tokens[static_cast<size_t>(t)]);
    ++i;
  }
}

void TokenVocabulary::allow_plain(int32_t most, TokenMask& mask) const {
  if (most <= 0 || plain_by_length_.empty()) return;
  if (most >= plain_by_length_.back().first) return join(mask, all_plain_);
  join(mask, up_to_[static_cast<size_t>(std::min(most, kLengths) - 1)]);
  if (most <= kLengths) return;
  auto at =
      std::upper_bound(plain_by_length_.begin(), plain_by_length_.end(), std::pair(kLengths, INT32_MAX));
  for (; at != plain_by_length_.end() && at->first <= most; ++at) set_bit(mask, at->second);
}

TokenVocabulary::LoopTokens TokenVocabulary::tokens_of(const CharSet& loop) const {
  LoopTokens out;
  out.every = loop.contains(plain_characters());
  if (out.every) return out;
  bool ascii[128];
  for (char32_t c = 0; c < 128; ++c) ascii[c] = loop.contains(c);
  for (const auto& [length, id] : plain_by_length_) {
    const std::string_view text = texts_[static_cast<size_t>(id)];
    bool within = true;
    for (size_t at = 0; at < text.size() && within;) {
      const auto byte = static_cast<unsigned char>(text[at]);
      within =
          byte < 128 ? ascii[static_cast<unsigned char>(text[at++])] : loop.contains(utf8_next(text, at));
    }
    if (within) out.by_length.push_back({length, id});
  }
  return out;
}

void TokenVocabulary::allow(StateCache& cache, StateCache::StateId state, std::span<const LoopTokens> loops,
                            TokenMask& mask) const {
  const StateCache::Run run = cache.run(state);
  bool found_all = run.is_all;
  if (run.loop >= 0) {
    const LoopTokens& loop = loops[static_cast<size_t>(run.loop)];
    if (loop.every) allow_plain(run.length, mask);
    for (const auto& [length, id] : loop.by_length) {
      if (length > run.length) break;
      set_bit(mask, id);
    }
    found_all |= loop.every && (plain_by_length_.empty() || run.length >= plain_by_length_.back().first);
  }
  if (!found_all) walk(plain_, cache, state, mask);
  walk(others_, cache, state, mask);
}

}  // namespace moebius
