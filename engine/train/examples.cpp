#include "engine/train/examples.h"

#include <algorithm>

#include <fmt/format.h>

#include "engine/train/messages.h"
#include "models/json_fields.h"
#include "models/tokenizer_text.h"

namespace moebius {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kShapes =
    "write {\"messages\": [...]}, {\"text\": TEXT} or {\"prompt\": TEXT, \"completion\": TEXT}";

bool starts_with(const std::vector<int32_t>& ids, const std::vector<int32_t>& prefix) {
  return ids.size() >= prefix.size() && std::equal(prefix.begin(), prefix.end(), ids.begin());
}

size_t common_prefix(std::string_view a, std::string_view b) {
  const size_t size = std::min(a.size(), b.size());
  return static_cast<size_t>(
      std::mismatch(a.begin(), a.begin() + static_cast<ptrdiff_t>(size), b.begin()).first - a.begin());
}

// A special token that is one id and leaves the spaces after it to the text; "" if there is none.
std::string find_anchor(const Tokenizer& tokenizer, const std::vector<int32_t>& stop_ids) {
  std::vector<int32_t> candidates = stop_ids;
  for (const auto& id : {tokenizer.bos_id(), tokenizer.eos_id()}) {
    if (id) candidates.push_back(*id);
  }
  for (const int32_t id : candidates) {
    if (!tokenizer.is_special(id)) continue;
    const std::string text = tokenizer.token_text(id);
    const auto ids = tokenizer.encode(text + "  x");
    if (!ids.ok() || ids->empty() || ids->front() != id) continue;
    std::string rest;
    for (size_t i = 1; i < ids->size(); ++i) rest += tokenizer.token_bytes((*ids)[i]);
    if (rest == "  x") return text;
  }
  return "";
}

}  // namespace

void ExampleMaker::Sequence::append(std::span<const int32_t> more, bool counts) {
  ids.insert(ids.end(), more.begin(), more.end());
  mask.resize(ids.size(), counts ? 1 : 0);
}

ExampleMaker::ExampleMaker(const Tokenizer& tokenizer, const PromptRenderer& prompts,
                           const DatasetOptions& options)
    : tokenizer_(tokenizer),
      prompts_(prompts),
      options_(options),
      anchor_(find_anchor(tokenizer, options.stop_ids)) {}

Status ExampleMaker::add(std::string_view text, Dataset& out) const {
  if (text.find_first_not_of(" \t\r") == std::string_view::npos) return invalid("is empty; remove it");
  if (const size_t valid = utf8_valid_prefix(text); valid != text.size()) {
    return invalid(fmt::format("is not UTF-8 from byte {} on; save the file as UTF-8", valid + 1));
  }
  if (has_too_many_fields(text)) return invalid("has an object with more than 4096 fields; remove them");
  const Json line = parse_ordered_json(text);
  if (line.is_discarded()) {
    return invalid("is not JSON, or nests deeper than 64; write one whole JSON object a line");
  }
  if (!line.is_object()) return invalid("is not a JSON object; write one object a line");

  if (given(line, "messages") != nullptr) return add_conversation(line, out);
  if (given(line, "text") != nullptr) return add_text(line, out);
  if (given(line, "prompt") != nullptr || given(line, "completion") != nullptr)
    return add_completion(line, out);
  return invalid(fmt::format("has none of \"messages\", \"text\" and \"prompt\"; {}", kShapes));
}

bool ExampleMaker::is_stop(int32_t id) const {
  return std::find(options_.stop_ids.begin(), options_.stop_ids.end(), id) != options_.stop_ids.end();
}

Status ExampleMaker::check_length(size_t tokens) const {
  if (options_.too_long == DatasetOptions::TooLong::kCut) return {};
  if (tokens <= static_cast<size_t>(options_.max_tokens)) return {};
  return invalid(
      fmt::format("gives an example of {} tokens or more; the limit is {}: raise it, shorten the "
                  "line, or have long examples cut",
                  tokens, options_.max_tokens));
}

