#include "server/encode.h"

#include <algorithm>

#include <fmt/format.h>

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

std::optional<ApiError> encode_chat(const Engine& engine, const Scheduler& scheduler, const Client& client,
                                    const ChatRequest& asked, std::vector<int32_t>& ids) {
  std::string text;
  if (auto error = render_chat(engine, asked.variables, true, text)) return error;
  Result<std::vector<int32_t>> encoded =
      scheduler.encode(text, client.salted(asked.cache_salt), asked.served.adapter.get());
  if (!encoded.ok()) return bad_request("the conversation cannot be turned into tokens", "messages");
  ids = std::move(*encoded);
  return {};
}

std::shared_ptr<const AnswerForm> answer_form(const Engine& engine, const ChatRequest& asked) {
  AnswerForm form = {engine.markup(), text_arguments(asked.tools.rules)};
  form.markup.think_limit = asked.think_limit;
  return std::make_shared<const AnswerForm>(std::move(form));
}

std::optional<ApiError> find_breakers(const Tokenizer& tokenizer, const std::vector<std::string>& texts,
                                      std::vector<int32_t>& ids) {
  std::vector<bool> found(texts.size());
  for (int32_t id = 0; id < tokenizer.vocab_size(); ++id) {
    const std::string_view bytes = tokenizer.token_bytes(id);
    bool any = false;
    for (size_t i = 0; i < texts.size(); ++i) {
      if (bytes.find(texts[i]) != std::string_view::npos) any = found[i] = true;
    }
    if (any) ids.push_back(id);
  }
  const auto missing = std::find(found.begin(), found.end(), false);
  if (missing == found.end()) return {};
  return bad_request("`dry_sequence_breakers` has a text that is in no single token of this model",
                     "dry_sequence_breakers");
}

std::optional<ApiError> encode_prompt(const Engine& engine, const char* field, const Prompt& prompt,
                                      std::vector<int32_t>& ids) {
  if (const auto* given = std::get_if<std::vector<int32_t>>(&prompt)) {
    ids = *given;
    return {};
  }
  EncodeOptions encoding;
  encoding.add_special = true;
  Result<std::vector<int32_t>> encoded = engine.tokenizer().encode(std::get<std::string>(prompt), encoding);
  if (!encoded.ok()) return bad_request("the text cannot be turned into tokens", field);
  ids = std::move(*encoded);
  if (ids.empty() && engine.tokenizer().bos_id()) ids.push_back(*engine.tokenizer().bos_id());
  if (ids.empty()) return bad_request(fmt::format("`{}` is empty", field), field);
  return {};
}

}  // namespace moebius
