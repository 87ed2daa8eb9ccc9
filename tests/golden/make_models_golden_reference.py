"""An independent restatement of the models in NumPy, float64, from the published formulas.

It shares nothing with transformers: both must agree on every checkpoint, and `twists` (deliberate mistakes)
show that a checkpoint would notice them.
"""

import math

import numpy as np

from make_models_golden_weights import base_type, expert_count, expert_widths, head_dim, is_moe_layer

TWISTS = {
    "rotary_layout": "pairs and halves swapped",
    "position": "positions start at 1 in the keys only",
    "yarn_frequency": "plain frequencies under YaRN",
    "softmax_mscale": "mscale_all_dim left out of the softmax scale",
    "cos_mscale": "cos and sin not scaled under YaRN",
    "latent_eps": "rms_norm_eps in place of 1e-6 in the inner norms, or 1e-6 in place of rms_norm_eps",
    "qk_norm_order": "q/k norm after rotary",
    "bias_in_weights": "selection bias leaks into the weights",
    "no_bias": "selection bias ignored",
    "no_groups": "group limit ignored",
    "group_score": "maximum and top-2 sum swapped",
    "norm_topk": "norm_topk_prob flipped",
    "no_scaling": "routed_scaling_factor left out",
    "no_shared": "shared expert left out",
    "renormalise": "surviving weights normalised again after zero experts",
}


def rope_parameters(config):
    """One dict from either spelling: rope_theta + rope_scaling, or the newer rope_parameters."""
    rope = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    rope.setdefault("rope_theta", config.get("rope_theta"))
    rope.setdefault("rope_type", rope.get("type", "default"))
    if base_type(config) == "glm4_moe":
        rope.setdefault("partial_rotary_factor", config.get("partial_rotary_factor", 0.5))
    return rope


def mscale(factor, x):
    return 0.1 * x * math.log(factor) + 1.0 if factor > 1 else 1.0


