#include "kernels/cuda/attend.h"

namespace moebius::cuda {
namespace {

constexpr int kThreads = 128;
// Of splits that run beside each other: what their parts may take, and blocks to a multiprocessor.
constexpr int64_t kPartFloats = 16 << 20, kBlocksEach = 8;

struct Merge {
  AttendRows rows;
  int64_t split_begin, split_end;
  const float* parts;
  const RowState* part_states;
  RowState* totals;
};

__global__ void merge_kernel(Merge task) {
  const AttendRows& rows = task.rows;
  const int64_t row = block_x(), n_rows = rows.tokens * rows.heads();
  const int64_t token = row / rows.heads(), head = row % rows.heads();
  const int64_t last = (rows.visible(token) - 1) / kSplit;  // split that the row sees something of
  if (last < task.split_begin) return;
  const int64_t end = last < task.split_end ? last + 1 : task.split_end;
  RowState start{-INFINITY, 0.0f}, total = start;
  if (task.split_begin > 0) start = task.totals[row];
  barrier();  // thread 0 is about to overwrite what all have read
  float* out = rows.out_row(token, head);
  for (int column = thread(); column < rows.v_dim; column += kThreads) {
    float value = task.split_begin > 0 ? out[column] : 0.0f;
    total = start;
    for (int64_t split = task.split_begin; split < end; ++split) {
      const int64_t part = (split - task.split_begin) * n_rows + row;
      const RowState state = task.part_states[part];
      const float mean = task.parts[part * rows.v_dim + column];
      float before, now;
      if (split == 0) {
        total = state, value = mean;
      } else {
        join(total, state, &before, &now);
        value = value * before + mean * now;
      }
    }
    out[column] = value * (last < end ? 1.0f / total.sum : 1.0f);
  }
  if (thread() == 0 && task.totals) task.totals[row] = total;
}

}  // namespace

AttendPlan plan_attend(Context& context, const AttendRows& rows, int64_t splits, int64_t calls) {
  AttendPlan plan;
  const int64_t per_head = rows.tokens * rows.group, n_rows = per_head * rows.kv_heads;
  const int64_t processors = context.multiprocessors(), state = static_cast<int64_t>(sizeof(RowState));
  plan.many = rows.v_dim <= 128 && per_head > kFewRows &&
              rows.kv_heads * blocks_for(per_head, kManyRows) * splits >= processors &&
              attend_layout(kManyRows, rows.k_dim).end <= kMostAttendShared;
  const int64_t units = rows.kv_heads * blocks_for(per_head, plan.many ? kManyRows : kFewRows);
  const int64_t wave = std::min(
      {splits, kPartFloats / (n_rows * (rows.v_dim + 2)), blocks_for(kBlocksEach * processors, units)});
  if (wave > 1 && units < 2 * processors) {
    plan.wave = wave;
    plan.parts = static_cast<float*>(context.scratch(wave * n_rows * rows.v_dim * 4));
    plan.part_states = static_cast<RowState*>(context.scratch(wave * n_rows * state));
  }
  const bool in_pieces = calls > 1 || (plan.wave > 0 && plan.wave < splits);
  if (in_pieces) plan.totals = static_cast<RowState*>(context.scratch(n_rows * state));
  plan.ok = (plan.wave == 0 || (plan.parts && plan.part_states)) && (!in_pieces || plan.totals);
  return plan;
}

// Reads each part once, and reads and writes out once: a thread has a column, so that a warp's accesses lie
// side by side.
void merge_splits(Context& context, const AttendRows& rows, int64_t split_begin, int64_t split_end,
                  const AttendPlan& plan) {
  launch(context.compute(), merge_kernel, Grid{rows.tokens * rows.heads()}, kThreads, 0,
         Merge{rows, split_begin, split_end, plan.parts, plan.part_states, plan.totals});
}

}  // namespace moebius::cuda
