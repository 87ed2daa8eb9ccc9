// Optimizers against PyTorch, float64 restatements of the papers' formulas and the schedules of transformers
// (tests/golden/make_optim_golden.py), and the properties that the papers state.
#include <cmath>
#include <cstring>
#include <filesystem>
#include <limits>
#include <map>
#include <random>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "engine/optim/assignment.h"
#include "engine/optim/gradients.h"
#include "engine/optim/lora_muon.h"
#include "engine/optim/optimizer.h"
#include "engine/optim/qk_clip.h"
#include "engine/optim/schedule.h"
#include "engine/optim/small_matrix.h"
#include "kernels/gemm.h"

namespace moebius::optim {
namespace {

constexpr double kUlp = 0x1p-24;  // half a unit in the last place of 1
constexpr int64_t kGoldenSteps = 20;
const char* const kShapes[] = {"tall", "wide", "square", "long", "lean", "deficient"};

struct Numbers {
  int64_t rows = 0, cols = 0;
  std::vector<float> values;

  Numbers() = default;
  Numbers(int64_t r, int64_t c) : rows(r), cols(c), values(static_cast<size_t>(r * c)) {}
  MatrixView view() { return {values.data(), rows, cols}; }
  ConstMatrixView view() const { return {values.data(), rows, cols}; }
  // One of several matrices of these rows that lie one after the other.
  ConstMatrixView part(int64_t i, int64_t n_rows) const {
    return {values.data() + i * n_rows * cols, n_rows, cols};
  }
  double at(int64_t r, int64_t c) const {
    return static_cast<double>(values[static_cast<size_t>(r * cols + c)]);
  }
};

Numbers random_numbers(int64_t rows, int64_t cols, uint32_t seed, float scale = 1) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, scale);
  Numbers m(rows, cols);
  for (float& value : m.values) value = normal(random);
  return m;
}

const SafetensorsFile& golden_file() {
  static const auto file = SafetensorsFile::open("tests/golden/optim/optim.safetensors");
  MOEBIUS_CHECK(file.ok(), file.status().message());
  return **file;
}

const TensorEntry& golden_entry(const std::string& name) {
  for (const TensorEntry& entry : golden_file().tensors()) {
    if (entry.name == name) return entry;
  }
  MOEBIUS_CHECK(false, "no golden " + name);
  std::abort();
}

Numbers golden(const std::string& name) {
  const TensorEntry& entry = golden_entry(name);
  Numbers m(1, entry.shape.back());
  for (size_t i = 0; i + 1 < entry.shape.size(); ++i) m.rows *= entry.shape[i];
  m.values.resize(static_cast<size_t>(m.rows * m.cols));
  MOEBIUS_CHECK(entry.dtype == DType::kF32);
  std::memcpy(m.values.data(), entry.data, static_cast<size_t>(entry.bytes));
  return m;
}

double distance(const Numbers& a, const Numbers& b) {
  double sum = 0;
  EXPECT_EQ(a.values.size(), b.values.size());
  for (size_t i = 0; i < a.values.size(); ++i) {
    const double gap = static_cast<double>(a.values[i]) - static_cast<double>(b.values[i]);
    sum += gap * gap;
  }
  return std::sqrt(sum);
}

