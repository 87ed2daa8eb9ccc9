// Fine-tuning jobs: their requests, their states with real training runs of a tiny model, servers that end in
// the middle, and /v1/fine_tuning/jobs.
#include <cmath>
#include <filesystem>
#include <map>

#include <gtest/gtest.h>

#include "tests/test_server.h"
#include "tests/tools_process.h"

namespace moebius {
namespace {

namespace fs = std::filesystem;
using process::read_file;
using process::Scratch;

// ---- Requests

std::optional<ApiError> parse(const Json& more, JobRequest& request) {
  Json body = {{"model", "tiny"}, {"training_file", "file-a"}};
  body.update(more);
  return parse_job_request(body, {"tiny", "other"}, request);
}

std::vector<std::string> arguments(const Json& more) {
  JobRequest request;
  const auto error = parse(more, request);
  EXPECT_FALSE(error) << error->message;
  request.seed = 7;
  return finetune_arguments(request);
}

TEST(JobRequests, BecomeArguments) {
  using Args = std::vector<std::string>;
  EXPECT_EQ(arguments(Json::object()), (Args{"--epochs=3", "--seed=7", "--lr=0.002"}));
  const Json automatic = {{"n_epochs", "auto"}, {"batch_size", "auto"}, {"learning_rate_multiplier", "auto"}};
  EXPECT_EQ(arguments({{"hyperparameters", automatic}}), arguments(Json::object()));
  const Json given = {{"n_epochs", 5}, {"batch_size", 8}, {"learning_rate_multiplier", 0.5}};
  const Args wanted = {"--epochs=5", "--seed=7", "--lr=0.001", "--batch-size=8"};
  EXPECT_EQ(arguments({{"hyperparameters", given}}), wanted);
  EXPECT_EQ(arguments({{"method", {{"type", "supervised"}, {"supervised", {{"hyperparameters", given}}}}}}),
            wanted);
  EXPECT_EQ(arguments({{"x_lora",
                        {{"rank", 4},
                         {"targets", {"q", "experts"}},
                         {"optimizer", "lora-muon"},
                         {"lr", 0.01},
                         {"cut_long", true},
                         {"alpha", nullptr}}}}),
            (Args{"--epochs=3", "--seed=7", "--lr=0.01", "--rank=4", "--targets=q,experts",
                  "--optimizer=lora-muon", "--cut-long"}));
}

TEST(JobRequests, AreRefusedByName) {
  const auto hyper = [](const Json& value) { return Json{{"hyperparameters", value}}; };
  const auto lora = [](const Json& value) { return Json{{"x_lora", value}}; };
  const std::vector<std::pair<Json, const char*>> bad = {
      {{{"model", nullptr}}, "model"},
      {{{"model", 3}}, "model"},
      {{{"training_file", nullptr}}, "training_file"},
      {{{"training_file", std::string(100, 'f')}}, "training_file"},
      {{{"validation_file", 1}}, "validation_file"},
      {{{"suffix", std::string(65, 's')}}, "suffix"},
      {{{"suffix", "a:b"}}, "suffix"},
      {{{"suffix", "../x"}}, "suffix"},
      {{{"seed", -1}}, "seed"},
      {{{"seed", int64_t{1} << 31}}, "seed"},
      {{{"seed", 1.5}}, "seed"},
      {hyper({{"n_epochs", 0}}), "hyperparameters.n_epochs"},
      {hyper({{"n_epochs", 51}}), "hyperparameters.n_epochs"},
      {hyper({{"n_epochs", "many"}}), "hyperparameters.n_epochs"},
      {hyper({{"batch_size", 257}}), "hyperparameters.batch_size"},
      {hyper({{"learning_rate_multiplier", 0}}), "hyperparameters.learning_rate_multiplier"},
      {hyper({{"learning_rate_multiplier", -1}}), "hyperparameters.learning_rate_multiplier"},
      {hyper(3), "hyperparameters"},
      {{{"method", {{"type", "dpo"}}}}, "method.type"},
      {{{"method", {{"type", "reinforcement"}}}}, "method.type"},
      {{{"method", {{"type", "magic"}}}}, "method.type"},
      {{{"method", Json::object()}}, "method.type"},
      {{{"method", {{"type", "supervised"}, {"supervised", {{"hyperparameters", {{"n_epochs", 99}}}}}}}},
       "method.supervised.hyperparameters.n_epochs"},
      {{{"integrations", Json::array({{{"type", "wandb"}}})}}, "integrations"},
      {{{"metadata", {{"a", 1}}}}, "metadata"},
      {{{"metadata", {{std::string(65, 'k'), "v"}}}}, "metadata"},
      {lora({{"ranc", 4}}), "x_lora"},
      {lora({{"rank", 0}}), "x_lora.rank"},
      {lora({{"rank", 2.5}}), "x_lora.rank"},
      {lora({{"optimizer", "sgd"}}), "x_lora.optimizer"},
      {lora({{"targets", "q"}}), "x_lora.targets"},
      {lora({{"targets", Json::array({"q,--out=/tmp"})}}), "x_lora.targets"},
      {lora({{"lr", 0}}), "x_lora.lr"},
      {{{"x_lora", {{"accumulation", 2}}}, {"hyperparameters", {{"batch_size", 2}}}}, "x_lora"}};
  for (const auto& [more, param] : bad) {
    JobRequest request;
    const auto error = parse(more, request);
    ASSERT_TRUE(error) << more;
    EXPECT_EQ(error->status, 400) << more;
    EXPECT_EQ(error->param, param) << more << ": " << error->message;
  }
  JobRequest request;
  EXPECT_EQ(parse({{"model", "gpt-4o"}}, request)->code, "model_not_found");
}

TEST(JobStates, ComeBackFromText) {
  Job job;
  job.id = "ftjob-0123456789abcdefghijklmn";
  ASSERT_FALSE(parse({{"suffix", "s"},
                      {"metadata", {{"k", "v"}}},
                      {"x_lora", {{"rank", 3}}},
                      {"hyperparameters", {{"batch_size", 2}, {"learning_rate_multiplier", 0.25}}}},
                     job.request));
  job.status = JobStatus::kFailed;
  job.created_us = 12'345'678, job.finished_at = 99, job.steps = 4, job.total_steps = 8, job.tokens = 1000;
  job.seconds = 1.5, job.result_files = {"file-r"}, job.checkpoints = {{2, 50}, {4, 60}};
  job.error = {"training_failed", "why", "training_file"};
  EXPECT_EQ(job.model_name(), "ft:tiny:local:s:ghijklmn");
  EXPECT_EQ(job.model_name(4), "ft:tiny:local:s:ghijklmn:ckpt-step-4");
  const std::optional<Job> back = job_of_state(parsed(ApiError::to_text(job.state())));
  ASSERT_TRUE(back);
  EXPECT_EQ(back->json(), job.json());
  EXPECT_EQ(back->state(), job.state());
  const Json state = job.state();
  for (const auto& [key, value] : state.items()) {
    if (key == "result_files" || key == "checkpoints") continue;
    Json damaged = state;
    damaged[key] = value.is_string() ? Json(1) : Json("x");
    EXPECT_FALSE(job_of_state(damaged)) << key;
    damaged.erase(key);
    EXPECT_FALSE(job_of_state(damaged)) << key;
  }
}

// ---- Jobs with real training

const char* const kData = "examples/number-words/train.jsonl";

std::string some_lines(int count) {
  const std::string all = read_file(kData);
  size_t end = 0;
  for (int i = 0; i < count; ++i) end = all.find('\n', end) + 1;
  return all.substr(0, end);
}

// Files and jobs.
class Bench {
 public:
  explicit Bench(const std::string& folder, int64_t memory_bytes = 0, const std::string& model = "tiny")
      : log_("test", std::make_shared<spdlog::sinks::null_sink_mt>()) {
    FineTuningOptions options;
    options.folder = folder;
    options.program = MOEBIUS_BINARY;
    options.threads = 1;
    options.memory_bytes = memory_bytes;
    auto tuning = FineTuning::open(options, kModel, {model}, std::chrono::seconds(30), log_);
    MOEBIUS_CHECK(tuning.ok(), tuning.status().message());
    tuning_ = std::move(*tuning);
  }

