// `moebius serve` as a process, on a free port.
#pragma once

#include "server/http_library.h"
#include "tests/tools_process.h"

namespace moebius {

constexpr const char* kTiny = "tests/golden/models/deepseek_v3_tiny";

class Serving {
 public:
  explicit Serving(process::Args args, process::Environment environment = {})
      : terminal_(whole(std::move(args)), plain(environment)) {
    said_ = terminal_.expect("listening at ");
    const std::string address = terminal_.expect("/v1");
    port_ = std::atoi(address.substr(address.rfind(':') + 1).c_str());
  }
  ~Serving() {
    if (!ended_) end();
  }
  int end(int signal = SIGTERM) {
    ended_ = true;
    terminal_.send_signal(signal);
    return terminal_.end();
  }
  httplib::Client client() const { return httplib::Client("127.0.0.1", port_); }
  const std::string& said() const { return said_; }  // before it listened
  process::Terminal& terminal() { return terminal_; }
  int port() const { return port_; }

 private:
  static process::Args whole(process::Args args) {
    args.insert(args.begin(), {"serve", "--port", "0", "--threads", "1"});
    return args;
  }
  static process::Environment plain(process::Environment environment) {
    environment.emplace("NO_COLOR", "1");
    environment.emplace("MOEBIUS_MODEL", kTiny);
    return environment;
  }

  process::Terminal terminal_;
  std::string said_;
  int port_ = 0;
  bool ended_ = false;
};

}  // namespace moebius
