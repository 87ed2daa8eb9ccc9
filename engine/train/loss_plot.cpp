#include "engine/train/loss_plot.h"

#include <algorithm>
#include <cmath>
#include <string_view>
#include <vector>

#include <fmt/format.h>

#include "models/tokenizer_text.h"

namespace moebius {
namespace {

constexpr double kWidth = 880, kHeight = 460;
constexpr double kLeft = 64, kRight = 820, kTop = 84, kBottom = 408;  // of the plotting area
constexpr int kColumns = 756;                                         // in which the train line is drawn
constexpr size_t kMaxEvaluations = 300;
constexpr size_t kMaxTitleBytes = 200;
constexpr double kMostLoss = 1e30;  // beyond is no loss, and sums and differences stay finite
constexpr double kLogFrom = 6;      // times the least loss: from here on the axis is logarithmic

// Colours by class: what renders style sheets only in part, such as librsvg, sees the light ones.
constexpr std::string_view kStyle = R"(<style>
text{font-family:system-ui,-apple-system,"Segoe UI","Helvetica Neue",Arial,"DejaVu Sans",sans-serif;font-size:12px}
.page{fill:#ffffff}.head{fill:#1f2328;font-size:16px;font-weight:600}.note{fill:#59636e}
.grid{stroke:#e4e8ec;stroke-width:1}.axis{stroke:#b4bcc4;stroke-width:1}
.all{fill:none;stroke:#93bfea;stroke-width:1;stroke-linejoin:round}
.mean{fill:none;stroke:#1f6fb4;stroke-width:2;stroke-linejoin:round;stroke-linecap:round}
.eval{fill:none;stroke:#d4620c;stroke-width:1;stroke-opacity:.5}
.dot{fill:#d4620c;stroke:#ffffff;stroke-width:1}.one{fill:#1f6fb4}
.lastmean{fill:#1f6fb4;font-weight:600}.lasteval{fill:#d4620c;font-weight:600}
@media (prefers-color-scheme:dark){
.page{fill:#0d1117}.head{fill:#f0f6fc}.note{fill:#9198a1}
.grid{stroke:#212830}.axis{stroke:#4a525c}
.all{stroke:#27507c}.mean{stroke:#58a6ff}.eval{stroke:#f0883e}
.dot{fill:#f0883e;stroke:#0d1117}.one{fill:#58a6ff}.lastmean{fill:#58a6ff}.lasteval{fill:#f0883e}
}
</style>
)";

struct Point {
  double step, loss;
};
using Points = std::vector<Point>;

Points points_of(std::span<const TrainingRow> rows, double TrainingRow::*measure) {
  Points points;
  for (const TrainingRow& row : rows) {
    if (std::abs(row.*measure) < kMostLoss) points.push_back({static_cast<double>(row.step), row.*measure});
  }
  return points;
}

// A moving mean, over fewer points near the beginning, where losses fall steeply.
Points averaged(const Points& points) {
  std::vector<double> sums(points.size() + 1, 0.);
  for (size_t i = 0; i < points.size(); ++i) sums[i + 1] = sums[i] + points[i].loss;
  Points out(points.size());
  for (size_t i = 0; i < points.size(); ++i) {
    const size_t reach = std::min(points.size() / 120 + 2, i / 3);
    const size_t begin = i - reach, end = std::min(i + reach + 1, points.size());
    out[i] = {points[i].step, (sums[end] - sums[begin]) / static_cast<double>(end - begin)};
  }
  return out;
}

// Twice averaged: with weights that fall off to both sides, a spike leaves a hill and not a box.
Points smoothed(const Points& points) { return averaged(averaged(points)); }

// From values to pixels.
struct Axes {
  double first_step, last_step, low, high;
  bool logarithmic;

  double x(double step) const {
    return kLeft + (kRight - kLeft) * (step - first_step) / (last_step - first_step);
  }
  double y(double loss) const {
    const double share = logarithmic ? std::log(std::max(loss, low * 1e-3) / low) / std::log(high / low)
                                     : (loss - low) / (high - low);
    return std::clamp(kBottom - (kBottom - kTop) * share, kTop - 500, kBottom + 500);
  }
};

Axes axes_of(const Points& train, const Points& mean, const Points& evaluations) {
  std::vector<double> losses;  // but for the outermost of the train losses: a spike must not flatten the rest
  for (const Point& point : train) losses.push_back(point.loss);
  std::sort(losses.begin(), losses.end());
  const size_t cut = losses.size() / 400;
  losses = {losses.begin() + static_cast<ptrdiff_t>(cut), losses.end() - static_cast<ptrdiff_t>(cut)};
  for (const Points* points : {&mean, &evaluations}) {
    for (const Point& point : *points) losses.push_back(point.loss);
  }
  const auto [least, most] = std::minmax_element(losses.begin(), losses.end());
  Axes axes{0, 1, *least, *most, *least > 1e-6 && *most / *least >= kLogFrom};
  for (const Points* points : {&train, &evaluations}) {
    if (!points->empty()) axes.last_step = std::max(axes.last_step, points->back().step);
  }
  if (axes.logarithmic) {
    const double margin = std::pow(axes.high / axes.low, 0.04);
    axes.low /= margin, axes.high *= margin;
  } else {
    const double spread = std::max({axes.high - axes.low, std::abs(axes.high) * 1e-3, 1e-9});
    const bool from_zero = axes.low >= 0 && axes.low < spread * 0.04;
    axes.low = from_zero ? 0 : axes.low - spread * 0.04, axes.high += spread * 0.04;
  }
  return axes;
}

// Multiples of 1, 2 or 5 times a power of ten, at most `most` of them.
std::vector<double> even_ticks(double low, double high, int most) {
  const double rough = (high - low) / most;
  const double power = std::pow(10, std::floor(std::log10(rough)));
  double distance = power * 10;
  for (const double factor : {5., 2., 1.}) {
    if (power * factor >= rough) distance = power * factor;
  }
  std::vector<double> ticks;
  // + 0. makes 0 of -0
  for (double i = std::ceil(low / distance - 1e-9) + 0.; i * distance <= high + distance * 1e-9; ++i) {
    ticks.push_back(i * distance);
  }
  return ticks;
}

std::vector<double> log_ticks(double low, double high) {
  constexpr double kFine[] = {1, 1.5, 2, 3, 4, 5, 7}, kMedium[] = {1, 2, 5}, kCoarse[] = {1};
  std::vector<double> ticks;
  for (const std::span<const double> factors : {std::span<const double>(kFine), {kMedium}, {kCoarse}}) {
    ticks.clear();
    for (double power = std::pow(10, std::floor(std::log10(low))); power <= high; power *= 10) {
      for (const double factor : factors) {
        if (power * factor >= low && power * factor <= high) ticks.push_back(power * factor);
      }
    }
    if (ticks.size() <= 12) break;
  }
  return ticks;
}

std::string count_text(double count) {
  if (count >= 1e9) return fmt::format("{:.4g}B", count / 1e9);
  if (count >= 1e6) return fmt::format("{:.4g}M", count / 1e6);
  if (count >= 1e4) return fmt::format("{:.4g}k", count / 1e3);
  return fmt::format("{:.4g}", count);
}

std::string time_text(double seconds) {
  if (!(seconds >= 0 && seconds < 1e9)) return "?";
  const auto whole = static_cast<int64_t>(seconds);
  if (whole < 120) return fmt::format("{} s", whole);
  if (whole < 7200) return fmt::format("{} min", whole / 60);
  return fmt::format("{} h {} min", whole / 3600, whole / 60 % 60);
}

std::string loss_text(double loss) {
  return std::abs(loss) < 0.001 || std::abs(loss) >= 1000 ? fmt::format("{:.2e}", loss)
         : std::abs(loss) < 1                             ? fmt::format("{:.4f}", loss)
                                                          : fmt::format("{:.3f}", loss);
}

// Text as it may stand in XML.
std::string escaped(std::string_view text) {
  std::string storage, out;
  text = text.substr(0, kMaxTitleBytes);
  text.remove_suffix(utf8_incomplete_tail(text));
  for (const char c : utf8_lossy(text, storage)) {
    if (c == '&') {
      out += "&amp;";
    } else if (c == '<') {
      out += "&lt;";
    } else if (c == '>') {
      out += "&gt;";
    } else if (static_cast<unsigned char>(c) < ' ' || c == 0x7f) {
      out += ' ';
    } else {
      out += c;
    }
  }
  // XML allows every character but these two of the Basic Multilingual Plane's end, which print nothing.
  for (const std::string_view refused : {"\xEF\xBF\xBE", "\xEF\xBF\xBF"}) {
    for (size_t at; (at = out.find(refused)) != std::string::npos;) out.replace(at, 3, " ");
  }
  return out;
}

std::string text_at(double x, double y, std::string_view kind, std::string_view anchor,
                    std::string_view text) {
  return fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" class=\"{}\" text-anchor=\"{}\">{}</text>\n", x, y,
                     kind, anchor, text);
}

std::string line_at(double x1, double y1, double x2, double y2, std::string_view kind) {
  return fmt::format("<line x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\" class=\"{}\"/>\n", x1, y1,
                     x2, y2, kind);
}

std::string polyline(const Points& points, const Axes& axes, std::string_view kind) {
  std::string out = fmt::format("<polyline class=\"{}\" points=\"", kind);
  for (const Point& point : points)
    out += fmt::format("{:.1f},{:.1f} ", axes.x(point.step), axes.y(point.loss));
  if (!points.empty()) out.pop_back();
  return out + "\"/>\n";
}

// What is drawn of a line: all of its points if they are few; else each column's least and greatest value in
// their order, or only its last point.
Points thinned(const Points& points, const Axes& axes, bool extremes) {
  if (points.size() <= kColumns) return points;
  Points out;
  for (size_t at = 0; at < points.size();) {
    const auto column = static_cast<int>(axes.x(points[at].step));
    size_t least = at, most = at, end = at;
    for (; end < points.size() && static_cast<int>(axes.x(points[end].step)) == column; ++end) {
      if (points[end].loss < points[least].loss) least = end;
      if (points[end].loss > points[most].loss) most = end;
    }
    if (extremes) {
      out.push_back(points[std::min(least, most)]);
      if (least != most) out.push_back(points[std::max(least, most)]);
    } else {
      out.push_back(points[end - 1]);
    }
    at = end;
  }
  return out;
}

Points thinned_evaluations(const Points& points) {
  const size_t stride = points.size() / kMaxEvaluations + 1;
  Points out;
  for (size_t i = 0; i < points.size(); ++i) {
    if ((points.size() - 1 - i) % stride == 0) out.push_back(points[i]);
  }
  return out;
}

std::string frame(const Axes& axes, std::string_view what) {
  std::string out;
  const auto losses = axes.logarithmic ? log_ticks(axes.low, axes.high) : even_ticks(axes.low, axes.high, 8);
  for (const double loss : losses) {
    out += line_at(kLeft, axes.y(loss), kRight, axes.y(loss), "grid");
    out += text_at(kLeft - 8, axes.y(loss) + 4, "note", "end", fmt::format("{:.4g}", loss));
  }
  for (const double step : even_ticks(axes.first_step, axes.last_step, 10)) {
    if (step != std::floor(step)) continue;
    out += line_at(axes.x(step), kTop, axes.x(step), kBottom, "grid");
    out += text_at(axes.x(step), kBottom + 18, "note", "middle", count_text(step));
  }
  out += line_at(kLeft, kBottom, kRight, kBottom, "axis");
  out += text_at((kLeft + kRight) / 2, kBottom + 40, "note", "middle", "step");
  const double middle = (kTop + kBottom) / 2;
  out += fmt::format(
      "<text transform=\"translate(18 {:.1f}) rotate(-90)\" class=\"note\" "
      "text-anchor=\"middle\">{}{}</text>\n",
      middle, what, axes.logarithmic ? " (logarithmic)" : "");
  return out;
}

std::string legend(bool has_train, bool has_evaluations) {
  std::string out;
  double x = kRight;
  if (has_evaluations) {
    out += text_at(x, 62, "note", "end", "evaluation");
    x -= 72;
    out += line_at(x - 18, 58, x - 2, 58, "eval");
    out += fmt::format("<circle cx=\"{:.1f}\" cy=\"58\" r=\"3.5\" class=\"dot\"/>\n", x - 10);
    x -= 34;
  }
  if (has_train) {
    out += text_at(x, 62, "note", "end", "train, smoothed");
    x -= 104;
    out += line_at(x - 18, 58, x - 2, 58, "mean");
    x -= 34;
    out += text_at(x, 62, "note", "end", "train");
    x -= 36;
    out += line_at(x - 18, 58, x - 2, 58, "all");
  }
  return out;
}

// The last values beside the ends of their lines, apart from each other.
std::string last_values(const Points& mean, const Points& evaluations, const Axes& axes) {
  const bool both = !mean.empty() && !evaluations.empty();
  double mean_y = mean.empty() ? 0 : axes.y(mean.back().loss);
  double eval_y = evaluations.empty() ? 0 : axes.y(evaluations.back().loss);
  if (both && std::abs(mean_y - eval_y) < 14) {
    const double middle = (mean_y + eval_y) / 2, side = mean_y <= eval_y ? 7 : -7;
    mean_y = middle - side, eval_y = middle + side;
  }
  std::string out;
  if (!mean.empty()) out += text_at(kRight + 8, mean_y + 4, "lastmean", "start", loss_text(mean.back().loss));
  if (!evaluations.empty()) {
    out += text_at(kRight + 8, eval_y + 4, "lasteval", "start", loss_text(evaluations.back().loss));
  }
  return out;
}

std::string summary(std::span<const TrainingRow> rows) {
  if (rows.empty()) return "no steps yet";
  const TrainingRow& last = rows.back();
  return fmt::format("{} {}, {} tokens, {}", last.step, last.step == 1 ? "step" : "steps",
                     count_text(static_cast<double>(last.tokens)), time_text(last.seconds));
}

std::string curves(const Points& train, const Points& mean, const Points& evaluations, const Axes& axes) {
  std::string out = fmt::format(
      "<clipPath id=\"area\"><rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" "
      "height=\"{:.1f}\"/></clipPath>\n"
      "<g clip-path=\"url(#area)\">\n",
      kLeft, kTop, kRight - kLeft + 1, kBottom - kTop);
  out += polyline(thinned(train, axes, true), axes, "all");
  out += polyline(thinned(mean, axes, false), axes, "mean") + "</g>\n";
  if (mean.size() == 1) {
    out += fmt::format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"3.5\" class=\"one\"/>\n",
                       axes.x(mean[0].step), axes.y(mean[0].loss));
  }
  const Points dots = thinned_evaluations(evaluations);
  out += polyline(dots, axes, "eval");
  for (const Point& dot : dots) {
    out += fmt::format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"{}\" class=\"dot\"/>\n", axes.x(dot.step),
                       axes.y(dot.loss), dots.size() > 60 ? 2.5 : 4.0);
  }
  return out;
}

std::string picture(std::span<const TrainingRow> rows, const std::string& title, std::string_view what,
                    const Points& train, const Points& evaluations) {
  const Points mean = smoothed(train);
  const std::string head = escaped(title), note = escaped(summary(rows));
  std::string out = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0} {1}\" width=\"{0}\" height=\"{1}\" "
      "role=\"img\">\n<title>{2}</title>\n<desc>{3}</desc>\n{4}<rect width=\"{0}\" height=\"{1}\" "
      "class=\"page\"/>\n",
      kWidth, kHeight, head, note, kStyle);
  out += text_at(kLeft, 34, "head", "start", head) + text_at(kLeft, 62, "note", "start", note);
  if (!train.empty() || !evaluations.empty()) {
    const Axes axes = axes_of(train, mean, evaluations);
    out += legend(!train.empty(), !evaluations.empty()) + frame(axes, what) +
           curves(train, mean, evaluations, axes) + last_values(mean, evaluations, axes);
  }
  return out + "</svg>\n";
}

}  // namespace

std::string loss_plot(std::span<const TrainingRow> rows, const std::string& title) {
  return picture(rows, title, "loss", points_of(rows, &TrainingRow::loss),
                 points_of(rows, &TrainingRow::eval_loss));
}

std::string zero_rate_plot(std::span<const TrainingRow> rows, const std::string& title) {
  return picture(rows, title, "share of slots that are zero experts",
                 points_of(rows, &TrainingRow::zero_rate), {});
}

}  // namespace moebius
