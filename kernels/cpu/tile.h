// Softmax attention by tiles of keys, shared by attention and mla_prefill.
//
// Keys come in tiles of kTile positions that start at absolute multiples of kTile. A row is one (token,
// head): its query, the running maximum and sum of its softmax and the accumulated value. What happens to a
// row depends only on its own query and on the positions it sees; rows are only walked together, so bits are
// the same for any grouping of rows.
#pragma once

#include <cstdint>

namespace moebius {

inline constexpr int64_t kTile = 64;
inline constexpr int64_t kTileRows = 4;  // rows that share the loads of a key

// The inner loops, per instruction set.
struct TileKernels {
  // out[i * ld + j] = a[i] . b[j], each [dim], i in [0, rows), j in [0, count); always in the same order.
  void (*dots)(const float* const* a, int64_t rows, const float* const* b, int64_t count, int64_t dim,
               float* out, int64_t ld);

  // out[i * ld + j] = sum over c ascending of a[i][c] * b[c * kTile + j], each a[i] [dim], i in [0,
  // rows), j in [0, count), count <= kTile. b and out have whole vectors of 8: what they hold from count up
  // to the next multiple of 8 is read, and lost.
  void (*products)(const float* const* a, int64_t rows, const float* b, int64_t count, int64_t dim,
                   float* out, int64_t ld);

  // scores [count], raw dot products, become exp(scale * score - new maximum); *highest and *sum are brought
  // up to date. scores has room for kTile numbers, and those from count on are lost. Returns what earlier
  // sums and values have to be multiplied by.
  float (*softmax)(float* scores, int64_t count, float scale, float* highest, float* sum);

  // acc[i] = acc[i] * keep[i] + sum over j ascending of p[i * kTile + j] * values[j], each [dim]; rows <=
  // kTileRows.
  void (*accumulate)(float* const* acc, const float* keep, int64_t rows, const float* p,
                     const float* const* values, int64_t count, int64_t dim);

  void (*widen)(const uint16_t* bf16, int64_t count, float* out);  // exact
};

extern const TileKernels kTileScalar;
extern const TileKernels kTileAvx2;  // only where the processor has AVX2, FMA and F16C

struct AttendRow {
  const float* q = nullptr;  // [k_dim]
  float* acc = nullptr;      // [v_dim]
  int64_t visible = 0;       // it sees positions 0 .. visible - 1
  float highest = 0, sum = 0;
};

// Before the first key: nothing seen, acc zeroed.
void start_row(AttendRow& row, int64_t v_dim);

// Adds the keys of positions [begin, begin + count), count <= kTile, to every row that sees them. Rows are in
// ascending order of visible.
void attend_tile(const TileKernels& kernels, AttendRow* rows, int64_t n_rows, const float* const* keys,
                 const float* const* values, int64_t begin, int64_t count, int64_t k_dim, int64_t v_dim,
                 float scale);

// The same of keys that stand as columns: [k_dim, kTile].
void attend_columns(const TileKernels& kernels, AttendRow* rows, int64_t n_rows, const float* keys,
                    const float* const* values, int64_t begin, int64_t count, int64_t k_dim, int64_t v_dim,
                    float scale);

// What a row saw of later positions, joined to what it saw of earlier ones; later.acc is left as it is.
void merge_row(AttendRow& row, const AttendRow& later, int64_t v_dim);

// acc becomes the weighted mean.
void finish_row(AttendRow& row, int64_t v_dim);

}  // namespace moebius
