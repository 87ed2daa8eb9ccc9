#!/usr/bin/env python3
"""Makes tests/golden/embeddings.json: of some texts' tokens the mean of the last hidden states, as transformers has them.

pip install torch==2.15.0 transformers==5.23.0

Float32 models of tests/golden/models with transformers' own classes, in float64; of each 5, 40 and all ids of its
golden.safetensors, divided by the vector's length.
"""

import json
import os

import torch
from safetensors.torch import load_file
from transformers import AutoModel

HERE = os.path.dirname(os.path.abspath(__file__))


def main():
    golden = {}
    for name in ("deepseek_v3_tiny", "deepseek_v2_lite", "qwen3_moe", "glm4_moe"):
        folder = os.path.join(HERE, "models", name)
        model = AutoModel.from_pretrained(folder, dtype=torch.float64, experts_implementation="eager").eval()
        ids = load_file(os.path.join(folder, "golden.safetensors"))["input_ids"].long()
        golden[name] = []
        for count in (5, 40, len(ids)):
            count = min(count, len(ids))
            with torch.no_grad():
                mean = model(ids[None, :count]).last_hidden_state[0].double().mean(0)
            unit = (mean / mean.norm()).tolist()
            golden[name].append({"tokens": count, "embedding": [round(x, 7) for x in unit]})
    with open(os.path.join(HERE, "embeddings.json"), "w") as out:
        json.dump(golden, out)


main()
