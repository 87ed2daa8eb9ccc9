#!/usr/bin/env python3
"""Loads an adapter that Moebius wrote with `peft` and compares logits.

pip install peft==0.21.2 torch==2.15.0 transformers==5.23.0 safetensors==0.8.0 numpy==2.4.6

    moebius logits -m MODEL --adapter ADAPTER --ids 5,17,... --out logits.safetensors
    python tests/golden/check_peft.py MODEL ADAPTER logits.safetensors --ids 5,17,...

The ids may also be in the file, as `input_ids`. Fails when logits differ by more than --tolerance, or when peft ignores
or misses a tensor. Without MODEL and so on, checks what the adapters of tests/golden/adapters become when written
again (the logits must stay those of peft's own adapter):

    build/peft_test --gtest_also_run_disabled_tests --gtest_filter='Written.*'
    python tests/golden/check_peft.py --written /tmp/moebius-adapters
"""

import argparse
import os
import sys
import warnings

import torch
import transformers
from peft import PeftConfig, PeftModel
from safetensors.torch import load_file

HERE = os.path.dirname(os.path.abspath(__file__))


def load(model_folder, adapter_folder):
    """The adapted model in float64; peft must find every factor it wants, and want every one it finds."""
    base = transformers.AutoModelForCausalLM.from_pretrained(
        model_folder, dtype=torch.float64, attn_implementation="eager", experts_implementation="eager")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = PeftModel.from_pretrained(base, adapter_folder)
    complaints = [str(w.message) for w in caught if "adapter keys" in str(w.message) or "unexpected" in str(w.message)]
    # For float64 tensors, as load_adapter reports missing and unexpected keys only in words.
    stored = load_file(os.path.join(adapter_folder, "adapter_model.safetensors"))
    wanted = sum(p.numel() for n, p in model.named_parameters() if ".lora_A." in n or ".lora_B." in n)
    found = sum(v.numel() for k, v in stored.items() if ".lora_A." in k or ".lora_B." in k)
    return model.eval(), complaints, wanted, found


def compare(model_folder, adapter_folder, logits_file, ids, tolerance):
    stored = load_file(logits_file)
    ids = stored["input_ids"].tolist() if ids is None else ids
    try:
        model, complaints, wanted, found = load(model_folder, adapter_folder)
    except RuntimeError as error:
        print(f"FAIL {os.path.basename(os.path.normpath(adapter_folder)):36} {str(error)[:300]}", flush=True)
        return False
    with torch.no_grad():
        theirs = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
    worst = float((theirs - stored["logits"].double()).abs().max())
    good = worst <= tolerance and not complaints
    layout = PeftConfig.from_pretrained(adapter_folder)
    print(f"{'ok  ' if good else 'FAIL'} {os.path.basename(os.path.normpath(adapter_folder)):36} r {layout.r:2}  "
          f"{found} numbers stored, {wanted} in the model, logits differ by {worst:.1e}"
          + "".join(f"\n     {text[:300]}" for text in complaints), flush=True)
    return good


def check_written(folder, tolerance):
    good = True
    for name in sorted(os.listdir(folder)):
        golden = os.path.join(HERE, "adapters", name.removesuffix("-fused").removesuffix("-per-expert"))
        model = os.path.basename(PeftConfig.from_pretrained(golden).base_model_name_or_path)
        good &= compare(os.path.join(HERE, "models", model), os.path.join(folder, name),
                        os.path.join(golden, "golden.safetensors"), None, tolerance)
    return good


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?")
    parser.add_argument("adapter", nargs="?")
    parser.add_argument("logits", nargs="?")
    parser.add_argument("--ids", type=lambda text: [int(x) for x in text.split(",")])
    parser.add_argument("--tolerance", type=float, default=1e-3)
    parser.add_argument("--written", metavar="FOLDER")
    args = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    if args.written:
        sys.exit(0 if check_written(args.written, args.tolerance) else 1)
    if not args.logits:
        parser.error("MODEL, ADAPTER and LOGITS are needed")
    sys.exit(0 if compare(args.model, args.adapter, args.logits, args.ids, args.tolerance) else 1)


if __name__ == "__main__":
    main()
