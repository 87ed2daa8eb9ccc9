"""What the comparisons of smaller and faster pebbles share: 5,000 held-out tasks fixed by seed 7 of `moebius corpus`,
the verdicts on a model's greedy replies to them, perplexity and divergence on the first 1,000 tasks' answers, decode speeds on
40 of them by turns with pebble's, and intervals of 95 %: Wilson's for a share, for the difference of two models on the same
tasks the normal one of the paired differences, and for a ratio of speeds that of the median, by ranks.
"""

import csv
import json
import math
import os
import statistics
import subprocess

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PEBBLE = os.path.join(ROOT, "models", "pebble")
Z = 1.96
RUNS = 15  # of a speed, by turns with pebble

SPEED = ["tok/s", "pebble tok/s", "times as fast", "times low", "times high"]


def moebius(program, *arguments):
    return subprocess.run([program, *arguments], check=True, stdout=subprocess.PIPE, text=True).stdout


def write(path, text):
    with open(path + ".new", "w") as file:
        file.write(text)
    os.replace(path + ".new", path)


def write_table(path, rows):
    with open(path, "w", newline="") as file:
        out = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
        out.writeheader()
        out.writerows(rows)


class Work:
    """A folder of what was computed so far, one name a model; started again, a comparison goes on."""

    def __init__(self, name):
        self.folder = os.path.join(ROOT, "build", name)

    def at(self, name):
        return os.path.join(self.folder, name)

    def prepare(self, program):
        os.makedirs(self.folder, exist_ok=True)
        if not os.path.exists(self.at("corpus/held_out.jsonl")):
            moebius(program, "corpus", "-o", self.at("corpus"), "--seed", "7", "--train", "4000", "--held-out", "5000")
        if not os.path.exists(self.at("text.jsonl")):
            with open(self.at("corpus/held_out.jsonl")) as file:
                lines = file.readlines()
            write(self.at("text.jsonl"), "".join(lines[:1000]))
        if not os.path.exists(self.at("speed.jsonl")):
            with open(self.at("text.jsonl")) as file:
                write(self.at("speed.jsonl"), "".join(file.readlines()[:40]))

    def done(self, name):
        return os.path.exists(self.at(name + ".replies.jsonl"))

    def evaluate(self, program, name, options):
        if not self.done(name):
            moebius(program, "eval", *options, "-t", "1", "--tasks", self.at("corpus/held_out.jsonl"), "--max-tokens",
                    "300", "--write-replies", self.at(name + ".replies.jsonl"))
        if not os.path.exists(self.at(name + ".text.json")):
            write(self.at(name + ".text.json"), moebius(program, "eval", *options, "-t", "1", "--data",
                                                        self.at("text.jsonl"), "--against", PEBBLE, "--json"))

    def measure_speed(self, program, name, options):
        """Decode speed on held-out texts, by turns with pebble in one process."""
        write(self.at(name + ".speed.json"), moebius(program, "zeda", "report", *options, "--data", self.at("speed.jsonl"),
                                                     "--against", PEBBLE, "--repeats", str(RUNS), "--json"))

    def speed(self, name, before):
        """Medians, and that of the ratios with its interval; where nothing was measured here, as they were."""
        speed = self.read(name + ".speed.json")
        if not speed:
            return {column: (before or {}).get(column, "") for column in SPEED}
        times = speed["times_as_fast"]
        return dict(zip(SPEED, [f"{speed['tokens_per_s']:.1f}", f"{speed['tokens_per_s_before']:.1f}",
                                f"{times['median']:.3f}", f"{times['low']:.3f}", f"{times['high']:.3f}"]))

    def verdicts(self, name):
        with open(self.at(name + ".replies.jsonl")) as file:
            return [json.loads(line)["right"] for line in file]

    def read(self, file_name):
        if not os.path.exists(self.at(file_name)):
            return None
        with open(self.at(file_name)) as file:
            return json.load(file)

    def accuracy(self, name):
        mine = self.verdicts(name)
        low, high = wilson(sum(mine), len(mine))
        return {"tasks": len(mine), "accuracy": f"{100 * sum(mine) / len(mine):.2f}", "low": f"{100 * low:.2f}",
                "high": f"{100 * high:.2f}"}

    def behind(self, column, name, other):
        """How many points name is behind other, and half of the interval."""
        mean, half = difference(self.verdicts(other), self.verdicts(name)) if self.done(other) else (0, 0)
        there = self.done(other)
        return {column: f"{mean:.2f}" if there else "", column + " +-": f"{half:.2f}" if there else ""}

    def text(self, name):
        text = self.read(name + ".text.json")
        return {"perplexity": f"{text['perplexity']:.4f}" if text else "",
                "kl": f"{text['against']['kl_mean']:.5f}" if text else ""}


def read_table(path, name_of):
    """The rows by name; none where there is no table yet."""
    if not os.path.exists(path):
        return {}
    with open(path) as file:
        return {name_of(row): row for row in csv.DictReader(file)}


def wilson(right, n):
    p, z2 = right / n, Z * Z / n
    middle, half = (p + z2 / 2) / (1 + z2), Z * math.sqrt(p * (1 - p) / n + z2 / (4 * n)) / (1 + z2)
    return middle - half, middle + half


def difference(one, other):
    """Mean and half of the interval of one - other, in points."""
    d = [100 * (a - b) for a, b in zip(one, other)]
    return statistics.fmean(d), Z * statistics.stdev(d) / math.sqrt(len(d))
