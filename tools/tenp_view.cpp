#include "tools/tenp_view.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include <fmt/format.h>

#include "tools/text_io.h"

namespace moebius {
namespace {

constexpr double kLeft = 64, kWide = 720, kTop = 76, kMostHigh = 26;
constexpr size_t kMaxTitleBytes = 200;

std::string escaped(const std::string& text) {
  std::string out;
  for (const char c : text.substr(0, kMaxTitleBytes)) {
    if (c == '<')
      out += "&lt;";
    else if (c == '&')
      out += "&amp;";
    else if (static_cast<unsigned char>(c) >= 0x20)
      out += c;
  }
  return valid_utf8(out);
}

std::string widths_text(const PlanRow& row) {
  return row.narrowest == row.widest ? fmt::format("{}", row.widest)
                                     : fmt::format("{}-{}", row.narrowest, row.widest);
}

std::string row_text(const std::string& name, const PlanRow& row) {
  return fmt::format("{:>5}  {:>5}  {:>11}  {:6.2f} %  {:10.2f} %  {:>8}\n", name, row.full, widths_text(row),
                     100 * row.kept, 100 * row.of_token, row.least_tokens);
}

nlohmann::ordered_json row_json(const PlanRow& row) {
  return {{"full", row.full}, {"narrowest", row.narrowest}, {"widest", row.widest},
          {"kept", row.kept}, {"of_token", row.of_token},   {"least_tokens", row.least_tokens}};
}

}  // namespace

PlanRow plan_row(const PrunePlan& plan, const PruneScores& scores, size_t l) {
  const std::vector<int64_t>& widths = plan.widths[l];
  const LayerScores& layer = scores.layers[l];
  PlanRow row;
  row.layer = layer.layer, row.narrowest = plan.width;
  double kept = 0, read = 0, routed = 0;
  for (size_t e = 0; e < widths.size(); ++e) {
    const double tokens = static_cast<double>(layer.tokens[e]), width = static_cast<double>(widths[e]);
    kept += width, read += tokens * width, routed += tokens * static_cast<double>(plan.width);
    if (widths[e] == 0) continue;
    row.full += widths[e] == plan.width;
    row.narrowest = std::min(row.narrowest, widths[e]), row.widest = std::max(row.widest, widths[e]);
  }
  row.kept = kept / static_cast<double>(plan.width * std::ssize(widths));
  // Tokens of an expert that leaves the router go to others.
  row.of_token = plan.method == PruneMethod::kDrop || routed == 0 ? 1 : read / routed;
  row.least_tokens = *std::ranges::min_element(layer.tokens);
  return row;
}

PlanRow plan_total(const PrunePlan& plan, const PruneScores& scores) {
  PlanRow total = plan_row(plan, scores, 0);
  for (size_t l = 1; l < plan.widths.size(); ++l) {
    const PlanRow row = plan_row(plan, scores, l);
    total.full += row.full, total.kept += row.kept, total.of_token += row.of_token;
    total.narrowest = std::min(total.narrowest, row.narrowest);
    total.widest = std::max(total.widest, row.widest);
    total.least_tokens = std::min(total.least_tokens, row.least_tokens);
  }
  const double layers = static_cast<double>(plan.widths.size());
  total.kept /= layers, total.of_token /= layers;
  return total;
}

std::string plan_table(const PrunePlan& plan, const PruneScores& scores) {
  std::string text = fmt::format("{:>5}  {:>5}  {:>11}  {:>8}  {:>12}  {:>8}\n", "layer", "full", "widths",
                                 "kept", "of a token", "rarest");
  for (size_t l = 0; l < plan.widths.size(); ++l) {
    const PlanRow row = plan_row(plan, scores, l);
    text += row_text(fmt::format("{}", row.layer), row);
  }
  return text + row_text("all", plan_total(plan, scores));
}

nlohmann::ordered_json plan_json(const PrunePlan& plan, const PruneScores& scores) {
  nlohmann::ordered_json layers = nlohmann::ordered_json::array();
  for (size_t l = 0; l < plan.widths.size(); ++l) {
    const PlanRow row = plan_row(plan, scores, l);
    nlohmann::ordered_json layer = {{"layer", row.layer}, {"widths", plan.widths[l]}};
    layer.update(row_json(row));
    layers.push_back(std::move(layer));
  }
  nlohmann::ordered_json out = {
      {"method", method_name(plan.method)}, {"width", plan.width},
      {"multiple", plan.multiple},          {"halves", plan.halves},
      {"neurons", plan.neurons()},          {"neurons_before", plan.neurons_before()}};
  out.update(row_json(plan_total(plan, scores)));
  out["layers"] = std::move(layers);
  return out;
}

std::string plan_picture(const PrunePlan& plan, const PruneScores& scores, const std::string& title) {
  const double layers = static_cast<double>(plan.widths.size());
  const double high = std::max(4.0, std::min(kMostHigh, 600 / layers)), bottom = kTop + high * layers;
  const double experts = static_cast<double>(plan.widths.front().size());
  std::string svg = fmt::format(
      R"(<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 820 {:.0f}" role="img">
<style>text{{font-family:system-ui,sans-serif;font-size:12px;fill:#59636e}}.head{{fill:#1f2328;font-size:16px;font-weight:600}}
.page{{fill:#fff}}.w{{fill:#1f6fb4}}.gone{{fill:none;stroke:#b4bcc4;stroke-width:.5}}
@media (prefers-color-scheme:dark){{.page{{fill:#0d1117}}text{{fill:#9198a1}}.head{{fill:#f0f6fc}}.w{{fill:#58a6ff}}.gone{{stroke:#4a525c}}}}</style>
<rect class="page" width="820" height="{:.0f}"/>
<text class="head" x="{:.0f}" y="28">{}</text>
<text x="{:.0f}" y="50">{}: {:.1f} % of {} neurons kept; layers downwards, experts by width, as dark as they are wide</text>
)",
      bottom + 32, bottom + 32, kLeft, escaped(title), kLeft, method_name(plan.method),
      100.0 * static_cast<double>(plan.neurons()) / static_cast<double>(plan.neurons_before()),
      plan.neurons_before());
  for (size_t l = 0; l < plan.widths.size(); ++l) {
    std::vector<int64_t> widths = plan.widths[l];
    std::ranges::sort(widths, std::greater());
    const double y = kTop + high * static_cast<double>(l);
    if (high >= 10 || l % 5 == 0) {
      svg += fmt::format(R"(<text x="{:.0f}" y="{:.1f}" text-anchor="end">{}</text>)", kLeft - 8,
                         y + high / 2 + 4, scores.layers[l].layer);
    }
    for (size_t begin = 0; begin < widths.size();) {  // experts of one width together
      size_t end = begin;
      while (end < widths.size() && widths[end] == widths[begin]) ++end;
      const double x = kLeft + kWide * static_cast<double>(begin) / experts;
      const double wide = kWide * static_cast<double>(end - begin) / experts;
      const double share = static_cast<double>(widths[begin]) / static_cast<double>(plan.width);
      svg += fmt::format(
          "<rect class=\"{}\" x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.1f}\" "
          "fill-opacity=\"{:.3f}\"><title>layer {}: {} experts of {}</title></rect>\n",
          widths[begin] > 0 ? "w" : "gone", x, y + 1, std::max(0.5, wide - 1), high - 2, share,
          scores.layers[l].layer, end - begin, widths[begin]);
      begin = end;
    }
  }
  return svg + "</svg>\n";
}

}  // namespace moebius
