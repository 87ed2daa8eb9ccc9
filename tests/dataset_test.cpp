// Training data against transformers (tests/golden/make_dataset_golden.py made the files), and against the
// ids that inference sees.
#include "engine/train/dataset.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <random>

#include <unistd.h>

#include "models/json_fields.h"

namespace moebius {
namespace {

using nlohmann::json;
using nlohmann::ordered_json;
using Ids = std::vector<int32_t>;
using Mask = std::vector<uint8_t>;
namespace fs = std::filesystem;

const std::string kGolden = "tests/golden/";
constexpr const char* kChatml = "dataset/chatml.jinja";
constexpr const char* kPebble = "templates/pebble.jinja";

std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  EXPECT_TRUE(file.good()) << path;
  return {std::istreambuf_iterator<char>(file), {}};
}

void write_file(const std::string& path, std::string_view text) {
  std::ofstream file(path, std::ios::binary);
  file << text;
}

// A model folder without a model: a tokenizer of the golden files and a template.
class Model {
 public:
  Model(const std::string& vocabulary, const std::string& chat_template, const std::string& source = "") {
    static int count = 0;
    dir_ =
        testing::TempDir() + "moebius_dataset_" + std::to_string(::getpid()) + "_" + std::to_string(count++);
    fs::create_directories(dir_);
    for (const char* name :
         {"tokenizer.json", "tiktoken.model", "tokenizer.model", "tokenizer_config.json"}) {
      const std::string from = kGolden + vocabulary + "/" + name;
      if (fs::exists(from)) fs::copy_file(from, dir_ + "/" + name, fs::copy_options::overwrite_existing);
    }
    if (!chat_template.empty()) fs::copy_file(kGolden + chat_template, dir_ + "/chat_template.jinja");
    if (!source.empty()) write_file(dir_ + "/chat_template.jinja", source);
    reopen();
  }
  ~Model() { fs::remove_all(dir_); }

  void reopen() {
    auto opened = Tokenizer::open(dir_);
    EXPECT_TRUE(opened.ok()) << opened.status().message();
    if (opened.ok()) tokenizer = std::move(*opened);
    auto renderer = PromptRenderer::open(dir_);
    EXPECT_TRUE(renderer.ok());
    if (renderer.ok()) prompts = std::make_unique<PromptRenderer>(std::move(*renderer));
    options.max_tokens = 4096;
    options.vocab = tokenizer->vocab_size();
    options.threads = 2;
    if (const auto id = tokenizer->id_of("<|im_end|>")) options.stop_ids = {*id};
  }

  Result<Dataset> load(std::string_view text) const {
    const std::string path = dir_ + "/train.jsonl";
    write_file(path, text);
    return Dataset::load(path, *tokenizer, *prompts, options);
  }
  Dataset loaded(std::string_view text) const {
    auto dataset = load(text);
    EXPECT_TRUE(dataset.ok()) << dataset.status().message();
    return dataset.ok() ? std::move(*dataset) : Dataset();
  }
  std::string error(std::string_view text) const {
    const auto dataset = load(text);
    EXPECT_FALSE(dataset.ok());
    if (dataset.ok()) return "";
    const std::string message = dataset.status().message();
    EXPECT_EQ(message.find('\n'), std::string::npos) << message;
    const std::string path = "'" + dir_ + "/train.jsonl'";
    const size_t at = message.find(path);
    EXPECT_NE(at, std::string::npos) << message;
    return at == std::string::npos ? message : std::string(message).replace(at, path.size(), "FILE");
  }
  Ids encode(const std::string& text, bool special = false) const {
    auto ids = tokenizer->encode(text, {.add_special = special});
    EXPECT_TRUE(ids.ok());
    return ids.ok() ? *ids : Ids{};
  }
  // The text of an example, with the parts that count in «».
  std::string shown(const Dataset& dataset, int64_t index) const {
    const Dataset::Example example = dataset.example(index);
    std::string text;
    Ids part;
    for (size_t i = 0; i < example.ids.size(); ++i) {
      part.push_back(example.ids[i]);
      const bool counts = example.mask[i] != 0;
      if (i + 1 < example.ids.size() && (example.mask[i + 1] != 0) == counts) continue;
      const std::string piece = *tokenizer->decode(part);
      text += counts ? "«" + piece + "»" : piece;
      part.clear();
    }
    return text;
  }

  std::unique_ptr<Tokenizer> tokenizer;
  std::unique_ptr<PromptRenderer> prompts;
  DatasetOptions options;

