#include "kernels/cpu/tile.h"

#include <algorithm>
#include <cmath>

#include "kernels/half.h"

namespace moebius {
namespace {

void dots_scalar(const float* const* a, int64_t rows, const float* const* b, int64_t count, int64_t dim,
                 float* out, int64_t ld, ReadAhead&) {
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < count; ++j) {
      float sum = 0;
      for (int64_t c = 0; c < dim; ++c) sum += a[i][c] * b[j][c];
      out[i * ld + j] = sum;
    }
  }
}

void products_scalar(const float* const* a, int64_t rows, const float* b, int64_t count, int64_t dim,
                     float* out, int64_t ld) {
  for (int64_t i = 0; i < rows; ++i) {
    std::fill_n(out + i * ld, count, 0.0f);
    for (int64_t c = 0; c < dim; ++c)
      for (int64_t j = 0; j < count; ++j) out[i * ld + j] += a[i][c] * b[c * kTile + j];
  }
}

float softmax_scalar(float* scores, int64_t count, float scale, float* highest, float* sum) {
  const float before = *highest;
  float top = before, added = 0;
  for (int64_t j = 0; j < count; ++j) top = std::max(top, scores[j] *= scale);
  for (int64_t j = 0; j < count; ++j) added += scores[j] = std::exp(scores[j] - top);
  const float keep = std::exp(before - top);
  *highest = top;
  *sum = *sum * keep + added;
  return keep;
}

void accumulate_scalar(float* const* acc, const float* keep, int64_t rows, const float* p,
                       const float* const* values, int64_t count, int64_t dim, ReadAhead&) {
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t c = 0; c < dim; ++c) acc[i][c] *= keep[i];
    for (int64_t j = 0; j < count; ++j)
      for (int64_t c = 0; c < dim; ++c) acc[i][c] += p[i * kTile + j] * values[j][c];
  }
}

void widen_scalar(const uint16_t* bf16, int64_t count, float* out) {
  for (int64_t i = 0; i < count; ++i) out[i] = bf16_to_f32(bf16[i]);
}

void accumulate(const TileKernels& kernels, float* const* acc, const float* keep, int64_t rows,
                const float* p, const float* const* values, int64_t count, int64_t dim, ReadAhead& ahead) {
  kernels.accumulate(acc, keep, rows, p, values, count, dim, ahead);
}
void accumulate(const TileKernels& kernels, float* const* acc, const float* keep, int64_t rows,
                const float* p, const uint16_t* const* values, int64_t count, int64_t dim, ReadAhead& ahead) {
  kernels.accumulate_bf16(acc, keep, rows, p, values, count, dim, ahead);
}

void scale_codes_scalar(const int8_t* codes, int64_t count, uint16_t scale, float* out) {
  const float factor = bf16_to_f32(scale);
  for (int64_t i = 0; i < count; ++i) out[i] = codes[i] * factor;
}

// Up to kTileRows rows, whose raw scores [row, kTile] are there: softmax, and the values that all of them see
// walked together, the rest row by row.
template <class T>
void attend_rows(const TileKernels& kernels, AttendRow* rows, int64_t n_rows, float* scores,
                 const T* const* values, int64_t begin, int64_t count, int64_t v_dim, float scale,
                 ReadAhead& ahead) {
  float* acc[kTileRows] = {};
  float keep[kTileRows] = {};
  const auto seen = [&](int64_t r) { return std::clamp<int64_t>(rows[r].visible - begin, 0, count); };
  // Where there is more, as many as kernels take together, from the first that a row sees on.
  const int64_t together = kernels.values_together;
  const int64_t common = seen(0) == seen(n_rows - 1) ? seen(0) : seen(0) / together * together;
  for (int64_t r = 0; r < n_rows; ++r) {
    acc[r] = rows[r].acc;
    if (seen(r) > 0)
      keep[r] = kernels.softmax(scores + r * kTile, seen(r), scale, &rows[r].highest, &rows[r].sum);
  }
  if (common > 0) accumulate(kernels, acc, keep, n_rows, scores, values, common, v_dim, ahead);
  for (int64_t r = 0; r < n_rows; ++r) {
    const float rest_keep = common > 0 ? 1.0f : keep[r];
    if (seen(r) > common)
      accumulate(kernels, acc + r, &rest_keep, 1, scores + r * kTile + common, values + common,
                 seen(r) - common, v_dim, ahead);
  }
}

