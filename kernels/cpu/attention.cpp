// Attention over the cache. A unit of work is up to kMaxRows rows (tokens x heads) of one key/value head, so
// that a cached row is read and widened once for all of them. Positions fall into blocks of kBlock at
// absolute multiples; a row's result is the blocks' results merged in ascending order, always, so that blocks
// may run on different threads (one token over a long context) without a trace in the bits.
#include <algorithm>

#include "kernels/cpu/cache_tile.h"
#include "kernels/cpu/workers.h"

namespace moebius {
namespace {

constexpr int64_t kBlock = 4 * kTile;
constexpr int64_t kMaxRows = 64;
constexpr int64_t kPartialFloats = 4 << 20;  // of partial results that a wave of blocks may hold
constexpr int64_t kManyBlocks = 64;          // of a wave

struct Plan {
  int64_t share;         // heads of a unit
  int64_t shares;        // that the heads of one key/value head fall into
  int64_t token_block;   // tokens of a unit
  int64_t token_blocks;  // that the tokens fall into
  int64_t units;
  int64_t blocks;  // of positions
  int64_t wave;    // blocks in flight; 0: each unit walks its own blocks
};

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

Plan make_plan(const AttentionArgs& args, int threads) {
  const int64_t n = args.q.shape[0], heads = args.q.shape[1], group = heads / args.kv_heads;
  Plan plan{};
  plan.blocks = ceil_div(args.first + n, kBlock);
  const int64_t wanted = threads > 1 ? 2 * threads : 1;
  for (plan.share = std::min(group, kMaxRows);; plan.share = ceil_div(plan.share, 2 * kFewRows) * kFewRows) {
    plan.shares = ceil_div(group, plan.share);
    plan.token_block = std::max<int64_t>(1, kMaxRows / plan.share);
    plan.token_blocks = ceil_div(n, plan.token_block);
    plan.units = args.kv_heads * plan.shares * plan.token_blocks;
    if (plan.units * plan.blocks >= wanted || plan.share <= kFewRows) break;
  }
  // Waves are for few rows: they spread one token over all threads, and all key/value heads pass a block
  // while its pages are close. With many rows the partial results would cost more than that gains.
  const int64_t fits = kPartialFloats / std::max<int64_t>(1, n * heads * args.v_dim);
  if (plan.blocks > 1 && (plan.units < 2 * wanted || fits >= kManyBlocks)) {
    plan.wave = std::min(plan.blocks, std::max(fits, ceil_div(wanted, plan.units)));
  }
  return plan;
}

struct Unit {
  int64_t kv = 0, n_rows = 0;
  int64_t index[kMaxRows];  // token * heads + head
  AttendRow rows[kMaxRows];
};

// Rows by token, then head: ascending in what they see. acc is left to the caller.
void open_unit(const AttentionArgs& args, const Plan& plan, int64_t number, Unit& unit) {
  const int64_t heads = args.q.shape[1], group = heads / args.kv_heads;
  const int64_t token_begin = number % plan.token_blocks * plan.token_block;
  const int64_t share = number / plan.token_blocks % plan.shares;
  unit.kv = number / plan.token_blocks / plan.shares;
  unit.n_rows = 0;
  for (int64_t t = token_begin; t < std::min(args.q.shape[0], token_begin + plan.token_block); ++t) {
    for (int64_t i = share * plan.share; i < std::min(group, (share + 1) * plan.share); ++i) {
      const int64_t head = unit.kv * group + i;
      AttendRow& row = unit.rows[unit.n_rows];
      row.q = args.q.f32() + t * args.q.stride[0] + head * args.q.stride[1];
      row.visible = args.first + t + 1;
      unit.index[unit.n_rows++] = t * heads + head;
    }
  }
}

float* out_row(const AttentionArgs& args, int64_t index) {
  const int64_t heads = args.q.shape[1];
  return args.out.f32() + index / heads * args.out.stride[0] + index % heads * args.out.stride[1];
}

bool value_is_prefix_of_key(const AttentionArgs& args) {
  return args.kv_heads == 1 && args.k_column == args.v_column && args.v_dim <= args.k_dim;
}

int64_t store_floats(const AttentionArgs& args) {  // per worker
  if (args.cache.dtype == DType::kF32) return 1;
  return kTile * (args.k_dim + (value_is_prefix_of_key(args) ? 0 : args.v_dim));
}

// A tile of keys and values, with what it takes to read them.
struct Place {
  int64_t kv, begin, end;  // of the key/value head; of positions
  int64_t count() const { return std::min(kTile, end - begin); }
};

void read_ahead(const AttentionArgs& args, const Place& next, ReadAhead& ahead) {
  read_ahead(args.cache, next.begin, next.count(), args.k_column + next.kv * args.k_dim, args.k_dim, ahead);
  if (value_is_prefix_of_key(args)) return;
  read_ahead(args.cache, next.begin, next.count(), args.v_column + next.kv * args.v_dim, args.v_dim, ahead);
}

Place first_tile(const Unit& unit, int64_t block) {
  return {unit.kv, block * kBlock, std::min((block + 1) * kBlock, unit.rows[unit.n_rows - 1].visible)};
}

// All keys of one block, for rows that have been started; then comes `next`, if anything.
void attend_block(const AttentionArgs& args, const TileKernels& kernels, int64_t kv, int64_t block,
                  AttendRow* rows, int64_t n_rows, const Place* next, float* store) {
  const int64_t end = std::min((block + 1) * kBlock, rows[n_rows - 1].visible);
  TileRows keys, separate;
  const bool shared = value_is_prefix_of_key(args);
  for (int64_t begin = block * kBlock; begin < end; begin += kTile) {
    const int64_t count = std::min(kTile, end - begin);
    ReadAhead ahead;
    if (begin + kTile < end)
      read_ahead(args, {kv, begin + kTile, end}, ahead);
    else if (next)
      read_ahead(args, *next, ahead);
    ahead.spread(n_rows * count * (args.k_dim + args.v_dim));
    tile_rows(kernels, args.cache, begin, count, args.k_column + kv * args.k_dim, args.k_dim, store, keys);
    if (!shared)
      tile_rows(kernels, args.cache, begin, count, args.v_column + kv * args.v_dim, args.v_dim,
                store + kTile * args.k_dim, separate);
    attend_tile(kernels, rows, n_rows, keys, shared ? keys : separate, begin, count, args.k_dim, args.v_dim,
                args.scale, ahead);
  }
}

// Each unit walks its own blocks.
void attend_by_unit(const AttentionArgs& args, const TileKernels& kernels, const Plan& plan,
                    HostContext& context) {
  const int64_t store = store_floats(args), workers = worker_count(context, plan.units);
  const int64_t block_acc = plan.blocks > 1 ? kMaxRows * args.v_dim : 0;
  float* memory = context.scratch.take<float>(workers * (store + block_acc));
  for_each_unit(context, plan.units, [&](int64_t number, int64_t worker) {
    float* own = memory + worker * (store + block_acc);
    Unit unit;
    open_unit(args, plan, number, unit);
    for (int64_t r = 0; r < unit.n_rows; ++r) {
      unit.rows[r].acc = out_row(args, unit.index[r]);
      start_row(unit.rows[r], args.v_dim);
    }
    const int64_t blocks = ceil_div(unit.rows[unit.n_rows - 1].visible, kBlock);
    for (int64_t b = 0; b < blocks; ++b) {
      const Place next = first_tile(unit, b + 1);
      const Place* follows = b + 1 < blocks ? &next : nullptr;
      if (b == 0) {
        attend_block(args, kernels, unit.kv, 0, unit.rows, unit.n_rows, follows, own);
        continue;
      }
      AttendRow later[kMaxRows];
      for (int64_t r = 0; r < unit.n_rows; ++r) {
        later[r] = unit.rows[r];
        later[r].acc = own + store + r * args.v_dim;
        start_row(later[r], args.v_dim);
      }
      attend_block(args, kernels, unit.kv, b, later, unit.n_rows, follows, own);
      for (int64_t r = 0; r < unit.n_rows; ++r)
        if (later[r].visible > b * kBlock) merge_row(unit.rows[r], later[r], args.v_dim);
    }
    for (int64_t r = 0; r < unit.n_rows; ++r) finish_row(unit.rows[r], args.v_dim);
  });
}

// What the (unit, block) pairs of a wave leave.
struct Partials {
  int64_t n_rows;
  float* acc;       // [blocks, n_rows, v_dim]; of block 0 it is in the output
  AttendRow* rows;  // [blocks, n_rows]
};

// The work of a wave in equal items, and what they leave to do after the threads have had the same number of
// them: that in halves, by rows.
class WaveItems {
 public:
  WaveItems(const AttentionArgs& args, const Plan& plan, int64_t wave, int64_t blocks, int threads)
      : args_(args), plan_(plan), wave_(wave) {
    const int64_t all = plan.units * blocks, rest = all % threads;
    whole_ = plan.share > kFewRows ? all - rest : all;
    count_ = whole_ + 2 * (all - whole_);
  }
  int64_t count() const { return count_; }

