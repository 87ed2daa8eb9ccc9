// Dataset: what a model is trained on, as token sequences with a mask of what counts, read from a JSONL file.
//
// A line is one of
//   {"messages": [...], optional "tools"}      a conversation: the assistant's turns count, but not those
//   with
//                                              "weight": 0
//   {"text": "..."}                            everything counts
//   {"prompt": "...", "completion": "..."}     the completion counts
// The first of "messages", "text" and "prompt" that is there decides; further fields are ignored. Markup
// in a text ("<|im_end|>") is the special token, as it is in a prompt.
//
// Every turn that counts follows exactly the ids that the model sees when it is asked for that turn: those of
// the conversation before it, rendered by the model's own template with a generation prompt and encoded as
// one text. Where what the model sees at a later turn does not begin with what was taught before (a template
// that drops earlier thinking, say), the conversation gives a further example for that turn. If the template
// renders the turn without the end of its generation prompt (an answer without thinking after a prompt that
// opens it), the turn begins where the two part; a template that changes more than that is refused. A turn
// ends with the first stop id; where the template writes none there, with the one that begins the next
// message, else with the first of stop_ids.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "engine/prompt.h"
#include "models/tokenizer.h"

namespace moebius {

struct DatasetOptions {
  enum class TooLong : uint8_t { kRefuse, kCut };

  int64_t max_tokens = 0;               // of an example, at least 2
  TooLong too_long = TooLong::kRefuse;  // kCut: its end is dropped, and the later turns of its conversation
  int64_t vocab = 0;                    // ids are in [0, vocab)
  std::vector<int32_t> stop_ids;        // that end an answer; the first also ends texts and completions
  // Further variables of the chat template, as at inference ({"enable_thinking": false}).
  nlohmann::ordered_json template_variables = nlohmann::ordered_json::object();
  int64_t max_total_tokens = int64_t{1} << 30;  // 5 bytes of memory each
  int threads = 0;                              // 0: one for each processor
  std::string name;                             // of the file, in errors; "": its path
  // Called now and then with the bytes of the file that are done, and in total (0: unknown); false cancels.
  std::function<bool(int64_t done, int64_t total)> progress;
};

// What a file holds, where its tokens are not wanted.
struct DatasetCounts {
  int64_t lines = 0, examples = 0, tokens = 0, counted = 0;
};
// Reads a file as Dataset::load does, with its errors, and forgets what it read.
Result<DatasetCounts> check_dataset(const std::string& path, const Tokenizer& tokenizer,
                                    const PromptRenderer& prompts, const DatasetOptions& options);

class Dataset {
 public:
  struct Example {
    std::span<const int32_t> ids;
    std::span<const uint8_t> mask;  // 1: predicting this id counts; the first is always 0
  };

  // The same for any number of threads. kInvalid names the first bad line, what is wrong and the remedy, and
  // an example with an id outside the vocabulary; kNotFound and kIo of the file; kNoMemory; kCancelled.
  static Result<Dataset> load(const std::string& path, const Tokenizer& tokenizer,
                              const PromptRenderer& prompts, const DatasetOptions& options);

  int64_t size() const { return static_cast<int64_t>(offsets_.size()) - 1; }
  int64_t tokens() const { return offsets_.back(); }
  int64_t tokens_of(int64_t example) const;
  Example example(int64_t index) const;         // valid until the dataset changes
  int64_t counted() const { return counted_; }  // tokens whose mask is 1
  int64_t lines() const { return lines_; }
  int64_t cut() const { return cut_; }  // examples that lost their end to max_tokens
  int64_t dropped() const {
    return dropped_;
  }  // of these, those with nothing left that counts; not in size()

  // FNV-1a of all lengths, ids and masks, in order: a resumed run compares it.
  uint64_t fingerprint() const;

  // Appends an example. mask has the length of ids, at least 1; its first entry is taken as 0.
  void add(std::span<const int32_t> ids, std::span<const uint8_t> mask);
  void append(const Dataset& other);
  void count_line() { ++lines_; }
  void count_cut(bool dropped);

 private:
  std::vector<int32_t> ids_;
  std::vector<uint8_t> mask_;
  std::vector<int64_t> offsets_{0};
  int64_t counted_ = 0, lines_ = 0, cut_ = 0, dropped_ = 0;
};

}  // namespace moebius
