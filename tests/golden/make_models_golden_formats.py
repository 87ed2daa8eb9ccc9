"""How the tensors of a golden checkpoint are stored, and what exact values the stored bytes stand for."""

import json
import math
import os
import re

import numpy as np
import torch
from safetensors.torch import save_file

from make_models_golden_weights import expert_count

FLOATS = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
BLOCK = 128


def to_torch(value, dtype):
    return torch.from_numpy(np.ascontiguousarray(value)).to(dtype)


def is_linear(name):
    """A torch.nn.Linear of the published model classes: every projection and the head, never the router."""
    return name.endswith("_proj.weight") or name.endswith("_with_mqa.weight") or name == "lm_head.weight"


# FP8: one scale per 128 x 128 block, edge blocks as they fall


def fp8_config():
    return {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic",
            "weight_block_size": [BLOCK, BLOCK]}


def _spread_blocks(value):
    """Blocks of clearly different size, so that a wrong scale shows."""
    row = np.arange(value.shape[0])[:, None] // BLOCK
    column = np.arange(value.shape[1])[None, :] // BLOCK
    return value * (0.5 + 0.5 * ((row + 2 * column) % 3))


def fp8_store(name, value):
    rows, columns = value.shape
    value = _spread_blocks(value)
    grid = (math.ceil(rows / BLOCK), math.ceil(columns / BLOCK))
    padded = np.zeros((grid[0] * BLOCK, grid[1] * BLOCK))
    padded[:rows, :columns] = value
    blocks = padded.reshape(grid[0], BLOCK, grid[1], BLOCK)
    scale = (np.abs(blocks).max((1, 3)) / 448.0).astype(np.float32)
    scaled = (blocks / scale[:, None, :, None]).reshape(padded.shape)[:rows, :columns]
    return {name: to_torch(scaled, torch.float32).to(torch.float8_e4m3fn),
            name + "_scale_inv": torch.from_numpy(scale)}


def fp8_value(stored, name):
    codes = stored[name].to(torch.float64).numpy()
    scale = stored[name + "_scale_inv"].to(torch.float64).numpy()
    rows, columns = codes.shape
    return codes * np.repeat(np.repeat(scale, BLOCK, 0), BLOCK, 1)[:rows, :columns]


# Integers: compressed-tensors "pack-quantized", symmetric, groups along the input


def packed_config(bits, group, ignore):
    weights = {"actorder": None, "block_structure": None, "dynamic": False, "group_size": group,
               "num_bits": bits, "observer": "minmax", "observer_kwargs": {}, "strategy": "group",
               "symmetric": True, "type": "int"}
    groups = {"group_0": {"input_activations": None, "output_activations": None, "targets": ["Linear"],
                          "weights": weights}}
    return {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": groups,
            "ignore": ignore, "kv_cache_scheme": None, "quantization_status": "compressed"}


def packed_applies(quantization, name):
    module = name.removesuffix(".weight")
    for entry in quantization["ignore"]:
        if entry.startswith("re:") and re.match(entry[3:], module) or entry == module:
            return False
    return True


def pack_rows(codes, bits):
    """Signed codes [rows, n] to int32 words: biased to unsigned, the first code in the lowest bits."""
    per_word = 32 // bits
    unsigned = (codes + 2 ** (bits - 1)).astype(np.uint32).reshape(len(codes), -1, per_word)
    shifts = np.arange(per_word, dtype=np.uint32) * np.uint32(bits)
    return (unsigned << shifts).sum(-1, dtype=np.uint64).astype(np.uint32).view(np.int32)