  Jobs& jobs() { return tuning_->jobs(); }
  FileStore& files() { return tuning_->files(); }
  std::string add_file(const std::string& data, const std::string& purpose = "fine-tune") {
    StoredFile file;
    const auto error = files().add(data, "a.jsonl", purpose, file);
    MOEBIUS_CHECK(!error);
    return file.id;
  }
  // {"steps"} is long unless more says how much.
  Job create(const std::string& file, const Json& lora = {{"steps", 6}}, const Json& more = Json::object()) {
    Json body = {{"model", "tiny"},
                 {"training_file", file},
                 {"seed", 5},
                 {"x_lora", {{"rank", 2}, {"micro_tokens", 512}}}};
    body["x_lora"].update(lora);
    body.update(more);
    JobRequest request;
    const auto wrong = parse_job_request(body, {"tiny"}, request);
    MOEBIUS_CHECK(!wrong, wrong ? wrong->message : "");
    Job job;
    const auto error = jobs().create(std::move(request), job);
    MOEBIUS_CHECK(!error, error ? error->message : "");
    return job;
  }
  // Until `when` holds for the job.
  template <class When>
  Job wait(const std::string& id, const When& when) {
    for (int waited = 0; waited < process::kPatienceMs; waited += 5) {
      const Job job = *jobs().find(id);
      if (when(job)) return job;
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    ADD_FAILURE() << jobs().find(id)->json() << said(id);
    return *jobs().find(id);
  }
  Job end(const std::string& id) {
    return wait(id, [](const Job& job) { return has_ended(job.status); });
  }
  Job running(const std::string& id, int64_t steps) {
    return wait(id, [&](const Job& job) { return job.status == JobStatus::kRunning && job.steps >= steps; });
  }
  std::string said(const std::string& id) {
    std::string text;
    for (const std::string& line : jobs().events(id)) text += line + "\n";
    return text;
  }
  // Every step's number in the order of the events.
  std::vector<int64_t> steps_told(const std::string& id) {
    std::vector<int64_t> steps;
    for (const std::string& line : jobs().events(id))
      if (const Json event = parsed(line); event.contains("data")) steps.push_back(event["data"]["step"]);
    return steps;
  }
  // The folders of the models that came of jobs.
  std::map<std::string, std::string> offered() {
    std::map<std::string, std::string> out;
    for (const TunedModel& model : jobs().models()) out[model.name] = model.folder;
    return out;
  }

 private:
  spdlog::logger log_;
  std::unique_ptr<FineTuning> tuning_;
};

std::vector<int64_t> count_to(int64_t last) {
  std::vector<int64_t> out;
  for (int64_t i = 1; i <= last; ++i) out.push_back(i);
  return out;
}

constexpr int64_t kLong = 200'000;  // steps: minutes

class JobsTest : public ::testing::Test {
 protected:
  std::string folder() const { return scratch_.file("files"); }
  static std::string job_folder(const std::string& folder, const Job& job) {
    return folder + "/jobs/" + job.id;
  }
  Scratch scratch_;
};

TEST_F(JobsTest, TrainsAndOffersTheModel) {
  std::map<std::string, std::string> before;
  std::string id;
  {
    Bench bench(folder());
    const std::string file = bench.add_file(some_lines(40));
    const Job created = bench.create(file, {{"steps", 6}}, {{"suffix", "words"}, {"metadata", {{"a", "b"}}}});
    EXPECT_EQ(created.status, JobStatus::kQueued);
    EXPECT_EQ(created.json()["status"], "queued");
    EXPECT_TRUE(created.json()["fine_tuned_model"].is_null());
    EXPECT_TRUE(bench.files().erase(file)) << "the job keeps its data";
    const Job job = bench.end(created.id);
    ASSERT_EQ(job.status, JobStatus::kSucceeded) << bench.said(job.id);
    const Json json = job.json();
    const std::string name = "ft:tiny:local:words:" + job.id.substr(job.id.size() - 8);
    EXPECT_EQ(json["fine_tuned_model"], name);
    EXPECT_EQ(json["x_lora"]["steps_done"], 6);
    EXPECT_EQ(json["x_lora"]["steps_total"], 6);
    EXPECT_GT(json["trained_tokens"].get<int64_t>(), 500);
    EXPECT_GE(json["finished_at"].get<int64_t>(), json["created_at"].get<int64_t>());
    EXPECT_EQ(json["metadata"], (Json{{"a", "b"}}));
    EXPECT_EQ(bench.steps_told(job.id), count_to(6));
    for (const char* text : {"Created fine-tuning job", "Fine-tuning job started",
                             "Step 6/6: training loss=", "Checkpoint created at step 6",
                             "New fine-tuned model created: ft:", "successfully completed"})
      EXPECT_NE(bench.said(job.id).find(text), std::string::npos) << text;

    ASSERT_EQ(job.result_files.size(), 1u);
    const auto results = bench.files().find(job.result_files[0]);
    ASSERT_TRUE(results);
    EXPECT_EQ(results->purpose, "fine-tune-results");
    const std::string csv = read_file(bench.files().path_of(*results));
    EXPECT_TRUE(csv.starts_with("step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy\n1,"))
        << csv;
    EXPECT_EQ(std::count(csv.begin(), csv.end(), '\n'), 7);

    const std::vector<Json> checkpoints = bench.jobs().checkpoints(job);
    ASSERT_EQ(checkpoints.size(), 3u) << "the last ones stay";
    EXPECT_EQ(checkpoints.back()["step_number"], 6);
    EXPECT_EQ(checkpoints.back()["fine_tuned_model_checkpoint"], name + ":ckpt-step-6");
    EXPECT_GT(checkpoints.back()["metrics"]["valid_loss"].get<double>(), 0);
    EXPECT_EQ(bench.offered().size(), 4u);
    EXPECT_TRUE(bench.offered().contains(name) && bench.offered().contains(name + ":ckpt-step-5"));
    for (const auto& [offered, adapter] : bench.offered())
      EXPECT_TRUE(fs::exists(adapter + "/adapter_model.safetensors")) << offered;
    EXPECT_FALSE(fs::exists(job_folder(folder(), job) + "/train.jsonl")) << "what nobody needs any more";
    EXPECT_FALSE(fs::exists(job_folder(folder(), job) + "/adapter/checkpoints"));
    before = bench.offered(), id = job.id;
    Job none;
    EXPECT_EQ(bench.jobs().cancel(id, none)->code, "invalid_job_status");
    EXPECT_EQ(bench.jobs().pause(id, none)->code, "invalid_job_status");
    EXPECT_EQ(bench.jobs().resume(id, none)->code, "invalid_job_status");
    EXPECT_EQ(bench.jobs().cancel("ftjob-none", none)->status, 404);
  }
  Bench again(folder());
  EXPECT_EQ(again.offered(), before) << "a server that is started anew offers it too";
  EXPECT_EQ(again.jobs().find(id)->status, JobStatus::kSucceeded);
}

TEST_F(JobsTest, PausesResumesAndCancels) {
  Bench bench(folder());
  const std::string file = bench.add_file(some_lines(40));
  const std::string id = bench.create(file, {{"steps", kLong}}).id,
                    next = bench.create(file, {{"steps", 3}}).id;
  const int64_t before = bench.running(id, 3).steps;
  EXPECT_EQ(bench.jobs().find(next)->status, JobStatus::kQueued) << "one at a time";
  Job job;
  ASSERT_FALSE(bench.jobs().pause(id, job));
  EXPECT_EQ(job.status, JobStatus::kPaused);
  EXPECT_GE(job.steps, before);
  EXPECT_TRUE(fs::exists(job_folder(folder(), job) +
                         fmt::format("/adapter/checkpoints/checkpoint-{:06}.safetensors", job.steps)));
  EXPECT_EQ(bench.jobs().pause(id, job)->code, "invalid_job_status");
  EXPECT_EQ(bench.end(next).status, JobStatus::kSucceeded) << "the next one has its turn";

  ASSERT_FALSE(bench.jobs().resume(id, job));
  EXPECT_EQ(bench.jobs().resume(id, job)->code, "invalid_job_status");
  const int64_t paused = job.steps;
  bench.running(id, paused + 5);
  ASSERT_FALSE(bench.jobs().cancel(id, job));
  EXPECT_EQ(job.status, JobStatus::kCancelled);
  EXPECT_EQ(bench.steps_told(id), count_to(job.steps)) << "each step is told once, across runs";
  EXPECT_FALSE(fs::exists(job_folder(folder(), job) + "/train.jsonl"));

  const std::string waiting = bench.create(file, {{"steps", kLong}}).id;
  bench.running(waiting, 1);
  const std::string queued = bench.create(file).id;
  ASSERT_FALSE(bench.jobs().pause(queued, job));
  EXPECT_EQ(job.status, JobStatus::kPaused);
  ASSERT_FALSE(bench.jobs().cancel(queued, job));
  EXPECT_EQ(job.status, JobStatus::kCancelled);
  ASSERT_FALSE(bench.jobs().cancel(waiting, job));
  EXPECT_EQ(job.status, JobStatus::kCancelled);
}

TEST_F(JobsTest, GoOnAfterTheServerWasStopped) {
  std::string id, paused;
  int64_t steps = 0;
  {
    Bench bench(folder());
    const std::string file = bench.add_file(some_lines(40));
    id = bench.create(file, {{"steps", kLong}}).id, paused = bench.create(file).id;
    bench.running(id, 3);
    Job job;
    ASSERT_FALSE(bench.jobs().pause(paused, job));
    bench.jobs().stop();
    steps = bench.jobs().find(id)->steps;
    EXPECT_EQ(bench.jobs().find(id)->status, JobStatus::kQueued);
    EXPECT_TRUE(fs::exists(job_folder(folder(), *bench.jobs().find(id)) +
                           fmt::format("/adapter/checkpoints/checkpoint-{:06}.safetensors", steps)));
  }
  Bench bench(folder());
  EXPECT_EQ(bench.jobs().find(paused)->status, JobStatus::kPaused);
  EXPECT_EQ(bench.jobs().find(id)->steps, steps);
  bench.running(id, steps + 3);
  EXPECT_NE(bench.said(id).find(fmt::format("goes on after step {}", steps)), std::string::npos);
  Job job;
  ASSERT_FALSE(bench.jobs().cancel(id, job));
  EXPECT_EQ(bench.steps_told(id), count_to(job.steps));
}

TEST_F(JobsTest, GoOnAfterTheServerWasKilled) {
  const pid_t server = fork();
  if (server == 0) {
    Bench bench(folder());
    const std::string id = bench.create(bench.add_file(some_lines(40)), {{"steps", kLong}}).id;
    bench.running(id, 3);
    kill(getpid(), SIGKILL);
  }
  EXPECT_EQ(process::wait_for(server), 128 + SIGKILL);
  Bench bench(folder());
  ASSERT_EQ(bench.jobs().list().size(), 1u);
  const Job found = bench.jobs().list()[0];
  EXPECT_GE(found.steps, 3) << "the events know what the state did not say yet";
  bench.running(found.id, found.steps + 3);
  EXPECT_NE(bench.said(found.id).find("server was started anew"), std::string::npos);
  Job job;
  ASSERT_FALSE(bench.jobs().cancel(found.id, job));
  EXPECT_EQ(bench.steps_told(found.id), count_to(job.steps));
  // The training that the killed server left saved its last step and ended: the new one began there, not at
  // 0.
  const std::string log = read_file(job_folder(folder(), job) + "/finetune.log");
  EXPECT_NE(log.find("goes on after step"), std::string::npos) << log;
}

TEST_F(JobsTest, WaitForTheirOwnModel) {
  std::string waiting, done;
  {
    Bench bench(folder());
    const std::string file = bench.add_file(some_lines(10));
    done = bench.end(bench.create(file, {{"steps", 1}}).id).id;
    waiting = bench.create(file, {{"steps", kLong}}).id;
    bench.running(waiting, 1);
  }
  {
    Bench bench(folder(), 0, "another");
    EXPECT_EQ(bench.jobs().find(waiting)->status, JobStatus::kPaused);
    EXPECT_TRUE(bench.offered().empty());
    Job job;
    EXPECT_EQ(bench.jobs().resume(waiting, job)->code, "model_not_found");
  }
  Bench bench(folder());
  EXPECT_EQ(bench.offered().size(), 2u);
  Job job;
  ASSERT_FALSE(bench.jobs().resume(waiting, job));
  bench.running(waiting, job.steps + 1);
  const std::string name = bench.jobs().find(done)->model_name();
  EXPECT_FALSE(bench.jobs().erase_model(name + ":ckpt-step-1"));
  EXPECT_TRUE(bench.jobs().erase_model(name));
  EXPECT_FALSE(bench.jobs().erase_model(name));
  EXPECT_TRUE(bench.offered().empty());
}

TEST_F(JobsTest, FailuresAreTold) {
  Bench bench(folder());
  const std::string file = bench.add_file(some_lines(4));
  const Job bad = bench.end(bench.create(file, {{"micro_tokens", 16}, {"steps", 2}}).id);
  ASSERT_EQ(bad.status, JobStatus::kFailed);
  EXPECT_EQ(bad.error.code, "training_failed");
  EXPECT_EQ(bad.error.param, "training_file");
  EXPECT_TRUE(bad.error.message.starts_with("line 1 of '" + file + "'")) << bad.error.message;
  EXPECT_EQ(bench.said(bad.id).find(folder()), std::string::npos) << bench.said(bad.id);
  const Job wrong = bench.end(bench.create(file, {{"targets", {"nonsense"}}}).id);
  ASSERT_EQ(wrong.status, JobStatus::kFailed);
  EXPECT_EQ(wrong.json()["error"]["param"], nullptr);
  EXPECT_NE(wrong.error.message.find("nonsense"), std::string::npos) << wrong.error.message;
}

TEST_F(JobsTest, TrainingHasABudgetOfMemory) {
  Bench bench(folder(), int64_t{24} << 20);
  const Job job =
      bench.end(bench.create(bench.add_file(some_lines(4)), {{"micro_tokens", 1 << 20}, {"steps", 2}}).id);
  ASSERT_EQ(job.status, JobStatus::kFailed);
  EXPECT_NE(job.error.message.find("memory"), std::string::npos) << job.error.message;
}

// ---- Over HTTP

TEST_F(JobsTest, AnswersAsOpenAiDoes) {
  ServerOptions options;
  options.tuning.folder = folder();
  options.tuning.program = MOEBIUS_BINARY;
  options.tuning.threads = 1;
  TestServer server(options);
  httplib::Client client = server.client();
  const auto upload = [&](const std::string& purpose) {
    const httplib::MultipartFormDataItems form = {{"file", some_lines(40), "a.jsonl", ""},
                                                  {"purpose", purpose, "", ""}};
    return Json::parse(client.Post("/v1/files", form)->body)["id"].get<std::string>();
  };
  const std::string file = upload("fine-tune"), other = upload("user_data"), path = "/v1/fine_tuning/jobs";
  const auto post = [&](const Json& more) {
    Json body = {{"model", "tiny"}, {"training_file", file}, {"x_lora", {{"steps", 4}, {"rank", 2}}}};
    body.update(more);
    return server.post(path, body);
  };
  EXPECT_EQ(error_code(post({{"training_file", "file-none"}})), "file_not_found");
  EXPECT_EQ(error_code(post({{"training_file", "../" + file}})), "file_not_found");
  EXPECT_EQ(error_code(post({{"validation_file", "file-none"}})), "file_not_found");
  EXPECT_EQ(error_code(post({{"training_file", other}})), "invalid_purpose");
  EXPECT_EQ(error_code(post({{"model", "gpt-4o-mini"}})), "model_not_found");
  EXPECT_EQ(error_code(post({{"method", {{"type", "dpo"}}}})), "unsupported_value");
  EXPECT_EQ(error_code(post({{"x_lora", {{"nonsense", 1}}}})), "unsupported_parameter");
  EXPECT_EQ(client.Post(path, "[]", "application/json")->status, 400);
  for (const char* id : {"ftjob-none", "..%2F..%2Ffiles", "..", "%2e%2e%2f", "lock"}) {
    for (const char* verb : {"cancel", "pause", "resume"})
      EXPECT_EQ(client.Post(path + "/" + id + "/" + verb, "", "application/json")->status, 404) << id << verb;
    for (const char* verb : {"", "/events", "/checkpoints"})
      EXPECT_EQ(client.Get(path + "/" + id + verb)->status, 404) << id << verb;
  }
  const auto ask = [&](const Json& more) {
    const httplib::Result result = post(more);
    EXPECT_EQ(result->status, 200) << result->body;
    return Json::parse(result->body)["id"].get<std::string>();
  };
  const std::string first = ask({{"validation_file", file}, {"metadata", {{"team", "a"}}}}),
                    second = ask(Json::object());
  const auto get = [&](const std::string& rest) { return Json::parse(client.Get(path + rest)->body); };
  Json job;
  for (int waited = 0; waited < process::kPatienceMs && job["status"] != "succeeded"; waited += 20) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    job = get("/" + second);
  }
  ASSERT_EQ(job["status"], "succeeded") << job << get("/" + second + "/events");
  EXPECT_EQ(get("?limit=1")["data"][0]["id"], second);
  EXPECT_EQ(get("?limit=1&after=" + second)["data"][0]["id"], first);
  EXPECT_EQ(get("?metadata[team]=a")["data"].size(), 1u);
  EXPECT_EQ(get("?metadata[team]=b")["data"].size(), 0u);
  EXPECT_EQ(get("?metadata=null")["data"][0]["id"], second);

