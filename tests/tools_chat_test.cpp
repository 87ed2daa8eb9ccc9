// `moebius chat` through pipes and in a terminal, on a tiny random model: what it says is noise, how it says
// it is not.
#include <algorithm>
#include <map>

#include <sys/stat.h>
#include <nlohmann/json.hpp>

#include "tests/tools_process.h"

namespace moebius {
namespace {

using nlohmann::json;
using process::Args;
using process::Environment;
using process::Finished;
using process::run;
using process::Scratch;
using process::Terminal;

const char* const kTiny = "tests/golden/models/deepseek_v3_tiny";

Args chat(const Args& more) {
  Args args = {"chat", "-m", kTiny, "--temp", "0", "-n", "8", "-t", "1"};
  args.insert(args.end(), more.begin(), more.end());
  return args;
}

// The greedy answer to a conversation, by the other commands: template, tokenize, logits, one token at a
// time.
std::string greedy_answer(const json& messages, int tokens) {
  const Scratch scratch;
  const std::string file = scratch.write("messages.json", messages.dump());
  const Finished prompt = run({"template", "-m", kTiny, "--messages", file});
  EXPECT_EQ(prompt.code, 0) << prompt.err;
  json ids = json::parse(run({"tokenize", "-m", kTiny, "--json"}, prompt.out).out)["ids"];
  json answer = json::array();
  for (int i = 0; i < tokens; ++i) {
    const Finished logits = run({"logits", "-m", kTiny, "--ids-file", "-", "--json"}, ids.dump());
    const json next = json::parse(logits.out)["argmax"].back();
    if (next == 506 || next == 507) break;  // [EOS] and <|im_end|>, as generation_config.json says
    ids.push_back(next);
    answer.push_back(next);
  }
  return json::parse(run({"tokenize", "-m", kTiny, "--decode", "--json"}, answer.dump()).out)["text"];
}

json user(const std::string& text) { return {{"role", "user"}, {"content", text}}; }
json assistant(const std::string& text) { return {{"role", "assistant"}, {"content", text}}; }

std::string with_newline(const std::string& text) {
  return text.empty() || text.back() == '\n' ? text : text + "\n";
}

// The conversation that a run leaves, saved by its last command.
json saved(const Args& args, const std::string& lines) {
  const Scratch scratch;
  const std::string file = scratch.file("chat.json");
  const Finished finished = run(args, lines + "/save " + file + "\n");
  const json document = json::parse(process::read_file(file), nullptr, false);
  EXPECT_TRUE(document.is_object()) << finished.err;
  return document.is_object() ? document["messages"] : json();
}

TEST(Chat, OneShotPrintsTheGreedyAnswerAndNothingElse) {
  const std::string expected = greedy_answer(json::array({user("Hello")}), 8);
  const Finished finished = run(chat({"-p", "Hello"}));
  EXPECT_EQ(finished.code, 0) << finished.err;
  EXPECT_EQ(finished.out, with_newline(expected));
  EXPECT_NE(finished.err.find("tok/s"), std::string::npos) << finished.err;
  EXPECT_EQ(finished.err.find('\x1b'), std::string::npos) << "colors without a terminal";
  EXPECT_EQ(run(chat({"-p", "-"}), "Hello").out, finished.out);
}

TEST(Chat, ShowsCallsOfTools) {
  const std::string tools =
      R"({"tools": [{"type": "function", "function": {"name": "calculator", "description":
      "Evaluates an expression with + - * / and parentheses.", "parameters": {"type": "object", "properties":
      {"expression": {"type": "string"}}, "required": ["expression"]}}}]})";
  const Args args = {"chat", "-m", "models/pebble",          "--temp", "0",
                     "-t",   "1",  "--chat-template-kwargs", tools};
  Args once = args;
  once.insert(once.end(), {"-p", "What is 4567 * 89?"});
  EXPECT_EQ(run(once).out, "calculator {\"expression\": \"4567 * 89\"}\n");
  const json messages = saved(args, "What is 4567 * 89?\n");
  EXPECT_EQ(messages[1]["content"], "");
  EXPECT_EQ(messages[1]["tool_calls"][0]["function"]["arguments"], json({{"expression", "4567 * 89"}}));
}

