// `moebius train` and `moebius finetune` as processes: killed at any moment and resumed, on a full disk, with
// bad data and settings. A run that was interrupted must leave the bytes of one that was not.
#include <chrono>
#include <cmath>
#include <random>
#include <sstream>
#include <thread>

#include <sys/mount.h>
#include <sys/resource.h>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "engine/engine.h"
#include "engine/train/dataset.h"
#include "engine/train/training_log.h"
#include "kernels/half.h"
#include "models/safetensors.h"
#include "tests/tools_process.h"

namespace moebius {
namespace {

namespace fs = std::filesystem;
using process::Args;
using process::Finished;
using process::read_file;
using process::run;

const char* const kTiny = "tests/golden/models/deepseek_v3_tiny";  // has a tokenizer and a chat template
const char* const kConfig = R"({"architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3",
  "vocab_size": 400, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
  "num_key_value_heads": 2, "q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 8,
  "qk_rope_head_dim": 8, "v_head_dim": 8, "intermediate_size": 64, "moe_intermediate_size": 32,
  "first_k_dense_replace": 1, "n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2,
  "scoring_func": "sigmoid", "topk_method": "noaux_tc", "n_group": 1, "topk_group": 1,
  "norm_topk_prob": true, "routed_scaling_factor": 1.0, "hidden_act": "silu", "attention_bias": false,
  "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "rope_interleave": true, "max_position_embeddings": 512,
  "tie_word_embeddings": false, "bos_token_id": 1, "eos_token_id": 4, "pad_token_id": 3,
  "torch_dtype": "bfloat16"})";

// A recipe and a small corpus, made once.
class TrainingRun : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    shared_ = new process::Scratch();
    const Finished corpus =
        run({"corpus", "-o", shared_->file("corpus"), "--train", "60", "--held-out", "6"});
    ASSERT_EQ(corpus.code, 0) << corpus.err;
    fs::create_directory(shared_->file("recipe"));
    for (const char* name : {"chat_template.jinja", "generation_config.json"})
      fs::copy_file(std::string("tools/pebble/") + name, shared_->file("recipe/") + name);
    shared_->write("recipe/config.json", kConfig);
  }
  static void TearDownTestSuite() {
    delete shared_;
    shared_ = nullptr;
  }

  std::string file(const std::string& name) const { return scratch_.file(name); }
  static std::string data() { return shared_->file("corpus/train.jsonl"); }
  static std::string held_out() { return shared_->file("corpus/held_out.jsonl"); }
  static std::string recipe() { return shared_->file("recipe"); }

  static Args train(const std::string& out, const Args& more = {}) {
    Args args = {"train",    "--recipe", recipe(), "--data",       data(), "--eval-data",
                 held_out(), "-o",       out,      "--steps",      "16",   "--micro-tokens",
                 "512",      "--lr",     "1e-2",   "--save-every", "3",    "--eval-every",
                 "4",        "--warmup", "2",      "--accumulate", "2"};
    args.insert(args.end(), more.begin(), more.end());
    return args;
  }
  static Args finetune(const std::string& out, const Args& more = {}) {
    Args args = {"finetune", "-m",           kTiny, "--data",         data(), "--eval-part", "0.1",  "-o",
                 out,        "--steps",      "12",  "--micro-tokens", "512",  "--lr",        "1e-2", "--rank",
                 "4",        "--save-every", "3",   "--eval-every",   "4"};
    args.insert(args.end(), more.begin(), more.end());
    return args;
  }

  process::Scratch scratch_;
  static process::Scratch* shared_;
};
process::Scratch* TrainingRun::shared_ = nullptr;

// A log without what depends on the clock.
std::string log_of(const std::string& out) {
  std::istringstream in(read_file(out + "/log.csv"));
  std::string text;
  for (std::string line; std::getline(in, line); text += '\n') {
    std::istringstream cells(line);
    size_t column = 0;
    for (std::string cell; std::getline(cells, cell, ','); ++column)
      if (column != 2 && column != 6) text += cell + ',';
  }
  return text;
}

std::vector<std::string> checkpoints_of(const std::string& out) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(out + "/checkpoints"))
    names.push_back(entry.path().filename());
  std::sort(names.begin(), names.end());
  return names;
}

std::vector<std::string> files_of(const std::string& out) {
  std::vector<std::string> names;
  for (const auto& entry : fs::recursive_directory_iterator(out))
    names.push_back(fs::relative(entry.path(), out));
  std::sort(names.begin(), names.end());
  return names;
}

void expect_same_run(const std::string& a, const std::string& b) {
  EXPECT_EQ(log_of(a), log_of(b));
  EXPECT_EQ(files_of(a), files_of(b));
  for (const std::string& name : files_of(a)) {
    if (!name.ends_with(".safetensors")) continue;
    EXPECT_TRUE(read_file(a + "/" + name) == read_file(b + "/" + name)) << name;
  }
}

