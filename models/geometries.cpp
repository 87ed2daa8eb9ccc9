// The published configurations, facts only:
// https://huggingface.co/<organisation>/<model>/blob/main/config.json.
#include "models/geometries.h"

#include <sys/stat.h>

#include <fmt/format.h>

#include "models/config.h"
#include "models/file_io.h"

namespace moebius {
namespace {

// clang-format off
constexpr Geometry kGeometries[] = {
{"deepseek-v2-lite", R"json({
  "architectures": ["DeepseekV2ForCausalLM"], "model_type": "deepseek_v2", "attention_bias": false,
  "hidden_act": "silu", "initializer_range": 0.02, "tie_word_embeddings": false,
  "moe_layer_freq": 1, "scoring_func": "softmax", "topk_method": "greedy", "norm_topk_prob": false,
  "torch_dtype": "bfloat16", "hidden_size": 2048, "num_hidden_layers": 27,
  "first_k_dense_replace": 1, "num_attention_heads": 16, "num_key_value_heads": 16,
  "q_lora_rank": null, "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64,
  "v_head_dim": 128, "n_routed_experts": 64, "n_shared_experts": 2, "num_experts_per_tok": 6,
  "n_group": 1, "topk_group": 1, "moe_intermediate_size": 1408, "intermediate_size": 10944,
  "routed_scaling_factor": 1.0, "rope_theta": 10000,
  "rope_scaling": {"type": "yarn", "factor": 40, "original_max_position_embeddings": 4096, "beta_fast": 32, "beta_slow": 1, "mscale": 0.707, "mscale_all_dim": 0.707},
  "rms_norm_eps": 1e-06, "max_position_embeddings": 163840, "vocab_size": 102400,
  "bos_token_id": 100000, "eos_token_id": 100001
})json"},
{"deepseek-v3", R"json({
  "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3", "attention_bias": false,
  "hidden_act": "silu", "initializer_range": 0.02, "tie_word_embeddings": false,
  "moe_layer_freq": 1, "scoring_func": "sigmoid", "topk_method": "noaux_tc", "norm_topk_prob": true,
  "torch_dtype": "bfloat16", "num_nextn_predict_layers": 1, "hidden_size": 7168,
  "num_hidden_layers": 61, "first_k_dense_replace": 3, "num_attention_heads": 128,
  "num_key_value_heads": 128, "q_lora_rank": 1536, "kv_lora_rank": 512, "qk_nope_head_dim": 128,
  "qk_rope_head_dim": 64, "v_head_dim": 128, "n_routed_experts": 256, "n_shared_experts": 1,
  "num_experts_per_tok": 8, "n_group": 8, "topk_group": 4, "moe_intermediate_size": 2048,
  "intermediate_size": 18432, "routed_scaling_factor": 2.5, "rope_theta": 10000.0,
  "rope_scaling": {"type": "yarn", "factor": 40, "original_max_position_embeddings": 4096, "beta_fast": 32, "beta_slow": 1, "mscale": 1.0, "mscale_all_dim": 1.0},
  "rms_norm_eps": 1e-06, "max_position_embeddings": 163840, "vocab_size": 129280, "bos_token_id": 0,
  "eos_token_id": 1,
  "quantization_config": {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}
})json"},
{"glm-4.5-air", R"json({
  "architectures": ["Glm4MoeForCausalLM"], "model_type": "glm4_moe", "attention_bias": true,
  "use_qk_norm": false, "partial_rotary_factor": 0.5, "hidden_act": "silu",
  "initializer_range": 0.02, "tie_word_embeddings": false, "norm_topk_prob": true,
  "torch_dtype": "bfloat16", "hidden_size": 4096, "num_hidden_layers": 46,
  "first_k_dense_replace": 1, "num_attention_heads": 96, "num_key_value_heads": 8, "head_dim": 128,
  "n_routed_experts": 128, "n_shared_experts": 1, "num_experts_per_tok": 8, "n_group": 1,
  "topk_group": 1, "moe_intermediate_size": 1408, "intermediate_size": 10944,
  "routed_scaling_factor": 1.0, "rope_theta": 1000000, "rope_scaling": null, "rms_norm_eps": 1e-05,
  "max_position_embeddings": 131072, "vocab_size": 151552, "num_nextn_predict_layers": 1
})json"},
{"glm-4.7-flash", R"json({
  "architectures": ["Glm4MoeLiteForCausalLM"], "model_type": "glm4_moe_lite",
  "attention_bias": false, "hidden_act": "silu", "initializer_range": 0.02,
  "tie_word_embeddings": false, "norm_topk_prob": true, "torch_dtype": "bfloat16",
  "hidden_size": 2048, "num_hidden_layers": 47, "first_k_dense_replace": 1,
  "num_attention_heads": 20, "num_key_value_heads": 20, "q_lora_rank": 768, "kv_lora_rank": 512,
  "qk_nope_head_dim": 192, "qk_rope_head_dim": 64, "v_head_dim": 256, "n_routed_experts": 64,
  "n_shared_experts": 1, "num_experts_per_tok": 4, "n_group": 1, "topk_group": 1,
  "topk_method": "noaux_tc", "moe_intermediate_size": 1536, "intermediate_size": 10240,
  "routed_scaling_factor": 1.8, "rope_theta": 1000000.0, "rope_interleave": true,
  "rms_norm_eps": 1e-05, "max_position_embeddings": 202752, "vocab_size": 154880
})json"},
{"kimi-k2", R"json({
  "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3", "attention_bias": false,
  "hidden_act": "silu", "initializer_range": 0.02, "tie_word_embeddings": false,
  "moe_layer_freq": 1, "scoring_func": "sigmoid", "topk_method": "noaux_tc", "norm_topk_prob": true,
  "torch_dtype": "bfloat16", "num_nextn_predict_layers": 0, "hidden_size": 7168,
  "num_hidden_layers": 61, "first_k_dense_replace": 1, "num_attention_heads": 64,
  "num_key_value_heads": 64, "q_lora_rank": 1536, "kv_lora_rank": 512, "qk_nope_head_dim": 128,
  "qk_rope_head_dim": 64, "v_head_dim": 128, "n_routed_experts": 384, "n_shared_experts": 1,
  "num_experts_per_tok": 8, "n_group": 1, "topk_group": 1, "moe_intermediate_size": 2048,
  "intermediate_size": 18432, "routed_scaling_factor": 2.827, "rope_theta": 50000.0,
  "rope_scaling": {"type": "yarn", "factor": 32.0, "original_max_position_embeddings": 4096, "beta_fast": 1.0, "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0},
  "rms_norm_eps": 1e-06, "max_position_embeddings": 131072, "vocab_size": 163840,
  "bos_token_id": 163584, "eos_token_id": 163585
})json"},
{"moonlight-16b-a3b", R"json({
  "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3", "attention_bias": false,
  "hidden_act": "silu", "initializer_range": 0.02, "tie_word_embeddings": false,
  "moe_layer_freq": 1, "scoring_func": "sigmoid", "topk_method": "noaux_tc", "norm_topk_prob": true,
  "torch_dtype": "bfloat16", "num_nextn_predict_layers": 0, "hidden_size": 2048,
  "num_hidden_layers": 27, "first_k_dense_replace": 1, "num_attention_heads": 16,
  "num_key_value_heads": 16, "q_lora_rank": null, "kv_lora_rank": 512, "qk_nope_head_dim": 128,
  "qk_rope_head_dim": 64, "v_head_dim": 128, "n_routed_experts": 64, "n_shared_experts": 2,
  "num_experts_per_tok": 6, "n_group": 1, "topk_group": 1, "moe_intermediate_size": 1408,
  "intermediate_size": 11264, "routed_scaling_factor": 2.446, "rope_theta": 50000.0,
  "rope_scaling": null, "rms_norm_eps": 1e-05, "max_position_embeddings": 8192,
  "vocab_size": 163840, "bos_token_id": 163584, "eos_token_id": 163585
})json"},
{"qwen3-30b-a3b", R"json({
  "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "attention_bias": false,
  "hidden_act": "silu", "initializer_range": 0.02, "tie_word_embeddings": false,
  "norm_topk_prob": true, "torch_dtype": "bfloat16", "hidden_size": 2048, "num_hidden_layers": 48,
  "num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 128, "num_experts": 128,
  "num_experts_per_tok": 8, "decoder_sparse_step": 1, "mlp_only_layers": [],
  "moe_intermediate_size": 768, "intermediate_size": 6144, "rope_theta": 1000000.0,
  "rope_scaling": null, "rms_norm_eps": 1e-06, "max_position_embeddings": 40960,
  "vocab_size": 151936, "bos_token_id": 151643, "eos_token_id": 151645
})json"},
};
// clang-format on

bool is_folder(const std::string& path) {
  struct stat info {};
  return stat(path.c_str(), &info) == 0 && S_ISDIR(info.st_mode);
}

}  // namespace

std::span<const Geometry> geometries() { return kGeometries; }

std::string geometry_names() {
  std::string names;
  for (const Geometry& g : kGeometries) names += fmt::format("{}{}", names.empty() ? "" : ", ", g.name);
  return names;
}

Result<std::string> geometry_config(const std::string& name_or_path) {
  for (const Geometry& g : kGeometries) {
    if (g.name == name_or_path) return std::string(g.config);
  }
  const bool folder = is_folder(name_or_path);
  if (folder || name_or_path.ends_with(".json")) {
    return read_text_file(folder ? name_or_path + "/config.json" : name_or_path, kMaxConfigBytes);
  }
  return not_found(fmt::format("no geometry '{}'; name one of {}, or a config.json file",
                               printable(name_or_path), geometry_names()));
}

}  // namespace moebius
