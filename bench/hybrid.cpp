// The hybrid scheme on a simulated device, whose operations last as long as their bytes at a given speed: how
// long a step takes beside what its parts must take, by the trace of the very steps that are timed.
//
//   decode    sum over layers of [attention, router] + max([shared and resident experts], [hand-off + cold])
//             + [rest]
//   dual      sequences in two groups: max(all of the device's work, all of the CPU's)
//   prefill   max(link, device, CPU)
//
// and beside the planner's prediction. The device's maths runs on one core and is to hide behind the modelled
// times, the CPU's experts on the other; a busy machine shows in both. Arguments: a model's folder, made by
// bench/hybrid/run.sh.
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <map>
#include <numeric>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "engine/engine.h"

namespace moebius {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kSteps = 24, kWarmUp = 8, kRuns = 3;
constexpr int64_t kPrompt = 256;

struct Setting {
  double share = 0;  // of the experts' bytes that the device has room for
  double device_GBs = 0, link_GBs = 0;
  int64_t sequences = 1;
  bool measured = true;   // plan by speeds as they are; else as if the device were best for all that fits
  int64_t context = 128;  // what the plan's predictions are for
};

struct Span {
  std::string name;
  int64_t layer = -1;
  double begin = 0, end = 0;  // seconds
  double length() const { return end - begin; }
};

struct Trace {
  std::vector<Span> device, link, cpu;
};

Trace read_trace(const std::string& path) {
  std::ifstream file(path);
  const nlohmann::json events = nlohmann::json::parse(file)["traceEvents"];
  Trace trace;
  for (const auto& e : events) {
    if (e["ph"] != "X") continue;
    const double begin = e["ts"].get<double>() * 1e-6;
    const Span span{e["name"], e.contains("args") ? e["args"]["layer"].get<int64_t>() : -1, begin,
                    begin + e["dur"].get<double>() * 1e-6};
    const int row = e["tid"];
    (row == 0 ? trace.device : row == 1 ? trace.link : trace.cpu).push_back(span);
  }
  const auto earlier = [](const Span& a, const Span& b) { return a.begin < b.begin; };
  for (std::vector<Span>* spans : {&trace.device, &trace.link, &trace.cpu})
    std::ranges::sort(*spans, earlier);
  return trace;
}

bool waits(const Span& s) { return s.name.starts_with("wait"); }

double work_of(std::span<const Span> spans) {
  double sum = 0;
  for (const Span& s : spans) sum += waits(s) ? 0 : s.length();
  return sum;
}

double median(std::vector<double> values) {
  std::ranges::sort(values);
  return values.empty() ? 0 : values[values.size() / 2];
}

// What the device did in the last `steps` steps of as many pieces each: the router of their first layer tells
// them apart.
std::span<const Span> last_steps(const std::vector<Span>& device, size_t routers_of_a_step, size_t steps) {
  std::vector<size_t> routers;
  for (size_t i = 0; i < device.size(); ++i)
    if (device[i].name == "router") routers.push_back(i);
  if (routers.size() < 2 * routers_of_a_step) return {};
  const size_t last = routers[routers.size() - routers_of_a_step];
  const size_t pieces = last - routers[routers.size() - 2 * routers_of_a_step];
  return std::span(device).last(std::min(device.size(), pieces * steps));
}

// Seconds of some steps in one group, by the model of a layer.
double bound_of_layers(std::span<const Span> device, std::span<const Span> cpu) {
  struct Layer {
    double before = 0, beside = 0, after = 0, cold = 0;
  };
  std::vector<Layer> layers(1);
  std::vector<double> there, back;  // hand-offs
  size_t next = 0;
  double asked = 0;
  enum { kBefore, kCopies, kBeside, kAfter } part = kBefore;
  for (const Span& s : device) {
    if (part == kCopies && s.name != "copy") part = kBeside;
    if (s.name == "wait for the CPU") {
      while (next < cpu.size() && cpu[next].begin < asked) ++next;
      if (next < cpu.size()) {
        there.push_back(cpu[next].begin - asked), layers.back().cold = cpu[next].length();
        if (cpu[next].end > s.begin) back.push_back(s.end - cpu[next].end);
      }
      part = kAfter;
      continue;
    }
    if (part == kAfter && s.name != "take_slots" && s.name != "combine")
      part = kBefore, layers.emplace_back();
    if (part == kBeside && s.name == "combine") part = kAfter;
    Layer& layer = layers.back();
    (part == kBeside ? layer.beside : part == kAfter ? layer.after : layer.before) += s.length();
    if (part == kCopies || s.name == "router") part = kCopies, asked = s.end;
  }
  double bound = 0;
  const double handoff = median(there) + median(back);
  for (const Layer& l : layers) {
    const double cold = l.cold > 0 ? handoff + l.cold : 0;
    bound += l.before + std::max(l.beside, cold) + l.after;
  }
  return bound;
}

std::unique_ptr<Engine> open(const std::string& model, const Setting& s, const std::string& trace,
                             bool overlap) {
  EngineOptions options;
  options.model = model, options.context = s.context, options.threads = 1;
  options.device = DeviceKind::kSim, options.device_GBs = s.device_GBs, options.link_GBs = s.link_GBs;
  options.sessions = s.sequences, options.overlap = overlap, options.trace = trace;
  options.prefill_chunk = kPrompt;
  if (!s.measured) options.speeds = {1000, 1e6, s.link_GBs, 10, 100, 1, 10};
  const auto files = ModelFiles::open(model);
  int64_t experts = 0;
  for (const LayerWeights& l : (*files)->weights().layers)
    for (const ExpertWeights& e : l.experts) experts += e.gate.bytes() + e.up.bytes() + e.down.bytes();
  options.device_memory = 1;
  const auto refused = Engine::open(options);
  const std::string text = refused.status().message(), mark = " take ";
  options.device_memory = std::stoll(text.substr(text.find(mark) + mark.size())) +
                          static_cast<int64_t>(s.share * static_cast<double>(experts)) + (int64_t{24} << 20);
  auto engine = Engine::open(options);
  MOEBIUS_CHECK(engine.ok(), engine.status().message());
  return std::move(*engine);
}

double seconds(const auto& work) {
  const Clock::time_point start = Clock::now();
  work();
  return std::chrono::duration<double>(Clock::now() - start).count();
}

void must(const Status& status) { MOEBIUS_CHECK(status.ok(), status.message()); }

std::vector<int32_t> random_ids(int64_t n, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<int32_t> ids(static_cast<size_t>(n));
  for (int32_t& id : ids) id = static_cast<int32_t>(random() % 4096);
  return ids;
}

struct Decoded {
  double step_s = 0, bound_s = 0, predicted_s = 0;
  bool in_two = false;
};

Decoded decode(const std::string& model, const Setting& s, bool overlap) {
  const std::string path = fmt::format("{}/../hybrid-trace-{}.json", model, getpid());
  Decoded result;
  size_t moe_layers = 0;
  {
    const std::unique_ptr<Engine> engine = open(model, s, path, overlap);
    std::vector<std::unique_ptr<Session>> owned;
    std::vector<Session*> sessions;
    for (int64_t i = 0; i < s.sequences; ++i) {
      owned.push_back(std::move(*engine->new_session()));
      sessions.push_back(owned.back().get());
      must(sessions.back()->sync(random_ids(32, static_cast<uint32_t>(i))));
    }
    const auto steps = [&](int n, uint32_t seed) {
      const std::vector<int32_t> ids = random_ids(n * s.sequences, seed);
      for (int i = 0; i < n; ++i)
        must(engine->append(sessions, std::span(ids).subspan(static_cast<size_t>(i * s.sequences),
                                                             static_cast<size_t>(s.sequences))));
    };
    steps(kWarmUp, 1);
    result.step_s = seconds([&] { steps(kSteps, 2); }) / kSteps;
    const ModelPlan& plan = *engine->plan();
    result.predicted_s = s.sequences == 1 ? plan.decode.seconds : plan.decode_together.seconds;
    moe_layers = static_cast<size_t>(std::ranges::count(engine->config().moe_layer, true));
    result.in_two = plan.two_groups_from > 0 && s.sequences >= plan.two_groups_from;
  }
  const Trace trace = read_trace(path);
  unlink(path.c_str());
  const size_t routers = moe_layers * (result.in_two ? 2 : 1);
  const std::span<const Span> device = last_steps(trace.device, routers, kSteps);
  const double from = device.empty() ? 0 : device.front().begin;
  const auto first = std::ranges::find_if(trace.cpu, [&](const Span& c) { return c.begin >= from; });
  const std::span<const Span> cpu(first, trace.cpu.end());
  result.bound_s =
      (result.in_two ? std::max(work_of(device), work_of(cpu)) : bound_of_layers(device, cpu)) / kSteps;
  return result;
}

struct Prefilled {
  double seconds = 0, link = 0, device = 0, cpu = 0, predicted_s = 0;
};

Prefilled prefill(const std::string& model, const Setting& s) {
  const std::string path = fmt::format("{}/../hybrid-trace-{}.json", model, getpid());
  Prefilled result;
  double before = 0;
  {
    const std::unique_ptr<Engine> engine = open(model, s, path, true);
    auto session = std::move(*engine->new_session());
    must(session->sync(random_ids(kPrompt, 1)));  // brings the mapped weights into memory
    before = 0.5;
    std::this_thread::sleep_for(
        std::chrono::duration<double>(before));  // the gap that tells the second from it
    result.seconds = seconds([&] { must(session->sync(random_ids(kPrompt, 2))); });
    result.predicted_s = engine->plan()->prefill.seconds * static_cast<double>(kPrompt) /
                         static_cast<double>(engine->plan()->prefill.prompt);
  }
  Trace trace = read_trace(path);
  unlink(path.c_str());
  double from = 0;
  for (size_t i = 1; i < trace.device.size(); ++i)
    if (trace.device[i].begin - trace.device[i - 1].end > before / 2) from = trace.device[i].begin;
  for (auto& [spans, sum] :
       {std::pair{&trace.link, &result.link}, {&trace.device, &result.device}, {&trace.cpu, &result.cpu}}) {
    std::erase_if(*spans, [&](const Span& span) { return span.begin < from; });
    *sum = work_of(*spans);
  }
  return result;
}

void report_decode(const std::string& model, const Setting& s, bool overlap) {
  std::vector<double> steps, ratios, predictions;
  bool in_two = false;
  for (int run = 0; run < kRuns; ++run) {
    const Decoded d = decode(model, s, overlap);
    steps.push_back(d.step_s), ratios.push_back(d.step_s / d.bound_s),
        predictions.push_back(d.predicted_s / d.step_s);
    in_two = d.in_two;
  }
  fmt::print("decode,{},{},{},{},{},{},{:.3f},{:.3f},{}\n", s.share, s.device_GBs, s.link_GBs, s.sequences,
             overlap ? "overlap" : "no overlap", in_two ? 2 : 1, median(steps) * 1e3, median(ratios),
             s.measured && overlap ? fmt::format("{:.3f}", median(predictions)) : "");
  std::fflush(stdout);
}

void report_prefill(const std::string& model, const Setting& s) {
  std::vector<double> times, ratios, predictions;
  for (int run = 0; run < kRuns; ++run) {
    const Prefilled p = prefill(model, s);
    times.push_back(p.seconds), ratios.push_back(p.seconds / std::max({p.link, p.device, p.cpu}));
    predictions.push_back(p.predicted_s / p.seconds);
    fmt::print(stderr, "link {:.0f} ms, device {:.0f}, CPU {:.0f}, all {:.0f}\n", p.link * 1e3,
               p.device * 1e3, p.cpu * 1e3, p.seconds * 1e3);
  }
  fmt::print("prefill,{},{},{},1,overlap,1,{:.3f},{:.3f},{:.3f}\n", s.share, s.device_GBs, s.link_GBs,
             median(times) * 1e3, median(ratios), median(predictions));
  std::fflush(stdout);
}

int run(const std::string& model) {
  fmt::print("what,experts_share,device_GBs,link_GBs,sequences,overlap,groups,ms,of_bound,predicted\n");
  for (const double share : {0.0, 0.3, 0.6, 0.9}) report_decode(model, {share, 4, 4, 1, false}, true);
  for (const double device_GBs : {1.0, 2.0, 4.0}) report_decode(model, {0.3, device_GBs, 4}, true);
  report_decode(model, {0, 3, 4}, false);
  for (const double device_GBs : {3.0, 4.0})
    for (const int64_t sequences : {2, 4}) report_decode(model, {0, device_GBs, 4, sequences}, true);
  for (const double link_GBs : {0.05, 0.2, 1.0})
    report_prefill(model, {0.1, 0.25, link_GBs, 1, true, kPrompt});
  return 0;
}

}  // namespace
}  // namespace moebius

int main(int argc, char** argv) {
  if (argc < 2) {
    fmt::print(stderr, "usage: bench/hybrid/run.sh\n");
    return 0;  // `make bench` runs every bench without arguments
  }
  return moebius::run(argv[1]);
}
