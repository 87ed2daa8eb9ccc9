#!/usr/bin/env python3
"""Loads a model that `moebius train` wrote with `transformers` and compares tokenizers and logits.

pip install torch==2.15.0 transformers==5.23.0 tokenizers==0.23.3 safetensors==0.8.0 numpy==2.4.6 jinja2==3.1.6

    python tests/golden/check_trained.py FOLDER --moebius build/moebius

The chat template and the tokenizer must give the ids that `moebius` gives for a conversation. The logits of those ids
are computed by transformers in float64 from the stored BF16 weights, and by `moebius logits` in float32 from the same.
Fails when the ids differ, or a logit by more than --tolerance.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile

import torch
import transformers
from safetensors.torch import load_file

CONVERSATION = [
    {"role": "user", "content": "What is 17 + 25?"},
    {"role": "assistant", "content": "17 + 25 = 42\nAnswer: 42"},
    {"role": "user", "content": "Sort these words: übung, apple, 日本, zebra."},
]


def moebius(program, arguments, text=None):
    return subprocess.run([program, *arguments], input=text, text=True, check=True, capture_output=True).stdout


def ids_of(program, folder, tokenizer):
    """The prompt's ids by transformers, which must be those of the program."""
    theirs = tokenizer.apply_chat_template(CONVERSATION, add_generation_prompt=True, tokenize=False)
    request = json.dumps({"messages": CONVERSATION})
    ours = moebius(program, ["template", "-m", folder, "--messages", "/dev/stdin"], request)
    if ours != theirs:
        raise SystemExit(f"FAIL the chat template gives {ours!r}, transformers {theirs!r}")
    ids = tokenizer(theirs, add_special_tokens=False)["input_ids"]
    report = json.loads(moebius(program, ["tokenize", "-m", folder, "--json"], theirs))
    if report["ids"] != ids:
        raise SystemExit(f"FAIL the tokenizer gives {report['ids']}, transformers {ids}")
    return ids


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--moebius", default="build/moebius")
    parser.add_argument("--tolerance", type=float, default=1e-4)
    args = parser.parse_args()

    tokenizer = transformers.AutoTokenizer.from_pretrained(args.folder)
    model, loading = transformers.AutoModelForCausalLM.from_pretrained(
        args.folder, dtype=torch.float64, attn_implementation="eager", experts_implementation="eager",
        output_loading_info=True)
    for kind, names in loading.items():
        if names:
            raise SystemExit(f"FAIL {kind}: {names}")
    ids = ids_of(args.moebius, args.folder, tokenizer)
    with torch.no_grad():
        theirs = model.eval()(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
    with tempfile.TemporaryDirectory() as scratch:
        out = os.path.join(scratch, "logits.safetensors")
        moebius(args.moebius, ["logits", "-m", args.folder, "--ids", ",".join(map(str, ids)), "--cache-type", "f32",
                               "--out", out])
        ours = load_file(out)["logits"].double()
    apart = (ours - theirs).abs()
    worst = float(apart.max())
    size = float(theirs.abs().max())
    print(f"{'ok  ' if worst <= args.tolerance else 'FAIL'} {len(ids)} ids equal, logits up to {size:.2f} differ by "
          f"at most {worst:.1e}, on average by {float(apart.mean()):.1e}")
    sys.exit(worst > args.tolerance)


if __name__ == "__main__":
    main()
