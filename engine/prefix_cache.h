// PrefixCache: what was computed for earlier requests, kept for those that begin alike: a tree over token
// ids, a page of the KvCache in each node. It lives in the cache's own memory: it holds pages that nobody
// else needs, and gives them up, the least recently used ends of timelines first, when room is asked for.
//
// A namespace keeps apart what must not be shared: another model, adapter or salt. Tokens are compared, not
// hashes of them. Pages are shared as they are; where only a part of the last one matches, whoever goes on
// writes into a copy (KvCache::reserve).
//
// Whole pages that are given up go to a PrefixStore, if there is one.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "engine/cache_miss.h"
#include "engine/kv_cache.h"
#include "engine/prefix_store.h"

namespace moebius {

struct PrefixMatch {
  std::vector<int32_t> pages;  // of positions [0, tokens), still held by the tree only
  int64_t tokens = 0;
  CacheMiss miss = CacheMiss::kNone;  // why it is not more
};

class PrefixCache {
 public:
  // Which outlive it; store: null for none.
  explicit PrefixCache(KvCache& cache, PrefixStore* store = nullptr) : cache_(cache), store_(store) {}
  ~PrefixCache() { clear(); }
  PrefixCache(const PrefixCache&) = delete;
  PrefixCache& operator=(const PrefixCache&) = delete;

  // The longest prefix of ids that is known, but at most `most` tokens.
  PrefixMatch find(const std::string& space, std::span<const int32_t> ids, int64_t most);
  // How long that is; what is asked is not used by that.
  int64_t known(const std::string& space, std::span<const int32_t> ids) const;
  // Keeps the pages of positions [0, ids.size()), as far as the tree has no others for the same tokens.
  void keep(const std::string& space, std::span<const int32_t> ids, std::span<const int32_t> pages);
  // Gives pages up until so many are free in the cache, or none is left.
  void make_room(int64_t pages);
  void clear();                             // all of them; what is kept on disk is waited for
  int64_t nodes() const { return nodes_; }  // of which each holds a page

 private:
  struct Node {
    Node* parent = nullptr;
    std::vector<int32_t> tokens;  // kPageTokens, fewer at the end of a timeline
    int32_t page = -1;
    uint64_t path = 0;  // hash of all tokens from the root to here, and of the namespace
    PrefixKey key{};    // the same for the store, where there is one
    uint64_t used = 0;  // when; no two alike
    std::vector<std::unique_ptr<Node>> children;
  };
  struct Step {
    Node* child = nullptr;
    int64_t common = 0;
  };
  static Step best_child(const Node& node, std::span<const int32_t> rest);
  static int64_t known(const Node& root, std::span<const int32_t> ids);
  CacheMiss reason(const std::string& space, const Node& last, int64_t in_last, std::span<const int32_t> ids,
                   int64_t tokens) const;
  Node& root(const std::string& space);
  Node& add(Node& parent, std::span<const int32_t> tokens, int32_t page);
  void touch(Node& node);
  void forget(Node& leaf, bool wait);
  void store(const Node& leaf, bool wait);

  KvCache& cache_;
  PrefixStore* const store_;
  std::unordered_map<std::string, std::unique_ptr<Node>> roots_;
  std::map<uint64_t, Node*> leaves_;  // by their time of use
  int64_t nodes_ = 0;
  uint64_t clock_ = 0;
  std::deque<uint64_t> evicted_;  // hashes of what was given up lately: for reasons only
  std::unordered_multiset<uint64_t> was_evicted_;
};

}  // namespace moebius