 private:
  std::string dir_;
};

ordered_json user(const std::string& text) { return {{"role", "user"}, {"content", text}}; }
ordered_json answer(const std::string& text) { return {{"role", "assistant"}, {"content", text}}; }
std::string talk(const std::vector<ordered_json>& messages) {
  return ordered_json{{"messages", messages}}.dump() + "\n";
}

TEST(DatasetGolden, MasksAreThoseOfTransformers) {
  const ordered_json golden = ordered_json::parse(read_file(kGolden + "dataset/golden.json"));
  ASSERT_GE(golden.size(), 20u);
  for (const ordered_json& given : golden) {
    SCOPED_TRACE(given["template"].get<std::string>() + ": " + given["line"]["task"].get<std::string>());
    Model model("dataset", given["template"]);
    model.options.stop_ids = given["stop"].get<Ids>();
    const Dataset dataset = model.loaded(given["line"].dump() + "\n");
    ASSERT_EQ(dataset.size(), static_cast<int64_t>(given["examples"].size()));
    for (int64_t i = 0; i < dataset.size(); ++i) {
      const ordered_json& expected = given["examples"][static_cast<size_t>(i)];
      const Ids ids = expected[0].get<Ids>();
      const Mask mask = expected[1].get<Mask>();
      const Dataset::Example example = dataset.example(i);
      ASSERT_LE(example.ids.size(), ids.size());
      for (size_t at = 0; at < ids.size(); ++at) {
        const bool inside = at < example.ids.size();
        EXPECT_EQ(inside ? example.ids[at] : ids[at], ids[at]) << at;
        EXPECT_EQ(inside ? example.mask[at] : 0, mask[at]) << at;
      }
    }
  }
}

TEST(DatasetGolden, CallArgumentsAsTextAreThoseAsAnObject) {
  for (const char* name : {kPebble, "templates/Qwen-Qwen3-0.6B.jinja"}) {
    const Model model("dataset", name);
    const std::string head =
        R"({"messages":[{"role":"user","content":"17 * 23?"},{"role":"assistant",)"
        R"("tool_calls":[{"type":"function","function":{"name":"calculate","arguments":)";
    const std::string tail = R"(}}]}]})";
    const Dataset object = model.loaded(head + R"({"expression": "17 * 23", "a": 1})" + tail);
    const Dataset text = model.loaded(head + R"("{\"expression\":\"17 * 23\",\"a\":1}")" + tail);
    EXPECT_EQ(object.fingerprint(), text.fingerprint()) << name;
    EXPECT_NE(model.shown(object, 0).find(R"({"expression": "17 * 23", "a": 1}})"), std::string::npos)
        << model.shown(object, 0);
  }
}

// Whatever a template and a tokenizer do: before each turn stands what the server would give the model.
void expect_inference_prompts(const Model& model, const std::vector<ordered_json>& messages) {
  const Dataset dataset = model.loaded(talk(messages));
  std::vector<Ids> prompts;
  ordered_json request = {{"messages", ordered_json::array()}};
  for (const ordered_json& message : messages) {
    if (message["role"] == "assistant")
      prompts.push_back(model.encode(*model.prompts->render(request, true)));
    request["messages"].push_back(message);
  }
  size_t turn = 0;
  for (int64_t i = 0; i < dataset.size(); ++i) {
    const Dataset::Example example = dataset.example(i);
    for (size_t at = 1; at < example.ids.size(); ++at) {
      if (example.mask[at] == 0 || example.mask[at - 1] != 0) continue;
      ASSERT_LT(turn, prompts.size());
      EXPECT_EQ(Ids(example.ids.begin(), example.ids.begin() + static_cast<ptrdiff_t>(at)), prompts[turn]);
      ++turn;
    }
  }
  EXPECT_EQ(turn, prompts.size());
}

TEST(DatasetPrompt, EveryTurnFollowsWhatInferenceSees) {
  const std::vector<ordered_json> messages = {
      user("Hello  you, it's 1234"), answer("Hi there"), user(" And <|im_end|> now?"),
      answer("\n\nfine\n"),          user("\n"),         answer(" x")};
  expect_inference_prompts(Model("dataset", kChatml), messages);
  expect_inference_prompts(Model("dataset", kPebble), messages);
  expect_inference_prompts(Model("dataset", "templates/Qwen-Qwen3-0.6B.jinja"), messages);
  expect_inference_prompts(Model("tokenizers/sentencepiece", kPebble), messages);
  expect_inference_prompts(Model("tokenizers/sentencepiece", kChatml), messages);
  expect_inference_prompts(Model("tokenizers/kimi", "templates/Moonlight-Instruct.jinja"), messages);
  expect_inference_prompts(Model("tokenizers/kimi", "templates/Kimi-K2-Instruct.jinja"), messages);
}

TEST(DatasetPrompt, SentencepieceAddsNoSpaceBeforeAnAnswer) {
  const Model model("tokenizers/sentencepiece", kChatml);
  ASSERT_EQ(model.options.stop_ids.size(), 1u);
  const Dataset dataset = model.loaded(talk({user("What?"), answer("the fox")}));
  ASSERT_EQ(dataset.size(), 1);
  EXPECT_EQ(model.shown(dataset, 0),
            "<|im_start|>user\nWhat?<|im_end|>\n<|im_start|>assistant\n«the fox<|im_end|>»");
  std::string bytes;  // id by id, since decode() drops a first space
  const Dataset::Example example = dataset.example(0);
  for (size_t i = 0; i < example.ids.size(); ++i) {
    if (example.mask[i] != 0) bytes += model.tokenizer->token_bytes(example.ids[i]);
  }
  EXPECT_EQ(bytes, "the fox<|im_end|>");
  // The ids of the whole text: nothing is cut at the border.
  Ids whole = model.encode("<|im_start|>user\nWhat?<|im_end|>\n<|im_start|>assistant\nthe fox<|im_end|>");
  EXPECT_EQ(Ids(example.ids.begin(), example.ids.end()), whole);
}

TEST(DatasetPrompt, ATokenAcrossTheBorderIsCutThere) {
  const Model model("dataset", kChatml);
  const std::string prompt = "<|im_start|>user\nA<|im_end|>\n<|im_start|>assistant\n";
  ASSERT_LT(model.encode(prompt + "\nB").size(), model.encode(prompt).size() + model.encode("\nB").size())
      << "the tokenizer has a token of two newlines";
  const Dataset dataset = model.loaded(talk({user("A"), answer("\nB"), user("C"), answer("D")}));
  ASSERT_EQ(dataset.size(), 2);  // the later prompt holds that token
  Ids expected = model.encode(prompt);
  for (const int32_t id : model.encode("\nB<|im_end|>")) expected.push_back(id);
  const auto ids = dataset.example(0).ids;
  EXPECT_EQ(Ids(ids.begin(), ids.end()), expected);
  EXPECT_EQ(model.shown(dataset, 1), prompt +
                                         "\nB<|im_end|>\n<|im_start|>user\nC<|im_end|>\n"
                                         "<|im_start|>assistant\n«D<|im_end|>»");
}

// GLM's way: no end of turn; the next message's mark is a stop id.
constexpr const char* kOpenEnded =
    "{% for m in messages %}{% if m.role == 'assistant' %}<|im_start|>{% elif m.role == 'tool' %}<think>"
    "{% else %}<|im_middle|>{% endif %}{{ m.content }}{% endfor %}{% if add_generation_prompt "
    "%}<|im_start|>{% endif %}";

TEST(DatasetStop, TheMarkOfTheNextMessageEndsATurn) {
  Model model("dataset", "", kOpenEnded);
  const auto id = [&](const char* text) { return *model.tokenizer->id_of(text); };
  model.options.stop_ids = {id("<|endoftext|>"), id("<|im_middle|>"), id("<think>")};
  EXPECT_EQ(model.shown(model.loaded(talk({user("A"), answer("B"), user("C"), answer("D")})), 0),
            "<|im_middle|>A<|im_start|>«B<|im_middle|>»C<|im_start|>«D<|im_middle|>»");
  ordered_json call = answer("B");
  call["tool_calls"] = {{{"function", {{"name", "f"}, {"arguments", ordered_json::object()}}}}};
  const std::vector<ordered_json> messages = {
      user("A"), call, {{"role", "tool"}, {"content", "R"}}, answer("D")};
  EXPECT_EQ(model.shown(model.loaded(talk(messages)), 0),
            "<|im_middle|>A<|im_start|>«B<think>»R<|im_start|>«D<|im_middle|>»");
}

TEST(DatasetStop, WithoutAnyTheFirstStopIdIsAppended) {
  Model model("dataset", "", kOpenEnded);
  model.options.stop_ids = {*model.tokenizer->id_of("<|endoftext|>"), *model.tokenizer->id_of("<|im_end|>")};
  const Dataset dataset = model.loaded(talk({user("A"), answer("B"), user("C"), answer("D")}));
  ASSERT_EQ(dataset.size(), 2);
  EXPECT_EQ(model.shown(dataset, 0), "<|im_middle|>A<|im_start|>«B<|endoftext|>»");
  EXPECT_EQ(model.shown(dataset, 1), "<|im_middle|>A<|im_start|>B<|im_middle|>C<|im_start|>«D<|endoftext|>»");
  model.options.stop_ids.clear();
  EXPECT_EQ(model.shown(model.loaded(talk({user("A"), answer("B")})), 0), "<|im_middle|>A<|im_start|>«B»");
}

TEST(DatasetTemplate, AnAnswerThatDropsTheGenerationPromptBeginsWhereTheyPart) {
  const Model opens("dataset", "",
                    "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}"
                    "{% if add_generation_prompt %}<|im_start|><think>\n{% endif %}");
  EXPECT_EQ(opens.shown(opens.loaded(talk({user("A"), answer("</think>B")})), 0),
            "<|im_start|>A<|im_end|><|im_start|>«</think>B<|im_end|>»");
}

TEST(DatasetTemplate, VariablesReachTheTemplate) {
  Model model("dataset", "templates/Qwen-Qwen3-0.6B.jinja");
  const std::string line = talk({user("A"), answer("B")});
  const std::string prompt = "<|im_start|>user\nA<|im_end|>\n<|im_start|>assistant\n";
  EXPECT_EQ(model.shown(model.loaded(line), 0), prompt + "«<think>\n\n</think>\n\nB<|im_end|>»");
  model.options.template_variables["enable_thinking"] = false;
  EXPECT_EQ(model.shown(model.loaded(line), 0), prompt + "<think>\n\n</think>\n\n«B<|im_end|>»");
}

TEST(DatasetMessages, AreReadAsTheServerReadsThem) {
  const Model model("dataset", kChatml);
  const std::string line =
      R"({"messages":[{"role":"developer","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]},)"
      R"({"role":"user","content":"A","weight":0},{"role":"assistant","content":"B","weight":1.0}],"tools":null})";
  EXPECT_EQ(model.shown(model.loaded(line), 0),
            "<|im_start|>system\na\nb<|im_end|>\n<|im_start|>user\nA<|im_end|>\n<|im_start|>assistant\n«B<|"
            "im_end|>»");
}