double largest_gap(const Numbers& a, const Numbers& b) {
  double most = 0;
  EXPECT_EQ(a.values.size(), b.values.size());
  for (size_t i = 0; i < a.values.size(); ++i) {
    const double gap = std::abs(static_cast<double>(a.values[i]) - static_cast<double>(b.values[i]));
    most = gap <= most ? most : gap;  // keeps a NaN
  }
  return most;
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

std::vector<double> singular_values(const Numbers& m) {
  std::vector<double> values =
      eigen_symmetric(m.rows < m.cols ? row_gram(m.view()) : column_gram(m.view())).values;
  for (double& value : values) value = std::sqrt(std::max(0.0, value));
  std::ranges::sort(values);
  return values;
}

Numbers orthogonalized(const Orthogonalize& how, Numbers m, Team team = {}) {
  std::vector<float> memory(static_cast<size_t>(how.scratch(m.rows, m.cols)));
  PartContext context{1, {}, {memory.data(), std::ssize(memory)}, team};
  how.apply(context, m.view());
  return m;
}

// Steps [begin, end) of a recipe on a golden parameter.
void train(const Recipe& recipe, double lr, Numbers& w, const Numbers& gradients, ParameterState& state,
           int64_t begin, int64_t end) {
  ThreadPool pool(2);
  for (int64_t t = begin; t < end; ++t) {
    const Parameter parameter{"w", w.view(), gradients.part(t, w.rows), &state};
    const Status status = apply_step(recipe, lr, {&parameter, 1}, pool);
    ASSERT_TRUE(status.ok()) << status.message();
  }
}

Numbers trained(const Recipe& recipe, double lr, const std::string& key) {
  Numbers w = golden(key + ".weight");
  ParameterState state = make_state(recipe, w.rows, w.cols);
  train(recipe, lr, w, golden(key + ".gradients"), state, 0, kGoldenSteps);
  return w;
}

TEST(Gemm, BothPathsMatchFloat64) {
  for (const auto& [n, rows, cols] : {std::array<int64_t, 3>{1, 1, 1}, {5, 7, 3}, {33, 40, 65}, {3, 4, 0}}) {
    const Numbers x = random_numbers(n, cols + 2, 1), w = random_numbers(rows, cols + 1, 2);
    const Numbers before = random_numbers(n, rows, 3);
    for (const auto gemm : {gemm_f32, gemm_f32_plain}) {
      for (const bool accumulate : {false, true}) {
        Numbers y = before;
        gemm(n, rows, cols, x.values.data(), x.cols, w.values.data(), w.cols, y.values.data(), rows,
             accumulate);
        for (int64_t i = 0; i < n; ++i) {
          for (int64_t r = 0; r < rows; ++r) {
            double sum = accumulate ? before.at(i, r) : 0, size = std::abs(sum);
            for (int64_t c = 0; c < cols; ++c)
              sum += x.at(i, c) * w.at(r, c), size += std::abs(x.at(i, c) * w.at(r, c));
            EXPECT_NEAR(y.at(i, r), sum, static_cast<double>(cols + 1) * 2 * kUlp * size);
          }
        }
      }
    }
  }
}

TEST(AdamW, FollowsPyTorch) {
  for (const auto& [key, decay] : {std::pair<std::string, double>{"adamw.a", 0.1}, {"adamw.b", 0.0}}) {
    Numbers w = golden(key + ".weight");
    const Recipe recipe = adamw(decay);
    ParameterState state = make_state(recipe, w.rows, w.cols);
    // A step rounds a weight below 4 three times, and an update below 0.1 a handful of times.
    const double bound = 4 * 4 * kUlp;
    train(recipe, 0.01, w, golden(key + ".gradients"), state, 0, 1);
    EXPECT_LE(largest_gap(w, golden(key + ".after_1")), bound);
    train(recipe, 0.01, w, golden(key + ".gradients"), state, 1, kGoldenSteps);
    EXPECT_LE(largest_gap(w, golden(key + ".after")), kGoldenSteps * bound);
    EXPECT_EQ(state.step, kGoldenSteps);
    const Numbers moments = golden(key + ".exp_avg_sq");
    for (size_t i = 0; i < moments.values.size(); ++i)
      EXPECT_NEAR(state.tensors[1].values[i], moments.values[i],
                  1e-5 * static_cast<double>(moments.values[i]));
  }
}

// Rounding moves a normalised direction by a few kUlp, and five steps amplify what lies along small singular
// values by at most 3.4445^5 = 485. An update is that times lr * 0.2 * sqrt(max side).
double muon_bound(const Numbers& w) {
  const double side = static_cast<double>(std::max(w.rows, w.cols));
  return kGoldenSteps * 0.02 * 0.2 * std::sqrt(side) * 485 * 4 * kUlp;
}

TEST(Muon, FollowsItsFormulaInFloat64) {
  for (const auto form : {Orthogonalize::Form::kPlain, Orthogonalize::Form::kAuto}) {
    for (const std::string shape : kShapes) {
      Recipe recipe = muon(0.1);
      std::get<Orthogonalize>(recipe.parts[1]).form = form;
      const Numbers w = trained(recipe, 0.02, "muon." + shape);
      EXPECT_LE(largest_gap(w, golden("muon." + shape + ".exact")), muon_bound(w)) << shape;
    }
  }
}

TEST(Muon, StaysAsCloseToPyTorchAsBfloat16Allows) {
  for (const std::string shape : kShapes) {
    if (shape == "deficient") continue;  // there five steps amplify the roundings 485 times
    const std::string key = "muon." + shape;
    const Numbers w = trained(muon(0.1), 0.02, key), theirs = golden(key + ".torch");
    const double bound = 5 * 3 * 0x1p-9;  // five steps of three products, each rounded to 8 bits
    EXPECT_LE(distance(w, theirs), bound * distance(w, golden(key + ".weight"))) << shape;
  }
}

TEST(Muon, EmaMomentumTakesTheSameSteps) {  // it only scales what is normalised afterwards
  Recipe ema = muon(0.1);
  ema.parts[0] = EmaMomentum{};
  for (const std::string shape : {"tall", "square"}) {
    const Numbers w = trained(ema, 0.02, "muon." + shape);
    EXPECT_LE(largest_gap(w, golden("muon." + shape + ".exact")), muon_bound(w)) << shape;
  }
}

TEST(Muon, VariantsAreMorePartsInTheList) {
  Recipe normuon = muon(0.1), muoneq = muon(0.1);
  normuon.parts.insert(normuon.parts.begin() + 2, RowSecondMoment{});
  muoneq.parts.insert(muoneq.parts.begin() + 1, Equilibrate{});
  for (const std::string shape : kShapes) {
    if (shape == "deficient") continue;
    const std::string key = "muon." + shape;
    const Numbers a = trained(normuon, 0.02, key), b = trained(muoneq, 0.02, key);
    EXPECT_LE(largest_gap(a, golden(key + ".normuon")), muon_bound(a)) << shape;
    EXPECT_LE(largest_gap(b, golden(key + ".muoneq")), muon_bound(b)) << shape;
  }
}

TEST(NewtonSchulz, SingularValuesEndNearOne) {
  for (const auto& [rows, cols] :
       {std::pair<int64_t, int64_t>{40, 16}, {16, 40}, {24, 24}, {200, 12}, {1, 9}}) {
    const Numbers o = orthogonalized(newton_schulz(), random_numbers(rows, cols, 7, 1e-3f));
    const std::vector<double> values = singular_values(o);
    EXPECT_GT(values.front(), 0.5) << rows << "x" << cols;
    EXPECT_LT(values.back(), 1.5) << rows << "x" << cols;
  }
}

TEST(NewtonSchulz, ZeroStaysZero) {
  for (const float value : orthogonalized(newton_schulz(), Numbers(3, 5)).values) EXPECT_EQ(value, 0);
}

TEST(PolarExpress, ConvergesToThePolarFactor) {
  for (const std::string shape : kShapes) {
    const Numbers m = golden("polar." + shape + ".matrix"), factor = golden("polar." + shape + ".factor");
    for (const double safety : {1.0, 1.01}) {
      for (const auto form : {Orthogonalize::Form::kPlain, Orthogonalize::Form::kGram}) {
        Orthogonalize how = polar_express(10, safety);
        how.form = form;
        // The smallest singular value is 300 times below the norm, so its direction is known to 300
        // roundings; directions that are not there at all grow from one rounding by the product of all a.
        double gain = 1;
        for (const Quintic& step : how.steps) gain *= step.a;
        const double bound = (shape == "deficient" ? gain : 16 * 300) * 2 * kUlp;
        EXPECT_LE(largest_gap(orthogonalized(how, m), factor), bound) << shape << " " << safety;
        if (shape == "deficient") continue;
        const std::vector<double> five = singular_values(orthogonalized(polar_express(5, safety), m));
        EXPECT_GT(five.front(), 0.5);
        EXPECT_LT(five.back(), 1.5);
      }
    }
  }
}

TEST(Orthogonalize, GramFormEqualsThePlainForm) {
  for (const auto& [rows, cols, rank] :
       {std::array<int64_t, 3>{96, 16, 16}, {8, 200, 8}, {20, 20, 20}, {120, 24, 5}, {1, 50, 1}}) {
    Numbers m(rows, cols);
    const Numbers left = random_numbers(rows, rank, 11), right = random_numbers(cols, rank, 12);
    multiply_nt(Team{}, left.view(), right.view(), m.view());
    for (Orthogonalize how : {newton_schulz(), polar_express(5), polar_express(9)}) {
      how.form = Orthogonalize::Form::kPlain;
      const Numbers plain = orthogonalized(how, m);
      how.form = Orthogonalize::Form::kGram;
      const Numbers gram = orthogonalized(how, m);
      double gain = 1;  // of a rounding along a direction that is not there
      for (const Quintic& step : how.steps) gain *= step.a;
      EXPECT_LE(largest_gap(plain, gram), (rank < std::min(rows, cols) ? 4 * gain : 2000) * kUlp)
          << rows << "x" << cols << " " << how.steps.size();
    }
  }
}

// u times what on_gram gives, in float64.
Numbers orthogonalized_on_gram(const Orthogonalize& how, const Numbers& m) {
  const bool wide = m.rows <= m.cols;
  const SquareMatrix k = how.on_gram(wide ? row_gram(m.view()) : column_gram(m.view()));
  Numbers out(m.rows, m.cols);
  for (int64_t i = 0; i < m.rows; ++i) {
    for (int64_t j = 0; j < m.cols; ++j) {
      double sum = 0;
      for (int64_t l = 0; l < k.n; ++l)
        sum += wide ? k.at(i, l) * static_cast<double>(m.view().row(l)[j])
                    : static_cast<double>(m.view().row(i)[l]) * k.at(l, j);
      out.view().row(i)[j] = static_cast<float>(sum);
    }
  }
  return out;
}

TEST(Orthogonalize, OnTheGramMatrixAloneIsTheSame) {
  for (const auto& [rows, cols, rank] :
       {std::array<int64_t, 3>{96, 16, 16}, {8, 200, 8}, {20, 20, 20}, {120, 24, 5}, {1, 50, 1}}) {
    Numbers m(rows, cols);
    const Numbers left = random_numbers(rows, rank, 11), right = random_numbers(cols, rank, 12);
    multiply_nt(Team{}, left.view(), right.view(), m.view());
    for (Orthogonalize how : {newton_schulz(), polar_express(5), polar_express(10)}) {
      how.form = Orthogonalize::Form::kPlain;
      double gain = 1;  // of a rounding of m along a direction that is not there, which both forms lift
      for (const Quintic& step : how.steps) gain *= step.a;
      EXPECT_LE(largest_gap(orthogonalized(how, m), orthogonalized_on_gram(how, m)),
                (rank < std::min(rows, cols) ? 4 * gain : 2000) * kUlp)
          << rows << "x" << cols << " " << how.steps.size();
    }
  }
  const SquareMatrix nothing{3, std::vector<double>(9)};
  for (const double value : polar_express(10).on_gram(nothing).values) EXPECT_EQ(value, 0);
}

struct Model {
  std::vector<Numbers> weights, gradients;
  std::vector<ParameterState> states;
};

Model make_model(const Recipe& recipe, const std::vector<std::pair<int64_t, int64_t>>& shapes) {
  Model model;
  uint32_t seed = 100;
  for (const auto& [rows, cols] : shapes) {
    model.weights.push_back(random_numbers(rows, cols, ++seed));
    model.gradients.push_back(random_numbers(rows, cols, ++seed));
    model.states.push_back(make_state(recipe, rows, cols));
  }
  return model;
}

void step_model(const Recipe& recipe, Model& model, size_t begin, size_t end, ThreadPool& pool) {
  std::vector<Parameter> parameters;
  for (size_t i = begin; i < end; ++i) {
    parameters.push_back(
        {fmt::format("w{}", i), model.weights[i].view(), model.gradients[i].view(), &model.states[i]});
  }
  const Status status = apply_step(recipe, 0.02, parameters, pool);
  ASSERT_TRUE(status.ok()) << status.message();
}

TEST(ApplyStep, BitsDependNeitherOnThreadsNorOnCompany) {
  std::vector<std::pair<int64_t, int64_t>> shapes(12, {24, 10});
  // Larger ones than a block of rows or of numbers among them.
  shapes.insert(shapes.begin() + 3, {{140, 130}, {5, 14000}, {130, 150}});
  Recipe normuon = muon();
  normuon.parts.push_back(RowSecondMoment{});
  for (const Recipe& recipe : {muon(), adamw(), normuon, muon(0.1, polar_express())}) {
    Model one = make_model(recipe, shapes);
    ThreadPool single(1);
    for (int t = 0; t < 2; ++t) step_model(recipe, one, 0, shapes.size(), single);
    for (const int threads : {2, 5}) {
      Model all = make_model(recipe, shapes), alone = make_model(recipe, shapes);
      ThreadPool pool(threads);
      for (int t = 0; t < 2; ++t) {
        step_model(recipe, all, 0, shapes.size(), pool);
        for (size_t i = 0; i < 6; ++i) step_model(recipe, alone, i, i + 1, pool);
      }
      for (size_t i = 0; i < shapes.size(); ++i) {
        EXPECT_TRUE(same_bits(one.weights[i].values, all.weights[i].values)) << threads << " " << i;
        EXPECT_TRUE(same_bits(one.states[i].tensors[0].values, all.states[i].tensors[0].values));
        if (i < 6) {
          EXPECT_TRUE(same_bits(one.weights[i].values, alone.weights[i].values)) << threads << " " << i;
        }
      }
    }
  }
}

TEST(ApplyStep, RefusesBeforeItChangesAnything) {
  ThreadPool pool(2);
  Model model = make_model(muon(), {{4, 4}, {4, 4}});
  const std::vector<float> before = model.weights[0].values;
  const auto attempt = [&](const Recipe& recipe, double lr, ConstMatrixView gradient, ParameterState* state) {
    const Parameter parameters[] = {
        {"first", model.weights[0].view(), model.gradients[0].view(), &model.states[0]},
        {"second", model.weights[1].view(), gradient, state}};
    return apply_step(recipe, lr, parameters, pool);
  };
  ParameterState adam_state = make_state(adamw(), 4, 4);
  const ConstMatrixView fine = model.gradients[1].view();
  const Numbers other(2, 4);
  const Status statuses[] = {attempt(muon(), 0.1, other.view(), &model.states[1]),
                             attempt(muon(), 0.1, fine, &adam_state),
                             attempt(muon(), 0.1, fine, nullptr),
                             attempt(muon(), 0.1, fine, &model.states[0]),
                             attempt(muon(), std::nan(""), fine, &model.states[1]),
                             attempt(muon(-1), 0.1, fine, &model.states[1]),
                             attempt(muon(0, newton_schulz(0)), 0.1, fine, &model.states[1]),
                             attempt(Recipe{{HeavyBall{1.5f}}, 0}, 0.1, fine, &model.states[1]),
                             attempt(Recipe{{HeavyBall{}, EmaMomentum{}}, 0}, 0.1, fine, &model.states[1])};
  for (const Status& status : statuses) EXPECT_EQ(status.code(), Code::kInvalid) << status.message();
  EXPECT_NE(statuses[0].message().find("second"), std::string::npos);
  EXPECT_TRUE(same_bits(before, model.weights[0].values));
  EXPECT_EQ(model.states[0].step, 0);
}

TEST(State, SavedAndRestoredTheRunContinuesBitForBit) {
  const std::string path =
      (std::filesystem::temp_directory_path() / "moebius_optim_state.safetensors").string();
  Recipe normuon = muon();
  normuon.parts.push_back(RowSecondMoment{});
  for (const auto& [recipe, key] :
       {std::pair{adamw(), "adamw.a"}, {muon(), "muon.tall"}, {normuon, "muon.wide"}}) {
    const Numbers gradients = golden(std::string(key) + ".gradients");
    Numbers w = golden(std::string(key) + ".weight");
    ParameterState state = make_state(recipe, w.rows, w.cols);
    train(recipe, 0.02, w, gradients, state, 0, 9);

    SafetensorsWriter writer(path);
    const std::vector<StateEntry> entries = state_entries("layer.w", state);
    for (const StateEntry& entry : entries) writer.declare(entry.name, entry.dtype, entry.shape);
    for (const StateEntry& entry : entries)
      ASSERT_TRUE(writer.append(entry.data, static_cast<size_t>(entry.bytes)).ok());
    ASSERT_TRUE(writer.finish().ok());
    Numbers resumed = w;
    train(recipe, 0.02, w, gradients, state, 9, kGoldenSteps);

    const auto file = SafetensorsFile::open(path);
    ASSERT_TRUE(file.ok());
    const FindTensor find = [&](std::string_view name) -> const TensorEntry* {
      for (const TensorEntry& entry : (*file)->tensors()) {
        if (entry.name == name) return &entry;
      }
      return nullptr;
    };
    ParameterState loaded = make_state(recipe, w.rows, w.cols);
    ASSERT_TRUE(restore_state("layer.w", find, loaded).ok());
    EXPECT_EQ(loaded.step, 9);
    train(recipe, 0.02, resumed, gradients, loaded, 9, kGoldenSteps);
    EXPECT_TRUE(same_bits(w.values, resumed.values));

    EXPECT_EQ(restore_state("layer.v", find, loaded).code(), Code::kNotFound);
    ParameterState other = make_state(recipe, w.rows, w.cols + 1);
    const Status status = restore_state("layer.w", find, other);
    EXPECT_EQ(status.code(), Code::kInvalid);
    EXPECT_NE(status.message().find("layer.w.optim."), std::string::npos);
    EXPECT_EQ(other.step, 0);
  }
  std::filesystem::remove(path);
}

TEST(Assignment, FollowsTheRolesOfTheTensors) {
  const int64_t matrix[] = {8, 4}, vector[] = {8}, stacked[] = {2, 8, 4};
  const auto rule = [&](const char* name, std::optional<Role> role) {
    const auto result = role ? rule_of(name, role, matrix) : rule_of(name, role, vector);
    EXPECT_TRUE(result.ok()) << name;
    return *result;
  };
  for (const Role role : {Role::kAttention, Role::kDense, Role::kShared, Role::kExpert, Role::kRouter})
    EXPECT_EQ(rule("model.layers.0.x", role), Rule::kMuon);
  EXPECT_EQ(rule("model.embed_tokens", Role::kEmbed), Rule::kAdamW);
  EXPECT_EQ(rule("lm_head", Role::kHead), Rule::kAdamW);
  EXPECT_EQ(rule("model.norm.weight", std::nullopt), Rule::kAdamW1D);
  EXPECT_EQ(rule("model.layers.0.self_attn.q_proj.bias", std::nullopt), Rule::kAdamW1D);
  EXPECT_EQ(rule("model.layers.1.mlp.gate.e_score_correction_bias", std::nullopt), Rule::kBalance);
  EXPECT_FALSE(rule_of("x", Role::kExpert, stacked).ok());
  EXPECT_FALSE(rule_of("x", std::nullopt, matrix).ok());
}

TEST(Balance, MovesBiasesTowardsTheMeanLoad) {
  std::vector<float> bias{0.5f, 0.5f, 0.5f, 0.5f};
  const int64_t load[] = {0, 10, 7, 11};  // mean 7
  balance_bias(load, 0.125f, bias);
  EXPECT_EQ(bias, (std::vector<float>{0.625f, 0.375f, 0.5f, 0.375f}));
}

// Logit terms of head h for hidden inputs x and latent c: non-rotary, rotary (against a fixed rotary key).
struct Terms {
  double nope = 0, rope = 0, size = 0;
};

Terms mla_terms(const ModelConfig& c, const Numbers& q, const Numbers& kv_b, int64_t h, const Numbers& x,
                const Numbers& latent, const Numbers& key) {
  const auto row_dot = [](const Numbers& w, int64_t row, const Numbers& v, bool absolute) {
    double sum = 0;
    for (int64_t i = 0; i < w.cols; ++i)
      sum += absolute ? std::abs(w.at(row, i) * v.at(0, i)) : w.at(row, i) * v.at(0, i);
    return sum;
  };
  Terms t;
  for (int64_t i = 0; i < c.nope; ++i) {
    const int64_t q_row = h * c.qk_dim() + i, k_row = h * (c.nope + c.v_dim) + i;
    t.nope += row_dot(q, q_row, x, false) * row_dot(kv_b, k_row, latent, false);
    t.size += row_dot(q, q_row, x, true) * row_dot(kv_b, k_row, latent, true);
  }
  for (int64_t i = 0; i < c.rope; ++i) {
    const int64_t q_row = h * c.qk_dim() + c.nope + i;
    t.rope += row_dot(q, q_row, x, false) * key.at(0, i);
    t.size += row_dot(q, q_row, x, true) * std::abs(key.at(0, i));
  }
  return t;
}

TEST(QkClip, ShrinksEveryTermOfAnMlaLogitByGamma) {
  ModelConfig c;
  c.attention = AttentionKind::kMla;
  c.heads = 3, c.nope = 4, c.rope = 2, c.v_dim = 5, c.kv_lora = 6, c.hidden = 7;
  const Numbers q0 = random_numbers(3 * 6, 7, 1), kv0 = random_numbers(3 * 9, 6, 2);
  const Numbers x = random_numbers(1, 7, 3), latent = random_numbers(1, 6, 4), key = random_numbers(1, 2, 5);
  Numbers q = q0, kv = kv0;
  const float s_max[] = {250, 100, 130};
  const auto clip = clip_qk(c, s_max, 100, {q.view(), kv.view(), {}});
  ASSERT_TRUE(clip.ok()) << clip.status().message();
  EXPECT_TRUE(clip->applicable);
  EXPECT_EQ(clip->gamma, (std::vector<float>{100.f / 250, 1, 100.f / 130}));
  for (int64_t h = 0; h < c.heads; ++h) {
    const double gamma = static_cast<double>(clip->gamma[static_cast<size_t>(h)]);
    const Terms before = mla_terms(c, q0, kv0, h, x, latent, key),
                after = mla_terms(c, q, kv, h, x, latent, key);
    EXPECT_NEAR(after.nope, gamma * before.nope, 8 * kUlp * before.size);
    EXPECT_NEAR(after.rope, gamma * before.rope, 8 * kUlp * before.size);
    for (int64_t r = 0; r < c.v_dim; ++r) {  // values are not keys
      for (int64_t i = 0; i < 6; ++i) EXPECT_EQ(kv.at(h * 9 + 4 + r, i), kv0.at(h * 9 + 4 + r, i));
    }
  }
  for (int64_t r = 6; r < 12; ++r) {
    for (int64_t i = 0; i < 7; ++i) EXPECT_EQ(q.at(r, i), q0.at(r, i));  // head 1 was at tau, not above
  }
}

TEST(QkClip, GqaPutsGammaOnQueriesAndTheirBias) {
  ModelConfig c;
  c.attention = AttentionKind::kGqa;
  c.heads = 4, c.kv_heads = 2, c.head_dim = 3, c.hidden = 5, c.qkv_bias = true;
  const Numbers q0 = random_numbers(12, 5, 1), bias0 = random_numbers(1, 12, 2);
  Numbers q = q0, bias = bias0;
  const float s_max[] = {-3, 200, 90, 101};
  const auto clip = clip_qk(c, s_max, 100, {q.view(), {}, bias.values});
  ASSERT_TRUE(clip.ok()) << clip.status().message();
  for (int64_t r = 0; r < 12; ++r) {
    const float gamma = std::vector<float>{1, 0.5f, 1, 100.f / 101}[static_cast<size_t>(r / 3)];
    for (int64_t i = 0; i < 5; ++i)
      EXPECT_EQ(q.values[static_cast<size_t>(r * 5 + i)], q0.values[static_cast<size_t>(r * 5 + i)] * gamma);
    EXPECT_EQ(bias.values[static_cast<size_t>(r)], bias0.values[static_cast<size_t>(r)] * gamma);
  }
  c.qk_norm = true;
  const Numbers kept = q;
  const auto normed = clip_qk(c, s_max, 100, {q.view(), {}, bias.values});
  ASSERT_TRUE(normed.ok());
  EXPECT_FALSE(normed->applicable);
  EXPECT_TRUE(same_bits(kept.values, q.values));
  c.qk_norm = false;
  const float broken[] = {1, std::numeric_limits<float>::quiet_NaN(), 1, 1};
  EXPECT_EQ(clip_qk(c, broken, 100, {q.view(), {}, bias.values}).status().code(), Code::kInvalid);
  EXPECT_FALSE(clip_qk(c, s_max, 0, {q.view(), {}, bias.values}).ok());
  EXPECT_FALSE(clip_qk(c, s_max, 100, {q.view(), {}, {}}).ok());
  EXPECT_FALSE(clip_qk(c, {s_max, 3}, 100, {q.view(), {}, bias.values}).ok());
}

TEST(Eigen, ReconstructsTheMatrixWithOrthonormalVectors) {
  for (const int64_t n : {1, 2, 5, 32}) {
    const SquareMatrix s = row_gram(random_numbers(n, n > 2 ? n - 2 : n, 21).view());  // two zero eigenvalues
    const Eigen eigen = eigen_symmetric(s);
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = 0; j < n; ++j) {
        double product = 0, inner = 0;
        for (int64_t k = 0; k < n; ++k) {
          product += eigen.vectors.at(i, k) * eigen.values[static_cast<size_t>(k)] * eigen.vectors.at(j, k);
          inner += eigen.vectors.at(k, i) * eigen.vectors.at(k, j);
        }
        EXPECT_NEAR(product, s.at(i, j), 1e-13 * (1 + s.trace()));
        EXPECT_NEAR(inner, i == j, 1e-13);
      }
    }
  }
}

