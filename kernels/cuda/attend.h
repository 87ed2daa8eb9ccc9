// Softmax attention on the device, shared by attention and mla_prefill.
//
// A row is one (token, head). Positions fall into splits of kSplit at absolute multiples; within a split a
// row takes in tiles of kTileKeys keys in ascending order, under a running maximum; splits are merged in
// ascending order. What happens to a row depends on nothing but its query and the positions that it sees, so
// that splits may run on different blocks (few rows over a long context) or one after another in one block
// (many rows), and rows in any company, with the same bits.
//
// A block walks up to kRows rows of one key/value head. Keys and values come to shared memory as float32 in
// chunks of 16 KiB, read 16 bytes at a time and fetched into registers while the chunk before is worked on.
// A thread owns a small rectangle of scores, and then one of the weighted mean, each number from its first to
// its last term: all chains are sequential fmaf.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>

#include "kernels/cuda/context.h"

namespace moebius::cuda {

inline constexpr int kAttendThreads = 256;
inline constexpr int kSplit = 256;
inline constexpr int kTileKeys = 64;
inline constexpr int kChunk = 64;                // columns of keys in shared memory at a time
inline constexpr int kStride4 = kChunk / 4 + 1;  // in float4: rows side by side lie in different banks
inline constexpr int kStride = 4 * kStride4;
inline constexpr int kManyRows = 64, kFewRows = 16;
// What a block can get on every architecture that is built for.
inline constexpr int64_t kMostAttendShared = 96 * 1024;

struct alignas(16) Float4 {
  float at[4];
};

// Eight numbers of a cache or an array as they lie in memory.
template <class T>
struct Eight {
  Bytes16 part[sizeof(T) / 2];
};
template <class T>
__device__ float number_of(const Eight<T>& eight, int i) {
  if constexpr (sizeof(T) == 4) return std::bit_cast<float>(eight.part[i / 4].word[i % 4]);
  if constexpr (sizeof(T) == 2) {
    const uint32_t word = eight.part[0].word[i / 2];
    return std::bit_cast<float>(i % 2 ? word & 0xffff0000u : word << 16);
  }
}
// The first `left` of them, zeros behind. wide: at is a multiple of 16 bytes.
template <class T>
__device__ Eight<T> load_eight(const T* at, int64_t left, bool wide) {
  Eight<T> eight{};
  if (wide && left >= 8) {
    MOEBIUS_UNROLL
    for (int i = 0; i < static_cast<int>(sizeof(T)) / 2; ++i)
      eight.part[i] = load16(at + i * (16 / sizeof(T)));
    return eight;
  }
  MOEBIUS_UNROLL
  for (int i = 0; i < 8; ++i) {
    if (i >= left) continue;
    if constexpr (sizeof(T) == 4) eight.part[i / 4].word[i % 4] = std::bit_cast<uint32_t>(at[i]);
    if constexpr (sizeof(T) == 2) eight.part[0].word[i / 2] |= static_cast<uint32_t>(at[i]) << 16 * (i % 2);
  }
  return eight;
}

// Queries and results: token t stands at position first + t and sees positions 0 .. first + t; head h uses
// key/value head h / group.
struct AttendRows {
  const float* q = nullptr;  // [tokens, kv_heads * group, k_dim]
  int64_t q_token = 0, q_head = 0;
  float* out = nullptr;  // [tokens, kv_heads * group, v_dim]
  int64_t out_token = 0, out_head = 0;
  int64_t first = 0, tokens = 0;
  int64_t kv_heads = 1, group = 1;
  int k_dim = 0, v_dim = 0;
  float scale = 1;

