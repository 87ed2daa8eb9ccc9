// Adapters trained on the simulated device: gradients against PyTorch's and against the host's bit by bit, at
// every residency, in every way that experts can go; runs that end with the bytes that the host ends with,
// also when they were resumed with another memory; faults; what a plan says of all that.
#include <filesystem>

#include "engine/train/checkpoint.h"
#include "engine/train/lora.h"
#include "engine/train/trainer.h"
#include "tests/device_training.h"

namespace moebius::test {
namespace {

std::unique_ptr<Backend> simulated(const HostOptions& host, SimOptions sim = {}) {
  sim.memory_bytes = int64_t{256} << 20, sim.seed = 3, sim.host = host;
  return std::move(*make_sim_backend(sim));
}

class OnSim : public testing::TestWithParam<std::string> {};

TEST_P(OnSim, GradientsAreTheHostsAndPyTorchs) {
  const GradientGolden golden(GetParam());
  Trainee on_host(GetParam());
  on_host.adapt(golden);
  const double loss = on_host.train(*make_host_backend(exact()), golden.batch());
  for (const Sharing& sharing : kSharings) {
    SCOPED_TRACE(sharing.name);
    Trainee trainee(GetParam());
    trainee.adapt(golden);
    EXPECT_EQ(train_there(trainee, golden, sharing, exact(), simulated(exact())), loss);
    for (const auto& [name, gradient] : on_host.found) {
      const Tensor& mine = trainee.found.at(name);
      ASSERT_EQ(std::memcmp(gradient.data, mine.data, static_cast<size_t>(mine.numel()) * 4), 0) << name;
    }
    const Difference difference = compare(golden, "lora", trainee.found);
    EXPECT_LE(difference.worst, 1) << difference.where;
  }
}

INSTANTIATE_TEST_SUITE_P(All, OnSim, testing::ValuesIn(gradient_models("lora")),
                         [](const auto& model) { return model.param; });

// ---- whole runs ----

Dataset cycles(int64_t examples, int64_t length, int64_t vocab) {
  Dataset data;
  for (int64_t i = 0; i < examples; ++i) {
    std::vector<int32_t> ids{static_cast<int32_t>(i * 7 % vocab)};
    std::vector<uint8_t> mask{0};
    while (std::ssize(ids) < length + i % 3)
      ids.push_back(static_cast<int32_t>((5 * ids.back() + 3) % vocab)), mask.push_back(1);
    data.add(ids, mask);
  }
  return data;
}

// A run of a golden model on the host, or on a simulated device.
struct Trial {
  std::unique_ptr<ModelFiles> files;
  RotaryTable rotary;
  Dataset data = cycles(12, 17, 40);
  std::unique_ptr<Backend> backend;
  std::unique_ptr<LoraModel> lora;
  OnDevice device;
  std::unique_ptr<Trainer> trainer;

