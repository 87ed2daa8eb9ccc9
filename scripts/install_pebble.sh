#!/usr/bin/env bash
# Copies a trained pebble into place, with its model card. Usage: install_pebble.sh FIRST_DIR TRAINED_DIR TO_DIR, where
# FIRST_DIR is the first part of its training and TRAINED_DIR the second, which went on from there.
set -euo pipefail
cd "$(dirname "$0")/.."
first=$1
from=$2
to=$3
mkdir -p "$to"
for file in config.json generation_config.json chat_template.jinja tokenizer.model tokenizer.json \
  tokenizer_config.json model.safetensors scores.json loss.svg; do
  cp "$from/$file" "$to/$file.new"
  mv "$to/$file.new" "$to/$file"
done

# {"accuracy":0.97,"per_task":{"about.fact":{"accuracy":0.9,"n":10}, ...},"n":4000,...} as a table
table() { sed 's/.*"per_task":{//; s/}}.*//; s/},/\n/g' "$to/scores.json" |
  sed 's/"\([^"]*\)":{"accuracy":\([0-9.]*\),"n":\([0-9]*\).*/| \1 | \2 | \3 |/' |
  awk -F'|' '{ printf "|%s| %.1f %% |%s|\n", $2, 100 * $3, $4 }'; }
accuracy() { sed 's/{"accuracy":\([0-9.]*\).*/\1/' "$to/scores.json" | awk '{ printf "%.1f %%", 100 * $1 }'; }
count() { sed 's/.*}},"n":\([0-9]*\).*/\1/' "$to/scores.json"; }
# The sum of a column of the last lines of both logs.
column() { tail -qn 1 "$first/log.csv" "$from/log.csv" | cut -d, -f"$1" | awk '{ sum += $1 } END { print sum }'; }
cat > "$to/README.md" <<CARD
# pebble

A small language model that ships with Moebius, so that \`make chat\` has something to say and every part of the engine has a
real model to run: multi-head latent attention, one dense layer, 16 routed experts of which a token takes 4, a shared expert.
It knows a little: questions about Moebius and its commands, arithmetic worked step by step, lists and letters, a small world of
invented people, short stories, calls of a calculator, small talk. Outside of these it makes things up.

- **Made by** \`make pebble\`: \`moebius corpus\` (seeded, generated; no text by others), a sentencepiece tokenizer trained on it,
  \`moebius train\` with Muon on two CPU cores.
- **Trained for** $(column 1) steps on $(column 2) tokens in $(column 3) s of computing, from random weights, in two parts.
- **Weights** BF16, deepseek_v3 architecture; \`transformers\` loads the folder.
- **Score** $(accuracy) on $(count) held-out tasks, none of whose problems is in the training data, answered greedily and
  checked by program (\`moebius eval --tasks\`):

| task | accuracy | examples |
|---|---|---|
$(table)

![loss](loss.svg)
CARD
