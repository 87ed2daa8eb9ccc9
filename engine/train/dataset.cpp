#include "engine/train/dataset.h"

#include <algorithm>
#include <atomic>
#include <new>
#include <system_error>
#include <thread>

#include <fmt/format.h>

#include "engine/train/examples.h"
#include "engine/train/lines.h"
#include "models/file_io.h"

namespace moebius {
namespace {

constexpr size_t kChunkLines = 64;
constexpr int kMaxThreads = 256;

// What a few lines give.
struct Chunk {
  Dataset examples;
  Status status;
  size_t bad_line = 0;  // of the block, where status is not ok
};

// The threads that turn the lines of a block into examples.
class Team {
 public:
  // left: tokens that still fit.
  Team(const ExampleMaker& maker, const LineBlock& block, int64_t left)
      : maker_(maker),
        block_(block),
        left_(left),
        chunks_((block.lines.size() + kChunkLines - 1) / kChunkLines) {}

  // Chunks after a bad one may be left undone, those before it never.
  std::vector<Chunk> run(int threads) {
    std::vector<std::thread> others;
    try {
      for (size_t i = 1; i < static_cast<size_t>(threads) && i < chunks_.size(); ++i)
        others.emplace_back([this] { work(); });
    } catch (const std::system_error&) {  // fewer do
    }
    work();
    for (std::thread& thread : others) thread.join();
    return std::move(chunks_);
  }
  bool over() const { return left_ < 0; }

 private:
  void work() {
    while (!failed_ && !over()) {
      const size_t index = next_++;
      if (index >= chunks_.size()) break;
      make(index * kChunkLines, chunks_[index]);
      if (!chunks_[index].status.ok()) failed_ = true;
    }
  }

  void make(size_t first, Chunk& out) {
    const size_t end = std::min(first + kChunkLines, block_.lines.size());
    for (size_t i = first; i < end && out.status.ok() && !over(); ++i) {
      const int64_t before = out.examples.tokens();
      out.bad_line = i;
      try {
        out.status = maker_.add(block_.lines[i], out.examples);
      } catch (const std::bad_alloc&) {
        out.status = no_memory("needs more memory than there is; free some, or split the file");
      }
      out.examples.count_line();
      left_ -= out.examples.tokens() - before;
    }
  }

