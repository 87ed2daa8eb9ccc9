#include "tools/chat_input.h"

#include <cerrno>
#include <clocale>
#include <cstdio>
#include <cwchar>
#include <filesystem>

#include <fcntl.h>
#include <histedit.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tools/text_io.h"

namespace moebius {
namespace {

constexpr int kHistoryLines = 1000;
constexpr size_t kMaxLineBytes = size_t{64} << 20;

enum class Wait : uint8_t { kInput, kInterrupt, kFailed };

// Until standard input is readable (or closed) or Ctrl-C was pressed, which goes first.
Wait wait_for_input(Interrupts& interrupts) {
  pollfd wanted[] = {{STDIN_FILENO, POLLIN, 0}, {interrupts.descriptor(), POLLIN, 0}};
  while (true) {
    const int count = ::poll(wanted, 2, -1);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return Wait::kFailed;
    if (interrupts.take()) return Wait::kInterrupt;
    if (wanted[0].revents != 0) return Wait::kInput;
  }
}

class PipeReader : public LineReader {
 public:
  explicit PipeReader(Interrupts& interrupts) : interrupts_(interrupts) {}
  bool interactive() const override { return false; }

  InputLine read(const char*) override {
    while (true) {
      if (const size_t end = pending_.find('\n', searched_); end != std::string::npos)
        return cut(end, end + 1);
      searched_ = pending_.size();
      if (ended_ || pending_.size() > kMaxLineBytes) {
        if (pending_.empty()) return {InputKind::kEnd, ""};
        return cut(pending_.size(), pending_.size());
      }
      const Wait wait = wait_for_input(interrupts_);
      if (wait == Wait::kInterrupt) return {InputKind::kInterrupt, ""};
      char block[1 << 14];
      const ssize_t count = wait == Wait::kInput ? ::read(STDIN_FILENO, block, sizeof block) : 0;
      if (count > 0) pending_.append(block, static_cast<size_t>(count));
      ended_ = count == 0 || (count < 0 && errno != EINTR && errno != EAGAIN);
    }
  }

 private:
  InputLine cut(size_t end, size_t next) {
    std::string text = pending_.substr(0, end);
    pending_.erase(0, next);
    searched_ = 0;
    if (!text.empty() && text.back() == '\r') text.pop_back();
    return {InputKind::kText, valid_utf8(text)};
  }

  Interrupts& interrupts_;
  std::string pending_;
  size_t searched_ = 0;
  bool ended_ = false;
};

class EditReader : public LineReader {
 public:
  EditReader(Interrupts& interrupts, const std::string& history_file)
      : interrupts_(interrupts), history_file_(history_file) {
    // The editor counts columns by the locale's characters.
    if (std::setlocale(LC_CTYPE, "") == nullptr || MB_CUR_MAX == 1) std::setlocale(LC_CTYPE, "C.UTF-8");
    editor_ = el_init("moebius", stdin, stderr, stderr);
    history_ = history_init();
    if (editor_ == nullptr || history_ == nullptr) return;
    HistEvent event;
    history(history_, &event, H_SETSIZE, kHistoryLines);
    history(history_, &event, H_SETUNIQUE, 1);
    if (!history_file_.empty()) load_history();
    el_set(editor_, EL_CLIENTDATA, this);
    el_set(editor_, EL_PROMPT, &EditReader::prompt_of);
    el_set(editor_, EL_EDITOR, "emacs");
    el_set(editor_, EL_SIGNAL, 1);
    el_set(editor_, EL_HIST, history, history_);
    el_wset(editor_, EL_GETCFN, &EditReader::next_character);
    el_source(editor_, nullptr);  // ~/.editrc
  }

  ~EditReader() override {
    if (history_ != nullptr) history_end(history_);
    if (editor_ != nullptr) el_end(editor_);
  }

  bool usable() const { return editor_ != nullptr && history_ != nullptr; }
  bool interactive() const override { return true; }

  InputLine read(const char* prompt) override {
    prompt_ = prompt;
    interrupted_ = false;
    int count = 0;
    el_set(editor_, EL_PREP_TERM, 1);  // before the prompt shows, or a Ctrl-D typed at once would be lost
    const char* line = el_gets(editor_, &count);
    if (interrupted_) {
      std::fputs("\n", stderr);
      return {InputKind::kInterrupt, ""};
    }
    if (line == nullptr || count <= 0) return {InputKind::kEnd, ""};
    std::string text(line, static_cast<size_t>(count));
    while (!text.empty() && (text.back() == '\n' || text.back() == '\r')) text.pop_back();
    if (!text.empty()) remember(text);
    return {InputKind::kText, valid_utf8(text)};
  }

