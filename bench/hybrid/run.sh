#!/usr/bin/env bash
# How well host and simulated device overlap, and how near the planner's predictions come: writes a random model of
# bench/hybrid/config.json, and CSV to standard output. Usage: bench/hybrid/run.sh > bench/results/hybrid-MACHINE.csv
set -euo pipefail
cd "$(dirname "$0")/../.."
model=build/hybrid-model
[ -f $model/config.json ] || build/moebius synth --geometry bench/hybrid/config.json --dtype int4 --out $model >&2
exec build/bench_hybrid $model "$@"
