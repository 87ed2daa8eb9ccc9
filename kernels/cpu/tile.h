// Softmax attention by tiles of keys, shared by attention and mla_prefill.
//
// Keys come in tiles of kTile positions that start at absolute multiples of kTile. A row is one (token,
// head): its query, the running maximum and sum of its softmax and the accumulated value. What happens to a
// row depends only on its own query and on the positions it sees; rows are only walked together, so bits are
// the same for any grouping of rows.
#pragma once

#include <algorithm>
#include <cstdint>

namespace moebius {

inline constexpr int64_t kTile = 64;
inline constexpr int64_t kTileRows = 16;  // most rows that share the loads of a key
inline constexpr int64_t kFewRows = 4;    // the same where they do not see the same positions

// Memory that will be read next, asked for line by line while something else is computed: lines wait for
// memory in the few places that the loads of the present need too, so that sixteen in a row held those up for
// a tenth of a token's attention. The pieces of cached rows lie far apart, and in pages in any order, where
// the processor cannot foresee them.
class ReadAhead {
 public:
  void add(const void* data, int64_t bytes) {
    const char* begin = static_cast<const char*>(data);
    lines_ += bytes / kLine + 1;
    if (count_ > 0 && pieces_[count_ - 1].end == begin) {
      pieces_[count_ - 1].end += bytes;
      return;
    }
    pieces_[count_++] = {begin, begin + bytes};
  }
  // Evenly over that many multiply-adds to come.
  void spread(int64_t work) { work_a_line_ = work / std::max<int64_t>(lines_, 1); }
  // Before so many of them.
  void step(int64_t work) {
    for (done_ += work; done_ > work_a_line_ && next_ < count_; done_ -= work_a_line_) {
      Piece& piece = pieces_[next_];
      // Into the second level: the first cannot wait for as many lines.
      __builtin_prefetch(piece.begin, 0, 2);
      piece.begin += kLine;
      if (piece.begin >= piece.end) ++next_;
    }
  }

 private:
  static constexpr int64_t kLine = 64;
  struct Piece {
    const char *begin, *end;
  };
  int64_t count_ = 0, next_ = 0, lines_ = 0, work_a_line_ = 0, done_ = 0;
  Piece pieces_[2 * kTile];
};

// The inner loops, per instruction set. Those that take long step through `ahead`.
struct TileKernels {
  // out[i * ld + j] = a[i] . b[j], each [dim], i in [0, rows), j in [0, count); always in the same order.
  void (*dots)(const float* const* a, int64_t rows, const float* const* b, int64_t count, int64_t dim,
               float* out, int64_t ld, ReadAhead& ahead);

  // out[i * ld + j] = sum over c ascending of a[i][c] * b[c * kTile + j], each a[i] [dim], i in [0,
  // rows), j in [0, count), count <= kTile. b and out have whole vectors of 16: what they hold from count up
  // to the next multiple of 16 is read, and lost.
  void (*products)(const float* const* a, int64_t rows, const float* b, int64_t count, int64_t dim,
                   float* out, int64_t ld);

  // scores [count], raw dot products, become exp(scale * score - new maximum); *highest and *sum are brought
  // up to date. scores has room for kTile numbers, and those from count on are lost. Returns what earlier
  // sums and values have to be multiplied by.
  float (*softmax)(float* scores, int64_t count, float scale, float* highest, float* sum);

  // acc[i] = acc[i] * keep[i] + sum over j ascending of p[i * kTile + j] * values[j], each [dim]; rows <=
  // kTileRows.
  void (*accumulate)(float* const* acc, const float* keep, int64_t rows, const float* p,
                     const float* const* values, int64_t count, int64_t dim, ReadAhead& ahead);

  void (*widen)(const uint16_t* bf16, int64_t count, float* out);  // exact
  // out[i] = codes[i] * the BF16 scale, exact.
  void (*scale_codes)(const int8_t* codes, int64_t count, uint16_t scale, float* out);

  // dots and accumulate of BF16 rows as they lie in a cache: bits as after widen, or those of the *_rounded
  // ones below; null: not offered.
  void (*dots_bf16)(const float* const* a, int64_t rows, const uint16_t* const* b, int64_t count, int64_t dim,
                    float* out, int64_t ld, ReadAhead& ahead) = nullptr;
  void (*accumulate_bf16)(float* const* acc, const float* keep, int64_t rows, const float* p,
                          const uint16_t* const* values, int64_t count, int64_t dim,
                          ReadAhead& ahead) = nullptr;
  int64_t values_together = 2;  // that these sum before they add, from the first that a call gets
};

// The keys or values of a tile. BF16 rows are for kernels that offer to read them.
struct TileRows {
  bool narrow = false;  // bf16 is set, else wide
  const float* wide[kTile];
  const uint16_t* bf16[kTile];
};

extern const TileKernels kTileScalar;
extern const TileKernels kTileAvx2;    // only where the processor has AVX2, FMA and F16C
extern const TileKernels kTileAvx512;  // only where it has AVX-512 F, BW, VL and DQ too
// For kTileAvx512's dots_bf16 and accumulate_bf16, on queries and weights rounded to BF16; only where the
// processor has AVX-512 BF16, and up to kTileRows rows of kMostBf16Columns.
inline constexpr int64_t kMostBf16Columns = 1024;
void dots_rounded_avx512(const float* const* a, int64_t rows, const uint16_t* const* b, int64_t count,
                         int64_t dim, float* out, int64_t ld, ReadAhead& ahead);
void accumulate_rounded_avx512(float* const* acc, const float* keep, int64_t rows, const float* p,
                               const uint16_t* const* values, int64_t count, int64_t dim, ReadAhead& ahead);
// The same by AMX, of columns in whole thirty-twos; 32 values together.
void dots_rounded_amx(const float* const* a, int64_t rows, const uint16_t* const* b, int64_t count,
                      int64_t dim, float* out, int64_t ld, ReadAhead& ahead);
void accumulate_rounded_amx(float* const* acc, const float* keep, int64_t rows, const float* p,
                            const uint16_t* const* values, int64_t count, int64_t dim, ReadAhead& ahead);
float softmax_avx2(float* scores, int64_t count, float scale, float* highest, float* sum);
void scale_codes_avx2(const int8_t* codes, int64_t count, uint16_t scale, float* out);

struct AttendRow {
  const float* q = nullptr;  // [k_dim]
  float* acc = nullptr;      // [v_dim]
  int64_t visible = 0;       // it sees positions 0 .. visible - 1
  float highest = 0, sum = 0;
};

// Before the first key: nothing seen, acc zeroed.
void start_row(AttendRow& row, int64_t v_dim);

// Adds the keys of positions [begin, begin + count), count <= kTile, to every row that sees them. Rows are in
// ascending order of visible. ahead is stepped through.
void attend_tile(const TileKernels& kernels, AttendRow* rows, int64_t n_rows, const TileRows& keys,
                 const TileRows& values, int64_t begin, int64_t count, int64_t k_dim, int64_t v_dim,
                 float scale, ReadAhead& ahead);

// The same of keys that stand as columns: [k_dim, kTile].
void attend_columns(const TileKernels& kernels, AttendRow* rows, int64_t n_rows, const float* keys,
                    const float* const* values, int64_t begin, int64_t count, int64_t k_dim, int64_t v_dim,
                    float scale);

// What a row saw of later positions, joined to what it saw of earlier ones; later.acc is left as it is.
void merge_row(AttendRow& row, const AttendRow& later, int64_t v_dim);

// acc becomes the weighted mean.
void finish_row(AttendRow& row, int64_t v_dim);

}  // namespace moebius
