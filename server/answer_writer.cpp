#include "server/answer_writer.h"

#include <fmt/format.h>

namespace moebius {

std::string sse_event(const Json& json) { return "data: " + ApiError::to_text(json) + "\n\n"; }

std::string sse_event(std::string_view name, const Json& json) {
  return fmt::format("event: {}\n{}", name, sse_event(json));
}

void AnswerWriter::count(const GenerateStats& stats, bool first_of_prompt) {
  usage_.completion += stats.answer_tokens;
  usage_.reasoning += stats.reasoning_tokens;
  if (!first_of_prompt) return;
  usage_.prompt += stats.prompt_tokens;
  usage_.cached += stats.reused_tokens;
  usage_.miss = stats.miss;
}

}  // namespace moebius
