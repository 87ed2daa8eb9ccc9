// What `moebius doctor` says of CUDA and the GPUs.
#pragma once

#include <string>

#include <nlohmann/json.hpp>

namespace moebius {

// {"devices": [...], "note", "driver", "driver_cuda", "library_cuda"}: note says in words what is missing,
// and is "" when nothing is. Every GPU is measured for about a second.
nlohmann::ordered_json cuda_facts();

// The same as lines for people.
std::string cuda_text(const nlohmann::ordered_json& cuda);

}  // namespace moebius
