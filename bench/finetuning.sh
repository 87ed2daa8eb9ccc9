#!/usr/bin/env bash
# Fine-tuning of Moonlight's geometry, 16 billion INT4 weights drawn at random, on this machine: LoRA of rank 8 on attention and
# all routed experts, by operation. Writes the 9 GB checkpoint where it is missing, and CSV to standard output.
# Usage: bench/finetuning.sh [MODEL [STEPS]] > bench/results/finetuning-MACHINE.csv
set -euo pipefail
cd "$(dirname "$0")/.."
model=${1:-build/moonlight-int4}
[ -f "$model/config.json" ] || build/moebius synth --geometry moonlight-16b-a3b --dtype int4 --out "$model" >&2
for optimizer in lora-muon muon; do
  build/bench_finetuning "$model" 512 1 "${2:-3}" 8 $optimizer
done
build/bench_finetuning "$model" 512 4 1 8 lora-muon # four sequences go through the model at once
