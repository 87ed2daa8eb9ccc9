// ChatView: what `moebius chat` shows. Answers go to standard output, everything else to standard error.
#pragma once

#include <chrono>
#include <string_view>

#include "tools/chat_conversation.h"
#include "tools/progress.h"

namespace moebius {

class ChatView {
 public:
  // colors: dim lines on a terminal, unless the user asked for none.
  explicit ChatView(bool colors);

  // Shows a piece of an answer at once; control characters are made visible on a terminal, which a model
  // could otherwise command. False when standard output is closed.
  bool show(std::string_view text);
  void reading(int64_t done, int64_t total);  // a progress bar once a prompt takes longer than a moment
  void begin_answer();
  void end_answer(const Answer& answer);  // ends the line and prints the dim line of speeds

  void note(std::string_view line) const;  // a dim line
  void text(std::string_view lines) const;

 private:
  bool colors_, terminal_;
  bool at_line_start_ = true;
  std::chrono::steady_clock::time_point started_;
  ProgressBar bar_;
};

// C0 and C1 control characters and DEL, but for tab and newline, as visible symbols. text: valid UTF-8.
std::string visible_controls(std::string_view text);

}  // namespace moebius
