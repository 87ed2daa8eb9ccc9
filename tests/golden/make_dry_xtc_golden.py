"""Writes dry_xtc_golden.json: which tokens DRY punishes by how much, and what XTC leaves, by a plain reading of their
descriptions (text-generation-webui, pull requests 5677 and 6335): every earlier place is compared token by token.

Needs nothing beside Python. Run from the root of the repository: python tests/golden/make_dry_xtc_golden.py
"""

import json
import math
import pathlib
import random

LONGEST = 50


def dry(case, history, vocab):
    """The penalty of every token."""
    look = history if case["last"] < 0 else history[len(history) - min(case["last"], len(history)):]
    longest = {}
    for place in range(len(look) - 1):
        following = look[place + 1]
        if following in case["breakers"]:
            continue
        length = 0
        while length < LONGEST and place - length >= 0:
            token = look[len(look) - 1 - length]
            if look[place - length] != token or token in case["breakers"]:
                break
            length += 1
        longest[following] = max(longest.get(following, 0), length)
    penalties = [0.0] * vocab
    for token, length in longest.items():
        if length >= case["allowed"]:
            penalties[token] = case["multiplier"] * case["base"] ** (length - case["allowed"])
    return penalties


def xtc(probabilities, threshold):
    top = [i for i, p in enumerate(probabilities) if p >= threshold]
    if len(top) < 2:
        kept = dict(enumerate(probabilities))
    else:
        least = min(top, key=lambda i: probabilities[i])
        kept = {i: p for i, p in enumerate(probabilities) if i == least or p < threshold}
    total = sum(kept.values())
    return {i: p / total for i, p in kept.items()}


def main():
    draw = random.Random(20241028)
    out = {"dry": [], "xtc": []}
    for _ in range(40):
        vocab = draw.choice([4, 8, 20])
        case = {
            "multiplier": draw.choice([0.5, 0.8, 2.0]),
            "base": draw.choice([1.0, 1.25, 1.75]),
            "allowed": draw.choice([1, 2, 3]),
            "last": draw.choice([-1, -1, -1, 0, 7, 30]),
            "breakers": draw.sample(range(vocab), draw.choice([0, 0, 0, 1])),
        }
        history = [draw.randrange(vocab) for _ in range(draw.choice([0, 1, 5, 40, 90, 90]))]
        if draw.random() < 0.8:
            history += history[-draw.choice([3, 10, 70]):][: draw.choice([2, 9, 60])]
        penalties = dry(case, history, vocab)
        out["dry"].append({**case, "vocab": vocab, "history": history, "penalties": [float(f"{p:.9g}") for p in penalties]})
    for _ in range(20):
        numerators = draw.sample(range(-4096, 4096), 16)
        threshold = draw.choice([0.01, 0.05, 0.1, 0.3, 0.6])
        weights = [math.exp(n / 1024) for n in numerators]
        kept = xtc([w / sum(weights) for w in weights], threshold)
        out["xtc"].append({
            "logits_times_1024": numerators,
            "threshold": threshold,
            "ids": sorted(kept),
            "probabilities": [float(f"{kept[i]:.9g}") for i in sorted(kept)],
        })
    path = pathlib.Path(__file__).parent / "dry_xtc_golden.json"
    lines = [f'"{kind}": [\n' + ",\n".join(json.dumps(case) for case in out[kind]) + "\n]" for kind in out]
    path.write_text("{" + ",\n".join(lines) + "}\n")


if __name__ == "__main__":
    main()
