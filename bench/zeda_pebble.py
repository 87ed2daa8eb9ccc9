#!/usr/bin/env python3
"""What skipping experts costs and gives on pebble: tasks solved against the share of expert slots left out, for adapted models
(`moebius zeda`), for fewer experts a token (num_experts_per_tok), for --skip-threshold and for --skip-minor-threshold.

    python bench/zeda_pebble.py           # adapts three models first; started again, it goes on
    python bench/zeda_pebble.py --only zeda-0.5     # this model alone, to share the work out
    python bench/zeda_pebble.py --speed   # writes the models that are missing and measures decode speeds; wants an idle machine
    python bench/zeda_pebble.py --table   # writes the table of what is there

Writes bench/results/zeda_pebble.csv; bench/plots.py draws it. Tasks, texts, speeds and intervals are those of pebble_tasks.py. The
adaptations learn from PROMPTS prompts of `moebius corpus` seed 11, none of whose problems is a held-out one. zeda-R aims at
the share R of slots with both stages, sft-R with the first alone, seed1-R as zeda-R with other random numbers, lora-R as
zeda-R with routers and adapters alone trained. halves-T-M has every expert in two halves (`moebius tenp --halves`), of which
both are left out below T and the minor one below M; slots are then halves; in drawn-T-M halves are drawn at random. Shares are
counted on the answers of the first 1,000 tasks.
"""

import argparse
import json
import os

from pebble_tasks import PEBBLE, ROOT, Work, moebius, read_table, write, write_table

WORK = Work("zeda")
at = WORK.at
RESULTS = os.path.join(ROOT, "bench", "results", "zeda_pebble.csv")
PROMPTS = "3000"
EPOCHS, STEPS = "1", "40"  # of stage one, of stage two
SEEDS = {"zeda": "0", "sft": "0", "seed1": "1", "lora": "0"}
HALVED = {"halves": "tenp", "drawn": "random"}
HALVES = ("0-0", "0.2-0.25", "0.22-0.28", "0.25-0.28", "0.25-0.3", "0.25-0.35")
MODELS = [("none", 1)]
MODELS += [("zeda", rate) for rate in (0.33, 0.5, 0.67, 0.8)] + [("sft", 0.5), ("seed1", 0.5), ("lora", 0.5), ("lora", 0.67)]
MODELS += [("topk", k) for k in (3, 2, 1)]
MODELS += [("skip", t) for t in (0.2, 0.25, 0.26, 0.27, 0.28, 0.3, 0.4)]
MODELS += [("halves", t) for t in HALVES] + [("drawn", "0.25-0.3")]


def prepare(program):
    WORK.prepare(program)
    if not os.path.exists(at("prompts/train.jsonl")):
        moebius(program, "corpus", "-o", at("prompts"), "--seed", "11", "--train", "6000", "--held-out", "10")
    for seed in SEEDS.values():
        if not os.path.exists(at("injected" + seed)):
            moebius(program, "zeda", "inject", "-m", PEBBLE, "-o", at("injected" + seed), "--seed", seed)


def name_of(method, value):
    return f"{method}-{value}"


def adapt(program, method, value):
    out = at(name_of(method, value))
    if os.path.exists(out + "/model.safetensors"):
        return
    steps = "0" if method == "sft" else STEPS
    trained = ["--train", "lora"] if method == "lora" else []
    moebius(program, "zeda", "adapt", "-m", at("injected" + SEEDS[method]), "--data", at("prompts/train.jsonl"), "--prompts",
            PROMPTS, "-o", out, "--zero-rate", str(value), "--epochs", EPOCHS, "--opd-steps", steps, "--seed", SEEDS[method],
            "--resume", *trained)


def halve(program, method):
    if not os.path.exists(at(method)):
        moebius(program, "tenp", "-m", PEBBLE, "--calibrate", at("corpus/train.jsonl"), "--keep", "1", "--halves", "--method",
                HALVED[method], "-o", at(method))


def fewer(value):
    """pebble with another num_experts_per_tok."""
    out = at(name_of("topk", value))
    os.makedirs(out, exist_ok=True)
    for file in os.listdir(PEBBLE):
        if file != "config.json" and not os.path.lexists(os.path.join(out, file)):
            os.symlink(os.path.join(PEBBLE, file), os.path.join(out, file))
    with open(os.path.join(PEBBLE, "config.json")) as file:
        config = json.load(file)
    config["num_experts_per_tok"] = value
    write(os.path.join(out, "config.json"), json.dumps(config, indent=2))


def options_of(method, value):
    if method == "none":
        return ["-m", PEBBLE]
    if method == "skip":
        return ["-m", PEBBLE, "--skip-threshold", str(value)]
    if method in HALVED:
        whole, minor = value.split("-")
        return ["-m", at(method), "--skip-threshold", whole, "--skip-minor-threshold", minor]
    model = at(name_of(method, value))
    return ["-m", model, "--adapter", model + "/adapter"] if method == "lora" else ["-m", model]


def make(program, method, value):
    if method in SEEDS:
        adapt(program, method, value)
    if method == "topk":
        fewer(value)
    if method in HALVED:
        halve(program, method)


def evaluate(program, name, options):
    WORK.evaluate(program, name, options)
    if not os.path.exists(at(name + ".report.json")):
        write(at(name + ".report.json"), moebius(program, "zeda", "report", *options, "--data", at("text.jsonl"), "--repeats",
                                                 "1", "--json"))


def row_of(method, value):
    name = name_of(method, value)
    use = WORK.read(name + ".report.json")
    skipped = 1 - value / 4 if method == "topk" else use["zero_rate"]
    row = {"method": method, "value": value, "skipped": f"{skipped:.4f}",
           "expert kB a token": f"{use['expert_bytes_per_token'] / 1e3:.1f}"}
    return row | WORK.accuracy(name) | WORK.behind("lost", name, "none-1") | WORK.text(name)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--moebius", default=os.path.join(ROOT, "build", "moebius"))
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--table", action="store_true", help="write the table of what is evaluated so far")
    parser.add_argument("--only", help="METHOD-VALUE: this model alone, and no table")
    arguments = parser.parse_args()
    prepare(arguments.moebius)
    for method, value in MODELS:
        if arguments.table or arguments.only not in (None, name_of(method, value)):
            continue
        make(arguments.moebius, method, value)
        run = WORK.measure_speed if arguments.speed else evaluate
        run(arguments.moebius, name_of(method, value), options_of(method, value))
    if arguments.only:
        return
    before = read_table(RESULTS, lambda row: name_of(row["method"], row["value"]))
    # Of what is not evaluated here, the row that there was.
    done = lambda name: WORK.done(name) and WORK.read(name + ".report.json")
    named = [(name_of(*m), m) for m in MODELS]
    rows = [(name, row_of(*m) if done(name) else before.get(name)) for name, m in named]
    write_table(RESULTS, [row | WORK.speed(name, before.get(name)) for name, row in rows if row])


if __name__ == "__main__":
    main()