  __host__ __device__ int64_t heads() const { return kv_heads * group; }
  __device__ int64_t visible(int64_t token) const { return first + token + 1; }
  __device__ float* out_row(int64_t token, int64_t head) const {
    return out + token * out_token + head * out_head;
  }
};

// The softmax of a row so far: the largest score, and the sum of exp(score - largest).
struct RowState {
  float highest, sum;
};
// `later` joins `total`; earlier values have to be multiplied by *before, later ones by *now.
__device__ inline void join(RowState& total, const RowState& later, float* before, float* now) {
  const float top = fmaxf(total.highest, later.highest);
  *before = expf(total.highest - top), *now = expf(later.highest - top);
  total.highest = top, total.sum = total.sum * *before + later.sum * *now;
}

// Source: where keys and values lie.
//   using Number = float or uint16_t (bfloat16)
//   int64_t row(int64_t position)                                       what the other two take
//   Eight<Number> keys(int64_t row, int64_t kv_head, int column)        columns [column, column + 8), zeros
//   Eight<Number> values(int64_t row, int64_t kv_head, int column)      from k_dim or v_dim on
template <class Source>
struct AttendTask {
  AttendRows rows;
  Source source;
  int64_t split_begin = 0, split_end = 0;
  int64_t row_tiles = 0;  // of each key/value head
  int q_columns = 0;      // of queries in shared memory at a time: all, or kChunk
  // Of each row (token * heads + head): what splits before split_begin gave, and then these too, whose
  // weighted values stand in `out`. Null where one launch takes all splits.
  RowState* totals = nullptr;
  // Where blocks take a split each: what each split gives, [splits, rows, v_dim] and [splits, rows].
  float* parts = nullptr;
  RowState* part_states = nullptr;
};

// A block's shared memory, in bytes from its start. The queries, whose size the compiler does not know, come
// last: all else stands at constant addresses.
struct AttendLayout {
  int64_t p = 0, stage, slots, visible, states, keep, before, now, finish, q, end;
  int q_stride;
};
__host__ __device__ constexpr AttendLayout attend_layout(int rows, int64_t q_columns) {
  AttendLayout at{};
  at.stage = 4 * rows * kStride;
  at.slots = at.stage + 4 * kTileKeys * kStride;
  at.visible = at.slots + 8 * kSplit;
  at.states = at.visible + 8 * rows;
  at.keep = at.states + 8 * rows;
  at.before = at.keep + 4 * rows;
  at.now = at.before + 4 * rows;
  at.finish = at.now + 4 * rows;
  at.q = at.finish + 4 * rows;
  at.q_stride = static_cast<int>((q_columns + 31) / 32 * 32 + 4);
  at.end = at.q + int64_t{4} * rows * at.q_stride;
  return at;
}

// kColumns: of the values, that a block takes; blocks in y take the next ones.
template <class Source, int kRows, int kColumns>
class AttendBlock {
 public:
  __device__ AttendBlock(const AttendTask<Source>& task, int64_t kv_head, int64_t row_tile)
      : task_(task),
        rows_(task.rows),
        kv_head_(kv_head),
        row_begin_(row_tile * kRows),
        column_begin_(block_y() * kColumns) {
    const int64_t left = rows_.tokens * rows_.group - row_begin_;
    count_ = left < kRows ? static_cast<int>(left) : kRows;
    least_visible_ = rows_.visible(row_begin_ / rows_.group);
    most_visible_ = rows_.visible((row_begin_ + count_ - 1) / rows_.group);
    const AttendLayout at = attend_layout(kRows, task.q_columns);
    q_stride_ = at.q_stride;
    q_ = dynamic_shared<float>(at.q, kRows * at.q_stride);
    q4_ = dynamic_shared<Float4>(at.q, kRows * at.q_stride / 4);
    p_ = dynamic_shared<float>(at.p, kRows * kStride);
    p4_ = dynamic_shared<Float4>(at.p, kRows * kStride4);
    stage_ = dynamic_shared<Float4>(at.stage, kTileKeys * kStride4);
    slots_ = dynamic_shared<int64_t>(at.slots, kSplit);
    visible_ = dynamic_shared<int64_t>(at.visible, kRows);
    states_ = dynamic_shared<RowState>(at.states, kRows);
    keep_ = dynamic_shared<float>(at.keep, kRows);
    before_ = dynamic_shared<float>(at.before, kRows);
    now_ = dynamic_shared<float>(at.now, kRows);
    finish_ = dynamic_shared<float>(at.finish, kRows);
  }

