#include "engine/heat_file.h"

#include <sys/stat.h>

#include <algorithm>
#include <cmath>
#include <filesystem>

#include <fmt/format.h>

#include "models/safetensors.h"

namespace moebius {
namespace {

constexpr const char* kHeatFormat = "moebius heat 1";

std::string name_of(size_t layer) { return fmt::format("layer.{}", layer); }

Status foreign(const std::string& path) {
  return invalid(fmt::format("{}: not the use of this model's experts; delete the file", path));
}

}  // namespace

Result<ExpertHeat> read_heat(const std::string& path, const std::string& model, const Weights& weights) {
  struct stat info {};
  if (stat(path.c_str(), &info) != 0) return not_found(fmt::format("{} does not exist", path));
  MOEBIUS_ASSIGN(const std::unique_ptr<SafetensorsFile> file, SafetensorsFile::open(path));
  const auto has = [&](const char* key, const std::string& value) {
    return std::ranges::count(file->metadata(), std::pair<std::string, std::string>(key, value)) == 1;
  };
  if (!has("format", kHeatFormat) || !has("model", model)) return foreign(path);
  ExpertHeat heat(weights.layers.size());
  for (size_t l = 0; l < heat.size(); ++l) {
    heat[l].resize(weights.layers[l].experts.size());
    if (heat[l].empty()) continue;
    const auto found = std::ranges::find(file->tensors(), name_of(l), &TensorEntry::name);
    if (found == file->tensors().end() || found->dtype != DType::kF32 ||
        found->shape != std::vector<int64_t>{std::ssize(heat[l])})
      return foreign(path);
    for (size_t e = 0; e < heat[l].size(); ++e) {
      heat[l][e] = static_cast<double>(load_unaligned<float>(found->data, static_cast<int64_t>(e)));
      if (!(heat[l][e] >= 0) || std::isinf(heat[l][e])) return foreign(path);
    }
  }
  return heat;
}

Status write_heat(const std::string& path, const std::string& model, const ExpertHeat& heat) {
  std::error_code error;
  std::filesystem::create_directories(std::filesystem::path(path).parent_path(), error);
  if (error) return system_error("make the folder of", path, error.value());
  SafetensorsWriter writer(path, {{"format", kHeatFormat}, {"model", model}});
  std::vector<float> values;
  for (size_t l = 0; l < heat.size(); ++l) {
    if (heat[l].empty()) continue;
    writer.declare(name_of(l), DType::kF32, {std::ssize(heat[l])});
    for (const double h : heat[l]) values.push_back(static_cast<float>(h));
  }
  MOEBIUS_TRY(writer.append(values.data(), values.size() * sizeof(float)));
  return writer.finish();
}

}  // namespace moebius
