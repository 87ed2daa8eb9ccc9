#include "server/files/upload_form.h"

#include <algorithm>
#include <array>

#include <fmt/format.h>
#include <fmt/ranges.h>

namespace moebius {

namespace {

constexpr std::array kPurposes = {"fine-tune", "batch", "assistants", "vision", "user_data", "evals"};
constexpr int64_t kShortest = 3600, kLongest = 2'592'000;  // seconds, as OpenAI has them

}  // namespace

std::string plain_filename(std::string_view name) {
  name = name.substr(name.find_last_of("/\\") + 1);
  std::string out;
  for (const char c : name)
    if (static_cast<unsigned char>(c) >= 0x20 && c != 0x7f) out += c;
  size_t size = std::min<size_t>(out.size(), 255);
  while (size > 0 && size < out.size() && (out[size] & 0xC0) == 0x80) --size;
  out.resize(size);
  return out.empty() ? "file" : out;
}

MultipartCalls UploadForm::calls() {
  return {[this](const FormPart& part) { return begin(part); },
          [this](std::string_view bytes) { return data(bytes); }};
}

std::optional<ApiError> UploadForm::begin(const FormPart& part) {
  if (part.name == "file") {
    if (file_) return bad_request("the form has more than one `file`", "file");
    field_ = nullptr;
    filename_ = plain_filename(part.filename.value_or(""));
    return store_.begin(file_);
  }
  field_ = part.name == "purpose"                  ? &purpose_
           : part.name == "expires_after[anchor]"  ? &anchor_
           : part.name == "expires_after[seconds]" ? &seconds_
                                                   : &ignored_;
  field_->clear();
  return {};
}

std::optional<ApiError> UploadForm::data(std::string_view bytes) {
  if (field_ == nullptr) return file_->append(bytes);
  if (field_->size() + bytes.size() > static_cast<size_t>(kFieldBytes))
    return bad_request(fmt::format("a field of the form has more than {} bytes", kFieldBytes), {},
                       "invalid_form");
  field_->append(bytes);
  return {};
}

std::optional<ApiError> UploadForm::read_expiry() {
  if (anchor_.empty() && seconds_.empty()) return {};
  if (anchor_ != "created_at")
    return bad_request("`expires_after.anchor` must be created_at", "expires_after.anchor");
  const bool digits = !seconds_.empty() && seconds_.size() <= 9 &&
                      seconds_.find_first_not_of("0123456789") == std::string::npos;
  expires_after_s_ = digits ? std::stoll(seconds_) : 0;
  if (expires_after_s_ < kShortest || expires_after_s_ > kLongest)
    return bad_request(fmt::format("`expires_after.seconds` must be from {} to {}", kShortest, kLongest),
                       "expires_after.seconds");
  return {};
}

std::optional<ApiError> UploadForm::finish() {
  if (!file_) return bad_request("the form has no `file`", "file");
  if (std::find(kPurposes.begin(), kPurposes.end(), purpose_) == kPurposes.end())
    return bad_request(fmt::format("`purpose` must be one of {}", fmt::join(kPurposes, ", ")), "purpose");
  if (auto error = read_expiry()) return error;
  return file_->finish();
}

}  // namespace moebius
