// ChatTemplate: renders a conversation into a prompt as the model's own template file says.
//
// A bounded interpreter of the Jinja subset that published chat templates use; its output equals that of
// Python's Jinja2 as `transformers` calls it (trim_blocks, lstrip_blocks, loopcontrols, raise_exception,
// strftime_now, tojson that keeps non-ASCII text and key order). Templates are untrusted: parsing is
// depth-bounded, rendering has budgets of steps, depth and output bytes, nothing outside the given values can
// be reached. Immutable after parse(); render() may be called from several threads.
#pragma once

#include <ctime>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

#include "kernels/status.h"

namespace moebius {

struct TemplateLimits {
  int64_t steps = 5'000'000;           // expressions and statements evaluated
  int64_t output_bytes = 256ll << 20;  // rendered text and the memory of intermediate values alike
  int depth = 500;                     // nested blocks, expressions, macro calls and values, one level each
  std::function<std::tm()> clock;      // local time for strftime_now; empty: the system's
};

class ChatTemplate {
 public:
  // kInvalid: names line and token. kUnsupported: a construct outside the subset, by name.
  static Result<std::unique_ptr<ChatTemplate>> parse(std::string_view source, TemplateLimits limits = {});
  ~ChatTemplate();

  // variables: an object, for example {"messages": [...], "tools": [...], "add_generation_prompt": true,
  // "bos_token": "..."} plus chat_template_kwargs. kInvalid carries the text of raise_exception(), or the
  // line of an undefined operation or an exhausted budget.
  Result<std::string> render(const nlohmann::ordered_json& variables) const;

 private:
  struct Impl;
  explicit ChatTemplate(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace moebius
