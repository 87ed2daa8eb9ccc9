#!/usr/bin/env bash
# Makes models/pebble from nothing: corpus, tokenizer, training, scores, model card. About an hour on two cores;
# started again, it goes on from its last checkpoint. Called by `make pebble`.
set -euo pipefail
cd "$(dirname "$0")/.."
work=build/pebble
moebius=build/moebius
steps=2600

mkdir -p "$work"
[ -f "$work/corpus/held_out.jsonl" ] || nice "$moebius" corpus --out "$work/corpus"
head -n 400 "$work/corpus/held_out.jsonl" > "$work/held_out_small.jsonl"
nice "$moebius" train --recipe tools/pebble --data "$work/corpus/train.jsonl" \
  --eval-data "$work/held_out_small.jsonl" --out "$work/out" --resume \
  --steps $steps --lr 5e-3 --warmup 60 --micro-tokens 8192 --schedule wsd --decay-part 0.35 --floor 0.02 \
  --eval-every 100 --save-every 100
nice "$moebius" eval -m "$work/out" --tasks "$work/corpus/held_out.jsonl" --json > "$work/out/scores.json"
scripts/install_pebble.sh "$work/out" models/pebble
