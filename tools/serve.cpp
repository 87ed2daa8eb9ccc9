// moebius serve: the OpenAI-compatible server.
#include <sys/resource.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <ctime>

#include <atomic>
#include <filesystem>
#include <functional>
#include <mutex>
#include <thread>

#include <fmt/format.h>
#include <spdlog/logger.h>
#include <spdlog/sinks/stdout_color_sinks.h>

#include "server/access.h"
#include "tools/command.h"
#include "tools/serve_options.h"

namespace moebius {

namespace {

// Every connection is one: shells start programs with 1024, and let them have more.
void allow_open_files() {
  constexpr rlim_t kEnough = 16384;
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= kEnough) return;
  limit.rlim_cur = std::min(kEnough, limit.rlim_max);
  setrlimit(RLIMIT_NOFILE, &limit);  // else there is room for fewer
}

// Receives SIGINT and SIGTERM on a thread of its own, so that no handler and no global is needed. Made before
// other threads, which inherit the blocked signals.
class SignalWatcher {
 public:
  explicit SignalWatcher(std::function<void(int count)> on_signal) : on_signal_(std::move(on_signal)) {
    sigemptyset(&signals_);
    sigaddset(&signals_, SIGINT);
    sigaddset(&signals_, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &signals_, nullptr);
    thread_ = std::thread([this] { loop(); });
  }
  ~SignalWatcher() {
    stop_ = true;
    thread_.join();
  }

 private:
  void loop() {
    const timespec wait = {0, 50'000'000};
    for (int count = 0; !stop_;) {
      if (sigtimedwait(&signals_, nullptr, &wait) > 0) on_signal_(++count);
    }
  }

  std::function<void(int)> on_signal_;
  sigset_t signals_;
  std::atomic<bool> stop_ = false;
  std::thread thread_;
};

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
  fmt::print(stderr, "listening at http://{}{}{}:{}/v1\n", ipv6 ? "[" : "", options.host, ipv6 ? "]" : "",
             server.port());
}

int serve(ServeOptions& options) {
  std::mutex mutex;
  Server* running = nullptr;
  const SignalWatcher watcher([&](int count) {
    std::lock_guard lock(mutex);
    if (count > 1) std::_Exit(130);
    if (running == nullptr) std::_Exit(0);  // nothing is being served yet
    fmt::print(stderr, "shutting down once the running answers are finished; again to stop at once\n");
    running->drain();
  });

  if (!options.key_file.empty()) {
    Result<std::vector<std::string>> keys = read_key_file(options.key_file);
    if (!keys.ok()) return fail(keys.status());
    for (std::string& key : *keys) options.server.api_keys.push_back(std::move(key));
  }
  for (const std::string& text : options.adapters) options.server.adapters.push_back(named_folder(text));
  allow_open_files();
  Result<std::unique_ptr<Engine>> engine = Engine::open(remembering_experts(options.engine));
  if (!engine.ok()) return fail(engine.status());
  if (options.server.models.empty()) options.server.models = {model_name((*engine)->options().model)};
  options.server.timeout = milliseconds_of(options.timeout_s);
  options.server.ping = milliseconds_of(options.ping_s);
  options.server.drain = milliseconds_of(options.drain_s);
  options.server.version = MOEBIUS_VERSION;

  auto sink = std::make_shared<spdlog::sinks::stderr_color_sink_mt>(
      no_color() ? spdlog::color_mode::never : spdlog::color_mode::automatic);
  spdlog::logger log("moebius", sink);
  log.set_pattern("%Y-%m-%d %H:%M:%S.%e %^%l%$ %v");
  log.flush_on(spdlog::level::info);
  Result<std::unique_ptr<Server>> server = Server::create(**engine, options.server, log);
  if (!server.ok()) return fail(server.status());
  if (const Status bound = (*server)->bind(); !bound.ok()) return fail(bound);
  print_settings(**engine, **server, options.server);
  {
    std::lock_guard lock(mutex);
    running = server->get();
  }
  const Status served = (*server)->run();
  std::lock_guard lock(mutex);
  running = nullptr;
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
