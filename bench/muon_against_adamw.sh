#!/usr/bin/env bash
# Muon against AdamW on a model like pebble (bench/muon/config.json), both tuned over the same grid of learning rates:
# how many steps Muon needs to AdamW's final loss. Every run has its own cosine to a tenth, so a shorter run is a whole
# one, not the middle of a longer. Writes CSV (optimizer, lr, steps, held-out loss) to standard output; the runs stay in
# build/muon and are not made twice. Usage: bench/muon_against_adamw.sh [steps] > bench/results/muon_against_adamw.csv
set -euo pipefail
cd "$(dirname "$0")/.."
steps=${1:-300}
work=build/muon
moebius=build/moebius
grid="5e-4 1e-3 2e-3 4e-3 8e-3 1.6e-2"
parts="30 40 50 60 75"

mkdir -p $work
[ -f $work/corpus/held_out.jsonl ] || $moebius corpus --out $work/corpus --train 60000 --held-out 1000 > /dev/null

# run OPTIMIZER LR STEPS: the held-out loss at its end
run() {
  local out=$work/$1-$2-$3
  if [ ! -f "$out/summary.json" ]; then
    $moebius train --recipe bench/muon --data $work/corpus/train.jsonl --eval-data $work/corpus/held_out.jsonl \
      --out "$out" --resume --optimizer "$1" --lr "$2" --steps "$3" --warmup $(($3 / 20)) --micro-tokens 4096 \
      --eval-every "$3" --save-every "$3" --json > "$out.json"
    mv "$out.json" "$out/summary.json"
    rm -rf "$out/checkpoints"
  fi
  sed 's/.*"eval_loss":\([0-9.]*\).*/\1/' "$out/summary.json"
}

# best OPTIMIZER: "LOSS LR" of the lowest loss over the grid
best() {
  for lr in $grid; do
    echo "$(run "$1" "$lr" "$steps") $lr"
  done | sort -g | head -n 1
}

echo "optimizer,lr,steps,held-out loss"
for optimizer in adamw muon; do
  for lr in $grid; do
    echo "$optimizer,$lr,$steps,$(run $optimizer "$lr" "$steps")"
  done
done
read -r _ muon_lr <<< "$(best muon)"
for part in $parts; do
  short=$((steps * part / 100))
  echo "muon,$muon_lr,$short,$(run muon "$muon_lr" $short)"
done
