#!/usr/bin/env bash
# All that is to be known of a GPU in one run: its operations against the reference, whole models against the host,
# speeds of operations beside PyTorch's, and Moonlight's geometry, run and fine-tuned, at several budgets of its memory.
# Usage: bench/gpu.sh RESULTS [BUILD]  (default build: build; python3 with torch is optional)
# Writes RESULTS/{op_test.txt,models.txt,sanitizer.txt,operations.csv,torch.csv,moonlight-*.csv,finetune-*} and a summary.
set -uo pipefail
cd "$(dirname "$0")/.."
results=${1:?usage: bench/gpu.sh RESULTS [BUILD]} build=${2:-build}
mkdir -p "$results"
model=$(mktemp -d "${TMPDIR:-/dev/shm}/moebius-gpu-XXXXXX")
trap 'rm -rf "$model"' EXIT
step() { echo "== [${SECONDS} s] $*"; }

step doctor
timeout 60 "$build/moebius" doctor
step "operations against the reference"
timeout 240 "$build/op_test" test --device cuda > "$results/op_test.txt" 2>&1
if [ $? = 77 ]; then cat "$results/op_test.txt"; exit 77; fi  # no GPU
grep FAILED "$results/op_test.txt" | head -20
tail -1 "$results/op_test.txt"
step "whole models against the host, and their gradients against PyTorch's"
for name in cuda_model_test cuda_training_test; do
  timeout 120 "$build/$name" '--gtest_filter=*OnGpu*'
done > "$results/models.txt" 2>&1
grep -E '^\[  (PASSED|FAILED)' "$results/models.txt" | head -20
step "speeds of operations"
timeout 200 "$build/bench_gpu" > "$results/operations.csv"
column -s, -t < "$results/operations.csv" | cut -c1-120
if python3 -c 'import torch' 2> /dev/null; then
  step "PyTorch's"
  timeout 120 python3 bench/gpu.py > "$results/torch.csv"
  column -s, -t < "$results/torch.csv" | cut -c1-120
fi
step "Moonlight's geometry, int4"
timeout 180 "$build/moebius" synth --geometry moonlight-16b-a3b --dtype int4 --out "$model/m"
for budget in 10 30 60 100; do  # per cent of the routed experts' 7.7 GB, beside what every step reads and kCudaWorkBytes
  memory=$((3190 + 73 * budget))
  step "$budget % of the experts: $memory MiB"
  timeout 120 "$build/moebius" bench -m "$model/m" --device cuda --gpu-memory "${memory}MiB" -c 4096 -p 512,2048 -n 32 \
    --depth 0,2048 --batch 1,8 --repeats 2 --csv "$results/moonlight-$budget.csv"
done
step "fine-tuning it: LoRA-Muon of rank 8 on attention and all routed experts"
for _ in $(seq 48); do
  printf '{"text": "%s"}\n' "$(for _ in $(seq 400); do printf '%x ' $RANDOM; done)"
done > "$model/lesson.jsonl"
for memory in 4 8 24; do
  timeout 120 "$build/moebius" finetune -m "$model/m" --data "$model/lesson.jsonl" --eval-part 0 --micro-tokens 4096 \
    --max-tokens 513 --cut-long --rank 8 --targets q,kv,o,experts --optimizer lora-muon --steps 3 \
    --device cuda --gpu-memory "${memory}GiB" -o "$model/adapter-$memory" > "$results/finetune-$memory.txt" 2>&1
  tail -2 "$results/finetune-$memory.txt"
  cp "$model/adapter-$memory/log.csv" "$results/finetune-$memory.csv"
done
if command -v compute-sanitizer > /dev/null; then
  step "memory accesses"
  timeout 180 compute-sanitizer --tool memcheck "$build/op_test" test --device cuda --filter "n=1 " \
    > "$results/sanitizer.txt" 2>&1
  tail -3 "$results/sanitizer.txt"
fi
step done
