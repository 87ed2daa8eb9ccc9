#!/usr/bin/env python3
"""Makes tests/golden/adapters: seeded LoRA adapters of tests/golden/models, made and computed by `peft`.

pip install peft==0.21.2 torch==2.15.0 transformers==5.23.0 safetensors==0.8.0 numpy==2.4.6

    python tests/golden/make_peft_golden.py            # every adapter
    python tests/golden/make_peft_golden.py NAME...    # only these

Each folder gets adapter_config.json and adapter_model.safetensors as `save_pretrained` writes them (the tensors cast
to float32, which their values fit), and golden.safetensors:
  `input_ids` I32 [n], `logits` F32 [n, vocab]   the adapted model in float64
  `probe.M` F32 [out]   for every adapted matrix M: the merged delta times a vector, x[j] = ((7919 j) mod 13 - 6) / 6
  `delta.M` F32 [out, in]   the merged delta of some
M is the matrix's name in the checkpoint, without ".weight". No routing decision of the adapted model is close.

per_expert is what peft saved on transformers 4, written here tensor by tensor and loaded by peft, which fuses it.
"""

import json
import os
import shutil
import sys

import numpy as np
import peft
import safetensors
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora.layer import LoraLayer, ParamWrapper
from safetensors.torch import load_file, save_file

import make_models_golden_formats as formats
from make_models_golden import batch_margins, read_stored
from make_models_golden_oracle import Oracle

PINNED = {peft: "0.21.2", torch: "2.15.0", transformers: "5.23.0", safetensors: "0.8.0", np: "2.4.6"}
HERE = os.path.dirname(os.path.abspath(__file__))
MODELS, ADAPTERS = os.path.join(HERE, "models"), os.path.join(HERE, "adapters")
TOKENS = 24
MARGIN = 0.01
MOVED = 0.3  # the adapter moves some logit by at least this
TRIES = 40

MLA = ["q_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj"]
FUSED = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
SHARED = [f"mlp.shared_experts.{part}_proj.weight" for part in ("gate", "up", "down")]
DENSE = [f"mlp.{part}_proj.weight" for part in ("gate", "up", "down")]
ROUTER = ["mlp.gate.weight"]

