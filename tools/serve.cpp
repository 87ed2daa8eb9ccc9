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
#include "server/server.h"
#include "tools/command.h"
#include "tools/serve_files.h"
#include "tools/size_text.h"

namespace moebius {

namespace {

struct ServeOptions {
  EngineOptions engine;
  ServerOptions server;
  std::string key_file;
  std::vector<std::string> adapters;
  double timeout_s = 3600, ping_s = 10, drain_s = 30;
};

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
  ServerOptions& server = options->server;
  CLI::App* command = app.add_subcommand("serve", "OpenAI-compatible HTTP API");
  add_engine_options(*command, options->engine);
  command->add_option("--host", server.host, "address to listen at (default 127.0.0.1, this machine only)");
  command->add_option("--port", server.port, "port to listen at (default 8080; 0: any free one)")
      ->check(CLI::Range(0, 65535));
  command->add_option("--alias,--served-model-name", server.models,
                      "name of the model for clients, repeatable (default: its folder or id)");
  command->add_option("--lora,--lora-modules", options->adapters,
                      "NAME=FOLDER of a PEFT LoRA adapter to offer as a model of that name beside the model "
                      "itself, repeatable");
  command
      ->add_option("--adapter-dir", server.adapter_dir,
                   "folder under which clients may name adapters to load and unload (default: they may not)")
      ->check(CLI::ExistingDirectory);
  add_size(*command, "--adapter-memory", options->engine.adapter_memory,
           "of the device, such as 256MiB, kept free for adapters that requests choose (default 0)");
  command->add_option("--api-key", server.api_keys, "key that clients must send, repeatable")
      ->check([](const std::string& key) { return key.empty() ? "a key cannot be empty" : ""; });
  command->add_option("--api-key-file", options->key_file, "file of keys, one per line, # for comments");
  command->add_flag("--allow-no-key", server.allow_no_key, "listen beyond this machine without any key");
  command->add_option("--allow-host", server.allowed_hosts,
                      "further Host name to answer to when listening on loopback, repeatable");
  options->engine.sessions = 4;
  command->add_option("--parallel", options->engine.sessions, "answers that are computed at once (default 4)")
      ->check(CLI::Range(1, 256));
  command
      ->add_option(
          "--cache-tokens", options->engine.cache_tokens,
          "tokens that the cache of all answers, and of conversations that may go on, holds together "
          "(default: --ctx-size for each of --parallel)")
      ->check(CLI::Range(int64_t{64}, int64_t{1} << 40));
  command->add_option("--prefix-dir", server.prefix_dir,
                      "folder where prefixes that give way to others are kept, also for the next start "
                      "(default: they are forgotten)");
  add_size(*command, "--prefix-disk", server.prefix_bytes, "that the folder may take (default 10GiB)");
  command->add_option("--max-queue", server.queue, "requests that may wait (default 64)")
      ->check(CLI::Range(1, 4096));
  command
      ->add_option("--timeout", options->timeout_s,
                   "seconds an answer may take, waiting included (default 3600)")
      ->check(CLI::Range(1.0, 1e6));
  command->add_option("--sse-ping-interval", options->ping_s, "seconds of silence on a stream (default 10)")
      ->check(CLI::Range(0.1, 1e6));
  command
      ->add_option("--drain-timeout", options->drain_s,
                   "seconds that running answers get after SIGTERM (default 30)")
      ->check(CLI::Range(0.0, 1e6));
  add_files_options(*command, server.tuning);
  command->callback([options, &run] { run = [options] { return serve(*options); }; });
}

}  // namespace moebius
