#include "engine/train/checkpoint.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstring>
#include <filesystem>
#include <map>

#include <fmt/format.h>

#include "models/file_io.h"
#include "models/safetensors.h"

namespace moebius {
namespace {

constexpr const char* kCheckpointFormat = "moebius training 1";
constexpr const char* kPrefix = "checkpoint-";
constexpr const char* kSuffix = ".safetensors";

// The run's own numbers as tensors, which keep every bit.
struct RunTensors {
  int64_t counters[3] = {};
  double losses[2] = {};

  std::vector<optim::StateEntry> entries() {
    return {{"run.counters", DType::kI64, {3}, counters, sizeof(counters)},
            {"run.losses", DType::kF64, {2}, losses, sizeof(losses)}};
  }
};

std::array<int64_t, 3> counters_of(const TensorEntry& tensor) {
  std::array<int64_t, 3> counters;
  std::memcpy(counters.data(), tensor.data, sizeof(counters));
  return counters;
}

// The first place where two settings differ, as text for a message.
std::string difference(const std::string& file, const std::string& now) {
  const auto [a, b] = std::mismatch(file.begin(), file.end(), now.begin(), now.end());
  const auto around = [](const std::string& text, std::string::const_iterator at) {
    const auto begin = std::find(std::make_reverse_iterator(at), text.rend(), '\n').base();
    return printable(std::string(begin, std::find(at, text.end(), '\n')), 120);
  };
  return fmt::format("it was made with \"{}\", this run has \"{}\"", around(file, a), around(now, b));
}

// As AtomicFile names what it has not committed yet: "<name>.partial-<process>-<attempt>".
bool is_partial_file(const std::string& name) {
  constexpr std::string_view kMark = ".partial-";
  const size_t at = name.rfind(kMark);
  return at != std::string::npos && at + kMark.size() < name.size() &&
         name.find_first_not_of("0123456789-", at + kMark.size()) == std::string::npos;
}

std::vector<std::pair<int64_t, std::string>> list_checkpoints(const std::string& dir) {
  std::vector<std::pair<int64_t, std::string>> found;
  std::error_code error;
  for (std::filesystem::directory_iterator it(dir, error), end; !error && it != end; it.increment(error)) {
    const std::string name = it->path().filename();
    if (!name.starts_with(kPrefix) || !name.ends_with(kSuffix)) continue;
    const std::string digits = name.substr(11, name.size() - 11 - 12);
    int64_t step = 0;
    const auto [end_of, why] = std::from_chars(digits.data(), digits.data() + digits.size(), step);
    if (why == std::errc() && end_of == digits.data() + digits.size()) found.push_back({step, it->path()});
  }
  std::sort(found.begin(), found.end());
  return found;
}

}  // namespace

Status save_checkpoint(const std::string& path, const std::string& settings, const RunState& run,
                       Trained& trained) {
  RunTensors tensors{{run.steps, run.epoch, run.index}, {run.smoothed_loss, run.best_loss}};
  std::vector<optim::StateEntry> entries = tensors.entries();
  for (optim::StateEntry& entry : trained.entries()) entries.push_back(std::move(entry));
  SafetensorsWriter writer(path, {{"format", kCheckpointFormat}, {"settings", settings}});
  for (const optim::StateEntry& e : entries) writer.declare(e.name, e.dtype, e.shape);
  for (const optim::StateEntry& e : entries) MOEBIUS_TRY(writer.append(e.data, static_cast<size_t>(e.bytes)));
  return writer.finish();
}

Result<RunState> load_checkpoint(const std::string& path, const std::string& settings, Trained& trained) {
  const auto opened = SafetensorsFile::open(path);
  if (!opened.ok()) {
    return Status(opened.status().code(), fmt::format("{}; remove it to go on from the checkpoint before it",
                                                      opened.status().message()));
  }
  const SafetensorsFile* file = opened->get();
  std::map<std::string, std::string> metadata(file->metadata().begin(), file->metadata().end());
  const auto refuse = [&](const std::string& what) {
    return invalid(fmt::format("{}: {}; use the settings it was made with, or start anew in another folder",
                               path, what));
  };
  if (metadata["format"] != kCheckpointFormat) return refuse("this is not a checkpoint of a training run");
  if (metadata["settings"] != settings) return refuse(difference(metadata["settings"], settings));
  std::map<std::string_view, const TensorEntry*> found;
  for (const TensorEntry& t : file->tensors()) found[t.name] = &t;

  RunTensors tensors;
  std::vector<optim::StateEntry> entries = tensors.entries();
  for (optim::StateEntry& entry : trained.entries()) entries.push_back(std::move(entry));
  if (entries.size() != found.size()) return refuse("it holds other tensors than this run");
  for (const optim::StateEntry& e : entries) {
    const auto at = found.find(e.name);
    if (at == found.end()) return refuse(fmt::format("tensor {} is missing", e.name));
    if (at->second->dtype != e.dtype || at->second->shape != e.shape)
      return refuse(fmt::format("tensor {} has another shape", e.name));
  }
  for (const int64_t counter : counters_of(*found["run.counters"]))
    if (counter < 0) return refuse("its counters are damaged");
  for (const optim::StateEntry& e : entries)
    std::memcpy(e.data, found[e.name]->data, static_cast<size_t>(e.bytes));
  MOEBIUS_TRY(trained.refresh());
  return RunState{tensors.counters[0], tensors.counters[1], tensors.counters[2], tensors.losses[0],
                  tensors.losses[1]};
}

std::string checkpoint_folder(const std::string& out) { return out + "/checkpoints"; }

std::string checkpoint_path(const std::string& dir, int64_t step) {
  return fmt::format("{}/{}{:06}{}", dir, kPrefix, step, kSuffix);
}

std::string newest_checkpoint(const std::string& dir) {
  const auto found = list_checkpoints(dir);
  return found.empty() ? "" : found.back().second;
}

Status prune_checkpoints(const std::string& dir, int64_t keep) {
  auto found = list_checkpoints(dir);
  while (std::ssize(found) > keep) {
    std::error_code error;
    std::filesystem::remove(found.front().second, error);
    if (error) return system_error("remove", found.front().second, error.value());
    found.erase(found.begin());
  }
  return Status();
}

void remove_partial_files(const std::string& dir) {
  std::error_code error;
  std::vector<std::filesystem::path> partial;
  for (std::filesystem::directory_iterator it(dir, error), end; !error && it != end; it.increment(error))
    if (is_partial_file(it->path().filename())) partial.push_back(it->path());
  for (const std::filesystem::path& path : partial) std::filesystem::remove(path, error);
}

}  // namespace moebius