  // slot: where among the parts, if there are any.
  __device__ void run(int64_t split_begin, int64_t split_end, int64_t slot) {
    if (split_begin * kSplit >= most_visible_) return;
    open_rows();
    if (resident()) stage_queries(0, rows_.k_dim);
    for (int64_t split = split_begin; split < split_end && split * kSplit < most_visible_; ++split) {
      open_split(split);
      fetch_keys(0, 0);
      for (int tile = 0; tile < positions_; tile += kTileKeys) walk_tile(tile);
      close_split(split, slot);
    }
    if (!task_.parts) save_totals();
  }

 private:
  using Number = typename Source::Number;
  static constexpr int kWarps = kAttendThreads / kWarp;
  // Scores: a thread has rows row_group() + i * kRowGroups and keys key_group() + j * kKeyGroups. The lanes
  // of a warp stand 4 by 8.
  static constexpr int kScoreRows = kRows == kManyRows ? 4 : 2;
  static constexpr int kScoreKeys = kRows * kTileKeys / kAttendThreads / kScoreRows;
  static constexpr int kRowGroups = kRows / kScoreRows, kKeyGroups = kTileKeys / kScoreKeys;
  static_assert(kRowGroups * kKeyGroups == kAttendThreads);
  // The mean: a thread has kMeanRows rows side by side and four columns.
  static constexpr int kMeanRows = kRows * kColumns > 4096 ? kRows* kColumns / 1024 : 4;
  static constexpr int kColumnGroups = kColumns / 4;
  static_assert(kRows / kMeanRows * kColumnGroups <= kAttendThreads && kMeanRows % 4 == 0);
  static constexpr int kValueKeys = 4096 / kColumns;  // in shared memory at a time
  static constexpr int kFetches = 2;                  // of eight numbers, by each thread, for a chunk

  __device__ static int row_group() { return warp() / (kKeyGroups / 8) * 4 + lane() / 8; }
  __device__ static int key_group() { return warp() % (kKeyGroups / 8) * 8 + lane() % 8; }
  __device__ bool resident() const { return task_.q_columns >= rows_.k_dim; }
  __device__ int64_t token_of(int row) const { return (row_begin_ + row) / rows_.group; }
  __device__ int64_t head_of(int row) const {
    return kv_head_ * rows_.group + (row_begin_ + row) % rows_.group;
  }
  __device__ int64_t index_of(int row) const { return token_of(row) * rows_.heads() + head_of(row); }

  __device__ void open_rows() {
    if (thread() < kRows) {
      visible_[thread()] = thread() < count_ ? rows_.visible(token_of(thread())) : 0;
      keep_[thread()] = 1.0f;
    }
    for (int i = thread(); i < kRows * kStride; i += kAttendThreads) p_[i] = 0.0f;
    if (task_.totals && task_.split_begin > 0 && thread() < count_) total_ = task_.totals[index_of(thread())];
  }

  // Columns [begin, begin + columns) of the queries, zeros behind the last, and in rows that are not there.
  __device__ void stage_queries(int begin, int columns) {
    const int padded = (columns + 3) / 4 * 4;
    for (int row = warp(); row < kRows; row += kWarps) {
      const float* from =
          row < count_ ? rows_.q + token_of(row) * rows_.q_token + head_of(row) * rows_.q_head : nullptr;
      for (int c = lane(); c < padded; c += kWarp)
        q_[row * q_stride_ + c] = from && begin + c < rows_.k_dim ? from[begin + c] : 0.0f;
    }
  }

