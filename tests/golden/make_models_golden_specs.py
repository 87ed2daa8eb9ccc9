"""The golden models: configs spelled as the published ones are, at tiny sizes."""

from make_models_golden_formats import fp8_config, packed_config
from make_models_golden_tokenizer import write_tokenizer

MLA = {"attention_bias": False, "hidden_act": "silu", "initializer_range": 0.02, "tie_word_embeddings": False,
       "moe_layer_freq": 1, "num_attention_heads": 4, "num_key_value_heads": 4, "q_lora_rank": None,
       "kv_lora_rank": 32, "qk_nope_head_dim": 16, "qk_rope_head_dim": 16, "v_head_dim": 16}


def yarn(factor, length, mscale, all_dim, **rest):
    return {"type": "yarn", "factor": factor, "original_max_position_embeddings": length, "beta_fast": 32,
            "beta_slow": 1, "mscale": mscale, "mscale_all_dim": all_dim} | rest


DEEPSEEK_V3 = {
    "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3", **MLA, "scoring_func": "sigmoid",
    "topk_method": "noaux_tc", "norm_topk_prob": True, "torch_dtype": "float32", "num_nextn_predict_layers": 0,
    "hidden_size": 64, "num_hidden_layers": 3, "first_k_dense_replace": 1, "n_routed_experts": 8,
    "n_shared_experts": 2, "num_experts_per_tok": 3, "n_group": 1, "topk_group": 1, "moe_intermediate_size": 32,
    "intermediate_size": 112, "routed_scaling_factor": 2.446, "rope_theta": 50000.0, "rope_scaling": None,
    "rms_norm_eps": 1e-05, "max_position_embeddings": 2048, "vocab_size": 128, "bos_token_id": 1,
    "eos_token_id": 2}

DEEPSEEK_V2 = {
    "architectures": ["DeepseekV2ForCausalLM"], "model_type": "deepseek_v2", **MLA, "scoring_func": "softmax",
    "topk_method": "greedy", "norm_topk_prob": False, "torch_dtype": "float32", "hidden_size": 64,
    "num_hidden_layers": 2, "first_k_dense_replace": 1, "n_routed_experts": 8, "n_shared_experts": 2,
    "num_experts_per_tok": 3, "n_group": 1, "topk_group": 1, "moe_intermediate_size": 24,
    "intermediate_size": 88, "routed_scaling_factor": 1.0, "rope_theta": 10000,
    "rope_scaling": yarn(40, 32, 0.707, 0.707), "rms_norm_eps": 1e-06, "max_position_embeddings": 1280,
    "vocab_size": 128, "bos_token_id": 1, "eos_token_id": 2}

GQA = {"hidden_act": "silu", "initializer_range": 0.02, "tie_word_embeddings": False, "hidden_size": 64,
       "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "moe_intermediate_size": 32,
       "intermediate_size": 96, "rope_theta": 1000000.0, "rope_scaling": None, "vocab_size": 128}

QWEN3_MOE = {
    "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "attention_bias": False, **GQA,
    "norm_topk_prob": True, "torch_dtype": "float32", "head_dim": 24, "num_experts": 8, "num_experts_per_tok": 3,
    "decoder_sparse_step": 1, "mlp_only_layers": [], "rms_norm_eps": 1e-06,
    "max_position_embeddings": 4096, "bos_token_id": 1, "eos_token_id": 2}

GLM4_MOE = {
    "architectures": ["Glm4MoeForCausalLM"], "model_type": "glm4_moe", "attention_bias": True,
    "use_qk_norm": False, "partial_rotary_factor": 0.5, **GQA, "norm_topk_prob": True, "torch_dtype": "float32",
    "first_k_dense_replace": 1, "head_dim": 32, "n_routed_experts": 8, "n_shared_experts": 1,
    "num_experts_per_tok": 3, "n_group": 1, "topk_group": 1, "routed_scaling_factor": 1.0,
    "rms_norm_eps": 1e-05, "max_position_embeddings": 4096, "num_nextn_predict_layers": 0}

