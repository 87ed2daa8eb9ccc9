// What backward_test holds gradients against: the goldens that tests/golden/make_gradient_golden.py makes
// (its docstring says what is in a file), a model with memory for its gradients, and the comparison.
#pragma once

#include <cmath>
#include <deque>
#include <filesystem>
#include <map>
#include <sstream>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "engine/train/pass.h"
#include "models/safetensors.h"

namespace moebius::test {

class GradientGolden {
 public:
  explicit GradientGolden(const std::string& model) {
    auto file = SafetensorsFile::open("tests/golden/gradients/" + model + ".safetensors");
    MOEBIUS_CHECK(file.ok(), file.status().message());
    file_ = std::move(*file);
    ids = numbers<int32_t>("input_ids"), targets = numbers<int32_t>("targets");
    weights = numbers<float>("weights"), starts = numbers<int64_t>("starts");
  }

  std::vector<int32_t> ids, targets;
  std::vector<float> weights;
  std::vector<int64_t> starts;
  TrainBatch batch() const { return {ids, targets, weights, starts}; }

  bool has(const std::string& name) const { return find(name) != nullptr; }
  template <class T>
  std::vector<T> numbers(const std::string& name) const {
    const TensorEntry* entry = find(name);
    MOEBIUS_CHECK(entry, name);
    std::vector<T> numbers(static_cast<size_t>(entry->bytes) / sizeof(T));
    std::memcpy(numbers.data(), entry->data, static_cast<size_t>(entry->bytes));
    return numbers;
  }
  std::vector<std::string> lines(const std::string& name) const {
    const std::vector<char> bytes = numbers<char>(name);
    std::istringstream text(std::string(bytes.begin(), bytes.end()));
    std::vector<std::string> lines;
    for (std::string line; std::getline(text, line);) lines.push_back(line);
    return lines;
  }

 private:
  const TensorEntry* find(const std::string& name) const {
    for (const TensorEntry& entry : file_->tensors())
      if (entry.name == name) return &entry;
    return nullptr;
  }
  std::unique_ptr<SafetensorsFile> file_;
};

inline std::vector<std::string> gradient_models(const std::string& part) {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator("tests/golden/gradients")) {
    const std::string name = entry.path().stem();
    if (GradientGolden(name).has(part + ".names")) names.push_back(name);
  }
  std::sort(names.begin(), names.end());
  return names;
}

// A golden model, with adapters when asked for, and the gradients by name: a tensor's published name in full,
// or a matrix's name with ".a" or ".b".
class Trainee {
 public:
  explicit Trainee(const std::string& model) {
    auto files = ModelFiles::open("tests/golden/models/" + model);
    MOEBIUS_CHECK(files.ok(), files.status().message());
    files_ = std::move(*files);
    weights = files_->weights();
    rotary_ = rotary_table(config().rotary);
    visit(gradients, nullptr, nullptr);
  }
  Trainee(const Trainee&) = delete;
  Trainee& operator=(const Trainee&) = delete;

  using OnMatrix = std::function<void(const std::string& name, Role role, Matrix& w)>;
  using OnVector = std::function<void(const std::string& name, Tensor& v)>;
  void visit(Weights& to, const OnMatrix& matrix, const OnVector& vector) {
    WeightVisitor visitor;
    visitor.matrix = [&](const std::string& name, Role role, int64_t rows, int64_t cols, Matrix& w) {
      if (w.empty()) w.rows = rows, w.cols = cols;
      if (matrix) matrix(name, role, w);
      return Status();
    };
    visitor.vector = [&](const std::string& name, int64_t size, Tensor& v) {
      if (v.empty()) v.shape[0] = size, v.ndim = 1;
      if (vector) vector(name, v);
      return Status();
    };
    const Status status = visit_weights(config(), to, visitor);
    MOEBIUS_CHECK(status.ok(), status.message());
  }

