// /v1/responses: create, get, delete, cancel, the items of its input, and the count of its tokens.
#include <fmt/format.h>

#include "server/api/api.h"
#include "server/encode.h"
#include "server/pages.h"
#include "server/responses/background.h"
#include "server/responses/response_answer.h"
#include "server/responses/response_request.h"
#include "server/responses/response_store.h"

namespace moebius {

namespace {

class ResponsesApi {
 public:
  explicit ResponsesApi(Service& service) : service_(service) {}

  void create(Exchange& e);
  void count(Exchange& e);
  void get(Exchange& e);
  void erase(Exchange& e);
  void cancel(Exchange& e);
  void input_items(Exchange& e);

 private:
  std::optional<ApiError> read(Exchange& e, bool count_only, ResponseRequest& asked,
                               std::vector<int32_t>& ids);
  std::shared_ptr<const StoredResponse> find(Exchange& e);

  Service& service_;
  ResponseStore store_;
  Background background_;  // whose answers are put into the store
};

std::optional<ApiError> ResponsesApi::read(Exchange& e, bool count_only, ResponseRequest& asked,
                                           std::vector<int32_t>& ids) {
  const auto history = [this](const std::string& id, Json& items) { return store_.history(id, items); };
  if (auto error = parse_response_request(e.body, service_.limits, history, count_only, asked)) return error;
  if (auto error = service_.adapters.choose(asked)) return error;
  if (!asked.skipped_tools.empty()) note_skipped_tools(service_, e, asked.skipped_tools);
  return encode_chat(service_.engine, service_.scheduler, e.client, asked, ids);
}

void ResponsesApi::create(Exchange& e) {
  ResponseRequest asked;
  std::vector<int32_t> ids;
  GenerateOptions how;
  std::optional<ApiError> error = read(e, false, asked, ids);
  if (!error) error = service_.constraints.find(asked.constraint, asked.tools, how.constraint);
  if (error) return service_.refuse(e, *error);
  how.form = answer_form(service_.engine, asked);

  const std::string id = random_id("resp_");
  ResponseAnswerOptions options = {id,           asked.served.name,       std::time(nullptr),
                                   asked.stream, asked.top_logprobs >= 0, asked.echo};
  auto answer = std::make_unique<ResponseAnswer>(std::move(options), token_bytes_of(service_.engine));
  const Json first = answer->json();
  std::shared_ptr<Running> running;
  error = Running::submit(service_, e, {asked, {std::move(ids)}, std::move(how), "input"}, std::move(answer),
                          running);
  if (error) return service_.refuse(e, *error);
  if (asked.store) {
    running->when_ended([this, input = asked.input, keep = asked.background](const AnswerWriter& writer,
                                                                             const ApiError* failed) {
      if (failed == nullptr || keep) store_.put({writer.json(), input});
    });
  }
  if (!asked.background) return Running::respond(e, std::move(running), asked.stream);
  store_.put({first, asked.input});
  background_.add(id, std::move(running));
  e.answer(first);
}

void ResponsesApi::count(Exchange& e) {
  ResponseRequest asked;
  std::vector<int32_t> ids;
  if (auto error = read(e, true, asked, ids)) return service_.refuse(e, *error);
  e.answer({{"object", "response.input_tokens"}, {"input_tokens", ids.size()}});
}

// nullptr: answered already.
std::shared_ptr<const StoredResponse> ResponsesApi::find(Exchange& e) {
  auto stored = store_.find(e.arguments[0]);
  if (!stored) service_.refuse(e, response_not_found(e.arguments[0], nullptr));
  return stored;
}

void ResponsesApi::get(Exchange& e) {
  if (e.request.get_param_value("stream") == "true")
    return service_.refuse(e, bad_request("`stream` is not supported here; ask for the response again until "
                                          "its status is no longer in_progress",
                                          "stream", "unsupported_parameter"));
  if (const auto stored = find(e)) e.answer(stored->response);
}

void ResponsesApi::erase(Exchange& e) {
  background_.cancel(e.arguments[0]);
  if (!store_.erase(e.arguments[0])) return service_.refuse(e, response_not_found(e.arguments[0], nullptr));
  e.answer({{"id", e.arguments[0]}, {"object", "response"}, {"deleted", true}});
}

void ResponsesApi::cancel(Exchange& e) {
  const auto stored = find(e);
  if (!stored) return;
  if (stored->response["background"] != true)
    return service_.refuse(e, bad_request("only a response with `background` can be cancelled; to stop "
                                          "another, close its connection"));
  background_.cancel(e.arguments[0]);
  if (const auto ended = find(e)) e.answer(ended->response);
}

void ResponsesApi::input_items(Exchange& e) {
  const auto stored = find(e);
  if (!stored) return;
  const Json& items = stored->input;
  Json page;
  const auto error = take_page(
      e.request, {.limit = 20, .most = 100}, std::ssize(items),
      [&](int64_t i) { return items[static_cast<size_t>(i)]["id"]; },
      [&](int64_t i) { return items[static_cast<size_t>(i)]; }, page);
  if (error) return service_.refuse(e, *error);
  e.answer(page);
}

}  // namespace

void add_responses_routes(Router& router, Service& service) {
  const auto api = std::make_shared<ResponsesApi>(service);
  const auto to = [api](void (ResponsesApi::*handler)(Exchange&)) {
    return [api, handler](Exchange& e) { ((*api).*handler)(e); };
  };
  router.post("/v1/responses", to(&ResponsesApi::create));
  router.post("/v1/responses/input_tokens", to(&ResponsesApi::count));
  router.get("/v1/responses/{id}", to(&ResponsesApi::get));
  router.add({"DELETE", "/v1/responses/{id}", to(&ResponsesApi::erase)});
  router.add({"POST", "/v1/responses/{id}/cancel", to(&ResponsesApi::cancel)});
  router.get("/v1/responses/{id}/input_items", to(&ResponsesApi::input_items));
}

}  // namespace moebius
