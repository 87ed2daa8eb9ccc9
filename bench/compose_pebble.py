#!/usr/bin/env python3
"""pebble made smaller and faster step by step, and what each step costs: TENP, then ZEDA, then INT4, then a LoRA-Muon adapter
that wins back what it can.

    python bench/compose_pebble.py           # half an hour on two idle cores; started again, it goes on
    python bench/compose_pebble.py --speed   # writes the models that are missing and measures decode speeds; wants an idle machine
    python bench/compose_pebble.py --table   # writes the table of what is there

Writes bench/results/compose_pebble.csv; bench/plots.py draws it. Tasks, texts, speeds and intervals are those of pebble_tasks.py. The
calibration, ZEDA's prompts and the adapter's lesson come from other seeds' or parts' examples than the held-out tasks. Widths
are multiples of 32, which INT4's groups ask for.
"""

import argparse
import os

from pebble_tasks import PEBBLE, ROOT, Work, moebius, read_table, write, write_table

WORK = Work("compose")
at = WORK.at
RESULTS = os.path.join(ROOT, "bench", "results", "compose_pebble.csv")
KEEP, ZERO_RATE = "0.8", "0.5"
STEPS = ["pebble", "tenp", "zeda", "int4", "lora-muon-r4", "lora-muon"]
RANKS = {"lora-muon-r4": "4", "lora-muon": "16"}  # adapters, either of them on int4


def prepare(program):
    WORK.prepare(program)
    if not os.path.exists(at("prompts/train.jsonl")):
        moebius(program, "corpus", "-o", at("prompts"), "--seed", "11", "--train", "6000", "--held-out", "10")


def make(program, step):
    """The folder of the step, from the one before."""
    if step == "pebble" or os.path.exists(at(step + ".made")):
        return
    lesson = at("corpus/train.jsonl")
    if step == "tenp":
        moebius(program, "tenp", "--calibrate", lesson, "--keep", KEEP, "--multiple", "32", "-o", at("tenp"))
    if step == "zeda":
        moebius(program, "zeda", "inject", "-m", at("tenp"), "-o", at("injected"))
        moebius(program, "zeda", "adapt", "-m", at("injected"), "--data", at("prompts/train.jsonl"), "--prompts", "3000",
                "--zero-rate", ZERO_RATE, "--opd-steps", "40", "-o", at("zeda"), "--resume")
    if step == "int4":
        moebius(program, "quantize", "-m", at("zeda"), "-o", at("int4"), "--format", "int4", "--calibrate", lesson)
    if step in RANKS:
        moebius(program, "finetune", "-m", at("int4"), "--data", lesson, "-o", at(step), "--optimizer", "lora-muon", "-r",
                RANKS[step], "--adapter-layout", "per-expert", "--epochs", "1", "--lr", "1e-3", "--micro-tokens", "4096", "--eval-part", "0",
                "--resume")
    write(at(step + ".made"), "")


def options_of(step):
    if step == "pebble":
        return ["-m", PEBBLE]
    if step in RANKS:
        return ["-m", at("int4"), "--adapter", at(step)]
    return ["-m", at(step)]


def evaluate(program, step):
    WORK.evaluate(program, step, options_of(step))
    if not os.path.exists(at(step + ".report.json")):
        write(at(step + ".report.json"), moebius(program, "zeda", "report", *options_of(step), "--data", at("text.jsonl"),
                                                 "--repeats", "1", "--json"))


def bytes_of(step):
    folders = [PEBBLE] if step == "pebble" else [at("int4"), at(step)] if step in RANKS else [at(step)]
    return sum(os.path.getsize(os.path.join(f, name)) for f in folders for name in os.listdir(f) if name.endswith(".safetensors"))


def row_of(i, step):
    use = WORK.read(step + ".report.json")
    before = "int4" if step in RANKS else STEPS[max(0, i - 1)]
    row = {"step": step, "MB": f"{bytes_of(step) / 1e6:.2f}", "expert kB a token": f"{use['expert_bytes_per_token'] / 1e3:.1f}",
           "skipped": f"{use['zero_rate']:.4f}"}
    row |= WORK.accuracy(step) | WORK.behind("lost", step, "pebble") | WORK.behind("lost by this step", step, before)
    return row | WORK.text(step)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--moebius", default=os.path.join(ROOT, "build", "moebius"))
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--table", action="store_true", help="write the table of what is there")
    arguments = parser.parse_args()
    prepare(arguments.moebius)
    for step in STEPS:
        if arguments.table:
            continue
        make(arguments.moebius, step)
        if arguments.speed:
            WORK.measure_speed(arguments.moebius, step, options_of(step))
        else:
            evaluate(arguments.moebius, step)
    before = read_table(RESULTS, lambda row: row["step"])
    # Of what is not evaluated here, the row that there was.
    rows = [(step, row_of(i, step) if WORK.read(step + ".report.json") else before.get(step)) for i, step in enumerate(STEPS)]
    write_table(RESULTS, [row | WORK.speed(step, before.get(step)) for step, row in rows if row])


if __name__ == "__main__":
    main()
