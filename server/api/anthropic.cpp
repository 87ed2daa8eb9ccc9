// POST /v1/messages and /v1/messages/count_tokens, in Anthropic's form.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include "server/anthropic/message_answer.h"
#include "server/anthropic/message_request.h"
#include "server/api/api.h"
#include "server/encode.h"
#include "server/running.h"

namespace moebius {

namespace {

// Reads the request and its prompt; what is left out is said in the log and in a header.
std::optional<ApiError> read(Service& service, Exchange& e, bool count_only, MessageRequest& asked,
                             std::vector<int32_t>& ids) {
  if (auto error = parse_message_request(e.body, service.limits, count_only, asked)) return error;
  if (auto error = service.adapters.choose(asked)) return error;
  if (!asked.skipped_tools.empty()) note_skipped_tools(service, e, asked.skipped_tools);
  return encode_chat(service.engine, service.scheduler, e.client, asked, ids);
}

void create(Service& service, Exchange& e) {
  MessageRequest asked;
  std::vector<int32_t> ids;
  GenerateOptions how;
  std::optional<ApiError> error = read(service, e, false, asked, ids);
  if (!error) error = service.constraints.find(asked.constraint, asked.tools, how.constraint);
  if (error) return service.refuse(e, *error);
  how.form = answer_form(service.engine, asked);
  MessageAnswerOptions options = {random_id("msg_"), asked.served.name, asked.stream, std::ssize(ids)};
  Submission submission = {asked, {std::move(ids)}, std::move(how), "messages"};
  std::shared_ptr<Running> running;
  error = Running::submit(service, e, std::move(submission),
                          std::make_unique<MessageAnswer>(std::move(options)), running);
  if (error) return service.refuse(e, *error);
  Running::respond(e, std::move(running), asked.stream);
}

void count_tokens(Service& service, Exchange& e) {
  MessageRequest asked;
  std::vector<int32_t> ids;
  if (auto error = read(service, e, true, asked, ids)) return service.refuse(e, *error);
  e.answer({{"input_tokens", ids.size()}});
}

}  // namespace

void add_anthropic_routes(Router& router, Service& service) {
  router.post("/v1/messages", [&service](Exchange& e) { create(service, e); });
  router.post("/v1/messages/count_tokens", [&service](Exchange& e) { count_tokens(service, e); });
}

}  // namespace moebius
