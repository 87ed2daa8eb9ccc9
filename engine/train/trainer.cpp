#include "engine/train/trainer.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numeric>

#include <fmt/format.h>

#include "engine/train/checkpoint.h"

namespace moebius {
namespace {

// A loss this far above the best of the run, and above that of guessing, will not come back by itself.
constexpr double kExploded = 3;
constexpr double kSmoothing = 0.1;
constexpr const char* kRemedy =
    "; start anew in another folder with a lower --lr, more --warmup or a smaller --clip";

Status check_options(const TrainerOptions& o) {
  const auto refuse = [](const std::string& what) { return invalid("training: " + what); };
  if (o.steps < 1) return refuse("the number of steps must be at least 1");
  if (o.micro_tokens < 1 || o.accumulation < 1 || o.batch < 0)
    return refuse("a step must hold at least one token");
  if (!(o.lr > 0) || !std::isfinite(o.lr))
    return refuse(fmt::format("learning rate {} must be above 0", o.lr));
  if (o.warmup < 0 || o.warmup > o.steps)
    return refuse(fmt::format("{} warm-up steps do not fit {} steps", o.warmup, o.steps));
  if (!(o.clip > 0)) return refuse(fmt::format("the largest norm of gradients, {}, must be above 0", o.clip));
  if (!(o.balance_loss >= 0) || !std::isfinite(o.balance_loss))
    return refuse("the balance loss must be at least 0");
  if (!(o.group_balance >= 0) || !std::isfinite(o.group_balance))
    return refuse("the group balance loss must be at least 0");
  if (!(o.zero_weight > 0) || !std::isfinite(o.zero_weight))
    return refuse("the weight of zero experts must be above 0");
  if (!(o.floor >= 0 && o.floor <= 1)) return refuse("the floor of the learning rate must be in 0 .. 1");
  if (!(o.decay_part >= 0 && o.decay_part <= 1)) return refuse("the part that decays must be in 0 .. 1");
  return Status();
}

const std::string* first_not_finite(std::span<const optim::StateEntry> entries) {
  for (const optim::StateEntry& e : entries) {
    if (e.dtype != DType::kF32) continue;
    const float* values = static_cast<const float*>(e.data);
    for (int64_t i = 0; i < e.bytes / static_cast<int64_t>(sizeof(float)); ++i)
      if (!std::isfinite(values[i])) return &e.name;
  }
  return nullptr;
}

double fullest_expert(const std::vector<std::vector<int64_t>>& layers) {
  double most = 0;
  for (const std::vector<int64_t>& load : layers) {
    const double sum = static_cast<double>(std::accumulate(load.begin(), load.end(), int64_t{0}));
    if (sum == 0) continue;
    const double fullest = static_cast<double>(*std::max_element(load.begin(), load.end()));
    most = std::max(most, fullest * static_cast<double>(load.size()) / sum);
  }
  return most;
}

double zero_rate(const std::vector<std::vector<int64_t>>& layers, int64_t experts) {
  int64_t zero = 0, all = 0;
  for (const std::vector<int64_t>& load : layers) {
    if (load.empty()) continue;
    all += std::accumulate(load.begin(), load.end(), int64_t{0});
    zero += std::accumulate(load.begin() + experts, load.end(), int64_t{0});
  }
  return all == 0 ? 0 : static_cast<double>(zero) / static_cast<double>(all);
}

TrainBatch view_of(const MicroBatch& m) { return {m.ids, m.targets, m.weights, m.starts, m.routing}; }

}  // namespace

TrainingSet all_of(const Dataset& dataset) {
  TrainingSet set{&dataset, std::vector<int64_t>(static_cast<size_t>(dataset.size()))};
  std::iota(set.examples.begin(), set.examples.end(), int64_t{0});
  return set;
}

double learning_rate(const TrainerOptions& o, int64_t step) {
  switch (o.shape) {
    case LrShape::kCosine:
      return o.lr * optim::warmup_cosine(step, o.warmup, o.steps, o.floor);
    case LrShape::kWsd:
    case LrShape::kLinear: {
      const double part = o.shape == LrShape::kLinear ? 1 : o.decay_part;
      const int64_t decay =
          std::min(o.steps - o.warmup, static_cast<int64_t>(part * static_cast<double>(o.steps)));
      return o.lr * optim::warmup_stable_decay(step, o.warmup, o.steps - o.warmup - decay, decay, o.floor);
    }
    case LrShape::kConstant:
      break;
  }
  return o.lr * std::min(1.0, static_cast<double>(step + 1) / static_cast<double>(o.warmup + 1));
}

std::string step_size(const TrainerOptions& o) {
  return o.batch > 0 ? fmt::format("{} examples", o.batch) : fmt::format("{}", o.accumulation);
}

struct Trainer::Impl {
  const Model model;
  Trained& trained;
  const TrainerOptions options;
  const std::string settings;
  std::unique_ptr<TrainingPass> pass;
  std::unique_ptr<StepSource> source;
  ThreadPool pool;
  BatchPosition position = {};
  int64_t steps = 0;
  double smoothed = 0, best = INFINITY;  // of the loss

