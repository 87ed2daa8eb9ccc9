// ExampleMaker: one line of a training file into the examples of a Dataset.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include "engine/train/dataset.h"

namespace moebius {

class ExampleMaker {
 public:
  // All three must outlive this. Used by several threads at once.
  ExampleMaker(const Tokenizer& tokenizer, const PromptRenderer& prompts, const DatasetOptions& options);

  // Appends the examples of a line to out. kInvalid says what is wrong with the line and the remedy, not
  // which line it is; out may then hold a part of them.
  Status add(std::string_view line, Dataset& out) const;

 private:
  using Json = nlohmann::ordered_json;
  using Ids = std::vector<int32_t>;
  struct Sequence {
    Ids ids;
    std::vector<uint8_t> mask;
    void append(std::span<const int32_t> more, bool counts);
  };

  Status add_text(const Json& line, Dataset& out) const;
  Status add_completion(const Json& line, Dataset& out) const;
  Status add_conversation(const Json& line, Dataset& out) const;
  // request: {"messages": before the turn, ...} in, with the turn out.
  Status split_turn(Json& request, const Json& turn, Ids& prompt, Ids& answer) const;
  Status part_ids(const Json& request, const std::string& prompt_text, const std::string& whole_text,
                  Ids& prompt, Ids& answer) const;
  Result<Ids> encode_after(const Ids& prompt, const std::string& whole, size_t prompt_bytes,
                           bool special) const;
  Status end_turn(Json& request, const Ids& prompt, Ids& answer) const;
  Status check_length(size_t tokens) const;
  // *full: the example was cut.
  Status finish(Sequence& sequence, Dataset& out, bool* full) const;
  bool is_stop(int32_t id) const;

  const Tokenizer& tokenizer_;
  const PromptRenderer& prompts_;
  const DatasetOptions& options_;
  std::string anchor_;  // a special token in whose wake a text is encoded as the middle of one; may be empty
};

}  // namespace moebius
