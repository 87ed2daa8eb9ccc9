#!/usr/bin/env bash
# Makes models/pebble from nothing: corpus, tokenizer, training, scores, model card. Takes a little more than an hour on
# two idle cores; started again, it goes on from its last checkpoint. Called by `make pebble`.
set -euo pipefail
cd "$(dirname "$0")/.."
work=build/pebble
moebius=build/moebius
steps=7500

mkdir -p "$work"
[ -f "$work/corpus/train.jsonl" ] || nice "$moebius" corpus --out "$work/corpus"
head -n 400 "$work/corpus/held_out.jsonl" > "$work/held_out_small.jsonl"
nice "$moebius" train --recipe tools/pebble --data "$work/corpus/train.jsonl" \
  --eval-data "$work/held_out_small.jsonl" --out "$work/out" --resume \
  --steps $steps --lr 6e-3 --warmup 100 --micro-tokens 4096 --in-order --schedule cosine --floor 0.01 \
  --eval-every 500 --save-every 250
nice "$moebius" eval -m "$work/out" --tasks "$work/corpus/held_out.jsonl" --json > "$work/out/scores.json"
scripts/install_pebble.sh "$work/out" models/pebble
