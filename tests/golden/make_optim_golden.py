"""Writes optim/optim.safetensors: what PyTorch's optimizers, its gradient clipping, its linear algebra and the
schedules of transformers compute on small seeded inputs.

The Muon of PyTorch iterates in bfloat16, so each of its cases comes twice: as torch.optim.Muon leaves the weights
(".torch"), and as the same formulas leave them in float64 (".exact"). Formulas: engine/optim/parts.h and
engine/optim/lora_muon.h name the papers.

Needs: pip install torch==2.15.0 transformers==5.23.0 safetensors numpy
Run from the root of the repository: python tests/golden/make_optim_golden.py
"""

import math
import pathlib

import torch
from safetensors.torch import save_file
from transformers import optimization

STEPS = 20
KELLER = (3.4445, -4.7750, 2.0315)
SHAPES = {"tall": (24, 10), "wide": (9, 28), "square": (16, 16), "long": (64, 8), "lean": (6, 48), "deficient": (12, 20)}

generator = torch.Generator().manual_seed(20250222)
out = {}


def randn(*shape, scale=1.0):
    return torch.randn(*shape, generator=generator) * scale


def gradients(name, shape):
    if name == "deficient":  # the same three directions on one side at every step: momentum stays of rank 3
        left = randn(shape[0], 3)
        return torch.stack([left @ randn(3, shape[1]) for _ in range(STEPS)])
    return randn(STEPS, *shape)


def run(optimizer, weight, grads):
    for grad in grads:
        weight.grad = grad.clone()
        optimizer.step()
    return weight.detach().clone()


def newton_schulz(u, coefficients=KELLER, steps=5):
    a, b, c = coefficients
    x = u.T if u.shape[0] > u.shape[1] else u
    x = x / (x.norm() + 1e-7)
    for _ in range(steps):
        s = x @ x.T
        x = a * x + (b * s + c * s @ s) @ x
    return x.T if u.shape[0] > u.shape[1] else x


def muon_exact(weight, grads, lr, decay, mu=0.95, pre=lambda u: u, post=lambda o: o):
    w, m = weight.double(), torch.zeros_like(weight).double()
    for grad in grads.double():
        m = mu * m + grad
        o = post(newton_schulz(pre(grad + mu * m)))
        w = w * (1 - lr * decay) - lr * 0.2 * math.sqrt(max(w.shape)) * o
    return w.float()


class NorMuon:
    def __init__(self, rows):
        self.v = torch.zeros(rows, 1).double()

    def __call__(self, o):
        self.v = 0.95 * self.v + 0.05 * o.square().mean(1, keepdim=True)
        scaled = o / (self.v.sqrt() + 1e-10)
        return scaled * (o.norm() / scaled.norm())


def equilibrate_rows(u):
    return u / (u.square().sum(1, keepdim=True) + 1e-8).sqrt()


def adamw_cases():
    for name, shape, decay in (("adamw.a", (7, 13), 0.1), ("adamw.b", (1, 33), 0.0)):
        weight, grads = randn(*shape), randn(STEPS, *shape, scale=0.05)
        out[f"{name}.weight"], out[f"{name}.gradients"] = weight, grads
        parameter = torch.nn.Parameter(weight.clone())
        optimizer = torch.optim.AdamW([parameter], lr=0.01, betas=(0.9, 0.95), eps=1e-8, weight_decay=decay)
        out[f"{name}.after_1"] = run(optimizer, parameter, grads[:1])
        out[f"{name}.after"] = run(optimizer, parameter, grads[1:])
        out[f"{name}.exp_avg_sq"] = optimizer.state[parameter]["exp_avg_sq"].clone()


