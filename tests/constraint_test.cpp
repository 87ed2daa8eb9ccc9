// Grammars, regular expressions and JSON Schemas as automata: against the verdicts of `jsonschema` and
// Python's `re` (tests/golden/make_constraint_golden.py), texts done by hand, and what is to be refused.
#include <gtest/gtest.h>

#include <fstream>
#include <random>
#include <sstream>

#include "models/constraint/constraint.h"
#include "models/constraint/gbnf.h"
#include "models/constraint/json_schema.h"
#include "models/constraint/regex.h"
#include "models/json_fields.h"

namespace moebius {
namespace {

// A grammar's verdict on whole texts.
class Reader {
 public:
  explicit Reader(const Grammar& grammar) {
    Result<std::shared_ptr<const Program>> program = Program::compile(grammar);
    status_ = program.ok() ? Status() : program.status();
    if (program.ok()) cache_ = std::make_unique<StateCache>(*program);
  }
  const Status& status() const { return status_; }
  bool accepts(std::string_view text) {
    StateCache::StateId state = *cache_->start();
    for (const char c : text) {
      if (state == StateCache::kDead) return false;
      state = cache_->step(state, cache_->program().class_of(static_cast<unsigned char>(c)));
    }
    EXPECT_TRUE(cache_->status().ok()) << cache_->status().message();
    return state != StateCache::kDead && cache_->accepts(state);
  }