Status ExampleMaker::finish(Sequence& sequence, Dataset& out, bool* full) const {
  MOEBIUS_TRY(check_length(sequence.ids.size()));
  for (const int32_t id : sequence.ids) {
    if (id < 0 || id >= options_.vocab) {
      return invalid(
          fmt::format("has the token id {} but the model knows 0 to {}; the tokenizer is of "
                      "another model",
                      id, options_.vocab - 1));
    }
  }
  const auto limit = static_cast<size_t>(options_.max_tokens);
  *full = sequence.ids.size() > limit;
  if (*full) {
    sequence.ids.resize(limit);
    sequence.mask.resize(limit);
  }
  if (!sequence.mask.empty()) sequence.mask[0] = 0;
  const bool counts = std::find(sequence.mask.begin(), sequence.mask.end(), 1) != sequence.mask.end();
  if (*full) out.count_cut(!counts);
  if (counts) {
    out.add(sequence.ids, sequence.mask);
  } else if (!*full) {
    return invalid("holds no token to predict; add text, or remove the line");
  }
  return {};
}

Status ExampleMaker::add_text(const Json& line, Dataset& out) const {
  const Json& text = line["text"];
  if (!text.is_string()) return invalid("has a \"text\" that is not text; write {\"text\": TEXT}");
  if (given(line, "completion") != nullptr) {
    return invalid(fmt::format("has both \"text\" and \"completion\"; {}", kShapes));
  }
  Sequence sequence;
  MOEBIUS_ASSIGN(const Ids ids, tokenizer_.encode(text.get_ref<const std::string&>(), {.add_special = true}));
  sequence.append(ids, true);
  const bool ended = !ids.empty() && is_stop(ids.back());
  if (!ended && !options_.stop_ids.empty()) sequence.append({&options_.stop_ids[0], 1}, true);
  bool full = false;
  return finish(sequence, out, &full);
}

Status ExampleMaker::add_completion(const Json& line, Dataset& out) const {
  const Json* prompt = given(line, "prompt");
  const Json* completion = given(line, "completion");
  if (prompt == nullptr || completion == nullptr || !prompt->is_string() || !completion->is_string()) {
    return invalid(
        fmt::format("has a \"prompt\" or a \"completion\" that is missing or not text; {}", kShapes));
  }
  const std::string& before = prompt->get_ref<const std::string&>();
  MOEBIUS_ASSIGN(Ids ids, tokenizer_.encode(before, {.add_special = true}));
  MOEBIUS_ASSIGN(Ids answer, encode_after(ids, before + completion->get_ref<const std::string&>(),
                                          before.size(), /*special=*/true));
  if (ids.empty() && tokenizer_.bos_id()) ids.push_back(*tokenizer_.bos_id());  // as the server has it
  if (!options_.stop_ids.empty() && (answer.empty() || !is_stop(answer.back()))) {
    answer.push_back(options_.stop_ids[0]);
  }
  Sequence sequence;
  sequence.append(ids, false);
  sequence.append(answer, true);
  bool full = false;
  return finish(sequence, out, &full);
}

// The ids of `whole` after its first prompt_bytes, whose ids are `prompt`.
Result<ExampleMaker::Ids> ExampleMaker::encode_after(const Ids& prompt, const std::string& whole,
                                                     size_t prompt_bytes, bool special) const {
  MOEBIUS_ASSIGN(Ids ids, tokenizer_.encode(whole, {.add_special = special}));
  if (starts_with(ids, prompt)) {
    ids.erase(ids.begin(), ids.begin() + static_cast<ptrdiff_t>(prompt.size()));
    return ids;
  }
  // A token reaches over the end of the prompt, where the model has to begin a new one.
  MOEBIUS_ASSIGN(ids, tokenizer_.encode(anchor_ + whole.substr(prompt_bytes)));
  if (!anchor_.empty()) ids.erase(ids.begin());
  return ids;
}

