#include "server/server.h"

#include <thread>

#include <fmt/format.h>

#include "server/admission.h"
#include "server/api/api.h"

namespace moebius {

namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::milliseconds kDrainPoll{50};
constexpr int64_t kFormBytes = 64 << 10;  // of an upload beside its file

// One for each request that is answered or waits, and some that ask less.
size_t thread_count(const Engine& engine, const ServerOptions& options) {
  return static_cast<size_t>(options.queue + engine.options().sessions) + 32;
}

ConnectionLimits connection_limits(const ServerOptions& options) {
  ConnectionLimits limits;
  limits.body_bytes = options.body_bytes;
  limits.connections = options.connections;
  limits.upload_target = kFilesPath;
  limits.upload_bytes =
      options.tuning.folder.empty() ? options.body_bytes : options.tuning.limits.file_bytes + kFormBytes;
  return limits;
}

Status check_keys(const ServerOptions& options, const std::vector<std::string>& api_keys,
                  const std::vector<std::string>& admin_keys) {
  if (is_loopback(options.host) || options.allow_no_key || !api_keys.empty() || !admin_keys.empty())
    return {};
  return invalid(
      fmt::format("--host {} is reachable from other machines: give --api-key or --api-key-file, or "
                  "--allow-no-key to let everyone in",
                  options.host));
}

std::string bracketed(const std::string& host) {
  return host.find(':') == std::string::npos || host.starts_with('[') ? host : "[" + host + "]";
}

}  // namespace

struct Server::Impl {
  Impl(Engine& engine, ServerOptions options, spdlog::logger& log, std::unique_ptr<PrefixStore> prefixes,
       std::unique_ptr<Tls> tls);
  Status open_tuning();
  void add_routes();
  void drain_when_asked();

  Service service;
  std::unique_ptr<FineTuning> tuning;  // or null
  Router router;
  Admission admission;
  const std::unique_ptr<Tls> tls;  // or null
  HttpServer http;
  int port = -1;
  std::atomic<bool> finished = false;
};

Server::Impl::Impl(Engine& engine, ServerOptions options, spdlog::logger& log,
                   std::unique_ptr<PrefixStore> prefixes, std::unique_ptr<Tls> t)
    : service(engine, std::move(options), log, std::move(prefixes)),
      admission(service, router),
      tls(std::move(t)),
      http(connection_limits(service.options), thread_count(engine, service.options), tls.get()) {
  admission.install(http);
}

Status Server::Impl::open_tuning() {
  if (service.options.tuning.folder.empty()) return Status();
  MOEBIUS_ASSIGN(tuning, FineTuning::open(service.options.tuning, service.engine.options().model,
                                          service.options.models, service.options.drain, service.log));
  service.adapters.look_on([&jobs = tuning->jobs()] {
    std::vector<ShelvedAdapter> shelf;
    for (TunedModel& m : jobs.models())
      shelf.push_back({std::move(m.name), std::move(m.folder), m.created_at});
    return shelf;
  });
  return Status();
}

void Server::Impl::add_routes() {
  add_page_route(router, service);
  add_model_routes(router, service);
  add_adapter_routes(router, service);
  add_text_routes(router, service);
  add_openai_routes(router, service);
  add_embedding_routes(router, service);
  add_anthropic_routes(router, service);
  add_responses_routes(router, service);
  add_file_routes(router, service, tuning.get());
  add_fine_tuning_routes(router, service, tuning.get());
}

// Waits for drain(), then for the running answers, and ends the listening.
void Server::Impl::drain_when_asked() {
  while (!service.draining && !finished) std::this_thread::sleep_for(kDrainPoll);
  if (finished) return;
  if (tuning) tuning->jobs().begin_stop();
  const auto until = Clock::now() + service.options.drain;
  while (service.active > 0 && Clock::now() < until) std::this_thread::sleep_for(kDrainPoll);
  if (service.active > 0)
    service.log.warn("{} answers are not finished in time and are given up", service.active.load());
  service.scheduler.cancel_all();
  const auto last = Clock::now() + std::chrono::seconds(10);
  while (service.active > 0 && Clock::now() < last) std::this_thread::sleep_for(kDrainPoll);
  http.stop();
  while (!finished) {
    http.stop_reading();
    std::this_thread::sleep_for(kDrainPoll);
  }
}

Server::Server(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Server::~Server() = default;

Result<std::unique_ptr<Server>> Server::create(Engine& engine, ServerOptions options, spdlog::logger& log) {
  MOEBIUS_CHECK(!options.models.empty() && options.queue >= 0);
  if (!engine.has_tokenizer()) return invalid("the model has no tokenizer files; a server needs them");
  MOEBIUS_TRY(check_keys(options, options.api_keys, options.admin_keys));
  if (options.ssl_cert_file.empty() != options.ssl_key_file.empty())
    return invalid("TLS needs both --ssl-cert-file and --ssl-key-file");
  std::unique_ptr<Tls> tls;
  if (!options.ssl_cert_file.empty()) {
    MOEBIUS_ASSIGN(tls, Tls::open(options.ssl_cert_file, options.ssl_key_file));
  }
  std::unique_ptr<PrefixStore> prefixes;
  if (!options.prefix_dir.empty()) {
    MOEBIUS_ASSIGN(prefixes, PrefixStore::open(options.prefix_dir, options.prefix_bytes));
  }
  auto impl = std::make_unique<Impl>(engine, std::move(options), log, std::move(prefixes), std::move(tls));
  for (const ServerOptions::NamedFolder& a : impl->service.options.adapters)
    MOEBIUS_TRY(impl->service.adapters.load(a.name, a.folder));
  MOEBIUS_TRY(impl->open_tuning());
  impl->add_routes();
  return std::unique_ptr<Server>(new Server(std::move(impl)));
}

Status Server::bind() {
  Impl& impl = *impl_;
  std::string host = impl.service.options.host;
  if (host.starts_with('[') && host.ends_with(']')) host = host.substr(1, host.size() - 2);
  const int wanted = impl.service.options.port;
  const bool bound =
      wanted == 0 ? (impl.port = impl.http.bind_to_any_port(host)) > 0 : impl.http.bind_to_port(host, wanted);
  if (!bound) {
    return io_error(fmt::format("cannot listen at {}:{}; is the port taken? choose another with --port",
                                bracketed(host), wanted));
  }
  impl.http.widen_backlog();
  if (wanted != 0) impl.port = wanted;
  return {};
}

int Server::port() const { return impl_->port; }

Status Server::run() {
  std::thread drainer([this] { impl_->drain_when_asked(); });
  const bool served = impl_->http.listen_after_bind();
  impl_->finished = true;
  drainer.join();
  if (!served && !impl_->service.draining) return io_error("the listening socket failed");
  return {};
}

Status Server::reload(const std::vector<std::string>& api_keys, const std::vector<std::string>& admin_keys) {
  MOEBIUS_TRY(check_keys(impl_->service.options, api_keys, admin_keys));
  if (impl_->tls) MOEBIUS_TRY(impl_->tls->reload());
  impl_->admission.exchange_keys(api_keys, admin_keys);
  return {};
}

void Server::drain() { impl_->service.draining = true; }

}  // namespace moebius
