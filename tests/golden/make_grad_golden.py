"""Writes grad/grad.safetensors: the gradients that PyTorch's autograd computes in float64 for each backward
operation of kernels/grad_ops.h, on small seeded inputs that are exact in float32.

Names are <operation>.<case>.<field of the operation's arguments>; what is added to starts from zero. Forwards are
written with PyTorch's own rms_norm, linear, silu, scaled_dot_product_attention, softmax, cross_entropy and embedding.

Needs: pip install torch==2.15.0 safetensors==0.8.0 numpy==2.4.6
Run from the root of the repository: python tests/golden/make_grad_golden.py
"""

import pathlib

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

generator = torch.Generator().manual_seed(20251122)
out = {}


def leaf(*shape, scale=1.0):
    numbers = (torch.randn(*shape, generator=generator) * scale).double()  # drawn in float32, so exact in it
    return numbers.requires_grad_()


def fixed(*shape, scale=1.0):
    return leaf(*shape, scale=scale).detach()


def permutations(n, below, k):
    return torch.stack([torch.randperm(below, generator=generator)[:k] for _ in range(n)])


def save(name, **tensors):
    for field, t in tensors.items():
        t = t.detach()
        out[f"{name}.{field}"] = (t.int() if not t.is_floating_point() else t.float()).contiguous()


def rms_norm(case, n, d, eps):
    x, weight, dy = leaf(n, d, scale=2), leaf(d), fixed(n, d)
    F.rms_norm(x, (d,), weight, eps).backward(dy)
    save(f"rms_norm.{case}", x=x, weight=weight, dy=dy, eps=torch.tensor([eps]), dx=x.grad, dweight=weight.grad)


def linear(case, n, rows, cols):
    x, w, bias, dy = leaf(n, cols), leaf(rows, cols), leaf(rows), fixed(n, rows)
    F.linear(x, w, bias).backward(dy)
    save(f"linear.{case}", x=x, w=w, dy=dy, dx=x.grad, dw=w.grad, dbias=bias.grad)


def lora_linear(case, n, rows, cols, rank, scale):
    x, w, a, b, dy = leaf(n, cols), leaf(rows, cols), leaf(rank, cols), leaf(rows, rank), fixed(n, rows)
    F.linear(x, w + scale * b @ a).backward(dy)
    save(f"lora_linear.{case}", x=x, w=w, a=a, b=b, scale=torch.tensor([scale]), dy=dy, dx=x.grad, dw=w.grad,
         da=a.grad, db=b.grad)


def swiglu(case, n, d):
    gate, up, dy = leaf(n, d, scale=4), leaf(n, d), fixed(n, d)
    (F.silu(gate) * up).backward(dy)
    save(f"swiglu.{case}", gate=gate, up=up, dy=dy, dgate=gate.grad, dup=up.grad)


