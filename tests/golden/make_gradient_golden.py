#!/usr/bin/env python3
"""Makes tests/golden/gradients: gradients of the whole golden models, by PyTorch's autograd through transformers.

pip install torch==2.15.0 transformers==5.23.0 tokenizers==0.23.3 safetensors==0.8.0 numpy==2.4.6

    python tests/golden/make_gradient_golden.py            # every model in tests/golden/models
    python tests/golden/make_gradient_golden.py NAME...    # only these

Each model is computed in float64 on the exact values of its stored bytes, each sequence on its own. The loss is the
sum over rows of weight * cross-entropy. NAME.safetensors holds

    input_ids I32 [n], starts I64 [sequences + 1]; targets I32 [n], the next token, or -1: no loss (also inside a
    sequence, whatever the row's weight); weights F32 [n]
    full.names U8, published tensor names, one per line: every trainable tensor of a model that is stored as F32, BF16
    or F16, as its own leaf; full.loss F64 [1]; full.norms F64 [tensors], Frobenius; full.at I32 and full.values F32
    [tensors, 32]: flat positions (-1: none left, the gradient is smaller) and the gradient there
    lora.names U8, matrices, without ".weight": all but embedding and head, each frozen with an adapter
    w + scale b a; lora.rank I64 [1], lora.scale F32 [1]; lora.factors F32, a [rank, cols] then b [rows, rank] of each
    in order; lora.loss F64 [1]; lora.norms F64 [matrices, 2], of da and db; lora.at I32 and lora.values F32
    [matrices, 2, 16]

How transformers differentiates routing: top-k is a choice of indices, no gradient flows through it; the un-biased
scores of the chosen are gathered, normalised and scaled, all differentiable; nothing there is detached, so autograd
through transformers itself is the oracle for every family. Its in-place division by the sum is differentiated too.
For zero experts the wrapper of make_models_golden_oracle.py masks their weights after normalising, so their scores
keep their part in the sum. e_score_correction_bias is a buffer and has no gradient.

The independent check is the NumPy restatement of make_models_golden_reference.py: its central differences along a
random direction of every tensor must agree with the gradient. Tokens are chosen so that no routing decision is close
(margin as in make_models_golden.py) both with and without the adapters. `float32` in the output is what plain
float32 arithmetic costs: the largest difference of a gradient over its norm when transformers runs in float32.
"""

import json
import os
import sys
import zlib

import numpy as np
import torch
import transformers
from safetensors.torch import save_file

import make_models_golden as models
import make_models_golden_formats as formats
import make_models_golden_reference as reference
from make_models_golden_oracle import Oracle
from make_models_golden_weights import expert_count, is_moe_layer, zero_experts

GRADIENTS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "gradients")
LENGTHS = (19, 3, 11)
MASKED = (0, 1, 24)  # rows inside a sequence without a target
WEIGHTS = (1.0, 0.5, 2.0, 1.0, 0.0)  # in turn
MARGIN = 0.01
RANK, SCALE, STRENGTH = 4, 2.0, 0.1  # STRENGTH: deviation of b over that of the weights, times sqrt(cols)
FULL_VALUES, LORA_VALUES = 32, 16
STEP = 1e-5  # of central differences, relative to each number
AGREE = 1e-6  # autograd against them, relative to the norm of gradient times numbers


