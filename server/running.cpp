#include "server/running.h"

#include <cmath>

#include "server/encode.h"
#include "server/http_server.h"
#include "server/log_line.h"

namespace moebius {

namespace {

using std::chrono::milliseconds;

constexpr milliseconds kClientPoll{50};  // between two looks at whether the client is still there

ApiError client_gone() { return {499, "client_gone", "the client went away", {}, "client_gone"}; }

}  // namespace

Running::Running(Service& service, const Exchange& exchange, std::shared_ptr<Ticket> ticket,
                 std::unique_ptr<AnswerWriter> writer, bool constrained, bool reports_progress)
    : service_(service),
      route_(exchange.route),
      place_(exchange.client.place),
      request_id_(exchange.response.get_header_value("x-request-id")),
      ticket_(std::move(ticket)),
      writer_(std::move(writer)),
      constrained_(constrained),
      reports_progress_(reports_progress),
      deadline_(begun_ + service.options.timeout) {
  ++service_.active;
  service_.slots.enter(*this);
}

Running::~Running() {
  service_.slots.leave(*this);
  ticket_->cancel();
  if (!has_ended_) {
    const ApiError gone = client_gone();
    end(&gone);
  }
  --service_.active;
}

std::optional<ApiError> Running::submit(Service& service, const Exchange& exchange, Submission submission,
                                        std::unique_ptr<AnswerWriter> writer, std::shared_ptr<Running>& out) {
  if (service.draining) return shutting_down();
  const int64_t context = service.engine.options().context;
  for (const std::vector<int32_t>& prompt : submission.prompts) {
    const auto tokens = static_cast<int64_t>(prompt.size());
    if (submission.embed ? tokens > context : tokens >= context)
      return context_exceeded(tokens, context, submission.prompt_field);
  }
  const SamplingRequest& asked = submission.asked;
  Generation generation;
  generation.prompts = std::move(submission.prompts);
  generation.n = asked.n;
  generation.embed = submission.embed;
  generation.adapter = asked.served.adapter;
  generation.cache_salt = exchange.client.salted(asked.cache_salt);
  generation.priority = asked.priority;
  GenerateOptions& how = generation.options = std::move(submission.how);
  const bool constrained = how.constraint != nullptr;
  how.sampling = asked.sampling;
  how.max_tokens = asked.max_tokens;
  how.stop = asked.stop;
  how.ignore_eos = asked.ignore_eos;
  how.top_logprobs = asked.top_logprobs;
  if (asked.sampling.dry_multiplier > 0) {
    if (auto error = find_breakers(service.engine.tokenizer(), asked.dry_breakers, how.sampling.dry_breakers))
      return error;
  }
  if (!asked.has_seed) how.sampling.seed = random_seed();
  Result<std::shared_ptr<Ticket>> submitted = service.scheduler.submit(std::move(generation));
  if (!submitted.ok()) return bad_request(submitted.status().message(), {}, "request_too_large");
  std::shared_ptr<Ticket> ticket = *submitted;
  if (!ticket) return queue_full(service.options.queue, service.pace.seconds_to_next());
  out.reset(
      new Running(service, exchange, std::move(ticket), std::move(writer), constrained, asked.progress));
  return {};
}

Running::Step Running::step(milliseconds wait) {
  Step step;
  const std::optional<GenerationEvent> event = ticket_->next(wait);
  const bool failed = event && event->kind == GenerationEvent::Kind::kFailed;
  step.taken = event.has_value();
  if (failed || Clock::now() > deadline_) {
    step.error = failure(failed ? event->status : Status());
    step.text = writer_->failed(*step.error);
    end(&*step.error);
  } else if (event) {
    measure(*event);
    step.text = writer_->add(*event);
    step.done = event->kind == GenerationEvent::Kind::kDone;
    if (step.done) end(nullptr);
  }
  return step;
}

void Running::cancel() {
  cancelled_ = true;
  ticket_->cancel();
}

void Running::respond(const Exchange& exchange, std::shared_ptr<Running> running, bool stream) {
  if (!stream) return running->respond_whole(exchange);
  httplib::Response& response = exchange.response;
  response.status = 200;
  response.set_header("Cache-Control", "no-cache");
  response.set_header("X-Accel-Buffering", "no");
  // The provider runs after this handler has returned, while the request still lives.
  const auto client_there = [&request = exchange.request] { return client_is_there(request); };
  response.set_chunked_content_provider("text/event-stream",
                                        [client_there, running](size_t, httplib::DataSink& sink) {
                                          return running->stream(client_there, sink);
                                        });
}

void Running::respond_whole(const Exchange& exchange) {
  while (client_is_there(exchange.request)) {
    const Step next = step(kClientPoll);
    if (next.error) return send_error(exchange.response, *next.error, error_style(exchange.request));
    if (next.done) return exchange.answer(writer_->json());
  }
  const ApiError gone = client_gone();
  end(&gone);
}

// What there is to say of the prompt; nothing once the first token has come and all of it was said.
std::string Running::progress() {
  if (!reports_progress_ || ticket_->begun() == Clock::time_point()) return {};
  PromptProgress now = {ticket_->prompt_tokens(), ticket_->prompt_tokens_cached(),
                        ticket_->prompt_tokens_done(),
                        std::chrono::duration<double, std::milli>(Clock::now() - ticket_->begun()).count()};
  if (now.processed == told_) return {};
  told_ = now.processed;
  return writer_->progress(now);
}

Json Running::slot_json() const {
  const int64_t context = service_.engine.options().context;
  return {{"id", 0},
          {"id_task", request_id_},
          {"is_processing", ticket_->begun() != Clock::time_point()},
          {"route", route_.pattern},
          {"n_ctx", context},
          {"n_prompt_tokens", ticket_->prompt_tokens()},
          {"n_prompt_tokens_cache", ticket_->prompt_tokens_cached()},
          {"n_prompt_tokens_processed", ticket_->prompt_tokens_done()},
          {"n_decoded", tokens_.load()},
          {"seconds", std::chrono::duration<double>(Clock::now() - begun_).count()}};
}

// Writes the whole stream; false where the client went away.
bool Running::stream(const std::function<bool()>& client_there, httplib::DataSink& sink) {
  auto last_write = Clock::now();
  const auto send = [&](const std::string& text) {
    if (text.empty()) return true;
    last_write = Clock::now();
    return sink.write(text.data(), text.size());
  };
  bool going = send(writer_->begin());
  while (going && client_there()) {
    const Step next = step(kClientPoll);
    going = send(progress()) && send(next.text);
    if (going && (next.done || next.error)) {
      sink.done();
      return true;
    }
    if (going && Clock::now() - last_write > service_.options.ping) going = send(writer_->silence());
  }
  const ApiError gone = client_gone();
  end(&gone);
  return false;
}

// What to tell the client of an answer that failed; an ok status means that its time is up.
ApiError Running::failure(const Status& status) const {
  if (status.ok()) return unavailable("the answer took longer than the server's --timeout", "timeout", 1);
  if (status.code() == Code::kCancelled && cancelled_)
    return {499, "client_gone", "the answer was cancelled", {}, kCancelledCode};
  if (status.code() == Code::kCancelled) return shutting_down();
  if (constrained_ && status.code() == Code::kInvalid)
    return bad_request("the answer cannot go on: " + status.message(), {}, "unsupported_constraint");
  service_.log.error("{}: {}", route_.pattern, status.message());
  if (status.code() == Code::kNoMemory)
    return unavailable("not enough memory for this request", "out_of_memory", 1);
  return internal_error();
}

void Running::measure(const GenerationEvent& event) {
  if (event.kind != GenerationEvent::Kind::kPiece || event.id < 0) return;
  ++service_.generated;
  ++tokens_;
  const auto now = Clock::now();
  const auto seconds = [&](Clock::time_point since) {
    return std::chrono::duration<double>(now - since).count();
  };
  if (last_token_.empty()) {
    service_.metrics.first_token(seconds(begun_));
    service_.metrics.begun(std::chrono::duration<double>(ticket_->begun() - begun_).count());
  }
  const auto [last, first] = last_token_.try_emplace(event.choice, now);
  if (!first) service_.metrics.next_token(seconds(std::exchange(last->second, now)));
}

void Running::end(const ApiError* error) {
  if (has_ended_) return;
  has_ended_ = true;
  service_.pace.ended();
  const Usage& usage = writer_->usage();
  const double seconds = std::chrono::duration<double>(Clock::now() - begun_).count();
  service_.log.info(log_line({{"route", route_.pattern},
                              {"status", error ? error->status : 200},
                              {"prompt_tokens", usage.prompt},
                              {"cached_tokens", usage.cached},
                              {"cache_miss", cache_miss_text(usage.miss)},
                              {"answer_tokens", usage.completion},
                              {"finish", error ? error->code.value_or("-") : writer_->finish_reason()},
                              {"seconds", std::round(seconds * 1000) / 1000},
                              {"id", request_id_}},
                             service_.options.log_json));
  service_.metrics.ended(usage, error ? error->code.value_or("-") : writer_->finish_reason(),
                         error != nullptr, seconds);
  if (ended_) ended_(*writer_, error);
}

}  // namespace moebius