def attention(case, lengths, heads, kv_heads, own, rest, v_dim, scale):
    n = sum(lengths)
    q, k, v = leaf(n, heads, own + rest), leaf(n, kv_heads, own), leaf(n, kv_heads, v_dim)
    dout, shared = fixed(n, heads, v_dim), leaf(n, rest)
    keys = torch.cat([k, shared[:, None, :].expand(n, kv_heads, rest)], 2).repeat_interleave(heads // kv_heads, 1)
    values = v.repeat_interleave(heads // kv_heads, 1)
    starts = torch.tensor([0, *torch.tensor(lengths).cumsum(0)])
    parts, highest = [], torch.full((heads,), -torch.inf, dtype=torch.float64)
    for begin, end in zip(starts[:-1], starts[1:]):
        qs, ks, vs = (t[begin:end].transpose(0, 1) for t in (q, keys, values))
        parts.append(F.scaled_dot_product_attention(qs, ks, vs, is_causal=True, scale=scale).transpose(0, 1))
        later = torch.ones(end - begin, end - begin).triu(1) > 0
        scores = (scale * qs @ ks.transpose(1, 2)).masked_fill(later, -torch.inf)
        highest = torch.maximum(highest, scores.amax((1, 2)))
    y = torch.cat(parts)
    y.backward(dout)
    fields = dict(q=q, k=k, v=v, scale=torch.tensor([scale]), starts=starts, out=y, dout=dout, dq=q.grad, dk=k.grad,
                  dv=v.grad, highest=highest)
    if rest:
        fields |= dict(shared=shared, dshared=shared.grad)
    save(f"attention.{case}", **fields)


def router(case, n, rows, experts, k, sigmoid, normalize, scale):
    logits, dweights, ids = leaf(n, rows, scale=2), fixed(n, k), permutations(n, rows, k)
    scores = logits.sigmoid() if sigmoid else logits.softmax(1)
    weights = scores.gather(1, ids)
    if normalize:
        weights = weights / (weights.sum(1, keepdim=True) + 1e-20)
    (weights * scale * (ids < experts)).backward(dweights)
    options = torch.tensor([sigmoid, experts, normalize])
    save(f"router.{case}", logits=logits, ids=ids, dweights=dweights, options=options, scale=torch.tensor([scale]),
         dlogits=logits.grad)


def grad_of(t):
    return torch.zeros_like(t) if t.grad is None else t.grad


def adapted(w, lora):
    return w if lora is None else w + lora[2] * lora[1] @ lora[0]


def expert_ffn(case, n, k, hidden, widths, ranks=()):
    """The experts' slots, combined. ranks: of the adapters of gate, up and down of the first experts; 0 for none."""
    x, weights, dy = leaf(n, hidden), leaf(n, k), fixed(n, hidden)
    experts = [(leaf(w, hidden), leaf(w, hidden), leaf(hidden, w)) for w in widths]
    loras = [[None] * 3 for _ in widths]
    for e, of_expert in enumerate(ranks):
        for m, rank in enumerate(of_expert):
            rows, cols = experts[e][m].shape
            if rank:
                loras[e][m] = (leaf(rank, cols), leaf(rows, rank), 0.5 + m)
    ids = torch.randint(-1, len(widths), (n, k), generator=generator)
    ids[0, 0] = 0
    loss = 0.0
    for t in range(n):
        for s in range(k):
            if ids[t, s] >= 0:
                e = ids[t, s]
                gate, up, down = (adapted(w, lora) for w, lora in zip(experts[e], loras[e]))
                slot = F.linear(F.silu(F.linear(x[t], gate)) * F.linear(x[t], up), down)
                loss = loss + (weights[t, s] * slot * dy[t]).sum()
    loss.backward()
    save(f"expert_ffn.{case}", x=x, ids=ids, weights=weights, dy=dy, dx=x.grad, dweights=weights.grad)
    for e, matrices in enumerate(experts):
        for name, w, lora in zip(("gate", "up", "down"), matrices, loras[e]):
            fields = {name: w, "d" + name: grad_of(w)}
            if lora is not None:
                a, b, scale = lora
                fields |= {name + ".a": a, name + ".b": b, name + ".scale": torch.tensor([scale]),
                           name + ".da": grad_of(a), name + ".db": grad_of(b)}
            save(f"expert_ffn.{case}.{e}", **fields)


def cross_entropy(case, n, vocab, weighted):
    logits, weights = leaf(n, vocab, scale=5), fixed(n).abs()
    targets = torch.randint(0, vocab, (n,), generator=generator)
    targets[n // 2] = -1
    loss = F.cross_entropy(logits, targets.long(), reduction="none", ignore_index=-1) * (weights if weighted else 1)
    loss.sum().backward()
    fields = dict(logits=logits, targets=targets, loss=loss, dlogits=logits.grad)
    save(f"cross_entropy.{case}", **fields, **(dict(weights=weights) if weighted else {}))


def embed(case, n, vocab, hidden):
    table, dy = leaf(vocab, hidden), fixed(n, hidden)
    ids = torch.randint(0, vocab, (n,), generator=generator)
    F.embedding(ids, table).backward(dy)
    save(f"embed.{case}", ids=ids, dy=dy, dtable=table.grad)


rms_norm(0, 1, 48, 1e-6)
rms_norm(1, 9, 33, 1e-5)
linear(0, 1, 24, 17)
linear(1, 11, 19, 40)
lora_linear(0, 1, 7, 12, 2, 2.0)
lora_linear(1, 9, 14, 11, 3, 0.5)
swiglu(0, 6, 37)
attention(0, [1], 2, 1, 8, 0, 8, 0.3535533845424652)
attention(1, [17], 4, 2, 8, 0, 8, 0.3535533845424652)
attention(2, [3, 1, 15], 3, 3, 8, 4, 6, 0.25)
attention(3, [12], 4, 1, 8, 4, 5, 0.5)
attention(4, [5, 8], 4, 2, 8, 0, 8, 0.5)
for i, sigmoid in enumerate((False, True)):
    for j, normalize in enumerate((False, True)):
        router(2 * i + j, 7, 12, 12, 4, sigmoid, normalize, 1.0)
        router(4 + 2 * i + j, 7, 12, 8, 5, sigmoid, normalize, 2.5)
expert_ffn(0, 1, 2, 16, (12, 8))
expert_ffn(1, 9, 3, 18, (10, 5, 16, 1))
expert_ffn(2, 8, 2, 14, (9, 11, 6), ((2, 3, 1), (0, 2, 4)))
cross_entropy(0, 7, 50, False)
cross_entropy(1, 6, 31, True)
embed(0, 14, 6, 12)

folder = pathlib.Path("tests/golden/grad")
folder.mkdir(exist_ok=True)
save_file(out, folder / "grad.safetensors")
