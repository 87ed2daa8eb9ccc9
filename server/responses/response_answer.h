// ResponseAnswer: the answers of /v1/responses: items of thinking, text and calls, in the order in which they
// came, and the numbered events of a stream.
#pragma once

#include <vector>

#include "server/answer_writer.h"
#include "server/logprobs.h"

namespace moebius {

struct ResponseAnswerOptions {
  std::string id, model;
  int64_t created = 0;  // seconds since 1970
  bool stream = false, logprobs = false;
  Json echo;  // fields of the request that the response repeats
};

class ResponseAnswer : public AnswerWriter {
 public:
  ResponseAnswer(ResponseAnswerOptions options, TokenBytes token_bytes)
      : options_(std::move(options)), token_bytes_(std::move(token_bytes)) {}

  std::string begin() override;
  // A comment would do, but some clients take only events for signs of life.
  std::string silence() override;
  std::string failed(const ApiError& error) override;
  std::string add(const GenerationEvent& event) override;
  Json json() const override;  // at any time

 private:
  enum class Kind : uint8_t { kReasoning, kText, kCall };
  struct Item {
    Kind kind = Kind::kText;
    int call = 0;  // index of the call in the answer
    std::string id, call_id, name, text, status = "in_progress";
    Json logprobs = Json::array();
  };

  std::string event(const char* type, Json fields);
  std::string state_event(const char* type);
  Json place(const Item& item) const;  // item_id, output_index and, of parts, content_index
  void add_delta(Kind kind, const std::string& text, const CallPiece* call, std::string& out);
  void open(Kind kind, const CallPiece* call, std::string& out);
  void close(const char* status, std::string& out);
  std::string end(const GenerateStats& stats);
  Json part_json(const Item& item) const;
  Json item_json(const Item& item) const;
  Json usage_json() const;

  const ResponseAnswerOptions options_;
  const TokenBytes token_bytes_;
  std::vector<Item> items_;
  bool open_ = false;              // the last item
  Json logprobs_ = Json::array();  // of tokens whose text is held back
  int64_t sequence_ = 0;
  std::string status_ = "in_progress";
  Json error_;
};

}  // namespace moebius