struct Adapter {
  Numbers a, b, grad_a, grad_b;
  ParameterState state;

  Adapter(Numbers a_in, Numbers b_in)
      : a(std::move(a_in)), b(std::move(b_in)), state(make_lora_state(a.rows, a.cols, b.rows)) {}
  LoraFactors factors() { return {"q_proj", a.view(), b.view(), grad_a.view(), grad_b.view(), &state}; }
  // The gradients of the factors for a gradient g of the product.
  void take_gradient(const Numbers& g) {
    grad_a = Numbers(a.rows, a.cols), grad_b = Numbers(b.rows, b.cols);
    multiply_tn(Team{}, b.view(), g.view(), grad_a.view());
    multiply_nt(Team{}, g.view(), a.view(), grad_b.view());
  }
  Numbers product() const {
    Numbers out(b.rows, a.cols);
    multiply_nn(Team{}, b.view(), a.view(), out.view());
    return out;
  }
};

void lora_step(const LoraMuon& config, double eta, Adapter& adapter) {
  ThreadPool pool(1);
  const LoraFactors pair = adapter.factors();
  const Status status = apply_lora_muon(config, eta, {&pair, 1}, pool);
  ASSERT_TRUE(status.ok()) << status.message();
}

Numbers minus(Numbers a, const Numbers& b) {
  for (size_t i = 0; i < a.values.size(); ++i) a.values[i] -= b.values[i];
  return a;
}

