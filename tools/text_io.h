// Text in and out of subcommands: text, JSON and token ids from files, standard input and flags; standard
// output.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include "kernels/status.h"

namespace moebius {

// The content of a file, or of standard input for "-"; at most max_bytes. Bytes are not checked.
Result<std::string> read_input(const std::string& path, size_t max_bytes = size_t{1} << 30);

// text with invalid UTF-8 replaced by U+FFFD, so that it can stand in JSON.
std::string valid_utf8(std::string_view text);

// A JSON document, from text or from a file or "-"; key order is kept. kInvalid: not JSON, or nested deeper
// than
// 64. origin: where text is from.
Result<nlohmann::ordered_json> parse_document(std::string_view text, const std::string& origin);
Result<nlohmann::ordered_json> read_json(const std::string& path);

// Serialises with non-ASCII text as it is; invalid UTF-8 becomes U+FFFD.
std::string to_text(const nlohmann::ordered_json& value, int indent = -1);

// Token ids: numbers separated by spaces or commas, a JSON list, or {"ids": [...]}. kInvalid names the first
// thing that is not an id; origin: where text is from.
Result<std::vector<int32_t>> parse_ids(std::string_view text, const std::string& origin);

// kInvalid names the first id outside [0, vocab) and its position.
Status check_ids(const std::vector<int32_t>& ids, int64_t vocab);

// Writes text to standard output and flushes it. Returns the exit code: 1 with a message if that failed.
int print_output(std::string_view text);

}  // namespace moebius
