#include "server/jobs/jobs.h"

#include <algorithm>
#include <csignal>
#include <ctime>
#include <filesystem>

#include <fmt/format.h>

#include "server/random_id.h"

namespace moebius {

namespace {

namespace fs = std::filesystem;
using std::chrono::milliseconds;
using Clock = std::chrono::steady_clock;

constexpr milliseconds kJobPoll{100};    // between two looks at a running job
constexpr milliseconds kPatience{5000};  // that a client waits for what it asked for
constexpr std::chrono::seconds kSaveEvery{10};
constexpr int kRetryJobs_s = 60;  // a run takes minutes

ApiError wrong_status(const Job& job, const char* what) {
  return bad_request(fmt::format("the job is {} and cannot be {}", status_text(job.status), what), {},
                     "invalid_job_status");
}

// The course of a run as OpenAI's result files have it.
std::string result_csv(const std::vector<TrainingRow>& rows) {
  std::string text = "step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy\n";
  const auto cell = [](double value) {
    return std::isnan(value) ? std::string() : fmt::format("{:.6g}", value);
  };
  for (const TrainingRow& row : rows)
    text += fmt::format("{},{},{},{},{}\n", row.step, cell(row.loss), cell(row.accuracy), cell(row.eval_loss),
                        cell(row.eval_accuracy));
  return text;
}

}  // namespace

ApiError job_not_found() {
  return {404, "invalid_request_error", "no such fine-tuning job", {}, "fine_tuning_job_not_found"};
}

Jobs::Jobs(JobsOptions options, FileStore& files, spdlog::logger& log)
    : options_(std::move(options)), files_(files), log_(log) {}

Result<std::unique_ptr<Jobs>> Jobs::open(JobsOptions options, FileStore& files, spdlog::logger& log) {
  std::unique_ptr<Jobs> jobs(new Jobs(std::move(options), files, log));
  MOEBIUS_TRY(jobs->load());
  jobs->thread_ = std::thread([&all = *jobs] { all.work(); });
  return jobs;
}

Jobs::~Jobs() { stop(); }

Status Jobs::load() {
  std::error_code error;
  fs::create_directories(options_.folder, error);
  if (error) return system_error("make folder", options_.folder, error.value());
  for (fs::directory_iterator it(options_.folder, error), end; !error && it != end; it.increment(error)) {
    const std::string name = it->path().filename();
    if (!name.starts_with("ftjob-")) continue;
    if (!fs::exists(it->path() / "job.json")) {  // its creation was cut off
      folder_of(name).remove();
      continue;
    }
    Result<Job> job = folder_of(name).load();
    if (!job.ok()) log_.error("{}", job.status().message());
    if (job.ok()) jobs_.push_back(std::move(*job));
  }
  if (error) return system_error("read folder", options_.folder, error.value());
  std::sort(jobs_.begin(), jobs_.end(),
            [](const Job& a, const Job& b) { return a.created_us < b.created_us; });
  for (Job& job : jobs_) {
    if (job.status == JobStatus::kRunning || job.status == JobStatus::kValidating)
      set(job, JobStatus::kQueued, "The server was started anew; the job goes on from its last checkpoint",
          EventLevel::kWarn);
    if (job.status == JobStatus::kQueued && !is_served(job))
      set(job, JobStatus::kPaused, "The server has another model now; the job waits for its own",
          EventLevel::kWarn);
  }
  return Status();
}

bool Jobs::is_served(const Job& job) const {
  return std::find(options_.models.begin(), options_.models.end(), job.request.model) !=
         options_.models.end();
}

Job* Jobs::at(const std::string& id) {
  const auto found = std::find_if(jobs_.begin(), jobs_.end(), [&](const Job& job) { return job.id == id; });
  return found == jobs_.end() ? nullptr : &*found;
}

void Jobs::save(Job& job) {
  if (const Status saved = folder_of(job.id).save(job); !saved.ok()) log_.error("{}", saved.message());
}

void Jobs::set(Job& job, JobStatus status, const std::string& event, EventLevel level) {
  job.status = status;
  if (has_ended(status)) {
    job.finished_at = std::time(nullptr);
    folder_of(job.id).drop_data();
  }
  save(job);
  if (const Status told = folder_of(job.id).add_event(level, event); !told.ok())
    log_.error("{}", told.message());
  log_.info("{} {}: {}", job.id, status_text(status), event);
  changed_.notify_all();
}

std::optional<ApiError> Jobs::create(JobRequest request, Job& out) {
  const auto usable = [&](const std::string& id, const char* param,
                          std::string& path) -> std::optional<ApiError> {
    if (id.empty()) return {};
    const std::optional<StoredFile> file = files_.find(id);
    if (!file) return file_not_found(param);
    if (file->purpose != "fine-tune")
      return bad_request(fmt::format("the file's purpose is {}, not fine-tune", file->purpose), param,
                         "invalid_purpose");
    path = files_.path_of(*file);
    return {};
  };
  std::string train, valid;
  if (auto error = usable(request.training_file, "training_file", train)) return error;
  if (auto error = usable(request.validation_file, "validation_file", valid)) return error;
  if (files_.is_full())
    return ApiError{
        507, "server_error", "the server's folder for files is full; delete some", {}, "quota_exceeded"};
  if (request.seed < 0) request.seed = static_cast<int64_t>(random_seed() % INT32_MAX);

  const std::lock_guard lock(mutex_);
  const auto unfinished =
      std::count_if(jobs_.begin(), jobs_.end(), [](const Job& job) { return !has_ended(job.status); });
  if (unfinished >= options_.unfinished) return queue_full(options_.unfinished, kRetryJobs_s);
  Job job;
  job.id = random_id("ftjob-");
  job.request = std::move(request);
  job.created_us = now_us();
  const JobFolder folder = folder_of(job.id);
  Status made = folder.create(train, valid);
  if (made.ok()) made = folder.save(job);
  if (!made.ok()) {
    log_.error("{}", made.message());
    folder.remove();
    return disk_error("job");
  }
  jobs_.push_back(std::move(job));
  set(jobs_.back(), JobStatus::kQueued, "Created fine-tuning job: " + jobs_.back().id);
  out = jobs_.back();
  return {};
}

std::optional<Job> Jobs::find(const std::string& id) {
  const std::lock_guard lock(mutex_);
  const Job* job = at(id);
  if (job == nullptr) return {};
  return *job;
}

std::vector<Job> Jobs::list() {
  const std::lock_guard lock(mutex_);
  return jobs_;
}

std::vector<std::string> Jobs::events(const std::string& id) { return folder_of(id).events(); }

std::optional<ApiError> Jobs::ask(const std::string& id, Wish wish, Job& out) {
  std::unique_lock lock(mutex_);
  Job* job = at(id);
  if (job == nullptr) return job_not_found();
  const bool pause = wish == Wish::kPause;
  if (has_ended(job->status) || (pause && job->status == JobStatus::kPaused))
    return wrong_status(*job, pause ? "paused" : "cancelled");
  const JobStatus wanted = pause ? JobStatus::kPaused : JobStatus::kCancelled;
  if (running_ == id) {
    wish_ = wish;
    changed_.notify_all();
    changed_.wait_for(lock, kPatience, [&] { return running_ != id; });
    job = at(id);
  } else {
    set(*job, wanted, pause ? "The job is paused" : "The job is cancelled");
  }
  out = *job;
  return {};
}

std::optional<ApiError> Jobs::pause(const std::string& id, Job& out) { return ask(id, Wish::kPause, out); }
std::optional<ApiError> Jobs::cancel(const std::string& id, Job& out) { return ask(id, Wish::kCancel, out); }

std::optional<ApiError> Jobs::resume(const std::string& id, Job& out) {
  const std::lock_guard lock(mutex_);
  Job* job = at(id);
  if (job == nullptr) return job_not_found();
  if (job->status != JobStatus::kPaused) return wrong_status(*job, "resumed");
  if (!is_served(*job))
    return bad_request("the server has another model than the job", "model", "model_not_found");
  set(*job, JobStatus::kQueued, "The job is resumed");
  out = *job;
  return {};
}

std::vector<Json> Jobs::checkpoints(const Job& job) {
  std::vector<Json> out;
  const JobFolder folder = folder_of(job.id);
  const Result<std::vector<TrainingRow>> rows = read_training_log(folder.adapter() + "/log.csv");
  if (!rows.ok()) return out;
  for (const JobCheckpoint& checkpoint : job.checkpoints) {
    const auto row = std::find_if(rows->begin(), rows->end(),
                                  [&](const TrainingRow& r) { return r.step == checkpoint.step; });
    if (row == rows->end() || !fs::exists(folder.checkpoint(checkpoint.step))) continue;
    out.push_back({{"object", "fine_tuning.job.checkpoint"},
                   {"id", fmt::format("ftckpt_{}_{}", job.id.substr(job.id.find('-') + 1), checkpoint.step)},
                   {"created_at", checkpoint.created_at},
                   {"fine_tuned_model_checkpoint", job.model_name(checkpoint.step)},
                   {"fine_tuning_job_id", job.id},
                   {"metrics", row_metrics(*row)},
                   {"step_number", checkpoint.step}});
  }
  return out;
}

void Jobs::begin_stop() {
  const std::lock_guard lock(mutex_);
  stopping_ = true;
  changed_.notify_all();
}

void Jobs::stop() {
  begin_stop();
  if (thread_.joinable()) thread_.join();
}

void Jobs::work() {
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    const auto next = std::find_if(jobs_.begin(), jobs_.end(),
                                   [](const Job& job) { return job.status == JobStatus::kQueued; });
    if (next == jobs_.end()) {
      changed_.wait(lock);
      continue;
    }
    running_ = next->id;
    wish_ = Wish::kNone;
    run(lock, running_);
    running_.clear();
    changed_.notify_all();
  }
}

