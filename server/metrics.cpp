#include "server/metrics.h"

#include <algorithm>

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

namespace moebius {

namespace {

using prometheus::Counter;
using prometheus::Family;
using prometheus::Gauge;
using prometheus::Histogram;
using Labels = std::map<std::string, std::string>;

// From a millisecond to ten minutes, three a decade.
const Histogram::BucketBoundaries kSeconds = {0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5,
                                              1,     2,     5,     10,   20,   50,   100, 200, 600};

Family<Counter>& counters(prometheus::Registry& registry, const char* name, const char* help) {
  return prometheus::BuildCounter().Name(name).Help(help).Register(registry);
}

prometheus::MetricFamily family_of(const char* name, const char* help) {
  return {name, help, prometheus::MetricType::Counter, {}};
}

void add_sample(prometheus::MetricFamily& family, size_t layer, const char* where, double value) {
  prometheus::ClientMetric metric;
  metric.label.push_back({"layer", std::to_string(layer)});
  if (where != nullptr) metric.label.push_back({"where", where});
  metric.counter.value = value;
  family.metric.push_back(std::move(metric));
}

constexpr const char* kExpertSlots = "moebius_expert_slots_total";
constexpr const char* kExpertSlotsHelp =
    "Slots of tokens, by who computed their expert, or that it was skipped.";

std::vector<prometheus::MetricFamily> expert_families(const std::vector<LayerUse>& experts) {
  auto slots = family_of(kExpertSlots, kExpertSlotsHelp);
  auto host = family_of("moebius_expert_host_seconds_total", "Time the host took for experts.");
  auto device = family_of("moebius_expert_device_seconds_total", "Time the device took for experts.");
  auto link = family_of("moebius_expert_link_seconds_total", "Time experts took on their way to the device.");
  auto moves = family_of("moebius_expert_moves_total", "Experts brought to the device to stay.");
  auto bytes = family_of("moebius_expert_bytes_total", "Bytes of experts brought to the device.");
  for (size_t l = 0; l < experts.size(); ++l) {
    const LayerUse& use = experts[l];
    if (use.device_slots + use.host_slots + use.skipped_slots == 0) continue;
    add_sample(slots, l, "device", static_cast<double>(use.device_slots - use.streamed_slots));
    add_sample(slots, l, "streamed", static_cast<double>(use.streamed_slots));
    add_sample(slots, l, "host", static_cast<double>(use.host_slots));
    add_sample(slots, l, "skipped", static_cast<double>(use.skipped_slots));
    add_sample(host, l, nullptr, use.host_s);
    add_sample(device, l, nullptr, use.device_s);
    add_sample(link, l, nullptr, use.link_s);
    add_sample(moves, l, nullptr, static_cast<double>(use.moves));
    add_sample(bytes, l, "moved", static_cast<double>(use.moved_bytes));
    add_sample(bytes, l, "streamed", static_cast<double>(use.streamed_bytes));
  }
  if (slots.metric.empty()) return {};
  return {slots, host, device, link, moves, bytes};
}

// The same where nothing moves and one side computes all.
std::vector<prometheus::MetricFamily> expert_families(const std::vector<ExpertLayer>& map) {
  auto slots = family_of(kExpertSlots, kExpertSlotsHelp);
  for (const ExpertLayer& layer : map) {
    const SlotSum sum = slots_of(layer);
    if (sum.all == 0) continue;
    const size_t l = static_cast<size_t>(layer.layer);
    add_sample(slots, l, "host", static_cast<double>(sum.all - sum.skipped));
    add_sample(slots, l, "skipped", static_cast<double>(sum.skipped));
  }
  if (slots.metric.empty()) return {};
  return {slots};
}

// Of prefixes on disk; nothing where there are none.
std::vector<prometheus::MetricFamily> disk_families(const SchedulerStats& now) {
  const PrefixStore::Stats& disk = now.disk;
  if (disk.pages + disk.written + disk.read + disk.broken + disk.dropped == 0) return {};
  auto bytes = family_of("moebius_prefix_disk_bytes", "Bytes of the files of prefixes.");
  bytes.type = prometheus::MetricType::Gauge;
  prometheus::ClientMetric held;
  held.gauge.value = static_cast<double>(disk.bytes);
  bytes.metric.push_back(held);
  auto pages = family_of("moebius_prefix_disk_pages_total", "Pages of prefixes, by what became of them.");
  for (const auto& [what, count] : {std::pair{"written", disk.written},
                                    {"read", disk.read},
                                    {"broken", disk.broken},
                                    {"dropped", disk.dropped}}) {
    prometheus::ClientMetric metric;
    metric.label.push_back({"what", what});
    metric.counter.value = static_cast<double>(count);
    pages.metric.push_back(std::move(metric));
  }
  auto tokens = family_of("moebius_prefix_disk_tokens_total", "Tokens of prompts that were read from disk.");
  prometheus::ClientMetric read;
  read.counter.value = static_cast<double>(now.disk_tokens);
  tokens.metric.push_back(read);
  return {bytes, pages, tokens};
}

// What llama.cpp calls what vLLM calls otherwise.
void add_llama_names(std::vector<prometheus::MetricFamily>& families) {
  constexpr std::pair<const char*, const char*> kNames[] = {
      {"vllm:prompt_tokens_total", "llamacpp:prompt_tokens_total"},
      {"vllm:generation_tokens_total", "llamacpp:tokens_predicted_total"},
      {"vllm:num_requests_running", "llamacpp:requests_processing"},
      {"vllm:num_requests_waiting", "llamacpp:requests_deferred"},
      {"vllm:kv_cache_usage_perc", "llamacpp:kv_cache_usage_ratio"}};
  for (const auto& [ours, theirs] : kNames) {
    const auto found = std::ranges::find(families, std::string_view(ours), &prometheus::MetricFamily::name);
    prometheus::MetricFamily same = *found;
    same.name = theirs;
    for (prometheus::ClientMetric& metric : same.metric) metric.label.clear();  // as there
    families.push_back(std::move(same));
  }
}

}  // namespace

struct Metrics::Parts {
  Parts(const std::string& model, const std::string& version)
      : labels{{"model_name", model}},
        requests(counters(registry, "moebius_http_requests_total", "Requests answered.")),
        finished(counters(registry, "vllm:request_success_total", "Answers finished, by the reason.")),
        failed(counters(registry, "moebius_request_failures_total", "Answers given up, by the reason.")),
        prompt(counter("vllm:prompt_tokens_total", "Tokens of prompts.")),
        answer(counter("vllm:generation_tokens_total", "Tokens generated.")),
        queries(counter("vllm:prefix_cache_queries_total", "Tokens looked for in the cache.")),
        hits(counter("vllm:prefix_cache_hits_total", "Tokens found in the cache.")),
        running(gauge("vllm:num_requests_running", "Requests being computed.")),
        waiting(gauge("vllm:num_requests_waiting", "Requests in the queue.")),
        kv_usage(gauge("vllm:kv_cache_usage_perc",
                       "Share of the cache that what is computed holds or may come to need; 1 is all.")),
        queued(histogram("vllm:request_queue_time_seconds", "From a request until its prompt is begun.")),
        first(histogram("vllm:time_to_first_token_seconds", "From a request to its first token.")),
        between(histogram("vllm:inter_token_latency_seconds", "Between two tokens of an answer.")),
        whole(histogram("vllm:e2e_request_latency_seconds", "From a request to its end.")) {
    const Labels build = {{"version", version}};
    prometheus::BuildGauge()
        .Name("moebius_build_info")
        .Help("The program.")
        .Register(registry)
        .Add(build)
        .Set(1);
  }
  Counter& counter(const char* name, const char* help) { return counters(registry, name, help).Add(labels); }
  Gauge& gauge(const char* name, const char* help) {
    return prometheus::BuildGauge().Name(name).Help(help).Register(registry).Add(labels);
  }
  Histogram& histogram(const char* name, const char* help) {
    return prometheus::BuildHistogram().Name(name).Help(help).Register(registry).Add(labels, kSeconds);
  }