TEST(LoraMuon, FollowsItsFormulaInFloat64) {
  Adapter adapter(golden("lora.a"), golden("lora.b"));
  const Numbers all_a = golden("lora.gradients_a"), all_b = golden("lora.gradients_b");
  LoraMuon config;
  config.decay = 0.5;
  for (int64_t t = 0; t < 3; ++t) {
    adapter.grad_a = Numbers(adapter.a.rows, adapter.a.cols),
    adapter.grad_b = Numbers(adapter.b.rows, adapter.b.cols);
    std::ranges::copy(all_a.part(t, adapter.a.rows).values(), adapter.grad_a.values.begin());
    std::ranges::copy(all_b.part(t, adapter.b.rows).values(), adapter.grad_b.values.begin());
    lora_step(config, 0.1, adapter);
  }
  EXPECT_LE(largest_gap(adapter.a, golden("lora.a_after")), 3e-6);      // of steps of 0.01, weights of 1
  EXPECT_LE(largest_gap(adapter.b, golden("lora.b_after")), 3e-6 * 8);  // weights of up to 8
}

TEST(LoraMuon, ProductStepsAreInvariantToTheFactorisation) {
  const int64_t rank = 4, in = 24, out = 18;
  Adapter one(random_numbers(rank, in, 31), random_numbers(out, rank, 32));
  // (B R, R^-1 A) with R a product of a shear, a permutation-like rotation and scales, so that the inverse is
  // exact enough: R = D (I + N), R^-1 = (I - N) D^-1 with N^2 = 0.
  const double scales[] = {8, 0.5, 2, 0.25};
  Numbers a(rank, in), b(out, rank);
  for (int64_t i = 0; i < out; ++i) {
    for (int64_t j = 0; j < rank; ++j) {
      double value = one.b.at(i, j) * scales[j];
      if (j >= 2) value += 0.75 * one.b.at(i, j - 2) * scales[j - 2];  // N maps coordinate j - 2 to j
      b.values[static_cast<size_t>(i * rank + j)] = static_cast<float>(value);
    }
  }
  for (int64_t j = 0; j < rank; ++j) {
    for (int64_t c = 0; c < in; ++c) {
      double value = one.a.at(j, c) / scales[j];
      if (j < 2) value -= 0.75 * one.a.at(j + 2, c) / scales[j + 2];
      a.values[static_cast<size_t>(j * in + c)] = static_cast<float>(value);
    }
  }
  Adapter two(a, b);
  ASSERT_LE(largest_gap(one.product(), two.product()), 1e-4);
  LoraMuon config;
  config.damping = 1e-12;  // a damping is relative to a trace, which is not invariant
  for (int t = 0; t < 4; ++t) {
    const Numbers g = random_numbers(out, in, 40 + static_cast<uint32_t>(t));
    one.take_gradient(g), two.take_gradient(g);
    const Numbers before_one = one.product(), before_two = two.product();
    lora_step(config, 0.5, one), lora_step(config, 0.5, two);
    const Numbers step_one = minus(one.product(), before_one), step_two = minus(two.product(), before_two);
    const std::vector<double> size = singular_values(step_one);
    EXPECT_GT(size.back(), 0.1);
    EXPECT_LE(distance(step_one, step_two), 1e-3 * size.back()) << t;
  }
}

