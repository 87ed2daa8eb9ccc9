"""Conversions of 8- and 16-bit floats as PyTorch does them, for tests/quant_test.cpp.

Needs: pip install torch==2.15 numpy
Run from the repository root: python tests/golden/make_number_formats.py

number_formats.bin, little-endian, n = 4096: float32 [256] values of the E4M3 codes; float32 [n] numbers (normal
and subnormal of each format, ties, +-448 at most); their uint16 [n] float16 codes, uint16 [n] bfloat16 codes and
uint8 [n] E4M3 codes.
"""

import numpy as np
import torch

N = 4096
random = np.random.default_rng(7)
codes = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn)
x = np.exp2(random.uniform(-30, 8.8, N)) * random.choice([-1.0, 1.0], N)
x[: N // 4] = np.round(x[: N // 4] * 2**10) / 2**10  # ties and exact numbers
x = torch.from_numpy(x.clip(-448, 448).astype(np.float32))
with open("tests/golden/number_formats.bin", "wb") as f:
    f.write(codes.to(torch.float32).numpy().tobytes())
    f.write(x.numpy().tobytes())
    f.write(x.to(torch.float16).view(torch.int16).numpy().tobytes())
    f.write(x.to(torch.bfloat16).view(torch.int16).numpy().tobytes())
    f.write(x.to(torch.float8_e4m3fn).view(torch.uint8).numpy().tobytes())