Status ExampleMaker::add_conversation(const Json& line, Dataset& out) const {
  MOEBIUS_ASSIGN(TrainingConversation conversation, read_training_conversation(line));
  Json request = options_.template_variables;
  request["messages"] = Json::array();
  if (!conversation.tools.is_null()) request["tools"] = std::move(conversation.tools);
  const auto last = std::find(conversation.counts.rbegin(), conversation.counts.rend(), true);
  const auto turns = static_cast<size_t>(conversation.counts.rend() - last);
  Sequence sequence;
  bool full = false;
  for (size_t i = 0; i < turns && !full; ++i) {
    if (!conversation.counts[i]) {
      request["messages"].push_back(std::move(conversation.messages[i]));
      continue;
    }
    Ids prompt, answer;
    MOEBIUS_TRY(split_turn(request, conversation.messages[i], prompt, answer));
    MOEBIUS_TRY(check_length(prompt.size() + answer.size()));
    if (!sequence.ids.empty() && !starts_with(prompt, sequence.ids)) {
      MOEBIUS_TRY(finish(sequence, out, &full));
      sequence = {};
    }
    sequence.append(std::span(prompt).subspan(sequence.ids.size()), false);
    sequence.append(answer, true);
    full = full || sequence.ids.size() > static_cast<size_t>(options_.max_tokens);
  }
  return finish(sequence, out, &full);
}

Status ExampleMaker::split_turn(Json& request, const Json& turn, Ids& prompt, Ids& answer) const {
  MOEBIUS_ASSIGN(const std::string prompt_text, prompts_.render(request, true));
  request["messages"].push_back(turn);
  MOEBIUS_ASSIGN(const std::string whole_text, prompts_.render(request, false));
  MOEBIUS_TRY(part_ids(request, prompt_text, whole_text, prompt, answer));
  return end_turn(request, prompt, answer);
}

Status ExampleMaker::part_ids(const Json& request, const std::string& prompt_text,
                              const std::string& whole_text, Ids& prompt, Ids& answer) const {
  MOEBIUS_ASSIGN(prompt, tokenizer_.encode(prompt_text));
  if (whole_text.starts_with(prompt_text)) {
    MOEBIUS_ASSIGN(answer, encode_after(prompt, whole_text, prompt_text.size(), /*special=*/false));
    return {};
  }
  Json before = request;
  before["messages"].erase(before["messages"].size() - 1);
  MOEBIUS_ASSIGN(const std::string before_text, prompts_.render(before, false));
  if (common_prefix(prompt_text, whole_text) < before_text.size()) {
    return invalid(
        fmt::format("messages[{}]: the model's chat template changes the conversation before this "
                    "turn when it is added, so that the turn cannot be told apart; give it weight 0",
                    request["messages"].size() - 1));
  }
  MOEBIUS_ASSIGN(answer, tokenizer_.encode(whole_text));
  const auto [end, begin] = std::mismatch(prompt.begin(), prompt.end(), answer.begin(), answer.end());
  prompt.erase(end, prompt.end());
  answer.erase(answer.begin(), begin);
  return {};
}

// Makes the answer end where the model has to stop.
Status ExampleMaker::end_turn(Json& request, const Ids& prompt, Ids& answer) const {
  if (options_.stop_ids.empty()) return {};
  const auto stops = [&](const Ids& ids) {
    return std::count_if(ids.begin(), ids.end(), [&](int32_t id) { return is_stop(id); });
  };
  const auto stop = std::find_if(answer.begin(), answer.end(), [&](int32_t id) { return is_stop(id); });
  if (stop != answer.end()) {
    answer.erase(stop + 1, answer.end());
    return {};
  }
  Json& messages = request["messages"];
  const Json* calls = given(messages.back(), "tool_calls");
  const bool called = calls != nullptr && !calls->empty();
  int32_t end = options_.stop_ids[0];
  messages.push_back({{"role", called ? "tool" : "user"}, {"content", "."}});
  const Result<std::string> next_text = prompts_.render(request, false);
  messages.erase(messages.size() - 1);
  if (next_text.ok()) {
    MOEBIUS_ASSIGN(const Ids next, tokenizer_.encode(*next_text));
    const auto last = std::find_if(next.rbegin(), next.rend(), [&](int32_t id) { return is_stop(id); });
    if (stops(next) > stops(prompt)) end = *last;
  }
  answer.push_back(end);
  return {};
}

}  // namespace moebius
