"""The caption part: OpenFlamingo resampler, a byte MPT and its gated cross-attention. Trained last, encoder frozen.

    python caption.py DATA_DIR OUT_DIR [--minutes 18 | --steps N]

Three phases: (1) the frozen encoder's latents of augmented inputs are stored, (2) the byte LM is trained
alone on names and sentences and frozen, (3) resampler and gated cross-attention learn captions.
Parameter names are OpenFlamingo's and MPT's, below `resampler.` and `caption.`.
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

import data as D
import model as M
import train as T


class Attention(nn.Module):
    def __init__(self, dim, dim_visual, heads, dim_head, resampler):
        super().__init__()
        self.heads, self.resampler = heads, resampler
        if resampler:
            self.norm_media, self.norm_latents = nn.LayerNorm(dim), nn.LayerNorm(dim)
        else:
            self.norm = nn.LayerNorm(dim)
        inner = heads * dim_head
        self.to_q = nn.Linear(dim, inner, bias=False)
        self.to_kv = nn.Linear(dim_visual, inner * 2, bias=False)
        self.to_out = nn.Linear(inner, dim, bias=False)

    def forward(self, x, media):
        if self.resampler:
            media, x = self.norm_media(media), self.norm_latents(x)
            media = torch.cat([media, x], 1)
        else:
            x = self.norm(x)
        split = lambda t: t.view(t.shape[0], t.shape[1], self.heads, -1).transpose(1, 2)
        q, (k, v) = split(self.to_q(x)), (split(t) for t in self.to_kv(media).chunk(2, -1))
        w = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        o = w.float().softmax(-1).to(v.dtype) @ v
        return self.to_out(o.transpose(1, 2).reshape(x.shape[0], x.shape[1], -1))


def feed_forward(dim, mult):
    return nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim * mult, bias=False), nn.GELU(), nn.Linear(dim * mult, dim, bias=False))


class Resampler(nn.Module):
    """Latents B x N x dim to soft tokens B x n x dim."""

    def __init__(self, c):
        super().__init__()
        self.latents = nn.Parameter(torch.randn(c["num_latents"], c["dim"]))
        self.layers = nn.ModuleList([nn.ModuleList([Attention(c["dim"], c["dim"], c["heads"], c["dim_head"], True),
                                                    feed_forward(c["dim"], c["ff_mult"])]) for _ in range(c["depth"])])
        self.norm = nn.LayerNorm(c["dim"])

    def forward(self, x):
        z = self.latents.expand(x.shape[0], -1, -1)
        for attn, ff in self.layers:
            z = attn(z, x) + z
            z = ff(z) + z
        return self.norm(z)


class Gated(nn.Module):
    def __init__(self, dim, c):
        super().__init__()
        self.attn = Attention(dim, c["dim_visual"], c["heads"], c["dim_head"], False)
        self.attn_gate = nn.Parameter(torch.full((1,), 0.55))  # half open: from zero, a short run never opens it
        self.ff = feed_forward(dim, c["ff_mult"])
        self.ff_gate = nn.Parameter(torch.full((1,), 0.55))

    def forward(self, x, media):
        x = self.attn(x, media) * self.attn_gate.tanh() + x
        return self.ff(x) * self.ff_gate.tanh() + x


class Norm(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(n))

    def forward(self, x):
        return F.layer_norm(x, x.shape[-1:], self.weight, None, 1e-5)


class Block(nn.Module):
    """MPT block with an optional gated cross-attention in front."""

    def __init__(self, lc, gc):
        super().__init__()
        d = lc["d_model"]
        self.heads = lc["n_heads"]
        self.norm_1, self.norm_2 = Norm(d), Norm(d)
        self.attn = nn.ModuleDict({"Wqkv": nn.Linear(d, 3 * d, bias=False), "out_proj": nn.Linear(d, d, bias=False)})
        self.ffn = nn.ModuleDict({"up_proj": nn.Linear(d, lc["expansion_ratio"] * d, bias=False),
                                  "down_proj": nn.Linear(lc["expansion_ratio"] * d, d, bias=False)})
        self.gated_cross_attn_layer = Gated(d, gc)

    def forward(self, x, media, bias):
        if media is not None:
            x = self.gated_cross_attn_layer(x, media)
        b, t, d = x.shape
        q, k, v = (y.view(b, t, self.heads, -1).transpose(1, 2) for y in self.attn["Wqkv"](self.norm_1(x)).chunk(3, -1))
        w = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        o = (w.float() + bias).softmax(-1).to(v.dtype) @ v
        x = x + self.attn["out_proj"](o.transpose(1, 2).reshape(b, t, d))
        return x + self.ffn["down_proj"](F.gelu(self.ffn["up_proj"](self.norm_2(x))))


class Captioner(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        c = cfg["caption"]
        self.c, self.lc = c, c["lang_config"]
        self.resampler = Resampler(cfg["resampler"])
        lc = self.lc
        self.transformer = nn.ModuleDict({"wte": nn.Embedding(lc["vocab_size"], lc["d_model"]),
                                          "blocks": nn.ModuleList([Block(lc, c["gated_cross_attn"]) for _ in range(lc["n_layers"])]),
                                          "norm_f": Norm(lc["d_model"])})
        for n, p in self.named_parameters():
            if p.dim() == 2 and not n.startswith("resampler.latents"):
                nn.init.normal_(p, std=0.04)

    def lm_parameters(self):
        return [p for n, p in self.named_parameters() if n.startswith("transformer") and "gated" not in n]

    def new_parameters(self):
        return [p for n, p in self.named_parameters() if n.startswith("resampler") or "gated" in n]

    def forward(self, ids, soft=None):
        """ids B x T beginning with the media token; soft B x n x W or None. Logits B x T x vocab."""
        lc = self.lc
        t, h = ids.shape[1], lc["n_heads"]
        slope = 2.0 ** -(torch.arange(1, h + 1) * lc["attn_config"]["alibi_bias_max"] / h)
        i = torch.arange(t)
        bias = slope.view(h, 1, 1) * (i.view(1, 1, t) - i.view(1, t, 1)).float()
        bias = bias.masked_fill(i.view(1, 1, t) > i.view(1, t, 1), float("-inf"))
        x = self.transformer["wte"](ids)
        for b in self.transformer["blocks"]:
            x = b(x, soft, bias)
        x = self.transformer["norm_f"](x)
        return x @ self.transformer["wte"].weight.to(x.dtype).T

    @torch.no_grad()
    def greedy(self, soft, limit=None):
        """Captions (bytes) by argmax; the media token is banned."""
        b = soft.shape[0]
        ids = torch.full((b, 1), self.c["media_token_id"])
        done = torch.zeros(b, dtype=torch.bool)
        for _ in range(limit or self.c["max_new_tokens"]):
            lg = self(ids, soft)[:, -1].float()
            lg[:, self.c["media_token_id"]] = -1e30
            nxt = lg.argmax(-1)
            ids = torch.cat([ids, nxt[:, None]], 1)
            done |= nxt == self.c["eoc_token_id"]
            if done.all():
                break
        out = []
        for row in ids[:, 1:].tolist():
            if self.c["eoc_token_id"] in row:
                row = row[:row.index(self.c["eoc_token_id"])]
            out.append(bytes(v - 6 for v in row if 6 <= v < 262))
        return out

    def export(self):
        out = {}
        for n, p in self.named_parameters():
            n = n.replace(".attn.Wqkv", ".attn.Wqkv")
            out[n if n.startswith("resampler.") else "caption." + n] = p.detach().float().contiguous()
        return out


def ids_of(texts, c, limit=60):
    """Captions to B x T ids [media, bytes.., eoc, pad..] and the length of each."""
    rows = [[c["media_token_id"]] + [v + 6 for v in t.encode()[:limit - 2]] + [c["eoc_token_id"]] for t in texts]
    n = -(-max(len(r) for r in rows) // 8) * 8
    x = torch.zeros(len(rows), n, dtype=torch.long)
    for i, r in enumerate(rows):
        x[i, :len(r)] = torch.tensor(r)
    return x


def batches(rng, text, cum, n):
    """Endless batches of n indices into text, drawn by the cumulative weights cum; texts of like length together."""
    while True:
        k = np.searchsorted(cum, rng.random(8 * n)).clip(0, len(text) - 1)
        k = k[np.argsort([len(text[i].encode()) for i in k], kind="stable")]
        for j in rng.permutation(8):
            yield k[j * n:(j + 1) * n]


def loss_of(lg, ids):
    return F.cross_entropy(lg[:, :-1].float().flatten(0, 1), ids[:, 1:].flatten(), ignore_index=0)


@torch.no_grad()
def latents(net, modality, x, n=None):
    rows, mask = net.modalities[modality](x, n)
    return net.process(net.attend_input(rows, mask))


@torch.no_grad()
def collect(net, b, d, views, deadline):
    """Latents (float16) and captions of augmented inputs of every captioned set; emoji weigh three quarters."""
    e, rows = d["emoji"], d["emoji_rows"]
    sets = {"emoji": ([], []), "shape": ([], []), "cifar10": ([], []), "digit": ([], []), "esc10": ([], [])}

    def put(k, lat, text):
        sets[k][0].append(lat.half()); sets[k][1].extend(text)

    i = b.emoji_i
    for f in range(0, len(i), 128):
        put("emoji", latents(net, "image", b.norm(e["x"][i[f:f + 128]])), [rows[k]["label"] for k in e["concept"][i[f:f + 128]]])
    for v in range(views):
        if v and time.time() > deadline:
            break
        for _ in range(len(b.emoji_i) // 96):
            x, c, _ = b.emoji(96)
            put("emoji", latents(net, "image", x), [rows[k]["label"] for k in c])
        for _ in range(8):
            x, y, i, _, keep = b.shapes(32)
            sel = np.flatnonzero(keep == 1)
            put("shape", latents(net, "pointcloud", x[sel]), [d["shapes"]["caption"][k] for k in i[sel]])
        x, y = b.cifar(128)
        put("cifar10", latents(net, "image", x), [D.CAPTION[D.CIFAR[k]] for k in y])
        x, y = b.sounds(32, 16)
        for k, part, yy, names in (("digit", x[:32], y[:32], D.DIGITS), ("esc10", x[32:], y[32:], D.ESC)):
            xx, n = T.pad(part, 64)
            put(k, latents(net, "audio", xx.unsqueeze(-1), n), [D.CAPTION[names[k]] for k in yy])
    share = {"emoji": 0.76, "shape": 0.12, "cifar10": 0.06, "digit": 0.03, "esc10": 0.03}
    weight = np.concatenate([np.full(len(t), share[k] / len(t)) for k, (_, t) in sets.items()])
    return [z for lat, _ in sets.values() for z in lat], [t for _, text in sets.values() for t in text], weight


@torch.no_grad()
def validate(cap, net, d):
    """Exact match of greedy captions on the validation styles."""
    e = d["emoji"]
    i = np.flatnonzero(e["split"] == "val_style")
    soft = cap.resampler(latents(net, "image", T.Batches.norm(e["x"][i])))
    got = cap.greedy(soft)
    want = [d["emoji_rows"][c]["label"].encode() for c in e["concept"][i]]
    return sum(a == b for a, b in zip(got, want)) / len(want), list(zip(got, want))[:12]


def main():
    a = argparse.ArgumentParser(description=__doc__)
    a.add_argument("data")
    a.add_argument("out")
    a.add_argument("--minutes", type=float, default=18)
    a.add_argument("--steps", type=int, default=0, help="steps of phase 3 (and half as many of phase 2) instead of minutes")
    a.add_argument("--deadline", type=float, default=0)
    a.add_argument("--views", type=int, default=24, help="augmented passes over the captioned sets")
    a.add_argument("--lr", type=float, default=2e-3)
    a.add_argument("--seed", type=int, default=1)
    a.add_argument("--threads", type=int, default=2)
    a.add_argument("--collect-only", action="store_true", help="stop after phase 1 (may run beside --lm-only)")
    a.add_argument("--batch", type=int, default=128)
    a.add_argument("--rank", type=int, default=0, help="this process among --world, which share the batches of phase 3")
    a.add_argument("--world", type=int, default=1)
    a.add_argument("--lm-only", action="store_true", help="stop after phase 2")
    a.add_argument("--lm-part", type=float, default=0.2, help="phase 2's part of the budget")
    a.add_argument("--collect-part", type=float, default=0.25, help="phase 1's part of the budget")
    args = a.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    out = pathlib.Path(args.out)
    start = time.time()
    end = args.deadline or start + 60 * args.minutes
    d = D.load(args.data, out / "cache")
    b = T.Batches(d, args.seed)
    cfg = M.read_config(pathlib.Path(__file__).parent / "configs" / "default.json")
    stored = out / "latents.pt"

    def phase1():
        s = torch.load(out / "last.pt", weights_only=False)
        net = M.Model(s["cfg"]).eval().requires_grad_(False)
        net.load_state_dict(s["ema"])
        if not stored.exists() or stored.stat().st_mtime < (out / "last.pt").stat().st_mtime:
            with torch.autocast("cpu", torch.bfloat16):
                z, text, weight = collect(net, b, d, args.views, time.time() + args.collect_part * (end - time.time()))
            torch.save((torch.cat(z), text, weight), out / "latents.tmp")
            (out / "latents.tmp").replace(stored)
        z, text, weight = torch.load(stored, weights_only=False)
        print(f"{len(text)} latents stored, {time.time() - start:.0f} s", flush=True)
        return net, z, text, weight

    if args.collect_only:
        phase1()
        return
    cap = Captioner(cfg)
    rng = np.random.default_rng(args.seed)
    log = open(out / "caption-log.jsonl", "a")

    def fit(name, params, batch, budget_end, steps, lr, every=100):
        opt = torch.optim.AdamW(params, lr=lr, betas=(0.9, 0.98), weight_decay=0.02)
        s, t0, avg, shared = 0, time.time(), None, 0.0
        while True:
            p = s / steps if steps else (time.time() - t0) / max(1.0, budget_end - t0)
            own, p = p, shared or p  # every rank follows rank 0
            if p >= 1:
                break
            for g in opt.param_groups:
                g["lr"] = lr * min(1, (s + 1) / 100) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * p)))
            with torch.autocast("cpu", torch.bfloat16):
                loss = batch()
            opt.zero_grad(set_to_none=True)
            loss.backward()
            if torch.distributed.is_initialized():
                shared = T.average(params, own if args.rank == 0 else 0.0)
            torch.nn.utils.clip_grad_norm_(params, 1.0)
            opt.step()
            s += 1
            v = loss.detach().item()
            avg = v if avg is None else 0.98 * avg + 0.02 * v
            if s % every == 0 and args.rank == 0:
                print(f"{name} step {s} {p * 100:.1f}% loss {avg:.4f} {(time.time() - t0) / s:.3f} s/step", flush=True)
                log.write(json.dumps({"phase": name, "step": s, "progress": p, "loss": avg}) + "\n"); log.flush()

    # phase 2 (needs no encoder): the byte LM on English names, once a file exists it is kept
    lm_file = out / "caption-lm.pt"
    corpus = [d["emoji_rows"][c]["label"] for c in b.concepts] * 3 + [d["shapes"]["caption"][i] for i in b.shape_i] + \
             list(D.CAPTION.values()) * 20
    if lm_file.exists():
        cap.load_state_dict(torch.load(lm_file))
        print("byte LM: kept", flush=True)
    else:
        draw = batches(rng, corpus, np.arange(1, len(corpus) + 1) / len(corpus), args.batch)

        def lm_batch():
            x = ids_of([corpus[k] for k in next(draw)], cap.c)
            return loss_of(cap(x), x)

        fit("lm", cap.lm_parameters(), lm_batch, start + args.lm_part * (end - start), args.steps // 2, 3e-3)
        torch.save(cap.state_dict(), lm_file)
    if args.lm_only:
        return

    net, z, text, weight = phase1()
    weight = weight / weight.sum()

    # which caption it is, read off the mean soft token: a short way to the resampler, dropped afterwards
    known = {t: i for i, t in enumerate(sorted(set(text)))}
    which = torch.tensor([known[t] for t in text])
    guess = nn.Linear(cfg["resampler"]["dim"], len(known))
    if args.world > 1:
        torch.distributed.init_process_group("gloo", init_method=f"file://{out.resolve()}/rendezvous", rank=args.rank, world_size=args.world)
        torch.manual_seed(args.seed + args.rank)
        rng = np.random.default_rng([args.seed, args.rank])
    draw = batches(rng, text, np.cumsum(weight), args.batch // args.world)

    def batch():
        k = next(draw)
        x = ids_of([text[i] for i in k], cap.c)
        zz = z[torch.from_numpy(k)].float()
        soft = cap.resampler(zz + 0.1 * torch.randn_like(zz) * zz.std())
        return loss_of(cap(x, soft), x) + 0.2 * F.cross_entropy(guess(soft.mean(1)).float(), which[k], label_smoothing=0.1)

    for p in cap.lm_parameters():
        p.requires_grad_(False)
    fit("caption", cap.new_parameters() + list(guess.parameters()), batch, end - 15, args.steps, args.lr)
    if args.rank:
        return
    torch.save({"cap": cap.state_dict()}, out / "caption.pt")
    v, examples = validate(cap.eval(), net, d)
    print(f"caption exact match on the validation styles: {v:.4f}", examples, flush=True)
    log.write(json.dumps({"phase": "caption", "val": v}) + "\n")


if __name__ == "__main__":
    main()
