#include <string_view>
#include <utility>

#include "models/constraint/json_schema.h"

namespace moebius {

namespace {

// RFC 3339 with the calendar's lengths of months and leap years, for the years 1000 to 9999.
#define MOEBIUS_DATE                                                    \
  "(?:[1-9][0-9]{3}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])"   \
  "|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|02-(?:0[1-9]|1[0-9]|2[0-8]))" \
  "|(?:[1-9][0-9](?:0[48]|[2468][048]|[13579][26])|(?:[2468][048]|[13579][26])00)-02-29)"
#define MOEBIUS_TIME \
  "(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\\.[0-9]{1,6})?(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
#define MOEBIUS_BYTE "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
#define MOEBIUS_IPV4 MOEBIUS_BYTE "(?:\\." MOEBIUS_BYTE "){3}"
#define MOEBIUS_LABEL "[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
#define MOEBIUS_HEX "[0-9A-Fa-f]{1,4}"

constexpr std::pair<std::string_view, const char*> kJsonFormats[] = {
    {"date", "^" MOEBIUS_DATE "$"},
    {"time", "^" MOEBIUS_TIME "$"},
    {"date-time", "^" MOEBIUS_DATE "T" MOEBIUS_TIME "$"},
    {"duration",
     "^P(?:[0-9]{1,9}W|(?:[0-9]{1,9}Y(?:[0-9]{1,9}M(?:[0-9]{1,9}D)?)?|[0-9]{1,9}M(?:[0-9]{1,9}D)?|[0-9]{1,9}"
     "D)"
     "(?:T(?:[0-9]{1,9}H(?:[0-9]{1,9}M(?:[0-9]{1,9}S)?)?|[0-9]{1,9}M(?:[0-9]{1,9}S)?|[0-9]{1,9}S))?"
     "|T(?:[0-9]{1,9}H(?:[0-9]{1,9}M(?:[0-9]{1,9}S)?)?|[0-9]{1,9}M(?:[0-9]{1,9}S)?|[0-9]{1,9}S))$"},
    {"email",
     "^[A-Za-z0-9_%+-]{1,40}(?:\\.[A-Za-z0-9_%+-]{1,20})?@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,30}[A-Za-z0-9])?\\."
     "){1,4}"
     "[A-Za-z]{2,20}$"},
    {"hostname", "^" MOEBIUS_LABEL "(?:\\." MOEBIUS_LABEL "){0,2}$"},
    {"ipv4", "^" MOEBIUS_IPV4 "$"},
    {"ipv6", "^(?:(?:" MOEBIUS_HEX ":){7}" MOEBIUS_HEX "|(?:" MOEBIUS_HEX ":){1,7}:|(?:" MOEBIUS_HEX
             ":){1,6}:" MOEBIUS_HEX "|(?:" MOEBIUS_HEX ":){1,5}(?::" MOEBIUS_HEX "){2}|(?:" MOEBIUS_HEX
             ":){1,4}(?::" MOEBIUS_HEX "){3}|(?:" MOEBIUS_HEX ":){1,3}(?::" MOEBIUS_HEX "){4}|(?:" MOEBIUS_HEX
             ":){1,2}(?::" MOEBIUS_HEX "){5}|" MOEBIUS_HEX ":(?::" MOEBIUS_HEX "){6}|::(?:" MOEBIUS_HEX
             ":){0,6}" MOEBIUS_HEX "|::)$"},
    {"uuid", "^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$"},
    {"uri", "^https?://(?:" MOEBIUS_LABEL "\\.){0,3}" MOEBIUS_LABEL
            "(?::[1-9][0-9]{0,3})?(?:/[A-Za-z0-9._~!$&'()*+,;=:@-]*)*(?:\\?[A-Za-z0-9._~!$&'()*+,;=:@/?-]*)?"
            "(?:#[A-Za-z0-9._~!$&'()*+,;=:@/?-]*)?$"}};

}  // namespace

const char* json_format_pattern(std::string_view format) {
  for (const auto& [name, pattern] : kJsonFormats) {
    if (name == format) return pattern;
  }
  return nullptr;
}

}  // namespace moebius
