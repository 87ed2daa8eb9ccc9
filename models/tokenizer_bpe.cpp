#include "models/tokenizer_bpe.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <functional>
#include <queue>

namespace moebius {
namespace {

constexpr uint64_t kFreeKey = ~uint64_t{0};

constexpr bool stands_for_itself(int byte) {
  return (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || (byte >= 174 && byte <= 255);
}

constexpr std::array<char32_t, 256> kByteCharacters = [] {
  std::array<char32_t, 256> characters{};
  char32_t next = 0x100;
  for (int byte = 0; byte < 256; ++byte) {
    characters[static_cast<size_t>(byte)] = stands_for_itself(byte) ? static_cast<char32_t>(byte) : next++;
  }
  return characters;
}();
constexpr size_t kAlphabetEnd = 0x100 + 68;

constexpr std::array<int16_t, kAlphabetEnd> kCharacterBytes = [] {
  std::array<int16_t, kAlphabetEnd> bytes{};
  for (auto& byte : bytes) byte = -1;
  for (size_t byte = 0; byte < 256; ++byte) bytes[kByteCharacters[byte]] = static_cast<int16_t>(byte);
  return bytes;
}();

// Bytes that no UTF-8 text has need no token.
bool occurs_in_utf8(int byte) { return byte < 0xC0 || (byte >= 0xC2 && byte <= 0xF4); }

}  // namespace

std::string to_byte_alphabet(std::string_view bytes) {
  std::string text;
  for (const char byte : bytes) utf8_append(kByteCharacters[static_cast<uint8_t>(byte)], text);
  return text;
}

std::optional<std::string> from_byte_alphabet(std::string_view text) {
  std::string bytes;
  for (size_t position = 0; position < text.size();) {
    const char32_t c = utf8_next(text, position);
    if (c >= kAlphabetEnd || kCharacterBytes[c] < 0) return std::nullopt;
    bytes += static_cast<char>(kCharacterBytes[c]);
  }
  return bytes;
}

size_t TokenTable::slot_of(std::string_view wanted) const {
  const size_t mask = slots_.size() - 1;
  size_t slot = std::hash<std::string_view>()(wanted) & mask;
  while (slots_[slot] >= 0 && bytes(slots_[slot]) != wanted) slot = (slot + 1) & mask;
  return slot;
}

void TokenTable::grow() {
  std::vector<int32_t> old(std::max<size_t>(1024, slots_.size() * 2), -1);
  old.swap(slots_);
  for (const int32_t id : old) {
    if (id >= 0) slots_[slot_of(bytes(id))] = id;
  }
}

Status TokenTable::add(std::string_view token, int64_t id, bool listed) {
  if (id < 0 || id >= kMaxVocab)
    return invalid(fmt::format("token id {} is outside 0..{}", id, kMaxVocab - 1));
  if (token.size() > kMaxTokenBytes) {
    return invalid(fmt::format("token {} has {} bytes; the limit is {}", id, token.size(), kMaxTokenBytes));
  }
  const auto index = static_cast<size_t>(id);
  if (index >= entries_.size()) entries_.resize(index + 1);
  if (entries_[index].used) return invalid(fmt::format("two tokens have the id {}", id));
  if (listed && listed_ * 2 >= slots_.size()) grow();
  const size_t slot = listed ? slot_of(token) : 0;
  if (listed && slots_[slot] >= 0)
    return invalid(fmt::format("ids {} and {} are the same token", slots_[slot], id));
  entries_[index] = {arena_.size(), static_cast<uint32_t>(token.size()), true};
  arena_ += token;
  if (listed) {
    slots_[slot] = static_cast<int32_t>(id);
    ++listed_;
    longest_ = std::max(longest_, token.size());
  }
  return {};
}

std::optional<int32_t> TokenTable::find(std::string_view wanted) const {
  if (slots_.empty() || wanted.size() > longest_) return std::nullopt;
  const int32_t id = slots_[slot_of(wanted)];
  if (id < 0) return std::nullopt;
  return id;
}

std::string_view TokenTable::bytes(int32_t id) const {
  if (!has(id)) return {};
  const Entry& entry = entries_[static_cast<size_t>(id)];
  return std::string_view(arena_).substr(entry.begin, entry.length);
}

MergeTable::MergeTable(size_t count) : slots_(std::bit_ceil(count * 2 + 1), Slot{kFreeKey, {0, 0}}) {}

size_t MergeTable::slot_of(uint64_t key) const {
  const size_t mask = slots_.size() - 1;
  uint64_t hash = key * 0x9E3779B97F4A7C15ull;
  hash ^= hash >> 32;
  size_t slot = hash & mask;
  while (slots_[slot].key != kFreeKey && slots_[slot].key != key) slot = (slot + 1) & mask;
  return slot;
}

void MergeTable::set(int32_t left, int32_t right, int32_t rank, int32_t result) {
  const uint64_t key =
      static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
  slots_[slot_of(key)] = {key, {rank, result}};
}

std::optional<MergeTable::Merge> MergeTable::find(int32_t left, int32_t right) const {
  const uint64_t key =
      static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
  const Slot& slot = slots_[slot_of(key)];
  if (slot.key == kFreeKey) return std::nullopt;
  return slot.merge;
}

struct BpeTokenizer::Work {
  struct Symbol {
    int32_t id;  // -1: merged into its left neighbour
    int32_t previous, next;
    uint32_t begin, end;  // bytes of the piece
  };
  struct Candidate {
    int32_t rank, position, id;
    bool operator>(const Candidate& other) const {
      return rank != other.rank ? rank > other.rank : position > other.position;
    }
  };
  struct Queue : std::priority_queue<Candidate, std::vector<Candidate>, std::greater<Candidate>> {
    void clear() { c.clear(); }
  };

