// A working tokenizer for any vocabulary: byte-level BPE without merges, the special tokens of Moonlight's
// chat format, and filler tokens, so that every id decodes to something.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "kernels/status.h"

namespace moebius {

struct SpecialIds {
  int32_t bos = 0, eos = 0, im_end = 0, im_user = 0, im_assistant = 0, im_system = 0, im_middle = 0;
};

inline constexpr int kSpecialTokens = 7;
inline bool has_room_for_tokenizer(int64_t vocab) { return vocab >= 256 + kSpecialTokens; }

// bos and eos where asked (if they differ), the others on the last free ids of [0, vocab).
SpecialIds place_special_ids(int64_t vocab, std::optional<int32_t> bos, std::optional<int32_t> eos);

// Writes tokenizer.json and tokenizer_config.json (with the chat template) into dir.
// vocab: has_room_for_tokenizer(vocab).
Status write_synth_tokenizer(const std::string& dir, int64_t vocab, const SpecialIds& special,
                             int64_t context);

}  // namespace moebius