TEST(DatasetMessages, ATemplateSeesNoWeights) {
  const Model model("dataset", "",
                    "{% for m in messages %}<|im_start|>{{ m.weight is defined }}<|im_end|>{% endfor %}"
                    "{% if add_generation_prompt %}<|im_start|>{% endif %}");
  const std::string line = R"({"messages":[{"role":"user","content":"A","weight":0},)"
                           R"({"role":"assistant","content":"B","weight":1}]})";
  EXPECT_EQ(model.shown(model.loaded(line), 0), "<|im_start|>False<|im_end|><|im_start|>«False<|im_end|>»");
}

TEST(DatasetText, CountsAllButTheFirst) {
  const Model model("dataset", "");
  const Dataset dataset =
      model.loaded("{\"text\": \"Who are you?\"}\n{\"text\":\"<|im_start|>A<|im_end|>\"}\n");
  ASSERT_EQ(dataset.size(), 2);
  Ids expected = model.encode("Who are you?<|im_end|>");
  EXPECT_EQ(Ids(dataset.example(0).ids.begin(), dataset.example(0).ids.end()), expected);
  EXPECT_EQ(dataset.example(0).mask[0], 0);
  for (size_t i = 1; i < expected.size(); ++i) EXPECT_EQ(dataset.example(0).mask[i], 1);
  EXPECT_EQ(model.shown(dataset, 1), "<|im_start|>«A<|im_end|>»") << "one end is enough";
  EXPECT_EQ(dataset.counted(), static_cast<int64_t>(expected.size()) - 1 + 2);
  EXPECT_EQ(dataset.lines(), 2);
}