  std::vector<int32_t> ids;
  PatternScratch scratch;
  std::vector<TextRange> pieces;
  std::vector<Symbol> symbols;
  Queue queue;
};

BpeTokenizer::BpeTokenizer(BpeParts parts) : parts_(std::move(parts)) {
  bos_id_ = parts_.bos_id;
  eos_id_ = parts_.eos_id;
  for (int byte = 0; byte < 256; ++byte) {
    const char character = static_cast<char>(byte);
    byte_ids_[byte] = parts_.tokens.find({&character, 1}).value_or(-1);
  }
}

Result<std::unique_ptr<Tokenizer>> BpeTokenizer::create(BpeParts parts) {
  std::unique_ptr<BpeTokenizer> tokenizer(new BpeTokenizer(std::move(parts)));
  for (int byte = 0; byte < 256; ++byte) {
    if (occurs_in_utf8(byte) && tokenizer->byte_ids_[byte] < 0) {
      return invalid(fmt::format("the vocabulary has no token for byte 0x{:02X}", byte));
    }
  }
  tokenizer->parts_.added.build([&](std::string_view text) { return tokenizer->normalized(text); });
  return std::unique_ptr<Tokenizer>(std::move(tokenizer));
}

std::string BpeTokenizer::normalized(std::string_view text) const {
  std::string result(text);
  for (const NormalForm form : parts_.normal_forms) result = normalize_unicode(result, form);
  return result;
}

Result<std::vector<int32_t>> BpeTokenizer::encode(std::string_view text, EncodeOptions options) const {
  if (text.size() > kMaxTextBytes) {
    return invalid(fmt::format("a text of {} bytes; the limit is {}", text.size(), kMaxTextBytes));
  }
  std::string storage;
  text = utf8_lossy(text, storage);
  Work work;
  if (options.add_special) work.ids = parts_.prefix;
  using Group = AddedTokens::Group;
  const auto cut = [&](std::string_view part, Group group, const auto& on_text) -> Status {
    return parts_.added.split(part, group, options.parse_special,
                              [&](std::string_view plain, std::optional<int32_t> id) -> Status {
                                if (!id) return on_text(plain);
                                work.ids.push_back(*id);
                                return {};
                              });
  };
  MOEBIUS_TRY(cut(text, Group::kVerbatim, [&](std::string_view part) -> Status {
    const auto on_normal = [&](std::string_view plain) { return encode_plain(plain, work); };
    if (parts_.normal_forms.empty()) return cut(part, Group::kNormalized, on_normal);
    return cut(normalized(part), Group::kNormalized, on_normal);
  }));
  if (options.add_special) work.ids.insert(work.ids.end(), parts_.suffix.begin(), parts_.suffix.end());
  return std::move(work.ids);
}

Status BpeTokenizer::encode_plain(std::string_view plain, Work& work) const {
  std::string text(plain);
  MOEBIUS_TRY(parts_.pretokenizer.split(text, work.pieces, work.scratch));
  for (const TextRange& piece : work.pieces) {
    encode_piece(std::string_view(text).substr(piece.begin, piece.end - piece.begin), work);
  }
  return {};
}

void BpeTokenizer::encode_piece(std::string_view piece, Work& work) const {
  if (piece.size() == 1) {
    work.ids.push_back(byte_ids_[static_cast<uint8_t>(piece[0])]);
    return;
  }
  if (parts_.whole_piece_first) {
    if (const auto id = parts_.tokens.find(piece)) {
      work.ids.push_back(*id);
      return;
    }
  }
  using Symbol = Work::Symbol;
  using Merge = MergeTable::Merge;
  if (parts_.merges) {
    merge_piece(piece, work, [&](const Symbol& left, const Symbol& right) {
      return parts_.merges->find(left.id, right.id);
    });
  } else {
    merge_piece(piece, work, [&](const Symbol& left, const Symbol& right) -> std::optional<Merge> {
      const auto id = parts_.tokens.find(piece.substr(left.begin, right.end - left.begin));
      if (!id) return std::nullopt;
      return Merge{*id, *id};
    });
  }
}

// Merges the pair of lowest rank, the leftmost of equals, until none is left: n log n.
template <class FindMerge>
void BpeTokenizer::merge_piece(std::string_view piece, Work& work, const FindMerge& find_merge) const {
  auto& symbols = work.symbols;
  auto& queue = work.queue;
  const auto count = static_cast<int32_t>(piece.size());
  symbols.clear();
  queue.clear();
  for (int32_t i = 0; i < count; ++i) {
    const auto begin = static_cast<uint32_t>(i);
    symbols.push_back(
        {byte_ids_[static_cast<uint8_t>(piece[begin])], i - 1, i + 1 < count ? i + 1 : -1, begin, begin + 1});
  }
  const auto symbol = [&](int32_t i) -> Work::Symbol& { return symbols[static_cast<size_t>(i)]; };
  const auto offer = [&](int32_t left, int32_t right) {
    if (left < 0 || right < 0) return;
    if (const auto merge = find_merge(symbol(left), symbol(right)))
      queue.push({merge->rank, left, merge->id});
  };
  for (int32_t i = 0; i + 1 < count; ++i) offer(i, i + 1);
  while (!queue.empty()) {
    const Work::Candidate best = queue.top();
    queue.pop();
    Work::Symbol& left = symbol(best.position);
    if (left.id < 0 || left.next < 0) continue;
    Work::Symbol& right = symbol(left.next);
    // A candidate is out of date when the pair there now merges into something else; `tokenizers` compares
    // the result, not the pair, and so do we.
    const auto merge = find_merge(left, right);
    if (!merge || merge->id != best.id) continue;
    left.id = best.id;
    left.end = right.end;
    left.next = right.next;
    right.id = -1;
    if (left.next >= 0) symbol(left.next).previous = best.position;
    offer(left.previous, best.position);
    offer(best.position, left.next);
  }
  for (int32_t i = 0; i >= 0; i = symbol(i).next) work.ids.push_back(symbol(i).id);
}

int32_t BpeTokenizer::vocab_size() const { return std::max(parts_.tokens.size(), parts_.added.id_end()); }

bool BpeTokenizer::is_special(int32_t id) const {
  const AddedToken* token = parts_.added.by_id(id);
  return token != nullptr && token->special;
}

std::optional<int32_t> BpeTokenizer::id_of(std::string_view token) const {
  if (const AddedToken* added = parts_.added.by_text(token)) return added->id;
  if (!parts_.byte_alphabet) return parts_.tokens.find(token);
  if (utf8_valid_prefix(token) != token.size()) return std::nullopt;
  const auto bytes = from_byte_alphabet(token);
  return bytes ? parts_.tokens.find(*bytes) : std::nullopt;
}

std::string BpeTokenizer::token_text(int32_t id) const {
  if (const AddedToken* added = parts_.added.by_id(id)) return added->content;
  const std::string_view bytes = parts_.tokens.bytes(id);
  return parts_.byte_alphabet ? to_byte_alphabet(bytes) : std::string(bytes);
}

std::string_view BpeTokenizer::token_bytes(int32_t id) const {
  if (const AddedToken* added = parts_.added.by_id(id)) return added->content;
  return parts_.tokens.bytes(id);
}

}  // namespace moebius
