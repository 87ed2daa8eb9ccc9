// Service: what the handlers of all APIs share.
#pragma once

#include <atomic>
#include <ctime>
#include <string_view>
#include <thread>

#include <spdlog/logger.h>

#include "engine/scheduler.h"
#include "server/access.h"
#include "server/adapters.h"
#include "server/constraints.h"
#include "server/metrics.h"
#include "server/pace.h"
#include "server/random_id.h"
#include "server/request.h"
#include "server/router.h"
#include "server/server.h"
#include "server/slots.h"

namespace moebius {

struct Service {
  // prefixes: null for none.
  Service(Engine& e, ServerOptions o, spdlog::logger& l, std::unique_ptr<PrefixStore> prefixes);
  ~Service();

  Engine& engine;
  const ServerOptions options;
  spdlog::logger& log;
  RequestLimits limits;
  const int64_t created = std::time(nullptr);
  Metrics metrics;
  Pace pace;
  Slots slots;
  Constraints constraints;
  Adapters adapters;
  Scheduler scheduler;
  std::atomic<int> active = 0;         // answers on their way
  std::atomic<int64_t> generated = 0;  // tokens
  std::atomic<bool> draining = false;
  std::thread stepping;  // runs the scheduler

  // Answers with an error, in the form that the route's clients know, and logs it.
  void refuse(const Exchange& exchange, const ApiError& error) const;
  // The same without a route: one that does not exist, or a request that was not let in.
  void refuse(const httplib::Request& request, httplib::Response& response, std::string_view route,
              const ApiError& error) const;
};

// Says in the log and in the header x-moebius-skipped-tools that tools of these types are not offered to the
// model.
void note_skipped_tools(const Service& service, const Exchange& exchange,
                        const std::vector<std::string>& types);

}  // namespace moebius
