// What a person or a pipe says to `moebius chat`: lines, and turns made of them.
#pragma once

#include <memory>
#include <string>

#include "tools/chat_interrupt.h"

namespace moebius {

enum class InputKind : uint8_t { kText, kEnd, kInterrupt };

struct InputLine {
  InputKind kind = InputKind::kText;
  std::string text;  // valid UTF-8, without the newline
};

class LineReader {
 public:
  // On a terminal (standard input and error) a line editor with the history of earlier runs, kept in
  // history_file with mode 0600 ("": not kept); else plain lines of standard input, without prompts.
  // interrupts must outlive the reader.
  static std::unique_ptr<LineReader> open(Interrupts& interrupts, const std::string& history_file);
  virtual ~LineReader() = default;
  virtual InputLine read(const char* prompt) = 0;
  virtual bool interactive() const = 0;
};

struct Turn {
  InputKind kind = InputKind::kText;
  std::string text;
  bool block = false;  // came in """ and is never a command
};

// One turn: a line; lines joined by a backslash at the end of each but the last; or everything between """ at
// the start of a line and """ at the end of one.
Turn read_turn(LineReader& reader);

}  // namespace moebius