  __device__ void open_split(int64_t split) {
    begin_ = split * kSplit;
    positions_ = most_visible_ - begin_ < kSplit ? static_cast<int>(most_visible_ - begin_) : kSplit;
    if (thread() < positions_) slots_[thread()] = task_.source.row(begin_ + thread());
    if (thread() < count_) states_[thread()] = RowState{-INFINITY, 0.0f};
    MOEBIUS_UNROLL
    for (int i = 0; i < kMeanRows; ++i) {
      MOEBIUS_UNROLL
      for (int c = 0; c < 4; ++c) mean_[i][c] = 0.0f;
    }
    barrier();
  }

  // ---- keys and values ----

  // kAcross: eights side by side in a chunk.
  __device__ void fetch_keys(int tile, int column) {
    constexpr int kAcross = kChunk / 8;
    MOEBIUS_UNROLL
    for (int i = 0; i < kFetches; ++i) {
      const int item = thread() + i * kAttendThreads;
      const int key = tile + item / kAcross, c = column + item % kAcross * 8;
      ahead_[i] =
          key < positions_ && c < rows_.k_dim ? task_.source.keys(slots_[key], kv_head_, c) : Eight<Number>{};
    }
  }
  __device__ void fetch_values(int first_key) {
    constexpr int kAcross = kColumns / 8;
    MOEBIUS_UNROLL
    for (int i = 0; i < kFetches; ++i) {
      const int item = thread() + i * kAttendThreads;
      const int key = first_key + item / kAcross, c = column_begin_ + item % kAcross * 8;
      ahead_[i] = key < positions_ && c < rows_.v_dim ? task_.source.values(slots_[key], kv_head_, c)
                                                      : Eight<Number>{};
    }
  }
  template <int kAcross, int kRowStride4>
  __device__ void put() {
    MOEBIUS_UNROLL
    for (int i = 0; i < kFetches; ++i) {
      const int item = thread() + i * kAttendThreads;
      MOEBIUS_UNROLL
      for (int half = 0; half < 2; ++half) {
        Float4 four;
        MOEBIUS_UNROLL
        for (int k = 0; k < 4; ++k) four.at[k] = number_of(ahead_[i], 4 * half + k);
        stage_[item / kAcross * kRowStride4 + item % kAcross * 2 + half] = four;
      }
    }
  }

  // ---- a tile ----

  __device__ void walk_tile(int tile) {
    const int end = positions_ - tile < kTileKeys ? positions_ : tile + kTileKeys;
    float scores[kScoreRows][kScoreKeys] = {};
    for (int column = 0; column < rows_.k_dim; column += kChunk) {
      put<kChunk / 8, kStride4>();
      if (!resident()) stage_queries(column, kChunk);
      barrier();
      const bool last = column + kChunk >= rows_.k_dim;
      last ? fetch_values(tile) : fetch_keys(tile, column + kChunk);
      add_scores(scores, column, end - tile);
      if (!last) barrier();
    }
    put_scores(scores);
    barrier();
    soften(tile);
    for (int key = tile; key < end; key += kValueKeys) {
      put<kColumns / 8, kColumnGroups>();
      barrier();
      if (key + kValueKeys < end)
        fetch_values(key + kValueKeys);
      else if (end < positions_)
        fetch_keys(end, 0);
      add_values(tile, key);
      barrier();
    }
  }

