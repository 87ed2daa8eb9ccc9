// The options of `moebius serve`.
#pragma once

#include "server/server.h"
#include "tools/command.h"

namespace moebius {

struct ServeOptions {
  EngineOptions engine;
  ServerOptions server;
  std::string key_file;
  std::vector<std::string> adapters;  // "NAME=FOLDER"
  std::string notify_socket;          // of the service manager; "": none
  std::string preset;                 // read before the options are, see tools/settings.h
  double timeout_s = 3600, ping_s = 10, drain_s = 30;
};

void add_serve_options(CLI::App& command, ServeOptions& options);  // options outlives the parsing

}  // namespace moebius
