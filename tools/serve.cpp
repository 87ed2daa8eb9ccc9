// moebius serve: the OpenAI-compatible server.
#include <sys/resource.h>

#include <algorithm>
#include <cstdlib>

#include <filesystem>
#include <mutex>

#include <fmt/format.h>
#include <spdlog/logger.h>
#include <spdlog/sinks/stdout_color_sinks.h>

#include "server/access.h"
#include "tools/command.h"
#include "tools/json_log.h"
#include "tools/notify.h"
#include "tools/serve_options.h"
#include "tools/signal_watcher.h"

namespace moebius {

namespace {

// Every connection is a file: shells start programs with 1024, and let them have more. How many connections
// there can be beside files of other kinds.
int64_t allow_open_files() {
  constexpr rlim_t kEnough = 16384, kOthers = 256;
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return 1024;
  if (limit.rlim_cur < kEnough) {
    limit.rlim_cur = std::min(kEnough, limit.rlim_max);
    setrlimit(RLIMIT_NOFILE, &limit);
    getrlimit(RLIMIT_NOFILE, &limit);
  }
  return static_cast<int64_t>(std::max(limit.rlim_cur, 2 * kOthers) - kOthers);
}

// The name clients call the model by: its Hugging Face id where it lies in that cache, else its folder's.
std::string model_name(const std::string& folder) {
  const std::filesystem::path path = std::filesystem::path(folder).lexically_normal();
  for (const auto& part : path) {
    constexpr std::string_view kPrefix = "models--";
    std::string name = part.string();
    if (!name.starts_with(kPrefix)) continue;
    name.erase(0, kPrefix.size());
    if (const size_t slash = name.find("--"); slash != std::string::npos) name.replace(slash, 2, "/");
    return name;
  }
  const std::string name =
      path.has_filename() ? path.filename().string() : path.parent_path().filename().string();
  return name.empty() || name == "." || name == ".." ? "model" : name;
}

std::chrono::milliseconds milliseconds_of(double seconds) {
  return std::chrono::milliseconds(static_cast<int64_t>(seconds * 1000));
}

// "NAME=FOLDER", or a folder whose last part is the name.
ServerOptions::NamedFolder named_folder(const std::string& text) {
  if (const size_t equals = text.find('='); equals != std::string::npos)
    return {text.substr(0, equals), text.substr(equals + 1)};
  return {model_name(text), text};
}

void print_settings(const Engine& engine, const Server& server, const ServerOptions& options) {
  fmt::print(stderr, "{}\n", engine.describe());
  for (const std::string& note : engine.notes()) fmt::print(stderr, "note: {}\n", note);
  const bool ipv6 = options.host.find(':') != std::string::npos && !options.host.starts_with('[');
  fmt::print(stderr, "model name: {}\n", fmt::join(options.models, ", "));
  fmt::print(stderr,
             "context {} tokens, cache {} tokens, {} answers at once, {} requests may wait, {} s for an "
             "answer\n",
             engine.options().context, engine.options().cache_tokens, engine.options().sessions,
             options.queue, options.timeout.count() / 1000);
  fmt::print(stderr, "API keys: {}\n",
             options.api_keys.empty() ? "none needed" : fmt::format("{} accepted", options.api_keys.size()));
  fmt::print(stderr, "listening at {}://{}{}{}:{}/v1\n", options.ssl_cert_file.empty() ? "http" : "https",
             ipv6 ? "[" : "", options.host, ipv6 ? "]" : "", server.port());
}

// The keys of the command line and of the file.
Result<std::vector<std::string>> all_keys(const ServeOptions& options) {
  std::vector<std::string> keys = options.server.api_keys;
  if (options.key_file.empty()) return keys;
  Result<std::vector<std::string>> more = read_key_file(options.key_file);
  if (more.ok()) keys.insert(keys.end(), more->begin(), more->end());
  return more.ok() ? Result<std::vector<std::string>>(std::move(keys)) : more.status();
}

std::unique_ptr<spdlog::logger> make_log(bool json) {
  auto sink = std::make_shared<spdlog::sinks::stderr_color_sink_mt>(
      no_color() ? spdlog::color_mode::never : spdlog::color_mode::automatic);
  auto log = std::make_unique<spdlog::logger>("moebius", sink);
  log->set_pattern("%Y-%m-%d %H:%M:%S.%e %^%l%$ %v");
  if (json) log->set_formatter(std::make_unique<JsonLog>());
  log->flush_on(spdlog::level::info);
  return log;
}

// The server that runs, for signals, which come at any time.
class Current {
 public:
  Current(const ServeOptions& options, spdlog::logger& log) : options_(options), log_(log) {}

  void set(Server* server) {
    std::lock_guard lock(mutex_);
    server_ = server;
    if (server != nullptr) notify_manager(options_.notify_socket, "READY=1");
  }
  void stop(int count) {
    std::lock_guard lock(mutex_);
    if (count > 1) std::_Exit(130);
    if (server_ == nullptr) std::_Exit(0);  // nothing is being served yet
    notify_manager(options_.notify_socket, "STOPPING=1");
    log_.info("shutting down once the running answers are finished; again to stop at once");
    server_->drain();
  }
  void reload() {
    std::lock_guard lock(mutex_);
    if (server_ == nullptr) return;
    const Result<std::vector<std::string>> keys = all_keys(options_);
    const Status status = keys.ok() ? server_->reload(*keys, options_.server.admin_keys) : keys.status();
    if (status.ok())
      log_.info("keys and certificate were read again; {} keys accepted", keys->size());
    else
      log_.error("keys and certificate stay as they were: {}", status.message());
  }

 private:
  const ServeOptions& options_;
  spdlog::logger& log_;
  std::mutex mutex_;
  Server* server_ = nullptr;
};

int serve(ServeOptions& options) {
  const std::unique_ptr<spdlog::logger> log = make_log(options.server.log_json);
  Current current(options, *log);
  const SignalWatcher watcher([&](int count) { current.stop(count); }, [&] { current.reload(); });

  Result<std::vector<std::string>> keys = all_keys(options);
  if (!keys.ok()) return fail(keys.status());
  for (const std::string& text : options.adapters) options.server.adapters.push_back(named_folder(text));
  options.server.connections = std::min(options.server.connections, allow_open_files());
  Result<std::unique_ptr<Engine>> engine = Engine::open(remembering_experts(options.engine));
  if (!engine.ok()) return fail(engine.status());
  ServerOptions serving = options.server;
  if (serving.models.empty()) serving.models = {model_name((*engine)->options().model)};
  serving.timeout = milliseconds_of(options.timeout_s);
  serving.ping = milliseconds_of(options.ping_s);
  serving.drain = milliseconds_of(options.drain_s);
  serving.version = MOEBIUS_VERSION;
  serving.api_keys = std::move(*keys);

  Result<std::unique_ptr<Server>> server = Server::create(**engine, serving, *log);
  if (!server.ok()) return fail(server.status());
  if (const Status bound = (*server)->bind(); !bound.ok()) return fail(bound);
  print_settings(**engine, **server, serving);
  current.set(server->get());
  const Status served = (*server)->run();
  current.set(nullptr);
  return served.ok() ? 0 : fail(served);
}

}  // namespace

void add_serve(CLI::App& app, Run& run) {
  auto options = std::make_shared<ServeOptions>();
  CLI::App* command = app.add_subcommand("serve", "HTTP APIs of OpenAI and Anthropic, and a page");
  add_serve_options(*command, *options);
  command->callback([options, &run] { run = [options] { return serve(*options); }; });
}

}  // namespace moebius
