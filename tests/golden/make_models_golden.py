#!/usr/bin/env python3
"""Makes tests/golden/models: tiny seeded checkpoints with the logits of an oracle nobody here wrote.

pip install torch==2.15.0 transformers==5.23.0 tokenizers==0.23.3 safetensors==0.8.0 numpy==2.4.6
(and, for an extra check of the integer packing only, compressed-tensors==0.20.0)

    python tests/golden/make_models_golden.py            # every model
    python tests/golden/make_models_golden.py NAME...    # only these

Each folder gets config.json, the weights in their published form, and golden.safetensors: `input_ids` I32 [n],
`logits` F32 [n, vocab], `hidden.L` F32 [n, hidden] after decoder layer L, and for each MoE layer `route.L.ids`
I32 [n, K] (best first, -1 for a zero expert) and `route.L.weights` F32 [n, K]. The oracle runs transformers in
float64 on the exact values of the stored bytes; `logits.int8` beside packed integers is the restatement's result
when their activations are rounded as kernels/quant.h says.

Tokens are chosen one after another so that no routing decision is close: `margin` is the smallest relative gap between a chosen and a rejected score (experts and groups).
Every checkpoint is also computed by make_models_golden_reference.py, which must agree, and again with each
deliberate mistake of its TWISTS that applies, which must be noticed.
"""

import json
import os
import shutil
import sys

import numpy as np
import safetensors
import tokenizers
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import save_file

import make_models_golden_formats as formats
import make_models_golden_reference as reference
from make_models_golden_oracle import Oracle
from make_models_golden_specs import SPECS
from make_models_golden_weights import base_type, expert_count, is_moe_layer, random_weights, zero_experts

PINNED = {torch: "2.15.0", transformers: "5.23.0", tokenizers: "0.23.3", safetensors: "0.8.0", np: "2.4.6"}
MODELS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "models")
AGREE = 1e-9  # oracle against restatement, both float64
NOTICED = 0.1  # a deliberate mistake moves some logit by at least this


def check_versions():
    for module, pinned in PINNED.items():
        found = module.__version__.split("+")[0]
        if found != pinned:
            sys.exit(f"{module.__name__} {found} found; install {module.__name__}=={pinned}")


def read_stored(folder):
    stored = {}
    for file in sorted(os.listdir(folder)):
        if file.startswith("model") and file.endswith(".safetensors"):
            with safe_open(os.path.join(folder, file), framework="pt") as f:
                stored |= {name: f.get_tensor(name) for name in f.keys()}
    return stored


def batch_margins(config, weights, routers):
    """Smallest margin over layers for every (sequence, position) of an oracle's routers."""
    margins = []
    for layer, (logits, _, _) in routers.items():
        bias = weights.get(f"model.layers.{layer}.mlp.gate.e_score_correction_bias")
        shape = logits.shape[:2]
        margins.append(reference.route(config, logits.reshape(-1, logits.shape[-1]), bias)[2].reshape(shape))
    return np.min(margins, 0)


def choose_ids(oracle, config, weights, count, margin, seed):
    """Greedy: each position takes the first of some random tokens whose routing is clear in every layer."""
    rng = np.random.default_rng(seed)
    ids, smallest = [], np.inf
    for _ in range(count):
        candidates = rng.permutation(config["vocab_size"])[:24]
        out = oracle.forward([ids + [c] for c in candidates])
        found = batch_margins(config, weights, out["router"])[:, -1]
        clear = np.nonzero(found >= margin)[0]
        pick = clear[0] if len(clear) else int(np.argmax(found))
        ids.append(int(candidates[pick]))
        smallest = min(smallest, float(found[pick]))
    return ids, smallest