void Jobs::run(std::unique_lock<std::mutex>& lock, const std::string& id) {
  set(*at(id), JobStatus::kValidating, "Reading the files");
  const std::unique_ptr<JobRun> run = start(lock, id);
  if (run) watch(lock, id, *run);
}

// null: it did not begin, and says so.
std::unique_ptr<JobRun> Jobs::start(std::unique_lock<std::mutex>& lock, const std::string& id) {
  while (true) {
    Result<std::unique_ptr<JobRun>> run = JobRun::start(folder_of(id), *at(id), options_.place);
    if (run.ok()) return std::move(*run);
    Job& job = *at(id);
    if (run.status().code() != Code::kCancelled) {
      log_.error("{}", run.status().message());
      job.error = {"server_error", "training could not be started; the server's log says why", ""};
      set(job, JobStatus::kFailed, job.error.message, EventLevel::kError);
      return nullptr;
    }
    changed_.wait_for(lock, kJobPoll);
    if (stopping_ || wish_ == Wish::kPause) {
      set(*at(id), stopping_ ? JobStatus::kQueued : JobStatus::kPaused, "The job is paused");
      return nullptr;
    }
    if (wish_ == Wish::kCancel) {
      set(*at(id), JobStatus::kCancelled, "The job is cancelled");
      return nullptr;
    }
  }
}

