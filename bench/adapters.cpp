// What LoRA adapters cost in a decode step of eight sequences: one for all of them, or another for each two,
// on attention and shared experts or on all matrices, beside none. Steps in turn, medians.
//
//   bench_adapters [model folder] [rank] [steps]     rows: model,adapters,on,ms,times
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <filesystem>

#include <fmt/format.h>

#include "engine/engine.h"
#include "models/peft.h"
#include "models/peft_matrices.h"

namespace moebius {
namespace {

constexpr size_t kBatch = 8, kDifferent = 4;

void require(const Status& status) { MOEBIUS_CHECK(status.ok(), status.message()); }

// Factors of small numbers, a folder of them.
void write_random(const std::string& dir, const ModelConfig& config, int64_t rank, bool everything) {
  std::vector<AdapterFactors> factors;
  const ModelMatrices matrices(config);
  uint32_t state = 1;
  const auto small = [&] { return static_cast<float>((state = state * 1664525 + 1013904223) >> 8) * 1e-12f; };
  for (const ModelMatrix& m : matrices.all()) {
    const bool attention = m.role == Role::kAttention && !m.name.ends_with("kv_b_proj");
    if (!attention && m.role != Role::kShared && !(everything && m.role == Role::kExpert)) continue;
    AdapterFactors f{m.name, std::min({rank, m.rows, m.cols}), m.cols, m.rows, {}, {}, 1};
    f.a.resize(static_cast<size_t>(f.rank * f.in)), f.b.resize(static_cast<size_t>(f.out * f.rank));
    std::ranges::generate(f.a, small), std::ranges::generate(f.b, small);
    factors.push_back(std::move(f));
  }
  require(write_adapter(dir, config, factors, {AdapterLayout::kPerExpert, "", "", "", ""}));
}

struct Case {
  const char *adapters, *on;
  std::vector<std::unique_ptr<Session>> owned;
  std::vector<Session*> sessions;
  std::vector<double> ms;
};

Case make_case(Engine& engine, const char* adapters, const char* on, const std::string& dir,
               size_t different) {
  Case c{adapters, on, {}, {}, {}};
  std::vector<std::shared_ptr<BatchAdapter>> opened(std::max<size_t>(1, different));
  for (size_t i = 0; i < different; ++i) {
    auto adapter = engine.open_adapter(dir);
    require(adapter.status());
    opened[i] = *adapter;
  }
  for (size_t s = 0; s < kBatch; ++s) {
    auto session = engine.new_session(opened[s % opened.size()]);
    require(session.status());
    std::vector<int32_t> prompt(32);
    for (size_t i = 0; i < prompt.size(); ++i) prompt[i] = static_cast<int32_t>(i * 31 + s) % 97;
    require((*session)->sync(prompt));
    c.sessions.push_back(session->get());
    c.owned.push_back(std::move(*session));
  }
  return c;
}

void run(const std::string& model, int64_t rank, int64_t steps) {
  EngineOptions options;
  options.model = model, options.context = 256, options.sessions = kBatch;
  options.cache_tokens = 8 * kBatch * 128;
  auto opened = Engine::open(options);
  require(opened.status());
  Engine& engine = **opened;
  const std::string dir = std::filesystem::temp_directory_path() / fmt::format("bench_adapters_{}", getpid());
  write_random(dir + "/few", engine.config(), rank, false);
  write_random(dir + "/all", engine.config(), rank, true);
  std::vector<Case> cases;
  cases.push_back(make_case(engine, "none", "", "", 0));
  cases.push_back(make_case(engine, "one", "attention and shared", dir + "/few", 1));
  cases.push_back(make_case(engine, "four", "attention and shared", dir + "/few", kDifferent));
  cases.push_back(make_case(engine, "one", "all", dir + "/all", 1));
  cases.push_back(make_case(engine, "four", "all", dir + "/all", kDifferent));
  std::filesystem::remove_all(dir);
  for (int64_t step = 0; step < steps; ++step) {
    for (Case& c : cases) {
      std::vector<int32_t> ids(kBatch);
      for (size_t s = 0; s < kBatch; ++s)
        ids[s] = static_cast<int32_t>(step * 13 + static_cast<int64_t>(s) * 7) % 97;
      const auto start = std::chrono::steady_clock::now();
      require(engine.append(c.sessions, ids));
      c.ms.push_back(
          std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count());
    }
  }
  for (Case& c : cases) std::ranges::sort(c.ms);
  const auto median = [](const Case& c) { return c.ms[c.ms.size() / 2]; };
  for (const Case& c : cases)
    fmt::print("{},{},{},{:.2f},{:.2f}\n", std::filesystem::path(engine.options().model).filename().string(),
               c.adapters, c.on, median(c), median(c) / median(cases.front()));
}

}  // namespace
}  // namespace moebius

int main(int argc, char** argv) {
  moebius::run(argc > 1 ? argv[1] : "", argc > 2 ? std::stoll(argv[2]) : 8,
               argc > 3 ? std::stoll(argv[3]) : 30);
}
