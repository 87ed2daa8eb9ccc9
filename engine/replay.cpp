#include "engine/replay.h"

#include <algorithm>

namespace moebius {

void Replay::remember(const std::string& space, std::span<const int32_t> ids) {
  Result<std::string> text = tokenizer_.decode(ids);
  if (!text.ok() || text->empty()) return;
  Entry entry{space, std::move(*text), {ids.begin(), ids.end()}};
  std::lock_guard lock(mutex_);
  const auto same = std::ranges::find_if(
      entries_, [&](const Entry& e) { return e.text == entry.text && e.space == entry.space; });
  if (same != entries_.end()) {
    held_ -= same->bytes();
    entries_.erase(same);
  }
  held_ += entry.bytes();
  entries_.push_front(std::move(entry));
  while (held_ > bytes_) {
    held_ -= entries_.back().bytes();
    entries_.pop_back();
  }
}

std::vector<int32_t> Replay::longest(const std::string& space, std::string_view text, size_t& covered) {
  std::lock_guard lock(mutex_);
  auto best = entries_.end();
  for (auto e = entries_.begin(); e != entries_.end(); ++e) {
    const bool longer = best == entries_.end() || e->text.size() > best->text.size();
    if (longer && e->space == space && text.starts_with(e->text)) best = e;
  }
  if (best == entries_.end()) return {};
  entries_.splice(entries_.begin(), entries_, best);
  covered = best->text.size();
  return best->ids;
}

Result<std::vector<int32_t>> Replay::encode(const std::string& space, std::string_view text) {
  size_t covered = 0;
  std::vector<int32_t> ids = longest(space, text, covered);
  if (ids.empty()) return tokenizer_.encode(text);
  if (covered < text.size()) {
    MOEBIUS_ASSIGN(const std::vector<int32_t> rest, tokenizer_.encode(text.substr(covered)));
    ids.insert(ids.end(), rest.begin(), rest.end());
  }
  // Some tokenizers put a space before whatever they are given: then the parts are another text together.
  const Result<std::string> together = tokenizer_.decode(ids);
  return together.ok() && *together == text ? Result(std::move(ids)) : tokenizer_.encode(text);
}

}  // namespace moebius
