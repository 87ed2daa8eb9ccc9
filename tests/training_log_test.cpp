// The log of a training run, above all across crashes and resumed runs, and its picture: well-formed, bounded
// in size, and with every point where the axes' own labels say it is.
#include "engine/train/training_log.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <map>
#include <random>
#include <regex>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "engine/train/loss_plot.h"

namespace moebius {
namespace {

namespace fs = std::filesystem;
using Rows = std::vector<TrainingRow>;

const std::string kHeader =
    "step,tokens,seconds,loss,lr,grad_norm,tokens_per_s,eval_loss,expert_load,max_logit,accuracy,eval_"
    "accuracy,zero_rate\n";
// Of logs that were begun before accuracies were measured.
const std::string kShortHeader =
    "step,tokens,seconds,loss,lr,grad_norm,tokens_per_s,eval_loss,expert_load,max_logit\n";

TrainingRow row(int64_t step, double loss, double eval_loss = kNotMeasured) {
  TrainingRow out;
  out.step = step, out.tokens = step * 1000, out.seconds = static_cast<double>(step) / 4;
  out.loss = loss, out.lr = 0.001, out.eval_loss = eval_loss;
  return out;
}

class TrainingLogTest : public testing::Test {
 protected:
  TrainingLogTest() {
    std::string pattern = fs::temp_directory_path() / "moebius_log_XXXXXX";
    scratch_ = mkdtemp(pattern.data());
    path_ = scratch_ / "log.csv";
  }
  ~TrainingLogTest() override { fs::remove_all(scratch_); }

