// Conversation: the messages of a chat and the answers a model gives to them.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

#include "engine/engine.h"

namespace moebius {

struct ChatSettings {
  GenerateOptions generate;       // its seed is that of the first answer; later ones count up from it
  nlohmann::ordered_json kwargs;  // further template variables; null: none
};

// How an answer is shown and stopped.
struct AnswerHooks {
  std::function<bool(std::string_view text)> on_text;  // false stops
  Session::Progress on_progress;                       // while the prompt is read; false stops
};

struct Answer {
  GenerateStats stats;
  double skipped = 0;    // share of expert slots that nobody had to compute, prompt included
  bool stopped = false;  // by a hook; what was said until then is kept, unless it is nothing
};

class Conversation {
 public:
  // engine must outlive it.
  static Result<std::unique_ptr<Conversation>> open(Engine& engine, ChatSettings settings);

  ChatSettings& settings() { return settings_; }
  const nlohmann::ordered_json& messages() const { return messages_; }
  int64_t vocab() const { return engine_.config().vocab; }
  std::vector<LayerUse> expert_use() const { return engine_.expert_use(); }
  SlotSum slots() const { return slots_of(engine_.expert_map()); }
  bool raw() const { return raw_; }  // the model has no chat template: texts are put one after the other

  std::string system() const;                // "" without one
  void set_system(const std::string& text);  // "" removes it
  void clear();                              // keeps the system message

  // Answers text. After an error, or a stop before the first word, the messages are as they were.
  Result<Answer> say(const std::string& text, const AnswerHooks& hooks);
  // Answers the last question anew, with the next seed; the old answer stays if that fails.
  Result<Answer> regenerate(const AnswerHooks& hooks);

  // {"messages": [...]}, as OpenAI's API and `moebius template` read it; load() takes a bare list too.
  Status save(const std::string& path) const;
  Status load(const std::string& path);

 private:
  Conversation(Engine& engine, ChatSettings settings) : engine_(engine), settings_(std::move(settings)) {}
  Result<std::vector<int32_t>> prompt() const;
  Result<Answer> answer(const AnswerHooks& hooks);

  Engine& engine_;
  ChatSettings settings_;
  std::unique_ptr<Session> session_;
  nlohmann::ordered_json messages_ = nlohmann::ordered_json::array();
  bool raw_ = false;
  uint64_t answers_ = 0;
};

}  // namespace moebius