 private:
  static EditReader* self(EditLine* editor) {
    void* data = nullptr;
    el_get(editor, EL_CLIENTDATA, &data);
    return static_cast<EditReader*>(data);
  }

  static char* prompt_of(EditLine* editor) { return self(editor)->prompt_.data(); }

  static int next_character(EditLine* editor, wchar_t* out) {
    EditReader* reader = self(editor);
    std::mbstate_t state{};
    while (true) {
      const Wait wait = wait_for_input(reader->interrupts_);
      reader->interrupted_ = wait == Wait::kInterrupt;
      if (wait != Wait::kInput) return -1;
      char byte = 0;
      const ssize_t count = ::read(STDIN_FILENO, &byte, 1);
      if (count < 0 && (errno == EINTR || errno == EAGAIN)) continue;
      if (count <= 0) return static_cast<int>(count);
      const size_t used = std::mbrtowc(out, &byte, 1, &state);
      if (used <= 1) return 1;
      if (used == static_cast<size_t>(-1)) state = std::mbstate_t{};  // not a character: skipped
    }
  }

  // Creates the file with its mode first, so that it is never readable by others, not even for a moment.
  void load_history() {
    std::error_code ignored;
    std::filesystem::create_directories(std::filesystem::path(history_file_).parent_path(), ignored);
    const int fd = ::open(history_file_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, S_IRUSR | S_IWUSR);
    if (fd < 0) {
      history_file_.clear();
      return;
    }
    static_cast<void>(::fchmod(fd, S_IRUSR | S_IWUSR));
    ::close(fd);
    HistEvent event;
    history(history_, &event, H_LOAD, history_file_.c_str());
  }

  void remember(const std::string& text) {
    HistEvent event;
    history(history_, &event, H_ENTER, text.c_str());
    if (!history_file_.empty()) history(history_, &event, H_SAVE, history_file_.c_str());
  }

  Interrupts& interrupts_;
  std::string history_file_, prompt_;
  EditLine* editor_ = nullptr;
  History* history_ = nullptr;
  bool interrupted_ = false;
};

bool ends_with_quotes(const std::string& text) {
  const size_t last = text.find_last_not_of(" \t");
  return last != std::string::npos && last >= 2 && text.compare(last - 2, 3, "\"\"\"") == 0;
}

Turn read_block(LineReader& reader, std::string text) {
  while (!ends_with_quotes(text)) {
    const InputLine line = reader.read("... ");
    if (line.kind == InputKind::kInterrupt) return {InputKind::kInterrupt, "", true};
    if (line.kind == InputKind::kEnd) return {InputKind::kText, text, true};
    if (!text.empty()) text += '\n';
    text += line.text;
  }
  text.resize(text.find_last_of('"') - 2);
  if (!text.empty() && text.back() == '\n') text.pop_back();
  return {InputKind::kText, text, true};
}

}  // namespace

std::unique_ptr<LineReader> LineReader::open(Interrupts& interrupts, const std::string& history_file) {
  if (isatty(STDIN_FILENO) && isatty(STDERR_FILENO)) {
    auto reader = std::make_unique<EditReader>(interrupts, history_file);
    if (reader->usable()) return reader;
  }
  return std::make_unique<PipeReader>(interrupts);
}

Turn read_turn(LineReader& reader) {
  InputLine line = reader.read("> ");
  if (line.kind != InputKind::kText) return {line.kind, "", false};
  const size_t start = line.text.find_first_not_of(" \t");
  if (start != std::string::npos && line.text.compare(start, 3, "\"\"\"") == 0) {
    return read_block(reader, line.text.substr(start + 3));
  }
  std::string text;
  while (!line.text.empty() && line.text.back() == '\\') {
    line.text.pop_back();
    text += line.text + '\n';
    line = reader.read("... ");
    if (line.kind == InputKind::kInterrupt) return {InputKind::kInterrupt, "", false};
    if (line.kind == InputKind::kEnd) break;
  }
  return {InputKind::kText, text + line.text, false};
}

}  // namespace moebius
