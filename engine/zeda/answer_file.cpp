#include "engine/zeda/answer_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>

#include <fmt/format.h>

#include "models/file_io.h"
#include "models/json_fields.h"

namespace moebius {
namespace {

constexpr size_t kMaxBytes = size_t{4} << 30;

using Ids = std::vector<int32_t>;

bool read_ids(const nlohmann::json& line, const char* name, Ids& ids) {
  if (!line.is_object() || !line.contains(name) || !line[name].is_array() || line[name].empty()) return false;
  for (const nlohmann::json& id : line[name]) {
    if (!id.is_number_integer() || id < 0 || id > INT32_MAX) return false;
    ids.push_back(id.get<int32_t>());
  }
  return true;
}

}  // namespace

Result<std::unique_ptr<AnswerFile>> AnswerFile::open(const std::string& path, const std::string& settings) {
  std::unique_ptr<AnswerFile> file(new AnswerFile(path));
  MOEBIUS_ASSIGN(const std::string text, file->read(settings));
  MOEBIUS_TRY(write_text_file(path, text));
  file->fd_ = ::open(path.c_str(), O_WRONLY | O_APPEND | O_CLOEXEC);
  if (file->fd_ < 0) return system_error("write answers to", path, errno);
  return file;
}

// The text of the file, up to its last whole line.
Result<std::string> AnswerFile::read(const std::string& settings) {
  const std::string head = nlohmann::json{{"settings", settings}}.dump() + "\n";
  const Result<std::string> old = read_text_file(path_, kMaxBytes);
  if (!old.ok() && old.status().code() != Code::kNotFound) return old.status();
  if (!old.ok()) return head;
  const std::string text = old->substr(0, old->rfind('\n') + 1);
  if (!text.empty() && !text.starts_with(head)) {
    return invalid(
        fmt::format("'{}' holds answers of another model, data or settings; use those, or start anew "
                    "in another folder",
                    printable(path_)));
  }
  int64_t number = 1;
  for (size_t at = std::min(head.size(), text.size()); at < text.size();) {
    const size_t end = text.find('\n', at);
    const nlohmann::json line = parse_json(std::string_view(text).substr(at, end - at));
    at = end + 1, ++number;
    Ids prompt, answer;
    if (!read_ids(line, "prompt", prompt) || !read_ids(line, "answer", answer))
      return invalid(
          fmt::format("line {} of '{}' is not {{\"prompt\": [ids], \"answer\": [ids]}}; remove the file",
                      number, printable(path_)));
    add(prompt, answer);
  }
  return text.empty() ? head : text;
}

AnswerFile::~AnswerFile() {
  if (fd_ >= 0) close(fd_);
}

void AnswerFile::add(std::span<const int32_t> prompt, std::span<const int32_t> answer) {
  Ids ids(prompt.begin(), prompt.end());
  std::vector<uint8_t> mask(ids.size(), 0);
  ids.insert(ids.end(), answer.begin(), answer.end());
  mask.resize(ids.size(), 1);
  answers_.add(ids, mask);
}

Status AnswerFile::append(std::span<const int32_t> prompt, std::span<const int32_t> answer) {
  const nlohmann::json line = {{"prompt", Ids(prompt.begin(), prompt.end())},
                               {"answer", Ids(answer.begin(), answer.end())}};
  const std::string text = line.dump() + "\n";
  for (size_t written = 0; written < text.size();) {
    const ssize_t count = write(fd_, text.data() + written, text.size() - written);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return system_error("write answers to", path_, errno);
    written += static_cast<size_t>(count);
  }
  add(prompt, answer);
  return Status();
}

}  // namespace moebius
