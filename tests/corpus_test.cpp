// `moebius corpus` and `moebius eval --tasks` as a user runs them: the same bytes for a seed, a split that
// holds out whole problems, arithmetic that is true, checkers that take every reference answer and no altered
// one. The keys of problems and the truth of equations are worked out here anew, from the text alone.
#include <algorithm>
#include <map>
#include <regex>
#include <set>
#include <sstream>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "models/chat_template.h"
#include "tests/tools_process.h"

namespace moebius {
namespace {

using nlohmann::ordered_json;
using process::Args;
using process::Finished;
using process::read_file;
using process::run;

const char* const kTiny = "tests/golden/models/deepseek_v3_tiny";
constexpr const char* kPebbleTemplate = "tests/golden/templates/pebble.jinja";

struct Line {
  std::string task, answer, prompt, reply;  // prompt: all that users say
  ordered_json all;
};

std::vector<Line> read_lines(const std::string& path) {
  std::vector<Line> lines;
  std::ifstream in(path);
  for (std::string text; std::getline(in, text);) {
    Line line;
    line.all = ordered_json::parse(text, nullptr, false);
    EXPECT_TRUE(line.all.is_object()) << text;
    if (!line.all.is_object()) continue;
    line.task = line.all["task"], line.answer = line.all["answer"];
    for (const ordered_json& message : line.all["messages"]) {
      if (message["role"] == "user") line.prompt += message["content"].get<std::string>() + "\n";
    }
    line.reply = line.all["messages"].back()["content"];
    lines.push_back(std::move(line));
  }
  return lines;
}

std::vector<std::string> numbers(const std::string& text) {
  std::vector<std::string> found(1);
  for (const char c : text) {
    if (c >= '0' && c <= '9') {
      found.back().push_back(c);
    } else if (!found.back().empty()) {
      found.emplace_back();
    }
  }
  if (found.back().empty()) found.pop_back();
  return found;
}

std::vector<std::string> words(const std::string& text) {
  std::vector<std::string> found(1);
  for (const char c : text) {
    if (c != ' ' && c != ',') {
      found.back().push_back(c);
    } else if (!found.back().empty()) {
      found.emplace_back();
    }
  }
  return found;
}

std::string sorted(std::vector<std::string> list) {
  std::sort(list.begin(), list.end());
  return fmt::format("{}", fmt::join(list, " "));
}

std::string operation_key(std::vector<std::string> operands, char operation) {
  if (operation == '+' || operation == '*') std::sort(operands.begin(), operands.end());
  return fmt::format("{}{}", fmt::join(operands, std::string(1, operation)), operands.size());
}

// "... Quinn has a red house (here).\nAnswer: Quinn": the value's last word and the name.
std::string who_key(const std::string& reply) {
  std::string fact = reply.substr(0, reply.find(" (here)"));
  if (fact.ends_with(" house")) fact.resize(fact.size() - 6);
  return fact.substr(fact.rfind(' ')) + reply.substr(reply.rfind(' '));
}

// What the line asks, however it is worded; "" for tasks without a key that the text gives away.
std::string problem(const Line& line) {
  const std::string& task = line.task;
  static const std::map<std::string, char> operations = {{"arithmetic.add", '+'},
                                                         {"arithmetic.subtract", '-'},
                                                         {"arithmetic.multiply", '*'},
                                                         {"arithmetic.divide", '/'}};
  if (const auto found = operations.find(task); found != operations.end()) {
    return operation_key(numbers(line.prompt), found->second);
  }
  if (task == "tools.calculator") {
    const std::string call = line.all["messages"][1]["tool_calls"][0]["function"]["arguments"];
    const std::string expression = ordered_json::parse(call)["expression"];
    const std::vector<std::string> operands = numbers(expression);
    const size_t at = expression.find_first_of("+-*/");
    return operands.size() == 2 ? operation_key(operands, expression[at]) : expression;
  }
  if (task == "arithmetic.compare" || task == "lists.extreme") return task + sorted(numbers(line.prompt));
  if (task.rfind("lists.sort", 0) == 0 || task == "story") return task + sorted(words(line.answer));
  if (task == "about.command") return task + sorted(words(line.answer));
  if (task == "talk.repeat" || task == "lists.spell" || task == "lists.reverse_list") {
    return task + line.answer;
  }
  const bool by_reply = task == "lists.word_length" || task == "lists.count_letter" ||
                        task == "lists.reverse_word" || task == "world.given" || task == "world.known" ||
                        task == "arithmetic.chain";
  if (task == "world.who") return task + who_key(line.reply);
  return by_reply ? task + line.reply : "";
}

uint64_t fnv1a(const std::string& text) {
  uint64_t hash = 0xcbf29ce484222325u;
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return hash;
}

class Corpus : public testing::Test {
 protected:
  void SetUp() override {
    if (access(MOEBIUS_BINARY, X_OK) != 0) {
      GTEST_SKIP() << "skipped: the program is not built; build the target moebius, which this test runs";
    }
  }

