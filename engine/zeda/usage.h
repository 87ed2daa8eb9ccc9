// How many expert slots a model leaves out, by layer and by kind of token.
#pragma once

#include <array>
#include <functional>
#include <string>
#include <vector>

#include "engine/forward.h"
#include "engine/train/dataset.h"
#include "models/tokenizer.h"
#include "models/weights.h"

namespace moebius {

// Of the token that a layer works on: one of the prompt, or of what counts in an example by its text.
enum class TokenKind : uint8_t { kPrompt, kNumber, kWord, kPunctuation, kSpace, kSpecial };
inline constexpr size_t kTokenKinds = 6;
const char* token_kind_name(TokenKind kind);
// kNumber: with a digit; kWord: with a letter, or a byte that is not ASCII; kSpace: nothing but white space.
TokenKind token_kind(const Tokenizer& tokenizer, int32_t id);

struct SlotCount {
  int64_t slots = 0, skipped = 0;  // skipped: zero experts, and below a skip threshold
  double rate() const { return slots == 0 ? 0 : static_cast<double>(skipped) / static_cast<double>(slots); }
};

struct SlotUse {
  SlotCount all;
  std::vector<SlotCount> layers;  // of the model; no slots in dense ones
  std::array<SlotCount, kTokenKinds> kinds;
  int64_t tokens = 0;
  double expert_bytes = 0;  // of the routed experts that a token is computed by, in the mean
};

struct SlotUseOptions {
  std::string adapter;  // folder of a LoRA adapter on the weights; "": none
  SkipShares skip = {};
  int threads = 1;
  std::function<bool(int64_t done, int64_t total)> progress;  // examples; false cancels (kCancelled)
};

// Of every token that is followed by another in the examples of data.
Result<SlotUse> count_slots(const ModelFiles& model, const Dataset& data, const Tokenizer& tokenizer,
                            const SlotUseOptions& options);

}  // namespace moebius
