// Weights: views of a checkpoint's tensors by role, in place.
//
// visit_weights() names every tensor exactly once, with its role and the shape the configuration asks for;
// loading, counting, writing and later placing all go through it.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "models/checkpoint.h"
#include "models/config.h"

namespace moebius {

// SwiGLU feed-forward; width = gate.rows.
using FfnWeights = ExpertWeights;

struct LayerWeights {
  Tensor attention_norm, ffn_norm;     // [hidden]
  Matrix q;                            // [heads * qk_dim, hidden]; MLA without q_lora, and GQA
  Matrix q_a, q_b;                     // [q_lora, hidden], [heads * qk_dim, q_lora]
  Tensor q_a_norm;                     // [q_lora]
  Matrix kv_a, kv_b;                   // [kv_lora + rope, hidden], [heads * (nope + v_dim), kv_lora]
  Tensor kv_a_norm;                    // [kv_lora]
  Matrix k, v;                         // GQA: [kv_heads * head_dim, hidden]
  Tensor q_bias, k_bias, v_bias;       // GQA, or empty. MLA: k_bias is kv_a's, q_bias is q_a's
  Tensor q_norm, k_norm;               // [head_dim] or empty
  Matrix o;                            // [hidden, heads * value_dim]
  Tensor o_bias;                       // [hidden] or empty
  FfnWeights ffn;                      // the dense feed-forward, or the shared experts; empty if neither
  Matrix router;                       // [n_experts + zero_experts, hidden]; empty in a dense layer
  Tensor router_bias;                  // [n_experts + zero_experts] or empty
  std::vector<ExpertWeights> experts;  // [n_experts], empty in a dense layer
};

struct Weights {
  Matrix embed;       // [vocab, hidden]
  Tensor final_norm;  // [hidden]
  Matrix head;        // [vocab, hidden]; the embedding again when tied
  std::vector<LayerWeights> layers;
};

// Roles decide what `synth` and `quantize` do with a tensor.
enum class Role : uint8_t { kEmbed, kHead, kAttention, kDense, kShared, kExpert, kRouter };
inline constexpr size_t kRoleCount = 7;

struct WeightVisitor {
  // name without ".weight".
  std::function<Status(const std::string& name, Role role, int64_t rows, int64_t cols, Matrix& w)> matrix;
  // name in full ("....weight", "....bias", "....e_score_correction_bias"), float32 after loading.
  std::function<Status(const std::string& name, int64_t size, Tensor& v)> vector;
};

// Visits all tensors in file order (embedding, layers ascending, final norm, head), sizing weights.layers and
// experts first. Stops at the first status that is not ok.
Status visit_weights(const ModelConfig& config, Weights& weights, const WeightVisitor& visitor);

// A checkpoint opened as a model: the mapped files, their views, and the few converted vectors (norms,
// biases).
class ModelFiles {
 public:
  // Errors name the tensor, what was expected and the remedy. Nothing the size of the model is read or
  // copied.
  static Result<std::unique_ptr<ModelFiles>> open(const std::string& dir);

  const ModelConfig& config() const { return config_; }
  const Weights& weights() const { return weights_; }
  const Checkpoint& checkpoint() const { return *checkpoint_; }
  const std::vector<std::string>& notes() const {
    return notes_;
  }  // lines for the log: skipped MTP layers, ...

 private:
  ModelFiles() = default;
  ModelConfig config_;
  Weights weights_;
  std::unique_ptr<Checkpoint> checkpoint_;
  std::vector<Buffer> vectors_;
  std::vector<std::string> notes_;
};

}  // namespace moebius