  // Returns the block. A half may be without rows.
  int64_t open(int64_t item, Unit& unit) const {
    const int64_t pair = item < whole_ ? item : whole_ + (item - whole_) / 2;
    open_unit(args_, plan_, pair % plan_.units, unit);
    if (item >= whole_) {
      const int64_t half = std::min(unit.n_rows, ceil_div(unit.n_rows, 2 * kFewRows) * kFewRows);
      const bool second = (item - whole_) % 2 > 0;
      if (second) {
        std::copy(unit.rows + half, unit.rows + unit.n_rows, unit.rows);
        std::copy(unit.index + half, unit.index + unit.n_rows, unit.index);
      }
      unit.n_rows = second ? unit.n_rows - half : half;
    }
    return wave_ + pair / plan_.units;
  }

 private:
  const AttentionArgs& args_;
  const Plan& plan_;
  int64_t wave_, whole_, count_;
};

// Of blocks wave .. wave + blocks - 1.
void attend_wave(const AttentionArgs& args, const TileKernels& kernels, const Plan& plan, int64_t wave,
                 int64_t blocks, const Partials& partials, float* stores, HostContext& context) {
  const WaveItems items(args, plan, wave, blocks, context.threads);
  const int64_t store = store_floats(args);
  for_each_foreseen_unit(context, items.count(), [&](int64_t item, int64_t following, int64_t worker) {
    Unit unit, after;
    const int64_t block = items.open(item, unit), first = (block - wave) * partials.n_rows;
    for (int64_t r = 0; r < unit.n_rows; ++r) {
      const int64_t index = unit.index[r];
      unit.rows[r].acc = block == 0 ? out_row(args, index) : partials.acc + (first + index) * args.v_dim;
      start_row(unit.rows[r], args.v_dim);
    }
    if (unit.n_rows == 0) return;
    Place next{};
    if (following < items.count()) {
      const int64_t its_block = items.open(following, after);
      if (after.n_rows > 0) next = first_tile(after, its_block);
    }
    attend_block(args, kernels, unit.kv, block, unit.rows, unit.n_rows,
                 next.begin < next.end ? &next : nullptr, stores + worker * store);
    for (int64_t r = 0; r < unit.n_rows; ++r) partials.rows[first + unit.index[r]] = unit.rows[r];
  });
}

// Waves of blocks: (unit, block) pairs in parallel, then each row's blocks merged in ascending order.
void attend_by_block(const AttentionArgs& args, const TileKernels& kernels, const Plan& plan,
                     HostContext& context) {
  const int64_t n_rows = args.q.shape[0] * args.q.shape[1];
  float* stores =
      context.scratch.take<float>(worker_count(context, plan.units * plan.wave) * store_floats(args));
  const Partials partials{n_rows, context.scratch.take<float>(plan.wave * n_rows * args.v_dim),
                          context.scratch.take<AttendRow>(plan.wave * n_rows)};
  AttendRow* total = context.scratch.take<AttendRow>(n_rows);
  for (int64_t wave = 0; wave < plan.blocks; wave += plan.wave) {
    const int64_t blocks = std::min(plan.wave, plan.blocks - wave);
    attend_wave(args, kernels, plan, wave, blocks, partials, stores, context);
    parallel_for(context.pool, n_rows, kFewRows, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        for (int64_t slot = 0; slot < blocks; ++slot) {
          const AttendRow& part = partials.rows[slot * n_rows + i];
          if (wave + slot == 0)
            total[i] = part;
          else if (part.visible > (wave + slot) * kBlock)
            merge_row(total[i], part, args.v_dim);
        }
        if (wave + blocks == plan.blocks) finish_row(total[i], args.v_dim);
      }
    });
  }
}

