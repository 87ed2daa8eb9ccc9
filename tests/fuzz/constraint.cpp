// Fuzzes the compilers of JSON Schema, regular expressions and GBNF: whatever is accepted must be followed
// over any text without a dead end.
//
// Input: a byte (S, R, J or G for a schema, an expression, one within JSON, a grammar), the source up to a
// NUL byte, then a text whose bytes choose among what may come next.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "models/constraint/constraint.h"
#include "models/constraint/gbnf.h"
#include "models/constraint/json_schema.h"
#include "models/constraint/regex.h"
#include "models/json_fields.h"

namespace {

using namespace moebius;

GrammarLimits limits() {
  GrammarLimits out;
  out.rules = 500;
  out.expressions = 20'000;
  out.nodes = 10'000;
  out.configurations = 300;
  out.mask_work = 100'000;
  out.cache_bytes = 1 << 20;
  out.stack = 20;
  return out;
}

Result<ExprId> add(Grammar& grammar, char kind, std::string_view source) {
  if (kind == 'S') {
    const Schema schema = parse_ordered_json(source);
    if (schema.is_discarded()) return invalid("no JSON");
    JsonText text(grammar);
    return add_json_schema(text, schema);
  }
  if (kind == 'G') return add_gbnf(grammar, source);
  MOEBIUS_ASSIGN(const RegexExpr regex,
                 add_regex(grammar, source, {.json = kind == 'J', .search = kind == 'J'}));
  return regex.single ? grammar.repeat(regex.expr, regex.min, regex.max) : regex.expr;
}

void check_message(const Status& status) {
  MOEBIUS_CHECK(!status.message().empty() && status.message().find('\n') == std::string::npos,
                "a message of one line");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string_view input(reinterpret_cast<const char*>(data) + 1, size - 1);
  const size_t end = input.find('\0');
  const std::string_view choices = end == std::string_view::npos ? "abc\1\2\3" : input.substr(end + 1);
  Grammar grammar(limits());
  const Result<ExprId> root = add(grammar, static_cast<char>(data[0]), input.substr(0, end));
  if (!root.ok()) {
    check_message(root.status());
    return 0;
  }
  grammar.set_root(*root);
  const auto program = Program::compile(grammar);
  if (!program.ok()) {
    check_message(program.status());
    return 0;
  }
  StateCache cache(*program);
  const auto start = cache.start();
  if (!start.ok()) return 0;
  StateCache::StateId state = *start;
  for (const char choice : choices) {
    std::vector<StateCache::StateId> next;
    cache.begin_mask();
    for (int32_t c = 0; c < (*program)->classes(); ++c) {
      const StateCache::StateId to = cache.step(state, c);
      if (to != StateCache::kDead) next.push_back(to);
    }
    if (!cache.status().ok() || cache.full()) break;
    MOEBIUS_CHECK(!next.empty() || cache.accepts(state), "no dead ends");
    if (next.empty()) break;
    state = next[static_cast<unsigned char>(choice) % next.size()];
  }
  return 0;
}
