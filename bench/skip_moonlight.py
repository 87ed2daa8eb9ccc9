#!/usr/bin/env python3
"""Decode speed of Moonlight's geometry (INT4, random weights) when expert slots are skipped and experts are narrower: rates of
0, 25, 50 and 75 % by widths of 100, 80 and 60 %, by turns, each run beside the memory probed around it.

    python bench/skip_moonlight.py --prepare              # 24 GB of checkpoints below build/, once
    python bench/skip_moonlight.py --widths 1,0.8 --rounds 5    # a few minutes; started again, it adds rounds
    python bench/skip_moonlight.py --widths 1,0.6 --rounds 5
    python bench/skip_moonlight.py --table                # writes bench/results/skip_moonlight-zen4-2core*.csv

Slots are left out by --skip-threshold, at the value that skips the wanted share of them here: the mechanism (a slot of -1) is
that of zero experts. Widths are as `moebius tenp` shares them out: half of what is kept in experts of full width, from few in
shallow layers to twice as many in deep ones (which ones is drawn, as routing is random), the others equally narrow. The widths of
one call share the page cache: two of them need 18 GB of it.

A run counts as of the slow or of the fast memory where the probes before and after it agree on that and find the machine idle
otherwise; the table has medians of each. "allowed" is what the bytes of a token allow against no skipping at full width, "gain"
what was measured, of medians.
"""

import argparse
import csv
import json
import os
import random
import statistics
import subprocess

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
WORK = os.path.join(ROOT, "build", "skip_moonlight")
RESULTS = os.path.join(ROOT, "bench", "results", "skip_moonlight-zen4-2core")
RATES, WIDTHS = (0, 0.25, 0.5, 0.75), (1, 0.8, 0.6)
MULTIPLE = 64  # of widths
STEADY = 1.2  # between the probes around a run, at most
SLOW = 46  # GB/s, between this machine's two speeds of memory
ALONE = 220  # GFLOP/s of float32, of 235: less means that others compute, too
CLOSE = 0.004  # to a wanted share of skipped slots
TOKENS = "48"  # decoded in a run


def moebius(program, *arguments):
    return subprocess.run([program, *arguments], check=True, stdout=subprocess.PIPE, text=True).stdout


def at(*names):
    return os.path.join(WORK, *map(str, names))


def trapezoid(total, layers, most):
    """Full experts of each layer, in proportion to weights from 1 to 2."""
    weights = [1 + l / (layers - 1) for l in range(layers)]
    shares = [min(most, total * w / sum(weights)) for w in weights]
    counts = [int(s) for s in shares]
    for l in sorted(range(layers), key=lambda l: counts[l] - shares[l])[: total - sum(counts)]:
        counts[l] += 1
    return counts


