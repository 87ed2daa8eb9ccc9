// The backward pass of whole models against PyTorch's autograd through Hugging Face transformers in float64
// (tests/golden/make_gradient_golden.py): every family, every stored form, full training and adapters.
#include <random>

#include "tests/gradient_golden.h"
#include "tests/mistaken_backend.h"

namespace moebius::test {
namespace {

constexpr double kLossBound = 1e-5;

std::unique_ptr<Backend> host(int threads = 2) {
  HostOptions options;
  options.threads = threads;
  options.exact_activations = true;
  return make_host_backend(options);
}

void prepare(Trainee& trainee, const GradientGolden& golden, const std::string& part,
             const std::function<bool(const std::string&)>& wanted = nullptr) {
  if (part == "full") trainee.train_all(wanted);
  if (part == "lora") trainee.adapt(golden, wanted);
}

std::vector<float> copy_of(const Tensor& t) { return {t.f32(), t.f32() + t.numel()}; }

// Largest difference of a gradient, relative to its norm.
double apart(const Trainee& a, const Trainee& b, float times) {
  double worst = 0;
  for (const auto& [name, gradient] : a.found) {
    const std::vector<float> mine = copy_of(gradient), theirs = copy_of(b.found.at(name));
    double sum = 0;
    for (size_t i = 0; i < mine.size(); ++i) {
      const double difference = mine[i] - static_cast<double>(times) * theirs[i];
      sum += difference * difference;
    }
    if (sum > 0) worst = std::max(worst, std::sqrt(sum) / norm_of(gradient));
  }
  return worst;
}

struct Part {
  std::string model, part;
};
void PrintTo(const Part& part, std::ostream* to) { *to << part.model << " " << part.part; }
std::string name_of(const testing::TestParamInfo<Part>& info) {
  return info.param.model + "_" + info.param.part;
}
std::vector<Part> parts() {
  std::vector<Part> parts;
  for (const char* part : {"full", "lora"})
    for (const std::string& model : gradient_models(part)) parts.push_back({model, part});
  return parts;
}

class Backward : public testing::TestWithParam<Part> {};

TEST_P(Backward, AgreesWithTransformers) {
  const auto& [model, part] = GetParam();
  const GradientGolden golden(model);
  Trainee trainee(model);
  prepare(trainee, golden, part);
  const double loss = trainee.train(*host(), golden.batch());
  const double want = golden.numbers<double>(part + ".loss")[0];
  EXPECT_NEAR(loss, want, kLossBound * want);
  const Difference difference = compare(golden, part, trainee.found);
  EXPECT_LE(difference.worst, 1) << difference.where;
  RecordProperty("difference", fmt::format("{:.1e} {}", difference.worst, difference.where));
}

TEST_P(Backward, ThreadsDoNotChangeABit) {
  const auto& [model, part] = GetParam();
  const GradientGolden golden(model);
  Trainee one(model), two(model);
  prepare(one, golden, part), prepare(two, golden, part);
  EXPECT_EQ(one.train(*host(1), golden.batch()), two.train(*host(2), golden.batch()));
  for (const auto& [name, gradient] : one.found)
    ASSERT_EQ(copy_of(gradient), copy_of(two.found.at(name))) << name;
}

// All layers run again, some, and none.
TEST_P(Backward, KeptActivationsChangeNoBit) {
  const auto& [model, part] = GetParam();
  const GradientGolden golden(model);
  Trainee kept(model);
  prepare(kept, golden, part);
  const double loss = kept.train(*host(), golden.batch());
  for (const int64_t kilobytes : {0, 24, 48, 96}) {
    Trainee other(model);
    prepare(other, golden, part);
    EXPECT_EQ(other.train(*host(), golden.batch(), 1, kilobytes << 10), loss);
    for (const auto& [name, gradient] : kept.found)
      ASSERT_EQ(copy_of(gradient), copy_of(other.found.at(name))) << name << ", " << kilobytes << " KB";
  }
}

TEST_P(Backward, FreezingChangesNoOtherGradient) {
  const auto& [model, part] = GetParam();
  const GradientGolden golden(model);
  Trainee all(model), some(model);
  prepare(all, golden, part);
  size_t asked = 0;
  prepare(some, golden, part, [&](const std::string&) { return asked++ % 3 == 0; });
  ASSERT_LT(some.found.size(), all.found.size());
  all.train(*host(), golden.batch());
  some.train(*host(), golden.batch());
  for (const auto& [name, gradient] : some.found)
    ASSERT_EQ(copy_of(gradient), copy_of(all.found.at(name))) << name;
}

// Twice the batch, and the batch one sequence at a time in the same pass, at other scales.
TEST_P(Backward, GradientsAddUp) {
  const auto& [model, part] = GetParam();
  const GradientGolden golden(model);
  Trainee once(model), more(model);
  prepare(once, golden, part), prepare(more, golden, part);
  const auto backend = host();
  const TrainBatch batch = golden.batch();
  const double loss = once.train(*backend, batch);

  const auto pass = more.pass(*backend, static_cast<int64_t>(batch.ids.size()));
  ASSERT_TRUE(pass->accumulate(batch, 0.5f, more.gradients).ok());
  double sum = 0;
  for (size_t i = 0; i + 1 < batch.starts.size(); ++i) {
    const size_t begin = static_cast<size_t>(batch.starts[i]);
    const size_t count = static_cast<size_t>(batch.starts[i + 1]) - begin;
    const std::vector<int64_t> starts{0, static_cast<int64_t>(count)};
    const TrainBatch one{batch.ids.subspan(begin, count), batch.targets.subspan(begin, count),
                         batch.weights.subspan(begin, count), starts};
    const auto part_loss = pass->accumulate(one, 2.0f, more.gradients);
    ASSERT_TRUE(part_loss.ok());
    EXPECT_EQ(*part_loss, *pass->evaluate(one));
    sum += *part_loss;
  }
  EXPECT_NEAR(sum, loss, kLossBound * loss);
  EXPECT_LE(apart(more, once, 2.5f), kNormBound);
}

INSTANTIATE_TEST_SUITE_P(All, Backward, testing::ValuesIn(parts()), name_of);

// Central differences of our own loss along a random direction, in proportion to each number.
TEST(BackwardAlone, AgreesWithDifferencesOfTheLoss) {
  for (const char* model : {"qwen3_moe", "glm4_moe_qk_norm", "deepseek_v2_grouped", "deepseek_v3_grouped"}) {
    const GradientGolden golden(model);
    const auto backend = host();
    Trainee trainee(model);
    const std::map<std::string, Tensor> numbers = trainee.own_weights();
    trainee.train_all();
    trainee.train(*backend, golden.batch());

    std::mt19937 random(7);
    std::normal_distribution<float> normal;
    std::map<std::string, std::vector<float>> before, direction;
    double exact = 0, square = 0;
    for (const auto& [name, gradient] : trainee.found) {
      before[name] = copy_of(numbers.at(name));
      for (int64_t i = 0; i < gradient.numel(); ++i) {
        const float number = before[name][static_cast<size_t>(i)];
        direction[name].push_back(normal(random) * number);
        exact += static_cast<double>(direction[name].back()) * gradient.f32()[i];
        square += std::pow(static_cast<double>(number) * gradient.f32()[i], 2);
      }
    }
    const auto loss_at = [&](float step) {
      for (const auto& [name, start] : before)
        for (size_t i = 0; i < start.size(); ++i)
          numbers.at(name).f32()[i] = start[i] + step * direction[name][i];
      return *trainee.pass(*backend, static_cast<int64_t>(golden.ids.size()))->evaluate(golden.batch());
    };
    const auto slope = [&](float h) { return (loss_at(h) - loss_at(-h)) / (2.0 * h); };
    const float h = 1.0f / 4096;
    const double numeric = (4 * slope(h) - slope(2 * h)) / 3;
    // A thousandth: the losses are float32 sums, and the step that steadies them bends the curve.
    EXPECT_NEAR(numeric, exact, 1e-3 * std::sqrt(square)) << model;
  }
}

double difference_with(const std::string& model, const std::string& part, Mistake mistake) {
  const GradientGolden golden(model);
  Trainee trainee(model);
  prepare(trainee, golden, part);
  const auto right = host();
  MistakenBackend backend(*right, mistake);
  trainee.train(backend, golden.batch());
  return compare(golden, part, trainee.found).worst;
}

TEST(BackwardPower, ADeliberateMistakeIsNoticed) {
  struct Case {
    Mistake mistake;
    const char* model;
    const char* part;
  };
  const Case cases[] = {
      {Mistake::kRouterNotNormalised, "deepseek_v3_zeda", "full"},
      {Mistake::kRouterNotNormalised, "qwen3_moe_int4", "lora"},
      {Mistake::kRouterNotScaled, "deepseek_v2_grouped", "full"},
      {Mistake::kRouterConstant, "deepseek_v3_int8", "lora"},
      {Mistake::kSequencesJoined, "deepseek_v3_tiny", "full"},
      {Mistake::kSequencesJoined, "glm4_moe_fp8", "lora"},
      {Mistake::kSharedKeyForgotten, "glm4_moe_lite", "full"},
      {Mistake::kRotationNotUndone, "deepseek_v3_grouped", "full"},
      {Mistake::kRotationNotUndone, "glm4_moe_qk_norm", "lora"},
      {Mistake::kNormEps, "deepseek_v2_lite", "full"},
      {Mistake::kNormEps, "qwen3_moe_bf16", "full"},
      {Mistake::kSwigluByAThousandth, "glm4_moe", "lora"},
      {Mistake::kExpertsWeighOne, "qwen3_moe_ragged", "full"},
      {Mistake::kLossWeightsForgotten, "qwen3_moe_f16", "full"},
      {Mistake::kBiasForgotten, "qwen3_moe_sharded", "full"},
      {Mistake::kAdapterByAThousandth, "deepseek_v3_fp8", "lora"},
  };
  for (const Case& c : cases) {
    EXPECT_LE(difference_with(c.model, c.part, Mistake::kNone), 1) << c.model;
    const double difference = difference_with(c.model, c.part, c.mistake);
    EXPECT_GT(difference, 5) << "mistake " << static_cast<int>(c.mistake) << " in " << c.model;
  }
}

// One number of one gradient, or one gradient's size.
TEST(BackwardPower, AChangedNumberIsNoticed) {
  const GradientGolden golden("qwen3_moe");
  Trainee trainee("qwen3_moe");
  trainee.train_all();
  trainee.train(*host(), golden.batch());
  const auto worst = [&] { return compare(golden, "full", trainee.found).worst; };
  EXPECT_LE(worst(), 1);

  const Tensor& first = trainee.found.at(golden.lines("full.names").front());
  float& number = first.f32()[golden.numbers<int32_t>("full.at").front()];
  const float right = number;
  number *= 1.01f;
  EXPECT_GT(worst(), 1);
  number = right;
  EXPECT_LE(worst(), 1);

  const Tensor& norm = trainee.found.at("model.norm.weight");
  for (int64_t i = 0; i < norm.numel(); ++i) norm.f32()[i] *= 1.00002f;
  EXPECT_GT(worst(), 1);
}

}  // namespace
}  // namespace moebius::test