def rotary_frequencies(rope, width, max_positions, plain=False):
    """(frequencies [width/2], scale of cos and sin)"""
    theta = rope["rope_theta"]
    base = theta ** (-2.0 * np.arange(width // 2) / width)
    if rope["rope_type"] != "yarn":
        return base, 1.0
    factor = rope["factor"]
    length = rope.get("original_max_position_embeddings", max_positions)

    def correction(turns):
        return width * math.log(length / (2 * math.pi * turns)) / (2 * math.log(theta))

    low = max(math.floor(correction(rope.get("beta_fast", 32))), 0)
    high = min(math.ceil(correction(rope.get("beta_slow", 1))), width - 1)
    ramp = np.clip((np.arange(width // 2) - low) / (high - low if high != low else 0.001), 0, 1)
    scale = mscale(factor, rope.get("mscale", 1)) / mscale(factor, rope.get("mscale_all_dim", 0))
    return (base if plain else base * ((1 - ramp) + ramp / factor)), scale


def softmax(x):
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def relative_gap(scores, k):
    """Gap between the k-th and the next best score, relative to the larger; infinite when there is no next."""
    if k >= scores.shape[-1]:
        return np.full(scores.shape[:-1], np.inf)
    best = -np.sort(-scores, axis=-1)
    kept, dropped = best[..., k - 1], best[..., k]
    gap = (kept - dropped) / np.maximum(np.abs(kept), np.abs(dropped))
    return np.where(np.isneginf(dropped), np.inf, gap)


def route(config, logits, bias, twist=None):
    """Router logits [n, E] to (ids [n, K] best first, weights [n, K], margin [n]); zero experts get id -1."""
    family = base_type(config)
    softmaxed = family in ("deepseek_v2", "qwen3_moe")
    scores = softmax(logits) if softmaxed else sigmoid(logits)
    choice = scores.copy() if bias is None or twist == "no_bias" else scores + bias
    margin = np.full(len(logits), np.inf)
    limited = not softmaxed or config.get("topk_method") == "group_limited_greedy"
    groups = config.get("n_group", 1) if limited else 1
    if groups > 1 and twist != "no_groups":
        by_group = choice.reshape(len(choice), groups, -1)
        by_max = (family == "deepseek_v2") != (twist == "group_score")
        score = by_group.max(-1) if by_max else -np.sort(-by_group, axis=-1)[..., :2].sum(-1)
        margin = relative_gap(score, config["topk_group"])
        chosen = np.argsort(-score, axis=-1, kind="stable")[:, : config["topk_group"]]
        allowed = np.zeros((len(choice), groups), bool)
        np.put_along_axis(allowed, chosen, True, -1)
        choice = np.where(np.repeat(allowed, by_group.shape[-1], -1), choice, -np.inf)
    k = config["num_experts_per_tok"]
    margin = np.minimum(margin, relative_gap(choice, k))
    ids = np.argsort(-choice, axis=-1, kind="stable")[:, :k]
    weights = np.take_along_axis(choice if twist == "bias_in_weights" else scores, ids, -1)
    if (config["norm_topk_prob"] and family != "deepseek_v2") != (twist == "norm_topk"):
        weights = weights / (weights.sum(-1, keepdims=True) + 1e-20)
    if family != "qwen3_moe" and twist != "no_scaling":
        weights = weights * config["routed_scaling_factor"]
    zero = ids >= expert_count(config)
    weights, ids = np.where(zero, 0.0, weights), np.where(zero, -1, ids)
    if twist == "renormalise":
        total = np.maximum(weights.sum(-1, keepdims=True), 1e-9)
        weights = weights * (config.get("routed_scaling_factor", 1.0) / total)
    return ids, weights, margin


def round_activations(x):
    """As kernels/quant.h: int8 per group of 32 inputs, scale max|x| / 127."""
    n, columns = x.shape
    grouped = np.pad(x, ((0, 0), (0, -columns % 32))).reshape(n, -1, 32)
    scale = np.maximum(np.abs(grouped).max(-1, keepdims=True) / 127, 1e-30)
    return (np.rint(grouped / scale) * scale).reshape(n, -1)[:, :columns]


class Reference:
    """rounded: names of the linear maps whose inputs are rounded to int8 first."""

    def __init__(self, config, weights, twist=None, rounded=frozenset()):
        self.config, self.w, self.twist, self.rounded = config, weights, twist, rounded
        self.eps = config["rms_norm_eps"]
        rope = rope_parameters(config)
        self.mla = "kv_lora_rank" in config
        self.rotary_dim = config["qk_rope_head_dim"] if self.mla else int(
            head_dim(config) * rope.get("partial_rotary_factor", 1.0))
        self.frequencies, self.cos_scale = rotary_frequencies(
            rope, self.rotary_dim, config["max_position_embeddings"], twist == "yarn_frequency")
        if twist == "cos_mscale":
            self.cos_scale = 1.0
        self.pairs = self.mla and config.get("rope_interleave", True)
        if twist == "rotary_layout":
            self.pairs = not self.pairs
        width = config["qk_nope_head_dim"] + config["qk_rope_head_dim"] if self.mla else head_dim(config)
        self.scale = width**-0.5
        if self.mla and rope["rope_type"] == "yarn" and twist != "softmax_mscale":
            self.scale *= mscale(rope["factor"], rope.get("mscale_all_dim", 0)) ** 2

    def linear(self, x, name):
        x = round_activations(x) if name in self.rounded else x
        y = x @ self.w[name + ".weight"].T
        bias = self.w.get(name + ".bias")
        return y if bias is None else y + bias

    def norm(self, x, name, eps):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * self.w[name + ".weight"]

    def rotate(self, x, offset=0):
        """x [n, heads, d]; only the first rotary_dim numbers of a head turn."""
        half = self.rotary_dim // 2
        angle = (np.arange(len(x)) + offset)[:, None, None] * self.frequencies
        cos, sin = np.cos(angle) * self.cos_scale, np.sin(angle) * self.cos_scale
        turned, rest = x[..., : self.rotary_dim], x[..., self.rotary_dim :]
        if self.pairs:
            a, b = turned[..., 0::2], turned[..., 1::2]
        else:
            a, b = turned[..., :half], turned[..., half:]
        out = np.concatenate([a * cos - b * sin, b * cos + a * sin], -1)
        return np.concatenate([out, rest], -1)

    def attend(self, q, k, v):
        """q [n, heads, d], k and v [n, kv heads, d]; causal."""
        n, heads = q.shape[:2]
        repeat = heads // k.shape[1]
        k, v = np.repeat(k, repeat, 1), np.repeat(v, repeat, 1)
        scores = np.einsum("qhd,khd->hqk", q, k) * self.scale
        scores = np.where(np.tri(n, dtype=bool), scores, -np.inf)
        return np.einsum("hqk,khd->qhd", softmax(scores), v).reshape(n, -1)

    def latent_attention(self, x, name):
        c, n = self.config, len(x)
        heads, nope, rope, latent = (c["num_attention_heads"], c["qk_nope_head_dim"], c["qk_rope_head_dim"],
                                     c["kv_lora_rank"])
        eps = self.eps if self.twist == "latent_eps" else 1e-6
        if c["q_lora_rank"] is None:
            q = self.linear(x, name + "q_proj")
        else:
            low = self.norm(self.linear(x, name + "q_a_proj"), name + "q_a_layernorm", eps)
            q = self.linear(low, name + "q_b_proj")
        q = q.reshape(n, heads, nope + rope)
        kv = self.linear(x, name + "kv_a_proj_with_mqa")
        expanded = self.linear(self.norm(kv[:, :latent], name + "kv_a_layernorm", eps), name + "kv_b_proj")
        expanded = expanded.reshape(n, heads, -1)
        offset = 1 if self.twist == "position" else 0
        k_rope = np.repeat(self.rotate(kv[:, None, latent:], offset), heads, 1)
        q = np.concatenate([q[..., :nope], self.rotate(q[..., nope:])], -1)
        k = np.concatenate([expanded[..., :nope], k_rope], -1)
        return self.linear(self.attend(q, k, expanded[..., nope:]), name + "o_proj")

    def grouped_attention(self, x, name):
        c, n, size = self.config, len(x), head_dim(self.config)
        q = self.linear(x, name + "q_proj").reshape(n, c["num_attention_heads"], size)
        k = self.linear(x, name + "k_proj").reshape(n, c["num_key_value_heads"], size)
        v = self.linear(x, name + "v_proj").reshape(n, c["num_key_value_heads"], size)
        normed = name + "q_norm.weight" in self.w
        eps = 1e-6 if self.twist == "latent_eps" and self.eps != 1e-6 else self.eps
        eps = 1e-5 if self.twist == "latent_eps" and self.eps == 1e-6 else eps
        late = self.twist == "qk_norm_order"
        if normed and not late:
            q, k = self.norm(q, name + "q_norm", eps), self.norm(k, name + "k_norm", eps)
        q, k = self.rotate(q), self.rotate(k, 1 if self.twist == "position" else 0)
        if normed and late:
            q, k = self.norm(q, name + "q_norm", eps), self.norm(k, name + "k_norm", eps)
        return self.linear(self.attend(q, k, v), name + "o_proj")

    def mlp(self, x, name):
        gate = self.linear(x, name + "gate_proj")
        return self.linear(gate * sigmoid(gate) * self.linear(x, name + "up_proj"), name + "down_proj")

    def moe(self, x, layer, name, out):
        bias = self.w.get(name + "gate.e_score_correction_bias")
        ids, weights, margin = route(self.config, self.linear(x, name + "gate"), bias, self.twist)
        out["routes"][layer], out["margins"][layer] = (ids, weights), margin
        y = np.zeros_like(x)
        for e in range(len(expert_widths(self.config, layer))):
            token, slot = np.nonzero(ids == e)
            if len(token):
                y[token] += weights[token, slot, None] * self.mlp(x[token], f"{name}experts.{e}.")
        if name + "shared_experts.gate_proj.weight" in self.w and self.twist != "no_shared":
            y += self.mlp(x, name + "shared_experts.")
        return y

    def forward(self, ids):
        """{"logits" [n, vocab], "hidden" [after each layer], "routes" {layer: (ids, weights)}, "margins"}"""
        out = {"hidden": [], "routes": {}, "margins": {}}
        x = self.w["model.embed_tokens.weight"][ids]
        attention = self.latent_attention if self.mla else self.grouped_attention
        for layer in range(self.config["num_hidden_layers"]):
            name = f"model.layers.{layer}."
            x = x + attention(self.norm(x, name + "input_layernorm", self.eps), name + "self_attn.")
            h = self.norm(x, name + "post_attention_layernorm", self.eps)
            moe = is_moe_layer(self.config, layer)
            x = x + (self.moe(h, layer, name + "mlp.", out) if moe else self.mlp(h, name + "mlp."))
            out["hidden"].append(x)
        x = self.norm(x, "model.norm", self.eps)
        head = self.w.get("lm_head.weight", self.w["model.embed_tokens.weight"])
        out["logits"] = x @ head.T
        return out
