// The streaming reader of tokenizer.json: vocabulary and merges never become JSON values.
#include <fmt/format.h>

#include "models/file_io.h"
#include "models/json_fields.h"
#include "models/tokenizer_bpe.h"
#include "models/tokenizer_files.h"

namespace moebius {
namespace {

using Json = nlohmann::json;

class TokenizerEvents : public nlohmann::json_sax<Json> {
 public:
  explicit TokenizerEvents(TokenizerJson& out) : out_(out) {}
  const std::string& error() const { return error_; }

  bool null() override { return value(Json(nullptr)); }
  bool boolean(bool v) override { return value(Json(v)); }
  bool number_float(double v, const std::string&) override { return value(Json(v)); }
  bool binary(Json::binary_t&) override { return fail("binary data"); }
  bool number_integer(int64_t v) override {
    return table_ == Table::kVocab ? vocab_entry(v) : value(Json(v));
  }
  bool number_unsigned(uint64_t v) override {
    if (table_ == Table::kVocab) return vocab_entry(v > INT64_MAX ? INT64_MAX : static_cast<int64_t>(v));
    return value(Json(v));
  }
  bool string(std::string& v) override {
    return table_ == Table::kMerges ? merge_part(v) : value(Json(std::move(v)));
  }

  bool key(std::string& name) override {
    key_ = std::move(name);
    return true;
  }

  bool start_object(size_t) override {
    if (table_ != Table::kNone) return fail("an object inside of the vocabulary or the merges");
    if (in_model() && key_ == "vocab") return enter(Table::kVocab);
    return open(Json::object());
  }
  bool end_object() override { return table_ == Table::kVocab ? leave() : close(); }

  bool start_array(size_t) override {
    if (table_ == Table::kVocab) return fail("a list inside of the vocabulary");
    if (table_ == Table::kMerges) {
      if (in_pair_) return fail("a merge that is not a pair");
      in_pair_ = true;
      pair_.clear();
      return true;
    }
    if (in_model() && key_ == "merges") return enter(Table::kMerges);
    return open(Json::array());
  }
  bool end_array() override {
    if (table_ != Table::kMerges) return close();
    if (!in_pair_) return leave();
    in_pair_ = false;
    if (pair_.size() != 2) return fail("a merge that is not a pair");
    return add_merge(std::move(pair_[0]), std::move(pair_[1]));
  }

  bool parse_error(size_t position, const std::string&, const Json::exception& error) override {
    return fail(fmt::format("byte {}: {}", position, printable(error.what())));
  }

 private:
  enum class Table { kNone, kVocab, kMerges };

  bool fail(std::string why) {
    if (error_.empty()) error_ = std::move(why);
    return false;
  }
  bool in_model() const { return stack_.size() == 2 && model_ == stack_[1]; }

  bool enter(Table table) {
    const bool again = table == Table::kVocab ? seen_vocab_ : seen_merges_;
    if (again) return fail("model.vocab or model.merges is there twice");
    (table == Table::kVocab ? seen_vocab_ : seen_merges_) = true;
    table_ = table;
    return true;
  }
  bool leave() {
    table_ = Table::kNone;
    return true;
  }

  bool vocab_entry(int64_t id) {
    if (out_.vocab.size() >= static_cast<size_t>(kMaxVocab)) {
      return fail(fmt::format("more than {} tokens", kMaxVocab));
    }
    out_.vocab.emplace_back(std::move(key_), id);
    return true;
  }

  bool merge_part(std::string& text) {
    if (in_pair_) {
      if (pair_.size() == 2) return fail("a merge that is not a pair");
      pair_.push_back(std::move(text));
      return true;
    }
    const size_t space = text.find(' ');
    if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos) {
      return fail("a merge that is not two tokens with a space between");
    }
    return add_merge(text.substr(0, space), text.substr(space + 1));
  }
  bool add_merge(std::string left, std::string right) {
    if (out_.merges.size() >= static_cast<size_t>(kMaxVocab)) {
      return fail(fmt::format("more than {} merges", kMaxVocab));
    }
    out_.merges.emplace_back(std::move(left), std::move(right));
    return true;
  }

  bool open(Json container) {
    if (stack_.size() >= kMaxJsonDepth) return fail(fmt::format("more than {} levels", kMaxJsonDepth));
    const bool is_model = stack_.size() == 1 && key_ == "model" && stack_[0]->is_object();
    Json* placed = place(std::move(container));
    if (placed == nullptr) return false;
    if (is_model) model_ = placed;
    stack_.push_back(placed);
    return true;
  }
  bool close() {
    stack_.pop_back();
    return true;
  }
  bool value(Json v) {
    if (table_ != Table::kNone) return fail("a value of the wrong type in the vocabulary or the merges");
    return place(std::move(v)) != nullptr;
  }
  // Null when the key was there before. A container moves only while it is not on the stack.
  Json* place(Json v) {
    if (stack_.empty()) {
      out_.rest = std::move(v);
      return &out_.rest;
    }
    Json& parent = *stack_.back();
    if (parent.is_array()) {
      parent.push_back(std::move(v));
      return &parent.back();
    }
    const auto [entry, fresh] = parent.emplace(key_, std::move(v));
    if (!fresh) {
      fail(fmt::format("the key '{}' is there twice in one object", printable(key_)));
      return nullptr;
    }
    return &*entry;
  }

  TokenizerJson& out_;
  std::vector<Json*> stack_;
  const Json* model_ = nullptr;
  std::string key_;
  Table table_ = Table::kNone;
  bool in_pair_ = false, seen_vocab_ = false, seen_merges_ = false;
  std::vector<std::string> pair_;
  std::string error_;
};

}  // namespace

Result<TokenizerJson> parse_tokenizer_json(std::string_view text) {
  TokenizerJson out;
  TokenizerEvents reader(out);
  if (!Json::sax_parse(text.begin(), text.end(), &reader))
    return invalid("not usable JSON: " + reader.error());
  return out;
}

}  // namespace moebius
