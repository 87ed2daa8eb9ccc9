#include <algorithm>
#include <cerrno>
#include <map>
#include <memory>
#include <set>
#include <unordered_map>

#include <sys/stat.h>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "models/file_io.h"
#include "tools/corpus.h"

namespace moebius {
namespace {

using Family = Example (*)(CorpusRandom&);

struct Share {
  Family family;
  int percent;
};

// Lists and arithmetic get most, since they are learned by practice; a story or a prompt with tools is long,
// so that a small share of the examples is a large one of the tokens.
constexpr Share kShares[] = {{about_example, 8},  {arithmetic_example, 25}, {list_example, 35},
                             {world_example, 21}, {story_example, 3},       {tool_example, 3},
                             {talk_example, 5}};

// The training file begins with lessons that mostly say lists again. A model that reads the file in its order
// learns so within a million tokens to find and repeat what it was told, which among all tasks at once it has
// not after three, and which most of them build on.
constexpr int64_t kFirstLessons = 14;  // one part in so many of the file
constexpr int kFirstLessonsCopy = 85;  // per cent of these

constexpr int64_t kTriesForNew = 12;  // draws before an example may repeat an earlier one all the same
constexpr int kFactRepeats = 16;      // how often one may be told what can be known only from training
constexpr size_t kBlockBytes = 1 << 20;
constexpr int kDrawsForAllTasks = 20'000;  // after which every task has come up

uint64_t mixed(uint64_t value) {
  value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9u;
  value = (value ^ (value >> 27)) * 0x94d049bb133111ebu;
  return value ^ (value >> 31);
}

// FNV-1a, then mixed, since the low bits decide.
uint64_t hash_text(std::string_view text) {
  uint64_t hash = 0xcbf29ce484222325u;
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return mixed(hash);
}

Example draw(CorpusRandom& random) {
  int64_t at = random.below(100);
  for (const Share& share : kShares) {
    if (at < share.percent) return share.family(random);
    at -= share.percent;
  }
  return talk_example(random);
}

Example draw_of(const std::vector<std::string>& tasks, CorpusRandom& random) {
  while (true) {
    Example example = draw(random);
    if (std::ranges::find(tasks, example.task) != tasks.end()) return example;
  }
}

// So that draw_of comes to an end.
Status check_focus(const std::vector<std::string>& tasks) {
  std::set<std::string> known;
  CorpusRandom random(0);
  for (int i = 0; i < kDrawsForAllTasks; ++i) known.insert(draw(random).task);
  for (const std::string& task : tasks)
    if (!known.contains(task))
      return invalid(fmt::format("no task is called {}; these are: {}", task, fmt::join(known, ", ")));
  return Status();
}

// A file that grows by lines and appears under its name when complete.
class LineFile {
 public:
  static Result<LineFile> create(const std::string& path) {
    LineFile out;
    MOEBIUS_ASSIGN(out.file_, AtomicFile::create(path));
    return out;
  }
  Status add(std::string_view line) {
    block_.append(line).push_back('\n');
    return block_.size() < kBlockBytes ? Status() : flush();
  }
  Status commit() {
    MOEBIUS_TRY(flush());
    return file_->commit();
  }

 private:
  Status flush() {
    MOEBIUS_TRY(file_->write_at(block_.data(), block_.size(), written_));
    written_ += block_.size();
    block_.clear();
    return {};
  }
  std::unique_ptr<AtomicFile> file_;
  std::string block_;
  uint64_t written_ = 0;
};

Status make_folder(const std::string& path) {
  if (mkdir(path.c_str(), 0777) == 0) return {};
  const int error = errno;
  struct stat info;
  if (error == EEXIST && stat(path.c_str(), &info) == 0 && S_ISDIR(info.st_mode)) return {};
  return system_error("make the folder", path, error);
}

// About one problem in eight, whatever the seed of the corpus.
bool held_out(const std::string& problem) { return hash_text(problem) % 8 == 0; }

// Held-out problems are never trained, not even as an earlier turn.
bool belongs(const Example& example, bool to_held_out) {
  if (example.train_only || !held_out(example.problem))
    return !to_held_out && std::ranges::none_of(example.earlier, held_out);
  return to_held_out;
}

// The example at a place of one side of the corpus; another try gives another one.
Example corpus_example(const CorpusOptions& options, bool of_held_out, int64_t index, int64_t tries) {
  const uint64_t place = mixed(static_cast<uint64_t>(index) * 2 + (of_held_out ? 1 : 0));
  CorpusRandom random(mixed(mixed(options.seed) ^ place) + static_cast<uint64_t>(tries));
  const bool first_lesson = !of_held_out && options.focus.empty() && index < options.train / kFirstLessons;
  const auto next = [&] {
    if (!of_held_out && !options.focus.empty() && index % 2 == 0) return draw_of(options.focus, random);
    return first_lesson && random.chance(kFirstLessonsCopy) ? copy_example(random) : draw(random);
  };
  Example example = next();
  while (!belongs(example, of_held_out)) example = next();
  return example;
}

std::string corpus_line(const Example& example) {
  nlohmann::ordered_json line = {{"task", example.task}, {"messages", example.messages}};
  if (!example.tools.is_null()) line["tools"] = example.tools;
  line["answer"] = example.answer;
  return line.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

}  // namespace

Result<CorpusReport> write_corpus(const CorpusOptions& options,
                                  const std::function<bool(int64_t, int64_t)>& on_progress) {
  MOEBIUS_TRY(check_focus(options.focus));
  MOEBIUS_TRY(make_folder(options.out));
  CorpusReport report;
  const int64_t total = options.train + options.held_out;
  for (const bool of_held_out : {true, false}) {
    const char* name = of_held_out ? "held_out.jsonl" : "train.jsonl";
    MOEBIUS_ASSIGN(LineFile file, LineFile::create(fmt::format("{}/{}", options.out, name)));
    std::unordered_map<uint64_t, int> seen;  // times, by hash of the line
    std::map<std::string, int64_t> counts;
    const int64_t wanted = of_held_out ? options.held_out : options.train;
    for (int64_t index = 0; index < wanted; ++index) {
      std::string line;
      for (int64_t tries = 0; tries < kTriesForNew; ++tries) {
        const Example example = corpus_example(options, of_held_out, index, tries);
        line = corpus_line(example);
        int& times = seen[hash_text(line)];
        const bool allowed = times < (example.train_only ? kFactRepeats : 1);
        if (!allowed && tries + 1 < kTriesForNew) continue;
        report.repeated += times++ > 0;
        ++counts[example.task];
        break;
      }
      MOEBIUS_TRY(file.add(line));
      const int64_t done = index + 1 + (of_held_out ? 0 : options.held_out);
      if (index % 1024 == 0 && !on_progress(done, total)) {
        return Status(Code::kCancelled, "interrupted; no file was replaced");
      }
    }
    MOEBIUS_TRY(file.commit());
    (of_held_out ? report.tests : report.train).assign(counts.begin(), counts.end());
  }
  return report;
}

}  // namespace moebius