  const Json events = get("/" + second + "/events?limit=3");
  EXPECT_EQ(events["has_more"], true);
  ASSERT_EQ(events["data"].size(), 3u);
  EXPECT_EQ(events["data"][0]["message"], "The job has successfully completed");
  const Json earlier = get("/" + second + "/events?limit=1000&after=" + events["last_id"].get<std::string>());
  EXPECT_EQ(earlier["data"].back()["message"], "Created fine-tuning job: " + second);
  bool metrics = false;
  for (const Json& event : earlier["data"]) {
    EXPECT_EQ(event["object"], "fine_tuning.job.event");
    metrics |= event["type"] == "metrics" && event["data"]["step"] == 1 && event["data"]["train_loss"] > 0;
  }
  EXPECT_TRUE(metrics) << earlier;
  EXPECT_EQ(error_code(client.Post(path + "/" + second + "/cancel", "", "application/json")),
            "invalid_job_status");
  const Json checkpoint = get("/" + first + "/checkpoints?limit=1")["data"][0];
  EXPECT_EQ(checkpoint["step_number"], 4);

  // What came of it is a model like others.
  const std::string tuned = job["fine_tuned_model"];
  const Json models = Json::parse(client.Get("/v1/models")->body)["data"];
  EXPECT_TRUE(std::any_of(models.begin(), models.end(), [&](const Json& m) {
    return m["id"] == tuned && m["parent"] == "tiny";
  })) << models;
  EXPECT_EQ(Json::parse(client.Get("/v1/models/" + tuned)->body)["id"], tuned);
  for (const std::string& name : {tuned, checkpoint["fine_tuned_model_checkpoint"].get<std::string>()}) {
    const Json question = {
        {"model", name}, {"messages", {{{"role", "user"}, {"content", "Hi"}}}}, {"max_tokens", 4}};
    EXPECT_EQ(server.ask("/v1/chat/completions", question)["model"], name);
    EXPECT_EQ(server.ask("/v1/chat/completions", question)["model"], name) << "again, and in memory";
  }
  EXPECT_EQ(error_code(
                server.post("/v1/chat/completions",
                            {{"model", tuned + "x"}, {"messages", {{{"role", "user"}, {"content", "Hi"}}}}})),
            "model_not_found");

  EXPECT_EQ(Json::parse(client.Delete("/v1/models/" + tuned)->body),
            (Json{{"id", tuned}, {"object", "model"}, {"deleted", true}}));
  EXPECT_EQ(error_code(client.Delete("/v1/models/" + tuned)), "model_not_found");
  EXPECT_EQ(error_code(client.Delete("/v1/models/tiny")), "model_not_found");
  const Json gone = {{"model", tuned}, {"messages", {{{"role", "user"}, {"content", "Hi"}}}}};
  EXPECT_EQ(error_code(server.post("/v1/chat/completions", gone)), "model_not_found");
  EXPECT_TRUE(server.stop().ok());
}

}  // namespace
}  // namespace moebius
