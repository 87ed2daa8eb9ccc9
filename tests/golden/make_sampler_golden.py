"""Writes sampler_golden.json: what the logits processors of Hugging Face transformers keep, and with which
probabilities, for small seeded vectors of logits.

Needs: pip install torch==2.15.0 transformers==5.23.0
Run from the root of the repository: python tests/golden/make_sampler_golden.py
"""

import json
import pathlib

import torch
from transformers.generation.logits_process import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

CASES = [
    {"temperature": 1.0},
    {"temperature": 0.25},
    {"temperature": 3.0, "top_p": 0.9},
    {"temperature": 1.0, "top_k": 1},
    {"temperature": 0.7, "top_k": 17},
    {"temperature": 1.0, "top_p": 0.5},
    {"temperature": 1.5, "top_p": 0.999},
    {"temperature": 1.0, "top_p": 0.01},
    {"temperature": 1.0, "min_p": 0.05},
    {"temperature": 2.0, "min_p": 0.3},
    {"temperature": 1.0, "min_p": 1.0},
    {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.02},
    {"temperature": 1.3, "top_k": 200, "top_p": 0.97, "min_p": 0.001},
    {"temperature": 1.0, "repetition_penalty": 1.3, "prompt": [0, 1, 2, 3, 3, 5, 8, 13, 21, 34]},
    {"temperature": 0.6, "repetition_penalty": 0.8, "top_k": 25, "prompt": [250, 7, 7, 100]},
    {"temperature": 1.0, "repetition_penalty": 1.1, "top_p": 0.8, "min_p": 0.01, "prompt": list(range(64))},
]


def distinct_numerators(generator, vocab):
    """Logits times 1024, no two equal: which of two equals stays is not what is tested."""
    width = int(torch.randint(3, 15, (1,), generator=generator))
    return torch.randperm(2 * width * 1024, generator=generator)[:vocab] - width * 1024


def process(case, logits):
    scores = logits[None].clone()
    prompt = torch.tensor([case.get("prompt", [0])])
    if "repetition_penalty" in case:
        scores = RepetitionPenaltyLogitsProcessor(case["repetition_penalty"])(prompt, scores)
    scores = TemperatureLogitsWarper(case["temperature"])(prompt, scores)
    if "top_k" in case:
        scores = TopKLogitsWarper(case["top_k"])(prompt, scores)
    if "min_p" in case:
        scores = MinPLogitsWarper(case["min_p"])(prompt, scores)
    if "top_p" in case:
        scores = TopPLogitsWarper(case["top_p"])(prompt, scores)
    return scores[0]


def main():
    generator = torch.Generator().manual_seed(20240607)
    out = []
    for case in CASES:
        numerators = distinct_numerators(generator, 256)
        logits = numerators.float() / 1024
        scores = process(case, logits)
        kept = torch.nonzero(scores > -torch.inf)[:, 0]
        probabilities = torch.softmax(scores.double(), dim=-1)[kept]
        log_probabilities = torch.log_softmax(logits.double(), dim=-1)
        out.append({
            "params": {key: value for key, value in case.items() if key != "prompt"},
            "prompt": case.get("prompt", []),
            "logits_times_1024": numerators.tolist(),
            "ids": kept.tolist(),
            "probabilities": [float(f"{p:.9g}") for p in probabilities.tolist()],
            "raw_logprobs_0_to_7": [float(f"{p:.9g}") for p in log_probabilities[:8].tolist()],
        })
    path = pathlib.Path(__file__).parent / "sampler_golden.json"
    path.write_text("[\n" + ",\n".join(json.dumps(case) for case in out) + "\n]\n")


if __name__ == "__main__":
    main()