TEST(DatasetText, BeginsAsTheTokenizerSays) {
  Model model("tokenizers/deepseek", "");
  const int32_t bos = *model.tokenizer->bos_id(), eos = *model.tokenizer->eos_id();
  model.options.stop_ids = {eos};
  const Dataset dataset = model.loaded(R"({"text": "the fox"}
{"prompt": "the ", "completion": "fox"})");
  ASSERT_EQ(dataset.size(), 2);
  for (int64_t i = 0; i < 2; ++i) {
    const Dataset::Example example = dataset.example(i);
    EXPECT_EQ(example.ids.front(), bos);
    EXPECT_EQ(std::count(example.ids.begin(), example.ids.end(), bos), 1);
    EXPECT_EQ(example.ids.back(), eos);
  }
  EXPECT_EQ(dataset.example(0).mask[1], 1);
  const Ids prompt = model.encode("the ", true);
  ASSERT_LT(prompt.size(), dataset.example(1).ids.size());
  EXPECT_TRUE(std::equal(prompt.begin(), prompt.end(), dataset.example(1).ids.begin()));
  for (size_t i = 0; i < dataset.example(1).ids.size(); ++i) {
    EXPECT_EQ(dataset.example(1).mask[i] != 0, i >= prompt.size());
  }
}

TEST(DatasetCompletion, CountsAlone) {
  const Model model("dataset", "");
  EXPECT_EQ(model.shown(model.loaded(R"({"prompt": "Who?\n", "completion": "\nme", "id": 3})"), 0),
            "Who?\n«\nme<|im_end|>»");
  // The space is the prompt's, though a tokenizer makes it part of the word after it; and begins no text.
  const Model pieces("tokenizers/sentencepiece", "");
  const Dataset split = pieces.loaded(R"({"prompt": "the ", "completion": "fox"})");
  std::string bytes;
  const Dataset::Example example = split.example(0);
  for (size_t i = 0; i < example.ids.size(); ++i) {
    if (example.mask[i] != 0) bytes += pieces.tokenizer->token_bytes(example.ids[i]);
  }
  EXPECT_EQ(bytes, "fox<|im_end|>");
  // An empty prompt gives the model nothing to predict the first id from.
  const Dataset bare = model.loaded(R"({"prompt": "", "completion": "me"})");
  EXPECT_EQ(bare.example(0).mask[0], 0);
  EXPECT_EQ(bare.counted(), bare.tokens() - 1);
}

