// Cases drawn at random: a model, a device with some or all of its experts, sizes of caches and parts,
// requests with common prefixes, adapters, several answers, priorities and cancels at any step, embeddings
// between them, and a disk for what gave way. Every answer must be what it is alone, every page that two have
// must stay as it is, and every page must come free again. Case i is drawn from seed i, so a failure is
// repeated by its name: --gtest_filter='*/SchedulerSoak.*/17'.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "engine/session.h"
#include "tests/adapter_cases.h"
#include "tests/scheduler_runs.h"
#include "tests/tools_process.h"

namespace moebius {
namespace {

constexpr int kCases = 40;
constexpr int64_t kContext = 224;

class Soak {
 public:
  explicit Soak(int seed) : random_(static_cast<uint32_t>(seed) * 2654435761u + 1) {
    const std::vector<std::string> models = golden_models();
    const std::string model = models[static_cast<size_t>(below(std::ssize(models)))];
    // Attention in floats keeps the others from being equal to the bit.
    integer_ = model.find("int8") != std::string::npos || model == "qwen3_moe_int4" ||
               model == "glm4_moe_lite_int4_g64";
    latent_ = model.find("qwen3") == std::string::npos && model.find("glm4_moe_") != 0 && model != "glm4_moe";
    latent_ |= model.find("lite") != std::string::npos;
    EngineOptions options;
    options.model = with_tokenizer(model);
    options.context = kContext, options.threads = 2, options.cache = CacheType::kF32;
    single_ = open(options);
    options.prefill_chunk = of<int64_t>({40, 64, 200});
    options.sessions = 1 + below(5);
    options.cache_tokens = of<int64_t>({256, 448, 1024});
    options.adapter_memory = 2 << 20;
    if (one_in(2)) {
      options.device = DeviceKind::kSim, options.overlap = !one_in(4);
      const int64_t least = least_budget(options), more = budget(options, 1) - least;
      options.device_memory = least + more * below(9) / 8;
      options.sim_seed = one_in(6) ? 1 : 0;
      options.speeds = of<MachineSpeeds>({{1e6, 1, 1, 1e6, 1, 1, 0}, speeds(10, 0.001), speeds(1e-6, 1000)});
    }
    engine_ = open(options);
    session_ = std::move(*engine_->new_session());
    cache_ = &session_->impl().parts.cache;
    SchedulerOptions scheduling;
    scheduling.busy_chunk = of<int64_t>({36, 50, 64});
    scheduling.read_bytes = of<int64_t>({1, 1 << 20});
    std::unique_ptr<PrefixStore> store;
    if (one_in(2))
      store = std::move(*PrefixStore::open(scratch_.file("store"), of<int64_t>({1 << 20, 1 << 30})));
    scheduler_ = std::make_unique<Scheduler>(*engine_, scheduling, std::move(store));
    for (uint32_t i = 0; i < 2; ++i) make_adapter(scratch_.file(i == 0 ? "one" : "two"), i);
    for (int i = 0; i < 3; ++i) stems_.push_back(random_ids(random_, 130, vocab()));
    SCOPED_TRACE(engine_->describe());
  }

  void run() {
    for (int round = 0; round < 25; ++round) {
      if (one_in(2)) submit();
      if (one_in(8) && !heard_.empty()) heard_[static_cast<size_t>(below(std::ssize(heard_)))].cancel();
      step();
    }
    while (!step() && !testing::Test::HasFatalFailure()) {
    }
    for (size_t i = 0; i < heard_.size() && !testing::Test::HasFailure(); ++i) check(i);
    // Float formats: sums taken in another order are within 1e-4 of the largest logit, unless a router stands
    // between two experts that are as good: then an answer goes on with the other.
    EXPECT_LE(strayed_, 1 + std::ssize(heard_) / 10);
    const SchedulerStats stats = scheduler_->stats();
    EXPECT_EQ(stats.pages_free + stats.pages_cached, stats.pages);
    EXPECT_EQ(stats.running + stats.waiting, 0);
    scheduler_.reset();
    EXPECT_EQ(cache_->free_pages(), cache_->pages());
  }

