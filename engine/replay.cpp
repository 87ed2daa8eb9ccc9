#include "engine/replay.h"

#include <algorithm>
#include <cstring>

namespace moebius {

void Replay::remember(const std::string& space, std::span<const int32_t> ids) {
  Result<std::string> text = tokenizer_.decode(ids);
  if (!text.ok() || text->empty()) return;
  std::lock_guard lock(mutex_);
  put({space, std::move(*text), {ids.begin(), ids.end()}});
}

void Replay::put(Entry entry) {
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

namespace {

void write_part(std::string& out, std::string_view bytes) {
  const uint64_t size = bytes.size();
  out.append(reinterpret_cast<const char*>(&size), sizeof(size));
  out += bytes;
}

bool read_part(std::string_view& in, std::string_view& bytes) {
  uint64_t size = 0;
  if (in.size() < sizeof(size)) return false;
  std::memcpy(&size, in.data(), sizeof(size));
  in.remove_prefix(sizeof(size));
  if (size > in.size()) return false;
  bytes = in.substr(0, size);
  in.remove_prefix(size);
  return true;
}

}  // namespace

std::string Replay::save() {
  std::lock_guard lock(mutex_);
  std::string out;
  for (const Entry& e : entries_) {
    write_part(out, e.space), write_part(out, e.text);
    write_part(out, {reinterpret_cast<const char*>(e.ids.data()), e.ids.size() * sizeof(int32_t)});
  }
  return out;
}

// The last used came first.
Status Replay::restore(std::string_view saved) {
  std::vector<Entry> all;
  while (!saved.empty()) {
    std::string_view space, text, ids;
    if (!read_part(saved, space) || !read_part(saved, text) || !read_part(saved, ids) ||
        ids.size() % sizeof(int32_t) != 0)
      return invalid("what was remembered of earlier answers is cut short");
    Entry& entry = all.emplace_back(Entry{std::string(space), std::string(text), {}});
    entry.ids.resize(ids.size() / sizeof(int32_t));
    std::memcpy(entry.ids.data(), ids.data(), ids.size());
  }
  std::lock_guard lock(mutex_);
  for (auto e = all.rbegin(); e != all.rend(); ++e) put(std::move(*e));
  return Status();
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