def check_against_reference(config, weights, ids, out):
    """Returns the largest difference and, by name, how far each deliberate mistake moves the logits."""
    ours = reference.Reference(config, weights).forward(ids)
    worst = float(np.abs(ours["logits"] - out["logits"][0]).max())
    assert worst < AGREE, f"transformers and the restatement differ by {worst}"
    for layer, (_, their_weights, their_ids) in out["router"].items():
        ids_here, weights_here = ours["routes"][layer]
        for t in range(len(ids)):
            ours_t = sorted((i, w) for i, w in zip(ids_here[t], weights_here[t]) if i >= 0)
            live = their_ids[0, t] < expert_count(config)
            theirs = sorted(zip(their_ids[0, t][live], their_weights[0, t][live]))
            assert np.allclose(ours_t, theirs, rtol=0, atol=AGREE), f"layer {layer}, token {t}: routing differs"
    moved = {}
    for twist in reference.TWISTS:
        other = reference.Reference(config, weights, twist).forward(ids)["logits"]
        moved[twist] = float(np.abs(other - ours["logits"]).max())
    return ours, worst, moved


def applicable(config):
    """The mistakes that this checkpoint must notice."""
    rope, family = reference.rope_parameters(config), base_type(config)
    mla = "kv_lora_rank" in config
    twists = {"rotary_layout", "position"} if mla else {"position"}
    if mla and config["rms_norm_eps"] != 1e-6 or not mla and (
            family == "qwen3_moe" or config.get("use_qk_norm")):
        twists.add("latent_eps")
    if rope["rope_type"] == "yarn":
        twists.add("yarn_frequency")
        if rope.get("mscale_all_dim"):
            twists.add("softmax_mscale")
        if rope.get("mscale", 1) != rope.get("mscale_all_dim", 0):
            twists.add("cos_mscale")
    if family == "qwen3_moe" or config.get("use_qk_norm"):
        twists.add("qk_norm_order")
    if family not in ("qwen3_moe", "deepseek_v2"):
        twists |= {"bias_in_weights", "no_bias"}
    if config.get("n_group", 1) > 1:
        twists |= {"no_groups", "group_score"}
    twists.add("norm_topk")
    if config.get("routed_scaling_factor", 1.0) != 1.0:
        twists.add("no_scaling")
    if config.get("n_shared_experts"):
        twists.add("no_shared")
    if zero_experts(config):
        twists.add("renormalise")
    return twists


def check_spread(config, ours, ids):
    """Most experts are used, also the zero ones, and some tokens keep none or all of their slots live."""
    for layer, (chosen, _) in ours["routes"].items():
        used = len(np.unique(chosen[chosen >= 0]))
        assert used >= 0.75 * expert_count(config), f"layer {layer} uses only {used} experts"
        if zero_experts(config):
            share = float((chosen < 0).mean())
            assert 0.15 < share < 0.85, f"layer {layer}: share of zero slots is {share}"
    assert len(set(ids)) > len(ids) // 2
    deviation = float(ours["logits"].std())
    assert 0.2 < deviation < 3, f"logits have standard deviation {deviation}"
    return deviation


def write_json(folder, name, value):
    with open(os.path.join(folder, name), "w") as f:
        json.dump(value, f, indent=2, ensure_ascii=False)
        f.write("\n")