  // Memory for the gradient of every tensor that wanted() names.
  void train_all(const std::function<bool(const std::string&)>& wanted = nullptr) {
    visit(
        gradients,
        [&](const std::string& name, Role, Matrix& g) {
          if (wanted && !wanted(name + ".weight")) return;
          g.data = (found[name + ".weight"] = zeros(g.rows, g.cols)).data;
        },
        [&](const std::string& name, Tensor& g) {
          if (name.ends_with("e_score_correction_bias") || (wanted && !wanted(name))) return;
          g = found[name] = zeros(1, g.shape[0]).reshape({g.shape[0]});
        });
  }

  // The golden's adapters on the frozen model, with gradients where wanted(name).
  void adapt(const GradientGolden& golden, const std::function<bool(const std::string&)>& wanted = nullptr) {
    const std::vector<float> factors = golden.numbers<float>("lora.factors");
    const int64_t rank = golden.numbers<int64_t>("lora.rank")[0];
    const float scale = golden.numbers<float>("lora.scale")[0];
    std::map<std::string, std::pair<Role, Matrix*>> matrices;
    visit(
        weights,
        [&](const std::string& name, Role role, Matrix& w) {
          if (role != Role::kEmbed && role != Role::kHead) matrices[name] = {role, &w};
        },
        nullptr);
    const std::vector<std::string> names = golden.lines("lora.names");
    MOEBIUS_CHECK(names.size() == matrices.size(), "other matrices than the golden's");
    size_t at = 0;
    for (const std::string& name : names) {
      const auto [role, matrix] = matrices.at(name);
      Matrix& w = *matrix;
      Lora lora{zeros(rank, w.cols), zeros(w.rows, rank), scale, Tensor(), Tensor(), false};
      for (const Tensor& t : {lora.a, lora.b})
        for (int64_t i = 0; i < t.numel(); ++i) t.f32()[i] = factors.at(at++);
      if (!wanted || wanted(name + ".a")) lora.da = found[name + ".a"] = zeros(rank, w.cols);
      if (!wanted || wanted(name + ".b")) lora.db = found[name + ".b"] = zeros(w.rows, rank);
      if (role == Role::kRouter || name.ends_with("kv_b_proj")) merge(lora, w);
      loras_.push_back(lora);
      w.lora = &loras_.back();
    }
    MOEBIUS_CHECK(at == factors.size(), "adapters of other shapes");
  }

  // Weights in memory of this object, to be changed: {name: numbers}. Of float32 models.
  std::map<std::string, Tensor> own_weights() {
    std::map<std::string, Tensor> owned;
    const auto own = [&](const std::string& name, int64_t rows, int64_t cols, const void* from) {
      const Tensor t = owned[name] = zeros(rows, cols);
      std::memcpy(t.data, from, static_cast<size_t>(t.numel()) * sizeof(float));
      return t.data;
    };
    visit(
        weights,
        [&](const std::string& name, Role, Matrix& w) {
          MOEBIUS_CHECK(w.format == Format::kF32);
          w.data = own(name + ".weight", w.rows, w.cols, w.data);
        },
        [&](const std::string& name, Tensor& v) { v.data = own(name, 1, v.shape[0], v.data); });
    return owned;
  }

  const ModelConfig& config() const { return files_->config(); }
  Model model(Backend& backend) const { return {config(), weights, rotary_, backend}; }
  std::unique_ptr<TrainingPass> pass(Backend& backend, int64_t max_tokens,
                                     int64_t kept_bytes = PassOptions().kept_bytes) const {
    auto pass = TrainingPass::create(model(backend), {max_tokens, kept_bytes});
    MOEBIUS_CHECK(pass.ok(), pass.status().message());
    return std::move(*pass);
  }
  // Adds scale times the batch's gradients; returns the loss.
  double train(Backend& backend, const TrainBatch& batch, float scale = 1,
               int64_t kept_bytes = PassOptions().kept_bytes) const {
    const auto loss = pass(backend, static_cast<int64_t>(batch.ids.size()), kept_bytes)
                          ->accumulate(batch, scale, gradients);
    MOEBIUS_CHECK(loss.ok(), loss.status().message());
    return *loss;
  }

  Weights weights;
  Gradients gradients;                  // the weights' shape; empty is frozen
  std::map<std::string, Tensor> found;  // the memory behind gradients and adapters

