#!/usr/bin/env python3
"""What pruning costs and gives on pebble: tasks solved, perplexity and divergence against the share of neurons kept.

    python bench/tenp_pebble.py           # about an hour on one core; started again, it goes on
    python bench/tenp_pebble.py --only tenp-0.6    # this model's evaluation alone, to share the work out
    python bench/tenp_pebble.py --speed   # writes the models that are missing and measures decode speeds; wants an idle machine
    python bench/tenp_pebble.py --table   # writes the table of what is there

Writes bench/results/tenp_pebble.csv; bench/plots.py draws it. Tasks, texts, speeds and intervals are those of pebble_tasks.py;
the calibration is 32,768 tokens of the same seed's training examples.
"""

import argparse
import os

from pebble_tasks import PEBBLE, ROOT, Work, moebius, read_table, write, write_table

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


def prune(program, method, value):
    name = name_of(method, value)
    if method not in ("none", "skip") and not os.path.exists(at(name)):
        plan = moebius(program, "tenp", "-m", PEBBLE, "--scores", at("scores.safetensors"), "--method", method, "--keep",
                       str(value), "--multiple", "1", "-o", at(name), "--json")
        write(at(name + ".plan.json"), plan)


def row_of(method, value):
    name = name_of(method, value)
    kept = of_token = 1
    plan = WORK.read(name + ".plan.json")
    if plan:
        kept, of_token = plan["kept"], plan["of_token"]
    row = {"method": method, "value": value, "kept": f"{kept:.4f}", "of a token": f"{of_token:.4f}"}
    row |= WORK.accuracy(name) | WORK.behind("lost", name, "none") | WORK.behind("behind tenp", name, f"tenp-{value}")
    return row | WORK.text(name)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--moebius", default=os.path.join(ROOT, "build", "moebius"))
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--table", action="store_true", help="write the table of what is there")
    parser.add_argument("--only", help="METHOD-VALUE: this model alone, and no table")
    arguments = parser.parse_args()
    prepare(arguments.moebius)
    models = [("none", 1)] + PRUNED + [("skip", t) for t in THRESHOLDS]
    for method, value in models:
        if arguments.table or arguments.only not in (None, name_of(method, value)):
            continue
        prune(arguments.moebius, method, value)
        run = WORK.measure_speed if arguments.speed else WORK.evaluate
        run(arguments.moebius, name_of(method, value), options_of(method, value))
    if arguments.only:
        return
    before = read_table(RESULTS, lambda row: name_of(row["method"], row["value"]))
    # Of what is not evaluated here, the row that there was.
    named = [(name_of(*m), m) for m in models]
    rows = [(name, row_of(*m) if WORK.done(name) else before.get(name)) for name, m in named]
    write_table(RESULTS, [row | WORK.speed(name, before.get(name)) for name, row in rows if row])


if __name__ == "__main__":
    main()