 private:
  Status status_;
  std::unique_ptr<StateCache> cache_;
};

Reader schema_reader(const Schema& schema, GrammarLimits limits = {}) {
  Grammar grammar(limits);
  JsonText text(grammar);
  const Result<ExprId> root = add_json_schema(text, schema);
  if (root.ok()) grammar.set_root(*root);
  return Reader(grammar);
}

Reader regex_reader(std::string_view pattern) {
  Grammar grammar;
  const Result<RegexExpr> root = add_regex(grammar, pattern, {});
  if (!root.ok()) {
    grammar.fail(root.status());
  } else {
    grammar.set_root(root->single ? grammar.repeat(root->expr, root->min, root->max) : root->expr);
  }
  return Reader(grammar);
}

Reader gbnf_reader(std::string_view text) {
  Grammar grammar;
  const Result<ExprId> root = add_gbnf(grammar, text);
  if (!root.ok()) {
    grammar.fail(root.status());
  } else {
    grammar.set_root(*root);
  }
  return Reader(grammar);
}

TEST(JsonSchema, AgreesWithJsonschema) {
  const Schema cases = Schema::parse(std::ifstream("tests/golden/constraints/schemas.json"));
  ASSERT_GT(cases.size(), 140u);
  for (const Schema& golden : cases) {
    const std::string shown = golden["schema"].dump();
    Reader reader = schema_reader(golden["schema"]);
    ASSERT_TRUE(reader.status().ok()) << shown << reader.status().message();
    for (const Schema& text : golden["valid"])
      EXPECT_TRUE(reader.accepts(text.get<std::string>())) << text << shown;
    for (const Schema& text : golden["invalid"])
      EXPECT_FALSE(reader.accepts(text.get<std::string>())) << text << shown;
  }
}

// Every text of a small world, with the verdict of jsonschema.
TEST(JsonSchema, CountsAsJsonschemaDoes) {
  const Schema cases = Schema::parse(std::ifstream("tests/golden/constraints/counted.json"));
  ASSERT_GE(cases.size(), 15u);
  for (const Schema& golden : cases) {
    const std::string shown = golden["schema"].dump();
    Reader reader = schema_reader(golden["schema"]);
    ASSERT_TRUE(reader.status().ok()) << shown << reader.status().message();
    EXPECT_FALSE(golden["valid"].empty() || golden["invalid"].empty()) << shown;
    for (const Schema& text : golden["valid"])
      EXPECT_TRUE(reader.accepts(text.get<std::string>())) << text << shown;
    for (const Schema& text : golden["invalid"])
      EXPECT_FALSE(reader.accepts(text.get<std::string>())) << text << shown;
  }
}

TEST(Regex, AgreesWithPython) {
  const Schema cases = Schema::parse(std::ifstream("tests/golden/constraints/regexes.json"));
  ASSERT_GT(cases.size(), 30u);
  for (const Schema& golden : cases) {
    const std::string pattern = golden["pattern"];
    Reader reader = regex_reader(pattern);
    ASSERT_TRUE(reader.status().ok()) << pattern << reader.status().message();
    for (const Schema& text : golden["accepted"])
      EXPECT_TRUE(reader.accepts(text.get<std::string>())) << text << pattern;
    for (const Schema& text : golden["rejected"])
      EXPECT_FALSE(reader.accepts(text.get<std::string>())) << text << pattern;
  }
}

TEST(Gbnf, ReadsGrammars) {
  struct Case {
    const char* grammar;
    std::vector<std::string> accepted, rejected;
  };
  const std::vector<Case> table = {
      {"root ::= \"yes\" | \"no\"", {"yes", "no"}, {"", "ye", "yesno", "maybe"}},
      {"# a comment\nroot ::= item (\",\" item)* # another\nitem ::= [a-c]+\n",
       {"a", "abc,c", "a,b,a"},
       {"", ",", "a,", "d"}},
      {"root ::= expr\nexpr ::= term ([-+] term)*\nterm ::= num | \"(\" expr \")\"\nnum ::= [0-9]+",
       {"1", "1+2", "(1-(2+3))+44"},
       {"(", "1+", "()", "(1"}},
      {"root ::=\n  \"a\"\n  | \"b\"\n  | ( \"c\"\n \"d\" )", {"a", "b", "cd"}, {"c", "ab"}},
      {"root ::= \"x\"{2,3} [^\\n]? .", {"xxy", "xxx", "xxxyz", "xx\n"}, {"xx", "x", "xxxxyz"}},
      {"root ::= \"\\x41\\u00e9\\\"\\n\"", {"A\xC3\xA9\"\n"}, {"A"}},
      {"root ::= word ws word\nword ::= [a-z] word | [a-z]\nws ::= \" \" ws | \"\"",
       {"a b", "ab", std::string(3000, 'a'), "a" + std::string(500, ' ') + "b"},
       {"a", " a"}},
      {"root ::= \"[\" (root (\",\" root)*)? \"]\"", {"[]", "[[],[[]]]"}, {"[", "[,]", "[]]"}},
  };
  for (const Case& row : table) {
    Reader reader = gbnf_reader(row.grammar);
    ASSERT_TRUE(reader.status().ok()) << row.grammar << reader.status().message();
    for (const std::string& text : row.accepted)
      EXPECT_TRUE(reader.accepts(text)) << row.grammar << "\n" << text;
    for (const std::string& text : row.rejected)
      EXPECT_FALSE(reader.accepts(text)) << row.grammar << "\n" << text;
  }
}

std::string nested(const std::string& open, const std::string& inside, const std::string& close, int times) {
  std::string out;
  for (int i = 0; i < times; ++i) out += open;
  out += inside;
  for (int i = 0; i < times; ++i) out += close;
  return out;
}

void expect_refused(const Reader& reader, const std::string& word, const std::string& what) {
  ASSERT_FALSE(reader.status().ok()) << what.substr(0, 200);
  EXPECT_NE(reader.status().message().find(word), std::string::npos) << reader.status().message() << "\n"
                                                                     << what.substr(0, 200);
  EXPECT_EQ(reader.status().message().find('\n'), std::string::npos);
}

TEST(Gbnf, RefusesWhatIsWrongOrTooLarge) {
  const std::vector<std::pair<std::string, std::string>> table = {
      {"", "root"},
      {"a ::= \"x\"", "root"},
      {"root ::= missing", "`missing`"},
      {"root ::= \"x", "second"},
      {"root ::= [a", "]"},
      {"root ::= (\"a\"", ")"},
      {"root = \"a\"", "::="},
      {"root ::= \"a\"\nroot ::= \"b\"", "twice"},
      {"root ::= \"a\"{5,2}", "empty"},
      {"root ::= \"a\"{1001}", "1000"},
      {"root ::= \"a\"{1,99999999999999999999}", "1000"},
      {"root ::= root \"a\" | \"b\"", "leads to itself"},
      {"root ::= a\na ::= b? c\nb ::= \"b\"\nc ::= a \"x\" | \"y\"", "leads to itself"},
      {"root ::= \"a\" root", "never ends"},
      {"root ::= " + nested("(", "\"a\"", ")", 2000), "deep"},
      {"root ::= " + nested("(", "\"a\"", "){1000}", 20), "deep"},
      {"root ::= \"\xff\"", "UTF-8"},
      {"root ::= \"\\ud800\"", "character"},
  };
  for (const auto& [grammar, word] : table) {
    if (word == "deep" && grammar.size() < 300) continue;
    expect_refused(gbnf_reader(grammar), word, grammar);
  }
  std::string many = "root ::= r0\n";
  for (int i = 0; i < 11'000; ++i) many += "r" + std::to_string(i) + " ::= \"a\"\n";
  expect_refused(gbnf_reader(many), "rules", many);
}

TEST(Regex, RefusesWhatIsNotRegularOrTooLarge) {
  const std::vector<std::pair<std::string, std::string>> table = {
      {"(?=a)b", "look-around"},
      {"(?!a)b", "look-around"},
      {"(?<=a)b", "look-around"},
      {"(a)\\1", "back ref"},
      {"(?P<n>a)(?P=n)", "back"},
      {"a\\b", "\\b"},
      {"(?i)a", "flags"},
      {"a++", "possessive"},
      {"\\p{L}", "\\p"},
      {"a^b", "anchor"},
      {"(a", ")"},
      {"a)", "unmatched"},
      {"[a", "]"},
      {"*a", "quantifier"},
      {"a**", "two quantifiers"},
      {"a{2,1}", "empty"},
      {"a{1001}", "1000"},
      {"[b-a]", "range"},
      {"a\\", "backslash"},
      {"\\ud800", "character"},
      {"\xff", "UTF-8"},
      {nested("(", "a", ")", 100'000), "deep"},
  };
  for (const auto& [pattern, word] : table) expect_refused(regex_reader(pattern), word, pattern);
}

TEST(JsonSchema, RefusesByNameAndPlace) {
  const std::vector<std::pair<const char*, const char*>> table = {
      {R"({"type": "object", "properties": {"a": {"not": {}}}})", "`not` at #/properties/a"},
      {R"({"if": {}, "then": {}})", "`if`"},
      {R"({"type": "array", "uniqueItems": true})", "`uniqueItems`"},
      {R"({"type": "number", "multipleOf": 0.5})", "`multipleOf`"},
      {R"({"type": "integer", "multipleOf": 0})", "`multipleOf`"},
      {R"({"type": "integer", "multipleOf": 3, "minimum": 1})", "`multipleOf`"},
      {R"({"type": "array", "uniqueItems": true, "items": {"enum": [1, 2, 3, 4, 5, 6, 7, 8, 9]}})",
       "`uniqueItems`"},
      {R"({"type": "array", "uniqueItems": 1, "items": {"enum": [1]}})", "`uniqueItems`"},
      {R"({"patternProperties": {"a": {}}})", "`patternProperties`"},
      {R"({"patternProperties": {"a": {}, "b": {}}, "additionalProperties": false})", "`patternProperties`"},
      {R"({"patternProperties": {"a": {}}, "properties": {"a": {}}, "additionalProperties": false})",
       "`patternProperties`"},
      {R"({"patternProperties": {"a": {}}, "required": ["a"], "additionalProperties": false})",
       "`patternProperties`"},
      {R"({"patternProperties": [], "additionalProperties": false})", "`patternProperties`"},
      {R"({"allOf": [{"patternProperties": {"a": {}}}, {"additionalProperties": false}]})",
       "`additionalProperties`"},
      {R"({"type": "object", "minProperties": 2})", "`minProperties`"},
      {R"({"type": "object", "properties": {"a": {}}, "additionalProperties": true, "minProperties": 2})",
       "`minProperties`"},
      {R"({"type": "object", "minProperties": -1})", "`minProperties`"},
      {R"({"type": "object", "properties": {"a": {}}, "minProperties": 2})", "contradicts"},
      {R"({"type": "object", "properties": {"a": {}, "b": {}}, "required": ["a", "b"], "maxProperties": 1})",
       "contradicts"},
      {R"({"type": "string", "format": "iri"})", "`iri`"},
      {R"j({"type": "string", "pattern": "(?=a)"})j", "look-around"},
      {R"j({"type": "string", "pattern": "^(a|bc)+$", "maxLength": 5})j", "lengths"},
      {R"({"type": "strin"})", "`type`"},
      {R"({"type": 5})", "`type`"},
      {R"({"enum": []})", "`enum`"},
      {R"({"enum": [3], "minimum": 2})", "`minimum` together"},
      {R"({"properties": []})", "`properties`"},
      {R"({"required": "a"})", "`required`"},
      {R"({"minLength": -1})", "`minLength`"},
      {R"({"minimum": "1"})", "`minimum`"},
      {R"({"$ref": "http://example.com/x"})", "out of the document"},
      {R"({"$ref": "#/$defs/none"})", "not there"},
      {R"({"$ref": "#"})", "leads to itself"},
      {R"({"$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}, {"type": "null"}]}}, "$ref": "#/$defs/a"})",
       "leads to itself"},
      {R"({"type": "object", "properties": {"next": {"$ref": "#"}}, "required": ["next"]})", "never ends"},
      {R"({"type": "object", "properties": {"a": false}, "required": ["a"]})", "contradicts"},
      {R"({"oneOf": [{"type": "integer"}, {"type": "number"}]})", "`oneOf`"},
      {R"({"oneOf": [{"minLength": 2}, {"maxLength": 5}]})", "`oneOf`"},
      {R"({"allOf": [{"minimum": 2}, {"minimum": 3}]})", "`minimum`"},
      {R"({"type": "array", "items": [{}]})", "`items`"},
      {R"([])", "an object"},
      {R"(false)", "contradicts"},
      {R"({"type": "number", "minimum": 1e300})", "bound"},
      {R"({"type": "integer", "minimum": 5, "maximum": 4})", "contradicts"},
  };
  for (const auto& [schema, word] : table) expect_refused(schema_reader(Schema::parse(schema)), word, schema);
}

TEST(JsonSchema, StaysWithinItsLimits) {
  Schema deep = {{"type", "integer"}};
  for (int i = 0; i < 400; ++i) {
    Schema outer = {{"type", "array"}};
    outer["items"] = std::move(deep);
    deep = std::move(outer);
  }
  expect_refused(schema_reader(deep), "deep", "nested arrays");
  Schema wide = {{"enum", Schema::array()}};
  for (int i = 0; i < 100'000; ++i) wide["enum"].push_back(std::string(40, 'x') + std::to_string(i));
  expect_refused(schema_reader(wide), "fixed texts", "a large enum");
  // Every definition uses the one before ten times: written out it would be 10^60 long.
  Schema bomb = {{"$defs", {{"d0", {{"type", "integer"}}}}}, {"$ref", "#/$defs/d60"}};
  for (int i = 1; i <= 60; ++i) {
    Schema all = Schema::array();
    for (int j = 0; j < 10; ++j) all.push_back({{"$ref", "#/$defs/d" + std::to_string(i - 1)}});
    bomb["$defs"]["d" + std::to_string(i)] = {
        {"type", "array"}, {"prefixItems", all}, {"items", false}, {"minItems", 10}};
  }
  EXPECT_TRUE(schema_reader(bomb).status().ok());
  Schema names = {
      {"type", "object"}, {"additionalProperties", true}, {"properties", {{std::string(2000, 'n'), true}}}};
  expect_refused(schema_reader(names), "name", "a long name");
}

TEST(JsonSchema, BoundsTheNestingOfAnAnswer) {
  GrammarLimits limits;
  limits.stack = 20;
  Reader reader = schema_reader(true, limits);
  EXPECT_TRUE(reader.accepts(nested("[", "1", "]", 15)));
  EXPECT_FALSE(reader.accepts(nested("[", "1", "]", 40)));
  Reader object = schema_reader(
      Schema::parse(
          R"({"type": "object", "properties": {"next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}}, "required": ["next"]})"),
      limits);
  EXPECT_TRUE(object.accepts(nested(R"({"next":)", "null", "}", 10)));
  EXPECT_FALSE(object.accepts(nested(R"({"next":)", "null", "}", 40)));
}

TEST(Grammar, GivesUpOnAmbiguity) {
  GrammarLimits limits;
  limits.configurations = 100;
  Grammar grammar(limits);
  const Result<RegexExpr> root = add_regex(grammar, "((a{1,40}b?){1,40}c?){1,40}", {});
  ASSERT_TRUE(root.ok());
  grammar.set_root(root->expr);
  Result<std::shared_ptr<const Program>> program = Program::compile(grammar);
  ASSERT_TRUE(program.ok());
  StateCache cache(*program);
  StateCache::StateId state = *cache.start();
  for (int i = 0; i < 60 && state != StateCache::kDead; ++i)
    state = cache.step(state, (*program)->class_of('a'));
  EXPECT_NE(cache.status().message().find("ambiguous"), std::string::npos);
}

// A vocabulary of all bytes, some words, and a token 300 without text.
std::vector<std::string> test_texts() {
  std::vector<std::string> out;
  for (int i = 0; i < 256; ++i) out.emplace_back(1, static_cast<char>(i));
  for (const char* word :
       {"{\"",       "\":",      "\", \"", "true", "tru",
        "null",      "hello",    " world", "12",   "345",
        "\xC3\xA9t", "\xE6\xBC", "]}",     "\\n",  "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        "0.",        "-1",       "\n  ",   "[[",   "\"}"})
    out.emplace_back(word);
  out.resize(301);
  return out;
}

std::shared_ptr<const TokenVocabulary> test_vocabulary() {
  const std::vector<std::string> texts = test_texts();
  const std::vector<std::string_view> views(texts.begin(), texts.end());
  return TokenVocabulary::of(views);
}

constexpr int32_t kEnd = 299, kMarkup = 300;

// The mask by definition: every token is tried byte by byte.
void expect_mask_is_right(ConstraintState& state, const std::vector<std::string>& texts) {
  const auto mask = state.mask();
  ASSERT_TRUE(mask.ok()) << mask.status().message();
  for (int32_t id = 0; id < static_cast<int32_t>(texts.size()); ++id) {
    ConstraintState copy = state;
    EXPECT_EQ(mask_allows(**mask, id), copy.advance(id))
        << id << " '" << texts[static_cast<size_t>(id)] << "'";
  }
}

TEST(Mask, HoldsWhatCanBeReadOnRandomWalks) {
  const Schema cases = Schema::parse(std::ifstream("tests/golden/constraints/schemas.json"));
  const auto vocabulary = test_vocabulary();
  const std::vector<std::string> texts = test_texts();
  std::mt19937 random(1);
  for (size_t i = 0; i < cases.size(); i += 3) {
    Grammar grammar;
    JsonText text(grammar);
    const Result<ExprId> root = add_json_schema(text, cases[i]["schema"]);
    ASSERT_TRUE(root.ok());
    grammar.set_root(grammar.sequence({*root, grammar.token(kMarkup)}));
    const auto constraint = Constraint::compile(grammar, vocabulary, {kEnd});
    ASSERT_TRUE(constraint.ok()) << constraint.status().message();
    ConstraintState state(*constraint);
    for (int step = 0; step < 25 && !state.accepts(); ++step) {
      expect_mask_is_right(state, texts);
      const auto mask = state.mask();
      std::vector<int32_t> allowed;
      for (int32_t id = 0; id < static_cast<int32_t>(texts.size()); ++id) {
        if (mask_allows(**mask, id)) allowed.push_back(id);
      }
      ASSERT_FALSE(allowed.empty());
      ASSERT_TRUE(state.advance(allowed[random() % allowed.size()]));
    }
  }
}

TEST(Mask, EndsOnlyWhereTheGrammarAccepts) {
  Grammar grammar;
  grammar.set_root(grammar.sequence({grammar.any_of({"a", "ab"}), grammar.optional(grammar.token(kMarkup))}));
  const auto constraint = Constraint::compile(grammar, test_vocabulary(), {kEnd});
  ASSERT_TRUE(constraint.ok());
  ConstraintState state(*constraint);
  EXPECT_FALSE(mask_allows(**state.mask(), kEnd));
  EXPECT_FALSE(state.advance(kEnd));
  EXPECT_FALSE(state.advance('b'));
  ASSERT_TRUE(state.advance('a'));
  EXPECT_TRUE(mask_allows(**state.mask(), kEnd) && mask_allows(**state.mask(), kMarkup) &&
              mask_allows(**state.mask(), 'b'));
  ConstraintState other = state;
  ASSERT_TRUE(other.advance('b'));
  ASSERT_TRUE(state.advance(kMarkup));
  EXPECT_FALSE(mask_allows(**state.mask(), kMarkup));
  EXPECT_TRUE(state.accepts() && other.accepts());
}

TEST(Mask, SurvivesAFullCache) {
  GrammarLimits limits;
  limits.cache_bytes = 20'000;  // a few states
  Grammar grammar(limits);
  JsonText text(grammar);
  grammar.set_root(text.string(100, 200));
  const auto constraint = Constraint::compile(grammar, test_vocabulary(), {kEnd});
  ASSERT_TRUE(constraint.ok());
  ConstraintState state(*constraint);
  ASSERT_TRUE(state.advance('"'));
  for (int i = 0; i < 200; ++i) {
    const auto mask = state.mask();
    ASSERT_TRUE(mask.ok());
    EXPECT_EQ(mask_allows(**mask, '"'), i >= 100) << i;
    ASSERT_TRUE(state.advance('x'));
  }
  EXPECT_FALSE(mask_allows(**state.mask(), 'x'));
  ASSERT_TRUE(state.advance('"'));
  EXPECT_TRUE(state.accepts());
}

// What a model without any sense would answer: tokens drawn among those that are allowed, later on rather
// those that close something. "" where no end was found.
std::string random_answer(const std::shared_ptr<const Constraint>& constraint,
                          const TokenVocabulary& vocabulary, int32_t end, uint32_t seed) {
  std::mt19937 random(seed);
  std::string text;
  ConstraintState state(constraint);
  for (int step = 0; step < 300; ++step) {
    const auto mask = state.mask();
    EXPECT_TRUE(mask.ok());
    if (!mask.ok()) break;
    const auto closes = [](std::string_view t) { return t.find_first_of("\"]}") != t.npos; };
    std::vector<int32_t> allowed, closing;
    for (int32_t id = 0; id < vocabulary.size(); ++id) {
      if (!mask_allows(**mask, id)) continue;
      if (id == end && (step > 8 || random() % 2 == 0)) return text;
      if (id == end) continue;
      allowed.push_back(id);
      if (closes(vocabulary.text(id))) closing.push_back(id);
    }
    if (allowed.empty()) return text;
    const auto& from = step > 6 && !closing.empty() && random() % 4 != 0 ? closing : allowed;
    const int32_t id = from[random() % from.size()];
    text += vocabulary.text(id);
    EXPECT_TRUE(state.advance(id));
  }
  return "";
}

// The walks were validated when they were committed (tests/golden/check_constraint_walks.py); they must stay
// what they were.
TEST(JsonSchema, RandomAnswersAreThoseThatWereValidated) {
  const Schema cases = Schema::parse(std::ifstream("tests/golden/constraints/schemas.json"));
  const auto tokenizer = Tokenizer::open("tests/golden/tokenizers/deepseek");
  ASSERT_TRUE(tokenizer.ok());
  const auto vocabulary = TokenVocabulary::of(**tokenizer, (*tokenizer)->vocab_size(), {});
  const int32_t end = *(*tokenizer)->id_of("<｜end▁of▁sentence｜>");
  Schema walks = Schema::array();
  for (size_t i = 0; i < cases.size(); ++i) {
    Grammar grammar;
    JsonText text(grammar);
    const Result<ExprId> root = add_json_schema(text, cases[i]["schema"]);
    ASSERT_TRUE(root.ok());
    grammar.set_root(*root);
    const auto constraint = Constraint::compile(grammar, vocabulary, {end});
    ASSERT_TRUE(constraint.ok()) << constraint.status().message();
    Schema texts = Schema::array();
    for (uint32_t seed = 0; seed < 4; ++seed) {
      const std::string answer =
          random_answer(*constraint, *vocabulary, end, static_cast<uint32_t>(4 * i) + seed);
      if (!answer.empty()) texts.push_back(answer);
    }
    walks.push_back({{"schema", cases[i]["schema"]}, {"texts", texts}});
  }
  const std::string made = walks.dump(-1, ' ', true) + "\n";
  std::ostringstream known;
  known << std::ifstream("tests/golden/constraints/walks.json").rdbuf();
  const std::string path = ::testing::TempDir() + "/constraint_walks.json";
  if (made != known.str()) std::ofstream(path) << made;
  EXPECT_TRUE(made == known.str()) << "run tests/golden/check_constraint_walks.py " << path;
}

}  // namespace
}  // namespace moebius
