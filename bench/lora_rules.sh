#!/usr/bin/env bash
# Three rules for LoRA on pebble, on a task it cannot do (examples/number-words): accuracy on held-out numbers and on
# the old tasks after equal steps, each rule over the same grid of learning rates. Writes CSV (rule, lr, steps, new task,
# old tasks) to standard output; the first line is pebble itself. Usage: bench/lora_rules.sh [steps] > bench/results/lora_rules.csv
set -euo pipefail
cd "$(dirname "$0")/.."
steps=${1:-200}
work=build/lora
moebius=build/moebius
old=tests/golden/pebble_tasks.jsonl
new=examples/number-words

mkdir -p $work
score() { $moebius eval --tasks "$1" --json "${@:2}" | sed 's/{"accuracy":\([0-9.]*\).*/\1/'; }

echo "rule,lr,steps,new task,old tasks"
echo "none,0,0,$(score $new/held_out.jsonl),$(score $old)"
for rule in muon lora-muon adamw; do
  for lr in 1e-3 3e-3 1e-2; do
    out=$work/$rule-$lr-$steps
    [ -f "$out/adapter_config.json" ] || $moebius finetune --data $new/train.jsonl --eval-part 0 --out "$out" \
      --optimizer $rule --lr $lr --steps "$steps" --warmup 5 --micro-tokens 1024 --save-every "$steps" > /dev/null
    echo "$rule,$lr,$steps,$(score $new/held_out.jsonl --adapter "$out"),$(score $old --adapter "$out")"
  done
done
