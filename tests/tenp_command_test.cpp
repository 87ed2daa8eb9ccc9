// moebius tenp and --skip-threshold as a user meets them.
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "tests/dense_model.h"

namespace moebius {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using process::Args;
using process::Finished;
using process::read_file;
using process::run;
using process::Scratch;

const std::string kModels = "tests/golden/models/";

std::string conversations(int count) {
  std::string text;
  for (int i = 0; i < count; ++i)
    text +=
        fmt::format(
            R"({{"messages": [{{"role": "user", "content": "Spell {}."}}, {{"role": "assistant", "content": "{}"}}]}})",
            i, i) +
        "\n";
  return text;
}

TEST(TenpCommand, CalibratesPlansAndWrites) {
  const Scratch scratch;
  const std::string data = scratch.write("data.jsonl", conversations(40));
  const std::string scores = scratch.file("scores.safetensors"), out = scratch.file("out");
  Finished done = run(
      {"tenp", "--calibrate", data, "--scores", scores, "--dry-run", "--picture", scratch.file("plan.svg")});
  ASSERT_EQ(done.code, 0) << done.err;
  EXPECT_NE(done.out.find("layer   full"), std::string::npos);
  EXPECT_NE(done.out.find("60.00 %"), std::string::npos);
  EXPECT_NE(done.err.find("calibrated on"), std::string::npos);
  EXPECT_NE(done.err.find("their neurons go by the norms of their weights"), std::string::npos);
  EXPECT_NE(read_file(scratch.file("plan.svg")).find("</svg>"), std::string::npos);
  done = run({"tenp", "--scores", scores, "-o", out, "--keep", "0.75", "--json"});
  ASSERT_EQ(done.code, 0) << done.err;
  const json report = json::parse(done.out);
  EXPECT_EQ(report["neurons"], 3840);  // 0.75 * 5 layers * 16 experts * 64
  EXPECT_LT(report["bytes"], report["bytes_before"]);
  const json config = json::parse(read_file(out + "/config.json"));
  EXPECT_EQ(config["moe_intermediate_sizes"].size(), 5u);
  EXPECT_EQ(config["moe_intermediate_size"], 64);
  EXPECT_TRUE(fs::exists(out + "/chat_template.jinja"));
  EXPECT_FALSE(fs::exists(out + "/README.md"));
  EXPECT_EQ(run({"chat", "-m", out, "-p", "What is 2 + 3?", "--temp", "0"}).code, 0);
  EXPECT_EQ(run({"chat", "-m", out, "--device", "sim", "-p", "What is 2 + 3?", "--temp", "0"}).out,
            run({"chat", "-m", out, "-p", "What is 2 + 3?", "--temp", "0"}).out);
  done = run({"quantize", "-m", out, "-o", scratch.file("int4")});
  EXPECT_EQ(done.code, 1);
  EXPECT_NE(done.err.find("prune with tenp --multiple 32"), std::string::npos) << done.err;
  const std::string wider = scratch.file("wider"), int4 = scratch.file("int4");
  EXPECT_EQ(run({"tenp", "--scores", scores, "-o", wider, "--keep", "0.75", "--multiple", "32"}).code, 0);
  done = run({"quantize", "-m", wider, "-o", int4});
  EXPECT_EQ(done.code, 0) << done.err;
  EXPECT_EQ(run({"chat", "-m", int4, "-p", "What is 2 + 3?", "--temp", "0"}).code, 0);
  done = run({"tenp", "-m", out, "--scores", scores, "-o", scratch.file("again")});
  EXPECT_EQ(done.code, 1);
  EXPECT_NE(done.err.find("unequal widths already"), std::string::npos) << done.err;
}

TEST(TenpCommand, SaysWhatIsWrongBeforeItWorks) {
  const Scratch scratch;
  const std::string data = scratch.write("data.jsonl", conversations(2));
  const std::string empty = scratch.write("empty.txt", ""), file = scratch.write("file", "x");
  const std::string bad = scratch.write("bad.jsonl", "{\"messages\": 3}\n");
  const std::string out = scratch.file("out");
  struct Case {
    Args args;
    const char* says;
  };
  const Case cases[] = {
      {{"-o", out}, "nothing to go by"},
      {{"--calibrate", data}, "nowhere to write to"},
      {{"--calibrate", data, "-o", out, "--keep", "0"}, "--keep is 0"},
      {{"--calibrate", data, "-o", out, "--keep", "1.2"}, "--keep is 1.2"},
      {{"--calibrate", data, "-o", out, "--full-experts", "0.9"}, "--full-experts is 0.9"},
      {{"--calibrate", data, "-o", out, "--depth-weights", "1"}, "--depth-weights '1' is not FIRST:LAST"},
      {{"--calibrate", data, "-o", out, "--multiple", "7"},
       "--multiple 7 does not divide the experts' width of 64"},
      {{"--calibrate", data, "-o", file}, "is not a folder"},
      {{"--calibrate", data, "-o", kModels}, "is not empty"},
      {{"--calibrate", scratch.file("none.txt"), "-o", out}, "none.txt"},
      {{"--calibrate", empty, "-o", out}, "holds no text"},
      {{"--calibrate", bad, "-o", out}, "line 1"},
      {{"--scores", file, "-o", out}, "file"},
      {{"-m", dense_model(scratch), "--calibrate", data, "-o", out}, "a model without routed experts"},
  };
  for (const Case& c : cases) {
    Args args = {"tenp"};
    args.insert(args.end(), c.args.begin(), c.args.end());
    const Finished done = run(args);
    EXPECT_EQ(done.code, 1) << c.says << done.err;
    EXPECT_NE(done.err.find(c.says), std::string::npos) << done.err;
    EXPECT_FALSE(fs::exists(out));
  }
  EXPECT_EQ(run({"tenp", "--method", "none", "--calibrate", data, "-o", out}).code, 2);
}

TEST(TenpCommand, WritesExpertsInHalves) {
  const Scratch scratch;
  const std::string data = scratch.write("data.jsonl", conversations(40)), out = scratch.file("halves");
  Finished done = run({"tenp", "--calibrate", data, "--keep", "1", "--halves", "-o", out});
  ASSERT_EQ(done.code, 0) << done.err;
  EXPECT_NE(done.out.find("100.00 % of a token's, in halves"), std::string::npos) << done.out;
  EXPECT_EQ(json::parse(read_file(out + "/config.json"))["moe_intermediate_size"], 32);
  const auto answer = [&](const std::string& model, const Args& more) {
    Args args = {"chat", "-m", model, "-p", "What is 47 + 85?", "--temp", "0"};
    args.insert(args.end(), more.begin(), more.end());
    return run(args);
  };
  EXPECT_EQ(answer(out, {}).out, answer("models/pebble", {}).out);
  const Args skip = {"--skip-threshold", "0.25", "--skip-minor-threshold", "0.6"};
  const auto with = [&](Args more) {
    more.insert(more.end(), skip.begin(), skip.end());
    return answer(out, more);
  };
  const Finished on_host = with({});
  EXPECT_EQ(on_host.code, 0) << on_host.err;
  EXPECT_EQ(with({"--device", "sim"}).out, on_host.out);
  EXPECT_EQ(with({"--device", "sim", "--gpu-memory", "17MiB"}).out, on_host.out);
  const Finished refused = answer("models/pebble", skip);
  EXPECT_EQ(refused.code, 1);
  EXPECT_NE(refused.err.find("are not in halves"), std::string::npos) << refused.err;
  EXPECT_EQ(run({"quantize", "-m", out, "-o", scratch.file("int4")}).code, 0);
  EXPECT_EQ(answer(scratch.file("int4"), skip).code, 0);
}

// ---- --skip-threshold ----

TEST(SkipThreshold, LeavesOutTheSmallSharesOnHostAndDeviceAlike) {
  const std::string question = "What is 47 + 85?";
  const auto answer = [&](const Args& more) {
    Args args = {"chat", "-p", question, "--temp", "0"};
    args.insert(args.end(), more.begin(), more.end());
    const Finished done = run(args);
    EXPECT_EQ(done.code, 0) << done.err;
    return done.out;
  };
  const std::string all = answer({}), none = answer({"--skip-threshold", "0.9"});
  EXPECT_EQ(answer({"--skip-threshold", "0"}), all);
  EXPECT_NE(none, all);  // nearly no expert has so large a share
  EXPECT_EQ(answer({"--skip-threshold", "0.9", "--device", "sim"}), none);
  EXPECT_EQ(answer({"--skip-threshold", "0.9", "--device", "sim", "--gpu-memory", "17MiB"}), none);
  EXPECT_EQ(run({"chat", "-p", question, "--skip-threshold", "1.5"}).code, 2);
  const auto use = [&](const char* threshold) {
    const Finished done = run(
        {"chat", "--device", "sim", "--gpu-memory", "17MiB", "--temp", "0", "--skip-threshold", threshold},
        question + "\n/experts\n");
    EXPECT_EQ(done.code, 0) << done.err;
    const size_t all_layers = done.err.find("\n    all ");
    EXPECT_NE(all_layers, std::string::npos) << done.err;
    const std::string row = done.err.substr(all_layers == std::string::npos ? 0 : all_layers + 1);
    return row.substr(0, row.find('\n'));
  };
  EXPECT_TRUE(use("0").ends_with("   0.0 %"));
  EXPECT_FALSE(use("0.3").ends_with("   0.0 %"));

  // The line after an answer, wherever the experts are.
  const auto skipped = [&](Args args) {
    args.insert(args.begin(), {"chat", "--temp", "0", "--skip-threshold", "0.3"});
    const Finished done = run(args, question + "\n/experts\n");
    const size_t end = done.err.find(" % of expert slots skipped");
    EXPECT_NE(end, std::string::npos) << done.err;
    const size_t begin = done.err.rfind(' ', end - 1) + 1;
    if (done.err.find("all experts are in one place") != std::string::npos) {
      EXPECT_NE(done.err.find(" % of their slots were skipped"), std::string::npos) << done.err;
    }
    return end == std::string::npos ? "" : done.err.substr(begin, end - begin);
  };
  const std::string on_host = skipped({});
  EXPECT_NE(on_host, "0");
  EXPECT_EQ(skipped({"--device", "sim"}), on_host);
  EXPECT_EQ(skipped({"--device", "sim", "--gpu-memory", "17MiB"}), on_host);
}

}  // namespace
}  // namespace moebius
