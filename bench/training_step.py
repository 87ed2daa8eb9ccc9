#!/usr/bin/env python3
"""PyTorch's side of bench/training_step.cpp: one training step of the same model on the same sequences.

pip install torch==2.15.0 transformers==5.23.0 peft==0.21.2

    build/bench_training_step models/pebble 8192 2 1 sequences > sequences.json
    python bench/training_step.py models/pebble sequences.json [full|lora] [threads] [runs]

Prints one CSV line: step, tokens, threads, ms, tok/s, peak MB. `full` is forward, backward, clipping and torch.optim.Muon
on hidden matrices with AdamW on the rest; `lora` is rank 16 on attention, shared, dense and routed experts with AdamW. Sequences
are padded to the longest and sorted into four batches by length, the cheapest form that needs no kernel outside of PyTorch;
padding counts as no token. The loss is on the second half of each sequence, as there.
"""

import json
import resource
import sys
import time

import torch
from transformers import AutoModelForCausalLM

WARMUP = 1


def batches_of(sequences, parts=4):
    ordered = sorted(sequences, key=len)
    size = (len(ordered) + parts - 1) // parts
    for begin in range(0, len(ordered), size):
        group = ordered[begin : begin + size]
        width = max(len(s) for s in group)
        ids = torch.zeros(len(group), width, dtype=torch.long)
        mask = torch.zeros(len(group), width, dtype=torch.long)
        labels = torch.full((len(group), width), -100)
        for i, s in enumerate(group):
            ids[i, : len(s)] = torch.tensor(s)
            mask[i, : len(s)] = 1
            labels[i, len(s) // 2 : len(s)] = ids[i, len(s) // 2 : len(s)]
        yield ids, mask, labels


def adapted(model):
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=16,
        lora_alpha=32,
        target_modules=["q_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj"],
        target_parameters=["mlp.experts.gate_up_proj", "mlp.experts.down_proj"],
    )
    return get_peft_model(model, config)


def optimizers(model, kind):
    trained = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    if kind == "lora":
        return [torch.optim.AdamW([p for _, p in trained], lr=1e-4)]
    # torch.optim.Muon takes matrices only: fused experts, which transformers holds as 3D tensors, go to AdamW.
    hidden = [p for n, p in trained if p.ndim == 2 and "embed" not in n and "lm_head" not in n]
    known = {id(p) for p in hidden}
    rest = [p for _, p in trained if id(p) not in known]
    return [torch.optim.Muon(hidden, lr=1e-4), torch.optim.AdamW(rest, lr=1e-4)]


def main():
    folder, file = sys.argv[1:3]
    kind = sys.argv[3] if len(sys.argv) > 3 else "full"
    threads = int(sys.argv[4]) if len(sys.argv) > 4 else 2
    runs = int(sys.argv[5]) if len(sys.argv) > 5 else 5
    torch.set_num_threads(threads)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.config.use_cache = False
    model.train()
    if kind == "lora":
        model = adapted(model)
    steps = optimizers(model, kind)
    sequences = json.load(open(file))
    tokens = sum(len(s) - 1 for s in sequences)
    batches = list(batches_of(sequences))
    times = []
    for _ in range(WARMUP + runs):
        start = time.perf_counter()
        for ids, mask, labels in batches:
            model(input_ids=ids, attention_mask=mask, labels=labels).loss.backward()
        torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], 1.0)
        for optimizer in steps:
            optimizer.step()
            optimizer.zero_grad()
        times.append(time.perf_counter() - start)
    median = sorted(times[WARMUP:])[runs // 2]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{kind},{tokens},{threads},{median * 1e3:.1f},{tokens / median:.0f},{peak:.0f}")


main()
