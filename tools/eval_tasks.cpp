#include "tools/eval_tasks.h"

#include <map>

#include <fmt/format.h>

#include "tools/corpus_check.h"
#include "tools/greedy_replies.h"
#include "tools/progress.h"
#include "tools/text_io.h"

namespace moebius {
namespace {

using nlohmann::ordered_json;

constexpr std::string_view kShape =
    "write one {\"task\": NAME, \"messages\": [{\"role\", \"content\"}, ...], \"answer\": TEXT} a line";

bool has_text(const ordered_json& object, const char* name) {
  return object.contains(name) && object[name].is_string();
}

Result<Task> parse_task(std::string_view line, const std::string& origin) {
  MOEBIUS_ASSIGN(const ordered_json document, parse_document(line, origin));
  const auto wrong = [&](std::string_view what) {
    return invalid(fmt::format("{}: {}; {}", origin, what, kShape));
  };
  if (!document.is_object()) return wrong("not a JSON object");
  if (!has_text(document, "task")) return wrong("\"task\" is missing or not text");
  if (!has_text(document, "answer")) return wrong("\"answer\" is missing or not text");
  if (!document.contains("messages") || !document["messages"].is_array()) {
    return wrong("\"messages\" is missing or not a list");
  }
  ordered_json prompt = document["messages"];
  for (const ordered_json& message : prompt) {
    if (!message.is_object() || !has_text(message, "role")) return wrong("a message has no \"role\"");
  }
  while (!prompt.empty() && prompt.back()["role"] != "user") prompt.erase(prompt.size() - 1);
  if (prompt.empty()) return wrong("no message has the role \"user\"");
  Task task;
  task.name = document["task"].get<std::string>();
  task.answer = document["answer"].get<std::string>();
  task.request = {{"messages", std::move(prompt)}};
  if (document.contains("tools") && !document["tools"].is_null()) {
    if (!document["tools"].is_array()) return wrong("\"tools\" is not a list");
    task.request["tools"] = document["tools"];
  }
  return task;
}

class Scores {
 public:
  void add(const std::string& task, bool right) {
    for (Score* score : {&all_, &tasks_[task]}) ++score->count, score->right += right;
  }
  int64_t count() const { return all_.count; }

  ordered_json report() const {
    ordered_json per_task = ordered_json::object();
    for (const auto& [name, score] : tasks_) {
      per_task[valid_utf8(name)] = {{"accuracy", score.accuracy()}, {"n", score.count}};
    }
    return ordered_json{{"accuracy", all_.accuracy()}, {"per_task", per_task}, {"n", all_.count}};
  }

 private:
  struct Score {
    int64_t count = 0, right = 0;
    double accuracy() const {
      return count == 0 ? 0 : static_cast<double>(right) / static_cast<double>(count);
    }
  };
  std::map<std::string, Score> tasks_;
  Score all_;
};

// Calls on_line for every line that is not blank, with its number, until it fails or says to stop.
template <class OnLine>
Status each_line(std::string_view text, const OnLine& on_line) {
  constexpr std::string_view kByteOrderMark = "\xef\xbb\xbf";
  if (text.substr(0, kByteOrderMark.size()) == kByteOrderMark) text.remove_prefix(kByteOrderMark.size());
  int64_t number = 0;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    const std::string_view line = text.substr(at, end - at);
    at = end + 1;
    ++number;
    if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    MOEBIUS_ASSIGN(const bool more, on_line(line, number));
    if (!more) break;
  }
  return {};
}

}  // namespace

Result<std::vector<Task>> parse_tasks(std::string_view text, const std::string& origin, int64_t limit) {
  std::vector<Task> tasks;
  MOEBIUS_TRY(each_line(text, [&](std::string_view line, int64_t number) -> Result<bool> {
    MOEBIUS_ASSIGN(Task task, parse_task(line, fmt::format("line {} of {}", number, origin)));
    tasks.push_back(std::move(task));
    return limit == 0 || static_cast<int64_t>(tasks.size()) < limit;
  }));
  if (tasks.empty()) return invalid(fmt::format("{} holds no task; {}", origin, kShape));
  return tasks;
}

Result<ordered_json> evaluate_tasks(Engine& engine, const std::vector<Task>& tasks, int64_t max_tokens,
                                    std::string* replies) {
  if (!engine.has_tokenizer()) {
    return not_found("this model has no tokenizer; add tokenizer.json to its folder");
  }
  std::vector<std::vector<int32_t>> prompts;
  for (const Task& task : tasks) {
    MOEBIUS_ASSIGN(const std::string text, engine.render_chat(task.request));
    MOEBIUS_ASSIGN(std::vector<int32_t> prompt, engine.tokenizer().encode(text, {}));
    prompts.push_back(std::move(prompt));
  }
  std::vector<std::string> answers(tasks.size());
  std::vector<bool> right(tasks.size());
  int64_t too_long = 0, done = 0;
  ProgressBar bar("eval");
  const auto on_reply = [&](size_t i, const std::string& reply) {
    right[i] = check_reply(tasks[i].name, tasks[i].answer, reply);
    answers[i] = reply;
    bar.update(++done, static_cast<int64_t>(tasks.size()));
  };
  MOEBIUS_TRY(greedy_replies(engine, prompts, {max_tokens, on_reply}, &too_long));
  Scores scores;
  for (size_t i = 0; i < tasks.size(); ++i) {
    scores.add(tasks[i].name, right[i]);
    if (!replies) continue;
    const bool solved = right[i];
    *replies += to_text({{"task", tasks[i].name}, {"right", solved}, {"reply", answers[i]}}) + "\n";
  }
  ordered_json report = scores.report();
  report["too_long"] = too_long;
  return report;
}

Result<ordered_json> judge_replies(const std::vector<Task>& tasks, std::string_view text,
                                   const std::string& origin) {
  Scores scores;
  size_t count = 0;
  MOEBIUS_TRY(each_line(text, [&](std::string_view line, int64_t number) -> Result<bool> {
    const std::string where = fmt::format("line {} of {}", number, origin);
    MOEBIUS_ASSIGN(const ordered_json document, parse_document(line, where));
    if (!document.is_object() || !has_text(document, "reply")) {
      return invalid(fmt::format("{}: not a reply; write one {{\"reply\": TEXT}} a line", where));
    }
    if (count < tasks.size()) {
      const Task& task = tasks[count];
      scores.add(task.name, check_reply(task.name, task.answer, document["reply"].get<std::string>()));
    }
    ++count;
    return true;
  }));
  if (count != tasks.size()) {
    return invalid(fmt::format("{} holds {} replies to {} tasks; it must hold one for each, in their order",
                               origin, count, tasks.size()));
  }
  return scores.report();
}

}  // namespace moebius