GLM4_MOE_LITE = {
    "architectures": ["Glm4MoeLiteForCausalLM"], "model_type": "glm4_moe_lite", **MLA, "q_lora_rank": 48,
    "kv_lora_rank": 40, "qk_nope_head_dim": 24, "v_head_dim": 32, "norm_topk_prob": True,
    "torch_dtype": "float32", "hidden_size": 64, "num_hidden_layers": 2, "first_k_dense_replace": 1,
    "n_routed_experts": 8, "n_shared_experts": 1, "num_experts_per_tok": 3, "n_group": 1, "topk_group": 1,
    "topk_method": "noaux_tc", "moe_intermediate_size": 24, "intermediate_size": 80,
    "routed_scaling_factor": 1.8, "rope_theta": 1000000.0, "rope_interleave": True, "rms_norm_eps": 1e-05,
    "max_position_embeddings": 4096, "vocab_size": 128, "bos_token_id": 1, "eos_token_id": 2}

# Changes that several models share
SMALL = {"num_hidden_layers": 2, "kv_lora_rank": 40, "n_shared_experts": 1}
WIDE = {"hidden_size": 160, "num_hidden_layers": 2, "n_routed_experts": 4, "num_experts_per_tok": 2,
        "moe_intermediate_size": 136, "intermediate_size": 144, "n_shared_experts": 1}
GROUPED_32 = {"torch_dtype": "bfloat16", "hidden_size": 96, "moe_intermediate_size": 64,
              "intermediate_size": 160, "num_hidden_layers": 2}
ZEDA = {"torch_dtype": "bfloat16", "num_hidden_layers": 2,
        "zce_nums": [4], "zce_types": ["zero"], "use_zce_mask": True}
KIMI_IGNORE = ["lm_head", "re:.*self_attn.*", "re:.*shared_experts.*", r"re:.*mlp\.(gate|up|gate_up|down)_proj.*"]
ALL_IGNORE = ["lm_head", r"re:.*mlp\.gate$"]


def spec(name, config, *changes, seed=1, dtype="F32", tokens=56, margin=0.01, **rest):
    for change in changes:
        config = config | change
    return {"name": name, "config": config, "seed": seed, "dtype": dtype, "tokens": tokens, "margin": margin} | rest


