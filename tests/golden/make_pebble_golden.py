#!/usr/bin/env python3
"""Makes tests/golden/pebble.safetensors and pebble_tasks.jsonl for the model in models/pebble.

pip install torch==2.15.0 transformers==5.23.0 safetensors==0.8.0 numpy==2.4.6

    python tests/golden/make_pebble_golden.py HELD_OUT.jsonl     # of `moebius corpus`

pebble.safetensors: `input_ids` I32 [n], the first conversation of at least 80 tokens, and `logits` F32 [n, vocab],
which transformers computes in float64 from the BF16 weights. pebble_tasks.jsonl: the first four held-out examples of each
task.
"""

import json
import os
import sys

import numpy as np
import torch
from safetensors.numpy import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

HERE = os.path.dirname(os.path.abspath(__file__))
PEBBLE = os.path.join(HERE, "..", "..", "models", "pebble")
EACH = 4


def main():
    seen, tasks, conversations = {}, [], []
    for line in open(sys.argv[1]):
        example = json.loads(line)
        seen[example["task"]] = seen.get(example["task"], 0) + 1
        if seen[example["task"]] <= EACH:
            tasks.append(line)
        conversations.append(example["messages"])
    with open(os.path.join(HERE, "pebble_tasks.jsonl"), "w") as out:
        out.writelines(tasks)

    tokenizer = AutoTokenizer.from_pretrained(PEBBLE)
    rendered = (tokenizer.apply_chat_template(c, return_dict=False) for c in conversations)
    ids = next(ids for ids in rendered if len(ids) >= 80)
    model = AutoModelForCausalLM.from_pretrained(PEBBLE, dtype=torch.float64, experts_implementation="eager")
    model.eval()
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0]
    save_file(
        {"input_ids": np.array(ids, dtype=np.int32), "logits": logits.numpy().astype(np.float32)},
        os.path.join(HERE, "pebble.safetensors"),
    )
    print(len(ids), "ids,", len(tasks), "tasks")


main()
