#include "server/log_line.h"

namespace moebius {

std::string log_line(const Json& fields, bool json) {
  if (json) return ApiError::to_text(fields);
  std::string out;
  for (const auto& [name, value] : fields.items()) {
    const bool plain = value.is_string() && !value.get_ref<const std::string&>().empty() &&
                       value.get_ref<const std::string&>().find_first_of(" =\"\\") == std::string::npos;
    out += (out.empty() ? "" : " ") + name + '=';
    out += plain ? value.get_ref<const std::string&>() : ApiError::to_text(value);
  }
  return out;
}

}  // namespace moebius
