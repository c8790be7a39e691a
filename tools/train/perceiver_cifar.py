"""The small published teaching run: a plain Perceiver on CIFAR-10, exported as Hugging Face's
PerceiverForImageClassificationLearned.

    python perceiver_cifar.py DATA_DIR OUT_DIR [--epochs 40] [--config configs/cifar10-perceiver.json]

Every pixel is a row: 1,024 rows of 256 (1x1 convolution) + 256 (learned position) channels, 256 latents of 256,
2 passes over 4 layers. OUT_DIR/hf gets config.json, preprocessor_config.json, model.safetensors;
`mmserve predict --model OUT_DIR/hf cat.jpg` reads it like any other. Resumes from OUT_DIR/cifar.pt.
"""
import argparse
import json
import math
import pathlib
import time

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from safetensors.torch import save_file

import data as D
import model as M
import train as T

HERE = pathlib.Path(__file__).parent
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Perceiver(nn.Module):
    def __init__(self, c, classes):
        super().__init__()
        self.c = c
        n, d = c["image_size"] ** 2, c["d_latents"]
        self.pixels = nn.Linear(3, 256)  # the 1x1 convolution
        self.position = nn.Parameter(torch.randn(n, 256) * 0.02)
        self.project = nn.Linear(256, 256)
        self.latents = nn.Parameter(torch.randn(c["num_latents"], d) * 0.02)
        qk = c["qk_channels"] or (512 if c["cross_attention_shape_for_attention"] == "kv" else d)
        self.cross = M.Layer(d, 512, qk, c["v_channels"] or qk, c["num_cross_attention_heads"],
                             c["cross_attention_widening_factor"], True, c["use_query_residual"])
        self.layers = nn.ModuleList([M.Layer(d, d, d, d, c["num_self_attention_heads"], c["self_attention_widening_factor"], False)
                                     for _ in range(c["num_self_attends_per_block"])])
        self.query = nn.Parameter(torch.randn(1, d) * 0.02)
        self.decoder = M.Layer(d, d, d, d, 1, 1, True, True)
        self.final = nn.Linear(d, classes)

    def forward(self, x):
        """x: B x 32 x 32 x 3, normalised. Logits B x classes."""
        x = self.pixels(x.flatten(1, 2))
        rows = torch.cat([x, self.project(self.position).expand(x.shape[0], -1, -1)], -1)
        z = self.cross(self.latents.expand(x.shape[0], -1, -1), rows)
        for _ in range(self.c["num_blocks"]):
            for l in self.layers:
                z = l(z)
        return self.final(self.decoder(self.query.expand(x.shape[0], -1, -1), z)[:, 0])

    def export(self):
        """Hugging Face names."""
        p = "perceiver."
        pre = p + "input_preprocessor."
        out = {pre + "convnet_1x1.weight": self.pixels.weight[:, :, None, None], pre + "convnet_1x1.bias": self.pixels.bias,
               pre + "position_embeddings.position_embeddings": self.position,
               pre + "positions_projection.weight": self.project.weight, pre + "positions_projection.bias": self.project.bias,
               p + "embeddings.latents": self.latents, p + "decoder.decoder.output_position_encodings.position_embeddings": self.query,
               p + "decoder.decoder.final_layer.weight": self.final.weight, p + "decoder.decoder.final_layer.bias": self.final.bias}
        layers = {p + "encoder.cross_attention": self.cross, p + "decoder.decoder.decoding_cross_attention": self.decoder,
                  **{p + f"encoder.self_attends.{i}": l for i, l in enumerate(self.layers)}}
        for prefix, l in layers.items():
            for a, b in M.Layer.NAMES.items():
                if hasattr(l, a):
                    out[f"{prefix}.{b}.weight"], out[f"{prefix}.{b}.bias"] = getattr(l, a).weight, getattr(l, a).bias
        return {k: v.detach().float().contiguous() for k, v in out.items()}


