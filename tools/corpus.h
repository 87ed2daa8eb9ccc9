// The corpus of small chat models: seeded examples of tasks whose answers can be checked.
//
// An example is a conversation and the answer that a checker (tools/corpus_check.h) holds a reply to. Every
// family is a pure function of a CorpusRandom, so a seed gives the same bytes on every machine; two draws are
// never arguments of one call, whose order a compiler may choose.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include "kernels/status.h"

namespace moebius {

// SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, OOPSLA 2014).
class CorpusRandom {
 public:
  explicit CorpusRandom(uint64_t seed) : state_(seed) {}
  uint64_t next();
  int64_t below(int64_t count);                // 0 .. count - 1, each equally likely; count >= 1
  int64_t between(int64_t low, int64_t high);  // both included
  bool chance(int percent) { return below(100) < percent; }

  template <class List>
  const auto& pick(const List& list) {
    return list[static_cast<size_t>(below(static_cast<int64_t>(std::size(list))))];
  }
  template <class T>
  void shuffle(std::vector<T>& list) {
    for (size_t i = list.size(); i > 1; --i) {
      std::swap(list[i - 1], list[static_cast<size_t>(below(static_cast<int64_t>(i)))]);
    }
  }
  // count different elements of list, in random order; count <= its size.
  template <class List>
  std::vector<std::string> sample(const List& list, size_t count) {
    std::vector<std::string> all(std::begin(list), std::end(list));
    for (size_t i = 0; i < count; ++i) {
      std::swap(all[i], all[i + static_cast<size_t>(below(static_cast<int64_t>(all.size() - i)))]);
    }
    all.resize(count);
    return all;
  }

 private:
  uint64_t state_;
};

struct Example {
  std::string task;
  // Equal for two examples of the same problem however they are worded. Decides train or held out.
  std::string problem;
  std::vector<std::string> earlier;  // problems of the conversation's earlier turns
  bool train_only = false;           // a fact that can be known only from training
  std::string answer;
  nlohmann::ordered_json messages;
  nlohmann::ordered_json tools;  // null without tools
};

// One question and one answer.
Example ask(std::string task, std::string problem, std::string user, std::string assistant,
            std::string answer);

void add_turn(Example& example, std::string user, std::string assistant);

// pattern with {0}, {1}, ... replaced by values; an index without a value is a broken invariant.
std::string fill(std::string_view pattern, std::initializer_list<std::string_view> values);
std::string join(std::span<const std::string> items, std::string_view between);
std::string join_and(std::span<const std::string> items);  // "a, b and c"
std::string capitalised(std::string text);
std::string with_article(const std::string& noun);  // "a river", "an owl"

// The families, one file each.
Example about_example(CorpusRandom& random);       // Moebius and how to use it
Example arithmetic_example(CorpusRandom& random);  // worked step by step
Example list_example(CorpusRandom& random);        // sorting, reversing, counting
Example copy_example(CorpusRandom& random);        // of these, saying a list again
Example world_example(CorpusRandom& random);       // people and places, given in the prompt or known
Example story_example(CorpusRandom& random);       // a story with given words
Example tool_example(CorpusRandom& random);        // calls of a calculator
Example talk_example(CorpusRandom& random);        // small talk

// The problem of an arithmetic question, shared by all families that ask it: "12+34" also for 34 + 12.
std::string arithmetic_problem(int64_t left, char operation, int64_t right);

struct CorpusOptions {
  std::string out;  // folder; made if missing
  uint64_t seed = 0;
  int64_t train = 400'000, held_out = 4'000;  // examples
  // Every other training example is of one of these tasks, and there are no first lessons: for a model that
  // has learned the rest. Empty: all as they come.
  std::vector<std::string> focus;
};

struct CorpusReport {
  int64_t repeated = 0;                                       // examples equal to an earlier one
  std::vector<std::pair<std::string, int64_t>> train, tests;  // examples of each task, by name
};

// Writes train.jsonl and held_out.jsonl, each atomically. on_progress gets examples done and in total; false
// cancels (kCancelled). kInvalid: a task in focus that does not exist. Errors: those of AtomicFile.
Result<CorpusReport> write_corpus(const CorpusOptions& options,
                                  const std::function<bool(int64_t, int64_t)>& on_progress);

}  // namespace moebius
