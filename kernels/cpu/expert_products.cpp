// Small experts share one parallel region of tasks, each some tokens of one expert from end to end, in chunks
// that stay in a core's cache. Large ones go one by one through panels of their rows.
#include "kernels/cpu/expert_products.h"

#include <algorithm>
#include <cstring>

#include "kernels/cpu/adapter.h"
#include "kernels/cpu/chunk_matrix.h"
#include "kernels/cpu/swiglu.h"
#include "kernels/cpu/workers.h"

namespace moebius {
namespace {

constexpr int64_t kSmall = 1 << 18;          // numbers of a matrix: a megabyte of float32
constexpr int64_t kTaskTokens = 4 * kChunk;  // for which a task dequantises its expert once
constexpr int64_t kGrain = 8;

bool is_small(const ExpertWeights& e) { return e.gate.rows * e.gate.cols <= kSmall; }

float* slot_row(const ExpertFfnArgs& args, const SortedSlots& sorted, int64_t i) {
  return args.slots.f32() + sorted.token[i] * args.slots.stride[0] + sorted.k[i] * args.slots.stride[1];
}

// x [end - begin, hidden] = the tokens of slots [begin, end), and what it holds to these slots.
void gather(const ExpertFfnArgs& args, const SortedSlots& sorted, int64_t begin, int64_t end, float* x) {
  const int64_t hidden = args.x.shape[1];
  for (int64_t i = begin; i < end; ++i)
    std::memcpy(x + (i - begin) * hidden, args.x.f32() + sorted.token[i] * args.x.stride[0],
                static_cast<size_t>(hidden) * sizeof(float));
}
void scatter(const ExpertFfnArgs& args, const SortedSlots& sorted, int64_t begin, int64_t end,
             const float* x) {
  const int64_t hidden = args.x.shape[1];
  for (int64_t i = begin; i < end; ++i)
    std::memcpy(slot_row(args, sorted, i), x + (i - begin) * hidden,
                static_cast<size_t>(hidden) * sizeof(float));
}

// Memory of one worker.
struct Workspace {
  Workspace(std::span<const ExpertGroup> tasks, int64_t hidden, Scratch& scratch) {
    int64_t widest = 0, copied = 0, rank = 0;
    for (const ExpertGroup& task : tasks) {
      const ExpertWeights& e = *task.expert;
      widest = std::max(widest, e.gate.rows);
      for (const Matrix* w : {&e.gate, &e.up, &e.down}) {
        copied = std::max(copied, numbers_copied(*w));
        rank = std::max(rank, adapter_rank(*w));
      }
    }
    for (int i = 0; i < 3; ++i) matrix.emplace_back(copied, rank, scratch);
    x = scratch.take<float>(kChunk * hidden);
    gate = scratch.take<float>(kChunk * widest), up = scratch.take<float>(kChunk * widest);
  }
  std::vector<ChunkMatrix::Memory> matrix;  // for gate, up and down
  float *x, *gate, *up;
};

void run_task(const ExpertFfnArgs& args, const SortedSlots& sorted, const ExpertGroup& task,
              const Workspace& work, const HostContext& context) {
  const ExpertWeights& e = *task.expert;
  const MatrixSums none;
  const ChunkMatrix gate(e.gate, none, work.matrix[0], context), up(e.up, none, work.matrix[1], context),
      down(e.down, none, work.matrix[2], context);
  const int64_t end = task.first + task.n;
  for (int64_t first = task.first; first < end; first += kChunk) {
    const int64_t n = std::min(kChunk, end - first);
    gather(args, sorted, first, first + n, work.x);
    gate.product(n, work.x, work.gate);
    up.product(n, work.x, work.up);
    swiglu_row(work.gate, work.up, n * e.gate.rows, work.gate, context.avx2());
    down.product(n, work.gate, work.x);
    scatter(args, sorted, first, first + n, work.x);
  }
}

void run_small(const ExpertFfnArgs& args, const SortedSlots& sorted, const std::vector<ExpertGroup>& tasks,
               HostContext& context) {
  const Scratch::Frame frame(context.scratch);
  const int64_t units = static_cast<int64_t>(tasks.size());
  std::vector<Workspace> work;
  for (int i = 0; i < worker_count(context, units); ++i)
    work.emplace_back(tasks, args.x.shape[1], context.scratch);
  for_each_unit(context, units, [&](int64_t i, int64_t worker) {
    run_task(args, sorted, tasks[static_cast<size_t>(i)], work[static_cast<size_t>(worker)], context);
  });
}

void run_by_panels(const ExpertFfnArgs& args, const SortedSlots& sorted, const ExpertGroup& group,
                   HostContext& context) {
  const Scratch::Frame frame(context.scratch);
  const ExpertWeights& e = *group.expert;
  const int64_t hidden = args.x.shape[1], width = e.gate.rows, n = group.n;
  float* x = context.scratch.take<float>(n * hidden);
  float* gate = context.scratch.take<float>(n * width);
  float* up = context.scratch.take<float>(n * width);
  parallel_for(context.pool, n, kGrain, [&](int64_t begin, int64_t end) {
    gather(args, sorted, group.first + begin, group.first + end, x + begin * hidden);
  });
  multiply_panels_adapted(e.gate, x, hidden, n, gate, width, false, context);
  multiply_panels_adapted(e.up, x, hidden, n, up, width, false, context);
  parallel_for(context.pool, n, kGrain, [&](int64_t begin, int64_t end) {
    float* h = gate + begin * width;
    swiglu_row(h, up + begin * width, (end - begin) * width, h, context.avx2());
  });
  multiply_panels_adapted(e.down, gate, width, n, x, hidden, false, context);
  parallel_for(context.pool, n, kGrain, [&](int64_t begin, int64_t end) {
    scatter(args, sorted, group.first + begin, group.first + end, x + begin * hidden);
  });
}

}  // namespace

bool goes_by_products(const ExpertGroup& group, const HostContext& context) {
  const ExpertWeights& e = *group.expert;
  const auto parts = [&](const Matrix& w) { return goes_by_parts(w, group.n, group.all, context); };
  if (parts(e.gate) && parts(e.up) && parts(e.down)) return false;
  return !declines_panels(e.gate, group.n, context) && !declines_panels(e.up, group.n, context) &&
         !declines_panels(e.down, group.n, context);
}

void run_by_products(const ExpertFfnArgs& args, const SortedSlots& sorted,
                     std::span<const ExpertGroup> groups, HostContext& context) {
  std::vector<ExpertGroup> tasks;
  for (const ExpertGroup& group : groups) {
    if (!is_small(*group.expert)) {
      run_by_panels(args, sorted, group, context);
      continue;
    }
    for (int64_t first = 0; first < group.n; first += kTaskTokens)
      tasks.push_back({group.expert, group.first + first, std::min(kTaskTokens, group.n - first), group.all});
  }
  if (!tasks.empty()) run_small(args, sorted, tasks, context);
}

}  // namespace moebius