 private:
  int64_t below(int64_t n) { return static_cast<int64_t>(random_() % static_cast<uint32_t>(n)); }
  bool one_in(int64_t n) { return below(n) == 0; }
  template <class T>
  T of(std::initializer_list<T> values) {
    return values.begin()[below(std::ssize(values))];
  }
  // Not of kv_b, whose merged copy is a float matrix: its products depend on where a prompt is cut.
  void make_adapter(const std::string& dir, uint32_t seed) {
    const auto wanted = [](const ModelMatrix& m) { return !m.name.ends_with("kv_b_proj"); };
    const auto factors = adapters::random_factors(single_->config(), wanted, 0.2f, seed);
    ASSERT_TRUE(
        write_adapter(dir, single_->config(), factors, {AdapterLayout::kPerExpert, "", "", "", ""}).ok());
    auto here = engine_->open_adapter(dir), alone = single_->open_adapter(dir);
    ASSERT_TRUE(here.ok() && alone.ok()) << here.status().message();
    adapters_[*here] = *alone;
  }
  std::shared_ptr<BatchAdapter> some_adapter() {
    const int64_t i = below(2 + std::ssize(adapters_));
    return i < std::ssize(adapters_) ? std::next(adapters_.begin(), i)->first : nullptr;
  }

  int64_t vocab() const { return single_->config().vocab; }

  // A beginning that others have too, or an earlier conversation gone on with, and something new.
  void submit() {
    std::vector<int32_t> prompt = stems_[static_cast<size_t>(below(std::ssize(stems_)))];
    if (!asked_.empty() && one_in(3)) {
      const size_t i = static_cast<size_t>(below(std::ssize(asked_)));
      prompt = asked_[i].prompts[0];
      const std::vector<int32_t>& answer = heard_[i].answer().ids;
      prompt.insert(prompt.end(), answer.begin(), answer.end());
    } else {
      prompt.resize(static_cast<size_t>(below(130)));
    }
    for (const int32_t id : random_ids(random_, 1 + below(40), vocab())) prompt.push_back(id);
    if (std::ssize(prompt) > kContext - 8) prompt.resize(static_cast<size_t>(kContext - 8));
    Generation g = greedy(prompt, one_in(6) ? -1 : 1 + below(24));
    if (one_in(4)) g.n = 2 + static_cast<int>(below(3));
    g.priority = static_cast<int>(below(3)) - 1;
    // MLA attends what it decoded in another form than what it is given: equal to the bit without sharing.
    g.adapter = some_adapter();
    g.embed = one_in(8);
    if (g.embed) g.n = 1;
    if (integer_ && latent_) g.cache_salt = std::to_string(asked_.size());
    const auto ticket = scheduler_->submit(g);
    if (!ticket.ok()) {
      ASSERT_EQ(ticket.status().code(), Code::kInvalid);
      ASSERT_NE(ticket.status().message().find("--cache-tokens"), std::string::npos);
      return;
    }
    asked_.push_back(std::move(g));
    heard_.emplace_back(*ticket);
  }

  // Every page that two answers have is the same afterwards, byte by byte. The third is the tree of prefixes:
  // where it gives a page up for want of room, a single answer has it for itself, and may write.
  bool step() {
    std::vector<std::pair<int32_t, std::string>> shared;
    for (int32_t page = 0; page < cache_->pages() && engine_->options().device == DeviceKind::kHost; ++page)
      if (cache_->users(page) > 2) shared.emplace_back(page, bytes_of(page));
    const bool idle = scheduler_->step().idle;
    for (Listener& l : heard_) l.hear();
    for (const auto& [page, before] : shared)
      EXPECT_TRUE(cache_->users(page) < 3 || bytes_of(page) == before) << "page " << page << " was written";
    return idle;
  }

