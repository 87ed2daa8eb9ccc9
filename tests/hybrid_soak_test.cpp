// Cases drawn at random: a model, a budget between nothing and everything, a number of sequences, a link,
// delays, overlap, and a conversation; the simulated device must give what the host alone gives. Case i is
// drawn from seed i, so a failure is repeated by its name: --gtest_filter='*/HybridSoak.*/17'. `make test`
// runs all, and the first 20 under the thread sanitizer, too; `make soak` runs all under it.
#include <gtest/gtest.h>

#include <cmath>

#include "tests/device_models.h"

namespace moebius {
namespace {

constexpr int kCases = 200;
constexpr int64_t kContext = 64;

class Draw {
 public:
  explicit Draw(int seed) : random_(static_cast<uint32_t>(seed) * 2654435761u + 1) {}
  int64_t below(int64_t n) { return static_cast<int64_t>(random_() % static_cast<uint32_t>(n)); }
  bool one_in(int64_t n) { return below(n) == 0; }
  template <class T>
  T of(std::initializer_list<T> values) {
    return values.begin()[below(std::ssize(values))];
  }

 private:
  std::mt19937 random_;
};

struct Case {
  EngineOptions host, device;
  bool integer = false;
};

Case draw_case(Draw& draw) {
  const std::vector<std::string> models = golden_models();
  const std::string model = models[static_cast<size_t>(draw.below(std::ssize(models)))];
  Case c;
  c.integer = model.find("int") != std::string::npos;
  c.host = options_for(model);
  c.host.sessions = 1 + draw.below(8);
  c.host.prefill_chunk = draw.of<int64_t>({5, 16, 20, 64});
  c.device = c.host;
  c.device.device = DeviceKind::kSim;
  const int64_t least = least_budget(c.device), more = budget(c.device, 1) - least;
  c.device.device_memory = least + more * draw.below(9) / 8;
  c.device.overlap = !draw.one_in(5);
  c.device.sim_seed = static_cast<uint64_t>(draw.below(4));
  c.device.link_GBs = draw.of<double>({0, 0.5});
  // Splitting a batch pays; streaming a prompt's experts pays; neither; or as measured.
  c.device.speeds = draw.of<MachineSpeeds>(
      {{1e6, 1, 1, 1e6, 1, 1, 0}, speeds(10, 0.001), speeds(1e-6, 1000), MachineSpeeds()});
  return c;
}

// A conversation of several sequences: prompts, then rounds in which some get a token together, and now and
// then one starts again from a prefix.
class Conversation {
 public:
  Conversation(Draw& draw, const Case& c)
      : draw_(draw), integer_(c.integer), host_(open(c.host)), device_(open(c.device)) {
    for (int64_t s = 0; s < c.host.sessions; ++s) {
      here_.push_back(std::move(*host_->new_session()));
      there_.push_back(std::move(*device_->new_session()));
    }
  }

  void run() {
    for (size_t s = 0; s < here_.size(); ++s) prompt(s);
    for (int round = 0; round < 5 && !testing::Test::HasFailure(); ++round) {
      if (draw_.one_in(4)) prompt(static_cast<size_t>(draw_.below(std::ssize(here_))));
      decode_some();
    }
  }

 private:
  void prompt(size_t s) {
    std::vector<int32_t> ids(here_[s]->tokens().begin(), here_[s]->tokens().end());
    ids.resize(static_cast<size_t>(draw_.below(std::ssize(ids) + 1)));
    const int64_t more = 1 + draw_.below(kContext - 8 - std::min<int64_t>(kContext - 9, std::ssize(ids)));
    for (int64_t i = 0; i < more; ++i) ids.push_back(static_cast<int32_t>(draw_.below(vocab())));
    ASSERT_TRUE(here_[s]->sync(ids).ok());
    const Status status = there_[s]->sync(ids);
    ASSERT_TRUE(status.ok()) << status.message();
    compare(s);
  }

  // The host's choice goes on in both.
  void decode_some() {
    std::vector<Session*> here, there;
    std::vector<size_t> which;
    std::vector<int32_t> ids;
    for (size_t s = 0; s < here_.size(); ++s) {
      if (draw_.one_in(4) || std::ssize(here_[s]->tokens()) >= kContext) continue;
      which.push_back(s), ids.push_back(best(here_[s]->logits()));
      here.push_back(here_[s].get()), there.push_back(there_[s].get());
    }
    if (which.empty()) return;
    ASSERT_TRUE(host_->append(here, ids).ok());
    const Status status = device_->append(there, ids);
    ASSERT_TRUE(status.ok()) << status.message();
    for (const size_t s : which) compare(s);
  }

  // Integer formats: the same bits. Float formats: sums may be taken in another order, within 1e-4 of the
  // largest logit, and then the same token wherever the best two are more than twice that apart (design rule
  // 6).
  void compare(size_t s) {
    const std::span<const float> want = here_[s]->logits(), got = there_[s]->logits();
    ASSERT_EQ(want.size(), got.size());
    float largest = 0, error = 0;
    for (size_t i = 0; i < want.size(); ++i) {
      largest = std::max(largest, std::fabs(want[i]));
      error = std::max(error, std::fabs(want[i] - got[i]));
    }
    const float bound = integer_ ? 0 : 1e-4f * largest;
    ASSERT_LE(error, bound) << "sequence " << s << " at " << here_[s]->tokens().size() << " tokens, "
                            << device_->describe();
    const int32_t id = best(want);
    for (size_t i = 0; i < want.size(); ++i)
      if (static_cast<int32_t>(i) != id && want[static_cast<size_t>(id)] - want[i] <= 2 * bound) return;
    ASSERT_EQ(best(got), id);
  }

  int64_t vocab() const { return host_->config().vocab; }
  static int32_t best(std::span<const float> logits) {
    return static_cast<int32_t>(std::ranges::max_element(logits) - logits.begin());
  }

  Draw& draw_;
  const bool integer_;
  std::unique_ptr<Engine> host_, device_;  // outlive their sessions
  std::vector<std::unique_ptr<Session>> here_, there_;
};

class HybridSoak : public testing::TestWithParam<int> {};

TEST_P(HybridSoak, AnswersAsTheHostDoes) {
  Draw draw(GetParam());
  const Case drawn = draw_case(draw);
  SCOPED_TRACE(drawn.host.model);
  Conversation(draw, drawn).run();
}

INSTANTIATE_TEST_SUITE_P(Cases, HybridSoak, testing::Range(0, kCases));

}  // namespace
}  // namespace moebius