class Model:
    """A golden model as a differentiable function of its published tensors."""

    def __init__(self, name):
        folder = os.path.join(models.MODELS, name)
        with open(os.path.join(folder, "config.json")) as f:
            self.config = config = json.load(f)
        stored = models.read_stored(folder)
        self.quantised = "quantization_config" in config
        values = formats.values(config, formats.split_experts(config, stored))
        plain = not (zero_experts(config) or self.quantised or "moe_intermediate_sizes" in config)
        self.oracles = {dtype: Oracle(config, values, folder if plain else None, dtype)
                        for dtype in (torch.float64, torch.float32)}
        beyond = tuple(f"model.layers.{l}." for l in range(
            config["num_hidden_layers"], config["num_hidden_layers"] + config.get("num_nextn_predict_layers", 0)))
        if config.get("tie_word_embeddings"):
            beyond += ("lm_head.",)
        self.values = {n: v for n, v in values.items() if not n.startswith(beyond)}
        self.buffers = {n: v for n, v in self.values.items() if n.endswith("e_score_correction_bias")}

    def trainable(self):
        return {n: v for n, v in self.values.items() if n not in self.buffers}

    def module_tensors(self, tensors):
        """Published names to the module's: experts padded to one width and fused."""
        out = {n: t for n, t in tensors.items() if ".mlp.experts." not in n}
        wide = self.config["moe_intermediate_size"]
        for layer in range(self.config["num_hidden_layers"]):
            if not is_moe_layer(self.config, layer):
                continue
            stem, gate_up, down = f"model.layers.{layer}.mlp.experts.", [], []
            for e in range(expert_count(self.config)):
                gate, up = (tensors[f"{stem}{e}.{part}_proj.weight"] for part in ("gate", "up"))
                pad = wide - len(gate)
                gate_up.append(torch.cat([torch.nn.functional.pad(t, (0, 0, 0, pad)) for t in (gate, up)]))
                down.append(torch.nn.functional.pad(tensors[f"{stem}{e}.down_proj.weight"], (0, pad)))
            out[stem + "gate_up_proj"], out[stem + "down_proj"] = torch.stack(gate_up), torch.stack(down)
        return out

    def run(self, tensors, batch, dtype=torch.float64):
        """Logits [b, n, vocab] and router outputs for ids [b, n]; tensors: torch, by published name."""
        oracle, routers, handles = self.oracles[dtype], {}, []
        for layer, block in enumerate(oracle.model.model.layers):
            if is_moe_layer(self.config, layer):
                handles.append(block.mlp.gate.register_forward_hook(
                    lambda _m, _i, y, at=layer: routers.__setitem__(
                        at, [t.detach().reshape(*np.shape(batch), -1).numpy() for t in y])))
        parameters = self.module_tensors(tensors)
        expected = {n: p.shape for n, p in oracle.model.named_parameters()}
        assert {n: t.shape for n, t in parameters.items()} == expected, "the module has other parameters"
        with oracle._arithmetic():
            logits = torch.func.functional_call(
                oracle.model, parameters, kwargs={"input_ids": torch.tensor(batch), "use_cache": False}).logits
        for handle in handles:
            handle.remove()
        return logits, routers

    def margins(self, tensors, batch):
        with torch.no_grad():
            return models.batch_margins(self.config, self.buffers, self.run(tensors, batch)[1])


def torch_values(values, dtype=torch.float64):
    return {n: torch.from_numpy(np.ascontiguousarray(v)).to(dtype) for n, v in values.items()}


def choose_batch(model, variants, seed):
    """Sequences whose routing is clear in every layer under every variant of the weights."""
    rng, sequences, smallest = np.random.default_rng([seed, 77]), [], np.inf
    for length in LENGTHS:
        ids = []
        for _ in range(length):
            candidates = rng.permutation(model.config["vocab_size"])[:24]
            batch = [ids + [int(c)] for c in candidates]
            found = np.min([model.margins(v, batch)[:, -1] for v in variants], 0)
            pick = np.nonzero(found >= MARGIN)[0]
            pick = pick[0] if len(pick) else int(np.argmax(found))
            ids, smallest = batch[pick], min(smallest, float(found[pick]))
        sequences.append(ids)
    assert smallest >= MARGIN, f"margin {smallest} < {MARGIN}: choose another seed"
    targets = np.concatenate([s[1:] + [-1] for s in sequences])
    targets[list(MASKED)] = -1
    weights = np.resize(np.array(WEIGHTS), len(targets))
    return sequences, targets, weights, smallest


def numpy_loss(model, values, sequences, targets, weights):
    total, at = 0.0, 0
    for ids in sequences:
        logits = reference.Reference(model.config, values | model.buffers).forward(ids)["logits"]
        highest = logits.max(-1, keepdims=True)
        logs = logits - highest - np.log(np.exp(logits - highest).sum(-1, keepdims=True))
        for row in range(len(ids)):
            if targets[at + row] >= 0:
                total -= weights[at + row] * logs[row, targets[at + row]]
        at += len(ids)
    return total


def torch_loss(model, tensors, sequences, targets, weights, dtype=torch.float64):
    total, at = 0.0, 0
    for ids in sequences:
        logits, _ = model.run(tensors, [ids], dtype)
        rows = slice(at, at + len(ids))
        each = torch.nn.functional.cross_entropy(logits[0], torch.tensor(targets[rows]), ignore_index=-1,
                                                 reduction="none")
        total = total + (each * torch.tensor(weights[rows], dtype=dtype)).sum()
        at += len(ids)
    return total