TEST(Chat, APipeIsATurnALineAndReusesTheCache) {
  const Finished first = run(chat({"-p", "Hello"}));
  const Finished both = run(chat({}), "Hello\n\nAnd then?\n");
  EXPECT_EQ(both.code, 0) << both.err;
  ASSERT_EQ(both.out.rfind(first.out, 0), 0u) << both.out;
  std::string answer = json::parse(json(first.out).dump());
  const json messages = saved(chat({}), "Hello\nAnd then?\n");
  ASSERT_EQ(messages.size(), 4u);
  EXPECT_EQ(messages[0], user("Hello"));
  EXPECT_EQ(messages[2], user("And then?"));
  EXPECT_EQ(with_newline(messages[1]["content"]), first.out);
  const std::string second = greedy_answer(json::array({messages[0], messages[1], messages[2]}), 8);
  EXPECT_EQ(messages[3], assistant(second));
  EXPECT_EQ(both.out, first.out + with_newline(second));
  EXPECT_NE(both.err.find(", 0 reused"), std::string::npos) << both.err;
  EXPECT_EQ(both.err.find(", 0 reused", both.err.find("decode")), std::string::npos) << both.err;
}

TEST(Chat, TurnsOfSeveralLines) {
  const json messages = saved(chat({"-n", "1"}),
                              "one \\\ntwo\\\n\\\nfour\n"
                              "\"\"\"first\n/second \\\n\n  last\"\"\"\n"
                              "\"\"\"\n/help\n\"\"\"\n"
                              "//slash\n");
  std::vector<std::string> asked;
  for (const json& message : messages) {
    if (message["role"] == "user") asked.push_back(message["content"]);
  }
  EXPECT_EQ(asked, (std::vector<std::string>{"one \ntwo\n\nfour", "first\n/second \\\n\n  last", "/help",
                                             "/slash"}));
}

TEST(Chat, CommandsChangeWhatTheySay) {
  EXPECT_EQ(saved(chat({"--system", "Be brief."}), "/system Be long.\n"),
            json::array({{{"role", "system"}, {"content", "Be long."}}}));
  EXPECT_EQ(saved(chat({"--system", "Be brief."}), "/system -\n"), json::array());
  EXPECT_EQ(saved(chat({"--system", "Be brief."}), "Hello\n/clear\n").size(), 1u);
  const json shorter = saved(chat({}), "/set max_tokens 1\nHello\n");
  const json longer = saved(chat({}), "Hello\n");
  ASSERT_EQ(longer.size(), 2u);
  EXPECT_LT(shorter[1]["content"].get<std::string>().size(), longer[1]["content"].get<std::string>().size());
}

TEST(Chat, ExpertsShowsWhoComputed) {
  const Args more = {"--device", "sim", "--gpu-memory", "5660KiB", "-c", "2048"};
  const Scratch home;  // where the use of experts is remembered
  const Finished shared = run(chat(more), "Hello\n/experts\n", {{"XDG_DATA_HOME", home.file("data")}});
  EXPECT_EQ(shared.code, 0) << shared.err;
  EXPECT_EQ(shared.out, run(chat({}), "Hello\n").out);
  for (const char* expected : {" of 16 experts, the others on the host", "plan: ", "  layer  on device",
                               "\n      1 ", "\n      2 ", "\n    all "})
    EXPECT_NE(shared.err.find(expected), std::string::npos) << expected << "\n" << shared.err;
  EXPECT_EQ(shared.err.find("\n      0 "), std::string::npos) << "layer 0 has no experts: " << shared.err;
  EXPECT_NE(run(chat({}), "Hello\n/experts\n").err.find("all experts are in one place"), std::string::npos);
}

// With room for some of the experts on the device; how many are there follows from measured speeds.
Args on_both_sides(const Args& more) {
  Args args = chat({"--device", "sim", "--gpu-memory", "8400KiB", "-c", "2048", "-n", "100"});
  args.insert(args.end(), more.begin(), more.end());
  return args;
}

TEST(Chat, ExpertsShowsSharesAndTimes) {
  const Scratch home;
  const Finished shared = run(on_both_sides({}), "Hello\n/experts\n", {{"XDG_DATA_HOME", home.file("data")}});
  struct Row {
    double on_device = -1, host_ms = -1;
  };
  const auto row = [&](const std::string& layer) {
    Row r;
    const size_t at = shared.err.find("\n" + layer + " ");
    if (at != std::string::npos)
      std::sscanf(shared.err.c_str() + at + 1 + layer.size(), "%lf %% %lf", &r.on_device, &r.host_ms);
    return r;
  };
  const Row one = row("      1"), two = row("      2"), all = row("    all");
  for (const Row& r : {one, two, all}) {
    EXPECT_GE(r.on_device, 0) << shared.err;
    EXPECT_LT(r.on_device, 100) << shared.err;
    EXPECT_GT(r.host_ms, 0) << shared.err;
  }
  EXPECT_NEAR(all.on_device, (one.on_device + two.on_device) / 2, 0.11) << "as many slots in each";
  EXPECT_NEAR(all.host_ms, one.host_ms + two.host_ms, 0.16);
}