SPECS = [
    spec("deepseek_v3_tiny", DEEPSEEK_V3, {"vocab_size": 512, "bos_token_id": 505, "eos_token_id": 506, "moebius_random_weights": True},
         tokenizer=write_tokenizer),
    spec("deepseek_v2_lite", DEEPSEEK_V2),
    spec("deepseek_v2_grouped", DEEPSEEK_V2, {
        "q_lora_rank": 24, "n_routed_experts": 16, "num_experts_per_tok": 4, "n_group": 4, "topk_group": 2,
        "topk_method": "group_limited_greedy", "moe_intermediate_size": 16, "routed_scaling_factor": 4.0,
        "n_shared_experts": 1, "rope_scaling": yarn(40, 32, 1.0, 0.707)}),
    spec("qwen3_moe", QWEN3_MOE),
    spec("glm4_moe", GLM4_MOE),
    spec("glm4_moe_qk_norm", GLM4_MOE, {"use_qk_norm": True, "routed_scaling_factor": 2.5, "head_dim": 40}),
    spec("glm4_moe_lite", GLM4_MOE_LITE),
    spec("deepseek_v3_grouped", DEEPSEEK_V3, {
        "q_lora_rank": 24, "num_nextn_predict_layers": 1, "num_hidden_layers": 2, "n_routed_experts": 16,
        "num_experts_per_tok": 4, "n_group": 4, "topk_group": 2, "moe_intermediate_size": 16,
        "n_shared_experts": 1, "routed_scaling_factor": 2.5, "rope_theta": 10000.0, "rms_norm_eps": 1e-06,
        "rope_scaling": yarn(40, 32, 1.0, 1.0), "max_position_embeddings": 1280}),

    # Other float formats
    spec("deepseek_v3_bf16", DEEPSEEK_V3, SMALL, {"torch_dtype": "bfloat16"}, dtype="BF16"),
    spec("deepseek_v3_f16", DEEPSEEK_V3, SMALL, {"torch_dtype": "float16"}, dtype="F16"),
    spec("qwen3_moe_bf16", QWEN3_MOE, {"torch_dtype": "bfloat16"}, dtype="BF16"),
    spec("qwen3_moe_f16", QWEN3_MOE, {"torch_dtype": "float16", "tie_word_embeddings": True}, dtype="F16"),

    # FP8 in 128 x 128 blocks with edge blocks of every kind
    spec("deepseek_v3_fp8", DEEPSEEK_V3, WIDE, {
        "torch_dtype": "bfloat16", "q_lora_rank": 144, "kv_lora_rank": 160, "qk_nope_head_dim": 32,
        "quantization_config": fp8_config()}, dtype="BF16", tokens=48, margin=0.03),
    spec("glm4_moe_fp8", GLM4_MOE, WIDE, {
        "torch_dtype": "bfloat16", "head_dim": 72,
        "quantization_config": fp8_config()}, dtype="BF16", tokens=48, margin=0.03),

    # Integers, groups along the input
    spec("deepseek_v3_int4", DEEPSEEK_V3, GROUPED_32, {
        "q_lora_rank": 32, "rope_scaling": yarn(32.0, 32, 1.0, 1.0, beta_fast=1.0, beta_slow=1.0),
        "quantization_config": packed_config(4, 32, KIMI_IGNORE)}, dtype="BF16", tokens=48, margin=0.03),
    spec("deepseek_v3_int8", DEEPSEEK_V3, GROUPED_32, {"q_lora_rank": 32,
        "quantization_config": packed_config(8, 32, ALL_IGNORE)}, dtype="BF16", tokens=48, margin=0.05,
        shape_dtype="int64"),
    spec("qwen3_moe_int4", QWEN3_MOE, GROUPED_32, {"head_dim": 32,
        "quantization_config": packed_config(4, 32, ALL_IGNORE)}, dtype="BF16", tokens=48, margin=0.05),
    spec("qwen3_moe_int8", QWEN3_MOE, GROUPED_32, {"head_dim": 32,
        "quantization_config": packed_config(8, 32, ALL_IGNORE)}, dtype="BF16", tokens=48, margin=0.05),
    spec("glm4_moe_lite_int4_g64", GLM4_MOE_LITE, GROUPED_32, {
        "hidden_size": 128, "q_lora_rank": 64, "kv_lora_rank": 64, "moe_intermediate_size": 64,
        "intermediate_size": 128, "n_routed_experts": 4, "num_experts_per_tok": 2,
        "quantization_config": packed_config(4, 64, ALL_IGNORE)}, dtype="BF16", tokens=48, margin=0.05),

    # Zero experts (ZEDA)
    spec("qwen3_moe_zeda", QWEN3_MOE, ZEDA, {"model_type": "qwen3_moe_plus_plus"}, dtype="BF16"),
    spec("glm4_moe_lite_zeda", GLM4_MOE_LITE, ZEDA, {"model_type": "glm4_moe_lite_plus_plus"}, dtype="BF16"),
    spec("deepseek_v3_zeda", DEEPSEEK_V3, SMALL, ZEDA, {"model_type": "deepseek_v3_plus_plus"}, dtype="BF16"),

    # Ragged expert widths (TENP)
    spec("deepseek_v3_ragged", DEEPSEEK_V3, SMALL, {
        "torch_dtype": "bfloat16", "num_hidden_layers": 3, "n_routed_experts": 5, "num_experts_per_tok": 2,
        "moe_intermediate_size": 192,
        "moe_intermediate_sizes": [[64, 128, 64, 64, 64], [192, 64, 64, 128, 64]]}, dtype="BF16"),
    spec("qwen3_moe_ragged", QWEN3_MOE, {
        "num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 128,
        "mlp_only_layers": [0],
        "moe_intermediate_sizes": [[128, 64, 64, 128, 64, 64]], "torch_dtype": "bfloat16"}, dtype="BF16"),

    # Files: shards, and the form in which transformers 5 holds the experts
    spec("qwen3_moe_sharded", QWEN3_MOE, {
        "num_hidden_layers": 3, "mlp_only_layers": [1], "norm_topk_prob": False, "attention_bias": True,
        "moe_intermediate_size": 24, "torch_dtype": "bfloat16"}, dtype="BF16", shards=3),
    spec("deepseek_v2_fused", DEEPSEEK_V2, {"torch_dtype": "bfloat16"}, dtype="BF16", fused=True),
    spec("glm4_moe_fused", GLM4_MOE, {"torch_dtype": "bfloat16"}, dtype="BF16", fused=True),
]
