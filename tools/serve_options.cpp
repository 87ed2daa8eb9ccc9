#include "tools/serve_options.h"

#include "server/cors.h"
#include "tools/serve_files.h"
#include "tools/size_text.h"

namespace moebius {

namespace {

std::string check_key(const std::string& key) { return key.empty() ? "a key cannot be empty" : ""; }

void add_access_options(CLI::App& command, ServeOptions& options) {
  ServerOptions& server = options.server;
  command.add_option("--host", server.host, "address to listen at (default 127.0.0.1, this machine only)");
  command.add_option("--port", server.port, "port to listen at (default 8080; 0: any free one)")
      ->check(CLI::Range(0, 65535));
  command.add_option("--api-key", server.api_keys, "key that clients must send, repeatable")
      ->check(check_key);
  command.add_option("--api-key-file", options.key_file, "file of keys, one per line, # for comments");
  command
      .add_option("--admin-key", server.admin_keys,
                  "key for the routes of administration and all others, repeatable")
      ->check(check_key);
  command.add_flag("--allow-no-key", server.allow_no_key, "listen beyond this machine without any key");
  command.add_option("--allow-host", server.allowed_hosts,
                     "further Host name to answer to when listening on loopback, repeatable");
}

void add_operation_options(CLI::App& command, ServeOptions& options) {
  ServerOptions& server = options.server;
  command.add_option(
      "--ssl-cert-file,--ssl-certfile", server.ssl_cert_file,
      "certificate, and those it rests on, in PEM: then HTTPS alone is spoken; read again at SIGHUP, as "
      "--api-key-file is");
  command.add_option("--ssl-key-file,--ssl-keyfile", server.ssl_key_file,
                     "the certificate's private key in PEM");
  command
      .add_option(
          "--cors-origin", server.cors_origins,
          "origin of pages that may use the server from a browser, such as https://chat.example, repeatable "
          "(default: none)")
      ->check([](const std::string& origin) {
        return is_origin(origin) ? ""
                                 : "an origin is http://HOST or https://HOST, with its port if it has one";
      });
  command.add_flag("--log-json,--log-jsonl", server.log_json,
                   "log lines as JSON objects; prompts are never logged");
  command
      .add_option("--notify-socket", options.notify_socket,
                  "socket to tell when the model is ready, as systemd gives it in $NOTIFY_SOCKET")
      ->envname("NOTIFY_SOCKET");
}

void add_adapter_options(CLI::App& command, ServeOptions& options) {
  command.add_option("--lora,--lora-modules", options.adapters,
                     "NAME=FOLDER of a PEFT LoRA adapter to offer as a model of that name beside the model "
                     "itself, repeatable");
  command
      .add_option("--adapter-dir", options.server.adapter_dir,
                  "folder under which clients may name adapters to load and unload (default: they may not)")
      ->check(CLI::ExistingDirectory);
  add_size(command, "--adapter-memory", options.engine.adapter_memory,
           "of the device, such as 256MiB, kept free for adapters that requests choose (default 0)");
}

void add_capacity_options(CLI::App& command, ServeOptions& options) {
  ServerOptions& server = options.server;
  options.engine.sessions = 4;
  command
      .add_option("--parallel,--max-num-seqs", options.engine.sessions,
                  "answers that are computed at once (default 4)")
      ->check(CLI::Range(1, 256));
  command
      .add_option("--cache-tokens", options.engine.cache_tokens,
                  "tokens that the cache of all answers, and of conversations that may go on, holds together "
                  "(default: --ctx-size for each of --parallel)")
      ->check(CLI::Range(int64_t{64}, int64_t{1} << 40));
  command.add_option("--prefix-dir", server.prefix_dir,
                     "folder where prefixes that give way to others are kept, also for the next start "
                     "(default: they are forgotten)");
  add_size(command, "--prefix-disk", server.prefix_bytes, "that the folder may take (default 10GiB)");
  command.add_option("--max-queue", server.queue, "requests that may wait (default 64)")
      ->check(CLI::Range(1, 4096));
  command
      .add_option(
          "--max-per-key", server.per_key,
          "requests that one key may have at once, waiting or answered (default: half of --parallel and "
          "--max-queue together, all of them where there is one key)")
      ->check(CLI::Range(1, 8192));
  command
      .add_option(
          "--max-connections", server.connections,
          "connections that are open at once; beyond, who asked nothing for longest is closed (default "
          "8192)")
      ->check(CLI::Range(1, 1 << 20));
  command
      .add_option("--timeout", options.timeout_s,
                  "seconds an answer may take, waiting included (default 3600)")
      ->check(CLI::Range(1.0, 1e6));
  command.add_option("--sse-ping-interval", options.ping_s, "seconds of silence on a stream (default 10)")
      ->check(CLI::Range(0.1, 1e6));
  command
      .add_option("--drain-timeout", options.drain_s,
                  "seconds that running answers get after SIGTERM (default 30)")
      ->check(CLI::Range(0.0, 1e6));
}

}  // namespace

void add_serve_options(CLI::App& command, ServeOptions& options) {
  command.add_option(
      "--preset", options.preset,
      "INI file of options, by model; every option is also read from the environment, --x-y as "
      "MOEBIUS_X_Y, and by llama-server's names");
  add_engine_options(command, options.engine);
  command.add_option("--alias,--served-model-name", options.server.models,
                     "name of the model for clients, repeatable (default: its folder or id)");
  add_adapter_options(command, options);
  add_access_options(command, options);
  add_capacity_options(command, options);
  add_saliency_options(command, options.engine);
  add_files_options(command, options.server.tuning);
  add_operation_options(command, options);
}

}  // namespace moebius
