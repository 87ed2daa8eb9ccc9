"""Makes the safetensors_*.safetensors files in this folder with the reference library.

Needs: pip install torch==2.15.0 safetensors==0.8.0 (CPU is enough). Run it in any folder with the target
folder as its argument: python make_safetensors_golden.py tests/golden

safetensors_dtypes: one tensor of shape [2, 3] for each type, holding 0 1 2 3 4 5 (0 1 0 1 0 1 for BOOL).
safetensors_shapes: a scalar, empty tensors, five dimensions, names that need escapes, and metadata.
"""

import sys

import torch
from safetensors.torch import save_file

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8,
    "U64": torch.uint64, "U32": torch.uint32, "U16": torch.uint16, "U8": torch.uint8,
}


def main(folder):
    values = torch.arange(6, dtype=torch.float32).reshape(2, 3)
    tensors = {name: values.to(dtype) for name, dtype in DTYPES.items()}
    tensors["BOOL"] = (values % 2).to(torch.bool)
    save_file(tensors, f"{folder}/safetensors_dtypes.safetensors")

    save_file(
        {
            "scalar": torch.tensor(2.5),
            "empty": torch.zeros(0, 4),
            "empty.tail": torch.zeros(3, 0, dtype=torch.uint8),
            "five.dims": torch.arange(48, dtype=torch.int16).reshape(1, 2, 3, 4, 2),
            'quote " slash \\ tab \t': torch.tensor([7], dtype=torch.uint8),
            "gewicht.größe.权重.🜁": torch.tensor([1.0, -1.0], dtype=torch.float64),
        },
        f"{folder}/safetensors_shapes.safetensors",
        metadata={"format": 'pt, "quoted"\nsecond line'},
    )


if __name__ == "__main__":
    main(sys.argv[1])