void attention_tiled(const AttentionArgs& args, const TileKernels& kernels, HostContext& context) {
  if (args.q.numel() == 0) return;
  const Plan plan = make_plan(args, context.threads);
  plan.wave > 0 ? attend_by_block(args, kernels, plan, context)
                : attend_by_unit(args, kernels, plan, context);
}

const char* declines_rounded(const AttentionArgs& args, const HostContext& context) {
  static const bool multiplies_bf16 = cpu_features().avx512_bf16;  // asked once: a virtual machine takes long
  if (context.isa < Isa::kAvx512 || !multiplies_bf16) return "needs AVX-512 BF16";
  if (args.cache.dtype != DType::kBF16) return "the cache is not BF16";
  if (context.exact_activations) return "activations stay exact";
  return args.k_dim <= kMostBf16Columns ? nullptr : "keys of more columns than are rounded at once";
}

void attention_rounded(const AttentionArgs& args, HostContext& context) {
  TileKernels kernels = kTileAvx512;
  kernels.dots_bf16 = dots_rounded_avx512, kernels.accumulate_bf16 = accumulate_rounded_avx512;
  attention_tiled(args, kernels, context);
}

const char* declines_tiles(const AttentionArgs& args, const HostContext& context) {
  if (context.isa < Isa::kAmx) return "needs AMX";
  if (args.k_dim % 32 != 0 || args.v_dim % 32 != 0) return "columns that fill no tiles";
  return declines_rounded(args, context);
}

