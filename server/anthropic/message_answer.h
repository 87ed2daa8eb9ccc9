// MessageAnswer: the answers of Anthropic's /v1/messages. Thinking, text and tool calls are content blocks,
// in the order in which they came.
#pragma once

#include <vector>

#include "server/answer_writer.h"

namespace moebius {

struct MessageAnswerOptions {
  std::string id, model;
  bool stream = false;
  int64_t prompt_tokens = 0;  // for the first event of a stream
};

class MessageAnswer : public AnswerWriter {
 public:
  explicit MessageAnswer(MessageAnswerOptions options) : options_(std::move(options)) {}

  std::string begin() override;
  std::string silence() override;
  std::string failed(const ApiError& error) override;
  std::string add(const GenerationEvent& event) override;
  Json json() const override;

 private:
  enum class Kind : uint8_t { kThinking, kText, kTool };
  struct Block {
    Kind kind;
    int call = 0;                // index of the call in the answer
    std::string id, name, text;  // text: arguments of a call; kept only where the answer is whole
  };

  void add_delta(Kind kind, const std::string& text, const CallPiece* call, std::string& out);
  void open(Kind kind, const CallPiece* call, std::string& out);
  void close(std::string& out);
  std::string end(const GenerateStats& stats);
  Json block_json(const Block& block) const;
  Json usage_json() const;

  const MessageAnswerOptions options_;
  std::vector<Block> blocks_;
  bool open_ = false;           // the last block
  std::string stop_, matched_;  // stop_reason and stop_sequence
};

}  // namespace moebius