void Jobs::watch(std::unique_lock<std::mutex>& lock, const std::string& id, JobRun& run) {
  std::optional<Clock::time_point> kill_at;
  bool asked = false;
  auto saved = Clock::now();
  std::optional<int> exit;
  while (!(exit = run.ended())) {
    note_progress(*at(id), run);
    if (Clock::now() - saved > kSaveEvery) save(*at(id)), saved = Clock::now();
    if (wish_ == Wish::kCancel) run.kill();
    if (!asked && (stopping_ || wish_ == Wish::kPause)) run.ask_to_stop(), asked = true;
    if (stopping_ && !kill_at) kill_at = Clock::now() + options_.stop;
    if (kill_at && Clock::now() > *kill_at) run.kill();
    changed_.wait_for(lock, kJobPoll);
  }
  note_progress(*at(id), run);
  finish(*at(id), run, *exit);
}

void Jobs::note_progress(Job& job, JobRun& run) {
  const JobFolder folder = folder_of(job.id);
  const auto say = [&](const std::string& message, const Json& data = nullptr) {
    if (const Status told = folder.add_event(EventLevel::kInfo, message, data); !told.ok())
      log_.error("{}", told.message());
  };
  if (job.status == JobStatus::kValidating && run.total_steps() > 0) {
    job.total_steps = run.total_steps();
    set(job, JobStatus::kRunning,
        job.steps > 0 ? fmt::format("The job goes on after step {}", job.steps) : "Fine-tuning job started");
  }
  for (const TrainingRow& row : run.rows_after(job.steps)) {
    job.steps = row.step, job.tokens = row.tokens, job.seconds = row.seconds;
    Json data = row_metrics(row);
    data["total_steps"] = job.total_steps;
    say(fmt::format(
            "Step {}/{}: training loss={:.4f}{}", row.step, job.total_steps, row.loss,
            std::isnan(row.eval_loss) ? "" : fmt::format(", full validation loss={:.4f}", row.eval_loss)),
        data);
    if (!fs::exists(folder.checkpoint(row.step))) continue;
    job.checkpoints.push_back({row.step, std::time(nullptr)});
    say(fmt::format("Checkpoint created at step {}", row.step));
  }
}

