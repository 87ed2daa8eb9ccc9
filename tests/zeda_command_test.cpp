// moebius zeda as a user meets it.
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "tests/dense_model.h"
#include "tools/statistics.h"

namespace moebius {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using process::Args;
using process::Finished;
using process::read_file;
using process::run;
using process::Scratch;

std::string prompts(int count) {
  std::string text;
  for (int i = 0; i < count; ++i)
    text += fmt::format(
        R"({{"messages": [{{"role": "user", "content": "What is {} + {}?"}}, {{"role": "assistant", "content": "?"}}]}})"
        "\n",
        i + 2, 3 * i);
  return text;
}

Args adapt(const std::string& model, const std::string& data, const std::string& out, const Args& more = {}) {
  Args args = {"zeda",
               "adapt",
               "-m",
               model,
               "--data",
               data,
               "-o",
               out,
               "--answer-tokens",
               "24",
               "--eval-part",
               "0.1",
               "--sft-steps",
               "2",
               "--opd-steps",
               "2",
               "--opd-prompts",
               "3",
               "--save-every",
               "1",
               "-t",
               "2"};
  args.insert(args.end(), more.begin(), more.end());
  return args;
}

TEST(ZedaCommand, InjectsAdaptsGoesOnAndReports) {
  const Scratch scratch;
  const std::string data = scratch.write("data.jsonl", prompts(20)), injected = scratch.file("injected");
  const std::string out = scratch.file("out");
  Finished done = run({"zeda", "inject", "-o", injected});
  ASSERT_EQ(done.code, 0) << done.err;
  EXPECT_NE(done.out.find("16 experts and 8 zero experts"), std::string::npos) << done.out;
  done = run(adapt(injected, data, out));
  ASSERT_EQ(done.code, 0) << done.err;
  const std::string weights = read_file(out + "/model.safetensors");
  EXPECT_NE(read_file(out + "/sft/log.csv").find("zero_rate"), std::string::npos);
  EXPECT_NE(read_file(out + "/opd/zero_rate.svg").find("</svg>"), std::string::npos);

  // Interrupted anywhere, a run goes on to the same bits.
  fs::remove(out + "/opd/checkpoints/checkpoint-000002.safetensors");
  fs::remove(out + "/model.safetensors");
  EXPECT_EQ(run(adapt(injected, data, out)).code, 1);
  done = run(adapt(injected, data, out, {"--resume"}));
  ASSERT_EQ(done.code, 0) << done.err;
  EXPECT_TRUE(read_file(out + "/model.safetensors") == weights);
  fs::remove_all(out + "/opd");
  fs::remove(out + "/sft/checkpoints/checkpoint-000002.safetensors");
  done = run(adapt(injected, data, out, {"--resume"}));
  ASSERT_EQ(done.code, 0) << done.err;
  EXPECT_TRUE(read_file(out + "/model.safetensors") == weights);
  done = run(adapt(injected, data, out, {"--resume", "--zero-rate", "0.4"}));
  EXPECT_NE(done.err.find("zero weight"), std::string::npos) << done.err;

  done = run({"zeda", "report", "-m", out, "--data", data, "--against", "models/pebble", "--repeats", "1",
              "--json"});
  ASSERT_EQ(done.code, 0) << done.err;
  const json report = json::parse(done.out);
  EXPECT_GT(report["zero_rate"], 0.05);
  EXPECT_LT(report["zero_rate"], 0.95);
  EXPECT_EQ(report["layers"].size(), 5u);
  EXPECT_TRUE(report["kinds"].contains("prompt"));
  EXPECT_GT(report["kl"], 0);
  EXPECT_NEAR(report["times_as_fast"]["median"],
              report["tokens_per_s"].get<double>() / report["tokens_per_s_before"].get<double>(), 1e-9)
      << "one run each";
  EXPECT_EQ(run({"chat", "-m", out, "-p", "What is 2 + 3?", "--temp", "0", "--max-tokens", "4"}).code, 0);
  done = run(adapt(out, data, scratch.file("again")));
  EXPECT_NE(done.err.find("adapted already"), std::string::npos) << done.err;
  done = run({"zeda", "inject", "-m", out, "-o", scratch.file("twice")});
  EXPECT_NE(done.err.find("zero experts a layer already"), std::string::npos) << done.err;
}

// Ranks from the binomial distribution's tables: of 5 values 94 % between the extremes, of 9 96 % between the
// second from either end, of 20 96 % between the sixth ones.
TEST(MedianInterval, HoldsTheMedian) {
  const auto ranks = [](int n) {
    std::vector<double> values;
    for (int i = 0; i < n; ++i) values.push_back(1 + (i * 7) % n);  // 1 to n, in disorder
    const Interval interval = median_interval(values);
    return std::pair(interval.low, interval.high);
  };
  EXPECT_EQ(ranks(1), std::pair(1.0, 1.0));
  EXPECT_EQ(ranks(5), std::pair(1.0, 5.0));
  EXPECT_EQ(ranks(8), std::pair(1.0, 8.0));
  EXPECT_EQ(ranks(9), std::pair(2.0, 8.0));
  EXPECT_EQ(ranks(20), std::pair(6.0, 15.0));
  EXPECT_EQ(median_interval({}).high, 0);
}

TEST(ZedaCommand, AdaptsRoutersAndAdapters) {
  const Scratch scratch;
  const std::string data = scratch.write("data.jsonl", prompts(8)), injected = scratch.file("injected");
  const std::string out = scratch.file("out");
  ASSERT_EQ(run({"zeda", "inject", "-o", injected}).code, 0);
  Finished done = run(adapt(injected, data, out, {"--train", "lora", "--targets", "experts", "-r", "4"}));
  ASSERT_EQ(done.code, 0) << done.err;
  done = run({"zeda", "report", "-m", out, "--adapter", out + "/adapter", "--data", data, "--against",
              "models/pebble", "--repeats", "1", "--json"});
  ASSERT_EQ(done.code, 0) << done.err;
  const json report = json::parse(done.out);
  EXPECT_GT(report["zero_rate"], 0.05);
  done = run({"eval", "--data", data, "--json"});
  EXPECT_EQ(report["perplexity_before"], json::parse(done.out)["perplexity"])
      << "the original has no adapter";
  done = run(adapt(injected, data, scratch.file("bad"), {"--train", "lora", "--targets", "router"}));
  EXPECT_NE(done.err.find("routers are trained as they are"), std::string::npos) << done.err;
}

TEST(ZedaCommand, SaysWhatIsWrong) {
  const Scratch scratch;
  const std::string data = scratch.write("data.jsonl", prompts(2)), injected = scratch.file("injected");
  ASSERT_EQ(run({"zeda", "inject", "-o", injected}).code, 0);
  const std::string out = scratch.file("out"), dense = dense_model(scratch);
  struct Case {
    Args args;
    const char* says;
  };
  const Case cases[] = {
      {adapt(injected, data, out, {"--zero-rate", "1"}), "--zero-rate is 1"},
      {adapt(injected, data, out, {"--zero-rate", "0"}), "--zero-rate is 0"},
      {adapt(injected, data, out, {"--balance", "-1"}), "--balance is -1"},
      {adapt(injected, data, out, {"--temp", "0"}), "--temp is 0"},
      {adapt(injected, data, out, {"--eval-part", "0.9"}), "--eval-part is 0.9"},
      {adapt("models/pebble", data, out), "it has no zero experts"},
      {adapt(injected, scratch.file("none.jsonl"), out), "none.jsonl"},
      {{"zeda", "inject", "-o", injected}, "is not empty"},
      {{"zeda", "inject", "-m", dense, "-o", out}, "a model without routed experts"},
      {{"zeda", "inject", "--zero-experts", "2000000", "-o", out}, "2000000 zero experts"},
      {{"zeda", "report", "-m", dense, "--data", data}, "a model without routed experts"},
  };
  for (const Case& c : cases) {
    const Finished done = run(c.args);
    EXPECT_EQ(done.code, 1) << c.says;
    EXPECT_NE(done.err.find(c.says), std::string::npos) << done.err;
  }
  EXPECT_EQ(run({"zeda"}).code, 2);
}

}  // namespace
}  // namespace moebius
