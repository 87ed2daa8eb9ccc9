#!/usr/bin/env python3
"""Prefill of Moonlight's geometry (random weights, a few layers) with --cpu-gemm own, onednn and auto, for every format of
weights, by turns.

    python bench/cpu_gemm.py --folder FOLDER --rounds 5    # 10 GB of checkpoints there, kept; started again, it adds rounds
    python bench/cpu_gemm.py --folder FOLDER --table       # writes bench/results/cpu_gemm-zen4-2core.csv

A round counts where the float32 probes beside its runs agree (STEADY): others use the processor, too. "against own" is the median
of the ratios within a round, whose runs follow each other; with integer formats auto is own, and its ratio shows the noise.
"""

import argparse
import csv
import json
import os
import statistics
import subprocess

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
RESULTS = os.path.join(ROOT, "bench", "results", "cpu_gemm-zen4-2core.csv")
FORMATS, CHOICES = ("bf16", "fp8", "int8", "int4"), ("own", "onednn", "auto")
TOKENS = 512
STEADY = 1.1  # between the probes of a round, at most


def moebius(program, *arguments):
    return subprocess.run([program, *map(str, arguments)], check=True, stdout=subprocess.PIPE, text=True).stdout


def measure(program, folder, layers, formats, rounds):
    os.makedirs(folder, exist_ok=True)
    for quant in formats:
        model = os.path.join(folder, quant)
        if not os.path.exists(model):
            moebius(program, "synth", "--geometry", "moonlight-16b-a3b", "--layers", layers, "--dtype", quant, "--out", model)
        for first in range(rounds):
            of_round = {}
            for choice in CHOICES[first % 3:] + CHOICES[:first % 3]:  # none is always the first
                row = json.loads(moebius(program, "bench", "-m", model, "-p", TOKENS, "-n", 0, "--cpu-gemm", choice, "--json"))[0]
                of_round[choice] = row
                print(f"{quant} {choice}: {row['tok_s']:.1f} tok/s, {100 * row['limit_share']:.0f} % of {row['limit']}, "
                      f"float32 {row['float32_GFLOPs']:.0f}", flush=True)
            with open(os.path.join(folder, "rounds.jsonl"), "a") as file:
                file.write(json.dumps({"quant": quant, "runs": of_round}) + "\n")


def steady(probes):
    return max(probes) <= STEADY * min(probes)


def table(folder):
    with open(os.path.join(folder, "rounds.jsonl")) as file:
        rounds = [json.loads(line) for line in file]
    rows = []
    for quant in FORMATS:
        mine = [r["runs"] for r in rounds if r["quant"] == quant]
        mine = [r for r in mine if steady([run["float32_GFLOPs"] for run in r.values()])]
        for choice in CHOICES if mine else ():
            middle = lambda name: statistics.median(r[choice][name] for r in mine)
            ratio = statistics.median(r[choice]["tok_s"] / r["own"]["tok_s"] for r in mine)
            rows.append({"quant": quant, "cpu_gemm": choice, "tokens": TOKENS, "tok_s": f"{middle('tok_s'):.1f}",
                         "against own": f"{ratio:.3f}", "limit": mine[0][choice]["limit"], "limit_share": f"{middle('limit_share'):.3f}",
                         "rounds": len(mine), "memory_read_GBs": f"{middle('memory_read_GBs'):.1f}",
                         "float32_GFLOPs": f"{middle('float32_GFLOPs'):.0f}", "int8_GOPs": f"{middle('int8_GOPs'):.0f}"})
    with open(RESULTS, "w", newline="") as file:
        out = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
        out.writeheader()
        out.writerows(rows)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--moebius", default=os.path.join(ROOT, "build", "moebius"))
    parser.add_argument("--folder", required=True, help="of checkpoints and rounds")
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--formats", default=",".join(FORMATS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    if arguments.table:
        table(arguments.folder)
    else:
        measure(arguments.moebius, arguments.folder, arguments.layers, arguments.formats.split(","), arguments.rounds)


if __name__ == "__main__":
    main()
