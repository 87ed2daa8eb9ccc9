// From texts and conversations to token ids, with errors for the client.
#pragma once

#include "engine/scheduler.h"
#include "server/request.h"
#include "server/router.h"

namespace moebius {

// variables: as ChatRequest has them.
std::optional<ApiError> render_chat(const Engine& engine, const Json& variables, bool generation_prompt,
                                    std::string& text);
// Answers of before in the tokens they were made of, as the scheduler remembers them.
std::optional<ApiError> encode_chat(const Engine& engine, const Scheduler& scheduler, const Client& client,
                                    const ChatRequest& asked, std::vector<int32_t>& ids);
// How the answer to it is read.
std::shared_ptr<const AnswerForm> answer_form(const Engine& engine, const ChatRequest& asked);
// The ids of all tokens that hold one of the texts, as DRY wants them; an error for a text that none holds.
std::optional<ApiError> find_breakers(const Tokenizer& tokenizer, const std::vector<std::string>& texts,
                                      std::vector<int32_t>& ids);
// A text with what the tokenizer's file adds to it; ids as they are.
std::optional<ApiError> encode_prompt(const Engine& engine, const char* field, const Prompt& prompt,
                                      std::vector<int32_t>& ids);

}  // namespace moebius
