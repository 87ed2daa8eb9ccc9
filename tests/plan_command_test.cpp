// moebius plan as a user runs it: sizes, constraints, tables and JSON.
#include <algorithm>
#include <cmath>
#include <regex>
#include <set>
#include <sstream>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "engine/measure_speeds.h"
#include "tests/tools_process.h"

namespace moebius {
namespace {

using nlohmann::json;
using process::Args;
using process::Finished;
using process::run;
using process::Scratch;

// Speeds are given, so that nothing is probed and figures repeat.
Args plan(const Args& more) {
  Args args{"plan",      "--gpu-gbs", "800",          "--gpu-tflops", "80",         "--link-gbs", "20",
            "--ram-gbs", "200",       "--cpu-gflops", "2000",         "--disk-gbs", "5"};
  args.insert(args.end(), more.begin(), more.end());
  return args;
}

json planned(Args more) {
  more.push_back("--json");
  const Finished finished = run(plan(more));
  EXPECT_EQ(finished.code, 0) << finished.err;
  return json::parse(finished.out, nullptr, false);
}

json row(const json& facts, const std::string& name) {
  for (const json& r : facts["classes"]) {
    if (r["class"] == name) return r;
  }
  ADD_FAILURE() << "no class " << name;
  return {{"device_bytes", 0}, {"ram_bytes", 0}, {"disk_bytes", 0}};
}

const Args kKimi{"--geometry", "kimi-k2", "--quant", "int4", "--experts-only", "--gpu-memory", "24GiB"};

Args kimi(const std::string& ram) {
  Args args = kKimi;
  args.insert(args.end(), {"--ram", ram});
  return args;
}

// A fine-tuning.
Args moonlight(const Args& more) {
  Args args{"--finetune", "--geometry",     "moonlight-16b-a3b", "--quant",   "int4",  "--rank", "8",
            "--targets",  "q,kv,o,experts", "--optimizer",       "lora-muon", "--ram", "64GiB"};
  args.insert(args.end(), more.begin(), more.end());
  return args;
}

TEST(Plan, KimiWithRamForAll) {
  const json f = planned(kimi("768GiB"));
  EXPECT_EQ(f["weights"], 1'026'408'232'448);  // as its publisher counts
  EXPECT_EQ(f["shape"], "hybrid");
  EXPECT_EQ(f["experts"]["all"], 23040);
  EXPECT_EQ(f["experts"]["on_disk"], 0);
  EXPECT_EQ(row(f, "routed experts")["disk_bytes"], 0);
  EXPECT_LE(f["device_bytes"], int64_t{24} << 30);
  EXPECT_EQ(f["speeds"]["ram_GBs"]["value"], 200);
  EXPECT_EQ(f["speeds"]["ram_GBs"]["source"], "given");
  const json& d = f["decode"];
  EXPECT_NEAR(d["seconds"].get<double>(),
              d["attention_s"].get<double>() + d["experts_s"].get<double>() + d["head_s"].get<double>(),
              1e-9);
  EXPECT_NEAR(d["tokens_per_s"].get<double>() * d["seconds"].get<double>(), 1, 1e-9);
  EXPECT_EQ(f["experts"]["resident_by_layer"].size(), 61u);
}

TEST(Plan, KimiWithoutRamForAllShowsTheDisk) {
  const Finished text = run(plan(kimi("512GiB")));
  EXPECT_EQ(text.code, 0) << text.err;
  EXPECT_NE(text.out.find("only on disk"), std::string::npos) << text.out;
  const json f = planned(kimi("512GiB"));
  EXPECT_GT(row(f, "routed experts")["disk_bytes"].get<int64_t>(), int64_t{20'000'000'000});
  EXPECT_LT(f["decode"]["tokens_per_s"], planned(kimi("768GiB"))["decode"]["tokens_per_s"]);
}

// Every number of a document, by all its levels.
void collect(const json& value, std::vector<double>& numbers) {
  if (value.is_number()) numbers.push_back(value.get<double>());
  if (value.is_structured())
    for (const json& part : value) collect(part, numbers);
}

// Whether a number is printed in `figure`: as it is, or in GiB, MiB, milliseconds, millions or billions.
bool stands_for(const std::string& figure, const std::vector<double>& numbers) {
  const size_t dot = figure.find('.');
  const double printed = std::stod(figure);
  double half = 0.5;  // of the last digit
  for (size_t i = dot; i != figure.npos && i + 1 < figure.size(); ++i) half /= 10;
  if (printed >= 1000 && dot == figure.npos) half = printed * 0.005;  // {:.3g}, or a number as it is
  for (const double n : numbers) {
    for (const double unit : {1.0, 1.0 / (1 << 30), 1.0 / (1 << 20), 1e3, 1e-6, 1e-9})
      if (std::abs(n * unit - printed) <= half * (1 + 1e-9)) return true;
  }
  return false;
}

// Lines of reasons are in the JSON as they stand; of the others, every figure is.
void expect_every_figure_in_json(const Args& args) {
  const Finished text = run(plan(args));
  ASSERT_EQ(text.code, 0) << text.err;
  const json facts = planned(args);
  std::vector<double> numbers;
  collect(facts, numbers);
  std::set<std::string> sentences;
  for (const char* list : {"reasons", "notes"})
    for (const json& sentence : facts[list]) sentences.insert("- " + sentence.get<std::string>());
  const std::regex figure(R"((^|[ (])([0-9]+(\.[0-9]+)?)(?=$|[ ,;)]))");
  std::istringstream lines(text.out);
  int figures = 0;
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with("- ")) {
      EXPECT_TRUE(sentences.contains(line)) << line;
      continue;
    }
    line = line.substr(0, line.find("  assumed: "));
    for (std::sregex_iterator at(line.begin(), line.end(), figure), end; at != end; ++at, ++figures)
      EXPECT_TRUE(stands_for((*at)[2], numbers)) << (*at)[2] << " in: " << line;
  }
  EXPECT_GT(figures, 40);
}

TEST(Plan, TheJsonHasEveryFigureOfTheText) {
  expect_every_figure_in_json(kimi("512GiB"));
  expect_every_figure_in_json({"--geometry", "moonlight-16b-a3b", "--gpu-memory", "12GiB", "--ram", "64GiB",
                               "--parallel", "4", "-c", "4096"});
  expect_every_figure_in_json({"--geometry", "moonlight-16b-a3b", "--gpu-memory", "0", "--ram", "8GiB"});
  expect_every_figure_in_json(moonlight({"--gpu-memory", "8GiB"}));
}

// "in two groups" of the text, and from how many sequences on.
TEST(Plan, TheJsonTellsOfTwoGroups) {
  const Args args{"--geometry", "moonlight-16b-a3b", "--ram", "64GiB",      "-c",
                  "2048",       "--gpu-memory",      "12GiB", "--parallel", "8"};
  const Finished text = run(plan(args));
  ASSERT_NE(text.out.find("of 8 sequences together, in two groups"), std::string::npos) << text.out;
  const json f = planned(args);
  EXPECT_EQ(f["decode_together"]["groups"], 2);
  EXPECT_EQ(f["decode"]["groups"], 1);
  const int64_t from = f["two_groups_from"];
  EXPECT_GE(from, 2);
  EXPECT_LE(from, 8);
  Args fewer = args;
  fewer.back() = std::to_string(from);
  EXPECT_EQ(planned(fewer)["decode_together"]["groups"], 2);
  fewer.back() = std::to_string(from - 1);
  EXPECT_EQ(planned(fewer)["decode_together"]["groups"], 1);
  EXPECT_EQ(planned(fewer)["two_groups_from"], 0);
}

TEST(Plan, FitsAScreen) {
  const Finished text = run(plan(kimi("512GiB")));
  std::istringstream lines(text.out);
  int count = 0;
  for (std::string line; std::getline(lines, line); ++count) EXPECT_LE(line.size(), 132u) << line;
  EXPECT_LE(count, 40);
  EXPECT_NE(text.out.find("assumed: "), std::string::npos);  // the hand-off was not given
}

TEST(Plan, ConstraintsNeverStopIt) {
  for (const Args& more :
       std::vector<Args>{{"--gpu-memory", "0", "--ram", "1GiB"},
                         {"--gpu-memory", "2MiB", "--ram", "64G"},
                         {"--gpu-memory", "1.5TiB", "--ram", "0", "--ctx-size", "1000000000"},
                         {"--gpu-memory", "8GB", "--ram", "16 GiB", "--parallel", "65536"}}) {
    Args args{"--geometry", "moonlight-16b-a3b"};
    args.insert(args.end(), more.begin(), more.end());
    const json f = planned(args);
    EXPECT_GT(f["decode"]["tokens_per_s"], 0) << json(more).dump();
    EXPECT_FALSE(f["reasons"].empty());
  }
}

TEST(Plan, WhatDoesNotFitNamesTheNumberThatDoes) {
  const json f = planned(
      {"--geometry", "moonlight-16b-a3b", "--gpu-memory", "4GiB", "--ram", "64GiB", "--parallel", "16"});
  EXPECT_EQ(f["shape"], "host");
  const int64_t context = f["context_that_fits"];
  ASSERT_GT(context, 0);
  const json less = planned({"--geometry", "moonlight-16b-a3b", "--gpu-memory", "4GiB", "--ram", "64GiB",
                             "--parallel", "16", "-c", std::to_string(context)});
  EXPECT_NE(less["shape"], "host");
  const json more = planned({"--geometry", "moonlight-16b-a3b", "--gpu-memory",
                             std::to_string(f["gpu_memory_needed_bytes"].get<int64_t>()), "--ram", "64GiB",
                             "--parallel", "16"});
  EXPECT_NE(more["shape"], "host");
}

// A position of Moonlight's cache: 576 numbers in each of 27 layers; an int8 row has 18 scales of two bytes
// too.
TEST(Plan, TheCacheIsOfTheTypeThatWasAsked) {
  const auto per_token = [](const std::string& type) {
    const json plan = planned(
        {"--geometry", "moonlight-16b-a3b", "--gpu-memory", "12GiB", "--ram", "64GiB", "--cache-type", type});
    return plan["cache_bytes_per_token"].get<int64_t>();
  };
  EXPECT_EQ(per_token("bf16"), 27 * 576 * 2);
  EXPECT_EQ(per_token("auto"), 27 * 576 * 2);
  EXPECT_EQ(per_token("f32"), 27 * 576 * 4);
  EXPECT_EQ(per_token("int8"), 27 * (576 + 18 * 2));
}

TEST(Plan, TakesWhatServeTakes) {
  const Args common{"--geometry", "moonlight-16b-a3b", "--gpu-memory", "12GiB", "--ram", "64GiB"};
  const auto with = [&](const Args& more) {
    Args args = common;
    args.insert(args.end(), more.begin(), more.end());
    return planned(args);
  };
  const int64_t per_token = 27 * 576 * 2;
  const json each = with({"--max-model-len", "4096", "--max-num-seqs", "4"});
  EXPECT_EQ(each["budgets"]["cache_tokens"], 4 * 4096);
  EXPECT_EQ(row(each, "cache")["device_bytes"], 4 * 4096 * per_token);
  const json shared = with({"-c", "4096", "--parallel", "4", "--cache-tokens", "8192"});
  EXPECT_EQ(shared["budgets"]["cache_tokens"], 8192);
  EXPECT_EQ(row(shared, "cache")["device_bytes"], 8192 * per_token);
  EXPECT_GT(shared["experts"]["resident"], each["experts"]["resident"]);

  const auto workspace = [&](const Args& more) {
    return row(with(more), "workspace")["device_bytes"].get<int64_t>();
  };
  EXPECT_GT(workspace({"--prefill-chunk", "1024"}), workspace({}));
  EXPECT_LT(workspace({"--ubatch-size", "128"}), workspace({}));
  EXPECT_GT(workspace({"--parallel", "4"}), workspace({}));  // tokens of the other three, a second group
  EXPECT_EQ(row(with({"--adapter-memory", "256MiB"}), "adapter")["device_bytes"], int64_t{256} << 20);
  EXPECT_EQ(with({"--device", "host"})["shape"], "host");
  EXPECT_EQ(with({"--device", "cuda"}), with({}));
  EXPECT_NE(run(plan({"--help"})).out.find("serve's default is 4"), std::string::npos);
}

TEST(Plan, HeadersAndConfigurationAgree) {
  const std::string model = "tests/golden/models/deepseek_v3_bf16";
  // So small a model pays on a GPU only where launches cost nothing.
  const json headers =
      planned({"-m", model, "--gpu-memory", "1GiB", "--ram", "1GiB", "--gpu-op-us", "0.001"});
  const json alone = planned(
      {"--config", model + "/config.json", "--gpu-memory", "1GiB", "--ram", "1GiB", "--gpu-op-us", "0.001"});
  EXPECT_EQ(headers["classes"], alone["classes"]);
  EXPECT_EQ(headers["decode"], alone["decode"]);
  EXPECT_EQ(headers["experts"]["resident"], headers["experts"]["all"]);

  EXPECT_EQ(planned({"--geometry", "deepseek-v3", "--gpu-memory", "0", "--ram", "1TiB"})["format"], "fp8");
  EXPECT_EQ(planned({"--geometry", "deepseek-v3", "--quant", "bf16", "--gpu-memory", "0", "--ram",
                     "1TiB"})["format"],
            "bf16");
}

// What config.json says of formats is believed, of every class.
TEST(Plan, HeadersAndConfigurationAgreeInEveryFormat) {
  for (const std::string name :
       {"deepseek_v3_tiny", "deepseek_v3_f16", "deepseek_v3_fp8", "glm4_moe_fp8", "deepseek_v3_int4",
        "deepseek_v3_int8", "glm4_moe_lite_int4_g64", "qwen3_moe_int4", "qwen3_moe_int8"}) {
    const std::string model = "tests/golden/models/" + name;
    const Args machine{"--gpu-memory", "0", "--ram", "1GiB"};
    Args headers{"-m", model}, alone{"--config", model + "/config.json"};
    for (Args* args : {&headers, &alone}) args->insert(args->end(), machine.begin(), machine.end());
    const json have = planned(headers), said = planned(alone);
    for (const char* fact : {"classes", "format", "bytes", "active_bytes_per_token", "cache_bytes_per_token"})
      EXPECT_EQ(have[fact], said[fact]) << name;
  }
}

TEST(Plan, BadInputIsOneLineAndWrongUsageExitsWith2) {
  for (const char* size :
       {"12", "12XB", "-3G", "G", "", "nan", "inf", "1e3G", "99999999T", "12GiBs", "12 G iB"}) {
    const Finished finished = run(plan({"--geometry", "kimi-k2", "--gpu-memory", size}));
    EXPECT_EQ(finished.code, 2) << size;
    EXPECT_EQ(finished.out, "") << size;
    EXPECT_NE(finished.err.find("--gpu-memory"), std::string::npos) << finished.err;
  }
  EXPECT_NE(run(plan({"--geometry", "kimi-k2", "--ram", "12"})).err.find("12GiB"), std::string::npos);
  for (const Args& args : std::vector<Args>{{"--geometry", "kimi-k2", "-m", "x"},
                                            {"--quant", "int4", "-m", "x"},
                                            {"--geometry", "kimi-k2", "--quant", "int5"},
                                            {"--geometry", "kimi-k2", "--experts-only"},
                                            {"--geometry", "kimi-k2", "--handoff-us", "0"},
                                            {"--geometry", "kimi-k2", "--ctx-size", "0"}}) {
    EXPECT_EQ(run(plan(args)).code, 2) << json(args).dump();
  }
  const Scratch scratch;
  for (const Args& args :
       std::vector<Args>{{"--geometry", "kimi-k3"},
                         {"--config", scratch.file("none.json")},
                         {"--config", scratch.write("bad.json", "{")},
                         {"--config", scratch.write("other.json", R"({"model_type": "bert"})")},
                         {"-m", scratch.file("none")},
                         {"--geometry", "kimi-k2", "--adapter", scratch.file("none")}}) {
    const Finished finished = run(plan(args));
    EXPECT_EQ(finished.code, 1) << json(args).dump();
    EXPECT_EQ(finished.out, "");
    EXPECT_EQ(std::count(finished.err.begin(), finished.err.end(), '\n'), 1) << finished.err;
  }
}

// ---- of a fine-tuning

TEST(Plan, OfAFineTuningAddsUp) {
  const json f = planned(moonlight({"--gpu-memory", "8GiB"}));
  EXPECT_EQ(f["use_device"], true);
  // Gate, up and down of 64 experts in 26 layers; q, kv_a, kv_b and o of 27.
  const int64_t dense = 27 * 8 * ((2048 + 3072) + (2048 + 576) + (512 + 4096) + (2048 + 2048));
  EXPECT_EQ(f["trained_numbers"], 26 * 64 * 3 * 8 * (2048 + 1408) + dense);
  int64_t device = 0, ram = 0;
  for (const json& r : f["classes"])
    device += r["device_bytes"].get<int64_t>(), ram += r["ram_bytes"].get<int64_t>();
  EXPECT_EQ(f["device_bytes"], device);
  EXPECT_EQ(f["ram_bytes"], ram);
  EXPECT_LE(device, int64_t{8} << 30);
  EXPECT_EQ(row(f, "momenta")["ram_bytes"], f["trained_numbers"].get<int64_t>() * 4);
  EXPECT_GE(f["most_micro_tokens"], 4096);
  EXPECT_GE(f["highest_rank"], 8);
  const double pass =
      f["forward_s"].get<double>() + f["backward_s"].get<double>() + f["head_s"].get<double>();
  EXPECT_NEAR(f["tokens_per_s"].get<double>(), 4096 / (pass + f["optimizer_s"].get<double>()), 1e-6);
  // What is said to fit does, and no more.
  const int64_t most = f["most_micro_tokens"];
  EXPECT_EQ(
      planned(moonlight({"--gpu-memory", "8GiB", "--micro-tokens", std::to_string(most)}))["use_device"],
      true);
  EXPECT_EQ(
      planned(moonlight({"--gpu-memory", "8GiB", "--micro-tokens", std::to_string(most + 1)}))["use_device"],
      false);
}

TEST(Plan, OfAFineTuningFitsAScreenAndSaysWhatIsTooSmall) {
  const Finished text = run(plan(moonlight({"--gpu-memory", "1GiB"})));
  EXPECT_EQ(text.code, 0) << text.err;
  EXPECT_NE(text.out.find("the device is too small: it takes part from "), std::string::npos) << text.out;
  std::istringstream lines(text.out);
  int count = 0;
  for (std::string line; std::getline(lines, line); ++count) EXPECT_LE(line.size(), 132u) << line;
  EXPECT_LE(count, 40);
  const Finished wrong = run(plan(moonlight({"--targets", "nonsense"})));
  EXPECT_EQ(wrong.code, 1);
  EXPECT_NE(wrong.err.find("names no matrix"), std::string::npos) << wrong.err;
}

TEST(Plan, ProbesWhatIsNotGiven) {
  const Finished finished = run({"plan", "-m", "tests/golden/models/qwen3_moe_int4", "--json"});
  ASSERT_EQ(finished.code, 0) << finished.err;
  const json f = json::parse(finished.out, nullptr, false);
  EXPECT_GT(f["speeds"]["ram_GBs"]["value"], 0);
  EXPECT_NE(f["speeds"]["ram_GBs"]["source"].get<std::string>().find("probed"), std::string::npos);
  EXPECT_NE(f["speeds"]["link_GBs"]["source"].get<std::string>().find("assumed"), std::string::npos);
  // As a model that is opened assumes it.
  EXPECT_EQ(f["speeds"]["disk_GBs"]["value"], kAssumedDiskGBs);
  EXPECT_NE(run({"plan", "--help"}).out.find(fmt::format("files, GB/s (default {})", kAssumedDiskGBs)),
            std::string::npos);
}

}  // namespace
}  // namespace moebius