def gradients(leaves, loss):
    """{name: gradient}, zeros where the loss does not depend on the leaf (experts that nobody chose)."""
    found = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    return {n: torch.zeros_like(leaf) if g is None else g for (n, leaf), g in zip(leaves.items(), found)}


def rng_of(*words):
    return np.random.default_rng([zlib.crc32(str(word).encode()) for word in words])


def adapter_factors(name, values):
    """{matrix: (a [RANK, cols], b [rows, RANK])}, float32 numbers, small beside the weights."""
    factors = {}
    for tensor, w in values.items():
        if w.ndim == 2 and not tensor.startswith(("model.embed_tokens.", "lm_head.")):
            rng, (rows, cols) = rng_of(name, tensor), w.shape
            a = rng.standard_normal((RANK, cols)) * cols**-0.5
            b = rng.standard_normal((rows, RANK)) * STRENGTH * np.sqrt((w * w).mean() * cols)
            factors[tensor.removesuffix(".weight")] = a.astype(np.float32), b.astype(np.float32)
    return factors


def adapted(values, factors):
    """values with every adapter added: torch or NumPy alike."""
    return values | {m + ".weight": values[m + ".weight"] + SCALE * (b @ a) for m, (a, b) in factors.items()}


def check_by_differences(name, found, loss_at, leaves):
    """The largest difference of a directional derivative, relative to the gradient's norm."""
    worst = 0.0
    for leaf, value in leaves.items():
        # In proportion to each number: some tensors hold rows of very different size.
        direction = rng_of(name, leaf, "direction").standard_normal(value.shape) * np.abs(value)
        numeric = (loss_at(leaf, value + STEP * direction) - loss_at(leaf, value - STEP * direction)) / (2 * STEP)
        exact = found[leaf].numpy()
        norm = float(np.linalg.norm(exact * value))
        difference = abs(numeric - float((exact * direction).sum()))
        # A loss of order 100 is exact to some 1e-13, which the step enlarges.
        assert difference < AGREE * norm + 1e-12 / STEP, f"{leaf}: {numeric} by differences, off by {difference}"
        worst = max(worst, difference / norm if norm > 0 else 0.0)
    return worst


