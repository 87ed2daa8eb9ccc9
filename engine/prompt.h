// PromptRenderer: the chat template a checkpoint ships, with the variables it expects.
#pragma once

#include <memory>
#include <string>

#include <nlohmann/json.hpp>

#include "models/chat_template.h"

namespace moebius {

class PromptRenderer {
 public:
  // Reads chat_template.jinja, or chat_template in tokenizer_config.json (the one named "default" of a list).
  // A folder without either is not an error: render() then says so. A template that does not parse is kept as
  // render()'s error, since a model can be used without its template.
  static Result<PromptRenderer> open(const std::string& dir);

  const std::string& source() const { return source_; }  // of the template; "" without one

  // request: {"messages", optional "tools", further variables}. See Engine::render_chat.
  Result<std::string> render(const nlohmann::ordered_json& request, bool generation_prompt) const;

 private:
  std::unique_ptr<ChatTemplate> template_;
  Status missing_;
  std::string source_;
  nlohmann::ordered_json tokens_ = nlohmann::ordered_json::object();  // bos_token, eos_token, ... as text
};

}  // namespace moebius
