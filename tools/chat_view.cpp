#include "tools/chat_view.h"

#include <cstdio>

#include <fmt/format.h>
#include <unistd.h>

namespace moebius {
namespace {

std::string speed(int64_t tokens, double seconds) {
  return seconds > 0 ? fmt::format("{:.1f} tok/s", static_cast<double>(tokens) / seconds) : "- tok/s";
}

}  // namespace

std::string visible_controls(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    const auto next = i + 1 < text.size() ? static_cast<unsigned char>(text[i + 1]) : 0;
    if (byte < 0x20 && byte != '\n' && byte != '\t') {
      out += "\xe2\x90";  // U+2400 to U+241F
      out += static_cast<char>(0x80 + byte);
    } else if (byte == 0x7f) {
      out += "\xe2\x90\xa1";
    } else if (byte == 0xc2 && next >= 0x80 && next < 0xa0) {
      out += "\xef\xbf\xbd";
      ++i;
    } else {
      out += text[i];
    }
  }
  return out;
}

ChatView::ChatView(bool colors)
    : colors_(colors && isatty(STDERR_FILENO)),
      terminal_(isatty(STDOUT_FILENO)),
      bar_("reading the prompt") {}

bool ChatView::show(std::string_view text) {
  bar_.clear();
  if (text.empty()) return std::ferror(stdout) == 0;
  at_line_start_ = text.back() == '\n';
  const std::string safe = terminal_ ? visible_controls(text) : std::string(text);
  std::fwrite(safe.data(), 1, safe.size(), stdout);
  return std::fflush(stdout) == 0 && std::ferror(stdout) == 0;
}

void ChatView::reading(int64_t done, int64_t total) {
  if (std::chrono::steady_clock::now() - started_ < std::chrono::milliseconds(500)) return;
  bar_.update(done, total);
}

void ChatView::begin_answer() {
  started_ = std::chrono::steady_clock::now();
  at_line_start_ = true;
}

void ChatView::end_answer(const Answer& answer) {
  bar_.clear();
  if (!at_line_start_) show("\n");
  const GenerateStats& stats = answer.stats;
  const int64_t read = stats.prompt_tokens - stats.reused_tokens;
  std::string line =
      fmt::format("[prefill {} ({} tokens, {} reused), decode {} ({} tokens)", speed(read, stats.prefill_s),
                  read, stats.reused_tokens, speed(stats.answer_tokens, stats.decode_s), stats.answer_tokens);
  if (answer.skipped > 0) line += fmt::format(", {:.0f} % of expert slots skipped", 100 * answer.skipped);
  if (answer.stopped) line += ", stopped";
  if (stats.finish == FinishReason::kLength) line += ", at the length limit";
  note(line + "]");
}

void ChatView::note(std::string_view line) const {
  fmt::print(stderr, "{}{}{}\n", colors_ ? "\x1b[2m" : "", line, colors_ ? "\x1b[0m" : "");
}

void ChatView::text(std::string_view lines) const {
  const std::string safe = isatty(STDERR_FILENO) ? visible_controls(lines) : std::string(lines);
  std::fwrite(safe.data(), 1, safe.size(), stderr);
}

}  // namespace moebius
