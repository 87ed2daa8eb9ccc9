#include "engine/prompt.h"

#include <fmt/format.h>

#include "models/checkpoint.h"
#include "models/json_fields.h"

namespace moebius {
namespace {

using Json = nlohmann::ordered_json;
constexpr size_t kMaxTemplateBytes = 1 << 20, kMaxTokenizerConfigBytes = 64 << 20;

// A special token is a string, or an object with its text in "content".
Json token_text(const Json& value) {
  if (value.is_object() && value.contains("content")) return value["content"];
  return value.is_string() ? value : Json();
}

std::string default_template(const Json& value) {
  if (value.is_string()) return value.get<std::string>();
  if (!value.is_array()) return "";
  for (const Json& entry : value) {
    if (entry.is_object() && entry.value("name", Json()) == "default" && entry.contains("template") &&
        entry["template"].is_string()) {
      return entry["template"].get<std::string>();
    }
  }
  return "";
}

}  // namespace

Result<PromptRenderer> PromptRenderer::open(const std::string& dir) {
  PromptRenderer renderer;
  std::string source;
  const std::string config_path = dir + "/tokenizer_config.json";
  if (Result<std::string> text = read_text_file(config_path, kMaxTokenizerConfigBytes); text.ok()) {
    const Json config = parse_ordered_json(*text);
    if (!config.is_object()) return invalid(fmt::format("{}: not a JSON object", config_path));
    for (const char* name : {"bos_token", "eos_token", "pad_token", "unk_token"}) {
      if (config.contains(name) && !token_text(config[name]).is_null())
        renderer.tokens_[name] = token_text(config[name]);
    }
    if (config.contains("chat_template")) source = default_template(config["chat_template"]);
  } else if (text.status().code() != Code::kNotFound) {
    return text.status();
  }
  if (Result<std::string> text = read_text_file(dir + "/chat_template.jinja", kMaxTemplateBytes); text.ok()) {
    source = *text;
  } else if (text.status().code() != Code::kNotFound) {
    return text.status();
  }
  if (source.empty()) {
    renderer.missing_ =
        not_found(fmt::format("{}: no chat template (chat_template.jinja, or chat_template in "
                              "tokenizer_config.json); use plain completion instead",
                              dir));
    return renderer;
  }
  renderer.source_ = std::move(source);
  Result<std::unique_ptr<ChatTemplate>> parsed = ChatTemplate::parse(renderer.source_);
  if (parsed.ok()) {
    renderer.template_ = std::move(*parsed);
  } else {
    renderer.missing_ = parsed.status();
  }
  return renderer;
}

Result<std::string> PromptRenderer::render(const Json& request, bool generation_prompt) const {
  if (!template_) return missing_;
  Json variables = tokens_;
  variables["tools"] = nullptr;
  variables["documents"] = nullptr;
  for (const auto& [name, value] : request.items()) variables[name] = value;
  variables["add_generation_prompt"] = generation_prompt;
  return template_->render(variables);
}

}  // namespace moebius
