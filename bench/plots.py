#!/usr/bin/env python3
"""Draws bench/results/muon_against_adamw.csv, lora_rules.csv, tenp_pebble.csv, zeda_pebble.csv, compose_pebble.csv and
skip_moonlight-zen4-2core.csv as SVG beside them.

pip install matplotlib==3.11.2

    python bench/plots.py
"""

import csv
import os

import matplotlib

matplotlib.use("svg")
matplotlib.rcParams["svg.hashsalt"] = "moebius"  # the same bytes for the same figures
import matplotlib.pyplot as plt

RESULTS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "results")


def rows(name):
    with open(os.path.join(RESULTS, name)) as file:
        return list(csv.DictReader(file))


def save(figure, name):
    figure.tight_layout()
    figure.savefig(os.path.join(RESULTS, name), metadata={"Date": None})


def muon_against_adamw():
    runs = rows("muon_against_adamw.csv")
    full = max(int(r["steps"]) for r in runs)
    figure, (by_rate, by_steps) = plt.subplots(1, 2, figsize=(9, 3.5))
    best = {}
    for optimizer in ("adamw", "muon"):
        points = [(float(r["lr"]), float(r["held-out loss"])) for r in runs
                  if r["optimizer"] == optimizer and int(r["steps"]) == full]
        by_rate.plot(*zip(*points), "o-", label=optimizer)
        best[optimizer] = min(loss for _, loss in points)
    by_rate.set(xscale="log", xlabel="peak learning rate", ylabel="held-out loss", title=f"{full} steps")
    by_rate.set_ylim(top=min(3.0, by_rate.get_ylim()[1]))
    by_rate.legend()
    short = [(100 * int(r["steps"]) / full, float(r["held-out loss"])) for r in runs
             if r["optimizer"] == "muon" and int(r["steps"]) < full]
    by_steps.plot(*zip(*(short + [(100, best["muon"])])), "o-", color="C1", label="muon, a whole run each")
    by_steps.axhline(best["adamw"], color="C0", label=f"adamw, {full} steps")
    by_steps.set(xlabel="steps, % of adamw's", ylabel="held-out loss", title="at each one's best rate")
    by_steps.legend()
    save(figure, "muon_against_adamw.svg")


def lora_rules():
    runs = rows("lora_rules.csv")
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.5), sharey=True)
    for axis, column in zip(axes, ("new task", "old tasks")):
        for rule in ("muon", "lora-muon", "adamw"):
            points = [(float(r["lr"]), 100 * float(r[column])) for r in runs if r["rule"] == rule]
            axis.plot(*zip(*points), "o-", label=rule)
        axis.set(xscale="log", xlabel="peak learning rate", title=column)
    before = next(float(r["old tasks"]) for r in runs if r["rule"] == "none")
    axes[1].axhline(100 * before, color="gray", linestyle=":", label="before")
    axes[0].set_ylabel("solved, %")
    axes[1].legend()
    save(figure, "lora_rules.svg")


def draw_speed(axis, x, points, color):
    """Times as fast as pebble, with intervals, of the rows that have a speed."""
    measured = [(a, r) for a, r in zip(x, points) if r["times as fast"]]
    times = [float(r["times as fast"]) for _, r in measured]
    bars = [[t - float(r["times low"]) for t, (_, r) in zip(times, measured)],
            [float(r["times high"]) - t for t, (_, r) in zip(times, measured)]]
    axis.errorbar([a for a, _ in measured], times, bars, fmt="o-", color=color, markersize=4, capsize=2)
    axis.set(title="decodes, times as fast")


def tenp_pebble():
    runs = rows("tenp_pebble.csv")
    none = next(r for r in runs if r["method"] == "none")
    figure, (solved, perplexity, divergence, speed) = plt.subplots(1, 4, figsize=(14, 3.8))
    for i, method in enumerate(("tenp", "enp", "drop", "random")):
        points = sorted([r for r in runs if r["method"] == method] + [none], key=lambda r: float(r["kept"]))
        kept = [100 * float(r["kept"]) for r in points]
        accuracy = [float(r["accuracy"]) for r in points]
        bars = [[a - float(r["low"]) for a, r in zip(accuracy, points)],
                [float(r["high"]) - a for a, r in zip(accuracy, points)]]
        solved.errorbar(kept, accuracy, bars, fmt="o-", color=f"C{i}", markersize=4, capsize=2, label=method)
        draw_speed(speed, kept, points, f"C{i}")
        points = [r for r in points if r["perplexity"]]
        perplexity.plot([100 * float(r["kept"]) for r in points], [float(r["perplexity"]) for r in points], "o-",
                        color=f"C{i}", markersize=4)
        points = [r for r in points if r is not none]
        divergence.plot([100 * float(r["kept"]) for r in points], [float(r["kl"]) for r in points], "o-",
                        color=f"C{i}", markersize=4)
    solved.set(xlabel="neurons kept, %", ylabel="tasks solved, %", title="5,000 held-out tasks, 95 % intervals")
    perplexity.set(xlabel="neurons kept, %", title="perplexity of held-out text", yscale="log")
    divergence.set(xlabel="neurons kept, %", title="divergence from pebble, nats", yscale="log")
    speed.set(xlabel="neurons kept, %")
    solved.legend()
    save(figure, "tenp_pebble.svg")