  // A corpus of this seed, made once for all tests.
  struct Made {
    std::vector<Line> train, held_out;
  };
  static const Made& made(int seed) {
    static std::map<int, Made> all;
    const auto found = all.find(seed);
    if (found != all.end()) return found->second;
    const process::Scratch scratch;
    generate(scratch.file("c"), seed, 20000, 3000);
    Made& out = all[seed];
    out.train = read_lines(scratch.file("c/train.jsonl"));
    out.held_out = read_lines(scratch.file("c/held_out.jsonl"));
    EXPECT_EQ(out.train.size(), 20000u);
    EXPECT_EQ(out.held_out.size(), 3000u);
    return out;
  }

  static ordered_json generate(const std::string& dir, int seed, int train, int held_out) {
    const Finished done = run({"corpus", "--out", dir, "--seed", std::to_string(seed), "--train",
                               std::to_string(train), "--held-out", std::to_string(held_out), "--json"});
    EXPECT_EQ(done.code, 0) << done.err;
    return ordered_json::parse(done.out, nullptr, false);
  }

  // The report of `eval --tasks --replies` on some lines and replies.
  ordered_json judge(const std::vector<Line>& lines, const std::vector<std::string>& replies) {
    std::string tasks, given;
    for (const Line& line : lines) tasks += line.all.dump() + "\n";
    for (const std::string& reply : replies) given += ordered_json({{"reply", reply}}).dump() + "\n";
    const Finished done = run({"eval", "--tasks", scratch_.write("t.jsonl", tasks), "--replies",
                               scratch_.write("r.jsonl", given), "--json"});
    EXPECT_EQ(done.code, 0) << done.err;
    return ordered_json::parse(done.out, nullptr, false);
  }