TEST(LoraMuon, SpectralNormOfAProductStepIsItsBudget) {
  Adapter adapter(random_numbers(8, 60, 51, 0.3f), random_numbers(40, 8, 52, 3.0f));
  const double eta = 1e-2;
  for (int t = 0; t < 5; ++t) {
    adapter.take_gradient(random_numbers(40, 60, 60 + static_cast<uint32_t>(t)));
    const Numbers before = adapter.product();
    lora_step({}, eta, adapter);
    // Two terms of eta / 2, one in the columns of B, one in the rows of A: at least one of them, at most
    // both.
    const double norm = singular_values(minus(adapter.product(), before)).back();
    EXPECT_GE(norm, 0.5 * eta * 0.98);
    EXPECT_LE(norm, eta * 1.02);
  }
}

TEST(LoraMuon, StandardInitialisationStartsWithinTheBudget) {
  Adapter adapter(random_numbers(8, 60, 71, 0.2f), Numbers(40, 8));
  const double eta = 1e-2;
  for (int t = 0; t < 20; ++t) {
    adapter.take_gradient(random_numbers(40, 60, 80 + static_cast<uint32_t>(t)));
    const Numbers before = adapter.product(), a = adapter.a;
    lora_step({}, eta, adapter);
    const double norm = singular_values(minus(adapter.product(), before)).back();
    if (t == 0) {
      EXPECT_NEAR(norm, eta, 1e-3 * eta);                  // B takes the whole budget,
      EXPECT_TRUE(same_bits(a.values, adapter.a.values));  // A keeps still
    } else {
      EXPECT_FALSE(same_bits(a.values, adapter.a.values));
      EXPECT_GE(norm, 0.45 * eta);
      EXPECT_LE(norm, 1.5 * eta);  // the budget and the product of both steps
    }
  }
}