def main():
    a = argparse.ArgumentParser(description=__doc__)
    a.add_argument("data")
    a.add_argument("out")
    a.add_argument("--config", default=str(HERE / "configs" / "cifar10-perceiver.json"))
    a.add_argument("--epochs", type=float, default=40)
    a.add_argument("--steps", type=int, default=0)
    a.add_argument("--batch", type=int, default=64)
    a.add_argument("--lr", type=float, default=1e-3)
    a.add_argument("--seed", type=int, default=0)
    a.add_argument("--threads", type=int, default=0)
    args = a.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    out = pathlib.Path(args.out)
    (out / "hf").mkdir(parents=True, exist_ok=True)
    c = json.load(open(args.config))
    cache = out / "cache" / "cifar.npz"
    if not cache.exists():
        cache.parent.mkdir(exist_ok=True)
        np.savez(cache, **D.cifar(pathlib.Path(args.data), "train"))
    d = np.load(cache)
    x, y, val = d["x"], d["y"], d["val"]
    train = np.flatnonzero(~val)
    padded = np.pad(x, ((0, 0), (4, 4), (4, 4), (0, 0)), mode="reflect")
    mean, std = np.float32(MEAN), np.float32(STD)
    norm = lambda v: torch.from_numpy((v.astype(np.float32) / 255 - mean) / std).to(device)
    net = Perceiver(c, 10).to(device)
    opt = torch.optim.AdamW(net.parameters(), lr=args.lr, weight_decay=0.05, betas=(0.9, 0.98))
    total = args.steps or int(args.epochs * len(train) / args.batch)
    step, rng, ckpt = 0, np.random.default_rng(args.seed), out / "cifar.pt"
    if ckpt.exists():
        s = torch.load(ckpt, weights_only=False)
        net.load_state_dict(s["net"]); opt.load_state_dict(s["opt"])
        step, rng.bit_generator.state = s["step"], s["rng"]
    log, t0, avg = open(out / "log.jsonl", "a"), time.time(), None

    def save():
        torch.save({"net": net.state_dict(), "opt": opt.state_dict(), "step": step, "rng": rng.bit_generator.state}, ckpt)

    def accuracy():
        net.eval()
        i = np.flatnonzero(val)
        with torch.no_grad(), torch.autocast(device, torch.bfloat16):
            p = torch.cat([net(norm(x[i[f:f + 128]])).argmax(-1).cpu() for f in range(0, len(i), 128)])
        return float((p.numpy() == y[i]).mean())

    while step < total:
        for g in opt.param_groups:
            g["lr"] = args.lr * min(1, (step + 1) / 500) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / total)))
        i = rng.choice(train, args.batch)
        o, f = rng.integers(0, 9, (args.batch, 2)), rng.random(args.batch) < 0.5
        b = np.stack([padded[k, oy:oy + 32, ox:ox + 32] for k, (oy, ox) in zip(i, o)])
        b[f] = b[f, :, ::-1]
        net.train()
        with torch.autocast(device, torch.bfloat16):
            loss = F.cross_entropy(net(norm(b)).float(), torch.from_numpy(y[i]).to(device), label_smoothing=0.05)
        opt.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        opt.step()
        step += 1
        v = loss.detach().item()
        avg = v if avg is None else 0.98 * avg + 0.02 * v
        if step % 50 == 0 or step == total:
            print(f"step {step}/{total} loss {avg:.4f} {(time.time() - t0):.0f} s", flush=True)
            log.write(json.dumps({"step": step, "loss": {"cifar10": avg}}) + "\n"); log.flush()
        if step % 1000 == 0:
            save()
            log.write(json.dumps({"step": step, "val": {"cifar10": accuracy()}}) + "\n")
    save()
    print(f"validation accuracy {accuracy():.4f}")
    c = dict(c, id2label={str(i): n for i, n in enumerate(D.CIFAR)}, label2id={n: i for i, n in enumerate(D.CIFAR)})
    json.dump(c, open(out / "hf" / "config.json", "w"), indent=2)
    size = {"height": 32, "width": 32}
    json.dump({"image_processor_type": "PerceiverImageProcessor", "do_center_crop": True, "crop_size": size, "do_resize": True, "size": size,
               "resample": 3, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": MEAN, "image_std": STD},
              open(out / "hf" / "preprocessor_config.json", "w"), indent=2)
    save_file({k: v.cpu() for k, v in net.export().items()}, out / "hf" / "model.safetensors", metadata={"format": "pt"})


if __name__ == "__main__":
    main()