  const process::Scratch scratch_;
};

// What the assistant says after the last user turn, as the model's template writes it.
std::string rendered_reply(const ChatTemplate& chat, const Line& line) {
  ordered_json messages = line.all["messages"], request = {{"add_generation_prompt", true}};
  if (line.all.contains("tools")) request["tools"] = line.all["tools"];
  size_t last = messages.size();
  while (messages[last - 1]["role"] != "user") --last;
  messages.erase(messages.begin() + static_cast<std::ptrdiff_t>(last) + 1, messages.end());
  request["messages"] = messages;
  request["add_generation_prompt"] = false;
  const Result<std::string> whole = chat.render(request);
  request["messages"].erase(last);
  request["add_generation_prompt"] = true;
  const Result<std::string> prompt = chat.render(request);
  EXPECT_TRUE(whole.ok() && prompt.ok()) << whole.status().message() << prompt.status().message();
  if (!whole.ok() || !prompt.ok()) return "";
  EXPECT_EQ(whole->substr(0, prompt->size()), *prompt);
  const std::string end = "<|im_end|>";
  EXPECT_EQ(whole->substr(whole->size() - end.size()), end);
  return whole->substr(prompt->size(), whole->size() - prompt->size() - end.size());
}

std::vector<std::string> reference_replies(const std::vector<Line>& lines) {
  const auto chat = ChatTemplate::parse(process::read_file(kPebbleTemplate));
  EXPECT_TRUE(chat.ok());
  std::vector<std::string> replies;
  for (const Line& line : lines) replies.push_back(rendered_reply(**chat, line));
  return replies;
}

std::vector<Line> some(const std::vector<Line>& lines, size_t count) {
  return {lines.begin(), lines.begin() + static_cast<std::ptrdiff_t>(std::min(count, lines.size()))};
}

TEST_F(Corpus, TheSameSeedWritesTheSameBytes) {
  generate(scratch_.file("a"), 7, 3000, 500), generate(scratch_.file("b"), 7, 3000, 500);
  generate(scratch_.file("c"), 8, 3000, 500);
  for (const char* name : {"/train.jsonl", "/held_out.jsonl"}) {
    const std::string first = process::read_file(scratch_.file("a") + name);
    EXPECT_FALSE(first.empty());
    EXPECT_EQ(first, process::read_file(scratch_.file("b") + name));
    EXPECT_NE(first, process::read_file(scratch_.file("c") + name));
  }
  // Any compiler and machine; changes only when what the families say changes.
  EXPECT_EQ(fnv1a(process::read_file(scratch_.file("a/held_out.jsonl"))), 0x806770ed38a2ac6du);
}

TEST_F(Corpus, NoHeldOutProblemIsTrainedWhateverTheSeeds) {
  std::set<std::string> problems, prompts;
  size_t reworded = 0;
  for (const int seed : {1, 2}) {
    for (const Line& line : made(seed).train) {
      prompts.insert(line.prompt);
      if (const std::string key = problem(line); !key.empty()) reworded += !problems.insert(key).second;
      if (line.task != "world.given" && line.task != "world.who") continue;
      for (const ordered_json& message : line.all["messages"])  // earlier turns too, of either task
        if (message["role"] == "assistant") {
          const std::string reply = message["content"];
          const bool who = reply.find(" (here)") != std::string::npos;
          problems.insert(who ? "world.who" + who_key(reply) : "world.given" + reply);
        }
    }
  }
  EXPECT_GT(reworded, 1000u);  // else the keys could not find a rewording
  size_t compared = 0;
  for (const int seed : {1, 2, 3}) {
    for (const Line& line : made(seed).held_out) {
      EXPECT_EQ(prompts.count(line.prompt), 0u) << line.task << ": " << line.prompt;
      const std::string key = problem(line);
      compared += !key.empty();
      EXPECT_EQ(problems.count(key), 0u) << line.task << ": " << line.prompt;
    }
  }
  EXPECT_GT(compared, 6000u);
}

TEST_F(Corpus, EveryReferenceAnswerPasses) {
  for (const std::vector<Line>& lines : {some(made(1).train, 4000), made(1).held_out}) {
    const std::vector<std::string> replies = reference_replies(lines);
    const ordered_json report = judge(lines, replies);
    EXPECT_EQ(report["n"], lines.size());
    EXPECT_EQ(report["accuracy"], 1.0) << report.dump(2);
  }
}

// reply with its answer altered; kinds of alterations count from 0, "" past the last.
std::string altered(const Line& line, std::string reply, int kind) {
  const auto replace_all = [&](const std::string& from, const std::string& to) {
    for (size_t at = reply.find(from); at != std::string::npos; at = reply.find(from, at + to.size())) {
      reply.replace(at, from.size(), to);
    }
    return reply;
  };
  if (kind == 0) return "I do not know.";
  if (line.task == "story") {
    const std::string word = words(line.answer)[0];
    if (kind == 1) return replace_all(word, "something");
    if (kind == 2) return reply.substr(0, reply.size() - 1);
    if (kind == 3) return reply + " and then";
    if (kind == 4) return fmt::format("{}. {}. {}.", line.answer, line.answer, line.answer);
    return "";
  }
  if (line.task == "tools.calculator") {
    if (kind == 1) return replace_all("\"}", " + 1\"}");
    if (kind == 2) return replace_all("calculator", "calculate");
    if (kind == 3) return "Answer: " + line.answer;
    if (kind == 4) return reply.substr(0, reply.size() - std::string("}}</tool_call>").size());
    return "";
  }
  if (line.task == "about.command") {
    return kind == 1 ? reply + "0" : kind == 2 ? replace_all("moebius", "mobius") : "";
  }
  if (line.task == "about.fact" || line.task.rfind("talk", 0) == 0) {
    return kind == 1 ? "No idea, sorry" : kind == 2 ? line.answer + "x" + line.answer : "";
  }
  if (kind == 1) return reply + "1";
  if (kind == 2) return reply + "\nAnswer: 77 " + line.answer;
  return "";
}

TEST_F(Corpus, AlteredAnswersFail) {
  const std::vector<Line> lines = some(made(1).train, 3000);
  const std::vector<std::string> right = reference_replies(lines);
  for (int kind = 0; kind < 5; ++kind) {
    std::vector<Line> asked;
    std::vector<std::string> wrong;
    for (size_t i = 0; i < lines.size(); ++i) {
      std::string reply = altered(lines[i], right[i], kind);
      if (reply.empty()) continue;
      asked.push_back(lines[i]), wrong.push_back(std::move(reply));
    }
    const ordered_json report = judge(asked, wrong);
    EXPECT_EQ(report["accuracy"], 0.0) << "alteration " << kind << ": " << report.dump(2);
    EXPECT_GT(report["n"], 50);
  }
}

TEST_F(Corpus, EquationsAreTrue) {
  const std::regex equation(R"((-?\d+)((?: [-+*/] -?\d+)+) = (-?\d+))"), step(R"( ([-+*/]) (-?\d+))");
  size_t checked = 0;
  for (const Line& line : some(made(1).train, 6000)) {
    if (line.task.rfind("arithmetic", 0) != 0) continue;
    for (std::sregex_iterator it(line.reply.begin(), line.reply.end(), equation), end; it != end; ++it) {
      int64_t value = std::stoll((*it)[1]);
      const std::string rest = (*it)[2];
      for (std::sregex_iterator part(rest.begin(), rest.end(), step); part != end; ++part) {
        const int64_t by = std::stoll((*part)[2]);
        const char operation = (*part)[1].str()[0];
        value = operation == '+'   ? value + by
                : operation == '-' ? value - by
                : operation == '*' ? value * by
                                   : value / by;
      }
      EXPECT_EQ(value, std::stoll((*it)[3])) << line.reply;
      ++checked;
    }
    const std::vector<std::string> asked = numbers(line.prompt);
    if (asked.size() != 2 || line.task == "arithmetic.compare" || line.task == "arithmetic.chain") continue;
    const int64_t a = std::stoll(asked[0]), b = std::stoll(asked[1]);
    const int64_t result = line.task == "arithmetic.add"        ? a + b
                           : line.task == "arithmetic.subtract" ? a - b
                           : line.task == "arithmetic.multiply" ? a * b
                                                                : a / b;
    EXPECT_EQ(line.answer, std::to_string(result)) << line.prompt;
  }
  EXPECT_GT(checked, 2000u);
}

TEST_F(Corpus, ExamplesVary) {
  std::map<std::string, std::set<std::string>> prompts, answers;
  std::map<std::string, int> lines;
  const std::set<std::string> knowledge = {"about.fact",         "about.option",       "talk",
                                           "lists.spell",        "lists.reverse_word", "lists.word_length",
                                           "lists.count_letter", "world.fact",         "tools.unneeded"};
  for (const Line& line : made(1).train) {
    prompts[line.task].insert(line.prompt);
    answers[line.task].insert(line.answer);
    const int times = ++lines[line.all.dump()];
    EXPECT_LE(times, knowledge.count(line.task) != 0 ? 16 : 1) << line.all.dump();
  }
  EXPECT_GE(prompts.size(), 28u);
  for (const auto& [task, different] : prompts) EXPECT_GE(different.size(), 40u) << task;
  for (const char* task : {"arithmetic.add", "story", "about.command", "tools.calculator"}) {
    EXPECT_GE(answers[task].size(), 300u) << task;
  }
}

TEST_F(Corpus, ExpressionsAreEvaluatedSafely) {
  const std::string deep(5000, '('), nested(20000, '{');
  const auto call = [](const std::string& expression) {
    return ordered_json({{"name", "calculator"}, {"arguments", {{"expression", expression}}}}).dump();
  };
  struct Case {
    std::string reply, answer;
    bool right;
  };
  const std::vector<Case> cases = {
      {call("1+2*3"), "7", true},
      {call("(1 + 2) * 3"), "9", true},
      {call("-(4 - 6)"), "2", true},
      {call("7 / 2"), "3.5", true},
      {call("2 - -3"), "5", true},
      {call("8 / 2 / 2"), "2", true},
      {call("10 - 3 - 2"), "5", true},
      {"Let me see. {\"a\": {}} " + call("40 + 2") + " done", "42", true},
      {call("1 + 2"), "4", false},
      {call("1 / 0"), "0", false},
      {call(""), "0", false},
      {call("2 3"), "2", false},
      {call("2 ** 3"), "8", false},
      {call("(2"), "2", false},
      {call("1e400"), "1", false},
      {call(deep + "1"), "1", false},
      {call(std::string(5000, '-') + "1"), "1", false},
      {nested + call("1"), "1", false},
      {"{\"name\": \"calculator\", \"arguments\": \"1\"}", "1", false},
      {"{\"name\": \"calculator\", \"arguments\": {\"expression\": 1}}", "1", false},
      {"{\"name\": \"calc", "1", false}};
  for (const Case& each : cases) {
    Line line;
    line.all = {{"task", "tools.calculator"},
                {"messages", ordered_json::array({{{"role", "user"}, {"content", "?"}}})},
                {"answer", each.answer}};
    EXPECT_EQ(judge({line}, {each.reply})["accuracy"], each.right ? 1.0 : 0.0) << each.reply.substr(0, 80);
  }
}

TEST_F(Corpus, AModelIsScored) {
  std::string tasks = "\xef\xbb\xbf";
  int count = 0;
  for (const Line& line : made(1).held_out) {
    if (line.all.contains("tools") || line.prompt.size() > 40) continue;
    tasks += line.all.dump() + "\n\n";
    if (++count == 6) break;
  }
  const std::string file = scratch_.write("tasks.jsonl", tasks);
  const Args args = {"eval", "-m", kTiny, "-t", "1", "--tasks", file, "--max-tokens", "6", "--json"};
  const Finished done = run(args);
  ASSERT_EQ(done.code, 0) << done.err;
  const ordered_json report = ordered_json::parse(done.out, nullptr, false);
  EXPECT_EQ(report["n"], 6);
  EXPECT_TRUE(report["accuracy"].is_number());
  int64_t sum = 0;
  for (const auto& [name, score] : report["per_task"].items()) {
    EXPECT_TRUE(score["accuracy"].is_number()) << name;
    sum += score["n"].get<int64_t>();
  }
  EXPECT_EQ(sum, 6);

  // Several at once say what each says alone.
  Args kept = args;
  kept.insert(kept.end(), {"--write-replies", scratch_.file("replies.jsonl")});
  EXPECT_EQ(run(kept).code, 0);
  std::istringstream replies(read_file(scratch_.file("replies.jsonl"))), asked(tasks.substr(3));
  std::string line, task;
  int compared = 0;
  for (; std::getline(replies, line); ++compared) {
    while (std::getline(asked, task) && task.empty()) continue;
    const ordered_json made = ordered_json::parse(line), question = ordered_json::parse(task);
    EXPECT_EQ(made["task"], question["task"]);
    const Finished alone = run({"chat", "-m", kTiny, "-t", "1", "--temp", "0", "-n", "6", "-p",
                                question["messages"][0]["content"].get<std::string>()});
    EXPECT_EQ(made["reply"].get<std::string>() + "\n", alone.out);
  }
  EXPECT_EQ(compared, 6);

  Args limited = args;
  limited.insert(limited.end(), {"--limit", "2"});
  EXPECT_EQ(ordered_json::parse(run(limited).out, nullptr, false)["n"], 2);

  // Noise is wrong; a task whose answer is what the model says is right.
  EXPECT_EQ(report["accuracy"], 0.0);
  const Finished said = run({"chat", "-m", kTiny, "-t", "1", "--temp", "0", "-n", "6", "-p", "Hi"});
  const ordered_json own = {
      {"task", "own"}, {"messages", {{{"role", "user"}, {"content", "Hi"}}}}, {"answer", said.out}};
  Args mine = args;
  mine[6] = scratch_.write("own.jsonl", own.dump());
  EXPECT_EQ(ordered_json::parse(run(mine).out, nullptr, false)["accuracy"], 1.0);
}

TEST_F(Corpus, BadLinesAreNamed) {
  const std::string good = R"({"task": "a", "messages": [{"role": "user", "content": "b"}], "answer": "c"})";
  for (const char* bad :
       {"[]", "{", R"({"task": "a", "answer": "b"})", R"({"task": 1, "messages": [], "answer": "b"})",
        R"({"task": "a", "messages": [], "answer": "b"})", R"({"task": "a", "messages": [1], "answer": "b"})",
        R"({"task": "a", "messages": [{"role": "assistant"}], "answer": "b"})",
        R"({"task": "a", "messages": [{"role": "user", "content": "b"}]})"}) {
    const std::string file = scratch_.write("bad.jsonl", good + "\n" + bad + "\n");
    const Finished done = run({"eval", "-m", kTiny, "--tasks", file});
    EXPECT_EQ(done.code, 1) << bad;
    EXPECT_NE(done.err.find("line 2"), std::string::npos) << done.err;
    EXPECT_EQ(std::count(done.err.begin(), done.err.end(), '\n'), 1) << done.err;
  }
  const std::string tasks = scratch_.write("t.jsonl", good + "\n"), none = scratch_.write("none.jsonl", "\n");
  EXPECT_EQ(run({"eval", "-m", kTiny, "--tasks", none}).code, 1);
  EXPECT_EQ(run({"eval", "--tasks", tasks, "--replies", none}).code, 1);
  EXPECT_EQ(run({"eval", "-m", kTiny, "--tasks", tasks, "--window", "8"}).code, 2);
  EXPECT_EQ(run({"eval", "-m", kTiny, "--text", tasks, "--limit", "8"}).code, 2);
}

TEST_F(Corpus, HalfIsOfTheTasksInFocus) {
  const process::Finished made =
      process::run({"corpus", "-o", scratch_.file("focus"), "--train", "400", "--held-out", "200", "--focus",
                    "world.who,lists.extreme", "--json"});
  ASSERT_EQ(made.code, 0) << made.err;
  const ordered_json report = ordered_json::parse(made.out);
  const auto of = [&](const char* part) {
    return report[part].value("world.who", 0) + report[part].value("lists.extreme", 0);
  };
  EXPECT_GE(of("train_tasks"), 200);
  EXPECT_LT(of("train_tasks"), 240);
  EXPECT_LT(of("held_out_tasks"), 40);
  const process::Finished refused =
      process::run({"corpus", "-o", scratch_.file("none"), "--focus", "world.nobody"});
  EXPECT_EQ(refused.code, 1);
  EXPECT_NE(refused.err.find("no task is called world.nobody; these are: about."), std::string::npos)
      << refused.err;
}

TEST_F(Corpus, FoldersThatCannotBeWrittenAreNamed) {
  const std::string file = scratch_.write("file", "");
  const Finished done = run({"corpus", "--out", file + "/x", "--train", "10"});
  EXPECT_EQ(done.code, 1);
  EXPECT_NE(done.err.find(file), std::string::npos) << done.err;
  EXPECT_EQ(run({"corpus"}).code, 2);
  EXPECT_EQ(run({"corpus", "--out", file, "--train", "-1"}).code, 2);
}

}  // namespace
}  // namespace moebius
