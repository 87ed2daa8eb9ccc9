#include "server/logprobs.h"

namespace moebius {

namespace {

Json entry(const TokenProbability& token, const TokenBytes& token_bytes) {
  const std::string text = token_bytes(token.id);
  Json bytes = Json::array();
  for (const char c : text) bytes.push_back(static_cast<unsigned char>(c));
  return {{"token", text}, {"logprob", token.logprob}, {"bytes", std::move(bytes)}};
}

}  // namespace

TokenBytes token_bytes_of(const Engine& engine) {
  return [&engine](int32_t id) {
    Result<std::string> bytes = engine.tokenizer().decode({&id, 1});
    return bytes.ok() ? std::move(*bytes) : std::string();
  };
}

Json token_logprobs(const GenerationEvent& event, const TokenBytes& token_bytes) {
  Json out = entry({event.id, event.chosen.logprob}, token_bytes);
  Json top = Json::array();
  for (const TokenProbability& other : event.alternatives) top.push_back(entry(other, token_bytes));
  out["top_logprobs"] = std::move(top);
  return out;
}

}  // namespace moebius
