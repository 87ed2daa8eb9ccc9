// Log-probabilities of tokens as chats and responses give them.
#pragma once

#include <functional>

#include "engine/engine.h"
#include "engine/generation.h"
#include "server/errors.h"

namespace moebius {

// The bytes an id stands for; they may be part of a character.
using TokenBytes = std::function<std::string(int32_t)>;

TokenBytes token_bytes_of(const Engine& engine);  // which outlives it

// {"token", "logprob", "bytes", "top_logprobs"} of a piece's token.
Json token_logprobs(const GenerationEvent& event, const TokenBytes& token_bytes);

}  // namespace moebius
