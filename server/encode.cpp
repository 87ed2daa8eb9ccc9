#include "server/encode.h"

namespace moebius {

std::optional<ApiError> render_chat(const Engine& engine, const Json& variables, bool generation_prompt,
                                    std::string& text) {
  Result<std::string> rendered = engine.render_chat(variables, generation_prompt);
  if (!rendered.ok()) {
    if (rendered.status().code() == Code::kNotFound) {
      return bad_request("this model has no chat template; use /v1/completions", "messages",
                         "no_chat_template");
    }
    return bad_request("the model's chat template refuses this conversation: " + rendered.status().message(),
                       "messages", "chat_template_error");
  }
  text = std::move(*rendered);
  return {};
}

std::optional<ApiError> encode_chat(const Engine& engine, const Scheduler& scheduler,
                                    const ChatRequest& asked, std::vector<int32_t>& ids) {
  std::string text;
  if (auto error = render_chat(engine, asked.variables, true, text)) return error;
  Result<std::vector<int32_t>> encoded = scheduler.encode(text, asked.cache_salt);
  if (!encoded.ok()) return bad_request("the conversation cannot be turned into tokens", "messages");
  ids = std::move(*encoded);
  return {};
}

std::shared_ptr<const AnswerForm> answer_form(const Engine& engine, const ChatRequest& asked) {
  AnswerForm form = {engine.markup(), text_arguments(asked.tools.rules)};
  form.markup.think_limit = asked.think_limit;
  return std::make_shared<const AnswerForm>(std::move(form));
}

std::optional<ApiError> encode_prompt(const Engine& engine, const Prompt& prompt, std::vector<int32_t>& ids) {
  if (const auto* given = std::get_if<std::vector<int32_t>>(&prompt)) {
    ids = *given;
    return {};
  }
  EncodeOptions encoding;
  encoding.add_special = true;
  Result<std::vector<int32_t>> encoded = engine.tokenizer().encode(std::get<std::string>(prompt), encoding);
  if (!encoded.ok()) return bad_request("the prompt cannot be turned into tokens", "prompt");
  ids = std::move(*encoded);
  if (ids.empty() && engine.tokenizer().bos_id()) ids.push_back(*engine.tokenizer().bos_id());
  if (ids.empty()) return bad_request("`prompt` is empty", "prompt");
  return {};
}

}  // namespace moebius
