// A small closed world: who lives where, does what, owns which animal and knows whom. Some questions bring
// their facts in the prompt; others are about one fixed world that can be known only from training. Its plain
// facts are therefore never held out, but questions that join several facts are.
#include <algorithm>
#include <array>
#include <optional>

#include <fmt/format.h>

#include "tools/corpus.h"

namespace moebius {
namespace {

constexpr std::string_view kNames[] = {"Ada",   "Bruno", "Celia", "Dario",  "Edith",  "Fabian",
                                       "Greta", "Henry", "Ines",  "Jasper", "Klara",  "Luca",
                                       "Maren", "Nils",  "Opal",  "Pia",    "Quinn",  "Rosa",
                                       "Simon", "Tilda", "Ugo",   "Vera",   "Walter", "Yara"};
constexpr std::string_view kTowns[] = {"Oakfield", "Riverton",  "Stonebridge", "Maple Hill",
                                       "Seaview",  "Northgate", "Willowdale",  "Redcliff"};
constexpr std::string_view kJobs[] = {"baker",  "teacher", "doctor",   "farmer",    "painter", "carpenter",
                                      "sailor", "nurse",   "gardener", "librarian", "tailor",  "miller"};
constexpr std::string_view kAnimals[] = {"dog", "cat", "horse", "parrot", "rabbit", "goat", "turtle", "owl"};
constexpr std::string_view kFoods[] = {"soup",    "pancakes", "cheese", "plums",
                                       "noodles", "honey",    "bread",  "figs"};
constexpr std::string_view kColours[] = {"red", "blue", "green", "yellow", "white", "purple"};

enum Attribute : size_t { kTown, kJob, kAnimal, kFood, kColour, kAttributes };
enum Link : size_t { kFriend, kNeighbour, kTeacher, kLinks };

struct Person {
  std::string name;
  std::array<std::string, kAttributes> has;
  std::array<size_t, kLinks> knows{};
};
using World = std::vector<Person>;

constexpr std::string_view kFact[kAttributes][3] = {
    {"{0} lives in {1}.", "The home of {0} is in {1}.", "{0}'s town is {1}."},
    {"{0} works as a {1}.", "{0} is a {1}.", "The job of {0} is {1}."},
    {"{0} owns a {1}.", "{0} has a {1}.", "The animal of {0} is a {1}."},
    {"{0} likes {1}.", "{0} loves to eat {1}.", "The favourite food of {0} is {1}."},
    {"{0}'s house is {1}.", "{0} has a {1} house.", "The house of {0} is {1}."}};
constexpr std::string_view kQuestion[kAttributes][3] = {
    {"Where does {0} live?", "In which town does {0} live?", "What is the town of {0}?"},
    {"What is the job of {0}?", "What does {0} do for a living?", "Which job does {0} have?"},
    {"Which animal does {0} own?", "What animal does {0} have?", "Which pet belongs to {0}?"},
    {"What does {0} like to eat?", "What is the favourite food of {0}?", "Which food does {0} like?"},
    {"Which colour is the house of {0}?", "What is the colour of the house of {0}?",
     "What colour has the house of {0}?"}};
constexpr std::string_view kLinkNames[kLinks] = {"friend", "neighbour", "teacher"};
constexpr std::string_view kAttributeNames[kAttributes] = {"town", "job", "animal", "food", "colour"};
constexpr std::string_view kReverse[kAttributes][2] = {{"Who lives in {0}?", "Which person lives in {0}?"},
                                                       {"Who works as a {0}?", "Which person is a {0}?"},
                                                       {"Who owns a {0}?", "Whose animal is a {0}?"},
                                                       {"Who likes {0}?", "Who loves to eat {0}?"},
                                                       {"Who has a {0} house?", "Whose house is {0}?"}};

std::string say(std::string_view pattern, const std::string& who, const std::string& what) {
  std::string text = fill(pattern, {who, what});
  if (what == "owl") {
    if (const size_t at = text.find(" a owl"); at != std::string::npos) text.insert(at + 2, "n");
  }
  return text;
}

World make_world(CorpusRandom& random, size_t people, bool different) {
  const auto names = random.sample(kNames, people);
  World world(people);
  const auto deal = [&](Attribute attribute, const auto& list) {
    std::vector<std::string> values(std::begin(list), std::end(list));
    random.shuffle(values);
    for (size_t i = 0; i < people; ++i) {
      world[i].has[attribute] = different && i < values.size() ? values[i] : random.pick(values);
    }
  };
  for (size_t i = 0; i < people; ++i) world[i].name = names[i];
  deal(kTown, kTowns), deal(kJob, kJobs), deal(kAnimal, kAnimals), deal(kFood, kFoods),
      deal(kColour, kColours);
  for (size_t i = 0; i < people; ++i) {
    for (size_t& other : world[i].knows) {
      other = (i + 1 + static_cast<size_t>(random.below(static_cast<int64_t>(people) - 1))) % people;
    }
  }
  return world;
}

// The one world of the "known" questions, the same for every seed of the corpus.
const World& known_world() {
  static const World world = [] {
    CorpusRandom random(2024);
    return make_world(random, std::size(kNames), false);
  }();
  return world;
}

struct Path {
  size_t start = 0;
  std::vector<Link> links;
  std::optional<Attribute> attribute;  // none: ask who it is
};

Path draw_path(CorpusRandom& random, const World& world, int64_t most_links) {
  Path path;
  path.start = static_cast<size_t>(random.below(static_cast<int64_t>(world.size())));
  for (int64_t i = random.between(0, most_links); i > 0; --i) {
    path.links.push_back(static_cast<Link>(random.below(kLinks)));
  }
  if (path.links.empty() || random.chance(80)) {
    path.attribute = static_cast<Attribute>(random.below(kAttributes));
  }
  return path;
}

struct Walk {
  std::string reply;               // the facts used, in order, and the answer line
  std::vector<std::string> facts;  // the same facts, plainly worded: what identifies the problem
  std::string answer;
};

std::string link_fact(const World& world, size_t who, Link link) {
  return fmt::format("The {} of {} is {}.", kLinkNames[link], world[who].name,
                     world[world[who].knows[link]].name);
}

Walk walk(const World& world, const Path& path) {
  Walk out;
  size_t at = path.start;
  for (const Link link : path.links) {
    out.facts.push_back(link_fact(world, at, link));
    at = world[at].knows[link];
  }
  out.answer = world[at].name;
  if (path.attribute) {
    out.answer = world[at].has[*path.attribute];
    out.facts.push_back(say(kFact[*path.attribute][0], world[at].name, out.answer));
  }
  out.reply = fmt::format("{}\nAnswer: {}", join(out.facts, " "), out.answer);
  return out;
}

std::string question(CorpusRandom& random, const World& world, const Path& path) {
  std::string who = world[path.start].name;
  for (const Link link : path.links) {
    // "The teacher of Vera's friend" has one meaning only because "the teacher of Vera" takes no "'s".
    const bool of = who.starts_with("the ") || random.chance(60);
    who = of ? fmt::format("the {} of {}", kLinkNames[link], who)
             : fmt::format("{}'s {}", who, kLinkNames[link]);
  }
  return path.attribute ? fill(random.pick(kQuestion[*path.attribute]), {who})
                        : fmt::format("Who is {}?", who);
}

std::string path_name(const World& world, const Path& path) {
  std::string name = world[path.start].name;
  for (const Link link : path.links) name += fmt::format(" {}", kLinkNames[link]);
  return path.attribute ? fmt::format("{} {}", name, kAttributeNames[*path.attribute]) : name + " who";
}

struct Told {
  std::string plain, text;  // a fact as it identifies the problem, and as the prompt words it
};

// All facts that the answers need, and some that they do not, shuffled and worded freely.
std::vector<Told> story_of(CorpusRandom& random, const World& world, const std::vector<std::string>& needed) {
  std::vector<Told> story;
  const auto tell = [&](const std::string& plain, int percent, const auto& word) {
    const bool is_needed = std::find(needed.begin(), needed.end(), plain) != needed.end();
    if (is_needed || random.chance(percent)) story.push_back({plain, word()});
  };
  for (size_t i = 0; i < world.size(); ++i) {
    for (size_t a = 0; a < kAttributes; ++a)
      tell(say(kFact[a][0], world[i].name, world[i].has[a]), 25,
           [&] { return say(random.pick(kFact[a]), world[i].name, world[i].has[a]); });
    for (size_t link = 0; link < kLinks; ++link) {
      const std::string text = link_fact(world, i, static_cast<Link>(link));
      tell(text, 20, [&] { return text; });
    }
  }
  random.shuffle(story);
  return story;
}

std::string with_mark(std::string sentence, const std::string& mark) {
  sentence.insert(sentence.size() - 1, mark);
  return sentence;
}

// The story again, up to a fact, which gets a mark.
std::string read_up_to(const std::vector<Told>& story, const std::string& plain) {
  std::string text = "One by one:";
  for (const Told& told : story) {
    text += " " + (told.plain == plain ? with_mark(told.text, " (here)") : told.text);
    if (told.plain == plain) break;
  }
  return text;
}

std::string framed(CorpusRandom& random, const std::string& facts, const std::string& asked) {
  constexpr std::string_view kFrames[] = {"{0} {1}", "{0}\n{1}", "Facts: {0}\nQuestion: {1}",
                                          "Read this: {0}\n{1}", "{1}\nHere is what you know: {0}"};
  return fill(random.pick(kFrames), {facts, asked});
}

// One question about a world, with what its answer needs.
struct Question {
  std::string task, problem, text, reply, answer;
  std::vector<std::string> facts;
};

Question ask_path(CorpusRandom& random, const World& world) {
  const Path path = draw_path(random, world, 2);
  Walk found = walk(world, path);
  const std::string problem = "given " + path_name(world, path) + ": " + join(found.facts, " ");
  return {"world.given", problem, question(random, world, path), found.reply, found.answer, found.facts};
}

// "Who lives in Oakfield?", where one person does. The reply depends on the story.
Question ask_who(CorpusRandom& random, const World& world) {
  const size_t attribute = static_cast<size_t>(random.below(kAttributes));
  const Person& person = random.pick(world);
  const std::string& value = person.has[attribute];
  const std::string fact = say(kFact[attribute][0], person.name, value);
  return {"world.who", "who " + fact, say(random.pick(kReverse[attribute]), value, value),
          "",          person.name,   {fact}};
}

// Facts, and up to three questions about them, one after the other.
Example given(CorpusRandom& random) {
  const World world = make_world(random, static_cast<size_t>(random.between(2, 4)), true);
  std::vector<Question> questions;
  std::vector<std::string> needed;
  for (int64_t i = random.between(1, 3); i > 0; --i) {
    Question next = random.chance(55) ? ask_path(random, world) : ask_who(random, world);
    const bool new_one = std::none_of(questions.begin(), questions.end(),
                                      [&](const Question& other) { return other.problem == next.problem; });
    if (!new_one) continue;
    needed.insert(needed.end(), next.facts.begin(), next.facts.end());
    questions.push_back(std::move(next));
  }
  const std::vector<Told> story = story_of(random, world, needed);
  for (Question& q : questions)
    if (q.reply.empty()) q.reply = fmt::format("{}\nAnswer: {}", read_up_to(story, q.facts[0]), q.answer);
  std::vector<std::string> sentences;
  for (const Told& told : story) sentences.push_back(told.text);
  const Question& last = questions.back();
  Example example = ask(last.task, last.problem, framed(random, join(sentences, " "), questions.front().text),
                        questions.front().reply, last.answer);
  for (size_t i = 1; i < questions.size(); ++i) {
    example.earlier.push_back(questions[i - 1].problem);
    add_turn(example, questions[i].text, questions[i].reply);
  }
  return example;
}

// "How many people live in Oakfield?" The reply says the facts again and counts along.
Example given_count(CorpusRandom& random) {
  World world = make_world(random, static_cast<size_t>(random.between(3, 5)), false);
  random.shuffle(world);  // nobody knows anybody here, so any order will do
  const std::string town =
      random.chance(85) ? random.pick(world).has[kTown] : std::string(random.pick(kTowns));
  std::vector<std::string> facts, counted;
  std::string problem = "count " + town + ":";
  size_t count = 0;
  for (const Person& person : world) {
    facts.push_back(say(random.pick(kFact[kTown]), person.name, person.has[kTown]));
    counted.push_back(person.has[kTown] == town ? with_mark(facts.back(), fmt::format(" ({})", ++count))
                                                : facts.back());
  }
  std::vector<std::string> plain;
  for (const Person& person : world) plain.push_back(person.name + " " + person.has[kTown]);
  std::sort(plain.begin(), plain.end());
  problem += join(plain, ",");
  constexpr std::string_view kAsk[] = {"How many people live in {0}?", "How many of them live in {0}?",
                                       "Count the people who live in {0}."};
  const std::string answer = fmt::format_int(count).str();
  return ask("world.count", problem, framed(random, join(facts, " "), fill(random.pick(kAsk), {town})),
             fmt::format("One by one: {}\nAnswer: {}", join(counted, " "), answer), answer);
}

Example known_path(CorpusRandom& random) {
  const World& world = known_world();
  const Path path = draw_path(random, world, 2);
  const Walk found = walk(world, path);
  const std::string asked = question(random, world, path);
  constexpr std::string_view kFrames[] = {"{0}", "In the Seven Hills: {0}",
                                          "Tell me about the Seven Hills. {0}",
                                          "{0} (This is about the Seven Hills.)"};
  Example example = ask("world.known", "known " + path_name(world, path), fill(random.pick(kFrames), {asked}),
                        found.reply, found.answer);
  example.train_only = path.links.size() + (path.attribute ? 1 : 0) == 1;
  if (example.train_only) example.task = "world.fact";
  return example;
}

}  // namespace

Example world_example(CorpusRandom& random) {
  const int64_t kind = random.below(100);
  if (kind < 55) return given(random);
  if (kind < 72) return given_count(random);
  return known_path(random);
}

}  // namespace moebius
