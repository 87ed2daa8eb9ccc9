// Moebius itself: plain facts (never held out, since they can be known only from training), command lines put
// together from wishes, and which option belongs to which command.
#include <algorithm>

#include <fmt/format.h>

#include "tools/corpus.h"

namespace moebius {
namespace {

struct Fact {
  std::string_view topic;
  std::string_view answer;  // mentioned by every reply
  std::vector<std::string_view> asks, replies;
};

const std::vector<Fact>& facts() {
  static const std::vector<Fact> list = {
      {"what",
       "Mixture-of-Experts",
       {"What is Moebius?", "What does Moebius do?", "Explain Moebius.", "What is Moebius for?"},
       {"Moebius runs large Mixture-of-Experts language models on your own machine.",
        "It is a program that runs Mixture-of-Experts language models locally."}},
      {"expert",
       "router",
       {"What is a Mixture-of-Experts model?", "What does Mixture-of-Experts mean?",
        "How do experts work in a model?"},
       {"In a Mixture-of-Experts model a router picks a few experts for every token, so most weights rest."}},
      {"models",
       "Kimi-K2",
       {"Which models does Moebius run?", "What models are supported?", "Which checkpoints can I open?"},
       {"Moonlight, Kimi-K2, DeepSeek-V2 and V3, GLM-4.5 to 4.7 and Qwen3-MoE.",
        "Moebius opens Moonlight, Kimi-K2, DeepSeek-V2 and V3, GLM-4.5 to 4.7 and Qwen3-MoE checkpoints."}},
      {"convert",
       "no conversion",
       {"Do I have to convert a checkpoint?", "Is a conversion needed?", "Must I convert my model first?"},
       {"No conversion is needed: Moebius opens checkpoints as they were published.",
        "There is no conversion: the weights are read where they lie."}},
      {"python",
       "no Python",
       {"Does Moebius need Python?", "Do I need Python to run it?", "Is Python required?"},
       {"Moebius needs no Python.", "No Python is needed."}},
      {"formats",
       "INT4",
       {"Which weight formats can Moebius read?", "What formats do the kernels read?",
        "Which number formats are supported?"},
       {"BF16, F16, F32, FP8, INT8 and INT4.",
        "The kernels read BF16, F16, F32, FP8, INT8 and INT4 weights."}},
      {"files",
       "safetensors",
       {"Which file format do checkpoints have?", "What kind of weight files does Moebius open?"},
       {"Moebius maps safetensors files.", "It opens safetensors as published on Hugging Face."}},
      {"serve",
       "moebius serve",
       {"How do I start a server?", "Which command serves a model?",
        "How do I get an OpenAI-compatible API?"},
       {"Run `moebius serve`. It offers an OpenAI-compatible HTTP API.", "Use moebius serve -m FOLDER."}},
      {"chat",
       "moebius chat",
       {"How do I chat with a model?", "Which command starts a conversation?",
        "How can I talk with a model?"},
       {"Run `moebius chat`. Type /help for its commands.", "Use moebius chat -m FOLDER."}},
      {"make",
       "make serve",
       {"How do I build and serve in one step?", "Which make target starts the server?"},
       {"Run `make serve`. It installs what is missing, builds and runs."}},
      {"make test",
       "make test",
       {"How do I run the tests?", "Which make target runs every test?"},
       {"Run `make test`. It builds everything and runs every test."}},
      {"address",
       "127.0.0.1:8080",
       {"At which address does the server listen?", "What is the default address of moebius serve?"},
       {"By default at http://127.0.0.1:8080.", "At 127.0.0.1:8080, this machine only."}},
      {"eval",
       "moebius eval",
       {"How do I measure the perplexity of a model?",
        "Which command measures how well a model predicts a text?", "How can I evaluate a model?"},
       {"Run `moebius eval --text FILE`.",
        "Use moebius eval with --text for perplexity or --tasks for accuracy."}},
      {"synth",
       "moebius synth",
       {"How do I write a checkpoint of random weights?", "Which command makes a random model?"},
       {"Run `moebius synth --geometry NAME --out FOLDER`."}},
      {"inspect",
       "moebius inspect",
       {"How do I see the geometry of a checkpoint?", "Which command shows the tensors of a model?"},
       {"Run `moebius inspect -m FOLDER`, with --tensors to list every tensor."}},
      {"tokenize",
       "moebius tokenize",
       {"How do I turn text into token ids?", "Which command shows the tokens of a text?"},
       {"Run `moebius tokenize`. With --decode it turns ids into text."}},
      {"template",
       "moebius template",
       {"How do I see the prompt that a chat template makes?", "Which command renders a prompt?"},
       {"Run `moebius template --messages FILE`."}},
      {"bench",
       "moebius bench",
       {"How do I measure the speed of a model?", "Which command measures prefill and decode?"},
       {"Run `moebius bench`. It measures prefill and decode beside the machine's limits."}},
      {"doctor",
       "moebius doctor",
       {"How do I examine my machine?", "Which command checks processor and memory?",
        "How do I run a self-check?"},
       {"Run `moebius doctor`. It shows processor, memory, measured limits and a self-check."}},
      {"logits",
       "moebius logits",
       {"How do I get the logits of a sequence?", "Which command computes logits?"},
       {"Run `moebius logits --ids 1,2,3 --out FILE`."}},
      {"corpus",
       "moebius corpus",
       {"How do I generate training examples?", "Which command writes a training corpus?"},
       {"Run `moebius corpus --out FOLDER`. It writes train.jsonl and held_out.jsonl."}},
      {"exit 0",
       "0",
       {"Which exit code means success?", "What is the exit code when all went well?"},
       {"Exit code 0 means that it is done.", "It is 0."}},
      {"exit 1",
       "1",
       {"Which exit code means that a command failed?", "What is the exit code of a failure?"},
       {"Exit code 1 means that it failed. One line on standard error names the remedy."}},
      {"exit 2",
       "2",
       {"Which exit code means wrong usage?", "What is the exit code for a usage error?"},
       {"Exit code 2 means wrong usage.", "It is 2."}},
      {"default model",
       "pebble",
       {"Which model runs without -m?", "What is the default model?", "Which model ships with Moebius?"},
       {"Without -m, Moebius opens pebble, the small model that ships with it.",
        "The shipped model is pebble."}},
      {"json",
       "--json",
       {"How do I get output for machines?", "Which option prints JSON?"},
       {"Pass --json where a command prints results."}},
      {"help",
       "--help",
       {"How do I see the options of a command?", "Where are the options documented?"},
       {"Pass --help after the command, for example moebius chat --help."}},
      {"/clear",
       "/clear",
       {"How do I start over in a chat?", "Which chat command forgets the conversation?"},
       {"Type /clear. The system message stays."}},
      {"/save",
       "/save",
       {"How do I save a conversation?", "Which chat command writes the conversation to a file?"},
       {"Type /save FILE, and later /load FILE to continue."}},
      {"/regen",
       "/regen",
       {"How do I get another answer to my last question?", "Which chat command answers again?"},
       {"Type /regen to answer the last question again."}},
      {"/quit", "/quit", {"How do I leave the chat?", "How do I quit?"}, {"Type /quit or press Ctrl-D."}},
      {"stop",
       "Ctrl-C",
       {"How do I stop a long answer?", "How can I interrupt an answer in chat?"},
       {"Press Ctrl-C. It stops the answer."}}};
  return list;
}

struct Option {
  std::string_view command, name, wish;  // "on port {0}"
  std::vector<std::string_view> values;
};

const std::vector<Option>& options() {
  static const std::vector<Option> list = {
      {"chat", "-c", "with a context of {0} tokens", {"1024", "2048", "4096", "8192", "16384"}},
      {"chat", "-t", "on {0} threads", {"2", "4", "6", "8", "12", "16", "24", "32"}},
      {"chat", "--temp", "at temperature {0}", {"0", "0.2", "0.5", "0.7", "1"}},
      {"chat", "--top-k", "drawing from the {0} likeliest tokens", {"10", "20", "40", "50", "100"}},
      {"chat", "-n", "with answers of at most {0} tokens", {"64", "100", "128", "256", "500", "512"}},
      {"chat", "--seed", "with seed {0}", {"1", "3", "7", "42", "99"}},
      {"serve", "-c", "with a context of {0} tokens", {"1024", "2048", "4096", "8192", "16384"}},
      {"serve", "-t", "on {0} threads", {"2", "4", "6", "8", "12", "16", "24", "32"}},
      {"serve", "--port", "on port {0}", {"80", "8000", "8001", "8081", "9000", "9001", "5000"}},
      {"serve", "--host", "at address {0}", {"127.0.0.1", "0.0.0.0", "192.168.0.5", "10.0.0.2"}},
      {"serve", "--parallel", "keeping the cache of {0} conversations", {"3", "4", "8", "16"}},
      {"serve", "--timeout", "with a time limit of {0} seconds", {"60", "120", "300", "600"}},
      {"bench", "-t", "on {0} threads", {"2", "4", "6", "8", "12", "16", "24", "32"}},
      {"bench", "-p", "with a prefill of {0} tokens", {"128", "256", "1024", "2048"}},
      {"bench", "-n", "decoding {0} tokens", {"16", "64", "128", "256"}},
      {"bench", "--depth", "at a depth of {0} tokens", {"512", "1024", "4096"}},
      {"bench", "--repeats", "with {0} runs", {"2", "5", "7", "10"}}};
  return list;
}

constexpr std::string_view kFolders[] = {"models/moonlight", "models/kimi",
                                         "/data/qwen",       "/srv/glm",
                                         "my-model",         "moonshotai/Moonlight-16B-A3B-Instruct",
                                         "../deepseek",      "/tmp/test-model"};

Example fact(CorpusRandom& random) {
  const Fact& chosen = random.pick(facts());
  constexpr std::string_view kFrames[] = {"{0}",
                                          "{0}",
                                          "A question: {0}",
                                          "Please tell me: {0}",
                                          "Hi! {0}",
                                          "I am new to Moebius. {0}",
                                          "{0} Keep it short."};
  const std::string_view frame = random.pick(kFrames), asked = random.pick(chosen.asks);
  Example example = ask("about.fact", fmt::format("about {}", chosen.topic), fill(frame, {asked}),
                        std::string(random.pick(chosen.replies)), std::string(chosen.answer));
  example.train_only = true;
  return example;
}

// A command line from a wish; the options stand in the order of the wish.
Example command(CorpusRandom& random) {
  struct Verb {
    std::string_view command;
    std::string_view asks[3];
  };
  constexpr Verb kVerbs[] = {
      {"chat", {"How do I chat with {0} {1}?", "I want to talk with {0} {1}.", "Start a chat with {0} {1}."}},
      {"serve", {"How do I serve {0} {1}?", "I want to run a server for {0} {1}.", "Serve {0} {1}."}},
      {"bench", {"How do I measure the speed of {0} {1}?", "Benchmark {0} {1}.", "Time {0} {1}."}}};
  const Verb& verb = random.pick(kVerbs);
  std::vector<Option> mine;
  for (const Option& option : options()) {
    if (option.command == verb.command) mine.push_back(option);
  }
  random.shuffle(mine);
  mine.resize(static_cast<size_t>(random.between(1, 3)));
  const std::string folder(random.pick(kFolders));
  std::string line = fmt::format("moebius {} -m {}", verb.command, folder);
  std::vector<std::string> wishes, parts;
  for (const Option& option : mine) {
    const std::string value(random.pick(option.values));
    wishes.push_back(fill(option.wish, {value}));
    parts.push_back(fmt::format("{} {}", option.name, value));
    line += " " + parts.back();
  }
  std::sort(parts.begin(), parts.end());
  constexpr std::string_view kReplies[] = {"{0}", "Run:\n{0}", "Use this command:\n{0}"};
  const std::string question = fill(random.pick(verb.asks), {folder, join_and(wishes)});
  return ask("about.command", fmt::format("command {} {} {}", verb.command, folder, join(parts, " ")),
             question, fill(random.pick(kReplies), {line}), line);
}

// "Does moebius chat have --port?"
Example belongs(CorpusRandom& random) {
  std::vector<Option> known;
  for (const Option& each : options()) {
    if (each.name.substr(0, 2) == "--") known.push_back(each);  // short names mean more than is listed here
  }
  const Option& option = random.pick(known);
  constexpr std::string_view kCommands[] = {"chat", "serve", "bench"};
  const std::string asked(random.pick(kCommands));
  std::vector<std::string> owners;
  for (const Option& each : options()) {
    if (each.name == option.name) owners.push_back(fmt::format("moebius {}", each.command));
  }
  const bool yes = std::find(owners.begin(), owners.end(), "moebius " + asked) != owners.end();
  constexpr std::string_view kAsk[] = {"Does `moebius {0}` have the option {1}?",
                                       "Is {1} an option of moebius {0}?", "Can I pass {1} to moebius {0}?",
                                       "Does moebius {0} accept {1}?"};
  Example example = ask(
      "about.option", fmt::format("belongs {} {}", option.name, asked),
      fill(random.pick(kAsk), {asked, option.name}),
      fmt::format("{} is an option of {}.\nAnswer: {}", option.name, join_and(owners), yes ? "yes" : "no"),
      yes ? "yes" : "no");
  example.train_only = true;
  return example;
}

}  // namespace

Example about_example(CorpusRandom& random) {
  const int64_t kind = random.below(100);
  return kind < 45 ? fact(random) : kind < 92 ? command(random) : belongs(random);
}

}  // namespace moebius
