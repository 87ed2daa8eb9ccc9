#include "tools/json_log.h"

#include <fmt/chrono.h>
#include <spdlog/details/log_msg.h>

#include "server/errors.h"

namespace moebius {

void JsonLog::format(const spdlog::details::log_msg& message, spdlog::memory_buf_t& out) {
  const std::string_view text(message.payload.data(), message.payload.size());
  const std::string_view level(spdlog::level::to_string_view(message.level).data());
  const auto ms = std::chrono::floor<std::chrono::milliseconds>(message.time).time_since_epoch().count();
  Json line = {{"time", fmt::format("{:%Y-%m-%dT%H:%M:%S}.{:03}Z", fmt::gmtime(ms / 1000), ms % 1000)},
               {"level", level}};
  const Json fields = text.starts_with('{') ? Json::parse(text, nullptr, false) : Json();
  if (fields.is_object())
    line.update(fields);
  else
    line["message"] = text;
  const std::string written = ApiError::to_text(line) + '\n';
  out.append(written.data(), written.data() + written.size());
}

}  // namespace moebius