void expect_error(const Finished& finished, const std::string& text) {
  EXPECT_EQ(finished.code, 1) << finished.out << finished.err;
  EXPECT_NE(finished.err.find(text), std::string::npos) << finished.err;
  EXPECT_EQ(finished.out, "");
}

int64_t rows_of(const std::string& out) {
  const std::string text = read_file(out + "/log.csv");
  return std::count(text.begin(), text.end(), '\n') - 1;
}

// Starts the program and kills it a little after `when` holds; its exit code, 137 when that came in time.
template <class When>
int run_and_kill(const Args& args, std::chrono::microseconds later, const When& when) {
  const pid_t pid = fork();
  if (pid == 0) {
    const int null = open("/dev/null", O_RDWR);
    dup2(null, 0), dup2(null, 1), dup2(null, 2);
    process::become(args, {});
  }
  int status = 0;
  while (!when()) {
    if (waitpid(pid, &status, WNOHANG) == pid) return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    std::this_thread::sleep_for(std::chrono::microseconds(100));
  }
  std::this_thread::sleep_for(later);
  kill(pid, SIGKILL);
  return process::wait_for(pid);
}

// Kills a run at moments spread over its work, a write of a checkpoint among them, until it ends.
int interrupt_to_the_end(Args args, const std::string& out, int64_t steps) {
  args.push_back("--resume");
  std::mt19937 random(11);
  int killed = 0;
  const auto attempt = [&](const auto& when) {
    const int code = run_and_kill(args, std::chrono::microseconds(random() % 4000), when);
    killed += code == 137;
    return code;
  };
  attempt([&] { return fs::exists(out); });  // while it prepares
  attempt([&] {
    if (rows_of(out) >= steps / 2) return true;
    if (!fs::exists(out + "/checkpoints")) return false;
    for (const std::string& name : checkpoints_of(out))
      if (name.find(".partial-") != std::string::npos) return true;
    return false;
  });
  for (int64_t rows = 2; rows < steps; rows += 1 + static_cast<int64_t>(random() % 4)) {
    if (attempt([&] { return rows_of(out) >= rows; }) == 0) break;
  }
  EXPECT_GE(killed, 4);
  return run(args).code;
}

TEST_F(TrainingRun, KilledAndResumedLeavesTheSameBytes) {
  ASSERT_EQ(run(train(file("whole"))).code, 0);
  EXPECT_EQ(interrupt_to_the_end(train(file("killed")), file("killed"), 16), 0);
  expect_same_run(file("whole"), file("killed"));
  EXPECT_EQ(rows_of(file("whole")), 16);
  EXPECT_EQ(checkpoints_of(file("whole")),
            (std::vector<std::string>{"checkpoint-000015.safetensors", "checkpoint-000016.safetensors"}));
  auto rows = read_training_log(file("whole") + "/log.csv");
  ASSERT_TRUE(rows.ok());
  EXPECT_LT(rows->back().loss, 0.9 * rows->front().loss);
}

TEST_F(TrainingRun, KilledAndResumedFinetuningLeavesTheSameBytes) {
  ASSERT_EQ(run(finetune(file("whole"))).code, 0);
  EXPECT_EQ(interrupt_to_the_end(finetune(file("killed")), file("killed"), 12), 0);
  expect_same_run(file("whole"), file("killed"));
  auto rows = read_training_log(file("whole") + "/log.csv");
  ASSERT_TRUE(rows.ok());
  EXPECT_LT(rows->back().loss, 0.9 * rows->front().loss);
}

// Starts the program and waits for the fourth row of its log.
pid_t start(const Args& args, const std::string& out) {
  const pid_t pid = fork();
  if (pid == 0) {
    const int null = open("/dev/null", O_RDWR);
    dup2(null, 1), dup2(null, 2);
    process::become(args, {});
  }
  while (rows_of(out) < 4 && kill(pid, 0) == 0) std::this_thread::sleep_for(std::chrono::microseconds(200));
  return pid;
}

