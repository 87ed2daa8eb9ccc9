// Sorting, reversing and counting: lists of words or numbers, and the letters of words.
#include <algorithm>
#include <set>

#include <fmt/format.h>

#include "tools/corpus.h"

namespace moebius {
namespace {

using Items = std::vector<std::string>;

constexpr std::string_view kWords[] = {
    "apple",  "anchor",   "autumn", "banana", "basket",  "bridge",   "butter", "candle", "carpet",  "castle",
    "cherry", "circle",   "copper", "cotton", "desert",  "dinner",   "dragon", "eagle",  "engine",  "feather",
    "finger", "flower",   "forest", "garden", "ginger",  "guitar",   "hammer", "harbor", "hollow",  "honey",
    "island", "ivory",    "jacket", "jungle", "kettle",  "kitten",   "ladder", "lemon",  "letter",  "lizard",
    "marble", "meadow",   "mirror", "monkey", "morning", "mountain", "needle", "number", "ocean",   "orange",
    "paper",  "parrot",   "pencil", "pepper", "pillow",  "planet",   "pocket", "potato", "puzzle",  "quartz",
    "queen",  "rabbit",   "ribbon", "river",  "rocket",  "saddle",   "school", "shadow", "silver",  "spider",
    "spring", "summer",   "sunset", "table",  "temple",  "thunder",  "ticket", "tiger",  "tomato",  "tunnel",
    "turtle", "umbrella", "valley", "velvet", "violin",  "wagon",    "walnut", "water",  "whistle", "window",
    "winter", "wonder",   "yellow", "zebra",  "bottle",  "cabin",    "donkey", "falcon", "goose",   "hazel"};

constexpr std::string_view kSyllables[] = {"ba", "be", "bo", "da", "di", "du", "fa", "fi", "ga", "go",
                                           "ka", "ki", "ko", "la", "le", "lu", "ma", "mi", "mo", "na",
                                           "ne", "nu", "pa", "po", "ra", "ri", "ro", "sa", "si", "so",
                                           "ta", "te", "ti", "to", "va", "vo", "wa", "we", "za", "zo"};

// A word that nobody has seen.
std::string made_up_word(CorpusRandom& random) {
  std::string word;
  for (int64_t i = random.between(2, 3); i > 0; --i) word += random.pick(kSyllables);
  if (random.chance(40)) word += "nrstlm"[random.below(6)];
  return word;
}

// A word for questions about its letters. Which letters stand in a word of the dictionary can be known only
// from training; a made-up one is put together from syllables.
std::string draw_word(CorpusRandom& random, bool* known) {
  *known = random.chance(35);
  return *known ? std::string(random.pick(kWords)) : made_up_word(random);
}

Example about_letters(bool known, Example example) {
  example.train_only = known;
  return example;
}

Items letters(const std::string& word) {
  Items out;
  for (const char c : word) out.emplace_back(1, c);
  return out;
}

std::string times(size_t count) { return count == 1 ? "once" : fmt::format("{} times", count); }

std::string number(size_t value) { return fmt::format_int(value).str(); }

Example spell(CorpusRandom& random) {
  bool known = false;
  const std::string word = draw_word(random, &known);
  constexpr std::string_view kAsk[] = {"Spell {0}.", "Spell the word {0}.", "How do you spell {0}?",
                                       "Write the letters of {0} one by one.", "List the letters of {0}."};
  const std::string answer = join(letters(word), " ");
  return about_letters(known, ask("lists.spell", "spell " + word, fill(random.pick(kAsk), {word}),
                                  "Answer: " + answer, answer));
}

Example reverse_word(CorpusRandom& random) {
  bool known = false;
  const std::string word = draw_word(random, &known);
  constexpr std::string_view kAsk[] = {"Reverse the word {0}.", "Write {0} backwards.",
                                       "What is {0} spelled backwards?",
                                       "Spell {0} from the end to the start."};
  Items items = letters(word);
  std::string steps = fmt::format("The letters are {}.\n", join(items, " "));
  std::reverse(items.begin(), items.end());
  const std::string answer = join(items, " ");
  return about_letters(known, ask("lists.reverse_word", "backwards " + word, fill(random.pick(kAsk), {word}),
                                  steps + "Answer: " + answer, answer));
}

Example word_length(CorpusRandom& random) {
  bool known = false;
  const std::string word = draw_word(random, &known);
  constexpr std::string_view kAsk[] = {"How many letters does {0} have?", "How long is the word {0}?",
                                       "Count the letters in {0}.", "How many letters are there in {0}?"};
  std::string steps;
  for (size_t i = 0; i < word.size(); ++i) {
    steps += fmt::format("{}{} {}", i == 0 ? "" : ", ", i + 1, word[i]);
  }
  const std::string answer = number(word.size());
  return about_letters(known, ask("lists.word_length", "length " + word, fill(random.pick(kAsk), {word}),
                                  fmt::format("{}.\nAnswer: {}", steps, answer), answer));
}

Example count_letter(CorpusRandom& random) {
  bool known = false;
  const std::string word = draw_word(random, &known);
  const char letter = random.chance(80)
                          ? word[static_cast<size_t>(random.below(static_cast<int64_t>(word.size())))]
                          : "aeioulnrst"[random.below(10)];
  constexpr std::string_view kAsk[] = {"How many times does the letter {0} occur in {1}?",
                                       "How often does {0} appear in {1}?", "Count the letter {0} in {1}.",
                                       "How many {0}'s are in {1}?",
                                       "In the word {1}, how many {0} are there?"};
  std::string steps;
  size_t count = 0;
  for (const char c : word) {
    steps += fmt::format("{}{}", steps.empty() ? "" : ", ", c);
    if (c == letter) steps += fmt::format(" ({})", ++count);
  }
  const std::string answer = number(count);
  return about_letters(known, ask("lists.count_letter", fmt::format("count {} {}", letter, word),
                                  fill(random.pick(kAsk), {std::string(1, letter), word}),
                                  fmt::format("{}.\nThe letter {} occurs {}.\nAnswer: {}", steps, letter,
                                              count == 0 ? "not at all" : times(count), answer),
                                  answer));
}

Items draw_items(CorpusRandom& random, bool numbers, int64_t least, int64_t most) {
  const int64_t count = random.between(least, most);
  if (!numbers) return random.sample(kWords, static_cast<size_t>(count));
  Items items;
  const int64_t limit = random.chance(75) ? 99 : 20;
  while (static_cast<int64_t>(items.size()) < count) {
    std::string item = fmt::format_int(random.between(0, limit)).str();
    if (std::find(items.begin(), items.end(), item) == items.end()) items.push_back(std::move(item));
  }
  return items;
}

bool before(const std::string& a, const std::string& b, bool numbers) {
  if (numbers && a.size() != b.size()) return a.size() < b.size();
  return a < b;
}

// Insertion sort, one line an item. A comparison names both items before its outcome, and no item begins a
// line, where its tokens would be others than after a space: so each word of a step follows from what is
// before it.
std::string sort_steps(const Items& items, bool numbers, bool up) {
  const std::string_view less = numbers ? "less" : "earlier", more = numbers ? "more" : "later";
  Items sorted = {items[0]};
  std::string steps = fmt::format("First {}.\n", items[0]);
  for (size_t i = 1; i < items.size(); ++i) {
    Items compared;
    size_t at = 0;
    for (bool passed = true; passed && at < sorted.size(); at += passed ? 1 : 0) {
      const bool is_less = before(sorted[at], items[i], numbers);
      compared.push_back(fmt::format("{} {}", sorted[at], is_less ? less : more));
      passed = is_less == up;
    }
    sorted.insert(sorted.begin() + static_cast<std::ptrdiff_t>(at), items[i]);
    steps += fmt::format("Next {}: {}. So {}.\n", items[i], join(compared, ", "), join(sorted, ", "));
  }
  return steps;
}

bool initials_differ(const Items& items) {
  std::set<char> initials;
  for (const std::string& item : items) initials.insert(item[0]);
  return initials.size() == items.size();
}

// Words differ in their first letter, which is all that a small model knows of their order.
Example sort_items(CorpusRandom& random) {
  const bool numbers = random.chance(50), up = random.chance(65);
  Items items = draw_items(random, numbers, 3, 4);
  while (!numbers && !initials_differ(items)) items = draw_items(random, numbers, 3, 4);
  constexpr std::string_view kUpNumbers[] = {"Sort these numbers: {0}.", "Put {0} in ascending order.",
                                             "Order {0} from smallest to largest.",
                                             "Sort from low to high: {0}."};
  constexpr std::string_view kDownNumbers[] = {"Sort these numbers in descending order: {0}.",
                                               "Order {0} from largest to smallest.",
                                               "Sort from high to low: {0}."};
  constexpr std::string_view kUpWords[] = {"Sort these words: {0}.", "Put {0} in alphabetical order.",
                                           "Sort the list {0} from A to Z.", "Order alphabetically: {0}."};
  constexpr std::string_view kDownWords[] = {"Sort these words from Z to A: {0}.",
                                             "Put {0} in reverse alphabetical order."};
  const std::string list = join(items, ", ");
  const std::string question =
      numbers ? (up ? fill(random.pick(kUpNumbers), {list}) : fill(random.pick(kDownNumbers), {list}))
              : (up ? fill(random.pick(kUpWords), {list}) : fill(random.pick(kDownWords), {list}));
  const std::string steps = sort_steps(items, numbers, up);
  std::sort(items.begin(), items.end(), [&](const auto& a, const auto& b) { return before(a, b, numbers); });
  const std::string problem = "sort " + join(items, " ");  // any order of the items, in any direction
  if (!up) std::reverse(items.begin(), items.end());
  const std::string answer = join(items, ", ");
  return ask(numbers ? "lists.sort_numbers" : "lists.sort_words", problem, question,
             steps + "Answer: " + answer, answer);
}

Example reverse_list(CorpusRandom& random) {
  Items items = draw_items(random, random.chance(50), 3, 5);
  constexpr std::string_view kAsk[] = {"Reverse the list {0}.", "Write this list backwards: {0}.",
                                       "Reverse the order of these items: {0}.", "Turn around the list {0}."};
  const std::string list = join(items, ", ");
  std::reverse(items.begin(), items.end());
  const std::string answer = join(items, ", ");
  return ask("lists.reverse_list", "reverse " + list, fill(random.pick(kAsk), {list}), "Answer: " + answer,
             answer);
}

Example count_items(CorpusRandom& random) {
  const Items items = draw_items(random, random.chance(40), 2, 7);
  constexpr std::string_view kAsk[] = {"How many items are in this list: {0}?", "Count the items: {0}.",
                                       "How long is the list {0}?", "How many entries does {0} have?"};
  const std::string list = join(items, ", ");
  std::string steps;
  for (size_t i = 0; i < items.size(); ++i) steps += fmt::format("{}. {}\n", i + 1, items[i]);
  const std::string answer = number(items.size());
  return ask("lists.count_items", "items " + list, fill(random.pick(kAsk), {list}),
             steps + "Answer: " + answer, answer);
}

Example count_word(CorpusRandom& random) {
  const Items kinds = random.sample(kWords, static_cast<size_t>(random.between(2, 4)));
  Items items;
  for (int64_t i = random.between(3, 6); i > 0; --i) items.push_back(random.pick(kinds));
  const std::string& wanted = random.pick(kinds);
  constexpr std::string_view kAsk[] = {"How often does {0} occur in this list: {1}?",
                                       "Count the word {0} in: {1}.",
                                       "How many times do you see {0} in {1}?"};
  std::string steps;
  size_t count = 0;
  for (const std::string& item : items) {
    steps += (steps.empty() ? "" : ", ") + item;
    if (item == wanted) steps += fmt::format(" ({})", ++count);
  }
  const std::string list = join(items, ", "), answer = number(count);
  return ask("lists.count_word", fmt::format("occurs {} in {}", wanted, list),
             fill(random.pick(kAsk), {wanted, list}), fmt::format("{}.\nAnswer: {}", steps, answer), answer);
}

// The item at a place of a list.
Example pick_item(CorpusRandom& random) {
  constexpr std::string_view kOrdinals[] = {"first", "second", "third", "fourth", "fifth"};
  constexpr std::string_view kAsk[] = {"What is the {0} item of {1}?",
                                       "Name the {0} entry of this list: {1}.",
                                       "Which item is {0} in the list {1}?"};
  const Items items = draw_items(random, random.chance(50), 3, 6);
  const size_t most = std::min(items.size(), std::size(kOrdinals));
  const size_t place = static_cast<size_t>(random.below(static_cast<int64_t>(most) + 1));
  const std::string_view which = place == most ? "last" : kOrdinals[place];
  const size_t at = place == most ? items.size() - 1 : place;
  const std::string list = join(items, ", "), &answer = items[at];
  std::string steps;
  for (size_t i = 0; i <= at; ++i) steps += fmt::format("{}. {}\n", i + 1, items[i]);
  return ask("lists.pick", fmt::format("{} of {}", which, list), fill(random.pick(kAsk), {which, list}),
             fmt::format("{}Answer: {}", steps, answer), answer);
}

// The best so far is compared with one number after the other.
Example extreme(CorpusRandom& random) {
  Items items = draw_items(random, true, 3, 5);
  const bool largest = random.chance(50);
  constexpr std::string_view kLargest[] = {"What is the largest of {0}?", "Find the maximum of {0}.",
                                           "Which of these numbers is the greatest: {0}?"};
  constexpr std::string_view kSmallest[] = {"What is the smallest of {0}?", "Find the minimum of {0}.",
                                            "Which of these numbers is the least: {0}?"};
  const std::string list = join(items, ", ");
  std::string question = fill(largest ? random.pick(kLargest) : random.pick(kSmallest), {list});
  std::string answer = items.front(), steps;
  for (size_t i = 1; i < items.size(); ++i) {
    const std::string& better = before(answer, items[i], true) == largest ? items[i] : answer;
    steps += fmt::format("{}{} or {}: {}", i == 1 ? "" : ", ", answer, items[i], better);
    answer = better;
  }
  std::sort(items.begin(), items.end(), [](const auto& a, const auto& b) { return before(a, b, true); });
  return ask("lists.extreme", "extreme " + join(items, " "), std::move(question),
             fmt::format("{}.\nAnswer: {}", steps, answer), answer);
}

}  // namespace

// What every other task on lists stands on: to say again what was said.
Example copy_example(CorpusRandom& random) {
  Items items = draw_items(random, random.chance(40), 3, 12);
  if (random.chance(40))
    for (std::string& item : items) item = made_up_word(random);
  constexpr std::string_view kAsk[] = {"Copy this list: {0}.", "Write the list {0} again.", "Repeat: {0}.",
                                       "Say these in the same order: {0}."};
  const std::string list = join(items, ", ");
  return ask("lists.copy", "copy " + list, fill(random.pick(kAsk), {list}), "Answer: " + list, list);
}

Example list_example(CorpusRandom& random) {
  using Kind = Example (*)(CorpusRandom&);
  constexpr Kind kKinds[] = {sort_items,   spell,        spell,      reverse_word, reverse_word, word_length,
                             count_letter, count_letter, sort_items, sort_items,   reverse_list, count_items,
                             count_word,   count_word,   pick_item,  extreme,      copy_example};
  return random.pick(kKinds)(random);
}

}  // namespace moebius
