// Tokenizers against the libraries that define them; tests/golden/make_tokenizer_golden.py made the files.
#include "models/tokenizer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <thread>

#include "models/pretokenizer.h"
#include "models/tokenizer_files.h"
#include "models/tokenizer_text.h"

namespace moebius {
namespace {

using nlohmann::json;
using Ids = std::vector<int32_t>;

const std::string kGolden = "tests/golden/tokenizers/";
const std::string kDeepSeekLlm = "../shared/data/tokenizers/deepseek-llm";

std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  EXPECT_TRUE(file.good()) << path;
  return {std::istreambuf_iterator<char>(file), {}};
}

std::unique_ptr<Tokenizer> open_tokenizer(const std::string& dir) {
  auto tokenizer = Tokenizer::open(dir);
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status().message();
  return tokenizer.ok() ? std::move(*tokenizer) : nullptr;
}

Ids encode(const Tokenizer& tokenizer, std::string_view text, EncodeOptions options = {}) {
  auto ids = tokenizer.encode(text, options);
  EXPECT_TRUE(ids.ok()) << ids.status().message();
  return ids.ok() ? *ids : Ids{};
}

std::string decode(const Tokenizer& tokenizer, const Ids& ids, bool skip_special = false) {
  auto text = tokenizer.decode(ids, skip_special);
  EXPECT_TRUE(text.ok()) << text.status().message();
  return text.ok() ? *text : "";
}

std::string lossy(std::string_view text) {
  std::string storage;
  return std::string(utf8_lossy(text, storage));
}

std::string stream(const Tokenizer& tokenizer, const Ids& ids, bool skip_special) {
  StreamDecoder decoder(tokenizer, skip_special);
  std::string text;
  for (const int32_t id : ids) {
    const std::string part = decoder.push(id);
    EXPECT_EQ(utf8_valid_prefix(part), part.size()) << "half a character was given out";
    text += part;
  }
  return text + decoder.finish();
}

// sentencepiece knows no difference between U+2581 and a space.
std::string with_spaces(std::string text) {
  const std::string mark = "\u2581";
  for (size_t at = text.find(mark); at != std::string::npos; at = text.find(mark, at))
    text.replace(at, mark.size(), " ");
  return text;
}

class GoldenTokenizer : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    texts_ = json::parse(read_file(kGolden + "texts.json")).get<std::vector<std::string>>();
    golden_ = json::parse(read_file(kGolden + GetParam() + "/golden.json"));
    tokenizer_ = open_tokenizer(kGolden + GetParam());
    ASSERT_NE(tokenizer_, nullptr);
  }
  // Of a table of ids by the index of their text.
  void expect_ids(const json& table, EncodeOptions options) {
    for (const auto& [index, ids] : table.items()) {
      const std::string& text = texts_[std::stoul(index)];
      EXPECT_EQ(encode(*tokenizer_, text, options), ids.get<Ids>()) << text;
    }
  }

  std::vector<std::string> texts_;
  json golden_;
  std::unique_ptr<Tokenizer> tokenizer_;
};

TEST_P(GoldenTokenizer, EncodesAsTheLibrary) {
  ASSERT_GE(texts_.size(), 200u);
  ASSERT_EQ(golden_["ids"].size(), texts_.size());
  const bool no_added_tokens = std::string(GetParam()) == "sentencepiece";
  for (size_t i = 0; i < texts_.size(); ++i) {
    if (no_added_tokens && texts_[i].find("<tool_call>") != std::string::npos) continue;
    EXPECT_EQ(encode(*tokenizer_, texts_[i]), golden_["ids"][i].get<Ids>()) << texts_[i];
  }
}

TEST_P(GoldenTokenizer, LeavesMarkersOfUntrustedTextPlain) {
  expect_ids(golden_["untrusted"], {.parse_special = false});
}

TEST_P(GoldenTokenizer, AddsTheIdsOfTheFile) {
  ASSERT_FALSE(golden_["with_special"].empty());
  expect_ids(golden_["with_special"], {.add_special = true});
}