  const Labels labels;
  prometheus::Registry registry;
  Family<Counter>&requests, &finished, &failed;
  Counter &prompt, &answer, &queries, &hits;
  Gauge &running, &waiting, &kv_usage;
  Histogram &queued, &first, &between, &whole;
};

Metrics::Metrics(std::string model, std::string version) : parts_(std::make_unique<Parts>(model, version)) {}
Metrics::~Metrics() = default;

void Metrics::count_request(std::string_view method, std::string_view route, int status) {
  const Labels labels = {
      {"method", std::string(method)}, {"route", std::string(route)}, {"status", std::to_string(status)}};
  parts_->requests.Add(labels).Increment();
}

void Metrics::begun(double seconds) { parts_->queued.Observe(seconds); }
void Metrics::first_token(double seconds) { parts_->first.Observe(seconds); }
void Metrics::next_token(double seconds) { parts_->between.Observe(seconds); }

void Metrics::ended(const Usage& usage, const std::string& finish, bool failed, double seconds) {
  Labels labels = parts_->labels;
  labels["finished_reason"] = finish;
  (failed ? parts_->failed : parts_->finished).Add(labels).Increment();
  parts_->prompt.Increment(static_cast<double>(usage.prompt));
  parts_->answer.Increment(static_cast<double>(usage.completion));
  parts_->queries.Increment(static_cast<double>(usage.prompt));
  parts_->hits.Increment(static_cast<double>(usage.cached));
  parts_->whole.Observe(seconds);
}

std::string Metrics::text(const SchedulerStats& now, const std::vector<LayerUse>& experts,
                          const std::vector<ExpertLayer>& map) const {
  parts_->running.Set(static_cast<double>(now.running));
  parts_->waiting.Set(static_cast<double>(now.waiting));
  const auto pages = static_cast<double>(std::max<int64_t>(now.pages, 1));
  parts_->kv_usage.Set(static_cast<double>(now.pages_committed) / pages);
  std::vector<prometheus::MetricFamily> families = parts_->registry.Collect();
  add_llama_names(families);
  for (prometheus::MetricFamily& family : experts.empty() ? expert_families(map) : expert_families(experts))
    families.push_back(std::move(family));
  for (prometheus::MetricFamily& family : disk_families(now)) families.push_back(std::move(family));
  return prometheus::TextSerializer().Serialize(families);
}

}  // namespace moebius
