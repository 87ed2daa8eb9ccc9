"""Writes zeda/zeda.safetensors: the routing over real and zero experts and the group balance loss of ZEDA
(arXiv 2605.18643), written down here in PyTorch in float64 by the method's rules alone:

- scores (softmax, or sigmoid) over all N + Z rows; the K largest of score + selection bias are chosen;
- their weights are the scores without bias, if asked divided by their sum once, over all K, zero experts included,
  then scaled; then a zero expert's weight becomes 0 and its id -1, and nothing is divided again;
- the loss is alpha (N + w Z) / K (f_E P_E / N + f_Z P_Z / (w Z)), f = slots of the group / T, P = the group's mean
  probability, for sigmoid scores each token's scores over their sum; its gradient with respect to the logits is autograd's.

Needs: pip install torch==2.15.0 safetensors==0.8.0 numpy==2.4.6
Run from the root of the repository: python tests/golden/make_zeda_golden.py
"""

import pathlib

import torch
from safetensors.torch import save_file

TOKENS, REAL, ZERO, CHOSEN, HIDDEN = 12, 6, 3, 4, 8
ALPHA = 0.1
generator = torch.Generator().manual_seed(20251128)
out = {}


def drawn(*shape, scale=1.0):
    return (torch.randn(*shape, generator=generator) * scale).double()  # exact in float32


def scores_of(logits, sigmoid):
    return torch.sigmoid(logits) if sigmoid else torch.softmax(logits, 1)


def case(name, sigmoid, normalise, with_bias, scale, weight_of_zero):
    x, gate = drawn(TOKENS, HIDDEN), drawn(REAL + ZERO, HIDDEN)
    bias = drawn(REAL + ZERO, scale=0.2) if with_bias else torch.zeros(REAL + ZERO).double()
    logits = (x @ gate.T).float().double().requires_grad_()
    scores = scores_of(logits, sigmoid)
    chosen = torch.topk(scores.detach() + bias, CHOSEN, dim=1).indices
    weights = scores.detach().gather(1, chosen)
    if normalise:
        weights = weights / (weights.sum(1, keepdim=True) + 1e-20)
    weights = weights * scale
    is_zero = chosen >= REAL
    ids = torch.where(is_zero, -1, chosen)
    weights = torch.where(is_zero, 0.0, weights)

    p = scores / scores.sum(1, keepdim=True)
    p_real, p_zero = p[:, :REAL].sum(1).mean(), p[:, REAL:].sum(1).mean()
    f_zero = is_zero.sum().double() / TOKENS
    f_real = CHOSEN - f_zero
    size = weight_of_zero * ZERO
    loss = ALPHA * (REAL + size) / CHOSEN * (f_real * p_real / REAL + f_zero * p_zero / size)
    loss.backward()
    margin = (scores.detach() + bias).sort(1, descending=True).values
    assert (margin[:, :CHOSEN] - margin[:, 1:CHOSEN + 1]).min() > 1e-4, "a choice too close for float32"
    fields = {"x": x, "gate": gate, "bias": bias, "ids": ids.int(), "chosen": chosen.int(), "weights": weights,
              "logits": logits.detach(), "loss": loss.detach().reshape(1), "dlogits": logits.grad,
              "settings": torch.tensor([sigmoid, normalise, scale, weight_of_zero]).double()}
    for field, t in fields.items():
        out[f"{name}.{field}"] = (t if t.dtype == torch.int32 else t.float()).contiguous()


case("qwen3", False, True, False, 1.0, 2.0)
case("softmax_plain", False, False, False, 1.0, 1.0)
case("glm", True, True, True, 1.8, 2.0)
case("sigmoid_much", True, True, True, 1.0, 4.0)

folder = pathlib.Path(__file__).parent / "zeda"
folder.mkdir(exist_ok=True)
save_file(out, folder / "zeda.safetensors", metadata={"alpha": str(ALPHA), "real": str(REAL), "zero": str(ZERO)})
