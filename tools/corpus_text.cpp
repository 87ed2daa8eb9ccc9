#include <algorithm>

#include "tools/corpus.h"

namespace moebius {

uint64_t CorpusRandom::next() {
  uint64_t value = state_ += 0x9e3779b97f4a7c15u;
  value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9u;
  value = (value ^ (value >> 27)) * 0x94d049bb133111ebu;
  return value ^ (value >> 31);
}

int64_t CorpusRandom::below(int64_t count) {
  MOEBIUS_CHECK(count >= 1);
  const uint64_t size = static_cast<uint64_t>(count);
  const uint64_t biased = (0 - size) % size;  // 2^64 mod size: the draws below it are one too many
  uint64_t value = next();
  while (value < biased) value = next();
  return static_cast<int64_t>(value % size);
}

int64_t CorpusRandom::between(int64_t low, int64_t high) { return low + below(high - low + 1); }

Example ask(std::string task, std::string problem, std::string user, std::string assistant,
            std::string answer) {
  Example example;
  example.task = std::move(task);
  example.problem = std::move(problem);
  example.answer = std::move(answer);
  example.messages = {{{"role", "user"}, {"content", std::move(user)}},
                      {{"role", "assistant"}, {"content", std::move(assistant)}}};
  return example;
}

void add_turn(Example& example, std::string user, std::string assistant) {
  example.messages.push_back({{"role", "user"}, {"content", std::move(user)}});
  example.messages.push_back({{"role", "assistant"}, {"content", std::move(assistant)}});
}

std::string fill(std::string_view pattern, std::initializer_list<std::string_view> values) {
  std::string out;
  out.reserve(pattern.size() + 32);
  for (size_t i = 0; i < pattern.size(); ++i) {
    const bool slot = pattern[i] == '{' && i + 2 < pattern.size() && pattern[i + 2] == '}' &&
                      pattern[i + 1] >= '0' && pattern[i + 1] <= '9';
    if (!slot) {
      out.push_back(pattern[i]);
      continue;
    }
    const size_t index = static_cast<size_t>(pattern[i + 1] - '0');
    MOEBIUS_CHECK(index < values.size(), std::string(pattern));
    out.append(values.begin()[index]);
    i += 2;
  }
  return out;
}

std::string join(std::span<const std::string> items, std::string_view between) {
  std::string out;
  for (const std::string& item : items) {
    if (!out.empty()) out.append(between);
    out.append(item);
  }
  return out;
}

std::string join_and(std::span<const std::string> items) {
  if (items.size() < 2) return join(items, "");
  return join(items.first(items.size() - 1), ", ") + " and " + items.back();
}

std::string capitalised(std::string text) {
  if (!text.empty() && text[0] >= 'a' && text[0] <= 'z') text[0] = static_cast<char>(text[0] - 'a' + 'A');
  return text;
}

std::string with_article(const std::string& noun) {
  const bool vowel = !noun.empty() && std::string_view("aeiouAEIOU").find(noun[0]) != std::string_view::npos;
  return (vowel ? "an " : "a ") + noun;
}

}  // namespace moebius