def zeda_pebble():
    runs = rows("zeda_pebble.csv")
    none = next(r for r in runs if r["method"] == "none")
    names = {"zeda": "zeda: both stages", "sft": "zeda: stage one alone", "topk": "fewer experts a token",
             "skip": "--skip-threshold", "seed1": "zeda: other random numbers", "lora": "zeda: routers and adapters",
             "halves": "--skip-minor-threshold", "drawn": "halves at random"}
    figure, (solved, divergence, speed) = plt.subplots(1, 3, figsize=(13, 3.8))
    for i, (method, label) in enumerate(names.items()):
        mine = sorted([r for r in runs if r["method"] == method], key=lambda r: float(r["skipped"]))
        if not mine:
            continue
        points = mine if method in ("sft", "seed1", "drawn") else [none] + mine
        skipped = [100 * float(r["skipped"]) for r in points]
        accuracy = [float(r["accuracy"]) for r in points]
        bars = [[a - float(r["low"]) for a, r in zip(accuracy, points)],
                [float(r["high"]) - a for a, r in zip(accuracy, points)]]
        solved.errorbar(skipped, accuracy, bars, fmt="o-", color=f"C{i}", markersize=4, capsize=2, label=label)
        divergence.plot([100 * float(r["skipped"]) for r in mine], [float(r["kl"]) for r in mine], "o-", color=f"C{i}",
                        markersize=4)
        draw_speed(speed, skipped, points, f"C{i}")
    speed.set(xlabel="expert slots skipped, %")
    solved.set(xlabel="expert slots skipped, %", ylabel="tasks solved, %", title="5,000 held-out tasks, 95 % intervals")
    divergence.set(xlabel="expert slots skipped, %", title="divergence from pebble, nats", yscale="log")
    solved.legend()
    save(figure, "zeda_pebble.svg")


def compose_pebble():
    runs = rows("compose_pebble.csv")
    steps = [r["step"] for r in runs]
    figure, (solved, divergence, size, speed) = plt.subplots(1, 4, figsize=(14, 3.8))
    accuracy = [float(r["accuracy"]) for r in runs]
    bars = [[a - float(r["low"]) for a, r in zip(accuracy, runs)], [float(r["high"]) - a for a, r in zip(accuracy, runs)]]
    solved.errorbar(steps, accuracy, bars, fmt="o-", markersize=4, capsize=2)
    solved.set(ylabel="tasks solved, %", title="5,000 held-out tasks, 95 % intervals")
    divergence.plot(steps[1:], [float(r["kl"]) for r in runs[1:]], "o-", markersize=4)
    divergence.set(title="divergence from pebble, nats", yscale="log")
    size.plot(steps, [100 * float(r["MB"]) / float(runs[0]["MB"]) for r in runs], "o-", markersize=4, label="checkpoint")
    size.plot(steps, [100 * float(r["expert kB a token"]) / float(runs[0]["expert kB a token"]) for r in runs], "o-",
              markersize=4, label="expert bytes of a token")
    size.set(title="bytes, % of pebble's", ylim=(0, None))
    size.legend()
    draw_speed(speed, steps, runs, "C0")
    for axis in (solved, divergence, size, speed):
        axis.tick_params(axis="x", rotation=30)
    save(figure, "compose_pebble.svg")


def skip_moonlight():
    runs = rows("skip_moonlight-zen4-2core.csv")
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.8), sharey=True)
    for axis, memory in zip(axes, ("slow", "fast")):
        mine = [r for r in runs if r["memory"] == memory]
        for i, width in enumerate(sorted({r["width"] for r in mine}, key=float, reverse=True)):
            session = next(r["measured with"] for r in mine if r["width"] == width)
            points = [r for r in mine if r["width"] == width and r["measured with"] == session]
            skipped = [100 * float(r["skipped"]) for r in points]
            axis.plot(skipped, [float(r["gain"]) for r in points], "o-", color=f"C{i}", markersize=4,
                      label=f"{100 * float(width):.0f} % of the width")
            axis.plot(skipped, [float(r["allowed"]) for r in points], ":", color=f"C{i}")
        speeds = [float(r["memory GB/s"]) for r in mine]
        axis.set(xlabel="expert slots skipped, %", title=f"memory at {min(speeds):.0f} to {max(speeds):.0f} GB/s")
    axes[0].set_ylabel("decode speed; dotted: what the bytes allow")
    axes[0].legend()
    save(figure, "skip_moonlight-zen4-2core.svg")


muon_against_adamw()
lora_rules()
tenp_pebble()
zeda_pebble()
compose_pebble()
if os.path.exists(os.path.join(RESULTS, "skip_moonlight-zen4-2core.csv")):
    skip_moonlight()
