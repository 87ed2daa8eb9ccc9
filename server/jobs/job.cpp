#include "server/jobs/job.h"

#include <array>
#include <cmath>
#include <ctime>

#include <fmt/format.h>

namespace moebius {

namespace {

constexpr std::array kStatusTexts = {"queued",    "validating_files", "running",  "paused",
                                     "succeeded", "failed",           "cancelled"};
constexpr const char* kOrganization = "local";
constexpr size_t kShortId = 8;  // of a model's name

Json or_null(const std::string& text) { return text.empty() ? Json(nullptr) : Json(text); }
Json or_null(int64_t number) { return number == 0 ? Json(nullptr) : Json(number); }

Json hyperparameters(const JobRequest& request) {
  return {{"n_epochs", request.epochs},
          {"batch_size", request.batch > 0 ? Json(request.batch) : Json("auto")},
          {"learning_rate_multiplier", request.multiplier}};
}

// Seconds since 1970 at which a running job ends, if it goes on as so far.
int64_t estimated_finish(const Job& job) {
  if (job.status != JobStatus::kRunning || job.steps == 0 || job.total_steps == 0) return 0;
  const double left =
      job.seconds / static_cast<double>(job.steps) * static_cast<double>(job.total_steps - job.steps);
  return std::time(nullptr) + static_cast<int64_t>(left);
}

template <class T>
bool read(const Json& json, const char* key, T& out) {
  const auto it = json.find(key);
  if (it == json.end()) return false;
  if constexpr (std::is_same_v<T, std::string>) {
    if (!it->is_string()) return false;
  } else if constexpr (std::is_same_v<T, Json>) {
    if (!it->is_object()) return false;
  } else if (!it->is_number()) {
    return false;
  }
  out = it->get<T>();
  return true;
}

void put(Json& out, const char* name, double value) {
  if (!std::isnan(value)) out[name] = value;
}

}  // namespace

const char* status_text(JobStatus status) { return kStatusTexts[static_cast<size_t>(status)]; }

bool has_ended(JobStatus status) {
  return status == JobStatus::kSucceeded || status == JobStatus::kFailed || status == JobStatus::kCancelled;
}

std::string Job::model_name() const {
  return fmt::format("ft:{}:{}:{}:{}", request.model, kOrganization, request.suffix,
                     id.substr(id.size() - std::min(id.size(), kShortId)));
}

std::string Job::model_name(int64_t checkpoint) const {
  return fmt::format("{}:ckpt-step-{}", model_name(), checkpoint);
}

Json Job::json() const {
  const Json failure = {{"code", error.code}, {"message", error.message}, {"param", or_null(error.param)}};
  Json lora = effective_lora(request);
  lora["steps_done"] = steps;
  lora["steps_total"] = or_null(total_steps);
  lora["seconds"] = seconds;
  const int64_t finish = estimated_finish(*this);
  return {
      {"object", "fine_tuning.job"},
      {"id", id},
      {"model", request.model},
      {"created_at", created_us / 1'000'000},
      {"finished_at", or_null(finished_at)},
      {"fine_tuned_model", status == JobStatus::kSucceeded ? Json(model_name()) : Json(nullptr)},
      {"organization_id", kOrganization},
      {"result_files", result_files},
      {"status", status_text(status)},
      {"validation_file", or_null(request.validation_file)},
      {"training_file", request.training_file},
      {"hyperparameters", hyperparameters(request)},
      {"trained_tokens", status == JobStatus::kSucceeded ? Json(tokens) : Json(nullptr)},
      {"error", status == JobStatus::kFailed ? failure : Json(nullptr)},
      {"user_provided_suffix", or_null(request.suffix)},
      {"seed", request.seed},
      {"estimated_finish", or_null(finish)},
      {"integrations", Json::array()},
      {"method", {{"type", "supervised"}, {"supervised", {{"hyperparameters", hyperparameters(request)}}}}},
      {"metadata", request.metadata},
      {"x_lora", std::move(lora)}};
}

Json Job::state() const {
  Json kept = Json::array();
  for (const JobCheckpoint& c : checkpoints) kept.push_back({{"step", c.step}, {"created_at", c.created_at}});
  return {{"id", id},
          {"status", status_text(status)},
          {"created_us", created_us},
          {"finished_at", finished_at},
          {"steps", steps},
          {"total_steps", total_steps},
          {"tokens", tokens},
          {"seconds", seconds},
          {"result_files", result_files},
          {"checkpoints", std::move(kept)},
          {"error", {{"code", error.code}, {"message", error.message}, {"param", error.param}}},
          {"model", request.model},
          {"training_file", request.training_file},
          {"validation_file", request.validation_file},
          {"suffix", request.suffix},
          {"seed", request.seed},
          {"epochs", request.epochs},
          {"batch", request.batch},
          {"multiplier", request.multiplier},
          {"lora", request.lora},
          {"metadata", request.metadata}};
}

std::optional<Job> job_of_state(const Json& state) {
  Job job;
  std::string status;
  Json error;
  JobRequest& r = job.request;
  const bool read_all =
      state.is_object() && read(state, "id", job.id) && read(state, "status", status) &&
      read(state, "created_us", job.created_us) && read(state, "finished_at", job.finished_at) &&
      read(state, "steps", job.steps) && read(state, "total_steps", job.total_steps) &&
      read(state, "tokens", job.tokens) && read(state, "seconds", job.seconds) &&
      read(state, "error", error) && read(error, "code", job.error.code) &&
      read(error, "message", job.error.message) && read(error, "param", job.error.param) &&
      read(state, "model", r.model) && read(state, "training_file", r.training_file) &&
      read(state, "validation_file", r.validation_file) && read(state, "suffix", r.suffix) &&
      read(state, "seed", r.seed) && read(state, "epochs", r.epochs) && read(state, "batch", r.batch) &&
      read(state, "multiplier", r.multiplier) && read(state, "lora", r.lora) &&
      read(state, "metadata", r.metadata);
  const auto found = std::find(kStatusTexts.begin(), kStatusTexts.end(), status);
  if (!read_all || found == kStatusTexts.end()) return {};
  job.status = static_cast<JobStatus>(found - kStatusTexts.begin());
  for (const Json& name : state.value("result_files", Json::array()))
    if (name.is_string()) job.result_files.push_back(name);
  for (const Json& each : state.value("checkpoints", Json::array())) {
    JobCheckpoint checkpoint;
    if (!each.is_object() || !read(each, "step", checkpoint.step) ||
        !read(each, "created_at", checkpoint.created_at))
      return {};
    job.checkpoints.push_back(checkpoint);
  }
  return job;
}

Json row_metrics(const TrainingRow& row) {
  Json out = {{"step", row.step}};
  put(out, "train_loss", row.loss);
  put(out, "train_mean_token_accuracy", row.accuracy);
  put(out, "valid_loss", row.eval_loss);
  put(out, "valid_mean_token_accuracy", row.eval_accuracy);
  put(out, "full_valid_loss", row.eval_loss);
  put(out, "full_valid_mean_token_accuracy", row.eval_accuracy);
  put(out, "learning_rate", row.lr);
  put(out, "tokens_per_second", row.tokens_per_s);
  return out;
}

}  // namespace moebius
