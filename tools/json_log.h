// JsonLog: log lines as JSON objects: "time" (UTC), "level", and the fields of a line that is an object
// itself (server/log_line.h), else its "message".
#pragma once

#include <spdlog/formatter.h>

namespace moebius {

class JsonLog : public spdlog::formatter {
 public:
  void format(const spdlog::details::log_msg& message, spdlog::memory_buf_t& out) override;
  std::unique_ptr<spdlog::formatter> clone() const override { return std::make_unique<JsonLog>(); }
};

}  // namespace moebius
