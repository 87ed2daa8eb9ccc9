// Prefixes on disk: files that hold what they should or are not used, their bound, and the scheduler's
// answers with them.
#include "engine/prefix_store.h"

#include <sys/stat.h>

#include <cstring>
#include <filesystem>

#include "engine/kv_cache.h"
#include "engine/replay.h"
#include "models/file_io.h"
#include "tests/scheduler_runs.h"
#include "tests/test_server.h"
#include "tests/tools_process.h"

namespace moebius {
namespace {

namespace fs = std::filesystem;
using Ids = std::vector<int32_t>;

Ids counted(int64_t n, int32_t first = 0) {
  Ids ids(static_cast<size_t>(n));
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int32_t>((first + 7 * i) % 120);
  return ids;
}

constexpr size_t kPage = 1000;  // bytes
constexpr int64_t kMiB = 1 << 20;

std::vector<char> page_of(char fill) { return std::vector<char>(kPage, fill); }

class Store : public testing::Test {
 protected:
  std::string folder() const { return scratch.file("store"); }
  std::unique_ptr<PrefixStore> open(int64_t bytes = kMiB) const {
    auto store = PrefixStore::open(folder(), bytes);
    MOEBIUS_CHECK(store.ok(), store.status().message());
    return std::move(*store);
  }
  // A chain of pages 'a', 'b', ... behind a namespace, written and closed.
  void write_chain(const std::string& space, int pages) const {
    const auto store = open();
    PrefixKey key = prefix_root(space);
    for (int i = 0; i < pages; ++i) {
      store->put(key, counted(kPageTokens, i), page_of(static_cast<char>('a' + i)), true);
      key = prefix_child(key, counted(kPageTokens, i));
    }
  }
  static int known(PrefixStore& store, const std::string& space) {
    PrefixKey key = prefix_root(space);
    for (int i = 0;; ++i) {
      std::vector<char> page(kPage);
      if (!store.get(key, counted(kPageTokens, i), page)) return i;
      EXPECT_EQ(page, page_of(static_cast<char>('a' + i)));
      key = prefix_child(key, counted(kPageTokens, i));
    }
  }
  std::vector<fs::path> files() const {
    std::vector<fs::path> all;
    for (const auto& file : fs::directory_iterator(folder())) all.push_back(file.path());
    return all;
  }
  const process::Scratch scratch;
};

TEST_F(Store, GivesBackWhatWasPutAlsoAfterARestart) {
  write_chain("s", 5);
  const auto store = open();
  EXPECT_EQ(store->stats().pages, 5);
  EXPECT_EQ(known(*store, "s"), 5);
  EXPECT_EQ(known(*store, "t"), 0);
  struct stat info {};
  ASSERT_EQ(stat(files().front().c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0077, 0u);  // nobody else reads what was said
  ASSERT_EQ(stat(folder().c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0077, 0u);
}

TEST_F(Store, UsesNoFileThatIsNotWhatWasWritten) {
  std::mt19937 random(3);
  for (int time = 0; time < 60; ++time) {
    fs::remove_all(folder());
    write_chain("s", 1);
    const fs::path file = files().front();
    std::string bytes = *read_text_file(file, 1 << 20);
    const size_t at = random() % bytes.size();
    if (time % 3 == 0) bytes[at] = static_cast<char>(bytes[at] ^ (1 << random() % 8));
    if (time % 3 == 1) bytes.resize(at);
    if (time % 3 == 2) bytes.insert(at, "x");
    ASSERT_TRUE(write_text_file(file, bytes).ok());
    const auto store = open();
    EXPECT_EQ(known(*store, "s"), 0);
    EXPECT_EQ(store->stats().broken, 1);
    EXPECT_EQ(store->stats().pages, 0);
    EXPECT_FALSE(fs::exists(file));
  }
}

TEST_F(Store, UsesNoFileUnderAnothersName) {
  write_chain("s", 2);
  const auto all = files();
  fs::rename(all[0], scratch.file("aside"));
  fs::rename(all[1], all[0]);
  fs::rename(scratch.file("aside"), all[1]);
  EXPECT_EQ(known(*open(), "s"), 0);
}

TEST_F(Store, LeavesForeignFilesAloneAndRemovesHalfWrittenOnes) {
  write_chain("s", 1);
  ASSERT_TRUE(write_text_file(folder() + "/notes.txt", "mine").ok());
  ASSERT_TRUE(write_text_file(folder() + "/short.page", "mine").ok());
  ASSERT_TRUE(write_text_file(files().front().string() + ".tmp", "half").ok());
  const auto store = open(1);  // no room for anything
  EXPECT_EQ(store->stats().pages, 0);
  EXPECT_TRUE(fs::exists(folder() + "/notes.txt"));
  EXPECT_TRUE(fs::exists(folder() + "/short.page"));
  EXPECT_EQ(files().size(), 2u);
}

TEST_F(Store, ForgetsTheLeastRecentlyUsedBeyondItsBound) {
  int64_t each = 0;
  {
    const auto store = open();
    store->put(prefix_root("0"), counted(kPageTokens), page_of('a'), true);
  }
  each = open()->stats().bytes;
  {
    const auto store = open(3 * each);
    for (const char* space : {"1", "2"})
      store->put(prefix_root(space), counted(kPageTokens), page_of('a'), true);
    while (store->stats().pages < 3) std::this_thread::yield();
    EXPECT_EQ(known(*store, "0"), 1);  // which is used by that
    store->put(prefix_root("3"), counted(kPageTokens), page_of('a'), true);
    while (!store->has(prefix_child(prefix_root("3"), counted(kPageTokens)))) std::this_thread::yield();
    EXPECT_EQ(store->stats().bytes, 3 * each);
    EXPECT_EQ(known(*store, "1"), 0);
    for (const char* space : {"0", "2", "3"}) EXPECT_EQ(known(*store, space), 1) << space;
  }
  const auto smaller = open(2 * each);
  EXPECT_EQ(smaller->stats().pages, 2);
  EXPECT_EQ(files().size(), 2u);
}

TEST_F(Store, SaysWhichFolderCannotBeUsed) {
  ASSERT_TRUE(write_text_file(scratch.file("file"), "").ok());
  const auto store = PrefixStore::open(scratch.file("file") + "/below", kMiB);
  ASSERT_FALSE(store.ok());
  EXPECT_NE(store.status().message().find(scratch.file("file")), std::string::npos);
}

EngineOptions small_cache(const std::string& model, bool device) {
  EngineOptions options = options_for("");
  options.model = with_tokenizer(model);
  options.context = 384, options.sessions = 2, options.prefill_chunk = 64, options.cache_tokens = 512;
  if (!device) return options;
  options.speeds = speeds(100, 1);
  options.device = DeviceKind::kSim, options.device_memory = budget(options, 0.4);
  return options;
}

class Conversations : public Store, public testing::WithParamInterface<bool> {
 protected:
  Heard said(Scheduler& scheduler, Generation generation) const {
    Listener listener = ask(scheduler, std::move(generation));
    run_all(scheduler, {&listener});
    EXPECT_TRUE(listener.status().ok()) << listener.status().message();
    return listener.answer();
  }
};
INSTANTIATE_TEST_SUITE_P(OnHostAndDevice, Conversations, testing::Bool(),
                         [](const auto& at) { return at.param ? "device" : "host"; });

TEST_P(Conversations, ThatGaveWayToOthersComeBackFromDiskBitForBit) {
  const auto engine = moebius::open(small_cache("deepseek_v3_int4", GetParam()));
  const Generation first = greedy(counted(300), 10), second = greedy(counted(300, 3), 10);
  const Heard alone_first = alone(*engine, first);
  Scheduler scheduler(*engine, {}, open());
  EXPECT_EQ(said(scheduler, first).ids, alone_first.ids);
  said(scheduler, second);
  EXPECT_EQ(scheduler.stats().disk_tokens, 0);
  const Heard again = said(scheduler, first);
  EXPECT_EQ(again.ids, alone_first.ids);
  EXPECT_EQ(again.logprobs, alone_first.logprobs);
  EXPECT_EQ(again.stats.reused_tokens, 4 * kPageTokens);  // the whole pages before the last token
  EXPECT_GT(scheduler.stats().disk_tokens, 0);
  EXPECT_EQ(said(scheduler, greedy(counted(300), 10, "salt")).stats.reused_tokens, 0);
}

TEST_P(Conversations, AreReadInPartsWhileOthersDecode) {
  const auto engine = moebius::open(small_cache("deepseek_v3_int4", GetParam()));
  const Heard expected = alone(*engine, greedy(counted(300), 2));
  SchedulerOptions options;
  options.read_bytes = 1;  // a page a step
  {
    Scheduler scheduler(*engine, options, open());
    said(scheduler, greedy(counted(300), 2));
  }
  Scheduler scheduler(*engine, options, open());
  Listener answer = ask(scheduler, greedy({5, 6, 7}, 30));
  while (answer.answer().ids.empty()) scheduler.step(), answer.hear();
  Listener read = ask(scheduler, greedy(counted(300), 2));
  int64_t steps = 0;
  for (size_t had = answer.answer().ids.size(); !read.over() && steps < 20; ++steps) {
    scheduler.step();
    answer.hear(), read.hear();
    EXPECT_EQ(answer.answer().ids.size(), ++had);  // a token in every step
  }
  EXPECT_GE(steps, 4);
  EXPECT_EQ(scheduler.stats().disk_tokens, 4 * kPageTokens);
  EXPECT_EQ(read.answer().ids, expected.ids);
}

TEST_P(Conversations, GoOnAfterARestart) {
  const std::string text =
      "word and word and word and word and word again, word by word, until it is long enough. ";
  Ids asked, answered;
  std::string conversation;
  for (int run = 0; run < 2; ++run) {
    const auto engine = moebius::open(small_cache("deepseek_v3_tiny", GetParam()));
    Scheduler scheduler(*engine, {}, open());
    if (run == 0) {
      asked = *scheduler.encode(text + text, "");
      asked.resize(std::min<size_t>(asked.size(), 150));
      Generation generation = greedy(asked, 60);
      generation.options.sampling.temperature = 1, generation.options.sampling.seed = 5;
      answered = said(scheduler, generation).ids;
      Ids all = asked;
      all.insert(all.end(), answered.begin(), answered.end());
      conversation = *engine->tokenizer().decode(all);
      continue;
    }
    // The tokens that were drawn, not those that the tokenizer would choose.
    Ids next = *scheduler.encode(conversation, "");
    Ids all = asked;
    all.insert(all.end(), answered.begin(), answered.end());
    EXPECT_EQ(next, all);
    const Heard more = said(scheduler, greedy(next, 5));
    EXPECT_EQ(more.stats.reused_tokens, (std::ssize(next) - 1) / kPageTokens * kPageTokens);
    EXPECT_GE(more.stats.reused_tokens, kPageTokens);
  }
}

TEST_F(Store, ServesPromptsOfBeforeAfterARestartAndCountsThem) {
  ServerOptions options;
  options.prefix_dir = folder();
  const Json request = {{"prompt", counted(200)}, {"max_tokens", 4}, {"temperature", 0}};
  Json first;
  {
    const TestServer server(options);
    first = server.ask("/v1/completions", request);
    EXPECT_EQ(server.client().Get("/metrics")->body.find("moebius_prefix_disk"), std::string::npos);
  }
  const TestServer server(options);
  const Json again = server.ask("/v1/completions", request);
  EXPECT_EQ(again["choices"], first["choices"]);
  EXPECT_EQ(again["usage"]["prompt_tokens_details"]["cached_tokens"], 3 * kPageTokens);
  const std::string metrics = server.client().Get("/metrics")->body;
  EXPECT_NE(metrics.find("moebius_prefix_disk_tokens_total 192"), std::string::npos) << metrics;
  EXPECT_NE(metrics.find("moebius_prefix_disk_pages_total{what=\"read\"} 3"), std::string::npos);
}

TEST(Replay, TakesNothingThatIsCutShort) {
  const auto engine = moebius::open(options_for("deepseek_v3_tiny"));
  Replay replay(engine->tokenizer(), kMiB);
  replay.remember("s", Ids{10, 20, 30});
  const std::string saved = replay.save();
  for (size_t n = 1; n < saved.size(); ++n) {
    Replay other(engine->tokenizer(), kMiB);
    EXPECT_FALSE(other.restore(std::string_view(saved).substr(0, n)).ok()) << n;
    EXPECT_EQ(other.save(), "");
  }
  Replay other(engine->tokenizer(), kMiB);
  EXPECT_TRUE(other.restore(saved).ok());
  EXPECT_EQ(other.save(), saved);
}

}  // namespace
}  // namespace moebius
