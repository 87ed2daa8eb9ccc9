#!/usr/bin/env python3
"""Makes tests/golden/pruning: what TENP's scores are on the golden models, restated from the published formulas.

pip install numpy==2.4.6 safetensors==0.8.0

    python tests/golden/make_pruning_golden.py

In float64, on the restatement of the models in make_models_golden_reference.py, which agrees with transformers. Nothing is
shortened: the contribution y_k = m_k W_down[:, k] of every neuron to every token is formed, and projected on the expert's
output. Each file holds for each MoE layer L `L.tokens` I32 [E], `L.gate` and `L.importance` F64 [E], `L.neurons` F64 [E, W]
for the model's own golden ids, cut into the sequences of `starts` I32.
"""

import json
import os

import numpy as np
from safetensors.numpy import load_file, save_file

import make_models_golden_reference as reference
from make_models_golden_weights import expert_count, is_moe_layer

HERE = os.path.dirname(os.path.abspath(__file__))
CLOSE = 1e-4  # no routing decision may be closer than this, relatively: float32 is within 1e-5
MODELS = ["deepseek_v3_tiny", "qwen3_moe", "deepseek_v3_grouped"]  # float32: their values are exact here


class Scored(reference.Reference):
    def __init__(self, config, weights):
        super().__init__(config, weights)
        experts, width = expert_count(config), config["moe_intermediate_size"]
        self.scores = {layer: {"tokens": np.zeros(experts, np.int32), "gate": np.zeros(experts),
                               "importance": np.zeros(experts), "neurons": np.zeros((experts, width))}
                       for layer in range(config["num_hidden_layers"]) if is_moe_layer(config, layer)}

    def moe(self, x, layer, name, out):
        y = super().moe(x, layer, name, out)
        ids, weights = out["routes"][layer]
        for token in range(len(x)):
            for expert, gate in zip(ids[token], weights[token]):
                if expert >= 0:
                    self.score(layer, f"{name}experts.{expert}.", int(expert), gate, x[token])
        return y

    def score(self, layer, name, expert, gate, x):
        w_gate, w_up, w_down = (self.w[f"{name}{part}_proj.weight"] for part in ("gate", "up", "down"))
        a = w_gate @ x
        m = a / (1 + np.exp(-a)) * (w_up @ x)
        contributions = m[:, None] * w_down.T  # [W, hidden]
        y = contributions.sum(0)
        length = np.sqrt((y * y).sum())
        cosine = (x * y).sum() / (np.sqrt((x * x).sum()) * length)
        s = self.scores[layer]
        s["tokens"][expert] += 1
        s["gate"][expert] += gate
        s["importance"][expert] += gate * length * (1 - cosine)
        s["neurons"][expert] += [(c * y).sum() / length for c in contributions]


def main():
    os.makedirs(os.path.join(HERE, "pruning"), exist_ok=True)
    for model in MODELS:
        folder = os.path.join(HERE, "models", model)
        with open(os.path.join(folder, "config.json")) as file:
            config = json.load(file)
        weights = {n: w.astype(np.float64) for n, w in load_file(os.path.join(folder, "model.safetensors")).items()}
        ids = load_file(os.path.join(folder, "golden.safetensors"))["input_ids"]
        starts = np.array([0, len(ids) // 3, len(ids) // 3 + 1, len(ids)], np.int32)
        scored = Scored(config, weights)
        for begin, end in zip(starts, starts[1:]):
            margins = scored.forward(ids[begin:end])["margins"].values()
            assert min(np.min(m) for m in margins) > CLOSE, model
        tensors = {"starts": starts}
        for layer, scores in scored.scores.items():
            scores["neurons"] /= np.maximum(scores["tokens"], 1)[:, None]
            tensors |= {f"{layer}.{name}": values for name, values in scores.items()}
        save_file(tensors, os.path.join(HERE, "pruning", model + ".safetensors"))


if __name__ == "__main__":
    main()
