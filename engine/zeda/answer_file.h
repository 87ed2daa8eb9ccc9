// AnswerFile: answers to train on, one JSON object {"prompt": [ids], "answer": [ids]} a line below a line
// that says how they were sampled; written as they come, so that an interrupted run goes on where it was.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "engine/train/dataset.h"

namespace moebius {

class AnswerFile {
 public:
  // Opens path or begins it; a last line without its end is removed. settings: what decides the answers; a
  // file of others is refused (kInvalid), as is one with a line that is none, which is named.
  static Result<std::unique_ptr<AnswerFile>> open(const std::string& path, const std::string& settings);
  ~AnswerFile();
  AnswerFile(const AnswerFile&) = delete;
  AnswerFile& operator=(const AnswerFile&) = delete;

  Status append(std::span<const int32_t> prompt, std::span<const int32_t> answer);
  int64_t size() const { return answers_.size(); }
  const Dataset& answers() const { return answers_; }  // of an example, the answer's tokens count

 private:
  explicit AnswerFile(std::string path) : path_(std::move(path)) {}
  Result<std::string> read(const std::string& settings);
  void add(std::span<const int32_t> prompt, std::span<const int32_t> answer);
  std::string path_;
  int fd_ = -1;
  Dataset answers_;
};

}  // namespace moebius
