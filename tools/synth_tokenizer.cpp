#include "tools/synth_tokenizer.h"

#include <algorithm>
#include <map>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "models/file_io.h"
#include "models/tokenizer_text.h"

namespace moebius {
namespace {

using nlohmann::ordered_json;

constexpr std::string_view kTemplate =
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}"
    "<|im_system|>system<|im_middle|>You are a model with random weights.<|im_end|>{% endif %}"
    "{% if message['role'] == 'user' %}<|im_user|>{% elif message['role'] == 'assistant' %}"
    "<|im_assistant|>{% else %}<|im_system|>{% endif %}"
    "{{ message['role'] }}<|im_middle|>{{ message['content'] }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_assistant|>assistant<|im_middle|>{% endif %}";

using Names = std::vector<std::pair<int32_t, std::string>>;

Names special_names(const SpecialIds& s) {
  Names names = {{s.bos, "[BOS]"},
                 {s.eos, "[EOS]"},
                 {s.im_end, "<|im_end|>"},
                 {s.im_user, "<|im_user|>"},
                 {s.im_assistant, "<|im_assistant|>"},
                 {s.im_system, "<|im_system|>"},
                 {s.im_middle, "<|im_middle|>"}};
  std::sort(names.begin(), names.end());
  return names;
}

// Printable ASCII and Latin-1 bytes stand for themselves, the other 68 for U+0100 upward.
std::vector<std::string> byte_alphabet() {
  std::vector<std::string> alphabet;
  char32_t next = 0x100;
  for (char32_t byte = 0; byte < 256; ++byte) {
    const bool itself =
        (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || (byte >= 174 && byte <= 255);
    utf8_append(itself ? byte : next++, alphabet.emplace_back());
  }
  return alphabet;
}

// {"token": id, ...} of every id. The special tokens are here too: Hugging Face's `tokenizers` numbers added
// tokens that the vocabulary lacks by itself.
std::string vocabulary(int64_t vocab, const Names& special) {
  const std::map<int64_t, std::string> names(special.begin(), special.end());
  const std::vector<std::string> alphabet = byte_alphabet();
  std::string text = "{";
  size_t byte = 0;
  for (int64_t id = 0; id < vocab; ++id) {
    const auto name = names.find(id);
    const std::string token = name != names.end()      ? name->second
                              : byte < alphabet.size() ? alphabet[byte++]
                                                       : fmt::format("<|reserved_token_{}|>", id);
    text += fmt::format("{}\n{}:{}", id == 0 ? "" : ",", ordered_json(token).dump(), id);
  }
  return text + "\n}";
}

ordered_json added_token(const std::string& content) {
  return {{"content", content}, {"single_word", false}, {"lstrip", false},
          {"rstrip", false},    {"normalized", false},  {"special", true}};
}

std::string tokenizer_json(int64_t vocab, const Names& special) {
  ordered_json added = ordered_json::array();
  for (const auto& [id, name] : special) {
    ordered_json token = {{"id", id}};
    token.update(added_token(name));
    added.push_back(token);
  }
  const ordered_json byte_level = {
      {"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", true}};
  // The vocabulary is put in as text: an ordered object of it would take time quadratic in its size.
  const std::string head = ordered_json({{"version", "1.0"},
                                         {"truncation", nullptr},
                                         {"padding", nullptr},
                                         {"added_tokens", added},
                                         {"normalizer", nullptr},
                                         {"pre_tokenizer", byte_level},
                                         {"post_processor", nullptr},
                                         {"decoder", byte_level}})
                               .dump();
  const std::string model = ordered_json({{"type", "BPE"},
                                          {"dropout", nullptr},
                                          {"unk_token", nullptr},
                                          {"continuing_subword_prefix", nullptr},
                                          {"end_of_word_suffix", nullptr},
                                          {"fuse_unk", false},
                                          {"byte_fallback", false},
                                          {"ignore_merges", false},
                                          {"merges", ordered_json::array()}})
                                .dump();
  return fmt::format("{},\"model\":{},\"vocab\":{}}}}}\n", head.substr(0, head.size() - 1),
                     model.substr(0, model.size() - 1), vocabulary(vocab, special));
}

std::string tokenizer_config(const Names& special, int64_t context) {
  ordered_json decoder = ordered_json::object();
  for (const auto& [id, name] : special) decoder[std::to_string(id)] = added_token(name);
  return ordered_json({{"tokenizer_class", "PreTrainedTokenizerFast"},
                       {"added_tokens_decoder", decoder},
                       {"bos_token", "[BOS]"},
                       {"eos_token", "[EOS]"},
                       {"clean_up_tokenization_spaces", false},
                       {"model_max_length", context},
                       {"chat_template", kTemplate}})
             .dump(2) +
         "\n";
}

}  // namespace

SpecialIds place_special_ids(int64_t vocab, std::optional<int32_t> bos, std::optional<int32_t> eos) {
  if (bos && eos && *bos == *eos) bos.reset();
  int32_t last = static_cast<int32_t>(vocab);
  const auto take = [&](std::optional<int32_t> asked) {
    if (asked) return *asked;
    do {
      --last;
    } while (last == bos || last == eos);
    return std::max(last, 0);
  };
  SpecialIds s;
  s.im_middle = take(std::nullopt);
  s.im_system = take(std::nullopt);
  s.im_assistant = take(std::nullopt);
  s.im_user = take(std::nullopt);
  s.im_end = take(std::nullopt);
  s.eos = take(eos);
  s.bos = take(bos);
  return s;
}

Status write_synth_tokenizer(const std::string& dir, int64_t vocab, const SpecialIds& special,
                             int64_t context) {
  const Names names = special_names(special);
  MOEBIUS_TRY(write_text_file(dir + "/tokenizer.json", tokenizer_json(vocab, names)));
  return write_text_file(dir + "/tokenizer_config.json", tokenizer_config(names, context));
}

}  // namespace moebius
