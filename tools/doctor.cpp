// moebius doctor: the machine as this program sees it, its measured limits, and a check that the fast
// kernels agree with the reference here.
#include <sys/utsname.h>

#include <cmath>
#include <cstring>
#include <fstream>
#include <memory>
#include <random>

#include <fmt/format.h>

#include "kernels/backend.h"
#include "kernels/half.h"
#include "kernels/probe.h"
#include "models/file_io.h"
#include "tools/command.h"
#include "tools/doctor_gpu.h"
#include "tools/text_io.h"

namespace moebius {
namespace {

using nlohmann::ordered_json;

struct Options {
  int threads = 0;
  bool json = false;
};

std::string trimmed(const std::string& text) {
  const size_t begin = text.find_first_not_of(" \t"), end = text.find_last_not_of(" \t\n");
  return begin == std::string::npos ? "" : text.substr(begin, end - begin + 1);
}

// The value of the first "name : value" line of a file of the kernel's; "" if there is none.
std::string kernel_line(const char* path, const std::string& name) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    const size_t colon = line.find(':');
    if (colon != std::string::npos && trimmed(line.substr(0, colon)) == name)
      return trimmed(line.substr(colon + 1));
  }
  return "";
}

double memory_GB(const char* name) {
  return std::strtod(kernel_line("/proc/meminfo", name).c_str(), nullptr) * 1024e-9;
}

// Random content of one format: data and, where the format has them, scales.
struct RandomWeights {
  std::vector<uint8_t> data;
  std::vector<float> scales;
  Matrix matrix;

  RandomWeights(Format format, int64_t rows, int64_t cols, std::mt19937& random) {
    matrix.format = format, matrix.rows = rows, matrix.cols = cols;
    if (format == Format::kFp8Block) matrix.group = kFp8Block;
    if (is_integer(format)) matrix.group = kActivationGroup;
    data.resize(static_cast<size_t>(rows * matrix.row_bytes()));
    for (uint8_t& byte : data) byte = static_cast<uint8_t>(random() >> 24);
    if (format == Format::kBF16) {
      for (size_t i = 0; i < data.size(); i += 2) {
        const uint16_t value = f32_to_bf16(static_cast<float>(random()) * 0x1p-31f - 1);
        std::memcpy(&data[i], &value, sizeof value);
      }
    }
    if (format == Format::kFp8Block) {
      for (uint8_t& byte : data) byte = (byte & 0x7f) == 0x7f ? 0 : byte;  // the NaN codes
    }
    scales.assign(static_cast<size_t>(rows * matrix.scales_per_row()), 0.01f);
    matrix.data = data.data();
    if (!scales.empty()) matrix.scales = scales.data();
  }
};

// The largest difference between backend and reference of y = x w^T, over the largest |y|.
double linear_difference(Backend& backend, Format format, int64_t n, std::mt19937& random) {
  const int64_t rows = 130, cols = 384;
  const RandomWeights w(format, rows, cols, random);
  std::vector<float> x(static_cast<size_t>(n * cols)), fast(static_cast<size_t>(n * rows)), slow(fast.size());
  for (float& value : x) value = static_cast<float>(random()) * 0x1p-31f - 1;
  LinearArgs args{w.matrix, f32_tensor(x.data(), {n, cols}), {}, f32_tensor(fast.data(), {n, rows})};
  backend.linear(args);
  args.y = f32_tensor(slow.data(), {n, rows});
  ref::linear(args, false);
  double difference = 0, largest = 0;
  for (size_t i = 0; i < fast.size(); ++i) {
    difference = std::max(difference, std::abs(static_cast<double>(fast[i]) - static_cast<double>(slow[i])));
    largest = std::max(largest, std::abs(static_cast<double>(slow[i])));
  }
  return std::isfinite(difference) && largest > 0 ? difference / largest : INFINITY;
}

// Integer formats are exact by definition; float sums of 384 terms in another order differ by rounding.
ordered_json self_check(int threads) {
  HostOptions host;
  host.threads = threads;
  const std::unique_ptr<Backend> backend = make_host_backend(host);
  std::mt19937 random(7);
  ordered_json checks = ordered_json::array();
  for (const Format format : {Format::kBF16, Format::kFp8Block, Format::kInt8, Format::kInt4}) {
    for (const int64_t n : {1, 70}) {
      const double difference = linear_difference(*backend, format, n, random);
      const double allowed = is_integer(format) ? 0 : 384 * 0x1p-23;
      checks.push_back(
          {{"op", fmt::format("linear {}, {} token{}", format_name(format), n, n == 1 ? "" : "s")},
           {"relative_difference", difference},
           {"allowed", allowed},
           {"ok", difference <= allowed}});
    }
  }
  return checks;
}

