#include "server/server.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <ctime>
#include <random>

#include <fmt/format.h>
#include <spdlog/logger.h>

#include "engine/scheduler.h"
#include "server/access.h"
#include "server/answer.h"
#include "server/constraints.h"
#include "server/http_server.h"
#include "server/json_input.h"
#include "server/request.h"

namespace moebius {

namespace {

using httplib::Request;
using httplib::Response;
using std::chrono::milliseconds;
using Clock = std::chrono::steady_clock;

constexpr milliseconds kPoll{50};     // between two looks at whether the client is still there
constexpr size_t kSpareThreads = 32;  // connections beside those that wait for an answer

struct Route {
  std::string_view path, method;
};
constexpr std::array<Route, 6> kRoutes = {{{"/health", "GET"},
                                           {"/version", "GET"},
                                           {"/v1/models", "GET"},
                                           {"/v1/experts", "GET"},
                                           {"/v1/chat/completions", "POST"},
                                           {"/v1/completions", "POST"}}};
constexpr std::string_view kModelRoute = "/v1/models/";

// The method a path takes; "" for a path that does not exist.
std::string_view method_of(std::string_view path) {
  for (const Route& route : kRoutes) {
    if (route.path == path) return route.method;
  }
  return path.size() > kModelRoute.size() && path.starts_with(kModelRoute) ? "GET" : "";
}

// Only layers with experts on both sides say something.
Json experts_json(const Engine& engine) {
  Json layers = Json::array();
  const std::vector<LayerUse> all = engine.expert_use();
  for (size_t l = 0; l < all.size(); ++l) {
    const LayerUse& use = all[l];
    if (use.device_slots + use.host_slots == 0) continue;
    layers.push_back({{"layer", l},
                      {"hit_rate", use.hit_rate()},
                      {"device_slots", use.device_slots},
                      {"host_slots", use.host_slots},
                      {"skipped_slots", use.skipped_slots},
                      {"skip_rate", use.skip_rate()},
                      {"host_ms", 1e3 * use.host_s},
                      {"moves", use.moves},
                      {"moved_bytes", use.moved_bytes},
                      {"streamed_bytes", use.streamed_bytes}});
  }
  return {{"object", "experts"}, {"layers", layers}};
}

std::string random_id(std::string_view prefix) {
  constexpr std::string_view kLetters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
  std::random_device random;
  std::string out(prefix);
  for (int i = 0; i < 24; ++i) out += kLetters[random() % kLetters.size()];
  return out;
}

uint64_t random_seed() {
  std::random_device random;
  return static_cast<uint64_t>(random()) << 32 | random();
}

std::string bracketed(const std::string& host) {
  return host.find(':') == std::string::npos || host.starts_with('[') ? host : "[" + host + "]";
}

// Counts a request that is being answered, for as long as it exists.
class Active {
 public:
  explicit Active(std::atomic<int>& count) : count_(count) { ++count_; }
  Active(const Active&) = delete;
  Active& operator=(const Active&) = delete;
  ~Active() { --count_; }

 private:
  std::atomic<int>& count_;
};

}  // namespace

// One answer on its way: what was submitted, and what it becomes.
struct Running {
  Running(std::atomic<int>& count, std::shared_ptr<Ticket> t, Answer a, const char* r, milliseconds timeout)
      : active(count),
        ticket(std::move(t)),
        answer(std::move(a)),
        route(r),
        begun(Clock::now()),
        deadline(begun + timeout) {}
  ~Running() { ticket->cancel(); }

  Active active;
  std::shared_ptr<Ticket> ticket;
  Answer answer;
  const char* route;
  bool constrained = false;
  Clock::time_point begun, deadline;
};

struct Server::Impl {
  Impl(Engine& e, ServerOptions o, spdlog::logger& l);
  ~Impl();

  void add_routes();
  httplib::Server::HandlerResponse admit(const Request& request, Response& response);
  std::optional<ApiError> check_access(const Request& request) const;
  void get_model(const Request& request, Response& response);
  Json model_json() const;

