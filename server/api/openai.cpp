// POST /v1/chat/completions and /v1/completions.
#include "server/answer.h"
#include "server/api/api.h"
#include "server/encode.h"
#include "server/running.h"

namespace moebius {

namespace {

std::unique_ptr<Answer> make_answer(Service& service, const SamplingRequest& asked, size_t prompts, Api api) {
  AnswerOptions options;
  options.api = api;
  options.id = random_id(api == Api::kChat ? "chatcmpl-" : "cmpl-");
  options.model = asked.served.name;
  options.fingerprint = "moebius-" + service.options.version;
  options.created = std::time(nullptr);
  options.n = asked.n;
  options.choices = asked.n * static_cast<int>(prompts);
  options.logprobs = asked.top_logprobs >= 0;
  options.stream = asked.stream;
  options.include_usage = asked.include_usage;
  return std::make_unique<Answer>(std::move(options), token_bytes_of(service.engine));
}

void respond(Service& service, Exchange& e, const SamplingRequest& asked,
             std::vector<std::vector<int32_t>> prompts, GenerateOptions how, Api api) {
  auto answer = make_answer(service, asked, prompts.size(), api);
  Submission submission = {asked, std::move(prompts), std::move(how),
                           api == Api::kChat ? "messages" : "prompt"};
  std::shared_ptr<Running> running;
  if (auto error = Running::submit(service, e, std::move(submission), std::move(answer), running))
    return service.refuse(e, *error);
  Running::respond(e, std::move(running), asked.stream);
}

void chat(Service& service, Exchange& e) {
  ChatRequest asked;
  std::vector<int32_t> ids;
  GenerateOptions how;
  std::optional<ApiError> error = parse_chat_request(e.body, service.limits, asked);
  if (!error) error = service.adapters.choose(asked);
  if (!error) error = service.constraints.find(asked.constraint, asked.tools, how.constraint);
  if (!error) error = encode_chat(service.engine, service.scheduler, e.client, asked, ids);
  if (error) return service.refuse(e, *error);
  how.form = answer_form(service.engine, asked);
  respond(service, e, asked, {std::move(ids)}, std::move(how), Api::kChat);
}

void complete(Service& service, Exchange& e) {
  CompletionRequest asked;
  GenerateOptions how;
  std::optional<ApiError> error = parse_completion_request(e.body, service.limits, asked);
  if (!error) error = service.adapters.choose(asked);
  if (!error) error = service.constraints.find(asked.constraint, {}, how.constraint);
  std::vector<std::vector<int32_t>> prompts(asked.prompts.size());
  for (size_t i = 0; i < prompts.size() && !error; ++i)
    error = encode_prompt(service.engine, "prompt", asked.prompts[i], prompts[i]);
  if (error) return service.refuse(e, *error);
  respond(service, e, asked, std::move(prompts), std::move(how), Api::kCompletion);
}

}  // namespace

void add_openai_routes(Router& router, Service& service) {
  router.post("/v1/chat/completions", [&service](Exchange& e) { chat(service, e); });
  router.post("/v1/completions", [&service](Exchange& e) { complete(service, e); });
}

}  // namespace moebius
