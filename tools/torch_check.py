"""Reads the .pt files and request parts that mmserve writes with a real PyTorch.

    python3 tools/torch_check.py bin/mmserve

The model is the MiniCPM-V resampler of the reference cases, over made-up tokens. Every payload
is read with torch.load(weights_only=True) and compared with the bare float32 output.
"""

import base64
import io
import json
import os
import struct
import subprocess
import sys
import tempfile

ROWS, WIDTH = 16, 24  # tokens of one picture, as the case's kv_dim has it
MODEL = os.path.join("testdata", "reference", "resampler", "minicpmv-2.6")


def write_npy(path):
    head = "{'descr': '<f4', 'fortran_order': False, 'shape': (%d, %d), }" % (ROWS, WIDTH)
    head += " " * (-(10 + len(head) + 1) % 64) + "\n"
    values = [((i * 7919) % 1000) / 500 - 1 for i in range(ROWS * WIDTH)]
    with open(path, "wb") as f:
        f.write(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head.encode())
        f.write(struct.pack("<%df" % len(values), *values))


def encode(program, tokens, *flags):
    return subprocess.run(
        [program, "encode", "--model", MODEL, "--output", "soft_tokens", *flags, tokens], check=True, stdout=subprocess.PIPE
    ).stdout


def main(program):
    import torch

    checks = 0
    with tempfile.TemporaryDirectory() as folder:
        tokens = os.path.join(folder, "tokens.npy")
        write_npy(tokens)
        raw = encode(program, tokens, "--format", "raw")
        want = torch.frombuffer(bytearray(raw), dtype=torch.float32)
        for store, dtype in (("f32", torch.float32), ("f16", torch.float16), ("bf16", torch.bfloat16)):
            chat = json.loads(encode(program, tokens, "--format", "vllm-chat", "--store", store))
            image = json.loads(encode(program, tokens, "--format", "vllm-image-embeds", "--store", store, "--image-sizes", "56x56"))
            for name, data, rank in (
                ("pt", encode(program, tokens, "--format", "pt", "--store", store), 2),
                ("prompt_embeds", base64.b64decode(chat["data"]), 2),
                ("image_embeds", base64.b64decode(image["image_embeds"]["image_embeds"]), 3),
            ):
                got = torch.load(io.BytesIO(data), weights_only=True)
                assert got.dtype == dtype and got.dim() == rank, (name, store, got.dtype, got.shape)
                assert torch.equal(got.flatten(), want.to(dtype)), (name, store)
                checks += 1
        sizes = torch.load(io.BytesIO(base64.b64decode(image["image_embeds"]["image_sizes"])), weights_only=True)
        assert sizes.dtype == torch.int64 and sizes.tolist() == [[56, 56]], sizes
        checks += 1
    print("torch %s reads %d of %d payloads" % (torch.__version__, checks, checks))


if __name__ == "__main__":
    main(sys.argv[1])
