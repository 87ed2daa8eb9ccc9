// Thinking and tool calls of each family: what its own chat template writes is read back, however it is cut
// into tokens, and the family's grammar of calls accepts it.
#include <gtest/gtest.h>

#include <deque>
#include <fstream>
#include <map>
#include <random>
#include <sstream>

#include "engine/answer_stream.h"
#include "engine/token_gate.h"
#include "models/chat_template.h"
#include "models/markup/call_grammar.h"

namespace moebius {
namespace {

using Json = nlohmann::ordered_json;

// Marks are special tokens; any other text becomes a token when it is asked for.
class TestTokenizer : public Tokenizer {
 public:
  explicit TestTokenizer(const std::vector<std::string>& marks) : marks_(static_cast<int32_t>(marks.size())) {
    for (const std::string& mark : marks) id(mark);
  }
  int32_t id(const std::string& text) {
    const auto [at, added] = ids_.try_emplace(text, static_cast<int32_t>(texts_.size()));
    if (added) texts_.push_back(text);
    return at->second;
  }
  // Marks whole, the rest cut at random places, within characters too.
  std::vector<int32_t> cut(std::string_view text, std::mt19937& random, int longest) {
    std::vector<int32_t> out;
    while (!text.empty()) {
      size_t length = 0;
      for (int32_t mark = 0; mark < marks_; ++mark) {
        if (text.starts_with(texts_[static_cast<size_t>(mark)]))
          length = std::max(length, texts_[static_cast<size_t>(mark)].size());
      }
      if (length == 0) {
        length = 1 + random() % static_cast<unsigned>(longest);
        for (int32_t mark = 0; mark < marks_; ++mark)
          length = std::min(length, text.find(texts_[static_cast<size_t>(mark)]));
        length = std::min(length, text.size());
      }
      out.push_back(id(std::string(text.substr(0, length))));
      text.remove_prefix(length);
    }
    return out;
  }

  Result<std::vector<int32_t>> encode(std::string_view, EncodeOptions) const override {
    return unsupported("not here");
  }
  int32_t vocab_size() const override { return static_cast<int32_t>(texts_.size()); }
  bool is_special(int32_t id) const override { return id < marks_; }
  std::optional<int32_t> id_of(std::string_view token) const override {
    const auto at = ids_.find(std::string(token));
    return at == ids_.end() ? std::nullopt : std::optional(at->second);
  }
  std::string token_text(int32_t id) const override { return texts_[static_cast<size_t>(id)]; }
  std::string_view token_bytes(int32_t id) const override { return texts_[static_cast<size_t>(id)]; }

 private:
  const int32_t marks_;
  std::deque<std::string> texts_;
  std::map<std::string, int32_t> ids_;
};

struct Family {
  const char* name;
  const char* file;
  CallForm form;
  std::vector<std::string> marks;
  std::string begin, end;  // of an assistant's turn, in the template's text
};

const std::vector<Family>& families() {
  static const std::vector<Family> all = {
      {"kimi",
       "Kimi-K2-Instruct",
       CallForm::kKimi,
       {"<|im_end|>", "<|im_middle|>", "<|tool_calls_section_begin|>", "<|tool_calls_section_end|>",
        "<|tool_call_begin|>", "<|tool_call_argument_begin|>", "<|tool_call_end|>", "<think>", "</think>"},
       "assistant<|im_middle|>",
       "<|im_end|>"},
      {"deepseek",
       "deepseek-ai-DeepSeek-V3.1",
       CallForm::kDeepSeek,
       {"<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>", "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>",
        "<｜tool▁sep｜>", "<think>", "</think>", "<｜end▁of▁sentence｜>"},
       "<｜Assistant｜><think></think>",
       "<｜end▁of▁sentence｜>"},
      {"glm",
       "GLM-4.7-Flash",
       CallForm::kGlm,
       {"<tool_call>", "</tool_call>", "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>", "<think>",
        "</think>", "<|user|>"},
       "<|assistant|></think>",
       "<|user|>"},
      {"qwen",
       "Qwen-Qwen3-0.6B",
       CallForm::kJson,
       {"<tool_call>", "</tool_call>", "<think>", "</think>", "<|im_end|>"},
       "<|im_start|>assistant\n",
       "<|im_end|>"},
      {"pebble",
       "pebble",
       CallForm::kJson,
       {"<tool_call>", "</tool_call>", "<|im_end|>", "<|im_middle|>"},
       "assistant<|im_middle|>",
       "<|im_end|>"},
  };
  return all;
}

std::string template_source(const Family& family) {
  std::ostringstream text;
  text << std::ifstream("tests/golden/templates/" + std::string(family.file) + ".jinja").rdbuf();
  return text.str();
}

const Json kParameters = Json::parse(R"({"type": "object", "properties": {"city": {"type": "string"}, "days":
    {"type": "integer"}, "exact": {"type": "boolean"}, "tags": {"type": "array", "items": {"type": "string"}}},
    "required": ["city", "days", "exact", "tags"], "additionalProperties": false})");