  __device__ void add_scores(float (&scores)[kScoreRows][kScoreKeys], int column, int keys) {
    const int row = row_group(), key = key_group();
    if (row >= count_ || key >= keys) return;
    const int left = rows_.k_dim - column < kChunk ? rows_.k_dim - column : kChunk;
    const int q_column4 = resident() ? column / 4 : 0;
    for (int c = 0; c < (left + 3) / 4; ++c) {
      Float4 k[kScoreKeys];
      MOEBIUS_UNROLL
      for (int j = 0; j < kScoreKeys; ++j) k[j] = stage_[(key + j * kKeyGroups) * kStride4 + c];
      MOEBIUS_UNROLL
      for (int i = 0; i < kScoreRows; ++i) {
        if (row + i * kRowGroups >= count_) continue;
        const Float4 q = q4_[(row + i * kRowGroups) * (q_stride_ / 4) + q_column4 + c];
        MOEBIUS_UNROLL
        for (int j = 0; j < kScoreKeys; ++j) {
          MOEBIUS_UNROLL
          for (int e = 0; e < 4; ++e) scores[i][j] = fmaf(q.at[e], k[j].at[e], scores[i][j]);
        }
      }
    }
  }
  __device__ void put_scores(const float (&scores)[kScoreRows][kScoreKeys]) {
    MOEBIUS_UNROLL
    for (int i = 0; i < kScoreRows; ++i) {
      const int row = row_group() + i * kRowGroups;
      MOEBIUS_UNROLL
      for (int j = 0; j < kScoreKeys; ++j)
        if (row < count_) p_[row * kStride + key_group() + j * kKeyGroups] = scores[i][j];
    }
  }

  // Keys of the tile that a row sees.
  __device__ int seen(int row, int first_key, int most) const {
    const int64_t left = visible_[row] - begin_ - first_key;
    return left < 0 ? 0 : left < most ? static_cast<int>(left) : most;
  }

  // Scores become exp(score - largest so far), and 0 for keys that a row does not see: a warp to a row.
  __device__ void soften(int tile) {
    for (int row = warp(); row < count_; row += kWarps) {
      const int keys = seen(row, tile, kTileKeys), at = row * kStride + lane();
      if (keys == 0) {
        p_[at] = 0.0f, p_[at + kWarp] = 0.0f;
        if (lane() == 0) keep_[row] = 1.0f;
        continue;
      }
      const bool low = lane() < keys, high = lane() + kWarp < keys;
      const float a = low ? p_[at] * rows_.scale : -INFINITY;
      const float b = high ? p_[at + kWarp] * rows_.scale : -INFINITY;
      RowState state{-INFINITY, 0.0f};
      if (lane() == 0) state = states_[row];
      const float top = warp_max(fmaxf(state.highest, fmaxf(a, b)));
      const float pa = low ? expf(a - top) : 0.0f, pb = high ? expf(b - top) : 0.0f;
      const float added = warp_sum(pa + pb);
      p_[at] = pa, p_[at + kWarp] = pb;
      if (lane() > 0) continue;
      const float keep = expf(state.highest - top);
      keep_[row] = keep;
      states_[row] = RowState{top, state.sum * keep + added};
    }
  }

  __device__ void add_values(int tile, int key) {
    const int row = thread() / kColumnGroups * kMeanRows, column4 = thread() % kColumnGroups;
    if (row >= count_ || column_begin_ + 4 * column4 >= rows_.v_dim) return;
    if (key == tile) {
      MOEBIUS_UNROLL
      for (int i = 0; i < kMeanRows; ++i) {
        const float keep = keep_[row + i];
        MOEBIUS_UNROLL
        for (int c = 0; c < 4; ++c) mean_[i][c] *= keep;
      }
    }
    // A key that a row does not see must leave no trace, not even that of 0 times infinity.
    if (begin_ + key + kValueKeys <= least_visible_)
      add_all(row, column4, key - tile);
    else
      add_seen(row, column4, key - tile, key);
  }
  __device__ void add_all(int row, int column4, int first) {
    for (int j = 0; j < kValueKeys; j += 4) {
      Float4 p[kMeanRows];
      MOEBIUS_UNROLL
      for (int i = 0; i < kMeanRows; ++i) p[i] = p4_[(row + i) * kStride4 + (first + j) / 4];
      MOEBIUS_UNROLL
      for (int k = 0; k < 4; ++k) {
        const Float4 value = stage_[(j + k) * kColumnGroups + column4];
        MOEBIUS_UNROLL
        for (int i = 0; i < kMeanRows; ++i) {
          MOEBIUS_UNROLL
          for (int c = 0; c < 4; ++c) mean_[i][c] = fmaf(p[i].at[k], value.at[c], mean_[i][c]);
        }
      }
    }
  }
  __device__ void add_seen(int row, int column4, int first, int key) {
    int keys[kMeanRows], most = 0;
    MOEBIUS_UNROLL
    for (int i = 0; i < kMeanRows; ++i) {
      keys[i] = seen(row + i, key, kValueKeys);
      most = keys[i] > most ? keys[i] : most;
    }
    for (int j = 0; j < most; ++j) {
      const Float4 value = stage_[j * kColumnGroups + column4];
      MOEBIUS_UNROLL
      for (int i = 0; i < kMeanRows; ++i) {
        if (j >= keys[i]) continue;
        const float p = p_[(row + i) * kStride + first + j];
        MOEBIUS_UNROLL
        for (int c = 0; c < 4; ++c) mean_[i][c] = fmaf(p, value.at[c], mean_[i][c]);
      }
    }
  }

