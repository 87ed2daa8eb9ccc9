// JSON Schema (draft 2020-12 and what 07 shares with it) as a grammar of the JSON texts that satisfy it.
//
// Whatever the grammar accepts satisfies the schema. It does not accept everything that does: properties come
// in the schema's order, an object that lists `properties` has others only where `additionalProperties` says
// so, keys beyond those listed have no escapes, integers have no point or exponent, and numbers at most as
// many digits as a double tells apart.
//
// Done: type (also a list), enum, const, anyOf, oneOf of alternatives that exclude each other by type, value
// or a required constant, allOf where the parts do not meet, $ref within the document (recursion too),
// properties, required, additionalProperties, items, prefixItems, minItems, maxItems, minLength, maxLength,
// minProperties and maxProperties (the first not where names are free), uniqueItems of at most 8 values that
// are given one by one, patternProperties of one pattern that alone gives names, pattern (see regex.h),
// format (date-time, date, time, duration, email, hostname, ipv4, ipv6, uuid, uri), minimum, maximum and
// their exclusive forms. Other keywords that restrict are refused by name and place, others are ignored.
#pragma once

#include <nlohmann/json.hpp>

#include "models/constraint/json_text.h"

namespace moebius {

using Schema = nlohmann::ordered_json;

// kInvalid: not a schema; kUnsupported: a keyword, or a use of one, that cannot be kept. The message names
// the place. part: a schema within the document that is meant; null: all of it.
Result<ExprId> add_json_schema(JsonText& text, const Schema& document, const Schema* part = nullptr);

// The regular expression of a format, anchored; null for one that is not known.
const char* json_format_pattern(std::string_view format);

}  // namespace moebius
