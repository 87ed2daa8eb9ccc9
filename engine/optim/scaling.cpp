#include <cmath>

#include <fmt/format.h>

#include "engine/optim/parts.h"

namespace moebius::optim {
namespace {

Status check_positive(const char* name, double value) {
  if (value > 0 && std::isfinite(value)) return Status();
  return invalid(fmt::format("optimizer: {} is {}, but must be above 0", name, value));
}

double row_squares(ConstMatrixView u, int64_t r) {
  double sum = 0;
  for (int64_t c = 0; c < u.cols; ++c) {
    const double value = static_cast<double>(u.row(r)[c]);
    sum += value * value;
  }
  return sum;
}

std::vector<double> column_squares(ConstMatrixView u) {
  std::vector<double> sums(static_cast<size_t>(u.cols));
  for (int64_t r = 0; r < u.rows; ++r) {
    for (int64_t c = 0; c < u.cols; ++c) {
      const double value = static_cast<double>(u.row(r)[c]);
      sums[static_cast<size_t>(c)] += value * value;
    }
  }
  return sums;
}

}  // namespace

Status Equilibrate::check() const { return check_positive("eps of equilibration", eps); }

void Equilibrate::apply(PartContext& context, MatrixView u) const {
  std::vector<double> columns(static_cast<size_t>(u.cols), 1.0);
  if (cols) columns = column_squares(u);
  for (double& sum : columns) sum = cols ? 1 / std::sqrt(sum + eps) : 1;
  context.team.blocks(u.rows, kBlockRows, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const double row_factor = rows ? 1 / std::sqrt(row_squares(u, r) + eps) : 1;
      for (int64_t c = 0; c < u.cols; ++c)
        u.row(r)[c] *= static_cast<float>(row_factor * columns[static_cast<size_t>(c)]);
    }
  });
}

Status MatchRms::check() const { return check_positive("scale", factor); }

void MatchRms::apply(PartContext& context, MatrixView u) const {
  const double side = static_cast<double>(std::max(u.rows, u.cols));
  scale(context.team, u.values(), static_cast<float>(factor * std::sqrt(side)));
}

void SpectralScale::apply(PartContext& context, MatrixView u) const {
  const double ratio = static_cast<double>(u.rows) / static_cast<double>(u.cols);
  scale(context.team, u.values(), static_cast<float>(std::sqrt(clamp ? std::max(1.0, ratio) : ratio)));
}

Status RowSecondMoment::check() const {
  if (beta < 0 || beta >= 1 || std::isnan(beta))
    return invalid(fmt::format("optimizer: beta of row moments is {}, but must be in [0, 1)", beta));
  return check_positive("eps of row moments", eps);
}

void RowSecondMoment::apply(PartContext& context, MatrixView u) const {
  float* v = context.state[0];
  const double before = sum_of_squares(context.team, u.values());
  context.team.blocks(u.rows, kBlockRows, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const double mean = row_squares(u, r) / static_cast<double>(u.cols);
      v[r] = static_cast<float>(beta * static_cast<double>(v[r]) + (1 - beta) * mean);
      const float factor = static_cast<float>(1 / (std::sqrt(static_cast<double>(v[r])) + eps));
      for (int64_t c = 0; c < u.cols; ++c) u.row(r)[c] *= factor;
    }
  });
  const double after = sum_of_squares(context.team, u.values());
  if (after > 0) scale(context.team, u.values(), static_cast<float>(std::sqrt(before / after)));
}

}  // namespace moebius::optim
