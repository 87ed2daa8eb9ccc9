"""transformers as the oracle, in float64 (its float32 casts are lifted) and in plain float32."""

import contextlib
import importlib
import json
import os
import tempfile

import numpy as np
import torch
import transformers
from safetensors.torch import save_file
from transformers import modeling_rope_utils

from make_models_golden_weights import base_type, expert_count, is_moe_layer, zero_experts


class _DoubleTorch:
    """Stands in for the name `torch` inside a modelling file: where it says float32, float64 is meant."""

    float32 = float = torch.float64

    def __getattr__(self, name):
        return getattr(torch, name)


@contextlib.contextmanager
def _double_arithmetic(module):
    single = torch.Tensor.float
    module.torch = modeling_rope_utils.torch = _DoubleTorch()
    torch.Tensor.float = torch.Tensor.double
    try:
        yield
    finally:
        module.torch = modeling_rope_utils.torch = torch
        torch.Tensor.float = single


def _plain_form(config, weights):
    """What transformers can load: base type, real experts only, equal widths, nothing quantised."""
    experts, wide = expert_count(config), config["moe_intermediate_size"]
    extra = ("quantization_config", "zce_nums", "zce_types", "use_zce_mask", "moe_intermediate_sizes")
    plain = {k: v for k, v in config.items() if k not in extra} | {"model_type": base_type(config)}
    tensors = {}
    for name, value in weights.items():
        if ".mlp.gate." in name:
            value = value[:experts]
        if ".mlp.experts." in name:
            axis = 1 if "down_proj" in name else 0
            pad = [(0, 0), (0, 0)]
            pad[axis] = (0, wide - value.shape[axis])
            value = np.pad(value, pad)
        tensors[name] = torch.from_numpy(np.ascontiguousarray(value))
    return plain, tensors


def _grow_router(gate, weight, bias, experts):
    """Zero experts: the model's own router over more rows; chosen ids past the real experts become nothing."""
    dtype = gate.weight.dtype
    gate.weight = torch.nn.Parameter(torch.from_numpy(weight).to(dtype), requires_grad=False)
    if bias is not None:
        gate.e_score_correction_bias = torch.from_numpy(bias).to(dtype)
    gate.num_experts = len(weight)
    route = gate.forward

    def forward(hidden_states):
        logits, weights, ids = route(hidden_states)
        zero = ids >= experts
        # The expert loop of transformers passes over the id one past its last expert.
        return logits, weights.masked_fill(zero, 0.0), ids.masked_fill(zero, experts)

    gate.forward = forward


class Oracle:
    """folder: loaded as it stands where transformers can; otherwise config and weights in a plain form."""

    def __init__(self, config, weights, folder=None, dtype=torch.float64):
        name = base_type(config)
        self.config, self.dtype = config, dtype
        self.module = importlib.import_module(f"transformers.models.{name}.modeling_{name}")
        with tempfile.TemporaryDirectory() as scratch:
            if folder is None:
                folder = scratch
                plain, tensors = _plain_form(config, weights)
                with open(os.path.join(scratch, "config.json"), "w") as f:
                    json.dump(plain, f)
                save_file(tensors, os.path.join(scratch, "model.safetensors"), metadata={"format": "pt"})
            self.model = transformers.AutoModelForCausalLM.from_pretrained(
                folder, dtype=dtype, attn_implementation="eager", experts_implementation="eager")
        self.model = self.model.to(dtype).eval()
        with self._arithmetic():
            self.model.model.rotary_emb = type(self.model.model.rotary_emb)(self.model.config)
        if zero_experts(config):
            for layer, block in enumerate(self.model.model.layers):
                if is_moe_layer(config, layer):
                    stem = f"model.layers.{layer}.mlp.gate."
                    _grow_router(block.mlp.gate, weights[stem + "weight"],
                                 weights.get(stem + "e_score_correction_bias"), expert_count(config))

    def _arithmetic(self):
        return _double_arithmetic(self.module) if self.dtype == torch.float64 else contextlib.nullcontext()

    @torch.no_grad()
    def forward(self, batch):
        """ids [b, n] to {"logits" [b, n, vocab], "hidden" [layers], "router" {layer: logits, weights, ids}}"""
        batch = torch.as_tensor(np.asarray(batch), dtype=torch.long)
        out, handles = {"hidden": [], "router": {}}, []
        for layer, block in enumerate(self.model.model.layers):
            handles.append(block.register_forward_hook(
                lambda _m, _i, y: out["hidden"].append((y[0] if isinstance(y, tuple) else y).numpy())))
            if is_moe_layer(self.config, layer):
                handles.append(block.mlp.gate.register_forward_hook(
                    lambda _m, _i, y, at=layer: out["router"].__setitem__(
                        at, [t.reshape(*batch.shape, -1).numpy() for t in y])))
        with self._arithmetic():
            out["logits"] = self.model(input_ids=batch, use_cache=False).logits.numpy()
        for handle in handles:
            handle.remove()
        return out
