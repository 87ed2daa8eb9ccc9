// POST /tokenize, /detokenize and /apply-template, in the forms of vLLM and llama.cpp: a text is `prompt` or
// `content`, and answers have the keys of both.
#include <fmt/format.h>

#include "server/api/api.h"
#include "server/encode.h"
#include "server/fields.h"
#include "server/messages.h"

namespace moebius {

namespace {

// The prompt of a conversation, as a chat request would have it.
std::optional<ApiError> read_template(Service& service, const Json& body, std::string& text) {
  Fields in(body);
  bool generation_prompt = true;
  in.boolean("add_generation_prompt", generation_prompt);
  in.unsupported("chat_template", "templates come with the model");
  if (const Json* on = in.find("continue_final_message"); on != nullptr && *on != false)
    in.unsupported("continue_final_message", "leave it out");
  ToolRequest tools;
  const Json variables = read_conversation(in, service.limits, tools);
  if (in.failed()) return in.error();
  return render_chat(service.engine, variables, generation_prompt, text);
}

// A whole character as text, part of one as the list of its bytes.
Json piece_json(std::string_view bytes) {
  const bool text = Json(bytes).dump(-1, ' ', false, Json::error_handler_t::ignore).size() ==
                    Json(bytes).dump(-1, ' ', false, Json::error_handler_t::replace).size();
  if (text) return std::string(bytes);
  Json out = Json::array();
  for (const char c : bytes) out.push_back(static_cast<unsigned char>(c));
  return out;
}

struct TokenizeRequest {
  std::string text;
  EncodeOptions encoding;
  bool strings = false, pieces = false;
};

std::optional<ApiError> read_tokenize(Service& service, const Json& body, TokenizeRequest& out) {
  Fields in(body);
  const bool chat = in.find("messages") != nullptr, llama = in.find("content") != nullptr;
  if (chat + llama + (in.find("prompt") != nullptr) != 1)
    return bad_request("give one of `prompt`, `content` and `messages`", "prompt");
  out.encoding.add_special = !chat && !llama;
  in.boolean("add_special", out.encoding.add_special);
  in.boolean("add_special_tokens", out.encoding.add_special);
  in.boolean("parse_special", out.encoding.parse_special);
  in.boolean("return_token_strs", out.strings);
  in.boolean("with_pieces", out.pieces);
  in.text(llama ? "content" : "prompt", out.text);
  if (in.failed()) return in.error();
  return chat ? read_template(service, body, out.text) : std::nullopt;
}

void tokenize(Service& service, Exchange& e) {
  TokenizeRequest asked;
  if (auto error = read_tokenize(service, e.body, asked)) return service.refuse(e, *error);
  const Tokenizer& tokenizer = service.engine.tokenizer();
  const Result<std::vector<int32_t>> ids = tokenizer.encode(asked.text, asked.encoding);
  if (!ids.ok()) return service.refuse(e, bad_request("the text cannot be turned into tokens"));
  Json tokens = Json::array(), strings = Json::array();
  for (const int32_t id : *ids) {
    const std::string_view bytes = tokenizer.token_bytes(id);
    asked.pieces ? tokens.push_back({{"id", id}, {"piece", piece_json(bytes)}}) : tokens.push_back(id);
    if (asked.strings) strings.push_back(tokenizer.token_text(id));
  }
  e.answer({{"count", ids->size()},
            {"max_model_len", service.engine.options().context},
            {"tokens", std::move(tokens)},
            {"token_strs", asked.strings ? std::move(strings) : Json()}});
}

void detokenize(Service& service, Exchange& e) {
  Fields in(e.body);
  const Json* tokens = in.array("tokens");
  if (tokens == nullptr) in.fail("tokens", "is missing");
  std::vector<int32_t> ids;
  for (size_t i = 0; !in.failed() && i < tokens->size(); ++i) {
    const Json& id = (*tokens)[i];
    const bool fits =
        id.is_number_integer() && id.get<int64_t>() >= 0 && id.get<int64_t>() < service.limits.vocab;
    if (!fits)
      in.fail("tokens", fmt::format("must hold token ids from 0 to {}", service.limits.vocab - 1));
    else
      ids.push_back(static_cast<int32_t>(id.get<int64_t>()));
  }
  if (in.failed()) return service.refuse(e, *in.error());
  const Result<std::string> text = service.engine.tokenizer().decode(ids);
  if (!text.ok()) return service.refuse(e, bad_request("the ids are not all of the vocabulary", "tokens"));
  e.answer({{"prompt", *text}, {"content", *text}});
}

void apply_template(Service& service, Exchange& e) {
  std::string text;
  if (auto error = read_template(service, e.body, text)) return service.refuse(e, *error);
  e.answer({{"prompt", text}});
}

}  // namespace

void add_text_routes(Router& router, Service& service) {
  router.post("/tokenize", [&service](Exchange& e) { tokenize(service, e); });
  router.post("/detokenize", [&service](Exchange& e) { detokenize(service, e); });
  router.post("/apply-template", [&service](Exchange& e) { apply_template(service, e); });
}

}  // namespace moebius
