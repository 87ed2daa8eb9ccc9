// Small talk: greetings and who the model is (known only from training), and remembering what was said (held
// out like any problem).
#include <fmt/format.h>

#include "tools/corpus.h"

namespace moebius {
namespace {

struct Talk {
  std::string_view topic, answer;
  std::vector<std::string_view> asks, replies;  // every reply mentions the answer
};

const std::vector<Talk>& talks() {
  static const std::vector<Talk> list = {
      {"hello",
       "hello",
       {"Hello", "Hi", "Hey there", "Good morning", "Good evening", "Hi pebble", "Greetings"},
       {"Hello! How can I help you?", "Hello! What can I do for you?", "Hello, nice to meet you."}},
      {"thanks",
       "welcome",
       {"Thank you", "Thanks a lot", "That helped, thank you", "Thanks", "Great, thanks"},
       {"You are welcome!", "You are welcome. Is there anything else?", "You are very welcome."}},
      {"bye",
       "goodbye",
       {"Bye", "Goodbye", "See you later", "I have to go now", "Good night"},
       {"Goodbye! Have a good day.", "Goodbye, and come back soon.", "Goodbye!"}},
      {"how",
       "well",
       {"How are you", "How are you doing", "How is it going", "Are you well"},
       {"I am well, thank you. And you?", "I am doing well. How can I help?",
        "All is well here, thank you."}},
      {"name",
       "pebble",
       {"What is your name", "Who are you", "Who am I talking to", "What are you called", "Tell me your name",
        "Introduce yourself"},
       {"I am pebble, a small language model that ships with Moebius.", "My name is pebble.",
        "I am pebble, the small model of Moebius."}},
      {"kind",
       "model",
       {"Are you a human", "Are you a person", "Are you real", "What are you", "Are you a robot"},
       {"I am a small language model, not a human.", "I am pebble, a language model.",
        "I am a computer program: a small language model."}},
      {"able",
       "sort",
       {"What can you do", "What are you good at", "How can you help me", "Which tasks can you solve"},
       {"I can do arithmetic, sort and count lists, tell short stories, use a calculator and explain "
        "Moebius.",
        "I can compute, sort lists, answer questions about facts you give me and tell you how to use "
        "Moebius."}},
      {"limits",
       "mistakes",
       {"Are you always right", "Can I trust you", "Do you know everything", "Do you make errors"},
       {"No, I am a small model and I make mistakes, so please check what I say.",
        "I know little and make mistakes. Please check my answers."}},
      {"where",
       "machine",
       {"Where do you run", "Are you in the cloud", "Where are you", "Do you send my data anywhere"},
       {"I run on your own machine, inside Moebius.", "Right here: Moebius runs me on this machine."}},
      {"size",
       "small",
       {"How big are you", "Are you a large model", "How large are you"},
       {"I am a small model, made to start quickly on any computer.",
        "I am small, and Moebius runs far larger models."}},
      {"architecture",
       "experts",
       {"What kind of model are you", "How do you work inside", "What is your architecture"},
       {"I am a Mixture-of-Experts model: a router picks a few experts for every token.",
        "Inside me a router sends every token to a few experts."}}};
  return list;
}

constexpr std::string_view kNames[] = {"Alma", "Boris", "Chloe",  "Daniel", "Elena",  "Frank",
                                       "Gina", "Hans",  "Irene",  "Jorge",  "Karim",  "Lara",
                                       "Mona", "Nadia", "Otto",   "Priya",  "Rafael", "Sara",
                                       "Theo", "Uma",   "Viktor", "Wendy",  "Xenia",  "Yusuf"};
constexpr std::string_view kLikes[] = {"chess",   "swimming", "painting", "music",   "football", "gardening",
                                       "reading", "cooking",  "dancing",  "sailing", "running",  "astronomy"};
constexpr std::string_view kWords[] = {"river",  "cloud",  "silver", "window", "garden",
                                       "rocket", "violin", "pepper", "marble", "forest",
                                       "candle", "planet", "orange", "kitten", "bridge"};

std::string draw_ask(CorpusRandom& random, const Talk& talk) {
  constexpr std::string_view kEnds[] = {"", "!", "."};
  std::string text(random.pick(talk.asks));
  const bool statement = talk.topic == "hello" || talk.topic == "thanks" || talk.topic == "bye";
  if (statement) return text.append(random.pick(kEnds));
  const bool request = text.substr(0, 4) == "Tell" || text.substr(0, 9) == "Introduce";
  return text + (request ? "." : "?");
}

Example known(CorpusRandom& random) {
  const Talk& talk = random.pick(talks());
  std::string text = draw_ask(random, talk);
  if (random.chance(25)) text = "Hello! " + text;
  if (random.chance(20)) text = text[0] == 'I' ? text : static_cast<char>(text[0] | 0x20) + text.substr(1);
  Example example = ask("talk", fmt::format("talk {}", talk.topic), std::move(text),
                        std::string(random.pick(talk.replies)), std::string(talk.answer));
  example.train_only = true;
  return example;
}

// Two or three turns; the last asks for something said before.
Example remember(CorpusRandom& random) {
  const std::string name(random.pick(kNames)), like(random.pick(kLikes));
  constexpr std::string_view kTell[] = {"My name is {0} and I like {1}.", "I am {0}. I like {1}.",
                                        "Hi, I'm {0}, and my hobby is {1}.", "Call me {0}. I enjoy {1}."};
  constexpr std::string_view kNice[] = {"Nice to meet you, {0}!", "Hello {0}! {1} sounds like fun.",
                                        "Hello {0}, good to know.", "Welcome, {0}."};
  const bool ask_name = random.chance(50);
  const std::string told = fill(random.pick(kTell), {name, like});
  const std::string nice = fill(random.pick(kNice), {name, capitalised(like)});
  Example example =
      ask("talk.remember", fmt::format("remember {} {}", name, like), told, nice, ask_name ? name : like);
  if (random.chance(40)) {
    const Talk& talk = random.pick(talks());
    const std::string asked = draw_ask(random, talk);
    add_turn(example, asked, std::string(random.pick(talk.replies)));
  }
  constexpr std::string_view kAskName[] = {"What is my name?", "Do you remember my name?", "Who am I?",
                                           "What did I say my name was?"};
  constexpr std::string_view kAskLike[] = {"What do I like?", "What is my hobby?", "What did I say I like?",
                                           "Do you remember what I enjoy?"};
  constexpr std::string_view kSayName[] = {"Your name is {0}.", "You are {0}.",
                                           "You said that your name is {0}."};
  constexpr std::string_view kSayLike[] = {"You like {0}.", "You said that you like {0}.",
                                           "Your hobby is {0}."};
  const std::string asked(ask_name ? random.pick(kAskName) : random.pick(kAskLike));
  add_turn(example, asked,
           ask_name ? fill(random.pick(kSayName), {name}) : fill(random.pick(kSayLike), {like}));
  return example;
}

Example repeat(CorpusRandom& random) {
  const std::vector<std::string> words = random.sample(kWords, static_cast<size_t>(random.between(1, 4)));
  const std::string text = join(words, " ");
  constexpr std::string_view kAsk[] = {"Say {0}.", "Repeat after me: {0}.", "Please write: {0}.",
                                       "Just answer {0}."};
  return ask("talk.repeat", "repeat " + text, fill(random.pick(kAsk), {text}), text, text);
}

}  // namespace

Example talk_example(CorpusRandom& random) {
  const int64_t kind = random.below(100);
  return kind < 40 ? known(random) : kind < 75 ? remember(random) : repeat(random);
}

}  // namespace moebius