  std::map<std::string, std::string> bytes() const {
    std::map<std::string, std::string> all;
    for (const optim::StateEntry& e : lora->entries())
      all[e.name] = std::string(static_cast<const char*>(e.data), static_cast<size_t>(e.bytes));
    return all;
  }
  std::vector<double> losses(int64_t steps) {
    std::vector<double> all;
    for (int64_t i = 0; i < steps; ++i) {
      const auto report = trainer->step();
      MOEBIUS_CHECK(report.ok(), report.status().message());
      all.push_back(report->loss);
    }
    return all;
  }
};

constexpr int64_t kTokens = 48;

Trial start(const std::string& model, const Sharing* sharing,
            LoraOptimizer optimizer = LoraOptimizer::kLoraMuon, SimOptions faults = {}) {
  Trial run;
  run.files = std::move(*ModelFiles::open("tests/golden/models/" + model));
  run.rotary = rotary_table(run.files->config().rotary);
  HostOptions host;
  host.threads = 2;
  run.backend = make_host_backend(host);
  LoraOptions lora;
  lora.rank = 4, lora.optimizer = optimizer;
  run.lora = std::move(*LoraModel::create(run.files->config(), run.files->weights(), lora));
  TrainerOptions options;
  options.steps = 100, options.lr = 0.02, options.micro_tokens = kTokens, options.accumulation = 2;
  if (sharing) {
    run.device = on_device(run.files->config(), *run.lora, *sharing, kTokens, host, simulated(host, faults));
    options.memory = run.device.training->pass_options();
  }
  const Model on_host{run.files->config(), run.lora->weights(), run.rotary, *run.backend};
  Trained& trained = sharing ? static_cast<Trained&>(*run.device.training) : *run.lora;
  auto trainer = Trainer::create(sharing ? run.device.training->model(run.rotary) : on_host, trained,
                                 all_of(run.data), options, 2, "settings");
  MOEBIUS_CHECK(trainer.ok(), trainer.status().message());
  run.trainer = std::move(*trainer);
  return run;
}

// One with integer experts, one in float32, one with groups and a latent query.
const char* const kRuns[] = {"deepseek_v3_int4", "qwen3_moe", "deepseek_v2_grouped"};

TEST(Runs, EndsWithTheHostsBytesWhereverExpertsAre) {
  for (const char* model : kRuns) {
    Trial host = start(model, nullptr);
    const std::vector<double> losses = host.losses(4);
    for (const Sharing& sharing : kSharings) {
      SCOPED_TRACE(fmt::format("{} {}", model, sharing.name));
      Trial run = start(model, &sharing);
      EXPECT_EQ(run.losses(4), losses);
      EXPECT_EQ(run.bytes(), host.bytes());
    }
  }
}

TEST(Runs, ResumesWithAnotherMemory) {
  const std::string path = testing::TempDir() + "device_training.safetensors";
  Trial whole = start(kRuns[0], nullptr, LoraOptimizer::kMuon);
  const std::vector<double> losses = whole.losses(6);
  Trial first = start(kRuns[0], &kSharings[1], LoraOptimizer::kMuon);
  first.losses(3);
  ASSERT_TRUE(first.trainer->save(path).ok());
  for (const Sharing* sharing : {&kSharings[2], &kSharings[5], static_cast<const Sharing*>(nullptr)}) {
    Trial second = start(kRuns[0], sharing, LoraOptimizer::kMuon);
    ASSERT_TRUE(second.trainer->restore(path).ok());
    EXPECT_EQ(second.losses(3), std::vector<double>(losses.begin() + 3, losses.end()));
    EXPECT_EQ(second.bytes(), whole.bytes());
  }
}

TEST(Runs, EvaluatesAsTheHost) {
  Trial host = start(kRuns[0], nullptr), run = start(kRuns[0], &kSharings[4]);
  const auto want = host.trainer->evaluate(all_of(host.data)), got = run.trainer->evaluate(all_of(run.data));
  ASSERT_TRUE(want.ok() && got.ok());
  EXPECT_EQ(got->loss, want->loss);
  EXPECT_EQ(got->accuracy, want->accuracy);
}

TEST(Runs, SaysWhereExpertsWent) {
  Trial streamed = start(kRuns[0], &kSharings[3]), on_cpu = start(kRuns[0], &kSharings[1]);
  streamed.losses(1), on_cpu.losses(1);
  EXPECT_GT(streamed.device.training->experts()->counts().streamed, 0);
  EXPECT_EQ(streamed.device.training->experts()->counts().resident, 0);
  EXPECT_GT(on_cpu.device.training->experts()->counts().cpu, 0);
  EXPECT_GT(on_cpu.device.training->experts()->counts().resident, 0);
  EXPECT_EQ(on_cpu.device.training->experts()->counts().streamed, 0);
}

// Numbers that overflow within a layer: the error names it, on the host and on the device.
TEST(Runs, AnOverflowNamesItsLayer) {
  for (const Sharing* sharing : {static_cast<const Sharing*>(nullptr), &kSharings[4]}) {
    Trial run = start("qwen3_moe", sharing);
    run.losses(1);
    for (const optim::StateEntry& e : run.lora->entries()) {
      if (e.name.find("layers.1.self_attn.o_proj.lora_B") == std::string::npos || e.dtype != DType::kF32)
        continue;
      for (int64_t i = 0; i < e.bytes / 4; ++i) static_cast<float*>(e.data)[i] = 3e38f;
    }
    Trained& trained = sharing ? static_cast<Trained&>(*run.device.training) : *run.lora;
    ASSERT_TRUE(trained.refresh().ok());
    const auto report = run.trainer->step();
    ASSERT_FALSE(report.ok());
    EXPECT_NE(report.status().message().find("what layer 1 gives is the first that is not finite"),
              std::string::npos)
        << report.status().message();
  }
}

// What the plan leaves for the CPU and the ring is not filled with residents.
TEST(Placement, TakesNoMoreResidentsThanThePlanWants) {
  Trial run = start(kRuns[0], nullptr);
  TrainingPlan plan;
  plan.ring_places = 2;
  DeviceTraining::Options how;
  how.pass.max_tokens = kTokens, how.memory = int64_t{128} << 20, how.speeds = speeds_of(kSharings[0]);
  const auto device = simulated(exact());
  const auto none = DeviceTraining::create(run.files->config(), *run.lora, plan, how, *run.backend, *device);
  ASSERT_TRUE(none.ok()) << none.status().message();
  EXPECT_TRUE((*none)->describe().starts_with("0 of ")) << (*none)->describe();
}

// Whatever piece of a step fails, the run says so, and its last checkpoint is as good as before.
TEST(Runs, AFaultOfTheDeviceLosesNothingSaved) {
  const std::string path = testing::TempDir() + "device_fault.safetensors";
  for (const uint64_t at : {900, 1000, 1200, 1500, 1700}) {
    SimOptions faults;
    faults.fail_work = at;
    Trial run = start(kRuns[0], &kSharings[4], LoraOptimizer::kLoraMuon, faults);
    ASSERT_TRUE(run.trainer->save(path).ok());
    std::map<std::string, std::string> last = run.bytes();
    Status failed;
    for (int i = 0; i < 20 && failed.ok(); ++i) {
      failed = run.trainer->step().status();
      if (!failed.ok()) break;
      last = run.bytes();
      ASSERT_TRUE(run.trainer->save(path).ok());
    }
    ASSERT_FALSE(failed.ok()) << at;
    EXPECT_NE(failed.message().find("simulated device failed"), std::string::npos) << failed.message();
    Trial next = start(kRuns[0], &kSharings[1]);
    ASSERT_TRUE(next.trainer->restore(path).ok());
    EXPECT_EQ(next.bytes(), last) << at;
  }
}

}  // namespace
}  // namespace moebius::test
