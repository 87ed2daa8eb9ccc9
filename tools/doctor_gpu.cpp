#include "tools/doctor_gpu.h"

#include <fstream>
#include <sstream>
#include <vector>

#include <fmt/format.h>

#include "kernels/device_probe.h"
#include "kernels/gpu.h"
#include "models/file_io.h"

namespace moebius {
namespace {

using nlohmann::ordered_json;

constexpr int64_t kProbedBytes = int64_t{1} << 30;  // much more than a GPU's caches hold
constexpr double kSeconds = 0.3;

std::string version_text(int version) {
  return version == 0 ? "" : fmt::format("{}.{}", version / 1000, version % 1000 / 10);
}

// "550.54.15": the first word with digits and points of the module's line; "" where it does not say.
std::string driver_version() {
  std::ifstream file("/proc/driver/nvidia/version");
  std::string line;
  std::getline(file, line);
  std::istringstream words(line);
  for (std::string word; words >> word;)
    if (word.find('.') != std::string::npos && word.find_first_not_of("0123456789.") == std::string::npos)
      return word;
  return "";
}

Result<DeviceLimits> measure(int gpu) {
  MOEBIUS_ASSIGN(const std::unique_ptr<Backend> device,
                 make_cuda_backend({gpu, kProbedBytes + kCudaWorkBytes}));
  return probe_device(*device, kProbedBytes, kSeconds);
}

ordered_json gpu_facts(const GpuInfo& gpu, int number) {
  ordered_json facts = {{"name", gpu.name},
                        {"memory_bytes", gpu.memory_bytes},
                        {"compute_capability", fmt::format("{}.{}", gpu.major, gpu.minor)}};
  const Result<DeviceLimits> limits = measure(number);
  if (!limits.ok()) {
    facts["error"] = limits.status().message();
    return facts;
  }
  facts["to_device_GBs"] = limits->to_device_GBs;
  facts["to_host_GBs"] = limits->to_host_GBs;
  facts["memory_GBs"] = limits->memory_GBs;
  return facts;
}

std::string gpu_text(const ordered_json& gpu) {
  std::string text =
      fmt::format("{}, {:.1f} GB, compute capability {}", printable(gpu["name"].get<std::string>()),
                  static_cast<double>(gpu["memory_bytes"].get<int64_t>()) * 1e-9,
                  gpu["compute_capability"].get<std::string>());
  if (gpu.contains("error"))
    return text + "; not measured: " + printable(gpu["error"].get<std::string>(), 4096);
  return text + fmt::format("; link {:.1f} GB/s there, {:.1f} GB/s back; memory {:.1f} GB/s",
                            gpu["to_device_GBs"].get<double>(), gpu["to_host_GBs"].get<double>(),
                            gpu["memory_GBs"].get<double>());
}

}  // namespace

ordered_json cuda_facts() {
  ordered_json facts = {{"devices", ordered_json::array()}, {"note", ""}};
  if (const Result<CudaVersions> versions = cuda_versions(); versions.ok()) {
    facts["driver"] = driver_version();
    facts["driver_cuda"] = version_text(versions->driver);
    facts["library_cuda"] = version_text(versions->library);
  }
  const Result<std::vector<GpuInfo>> gpus = gpu_devices();
  if (!gpus.ok()) {
    facts["note"] = gpus.status().message();
    return facts;
  }
  if (gpus->empty()) facts["note"] = "no device: the driver lists no GPU; models run on the CPU";
  for (const GpuInfo& gpu : *gpus)
    facts["devices"].push_back(gpu_facts(gpu, static_cast<int>(facts["devices"].size())));
  return facts;
}

std::string cuda_text(const ordered_json& cuda) {
  const auto text_of = [&](const char* key) { return printable(cuda.value(key, std::string()), 4096); };
  std::vector<std::string> parts;
  if (cuda.contains("library_cuda")) parts.push_back("built with CUDA " + text_of("library_cuda"));
  if (!text_of("driver").empty()) parts.push_back("driver " + text_of("driver"));
  if (!text_of("driver_cuda").empty()) parts.push_back("for CUDA up to " + text_of("driver_cuda"));
  if (!text_of("note").empty()) parts.push_back(text_of("note"));
  std::string text = fmt::format("CUDA            {}\n", fmt::join(parts, ", "));
  for (size_t i = 0; i < cuda["devices"].size(); ++i)
    text += fmt::format("{:<16}{}\n", fmt::format("GPU {}", i), gpu_text(cuda["devices"][i]));
  return text;
}

}  // namespace moebius