  void chat(const Request& request, Response& response, const httplib::ContentReader& reader);
  void completion(const Request& request, Response& response, const httplib::ContentReader& reader);
  std::optional<ApiError> read_body(const httplib::ContentReader& reader, Json& body) const;
  std::optional<ApiError> encode_chat(const ChatRequest& asked, std::vector<int32_t>& ids) const;
  std::optional<ApiError> encode_prompt(const Prompt& prompt, std::vector<int32_t>& ids) const;
  std::optional<ApiError> submit(const SamplingRequest& asked, std::vector<std::vector<int32_t>> prompts,
                                 GenerateOptions how, Api api, std::shared_ptr<Running>& running);
  void respond(const Request& request, Response& response, const SamplingRequest& asked,
               std::vector<std::vector<int32_t>> prompts, GenerateOptions how, Api api);
  void respond_whole(const Request& request, Response& response, Running& running);
  void respond_stream(const Request& request, Response& response, std::shared_ptr<Running> running);
  bool stream(const std::function<bool()>& client_there, httplib::DataSink& sink, Running& running);
  ApiError failure(const Running& running, const Status& status);
  void refuse(Response& response, const char* route, const ApiError& error);
  void log_done(const Running& running, int status);
  void drain_when_asked();

  Engine& engine;
  const ServerOptions options;
  spdlog::logger& log;
  const ApiKeys keys;
  const bool loopback;
  RequestLimits limits;
  const int64_t created = std::time(nullptr);
  Constraints constraints;
  Scheduler scheduler;
  HttpServer http;
  int port = -1;
  std::atomic<int> active = 0;
  std::atomic<bool> draining = false;
  std::atomic<bool> finished = false;
  std::thread stepping;
};

namespace {

ConnectionLimits connection_limits(const ServerOptions& options) {
  ConnectionLimits limits;
  limits.body_bytes = options.body_bytes;
  return limits;
}

SchedulerOptions scheduler_options(const ServerOptions& options) {
  SchedulerOptions scheduling;
  scheduling.queue = options.queue;
  return scheduling;
}

}  // namespace

Server::Impl::Impl(Engine& e, ServerOptions o, spdlog::logger& l)
    : engine(e),
      options(std::move(o)),
      log(l),
      keys(options.api_keys),
      loopback(is_loopback(options.host)),
      constraints(e),
      scheduler(e, scheduler_options(options)),
      http(connection_limits(options), static_cast<size_t>(options.queue) + kSpareThreads) {
  limits.models = options.models;
  limits.vocab = engine.config().vocab;
  limits.sampling = engine.default_sampling();
  add_routes();
  stepping = std::thread([this] { scheduler.run(); });
}

Server::Impl::~Impl() {
  scheduler.stop();
  stepping.join();
}

void Server::Impl::add_routes() {
  http.set_pre_routing_handler(
      [this](const Request& request, Response& response) { return admit(request, response); });
  http.Get("/health", [this](const Request&, Response& response) {
    if (draining) return send_error(response, unavailable("the server is shutting down", "shutting_down"));
    send_json(response, 200, {{"status", "ok"}});
  });
  http.Get("/version", [this](const Request&, Response& response) {
    send_json(response, 200, {{"version", options.version}});
  });
  http.Get("/v1/models", [this](const Request&, Response& response) {
    send_json(response, 200, {{"object", "list"}, {"data", Json::array({model_json()})}});
  });
  http.Get("/v1/experts",
           [this](const Request&, Response& response) { send_json(response, 200, experts_json(engine)); });
  http.Get("/v1/models/.+",
           [this](const Request& request, Response& response) { get_model(request, response); });
  http.Post("/v1/chat/completions",
            [this](const Request& request, Response& response, const httplib::ContentReader& reader) {
              chat(request, response, reader);
            });
  http.Post("/v1/completions",
            [this](const Request& request, Response& response, const httplib::ContentReader& reader) {
              completion(request, response, reader);
            });
}

// Looks at every request before its body is read.
httplib::Server::HandlerResponse Server::Impl::admit(const Request& request, Response& response) {
  std::optional<ApiError> error = check_access(request);
  const std::string_view method = method_of(request.path);
  if (!error && method.empty()) error = unknown_route();
  if (!error && request.method != method && !(request.method == "HEAD" && method == "GET")) {
    error = wrong_method(std::string(method));
    response.set_header("Allow", std::string(method));
  }
  if (!error && draining && method == "POST")
    error = unavailable("the server is shutting down", "shutting_down");
  if (!error) return httplib::Server::HandlerResponse::Unhandled;
  if (error->status == 401) response.set_header("WWW-Authenticate", "Bearer");
  refuse(response, method.empty() ? "unknown route" : request.path.c_str(), *error);
  return httplib::Server::HandlerResponse::Handled;
}

std::optional<ApiError> Server::Impl::check_access(const Request& request) const {
  if (loopback) {
    if (!host_allowed(request.get_header_value("Host"), options.allowed_hosts)) {
      return forbidden("this server answers to localhost only; start it with --allow-host for another name",
                       "host_not_allowed");
    }
    if (request.has_header("Origin") &&
        !origin_allowed(request.get_header_value("Origin"), options.allowed_hosts)) {
      return forbidden("pages of other sites may not use this server; start it with --allow-host for one",
                       "origin_not_allowed");
    }
  }
  if (!keys.required() || request.path == "/health") return {};
  if (keys.accepts(bearer_token(request.get_header_value("Authorization")))) return {};
  return unauthorized();
}

Json Server::Impl::model_json() const {
  return {{"id", options.models.front()},
          {"object", "model"},
          {"created", created},
          {"owned_by", "moebius"},
          {"meta", {{"n_ctx", engine.options().context}, {"n_vocab", engine.config().vocab}}}};
}

void Server::Impl::get_model(const Request& request, Response& response) {
  const std::string name = request.path.substr(kModelRoute.size());
  if (std::find(options.models.begin(), options.models.end(), name) == options.models.end()) {
    return send_error(response, model_not_found(options.models.front()));
  }
  Json model = model_json();
  model["id"] = name;
  send_json(response, 200, model);
}

std::optional<ApiError> Server::Impl::read_body(const httplib::ContentReader& reader, Json& body) const {
  std::string text;
  bool too_long = false;
  const bool read = reader([&](const char* data, size_t size) {
    too_long = static_cast<int64_t>(text.size() + size) > options.body_bytes;
    if (!too_long) text.append(data, size);
    return !too_long;
  });
  if (too_long) return too_large(options.body_bytes);
  if (!read) return bad_request("the body ended early or is not encoded as its header says");
  Result<Json> parsed = parse_json(text);
  if (!parsed.ok()) return bad_request(parsed.status().message());
  body = std::move(*parsed);
  return {};
}

std::optional<ApiError> Server::Impl::encode_chat(const ChatRequest& asked, std::vector<int32_t>& ids) const {
  Result<std::string> text = engine.render_chat(asked.variables);
  if (!text.ok()) {
    if (text.status().code() == Code::kNotFound) {
      return bad_request("this model has no chat template; use /v1/completions", "messages",
                         "no_chat_template");
    }
    return bad_request("the model's chat template refuses this conversation: " + text.status().message(),
                       "messages", "chat_template_error");
  }
  Result<std::vector<int32_t>> encoded = scheduler.encode(*text, asked.cache_salt);
  if (!encoded.ok()) return bad_request("the conversation cannot be turned into tokens", "messages");
  ids = std::move(*encoded);
  return {};
}

std::optional<ApiError> Server::Impl::encode_prompt(const Prompt& prompt, std::vector<int32_t>& ids) const {
  if (const auto* given = std::get_if<std::vector<int32_t>>(&prompt)) {
    ids = *given;
    return {};
  }
  EncodeOptions encoding;
  encoding.add_special = true;
  Result<std::vector<int32_t>> encoded = engine.tokenizer().encode(std::get<std::string>(prompt), encoding);
  if (!encoded.ok()) return bad_request("the prompt cannot be turned into tokens", "prompt");
  ids = std::move(*encoded);
  if (ids.empty() && engine.tokenizer().bos_id()) ids.push_back(*engine.tokenizer().bos_id());
  if (ids.empty()) return bad_request("`prompt` is empty", "prompt");
  return {};
}

void Server::Impl::chat(const Request& request, Response& response, const httplib::ContentReader& reader) {
  Json body;
  ChatRequest asked;
  std::vector<int32_t> ids;
  std::optional<ApiError> error = read_body(reader, body);
  if (!error) error = parse_chat_request(body, limits, asked);
  GenerateOptions how;
  if (!error) error = constraints.find(asked.constraint, asked.tools, how.constraint);
  if (!error) error = encode_chat(asked, ids);
  if (error) return refuse(response, "/v1/chat/completions", *error);
  how.form = std::make_shared<AnswerForm>(AnswerForm{engine.markup(), text_arguments(asked.tools.rules)});
  respond(request, response, asked, {std::move(ids)}, std::move(how), Api::kChat);
}

void Server::Impl::completion(const Request& request, Response& response,
                              const httplib::ContentReader& reader) {
  Json body;
  CompletionRequest asked;
  std::optional<ApiError> error = read_body(reader, body);
  if (!error) error = parse_completion_request(body, limits, asked);
  GenerateOptions how;
  if (!error) error = constraints.find(asked.constraint, {}, how.constraint);
  std::vector<std::vector<int32_t>> prompts(asked.prompts.size());
  for (size_t i = 0; i < prompts.size() && !error; ++i) error = encode_prompt(asked.prompts[i], prompts[i]);
  if (error) return refuse(response, "/v1/completions", *error);
  respond(request, response, asked, std::move(prompts), std::move(how), Api::kCompletion);
}

std::optional<ApiError> Server::Impl::submit(const SamplingRequest& asked,
                                             std::vector<std::vector<int32_t>> prompts, GenerateOptions how,
                                             Api api, std::shared_ptr<Running>& running) {
  if (draining) return unavailable("the server is shutting down", "shutting_down");
  const int64_t context = engine.options().context;
  for (const std::vector<int32_t>& prompt : prompts) {
    const auto tokens = static_cast<int64_t>(prompt.size());
    if (tokens >= context)
      return context_exceeded(tokens, context, api == Api::kChat ? "messages" : "prompt");
  }
  AnswerOptions answer;
  answer.api = api;
  answer.id = random_id(api == Api::kChat ? "chatcmpl-" : "cmpl-");
  answer.model = options.models.front();
  answer.fingerprint = "moebius-" + options.version;
  answer.created = std::time(nullptr);
  answer.n = asked.n;
  answer.choices = asked.n * static_cast<int>(prompts.size());
  answer.logprobs = asked.top_logprobs >= 0;
  answer.stream = asked.stream;
  answer.include_usage = asked.include_usage;

  Generation generation;
  generation.prompts = std::move(prompts);
  generation.n = asked.n;
  generation.cache_salt = asked.cache_salt;
  generation.priority = asked.priority;
  const bool constrained = how.constraint != nullptr;
  how.sampling = asked.sampling;
  how.max_tokens = asked.max_tokens;
  how.stop = asked.stop;
  how.ignore_eos = asked.ignore_eos;
  how.top_logprobs = asked.top_logprobs;
  generation.options = std::move(how);
  if (!asked.has_seed) generation.options.sampling.seed = random_seed();
  Result<std::shared_ptr<Ticket>> submitted = scheduler.submit(std::move(generation));
  if (!submitted.ok()) return bad_request(submitted.status().message(), {}, "request_too_large");
  const std::shared_ptr<Ticket> ticket = *submitted;
  if (!ticket) return queue_full(options.queue);
  const auto token_bytes = [this](int32_t id) {
    Result<std::string> bytes = engine.tokenizer().decode({&id, 1});
    return bytes.ok() ? std::move(*bytes) : std::string();
  };
  running = std::make_shared<Running>(active, ticket, Answer(std::move(answer), token_bytes),
                                      api == Api::kChat ? "/v1/chat/completions" : "/v1/completions",
                                      options.timeout);
  running->constrained = constrained;
  return {};
}

void Server::Impl::respond(const Request& request, Response& response, const SamplingRequest& asked,
                           std::vector<std::vector<int32_t>> prompts, GenerateOptions how, Api api) {
  std::shared_ptr<Running> running;
  if (auto error = submit(asked, std::move(prompts), std::move(how), api, running)) {
    return refuse(response, api == Api::kChat ? "/v1/chat/completions" : "/v1/completions", *error);
  }
  if (asked.stream) {
    respond_stream(request, response, std::move(running));
  } else {
    respond_whole(request, response, *running);
  }
}

void Server::Impl::respond_whole(const Request& request, Response& response, Running& running) {
  while (client_is_there(request)) {
    if (Clock::now() > running.deadline) return refuse(response, running.route, failure(running, {}));
    const std::optional<GenerationEvent> event = running.ticket->next(kPoll);
    if (!event) continue;
    if (event->kind == GenerationEvent::Kind::kFailed) {
      return refuse(response, running.route, failure(running, event->status));
    }
    running.answer.add(*event);
    if (event->kind != GenerationEvent::Kind::kDone) continue;
    log_done(running, 200);
    return send_json(response, 200, running.answer.json());
  }
  log_done(running, 499);
}

void Server::Impl::respond_stream(const Request& request, Response& response,
                                  std::shared_ptr<Running> running) {
  response.status = 200;
  response.set_header("Cache-Control", "no-cache");
  response.set_header("X-Accel-Buffering", "no");
  // The provider runs after this handler has returned, while `request` still lives.
  const auto client_there = [&request] { return client_is_there(request); };
  response.set_chunked_content_provider("text/event-stream",
                                        [this, client_there, running](size_t, httplib::DataSink& sink) {
                                          return stream(client_there, sink, *running);
                                        });
}

// Writes the whole stream; false where the client went away.
bool Server::Impl::stream(const std::function<bool()>& client_there, httplib::DataSink& sink,
                          Running& running) {
  auto last_write = Clock::now();
  const auto send = [&](const std::string& text) {
    last_write = Clock::now();
    return text.empty() || sink.write(text.data(), text.size());
  };
  while (client_there()) {
    const std::optional<GenerationEvent> event = running.ticket->next(kPoll);
    const bool failed = event && event->kind == GenerationEvent::Kind::kFailed;
    if (failed || Clock::now() > running.deadline) {
      const ApiError error = failure(running, failed ? event->status : Status());
      log_done(running, error.status);
      if (!send(sse_event(error.json()))) return false;
      sink.done();
      return true;
    }
    if (event) {
      if (!send(running.answer.add(*event))) break;
      if (event->kind != GenerationEvent::Kind::kDone) continue;
      log_done(running, 200);
      sink.done();
      return true;
    }
    if (Clock::now() - last_write > options.ping && !send(kSsePing)) break;
  }
  log_done(running, 499);
  return false;
}

// What to tell the client of an answer that failed; an ok status means that its time is up.
ApiError Server::Impl::failure(const Running& running, const Status& status) {
  if (status.ok()) return unavailable("the answer took longer than the server's --timeout", "timeout");
  if (status.code() == Code::kCancelled) return unavailable("the server is shutting down", "shutting_down");
  if (running.constrained && status.code() == Code::kInvalid)
    return bad_request("the answer cannot go on: " + status.message(), {}, "unsupported_constraint");
  log.error("{}: {}", running.route, status.message());
  if (status.code() == Code::kNoMemory)
    return unavailable("not enough memory for this request", "out_of_memory");
  return internal_error();
}

void Server::Impl::refuse(Response& response, const char* route, const ApiError& error) {
  log.info("{} {} {}", route, error.status, error.code.value_or(error.param.value_or("-")));
  send_error(response, error);
}

void Server::Impl::log_done(const Running& running, int status) {
  const Usage& usage = running.answer.usage();
  const double seconds = std::chrono::duration<double>(Clock::now() - running.begun).count();
  log.info("{} {} prompt {} cached {} (miss: {}) answer {} {} {:.2f} s", running.route, status, usage.prompt,
           usage.cached, cache_miss_text(usage.miss), usage.completion,
           status == 499 ? "client gone" : running.answer.finish_reason(), seconds);
}

// Waits for drain(), then for the running answers, and ends the listening.
void Server::Impl::drain_when_asked() {
  while (!draining && !finished) std::this_thread::sleep_for(kPoll);
  if (finished) return;
  const auto until = Clock::now() + options.drain;
  while (active > 0 && Clock::now() < until) std::this_thread::sleep_for(kPoll);
  if (active > 0) log.warn("{} answers are not finished in time and are given up", active.load());
  scheduler.cancel_all();
  const auto last = Clock::now() + std::chrono::seconds(10);
  while (active > 0 && Clock::now() < last) std::this_thread::sleep_for(kPoll);
  http.stop();
  while (!finished) {
    http.stop_reading();
    std::this_thread::sleep_for(kPoll);
  }
}

Server::Server(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Server::~Server() = default;

Result<std::unique_ptr<Server>> Server::create(Engine& engine, ServerOptions options, spdlog::logger& log) {
  MOEBIUS_CHECK(!options.models.empty() && options.queue >= 0);
  if (!engine.has_tokenizer()) return invalid("the model has no tokenizer files; a server needs them");
  if (!is_loopback(options.host) && options.api_keys.empty() && !options.allow_no_key) {
    return invalid(
        fmt::format("--host {} is reachable from other machines: give --api-key or --api-key-file, or "
                    "--allow-no-key to let everyone in",
                    options.host));
  }
  return std::unique_ptr<Server>(new Server(std::make_unique<Impl>(engine, std::move(options), log)));
}

Status Server::bind() {
  Impl& impl = *impl_;
  std::string host = impl.options.host;
  if (host.starts_with('[') && host.ends_with(']')) host = host.substr(1, host.size() - 2);
  const int wanted = impl.options.port;
  const bool bound =
      wanted == 0 ? (impl.port = impl.http.bind_to_any_port(host)) > 0 : impl.http.bind_to_port(host, wanted);
  if (!bound) {
    return io_error(fmt::format("cannot listen at {}:{}; is the port taken? choose another with --port",
                                bracketed(host), wanted));
  }
  if (wanted != 0) impl.port = wanted;
  return {};
}

int Server::port() const { return impl_->port; }

Status Server::run() {
  std::thread drainer([this] { impl_->drain_when_asked(); });
  const bool served = impl_->http.listen_after_bind();
  impl_->finished = true;
  drainer.join();
  if (!served && !impl_->draining) return io_error("the listening socket failed");
  return {};
}

void Server::drain() { impl_->draining = true; }

}  // namespace moebius