// body(first row, rows, their queries, room for their scores), for rows that see the same of the positions
// [begin, begin + count), or for a few.
template <class Body>
void for_each_rows(AttendRow* rows, int64_t n_rows, int64_t begin, int64_t count, const Body& body) {
  const auto seen = [&](int64_t r) { return std::clamp<int64_t>(rows[r].visible - begin, 0, count); };
  alignas(64) float scores[kTileRows * kTile] = {};
  for (int64_t first = 0, n; first < n_rows; first += n) {
    n = std::min(kTileRows, n_rows - first);
    if (seen(first) != seen(first + n - 1)) n = std::min(n, kFewRows);
    const float* q[kTileRows] = {};
    for (int64_t r = 0; r < n; ++r) q[r] = rows[first + r].q;
    body(rows + first, n, q, scores);
  }
}

}  // namespace

const TileKernels kTileScalar = {dots_scalar,       products_scalar, softmax_scalar,
                                 accumulate_scalar, widen_scalar,    scale_codes_scalar};

void start_row(AttendRow& row, int64_t v_dim) {
  row.highest = -INFINITY, row.sum = 0;
  std::fill_n(row.acc, v_dim, 0.0f);
}

void attend_tile(const TileKernels& kernels, AttendRow* rows, int64_t n_rows, const TileRows& keys,
                 const TileRows& values, int64_t begin, int64_t count, int64_t k_dim, int64_t v_dim,
                 float scale, ReadAhead& ahead) {
  const auto dots = [&](const float* const* q, int64_t n, int64_t first, int64_t some, float* scores) {
    if (keys.narrow)
      kernels.dots_bf16(q, n, keys.bf16 + first, some, k_dim, scores, kTile, ahead);
    else
      kernels.dots(q, n, keys.wide + first, some, k_dim, scores, kTile, ahead);
  };
  for_each_rows(
      rows, n_rows, begin, count, [&](AttendRow* some, int64_t n, const float* const* q, float* scores) {
        const auto seen = [&](int64_t r) { return std::clamp<int64_t>(some[r].visible - begin, 0, count); };
        const int64_t common = seen(0);  // walked together
        dots(q, n, 0, common, scores);
        for (int64_t r = 0; r < n; ++r) dots(q + r, 1, common, seen(r) - common, scores + r * kTile + common);
        if (values.narrow)
          attend_rows(kernels, some, n, scores, values.bf16, begin, count, v_dim, scale, ahead);
        else
          attend_rows(kernels, some, n, scores, values.wide, begin, count, v_dim, scale, ahead);
      });
}

void attend_columns(const TileKernels& kernels, AttendRow* rows, int64_t n_rows, const float* keys,
                    const float* const* values, int64_t begin, int64_t count, int64_t k_dim, int64_t v_dim,
                    float scale) {
  ReadAhead nothing;
  for_each_rows(rows, n_rows, begin, count,
                [&](AttendRow* some, int64_t n, const float* const* q, float* scores) {
                  const int64_t most = std::clamp<int64_t>(some[n - 1].visible - begin, 0, count);
                  kernels.products(q, n, keys, most, k_dim, scores, kTile);
                  attend_rows(kernels, some, n, scores, values, begin, count, v_dim, scale, nothing);
                });
}

void merge_row(AttendRow& row, const AttendRow& later, int64_t v_dim) {
  const float top = std::max(row.highest, later.highest);
  const float a = std::exp(row.highest - top), b = std::exp(later.highest - top);
  row.highest = top;
  row.sum = row.sum * a + later.sum * b;
  for (int64_t c = 0; c < v_dim; ++c) row.acc[c] = row.acc[c] * a + later.acc[c] * b;
}

void finish_row(AttendRow& row, int64_t v_dim) {
  const float factor = 1.0f / row.sum;
  for (int64_t c = 0; c < v_dim; ++c) row.acc[c] *= factor;
}

}  // namespace moebius