def muon_cases():
    for name, shape in SHAPES.items():
        weight, grads = randn(*shape), gradients(name, shape)
        key = f"muon.{name}"
        out[f"{key}.weight"], out[f"{key}.gradients"] = weight, grads
        parameter = torch.nn.Parameter(weight.clone())
        optimizer = torch.optim.Muon([parameter], lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
        out[f"{key}.torch"] = run(optimizer, parameter, grads)
        out[f"{key}.exact"] = muon_exact(weight, grads, 0.02, 0.1)
        gap = (out[f"{key}.torch"] - out[f"{key}.exact"]).norm() / (out[f"{key}.exact"] - weight).norm()
        print(f"{key}: bfloat16 differs by {gap:.4f}")
        if name != "deficient":
            out[f"{key}.normuon"] = muon_exact(weight, grads, 0.02, 0.1, post=NorMuon(shape[0]))
            out[f"{key}.muoneq"] = muon_exact(weight, grads, 0.02, 0.1, pre=equilibrate_rows)


def polar_cases():
    for name, shape in SHAPES.items():
        u, _, vh = torch.linalg.svd(randn(*shape).double(), full_matrices=False)
        rank = 3 if name == "deficient" else min(shape)
        u, vh = u[:, :rank], vh[:rank]
        values = torch.logspace(0, -2.5, rank, dtype=torch.float64)
        matrix = (u * values @ vh).float()
        # the polar factor of the stored float32 numbers, not of the float64 ones they were rounded from
        u, _, vh = torch.linalg.svd(matrix.double(), full_matrices=False)
        out[f"polar.{name}.matrix"] = matrix
        out[f"polar.{name}.factor"] = (u[:, :rank] @ vh[:rank]).float()


def inverse_root(s, damping=1e-6):
    values, vectors = torch.linalg.eigh(s + damping * s.trace() / len(s) * torch.eye(len(s)).double())
    return vectors * values.rsqrt() @ vectors.T


def msign(m):
    u, _, vh = torch.linalg.svd(m, full_matrices=False)
    return u @ vh


def lora_case():
    rank, n_in, n_out, eta, decay, beta = 4, 20, 14, 0.1, 0.5, 0.95
    a, b = randn(rank, n_in, scale=0.3), randn(n_out, rank, scale=2.0)
    grads_a, grads_b = randn(3, rank, n_in), randn(3, n_out, rank)
    out.update({"lora.a": a, "lora.b": b, "lora.gradients_a": grads_a, "lora.gradients_b": grads_b})
    a, b = a.double(), b.double()
    ma, mb = torch.zeros_like(a), torch.zeros_like(b)
    keep = math.sqrt(1 - decay * eta)
    for ga, gb in zip(grads_a.double(), grads_b.double()):
        ma, mb = beta * ma + (1 - beta) * ga, beta * mb + (1 - beta) * gb
        ra, rb = inverse_root(a @ a.T), inverse_root(b.T @ b)
        step_b, step_a = -eta / 2 * msign(mb @ ra) @ ra, -eta / 2 * rb @ msign(rb @ ma)
        a, b = keep * a + step_a / keep, keep * b + step_b / keep
    out["lora.a_after"], out["lora.b_after"] = a.float(), b.float()


def clip_cases():
    for name, scale in (("clip.large", 3.0), ("clip.small", 0.01)):
        parameters = [torch.nn.Parameter(torch.zeros(shape)) for shape in ((5, 8), (1, 17), (30, 2))]
        for i, parameter in enumerate(parameters):
            parameter.grad = randn(*parameter.shape, scale=scale)
            out[f"{name}.{i}"] = parameter.grad.clone()
        out[f"{name}.norm"] = torch.nn.utils.clip_grad_norm_(parameters, 1.0).reshape(1)
        for i, parameter in enumerate(parameters):
            out[f"{name}.{i}.after"] = parameter.grad.clone()


def schedule(make):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    factor = make(optimizer).lr_lambdas[0]
    return torch.tensor([factor(step) for step in range(130)], dtype=torch.float64)


def schedule_cases():
    out["schedule.cosine"] = schedule(lambda o: optimization.get_cosine_schedule_with_warmup(o, 10, 129))
    out["schedule.cosine_floor"] = schedule(
        lambda o: optimization.get_cosine_with_min_lr_schedule_with_warmup(o, 7, 129, min_lr_rate=0.1))
    for shape in ("linear", "cosine", "1-sqrt"):
        out[f"schedule.wsd_{shape}"] = schedule(
            lambda o: optimization.get_wsd_schedule(o, 10, 30, num_stable_steps=70, decay_type=shape, min_lr_ratio=0.05))


def main():
    adamw_cases()
    muon_cases()
    polar_cases()
    lora_case()
    clip_cases()
    schedule_cases()
    path = pathlib.Path(__file__).parent / "optim" / "optim.safetensors"
    path.parent.mkdir(exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in out.items()}, path)


if __name__ == "__main__":
    main()
