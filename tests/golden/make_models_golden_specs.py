"""The golden models: configs spelled as the published ones are, at tiny sizes."""

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
    "rms_norm_eps": 1e-05, "max_position_embeddings": 2048, "vocab_size": 160, "bos_token_id": 1,
    "eos_token_id": 2}

SPECS = [
    {"name": "deepseek_v3_tiny", "seed": 1, "dtype": "F32", "tokens": 56, "margin": 0.01,
     "config": DEEPSEEK_V3 | {"vocab_size": 512, "bos_token_id": 505, "eos_token_id": 506},
     "tokenizer": write_tokenizer},
]
