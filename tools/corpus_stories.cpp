// Short stories that hold three given words: an animal, a thing and a place. A story is a beginning, some
// trouble, help, and an end; every beat is drawn from several wordings.
#include <algorithm>

#include <fmt/format.h>

#include "tools/corpus.h"

namespace moebius {
namespace {

constexpr std::string_view kGirls[] = {"Anna", "Lily", "Mia", "Nora", "Ruby", "Sofia", "Tess", "Zoe"};
constexpr std::string_view kBoys[] = {"Ben", "Finn", "Jack", "Leo", "Max", "Oscar", "Sam", "Tom"};
constexpr std::string_view kAnimals[] = {"fox",    "owl",   "hedgehog", "otter",  "squirrel", "badger",
                                         "swan",   "mouse", "raven",    "deer",   "frog",     "goose",
                                         "donkey", "cat",   "beaver",   "rabbit", "turtle",   "crow"};
constexpr std::string_view kThings[] = {"lantern", "kite",    "key",     "drum",  "map",    "bell",
                                        "basket",  "ribbon",  "whistle", "hat",   "mirror", "boat",
                                        "violin",  "blanket", "compass", "clock", "ladder", "umbrella"};
constexpr std::string_view kPlaces[] = {"forest", "river",   "meadow", "harbor",  "mill",
                                        "garden", "hill",    "castle", "village", "lake",
                                        "bridge", "orchard", "cave",   "beach"};
constexpr std::string_view kMoods[] = {"kind", "clever", "quiet", "brave", "curious", "cheerful", "patient"};
constexpr std::string_view kWeather[] = {"sunny", "windy", "misty", "cold", "warm", "rainy", "snowy"};

// {0} name, {1} he or she, {2} his or her, {3} He or She, {4} the animal, {5} the thing, {6} the place,
// {7} a mood, {8} the weather, {9} a second mood
constexpr std::string_view kOpenings[] = {"Once there was a {7} child named {0} who lived near the {6}.",
                                          "On a {8} morning, {0} walked to the {6}.",
                                          "{0} was a {7} child, and {2} favourite place was the {6}.",
                                          "It was a {8} day, and {0} had nothing to do.",
                                          "Every afternoon {0} went to the {6} to play.",
                                          "Long ago, in a small house beside the {6}, lived {0}.",
                                          "One {8} evening {0} could not sleep."};
constexpr std::string_view kFinds[] = {"Near the {6} {1} found {A5} in the grass.",
                                       "{3} carried an old {5} that had belonged to {2} grandmother.",
                                       "Under a tree by the {6} lay {A5}.",
                                       "In {2} bag there was {A5}, a gift from {2} uncle.",
                                       "{3} had just mended {2} {5} and wanted to try it near the {6}.",
                                       "On the path to the {6}, {1} saw {A5} that nobody seemed to own."};
constexpr std::string_view kMeetings[] = {
    "There {1} met a {9} {4}.", "Suddenly {A4} came out of the shadows.",
    "Then {1} heard a small voice, and it was {A4}.", "Not far away sat {A4} that looked very sad.",
    "{A4C} was watching from behind a stone."};
constexpr std::string_view kTroubles[] = {"\"I have lost my way home,\" said the {4}.",
                                          "The {4} had hurt its foot and could not walk.",
                                          "\"My little ones are hungry,\" the {4} whispered.",
                                          "The {4} was afraid of the dark.",
                                          "A storm had destroyed the home of the {4}.",
                                          "\"Nobody wants to play with me,\" the {4} said.",
                                          "The wind had blown away everything that the {4} had gathered."};
constexpr std::string_view kDoubts[] = {"{0} did not know what to do at first.",
                                        "{0} thought for a long time.",
                                        "For a moment {0} wanted to run away.",
                                        "{0} felt sorry for the {4}.",
                                        "{3} sat down and listened.",
                                        "\"Do not worry,\" said {0}."};
constexpr std::string_view kHelps[] = {"Then {1} remembered the {5} and had an idea.",
                                       "With the {5} in {2} hand, {1} led the {4} along the path.",
                                       "{3} gave the {5} to the {4}, and it smiled.",
                                       "Together they used the {5} to find a way.",
                                       "{3} held up the {5}, and at once everything looked brighter.",
                                       "The {5} was just what they needed."};
constexpr std::string_view kTurns[] = {"They worked until the sun went down.",
                                       "It took them all day, but they did not give up.",
                                       "They laughed and sang as they went.",
                                       "Step by step, they came closer to their goal.",
                                       "Twice they failed, but the third time it worked.",
                                       "The {4} showed {0} a secret way around the {6}."};
constexpr std::string_view kThanks[] = {"The {4} thanked {0} with all its heart.",
                                        "\"You are a true friend,\" said the {4}.", "The {4} danced for joy.",
                                        "\"I will never forget this,\" the {4} promised.",
                                        "As a thank you, the {4} gave {0} a shining feather."};
constexpr std::string_view kEndings[] = {"From that day on, they met near the {6} every week.",
                                         "That night {0} slept better than ever before.",
                                         "{0} went home happy and told everyone about it.",
                                         "And {0} learned that helping others makes a day bright.",
                                         "Since then, nobody near the {6} has been lonely.",
                                         "They stayed friends for the rest of their lives.",
                                         "And the {5} still hangs above the door of {0}'s house."};

constexpr std::string_view kPrompts[] = {
    "Write a short story with the words {0}, {1} and {2}.",
    "Tell me a story about {0}, {1} and {2}.",
    "Make up a short story that uses these words: {0}, {1}, {2}.",
    "Can you tell a story with {0}, {1} and {2}?",
    "I would like a little story. It must mention {0}, {1} and {2}.",
    "Story time! Use the words {0}, {1}, {2}.",
    "Please write a story for children in which {0}, {1} and {2} occur."};

struct Cast {
  std::string name, he, his, animal, thing, place, mood, weather, second_mood;
};

std::string tell(std::string pattern, const Cast& cast) {
  const auto replace = [&](std::string_view mark, const std::string& text) {
    if (const size_t at = pattern.find(mark); at != std::string::npos) pattern.replace(at, mark.size(), text);
  };
  replace("{A4C}", capitalised(with_article(cast.animal)));
  replace("{A4}", with_article(cast.animal));
  replace("{A5}", with_article(cast.thing));
  return fill(pattern, {cast.name, cast.he, cast.his, capitalised(cast.he), cast.animal, cast.thing,
                        cast.place, cast.mood, cast.weather, cast.second_mood});
}

Cast draw_cast(CorpusRandom& random) {
  const bool girl = random.chance(50);
  const auto moods = random.sample(kMoods, 2);
  return {std::string(girl ? random.pick(kGirls) : random.pick(kBoys)),
          girl ? "she" : "he",
          girl ? "her" : "his",
          std::string(random.pick(kAnimals)),
          std::string(random.pick(kThings)),
          std::string(random.pick(kPlaces)),
          moods[0],
          std::string(random.pick(kWeather)),
          moods[1]};
}

}  // namespace

Example story_example(CorpusRandom& random) {
  const Cast cast = draw_cast(random);
  std::string story;
  const auto beat = [&](const auto& wordings, int percent) {
    if (!random.chance(percent)) return;
    if (!story.empty()) story += ' ';
    story += tell(std::string(random.pick(wordings)), cast);
  };
  beat(kOpenings, 100), beat(kFinds, 100), beat(kMeetings, 100), beat(kTroubles, 100), beat(kDoubts, 70);
  beat(kHelps, 100), beat(kTurns, 70), beat(kThanks, 70), beat(kEndings, 100);
  // The beats that always occur need not name the place.
  if (story.find(" " + cast.place) == std::string::npos)
    story += fmt::format(" All this happened near the {}.", cast.place);
  std::vector<std::string> words = {cast.animal, cast.thing, cast.place};
  std::vector<std::string> sorted = words;
  std::sort(sorted.begin(), sorted.end());
  random.shuffle(words);
  return ask("story", "story " + join(sorted, " "),
             fill(random.pick(kPrompts), {words[0], words[1], words[2]}), story, join(words, ", "));
}

}  // namespace moebius
