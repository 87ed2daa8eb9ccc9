// The slash commands of `moebius chat`.
#pragma once

#include <string>
#include <string_view>

#include "tools/chat_conversation.h"

namespace moebius {

enum class CommandEffect : uint8_t { kDone, kQuit, kRegenerate };

struct CommandResult {
  CommandEffect effect = CommandEffect::kDone;
  std::string text;  // to show; whole lines
  Status status;     // what went wrong, if anything did
};

// line: "/name argument". A wrong command changes nothing.
CommandResult run_command(Conversation& conversation, std::string_view line);

// Applies NAME VALUE, as /set does. kInvalid names the parameter and its range, kNotFound lists the names.
Status set_parameter(ChatSettings& settings, std::string_view name, std::string_view value, int64_t vocab);

}  // namespace moebius
