#!/usr/bin/env bash
# That a run of that size goes on bit for bit after it was killed, and stops at numbers that are not finite.
# Usage: bench/finetuning_resume.sh MODEL [STEPS], a model as bench/finetuning.sh makes it
set -euo pipefail
cd "$(dirname "$0")/.."
work=build/finetuning_resume
rm -rf $work && mkdir -p $work
python3 - > $work/data.jsonl <<'PYTHON'
import json, random
random.seed(1)
for _ in range(8):
    print(json.dumps({"text": " ".join("%x" % random.getrandbits(32) for _ in range(400))}))
PYTHON
tune() { # in a shell of its own, which becomes the program
  exec build/moebius finetune -m "$model" --data $work/data.jsonl --eval-part 0 --micro-tokens 512 --cut-long --rank 8 \
    --targets q,kv,o,experts --optimizer lora-muon --steps "$steps" --save-every 1 "$@"
}
model=$1 steps=${2:-3}
(tune -o $work/whole)
tune -o $work/killed &
until [ -f $work/killed/checkpoints/checkpoint-000001.safetensors ]; do sleep 0.2; done
sleep 5 # into the second step
kill -KILL $!
wait $! || true
(tune -o $work/killed --resume)
cut -d, -f1,2,4-6 $work/whole/log.csv > $work/whole.losses
cut -d, -f1,2,4-6 $work/killed/log.csv > $work/killed.losses
cmp $work/whole.losses $work/killed.losses
cmp $work/whole/adapter_model.safetensors $work/killed/adapter_model.safetensors
echo "killed and resumed: the same losses and the same adapter, byte by byte"
cat $work/whole.losses
(tune -o $work/broken --lr 1e60) && exit 1 || true # says which tensor is not finite