  // ---- the end of a split ----

  __device__ void close_split(int64_t split, int64_t slot) {
    const int64_t n_rows = rows_.tokens * rows_.heads();
    if (thread() < count_ && visible_[thread()] > begin_) {
      if (!task_.parts)
        join_state(split);
      else if (block_y() == 0)
        task_.part_states[slot * n_rows + index_of(thread())] = states_[thread()];
    }
    barrier();
    const int row = thread() / kColumnGroups * kMeanRows,
              column = column_begin_ + thread() % kColumnGroups * 4;
    MOEBIUS_UNROLL
    for (int i = 0; i < kMeanRows; ++i) {
      if (row + i >= count_ || column >= rows_.v_dim || visible_[row + i] <= begin_) continue;
      float* to = task_.parts ? task_.parts + (slot * n_rows + index_of(row + i)) * rows_.v_dim
                              : rows_.out_row(token_of(row + i), head_of(row + i));
      store_mean(to, column, row + i, mean_[i], split > 0);
    }
  }

  __device__ void join_state(int64_t split) {  // of row thread()
    const int row = thread();
    float before = 0.0f, now = 1.0f;
    if (split == 0)
      total_ = states_[row];
    else
      join(total_, states_[row], &before, &now);
    before_[row] = before, now_[row] = now;
    finish_[row] = visible_[row] <= begin_ + kSplit ? 1.0f / total_.sum : 1.0f;
  }

  __device__ void store_mean(float* to, int column, int row, const float (&mean)[4], bool merge) {
    if (task_.parts) {
      MOEBIUS_UNROLL
      for (int c = 0; c < 4; ++c)
        if (column + c < rows_.v_dim) to[column + c] = mean[c];
      return;
    }
    const float before = before_[row], now = now_[row], finish = finish_[row];
    MOEBIUS_UNROLL
    for (int c = 0; c < 4; ++c) {
      if (column + c >= rows_.v_dim) continue;
      const float value = merge ? to[column + c] * before + mean[c] * now : mean[c];
      to[column + c] = value * finish;
    }
  }

  __device__ void save_totals() {
    if (task_.totals && block_y() == 0 && thread() < count_) task_.totals[index_of(thread())] = total_;
  }

