// For tests of adapters: golden ones with peft's logits, random ones for any model, and runs of an engine.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "engine/engine.h"
#include "models/file_io.h"
#include "models/peft.h"
#include "models/peft_matrices.h"
#include "models/safetensors.h"

namespace moebius::adapters {

inline const std::string kAdapters = "tests/golden/adapters/";
inline const std::string kModels = "tests/golden/models/";

inline std::vector<std::string> golden_names() {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(kAdapters))
    names.push_back(entry.path().filename());
  std::sort(names.begin(), names.end());
  return names;
}

// The folder of the model that a golden adapter belongs to.
inline std::string model_of(const std::string& adapter) {
  auto text = read_text_file(kAdapters + adapter + "/adapter_config.json", 1 << 20);
  EXPECT_TRUE(text.ok()) << text.status().message();
  const std::string base = nlohmann::json::parse(*text)["base_model_name_or_path"];
  return kModels + base.substr(base.find('/') + 1);
}

struct Golden {
  std::vector<int32_t> ids;
  std::vector<float> logits;  // [n, vocab]
};

inline Golden read_golden(const std::string& dir) {
  Golden golden;
  auto file = SafetensorsFile::open(dir + "/golden.safetensors");
  EXPECT_TRUE(file.ok()) << file.status().message();
  for (const TensorEntry& t : (*file)->tensors()) {
    const size_t bytes = static_cast<size_t>(t.bytes);
    if (t.name == "input_ids") golden.ids.resize(bytes / 4), std::memcpy(golden.ids.data(), t.data, bytes);
    if (t.name == "logits") golden.logits.resize(bytes / 4), std::memcpy(golden.logits.data(), t.data, bytes);
  }
  return golden;
}

inline std::unique_ptr<Engine> open_engine(const std::string& model, const std::string& adapter,
                                           int64_t chunk = 512) {
  EngineOptions options;
  options.model = model;
  options.adapter = adapter;
  options.prefill_chunk = chunk;
  options.exact_activations = true;
  options.cache = CacheType::kF32;
  options.threads = 2;
  auto engine = Engine::open(options);
  EXPECT_TRUE(engine.ok()) << engine.status().message();
  return engine.ok() ? std::move(*engine) : nullptr;
}

inline std::vector<float> all_logits(Engine& engine, std::span<const int32_t> ids) {
  auto session = engine.new_session();
  EXPECT_TRUE(session.ok()) << session.status().message();
  std::vector<float> logits;
  const Status status = (*session)->sync_all(ids, [&](int64_t, std::span<const float> rows) {
    logits.insert(logits.end(), rows.begin(), rows.end());
    return Status();
  });
  EXPECT_TRUE(status.ok()) << status.message();
  return logits;
}

// Largest difference over the largest magnitude.
inline double relative_error(std::span<const float> a, std::span<const float> b) {
  EXPECT_EQ(a.size(), b.size());
  double worst = 0, largest = 0;
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    const double difference = std::abs(static_cast<double>(a[i]) - b[i]);
    worst = std::isfinite(difference) ? std::max(worst, difference) : INFINITY;
    largest = std::max(largest, std::abs(static_cast<double>(b[i])));
  }
  return worst / largest;
}

// Seeded factors for the matrices that `wanted` picks. They change a matrix's product by about `strength` of
// an input of that size.
using Wanted = std::function<bool(const ModelMatrix&)>;
inline std::vector<AdapterFactors> random_factors(const ModelConfig& config, const Wanted& wanted,
                                                  float strength, uint32_t seed = 1) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<AdapterFactors> factors;
  const ModelMatrices matrices(config);
  for (const ModelMatrix& m : matrices.all()) {
    if (m.role == Role::kEmbed || !wanted(m)) continue;
    const int64_t rank = 3;
    AdapterFactors f{m.name, rank, m.cols, m.rows, {}, {}, 0.5f};
    for (int64_t i = 0; i < rank * m.cols; ++i)
      f.a.push_back(normal(random) / std::sqrt(static_cast<float>(m.cols)));
    for (int64_t i = 0; i < rank * m.rows; ++i) f.b.push_back(strength * normal(random));
    factors.push_back(std::move(f));
  }
  return factors;
}

// The same delta at an entry, in float64.
inline double delta_at(const AdapterFactors& f, int64_t row, int64_t col) {
  double sum = 0;
  for (int64_t k = 0; k < f.rank; ++k) {
    sum += static_cast<double>(f.b[static_cast<size_t>(row * f.rank + k)]) *
           f.a[static_cast<size_t>(k * f.in + col)];
  }
  return f.scale * sum;
}

// float32 arithmetic against float64: the bound that the golden models are held to.
constexpr double kFloat32Bound = 1e-4;

}  // namespace moebius::adapters
