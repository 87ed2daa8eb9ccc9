// Metrics: what the server counts, in Prometheus' text form. Names that vLLM or llama.cpp have too are
// spelled as there, so that dashboards made for them work. May be used from several threads.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "engine/expert_use.h"
#include "engine/scheduler.h"
#include "server/answer_writer.h"

namespace moebius {

class Metrics {
 public:
  Metrics(std::string model, std::string version);
  ~Metrics();

  // route: a pattern, so that there are few; an answer of HTTP, streams at their end.
  void count_request(std::string_view method, std::string_view route, int status);
  // Of one request: from its arrival to the first token, and between two tokens of a choice.
  void first_token(double seconds);
  void begun(double seconds);  // from its arrival until its prompt was begun
  void next_token(double seconds);
  // A generation that ended after so long. finish: "stop", "length", ..., or the code of the error.
  void ended(const Usage& usage, const std::string& finish, bool failed, double seconds);

  // Everything, with what is so at this moment: answers that are computed and that wait, the cache, and what
  // was done for the experts of each layer: `experts` by device and host, or where that is empty, since all
  // are on the host, what `map` counted.
  std::string text(const SchedulerStats& now, const std::vector<LayerUse>& experts,
                   const std::vector<ExpertLayer>& map) const;

 private:
  struct Parts;
  std::unique_ptr<Parts> parts_;
};

}  // namespace moebius