  Result<double> accumulate(std::span<const MicroBatch> micro, StepReport& report);
  Status diverged(double loss) const;
  std::string describe_failure(int64_t step, const Status& status);
};

Trainer::Trainer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Trainer::~Trainer() = default;
int64_t Trainer::steps_done() const { return impl_->steps; }
int64_t Trainer::total_steps() const { return impl_->options.steps; }

Result<std::unique_ptr<Trainer>> Trainer::create(const Model& model, Trained& trained,
                                                 const TrainingSet& data, const TrainerOptions& options,
                                                 int threads, std::string settings) {
  MOEBIUS_TRY(check_options(options));
  MOEBIUS_ASSIGN(Batches batches, Batches::create(*data.dataset, data.examples,
                                                  {options.seed, !options.in_order, options.micro_tokens,
                                                   options.accumulation, options.batch}));
  return create(model, trained, std::make_unique<Batches>(std::move(batches)), options, threads,
                std::move(settings));
}

Result<std::unique_ptr<Trainer>> Trainer::create(const Model& model, Trained& trained,
                                                 std::unique_ptr<StepSource> steps,
                                                 const TrainerOptions& options, int threads,
                                                 std::string settings) {
  MOEBIUS_TRY(check_options(options));
  PassOptions memory = options.memory;
  memory.max_tokens = options.micro_tokens;
  MOEBIUS_ASSIGN(std::unique_ptr<TrainingPass> pass, TrainingPass::create(model, memory));
  auto impl = std::unique_ptr<Impl>(new Impl{model, trained, options, std::move(settings), std::move(pass),
                                             std::move(steps), ThreadPool(threads)});
  return std::unique_ptr<Trainer>(new Trainer(std::move(impl)));
}

// The loss itself is watched on a slow average: a single hard batch is no divergence.
Status Trainer::Impl::diverged(double loss) const {
  const double guessing = std::log(static_cast<double>(model.config.vocab));
  const double next = steps == 0 ? loss : smoothed + kSmoothing * (loss - smoothed);
  if (next < kExploded * best || next < guessing) return Status();
  std::string largest;
  double norm = -1;
  for (const optim::NamedGradient& g : trained.named_gradients()) {
    double sum = 0;
    for (int64_t i = 0; i < g.values.size(); ++i)
      sum += static_cast<double>(g.values.data[i]) * g.values.data[i];
    if (sum > norm) norm = sum, largest = g.name;
  }
  return invalid(fmt::format(
      "step {}: the loss has exploded, from {:.4g} at its best to {:.4g}; the largest gradient is that of {} "
      "(norm {:.3g}){}",
      steps + 1, best, loss, largest, std::sqrt(norm), kRemedy));
}

std::string Trainer::Impl::describe_failure(int64_t step, const Status& status) {
  const std::vector<optim::StateEntry> entries = trained.entries();
  const std::string* broken = first_not_finite(entries);
  return fmt::format("step {}: {}; {}{}", step, status.message(),
                     broken ? fmt::format("the first tensor that is not finite is {}", *broken)
                            : std::string("all weights are finite, so an activation overflowed"),
                     kRemedy);
}

// The mean loss of a step's micro-batches, and its gradients.
Result<double> Trainer::Impl::accumulate(std::span<const MicroBatch> micro, StepReport& report) {
  const double weight = static_cast<double>(std::max<int64_t>(1, report.target_tokens));
  trained.zero_gradients();
  pass->reset_statistics();
  double loss = 0, sequences = 0, rows = 0;
  for (const MicroBatch& m : micro) {
    sequences += static_cast<double>(m.starts.size() - 1);
    rows += static_cast<double>(m.ids.size());
  }
  for (const MicroBatch& m : micro) {
    const double part = static_cast<double>(m.ids.size()) / rows;
    const BalanceLoss balance{static_cast<float>(options.balance_loss / sequences),
                              static_cast<float>(options.group_balance * part),
                              static_cast<float>(options.zero_weight)};
    const Result<double> sum =
        pass->accumulate(view_of(m), static_cast<float>(1 / weight), trained.gradients(), balance);
    if (!sum.ok() && sum.status().code() == Code::kInvalid)
      return invalid(describe_failure(steps + 1, sum.status()));
    if (!sum.ok()) return sum.status();
    loss += m.reported.value_or(*sum) / weight;
    report.accuracy += static_cast<double>(pass->hits()) / weight;
  }
  MOEBIUS_TRY(trained.collect_gradients());
  MOEBIUS_TRY(diverged(loss));
  return loss;
}

Result<StepReport> Trainer::step() {
  Impl& t = *impl_;
  const auto start = std::chrono::steady_clock::now();
  BatchPosition position = t.position;
  StepReport report;
  MOEBIUS_ASSIGN(const std::vector<MicroBatch> micro, t.source->next(position));
  for (const MicroBatch& m : micro) report.tokens += std::ssize(m.ids), report.target_tokens += m.counted;
  MOEBIUS_ASSIGN(report.loss, t.accumulate(micro, report));
  const Result<double> norm = optim::clip_gradients(t.trained.named_gradients(), t.options.clip, {&t.pool});
  if (!norm.ok()) return invalid(fmt::format("step {}: {}{}", t.steps + 1, norm.status().message(), kRemedy));
  report.gradient_norm = *norm;
  report.lr = learning_rate(t.options, t.steps);
  MOEBIUS_TRY(t.trained.step(report.lr, *t.pass, t.pool));

  t.smoothed = t.steps == 0 ? report.loss : t.smoothed + kSmoothing * (report.loss - t.smoothed);
  t.best = std::min(t.best, t.smoothed);
  report.step = ++t.steps;
  report.epoch = t.position.epoch;
  report.expert_load = fullest_expert(t.pass->load());
  report.zero_rate = zero_rate(t.pass->load(), t.model.config.moe.n_experts);
  report.max_logit = static_cast<double>(std::ranges::max(t.pass->highest_logits()));
  t.position = position;
  report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return report;
}

Result<EvalReport> Trainer::evaluate(const TrainingSet& data,
                                     const std::function<bool(int64_t, int64_t)>& progress) {
  Impl& t = *impl_;
  MOEBIUS_ASSIGN(Batches batches,
                 Batches::create(*data.dataset, data.examples, {0, false, t.options.micro_tokens, 1}));
  EvalReport report;
  double loss = 0;
  for (BatchPosition at; at.epoch == 0;) {
    if (progress && !progress(at.index, batches.examples())) return Status(Code::kCancelled, "cancelled");
    MOEBIUS_ASSIGN(const std::vector<MicroBatch> micro, batches.next(at));
    for (const MicroBatch& m : micro) {
      const Result<double> sum = t.pass->evaluate(view_of(m));
      if (!sum.ok() && sum.status().code() == Code::kInvalid)
        return invalid("evaluation after " + t.describe_failure(t.steps, sum.status()));
      if (!sum.ok()) return sum.status();
      loss += *sum, report.tokens += m.counted;
      report.accuracy += static_cast<double>(t.pass->hits());
    }
  }
  const double targets = static_cast<double>(std::max<int64_t>(1, report.tokens));
  report.loss = loss / targets, report.accuracy /= targets;
  return report;
}

Status Trainer::check() {
  const std::vector<optim::StateEntry> entries = impl_->trained.entries();
  const std::string* broken = first_not_finite(entries);
  if (!broken) return Status();
  return invalid(fmt::format("after step {}: tensor {} is not finite{}", impl_->steps, *broken, kRemedy));
}

Status Trainer::save(const std::string& path) {
  MOEBIUS_TRY(check());
  const Impl& t = *impl_;
  return save_checkpoint(path, t.settings, {t.steps, t.position.epoch, t.position.index, t.smoothed, t.best},
                         t.trained);
}

Status Trainer::restore(const std::string& path) {
  MOEBIUS_ASSIGN(const RunState run, load_checkpoint(path, impl_->settings, impl_->trained));
  impl_->position = {run.epoch, run.index};
  impl_->steps = run.steps;
  impl_->smoothed = run.smoothed_loss, impl_->best = run.best_loss;
  return Status();
}

}  // namespace moebius