def sample(name, leaf, gradient, count):
    """Positions [count] and values: mostly where the gradient is not zero; -1 fills up."""
    flat = gradient.detach().numpy().reshape(-1)
    if len(flat) <= count:
        at = np.arange(len(flat))
    else:
        rng, live = rng_of(name, leaf, "positions"), np.nonzero(flat)[0]
        anywhere = rng.choice(len(flat), count, replace=False)
        lively = rng.choice(live, min(len(live), 3 * count // 4), replace=False) if len(live) else live
        at = np.array(list(dict.fromkeys([*lively, *anywhere]))[:count])
    positions, values = np.full(count, -1, np.int32), np.zeros(count, np.float32)
    positions[: len(at)], values[: len(at)] = at, flat[at]
    return positions, values


def pack(name, prefix, names, found, loss, count):
    """found: one dict of gradients per row of a name: the tensor itself, or (da, db)."""
    samples = [[sample(name, n, g[n], count) for g in found] for n in names]
    shape = (len(names), count) if len(found) == 1 else (len(names), len(found), count)
    norms = np.array([[float(torch.linalg.norm(g[n])) for g in found] for n in names]).reshape(shape[:-1])
    tensors = {"names": np.frombuffer("\n".join(names).encode(), np.uint8).copy(), "norms": norms,
               "loss": np.array([loss.item()]),
               "at": np.array([[s[0] for s in row] for row in samples]).reshape(shape),
               "values": np.array([[s[1] for s in row] for row in samples]).reshape(shape)}
    return {f"{prefix}.{n}": torch.from_numpy(t) for n, t in tensors.items()}


def float32_cost(found, single):
    return max(float((single[n].double() - g).norm() / g.norm()) for n, g in found.items() if float(g.norm()) > 0)


def full_part(name, model, batch):
    """Every tensor a leaf."""
    values = model.trainable()
    leaves = {n: t.requires_grad_() for n, t in torch_values(values).items()}
    loss = torch_loss(model, leaves, *batch)
    found = gradients(leaves, loss)
    assert abs(numpy_loss(model, values, *batch) - loss.item()) < 1e-9
    worst = check_by_differences(
        name, found, lambda leaf, value: numpy_loss(model, values | {leaf: value}, *batch), values)
    single = {n: t.requires_grad_() for n, t in torch_values(values, torch.float32).items()}
    cost = float32_cost(found, gradients(single, torch_loss(model, single, *batch, torch.float32)))
    return pack(name, "full", list(values), [found], loss, FULL_VALUES), check_live(found), worst, cost


def lora_part(name, model, factors, batch):
    """Every factor a leaf, the base frozen."""
    values, base = model.trainable(), torch_values(model.trainable())
    flat = {f"{m}.{part}": v.astype(np.float64) for m, ab in factors.items() for part, v in zip("ab", ab)}

    def pairs(tensors):
        return {m: (tensors[m + ".a"], tensors[m + ".b"]) for m in factors}

    leaves = {n: t.requires_grad_() for n, t in torch_values(flat).items()}
    loss = torch_loss(model, adapted(base, pairs(leaves)), *batch)
    found = gradients(leaves, loss)

    def loss_at(leaf, value):
        return numpy_loss(model, adapted(values, pairs(flat | {leaf: value})), *batch)

    worst = check_by_differences(name, found, loss_at, flat)
    single = {n: t.requires_grad_() for n, t in torch_values(flat, torch.float32).items()}
    low = adapted(torch_values(values, torch.float32), pairs(single))
    cost = float32_cost(found, gradients(single, torch_loss(model, low, *batch, torch.float32)))
    da, db = ({m: found[f"{m}.{part}"] for m in factors} for part in "ab")
    tensors = pack(name, "lora", list(factors), [da, db], loss, LORA_VALUES)
    tensors["lora.factors"] = torch.from_numpy(np.concatenate([v.reshape(-1) for ab in factors.values() for v in ab]))
    tensors["lora.rank"] = torch.tensor([RANK])
    tensors["lora.scale"] = torch.tensor([SCALE])
    return tensors, check_live(found), worst, cost


def check_live(found):
    """Every gradient is there, but for experts that no token with a loss behind it chose; returns the others' share."""
    routed = [n for n in found if ".mlp.experts." in n]
    gone = [n for n, g in found.items() if float(g.norm()) == 0]
    assert set(gone) <= set(routed), f"{gone} have no gradient"
    share = 1 - len(gone) / len(routed)
    assert share >= 0.75, f"only {share} of the experts have a gradient"
    return share


def make(name):
    model = Model(name)
    factors = adapter_factors(name, model.trainable())
    base = torch_values(model.trainable())
    with_adapters = torch_values(adapted(model.trainable(), {
        m: (a.astype(np.float64), b.astype(np.float64)) for m, (a, b) in factors.items()}))
    variants = [with_adapters] if model.quantised else [with_adapters, base]
    *batch, margin = choose_batch(model, variants, zlib.crc32(name.encode()))
    sequences, targets, weights = batch
    tensors = {"input_ids": torch.tensor(sum(sequences, []), dtype=torch.int32),
               "starts": torch.tensor(np.cumsum([0, *LENGTHS])),
               "targets": torch.tensor(targets, dtype=torch.int32),
               "weights": torch.tensor(weights, dtype=torch.float32)}
    parts = {"lora": lora_part(name, model, factors, batch)}
    if not model.quantised:
        parts["full"] = full_part(name, model, batch)
    for found, *_ in parts.values():
        tensors |= found
    path = os.path.join(GRADIENTS, name + ".safetensors")
    save_file(tensors, path)
    notes = "".join(f"  {part}: differences {worst:.0e}, float32 {cost:.0e}, experts {share:.2f}"
                    for part, (_, share, worst, cost) in parts.items())
    print(f"{name:24} {os.path.getsize(path) // 1024:4} KB  margin {margin:.4f}{notes}", flush=True)


def main():
    models.check_versions()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    os.makedirs(GRADIENTS, exist_ok=True)
    known = [spec["name"] for spec in models.SPECS]
    wanted = sys.argv[1:] or known
    if unknown := [name for name in wanted if name not in known]:
        sys.exit(f"no golden model named {', '.join(unknown)}; there are {', '.join(known)}")
    for name in wanted:
        make(name)


if __name__ == "__main__":
    main()
