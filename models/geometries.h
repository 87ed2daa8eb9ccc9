// Geometries: the configurations of published models, built into the program, so that a model of that shape
// can be made, planned and measured without downloading anything.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "kernels/status.h"

namespace moebius {

struct Geometry {
  std::string_view name;    // "moonlight-16b-a3b"
  std::string_view config;  // its config.json
};

std::span<const Geometry> geometries();  // by name
std::string geometry_names();            // "deepseek-v2-lite, deepseek-v3, ..."

// The config.json of a built-in geometry, of a file whose name ends in .json, or of a checkpoint folder.
// kNotFound lists the names.
Result<std::string> geometry_config(const std::string& name_or_path);

}  // namespace moebius
