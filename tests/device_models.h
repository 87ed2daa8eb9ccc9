// Tiny golden models on the host and on a simulated device, for tests that compare the two.
#pragma once

#include <algorithm>
#include <filesystem>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "engine/expert_store.h"

namespace moebius {

inline std::vector<std::string> golden_models() {
  std::vector<std::string> models;
  for (const auto& entry : std::filesystem::directory_iterator("tests/golden/models"))
    models.push_back(entry.path().filename());
  std::sort(models.begin(), models.end());
  return models;
}

inline std::unique_ptr<Engine> open(const EngineOptions& options) {
  auto engine = Engine::open(options);
  MOEBIUS_CHECK(engine.ok(), engine.status().message());
  return std::move(*engine);
}

inline EngineOptions options_for(const std::string& model) {
  EngineOptions options;
  options.model = "tests/golden/models/" + model;
  options.threads = 2, options.context = 64, options.prefill_chunk = 20;
  return options;
}

// The least memory that a device needs, read from the refusal of less.
inline int64_t least_budget(EngineOptions options) {
  options.device = DeviceKind::kSim, options.device_memory = 1;
  const auto refused = Engine::open(options);
  MOEBIUS_CHECK(!refused.ok() && refused.status().code() == Code::kNoMemory);
  const std::string text = refused.status().message(), mark = " take ";
  return std::stoll(text.substr(text.find(mark) + mark.size()));
}

// The least memory of the host that an engine opens with, read from the refusal of less.
inline int64_t least_ram(EngineOptions options) {
  options.ram = 1;
  const auto refused = Engine::open(options);
  MOEBIUS_CHECK(!refused.ok() && refused.status().code() == Code::kNoMemory);
  const std::string text = refused.status().message(), mark = " take ";
  int64_t ram = std::stoll(text.substr(text.find(mark) + mark.size()));
  for (const int64_t taken = ram; usable_ram(ram) < taken;) ++ram;
  return ram;
}

inline int64_t all_expert_bytes(const std::string& dir) {
  const auto files = ModelFiles::open(dir);
  MOEBIUS_CHECK(files.ok());
  return expert_bytes((*files)->weights());
}

// What the plan says would hold all, but for this share of the experts' bytes.
inline int64_t budget(EngineOptions options, double experts) {
  options.device = DeviceKind::kSim, options.device_memory = 0;
  const double bytes = static_cast<double>(all_expert_bytes(options.model));
  return open(options)->plan()->device_for_all - static_cast<int64_t>((1 - experts) * bytes);
}

inline MachineSpeeds speeds(double link_GBs, double cpu_GFLOPs) {
  return {100, 1000, link_GBs, 10, cpu_GFLOPs, 1, 0};
}

// Speeds by which splitting a batch costs nothing, for products govern, and hides one side behind the other,
// for both have about as much to do: how fast the CPU must be for that depends on the model.
inline MachineSpeeds speeds_for_two_groups(EngineOptions options) {
  for (const double cpu_GFLOPs : {0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4}) {
    options.speeds = {1e6, 1, 1, 1e6, cpu_GFLOPs, 1, 0};
    if (open(options)->plan()->two_groups_from == 2) return options.speeds;
  }
  MOEBIUS_CHECK(false, "no speeds make two groups pay");
  return {};
}

// The logits after a prompt of 60 tokens, taken in two parts, and after each of some decoded ones.
inline std::vector<float> prompt_logits(Engine& engine) {
  std::mt19937 random(11);
  std::vector<int32_t> ids(60);
  for (int32_t& id : ids) id = static_cast<int32_t>(random() % static_cast<uint32_t>(engine.config().vocab));
  std::vector<float> all;
  auto session = engine.new_session();
  const auto keep = [&](const Status& status) {
    MOEBIUS_CHECK(status.ok(), status.message());
    all.insert(all.end(), (*session)->logits().begin(), (*session)->logits().end());
  };
  keep((*session)->sync(std::span(ids).first(5)));
  keep((*session)->sync(ids));
  for (int i = 0; i < 3; ++i) keep((*session)->append(ids[static_cast<size_t>(i)]));
  return all;
}

// The same prompt, up to the first error.
inline Status try_prompt(Engine& engine) {
  MOEBIUS_ASSIGN(const std::unique_ptr<Session> session, engine.new_session());
  std::vector<int32_t> ids(60);
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int32_t>(i * 11 % 120);
  MOEBIUS_TRY(session->sync(std::span(ids).first(5)));
  MOEBIUS_TRY(session->sync(ids));
  MOEBIUS_TRY(session->append(1));
  return session->append(2);
}

}  // namespace moebius