 private:
  Tensor zeros(int64_t rows, int64_t cols) {
    memory_.emplace_back(static_cast<size_t>(rows * cols));
    return f32_tensor(memory_.back().data(), {rows, cols});
  }
  // w becomes a float32 copy that holds the adapter.
  void merge(Lora& lora, Matrix& w) {
    const Tensor sum = zeros(w.rows, w.cols);
    format_kernels(w.format).back().dequantize_rows(w, 0, w.rows, sum.f32(), w.cols);
    const int64_t rank = lora.a.shape[0];
    for (int64_t r = 0; r < w.rows; ++r) {
      for (int64_t c = 0; c < w.cols; ++c) {
        float delta = 0;
        for (int64_t i = 0; i < rank; ++i) delta += lora.b.f32()[r * rank + i] * lora.a.f32()[i * w.cols + c];
        sum.f32()[r * w.cols + c] += lora.scale * delta;
      }
    }
    Matrix merged;
    merged.rows = w.rows, merged.cols = w.cols, merged.data = sum.data;
    w = merged;
    lora.merged = true;
  }

  std::unique_ptr<ModelFiles> files_;
  RotaryTable rotary_;
  std::deque<std::vector<float>> memory_;
  std::deque<Lora> loras_;
};

inline double norm_of(const Tensor& t) {
  double sum = 0;
  for (int64_t i = 0; i < t.numel(); ++i) sum += static_cast<double>(t.f32()[i]) * t.f32()[i];
  return std::sqrt(sum);
}

// What float32 arithmetic may cost. transformers in plain float32 stands off its float64 self by up to 7e-6
// of a gradient's norm on these models (make_gradient_golden.py prints it): 6e-8 per operation, through all
// layers and back, raised where a small input meets a norm. The scalar operations here stand off by up to
// 2.5e-6 in a norm and 1.3e-5 in a number; other orders of summation are allowed four times that.
inline constexpr double kNormBound = 1e-5;    // of the norm
inline constexpr double kNumberBound = 5e-5;  // of the number's size + the root mean square of the gradient

// The largest difference, as a multiple of what is allowed.
struct Difference {
  double worst = 0;
  std::string where = "nowhere";
  void add(double got, double want, double allowed, const std::string& at) {
    // Where the golden is zero (an expert that nobody chose, a row of the embedding) nothing may come.
    const double difference = std::abs(got - want) / std::max(allowed, 1e-30);
    if (difference <= worst) return;  // not for NaN
    worst = std::isnan(difference) ? INFINITY : difference;
    where = fmt::format("{}: {} where {} is expected", at, got, want);
  }
};

// part: "full" or "lora". Every gradient of the golden must have been found, and no other.
inline Difference compare(const GradientGolden& golden, const std::string& part,
                          const std::map<std::string, Tensor>& found) {
  std::vector<std::string> names;
  for (const std::string& name : golden.lines(part + ".names")) {
    if (part == "full") names.push_back(name);
    if (part == "lora") names.push_back(name + ".a"), names.push_back(name + ".b");
  }
  const auto norms = golden.numbers<double>(part + ".norms");
  const auto at = golden.numbers<int32_t>(part + ".at");
  const auto values = golden.numbers<float>(part + ".values");
  EXPECT_EQ(names.size(), found.size());
  EXPECT_EQ(names.size(), norms.size());
  const size_t samples = at.size() / norms.size();
  Difference difference;
  for (size_t i = 0; i < names.size(); ++i) {
    if (!found.contains(names[i])) {
      ADD_FAILURE() << "no gradient of " << names[i];
      continue;
    }
    const Tensor& gradient = found.at(names[i]);
    difference.add(norm_of(gradient), norms[i], kNormBound * norms[i], names[i] + ", its norm");
    const double typical = norms[i] / std::sqrt(static_cast<double>(gradient.numel()));
    for (size_t j = i * samples; j < (i + 1) * samples && at[j] >= 0; ++j) {
      MOEBIUS_CHECK(at[j] < gradient.numel());
      const double want = values[j];
      const double allowed = want == 0 ? 0 : kNumberBound * (std::abs(want) + typical);
      difference.add(gradient.f32()[at[j]], want, allowed, fmt::format("{} at {}", names[i], at[j]));
    }
  }
  return difference;
}

}  // namespace moebius::test
