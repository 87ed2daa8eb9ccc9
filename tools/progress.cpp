#include "tools/progress.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

namespace moebius {
namespace {

constexpr auto kRedraw = std::chrono::milliseconds(100);
constexpr int kBarWidth = 30, kLeastBarWidth = 6;
constexpr double kMeanDecay = 0.9;  // of a step's weight in shown means, from one step to the next

double share_of(int64_t done, int64_t total) {
  return total <= 0 ? 0 : std::clamp(static_cast<double>(done) / static_cast<double>(total), 0., 1.);
}

std::string bar_of(double share, int width) {
  const int filled = static_cast<int>(share * width);
  return std::string(static_cast<size_t>(filled), '#') +
         std::string(static_cast<size_t>(width - filled), '.');
}

void show_line(std::string_view line) {
  fmt::print(stderr, "\r\x1b[K{}", line);
  std::fflush(stderr);
}

size_t terminal_columns() {
  winsize size{};
  if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return 80;
  return size.ws_col;
}

std::string clock_text(double seconds) {
  if (!(seconds < 1e8)) return "?";
  const auto whole = static_cast<int64_t>(std::lround(seconds));
  if (whole < 3600) return fmt::format("{}:{:02}", whole / 60, whole % 60);
  if (whole < 86400) return fmt::format("{}:{:02}:{:02}", whole / 3600, whole / 60 % 60, whole % 60);
  return fmt::format("{}d {}:{:02}", whole / 86400, whole / 3600 % 24, whole / 60 % 60);
}

std::string speed_text(double tokens_per_s) {
  if (tokens_per_s >= 99'950) return fmt::format("{:.0f}k tok/s", tokens_per_s / 1000);
  if (tokens_per_s >= 9'995) return fmt::format("{:.1f}k tok/s", tokens_per_s / 1000);
  if (tokens_per_s >= 1'000) return fmt::format("{:.2f}k tok/s", tokens_per_s / 1000);
  return fmt::format("{:.{}f} tok/s", tokens_per_s, tokens_per_s < 10 ? 1 : 0);
}

std::string loss_text(double loss) {
  return std::abs(loss) < 0.01 ? fmt::format("{:.2e}", loss) : fmt::format("{:.3f}", loss);
}

}  // namespace

ProgressBar::ProgressBar(std::string label)
    : label_(std::move(label)),
      terminal_(isatty(STDERR_FILENO) != 0),
      start_(std::chrono::steady_clock::now()) {}

ProgressBar::~ProgressBar() { clear(); }

void ProgressBar::update(int64_t done, int64_t total) {
  if (!terminal_ || total <= 0) return;
  const auto now = std::chrono::steady_clock::now();
  if (shown_ && done < total && now - drawn_ < kRedraw) return;
  drawn_ = now;
  shown_ = true;
  const double share = share_of(done, total);
  const double passed = std::chrono::duration<double>(now - start_).count();
  const std::string left = share > 0.01 ? fmt::format(", {:.0f} s left", passed / share - passed) : "";
  show_line(fmt::format("{} [{}] {}/{}{}", label_, bar_of(share, kBarWidth), done, total, left));
}

void ProgressBar::clear() {
  if (!shown_) return;
  show_line("");
  shown_ = false;
}

TrainingProgress::TrainingProgress(std::string label, std::chrono::seconds plain_every)
    : label_(std::move(label)),
      terminal_(isatty(STDERR_FILENO) != 0),
      plain_every_(plain_every),
      start_(Clock::now()) {}

TrainingProgress::~TrainingProgress() { clear(); }

void TrainingProgress::update(int64_t step, int64_t total, double loss, double tokens_per_s) {
  ++steps_;
  weight_ = weight_ * kMeanDecay + 1;
  loss_ += (loss - loss_) / weight_;
  tokens_per_s_ += (tokens_per_s - tokens_per_s_) / weight_;

  const auto now = Clock::now();
  const bool last = step >= total;
  if (steps_ > 1 && !last && now - drawn_ < (terminal_ ? Clock::duration(kRedraw) : plain_every_)) return;
  drawn_ = now;
  const double passed = std::chrono::duration<double>(now - start_).count();
  const double left =
      passed / static_cast<double>(steps_) * static_cast<double>(std::max<int64_t>(total - step, 0));
  const std::string head = fmt::format("{} {}/{} ", label_, step, total);
  const std::string tail = fmt::format(" loss {}  {}  {} {}", loss_text(loss_), speed_text(tokens_per_s_),
                                       last ? "in" : "ETA", clock_text(last ? passed : left));
  if (!terminal_) {
    fmt::print(stderr, "{}{:.1f} %{}\n", head, share_of(step, total) * 100, tail);
    std::fflush(stderr);
    return;
  }
  // A line that reaches the last column may wrap, and would then not be wiped.
  const size_t columns = terminal_columns() - 1;
  const auto room = static_cast<int>(columns) - static_cast<int>(head.size() + tail.size()) - 2;
  std::string line = head;
  if (room >= kLeastBarWidth)
    line += fmt::format("[{}]", bar_of(share_of(step, total), std::min(room, kBarWidth)));
  line += room >= kLeastBarWidth ? tail : tail.substr(1);
  show_line(std::string_view(line).substr(0, columns));
  shown_ = true;
}

void TrainingProgress::note(std::string_view line) {
  clear();
  fmt::print(stderr, "{}\n", line);
  std::fflush(stderr);
}

void TrainingProgress::clear() {
  if (!shown_) return;
  show_line("");
  shown_ = false;
}

}  // namespace moebius