TEST(DatasetFile, MarkAtTheStartAndLineEnds) {
  const Model model("dataset", kChatml);
  const std::string one = R"({"text":"One?"})", two = R"({"text":"Two?"})";
  const uint64_t expected = model.loaded(one + "\n" + two + "\n").fingerprint();
  EXPECT_EQ(model.loaded(one + "\n" + two).fingerprint(), expected);
  EXPECT_EQ(model.loaded("\xef\xbb\xbf" + one + "\r\n" + two + "\r\n").fingerprint(), expected);
  EXPECT_NE(model.loaded(two + "\n" + one + "\n").fingerprint(), expected);
  EXPECT_NE(model.loaded(one).fingerprint(), expected);
}

TEST(DatasetFile, FingerprintSeesMasksAndBorders) {
  Dataset a, b, c;
  a.add(Ids{1, 2, 3}, Mask{0, 1, 1});
  b.add(Ids{1, 2, 3}, Mask{0, 0, 1});
  c.add(Ids{1}, Mask{0});
  c.add(Ids{2, 3}, Mask{0, 1});
  EXPECT_NE(a.fingerprint(), b.fingerprint());
  EXPECT_NE(b.fingerprint(), c.fingerprint());
  // FNV-1a over the length as 8 bytes, the ids as 4 and the masks as 1: by a loop over the bytes.
  uint64_t hash = 14695981039346656037ull;
  for (const int byte : {3, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 0, 1, 1}) {
    hash = (hash ^ static_cast<uint64_t>(byte)) * 1099511628211ull;
  }
  EXPECT_EQ(a.fingerprint(), hash);
}