TEST_P(GoldenTokenizer, DecodesAsTheLibrary) {
  for (const json& entry : golden_["decode"]) {
    const Ids ids = entry[0].get<Ids>();
    EXPECT_EQ(lossy(decode(*tokenizer_, ids, true)), entry[2].get<std::string>()) << entry;
    const bool control_is_text = std::string(GetParam()) != "sentencepiece";
    if (!control_is_text) continue;
    EXPECT_EQ(lossy(decode(*tokenizer_, ids, false)), entry[1].get<std::string>()) << entry;
  }
}

TEST_P(GoldenTokenizer, GivesTextsBack) {
  if (std::string(GetParam()) == "quirks") GTEST_SKIP() << "its normaliser and strip flags change texts";
  for (const std::string& text : texts_) {
    std::string expected = text;
    if (std::string(GetParam()) == "qwen") expected = normalize_unicode(text, NormalForm::kNfc);
    if (std::string(GetParam()) == "sentencepiece") expected = with_spaces(text);
    EXPECT_EQ(decode(*tokenizer_, encode(*tokenizer_, text)), expected);
    EXPECT_EQ(decode(*tokenizer_, encode(*tokenizer_, text, {.parse_special = false})), expected);
  }
}

TEST_P(GoldenTokenizer, StreamsWholeCharacters) {
  for (const json& entry : golden_["decode"]) {
    const Ids ids = entry[0].get<Ids>();
    EXPECT_EQ(stream(*tokenizer_, ids, true), lossy(decode(*tokenizer_, ids, true)));
    EXPECT_EQ(stream(*tokenizer_, ids, false), lossy(decode(*tokenizer_, ids, false)));
  }
  for (const std::string& text : texts_) {
    const Ids ids = encode(*tokenizer_, text);
    EXPECT_EQ(stream(*tokenizer_, ids, false), decode(*tokenizer_, ids));
  }
}

TEST_P(GoldenTokenizer, FindsEveryTokenByItsText) {
  EXPECT_GT(tokenizer_->vocab_size(), 256);
  for (int32_t id = 0; id < tokenizer_->vocab_size(); ++id) {
    const std::string text = tokenizer_->token_text(id);
    ASSERT_FALSE(text.empty()) << id;
    EXPECT_EQ(tokenizer_->id_of(text), id);
  }
  EXPECT_EQ(tokenizer_->token_text(-1), "");
  EXPECT_EQ(tokenizer_->token_bytes(tokenizer_->vocab_size()), "");
  EXPECT_FALSE(tokenizer_->is_special(tokenizer_->vocab_size()));
  EXPECT_EQ(tokenizer_->id_of("no such token"), std::nullopt);
  const Ids beyond = {0, tokenizer_->vocab_size()};
  EXPECT_EQ(tokenizer_->decode(beyond).status().code(), Code::kInvalid);
  EXPECT_EQ(tokenizer_->decode(Ids{-1}).status().code(), Code::kInvalid);
}

TEST_P(GoldenTokenizer, ReadsInvalidUtf8AsReplacementCharacters) {
  for (const char* text :
       {"a\xFFz", "\xC3", "\xE2\x82", "\xF0\x9F\x99", "\xED\xA0\x80", "\xC0\xAF", "x\xF4\x90\x80\x80"}) {
    EXPECT_EQ(encode(*tokenizer_, text), encode(*tokenizer_, lossy(text)));
  }
}