void Jobs::finish(Job& job, JobRun& run, int exit) {
  if (exit == 0) return succeed(job);
  if (wish_ == Wish::kCancel) return set(job, JobStatus::kCancelled, "The job is cancelled");
  if (wish_ == Wish::kPause)
    return set(job, JobStatus::kPaused, fmt::format("The job is paused after step {}", job.steps));
  if (stopping_)
    return set(
        job, JobStatus::kQueued,
        fmt::format("The server stops after step {}; the job goes on when it is started again", job.steps));
  const std::string words = run.last_words(job);
  log_.warn("{}: {}", job.id, words);
  if (exit > 0)
    job.error = {"training_failed", words, ""};
  else
    job.error = {
        "training_failed",
        fmt::format("training was ended by signal {}; the machine may have run out of memory", -exit), ""};
  if (words.starts_with("line "))
    job.error.param =
        words.find(job.request.training_file) != std::string::npos ? "training_file" : "validation_file";
  set(job, JobStatus::kFailed, "The job failed: " + job.error.message, EventLevel::kError);
}

void Jobs::succeed(Job& job) {
  const JobFolder folder = folder_of(job.id);
  const Result<std::vector<TrainingRow>> rows = read_training_log(folder.adapter() + "/log.csv");
  StoredFile results;
  if (rows.ok() && !files_.add(result_csv(*rows), "step_metrics.csv", "fine-tune-results", results))
    job.result_files = {results.id};
  job.total_steps = job.steps;
  set(job, JobStatus::kSucceeded, "New fine-tuned model created: " + job.model_name());
  static_cast<void>(folder.add_event(EventLevel::kInfo, "The job has successfully completed"));
}

std::vector<TunedModel> Jobs::models() {
  const std::lock_guard lock(mutex_);
  std::vector<TunedModel> out;
  for (const Job& job : jobs_) {
    const JobFolder folder = folder_of(job.id);
    if (job.status != JobStatus::kSucceeded || !is_served(job) || !fs::exists(folder.adapter())) continue;
    out.push_back({job.model_name(), folder.adapter(), job.finished_at});
    for (const JobCheckpoint& c : job.checkpoints)
      if (fs::exists(folder.checkpoint(c.step)))
        out.push_back({job.model_name(c.step), folder.checkpoint(c.step), c.created_at});
  }
  return out;
}

bool Jobs::erase_model(const std::string& name) {
  const std::lock_guard lock(mutex_);
  for (const Job& job : jobs_) {
    const JobFolder folder = folder_of(job.id);
    if (job.status != JobStatus::kSucceeded || job.model_name() != name || !fs::exists(folder.adapter()))
      continue;
    std::error_code error;
    fs::remove_all(folder.adapter(), error);
    if (error) log_.error("{}: {}", name, error.message());
    log_.info("{} deleted", name);
    return !error;
  }
  return false;
}

}  // namespace moebius
