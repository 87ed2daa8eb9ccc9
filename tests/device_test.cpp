// The simulated device: its memory and streams, and whole models on it, which must give the host's bits at
// any budget, delay and link, with the host computing its experts meanwhile or one after the other.
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <map>
#include <random>
#include <set>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "engine/device_weights.h"
#include "engine/engine.h"
#include "engine/expert_store.h"
#include "engine/self_check.h"
#include "kernels/forwarding_backend.h"
#include "kernels/gpu.h"
#include "kernels/sim/arena.h"
#include "tests/adapter_cases.h"
#include "tests/device_models.h"

namespace moebius {
namespace {

std::unique_ptr<Backend> sim(int64_t bytes, uint64_t seed = 0, double link_GBs = 0) {
  auto backend =
      make_sim_backend({.memory_bytes = bytes, .link_GBs = link_GBs, .seed = seed, .host = {.threads = 1}});
  MOEBIUS_CHECK(backend.ok(), backend.status().message());
  return std::move(*backend);
}

TEST(SimArena, HandsOutGapsAndJoinsThemAgain) {
  auto arena = SimArena::create(1 << 16);
  ASSERT_TRUE(arena.ok());
  std::mt19937 random(1);
  std::vector<std::pair<char*, int64_t>> pieces;
  for (int i = 0; i < 2000; ++i) {
    if (random() % 2 == 0) {
      const int64_t size = 1 + static_cast<int64_t>(random() % 3000);
      const Result<void*> at = (*arena)->take(size);
      if (!at.ok()) continue;
      char* alias = static_cast<char*>((*arena)->alias(*at));
      for (int64_t b = 0; b < size; ++b) ASSERT_EQ(alias[b], 0);
      std::fill_n(alias, size, 7);
      for (const auto& [other, length] : pieces)
        ASSERT_TRUE(static_cast<char*>(*at) + size <= other || other + length <= static_cast<char*>(*at));
      pieces.emplace_back(static_cast<char*>(*at), size);
    } else if (!pieces.empty()) {
      std::swap(pieces[random() % pieces.size()], pieces.back());
      (*arena)->give_back(pieces.back().first);
      pieces.pop_back();
    }
  }
  for (const auto& [at, size] : pieces) (*arena)->give_back(at);
  EXPECT_TRUE((*arena)->take(1 << 16).ok());  // whole again
  const Result<void*> more = (*arena)->take(1);
  ASSERT_FALSE(more.ok());
  EXPECT_EQ(more.status().code(), Code::kNoMemory);
  EXPECT_NE(more.status().message().find("--gpu-memory"), std::string::npos);
}

TEST(SimBackendDeathTest, TheHostCannotTouchItsMemory) {
  const auto backend = sim(1 << 20);
  const Result<Buffer> memory = backend->alloc(64);
  ASSERT_TRUE(memory.ok());
  EXPECT_DEATH(memory->as<volatile char>()[0] = 1, "");
}

TEST(SimBackendDeathTest, HostMemoryIsNoArgument) {
  const auto backend = sim(1 << 20);
  std::vector<float> x(4);
  const Tensor t = f32_tensor(x.data(), {2, 2});
  EXPECT_DEATH(backend->swiglu({t, t, t}), "swiglu: an argument is not in the device's memory");
}

TEST(SimBackend, StreamsKeepTheirOrderAndWaitForEachOther) {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    const auto backend = sim(1 << 20, seed);
    const Result<Buffer> memory = backend->alloc(4), out = backend->alloc_pinned(4);
    const Tensor there(memory->data(), DType::kI32, {1}, Space::kDevice);
    const Tensor here(out->data(), DType::kI32, {1}, Space::kPinned);
    std::vector<int32_t> values(50);
    for (int32_t i = 0; i < 50; ++i) {
      values[static_cast<size_t>(i)] = i + 1;
      backend->wait(Stream::kLoad, backend->record(Stream::kCompute));
      backend->copy_bytes(Stream::kLoad, &values[static_cast<size_t>(i)], memory->data(), 4);
      backend->wait(Stream::kCompute, backend->record(Stream::kLoad));
    }
    backend->copy(there, here);
    ASSERT_TRUE(backend->sync().ok());
    EXPECT_EQ(*out->as<int32_t>(), 50);
  }
}

TEST(SimBackend, FlagsGoThroughBothSides) {
  const auto backend = sim(1 << 20, 3);
  Flag asked{0}, answered{0};
  std::thread other([&] {
    for (uint64_t i = 1; i <= 100; ++i) {
      backend->wait_on_host(asked, i);
      answered.store(i);
      answered.notify_all();
    }
  });
  for (uint64_t i = 1; i <= 100; ++i) backend->raise(asked, i), backend->await(answered, i);
  EXPECT_TRUE(backend->sync().ok());
  EXPECT_EQ(answered, 100u);
  other.join();
}

TEST(SimBackend, ALinkTakesItsTime) {
  const auto backend = sim(1 << 24, 0, 0.1);  // 10 ns a byte
  const Result<Buffer> memory = backend->alloc(1 << 20), out = backend->alloc_pinned(1 << 20);
  const auto start = std::chrono::steady_clock::now();
  backend->copy_bytes(Stream::kLoad, out->data(), memory->data(), 1 << 20);
  ASSERT_TRUE(backend->sync().ok());
  EXPECT_GE(std::chrono::steady_clock::now() - start, std::chrono::microseconds(10485));
}

// ---- whole models ----

// What a prompt of several chunks and some decoded tokens give: all logits, in order.
std::vector<float> logits_of(Engine& engine) {
  std::mt19937 random(7);
  std::vector<int32_t> ids(45);
  for (int32_t& id : ids) id = static_cast<int32_t>(random() % static_cast<uint32_t>(engine.config().vocab));
  std::vector<float> all;
  auto session = engine.new_session();
  MOEBIUS_CHECK(session.ok(), session.status().message());
  const Status status = (*session)->sync_all(ids, [&](int64_t, std::span<const float> rows) {
    all.insert(all.end(), rows.begin(), rows.end());
    return Status();
  });
  MOEBIUS_CHECK(status.ok(), status.message());
  for (int i = 0; i < 4; ++i) {
    const std::span<const float> row = (*session)->logits();
    const auto best = std::max_element(row.begin(), row.end()) - row.begin();
    const Status appended = (*session)->append(static_cast<int32_t>(best));
    MOEBIUS_CHECK(appended.ok(), appended.message());
    all.insert(all.end(), (*session)->logits().begin(), (*session)->logits().end());
  }
  return all;
}

class OnDevice : public testing::TestWithParam<std::string> {};

TEST_P(OnDevice, GivesTheHostsBitsAtAnyBudget) {
  const std::string& model = GetParam();
  const std::vector<float> want = logits_of(*open(options_for(model)));
  EngineOptions options = options_for(model);
  options.device = DeviceKind::kSim;
  EXPECT_EQ(logits_of(*open(options)), want) << "everything on the device";
  const int64_t least = least_budget(options), without = budget(options, 0);
  options.speeds = speeds(1, 1);  // by which the device is better for experts
  uint64_t seed = 0;
  int shared = 0;  // budgets at which both sides have experts
  for (const int64_t bytes : {least, (least + without) / 2, budget(options, 0.4), budget(options, 0.8)}) {
    options.device_memory = bytes;
    options.sim_seed = ++seed;
    options.overlap = seed % 3 != 0;
    const auto engine = open(options);
    EXPECT_EQ(logits_of(*engine), want) << bytes << " bytes, seed " << seed;
    const std::string text = engine->describe();
    shared += text.find("the others on the host") != std::string::npos &&
              text.find(" with 0 of ") == std::string::npos;
  }
  EXPECT_EQ(shared, 2);
}

std::string name_of(const testing::TestParamInfo<std::string>& model) { return model.param; }
INSTANTIATE_TEST_SUITE_P(Models, OnDevice, testing::ValuesIn(golden_models()), name_of);

// ---- long prompts ----

int64_t streamed_bytes(const Engine& engine) {
  int64_t bytes = 0;
  for (const LayerUse& layer : engine.expert_use()) bytes += layer.streamed_bytes;
  return bytes;
}

// Integer formats give the same bits however tokens come together; of float formats only sums are in another
// order, as an expert has more tokens at a time.
TEST_P(OnDevice, StreamsAPrompt) {
  const std::string& model = GetParam();
  EngineOptions options = options_for(model);
  options.prefill_chunk = 4;
  const std::vector<float> want = prompt_logits(*open(options));
  const bool exact = model.find("int") != std::string::npos;
  options.device = DeviceKind::kSim;
  options.device_memory = budget(options, 0);
  uint64_t seed = 0;
  std::vector<int64_t> streamed;
  for (const MachineSpeeds& machine : {speeds(1000, 0.001), speeds(1, 1), speeds(0.001, 1000)}) {
    options.speeds = machine;
    options.sim_seed = ++seed;
    options.overlap = seed % 2 != 0;
    const auto engine = open(options);
    const std::vector<float> got = prompt_logits(*engine);
    streamed.push_back(streamed_bytes(*engine));
    ASSERT_EQ(got.size(), want.size());
    float largest = 0, error = 0;
    for (size_t i = 0; i < got.size(); ++i)
      largest = std::max(largest, std::fabs(want[i])), error = std::max(error, std::fabs(got[i] - want[i]));
    EXPECT_LE(error, exact ? 0 : 1e-4f * largest) << "seed " << seed;
  }
  EXPECT_GT(streamed[0], 0);
  EXPECT_LT(streamed[2], streamed[0]);  // a few, of which what the CPU sends back would be more than they are
}

// Prompts of one pass: what was brought ahead, before the router had spoken, is not brought again.
TEST(OnDeviceAlone, AnExpertCrossesTheLinkOnceAPass) {
  EngineOptions options = options_for("deepseek_v3_int4");
  options.prefill_chunk = 4, options.device = DeviceKind::kSim, options.device_memory = budget(options, 0);
  options.speeds = speeds(1000, 0.001);  // by which the CPU is of no use
  const auto engine = open(options);
  std::vector<int32_t> ids(60);
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int32_t>(i * 7 % 120);
  const auto files = ModelFiles::open(options.model);
  ASSERT_TRUE(files.ok());
  const std::vector<LayerWeights>& layers = (*files)->weights().layers;
  std::vector<LayerUse> before(layers.size());
  for (int prompt = 0; prompt < 2; ++prompt) {  // the second goes by the heat of the first
    auto session = engine->new_session();
    ASSERT_TRUE((*session)->sync(ids).ok());
    const std::vector<LayerUse> after = engine->expert_use();
    for (const ExpertLayer& map : engine->expert_map()) {
      const size_t l = static_cast<size_t>(map.layer);
      int64_t used = 0;
      for (size_t e = 0; e < map.chosen.size(); ++e)
        used += map.chosen[e] > 0 ? expert_bytes(layers[l].experts[e]) : 0;
      const int64_t streamed = after[l].streamed_bytes - before[l].streamed_bytes;
      EXPECT_GE(streamed, used) << "layer " << l;
      int64_t all = 0;
      for (const ExpertWeights& e : layers[l].experts) all += expert_bytes(e);
      EXPECT_LE(streamed, all) << "layer " << l;
      EXPECT_EQ(after[l].streamed_slots, after[l].device_slots);
      EXPECT_EQ(after[l].hit_rate(), 0) << "an expert that was brought is no hit";
      EXPECT_GT(after[l].device_s, before[l].device_s);
      EXPECT_GT(after[l].link_s, before[l].link_s);
    }
    before = after;
  }
}

// The ring brings adapters along.
TEST(OnDeviceAlone, StreamsExpertsWithAdapters) {
  EngineOptions options = options_for("deepseek_v3_tiny");
  options.adapter = "tests/golden/adapters/deepseek_v3_all";
  options.prefill_chunk = 4;
  const std::vector<float> want = prompt_logits(*open(options));
  options.device = DeviceKind::kSim, options.device_memory = budget(options, 0);
  options.speeds = speeds(1000, 0.001);
  const auto engine = open(options);
  const std::vector<float> got = prompt_logits(*engine);
  EXPECT_GT(streamed_bytes(*engine), 0);
  ASSERT_EQ(got.size(), want.size());
  float largest = 0, error = 0;
  for (size_t i = 0; i < got.size(); ++i)
    largest = std::max(largest, std::fabs(want[i])), error = std::max(error, std::fabs(got[i] - want[i]));
  EXPECT_LE(error, 1e-4f * largest);
}

TEST(OnDeviceAlone, AGpuThatIsNotThereIsRefused) {
  const Result<std::vector<GpuInfo>> gpus = gpu_devices();
  if (gpus.ok() && !gpus->empty()) GTEST_SKIP() << "skipped: this machine has a GPU";
  EngineOptions options = options_for("deepseek_v3_tiny");
  options.device = DeviceKind::kCuda;
  const Status refused = Engine::open(options).status();
  EXPECT_FALSE(refused.ok());
  EXPECT_TRUE(refused.message().find("nvcc") != std::string::npos ||
              refused.message().find("driver") != std::string::npos)
      << refused.message();
  options.device = DeviceKind::kAuto;
  EXPECT_EQ(logits_of(*open(options)), logits_of(*open(options_for("deepseek_v3_tiny"))));
}

TEST(OnDeviceAlone, OneByteLessThanTheLeastIsRefused) {
  EngineOptions options = options_for("deepseek_v3_tiny");
  options.device = DeviceKind::kSim;
  options.device_memory = least_budget(options);
  EXPECT_TRUE(Engine::open(options).ok());
  --options.device_memory;
  const auto refused = Engine::open(options);
  ASSERT_FALSE(refused.ok());
  EXPECT_NE(refused.status().message().find("--gpu-memory"), std::string::npos);
}

TEST(OnDeviceAlone, WhatAGpuTakesForItselfIsCounted) {
  EngineOptions options = options_for("deepseek_v3_tiny");
  const int64_t least = least_budget(options) + kCudaWorkBytes;
  int64_t given = 0;
  const auto make = [&](int64_t bytes) {
    given = bytes;
    SimOptions sim;
    sim.memory_bytes = bytes - kCudaWorkBytes;
    return make_sim_backend(sim);
  };
  options.device = DeviceKind::kCuda, options.device_memory = least;
  EXPECT_TRUE(Engine::open(options, make).ok());
  EXPECT_EQ(given, least);
  --options.device_memory;
  const auto refused = Engine::open(options, make);
  ASSERT_FALSE(refused.ok());
  EXPECT_NE(refused.status().message().find(std::to_string(least)), std::string::npos);
}

class CountingBackend final : public ForwardingBackend {
 public:
  CountingBackend(std::unique_ptr<Backend> to, int64_t& allocations)
      : ForwardingBackend(std::move(to)), allocations_(allocations) {}
  Result<Buffer> alloc(size_t bytes) override {
    ++allocations_;
    return ForwardingBackend::alloc(bytes);
  }
  Result<Buffer> alloc_pinned(size_t bytes) override {
    ++allocations_;
    return ForwardingBackend::alloc_pinned(bytes);
  }

