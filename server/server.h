// Server: the HTTP APIs of OpenAI and Anthropic, and a page, for one engine.
//
// The routes are listed in server/api/api.h; /, /health and /ready are open to all, the others want a key
// where there are any. Life: create, bind, run until drain() was called from any thread and the running
// answers are finished or given up.
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "server/fine_tuning.h"

namespace spdlog {
class logger;
}

namespace moebius {

struct ServerOptions {
  std::string host = "127.0.0.1";       // a name or an address to listen at
  int port = 8080;                      // 0: any free one
  std::vector<std::string> models;      // names of the model, at least one; the first is reported
  std::vector<std::string> api_keys;    // none: everyone may ask
  std::vector<std::string> admin_keys;  // for everything, and alone for the routes of administration
  int64_t per_key = 0;  // requests of one key at once; 0: all there is room for, half where keys are several
  bool allow_no_key = false;                // listen beyond loopback without a key
  std::string ssl_cert_file, ssl_key_file;  // PEM; both or neither
  std::vector<std::string> cors_origins;    // of pages that may ask, as is_origin() has them
  bool log_json = false;                    // requests are logged as JSON objects, see server/log_line.h
  std::vector<std::string> allowed_hosts;   // more Host names to answer to on loopback, such as a proxy's
  struct NamedFolder {
    std::string name, folder;
  };
  std::vector<NamedFolder> adapters;  // offered from the start
  std::string adapter_dir;            // that clients may load adapters from; "": they may not
  std::string prefix_dir;  // folder for cold prefixes (engine/prefix_store.h); "": they are forgotten
  int64_t prefix_bytes = int64_t{10} << 30;  // that it may take
  int64_t body_bytes = 32 << 20;
  int64_t connections = 8192;  // open at once; beyond, who has asked nothing for longest is closed
  int queue = 64;              // requests that wait at most
  std::chrono::milliseconds timeout{3600'000};  // for one answer, waiting included
  std::chrono::milliseconds ping{10'000};       // silence on a stream before a comment is sent
  std::chrono::milliseconds drain{30'000};      // for running answers after drain()
  FineTuningOptions tuning;                     // without a folder: no files, no jobs
  std::string version;
};

class Server {
 public:
  // engine and log outlive the server; while it runs it alone uses the engine. kInvalid: a model without a
  // tokenizer, or listening beyond loopback without a key; what FineTuning::open says.
  static Result<std::unique_ptr<Server>> create(Engine& engine, ServerOptions options, spdlog::logger& log);
  ~Server();

  Status bind();     // kIo: the address is taken or not this machine's
  int port() const;  // after bind()
  Status run();      // blocks
  void drain();      // new requests get 503 from now on; returns at once
  // From any thread: from now on these keys are in force, and the certificate that the files hold now. Where
  // it fails all stays as it was: kInvalid without a key beyond loopback, and what Tls::reload() says.
  Status reload(const std::vector<std::string>& api_keys, const std::vector<std::string>& admin_keys);

 private:
  struct Impl;
  explicit Server(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace moebius