CallRules test_rules() {
  CallRules rules;
  rules.functions = {{"get-weather_2", kParameters, true}, {"now", nullptr, false}};
  return rules;
}

const std::vector<std::pair<std::string, Json>> kCalls = {
    {"get-weather_2",
     Json::parse(R"({"city": "Zürich \"漢\" \\ </x>\n", "days": -3, "exact": true, "tags": ["a", "{"]})")},
    {"now", Json::object()},
    {"get-weather_2", Json::parse(R"({"city": "12", "days": 0, "exact": false, "tags": []})")}};

// The assistant's turn as the family's own template writes it.
std::string written(const Family& family, const std::string& content, size_t calls) {
  Json turn = {{"role", "assistant"}, {"content", content}};
  for (size_t i = 0; i < calls; ++i)
    turn["tool_calls"].push_back(
        {{"id", "x"},
         {"type", "function"},
         {"function", {{"name", kCalls[i].first}, {"arguments", kCalls[i].second}}}});
  const Json messages =
      Json::array({{{"role", "user"}, {"content", "?"}}, turn, {{"role", "user"}, {"content", "!"}}});
  const auto chat = ChatTemplate::parse(template_source(family));
  EXPECT_TRUE(chat.ok());
  const Result<std::string> text =
      (*chat)->render({{"messages", messages}, {"bos_token", ""}, {"tools", nullptr}});
  EXPECT_TRUE(text.ok()) << text.status().message();
  const size_t begin = text->find(family.begin) + family.begin.size();
  return text->substr(begin, text->find(family.end, begin) - begin);
}

struct Read {
  std::string reasoning, content;
  std::vector<CallPiece> calls;
  bool operator==(const Read& o) const {
    if (reasoning != o.reasoning || content != o.content || calls.size() != o.calls.size()) return false;
    for (size_t i = 0; i < calls.size(); ++i) {
      if (calls[i].id != o.calls[i].id || calls[i].name != o.calls[i].name ||
          calls[i].arguments != o.calls[i].arguments)
        return false;
    }
    return true;
  }
};

void add(const AnswerText& text, Read& read) {
  read.reasoning += text.reasoning;
  read.content += text.content;
  for (const CallPiece& piece : text.calls) {
    if (static_cast<size_t>(piece.index) == read.calls.size()) {
      EXPECT_FALSE(piece.name.empty());
      read.calls.push_back(piece);
    } else {
      ASSERT_EQ(static_cast<size_t>(piece.index) + 1, read.calls.size());
      EXPECT_TRUE(piece.name.empty() && piece.id.empty());
      read.calls.back().arguments += piece.arguments;
    }
  }
}

Read read_ids(TestTokenizer& tokenizer, const ChatMarkup& markup, const std::vector<int32_t>& ids,
              bool thinking = false) {
  AnswerParser parser(markup, tokenizer, text_arguments(test_rules()), thinking);
  Read out;
  for (const int32_t id : ids) add(parser.push(id), out);
  add(parser.finish(), out);
  return out;
}

Read read_text(const Family& family, const std::string& text, bool thinking = false) {
  TestTokenizer tokenizer(family.marks);
  const ChatMarkup markup = chat_markup(tokenizer, template_source(family));
  EXPECT_EQ(markup.calls, family.form) << family.name;
  std::mt19937 random(1);
  const Read whole = read_ids(tokenizer, markup, tokenizer.cut(text, random, 1000), thinking);
  for (int i = 0; i < 60; ++i) {
    const Read other = read_ids(tokenizer, markup, tokenizer.cut(text, random, 1 + i % 7), thinking);
    EXPECT_EQ(whole, other) << family.name << " cut " << i << ": " << text;
  }
  return whole;
}