  const AttendTask<Source>& task_;
  const AttendRows& rows_;
  const int64_t kv_head_, row_begin_;
  const int column_begin_;
  int count_;  // rows of the block, in ascending order of what they see
  int64_t least_visible_, most_visible_;
  int64_t begin_ = 0;  // the split's first position
  int positions_ = 0;  // of it that some row sees
  int q_stride_;
  Shared<float> q_, p_, keep_, before_, now_, finish_;
  Shared<Float4> q4_, p4_, stage_;  // q_ and p_ again; keys [kTileKeys, kStride4] or values
  Shared<int64_t> slots_, visible_;
  Shared<RowState> states_;  // of this split
  Eight<Number> ahead_[kFetches];
  float mean_[kMeanRows][4];
  RowState total_{-INFINITY, 0.0f};  // of row thread()
};

template <class Source, int kRows, int kColumns>
__global__ void __launch_bounds__(kAttendThreads, 2) attend_kernel(AttendTask<Source> task) {
  const int64_t units = task.row_tiles * task.rows.kv_heads;
  const int64_t unit = block_x() % units, slot = block_x() / units;
  // The last rows see the most: they start first.
  AttendBlock<Source, kRows, kColumns> block(task, unit % task.rows.kv_heads,
                                             task.row_tiles - 1 - unit / task.rows.kv_heads);
  const int64_t split = task.split_begin + slot;
  block.run(split, task.parts ? split + 1 : task.split_end, slot);
}

// How the splits of a call are taken, and memory for it.
struct AttendPlan {
  bool many = false;  // kManyRows to a block
  int64_t wave = 0;   // splits that run beside each other; 0: each block walks through all of its own
  float* parts = nullptr;
  RowState *part_states = nullptr, *totals = nullptr;
  bool ok = false;  // there was enough memory
};
// For `calls` calls of attend() with up to `splits` each, which together take all splits.
AttendPlan plan_attend(Context& context, const AttendRows& rows, int64_t splits, int64_t calls);

// Merges the parts of splits [split_begin, split_end) into out and totals, a block for each row. totals: null
// where these are all splits.
void merge_splits(Context& context, const AttendRows& rows, int64_t split_begin, int64_t split_end,
                  const AttendPlan& plan);

template <int kRows, int kColumns, class Source>
void launch_attend(Context& context, AttendTask<Source> task, int64_t slots) {
  task.row_tiles = blocks_for(task.rows.tokens * task.rows.group, kRows);
  const bool fits = attend_layout(kRows, task.rows.k_dim).end <= kMostAttendShared;
  task.q_columns = fits ? task.rows.k_dim : kChunk;
  const Grid grid{task.row_tiles * task.rows.kv_heads * slots,
                  static_cast<int>(blocks_for(task.rows.v_dim, kColumns))};
  launch(context.compute(), attend_kernel<Source, kRows, kColumns>, grid, kAttendThreads,
         static_cast<size_t>(attend_layout(kRows, task.q_columns).end), task);
}
template <class Source>
void launch_attend(Context& context, const AttendTask<Source>& task, bool many, int64_t slots) {
  const int v_dim = task.rows.v_dim;
  if (v_dim > 128) return launch_attend<kFewRows, 512>(context, task, slots);
  if (v_dim > 64) {
    return many ? launch_attend<kManyRows, 128>(context, task, slots)
                : launch_attend<kFewRows, 128>(context, task, slots);
  }
  many ? launch_attend<kManyRows, 64>(context, task, slots)
       : launch_attend<kFewRows, 64>(context, task, slots);
}

// Takes splits [split_begin, split_end) into out: calls with ascending splits give the whole. out holds the
// weighted mean of a row when its last split has passed.
template <class Source>
void attend(Context& context, const AttendRows& rows, const Source& source, const AttendPlan& plan,
            int64_t split_begin, int64_t split_end) {
  AttendTask<Source> task;
  task.rows = rows, task.source = source;
  task.split_begin = split_begin, task.split_end = split_end;
  task.totals = plan.totals, task.parts = plan.parts, task.part_states = plan.part_states;
  if (plan.wave == 0) return launch_attend(context, task, plan.many, 1);
  for (; task.split_begin < split_end; task.split_begin += plan.wave) {
    task.split_end = std::min(split_end, task.split_begin + plan.wave);
    launch_attend(context, task, plan.many, task.split_end - task.split_begin);
    merge_splits(context, rows, task.split_begin, task.split_end, plan);
  }
}

}  // namespace moebius::cuda