  const ExampleMaker& maker_;
  const LineBlock& block_;
  std::atomic<int64_t> left_;
  std::atomic<size_t> next_ = 0;
  std::atomic<bool> failed_ = false;
  std::vector<Chunk> chunks_;
};

uint64_t fnv1a(uint64_t hash, uint64_t value, int bytes) {
  for (int i = 0; i < bytes; ++i) hash = (hash ^ (value >> (8 * i) & 0xff)) * 0x100000001b3u;
  return hash;
}

Status check_options(const DatasetOptions& options) {
  if (options.max_tokens < 2) return invalid("the limit of tokens of an example must be at least 2");
  if (options.vocab < 1) return invalid("the vocabulary must have at least one id");
  for (const int32_t id : options.stop_ids) {
    if (id >= 0 && id < options.vocab) continue;
    return invalid(fmt::format("the stop id {} is outside the vocabulary of {}", id, options.vocab));
  }
  return {};
}

// Reads the file a block of lines at a time and hands out what each few lines give, in order.
Status read_examples(const std::string& path, const Tokenizer& tokenizer, const PromptRenderer& prompts,
                     const DatasetOptions& options, const std::function<void(const Dataset&)>& take) {
  MOEBIUS_TRY(check_options(options));
  const std::string name = printable(options.name.empty() ? path : options.name);
  MOEBIUS_ASSIGN(LineReader reader, LineReader::open(path));
  const ExampleMaker maker(tokenizer, prompts, options);
  const int wanted =
      options.threads > 0 ? options.threads : static_cast<int>(std::thread::hardware_concurrency());
  const int threads = std::clamp(wanted, 1, kMaxThreads);
  int64_t left = options.max_total_tokens, examples = 0, dropped = 0;
  LineBlock block;
  try {
    while (true) {
      MOEBIUS_ASSIGN(const bool more, reader.next(block));
      if (!more) break;
      Team team(maker, block, left);
      const std::vector<Chunk> chunks = team.run(threads);
      for (const Chunk& chunk : chunks) {
        if (chunk.status.ok()) continue;
        const int64_t line = block.first_line + static_cast<int64_t>(chunk.bad_line);
        return Status(chunk.status.code(),
                      fmt::format("line {} of '{}': {}", line, name, chunk.status.message()));
      }
      if (team.over()) {
        return invalid(
            fmt::format("'{}' holds more than {} tokens; split the file", name, options.max_total_tokens));
      }
      for (const Chunk& chunk : chunks) {
        left -= chunk.examples.tokens();
        examples += chunk.examples.size(), dropped += chunk.examples.dropped();
        take(chunk.examples);
      }
      if (options.progress && !options.progress(reader.bytes_read(), reader.total_bytes())) {
        return Status(Code::kCancelled, "cancelled");
      }
    }
  } catch (const std::bad_alloc&) {
    return no_memory(fmt::format("'{}' needs more memory than there is; split the file", name));
  }
  if (examples > 0) return {};
  return invalid(fmt::format(
      "'{}' holds no example{}", name,
      dropped > 0 ? ": all are too long; raise the limit of tokens" : "; write one JSON object a line"));
}

}  // namespace

Result<Dataset> Dataset::load(const std::string& path, const Tokenizer& tokenizer,
                              const PromptRenderer& prompts, const DatasetOptions& options) {
  Dataset out;
  MOEBIUS_TRY(read_examples(path, tokenizer, prompts, options,
                            [&](const Dataset& examples) { out.append(examples); }));
  return out;
}

Result<DatasetCounts> check_dataset(const std::string& path, const Tokenizer& tokenizer,
                                    const PromptRenderer& prompts, const DatasetOptions& options) {
  DatasetCounts out;
  MOEBIUS_TRY(read_examples(path, tokenizer, prompts, options, [&](const Dataset& examples) {
    out.lines += examples.lines(), out.examples += examples.size();
    out.tokens += examples.tokens(), out.counted += examples.counted();
  }));
  return out;
}

int64_t Dataset::tokens_of(int64_t index) const {
  MOEBIUS_CHECK(index >= 0 && index < size(), "an example of the dataset");
  const auto at = static_cast<size_t>(index);
  return offsets_[at + 1] - offsets_[at];
}

Dataset::Example Dataset::example(int64_t index) const {
  const auto count = static_cast<size_t>(tokens_of(index));
  const auto begin = static_cast<size_t>(offsets_[static_cast<size_t>(index)]);
  return {std::span(ids_).subspan(begin, count), std::span(mask_).subspan(begin, count)};
}

void Dataset::add(std::span<const int32_t> ids, std::span<const uint8_t> mask) {
  MOEBIUS_CHECK(!ids.empty() && ids.size() == mask.size(), "one mask byte for each id");
  ids_.insert(ids_.end(), ids.begin(), ids.end());
  mask_.push_back(0);
  for (const uint8_t counts : mask.subspan(1)) {
    mask_.push_back(counts != 0);
    counted_ += counts != 0;
  }
  offsets_.push_back(static_cast<int64_t>(ids_.size()));
}

void Dataset::append(const Dataset& other) {
  const int64_t base = tokens();
  ids_.insert(ids_.end(), other.ids_.begin(), other.ids_.end());
  mask_.insert(mask_.end(), other.mask_.begin(), other.mask_.end());
  for (const int64_t offset : std::span(other.offsets_).subspan(1)) offsets_.push_back(base + offset);
  counted_ += other.counted_;
  lines_ += other.lines_;
  cut_ += other.cut_;
  dropped_ += other.dropped_;
}

void Dataset::count_cut(bool dropped) {
  ++cut_;
  dropped_ += dropped;
}

uint64_t Dataset::fingerprint() const {
  uint64_t hash = 0xcbf29ce484222325u;
  for (int64_t i = 0; i < size(); ++i) {
    const Example each = example(i);
    hash = fnv1a(hash, each.ids.size(), 8);
    for (const int32_t id : each.ids) hash = fnv1a(hash, static_cast<uint32_t>(id), 4);
    for (const uint8_t counts : each.mask) hash = fnv1a(hash, counts, 1);
  }
  return hash;
}

}  // namespace moebius
