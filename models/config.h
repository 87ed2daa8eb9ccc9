// ModelConfig: the immutable facts of a model, read from config.json and validated.
//
// An architecture is a row of data (architectures() in config.cpp), not a class: what differs between
// families is a field here, and one forward pass reads the fields.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/ops.h"
#include "kernels/status.h"

namespace moebius {

inline constexpr size_t kMaxConfigBytes = size_t{16} << 20;  // of a config.json

enum class AttentionKind : uint8_t { kMla, kGqa };

// Rotary embedding, with YaRN (arXiv 2309.00071) when factor > 1.
struct RotaryConfig {
  int64_t dim = 0;  // rotated numbers per head, even
  double theta = 10000;
  bool interleaved = false;  // pairs (2i, 2i + 1); else (i, i + dim / 2)
  bool yarn = false;
  double factor = 1;
  double original_context = 0;
  double beta_fast = 32, beta_slow = 1;
  double mscale = 1;
  double mscale_all_dim = 0;
  double attention_factor = 0;  // given in the file; 0: derived from the mscales
};

struct MoeConfig {
  int64_t n_experts = 0;     // 0: a dense model
  int64_t zero_experts = 0;  // ZEDA: extra router rows after the real ones, whose output is 0
  int64_t top_k = 0;
  int64_t n_group = 1, topk_group = 1;
  Scoring scoring = Scoring::kSoftmax;
  GroupScore group_score = GroupScore::kNone;
  bool selection_bias = false;               // e_score_correction_bias
  bool normalize = false;                    // norm_topk_prob
  double scale = 1;                          // routed_scaling_factor
  int64_t width = 0;                         // moe_intermediate_size, the widest expert
  int64_t shared_width = 0;                  // of the shared experts together; 0: none
  std::vector<std::vector<int64_t>> widths;  // ragged: per MoE layer, per expert; empty: all `width`
  // moe_expert_halves (moebius tenp --halves): an expert of the model this was made from is 2e and 2e + 1,
  // with the neurons that do more and those that do less, and equal rows in the router.
  bool halves = false;
};

struct ModelConfig {
  std::string model_type;
  AttentionKind attention = AttentionKind::kGqa;
  int64_t layers = 0, hidden = 0, vocab = 0, context = 0;
  int64_t heads = 0, kv_heads = 0;
  int64_t head_dim = 0;                   // GQA
  int64_t q_lora = 0, kv_lora = 0;        // MLA; q_lora 0: one full q projection
  int64_t nope = 0, rope = 0, v_dim = 0;  // MLA, per head
  bool qk_norm = false;                   // RMSNorm of each q and k head before the rotation
  bool qkv_bias = false, o_bias = false;
  float softmax_scale = 0;  // YaRN's factor included
  RotaryConfig rotary;
  float norm_eps = 1e-6f;
  float lora_norm_eps = 1e-6f;  // of the norms inside MLA's low-rank projections
  bool tied_head = false;
  int64_t dense_width = 0;      // intermediate_size
  std::vector<bool> moe_layer;  // [layers]
  MoeConfig moe;
  int64_t mtp_layers = 0;  // multi-token-prediction layers in the file, skipped
  std::vector<int32_t> eos_ids;
  bool random_weights = false;  // written by `moebius synth`: answers are noise

  // How config.json says that weights are quantised; the tensors themselves tell which ones are, and how
  // finely.
  enum class Quant : uint8_t { kNone, kFp8, kPacked };
  Quant quant = Quant::kNone;

  // Numbers cached per token and layer: MLA latent + rotary key, GQA keys then values.
  int64_t cache_width() const {
    return attention == AttentionKind::kMla ? kv_lora + rope : 2 * kv_heads * head_dim;
  }
  int64_t qk_dim() const { return attention == AttentionKind::kMla ? nope + rope : head_dim; }
  int64_t value_dim() const { return attention == AttentionKind::kMla ? v_dim : head_dim; }

  // kInvalid and kUnsupported name the field and the remedy. origin: the file, for messages.
  static Result<ModelConfig> parse(std::string_view json, const std::string& origin);
  static Result<ModelConfig> load(const std::string& dir);  // dir/config.json
};

// The angles of YaRN or plain RoPE: inverse frequencies [dim / 2] and the factor on cos and sin.
struct RotaryTable {
  std::vector<float> inverse_frequency;
  float magnitude = 1;
};
RotaryTable rotary_table(const RotaryConfig& config);

// generation_config.json: stop ids and sampling defaults; an absent file is not an error.
struct GenerationConfig {
  std::vector<int32_t> eos_ids;
  double temperature = 1;
  int64_t top_k = 0;  // 0: off
  double top_p = 1, min_p = 0;
  double repetition_penalty = 1;
  bool do_sample = true;
  static Result<GenerationConfig> load(const std::string& dir, const ModelConfig& config);
};

}  // namespace moebius
