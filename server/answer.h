// Answer: the answers of /v1/chat/completions and /v1/completions.
#pragma once

#include <string>
#include <vector>

#include "server/answer_writer.h"
#include "server/logprobs.h"

namespace moebius {

enum class Api : uint8_t { kChat, kCompletion };

struct AnswerOptions {
  Api api = Api::kChat;
  std::string id, model, fingerprint;
  int64_t created = 0;  // seconds since 1970
  int choices = 1;      // prompts times n
  int n = 1;
  bool logprobs = false, stream = false, include_usage = false;
};

class Answer : public AnswerWriter {
 public:
  Answer(AnswerOptions options, TokenBytes token_bytes);

  std::string progress(const PromptProgress& progress) override;
  std::string add(const GenerationEvent& event) override;
  Json json() const override;

 private:
  struct Choice {
    bool begun = false, called = false;
    std::string text, reasoning, finish;
    std::vector<CallPiece> calls;  // whole
    Json logprobs;                 // null or as the API has them
    int64_t token_offset = 0;      // characters in the tokens so far
  };

  std::string add_piece(const GenerationEvent& event);
  std::string add_end(const GenerationEvent& event);
  void keep(const GenerationEvent& event, Choice& choice);
  std::string call_id(int choice, const CallPiece& call) const;
  Json call_delta(int choice, const CallPiece& piece) const;
  Json message(int choice) const;
  Json empty_logprobs() const;
  void append_logprobs(const GenerationEvent& event, int64_t offset, Json& out) const;
  // The deltas of a chat's piece; at least one if there are logprobs to go with it.
  std::vector<Json> deltas(const GenerationEvent& event, bool logprobs) const;
  Json chunk(int index, Json delta, const std::string& text, Json logprobs, Json finish) const;
  Json head(const char* object) const;
  Json usage_json() const;

  const AnswerOptions options_;
  const TokenBytes token_bytes_;
  std::vector<Choice> choices_;
};

}  // namespace moebius