TEST(Markup, ReadsWhatTemplatesWrite) {
  for (const Family& family : families()) {
    for (size_t calls = 0; calls <= kCalls.size(); ++calls) {
      for (const std::string content : {"", "I'll look, 漢字."}) {
        const std::string text = written(family, content, calls);
        const Read read = read_text(family, text);
        EXPECT_EQ(read.content, content) << family.name << ": " << text;
        ASSERT_EQ(read.calls.size(), calls) << family.name << ": " << text;
        for (size_t i = 0; i < calls; ++i) {
          EXPECT_EQ(read.calls[i].name, kCalls[i].first);
          EXPECT_EQ(Json::parse(read.calls[i].arguments), kCalls[i].second)
              << family.name << read.calls[i].arguments;
          const std::string id =
              family.form == CallForm::kKimi ? "functions." + kCalls[i].first + ":" + std::to_string(i) : "";
          EXPECT_EQ(read.calls[i].id, id);
        }
      }
    }
  }
}

const Family& family(const std::string& name) {
  for (const Family& f : families()) {
    if (name == f.name) return f;
  }
  std::abort();
}

TEST(Markup, SeparatesThinking) {
  Read read = read_text(family("qwen"), "<think>\nHm, 漢.\n\nSo.\n</think>\n\nYes\nno\n");
  EXPECT_EQ(read.reasoning, "Hm, 漢.\n\nSo.");
  EXPECT_EQ(read.content, "Yes\nno\n");
  read = read_text(family("glm"), "Hm</think>Yes<tool_call>now</tool_call>", true);
  EXPECT_EQ(read.reasoning, "Hm");
  EXPECT_EQ(read.content, "Yes");
  ASSERT_EQ(read.calls.size(), 1u);
  EXPECT_EQ(read.calls[0].arguments, "{}");
  read = read_text(
      family("kimi"),
      "Hm, I call.<|tool_calls_section_begin|><|tool_call_begin|>functions.f:7<|tool_call_argument_begin|>{}"
      "<|tool_call_end|><|tool_calls_section_end|>",
      true);  // its thinking is not ended
  EXPECT_EQ(read.reasoning, "Hm, I call.");
  ASSERT_EQ(read.calls.size(), 1u);
  EXPECT_EQ(read.calls[0].id, "functions.f:7");
  read = read_text(family("deepseek"), "cut off\n", true);
  EXPECT_EQ(read.reasoning, "cut off");
  EXPECT_EQ(read.content, "");
}

