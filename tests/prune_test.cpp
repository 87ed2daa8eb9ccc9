// Calibration and pruned checkpoints: scores against an independent restatement, and pruned models against
// the same models with the neurons, or experts, switched off.
#include "engine/prune/calibration.h"
#include "engine/prune/pruned_checkpoint.h"

#include <fmt/format.h>

#include <map>

#include "kernels/half.h"
#include "tests/adapter_cases.h"
#include "tests/tools_process.h"

namespace moebius {
namespace {

namespace fs = std::filesystem;
using adapters::all_logits;
using adapters::kFloat32Bound;
using adapters::kModels;
using adapters::read_golden;
using adapters::relative_error;
using process::Scratch;

std::unique_ptr<ModelFiles> open_files(const std::string& dir) {
  auto files = ModelFiles::open(dir);
  EXPECT_TRUE(files.ok()) << files.status().message();
  return files.ok() ? std::move(*files) : nullptr;
}

PruneScores scores_of(const ModelFiles& files, std::span<const std::vector<int32_t>> sequences,
                      CalibrationOptions options = {}) {
  options.threads = 2;
  auto scores = calibrate(files, sequences, options);
  EXPECT_TRUE(scores.ok()) << scores.status().message();
  return scores.ok() ? std::move(*scores) : PruneScores();
}

PruneScores golden_scores(const ModelFiles& files) {
  const std::vector<int32_t> ids = read_golden(files.checkpoint().dir()).ids;
  return scores_of(files, std::span(&ids, 1));
}

template <class T>
std::vector<T> golden_tensor(const SafetensorsFile& file, const std::string& name) {
  for (const TensorEntry& t : file.tensors()) {
    if (t.name != name) continue;
    std::vector<T> values(static_cast<size_t>(t.bytes) / sizeof(T));
    std::memcpy(values.data(), t.data, static_cast<size_t>(t.bytes));
    return values;
  }
  ADD_FAILURE() << name << " is missing";
  return {};
}

// Activations agree with float64 within kFloat32Bound of their size. The terms of a score are products of two
// or three of them (g ||y||, and x and y in the cosine; m, q = y down and 1 / ||y||), each off by that at
// most, and a score is a sum of such terms: off by 4 of these bounds of the largest score that terms of one
// sign give. Importances have one sign; neuron scores are bounded by their layer's largest.
constexpr double kScoreBound = 4 * kFloat32Bound;

template <class T>
void expect_close(const std::vector<T>& ours, const std::vector<double>& golden, const std::string& what) {
  ASSERT_EQ(ours.size(), golden.size()) << what;
  double largest = 0, worst = 0;
  for (size_t i = 0; i < golden.size(); ++i) {
    largest = std::max(largest, std::abs(golden[i]));
    worst = std::max(worst, std::abs(static_cast<double>(ours[i]) - golden[i]));
  }
  EXPECT_LE(worst, kScoreBound * largest) << what;
  EXPECT_GT(largest, 0) << what;
}

class GoldenScores : public ::testing::TestWithParam<const char*> {};

TEST_P(GoldenScores, AreThoseOfTheRestatement) {
  const auto files = open_files(kModels + GetParam());
  auto golden = SafetensorsFile::open(fmt::format("tests/golden/pruning/{}.safetensors", GetParam()));
  ASSERT_TRUE(golden.ok()) << golden.status().message();
  const std::vector<int32_t> ids = read_golden(kModels + GetParam()).ids;
  const std::vector<int32_t> starts = golden_tensor<int32_t>(**golden, "starts");
  std::vector<std::vector<int32_t>> sequences;
  for (size_t i = 0; i + 1 < starts.size(); ++i)
    sequences.emplace_back(ids.begin() + starts[i], ids.begin() + starts[i + 1]);
  const PruneScores scores = scores_of(*files, sequences);
  EXPECT_EQ(scores.tokens, std::ssize(ids));
  for (const LayerScores& layer : scores.layers) {
    const auto name = [&](const char* what) { return fmt::format("{}.{}", layer.layer, what); };
    const std::vector<int32_t> tokens = golden_tensor<int32_t>(**golden, name("tokens"));
    EXPECT_TRUE(std::ranges::equal(tokens, layer.tokens)) << name("tokens");
    expect_close(layer.gate, golden_tensor<double>(**golden, name("gate")), name("gate"));
    expect_close(layer.importance, golden_tensor<double>(**golden, name("importance")), name("importance"));
    expect_close(layer.neurons, golden_tensor<double>(**golden, name("neurons")), name("neurons"));
  }
}

INSTANTIATE_TEST_SUITE_P(Models, GoldenScores,
                         ::testing::Values("deepseek_v3_tiny", "qwen3_moe", "deepseek_v3_grouped"));

// Many sequences, in one pass or in as many as slices allow: the same tokens in the same order for each
// expert. Products in float32 may be summed in another order for another number of tokens.
TEST(Calibration, DoesNotDependOnThePass) {
  for (const char* model : {"deepseek_v3_tiny", "deepseek_v3_int8", "qwen3_moe_zeda"}) {
    const auto files = open_files(kModels + model);
    const std::vector<int32_t> ids = read_golden(kModels + model).ids;
    std::vector<std::vector<int32_t>> sequences;
    for (int i = 0; i < 300; ++i)
      sequences.emplace_back(ids.begin(), ids.end() - i % static_cast<int>(ids.size() - 1));
    CalibrationOptions small;
    small.pass_bytes = 1;
    const PruneScores one = scores_of(*files, sequences), many = scores_of(*files, sequences, small);
    for (size_t l = 0; l < one.layers.size(); ++l) {
      EXPECT_EQ(one.layers[l].tokens, many.layers[l].tokens);
      EXPECT_LT(relative_error(one.layers[l].neurons, many.layers[l].neurons), 1e-5) << model;
    }
  }
}

TEST(Calibration, CanBeCancelledAndRefusesWhatItCannotRead) {
  const auto files = open_files(kModels + "deepseek_v3_tiny");
  std::vector<std::vector<int32_t>> sequences = {{1, 2, 3}};
  CalibrationOptions options;
  options.progress = [](int64_t, int64_t) { return false; };
  EXPECT_EQ(calibrate(*files, sequences, options).status().code(), Code::kCancelled);
  sequences = {{1, 1 << 20}};
  EXPECT_NE(calibrate(*files, sequences, {}).status().message().find("the tokenizer is not this model's"),
            std::string::npos);
  sequences = {{}};
  EXPECT_EQ(calibrate(*files, sequences, {}).status().code(), Code::kInvalid);
  const auto ragged = open_files(kModels + "deepseek_v3_ragged");
  sequences = {{1}};
  EXPECT_NE(calibrate(*ragged, sequences, {}).status().message().find("unequal widths already"),
            std::string::npos);
}

TEST(RareExperts, GoByTheNormsOfTheirWeights) {
  const auto files = open_files(kModels + "qwen3_moe");
  PruneScores scores = golden_scores(*files);
  const PruneScores before = scores;
  const int64_t least = 5;
  const std::vector<RareExpert> rare = score_rare_experts(files->weights(), least, scores);
  size_t expected = 0;
  for (size_t l = 0; l < scores.layers.size(); ++l) {
    const LayerScores& layer = scores.layers[l];
    for (int64_t e = 0; e < scores.experts; ++e) {
      const float *now = scores.neurons(l, e), *then = before.neurons(l, e);
      if (layer.tokens[static_cast<size_t>(e)] >= least) {
        EXPECT_TRUE(std::equal(now, now + scores.width, then));
        continue;
      }
      ++expected;
      const ExpertWeights& w =
          files->weights().layers[static_cast<size_t>(layer.layer)].experts[static_cast<size_t>(e)];
      const int64_t k = scores.width / 2, hidden = w.gate.cols;
      double gate = 0, up = 0, down = 0;
      for (int64_t i = 0; i < hidden; ++i) {
        gate += std::pow(load_unaligned<float>(w.gate.data, k * hidden + i), 2);
        up += std::pow(load_unaligned<float>(w.up.data, k * hidden + i), 2);
        down += std::pow(load_unaligned<float>(w.down.data, i * scores.width + k), 2);
      }
      EXPECT_FLOAT_EQ(now[k], static_cast<float>(std::sqrt(gate * up * down)));
    }
  }
  EXPECT_EQ(rare.size(), expected);
  EXPECT_GT(expected, 0u);
}

TEST(ScoresFile, KeepsAllAndKnowsItsModel) {
  const Scratch scratch;
  const auto files = open_files(kModels + "qwen3_moe"), other = open_files(kModels + "deepseek_v3_tiny");
  const PruneScores scores = golden_scores(*files);
  const std::string path = scratch.file("scores.safetensors");
  ASSERT_TRUE(write_scores(path, *files, scores).ok());
  const auto read = read_scores(path, *files);
  ASSERT_TRUE(read.ok()) << read.status().message();
  EXPECT_EQ(read->tokens, scores.tokens);
  for (size_t l = 0; l < scores.layers.size(); ++l) {
    EXPECT_EQ(read->layers[l].tokens, scores.layers[l].tokens);
    EXPECT_EQ(read->layers[l].gate, scores.layers[l].gate);
    EXPECT_EQ(read->layers[l].importance, scores.layers[l].importance);
    EXPECT_EQ(read->layers[l].neurons, scores.layers[l].neurons);
  }
  EXPECT_NE(read_scores(path, *other).status().message().find("scores of another model"), std::string::npos);
  EXPECT_NE(
      read_scores(kModels + "qwen3_moe/model.safetensors", *files).status().message().find("holds no scores"),
      std::string::npos);
  PruneScores broken = scores;
  broken.layers[0].neurons[3] = NAN;
  ASSERT_TRUE(write_scores(path, *files, broken).ok());
  EXPECT_NE(read_scores(path, *files).status().message().find("numbers that are no scores"),
            std::string::npos);
}

// ---- pruned checkpoints ----

std::vector<float> numbers_of(const Matrix& w) {
  std::vector<float> numbers(static_cast<size_t>(w.rows * w.cols));
  format_kernels(w.format).back().dequantize_rows(w, 0, w.rows, numbers.data(), w.cols);
  return numbers;
}

std::unique_ptr<ModelFiles> pruned(const ModelFiles& files, const PrunePlan& plan, const std::string& dir) {
  auto checkpoint = PrunedCheckpoint::create(files, plan);
  EXPECT_TRUE(checkpoint.ok()) << checkpoint.status().message();
  fs::create_directories(dir);
  const Status status = checkpoint->write(dir, {2, {}});
  EXPECT_TRUE(status.ok()) << status.message();
  int64_t bytes = 0;
  for (const auto& entry : fs::directory_iterator(dir))
    if (entry.path().extension() == ".safetensors") bytes += static_cast<int64_t>(entry.file_size());
  EXPECT_GE(bytes, checkpoint->sizes().bytes);
  auto out = open_files(dir);
  if (out) {
    EXPECT_EQ(out->checkpoint().total_bytes(), checkpoint->sizes().bytes);
  }
  return out;
}

PrunePlan plan_of(const ModelFiles& files, PruneRequest request) {
  auto plan = plan_pruning(files, golden_scores(files), request);
  EXPECT_TRUE(plan.ok()) << plan.status().message();
  return plan.ok() ? std::move(*plan) : PrunePlan();
}

// A copy of a float model in which every neuron that a plan leaves out has a column of zeros in down_proj.
std::string switched_off(const ModelFiles& files, const PrunePlan& plan, const std::string& dir) {
  fs::copy(files.checkpoint().dir(), dir, fs::copy_options::recursive);
  std::map<const void*, std::vector<uint8_t>> changed;  // by where the tensor lies
  size_t moe = 0;
  for (const LayerWeights& layer : files.weights().layers) {
    if (layer.experts.empty()) continue;
    for (size_t e = 0; e < layer.experts.size(); ++e) {
      const Matrix& down = layer.experts[e].down;
      const size_t bytes = static_cast<size_t>(down.row_bytes() / down.cols);
      const std::vector<int32_t>& kept = plan.kept[moe][e];
      for (const TensorEntry* t : files.checkpoint().tensors()) {
        const char* begin = static_cast<const char*>(t->data);
        const char* data = static_cast<const char*>(down.data);
        if (data < begin || data >= begin + t->bytes) continue;
        std::vector<uint8_t>& copy = changed[t->data];
        if (copy.empty()) copy.assign(begin, begin + t->bytes);
        for (int64_t r = 0; r < down.rows; ++r)
          for (int32_t k = 0; k < down.cols; ++k)
            if (!std::ranges::binary_search(kept, k))
              std::memset(copy.data() + (data - begin) + (r * down.cols + k) * static_cast<int64_t>(bytes), 0,
                          bytes);
      }
    }
    ++moe;
  }
  for (const Checkpoint::Shard& shard : files.checkpoint().shards()) {
    SafetensorsWriter writer(dir + "/" + shard.name, {{"format", "pt"}});
    for (const TensorEntry& t : shard.file->tensors()) writer.declare(t.name, t.dtype, t.shape);
    for (const TensorEntry& t : shard.file->tensors()) {
      const auto at = changed.find(t.data);
      EXPECT_TRUE(
          writer.append(at == changed.end() ? t.data : at->second.data(), static_cast<size_t>(t.bytes)).ok());
    }
    EXPECT_TRUE(writer.finish().ok());
  }
  return dir;
}

std::vector<float> logits_of(const std::string& dir, const std::vector<int32_t>& ids) {
  const auto engine = adapters::open_engine(dir, "");
  return engine ? all_logits(*engine, ids) : std::vector<float>();
}

struct FloatCase {
  const char* model;
  PruneRequest request;
};

class PrunedFloats : public ::testing::TestWithParam<FloatCase> {};

// The pruned model's logits are those of the model with the same neurons switched off: the same sums without
// their zeros, in another order.
TEST_P(PrunedFloats, ComputeWhatTheModelDoesWithoutTheNeurons) {
  const Scratch scratch;
  const auto files = open_files(kModels + GetParam().model);
  const std::vector<int32_t> ids = read_golden(kModels + GetParam().model).ids;
  const PrunePlan plan = plan_of(*files, GetParam().request);
  const auto small = pruned(*files, plan, scratch.file("pruned"));
  ASSERT_TRUE(small);
  EXPECT_EQ(small->config().moe.width, plan.widest());
  EXPECT_EQ(small->config().moe.widths.empty(), plan.uniform());
  EXPECT_LT(small->checkpoint().total_bytes(), files->checkpoint().total_bytes());
  const std::string off = switched_off(*files, plan, scratch.file("off"));
  const std::vector<float> ours = logits_of(scratch.file("pruned"), ids), theirs = logits_of(off, ids);
  EXPECT_LT(relative_error(ours, theirs), 1e-5);
  EXPECT_GT(relative_error(ours, logits_of(kModels + GetParam().model, ids)), 1e-3);  // it did something
}

constexpr PruneMethod kTenp = PruneMethod::kTenp, kEnp = PruneMethod::kEnp;
INSTANTIATE_TEST_SUITE_P(
    Models, PrunedFloats,
    ::testing::Values(FloatCase{"deepseek_v3_tiny", {kTenp, 0.5, 0.25, 1, 2, 1}},
                      FloatCase{"deepseek_v3_tiny", {kEnp, 0.75}},  // shared experts of 64 by 24
                      FloatCase{"deepseek_v3_tiny", {kTenp, 0.5, 0, 1, 2, 1}},
                      FloatCase{"qwen3_moe", {kTenp, 0.6, 0.3, 1, 2, 4}}, FloatCase{"qwen3_moe", {kEnp, 0.5}},
                      FloatCase{"qwen3_moe_sharded", {kTenp, 0.5, 0.25, 1, 2, 4}},
                      FloatCase{"deepseek_v3_bf16", {kEnp, 0.5}},
                      FloatCase{"qwen3_moe_f16", {kTenp, 0.5, 0.25, 1, 2, 4}},
                      FloatCase{"deepseek_v2_fused", {kTenp, 0.5, 0.25, 1, 2, 4}},
                      FloatCase{"glm4_moe_fused", {kEnp, 0.5}},
                      FloatCase{"deepseek_v3_grouped", {kTenp, 0.5, 0.25, 1, 2, 4}},
                      FloatCase{"qwen3_moe_zeda", {kTenp, 0.5, 0.25, 1, 2, 4}}));

// A dropped expert is one that is never chosen.
TEST(DroppedExperts, LeaveTheRouterAsIfTheyWereNeverChosen) {
  const Scratch scratch;
  const auto files = open_files(kModels + "deepseek_v3_tiny");
  const std::vector<int32_t> ids = read_golden(kModels + "deepseek_v3_tiny").ids;
  const PrunePlan plan = plan_of(*files, {PruneMethod::kDrop, 0.5});
  const auto small = pruned(*files, plan, scratch.file("pruned"));
  ASSERT_TRUE(small);
  EXPECT_EQ(small->config().moe.n_experts, 4);
  EXPECT_EQ(small->config().moe.width, 32);
  const std::string off = scratch.file("off");
  fs::copy(kModels + "deepseek_v3_tiny", off, fs::copy_options::recursive);
  SafetensorsWriter writer(off + "/model.safetensors", {{"format", "pt"}});
  size_t moe = 0;
  const std::vector<TensorEntry>& all = files->checkpoint().shards().front().file->tensors();
  std::map<std::string, std::vector<float>> biases;
  for (size_t l = 0; l < files->weights().layers.size(); ++l) {
    if (files->weights().layers[l].experts.empty()) continue;
    const Tensor& bias = files->weights().layers[l].router_bias;
    std::vector<float> values(bias.f32(), bias.f32() + bias.numel());
    for (size_t e = 0; e < values.size(); ++e)
      if (plan.widths[moe][e] == 0) values[e] = -1e9f;
    biases[fmt::format("model.layers.{}.mlp.gate.e_score_correction_bias", l)] = values;
    ++moe;
  }
  for (const TensorEntry& t : all) writer.declare(t.name, t.dtype, t.shape);
  for (const TensorEntry& t : all) {
    const auto at = biases.find(t.name);
    ASSERT_TRUE(at == biases.end() || t.dtype == DType::kF32);
    ASSERT_TRUE(
        writer.append(at == biases.end() ? t.data : at->second.data(), static_cast<size_t>(t.bytes)).ok());
  }
  ASSERT_TRUE(writer.finish().ok());
  EXPECT_LT(relative_error(logits_of(scratch.file("pruned"), ids), logits_of(off, ids)), 1e-5);
}

// Rows and whole experts are the model's own numbers. Where columns were quantised again, the squared error
// of a group is no more than by the plain scale, which makes its largest number 7 (127), rounded to BF16:
// half a step of that for each number. Of an FP8 block, half a unit in the last of 3 bits for each number, or
// half a step of the subnormal ones, where the largest becomes 448.
TEST(PrunedIntegers, KeepRowsExactlyAndColumnsWithinAStep) {
  for (const char* model : {"deepseek_v3_int4", "deepseek_v3_int8", "qwen3_moe_int4", "qwen3_moe_int8"}) {
    const Scratch scratch;
    const auto files = open_files(kModels + model);
    PrunePlan plan = plan_of(*files, {kTenp, 0.75, 0.5});
    const auto small = pruned(*files, plan, scratch.file("pruned"));
    ASSERT_TRUE(small);
    size_t moe = 0;
    double worst = 0;
    for (size_t l = 0; l < files->weights().layers.size(); ++l) {
      const LayerWeights &before = files->weights().layers[l], &after = small->weights().layers[l];
      if (before.experts.empty()) continue;
      for (size_t e = 0; e < before.experts.size(); ++e) {
        const std::vector<int32_t>& kept = plan.kept[moe][e];
        const bool whole = std::ssize(kept) == plan.width;
        for (const auto part : {&ExpertWeights::gate, &ExpertWeights::up}) {
          const Matrix &from = before.experts[e].*part, &to = after.experts[e].*part;
          const std::vector<float> old = numbers_of(from), now = numbers_of(to);
          for (size_t r = 0; r < kept.size(); ++r)
            EXPECT_TRUE(std::equal(now.begin() + static_cast<int64_t>(r) * to.cols,
                                   now.begin() + static_cast<int64_t>(r + 1) * to.cols,
                                   old.begin() + kept[r] * from.cols));
        }
        const Matrix &from = before.experts[e].down, &to = after.experts[e].down;
        ASSERT_EQ(to.format, from.format);
        ASSERT_EQ(to.group, from.group);
        const std::vector<float> old = numbers_of(from), now = numbers_of(to);
        if (whole) {
          EXPECT_EQ(now, old);
        }
        const double steps = to.format == Format::kInt4 ? 7 : 127;
        for (int64_t r = 0; r < to.rows; ++r) {
          for (int64_t begin = 0; begin < to.cols; begin += to.group) {
            float largest = 0;
            for (int64_t c = begin; c < begin + to.group; ++c)
              largest = std::max(
                  largest, std::abs(old[static_cast<size_t>(r * from.cols + kept[static_cast<size_t>(c)])]));
            double squares = 0;
            for (int64_t c = begin; c < begin + to.group; ++c)
              squares += std::pow(static_cast<double>(now[static_cast<size_t>(r * to.cols + c)]) -
                                      old[static_cast<size_t>(r * from.cols + kept[static_cast<size_t>(c)])],
                                  2);
            const double step = largest / steps * (1 + 0x1p-8);
            const double root = std::sqrt(squares / static_cast<double>(to.group));
            if (largest > 0) worst = std::max(worst, root / (step / 2));
          }
        }
      }
      ++moe;
    }
    EXPECT_LE(worst, 1) << model;
    EXPECT_GT(worst, 0.01) << model;
    const std::vector<float> logits = logits_of(scratch.file("pruned"), read_golden(kModels + model).ids);
    EXPECT_TRUE(std::ranges::all_of(logits, [](float v) { return std::isfinite(v); }));
  }
}

TEST(PrunedFp8, KeepsNumbersWithinItsPrecision) {
  const Scratch scratch;
  const auto files = open_files(kModels + "deepseek_v3_fp8");
  const PrunePlan plan = plan_of(*files, {kTenp, 0.6, 0.25});
  const auto small = pruned(*files, plan, scratch.file("pruned"));
  ASSERT_TRUE(small);
  size_t moe = 0;
  for (size_t l = 0; l < files->weights().layers.size(); ++l) {
    const LayerWeights &before = files->weights().layers[l], &after = small->weights().layers[l];
    if (before.experts.empty()) continue;
    for (size_t e = 0; e < before.experts.size(); ++e) {
      const std::vector<int32_t>& kept = plan.kept[moe][e];
      const auto check = [&](const Matrix& from, const Matrix& to, bool rows) {
        ASSERT_EQ(to.format, Format::kFp8Block);
        const std::vector<float> old = numbers_of(from), now = numbers_of(to);
        std::map<std::pair<int64_t, int64_t>, std::vector<std::pair<float, float>>> blocks;
        for (int64_t r = 0; r < to.rows; ++r) {
          for (int64_t c = 0; c < to.cols; ++c) {
            const int64_t row = rows ? kept[static_cast<size_t>(r)] : r;
            const int64_t col = rows ? c : kept[static_cast<size_t>(c)];
            blocks[{r / kFp8Block, c / kFp8Block}].emplace_back(
                old[static_cast<size_t>(row * from.cols + col)], now[static_cast<size_t>(r * to.cols + c)]);
          }
        }
        if (std::ssize(kept) == plan.width) {
          EXPECT_EQ(now, old);
        }
        for (const auto& [at, pairs] : blocks) {
          double largest = 0, squares = 0, allowed = 0;
          for (const auto& [a, b] : pairs) largest = std::max(largest, std::abs(static_cast<double>(a)));
          for (const auto& [a, b] : pairs) {
            squares += std::pow(static_cast<double>(a) - b, 2);
            allowed += std::pow(std::max(std::abs(a) * 0x1p-4, largest / 448 * 0x1p-10), 2);
          }
          EXPECT_LE(squares, allowed);
        }
      };
      check(before.experts[e].gate, after.experts[e].gate, true);
      check(before.experts[e].up, after.experts[e].up, true);
      check(before.experts[e].down, after.experts[e].down, false);
    }
    ++moe;
  }
}

}  // namespace
}  // namespace moebius