SPECS = [
    # Everything, with two MoE layers; one rank and scale.
    {"name": "deepseek_v3_all", "model": "deepseek_v3_tiny", "size": 0.5,
     "config": {"r": 3, "lora_alpha": 5, "target_modules": MLA,
                "target_parameters": FUSED + SHARED + DENSE + ROUTER}},
    # hidden != 2 * width; patterns of rank and scale; the head.
    {"name": "deepseek_v2_patterns", "model": "deepseek_v2_lite", "size": 0.5,
     "config": {"r": 2, "lora_alpha": 3, "target_modules": MLA + ["lm_head"],
                "target_parameters": FUSED + SHARED + DENSE,
                "rank_pattern": {"experts.gate_up_proj": 6, r"layers\.1\.self_attn\.(q|o)_proj": 5,
                                 "shared_experts.(gate|up)_proj.weight": 1, "o_proj": 4},
                "alpha_pattern": {r"^model\.layers\.0\..*o_proj": 7, "experts.down_proj": 1.5}}},
    # peft turns these names into parameters by itself; alpha / sqrt(r).
    {"name": "qwen3_converted", "model": "qwen3_moe", "size": 0.25,
     "config": {"r": 4, "lora_alpha": 4, "use_rslora": True,
                "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "gate", "gate_proj", "up_proj",
                                   "down_proj"]}},
    # One parameter of the experts, and attention of one layer only.
    {"name": "glm4_down", "model": "glm4_moe", "size": 0.5,
     "config": {"r": 3, "lora_alpha": 8, "target_modules": ["k_proj", "o_proj"], "layers_to_transform": [1],
                "target_parameters": FUSED[1:] + ROUTER}},
    # All linear maps, the experts and the router; q_lora.
    {"name": "glm4_lite_all_linear", "model": "glm4_moe_lite", "size": 0.4,
     "config": {"r": 2, "lora_alpha": 4, "target_modules": "all-linear", "exclude_modules": ["o_proj"]}},
    {"name": "per_expert", "model": "deepseek_v2_lite", "size": 0.5, "per_expert": True,
     "config": {"r": 3, "lora_alpha": 4,
                "target_modules": ["q_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]}},
]


def check_versions():
    for module, pinned in PINNED.items():
        found = module.__version__.split("+")[0]
        if found != pinned:
            sys.exit(f"{module.__name__} {found} found; install {module.__name__}=={pinned}")


def base_model(name):
    folder = os.path.join(MODELS, name)
    with open(os.path.join(folder, "config.json")) as f:
        config = json.load(f)
    weights = formats.values(config, formats.split_experts(config, read_stored(folder)))
    return config, weights, Oracle(config, weights, folder)


def random_factors(shape, size, rng):
    return torch.from_numpy(rng.standard_normal(shape).astype(np.float32) * np.float32(size / np.sqrt(shape[-1])))


def randomise(model, size, rng):
    for name, parameter in model.named_parameters():
        if ".lora_A." in name or ".lora_B." in name:
            gain = 1.0 if ".lora_A." in name else size
            parameter.data = random_factors(tuple(parameter.shape), gain, rng).to(parameter.dtype)


def write_per_expert(folder, config, spec, rng):
    """As peft on transformers 4 saves: a pair for every expert."""
    hidden, width, r = config["hidden_size"], config["moe_intermediate_size"], spec["config"]["r"]
    heads = config["num_attention_heads"] * (config["qk_nope_head_dim"] + config["qk_rope_head_dim"])
    values = config["num_attention_heads"] * config["v_head_dim"]
    modules = {}
    for layer in range(config["num_hidden_layers"]):
        stem = f"model.layers.{layer}."
        modules |= {stem + "self_attn.q_proj": (heads, hidden), stem + "self_attn.o_proj": (hidden, values)}
        if layer >= config["first_k_dense_replace"]:
            for e in range(config["n_routed_experts"]):
                modules |= {f"{stem}mlp.experts.{e}.{part}_proj": (width, hidden) for part in ("gate", "up")}
                modules[f"{stem}mlp.experts.{e}.down_proj"] = (hidden, width)
    tensors = {}
    for module, (out, into) in modules.items():
        key = f"base_model.model.{module}"
        tensors[key + ".lora_A.weight"] = random_factors((r, into), 1.0, rng)
        tensors[key + ".lora_B.weight"] = random_factors((out, r), spec["size"], rng)
    save_file(tensors, os.path.join(folder, "adapter_model.safetensors"), metadata={"format": "pt"})
    LoraConfig(task_type="CAUSAL_LM", **spec["config"]).save_pretrained(folder)


def save(folder, model):
    model.save_pretrained(folder)
    path = os.path.join(folder, "adapter_model.safetensors")
    tensors = {name: value.float() for name, value in load_file(path).items()}
    save_file(tensors, path, metadata={"format": "pt"})
    os.remove(os.path.join(folder, "README.md"))


def finish_config(folder, name):
    """A base model that is no path of the maker's, and lists in a fixed order."""
    path = os.path.join(folder, "adapter_config.json")
    with open(path) as f:
        config = json.load(f)
    config["base_model_name_or_path"] = f"golden/{name}"
    for key, value in config.items():
        if isinstance(value, list):
            config[key] = sorted(value)
    with open(path, "w") as f:
        json.dump(config, f, indent=2, sort_keys=True)
        f.write("\n")


def deltas(model):
    """{matrix: scale * B @ A} in float64, by peft's own merge."""
    found = {}
    for name, module in model.named_modules():
        if not isinstance(module, LoraLayer) or "default" not in module.r:
            continue
        name = name.removeprefix("base_model.model.").replace(".base_layer", "")
        delta = module.get_delta_weight("default").detach().double().numpy()
        if not isinstance(module, ParamWrapper) or delta.ndim == 2:
            found[name] = delta
            continue
        for e, of_expert in enumerate(delta):
            stem = f"{name}.{e}."
            if module.parameter_name == "down_proj":
                found[stem + "down_proj"] = of_expert
            else:
                half = len(of_expert) // 2
                found[stem + "gate_proj"], found[stem + "up_proj"] = of_expert[:half], of_expert[half:]
    return found


def is_kept(matrix):
    return any(part in matrix for part in ("layers.1.self_attn.o_proj", "layers.1.self_attn.k", "mlp.gate",
                                           "shared_experts.down", "experts.5.")) and "layers.2" not in matrix


def build(spec, seed, folder):
    """One attempt: writes the adapter, returns its golden tensors and figures."""
    config, weights, oracle = base_model(spec["model"])
    rng = np.random.default_rng(seed)
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    golden = load_file(os.path.join(MODELS, spec["model"], "golden.safetensors"))
    ids = golden["input_ids"][:TOKENS]
    before = oracle.forward([ids.tolist()])["logits"][0]
    if spec.get("per_expert"):
        write_per_expert(folder, config, spec, rng)
        model = PeftModel.from_pretrained(oracle.model, folder)
    else:
        model = get_peft_model(oracle.model, LoraConfig(task_type="CAUSAL_LM", **spec["config"]))
        randomise(model, spec["size"], rng)
        save(folder, model)
    finish_config(folder, spec["model"])
    model.eval()
    out = oracle.forward([ids.tolist()])
    margin = float(batch_margins(config, weights, out["router"]).min())
    logits = out["logits"][0]
    moved = float(np.abs(logits - before).max())
    merged = deltas(model)
    tensors = {"input_ids": ids, "logits": formats.to_torch(logits, torch.float32)}
    for name, delta in merged.items():
        x = ((7919 * np.arange(delta.shape[1])) % 13 - 6) / 6
        tensors["probe." + name] = formats.to_torch(delta @ x, torch.float32)
        if is_kept(name):
            tensors["delta." + name] = formats.to_torch(np.ascontiguousarray(delta), torch.float32)
    return tensors, margin, moved, merged


def make(spec):
    folder = os.path.join(ADAPTERS, spec["name"])
    for seed in range(TRIES):
        tensors, margin, moved, merged = build(spec, seed, folder)
        if margin >= MARGIN:
            break
    else:
        sys.exit(f"{spec['name']}: no seed of {TRIES} has a margin of {MARGIN}")
    assert moved >= MOVED, f"{spec['name']} moves the logits by {moved} only"
    assert all(np.abs(delta).max() > 1e-3 for delta in merged.values())
    save_file(tensors, os.path.join(folder, "golden.safetensors"))
    size = sum(os.path.getsize(os.path.join(folder, f)) for f in os.listdir(folder))
    print(f"{spec['name']:24} {size // 1024:4} KB  {len(merged):3} matrices  seed {seed}  margin {margin:.4f}  "
          f"moves logits by {moved:.2f}", flush=True)


def main():
    check_versions()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    by_name = {spec["name"]: spec for spec in SPECS}
    wanted = sys.argv[1:] or list(by_name)
    unknown = [name for name in wanted if name not in by_name]
    if unknown:
        sys.exit(f"no golden adapter named {', '.join(unknown)}; there are {', '.join(by_name)}")
    for name in wanted:
        make(by_name[name])


if __name__ == "__main__":
    main()