// On the simulated device with room for all, for half, and for the least; and begun with one memory, gone on
// with another.
TEST_F(TrainingRun, OnADeviceFinetuningLeavesTheHostsBytes) {
  const auto on_device = [](Args args, const std::string& memory) {
    args.insert(args.end(), {"--device", "sim", "--gpu-memory", memory});
    return args;
  };
  ASSERT_EQ(run(finetune(file("host"))).code, 0);
  const Finished refused = run(on_device(finetune(file("refused")), "1KiB"));
  expect_error(refused, "give at least as much, or lower --micro-tokens or --rank");
  const std::string mark = " take ";
  const int64_t least = std::stoll(refused.err.substr(refused.err.find(mark) + mark.size())) / 1024 + 1;
  for (const int64_t memory : {least, least + 100, least + 100'000}) {
    const std::string out = file(std::to_string(memory));
    const Finished finished = run(on_device(finetune(out), std::to_string(memory) + "KiB"));
    ASSERT_EQ(finished.code, 0) << finished.err;
    expect_same_run(file("host"), out);
  }
  const std::string out = file("resumed");
  const pid_t pid = start(on_device(finetune(out), std::to_string(least) + "KiB"), out);
  kill(pid, SIGINT);
  EXPECT_EQ(process::wait_for(pid), 1);
  ASSERT_EQ(run(on_device(finetune(out, {"--resume"}), "1GiB")).code, 0);
  expect_same_run(file("host"), out);
}

// A second run from the weights of the first; with a rate of next to nothing it leaves them as they were,
// whatever their format.
TEST_F(TrainingRun, GoesOnFromTheWeightsOfACheckpoint) {
  ASSERT_EQ(run(train(file("first"))).code, 0);
  const Args again = {"--recipe", file("first"), "--keep-weights", "--steps", "2"};
  Args still = train(file("still"), again), on = train(file("on"), again);
  still.insert(still.end(), {"--lr", "1e-30", "--balance", "0"});
  ASSERT_EQ(run(still).code, 0);
  EXPECT_TRUE(read_file(file("still/model.safetensors")) == read_file(file("first/model.safetensors")));
  ASSERT_EQ(run(on).code, 0);
  EXPECT_FALSE(read_file(file("on/model.safetensors")) == read_file(file("first/model.safetensors")));
  expect_error(run(train(file("none"), {"--keep-weights"})), "model.safetensors");
}

TEST_F(TrainingRun, ThreadsDoNotChangeABit) {
  ASSERT_EQ(run(train(file("one"), {"-t", "1"})).code, 0);
  ASSERT_EQ(run(train(file("two"), {"-t", "2"})).code, 0);
  expect_same_run(file("one"), file("two"));
  ASSERT_EQ(run(finetune(file("a"), {"-t", "1"})).code, 0);
  ASSERT_EQ(run(finetune(file("b"), {"-t", "2"})).code, 0);
  expect_same_run(file("a"), file("b"));
}

TEST_F(TrainingRun, CtrlCSavesAndResumes) {
  ASSERT_EQ(run(train(file("whole"))).code, 0);
  for (const int signal : {SIGINT, SIGTERM}) {
    const std::string cut = file(fmt::format("cut{}", signal));
    const pid_t pid = start(train(cut), cut);
    kill(pid, signal);
    EXPECT_EQ(process::wait_for(pid), 1);
    const int64_t rows = rows_of(cut);
    ASSERT_LT(rows, 16);
    EXPECT_TRUE(fs::exists(cut + fmt::format("/checkpoints/checkpoint-{:06}.safetensors", rows)));
    ASSERT_EQ(run(train(cut, {"--resume"})).code, 0);
    EXPECT_EQ(log_of(cut), log_of(file("whole")));
    EXPECT_EQ(read_file(cut + "/model.safetensors"), read_file(file("whole") + "/model.safetensors"));
  }
}

// With --keep the adapters of the last evaluations stay, each whole; the last is the result.
TEST_F(TrainingRun, KeepsTheResultsOfEvaluations) {
  ASSERT_EQ(run(finetune(file("out"), {"--keep", "2"})).code, 0);
  std::vector<std::string> kept;
  for (const auto& entry : fs::directory_iterator(file("out")))
    if (entry.path().filename().string().starts_with("step-")) kept.push_back(entry.path().filename());
  std::sort(kept.begin(), kept.end());
  ASSERT_EQ(kept, (std::vector<std::string>{"step-000008", "step-000012"}));
  const std::string name = "/adapter_model.safetensors";
  EXPECT_TRUE(read_file(file("out") + "/step-000012" + name) == read_file(file("out") + name));
  EXPECT_FALSE(read_file(file("out") + "/step-000008" + name) == read_file(file("out") + name));
  EXPECT_TRUE(fs::exists(file("out") + "/step-000008/adapter_config.json"));
}

TEST_F(TrainingRun, StopsWithItsParent) {
  const std::string out = file("out");
  const pid_t parent = fork();
  if (parent == 0) {
    start(train(out, {"--steps", "100000", "--parent", std::to_string(getpid())}), out);
    _exit(0);
  }
  EXPECT_EQ(process::wait_for(parent), 0);
  std::vector<std::string> saved;
  for (int wait = 0; saved.empty() && wait < process::kPatienceMs; wait += 10) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
    saved = checkpoints_of(out);
  }
  ASSERT_FALSE(saved.empty()) << "it goes on without its parent";
  EXPECT_LT(rows_of(out), 10'000) << "a checkpoint comes by itself then";
  expect_error(run(train(file("other"), {"--parent", "1"})), "did not start this one");
}

// Before the first step the adapter is nothing, so the engine's own logits tell which targets are the
// likeliest.
TEST_F(TrainingRun, CountsTheTargetsThatWereTheLikeliest) {
  const std::string one = scratch_.write(
      "one.jsonl",
      "{\"text\": \"Number 7 is seven, number 8 is eight, number 9 is nine, and so on and on.\"}\n");
  ASSERT_EQ(run({"finetune", "-m", kTiny, "--data", one, "--eval-data", one, "-o", file("out"), "--steps",
                 "1", "--rank", "2", "--lr", "1e-9"})
                .code,
            0);
  auto rows = read_training_log(file("out") + "/log.csv");
  ASSERT_TRUE(rows.ok() && rows->size() == 1) << rows.status().message();

  EngineOptions options;
  options.model = kTiny;
  auto engine = Engine::open(options);
  ASSERT_TRUE(engine.ok()) << engine.status().message();
  DatasetOptions how;
  how.max_tokens = 512, how.vocab = (*engine)->config().vocab, how.stop_ids = (*engine)->generation().eos_ids;
  const auto data = Dataset::load(one, (*engine)->tokenizer(), PromptRenderer(), how);
  ASSERT_TRUE(data.ok()) << data.status().message();
  const std::span<const int32_t> ids = data->example(0).ids;
  auto session = (*engine)->new_session();
  ASSERT_TRUE(session.ok());
  double hits = 0;
  const Status synced =
      (*session)->sync_all(ids.first(ids.size() - 1), [&](int64_t first, std::span<const float> logits) {
        const auto vocab = static_cast<size_t>(how.vocab);
        for (size_t i = 0; i < logits.size() / vocab; ++i) {
          const auto row = logits.subspan(i * vocab, vocab);
          const auto likeliest = std::max_element(row.begin(), row.end()) - row.begin();
          hits += likeliest == ids[static_cast<size_t>(first) + i + 1];
        }
        return Status();
      });
  ASSERT_TRUE(synced.ok()) << synced.message();
  const double wanted = hits / static_cast<double>(ids.size() - 1);
  EXPECT_NEAR((*rows)[0].accuracy, wanted, 1e-6) << hits << " of " << ids.size() - 1;
  EXPECT_NEAR((*rows)[0].eval_accuracy, wanted, 1e-6) << "a step of 1e-9 changes nothing";
  const auto about = nlohmann::json::parse(read_file(file("out") + "/run.json"));
  EXPECT_EQ(about["steps"], 1);
  EXPECT_EQ(about["eval_examples"], 1);
}

// ---- What is refused

TEST_F(TrainingRun, OtherSettingsAreRefusedByName) {
  const std::string out = file("out");
  ASSERT_EQ(run(train(out, {"--steps", "3"})).code, 0);
  const auto before = read_file(out + "/model.safetensors");
  const auto log = read_file(out + "/log.csv");
  const Args same = {"--steps", "3", "--resume"};
  const auto with = [&](const Args& more) {
    Args args = train(out, same);
    args.insert(args.end(), more.begin(), more.end());
    return run(args);
  };
  expect_error(run(train(out, {"--steps", "3"})), "holds checkpoints of an earlier run; go on with --resume");
  expect_error(with({"--lr", "2e-2"}), "\"lr 0.01\", this run has \"lr 0.02\"");
  expect_error(with({"--steps", "4"}), "\"steps 3\", this run has \"steps 4\"");
  expect_error(with({"--seed", "4"}), "\"seed 0\"");
  expect_error(with({"--accumulate", "1"}), "\"accumulation 2\"");
  expect_error(with({"--optimizer", "muon-polar"}), "made with \"matrices ");
  expect_error(with({"--optimizer", "adamw"}), "made with \"matrices ");
  expect_error(with({"--weight-decay", "0.2"}), "decay 0.2");
  expect_error(with({"--balance", "0"}), "\"balance 0.001\"");
  expect_error(with({"--qk-clip", "50"}), "\"qk clip 0\"");
  expect_error(with({"--clip", "2"}), "\"clip 1\"");
  expect_error(with({"--schedule", "wsd"}), "made with \"shape ");
  expect_error(with({"--data", held_out()}), "made with \"data ");
  fs::copy(recipe(), file("other"));
  std::string config = kConfig;
  config.replace(config.find("10000.0"), 7, "20000.0");
  scratch_.write("other/config.json", config);
  expect_error(with({"--recipe", file("other")}),
               "is not the " + out + "/config.json that this run began with");
  EXPECT_EQ(read_file(out + "/config.json"), kConfig);
  EXPECT_EQ(read_file(out + "/model.safetensors"), before);
  EXPECT_EQ(read_file(out + "/log.csv"), log);
  EXPECT_EQ(with({}).code, 0);  // done already
  EXPECT_EQ(log_of(out), log_of(out));
  EXPECT_EQ(read_file(out + "/model.safetensors"), before);
}

TEST_F(TrainingRun, OtherFinetuningSettingsAreRefusedByName) {
  const std::string out = file("out");
  ASSERT_EQ(run(finetune(out, {"--steps", "3"})).code, 0);
  const auto with = [&](const Args& more) {
    Args args = finetune(out, {"--steps", "3", "--resume"});
    args.insert(args.end(), more.begin(), more.end());
    return run(args);
  };
  expect_error(run(finetune(out, {"--steps", "3"})), "go on with --resume");
  expect_error(with({"--rank", "5"}), "\"rank 4\", this run has \"rank 5\"");
  expect_error(with({"--alpha", "5"}), "\"alpha 32\"");
  expect_error(with({"--targets", "o"}), "\"targets all but the router\", this run has \"targets o\"");
  expect_error(with({"--optimizer", "adamw"}), "made with \"optimizer ");
  expect_error(with({"--eval-part", "0.5"}), "made with \"training examples ");
  // The same shapes, other weights.
  fs::copy(kTiny, file("base"), fs::copy_options::recursive);
  std::string weights = read_file(file("base") + "/model.safetensors");
  weights[weights.size() - 100] ^= 1;
  scratch_.write("base/model.safetensors", weights);
  expect_error(with({"-m", file("base")}), "made with \"model ");
  EXPECT_EQ(with({}).code, 0);
}

TEST_F(TrainingRun, ADamagedCheckpointIsNamedAndTheOneBeforeGoesOn) {
  ASSERT_EQ(run(train(file("whole"))).code, 0);
  fs::copy(file("whole"), file("cut"), fs::copy_options::recursive);
  const std::string last = file("cut") + "/checkpoints/checkpoint-000016.safetensors";
  fs::resize_file(last, fs::file_size(last) / 2);
  expect_error(run(train(file("cut"), {"--resume"})), last);
  expect_error(run(train(file("cut"), {"--resume"})), "remove it to go on from the checkpoint before it");
  fs::remove(last);
  ASSERT_EQ(run(train(file("cut"), {"--resume"})).code, 0);
  expect_same_run(file("whole"), file("cut"));
}

TEST_F(TrainingRun, BadDataIsNamedByItsLine) {
  const std::string good = R"({"prompt": "1 + 1 =", "completion": " 2"})";
  const auto tried = [&](const std::string& line, const std::string& why) {
    const std::string path =
        scratch_.write("data.jsonl", good + "\n" + good + "\n" + line + "\n" + good + "\n");
    for (const Args& args : {finetune(file("out"), {"--data", path, "--eval-part", "0"}),
                             train(file("trained"), {"--data", path, "--micro-tokens", "256"})}) {
      const Finished finished = run(args);
      expect_error(finished, "line 3 of '" + path + "'");
      EXPECT_NE(finished.err.find(why), std::string::npos) << finished.err;
      EXPECT_FALSE(fs::exists(file("out") + "/log.csv"));
    }
  };
  tried("", "is empty");
  tried("{\"text\": \"\xff\"}", "is not UTF-8");
  tried("{\"text\": ", "is not JSON");
  tried("[1]", "is not a JSON object");
  tried(R"({"messages": 7})", "messages");
  tried(R"({"prompt": "x"})", "completion");
  tried(R"({"question": "x"})", "has none of");
  std::string sentence;
  for (int i = 0; i < 900; ++i) sentence += std::to_string(i * 7919 % 1000) + " ";
  tried(fmt::format(R"({{"text": "{}"}})", sentence), "the limit is ");
  EXPECT_EQ(run(finetune(file("out"), {"--data", file("nothing.jsonl")})).code, 1);
  const std::string long_line = scratch_.write("long.jsonl", good + "\n{\"text\": \"" + sentence + "\"}\n");
  const Finished cut = run(finetune(file("cut"), {"--data", long_line, "--eval-part", "0", "--cut-long"}));
  EXPECT_EQ(cut.code, 0) << cut.err;
  EXPECT_NE(cut.err.find("1 examples were cut"), std::string::npos) << cut.err;
}

TEST_F(TrainingRun, OtherMistakesAreOneLineToo) {
  expect_error(run(finetune(file("out"), {"--rank", "300"})), "--rank 300 is more than model.layers.0.");
  expect_error(run(finetune(file("out"), {"--targets", "q,nonsense"})), "\"nonsense\" names no matrix");
  expect_error(run(finetune(file("out"), {"--targets", "k_proj"})), "\"k_proj\" names no matrix");
  expect_error(run(finetune(file("out"), {"--eval-part", "0", "--patience", "2"})),
               "--patience needs held-out");
  expect_error(run(finetune(file("out"), {"-m", file("nothing")})), "nothing");
  fs::create_directory(file("empty"));
  expect_error(run(train(file("new"), {"--recipe", file("empty")})), "empty/config.json is missing");
  EXPECT_FALSE(fs::exists(file("new")));
  scratch_.write("empty/config.json", "{");
  expect_error(run(train(file("new"), {"--recipe", file("empty")})), "config.json");
  EXPECT_FALSE(fs::exists(file("new")));
  scratch_.write("none.jsonl", "");
  expect_error(run(train(file("new"), {"--data", file("none.jsonl")})), "no text to train a tokenizer on");
  expect_error(run(train(file("new"), {"--data", file("missing.jsonl")})), "missing.jsonl");
  EXPECT_EQ(run(train(file("new"), {"--lr", "-1"})).code, 2);
  EXPECT_EQ(run(train(file("new"), {"--optimizer", "sgd"})).code, 2);
}

// A model whose experts have no fused layout: known before a step is taken.
TEST_F(TrainingRun, ALayoutThatCannotHoldTheAdapterIsRefusedAtOnce) {
  for (const char* name : {"deepseek_v3_ragged", "deepseek_v3_zeda"}) {
    const std::string model = file(name);
    fs::copy(std::string("tests/golden/models/") + name, model);
    for (const char* part : {"tokenizer.json", "tokenizer_config.json"})
      fs::copy_file(std::string(kTiny) + "/" + part, model + "/" + part,
                    fs::copy_options::overwrite_existing);
    const std::string few = scratch_.write("few.jsonl", R"({"text": "a"})");
    Args args = {"finetune", "-m", model,    "--data", few,           "-o", file(std::string("out_") + name),
                 "--steps",  "2",  "--rank", "2",      "--eval-part", "0"};
    expect_error(run(args), "give --adapter-layout per-expert");
    args.insert(args.end(), {"--adapter-layout", "per-expert"});
    const Finished written = run(args);
    EXPECT_EQ(written.code, 0) << written.err;
  }
}

// ---- Faults while it runs

bool all_finite(const std::string& path) {
  auto file = SafetensorsFile::open(path);
  EXPECT_TRUE(file.ok()) << file.status().message();
  if (!file.ok()) return false;
  for (const TensorEntry& t : (*file)->tensors()) {
    for (int64_t i = 0; t.dtype == DType::kBF16 && i < t.bytes / 2; ++i)
      if (!std::isfinite(bf16_to_f32(static_cast<const uint16_t*>(t.data)[i]))) return false;
    for (int64_t i = 0; t.dtype == DType::kF32 && i < t.bytes / 4; ++i)
      if (!std::isfinite(static_cast<const float*>(t.data)[i])) return false;
  }
  return true;
}

// The warm-up's first step has a learning rate of zero, the second one beyond all measure. Weights that are
// not finite are never kept; those that are finite but ruined show at the next step.
TEST_F(TrainingRun, AnExplosionKeepsWhatWasGood) {
  const std::string first = "checkpoint-000001.safetensors";
  for (const char* lr : {"1e3", "1e30", "1e41"}) {
    for (const bool evaluates : {true, false}) {
      const std::string out = file(fmt::format("{}{}", lr, evaluates));
      const bool infinite = std::string(lr) == "1e41";
      const Finished exploded =
          run(train(out, {"--lr", lr, "--warmup", "16", "--save-every", "1", "--eval-every", "1",
                          "--eval-data", evaluates ? held_out() : ""}));
      expect_error(exploded, infinite ? "after step 2: " : "step 3: ");
      EXPECT_NE(exploded.err.find("start anew in another folder with a lower --lr"), std::string::npos);
      EXPECT_NE(exploded.err.find("model.embed_tokens.weight"), std::string::npos) << exploded.err;
      EXPECT_EQ(checkpoints_of(out).front(), first);
      EXPECT_EQ(checkpoints_of(out).size(), infinite ? 1u : 2u);
      EXPECT_TRUE(all_finite(out + "/checkpoints/" + first));
      EXPECT_TRUE(all_finite(out + "/model.safetensors"));
      for (const std::string& name : files_of(out))
        EXPECT_EQ(name.find("partial"), std::string::npos) << name;
    }
  }
}

// Too small a limit on files for a checkpoint, and enough for all else.
TEST_F(TrainingRun, AFileLimitLosesNoFinishedCheckpoint) {
  ASSERT_EQ(run(train(file("whole"))).code, 0);
  const auto limited = [&](rlim_t bytes) {
    rlimit before;
    getrlimit(RLIMIT_FSIZE, &before);
    rlimit small = before;
    small.rlim_cur = bytes;
    setrlimit(RLIMIT_FSIZE, &small);
    std::signal(SIGXFSZ, SIG_IGN);  // the program sees an error, as it does on a full disk
    const Finished finished = run(train(file("cut"), {"--resume"}));
    setrlimit(RLIMIT_FSIZE, &before);
    std::signal(SIGXFSZ, SIG_DFL);
    return finished;
  };
  run_and_kill(train(file("cut")), std::chrono::microseconds(0), [&] { return rows_of(file("cut")) >= 5; });
  const auto kept = checkpoints_of(file("cut"));
  const std::string newest = "checkpoint-000003.safetensors";
  ASSERT_EQ(kept, std::vector<std::string>{newest});
  const std::string bytes = read_file(file("cut") + "/checkpoints/" + newest);
  const rlim_t model_size = fs::file_size(file("whole") + "/model.safetensors");
  ASSERT_LT(model_size + 10'000, bytes.size());
  for (const rlim_t limit : {static_cast<rlim_t>(bytes.size() - 1), model_size - 1}) {
    const Finished finished = limited(limit);
    expect_error(finished, "cannot write '" + file("cut"));
    EXPECT_EQ(checkpoints_of(file("cut")), kept);
    EXPECT_TRUE(read_file(file("cut") + "/checkpoints/" + newest) == bytes);
  }
  ASSERT_EQ(run(train(file("cut"), {"--resume"})).code, 0);
  expect_same_run(file("whole"), file("cut"));
}

// A file system too small for two checkpoints, then one that was made larger.
TEST_F(TrainingRun, AFullDiskLosesNoFinishedCheckpoint) {
  fs::create_directory(file("disk"));
  if (mount("tmpfs", file("disk").c_str(), "tmpfs", 0, "size=1100k") != 0)
    GTEST_SKIP() << "a file system of its own needs root: " << std::strerror(errno);
  struct Unmount {
    std::string path;
    ~Unmount() { umount2(path.c_str(), MNT_DETACH); }
  } unmount{file("disk")};
  ASSERT_EQ(run(train(file("whole"))).code, 0);
  const std::string out = file("disk") + "/out";
  const Finished full = run(train(out));
  expect_error(full, "free some disk space or write elsewhere");
  EXPECT_EQ(checkpoints_of(out), std::vector<std::string>{"checkpoint-000003.safetensors"});
  ASSERT_EQ(mount("tmpfs", file("disk").c_str(), "tmpfs", MS_REMOUNT, "size=16m"), 0);
  ASSERT_EQ(run(train(out, {"--resume"})).code, 0);
  expect_same_run(file("whole"), out);
}

// ---- Evaluation

// What is learned is all "a", what is asked is all "b": every evaluation is worse than the one before.
TEST_F(TrainingRun, PatienceKeepsTheBest) {
  std::string a, b;
  for (int i = 0; i < 20; ++i) a += "{\"text\": \"aaaaaaaaaaaa\"}\n", b += "{\"text\": \"bbbbbbbbbbbb\"}\n";
  const std::string out = file("out");
  const Args args =
      train(out, {"--data", scratch_.write("a.jsonl", a), "--eval-data", scratch_.write("b.jsonl", b),
                  "--eval-every", "2", "--save-every", "2", "--patience", "1", "--warmup", "0"});
  const Finished finished = run(args);
  ASSERT_EQ(finished.code, 0) << finished.err;
  EXPECT_NE(finished.err.find("stopped at step 4: 1 evaluations without a better loss"), std::string::npos)
      << finished.err;
  auto rows = read_training_log(out + "/log.csv");
  ASSERT_TRUE(rows.ok());
  ASSERT_EQ(rows->size(), 4u);
  EXPECT_LT((*rows)[1].eval_loss, (*rows)[3].eval_loss);
  EXPECT_TRUE(std::isnan((*rows)[0].eval_loss) && std::isnan((*rows)[2].eval_loss));

  // The result holds the weights of step 2, not those of step 4.
  const auto weights_of = [&](const std::string& path) {
    std::map<std::string, std::vector<float>> all;
    auto opened = SafetensorsFile::open(path);
    EXPECT_TRUE(opened.ok());
    for (const TensorEntry& t : (*opened)->tensors()) {
      if (!t.name.ends_with("proj.weight")) continue;
      const bool half = t.dtype == DType::kBF16;
      for (int64_t i = 0; i < t.bytes / (half ? 2 : 4); ++i) {
        all[t.name].push_back(half ? bf16_to_f32(static_cast<const uint16_t*>(t.data)[i])
                                   : bf16_to_f32(f32_to_bf16(static_cast<const float*>(t.data)[i])));
      }
    }
    return all;
  };
  const auto kept = weights_of(out + "/model.safetensors");
  EXPECT_GT(kept.size(), 10u);
  EXPECT_TRUE(kept == weights_of(out + "/checkpoints/checkpoint-000002.safetensors"));
  EXPECT_FALSE(kept == weights_of(out + "/checkpoints/checkpoint-000004.safetensors"));

  // It ended: there is nothing to go on with.
  const std::string before = read_file(out + "/model.safetensors");
  Args resume = args;
  resume.push_back("--resume");
  const Finished again = run(resume);
  EXPECT_EQ(again.code, 0) << again.err;
  EXPECT_NE(again.err.find("stopped at step 4"), std::string::npos) << again.err;
  EXPECT_EQ(rows_of(out), 4);
  EXPECT_EQ(read_file(out + "/model.safetensors"), before);
}

TEST_F(TrainingRun, HoldsOutAPartOfTheData) {
  std::string lines;
  for (int i = 0; i < 20; ++i)
    lines += fmt::format("{{\"prompt\": \"{} + 1 =\", \"completion\": \" {}\"}}\n", i, i + 1);
  const std::string path = scratch_.write("sums.jsonl", lines);
  const Finished split =
      run(finetune(file("split"), {"--data", path, "--eval-part", "0.25", "--steps", "2"}));
  EXPECT_EQ(split.code, 0) << split.err;
  EXPECT_NE(split.err.find(" 15 examples"), std::string::npos) << split.err;
  EXPECT_NE(split.err.find("step 2: evaluation loss"), std::string::npos) << split.err;
  const Finished all =
      run(finetune(file("all"), {"--data", path, "--eval-part", "0", "--steps", "2", "--json"}));
  EXPECT_EQ(all.code, 0) << all.err;
  EXPECT_NE(all.err.find(" 20 examples"), std::string::npos) << all.err;
  EXPECT_EQ(all.err.find("evaluation"), std::string::npos) << all.err;
  const auto report = nlohmann::json::parse(all.out, nullptr, false);
  EXPECT_EQ(report["steps"], 2);
  EXPECT_FALSE(report.contains("eval_loss"));
}

// ---- What is left can be used

std::vector<int32_t> answer(const EngineOptions& options) {
  auto engine = Engine::open(options);
  EXPECT_TRUE(engine.ok()) << engine.status().message();
  if (!engine.ok()) return {};
  auto prompt = (*engine)->render_chat({{"messages", {{{"role", "user"}, {"content", "What is 3 + 4?"}}}}});
  EXPECT_TRUE(prompt.ok()) << prompt.status().message();
  auto ids = (*engine)->tokenizer().encode(*prompt, {});
  EXPECT_TRUE(ids.ok());
  auto session = (*engine)->new_session();
  EXPECT_TRUE(session.ok());
  GenerateOptions how;
  how.max_tokens = 8, how.ignore_eos = true;
  how.sampling.temperature = 0;
  std::vector<int32_t> out;
  auto stats = (*engine)->generate(**session, *ids, how, [&](const Piece& piece) {
    if (piece.id >= 0) out.push_back(piece.id);
    return true;
  });
  EXPECT_TRUE(stats.ok());
  return out;
}

TEST_F(TrainingRun, TheResultOpensAndAnswers) {
  ASSERT_EQ(run(train(file("out"))).code, 0);
  EngineOptions options;
  options.model = file("out");
  EXPECT_EQ(answer(options).size(), 8u);
}

TEST_F(TrainingRun, TheAdapterOpensAndAnswers) {
  // Taught one answer, whatever it is asked, the model gives it.
  std::string lines;
  for (int i = 0; i < 16; ++i) {
    lines += fmt::format(
        R"({{"messages": [{{"role": "user", "content": "What is {} + 4?"}}, {{"role": "assistant", "content": "zebra"}}]}})"
        "\n",
        i);
  }
  const std::string path = scratch_.write("zebra.jsonl", lines);
  const Finished finished =
      run(finetune(file("out"), {"--data", path, "--eval-part", "0", "--steps", "60", "--lr", "2e-2"}));
  ASSERT_EQ(finished.code, 0) << finished.err;
  EngineOptions base, adapted;
  base.model = adapted.model = kTiny;
  adapted.adapter = file("out");
  const auto without = answer(base), with = answer(adapted);
  EXPECT_NE(without, with);
  auto engine = Engine::open(base);
  ASSERT_TRUE(engine.ok());
  auto zebra = (*engine)->tokenizer().encode("zebra", {});
  ASSERT_TRUE(zebra.ok());
  ASSERT_GE(with.size(), zebra->size());
  EXPECT_EQ(std::vector<int32_t>(with.begin(), with.begin() + std::ssize(*zebra)), *zebra);
}

}  // namespace
}  // namespace moebius
