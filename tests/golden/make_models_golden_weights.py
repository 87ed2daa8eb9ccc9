"""Published tensor names, shapes and seeded random values of a tiny checkpoint, from its config.json.

Values are chosen so that a mistake shows: embeddings and the inputs of the inner norms are small (their eps
matters), norm weights vary around 1, selection biases and attention biases are not zero, logits are of order 1.
"""

import zlib

import numpy as np

SUFFIX = "_plus_plus"


def base_type(config):
    return config["model_type"].removesuffix(SUFFIX)


def expert_count(config):
    return config["num_experts"] if base_type(config) == "qwen3_moe" else config["n_routed_experts"]


def zero_experts(config):
    return sum(config.get("zce_nums", []))


def head_dim(config):
    return config.get("head_dim", config["hidden_size"] // config["num_attention_heads"])


def is_moe_layer(config, layer):
    if base_type(config) == "qwen3_moe":
        sparse = (layer + 1) % config["decoder_sparse_step"] == 0
        return sparse and layer not in config["mlp_only_layers"]
    return layer >= config["first_k_dense_replace"]


def expert_widths(config, layer):
    """The width of every expert of a layer; ragged lists have one entry per MoE layer."""
    ragged = config.get("moe_intermediate_sizes")
    if ragged is None:
        return [config["moe_intermediate_size"]] * expert_count(config)
    return ragged[[l for l in range(config["num_hidden_layers"]) if is_moe_layer(config, l)].index(layer)]


def _mla(config, prefix):
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    latent, rope = config["kv_lora_rank"], config["qk_rope_head_dim"]
    nope, value, q_rank = config["qk_nope_head_dim"], config["v_head_dim"], config["q_lora_rank"]
    if q_rank is None:
        yield prefix + "q_proj.weight", (heads * (nope + rope), hidden), 1.0
    else:
        yield prefix + "q_a_proj.weight", (q_rank, hidden), 0.01
        yield prefix + "q_a_layernorm.weight", (q_rank,), "norm"
        yield prefix + "q_b_proj.weight", (heads * (nope + rope), q_rank), 1.0
    yield prefix + "kv_a_proj_with_mqa.weight", (latent + rope, hidden), ("rows", latent, 0.01, 1.0)
    yield prefix + "kv_a_layernorm.weight", (latent,), "norm"
    yield prefix + "kv_b_proj.weight", (heads * (nope + value), latent), 1.0
    yield prefix + "o_proj.weight", (hidden, heads * value), 1.0


def _gqa(config, prefix):
    hidden, size = config["hidden_size"], head_dim(config)
    qwen = base_type(config) == "qwen3_moe"
    normed = qwen or config.get("use_qk_norm", False)
    q_rows, kv_rows = config["num_attention_heads"] * size, config["num_key_value_heads"] * size
    gain = 0.01 if normed else 1.0
    for name, rows, g in (("q", q_rows, gain), ("k", kv_rows, gain), ("v", kv_rows, 1.0)):
        yield f"{prefix}{name}_proj.weight", (rows, hidden), g
        if config["attention_bias"]:
            yield f"{prefix}{name}_proj.bias", (rows,), 0.3 * g
    yield prefix + "o_proj.weight", (hidden, q_rows), 1.0
    if config["attention_bias"] and qwen:
        yield prefix + "o_proj.bias", (hidden,), 0.3
    if normed:
        yield prefix + "q_norm.weight", (size,), "norm"
        yield prefix + "k_norm.weight", (size,), "norm"


def _mlp(prefix, hidden, width):
    yield prefix + "gate_proj.weight", (width, hidden), 1.2
    yield prefix + "up_proj.weight", (width, hidden), 1.2
    yield prefix + "down_proj.weight", (hidden, width), 2.0


def _layer(config, layer, moe):
    prefix, hidden = f"model.layers.{layer}.", config["hidden_size"]
    yield prefix + "input_layernorm.weight", (hidden,), "norm"
    yield from (_mla if "kv_lora_rank" in config else _gqa)(config, prefix + "self_attn.")
    yield prefix + "post_attention_layernorm.weight", (hidden,), "norm"
    if not moe:
        yield from _mlp(prefix + "mlp.", hidden, config["intermediate_size"])
        return
    rows = expert_count(config) + zero_experts(config)
    yield prefix + "mlp.gate.weight", (rows, hidden), 1.5
    if base_type(config) not in ("qwen3_moe", "deepseek_v2"):
        yield prefix + "mlp.gate.e_score_correction_bias", (rows,), 0.12
    for e, width in enumerate(expert_widths(config, layer)):
        yield from _mlp(f"{prefix}mlp.experts.{e}.", hidden, width)
    if config.get("n_shared_experts"):
        width = config["moe_intermediate_size"] * config["n_shared_experts"]
        yield from _mlp(prefix + "mlp.shared_experts.", hidden, width)


def tensor_list(config):
    """(name, shape, kind) of every tensor on disk; kind is a gain, "norm", "embed" or ("rows", n, gain, gain)."""
    hidden, vocab, layers = config["hidden_size"], config["vocab_size"], config["num_hidden_layers"]
    yield "model.embed_tokens.weight", (vocab, hidden), "embed"
    for layer in range(layers):
        yield from _layer(config, layer, is_moe_layer(config, layer))
    for layer in range(layers, layers + config.get("num_nextn_predict_layers", 0)):
        prefix = f"model.layers.{layer}."
        yield from _layer(config, layer, True)
        yield prefix + "embed_tokens.weight", (vocab, hidden), "embed"
        yield prefix + "enorm.weight", (hidden,), "norm"
        yield prefix + "hnorm.weight", (hidden,), "norm"
        yield prefix + "eh_proj.weight", (hidden, 2 * hidden), 1.0
        yield prefix + "shared_head.norm.weight", (hidden,), "norm"
        yield prefix + "shared_head.head.weight", (vocab, hidden), 1.0
    yield "model.norm.weight", (hidden,), "norm"
    if not config["tie_word_embeddings"]:
        yield "lm_head.weight", (vocab, hidden), 1.0


def random_tensor(config, seed, name, shape, kind):
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    if kind == "norm":
        return rng.uniform(0.6, 1.4, shape)
    values = rng.standard_normal(shape)
    if kind == "embed":
        return values * (shape[1] ** -0.5 if config["tie_word_embeddings"] else 0.05)
    if len(shape) == 1:
        return values * kind
    if isinstance(kind, tuple):
        _, split, first, rest = kind
        kind = np.where(np.arange(shape[0]) < split, first, rest)[:, None]
    return values * kind * shape[1] ** -0.5


def random_weights(config, seed):
    """{published name: float64 array}; each tensor depends only on the seed, its name and its shape."""
    return {name: random_tensor(config, seed, name, shape, kind) for name, shape, kind in tensor_list(config)}