TEST(DatasetFile, ManyLinesInOrderForAnyNumberOfThreads) {
  Model model("dataset", kPebble);
  std::string text;
  const std::string filler(400, 'x');
  for (int i = 0; i < 12'000; ++i) {  // more than one block
    text += "{\"text\":\"" + std::to_string(i) + "\",\"filler\":\"" + filler + "\"}\n";
  }
  model.options.threads = 1;
  const Dataset one = model.loaded(text);
  ASSERT_EQ(one.size(), 12'000);
  for (const int64_t i : {0, 63, 64, 7001, 11'999}) {
    EXPECT_EQ(*model.tokenizer->decode(one.example(i).ids), std::to_string(i) + "<|im_end|>");
  }
  model.options.threads = 3;
  EXPECT_EQ(model.loaded(text).fingerprint(), one.fingerprint());
  // The first of two bad lines is named, on whichever thread.
  const size_t at = text.find("{\"text\":\"9000\"");
  text[text.find("{\"text\":\"10000\"")] = '!';
  text[at] = '?';
  EXPECT_EQ(model.error(text).substr(0, 34), "line 9001 of FILE: is not JSON, or");
}

TEST(DatasetFile, ProgressCancels) {
  Model model("dataset", "");
  int64_t last = 0, total = 0;
  model.options.progress = [&](int64_t done, int64_t all) {
    last = done, total = all;
    return true;
  };
  const std::string text = "{\"text\":\"One?\"}\n";
  model.loaded(text);
  EXPECT_EQ(last, static_cast<int64_t>(text.size()));
  EXPECT_EQ(total, last);
  model.options.progress = [](int64_t, int64_t) { return false; };
  EXPECT_EQ(model.load(text).status().code(), Code::kCancelled);
}

TEST(DatasetFile, WhatIsNotAFileIsRefused) {
  const Model model("dataset", "");
  const auto load = [&](const std::string& path) {
    return Dataset::load(path, *model.tokenizer, *model.prompts, model.options).status();
  };
  EXPECT_EQ(load("/does/not/exist").code(), Code::kNotFound);
  EXPECT_EQ(load(testing::TempDir()).code(), Code::kIo);
  EXPECT_EQ(model.error(""), "FILE holds no example; write one JSON object a line");
}

TEST(DatasetLimits, LongExamplesAreRefusedOrCut) {
  Model model("dataset", kChatml);
  const std::string line = talk({user("A"), answer("B"), user("C"), answer("DDDDDDDDDDDDDD")});
  const int64_t whole = model.loaded(line).tokens();
  model.options.max_tokens = whole;
  EXPECT_EQ(model.loaded(line).cut(), 0);
  model.options.max_tokens = whole - 1;
  EXPECT_EQ(model.error("{\"text\":\"x\"}\n" + line),
            "line 2 of FILE: gives an example of " + std::to_string(whole) +
                " tokens or more; the limit is " + std::to_string(whole - 1) +
                ": raise it, shorten the line, or have long examples cut");
  model.options.too_long = DatasetOptions::TooLong::kCut;
  const Dataset cut = model.loaded(line);
  ASSERT_EQ(cut.size(), 1);
  EXPECT_EQ(cut.tokens(), whole - 1);
  EXPECT_EQ(cut.cut(), 1);
  model.options.max_tokens = 3;  // nothing of the answers is left
  const Dataset dropped = model.loaded(line + "{\"text\":\"One? Two? Three?\"}\n");
  EXPECT_EQ(dropped.size(), 1);
  EXPECT_EQ(dropped.tokens(), 3);
  EXPECT_EQ(dropped.cut(), 2);
  EXPECT_EQ(dropped.dropped(), 1);
  EXPECT_EQ(model.error(line), "FILE holds no example: all are too long; raise the limit of tokens");
}

TEST(DatasetLimits, OfTheWholeFile) {
  Model model("dataset", "");
  model.options.max_total_tokens = 10;
  EXPECT_EQ(model.error("{\"text\":\"One? Two? Three? Four? Five?\"}\n"),
            "FILE holds more than 10 tokens; split the file");
  model.options.max_total_tokens = 1 << 20;
  const std::string head = "{\"text\":\"One?\"}\n{\"text\":\"", tail = "\"}";
  const size_t room = (size_t{16} << 20) - std::string("{\"text\":\"\"}").size();
  model.options.too_long = DatasetOptions::TooLong::kCut;
  EXPECT_EQ(model.loaded(head + std::string(room, 'x') + tail + "\n").size(), 2);
  const std::string expected =
      "line 2 of FILE: longer than 16777216 bytes; write one example a line, and split it";
  EXPECT_EQ(model.error(head + std::string(room + 1, 'x') + tail + "\n"), expected);
  EXPECT_EQ(model.error(head + std::string(room * 2, 'x')), expected);
}

TEST(DatasetLimits, OfOptionsAndVocabulary) {
  Model model("dataset", "");
  model.options.vocab = 10;
  model.options.stop_ids.clear();
  EXPECT_NE(model.error("{\"text\":\"One?\"}")
                .find("but the model knows 0 to 9; the tokenizer is of another model"),
            std::string::npos);
  model.options.stop_ids = {10};
  EXPECT_EQ(model.load("{\"text\":\"One?\"}").status().message(),
            "the stop id 10 is outside the vocabulary of 10");
  model.options.max_tokens = 1;
  EXPECT_EQ(model.load("{\"text\":\"One?\"}").status().code(), Code::kInvalid);
}

struct BadLine {
  std::string line, error;
};

TEST(DatasetErrors, NameLineAndRemedy) {
  const Model model("dataset", "",
                    "{% if messages[0].content == 'bad' %}{{ raise_exception('no') }}{% endif %}"
                    "{{ messages | length }}{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>"
                    "{% endfor %}{% if add_generation_prompt %}<|im_start|>{% endif %}");
  const std::string shapes =
      "; write {\"messages\": [...]}, {\"text\": TEXT} or {\"prompt\": TEXT, \"completion\": TEXT}";
  const std::string not_json = "is not JSON, or nests deeper than 64; write one whole JSON object a line";
  const std::string u = R"({"role":"user","content":"A"})";
  const auto messages = [&](const std::string& list) { return "{\"messages\":[" + list + "]}"; };
  const std::vector<BadLine> cases = {
      {"", "is empty; remove it"},
      {" \t", "is empty; remove it"},
      {"{", not_json},
      {"{\"text\":\"a\"} {}", not_json},
      {"{\"text\":\"a\x01\"}", not_json},
      {"{\"text\":" + std::string(100, '[') + std::string(100, ']') + "}", not_json},
      {"{\"text\":\"\xff\"}", "is not UTF-8 from byte 10 on; save the file as UTF-8"},
      {"{\"text\":\"\xed\xa0\x80\"}", "is not UTF-8 from byte 10 on; save the file as UTF-8"},
      {"[1]", "is not a JSON object; write one object a line"},
      {"\"text\"", "is not a JSON object; write one object a line"},
      {"{}", "has none of \"messages\", \"text\" and \"prompt\"" + shapes},
      {"{\"input\":{},\"preferred_output\":[]}",
       "has none of \"messages\", \"text\" and \"prompt\"" + shapes},
      {"{\"text\":null}", "has none of \"messages\", \"text\" and \"prompt\"" + shapes},
      {"{\"text\":[\"a\"]}", "has a \"text\" that is not text; write {\"text\": TEXT}"},
      {"{\"text\":\"a\",\"completion\":\"b\"}", "has both \"text\" and \"completion\"" + shapes},
      {"{\"text\":\"\"}", "holds no token to predict; add text, or remove the line"},
      {"{\"prompt\":\"a\"}", "has a \"prompt\" or a \"completion\" that is missing or not text" + shapes},
      {"{\"completion\":\"a\"}", "has a \"prompt\" or a \"completion\" that is missing or not text" + shapes},
      {"{\"prompt\":[],\"completion\":\"a\"}",
       "has a \"prompt\" or a \"completion\" that is missing or not text" + shapes},
      {"{\"messages\":{}}", "messages is not a list; write a list of {\"role\", \"content\"}"},
      {"{\"messages\":[]}", "messages holds 0 messages; 1 to 4096 are allowed, split the conversation"},
      {messages("1"), "messages[0] is not an object; write {\"role\": ROLE, \"content\": TEXT}"},
      {messages("{\"content\":\"A\"}"),
       "messages[0] has no role; write \"system\", \"user\", \"assistant\" or \"tool\""},
      {messages("{\"role\":1,\"content\":\"A\"}"),
       "messages[0] has no role; write \"system\", \"user\", \"assistant\" or \"tool\""},
      {messages("{\"role\":\"user\"}"), "messages[0] has no content; write \"content\": TEXT"},
      {messages("{\"role\":\"user\",\"content\":7}"),
       "messages[0] has a content that is neither text nor a list of text parts"},
      {messages(u + ",{\"role\":\"user\",\"content\":[{\"type\":\"image_url\"}]}"),
       "messages[1] has a content part 0 that is not text; write {\"type\": \"text\", \"text\": TEXT}"},
      {messages(u),
       "no assistant message with weight 1: nothing to learn; add the answer, or remove the line"},
      {messages(u + R"(,{"role":"assistant","content":"B","weight":0})"),
       "no assistant message with weight 1: nothing to learn; add the answer, or remove the line"},
      {messages(u + R"(,{"role":"assistant","content":"B","weight":0.5})"),
       "messages[1] has a weight that is neither 0 nor 1; write 0 to leave the turn out, 1 to learn it"},
      {messages(u + R"(,{"role":"assistant","content":"B","weight":true})"),
       "messages[1] has a weight that is neither 0 nor 1; write 0 to leave the turn out, 1 to learn it"},
      {messages(R"({"role":"user","content":"A","weight":1})"),
       "messages[0] has weight 1 but is not the assistant's; only the assistant's turns are learnt"},
      {messages(u + R"(,{"role":"assistant","tool_calls":{}})"),
       "messages[1] has tool_calls that are not a list"},
      {messages(u + R"(,{"role":"assistant","tool_calls":[{"name":"f"}]})"),
       "messages[1] has a tool call without \"function\": {\"name\": NAME, \"arguments\": OBJECT}"},
      {"{\"messages\":[" + u + ",{\"role\":\"assistant\",\"content\":\"B\"}],\"tools\":{}}",
       "tools is not a list; write a list of {\"type\", \"function\"}"},
      {talk({user("bad"), answer("B")}), "chat template, line 1: no"},
      {talk({user("A"), answer("B")}),
       "messages[1]: the model's chat template changes the conversation before this turn when it is added, "
       "so "
       "that the turn cannot be told apart; give it weight 0"},
  };
  for (const BadLine& each : cases) {
    const std::string text = "{\"text\":\"fine\"}\n" + each.line + (each.line.ends_with('\n') ? "" : "\n");
    EXPECT_EQ(model.error(text), "line 2 of FILE: " + each.error) << each.line;
  }
  std::string wide = "{\"text\":\"a\"";
  for (int i = 0; i < 5000; ++i) wide += ",\"" + std::to_string(i) + "\":0";
  EXPECT_EQ(model.error(wide + "}"), "line 1 of FILE: has an object with more than 4096 fields; remove them");
  std::string many = "{\"messages\":[" + u;
  for (int i = 0; i < 4096; ++i) many += "," + u;
  EXPECT_EQ(model.error(many + "]}"),
            "line 1 of FILE: messages holds 4097 messages; 1 to 4096 are allowed, split the conversation");
}

TEST(DatasetErrors, AModelWithoutTemplateTakesNoConversations) {
  const Model model("dataset", "");
  const std::string message = model.error(talk({user("A"), answer("B")}));
  EXPECT_NE(message.find("line 1 of FILE: "), std::string::npos) << message;
  EXPECT_NE(message.find("no chat template"), std::string::npos) << message;
}

// Broken files: an answer of one line, or a dataset that keeps its promises.
TEST(DatasetErrors, RandomDamage) {
  Model model("dataset", kChatml);
  model.options.max_tokens = 64;
  model.options.too_long = DatasetOptions::TooLong::kCut;
  const std::string seed =
      talk({user("One?"), answer("1"), user("Two?"), answer("2")}) +
      R"({"messages":[{"role":"user","content":[{"type":"text","text":"A"}]},)"
      R"({"role":"assistant","weight":1,"tool_calls":[{"function":{"name":"f","arguments":"{}"}}]}]})"
      "\n{\"prompt\":\"a\",\"completion\":\"b\"}\n{\"text\":\"One\xc3\xa9\"}\n";
  std::mt19937 random(7);
  int accepted = 0;
  for (int i = 0; i < 1000; ++i) {
    std::string text = seed;
    for (int edits = static_cast<int>(random() % 3); edits >= 0; --edits) {
      const size_t at = random() % text.size();
      switch (random() % 4) {
        case 0:
          text[at] = static_cast<char>(random());
          break;
        case 1:
          text.erase(at, random() % 8);
          break;
        case 2:
          text.insert(at, text.substr(random() % text.size(), random() % 20));
          break;
        default:
          text[at] = "{}[]\",:0\n\\"[random() % 10];
          break;
      }
    }
    const auto dataset = model.load(text);
    if (!dataset.ok()) {
      ASSERT_EQ(dataset.status().message().find('\n'), std::string::npos);
      continue;
    }
    ++accepted;
    for (int64_t e = 0; e < dataset->size(); ++e) {
      const Dataset::Example example = dataset->example(e);
      ASSERT_EQ(example.ids.size(), example.mask.size());
      ASSERT_LE(example.ids.size(), 64u);
      ASSERT_EQ(example.mask[0], 0);
      ASSERT_GT(std::count(example.mask.begin(), example.mask.end(), 1), 0);
    }
  }
  EXPECT_GT(accepted, 20);
  EXPECT_LT(accepted, 950);
}

}  // namespace
}  // namespace moebius
