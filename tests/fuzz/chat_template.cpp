// Feeds bytes to the template engine as a template, with small limits and one fixed conversation.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "models/chat_template.h"

namespace {

const nlohmann::ordered_json& variables() {
  static const auto* parsed = new nlohmann::ordered_json(nlohmann::ordered_json::parse(
      R"({"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Grüße 👋"},
          {"role": "assistant", "content": "<think>a</think>b", "tool_calls": [{"function": {"name": "f",
           "arguments": {"x": [1, 2.5, null, true, "y"]}}}]}],
          "tools": [{"type": "function", "function": {"name": "f"}}], "add_generation_prompt": true,
          "s": "text", "n": 3, "l": [3, 1, 2], "d": {"a": 1, "b": {"c": [1]}}})"));
  return *parsed;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  moebius::TemplateLimits limits;
  limits.steps = 50'000;
  limits.output_bytes = 4 << 20;
  const auto parsed = moebius::ChatTemplate::parse({reinterpret_cast<const char*>(data), size}, limits);
  if (parsed.ok()) (void)(*parsed)->render(variables());
  return 0;
}
