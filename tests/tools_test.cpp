// The command line as users meet it: exit codes, streams and numbers. The numbers are held to the logits that
// Hugging Face transformers computed for the golden models.
#include <algorithm>
#include <cmath>
#include <cstring>

#include <nlohmann/json.hpp>

#include "models/safetensors.h"
#include "tests/tools_process.h"

namespace moebius {
namespace {

using nlohmann::json;
using process::Args;
using process::Finished;
using process::run;
using process::Scratch;

const char* const kTiny = "tests/golden/models/deepseek_v3_tiny";

// Golden logits and ids of a model, read from what transformers wrote.
struct Golden {
  std::vector<int32_t> ids;
  std::vector<float> logits;
  size_t vocab = 0;

  explicit Golden(const std::string& dir) {
    auto file = SafetensorsFile::open(dir + "/golden.safetensors");
    EXPECT_TRUE(file.ok());
    for (const TensorEntry& tensor : (*file)->tensors()) {
      const size_t count = static_cast<size_t>(tensor.bytes) / 4;
      if (tensor.name == "input_ids") {
        ids.resize(count);
        std::memcpy(ids.data(), tensor.data, count * 4);
      } else if (tensor.name == "logits") {
        logits.resize(count);
        std::memcpy(logits.data(), tensor.data, count * 4);
        vocab = static_cast<size_t>(tensor.shape[1]);
      }
    }
  }

  std::string list() const { return json(ids).dump(); }

