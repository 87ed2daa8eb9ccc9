#!/usr/bin/env python3
"""What pruning costs and gives on pebble: tasks solved, perplexity and divergence against the share of neurons kept.

    python bench/tenp_pebble.py           # about an hour on one core; started again, it goes on
    python bench/tenp_pebble.py --only tenp-0.6    # this model's evaluation alone, to share the work out
    python bench/tenp_pebble.py --speed   # adds decode speeds, by turns; wants an idle machine

Writes bench/results/tenp_pebble.csv; bench/plots.py draws it. 5,000 held-out tasks are fixed by seed 7 of `moebius corpus`,
perplexity and divergence are of the answers of the first 1,000 of them, the calibration is 32,768 tokens of that seed's
training examples. Intervals are of 95 %:
Wilson's for a share, and for the difference of two models on the same tasks the normal one of the paired differences.
"""

import argparse
import csv
import json
import math
import os
import statistics
import subprocess

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
WORK = os.path.join(ROOT, "build", "tenp")
PEBBLE = os.path.join(ROOT, "models", "pebble")
RESULTS = os.path.join(ROOT, "bench", "results", "tenp_pebble.csv")
KEEPS = [0.9, 0.8, 0.7, 0.6, 0.5]
PRUNED = [(method, keep) for keep in KEEPS for method in ("tenp", "enp", "drop", "random")]
PRUNED += [("usage", 0.6), ("gate", 0.6)]
THRESHOLDS = [0.1, 0.15, 0.2, 0.25]
RUNS = 9  # of a speed, by turns
Z = 1.96


def moebius(program, *arguments):
    return subprocess.run([program, *arguments], check=True, stdout=subprocess.PIPE, text=True).stdout


def at(name):
    return os.path.join(WORK, name)


def write(path, text):
    with open(path + ".new", "w") as file:
        file.write(text)
    os.replace(path + ".new", path)


def prepare(program):
    os.makedirs(WORK, exist_ok=True)
    if not os.path.exists(at("corpus/held_out.jsonl")):
        moebius(program, "corpus", "-o", at("corpus"), "--seed", "7", "--train", "4000", "--held-out", "5000")
    if not os.path.exists(at("scores.safetensors")):
        moebius(program, "tenp", "-m", PEBBLE, "--calibrate", at("corpus/train.jsonl"), "--scores",
                at("scores.safetensors"))
    if not os.path.exists(at("text.jsonl")):
        with open(at("corpus/held_out.jsonl")) as file:
            write(at("text.jsonl"), "".join(file.readlines()[:1000]))


def name_of(method, value):
    return method if method == "none" else f"{method}-{value}"


def options_of(method, value):
    """How to open the model, and the share of neurons kept."""
    if method == "none":
        return ["-m", PEBBLE]
    if method == "skip":
        return ["-m", PEBBLE, "--skip-threshold", str(value)]
    return ["-m", at(name_of(method, value))]


def evaluate(program, method, value):
    name = name_of(method, value)
    if method not in ("none", "skip") and not os.path.exists(at(name)):
        plan = moebius(program, "tenp", "-m", PEBBLE, "--scores", at("scores.safetensors"), "--method", method, "--keep",
                       str(value), "--multiple", "1", "-o", at(name), "--json")
        write(at(name + ".plan.json"), plan)
    options = options_of(method, value)
    if not os.path.exists(at(name + ".replies.jsonl")):
        moebius(program, "eval", *options, "-t", "1", "--tasks", at("corpus/held_out.jsonl"), "--max-tokens", "300",
                "--write-replies", at(name + ".replies.jsonl"))
    if not os.path.exists(at(name + ".text.json")):
        write(at(name + ".text.json"), moebius(program, "eval", *options, "-t", "1", "--data", at("text.jsonl"),
                                               "--against", PEBBLE, "--json"))


def verdicts(name):
    with open(at(name + ".replies.jsonl")) as file:
        return [json.loads(line)["right"] for line in file]


def wilson(right, n):
    p, z2 = right / n, Z * Z / n
    middle, half = (p + z2 / 2) / (1 + z2), Z * math.sqrt(p * (1 - p) / n + z2 / (4 * n)) / (1 + z2)
    return middle - half, middle + half


def difference(one, other):
    """Mean and half of the interval of one - other, in points."""
    d = [100 * (a - b) for a, b in zip(one, other)]
    return statistics.fmean(d), Z * statistics.stdev(d) / math.sqrt(len(d))


def row_of(method, value, speeds):
    name = name_of(method, value)
    mine = verdicts(name)
    low, high = wilson(sum(mine), len(mine))
    text = None
    if os.path.exists(at(name + ".text.json")):
        with open(at(name + ".text.json")) as file:
            text = json.load(file)
    kept = of_token = 1
    if os.path.exists(at(name + ".plan.json")):
        with open(at(name + ".plan.json")) as file:
            plan = json.load(file)
        kept, of_token = plan["kept"], plan["of_token"]
    row = {"method": method, "value": value, "kept": f"{kept:.4f}", "of a token": f"{of_token:.4f}", "tasks": len(mine),
           "accuracy": f"{100 * sum(mine) / len(mine):.2f}", "low": f"{100 * low:.2f}", "high": f"{100 * high:.2f}"}
    for column, other in (("lost", "none"), ("behind tenp", f"tenp-{value}")):
        there = os.path.exists(at(other + ".replies.jsonl"))
        mean, half = difference(verdicts(other), mine) if there else (0, 0)
        row[column], row[column + " +-"] = (f"{mean:.2f}", f"{half:.2f}") if there else ("", "")
    row |= {"perplexity": f"{text['perplexity']:.4f}" if text else "",
            "kl": f"{text['against']['kl_mean']:.5f}" if text else "", "tok/s": speeds.get(name, "")}
    return row


def measure_speeds(program, models):
    """Medians of the decode speed; the models by turns, so that what else the machine does meets all of them."""
    speeds = {name: [] for name, _ in models}
    for _ in range(RUNS):
        for name, options in models:
            out = json.loads(moebius(program, "bench", *options, "-p", "64", "-n", "256", "--json"))
            speeds[name].append(out["decode"]["tokens_per_s"])
    return {name: f"{statistics.median(values):.1f}" for name, values in speeds.items()}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--moebius", default=os.path.join(ROOT, "build", "moebius"))
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--table", action="store_true", help="write the table of what is evaluated so far")
    parser.add_argument("--only", help="METHOD-VALUE: evaluate this model, and write no table")
    arguments = parser.parse_args()
    prepare(arguments.moebius)
    models = [("none", 1)] + PRUNED + [("skip", t) for t in THRESHOLDS]
    for method, value in models:
        if not arguments.table and arguments.only in (None, name_of(method, value)):
            evaluate(arguments.moebius, method, value)
    if arguments.only:
        return
    speeds = {}
    if arguments.speed:
        speeds = measure_speeds(arguments.moebius, [(name_of(*m), options_of(*m)) for m in models])
    elif os.path.exists(RESULTS):
        with open(RESULTS) as file:
            speeds = {name_of(r["method"], r["value"]): r["tok/s"] for r in csv.DictReader(file)}
    done = [m for m in models if os.path.exists(at(name_of(*m) + ".replies.jsonl"))]
    rows = [row_of(method, value, speeds) for method, value in done]  # what is evaluated so far
    with open(RESULTS, "w", newline="") as file:
        out = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
        out.writeheader()
        out.writerows(rows)


if __name__ == "__main__":
    main()
