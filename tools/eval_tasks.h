// Task evaluation: a model answers the prompts of a JSONL file greedily; tools/corpus_check.h judges.
#pragma once

#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "engine/engine.h"

namespace moebius {

struct Task {
  std::string name, answer;
  nlohmann::ordered_json request;  // {"messages": up to the last user turn, optional "tools"}
};

// One {"task", "messages", "answer", optional "tools"} a line; blank lines and a byte order mark are skipped.
// limit: the first so many; 0: all. kInvalid names origin and the line, and the remedy.
Result<std::vector<Task>> parse_tasks(std::string_view text, const std::string& origin, int64_t limit);

// {"accuracy", "n", "per_task": {NAME: {"accuracy", "n"}}}, by name. An answer ends after max_tokens. A
// prompt that does not leave room for one token in the context counts as wrong; "too_long" counts those.
// replies: unless null, gets {"task", "right", "reply"}, a line for each task.
Result<nlohmann::ordered_json> evaluate_tasks(Engine& engine, const std::vector<Task>& tasks,
                                              int64_t max_tokens, std::string* replies = nullptr);

// The same for replies that something else gave: one {"reply": TEXT} a line, in the order of the tasks.
// kInvalid: another number of replies than tasks, or a line of another shape, by its number.
Result<nlohmann::ordered_json> judge_replies(const std::vector<Task>& tasks, std::string_view text,
                                             const std::string& origin);

}  // namespace moebius
