// Pages that several timelines have, and the tree that keeps them.
#include "engine/prefix_cache.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <random>

#include "engine/session.h"
#include "tests/device_models.h"

namespace moebius {
namespace {

using Ids = std::vector<int32_t>;

Ids numbers(int64_t n, int32_t first = 0) {
  Ids ids(static_cast<size_t>(n));
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = first + static_cast<int32_t>(i);
  return ids;
}

Ids joined(Ids a, const Ids& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

class Pages : public testing::Test {
 protected:
  Pages() : backend_(make_host_backend({.threads = 1})) {
    auto files = ModelFiles::open("tests/golden/models/qwen3_moe");
    MOEBIUS_CHECK(files.ok());
    files_ = std::move(*files);
    auto cache = KvCache::create(files_->config(), DType::kF32, 16 * kPageTokens, *backend_);
    MOEBIUS_CHECK(cache.ok());
    cache_.emplace(std::move(*cache));
  }
  // Pages with these tokens' own numbers in them, as if a model had computed them.
  PageTable computed(const Ids& ids) {
    PageTable table;
    MOEBIUS_CHECK(cache_->reserve(table, 0, std::ssize(ids)).ok());
    for (size_t i = 0; i < ids.size(); ++i) write(table, static_cast<int64_t>(i), ids[i]);
    return table;
  }
  void write(PageTable& table, int64_t position, int32_t id) {
    for (int64_t l = 0; l < files_->config().layers; ++l)
      std::memcpy(cache_->view(table, l).row(position), &id, sizeof(id));
  }
  int32_t read(const PageTable& table, int64_t position, int64_t layer) {
    int32_t id = 0;
    std::memcpy(&id, cache_->view(table, layer).row(position), sizeof(id));
    return id;
  }
  void expect_holds(const PageTable& table, const Ids& ids) {
    for (size_t i = 0; i < ids.size(); ++i)
      for (int64_t l = 0; l < files_->config().layers; ++l)
        ASSERT_EQ(read(table, static_cast<int64_t>(i), l), ids[i]) << i;
  }

  std::unique_ptr<ModelFiles> files_;
  std::unique_ptr<Backend> backend_;
  std::optional<KvCache> cache_;
};

TEST_F(Pages, AreCopiedBeforeTheyAreWritten) {
  const Ids first = numbers(100);
  PageTable one = computed(first), two;
  cache_->share(one.pages, two);
  EXPECT_EQ(two.pages, one.pages);
  EXPECT_EQ(cache_->free_pages(), 14);
  // The second timeline turns off after 70 tokens; it needs a page of its own from there.
  EXPECT_EQ(cache_->pages_to_reserve(two, 70, 130), 2);
  ASSERT_TRUE(cache_->reserve(two, 70, 130).ok());
  EXPECT_EQ(two.pages[0], one.pages[0]);
  EXPECT_NE(two.pages[1], one.pages[1]);
  const Ids other = joined(numbers(70), numbers(60, 500));
  for (int64_t i = 70; i < 130; ++i) write(two, i, other[static_cast<size_t>(i)]);
  expect_holds(one, first);
  expect_holds(two, other);
  // The first is the only user of its second page now.
  EXPECT_EQ(cache_->pages_to_reserve(one, 100, 101), 0);
  cache_->release(one);
  expect_holds(two, other);
  EXPECT_EQ(cache_->free_pages(), 13);
  cache_->release(two);
  EXPECT_EQ(cache_->free_pages(), 16);
}

TEST_F(Pages, AreRefusedWithNothingChanged) {
  PageTable one = computed(numbers(15 * kPageTokens)), two;
  cache_->share(std::span(one.pages).first(1), two);
  const PageTable before = two;
  EXPECT_EQ(cache_->reserve(two, 10, 65).code(), Code::kNoMemory);  // a copy and another
  EXPECT_EQ(two.pages, before.pages);
  ASSERT_TRUE(cache_->reserve(two, 10, 20).ok());
}

// A session on the simulated device, whose pages another one has too.
TEST(SharedPages, AreCopiedOnADevice) {
  EngineOptions options = options_for("deepseek_v3_int8");
  options.device = DeviceKind::kSim, options.sessions = 3, options.context = 200, options.sim_seed = 3;
  const auto engine = open(options);
  const auto one = std::move(*engine->new_session()), two = std::move(*engine->new_session()),
             alone = std::move(*engine->new_session());
  const Ids ids = numbers(90);
  ASSERT_TRUE(one->sync(ids).ok());
  Session::Impl& from = one->impl();
  Session::Impl& to = two->impl();
  from.parts.cache.share(from.pages.pages, to.pages);
  to.tokens = from.tokens, to.logits = from.logits;
  ASSERT_TRUE(alone->sync(ids).ok());
  for (int32_t id = 0; id < 50; ++id) {
    ASSERT_TRUE(one->append(id).ok());
    ASSERT_TRUE(two->append(100 - id).ok());
    ASSERT_TRUE(alone->append(id).ok());
    ASSERT_TRUE(std::ranges::equal(one->logits(), alone->logits())) << id;
  }
  ASSERT_TRUE(alone->sync(ids).ok());
  for (int32_t id = 0; id < 50; ++id) ASSERT_TRUE(alone->append(100 - id).ok());
  EXPECT_TRUE(std::ranges::equal(two->logits(), alone->logits()));
}

class Tree : public Pages {
 protected:
  // As an answer that ends: its pages are kept, and its own table is gone.
  void keep(const std::string& space, const Ids& ids) {
    PageTable table = computed(ids);
    tree_.keep(space, ids, table.pages);
    cache_->release(table);
  }
  PrefixMatch find(const std::string& space, const Ids& ids) {
    const PrefixMatch match = tree_.find(space, ids, std::ssize(ids) - 1);
    PageTable table{match.pages};
    expect_holds(table, Ids(ids.begin(), ids.begin() + match.tokens));
    return match;
  }
  PrefixCache tree_{*cache_};
};

TEST_F(Tree, FindsTheLongestPrefixAndSaysWhyNotMore) {
  EXPECT_EQ(find("a", numbers(10)).miss, CacheMiss::kUnknown);
  keep("a", numbers(150));
  EXPECT_EQ(tree_.nodes(), 3);
  EXPECT_EQ(cache_->free_pages(), 13);

  PrefixMatch match = find("a", numbers(200));
  EXPECT_EQ(match.tokens, 150);
  EXPECT_EQ(match.pages.size(), 3u);
  EXPECT_EQ(match.miss, CacheMiss::kEnds);
  match = find("a", numbers(150));
  EXPECT_EQ(match.tokens, 149);
  EXPECT_EQ(match.miss, CacheMiss::kNone);
  match = find("a", joined(numbers(140), numbers(30, 900)));
  EXPECT_EQ(match.tokens, 140);
  EXPECT_EQ(match.miss, CacheMiss::kDiffers);
  match = find("a", joined(numbers(128), numbers(30, 900)));
  EXPECT_EQ(match.tokens, 128);
  EXPECT_EQ(match.miss, CacheMiss::kDiffers);
  match = find("b", numbers(200));
  EXPECT_EQ(match.tokens, 0);
  EXPECT_EQ(match.miss, CacheMiss::kOtherSpace);
  EXPECT_EQ(find("a", numbers(200, 5)).miss, CacheMiss::kUnknown);
  EXPECT_EQ(tree_.known("a", numbers(200)), 150);
  EXPECT_EQ(tree_.known("b", numbers(200)), 0);
}

TEST_F(Tree, KeepsATokenOnce) {
  keep("a", numbers(150));
  keep("a", numbers(150));
  keep("a", numbers(130));
  EXPECT_EQ(tree_.nodes(), 3);
  keep("a", numbers(160));  // the last page has grown
  EXPECT_EQ(tree_.nodes(), 3);
  EXPECT_EQ(find("a", numbers(170)).tokens, 160);
  keep("a", joined(numbers(130), numbers(20, 900)));  // another end beside it
  EXPECT_EQ(tree_.nodes(), 4);
  EXPECT_EQ(find("a", numbers(170)).tokens, 160);
  EXPECT_EQ(find("a", joined(numbers(130), numbers(40, 900))).tokens, 150);
  EXPECT_EQ(cache_->free_pages(), 12);
  tree_.clear();
  EXPECT_EQ(cache_->free_pages(), 16);
}

TEST_F(Tree, GivesUpTheEndsThatWereUnusedForLongest) {
  keep("a", numbers(256));
  keep("a", joined(numbers(128), numbers(64, 900)));
  keep("b", numbers(64, 2000));
  EXPECT_EQ(tree_.nodes(), 6);
  find("a", numbers(200));  // uses the first three and a part of the fourth page
  tree_.make_room(cache_->free_pages() + 1);
  EXPECT_EQ(tree_.known("a", joined(numbers(128), numbers(64, 900))), 128);
  tree_.make_room(cache_->free_pages() + 1);
  EXPECT_EQ(tree_.known("b", numbers(64, 2000)), 0);
  EXPECT_EQ(find("b", numbers(64, 2000)).miss, CacheMiss::kEvicted);
  EXPECT_EQ(find("a", joined(numbers(128), numbers(64, 900))).miss, CacheMiss::kEvicted);
  EXPECT_EQ(tree_.known("a", numbers(256)), 256);
  tree_.make_room(16);
  EXPECT_EQ(tree_.nodes(), 0);
  EXPECT_EQ(cache_->free_pages(), 16);
}

TEST_F(Tree, DoesNotTakeAwayWhatOthersUse) {
  keep("a", numbers(128));
  PageTable table;
  cache_->share(find("a", numbers(128)).pages, table);
  tree_.make_room(16);
  EXPECT_EQ(cache_->free_pages(), 14);
  expect_holds(table, numbers(127));
  cache_->release(table);
  EXPECT_EQ(cache_->free_pages(), 16);
}

// Against a list of what was kept, searched from one end to the other, with random timelines of few different
// tokens, so that they turn off each other anywhere.
TEST_F(Tree, FindsWhatASearchFinds) {
  std::mt19937 random(3);
  const auto draw = [&](uint32_t n) { return static_cast<int64_t>(random() % n); };
  for (int round = 0; round < 30; ++round) {
    std::vector<Ids> kept;
    for (int i = 0; i < 60; ++i) {
      Ids ids = kept.empty() || draw(4) == 0
                    ? Ids()
                    : kept[static_cast<size_t>(draw(static_cast<uint32_t>(kept.size())))];
      ids.resize(static_cast<size_t>(draw(static_cast<uint32_t>(ids.size()) + 1)));
      for (int64_t n = 1 + draw(90); n > 0; --n) ids.push_back(static_cast<int32_t>(draw(2)));
      if (std::ssize(ids) > 3 * kPageTokens) ids.resize(3 * kPageTokens);
      int64_t want = 0;
      for (const Ids& k : kept)
        want = std::max<int64_t>(want,
                                 std::mismatch(k.begin(), k.end(), ids.begin(), ids.end()).first - k.begin());
      want = std::min(want, std::ssize(ids) - 1);
      ASSERT_EQ(find("a", ids).tokens, want);
      if (cache_->free_pages() < 4) break;
      keep("a", ids);
      kept.push_back(ids);
    }
    EXPECT_EQ(cache_->free_pages() + tree_.nodes(), 16);
    tree_.clear();
    EXPECT_EQ(cache_->free_pages(), 16);
  }
}

}  // namespace
}  // namespace moebius
