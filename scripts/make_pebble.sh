#!/usr/bin/env bash
# Makes models/pebble from nothing: corpus, tokenizer, training in two parts, scores, model card. The second part goes on
# from the weights of the first, half of it with the tasks that need most practice. Takes a little more than an hour on two idle
# cores; started again, it goes on from its last checkpoint. Called by `make pebble`.
set -euo pipefail
cd "$(dirname "$0")/.."
work=build/pebble
moebius=build/moebius
focus=world.who,lists.sort_numbers,lists.sort_words,lists.copy,tools.unneeded

# part OUT STEPS DATA OPTIONS...
part() {
  nice "$moebius" train --data "$3/train.jsonl" --eval-data "$work/held_out_small.jsonl" --out "$1" --resume \
    --steps "$2" --micro-tokens 4096 --in-order --schedule cosine --floor 0.01 --save-every 250 "${@:4}"
}

mkdir -p "$work"
[ -f "$work/corpus/train.jsonl" ] || nice "$moebius" corpus --out "$work/corpus"
[ -f "$work/practice/train.jsonl" ] ||
  nice "$moebius" corpus --out "$work/practice" --seed 1 --train 60000 --focus $focus
head -n 400 "$work/corpus/held_out.jsonl" > "$work/held_out_small.jsonl"
part "$work/first" 7500 "$work/corpus" --recipe tools/pebble --lr 6e-3 --warmup 100 --eval-every 500
part "$work/out" 800 "$work/practice" --recipe "$work/first" --keep-weights --lr 2e-3 --warmup 50 --eval-every 200
nice "$moebius" eval -m "$work/out" --tasks "$work/corpus/held_out.jsonl" --json > "$work/out/scores.json"
scripts/install_pebble.sh "$work/first" "$work/out" models/pebble
