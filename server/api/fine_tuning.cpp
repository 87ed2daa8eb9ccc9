// /v1/fine_tuning/jobs: create, list, get, cancel, pause, resume, events and checkpoints; and DELETE of the
// models that they made.
#include "server/api/api.h"
#include "server/pages.h"

namespace moebius {

namespace {

class FineTuningApi {
 public:
  FineTuningApi(Service& service, Jobs& jobs) : service_(service), jobs_(jobs) {}

  void create(Exchange& e);
  void list(Exchange& e);
  void get(Exchange& e);
  void cancel(Exchange& e) { change(e, &Jobs::cancel); }
  void pause(Exchange& e) { change(e, &Jobs::pause); }
  void resume(Exchange& e) { change(e, &Jobs::resume); }
  void events(Exchange& e);
  void checkpoints(Exchange& e);
  void erase_model(Exchange& e);

 private:
  using Change = std::optional<ApiError> (Jobs::*)(const std::string& id, Job& out);
  void change(Exchange& e, Change how);
  std::optional<Job> find(Exchange& e);

  Service& service_;
  Jobs& jobs_;
};

void FineTuningApi::create(Exchange& e) {
  JobRequest request;
  Job job;
  std::optional<ApiError> error = parse_job_request(e.body, service_.options.models, request);
  if (!error) error = jobs_.create(std::move(request), job);
  if (error) return service_.refuse(e, *error);
  e.answer(job.json());
}

// metadata[KEY]=VALUE leaves the jobs that have it, metadata=null those without any.
bool asked_for(const httplib::Request& request, const Job& job) {
  const Json& metadata = job.request.metadata;
  for (const auto& [name, value] : request.params) {
    if (name == "metadata" && value == "null" && !metadata.empty()) return false;
    if (!name.starts_with("metadata[") || !name.ends_with(']')) continue;
    const std::string key = name.substr(9, name.size() - 10);
    if (!metadata.contains(key) || metadata[key] != value) return false;
  }
  return true;
}

void FineTuningApi::list(Exchange& e) {
  std::vector<Job> jobs = jobs_.list();
  std::erase_if(jobs, [&](const Job& job) { return !asked_for(e.request, job); });
  const auto at = [&](int64_t i) -> const Job& { return jobs[static_cast<size_t>(i)]; };
  Json page;
  const auto error = take_page(
      e.request, {}, std::ssize(jobs), [&](int64_t i) { return at(i).id; },
      [&](int64_t i) { return at(i).json(); }, page);
  if (error) return service_.refuse(e, *error);
  e.answer(page);
}

// nullopt: answered already.
std::optional<Job> FineTuningApi::find(Exchange& e) {
  std::optional<Job> job = jobs_.find(e.arguments[0]);
  if (!job) service_.refuse(e, job_not_found());
  return job;
}

void FineTuningApi::get(Exchange& e) {
  if (const auto job = find(e)) e.answer(job->json());
}

void FineTuningApi::change(Exchange& e, Change how) {
  Job job;
  if (const auto error = (jobs_.*how)(e.arguments[0], job)) return service_.refuse(e, *error);
  e.answer(job.json());
}

void FineTuningApi::events(Exchange& e) {
  const auto job = find(e);
  if (!job) return;
  const std::vector<std::string> lines = jobs_.events(job->id);
  Json page;
  const auto error = take_page(
      e.request, {.most = 1000}, std::ssize(lines),
      [&](int64_t i) { return JobFolder::event_id(job->id, i); },
      [&](int64_t i) { return JobFolder::event(job->id, i, lines[static_cast<size_t>(i)]); }, page);
  if (error) return service_.refuse(e, *error);
  e.answer(page);
}

void FineTuningApi::checkpoints(Exchange& e) {
  const auto job = find(e);
  if (!job) return;
  const std::vector<Json> all = jobs_.checkpoints(*job);
  const auto at = [&](int64_t i) -> const Json& { return all[static_cast<size_t>(i)]; };
  Json page;
  const auto error = take_page(
      e.request, {.limit = 10}, std::ssize(all), [&](int64_t i) { return at(i)["id"]; },
      [&](int64_t i) { return at(i); }, page);
  if (error) return service_.refuse(e, *error);
  e.answer(page);
}

void FineTuningApi::erase_model(Exchange& e) {
  const std::string& name = e.arguments[0];
  if (!jobs_.erase_model(name)) return service_.refuse(e, model_not_found(service_.options.models.front()));
  e.answer({{"id", name}, {"object", "model"}, {"deleted", true}});
}

}  // namespace

void add_fine_tuning_routes(Router& router, Service& service, FineTuning* tuning) {
  constexpr const char *kJobs = "/v1/fine_tuning/jobs", *kJob = "/v1/fine_tuning/jobs/{id}",
                       *kCancel = "/v1/fine_tuning/jobs/{id}/cancel",
                       *kPause = "/v1/fine_tuning/jobs/{id}/pause",
                       *kResume = "/v1/fine_tuning/jobs/{id}/resume",
                       *kEvents = "/v1/fine_tuning/jobs/{id}/events",
                       *kCheckpoints = "/v1/fine_tuning/jobs/{id}/checkpoints";
  if (tuning == nullptr)
    return add_without_files(router, service,
                             {{"POST", kJobs},
                              {"GET", kJobs},
                              {"GET", kJob},
                              {"POST", kCancel},
                              {"POST", kPause},
                              {"POST", kResume},
                              {"GET", kEvents},
                              {"GET", kCheckpoints}});
  const auto api = std::make_shared<FineTuningApi>(service, tuning->jobs());
  const auto to = [api](void (FineTuningApi::*handler)(Exchange&)) {
    return [api, handler](Exchange& e) { ((*api).*handler)(e); };
  };
  router.post(kJobs, to(&FineTuningApi::create));
  router.get(kJobs, to(&FineTuningApi::list));
  router.get(kJob, to(&FineTuningApi::get));
  router.add({"POST", kCancel, to(&FineTuningApi::cancel)});
  router.add({"POST", kPause, to(&FineTuningApi::pause)});
  router.add({"POST", kResume, to(&FineTuningApi::resume)});
  router.get(kEvents, to(&FineTuningApi::events));
  router.get(kCheckpoints, to(&FineTuningApi::checkpoints));
  router.add({"DELETE", "/v1/models/{id*}", to(&FineTuningApi::erase_model)});
}

}  // namespace moebius
