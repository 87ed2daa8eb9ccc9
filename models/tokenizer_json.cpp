// tokenizer.json of Hugging Face `tokenizers`: byte-level BPE.
#include <fmt/format.h>

#include "models/file_io.h"
#include "models/tokenizer_bpe.h"
#include "models/tokenizer_files.h"

namespace moebius {
namespace {

using Json = nlohmann::json;

const Json* child(const Json& node, const char* key) {
  if (!node.is_object()) return nullptr;
  const auto found = node.find(key);
  return found == node.end() || found->is_null() ? nullptr : &*found;
}

// Settings that change what merging does; no byte-level model of the supported families uses them.
Status check_model(const Json& model) {
  const std::string type = text_in(model, "type");
  if (type != "BPE")
    return unsupported(fmt::format("model: type '{}' is not supported; BPE is", printable(type)));
  if (flag_in(model, "byte_fallback").value_or(false))
    return unsupported("model: byte_fallback is not supported");
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    if (!text_in(model, key).empty()) return unsupported(fmt::format("model: {} is not supported", key));
  }
  const Json* dropout = child(model, "dropout");
  if (dropout != nullptr && !(dropout->is_number() && dropout->get<double>() == 0.0)) {
    return unsupported("model: dropout is not supported");
  }
  return {};
}

Status check_decoder(const Json& root) {
  const Json* decoder = child(root, "decoder");
  const std::string type = decoder == nullptr ? "none" : text_in(*decoder, "type");
  if (type != "ByteLevel")
    return unsupported(fmt::format("decoder: type '{}' is not supported; ByteLevel is", printable(type)));
  return {};
}

Status add_normalizer(const Json& node, std::vector<NormalForm>& forms) {
  const std::string type = text_in(node, "type");
  if (type == "Sequence") {
    const Json* list = child(node, "normalizers");
    if (list == nullptr || !list->is_array()) return invalid("normalizer: a Sequence without normalizers");
    for (const Json& element : *list) MOEBIUS_TRY(add_normalizer(element, forms));
    return {};
  }
  constexpr std::pair<const char*, NormalForm> kForms[] = {{"NFC", NormalForm::kNfc},
                                                           {"NFD", NormalForm::kNfd},
                                                           {"NFKC", NormalForm::kNfkc},
                                                           {"NFKD", NormalForm::kNfkd}};
  for (const auto& [name, form] : kForms) {
    if (type != name) continue;
    forms.push_back(form);
    return {};
  }
  return unsupported(fmt::format("normalizer: type '{}' is not supported", printable(type)));
}

Status add_vocabulary(const TokenizerJson& file, TokenTable& tokens) {
  for (const auto& [text, id] : file.vocab) {
    const auto bytes = from_byte_alphabet(text);
    // A text outside of the byte alphabet is out of reach of merges: it decodes as it stands.
    MOEBIUS_TRY(tokens.add(bytes ? *bytes : text, id, bytes.has_value()));
  }
  return {};
}

Status add_merges(const TokenizerJson& file, BpeParts& parts) {
  MergeTable merges(file.merges.size());
  for (size_t rank = 0; rank < file.merges.size(); ++rank) {
    const auto left = from_byte_alphabet(file.merges[rank].first);
    const auto right = from_byte_alphabet(file.merges[rank].second);
    const auto left_id = left ? parts.tokens.find(*left) : std::nullopt;
    const auto right_id = right ? parts.tokens.find(*right) : std::nullopt;
    const auto result = left_id && right_id ? parts.tokens.find(*left + *right) : std::nullopt;
    if (!result || left->empty() || right->empty()) {
      return invalid(fmt::format("merge {} ('{}', '{}') is not made of tokens of the vocabulary", rank,
                                 printable(file.merges[rank].first), printable(file.merges[rank].second)));
    }
    merges.set(*left_id, *right_id, static_cast<int32_t>(rank), *result);
  }
  parts.merges = std::move(merges);
  return {};
}

Status add_added_tokens(const Json& root, BpeParts& parts) {
  const Json* list = child(root, "added_tokens");
  if (list == nullptr) return {};
  if (!list->is_array()) return invalid("added_tokens is not a list");
  for (const Json& node : *list) {
    MOEBIUS_ASSIGN(AddedToken token, parse_added_token(node));
    const Json* id = child(node, "id");
    if (id == nullptr || !id->is_number_integer() || id->get<int64_t>() < 0 ||
        id->get<int64_t>() >= kMaxVocab) {
      return invalid(
          fmt::format("added token '{}' has no id in 0..{}", printable(token.content), kMaxVocab - 1));
    }
    token.id = static_cast<int32_t>(id->get<int64_t>());
    const bool same = parts.tokens.bytes(token.id) == token.content ||
                      to_byte_alphabet(parts.tokens.bytes(token.id)) == token.content;
    if (parts.tokens.has(token.id) && !same) {
      return invalid(fmt::format("added token '{}' has the id {} of another token of the vocabulary",
                                 printable(token.content), token.id));
    }
    MOEBIUS_TRY(parts.added.add(std::move(token)));
  }
  return {};
}

// The ids of one entry of a TemplateProcessing's special_tokens.
Status add_template_ids(const Json& processor, const std::string& name, std::vector<int32_t>& ids) {
  const Json* table = child(processor, "special_tokens");
  const Json* entry = table == nullptr ? nullptr : child(*table, name.c_str());
  const Json* list = entry == nullptr ? nullptr : child(*entry, "ids");
  if (list == nullptr || !list->is_array()) {
    return invalid(fmt::format("post_processor: special token '{}' has no ids", printable(name)));
  }
  for (const Json& id : *list) {
    if (!id.is_number_integer() || id.get<int64_t>() < 0 || id.get<int64_t>() >= kMaxVocab) {
      return invalid(fmt::format("post_processor: special token '{}' has an id outside 0..{}",
                                 printable(name), kMaxVocab - 1));
    }
    ids.push_back(static_cast<int32_t>(id.get<int64_t>()));
  }
  return {};
}

Status add_template(const Json& processor, BpeParts& parts) {
  const Json* single = child(processor, "single");
  if (single == nullptr || !single->is_array())
    return invalid("post_processor: TemplateProcessing without single");
  bool after = false;
  for (const Json& piece : *single) {
    if (child(piece, "Sequence") != nullptr) {
      if (after) return unsupported("post_processor: a template with the text twice is not supported");
      after = true;
    } else if (const Json* special = child(piece, "SpecialToken")) {
      MOEBIUS_TRY(add_template_ids(processor, text_in(*special, "id"), after ? parts.suffix : parts.prefix));
    } else {
      return invalid("post_processor: a template piece is neither Sequence nor SpecialToken");
    }
  }
  if (!after) return unsupported("post_processor: a template without the text is not supported");
  return {};
}

// *found: whether a template was there.
Status add_post_processor(const Json& node, BpeParts& parts, bool* found) {
  const std::string type = text_in(node, "type");
  if (type == "ByteLevel") return {};  // it trims offsets, which are not kept here
  if (type == "TemplateProcessing") {
    if (*found) return unsupported("post_processor: two templates are not supported");
    *found = true;
    return add_template(node, parts);
  }
  if (type == "Sequence") {
    const Json* list = child(node, "processors");
    if (list == nullptr || !list->is_array()) return invalid("post_processor: a Sequence without processors");
    for (const Json& element : *list) MOEBIUS_TRY(add_post_processor(element, parts, found));
    return {};
  }
  return unsupported(fmt::format("post_processor: type '{}' is not supported", printable(type)));
}

Status add_special_ids(const Json& root, const TokenizerConfig& config, BpeParts& parts) {
  const auto id_of = [&](const std::string& text) -> std::optional<int32_t> {
    if (const AddedToken* token = parts.added.by_text(text)) return token->id;
    const auto bytes = from_byte_alphabet(text);
    return bytes && !bytes->empty() ? parts.tokens.find(*bytes) : std::nullopt;
  };
  parts.bos_id = id_of(config.bos_token);
  parts.eos_id = id_of(config.eos_token);
  bool has_template = false;
  if (const Json* node = child(root, "post_processor")) {
    MOEBIUS_TRY(add_post_processor(*node, parts, &has_template));
  }
  if (has_template) return {};
  if (config.add_bos_token.value_or(false) && parts.bos_id) parts.prefix.push_back(*parts.bos_id);
  if (config.add_eos_token.value_or(false) && parts.eos_id) parts.suffix.push_back(*parts.eos_id);
  return {};
}

}  // namespace