def make(spec):
    folder = os.path.join(MODELS, spec["name"])
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    config = json.loads(json.dumps(spec["config"]))
    stored = formats.store(config, random_weights(config, spec["seed"]), spec["dtype"],
                           getattr(torch, spec.get("shape_dtype", "int32")))
    write_json(folder, "config.json", config)
    formats.write(folder, stored, spec.get("shards", 1))
    if spec.get("fused"):
        config = save_fused(folder, spec["dtype"])
    weights = formats.values(config, formats.split_experts(config, read_stored(folder)))
    plain = not (zero_experts(config) or "quantization_config" in config or "moe_intermediate_sizes" in config)
    source = folder if plain else None
    oracle = Oracle(config, weights, source)
    ids, margin = choose_ids(oracle, config, weights, spec["tokens"], spec["margin"], spec["seed"])
    assert margin >= spec["margin"], f"{spec['name']}: margin {margin} < {spec['margin']}: choose another seed"
    out = oracle.forward([ids])
    ours, worst, moved = check_against_reference(config, weights, ids, out)
    unnoticed = {t: moved[t] for t in applicable(config) if moved[t] < NOTICED}
    assert not unnoticed, f"{spec['name']} would not notice {unnoticed}"
    deviation = check_spread(config, ours, ids)
    single = Oracle(config, weights, source, torch.float32).forward([ids])
    noise = float(np.abs(single["logits"] - out["logits"]).max())
    assert noise < 1e-4, f"{spec['name']}: float32 differs from float64 by {noise}"
    golden = golden_tensors(ids, out, ours)
    note = ""
    if packed := {n.removesuffix(".weight_packed") for n in stored if n.endswith(".weight_packed")}:
        golden["logits.int8"], moved_by_rounding = rounded_logits(config, weights, ids, ours, packed)
        note = f"  int8 activations {moved_by_rounding:.3f}"
    save_file(golden, os.path.join(folder, "golden.safetensors"))
    if "tokenizer" in spec:
        spec["tokenizer"](folder, config)
    size = sum(os.path.getsize(os.path.join(folder, f)) for f in os.listdir(folder))
    weakest = min(applicable(config), key=lambda t: moved[t])
    print(f"{spec['name']:28} {size // 1024:5} KB  margin {margin:.4f}  logits std {deviation:.2f}  "
          f"restatement {worst:.0e}  float32 {noise:.0e}  weakest {weakest} {moved[weakest]:.3f}{note}", flush=True)


def save_fused(folder, dtype):
    """Rewrites the folder as transformers 5 saves it without going back to the published names."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=formats.FLOATS[dtype])
    shutil.rmtree(folder)
    model.save_pretrained(folder, save_original_format=False)
    os.remove(os.path.join(folder, "generation_config.json"))
    with open(os.path.join(folder, "config.json")) as f:
        return json.load(f)


def rounded_logits(config, weights, ids, ours, packed):
    """The logits when every packed map rounds its input to int8, and how far that moves them."""
    other = reference.Reference(config, weights, rounded=packed).forward(ids)
    for layer, (chosen, _) in ours["routes"].items():
        same = np.array_equal(np.sort(chosen), np.sort(other["routes"][layer][0]))
        assert same, f"rounding the activations changes the routing of layer {layer}: choose another seed"
    moved = float(np.abs(other["logits"] - ours["logits"]).max())
    return formats.to_torch(other["logits"], torch.float32), moved


def golden_tensors(ids, out, ours):
    tensors = {"input_ids": torch.tensor(ids, dtype=torch.int32),
               "logits": formats.to_torch(out["logits"][0], torch.float32)}
    for layer, hidden in enumerate(out["hidden"]):
        tensors[f"hidden.{layer}"] = formats.to_torch(hidden[0], torch.float32)
    for layer, (chosen, weights) in ours["routes"].items():
        tensors[f"route.{layer}.ids"] = formats.to_torch(chosen, torch.int32)
        tensors[f"route.{layer}.weights"] = formats.to_torch(weights, torch.float32)
    return tensors


def main():
    check_versions()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    checked = all([formats.check_packing_with_library(bits) for bits in (4, 8)])
    print("integer packing " + ("equals compressed-tensors" if checked else "not compared with compressed-tensors"))
    wanted = sys.argv[1:] or [spec["name"] for spec in SPECS]
    by_name = {spec["name"]: spec for spec in SPECS}
    unknown = [name for name in wanted if name not in by_name]
    if unknown:
        sys.exit(f"no golden model named {', '.join(unknown)}; there are {', '.join(by_name)}")
    for name in wanted:
        make(by_name[name])


if __name__ == "__main__":
    main()