  std::vector<double> log_softmax(size_t row) const {
    std::vector<double> out(logits.begin() + static_cast<std::ptrdiff_t>(row * vocab),
                            logits.begin() + static_cast<std::ptrdiff_t>((row + 1) * vocab));
    const double highest = *std::max_element(out.begin(), out.end());
    double sum = 0;
    for (double value : out) sum += std::exp(value - highest);
    for (double& value : out) value -= highest + std::log(sum);
    return out;
  }
};

json parsed(const Finished& finished) {
  EXPECT_EQ(finished.code, 0) << finished.err;
  return json::parse(finished.out, nullptr, false);
}

void expect_one_error_line(const Finished& finished) {
  EXPECT_EQ(finished.code, 1) << finished.out << finished.err;
  EXPECT_EQ(finished.out, "");
  EXPECT_EQ(finished.err.rfind("moebius: ", 0), 0u) << finished.err;
  EXPECT_EQ(std::count(finished.err.begin(), finished.err.end(), '\n'), 1) << finished.err;
}

TEST(CommandLine, EveryCommandHasHelp) {
  for (const char* command : {"chat", "serve", "eval", "logits", "synth", "inspect", "tokenize", "template",
                              "bench", "doctor", "corpus", "train", "finetune", "merge", "plan"}) {
    const Finished help = run({command, "--help"});
    EXPECT_EQ(help.code, 0) << command;
    EXPECT_NE(help.out.find("--help"), std::string::npos) << command;
  }
  EXPECT_EQ(run({"--help"}).code, 0);
  EXPECT_EQ(run({"--version"}).code, 0);
}

TEST(CommandLine, WrongUsageExitsWith2) {
  for (const Args& args : std::vector<Args>{{},
                                            {"dream"},
                                            {"chat", "--no-such-flag"},
                                            {"chat", "--temp", "warm"},
                                            {"chat", "--threads", "-3"},
                                            {"logits", "-m", kTiny},
                                            {"logits", "--ids", "1", "--ids-file", "x"},
                                            {"eval", "-m", kTiny},
                                            {"eval", "--text", "x", "--stride", "0"},
                                            {"template"}}) {
    const Finished finished = run(args);
    EXPECT_EQ(finished.code, 2) << json(args).dump() << finished.err;
    EXPECT_EQ(finished.out, "");
    EXPECT_NE(finished.err, "");
  }
}

TEST(CommandLine, AMissingModelIsOneLine) {
  const std::string missing = "tests/golden/models/none";
  expect_one_error_line(run({"chat", "-m", missing, "-p", "x"}));
  expect_one_error_line(run({"logits", "-m", missing, "--ids", "1"}));
  expect_one_error_line(run({"eval", "-m", missing, "--text", "LICENSE"}));
  expect_one_error_line(run({"tokenize", "-m", missing}, "x"));
}

TEST(Logits, EqualThoseOfTransformers) {
  const Scratch scratch;
  const Golden golden(kTiny);
  const std::string out = scratch.file("logits.safetensors");
  const std::string ids = scratch.write("ids.json", golden.list());
  const json report = parsed(run({"logits", "-m", kTiny, "--ids-file", ids, "--out", out, "--json"}));
  EXPECT_EQ(report["n"], golden.ids.size());
  EXPECT_EQ(report["vocab"], golden.vocab);

  auto file = SafetensorsFile::open(out);
  ASSERT_TRUE(file.ok());
  ASSERT_EQ((*file)->tensors().size(), 1u);
  const TensorEntry& tensor = (*file)->tensors()[0];
  EXPECT_EQ(tensor.name, "logits");
  EXPECT_EQ(tensor.dtype, DType::kF32);
  ASSERT_EQ(tensor.shape, (std::vector<int64_t>{static_cast<int64_t>(golden.ids.size()),
                                                static_cast<int64_t>(golden.vocab)}));
  float largest = 0;
  for (float value : golden.logits) largest = std::max(largest, std::abs(value));
  for (size_t i = 0; i < golden.logits.size(); ++i) {
    ASSERT_NEAR(load_unaligned<float>(tensor.data, static_cast<int64_t>(i)), golden.logits[i], 1e-4 * largest)
        << i;
  }
  for (size_t row = 0; row < golden.ids.size(); ++row) {
    const std::vector<double> expected = golden.log_softmax(row);
    const size_t top =
        static_cast<size_t>(std::max_element(expected.begin(), expected.end()) - expected.begin());
    EXPECT_EQ(report["argmax"][row], top);
    EXPECT_NEAR(report["argmax_logprob"][row].get<double>(), expected[top], 1e-4 * largest);
  }
}

TEST(Logits, BadIdsAreOneLine) {
  for (const char* ids : {"1,512", "-1", "1,x", "99999999999", "1.5", "[1, \"2\"]", "{\"id\": [1]}"}) {
    expect_one_error_line(run({"logits", "-m", kTiny, std::string("--ids=") + ids}));
  }
  expect_one_error_line(run({"logits", "-m", kTiny, "--ids-file", "no/such/file"}));
  expect_one_error_line(run({"logits", "-m", kTiny, "--ids", "1", "--out", "no/such/folder/f.safetensors"}));
}

TEST(Eval, PerplexityIsThatOfTheGoldenLogits) {
  const Scratch scratch;
  const Golden golden(kTiny);
  const std::string ids = scratch.write("ids", golden.list());
  double nats = 0;
  for (size_t i = 1; i < golden.ids.size(); ++i) {
    nats -= golden.log_softmax(i - 1)[static_cast<size_t>(golden.ids[i])];
  }
  const double scored = static_cast<double>(golden.ids.size() - 1);
  const json report = parsed(run({"eval", "-m", kTiny, "--ids-file", ids, "--json"}));
  EXPECT_EQ(report["tokens"], golden.ids.size());
  EXPECT_EQ(report["scored"], golden.ids.size() - 1);
  EXPECT_NEAR(report["nats"].get<double>(), nats, 1e-4 * nats);
  EXPECT_NEAR(report["perplexity"].get<double>(), std::exp(nats / scored), 1e-3 * std::exp(nats / scored));
}

// What the first 20 tokens make of themselves is known from the golden logits, whatever comes after.
TEST(Eval, WindowsAndStrideScoreWhatTheyShould) {
  const Scratch scratch;
  const Golden golden(kTiny);
  const std::string ids = scratch.write("ids", golden.list());
  const size_t n = golden.ids.size();
  const json apart = parsed(run({"eval", "-m", kTiny, "--ids-file", ids, "--window", "20", "--json"}));
  EXPECT_EQ(apart["windows"], 3);
  EXPECT_EQ(apart["scored"], n - 3);
  const json overlapping =
      parsed(run({"eval", "-m", kTiny, "--ids-file", ids, "--window", "20", "--stride", "5", "--json"}));
  EXPECT_EQ(overlapping["windows"], 1 + (n - 20 + 4) / 5);
  EXPECT_EQ(overlapping["scored"], n - 1);
  // one window, shifted onto the first 20 tokens alone
  const std::vector<int32_t> head(golden.ids.begin(), golden.ids.begin() + 20);
  const std::string head_file = scratch.write("head", json(head).dump());
  double nats = 0;
  for (size_t i = 1; i < 20; ++i) nats -= golden.log_softmax(i - 1)[static_cast<size_t>(golden.ids[i])];
  const json one = parsed(run({"eval", "-m", kTiny, "--ids-file", head_file, "--window", "30", "--json"}));
  EXPECT_NEAR(one["nats"].get<double>(), nats, 1e-4 * nats);
  expect_one_error_line(run({"eval", "-m", kTiny, "--ids-file", ids, "--window", "20", "--stride", "21"}));
  expect_one_error_line(run({"eval", "-m", kTiny, "--ids-file", ids, "--window", "1"}));
  expect_one_error_line(run({"eval", "-m", kTiny, "--ids-file", scratch.write("one", "7")}));
}

// Each example on its own; of the second only the completion, which is all of it without the prompt.
TEST(Eval, ExamplesCountWhatTheyTeach) {
  const Scratch scratch;
  const auto ids_of = [&](const std::string& text) {
    return parsed(run({"tokenize", "-m", kTiny, "--json"}, text))["ids"].get<std::vector<int32_t>>();
  };
  const auto nats_of = [&](const std::vector<int32_t>& ids) {
    const std::string file = scratch.write("ids", json(ids).dump());
    return parsed(run({"eval", "-m", kTiny, "--ids-file", file, "--json"}))["nats"].get<double>();
  };
  const int32_t stop = json::parse(std::ifstream(std::string(kTiny) + "/config.json"))["eos_token_id"];
  std::vector<int32_t> text = ids_of("a fox and a bear"), prompt = ids_of("one two three"), both = prompt;
  text.push_back(stop);
  for (const int32_t id : ids_of(" four")) both.push_back(id);
  both.push_back(stop);
  const std::string file = scratch.write("data.jsonl",
                                         "{\"text\": \"a fox and a bear\"}\n"
                                         "{\"prompt\": \"one two three\", \"completion\": \" four\"}\n");
  const json report = parsed(run({"eval", "-m", kTiny, "--data", file, "--json"}));
  EXPECT_EQ(report["windows"], 2);
  EXPECT_EQ(report["scored"], text.size() - 1 + both.size() - prompt.size());
  const double nats = nats_of(text) + nats_of(both) - nats_of(prompt);
  EXPECT_NEAR(report["nats"].get<double>(), nats, 1e-4 * nats);
  const json itself = parsed(run({"eval", "-m", kTiny, "--data", file, "--against", kTiny, "--json"}));
  EXPECT_EQ(itself["against"]["kl_max"], 0);
  expect_one_error_line(run({"eval", "-m", kTiny, "--data", scratch.write("bad.jsonl", "{\"text\": 3}\n")}));
  EXPECT_EQ(run({"eval", "-m", kTiny, "--data", file, "--window", "8"}).code, 2);
}

TEST(Eval, DivergenceIsThatOfTheGoldenLogits) {
  const Scratch scratch;
  const std::string a = "tests/golden/models/glm4_moe", b = "tests/golden/models/qwen3_moe_f16";
  const Golden model(a), reference(b);
  ASSERT_EQ(model.ids, reference.ids) << "the golden models have changed: choose two with the same ids";
  std::vector<double> divergences;
  double same = 0;
  for (size_t row = 0; row + 1 < model.ids.size(); ++row) {
    const auto p = reference.log_softmax(row), q = model.log_softmax(row);
    double sum = 0;
    for (size_t i = 0; i < p.size(); ++i) sum += std::exp(p[i]) * (p[i] - q[i]);
    divergences.push_back(sum);
    same +=
        std::max_element(p.begin(), p.end()) - p.begin() == std::max_element(q.begin(), q.end()) - q.begin();
  }
  std::sort(divergences.begin(), divergences.end());
  double mean = 0;
  for (double value : divergences) mean += value / static_cast<double>(divergences.size());
  ASSERT_EQ(divergences.size() % 2, 1u);

  const std::string ids = scratch.write("ids", model.list());
  const json report =
      parsed(run({"eval", "-m", a, "--against", b, "--ids-file", ids, "--json", "--cache-type", "f32"}));
  const json& against = report["against"];
  EXPECT_NEAR(against["kl_mean"].get<double>(), mean, 1e-3 * mean);
  EXPECT_NEAR(against["kl_median"].get<double>(), divergences[divergences.size() / 2], 1e-3 * mean);
  EXPECT_NEAR(against["kl_max"].get<double>(), divergences.back(), 1e-3 * divergences.back());
  EXPECT_LE(against["kl_p99"].get<double>(), divergences.back());
  EXPECT_GE(against["kl_p99"].get<double>(), divergences[divergences.size() - 2]);
  EXPECT_NEAR(against["top1_agreement"].get<double>(), same / static_cast<double>(divergences.size()), 1e-9);

  const json itself = parsed(run({"eval", "-m", a, "--against", a, "--ids-file", ids, "--json"}));
  EXPECT_LT(itself["against"]["kl_max"].get<double>(), 1e-9);
  EXPECT_EQ(itself["against"]["top1_agreement"], 1.0);
  expect_one_error_line(run({"eval", "-m", a, "--against", kTiny, "--ids-file", ids}));
}

TEST(Eval, ReadsText) {
  const Scratch scratch;
  const std::string text = "Once upon a time there was a tiny model.\n";
  const json ids = parsed(run({"tokenize", "-m", kTiny, "--json"}, text));
  const json report = parsed(run({"eval", "-m", kTiny, "--text", scratch.write("text", text), "--json"}));
  EXPECT_EQ(report["tokens"], ids["ids"].size());
  expect_one_error_line(run({"eval", "-m", "tests/golden/models/glm4_moe", "--text", "LICENSE"}));
  const Finished plain = run({"eval", "-m", kTiny, "--text", "-"}, text);
  EXPECT_EQ(plain.code, 0);
  EXPECT_EQ(plain.out.rfind("perplexity ", 0), 0u) << plain.out;
}

// texts.json (some that Unicode normalisation leaves alone) and what each family's own library makes of it.
TEST(Tokenize, EqualsTheGoldenIds) {
  const json texts = json::parse(std::ifstream("tests/golden/tokenizers/texts.json"));
  for (const char* family : {"qwen", "kimi"}) {
    const std::string dir = std::string("tests/golden/tokenizers/") + family;
    const json golden = json::parse(std::ifstream(dir + "/golden.json"));
    for (size_t i : {size_t{0}, size_t{4}, size_t{8}, size_t{17}}) {
      const std::string text = texts[i];
      const Finished as_json = run({"tokenize", "-m", dir, "--json"}, text);
      EXPECT_EQ(parsed(as_json)["ids"], golden["ids"][i]) << family << ' ' << i;
      const Finished plain = run({"tokenize", "-m", dir, "-f", "-"}, text);
      EXPECT_EQ(plain.code, 0);
      std::string expected;
      for (const json& id : golden["ids"][i]) expected += (expected.empty() ? "" : " ") + id.dump();
      EXPECT_EQ(plain.out, expected + "\n");
      for (const std::string& input : {as_json.out, plain.out, golden["ids"][i].dump()}) {
        EXPECT_EQ(run({"tokenize", "-m", dir, "--decode"}, input).out, text);
        EXPECT_EQ(parsed(run({"tokenize", "-m", dir, "--decode", "--json"}, input))["text"], text);
      }
    }
  }
  expect_one_error_line(run({"tokenize", "-m", "tests/golden/tokenizers/qwen", "--decode"}, "1 2 99999999"));
  expect_one_error_line(run({"tokenize", "-m", "tests/golden/tokenizers/qwen", "--decode"}, "1 two"));
  expect_one_error_line(run({"tokenize", "-m", "tests/golden/tokenizers/qwen", "-f", "no/such/file"}));
}

TEST(Template, PrintsWhatJinjaRenders) {
  const Scratch scratch;
  const json golden = json::parse(std::ifstream("tests/golden/templates/conversations.json"));
  int compared = 0;
  for (const json& result : golden["results"]) {
    const std::string name = result["case"];
    if (name != "one turn" && name != "no generation prompt" && name != "tools") continue;
    if (!result.contains("output")) continue;
    const json& variables = golden["variables"][name];
    const std::string messages = scratch.write("messages.json", variables["messages"].dump());
    const std::string kwargs = scratch.write(
        "kwargs.json",
        json{{"bos_token", variables["bos_token"]}, {"eos_token", variables["eos_token"]}}.dump());
    Args args = {
        "template",   "--template", "tests/golden/templates/" + result["template"].get<std::string>(),
        "--messages", messages,     "--kwargs",
        kwargs};
    if (variables["tools"].is_array()) {
      // the order of keys is the text's: taken from the file as it stands
      const auto ordered =
          nlohmann::ordered_json::parse(std::ifstream("tests/golden/templates/conversations.json"));
      args.push_back("--tools");
      args.push_back(scratch.write("tools.json", ordered["variables"][name]["tools"].dump()));
    }
    if (name == "no generation prompt") args.push_back("--no-generation-prompt");
    const Finished finished = run(args);
    EXPECT_EQ(finished.code, 0) << finished.err;
    EXPECT_EQ(finished.out, result["output"].get<std::string>()) << result["template"] << ' ' << name;
    ++compared;
  }
  EXPECT_GE(compared, 12);
}

TEST(Template, ReadsAModelAndReportsErrors) {
  const Scratch scratch;
  const std::string object = scratch.write("m.json", R"({"messages": [{"role": "user", "content": "hé"}]})");
  const Finished model = run({"template", "-m", kTiny, "--messages", object});
  EXPECT_EQ(
      model.out,
      "<|im_system|>system<|im_middle|>You are a helpful assistant.<|im_end|><|im_user|>user<|im_middle|>hé"
      "<|im_end|><|im_assistant|>assistant<|im_middle|>")
      << model.err;
  const std::string raising = scratch.write("t.jinja", "{{ raise_exception('only one turn') }}");
  const Finished raised = run({"template", "--template", raising, "--messages", object});
  expect_one_error_line(raised);
  EXPECT_NE(raised.err.find("only one turn"), std::string::npos);
  const std::string deep = scratch.write("deep.json", std::string(100'000, '[') + std::string(100'000, ']'));
  for (const std::string& bad :
       {deep, scratch.write("bad.json", "{"), scratch.write("none.json", "{\"a\": 1}")}) {
    expect_one_error_line(run({"template", "--template", raising, "--messages", bad}));
  }
}

}  // namespace
}  // namespace moebius