def widths_of(config, keep):
    """[MoE layer][expert]"""
    draw = random.Random(1)
    experts, width = config["n_routed_experts"], config["moe_intermediate_size"]
    layers = config["num_hidden_layers"] - config["first_k_dense_replace"]
    full = trapezoid(round(keep / 2 * layers * experts), layers, experts)
    narrow = layers * experts - sum(full)
    blocks = int(layers * experts * width * keep - sum(full) * width) // MULTIPLE  # that the narrow ones share
    sizes = [MULTIPLE * (blocks // narrow + (i < blocks % narrow)) for i in range(narrow)]
    draw.shuffle(sizes)
    out = []
    for count in full:
        layer = [width] * count + [sizes.pop() for _ in range(experts - count)]
        draw.shuffle(layer)
        out.append(layer)
    return out


def synth(program, geometry, out, more):
    if not os.path.exists(out):
        moebius(program, "synth", "--geometry", geometry, "--dtype", "int4", "--out", out, *more)


def prepare(program, more):
    os.makedirs(WORK, exist_ok=True)
    synth(program, "moonlight-16b-a3b", at(1), more)
    with open(at(1, "config.json")) as file:
        config = json.load(file)
    for name in ("quantization_config", "moebius_random_weights"):
        config.pop(name, None)
    for keep in WIDTHS[1:]:
        config["moe_intermediate_sizes"] = widths_of(config, keep)
        with open(at("config.json"), "w") as file:
            json.dump(config, file)
        synth(program, at("config.json"), at(keep), ())


def bench(program, width, threshold, *more):
    out = moebius(program, "bench", "-m", at(width), "--skip-threshold", f"{threshold:.5f}", "--batch", "1", "--repeats", "1",
                  "--json", *more)
    return json.loads(out)[0]


def find_thresholds(program):
    """{rate: threshold}, by interpolation over the prefill of some tokens."""
    if not os.path.exists(at("thresholds.json")):
        found, seen = {0: 0}, {0.0: 0.0, 0.4: 1.0}  # at most two of six slots have so large a share
        for rate in RATES[1:]:
            while rate not in found:
                low = max((t for t in seen if seen[t] <= rate))
                high = min((t for t in seen if seen[t] > rate))
                middle = low + (high - low) * min(0.9, max(0.1, (rate - seen[low]) / (seen[high] - seen[low])))
                seen[middle] = bench(program, 1, middle, "-p", "96", "-n", "0")["skipped"]
                if abs(seen[middle] - rate) < CLOSE:
                    found[rate] = middle
        with open(at("thresholds.json"), "w") as file:
            json.dump(found, file)
    with open(at("thresholds.json")) as file:
        return {float(rate): threshold for rate, threshold in json.load(file).items()}


def measure(program, widths, rounds):
    thresholds = find_thresholds(program)
    session = "+".join(map(str, widths))
    for _ in range(rounds):
        for rate in RATES:
            for width in widths:
                row = bench(program, width, thresholds[rate], "-p", "0", "-n", TOKENS, "--depth", "0")
                with open(at("runs.jsonl"), "a") as file:
                    file.write(json.dumps({"widths": session, "width": width, "rate": rate} | row) + "\n")
                print(f"{width} {rate}: {row['tok_s']:.2f} tok/s, {100 * row['skipped']:.1f} % skipped, "
                      f"{100 * row['limit_share']:.0f} % of {row['memory_read_GBs']:.1f} GB/s", flush=True)


def memory_of(run):
    if run["drift"] > STEADY or run["float32_GFLOPs"] < ALONE:
        return None
    return "slow" if run["memory_read_GBs"] < SLOW else "fast"


def summary(runs):
    groups = {}
    for run in runs:
        if memory_of(run):
            groups.setdefault((memory_of(run), run["widths"], run["width"], run["rate"]), []).append(run)
    rows = []
    for (memory, session, width, rate), mine in sorted(groups.items()):
        full = groups.get((memory, session, 1, 0))
        if not full:
            continue
        middle = lambda of, name: statistics.median(r[name] for r in of)
        allowed = middle(full, "bytes_per_token") / middle(mine, "bytes_per_token")
        gain = middle(mine, "tok_s") / middle(full, "tok_s")
        rows.append({"memory": memory, "measured with": session, "width": width, "rate": rate, "runs": len(mine),
                     "skipped": f"{middle(mine, 'skipped'):.4f}", "MB a token": f"{middle(mine, 'bytes_per_token') / 1e6:.1f}",
                     "tok/s": f"{middle(mine, 'tok_s'):.2f}", "memory GB/s": f"{middle(mine, 'memory_read_GBs'):.1f}",
                     "share of limit": f"{middle(mine, 'limit_share'):.3f}", "gain": f"{gain:.3f}",
                     "allowed": f"{allowed:.3f}", "of allowed": f"{gain / allowed:.3f}"})
    return rows


def write_csv(path, rows):
    with open(path, "w", newline="") as file:
        out = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
        out.writeheader()
        out.writerows(rows)


def table():
    with open(at("runs.jsonl")) as file:
        runs = [json.loads(line) for line in file]
    columns = ("widths", "width", "rate", "skipped", "tok_s", "bytes_per_token", "memory_read_GBs", "float32_GFLOPs", "limit_share", "drift")
    write_csv(RESULTS + "-runs.csv", [{c: f"{r[c]:.5g}" if isinstance(r[c], float) else r[c] for c in columns} for r in runs])
    write_csv(RESULTS + ".csv", summary(runs))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--moebius", default=os.path.join(ROOT, "build", "moebius"))
    parser.add_argument("--prepare", action="store_true")
    parser.add_argument("--layers", help="of the checkpoints, with --prepare (default: all 27)")
    parser.add_argument("--widths", default="1,0.6", help="that are measured by turns (default 1,0.6)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    if arguments.prepare:
        prepare(arguments.moebius, ("--layers", arguments.layers) if arguments.layers else ())
    elif arguments.table:
        table()
    else:
        widths = [next(w for w in WIDTHS if w == float(text)) for text in arguments.widths.split(",")]
        measure(arguments.moebius, widths, arguments.rounds)


if __name__ == "__main__":
    main()