// The work on each row of a trace, by the row's name.
std::map<std::string, int> spans_of(const std::string& file) {
  const json trace = json::parse(process::read_file(file), nullptr, false);
  EXPECT_FALSE(trace.is_discarded());
  std::map<int, std::string> names;
  std::map<std::string, int> spans;
  for (const json& event : trace["traceEvents"]) {
    if (event["ph"] == "M") names[event["tid"]] = event["args"]["name"];
    if (event["ph"] != "X") continue;
    EXPECT_GE(event["ts"], 0);
    EXPECT_GE(event["dur"], 0);
    ++spans[names[event["tid"]]];
  }
  return spans;
}

// A long prompt, for which experts are streamed over the link, and an answer in which they may move: nearly
// always, for speeds that were measured on a busy machine may say otherwise.
TEST(Chat, ATraceShowsDeviceLinkAndCpu) {
  std::string words;
  for (int i = 0; i < 400; ++i) words += "and then ";
  std::map<std::string, int> spans;
  for (int time = 0; time < 5 && spans["device: link"] == 0; ++time) {
    const Scratch scratch;
    const std::string file = scratch.file("trace.json");
    const Finished answered =
        run(on_both_sides({"--trace", file}), words + "\n", {{"XDG_DATA_HOME", scratch.file("data")}});
    ASSERT_EQ(answered.code, 0) << answered.err;
    spans = spans_of(file);
    EXPECT_GT(spans["device: compute"], 0);
    EXPECT_GT(spans["CPU: experts"], 0);
  }
  EXPECT_GT(spans["device: link"], 0);
  EXPECT_EQ(spans.size(), 3u);
}

TEST(Chat, SavedConversationsContinue) {
  const Scratch scratch;
  const std::string file = scratch.file("chat.json");
  run(chat({}), "Hello\n/save " + file + "\n");
  const json through = saved(chat({}), "Hello\nAnd then?\n");
  const json resumed = saved(chat({}), "/load " + file + "\nAnd then?\n");
  EXPECT_EQ(resumed, through);
  // a bare list, as other programs write it
  const std::string list = scratch.write("list.json", json::array({user("Hello")}).dump());
  EXPECT_EQ(saved(chat({}), "/load " + list + "\n/regen\n"), saved(chat({}), "Hello\n"));
}

TEST(Chat, SeedsMakeAnswersRepeatableAndRegenDiffer) {
  const Args args = {"chat", "-m", kTiny, "--temp", "2", "--top-p", "1", "-n", "12", "--seed", "5"};
  const json once = saved(args, "Hello\n");
  EXPECT_EQ(saved(args, "Hello\n"), once);
  const json again = saved(args, "Hello\n/regen\n");
  ASSERT_EQ(again.size(), 2u);
  EXPECT_NE(again[1], once[1]);
  Args other = args;
  other.back() = "6";
  EXPECT_EQ(saved(other, "Hello\n")[1], again[1]) << "the second answer has the next seed";
}

