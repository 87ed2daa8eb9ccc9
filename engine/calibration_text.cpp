#include "engine/calibration_text.h"

#include <algorithm>

#include <fmt/format.h>

#include "engine/train/dataset.h"
#include "models/file_io.h"

namespace moebius {
namespace {

constexpr size_t kMaxTextBytes = size_t{1} << 30;

// Every sequence, or as many of them, evenly spread, as have about so many tokens together.
void take_evenly(std::vector<std::vector<int32_t>> all, int64_t most, CalibrationText& out) {
  for (const std::vector<int32_t>& ids : all) out.of_file += std::ssize(ids);
  const double part = std::min(1.0, static_cast<double>(most) / static_cast<double>(out.of_file));
  double due = 0;  // tokens that the sequences so far should have given
  for (std::vector<int32_t>& ids : all) {
    due += part * static_cast<double>(ids.size());
    if (static_cast<double>(out.tokens) + 0.5 * static_cast<double>(ids.size()) > due) continue;
    out.tokens += std::ssize(ids);
    out.sequences.push_back(std::move(ids));
  }
  if (!out.sequences.empty()) return;  // one sequence, much longer than asked for
  all.front().resize(static_cast<size_t>(std::min(most, std::ssize(all.front()))));
  out.tokens = std::ssize(all.front());
  out.sequences.push_back(std::move(all.front()));
}

Result<std::vector<std::vector<int32_t>>> windows_of_text(const std::string& path, const Tokenizer& tokenizer,
                                                          int64_t window) {
  MOEBIUS_ASSIGN(const std::string text, read_text_file(path, kMaxTextBytes));
  MOEBIUS_ASSIGN(const std::vector<int32_t> ids, tokenizer.encode(text, {false, false}));
  // The beginning of a sequence, as the model's file asks for one.
  MOEBIUS_ASSIGN(const std::vector<int32_t> framed, tokenizer.encode("a", {true, false}));
  MOEBIUS_ASSIGN(const std::vector<int32_t> plain, tokenizer.encode("a", {false, false}));
  const auto at = std::search(framed.begin(), framed.end(), plain.begin(), plain.end());
  const std::vector<int32_t> prefix(framed.begin(), at == framed.end() ? framed.begin() : at);
  const int64_t room = std::max<int64_t>(1, window - std::ssize(prefix));
  std::vector<std::vector<int32_t>> windows;
  for (int64_t begin = 0; begin < std::ssize(ids); begin += room) {
    std::vector<int32_t>& to = windows.emplace_back(prefix);
    to.insert(to.end(), ids.begin() + begin, ids.begin() + std::min(begin + room, std::ssize(ids)));
  }
  return windows;
}

Result<std::vector<std::vector<int32_t>>> examples_of(const std::string& path, const ModelConfig& config,
                                                      const Tokenizer& tokenizer,
                                                      const PromptRenderer& prompts,
                                                      const CalibrationTextOptions& options) {
  DatasetOptions how;
  how.max_tokens = std::max<int64_t>(2, options.window);
  how.too_long = DatasetOptions::TooLong::kCut;
  how.vocab = config.vocab;
  how.stop_ids = config.eos_ids;
  how.threads = options.threads;
  MOEBIUS_ASSIGN(const Dataset data, Dataset::load(path, tokenizer, prompts, how));
  std::vector<std::vector<int32_t>> sequences;
  for (int64_t i = 0; i < data.size(); ++i) {
    const std::span<const int32_t> ids = data.example(i).ids;
    sequences.emplace_back(ids.begin(), ids.end());
  }
  return sequences;
}

}  // namespace

Result<CalibrationText> read_calibration_text(const std::string& path, const ModelConfig& config,
                                              const Tokenizer& tokenizer, const PromptRenderer& prompts,
                                              const CalibrationTextOptions& options) {
  Result<std::vector<std::vector<int32_t>>> all = path.ends_with(".jsonl")
                                                      ? examples_of(path, config, tokenizer, prompts, options)
                                                      : windows_of_text(path, tokenizer, options.window);
  if (!all.ok()) return all.status();
  if (all->empty())
    return invalid(fmt::format("'{}' holds no text; give a text, or JSONL as `moebius finetune` reads it",
                               printable(path)));
  CalibrationText out;
  take_evenly(std::move(*all), options.tokens, out);
  return out;
}

}  // namespace moebius