void attention_by_tiles(const AttentionArgs& args, HostContext& context) {
  TileKernels kernels = kTileAvx512;
  kernels.dots_bf16 = dots_rounded_amx, kernels.accumulate_bf16 = accumulate_rounded_amx;
  kernels.values_together = 32;
  attention_tiled(args, kernels, context);
}

}  // namespace

std::span<const Candidate<AttentionArgs>> host_attention() {
  static constexpr Candidate<AttentionArgs> kCandidates[] = {
      {"attention_bf16_amx", declines_tiles, attention_by_tiles},
      {"attention_bf16_avx512", declines_rounded, attention_rounded},
      {"attention_f32_avx512", needs_avx512<AttentionArgs>,
       [](const AttentionArgs& args, HostContext& context) { attention_tiled(args, kTileAvx512, context); }},
      {"attention_f32_avx2", needs_avx2<AttentionArgs>,
       [](const AttentionArgs& args, HostContext& context) { attention_tiled(args, kTileAvx2, context); }},
      {"attention_f32_scalar", declines_nothing<AttentionArgs>,
       [](const AttentionArgs& args, HostContext& context) { attention_tiled(args, kTileScalar, context); }},
      reference_candidate<AttentionArgs, ref::attention>("attention_ref"),
  };
  return kCandidates;
}

}  // namespace moebius