  std::string bytes_of(int32_t page) const {
    std::string all;
    const PageTable table{{page}};
    for (int64_t l = 0; l < engine_->config().layers; ++l)
      all.append(static_cast<const char*>(cache_->view(table, l).row(0)),
                 static_cast<size_t>(kPageTokens * cache_->row_bytes()));
    return all;
  }

  void check(size_t i) {
    ASSERT_TRUE(heard_[i].over());
    if (!heard_[i].status().ok()) {
      ASSERT_EQ(heard_[i].status().code(), Code::kCancelled) << heard_[i].status().message();
      return;
    }
    if (asked_[i].embed) return check_embedding(i);
    for (int c = 0; c < asked_[i].n; ++c) {
      // A new one each time: going back to the prompt on the same one would attend its last token otherwise.
      auto session = single_->new_session(adapters_[asked_[i].adapter]);
      const Heard& got = heard_[i].answer(c);
      ASSERT_TRUE(got.done);
      const int64_t room = kContext - std::ssize(asked_[i].prompts[0]), most = asked_[i].options.max_tokens;
      ASSERT_EQ(std::ssize(got.ids), most < 0 ? room : std::min(room, most));
      ASSERT_TRUE((*session)->sync(asked_[i].prompts[0]).ok());
      for (size_t t = 0; t < got.ids.size(); ++t) {
        ASSERT_TRUE(t == 0 || (*session)->append(got.ids[t - 1]).ok());
        const double apart = difference((*session)->logits(), got.ids[t], got.logprobs[t]);
        ASSERT_LE(apart, integer_ ? 0 : 1) << "request " << i << " answer " << c << " token " << t;
        if (apart <= 2e-4) continue;
        ++strayed_;
        break;
      }
    }
  }

  void check_embedding(size_t i) {
    Generation same = asked_[i];
    same.adapter = adapters_[same.adapter];
    Scheduler alone(*single_, {});
    Listener listener(*alone.submit(std::move(same)));
    run_all(alone, {&listener});
    const std::vector<float>&got = heard_[i].answer().embedding, &want = listener.answer().embedding;
    ASSERT_EQ(std::ssize(want), single_->config().hidden);
    const double apart = adapters::relative_error(got, want);
    EXPECT_LE(apart, integer_ ? 0 : 1) << "request " << i;
    strayed_ += apart > 2e-4;
  }

  // As a share of the largest logit: of the token that was chosen from the best one, and of its probability.
  static double difference(std::span<const float> logits, int32_t id, float logprob) {
    float largest = 0;
    for (const float x : logits) largest = std::max(largest, std::fabs(x));
    const float worse = *std::ranges::max_element(logits) - logits[static_cast<size_t>(id)];
    return std::max(worse, std::fabs(log_probability(logits, id).logprob - logprob)) / largest;
  }

  const process::Scratch scratch_;
  std::mt19937 random_;
  bool integer_ = false, latent_ = false;
  std::unique_ptr<Engine> single_, engine_;
  std::map<std::shared_ptr<BatchAdapter>, std::shared_ptr<BatchAdapter>> adapters_;  // of engine_: of single_
  std::unique_ptr<Session> session_;                                                 // for its cache
  KvCache* cache_ = nullptr;
  std::unique_ptr<Scheduler> scheduler_;
  std::vector<std::vector<int32_t>> stems_;
  std::vector<Generation> asked_;
  std::vector<Listener> heard_;
  int64_t strayed_ = 0;
};

class SchedulerSoak : public testing::TestWithParam<int> {};

TEST_P(SchedulerSoak, AnswersAsAlone) { Soak(GetParam()).run(); }

INSTANTIATE_TEST_SUITE_P(Cases, SchedulerSoak, testing::Range(0, kCases));

}  // namespace
}  // namespace moebius