def unpack_rows(words, bits, columns):
    shifts = np.arange(32 // bits, dtype=np.uint32) * np.uint32(bits)
    codes = (words.view(np.uint32)[..., None] >> shifts) & np.uint32(2**bits - 1)
    return codes.reshape(len(words), -1)[:, :columns].astype(np.int64) - 2 ** (bits - 1)


def packed_store(name, value, bits, group, shape_dtype):
    stem = name.removesuffix("weight")
    rows, columns = value.shape
    grouped = value.reshape(rows, columns // group, group)
    scale = to_torch(np.abs(grouped).max(-1) / (2 ** (bits - 1) - 0.5), torch.bfloat16)
    codes = np.rint(grouped / scale.to(torch.float64).numpy()[..., None])
    codes = np.clip(codes, -(2 ** (bits - 1)), 2 ** (bits - 1) - 1).astype(np.int64).reshape(rows, columns)
    return {stem + "weight_packed": torch.from_numpy(pack_rows(codes, bits)), stem + "weight_scale": scale,
            stem + "weight_shape": torch.tensor([rows, columns], dtype=shape_dtype)}


def packed_value(stored, stem, bits):
    rows, columns = stored[stem + "weight_shape"].tolist()
    codes = unpack_rows(stored[stem + "weight_packed"].numpy(), bits, columns)
    scale = stored[stem + "weight_scale"].to(torch.float64).numpy()
    return codes * np.repeat(scale, columns // scale.shape[1], 1)


def check_packing_with_library(bits):
    """Compares pack_rows with compressed-tensors' own packing where that package is installed."""
    try:
        from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32, unpack_from_int32
    except ImportError:
        return False
    codes = np.random.default_rng(bits).integers(-(2 ** (bits - 1)), 2 ** (bits - 1), (6, 64))
    theirs = pack_to_int32(torch.from_numpy(codes).to(torch.int8), bits)
    assert np.array_equal(theirs.numpy(), pack_rows(codes, bits)), f"int{bits} packing differs from the library"
    back = unpack_from_int32(theirs, bits, torch.Size(codes.shape))
    assert np.array_equal(back.numpy(), unpack_rows(theirs.numpy(), bits, 64))
    return True


# A checkpoint on disk


def store(config, weights, dtype, shape_dtype=torch.int32):
    """{name on disk: torch tensor} for float64 weights; config["quantization_config"] decides the form."""
    quantization = config.get("quantization_config", {})
    method, stored = quantization.get("quant_method"), {}
    for name, value in weights.items():
        if name.endswith("e_score_correction_bias"):
            stored[name] = to_torch(value, torch.float32)
        elif method == "fp8" and is_linear(name) and name != "lm_head.weight":
            stored |= fp8_store(name, value)
        elif method == "compressed-tensors" and is_linear(name) and packed_applies(quantization, name):
            scheme = quantization["config_groups"]["group_0"]["weights"]
            stored |= packed_store(name, value, scheme["num_bits"], scheme["group_size"], shape_dtype)
        else:
            stored[name] = to_torch(value, FLOATS[dtype])
    return stored


def values(config, stored):
    """{published name: float64 array}: exactly what the stored bytes stand for."""
    bits = None
    if config.get("quantization_config", {}).get("quant_method") == "compressed-tensors":
        bits = config["quantization_config"]["config_groups"]["group_0"]["weights"]["num_bits"]
    out = {}
    for name, tensor in stored.items():
        if name.endswith("weight_packed"):
            stem = name.removesuffix("weight_packed")
            out[stem + "weight"] = packed_value(stored, stem, bits)
        elif name.endswith(("weight_scale", "weight_shape", "weight_scale_inv")):
            continue
        elif tensor.dtype == torch.float8_e4m3fn:
            out[name] = fp8_value(stored, name)
        else:
            out[name] = tensor.to(torch.float64).numpy()
    return out


def split_experts(config, stored):
    """The fused form back to one tensor per expert under the published names."""
    out = {}
    for name, tensor in stored.items():
        stem = name.rpartition(".")[0]
        if name.endswith("experts.gate_up_proj"):
            for e in range(expert_count(config)):
                out[f"{stem}.{e}.gate_proj.weight"], out[f"{stem}.{e}.up_proj.weight"] = tensor[e].chunk(2)
        elif name.endswith("experts.down_proj"):
            out |= {f"{stem}.{e}.down_proj.weight": tensor[e] for e in range(expert_count(config))}
        else:
            out[name] = tensor
    return out


def write(folder, stored, shards=1):
    meta = {"format": "pt"}
    if shards == 1:
        save_file(stored, os.path.join(folder, "model.safetensors"), metadata=meta)
        return
    names, total, weight_map = list(stored), sum(t.nbytes for t in stored.values()), {}
    part = math.ceil(len(names) / shards)
    for i in range(shards):
        file = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
        chunk = {name: stored[name] for name in names[i * part : (i + 1) * part]}
        save_file(chunk, os.path.join(folder, file), metadata=meta)
        weight_map |= {name: file for name in chunk}
    with open(os.path.join(folder, "model.safetensors.index.json"), "w") as f:
        json.dump({"metadata": {"total_size": total}, "weight_map": weight_map}, f, indent=1, sort_keys=True)
        f.write("\n")