TEST(Markup, ToleratesWhatIsMissing) {
  const std::string begin = "<|tool_call_begin|>functions.a-b:0<|tool_call_argument_begin|>{\"x\": 1}";
  for (const std::string& text :
       {begin, begin + "<|tool_call_end|>", "<|tool_calls_section_begin|>" + begin,
        begin + "<|tool_calls_section_end|>", begin + "\n<|tool_call_end|>\n<|tool_calls_section_end|>"}) {
    const Read read = read_text(family("kimi"), text);
    ASSERT_EQ(read.calls.size(), 1u) << text;
    EXPECT_EQ(read.calls[0].name, "a-b");
    EXPECT_EQ(read.calls[0].arguments, "{\"x\": 1}") << text;
    EXPECT_EQ(read.content, "");
  }
  EXPECT_EQ(read_text(family("kimi"), begin + begin).calls.size(), 2u);
  const Read qwen =
      read_text(family("qwen"), "<tool_call>\n{\"arguments\": {\"a\": [1, \"}\"]}, \"name\": \"f\"}");
  ASSERT_EQ(qwen.calls.size(), 1u);  // in another order, and without an end
  EXPECT_EQ(qwen.calls[0].arguments, "{\"a\": [1, \"}\"]}");
  const Read cut = read_text(family("qwen"), "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": [1, ");
  ASSERT_EQ(cut.calls.size(), 1u);
  EXPECT_EQ(cut.calls[0].arguments, "{\"a\": [1, ");
  const Read text = read_text(family("qwen"),
                              "<tool_call>{\"name\": \"f\", \"arguments\": \"{\\\"a\\\": 1}\"}</tool_call>");
  ASSERT_EQ(text.calls.size(), 1u);
  EXPECT_EQ(text.calls[0].arguments, "{\"a\": 1}");
  const Read twice =
      read_text(family("qwen"),
                "<tool_call>{\"name\": \"f\", \"arguments\": \"[1, 2]\", \"arguments\": \"3\", "
                "\"name\": \"g\", \"arguments\": {}}</tool_call>");
  ASSERT_EQ(twice.calls.size(), 1u);  // what was handed out first
  EXPECT_EQ(twice.calls[0].name, "f");
  EXPECT_EQ(twice.calls[0].arguments, "[1, 2]");
  EXPECT_EQ(read_text(family("pebble"), "So <tool_call>nonsense</tool_call>").content, "So nonsense");
  const Read glm =
      read_text(family("glm"), "<tool_call>now<arg_key>a</arg_key><arg_value>[1,<arg_key>b<arg_value>2");
  ASSERT_EQ(glm.calls.size(), 1u);
  EXPECT_EQ(Json::parse(glm.calls[0].arguments), Json::parse(R"({"a": "[1,", "b": 2})"));
  const Read v3 = read_text(family("deepseek"),
                            "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n"
                            "{\"q\": \"`\"}\n```<｜tool▁call▁end｜>\n<｜tool▁calls▁end｜>");
  ASSERT_EQ(v3.calls.size(), 1u);  // V3 and R1
  EXPECT_EQ(v3.calls[0].name, "f");
  EXPECT_EQ(v3.calls[0].arguments, "{\"q\": \"`\"}");
}

// Whether a grammar reads a text in which marks are tokens.
bool accepts(const Grammar& grammar, TestTokenizer& tokenizer, const std::vector<int32_t>& ids,
             const std::string& what) {
  const auto program = Program::compile(grammar);
  EXPECT_TRUE(program.ok()) << program.status().message();
  if (!program.ok()) return false;
  StateCache cache(*program);
  StateCache::StateId state = *cache.start();
  for (const int32_t id : ids) {
    const std::vector<int32_t>& marks = (*program)->tokens();
    const auto mark = std::find(marks.begin(), marks.end(), id);
    if (mark != marks.end()) {
      state = cache.step(state, (*program)->byte_classes() + static_cast<int32_t>(mark - marks.begin()));
    } else {
      for (const char c : tokenizer.token_bytes(id)) {
        if (state != StateCache::kDead)
          state = cache.step(state, (*program)->class_of(static_cast<unsigned char>(c)));
      }
    }
    if (state == StateCache::kDead) return false;
  }
  return cache.accepts(state);
}

TEST(CallGrammar, AcceptsWhatTemplatesWrite) {
  for (const Family& family : families()) {
    TestTokenizer tokenizer(family.marks);
    const ChatMarkup markup = chat_markup(tokenizer, template_source(family));
    std::mt19937 random(2);
    for (const bool parallel : {true, false}) {
      Grammar grammar;
      JsonText text(grammar);
      CallRules rules = test_rules();
      rules.parallel = parallel;
      const Result<ExprId> root = add_calls(text, markup, rules);
      ASSERT_TRUE(root.ok()) << root.status().message();
      grammar.set_root(*root);
      for (size_t calls = 0; calls <= kCalls.size(); ++calls) {
        const std::string turn = written(family, "", calls);
        EXPECT_EQ(accepts(grammar, tokenizer, tokenizer.cut(turn, random, 5), turn),
                  calls == 1 || (parallel && calls > 1))
            << family.name << ": " << turn;
      }
      std::string wrong = written(family, "", 1);
      wrong.replace(wrong.find("-3"), 2, "2.5");  // no integer
      EXPECT_FALSE(accepts(grammar, tokenizer, tokenizer.cut(wrong, random, 5), wrong)) << family.name;
    }
  }
}

TEST(CallGrammar, HoldsStrictFunctionsAlone) {
  TestTokenizer tokenizer(family("qwen").marks);
  const ChatMarkup markup = chat_markup(tokenizer, template_source(family("qwen")));
  for (const bool strict : {true, false}) {
    Grammar grammar;
    JsonText text(grammar);
    CallRules rules;
    rules.functions = {{"f", Json::parse(R"({"type": "object", "properties": {"a": {"not": {}}}})"), strict}};
    const Result<ExprId> root = add_calls(text, markup, rules);
    EXPECT_EQ(root.ok(), !strict);
    if (!strict) continue;
    EXPECT_NE(root.status().message().find("`not` at #/properties/a"), std::string::npos)
        << root.status().message();
  }
}

TEST(TokenGate, WaitsForTheEndOfThinking) {
  TestTokenizer tokenizer({"<think>", "</think>", "<end>"});
  ChatMarkup markup = chat_markup(tokenizer, "");
  const int32_t yes = tokenizer.id("yes"), other = tokenizer.id("hm"), end = 2;
  std::vector<std::string_view> texts = {"", "", "", "yes", "hm"};
  Grammar grammar;
  grammar.set_root(grammar.literal("yes"));
  const auto constraint = Constraint::compile(grammar, TokenVocabulary::of(texts), {end});
  ASSERT_TRUE(constraint.ok());
  const auto allowed = [](TokenGate& gate, int32_t id) { return mask_allows(*gate.allowed(), id); };
  TokenGate open(*constraint, &markup, std::vector<int32_t>{yes, markup.think_begin});
  EXPECT_TRUE(open.allowed()->empty());
  open.take(other);
  EXPECT_TRUE(open.allowed()->empty());
  open.take(markup.think_end);
  EXPECT_TRUE(allowed(open, yes) && !allowed(open, other) && !allowed(open, markup.think_begin));
  open.take(yes);
  EXPECT_TRUE(allowed(open, end) && !allowed(open, yes));
  TokenGate may(*constraint, &markup, std::vector<int32_t>{yes});  // the model decides whether it thinks
  EXPECT_TRUE(allowed(may, yes) && allowed(may, markup.think_begin) && !allowed(may, other));
  may.take(markup.think_begin);
  EXPECT_TRUE(may.allowed()->empty());
  TokenGate closed(*constraint, &markup, std::vector<int32_t>{markup.think_begin, markup.think_end});
  EXPECT_TRUE(allowed(closed, yes) && !allowed(closed, markup.think_begin));
}

TEST(TokenGate, EndsThinkingAtItsLimit) {
  TestTokenizer tokenizer({"<think>", "</think>", "<end>"});
  ChatMarkup markup = chat_markup(tokenizer, "");
  const int32_t other = tokenizer.id("hm");
  const auto forced = [&](TokenGate& gate) {
    const auto mask = *gate.allowed();
    for (int32_t id = 0; !mask.empty() && id < 64; ++id)
      EXPECT_EQ(mask_allows(mask, id), id == markup.think_end) << id;
    return !mask.empty();
  };
  for (const int64_t limit : {0, 1, 3}) {
    markup.think_limit = limit;
    TokenGate open(nullptr, &markup, std::vector<int32_t>{other, markup.think_begin});
    TokenGate may(nullptr, &markup, std::vector<int32_t>{other});
    EXPECT_FALSE(may.constrained());
    const auto go_on = [&](TokenGate& gate, int64_t tokens) {
      for (; tokens > 0; --tokens) {
        EXPECT_FALSE(forced(gate));
        gate.take(other);
      }
    };
    go_on(may, 2);
    may.take(markup.think_begin);
    for (TokenGate* gate : {&open, &may}) {
      go_on(*gate, limit);
      EXPECT_TRUE(forced(*gate)) << limit;
      gate->take(markup.think_end);
      EXPECT_FALSE(forced(*gate));
    }
  }
  markup.think_limit = -1;
  TokenGate unlimited(nullptr, &markup, std::vector<int32_t>{markup.think_begin});
  for (int i = 0; i < 100; ++i) {
    EXPECT_FALSE(forced(unlimited));
    unlimited.take(other);
  }
}

TEST(AnswerStream, StopsContentAlone) {
  const Family& f = family("qwen");
  TestTokenizer tokenizer(f.marks);
  const AnswerForm form{chat_markup(tokenizer, template_source(f)), nullptr};
  const std::vector<std::string> stops = {"END"};
  std::mt19937 random(3);
  const std::string text =
      "<think>END</think>\n\nall right EN, END <tool_call>{\"name\": \"f\", \"arguments\": {}}</tool_call>";
  for (int i = 0; i < 20; ++i) {
    AnswerStream stream(tokenizer, stops, &form, {});
    Read read;
    for (const int32_t id : tokenizer.cut(text, random, 1 + i % 5)) {
      add(stream.push(id), read);
      if (stream.matched()) break;
    }
    add(stream.finish(), read);
    EXPECT_EQ(stream.matched(), "END");
    EXPECT_EQ(read.reasoning, "END");
    EXPECT_EQ(read.content, "all right EN, ");
    EXPECT_TRUE(read.calls.empty());
  }
}

}  // namespace
}  // namespace moebius
