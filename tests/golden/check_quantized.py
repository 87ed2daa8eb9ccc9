#!/usr/bin/env python3
"""Loads checkpoints that `moebius quantize` wrote with `transformers` and `compressed-tensors`, and compares logits.

pip install compressed-tensors==0.20.0 torch==2.15.0 transformers==5.23.0 accelerate safetensors==0.8.0 numpy==2.4.6

    python tests/golden/check_quantized.py [--moebius build/moebius]

Quantises golden models in several ways into a temporary folder, loads each result in float64 as a user of
transformers would, and compares its logits with those of `moebius logits --exact-activations` (activations are not
rounded there). Fails when logits differ by more than --tolerance, when a weight is missing or not expected, or when
the numbers of a packed weight are not the library's.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import warnings

import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers.utils.quantization_config import CompressedTensorsConfig

HERE = os.path.dirname(os.path.abspath(__file__))

# model, options; where a width is no multiple of 32, that part is kept
CASES = [
    ("deepseek_v3_bf16", ["--format", "int8", "--keep", "dense,kv_b_proj"]),
    ("deepseek_v3_bf16", ["--format", "int4", "--keep", "dense,kv_b_proj"]),
    ("deepseek_v3_tiny", ["--format", "int4", "--keep", "dense"]),
    ("deepseek_v3_tiny", ["--format", "int4", "--experts-only"]),
    ("deepseek_v3_f16", ["--format", "int8", "--keep", "dense,kv_b_proj"]),
    ("qwen3_moe_bf16", ["--format", "int8"]),
    ("qwen3_moe_bf16", ["--format", "int4"]),
]


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}\n{done.stderr}")


def widen_scales(folder):
    """Scales in float32: the library multiplies codes in the scale's type, which for BF16 would round every weight."""
    file = os.path.join(folder, "model.safetensors")
    tensors = load_file(file)
    save_file({k: v.float() if k.endswith("weight_scale") else v for k, v in tensors.items()}, file, {"format": "pt"})


def load(folder):
    """The model in float64, its weights as the library unpacks them, and what transformers says of them."""
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float64, attn_implementation="eager", experts_implementation="eager",
        quantization_config=CompressedTensorsConfig(dequantize=True), output_loading_info=True)
    return model.double().eval(), [f"{k}: {sorted(v)[:3]}" for k, v in info.items() if v]


def compare(binary, name, options, tolerance, scratch):
    base, out = os.path.join(HERE, "models", name), os.path.join(scratch, "model")
    run("rm", "-rf", out)
    run(binary, "quantize", "-m", base, "-o", out, *options)
    ids = load_file(os.path.join(base, "golden.safetensors"))["input_ids"].tolist()
    logits = os.path.join(scratch, "logits.safetensors")
    run(binary, "logits", "-m", out, "--exact-activations", "--cache-type", "f32", "--ids", ",".join(map(str, ids)), "--out", logits)
    widen_scales(out)
    try:
        model, complaints = load(out)
    except RuntimeError as error:
        print(f"FAIL {name:20} {' '.join(options):52} {str(error)[:200]}", flush=True)
        return False
    with torch.no_grad():
        theirs = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
    ours = load_file(logits)["logits"].double()
    worst = float((theirs - ours).abs().max())
    good = worst <= tolerance and not complaints
    print(f"{'ok  ' if good else 'FAIL'} {name:20} {' '.join(options):52} logits differ by {worst:.1e}"
          + "".join(f"\n     {text[:300]}" for text in complaints), flush=True)
    return good


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moebius", default=os.path.join(HERE, "..", "..", "build", "moebius"))
    parser.add_argument("--tolerance", type=float, default=1e-3)
    args = parser.parse_args()
    transformers.logging.set_verbosity_error()
    warnings.simplefilter("ignore")
    transformers.utils.logging.disable_progress_bar()
    good = True
    with tempfile.TemporaryDirectory() as scratch:
        for name, options in CASES:
            good &= compare(args.moebius, name, options, args.tolerance, scratch)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
