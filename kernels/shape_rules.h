// What the doors of the operations ask of shapes, once for ops_check.cpp and grad_ops_check.cpp.
#pragma once

#include <initializer_list>
#include <string>

#include "kernels/ops.h"

// The text is made only when the rule is broken.
#define MOEBIUS_NEED(condition) MOEBIUS_CHECK(condition, describe())

namespace moebius {

// float32 with dims as given (-1: any), numbers of the last dimension side by side.
bool is_f32(const Tensor& t, std::initializer_list<int64_t> dims);
bool empty_or_f32(const Tensor& t, std::initializer_list<int64_t> dims);
// I32, numbers of the last of two dimensions side by side.
bool is_ids(const Tensor& t, int ndim);
// Every id in [lowest, limit). Ids in device memory cannot be looked at from here.
bool ids_within(const Tensor& ids, int32_t lowest, int64_t limit);

// rows and cols as given (-1: any); an adapter has the shapes of quant.h.
bool is_adaptable(const Matrix& w, int64_t rows, int64_t cols);
// And no adapter that the operation would have to add.
bool is_matrix(const Matrix& w, int64_t rows, int64_t cols);
bool fits(const Lora& lora, int64_t rows, int64_t cols);
// Aborts unless the experts that ids name work on `hidden` numbers; what: the operation and its arguments.
void check_experts(const Tensor& ids, const ExpertWeights* experts, int64_t hidden, const std::string& what);

}  // namespace moebius