std::string default_model() {
  const Result<std::string> dir = default_model_dir();
  return dir.ok() ? *dir : "";
}

ordered_json examine(int threads) {
  constexpr double kSeconds = 0.4;
  if (threads == 0) threads = physical_cores();
  utsname system{};
  uname(&system);
  const Result<double> bandwidth = probe_memory_read_GBs(threads, probe_buffer_bytes(), kSeconds);
  return {{"version", MOEBIUS_VERSION},
          {"system", fmt::format("{} {} {}", system.sysname, system.release, system.machine)},
          {"cpu", kernel_line("/proc/cpuinfo", "model name")},
          {"instructions", cpu_features().describe()},
          {"threads", threads},
          {"memory_total_GB", memory_GB("MemTotal")},
          {"memory_available_GB", memory_GB("MemAvailable")},
          {"memory_read_GBs", bandwidth.ok() ? ordered_json(*bandwidth) : ordered_json(nullptr)},
          {"float32_GFLOPs", probe_float32_GFLOPs(threads, kSeconds)},
          {"int8_GOPs", probe_int8_GOPs(threads, kSeconds)},
          {"onednn", onednn_version()},
          {"cuda", cuda_facts()},
          {"hub_cache", hub_cache_dir()},
          {"default_model", default_model()},
          {"self_check", self_check(threads)}};
}

bool passed(const ordered_json& facts) {
  for (const ordered_json& check : facts["self_check"]) {
    if (!check["ok"].get<bool>()) return false;
  }
  return true;
}

std::string rate(const ordered_json& value, const char* unit) {
  return value.is_number() && value.get<double>() > 0 ? fmt::format("{:.1f} {}", value.get<double>(), unit)
                                                      : "not measured";
}

std::string table(const ordered_json& f) {
  const auto text_of = [&](const char* key) { return printable(f[key].get<std::string>(), 4096); };
  const auto or_none = [](const std::string& text) { return text.empty() ? "none" : text; };
  std::string text = fmt::format("moebius         {}\nsystem          {}\nprocessor       {}\n",
                                 text_of("version"), text_of("system"), text_of("cpu"));
  text += fmt::format("instructions    {}\nthreads         {} (one per physical core by default)\n",
                      text_of("instructions"), f["threads"].dump());
  text += fmt::format("memory          {:.1f} GB, {:.1f} GB available\n", f["memory_total_GB"].get<double>(),
                      f["memory_available_GB"].get<double>());
  text += fmt::format("memory read     {}\nfloat32         {}\nint8            {}\n",
                      rate(f["memory_read_GBs"], "GB/s"), rate(f["float32_GFLOPs"], "GFLOP/s"),
                      rate(f["int8_GOPs"], "GOP/s"));
  text += fmt::format("oneDNN          {}\n{}", or_none(text_of("onednn")), cuda_text(f["cuda"]));
  text += fmt::format("model cache     {}\ndefault model   {}\n\nself-check, host against reference\n",
                      or_none(text_of("hub_cache")), or_none(text_of("default_model")));
  for (const ordered_json& check : f["self_check"]) {
    text += fmt::format("  {:<24}{}  difference {:.1e}, allowed {:.1e}\n", check["op"].get<std::string>(),
                        check["ok"].get<bool>() ? "ok    " : "FAILED",
                        check["relative_difference"].get<double>(), check["allowed"].get<double>());
  }
  return text;
}

int doctor(const Options& options) {
  const ordered_json facts = examine(options.threads);
  const int printed = print_output(options.json ? to_text(facts, 2) + "\n" : table(facts));
  if (passed(facts)) return printed;
  return fail(
      "the self-check failed: results on this machine are wrong; rebuild from clean sources, and if "
      "it stays, report it with the lines above");
}

}  // namespace

void add_doctor(CLI::App& app, Run& run) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand(
      "doctor", "examine the machine: processor, memory, GPUs, measured limits, a self-check");
  command->add_option("-t,--threads", options->threads, "CPU threads (default: one per physical core)")
      ->check(CLI::Range(1, 4096));
  command->add_flag("--json", options->json, "print JSON");
  command->callback([options, &run] { run = [options] { return doctor(*options); }; });
}

}  // namespace moebius
