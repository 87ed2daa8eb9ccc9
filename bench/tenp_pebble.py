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
import os
import statistics

from pebble_tasks import PEBBLE, ROOT, RUNS, Work, moebius, write, write_table

WORK = Work("tenp")
at = WORK.at
RESULTS = os.path.join(ROOT, "bench", "results", "tenp_pebble.csv")
KEEPS = [0.9, 0.8, 0.7, 0.6, 0.5]
PRUNED = [(method, keep) for keep in KEEPS for method in ("tenp", "enp", "drop", "random")]
PRUNED += [("usage", 0.6), ("gate", 0.6)]
THRESHOLDS = [0.1, 0.15, 0.2, 0.25]


def prepare(program):
    WORK.prepare(program)
    if not os.path.exists(at("scores.safetensors")):
        moebius(program, "tenp", "-m", PEBBLE, "--calibrate", at("corpus/train.jsonl"), "--scores",
                at("scores.safetensors"))


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
    WORK.evaluate(program, name, options_of(method, value))


def row_of(method, value, speeds):
    name = name_of(method, value)
    kept = of_token = 1
    plan = WORK.read(name + ".plan.json")
    if plan:
        kept, of_token = plan["kept"], plan["of_token"]
    row = {"method": method, "value": value, "kept": f"{kept:.4f}", "of a token": f"{of_token:.4f}"}
    row |= WORK.accuracy(name) | WORK.behind("lost", name, "none") | WORK.behind("behind tenp", name, f"tenp-{value}")
    row |= WORK.text(name) | {"tok/s": speeds.get(name, "")}
    return row


def measure_speeds(program, models):
    """Medians of the decode speed; the models by turns, so that what else the machine does meets all of them."""
    speeds = {name: [] for name, _ in models}
    for _ in range(RUNS):
        for name, options in models:
            out = json.loads(moebius(program, "bench", *options, "-p", "0", "-n", "256", "--depth", "64", "--batch", "1",
                                     "--repeats", "1", "--json"))
            speeds[name].append(out[0]["tok_s"])
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
    before = {}
    if os.path.exists(RESULTS):
        with open(RESULTS) as file:
            before = {name_of(r["method"], r["value"]): r for r in csv.DictReader(file)}
    speeds = {name: row["tok/s"] for name, row in before.items()}
    if arguments.speed:
        speeds = measure_speeds(arguments.moebius, [(name_of(*m), options_of(*m)) for m in models])
    # Of what is not evaluated here, the row that there was.
    rows = [row_of(*m, speeds) if WORK.done(name_of(*m)) else before.get(name_of(*m)) for m in models]
    rows = [row | {"tok/s": speeds.get(name_of(row["method"], row["value"]), "")} for row in rows if row]
    write_table(RESULTS, rows)


if __name__ == "__main__":
    main()
