#!/usr/bin/env bash
# Decode speed of Moonlight's geometry (9 of its layers, INT4, random weights) with all neurons of its routed experts, and with 80
# and 60 % of them in the widths that `moebius tenp` plans: by turns, 6 times. Writes CSV to standard output. Needs the 9 GB of
#   build/moebius synth --geometry moonlight-16b-a3b --dtype int4 --out MODEL
# for the plan. Usage: bench/tenp_moonlight.sh MODEL TEXT > bench/results/tenp_moonlight-epyc-2core.csv
set -euo pipefail
cd "$(dirname "$0")/.."
work=build/tenp_moonlight
moebius=build/moebius
mkdir -p $work

[ -f $work/scores.safetensors ] ||
  $moebius tenp -m "$1" --calibrate "$2" --tokens 3072 --scores $work/scores.safetensors --dry-run > /dev/null
[ -d $work/1.0 ] || $moebius synth --geometry moonlight-16b-a3b --layers 9 --dtype int4 --out $work/1.0 > /dev/null
for keep in 0.8 0.6; do
  [ -d $work/$keep ] && continue
  $moebius tenp -m "$1" --scores $work/scores.safetensors --dry-run --keep $keep --depth-weights 1:1 --json > $work/plan.json
  python3 - "$1" $work <<'PYTHON'
import json, sys
model, work = sys.argv[1:]
config, plan = json.load(open(f"{model}/config.json")), json.load(open(f"{work}/plan.json"))
for name in ("quantization_config", "moebius_random_weights"):
    config.pop(name, None)
config["moe_intermediate_sizes"] = [layer["widths"] for layer in plan["layers"]]
json.dump(config, open(f"{work}/config.json", "w"))
PYTHON
  $moebius synth --geometry $work/config.json --layers 9 --dtype int4 --out $work/$keep > /dev/null
done

echo "kept,tok/s,bytes a token,share of the memory probe,memory probe GB/s"
for _ in 1 2 3 4 5 6; do
  for keep in 1.0 0.8 0.6; do
    $moebius bench -m $work/$keep -p 0 -n 96 --repeats 1 --json | python3 -c "
import json, sys
run = json.load(sys.stdin)
print('$keep,%.3f,%d,%.3f,%.1f' % (run['decode']['tokens_per_s'], run['decode']['bytes_per_token'],
                                   run['decode']['share_of_probe'], run['limits']['memory_read_GBs']))"
  done
done