 private:
  int64_t& allocations_;
};

TEST(OnDeviceAlone, NothingIsAllocatedOnceTheEngineIsOpen) {
  EngineOptions options = options_for("deepseek_v3_int4");
  options.prefill_chunk = 8, options.sessions = 2;
  options.device = DeviceKind::kSim, options.device_memory = budget(options, 0.5);
  options.speeds = speeds(1000, 0.001);
  int64_t allocations = 0;
  const auto make = [&](int64_t bytes) -> Result<std::unique_ptr<Backend>> {
    SimOptions memory;
    memory.memory_bytes = bytes;
    MOEBIUS_ASSIGN(std::unique_ptr<Backend> sim, make_sim_backend(memory));
    return std::unique_ptr<Backend>(std::make_unique<CountingBackend>(std::move(sim), allocations));
  };
  auto engine = Engine::open(options, make);
  ASSERT_TRUE(engine.ok()) << engine.status().message();
  EXPECT_GT(allocations, 0);
  allocations = 0;
  EXPECT_FALSE(prompt_logits(**engine).empty());
  EXPECT_GT(streamed_bytes(**engine), 0);
  auto one = (*engine)->new_session(), two = (*engine)->new_session();
  const std::vector<int32_t> ids(64, 3);  // the whole context
  ASSERT_TRUE((*one)->sync(ids).ok() && (*two)->sync(std::span(ids).first(63)).ok());
  ASSERT_TRUE((*two)->append(5).ok());
  EXPECT_EQ(allocations, 0);
}

TEST(OnDeviceAlone, ACancelledPromptKeepsWhatWasComputed) {
  EngineOptions options = options_for("deepseek_v3_int4");
  options.device = DeviceKind::kSim;
  options.speeds = speeds(1000, 0.001), options.prefill_chunk = 10, options.sessions = 2;
  options.device_memory = budget(options, 0);
  const auto engine = open(options);
  auto session = engine->new_session(), other = engine->new_session();
  std::vector<int32_t> ids(50, 3);
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int32_t>(i * 7 % 120);
  for (int steps = 1; steps < 6; ++steps) {
    ASSERT_TRUE((*session)->sync(std::span(ids).first(6)).ok());
    int left = steps;
    const Status status = (*session)->sync(ids, [&](int64_t done, int64_t total) {
      EXPECT_GE(done, 6);
      EXPECT_LT(done, total);
      return --left > 0;
    });
    ASSERT_EQ(status.code(), Code::kCancelled);
    const std::span<const int32_t> kept = (*session)->tokens();
    EXPECT_GE(kept.size(), 6u);
    EXPECT_TRUE(std::equal(kept.begin(), kept.end(), ids.begin()));
  }
  ASSERT_TRUE((*session)->sync(ids).ok());
  ASSERT_TRUE((*other)->sync(ids).ok());
  EXPECT_EQ(std::vector<float>((*session)->logits().begin(), (*session)->logits().end()),
            std::vector<float>((*other)->logits().begin(), (*other)->logits().end()));
}

// A prompt of three tokens and 120 decoded ones: all logits, in order.
std::vector<float> decoded(Engine& engine) {
  std::vector<float> all;
  auto session = engine.new_session();
  MOEBIUS_CHECK((*session)->sync(std::vector<int32_t>{3, 1, 4}).ok());
  for (int i = 0; i < 120; ++i) {
    const std::span<const float> row = (*session)->logits();
    all.insert(all.end(), row.begin(), row.end());
    const auto best = std::max_element(row.begin(), row.end()) - row.begin();
    MOEBIUS_CHECK((*session)->append(static_cast<int32_t>(best)).ok());
  }
  return all;
}

// Greedy decoding wears the same experts: they come to the device, and no bit changes.
TEST(OnDeviceAlone, ExpertsMoveToWhereTheyAreUsed) {
  const std::string model = "qwen3_moe_int4";
  EngineOptions options = options_for(model);
  options.context = 128;
  const std::vector<float> want = decoded(*open(options));
  options.device = DeviceKind::kSim;
  for (uint64_t seed = 1; seed <= 3; ++seed) {
    options.device_memory = budget(options, 0.5), options.speeds = speeds(1, 1);
    options.sim_seed = seed;
    const auto engine = open(options);
    EXPECT_EQ(decoded(*engine), want);
    int64_t moves = 0, device = 0, host = 0;
    for (const LayerUse& layer : engine->expert_use()) {
      moves += layer.moves, device += layer.device_slots, host += layer.host_slots;
      EXPECT_EQ(layer.moved_bytes > 0, layer.moves > 0);
    }
    EXPECT_GT(moves, 0);
    EXPECT_GT(device, 0);
    EXPECT_GT(host, 0);
  }
}

// What was used comes to the device at the next start, and no bit changes.
TEST(OnDeviceAlone, ExpertsInUseAreKnownAtTheNextStart) {
  const std::string model = "deepseek_v3_int8", dir = testing::TempDir() + "heat_of_experts";
  std::filesystem::remove_all(dir);
  EngineOptions options = options_for(model);
  options.device = DeviceKind::kSim, options.heat_dir = dir;
  options.device_memory = budget(options, 0.5), options.speeds = speeds(1, 1);
  const auto hits = [&](std::string* note = nullptr) {
    const auto engine = open(options);
    EXPECT_EQ(logits_of(*engine), logits_of(*open(options_for(model))));
    if (note) *note = fmt::format("{}", fmt::join(engine->notes(), "\n"));
    double device = 0, all = 0;
    for (const LayerUse& layer : engine->expert_use()) {
      device += static_cast<double>(layer.device_slots);
      all += static_cast<double>(layer.device_slots + layer.host_slots);
    }
    return device / all;
  };
  const double first = hits(), second = hits();
  EXPECT_GT(second, first);
  ASSERT_EQ(std::distance(std::filesystem::directory_iterator(dir), {}), 1);
  const std::filesystem::path file = std::filesystem::directory_iterator(dir)->path();
  std::string note;
  std::filesystem::resize_file(file, 100);
  EXPECT_EQ(hits(&note), first);
  EXPECT_NE(note.find(file.string()), std::string::npos) << note;
  EXPECT_EQ(hits(&note), second) << "written anew";
  EXPECT_EQ(note.find(file.string()), std::string::npos) << note;
}

// A span of a trace that is not waiting, by its row.
struct Span {
  int row;
  std::string name;
  double begin, end;
};

std::vector<Span> spans_of(const std::string& path) {
  const Result<std::string> text = read_text_file(path, 64 << 20);
  EXPECT_TRUE(text.ok()) << text.status().message();
  std::vector<Span> spans;
  if (!text.ok()) return spans;
  const nlohmann::json trace = nlohmann::json::parse(*text);
  for (const nlohmann::json& event : trace["traceEvents"]) {
    if (event["ph"] != "X" || event["name"].get<std::string>().starts_with("wait")) continue;
    const double begin = event["ts"], duration = event["dur"];
    EXPECT_GE(duration, 0);
    spans.push_back({event["tid"], event["name"], begin, begin + duration});
  }
  return spans;
}

TEST(OnDeviceAlone, ATraceShowsTheOverlap) {
  EngineOptions options = options_for("deepseek_v3_tiny");
  options.trace = testing::TempDir() + "trace.json";
  EXPECT_EQ(Engine::open(options).status().code(), Code::kInvalid) << "there is no device";
  options.device = DeviceKind::kSim;
  options.device_memory = budget(options, 0.5);
  int64_t overlaps = 0;  // which of so short spans meet is chance
  for (options.sim_seed = 1; options.sim_seed < 20 && overlaps == 0; ++options.sim_seed) {
    logits_of(*open(options));
    const std::vector<Span> spans = spans_of(options.trace);
    for (const char* name : {"linear", "router", "expert_ffn", "take_slots", "experts"})
      EXPECT_TRUE(std::ranges::count(spans, name, &Span::name)) << name;
    for (const Span& a : spans)
      for (const Span& b : spans) overlaps += a.row == 0 && b.row == 2 && a.begin < b.end && b.begin < a.end;
  }
  EXPECT_GT(overlaps, 0) << "the CPU's experts beside the device's work";
  options.trace = "/nowhere/trace.json";
  EXPECT_FALSE(Engine::open(options).ok());
}

TEST(OnDeviceAlone, TheLinkBringsExpertsBeforeARouterSpeaks) {
  EngineOptions options = options_for("deepseek_v3_int4");
  options.prefill_chunk = 16, options.device = DeviceKind::kSim, options.device_memory = budget(options, 0);
  options.speeds = speeds(1000, 0.001);  // by which the CPU is of no use
  options.device_GBs = 0.05;             // so that the router comes milliseconds later
  options.trace = testing::TempDir() + "ahead.json";
  {
    const auto engine = open(options);
    auto session = engine->new_session();
    std::vector<int32_t> ids(60);
    for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int32_t>(i * 7 % 120);
    ASSERT_TRUE((*session)->sync(ids).ok());
  }
  const std::vector<Span> spans = spans_of(options.trace);
  const auto first = [&](int row, const char* name) {
    double begin = INFINITY;
    for (const Span& s : spans)
      if (s.row == row && s.name == name) begin = std::min(begin, s.begin);
    return begin;
  };
  EXPECT_LT(first(1, "copy"), first(0, "router"));
  EXPECT_LT(first(0, "router"), INFINITY);
}

// A device that computes something else is found out before the first token.
TEST(SelfCheck, NamesTheOperationThatDiffers) {
  const auto files = ModelFiles::open("tests/golden/models/deepseek_v3_tiny");
  ASSERT_TRUE(files.ok());
  const ModelConfig& config = (*files)->config();
  const Weights& host = (*files)->weights();
  const auto device = sim(16 << 20);
  Weights placed;
  const auto all = [](Role role) { return role != Role::kExpert; };
  const auto there = DeviceWeights::create(config, host, all, *device);
  ASSERT_TRUE(there.ok());
  placed = (*there)->weights();
  const auto store = ExpertStore::create(host, hottest_first(host, no_heat(host), 1 << 20), no_heat(host),
                                         false, placed, *device);
  ASSERT_TRUE(store.ok());
  EXPECT_TRUE(self_check(config, host, placed, *device).ok());
  Weights wrong = placed;
  std::swap(wrong.layers.back().experts[0].gate, wrong.layers.back().experts[0].up);
  const Status expert = self_check(config, host, wrong, *device);
  EXPECT_EQ(expert.code(), Code::kIo);
  EXPECT_NE(expert.message().find("expert_ffn, expert 0 of layer"), std::string::npos) << expert.message();
  EXPECT_NE(expert.message().find("differs by"), std::string::npos) << expert.message();
}

// A device that takes the gate's matrix for up's, and up's for the gate's.
class SwappedGates final : public ForwardingBackend {
 public:
  using ForwardingBackend::ForwardingBackend;
  void expert_ffn(const ExpertFfnArgs& args) override {
    std::vector<ExpertWeights> experts(args.experts, args.experts + args.n_experts);
    for (ExpertWeights& e : experts) std::swap(e.gate, e.up);
    ExpertFfnArgs wrong = args;
    wrong.experts = experts.data();
    ForwardingBackend::expert_ffn(wrong);  // which copies the list
  }
};

// Nor does it matter that no expert is on the device to stay: they are computed there when they are streamed.
TEST(SelfCheck, TriesAnExpertWhereNoneIsResident) {
  EngineOptions options = options_for("deepseek_v3_tiny");
  options.speeds = speeds(100, 1);
  options.device_memory = budget(options, 0);
  options.device = DeviceKind::kSim;
  const ModelPlan plan = *open(options)->plan();
  ASSERT_EQ(plan.experts_resident, 0);
  ASSERT_GT(plan.ring_slots, 0);
  const auto swapped = [](int64_t bytes) -> Result<std::unique_ptr<Backend>> {
    return std::unique_ptr<Backend>(std::make_unique<SwappedGates>(sim(bytes)));
  };
  const auto refused = Engine::open(options, swapped);
  EXPECT_EQ(refused.status().code(), Code::kIo);
  EXPECT_NE(refused.status().message().find("expert_ffn, expert 0 of layer"), std::string::npos)
      << refused.status().message();
}

// With memory for nothing but what is checked anyway, that is checked.
TEST(SelfCheck, MakesDoWithoutRoomForAnExpert) {
  const auto files = ModelFiles::open("tests/golden/models/deepseek_v3_tiny");
  ASSERT_TRUE(files.ok());
  const ModelConfig& config = (*files)->config();
  const Weights& host = (*files)->weights();
  const auto all = [](Role role) { return role != Role::kExpert; };
  const auto device = sim(DeviceWeights::bytes(config, host, all) + (8 << 10));
  const auto there = DeviceWeights::create(config, host, all, *device);
  ASSERT_TRUE(there.ok());
  Weights placed = (*there)->weights();
  for (LayerWeights& layer : placed.layers)
    for (ExpertWeights& e : layer.experts) e = ExpertWeights();
  ASSERT_GT(expert_bytes(host.layers.back().experts.front()), 8 << 10);
  EXPECT_TRUE(self_check(config, host, placed, *device).ok());
  placed.layers[0].q = placed.layers[1].q;
  EXPECT_EQ(self_check(config, host, placed, *device).code(), Code::kIo);
}

// Some experts of every layer have an adapter: wherever they are, and while they change places.
TEST(OnDeviceAlone, ExpertsComeWithTheirAdapters) {
  EngineOptions options = options_for("qwen3_moe_int4");
  options.context = 128, options.adapter = testing::TempDir() + "some_experts";
  {
    const auto files = ModelFiles::open(options.model);
    ASSERT_TRUE(files.ok());
    const auto some = [](const ModelMatrix& m) {
      return m.role == Role::kExpert && m.name.find("experts.1") == std::string::npos;
    };
    const auto factors = adapters::random_factors((*files)->config(), some, 0.2f);
    std::filesystem::remove_all(options.adapter);
    ASSERT_TRUE(write_adapter(options.adapter, (*files)->config(), factors,
                              {AdapterLayout::kPerExpert, "", "", "", ""})
                    .ok());
  }
  const std::vector<float> want = decoded(*open(options));
  options.device = DeviceKind::kSim, options.speeds = speeds(1, 1);
  for (const double share : {0.2, 0.5, 1.0}) {
    options.device_memory = budget(options, share), options.sim_seed = static_cast<uint64_t>(share * 10);
    const auto engine = open(options);
    EXPECT_EQ(decoded(*engine), want) << share;
    int64_t moves = 0, device = 0;
    for (const LayerUse& layer : engine->expert_use()) moves += layer.moves, device += layer.device_slots;
    EXPECT_EQ(moves > 0, share < 1) << share;
    EXPECT_EQ(device > 0, share < 1) << share;
    EXPECT_EQ(engine->plan()->experts_resident == engine->plan()->experts, share == 1);
  }
  const int64_t with = open(options)->plan()->slot_bytes;
  options.adapter.clear();
  EXPECT_GT(with, open(options)->plan()->slot_bytes) << "the plan counts adapters";
  EXPECT_NE(decoded(*open(options)), want);
}

// Adapters of all matrices.
TEST(OnDeviceAlone, AnAdapterGivesTheHostsBits) {
  EngineOptions options = options_for("deepseek_v3_tiny");
  options.adapter = "tests/golden/adapters/deepseek_v3_all";
  const std::vector<float> want = logits_of(*open(options));
  options.device = DeviceKind::kSim;
  const auto engine = open(options);
  EXPECT_EQ(logits_of(*engine), want);
  options.adapter.clear();
  EXPECT_NE(logits_of(*open(options)), want);
}

TEST(OnDeviceAlone, SessionsAreSavedAndRestoredAcrossDevices) {
  EngineOptions options = options_for("deepseek_v3_tiny");
  const std::string path = testing::TempDir() + "device_session.safetensors";
  const std::vector<int32_t> ids = {3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3, 2, 3, 8, 4, 6, 2, 6, 4};
  std::vector<float> want;
  {
    options.device = DeviceKind::kSim;
    const auto engine = open(options);
    auto session = engine->new_session();
    ASSERT_TRUE((*session)->sync(ids).ok());
    ASSERT_TRUE((*session)->save(path).ok());
    ASSERT_TRUE((*session)->append(7).ok());
    want.assign((*session)->logits().begin(), (*session)->logits().end());
  }
  for (const DeviceKind device : {DeviceKind::kHost, DeviceKind::kSim}) {
    options.device = device;
    const auto engine = open(options);
    auto session = engine->new_session();
    const Status restored = (*session)->restore(path);
    ASSERT_TRUE(restored.ok()) << restored.message();
    ASSERT_TRUE((*session)->append(7).ok());
    EXPECT_EQ(std::vector<float>((*session)->logits().begin(), (*session)->logits().end()), want);
  }
}

}  // namespace
}  // namespace moebius
