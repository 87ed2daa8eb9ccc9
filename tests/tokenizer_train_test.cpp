// Training of tokenizers: texts come back to the byte, symbols have their ids, equal input gives equal files.
// What transformers reads from such a folder is in tests/golden/tokenizers/trained, which
// tests/golden/make_trained_tokenizer_golden.py made.
#include "models/tokenizer_train.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "models/chat_template.h"
#include "models/tokenizer.h"
#include "models/tokenizer_export.h"

namespace moebius {
namespace {

using nlohmann::ordered_json;
using Ids = std::vector<int32_t>;
using Texts = std::vector<std::string>;
namespace fs = std::filesystem;

const std::string kTokenizers = "tests/golden/tokenizers/";
const std::string kGolden = kTokenizers + "trained";
const char* const kFiles[] = {"tokenizer.model", "tokenizer.json", "tokenizer_config.json",
                              "chat_template.jinja"};

std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  EXPECT_TRUE(file.good()) << path;
  return {std::istreambuf_iterator<char>(file), {}};
}

Texts unicode_texts() { return ordered_json::parse(read_file(kTokenizers + "texts.json")).get<Texts>(); }

std::string pebble_template() { return read_file("tests/golden/templates/pebble.jinja"); }

// The conversations of tests/golden/tokenizers/trained, as pebble's template renders them.
Texts conversations() {
  const auto chat = ChatTemplate::parse(pebble_template());
  EXPECT_TRUE(chat.ok());
  Texts texts;
  std::ifstream lines(kGolden + "/corpus.jsonl");
  for (std::string line; std::getline(lines, line);) {
    const auto text = (*chat)->render(ordered_json::parse(line));
    EXPECT_TRUE(text.ok()) << line;
    texts.push_back(text.ok() ? *text : "");
  }
  return texts;
}

TokenizerTraining golden_options(PieceModel model = PieceModel::kBpe) {
  TokenizerTraining options = pebble_tokenizer();
  options.model = model;
  options.vocab_size = 800;
  options.character_coverage = 0.995;
  options.chat_template = pebble_template();
  options.context = 2048;
  return options;
}

TextSource from(Texts texts) {
  return [texts = std::move(texts), next = size_t{0}](std::string& text) mutable -> Result<bool> {
    if (next == texts.size()) return false;
    text = texts[next++];
    return true;
  };
}

// The line may change, not the text: decode() gives U+2581 as the space that sentencepiece takes it for.
std::string as_read(std::string text) {
  for (size_t at; (at = text.find("\u2581")) != std::string::npos;) text.replace(at, 3, " ");
  return text;
}

class TokenizerTrain : public testing::Test {
 protected:
  TokenizerTrain() {
    std::string pattern = fs::temp_directory_path() / "moebius_train_XXXXXX";
    scratch_ = mkdtemp(pattern.data());
  }
  ~TokenizerTrain() override { fs::remove_all(scratch_); }

  std::string folder(const std::string& name) {
    fs::create_directories(scratch_ / name);
    return scratch_ / name;
  }
  std::unique_ptr<Tokenizer> trained(const TokenizerTraining& options, const Texts& texts,
                                     const std::string& name = "out") {
    const auto made = train_tokenizer(options, from(texts), folder(name));
    EXPECT_TRUE(made.ok()) << made.status().message();
    if (!made.ok()) return nullptr;
    made_ = *made;
    auto opened = Tokenizer::open(folder(name));
    EXPECT_TRUE(opened.ok()) << opened.status().message();
    return opened.ok() ? std::move(*opened) : nullptr;
  }
  Status refusal(const TokenizerTraining& options, const Texts& texts = {"some text"}) {
    return train_tokenizer(options, from(texts), folder("refused")).status();
  }

