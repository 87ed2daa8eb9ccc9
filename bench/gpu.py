"""What PyTorch does in place of some operations of bench_gpu, on the same GPU: CSV as bench_gpu prints it.

Usage: python3 bench/gpu.py. Medians of CUDA events around calls that take their weights and caches in turn
from sets larger than the GPU's caches; the best of several ways to write each one down.
"""
import torch
import torch.nn.functional as F

GPU = torch.device("cuda")
SET_BYTES = 512 << 20


def median_us(calls, rounds=30):
    for call in calls[:3]:
        call()
    times = []
    for i in range(rounds):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda._sleep(200_000)  # so that the host has queued all when the first begins
        begin.record()
        for call in calls:
            call()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end) / len(calls) * 1e3)
    return sorted(times)[len(times) // 2]


def graphed(call):
    """The call without its launches: replayed from a CUDA graph."""
    call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def report(op, shape, us, bytes_moved, flops):
    gbs = bytes_moved / us * 1e-3
    print(f'{op},"{shape}",{us:.2f},,{gbs:.1f},{gbs / COPY_GBS:.2f},{flops / us * 1e-6:.2f}', flush=True)


def sets_for(bytes_each, most=32):
    return max(1, min(most, SET_BYTES // bytes_each))


def bf16(*shape):
    return torch.randn(*shape, device=GPU, dtype=torch.bfloat16) * 0.02


def bench_copy():
    global COPY_GBS
    a, b = torch.empty(1 << 30, dtype=torch.uint8, device=GPU), torch.empty(1 << 30, dtype=torch.uint8, device=GPU)
    us = median_us([lambda: b.copy_(a)])
    COPY_GBS = 2 * (1 << 30) / us * 1e-3
    report("torch copy", "1 GiB on the GPU", us, 2 * (1 << 30), 0)


def bench_matmul(n, rows, cols):
    x = bf16(n, cols)
    weights = [bf16(rows, cols) for _ in range(sets_for(2 * rows * cols))]
    us = median_us([lambda w=w: F.linear(x, w) for w in weights])
    report("torch linear", f"bf16[{rows}x{cols}] n={n}", us, 2 * (rows * cols + n * (rows + cols)), 2 * n * rows * cols)


def bench_experts(n, hidden=2048, width=1408, experts=64, k=6):
    sets = []
    for _ in range(2):
        sets.append((bf16(experts, hidden, 2 * width), bf16(experts, width, hidden)))
    x = bf16(n, hidden)
    active = min(n * k, experts)
    bytes_moved, flops = active * 3 * hidden * width * 2, n * k * 6 * hidden * width
    ids = (torch.arange(n * k, device=GPU) % experts)
    ways = {}

    def gathered(up, down):  # one token: products with the chosen experts' matrices where they lie
        def call():
            for e in chosen:
                gate, value = (x @ up[e]).chunk(2, -1)
                (F.silu(gate) * value) @ down[e]
        return call

    if n == 1:
        chosen = ids.tolist()
        ways["each expert, graph"] = [graphed(gathered(*s)) for s in sets]
    counts = torch.bincount(ids, minlength=experts)
    offsets = counts.cumsum(0).to(torch.int32)
    order = torch.argsort(ids, stable=True)
    grouped_mm = getattr(F, "grouped_mm", None) or torch._grouped_mm

    def grouped(up, down):
        def call():
            rows = x[order // k]
            gate, value = grouped_mm(rows, up, offs=offsets).chunk(2, -1)
            grouped_mm(F.silu(gate) * value, down, offs=offsets)
        return call

    ways["grouped_mm"] = [grouped(*s) for s in sets]
    for name, calls in ways.items():
        try:
            report(f"torch experts ({name})", f"moonlight bf16 n={n}", median_us(calls), bytes_moved, flops)
        except Exception as error:  # a way that this version lacks
            print(f"# {name}: {str(error).splitlines()[0]}")


def bench_mla(heads, depth, k_dim=576, v_dim=512):
    caches = [bf16(depth + 1, k_dim) for _ in range(sets_for(2 * depth * k_dim))]
    q = bf16(heads, k_dim)
    bytes_moved, flops = 2 * (depth + 1) * k_dim, 2 * heads * (depth + 1) * (k_dim + v_dim)

    def products(cache):
        def call():
            return torch.softmax(q @ cache.t() * 0.05, -1) @ cache[:, :v_dim]
        return call

    def sdpa(cache):
        def call():
            key = cache[None, None]
            return F.scaled_dot_product_attention(q[None, None], key, key[..., :v_dim], scale=0.05)
        return call

    for name, way in {"products, graph": products, "sdpa, graph": sdpa}.items():
        try:
            calls = [graphed(way(c)) for c in caches]
            report(f"torch mla ({name})", f"mla heads={heads} depth={depth} n=1", median_us(calls), bytes_moved, flops)
        except Exception as error:
            print(f"# {name}: {str(error).splitlines()[0]}")


def bench_prefill_attention(n, heads=16, k_dim=192, v_dim=128):
    q, k, v = bf16(1, heads, n, k_dim), bf16(1, heads, n, k_dim), bf16(1, heads, n, v_dim)
    flops = n * (n + 1) * heads * (k_dim + v_dim)
    us = median_us([lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True)])
    report("torch sdpa", f"mla expanded heads={heads} depth=0 n={n}", us, 0, flops)


print(f"# torch {torch.__version__}, {torch.cuda.get_device_name()}")
bench_copy()
bench_matmul(8192, 8192, 8192)
for tokens in (1, 8, 64, 2048):
    bench_matmul(tokens, 4096, 4096)
for tokens in (1, 8, 64, 512, 2048):
    bench_experts(tokens)
for h in (16, 64, 128):
    for d in (2047, 8191, 32767):
        bench_mla(h, d)
bench_prefill_attention(2048)
