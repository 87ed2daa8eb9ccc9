// AdaptedWeights: a model's weights with low-rank adapters hung on them, for running and for training.
//
// The base stays where and as it is. Matrices that one product reads get a Lora; MLA's kv_b, which absorbed
// and expanded attention read in different ways, and the router, whose logits must not depend on the batch,
// get a float32 copy that holds base and adapter together (Lora::merged).
#pragma once

#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "kernels/parallel.h"
#include "models/peft.h"
#include "models/weights.h"

namespace moebius {

struct AdaptedMatrix {
  AdapterFactors factors;
  Role role = Role::kAttention;
  Matrix base;
  Lora lora;                  // views of factors, and of gradients when training
  std::vector<float> da, db;  // gradients, or empty
  std::vector<float> merged;  // [out, in], or empty
};

// Whether the matrix of this name is read in several ways.
bool must_merge(const std::string& module, Role role);

class AdaptedWeights {
 public:
  // base must outlive this. kInvalid: a module that is no matrix of the model, comes twice, has another
  // shape, or is the embedding. gradients: room for those of the factors.
  static Result<std::unique_ptr<AdaptedWeights>> create(const ModelConfig& config, const Weights& base,
                                                        std::vector<AdapterFactors> factors, bool gradients);

  const Weights& weights() const { return weights_; }
  std::deque<AdaptedMatrix>& matrices() { return matrices_; }
  const std::deque<AdaptedMatrix>& matrices() const { return matrices_; }
  int64_t bytes() const;                         // of factors, gradients and merged copies
  void merge_again(ThreadPool* pool = nullptr);  // after factors changed

 private:
  AdaptedWeights() = default;
  Weights weights_;
  std::deque<AdaptedMatrix> matrices_;  // lora is pointed at
};

// out [end - begin, cols] = rows [begin, end) of w + scale b a in float32, for any format of w.
void merge_adapter(const Matrix& w, const AdapterFactors& factors, int64_t begin, int64_t end, float* out);

}  // namespace moebius
