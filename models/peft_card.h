// The model card of a written adapter.
#pragma once

#include <cstdint>
#include <string>

#include "models/peft.h"

namespace moebius {

// README.md: front matter for the Hugging Face hub, then what the adapter is and how to load it.
std::string adapter_card(const AdapterWriteOptions& options, int64_t matrices, int64_t smallest_rank,
                         int64_t largest_rank);

}  // namespace moebius
