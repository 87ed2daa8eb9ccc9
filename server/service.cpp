#include "server/service.h"

#include <fmt/ranges.h>

#include "server/http_server.h"
#include "server/log_line.h"

namespace moebius {

namespace {

SchedulerOptions scheduler_options(const ServerOptions& options) {
  SchedulerOptions scheduling;
  scheduling.queue = options.queue;
  return scheduling;
}

}  // namespace

Service::Service(Engine& e, ServerOptions o, spdlog::logger& l, std::unique_ptr<PrefixStore> prefixes)
    : engine(e),
      options(std::move(o)),
      log(l),
      metrics(options.models.front(), options.version),
      constraints(e),
      adapters(e, options.models),
      scheduler(e, scheduler_options(options), std::move(prefixes)) {
  limits.vocab = engine.config().vocab;
  limits.sampling = engine.default_sampling();
  stepping = std::thread([this] { scheduler.run(); });
}

Service::~Service() {
  scheduler.stop();
  stepping.join();
}

void Service::refuse(const httplib::Request& request, httplib::Response& response, std::string_view route,
                     const ApiError& error) const {
  log.info(log_line({{"route", route},
                     {"status", error.status},
                     {"error", error.code.value_or(error.param.value_or(error.type))},
                     {"id", response.get_header_value("x-request-id")}},
                    options.log_json));
  send_error(response, error, error_style(request));
}

void Service::refuse(const Exchange& exchange, const ApiError& error) const {
  refuse(exchange.request, exchange.response, exchange.route.pattern, error);
}

void note_skipped_tools(const Service& service, const Exchange& exchange,
                        const std::vector<std::string>& types) {
  std::string line = fmt::format("{}", fmt::join(types, ","));
  for (char& c : line) {
    if (c <= ' ' || c > '~') c = '?';
  }
  service.log.warn("{}: tools that this server does not run are left out: {}", exchange.route.pattern, line);
  exchange.response.set_header("x-moebius-skipped-tools", line);
}

}  // namespace moebius