TEST(LoraMuon, BitsDependOnNoThreadAndErrorsChangeNothing) {
  const auto run = [](int threads) {
    std::vector<Adapter> adapters;
    for (uint32_t i = 0; i < 12; ++i) {
      adapters.emplace_back(random_numbers(4, 20 + i, i), random_numbers(30, 4, 100 + i));
      adapters.back().take_gradient(random_numbers(30, 20 + i, 200 + i));
    }
    std::vector<LoraFactors> pairs;
    for (Adapter& adapter : adapters) pairs.push_back(adapter.factors());
    ThreadPool pool(threads);
    EXPECT_TRUE(apply_lora_muon({}, 0.1, pairs, pool).ok());
    std::vector<float> bits;
    for (const Adapter& adapter : adapters) {
      bits.insert(bits.end(), adapter.a.values.begin(), adapter.a.values.end());
      bits.insert(bits.end(), adapter.b.values.begin(), adapter.b.values.end());
    }
    pairs.back().grad_a.cols -= 1;
    EXPECT_EQ(apply_lora_muon({}, 0.1, pairs, pool).code(), Code::kInvalid);
    EXPECT_EQ(adapters[0].state.step, 1);
    LoraMuon config;
    config.decay = 10;
    EXPECT_EQ(apply_lora_muon(config, 0.1, {}, pool).code(), Code::kInvalid);
    return bits;
  };
  const std::vector<float> one = run(1);
  EXPECT_TRUE(same_bits(one, run(2)));
  EXPECT_TRUE(same_bits(one, run(5)));
}