TEST(Chat, ErrorsLeaveTheConversationIntact) {
  const Scratch scratch;
  const json before = saved(chat({}), "Hello\n");
  for (const std::string& wrong : std::vector<std::string>{
           "/dance\n", "/set\n", "/set temp\n", "/set temp hot\n", "/set temp -1\n", "/set top_p 0\n",
           "/set size 3\n", "/set max_tokens 0\n", "/load\n", "/save\n", "/load no/such/file\n",
           "/save no/such/folder/file\n", "/load LICENSE\n", "/load " + scratch.write("a.json", "[1]") + "\n",
           "/load " + scratch.write("b.json", R"([{"role": "user"}])") + "\n",
           "/load " + scratch.write("c.json", std::string(1000, '[')) + "\n",
           std::string(30'000, 'x') + "\n"}) {  // more than the context holds
    EXPECT_EQ(saved(chat({}), "Hello\n" + wrong), before) << wrong.substr(0, 40);
  }
  EXPECT_EQ(saved(chat({}), "/regen\n"), json::array());
  EXPECT_EQ(saved(chat({}), std::string(30'000, 'x') + "\nHello\n"), before);
  const Finished unknown = run(chat({}), "/dance\n");
  EXPECT_EQ(unknown.code, 1);
  EXPECT_NE(unknown.err.find("/help"), std::string::npos) << unknown.err;
  EXPECT_EQ(run(chat({}), "/quit\nHello\n").out, "");
}

TEST(Chat, BadArgumentsAreOneLine) {
  for (const Args& more : std::vector<Args>{{"--temp", "-1"},
                                            {"--top-p", "0"},
                                            {"--min-p", "2"},
                                            {"--top-k", "-1"},
                                            {"--chat-template-kwargs", "[]"}}) {
    Args args = {"chat", "-m", kTiny, "-p", "x"};
    args.insert(args.end(), more.begin(), more.end());
    const Finished finished = run(args);
    EXPECT_EQ(finished.code, 1);
    EXPECT_EQ(finished.out, "");
    EXPECT_EQ(finished.err.rfind("moebius: ", 0), 0u) << finished.err;
    EXPECT_EQ(std::count(finished.err.begin(), finished.err.end(), '\n'), 1) << finished.err;
  }
}

TEST(Chat, WithoutATemplateItContinuesTheText) {
  const Scratch scratch;
  std::filesystem::copy(kTiny, scratch.file("model"));
  json config = json::parse(std::ifstream(scratch.file("model/tokenizer_config.json")));
  config.erase("chat_template");
  scratch.write("model/tokenizer_config.json", config.dump());
  const Finished finished =
      run({"chat", "-m", scratch.file("model"), "--temp", "0", "-n", "3", "-p", "Once"});
  EXPECT_EQ(finished.code, 0) << finished.err;
  EXPECT_NE(finished.err.find("no chat template"), std::string::npos) << finished.err;

  json ids = json::parse(run({"tokenize", "-m", kTiny, "--json"}, "Once").out)["ids"];
  json answer = json::array();
  for (int i = 0; i < 3; ++i) {
    const json next =
        json::parse(run({"logits", "-m", kTiny, "--ids-file", "-", "--json"}, ids.dump()).out)["argmax"]
            .back();
    ids.push_back(next);
    answer.push_back(next);
  }
  const json text = json::parse(run({"tokenize", "-m", kTiny, "--decode", "--json"}, answer.dump()).out);
  EXPECT_EQ(finished.out, with_newline(text["text"]));
}

class ChatTerminal : public ::testing::Test {
 protected:
  Environment environment() const {
    return {{"XDG_DATA_HOME", scratch_.file("data")},
            {"HOME", scratch_.file("home")},
            {"TERM", "xterm"},
            {"LC_ALL", "C.UTF-8"},
            {"NO_COLOR", ""}};
  }
  Scratch scratch_;
};

TEST_F(ChatTerminal, CommandsEditingAndHistory) {
  const std::string history = scratch_.file("data/moebius/chat_history");
  {
    Terminal terminal(chat({}), environment());
    terminal.expect("> ");
    terminal.type("/help\r");
    terminal.expect("/regen");
    terminal.expect("> ");
    terminal.type("/systm\x1b[D\x1b[D\x1b[De\x7f\x1b[C\x1b[C\x1b[C\r");  // moves, inserts and deletes
    terminal.expect("no command /systm");
    terminal.expect("> ");
    terminal.type("h\xc3\xa9llo\r");
    terminal.expect("\x1b[2m[prefill ");
    terminal.expect(" tok/s (8 tokens)");
    terminal.expect("\x1b[0m");
    terminal.expect("> ");
    terminal.type("/save " + scratch_.file("chat.json") + "\r");
    terminal.expect("saved 2 messages");
    terminal.expect("> ");
    terminal.type("\x04");
    EXPECT_EQ(terminal.end(), 0);
  }
  EXPECT_EQ(json::parse(process::read_file(scratch_.file("chat.json")))["messages"][0], user("h\xc3\xa9llo"));
  struct stat info {};
  ASSERT_EQ(stat(history.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
  EXPECT_NE(process::read_file(history).find("/systm"), std::string::npos);

  Terminal later(chat({}), environment());
  later.expect("> ");
  later.type("\x1b[A\x1b[A");  // the line before the last of the other run
  later.expect("h\xc3\xa9llo");
  later.type("\r");
  later.expect("tok/s (8 tokens)");
  later.expect("> ");
  later.type("/quit\r");
  EXPECT_EQ(later.end(), 0);
}

TEST_F(ChatTerminal, ColorsAreLeftOutWhenAskedTo) {
  Environment plain = environment();
  plain["NO_COLOR"] = "1";
  Terminal terminal(chat({}), plain);
  terminal.expect("> ");
  terminal.type("Hello\r");
  terminal.expect("tok/s (8 tokens)");
  terminal.expect("> ");
  terminal.type("/quit\r");
  EXPECT_EQ(terminal.end(), 0);
  EXPECT_EQ(terminal.seen().find("\x1b[2m"), std::string::npos) << terminal.seen();
}

// The tiny model with room for a minute of talk and a stop id that it never says.
std::string talkative_model(const Scratch& scratch) {
  std::filesystem::copy(kTiny, scratch.file("model"));
  for (const char* name : {"model/config.json", "model/generation_config.json"}) {
    json config = json::parse(std::ifstream(scratch.file(name)));
    config["eos_token_id"] = 511;
    if (config.contains("max_position_embeddings")) config["max_position_embeddings"] = 65536;
    scratch.write(name, config.dump());
  }
  return scratch.file("model");
}

TEST_F(ChatTerminal, InterruptStopsAnAnswerAndKeepsWhatWasSaid) {
  Terminal terminal({"chat", "-m", talkative_model(scratch_), "--temp", "0", "-c", "65536", "-t", "1"},
                    environment());
  terminal.expect("> ");
  terminal.type("Hello\r");
  terminal.expect("thisning");  // what the model says
  terminal.type("\x03");
  terminal.expect(", stopped]");
  terminal.expect("> ");
  terminal.type("/save " + scratch_.file("chat.json") + "\r");
  terminal.expect("saved 2 messages");
  terminal.expect("> ");
  terminal.type("Hello\r");
  terminal.expect("\r\n");
  terminal.type("\x03");
  terminal.expect(", stopped]");
  terminal.expect("> ");
  terminal.type("\x03");  // the second in a row
  EXPECT_EQ(terminal.end(), 130);
  const json messages = json::parse(process::read_file(scratch_.file("chat.json")))["messages"];
  ASSERT_EQ(messages.size(), 2u);
  EXPECT_EQ(messages[1]["role"], "assistant");
  EXPECT_NE(messages[1]["content"].get<std::string>().find("thisning"), std::string::npos);
}

TEST_F(ChatTerminal, InterruptEndsAOneShot) {
  Terminal terminal(
      {"chat", "-m", talkative_model(scratch_), "-t", "1", "--temp", "0", "-c", "65536", "-p", "Hello"},
      environment());
  terminal.expect("thisning");
  terminal.type("\x03");
  EXPECT_EQ(terminal.end(), 130);
}

TEST_F(ChatTerminal, ControlCharactersOfATextDoNotReachTheTerminal) {
  const json hostile = json::array({{{"role", "system"}, {"content", "a\x1b[31mb\x07\xc2\x9b-\x7f"}}});
  Terminal terminal(chat({}), environment());
  terminal.expect("> ");
  terminal.type("/load " + scratch_.write("hostile.json", hostile.dump()) + "\r");
  terminal.expect("loaded 1 messages");
  terminal.expect("> ");
  terminal.type("/system\r");
  terminal.expect("a\xe2\x90\x9b[31mb\xe2\x90\x87\xef\xbf\xbd-\xe2\x90\xa1");
  terminal.expect("> ");
  terminal.type("/quit\r");
  EXPECT_EQ(terminal.end(), 0);
}

TEST_F(ChatTerminal, TwoInterruptsAtThePromptLeave) {
  Terminal terminal(chat({}), environment());
  terminal.expect("> ");
  terminal.type("half a line\x03");
  terminal.expect("Ctrl-C again leaves");
  terminal.expect("> ");
  terminal.type("/set\r");  // anything said in between starts the count again
  terminal.expect("max_tokens");
  terminal.expect("> ");
  terminal.type("\x03");
  terminal.expect("Ctrl-C again leaves");
  terminal.expect("> ");
  terminal.type("\x03");
  EXPECT_EQ(terminal.end(), 130);
}

TEST_F(ChatTerminal, InterruptLeavesABlock) {
  Terminal terminal(chat({}), environment());
  terminal.expect("> ");
  terminal.type("\"\"\"one\r");
  terminal.expect("... ");
  terminal.type("two\x03");
  terminal.expect("> ");
  terminal.type("/save " + scratch_.file("chat.json") + "\r");
  terminal.expect("saved 0 messages");
  terminal.expect("> ");
  terminal.type("\x04");
  EXPECT_EQ(terminal.end(), 0);
}

}  // namespace
}  // namespace moebius
