#include "engine/prefix_cache.h"

#include <algorithm>

namespace moebius {
namespace {

constexpr size_t kEvictedKept = 4096;
constexpr size_t kSpacesSearched = 256;  // for a reason
constexpr size_t kHinted = 8;            // tokens of a page that tell it from others that were evicted

uint64_t mix(uint64_t hash, std::span<const int32_t> tokens) {  // FNV-1a by whole tokens, with a finish
  for (const int32_t id : tokens) hash = (hash ^ static_cast<uint32_t>(id)) * 1099511628211ull;
  return hash ^ hash >> 29;
}

uint64_t hint(uint64_t path, std::span<const int32_t> tokens) {
  return mix(~path, tokens.first(std::min(tokens.size(), kHinted)));
}

int64_t common_tokens(std::span<const int32_t> a, std::span<const int32_t> b) {
  return std::mismatch(a.begin(), a.end(), b.begin(), b.end()).first - a.begin();
}

bool whole(std::span<const int32_t> tokens) { return std::ssize(tokens) == kPageTokens; }

}  // namespace

PrefixCache::Step PrefixCache::best_child(const Node& node, std::span<const int32_t> rest) {
  Step best;
  for (const std::unique_ptr<Node>& child : node.children) {
    const int64_t common = common_tokens(child->tokens, rest);
    if (common > best.common) best = {child.get(), common};
  }
  return best;
}

int64_t PrefixCache::known(const Node& root, std::span<const int32_t> ids) {
  int64_t tokens = 0;
  for (const Node* at = &root;;) {
    const Step step = best_child(*at, ids.subspan(static_cast<size_t>(tokens)));
    tokens += step.common;
    if (step.common < kPageTokens) return tokens;
    at = step.child;
  }
}

int64_t PrefixCache::known(const std::string& space, std::span<const int32_t> ids) const {
  const auto found = roots_.find(space);
  return found == roots_.end() ? 0 : known(*found->second, ids);
}

PrefixMatch PrefixCache::find(const std::string& space, std::span<const int32_t> ids, int64_t most) {
  PrefixMatch match;
  const std::span<const int32_t> wanted = ids.first(static_cast<size_t>(most));
  const auto found = roots_.find(space);
  if (found == roots_.end()) {
    const Node empty;
    if (most > 0) match.miss = reason(space, empty, 0, ids, 0);
    return match;
  }
  Node* at = found->second.get();
  int64_t in_last = 0;
  while (match.tokens < most) {
    const Step step = best_child(*at, wanted.subspan(static_cast<size_t>(match.tokens)));
    if (step.common == 0) break;
    at = step.child, in_last = step.common;
    touch(*at);
    match.pages.push_back(at->page);
    match.tokens += step.common;
    if (step.common < kPageTokens) break;
  }
  if (match.tokens < most) match.miss = reason(space, *at, in_last, ids, match.tokens);
  return match;
}

CacheMiss PrefixCache::reason(const std::string& space, const Node& last, int64_t in_last,
                              std::span<const int32_t> ids, int64_t tokens) const {
  size_t searched = 0;
  for (const auto& [name, root] : roots_) {
    if (name != space && known(*root, ids) > tokens) return CacheMiss::kOtherSpace;
    if (++searched == kSpacesSearched) break;
  }
  const uint64_t path = last.tokens.empty() ? mix(std::hash<std::string>()(space), {}) : last.path;
  const std::span<const int32_t> rest = ids.subspan(static_cast<size_t>(tokens));
  if (in_last == std::ssize(last.tokens) && was_evicted_.contains(hint(path, rest)))
    return CacheMiss::kEvicted;
  if (tokens == 0) return CacheMiss::kUnknown;
  const bool used_up = in_last == std::ssize(last.tokens) && last.children.empty();
  return used_up ? CacheMiss::kEnds : CacheMiss::kDiffers;
}

PrefixCache::Node& PrefixCache::root(const std::string& space) {
  std::unique_ptr<Node>& node = roots_[space];
  if (!node) {
    node = std::make_unique<Node>();
    node->path = mix(std::hash<std::string>()(space), {});
    if (store_) node->key = prefix_root(space);
  }
  return *node;
}

PrefixCache::Node& PrefixCache::add(Node& parent, std::span<const int32_t> tokens, int32_t page) {
  leaves_.erase(parent.used);
  Node& node = *parent.children.emplace_back(std::make_unique<Node>());
  node.parent = &parent;
  node.tokens.assign(tokens.begin(), tokens.end());
  node.path = mix(parent.path, tokens);
  if (store_) node.key = prefix_child(parent.key, tokens);
  node.page = page;
  cache_.hold(page);
  ++nodes_;
  node.used = ++clock_;
  leaves_[node.used] = &node;
  return node;
}

void PrefixCache::keep(const std::string& space, std::span<const int32_t> ids,
                       std::span<const int32_t> pages) {
  if (ids.empty()) return;
  Node* at = &root(space);
  for (size_t i = 0; i < pages.size() && !ids.empty(); ++i) {
    const std::span<const int32_t> tokens = ids.first(std::min(ids.size(), static_cast<size_t>(kPageTokens)));
    const Step step = best_child(*at, tokens);
    const bool all_known = step.common == std::ssize(tokens);
    if (!all_known && step.child && step.common == std::ssize(step.child->tokens)) {
      // The end of a timeline that has grown since.
      Node& longer = *step.child;
      cache_.hold(pages[i]);
      cache_.drop(longer.page);
      longer.page = pages[i];
      longer.tokens.assign(tokens.begin(), tokens.end());
      longer.path = mix(at->path, tokens);
      if (store_) longer.key = prefix_child(at->key, tokens);
    }
    at = all_known || (step.child && step.child->page == pages[i]) ? step.child : &add(*at, tokens, pages[i]);
    touch(*at);
    ids = ids.subspan(tokens.size());
    if (!whole(tokens)) break;
  }
}

void PrefixCache::touch(Node& node) {
  const bool leaf = leaves_.erase(node.used) > 0;
  node.used = ++clock_;
  if (leaf) leaves_[node.used] = &node;
}

// The end of a timeline that is no whole page is computed again sooner than it is read. A device that has
// failed gives nothing, and says so to whoever steps next.
void PrefixCache::store(const Node& leaf, bool wait) {
  if (!store_ || !whole(leaf.tokens) || store_->has(leaf.key)) return;
  std::vector<char> page(static_cast<size_t>(cache_.page_bytes()));
  if (cache_.read_page(leaf.page, page).ok())
    store_->put(leaf.parent->key, leaf.tokens, std::move(page), wait);
}

void PrefixCache::forget(Node& leaf, bool wait) {
  store(leaf, wait);
  Node& parent = *leaf.parent;
  const uint64_t mark = hint(parent.path, leaf.tokens);
  evicted_.push_back(mark);
  was_evicted_.insert(mark);
  if (evicted_.size() > kEvictedKept) {
    was_evicted_.erase(was_evicted_.find(evicted_.front()));
    evicted_.pop_front();
  }
  leaves_.erase(leaf.used);
  cache_.drop(leaf.page);
  --nodes_;
  std::erase_if(parent.children, [&](const auto& child) { return child.get() == &leaf; });
  if (!parent.children.empty()) return;
  if (parent.parent) {
    leaves_[parent.used] = &parent;
  } else {
    std::erase_if(roots_, [&](const auto& entry) { return entry.second.get() == &parent; });
  }
}

void PrefixCache::make_room(int64_t pages) {
  while (cache_.free_pages() < pages && !leaves_.empty()) {
    const auto alone = std::ranges::find_if(
        leaves_, [&](const auto& entry) { return cache_.users(entry.second->page) == 1; });
    forget(*(alone != leaves_.end() ? alone : leaves_.begin())->second, false);
  }
}

void PrefixCache::clear() {
  while (!leaves_.empty()) forget(*leaves_.begin()->second, true);
}

}  // namespace moebius