TEST_P(GoldenTokenizer, SeveralThreadsMayUseIt) {
  std::vector<Ids> expected;
  for (const std::string& text : texts_) expected.push_back(encode(*tokenizer_, text));
  std::vector<int> wrong(4, 0);
  std::vector<std::thread> threads;
  for (size_t t = 0; t < wrong.size(); ++t) {
    threads.emplace_back([&, t] {
      for (size_t i = 0; i < texts_.size(); ++i) {
        const auto ids = tokenizer_->encode(texts_[i]);
        if (!ids.ok() || *ids != expected[i]) ++wrong[t];
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, std::vector<int>(4, 0));
}

std::string repeated(std::string_view unit, size_t bytes) {
  std::string text;
  while (text.size() < bytes) text += unit;
  return text;
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr size_t kLongText = 1 << 17;
#else
constexpr size_t kLongText = 1 << 20;
#endif

// A quadratic path takes minutes on a megabyte. The bound is on processor time of this process.
void expect_fast(const Tokenizer& tokenizer) {
  std::string noise;
  for (uint32_t state = 1; noise.size() < kLongText; state = state * 1664525 + 1013904223) {
    noise += static_cast<char>(state >> 24);
  }
  const std::pair<const char*, std::string> texts[] = {
      {"one letter", repeated("a", kLongText)},
      {"one capital", repeated("A", kLongText)},
      {"spaces", repeated(" ", kLongText)},
      {"spaces before a letter of no pattern", repeated(" ", kLongText) + "\u0E01"},
      {"digits", repeated("1234567890", kLongText)},
      {"Han", repeated("漢字", kLongText)},
      {"letters of both cases", repeated("あAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", kLongText)},
      {"combining marks", repeated("\u0301\u0323", kLongText)},
      {"beginnings of markers", repeated("<|im_", kLongText)},
      {"line ends", repeated(" \n", kLongText)},
      {"noise", noise},
  };
  for (const auto& [name, text] : texts) {
    const std::clock_t begin = std::clock();
    const Ids ids = encode(tokenizer, text);
    const double seconds = static_cast<double>(std::clock() - begin) / CLOCKS_PER_SEC;
    EXPECT_FALSE(ids.empty()) << name;
    EXPECT_LT(seconds, 5.0) << name;
  }
}

TEST_P(GoldenTokenizer, EncodesAMegabyteOfAnythingQuickly) { expect_fast(*tokenizer_); }

INSTANTIATE_TEST_SUITE_P(Sets, GoldenTokenizer,
                         testing::Values("qwen", "glm", "deepseek", "quirks", "kimi", "sentencepiece"),
                         [](const auto& set) { return std::string(set.param); });

TEST(DeepSeekLlm, EncodesThePublishedCases) {
  if (!std::filesystem::exists(kDeepSeekLlm))
    GTEST_SKIP() << "no " << kDeepSeekLlm << " beside this checkout";
  const auto tokenizer = open_tokenizer(kDeepSeekLlm);
  ASSERT_NE(tokenizer, nullptr);
  std::istringstream cases(read_file(kDeepSeekLlm + "/cases.jsonl"));
  int count = 0;
  for (std::string line; std::getline(cases, line); ++count) {
    const json entry = json::parse(line);
    const auto text = entry["text"].get<std::string>();
    const Ids ids = entry["ids"].get<Ids>();
    EXPECT_EQ(encode(*tokenizer, text), ids) << text;
    EXPECT_EQ(decode(*tokenizer, ids), text);
  }
  EXPECT_GT(count, 40);
  EXPECT_EQ(tokenizer->vocab_size(), 100015);
  EXPECT_EQ(tokenizer->bos_id(), 100000);
  EXPECT_EQ(tokenizer->eos_id(), 100001);
  EXPECT_EQ(encode(*tokenizer, "Hello", {.add_special = true}), (Ids{100000, 17464}));
  // An added token decodes to its text, also where its letters are in the byte alphabet.
  EXPECT_EQ(decode(*tokenizer, encode(*tokenizer, "schön")), "schön");
  expect_fast(*tokenizer);
}

TEST(Pretokenizer, CutsAsTheLibrary) {
  const json golden = json::parse(read_file(kGolden + "pretokenizers.json"));
  const auto texts = golden["texts"].get<std::vector<std::string>>();
  PatternScratch scratch;
  for (const json& entry : golden["cases"]) {
    const json byte_level = {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}};
    const auto pretokenizer =
        Pretokenizer::from_json({{"type", "Sequence"}, {"pretokenizers", {entry["step"], byte_level}}});
    ASSERT_TRUE(pretokenizer.ok()) << pretokenizer.status().message();
    for (size_t i = 0; i < texts.size(); ++i) {
      std::string text = texts[i];
      std::vector<TextRange> ranges;
      ASSERT_TRUE(pretokenizer->split(text, ranges, scratch).ok());
      std::vector<std::string> pieces;
      for (const TextRange& range : ranges)
        pieces.push_back(text.substr(range.begin, range.end - range.begin));
      EXPECT_EQ(json(pieces), entry["pieces"][i]) << entry["step"] << " on " << json(text);
    }
  }
}

TEST(Pattern, IntersectionOfCategoriesNeedsNoGroup) {
  const auto rewritten = rewrite_pattern(R"([\p{Lu}\p{Lo}\p{M}&&[^\p{Han}]]*)");
  ASSERT_TRUE(rewritten.ok());
  EXPECT_EQ(rewritten->find('('), std::string::npos) << *rewritten;
}

TEST(Pattern, RefusesWhatItCannotKeep) {
  for (const char* pattern :
       {"(",         "a)",          "[a",   "[z-a]", "\\1", "\\k<a>",       "(?<name>a)",
        "(?x)a",     "\\p{NoSuch}", "\\p{", "\\",    "(?",  "a{2}?",        "\\x{110000}",
        "\\x{d800}", "\\xff",       "*",    "\\C",   "\\Q", "(?i:\\p{Lu})", "(?i)(a)\\p{Ll}",
        "a(?i)b"}) {
    const auto compiled = Pattern::compile(pattern);
    EXPECT_FALSE(compiled.ok()) << pattern;
    if (compiled.ok()) continue;
    EXPECT_NE(compiled.status().message().find(pattern), std::string::npos);
  }
  EXPECT_FALSE(Pattern::compile(repeated("[", 100)).ok());
  EXPECT_FALSE(Pattern::compile(repeated("(", 10000)).ok());
  EXPECT_FALSE(Pattern::compile(repeated("a", 1 << 20)).ok());
  EXPECT_FALSE(Pattern::compile("\xFF").ok());
}

TEST(Pattern, GivesUpOnEndlessBacktracking) {
  const auto pattern = Pattern::compile("(?:a|a)*b|(?:a+)+c");
  ASSERT_TRUE(pattern.ok());
  PatternScratch scratch;
  size_t begin = 0, end = 0;
  EXPECT_EQ(pattern->find(std::string(40, 'a'), 0, scratch, &begin, &end), Pattern::Found::kGaveUp);
  EXPECT_EQ(pattern->find("aab", 0, scratch, &begin, &end), Pattern::Found::kMatch);
  EXPECT_EQ(end, 3u);
}

TEST(Unicode, OrdersLongRunsOfMarks) {
  // U+0301 has class 230, U+0323 220: the canonical order puts all of the second first.
  std::string text = "a", expected = "ạ", dots, accents;
  for (int i = 0; i < 50000; ++i) {
    text += "\u0301\u0323";
    if (i > 0) dots += "\u0323";
    accents += "\u0301";
  }
  EXPECT_EQ(normalize_unicode(text, NormalForm::kNfc), "ạ" + dots + accents);
  EXPECT_EQ(normalize_unicode("ﬁ ² e\u0301", NormalForm::kNfkc), "fi 2 é");
  EXPECT_EQ(normalize_unicode("한é", NormalForm::kNfd),
            "\u1112\u1161\u11ab"
            "e\u0301");
}

struct Edit {
  const char* pointer;  // into tokenizer.json
  const char* value;
  Code code;
  const char* said;
};

TEST(TokenizerJson, RefusesByName) {
  const json root = json::parse(read_file(kGolden + "qwen/tokenizer.json"));
  const Edit edits[] = {
      {"/model/type", R"("Unigram")", Code::kUnsupported, "Unigram"},
      {"/model/byte_fallback", "true", Code::kUnsupported, "byte_fallback"},
      {"/model/dropout", "0.5", Code::kUnsupported, "dropout"},
      {"/model/end_of_word_suffix", R"("</w>")", Code::kUnsupported, "end_of_word_suffix"},
      {"/model/merges/0", R"(["Ġ"])", Code::kInvalid, "pair"},
      {"/model/merges/0", R"("Ġt")", Code::kInvalid, "merge"},
      {"/model/merges/0", R"(["qq", "zz"])", Code::kInvalid, "merge 0"},
      {"/model/merges/0", "7", Code::kInvalid, "merges"},
      {"/model/vocab/!", "4000000", Code::kInvalid, "4000000"},
      {"/model/vocab/!", "-1", Code::kInvalid, "-1"},
      {"/model/vocab/!", "1", Code::kInvalid, "id 1"},
      {"/model/vocab/!", "1.5", Code::kInvalid, "wrong type"},
      {"/model/vocab/new", "true", Code::kInvalid, "wrong type"},
      {"/model/vocab", "{}", Code::kInvalid, "merge 0"},
      {"/model", "[]", Code::kUnsupported, "BPE"},
      {"/decoder", R"({"type": "Metaspace"})", Code::kUnsupported, "Metaspace"},
      {"/decoder", "null", Code::kUnsupported, "decoder"},
      {"/normalizer", R"({"type": "Lowercase"})", Code::kUnsupported, "Lowercase"},
      {"/pre_tokenizer", "null", Code::kUnsupported, "ByteLevel"},
      {"/pre_tokenizer", R"({"type": "Metaspace"})", Code::kUnsupported, "Metaspace"},
      {"/pre_tokenizer/pretokenizers/0/behavior", R"("Sideways")", Code::kUnsupported, "Sideways"},
      {"/pre_tokenizer/pretokenizers/0/pattern/Regex", R"("(a")", Code::kInvalid, "(a"},
      {"/pre_tokenizer/pretokenizers/0/pattern", R"({})", Code::kInvalid, "pattern"},
      {"/post_processor", R"({"type": "BertProcessing"})", Code::kUnsupported, "BertProcessing"},
      {"/post_processor", R"({"type": "TemplateProcessing"})", Code::kInvalid, "single"},
      {"/added_tokens/0/id", "3", Code::kInvalid, "id 3"},
      {"/added_tokens/0/id", "99999999", Code::kInvalid, "id"},
      {"/added_tokens/0/content", R"("")", Code::kInvalid, "content"},
      {"/added_tokens/1/content", R"("<|endoftext|>")", Code::kInvalid, "twice"},
  };
  for (const Edit& edit : edits) {
    json changed = root;
    changed[json::json_pointer(edit.pointer)] = json::parse(edit.value);
    const auto tokenizer = tokenizer_from_json(changed.dump(), {});
    ASSERT_FALSE(tokenizer.ok()) << edit.pointer << " " << edit.value;
    EXPECT_EQ(tokenizer.status().code(), edit.code) << tokenizer.status().message();
    EXPECT_NE(tokenizer.status().message().find(edit.said), std::string::npos)
        << tokenizer.status().message();
  }
  json byte_missing = root;
  byte_missing["model"]["vocab"].erase("a");
  byte_missing["model"]["merges"] = json::array();
  EXPECT_EQ(tokenizer_from_json(byte_missing.dump(), {}).status().code(), Code::kInvalid);
}

TEST(TokenizerJson, RefusesBrokenJson) {
  const std::string deep = repeated("[", 100000);
  const std::string deep_config =
      R"({"model":{"type":"BPE","x":)" + repeated("[", 70) + repeated("]", 70) + "}}";
  for (const std::string& text :
       {std::string(), std::string("{"), std::string("7"), deep, deep_config,
        std::string(R"({"model":{"vocab":{"a":{}}}})"), std::string("{\"a\":\"\xFF\"}"),
        std::string(R"({"model":{"vocab":{"a":[]}}})"), std::string(R"({"a":1,"a":2})"),
        std::string(R"({"model":{"merges":[["a","b","c"]]}})"),
        std::string(R"({"model":{"merges":[[["a"]]]}})"), std::string(R"({"a":1e999})"),
        std::string(R"({"model":{"vocab":{},"vocab":{}}})")}) {
    EXPECT_EQ(tokenizer_from_json(text, {}).status().code(), Code::kInvalid) << text.substr(0, 80);
  }
}

TEST(Tiktoken, RefusesBrokenLines) {
  const std::string good = read_file(kGolden + "kimi/tiktoken.model");
  ASSERT_TRUE(tokenizer_from_tiktoken(good, {}).ok());
  for (const char* line : {"YQ==", "YQ= 900", "YQ==  900", "YQ== 9x", "YQ== -1", "YQ== 99999999999999999999",
                           "YQ== 4000000", "YQ== 900", "eHl6enk= 3", " 900", "==== 900", "Y*== 900"}) {
    const auto tokenizer = tokenizer_from_tiktoken(good + line + "\n", {});
    EXPECT_EQ(tokenizer.status().code(), Code::kInvalid) << line;
    EXPECT_NE(tokenizer.status().message().find("line 701"), std::string::npos)
        << tokenizer.status().message();
  }
  EXPECT_FALSE(tokenizer_from_tiktoken("", {}).ok());
  TokenizerConfig config;
  config.added.emplace_back();
  config.added[0].id = 5;
  config.added[0].content = "[BOS]";
  EXPECT_FALSE(tokenizer_from_tiktoken(good, config).ok());
}

TEST(Tiktoken, TakesSpecialsFromTheConfiguration) {
  const auto tokenizer = open_tokenizer(kGolden + "kimi");
  ASSERT_NE(tokenizer, nullptr);
  EXPECT_EQ(tokenizer->vocab_size(), 956);
  EXPECT_EQ(tokenizer->bos_id(), 700);
  EXPECT_EQ(tokenizer->eos_id(), 701);
  EXPECT_EQ(tokenizer->id_of("<|im_middle|>"), 717);
  EXPECT_EQ(tokenizer->id_of("<|reserved_token_955|>"), 955);
  EXPECT_EQ(tokenizer->id_of("<|reserved_token_717|>"), std::nullopt);
  EXPECT_TRUE(tokenizer->is_special(702));
  EXPECT_TRUE(tokenizer->is_special(955));
  EXPECT_FALSE(tokenizer->is_special(720)) << "<think> is text that a reader sees";
  EXPECT_EQ(decode(*tokenizer, {702, 720}, true), "<think>");
}

TEST(SentencePiece, CutsSpecialTokensOut) {
  const auto tokenizer = open_tokenizer(kGolden + "sentencepiece");
  ASSERT_NE(tokenizer, nullptr);
  const int32_t end = *tokenizer->id_of("</s>");
  const int32_t tool = *tokenizer->id_of("<tool_call>");
  const int32_t user = *tokenizer->id_of("<|im_end|>");
  EXPECT_EQ(tokenizer->eos_id(), end);
  EXPECT_TRUE(tokenizer->is_special(end));
  const int32_t dsml = *tokenizer->id_of("｜DSML｜");
  const std::string text = "the fox</s>the <tool_call> dog<|im_end|>｜DSML｜\n";
  const Ids ids = encode(*tokenizer, text);
  for (const int32_t id : {end, tool, user, dsml}) EXPECT_EQ(std::count(ids.begin(), ids.end(), id), 1);
  EXPECT_EQ(decode(*tokenizer, ids), text);
  const Ids plain = encode(*tokenizer, text, {.parse_special = false});
  for (const int32_t id : {end, tool, user, dsml}) EXPECT_EQ(std::count(plain.begin(), plain.end(), id), 0);
  EXPECT_EQ(decode(*tokenizer, plain), text);
  EXPECT_FALSE(tokenizer_from_sentencepiece("not a model", {}).ok());
  EXPECT_FALSE(tokenizer_from_sentencepiece("", {}).ok());
}

TEST(Tokenizer, SaysWhatAFolderLacks) {
  const auto none = Tokenizer::open("tests");
  EXPECT_EQ(none.status().code(), Code::kNotFound);
  EXPECT_NE(none.status().message().find("tokenizer.json"), std::string::npos);
}

TEST(Tokenizer, PassesOverAFileOfAnotherKind) {
  const auto dir = std::filesystem::temp_directory_path() / "moebius_tokenizer_test";
  std::filesystem::create_directories(dir);
  std::ofstream(dir / "tokenizer.json") << R"({"model":{"type":"Unigram","vocab":[["a",0.5]]}})";
  EXPECT_EQ(Tokenizer::open(dir.string()).status().code(), Code::kUnsupported);
  const auto kimi = dir / "tiktoken.model";
  std::filesystem::copy_file(kGolden + "kimi/tiktoken.model", kimi,
                             std::filesystem::copy_options::overwrite_existing);
  EXPECT_TRUE(Tokenizer::open(dir.string()).ok());
  std::ofstream(dir / "tokenizer.json") << "{";
  EXPECT_EQ(Tokenizer::open(dir.string()).status().code(), Code::kInvalid)
      << "a broken file is not passed over";
  std::filesystem::remove_all(dir);
}

}  // namespace
}  // namespace moebius