std::string text_in(const Json& node, const char* key) {
  const Json* value = child(node, key);
  return value != nullptr && value->is_string() ? value->get<std::string>() : "";
}

std::optional<bool> flag_in(const Json& node, const char* key) {
  const Json* value = child(node, key);
  if (value == nullptr || !value->is_boolean()) return std::nullopt;
  return value->get<bool>();
}

Result<AddedToken> parse_added_token(const Json& node) {
  AddedToken token;
  token.content = text_in(node, "content");
  if (token.content.empty()) return invalid("an added token without content");
  token.special = flag_in(node, "special").value_or(false);
  token.normalized = flag_in(node, "normalized").value_or(false);
  token.lstrip = flag_in(node, "lstrip").value_or(false);
  token.rstrip = flag_in(node, "rstrip").value_or(false);
  token.single_word = flag_in(node, "single_word").value_or(false);
  return token;
}

Result<std::unique_ptr<Tokenizer>> tokenizer_from_json(std::string_view text, const TokenizerConfig& config) {
  MOEBIUS_ASSIGN(const TokenizerJson file, parse_tokenizer_json(text));
  const Json* model = child(file.rest, "model");
  if (model == nullptr) return invalid("no model");
  MOEBIUS_TRY(check_model(*model));
  MOEBIUS_TRY(check_decoder(file.rest));
  BpeParts parts;
  parts.byte_alphabet = true;
  parts.whole_piece_first = flag_in(*model, "ignore_merges").value_or(false);
  if (const Json* normalizer = child(file.rest, "normalizer")) {
    MOEBIUS_TRY(add_normalizer(*normalizer, parts.normal_forms));
  }
  const Json* pretokenizer = child(file.rest, "pre_tokenizer");
  MOEBIUS_ASSIGN(parts.pretokenizer,
                 Pretokenizer::from_json(pretokenizer == nullptr ? Json() : *pretokenizer));
  MOEBIUS_TRY(add_vocabulary(file, parts.tokens));
  MOEBIUS_TRY(add_merges(file, parts));
  MOEBIUS_TRY(add_added_tokens(file.rest, parts));
  MOEBIUS_TRY(add_special_ids(file.rest, config, parts));
  return BpeTokenizer::create(std::move(parts));
}

}  // namespace moebius