  std::string text() const {
    std::ifstream in(path_, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  void write(const std::string& content) const { std::ofstream(path_, std::ios::binary) << content; }
  std::unique_ptr<TrainingLog> open(int64_t after) const {
    auto log = TrainingLog::open(path_, after);
    EXPECT_TRUE(log.ok()) << log.status().message();
    return log.ok() ? std::move(*log) : nullptr;
  }

  fs::path scratch_;
  std::string path_;
};

TEST_F(TrainingLogTest, WritesARowAtOnce) {
  const auto log = open(0);
  ASSERT_NE(log, nullptr);
  EXPECT_EQ(text(), kHeader);
  TrainingRow all{1, 16384, 1.25, 9.0125, 0.0005, 12.5, 13107.2, 8.5, 1.75, 30, 0.5, 0.25, 0.75};
  ASSERT_TRUE(log->append(all).ok());
  EXPECT_EQ(text(), kHeader + "1,16384,1.25,9.0125,0.0005,12.5,13107.2,8.5,1.75,30,0.5,0.25,0.75\n")
      << "while it is open";
  ASSERT_TRUE(log->append(row(2, 4.5)).ok());
  EXPECT_EQ(text(), kHeader +
                        "1,16384,1.25,9.0125,0.0005,12.5,13107.2,8.5,1.75,30,0.5,0.25,0.75\n2,2000,0.5,4.5,0."
                        "001,,,,,,,,\n");
  EXPECT_EQ(log->rows().size(), 2u);
}

TEST_F(TrainingLogTest, ReadsWhatItWrote) {
  {
    const auto log = open(0);
    ASSERT_TRUE(log->append({7, int64_t{1} << 40, 1e6, 0.125, 3e-5, 1e-9, 8192, kNotMeasured, 2, -1,
                             kNotMeasured, kNotMeasured, 0.25})
                    .ok());
    ASSERT_TRUE(log->append(row(9, INFINITY, 2.5)).ok());
  }
  const auto rows = read_training_log(path_);
  ASSERT_TRUE(rows.ok()) << rows.status().message();
  ASSERT_EQ(rows->size(), 2u);
  const TrainingRow& first = (*rows)[0];
  EXPECT_EQ(first.step, 7);
  EXPECT_EQ(first.tokens, int64_t{1} << 40);
  EXPECT_EQ(first.seconds, 1e6);
  EXPECT_EQ(first.loss, 0.125);
  EXPECT_EQ(first.lr, 3e-5);
  EXPECT_EQ(first.grad_norm, 1e-9);
  EXPECT_EQ(first.tokens_per_s, 8192);
  EXPECT_TRUE(std::isnan(first.eval_loss));
  EXPECT_EQ(first.expert_load, 2);
  EXPECT_EQ(first.max_logit, -1);
  EXPECT_EQ(first.zero_rate, 0.25);
  EXPECT_EQ((*rows)[1].loss, INFINITY);
  EXPECT_EQ((*rows)[1].eval_loss, 2.5);
}

TEST_F(TrainingLogTest, ResumedRunLeavesTheLogOfAnUninterruptedOne) {
  {
    const auto log = open(0);
    for (int64_t step = 1; step <= 20; ++step)
      ASSERT_TRUE(log->append(row(step, 1. / static_cast<double>(step))).ok());
  }
  const std::string whole = text();
  for (const std::string& torn : {std::string(), std::string("21,21000,5.25,0.0"), std::string("2")}) {
    write(whole + torn);
    const auto log = open(12);
    ASSERT_NE(log, nullptr);
    ASSERT_EQ(log->rows().size(), 12u);
    EXPECT_EQ(log->rows().back().step, 12);
    for (int64_t step = 13; step <= 20; ++step)
      ASSERT_TRUE(log->append(row(step, 1. / static_cast<double>(step))).ok());
    EXPECT_EQ(text(), whole);
  }
  ASSERT_NE(open(100), nullptr);
  EXPECT_EQ(text(), whole) << "nothing lies beyond";
  ASSERT_NE(open(0), nullptr);
  EXPECT_EQ(text(), kHeader) << "a run from the beginning";
}

// Whoever watches a run gets each row once, however the reading falls between the writing.
TEST_F(TrainingLogTest, NewRowsAreReadOnce) {
  const auto log = open(0);
  int64_t offset = 0;
  std::vector<int64_t> seen;
  const auto look = [&] {
    const auto rows = read_new_rows(path_, offset);
    ASSERT_TRUE(rows.ok()) << rows.status().message();
    for (const TrainingRow& each : *rows) seen.push_back(each.step);
  };
  look();
  for (int64_t step = 1; step <= 500; ++step) {
    ASSERT_TRUE(log->append(row(step, 1.0)).ok());
    if (step % 7 == 0 || step > 495) look();
  }
  std::ofstream(path_, std::ios::app) << "501,1000,0.2";
  look();
  std::ofstream(path_, std::ios::app) << "5,4.5,0.001,,,,,,,,\n";
  look();
  ASSERT_EQ(seen.size(), 501u);
  for (size_t i = 0; i < seen.size(); ++i) EXPECT_EQ(seen[i], static_cast<int64_t>(i) + 1);
  EXPECT_FALSE(read_new_rows(path_ + "x", offset).ok());
}

TEST_F(TrainingLogTest, GoesOnWithALogOfFewerColumns) {
  write(kShortHeader + "1,1000,0.25,4.5,0.001,,,,,3\n");
  const auto log = open(1);
  ASSERT_NE(log, nullptr);
  EXPECT_EQ(text(), kHeader + "1,1000,0.25,4.5,0.001,,,,,3,,,\n");
}

TEST_F(TrainingLogTest, TornHeaderIsBegunAnew) {
  for (const std::string& torn : {std::string(), std::string("step,tok")}) {
    write(torn);
    const auto log = open(0);
    ASSERT_NE(log, nullptr);
    EXPECT_EQ(text(), kHeader);
  }
}

TEST_F(TrainingLogTest, LeavesOtherFilesAlone) {
  const std::map<std::string, std::string> others = {
      {"notes\n", "is not a training log"},
      {"notes", "is not a training log"},
      {"step,tokens,loss\n1,2,3\n", "is not a training log"},
      {kHeader + "1,2,3\n", "line 2"},
      {kHeader + "1,2,3,4,5,6,7,8,9,10\n", "line 2"},
      {kHeader + "1,2,3,4,5,6,7,8,9,10,11,12,13,14\n", "line 2"},
      {kHeader + "1,2,3,4,5,6,7,8,9,10,11,12,13\nx,2,3,4,5,6,7,8,9,10,11,12,13\n", "line 3"},
      {kHeader + "1,2,3,4x,5,6,7,8,9,10,11,12,13\n", "line 2"},
      {kHeader + ",2,3,4,5,6,7,8,9,10,11,12,13\n", "line 2"},
      {kHeader + "99999999999999999999,2,3,4,5,6,7,8,9,10,11,12,13\n", "line 2"},
      {kShortHeader + "1,2,3,4,5,6,7,8,9,10,11\n", "line 2"},
      {kHeader + "\n", "line 2"}};
  for (const auto& [content, message] : others) {
    write(content);
    const auto log = TrainingLog::open(path_, 5);
    ASSERT_FALSE(log.ok()) << content;
    EXPECT_EQ(log.status().code(), Code::kInvalid);
    EXPECT_NE(log.status().message().find(message), std::string::npos) << log.status().message();
    EXPECT_EQ(text(), content);
  }
  EXPECT_EQ(TrainingLog::open(scratch_, 0).status().code(), Code::kIo);
  EXPECT_EQ(TrainingLog::open(scratch_ / "none/log.csv", 0).status().code(), Code::kNotFound);
  EXPECT_EQ(read_training_log(scratch_ / "none.csv").status().code(), Code::kNotFound);
}

TEST_F(TrainingLogTest, StepsAscend) {
  const auto log = open(0);
  ASSERT_TRUE(log->append(row(5, 1)).ok());
  EXPECT_DEATH((void)log->append(row(5, 1)), "ascend");
}

// --- the picture

// Elements are closed in order, attributes are quoted, text holds no bare markup.
void expect_well_formed(const std::string& xml) {
  std::vector<std::string> open;
  const std::regex tag("^(/?)([a-zA-Z]+)((?: [a-zA-Z0-9-]+=\"[^\"<&]*\")*)(/?)$");
  for (size_t at = 0; at < xml.size();) {
    if (xml[at] != '<') {
      EXPECT_NE(xml[at], '>');
      EXPECT_FALSE(static_cast<unsigned char>(xml[at]) < ' ' && xml[at] != '\n');
      if (xml[at] == '&') {
        EXPECT_TRUE(std::regex_search(xml.substr(at, 6), std::regex("^&(amp|lt|gt);")));
      }
      ++at;
      continue;
    }
    const size_t end = xml.find('>', at);
    ASSERT_NE(end, std::string::npos);
    const std::string inside = xml.substr(at + 1, end - at - 1);
    const size_t attribute = inside.find(" points=\"");  // long: beyond what std::regex can recurse into
    const std::string head = attribute == std::string::npos ? inside : inside.substr(0, attribute) + "/";
    std::smatch match;
    ASSERT_TRUE(std::regex_match(head, match, tag)) << head;
    if (match[1] == "/") {
      ASSERT_FALSE(open.empty());
      EXPECT_EQ(open.back(), match[2]);
      open.pop_back();
    } else if (match[4] != "/") {
      open.push_back(match[2]);
    }
    at = end + 1;
  }
  EXPECT_TRUE(open.empty());
}

std::vector<std::pair<double, double>> polyline(const std::string& svg, const std::string& kind) {
  std::vector<std::pair<double, double>> points;
  const size_t from = svg.find("<polyline class=\"" + kind + "\"");
  if (from == std::string::npos) return points;
  const size_t begin = svg.find("points=\"", from) + 8;
  std::istringstream in(svg.substr(begin, svg.find('"', begin) - begin));
  char comma = 0;
  for (double x = 0, y = 0; in >> x >> comma >> y;) points.emplace_back(x, y);
  return points;
}

// Labels beside the axis of losses, and their heights in pixels.
std::map<double, double> loss_labels(const std::string& svg) {
  std::map<double, double> labels;
  const std::regex label("y=\"([0-9.]+)\" class=\"note\" text-anchor=\"end\">([0-9.e+-]+)<");
  for (std::sregex_iterator it(svg.begin(), svg.end(), label), end; it != end; ++it) {
    labels[std::stod((*it)[2])] = std::stod((*it)[1]) - 4;  // text stands 4 below its middle
  }
  return labels;
}

TEST(LossPlot, PointsStandWhereTheLabelsSay) {
  Rows rows;
  for (int64_t step = 1; step <= 5; ++step) rows.push_back(row(step, 3 - 0.25 * static_cast<double>(step)));
  const std::string svg = loss_plot(rows, "linear");
  expect_well_formed(svg);
  const auto labels = loss_labels(svg);
  ASSERT_GE(labels.size(), 3u);
  EXPECT_EQ(svg.find("logarithmic"), std::string::npos);
  const auto [low, low_y] = *labels.begin();
  const auto [high, high_y] = *labels.rbegin();
  const auto line = polyline(svg, "all");
  ASSERT_EQ(line.size(), rows.size());
  for (size_t i = 0; i < rows.size(); ++i) {
    EXPECT_NEAR(line[i].second, low_y + (rows[i].loss - low) / (high - low) * (high_y - low_y), 0.3);
  }
  EXPECT_NEAR(line[1].first - line[0].first, line[4].first - line[3].first, 0.2);
}

TEST(LossPlot, FarFallIsLogarithmic) {
  Rows rows;
  for (int64_t step = 1; step <= 200; ++step) rows.push_back(row(step, 20 * std::pow(0.98, step)));
  const std::string svg = loss_plot(rows, "log");
  expect_well_formed(svg);
  EXPECT_NE(svg.find("logarithmic"), std::string::npos);
  const auto labels = loss_labels(svg);
  ASSERT_GE(labels.size(), 3u);
  const auto [low, low_y] = *labels.begin();
  const auto [high, high_y] = *labels.rbegin();
  const auto line = polyline(svg, "all");
  ASSERT_EQ(line.size(), rows.size());
  for (size_t i = 0; i < rows.size(); ++i) {
    const double share = std::log(rows[i].loss / low) / std::log(high / low);
    const double y = low_y + share * (high_y - low_y);
    EXPECT_NEAR(line[i].second, y, 0.3) << i;
  }
}

TEST(LossPlot, SmoothedLineFollowsTheMeanOfANoisyOne) {
  std::mt19937 random(1);
  Rows rows;
  for (int64_t step = 1; step <= 3000; ++step) rows.push_back(row(step, random() % 2 == 0 ? 1 : 2));
  const std::string svg = loss_plot(rows, "noise");
  const auto labels = loss_labels(svg);
  const auto mean = polyline(svg, "mean");
  ASSERT_EQ(labels.count(1.2) + labels.count(1.8), 2u);
  ASSERT_GT(mean.size(), 300u);
  const double unit = (labels.at(1.2) - labels.at(1.8)) / 0.6;  // pixels of a loss of 1
  for (size_t i = mean.size() / 10; i < mean.size(); ++i) {
    EXPECT_NEAR(mean[i].second, labels.at(1.8) + 0.3 * unit, 0.25 * unit);  // of averages of some 50 coins
  }
  const auto all = polyline(svg, "all");
  EXPECT_TRUE(std::is_sorted(all.begin(), all.end(), [](auto a, auto b) { return a.first < b.first; }));
}

TEST(LossPlot, ThinningKeepsTheExtremes) {
  Rows rows;
  for (int64_t step = 1; step <= 100'000; ++step) rows.push_back(row(step, step % 100 == 50 ? 1 : 1.5));
  rows[70'000].loss = 1.9;
  const std::string svg = loss_plot(rows, "spikes");
  const auto line = polyline(svg, "all");
  const auto by_height = [](auto a, auto b) { return a.second < b.second; };
  const auto top = std::min_element(line.begin(), line.end(), by_height);
  EXPECT_NEAR(top->first, 64 + 756 * 0.7, 1.5);
  EXPECT_EQ(std::count_if(line.begin(), line.end(), [&](auto p) { return p.second < top->second + 5; }), 1);
}

TEST(LossPlot, StaysSmall) {
  std::mt19937 random(2);
  Rows rows;
  for (int64_t step = 1; step <= 1'000'000; ++step) {
    const double noise = static_cast<double>(random() % 1000) / 500;
    rows.push_back(row(step, 1 + noise, step % 10 == 0 ? 1 + noise : kNotMeasured));
  }
  const std::string svg = loss_plot(rows, std::string(100'000, '&'));
  expect_well_formed(svg);
  EXPECT_LT(svg.size(), 100'000u);
  EXPECT_EQ(svg.find("<script"), std::string::npos);
  EXPECT_NE(svg.find("prefers-color-scheme:dark"), std::string::npos);
}

TEST(LossPlot, OddRuns) {
  TrainingRow far = row(1, 2);
  far.step = far.tokens = INT64_MAX;
  far.seconds = INFINITY;
  const Rows runs[] = {{},
                       {row(1, 2)},
                       {row(1, 2), row(2, 2)},
                       {row(1, 0), row(2, 0)},
                       {row(5, kNotMeasured, 1.5)},
                       {row(1, NAN), row(2, INFINITY), row(3, -INFINITY)},
                       {row(1, -2), row(2, 3, -4)},
                       {row(1, 1e308), row(2, -1e308)},
                       {row(1, 1e-300), row(2, 1e300)},
                       {row(1, 1e-300), row(2, 2e-300)},
                       {row(-5, 1), far}};
  for (const Rows& rows : runs) {
    const std::string svg = loss_plot(rows, "a <b> & \"c\" \x01\xff\xEF\xBF\xBF");
    expect_well_formed(svg);
    EXPECT_EQ(svg.find("nan"), std::string::npos) << svg;
    EXPECT_EQ(svg.find("inf"), std::string::npos) << svg;
    EXPECT_LT(svg.size(), 20'000u);
  }
}

TEST_F(TrainingLogTest, RatesOfZeroExpertsHaveAPictureOfTheirOwn) {
  Rows rows = {row(1, 3), row(2, 2)};
  rows[0].zero_rate = 0.25, rows[1].zero_rate = 0.5;
  const std::string svg = zero_rate_plot(rows, "a run");
  EXPECT_NE(svg.find("share of slots that are zero experts"), std::string::npos);
  EXPECT_NE(svg, loss_plot(rows, "a run"));
}

}  // namespace
}  // namespace moebius