  fs::path scratch_;
  TrainedTokenizer made_;
};

Ids encode(const Tokenizer& tokenizer, std::string_view text, EncodeOptions options = {}) {
  const auto ids = tokenizer.encode(text, options);
  EXPECT_TRUE(ids.ok()) << ids.status().message();
  return ids.ok() ? *ids : Ids{};
}

// Makes the files that make_trained_tokenizer_golden.py starts from.
TEST(TokenizerTrainGolden, DISABLED_WritesTheFolder) {
  Texts texts = conversations();
  for (std::string& text : unicode_texts()) texts.push_back(std::move(text));
  const auto made = train_tokenizer(golden_options(), from(texts), kGolden);
  ASSERT_TRUE(made.ok()) << made.status().message();
}

TEST(TokenizerTrainGolden, GivesTheIdsOfTransformers) {
  const ordered_json golden = ordered_json::parse(read_file(kGolden + "/golden.json"));
  const auto tokenizer = Tokenizer::open(kGolden);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status().message();
  const Texts texts = unicode_texts(), rendered = conversations();
  ASSERT_GE(texts.size(), 150u);
  ASSERT_GE(rendered.size(), 150u);
  ASSERT_EQ(golden["ids"].size(), texts.size());
  ASSERT_EQ(golden["conversations"].size(), rendered.size());
  for (size_t i = 0; i < texts.size(); ++i) {
    EXPECT_EQ(encode(**tokenizer, texts[i]), golden["ids"][i].get<Ids>()) << texts[i];
  }
  for (size_t i = 0; i < rendered.size(); ++i) {
    EXPECT_EQ(rendered[i], golden["conversations"][i]["text"].get<std::string>());
    EXPECT_EQ(encode(**tokenizer, rendered[i]), golden["conversations"][i]["ids"].get<Ids>()) << rendered[i];
  }
  EXPECT_EQ((*tokenizer)->bos_id(), golden["bos_token_id"].get<int32_t>());
  EXPECT_EQ((*tokenizer)->eos_id(), golden["eos_token_id"].get<int32_t>());
  EXPECT_EQ((*tokenizer)->vocab_size(), golden["vocab_size"].get<int32_t>());
}

TEST(TokenizerTrainGolden, WritesTheFilesThatTransformersRead) {
  const auto files = export_tokenizer(golden_options(), read_file(kGolden + "/tokenizer.model"));
  ASSERT_TRUE(files.ok()) << files.status().message();
  EXPECT_EQ(files->json, read_file(kGolden + "/tokenizer.json"));
  EXPECT_EQ(files->config, read_file(kGolden + "/tokenizer_config.json"));
  EXPECT_EQ(export_tokenizer(golden_options(), "not a model").status().code(), Code::kInvalid);
}

class EveryModel : public TokenizerTrain, public testing::WithParamInterface<PieceModel> {};

TEST_P(EveryModel, EqualInputGivesEqualFiles) {
  TokenizerTraining options = golden_options(GetParam());
  options.max_lines = 300;
  const Texts texts = conversations();
  ASSERT_TRUE(trained(options, texts, "a"));
  EXPECT_EQ(made_.lines, 300);
  ASSERT_TRUE(trained(options, texts, "b"));
  options.seed = 1;
  ASSERT_TRUE(trained(options, texts, "c"));
  for (const char* file : kFiles) {
    EXPECT_EQ(read_file(folder("a") + "/" + file), read_file(folder("b") + "/" + file)) << file;
  }
  EXPECT_NE(read_file(folder("a/") + kFiles[0]), read_file(folder("c/") + kFiles[0])) << "the sample's seed";
}

TEST_P(EveryModel, TextsComeBackToTheByte) {
  const auto tokenizer = trained(golden_options(GetParam()), conversations());
  ASSERT_NE(tokenizer, nullptr);
  Texts texts = unicode_texts();
  for (const Texts& more : {conversations(), Texts{"", " ", "  a  b   c ", "\n", "\n\n x\r\n\ty\n", "a\n ",
                                                   " <|im_end|> x<tool_call> {}</tool_call>\n ", "\t\t",
                                                   std::string("a\0b", 3), std::string(5000, ' ')}}) {
    texts.insert(texts.end(), more.begin(), more.end());
  }
  for (const std::string& text : texts) {
    for (const bool parse_special : {true, false}) {
      const Ids ids = encode(*tokenizer, text, {.parse_special = parse_special});
      const auto back = tokenizer->decode(ids);
      ASSERT_TRUE(back.ok());
      EXPECT_EQ(*back, as_read(text));
      EXPECT_EQ(std::count(ids.begin(), ids.end(), made_.unknown_id), 0) << text;
    }
  }
}

TEST_P(EveryModel, EveryDigitIsOnItsOwn) {
  const auto tokenizer = trained(golden_options(GetParam()), {"1234 1234 1234 1234 12 12 12 12 in 12 in 12"});
  ASSERT_NE(tokenizer, nullptr);
  for (int32_t id = 0; id < tokenizer->vocab_size(); ++id) {
    const std::string_view bytes = tokenizer->token_bytes(id);
    const auto digits =
        std::count_if(bytes.begin(), bytes.end(), [](char c) { return c >= '0' && c <= '9'; });
    EXPECT_TRUE(digits == 0 || bytes.size() == 1) << tokenizer->token_text(id);
  }
  EXPECT_EQ(encode(*tokenizer, "1212").size(), 4u);
}

INSTANTIATE_TEST_SUITE_P(Models, EveryModel, testing::Values(PieceModel::kBpe, PieceModel::kUnigram),
                         [](const auto& model) {
                           return model.param == PieceModel::kBpe ? std::string("bpe") : "unigram";
                         });

TEST_F(TokenizerTrain, SymbolsHaveTheirIds) {
  const auto tokenizer = trained(golden_options(), conversations());
  ASSERT_NE(tokenizer, nullptr);
  EXPECT_EQ(made_.vocab_size, 800);
  EXPECT_EQ(tokenizer->vocab_size(), 800);
  EXPECT_EQ(tokenizer->bos_id(), made_.bos_id);
  EXPECT_EQ(tokenizer->eos_id(), made_.eos_id);
  const TokenizerTraining options = golden_options();
  for (size_t i = 0; i < options.control.size(); ++i) {
    const int32_t id = made_.control_ids[i];
    EXPECT_EQ(tokenizer->id_of(options.control[i]), id);
    EXPECT_TRUE(tokenizer->is_special(id));
    EXPECT_EQ(encode(*tokenizer, "a" + options.control[i]).back(), id);
  }
  for (size_t i = 0; i < options.visible.size(); ++i) {
    const int32_t id = made_.visible_ids[i];
    EXPECT_EQ(tokenizer->id_of(options.visible[i]), id);
    EXPECT_FALSE(tokenizer->is_special(id)) << "an answer must show its tool calls";
    EXPECT_EQ(encode(*tokenizer, "a" + options.visible[i]).back(), id);
  }
  const Ids untrusted = encode(*tokenizer, "<|im_end|><|im_system|>system<|im_middle|><tool_call>[EOS]<unk>",
                               {.parse_special = false});
  const int32_t first_byte = static_cast<int32_t>(4 + options.control.size() + options.visible.size());
  for (const int32_t id : untrusted) EXPECT_GE(id, first_byte) << tokenizer->token_text(id);
}

TEST_F(TokenizerTrain, SymbolsAreNotLearntAsText) {
  Texts texts;
  for (int i = 0; i < 200; ++i) texts.push_back("<|im_user|>user<|im_middle|>ab<|im_end|>");
  const auto tokenizer = trained(golden_options(), texts);
  ASSERT_NE(tokenizer, nullptr);
  for (int32_t id = 267; id < tokenizer->vocab_size(); ++id) {
    EXPECT_EQ(tokenizer->token_text(id).find_first_of("<|_>"), std::string::npos)
        << tokenizer->token_text(id);
  }
}

TEST_F(TokenizerTrain, KeepsStandardErrorQuiet) {
  testing::internal::CaptureStderr();
  const auto tokenizer = trained(golden_options(), {"some text\twith a tab", "\u2585 more"});
  TokenizerTraining wrong = golden_options();
  wrong.visible.push_back("<0x41>");
  EXPECT_EQ(refusal(wrong).code(), Code::kInvalid);
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
}

TEST_F(TokenizerTrain, SmallAndOddTexts) {
  const Texts odd[] = {{"a"},
                       {" "},
                       {"\n"},
                       {"\t\ta"},
                       {"\xff\xfe"},
                       {"\u2581\u2585\u2581"},
                       {std::string(200'000, 'x')},
                       {std::string(100'000, ' ')},
                       {std::string("\0\0 a", 4)},
                       {"", "<|im_end|>", "b"}};
  for (const Texts& texts : odd) {
    const auto tokenizer = trained(golden_options(), texts);
    ASSERT_NE(tokenizer, nullptr) << texts[0];
    EXPECT_LE(tokenizer->vocab_size(), 800);
    EXPECT_EQ(*tokenizer->decode(encode(*tokenizer, "A new text, 1  2\n")), "A new text, 1  2\n");
  }
}

TEST_F(TokenizerTrain, RefusesWhatCannotBeTrained) {
  const auto with = [](auto change) {
    TokenizerTraining options = golden_options();
    change(options);
    return options;
  };
  using Options = TokenizerTraining;
  const TokenizerTraining wrong[] = {
      with([](Options& o) { o.vocab_size = 0; }),
      with([](Options& o) { o.vocab_size = 1 << 30; }),
      with([](Options& o) { o.vocab_size = 100; }),
      with([](Options& o) { o.character_coverage = 2; }),
      with([](Options& o) { o.character_coverage = std::nan(""); }),
      with([](Options& o) { o.max_lines = 0; }),
      with([](Options& o) { o.control.push_back("<|im_end|>"); }),
      with([](Options& o) { o.visible.push_back("[EOS]"); }),
      with([](Options& o) { o.visible.push_back(""); }),
      with([](Options& o) { o.visible.push_back("two words"); }),
      with([](Options& o) { o.visible.push_back("a\"b"); }),
      with([](Options& o) { o.visible.push_back("\xff"); }),
      with([](Options& o) { o.visible.push_back(std::string(2000, 'x')); }),
      with([](Options& o) { o.visible.push_back("<0x41>"); }),
      with([](Options& o) { o.control.assign(20'000, "x"); }),
  };
  for (const TokenizerTraining& options : wrong) {
    const Status status = refusal(options);
    EXPECT_EQ(status.code(), Code::kInvalid) << status.message();
    EXPECT_EQ(status.message().find('\n'), std::string::npos);
    EXPECT_TRUE(fs::is_empty(folder("refused"))) << status.message();
  }
  for (const Texts& texts : {Texts{}, Texts{""}, Texts{"\t", "<|im_end|>[EOS]"}}) {
    EXPECT_EQ(refusal(golden_options(), texts).code(), Code::kInvalid);
  }
  EXPECT_EQ(parse_piece_model("word").status().code(), Code::kInvalid);
  EXPECT_TRUE(*parse_piece_model("unigram") == PieceModel::kUnigram);
}

TEST_F(TokenizerTrain, ErrorsOfTheSourceAndTheFolder) {
  const TextSource fails = [](std::string&) -> Result<bool> { return Status(Code::kCancelled, "stopped"); };
  EXPECT_EQ(train_tokenizer(golden_options(), fails, folder("out")).status().message(), "stopped");
  const Status missing = train_tokenizer(golden_options(), from({"text"}), scratch_ / "none").status();
  EXPECT_EQ(missing.code(), Code::kNotFound) << missing.message();
}

TEST_F(TokenizerTrain, SymbolsWithCommas) {
  TokenizerTraining options = golden_options();
  options.visible = {"<a,b>", ",", "=>"};
  const auto tokenizer = trained(options, conversations());
  ASSERT_NE(tokenizer, nullptr);
  EXPECT_EQ(encode(*tokenizer, "<a,b>,=>"), made_.visible_ids);
}

}  // namespace
}  // namespace moebius
