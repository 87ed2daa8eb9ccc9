// Token masks: how long a mask over a whole vocabulary takes, for states met for the first time and again.
//
//   build/bench_token_masks [FOLDER WITH A TOKENIZER]
//
// Without a folder: a made-up vocabulary of 163,840 tokens, like Kimi-K2's in size.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <random>

#include <fmt/format.h>

#include "models/constraint/constraint.h"
#include "models/constraint/gbnf.h"
#include "models/constraint/json_schema.h"
#include "models/constraint/regex.h"
#include "models/tokenizer.h"

namespace moebius {
namespace {

using Clock = std::chrono::steady_clock;

double micros(Clock::time_point since) {
  return std::chrono::duration<double, std::micro>(Clock::now() - since).count();
}

// Bytes, then words of letters, numbers, punctuation as code and prose have it, and Chinese.
std::vector<std::string> made_up_tokens(size_t count) {
  std::mt19937 random(1);
  const auto below = [&](unsigned n) { return random() % n; };
  std::vector<std::string> out;
  for (int byte = 0; byte < 256; ++byte) out.emplace_back(1, static_cast<char>(byte));
  constexpr std::string_view kLetters = "eeeeeetttaaaooiinnsshhrrddlluucmfwygpbvk",
                             kMarks = ".,:;!?'\"()[]{}<>=+-*/\\_#&|";
  while (out.size() < count) {
    std::string token;
    const unsigned kind = below(100);
    if (kind < 75) {
      if (below(2) == 0) token += ' ';
      for (unsigned i = 0, n = 2 + below(9); i < n; ++i)
        token += kLetters[below(static_cast<unsigned>(kLetters.size()))];
      if (below(4) == 0) token[token.size() > 1 ? 1 : 0] = static_cast<char>('A' + below(26));
    } else if (kind < 85) {
      for (unsigned i = 0, n = 1 + below(4); i < n; ++i)
        token += kMarks[below(static_cast<unsigned>(kMarks.size()))];
      if (below(3) == 0) token += "\n";
      if (below(3) == 0) token += std::string(below(12), ' ');
    } else if (kind < 87) {
      for (unsigned i = 0, n = 1 + below(3); i < n; ++i) token += static_cast<char>('0' + below(10));
    } else {
      for (unsigned i = 0, n = 1 + below(4); i < n; ++i) {
        const unsigned c = 0x4E00 + below(0x51A5);
        token += static_cast<char>(0xE0 | c >> 12);
        token += static_cast<char>(0x80 | (c >> 6 & 0x3F));
        token += static_cast<char>(0x80 | (c & 0x3F));
      }
    }
    out.push_back(token);
  }
  return out;
}

struct Source {
  const char* name;
  Result<ExprId> (*add)(Grammar&);
};

Result<ExprId> schema(Grammar& grammar, const char* text) {
  JsonText json(grammar);
  return add_json_schema(json, Schema::parse(text));
}

const Source kSources[] = {
    {"json_object", [](Grammar& g) -> Result<ExprId> { return JsonText(g).object(); }},
    {"person schema",
     [](Grammar& g) {
       return schema(
           g, R"({"type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer",
         "minimum": 0, "maximum": 150}, "email": {"type": "string", "format": "email"}, "tags": {"type": "array",
         "items": {"enum": ["red", "green", "blue"]}, "maxItems": 5}, "address": {"anyOf": [{"$ref": "#/$defs/a"},
         {"type": "null"}]}}, "required": ["name", "age", "email", "tags", "address"], "$defs": {"a": {"type":
         "object", "properties": {"street": {"type": "string"}, "zip": {"type": "string", "pattern":
         "^[0-9]{5}$"}}, "required": ["street", "zip"]}}})");
     }},
    {"string of 200", [](Grammar& g) { return schema(g, R"({"type": "string", "maxLength": 200})"); }},
    {"pattern, 200 letters",
     [](Grammar& g) { return schema(g, R"({"type": "string", "pattern": "^[a-zA-Z ]{1,200}$"})"); }},
    {"list of lists", [](Grammar& g) { return schema(g, R"({"type": "array", "items": {"$ref": "#"}})"); }},
    {"GBNF expression",
     [](Grammar& g) {
       return add_gbnf(
           g, "root ::= expr\nexpr ::= term ([-+*/] term)*\nterm ::= [0-9]+ | [a-z]+ | \"(\" expr \")\"");
     }},
};

// A random walk that favours long tokens, for as long as an answer of 300 tokens goes on.
std::vector<double> walk(const std::shared_ptr<const Constraint>& constraint,
                         const TokenVocabulary& vocabulary, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<double> times;
  ConstraintState state(constraint);
  for (int step = 0; step < 300; ++step) {
    const auto begin = Clock::now();
    const auto mask = state.mask();
    times.push_back(micros(begin));
    if (!mask.ok()) break;
    int32_t next = -1;
    for (int tries = 0; tries < 4000; ++tries) {
      const auto id = static_cast<int32_t>(random() % static_cast<unsigned>(vocabulary.size()));
      if (!mask_allows(**mask, id)) continue;
      if (next < 0 || vocabulary.text(id).size() > vocabulary.text(next).size()) next = id;
      if (tries > 50) break;
    }
    for (int32_t id = 0; next < 0 && id < vocabulary.size(); ++id) {
      if (mask_allows(**mask, id) && !vocabulary.text(id).empty()) next = id;
    }
    if (next < 0 || !state.advance(next)) break;
  }
  return times;
}

double share_of(std::vector<double>& times, double share) {
  std::sort(times.begin(), times.end());
  return times[std::min(times.size() - 1, static_cast<size_t>(share * static_cast<double>(times.size())))];
}

// Each answer by a constraint that nobody has used before, then once more.
void report(const Source& source, const std::shared_ptr<const TokenVocabulary>& vocabulary) {
  std::vector<double> ready, first, again;
  for (unsigned seed = 1; seed <= 20; ++seed) {
    const auto begin = Clock::now();
    Grammar grammar;
    const Result<ExprId> root = source.add(grammar);
    MOEBIUS_CHECK(root.ok(), root.status().message());
    grammar.set_root(*root);
    const auto constraint =
        Constraint::compile(grammar, vocabulary, {static_cast<int32_t>(vocabulary->size()) - 1});
    MOEBIUS_CHECK(constraint.ok(), constraint.status().message());
    ready.push_back(micros(begin));
    for (const double t : walk(*constraint, *vocabulary, seed)) first.push_back(t);
    for (const double t : walk(*constraint, *vocabulary, seed)) again.push_back(t);
  }
  double sum = 0;
  for (const double t : first) sum += t;
  fmt::print("{:22} {:8.2f} {:7} {:9.1f} {:9.1f} {:9.1f} {:9.1f} {:9.2f}\n", source.name,
             share_of(ready, 0.5) / 1000, first.size(), sum / static_cast<double>(first.size()),
             share_of(first, 0.5), share_of(first, 0.99), share_of(first, 1), share_of(again, 0.99));
}

int run(const std::string& folder) {
  std::shared_ptr<const TokenVocabulary> vocabulary;
  std::unique_ptr<Tokenizer> tokenizer;
  const auto begin = Clock::now();
  if (folder.empty()) {
    const std::vector<std::string> texts = made_up_tokens(163'840);
    const std::vector<std::string_view> views(texts.begin(), texts.end());
    vocabulary = TokenVocabulary::of(views);
  } else {
    auto opened = Tokenizer::open(folder);
    if (!opened.ok()) return fmt::print(stderr, "{}\n", opened.status().message()), 1;
    tokenizer = std::move(*opened);
    vocabulary = TokenVocabulary::of(*tokenizer, tokenizer->vocab_size(), {});
  }
  fmt::print("{} tokens, made ready in {:.0f} ms\n", vocabulary->size(), micros(begin) / 1000);
  fmt::print("{:22} {:>8} {:>7} {:>9} {:>9} {:>9} {:>9} {:>9}\n", "us a mask", "ready ms", "masks", "mean",
             "median", "99 %", "most", "again 99%");
  for (const Source& source : kSources) report(source, vocabulary);
  return 0;
}

}  // namespace
}  // namespace moebius

int main(int argc, char** argv) { return moebius::run(argc > 1 ? argv[1] : ""); }