TEST(Schedule, FollowsTransformers) {
  const auto expect = [](const std::string& name, const auto& factor) {
    const TensorEntry& entry = golden_entry("schedule." + name);
    ASSERT_EQ(entry.shape, std::vector<int64_t>{130});
    for (int64_t step = 0; step < 130; ++step)
      EXPECT_NEAR(factor(step), load_unaligned<double>(entry.data, step), 1e-15) << name << " " << step;
  };
  expect("cosine", [](int64_t step) { return warmup_cosine(step, 10, 129); });
  expect("cosine_floor", [](int64_t step) { return warmup_cosine(step, 7, 129, 0.1); });
  const auto wsd = [](Decay shape) {
    return [shape](int64_t step) { return warmup_stable_decay(step, 10, 70, 30, 0.05, shape); };
  };
  expect("wsd_linear", wsd(Decay::kLinear));
  expect("wsd_cosine", wsd(Decay::kCosine));
  expect("wsd_1-sqrt", wsd(Decay::kOneMinusSqrt));
  EXPECT_EQ(warmup_cosine(1000, 10, 129, 0.1), 0.1);  // transformers would rise again
  EXPECT_EQ(warmup_cosine(0, 0, 0), 0);
}

TEST(Gradients, AreClippedAsPyTorchDoes) {
  ThreadPool pool(2);
  for (const std::string name : {"clip.large", "clip.small"}) {
    std::vector<Numbers> all;
    std::vector<NamedGradient> gradients;
    for (int i = 0; i < 3; ++i) all.push_back(golden(fmt::format("{}.{}", name, i)));
    for (Numbers& one : all) gradients.push_back({"g", one.view()});
    const auto norm = clip_gradients(gradients, 1.0, Team{&pool});
    ASSERT_TRUE(norm.ok());
    EXPECT_NEAR(*norm, golden(name + ".norm").at(0, 0), 1e-6 * *norm);
    for (int i = 0; i < 3; ++i)
      EXPECT_LE(largest_gap(all[static_cast<size_t>(i)], golden(fmt::format("{}.{}.after", name, i))), 1e-6);
  }
}

TEST(Gradients, ANumberThatIsNotFiniteIsNamed) {
  Numbers fine = random_numbers(4, 4, 1), broken = random_numbers(3, 5, 2);
  const NamedGradient gradients[] = {{"good", fine.view()}, {"model.layers.3.q_proj", broken.view()}};
  fine.values[0] = std::numeric_limits<float>::max();  // large, but a number
  EXPECT_TRUE(check_gradients(gradients, Team{}).ok());
  const std::vector<float> before = fine.values;
  for (const float value :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    broken.values[7] = value;
    const Status status = clip_gradients(gradients, 1.0, Team{}).status();
    EXPECT_EQ(status.code(), Code::kInvalid);
    EXPECT_NE(status.message().find("model.layers.3.q_proj"), std::string::npos) << status.message();
    EXPECT_NE(status.message().find("[1, 2]"), std::string::npos) << status.message();
    EXPECT_TRUE(same_bits(before, fine.values));
    EXPECT_FALSE(check_gradients(gradients, Team{}).ok());
  }
  EXPECT_FALSE(clip_gradients({}, 0, Team{}).ok());
}

}  // namespace
}  // namespace moebius::optim
