"""After train.py: the decoder and the heads alone, on stored latents of the frozen encoder.

    python tune.py DATA_DIR OUT_DIR [--minutes 6 | --steps N]

A latent costs a fortieth of a forward pass, so many concepts and names fit in one contrastive batch.
Reads OUT_DIR/last.pt (the averaged weights) and writes OUT_DIR/tuned.pt, which export.py prefers.
"""
import argparse
import math
import pathlib
import time

import numpy as np
import torch
import torch.nn.functional as F

import data as D
import model as M
import train as T


@torch.no_grad()
def encode(net, modality, items, batch=96, to=16):
    order = np.argsort([len(x) for x in items], kind="stable")
    out = torch.empty(len(items), *net.latents.shape, dtype=torch.bfloat16)
    for f in range(0, len(items), batch):
        sel = order[f:f + batch]
        x, n = T.pad([items[i] for i in sel], to)
        rows, mask = net.modalities[modality](x, None if modality in ("image", "pointcloud") else n)
        out[torch.from_numpy(sel)] = net.process(net.attend_input(rows, mask)).to(torch.bfloat16)
    return out


def collect(net, d, b, scale):
    """{set: (latents, labels)}; for captioned sets the label is a string."""
    r, t, s = b.rng, d["text"], {}
    took = time.time()

    def done(k, z, y):
        s[k] = (z, y)
        print(f"{k}: {len(z)} latents, {time.time() - took:.0f} s", flush=True)

    e, rows = d["emoji"], d["emoji_rows"]
    z, y = [], []
    for k in range(max(1, round(4 * scale))):
        for _ in range(len(b.emoji_i) // 96):
            x, c, _ = b.emoji(96)
            with torch.no_grad():
                z.append(net.process(net.attend_input(net.modalities["image"](x)[0])).to(torch.bfloat16))
            y.append(c)
    done("emoji", torch.cat(z), np.concatenate(y))
    names = [rows[c]["label"] for c in b.concepts]
    done("names", encode(net, "text", [D.tokens(n) for n in names]), b.concepts)
    langs = ["de", "es", "fr", "it", "pt", "nl", "ru", "zh"]
    other = [(c, rows[c]["labels"][l]) for c in b.concepts for l in langs if l in rows[c].get("labels", {})]
    other = [other[i] for i in r.permutation(len(other))[: int(4000 * scale)]]
    done("other", encode(net, "text", [D.tokens(n) for _, n in other]), np.array([c for c, _ in other]))
    words = sorted({w for l in D.WORDS.values() for w in l})
    done("words", encode(net, "text", [D.tokens(w) for w in words]), words)
    for k, n in (("clinc150", 10000), ("snips", 2000), ("language", 2400)):
        n = int(n * scale)
        x, y = b.languages(n) if k == "language" else b.intents(k, n)
        done(k, encode(net, "text", x), y)
    z, y = [], []
    for _ in range(int(40 * scale)):
        x, yy = b.cifar(128)
        with torch.no_grad():
            z.append(net.process(net.attend_input(net.modalities["image"](x)[0])).to(torch.bfloat16))
        y.append(yy)
    done("cifar10", torch.cat(z), np.concatenate(y))
    z, y, w = [], [], []
    for _ in range(int(60 * scale)):
        x, yy, i = b.shapes(48)
        with torch.no_grad():
            z.append(net.process(net.attend_input(net.modalities["pointcloud"](x)[0])).to(torch.bfloat16))
        y.append(yy); w += [d["shapes"]["caption"][k] for k in i]
    done("shape", torch.cat(z), np.concatenate(y))
    caps = sorted(set(w))
    s["shape_caption"] = np.array([caps.index(k) for k in w])
    done("shape_names", encode(net, "text", [D.tokens(n) for n in caps]), caps)
    snd, y = b.sounds(int(900 * scale), 0)
    done("digit", encode(net, "audio", [v[..., None] for v in snd], 48, 32), y)
    snd, y = b.sounds(0, int(350 * scale))
    done("esc10", encode(net, "audio", [v[..., None] for v in snd], 16, 64), y)
    ids, want = b.masked(300)
    x = torch.from_numpy(np.stack(ids))
    zs, qs = [], []
    with torch.no_grad():
        for f in range(0, len(x), 50):
            rw, _ = net.modalities["text"](x[f:f + 50])
            zs.append(net.process(net.attend_input(rw)).to(torch.bfloat16)); qs.append(rw)
    done("masked", torch.cat(zs), want)
    s["masked_rows"] = torch.cat(qs)
    return s


def main():
    a = argparse.ArgumentParser(description=__doc__)
    a.add_argument("data")
    a.add_argument("out")
    a.add_argument("--minutes", type=float, default=6)
    a.add_argument("--steps", type=int, default=0)
    a.add_argument("--deadline", type=float, default=0)
    a.add_argument("--scale", type=float, default=1.0, help="how many latents to store, 1 being what two busy cores allow")
    a.add_argument("--lr", type=float, default=1e-3)
    a.add_argument("--keep", type=float, default=0.75, help="result = before + keep * (tuned - before): less forgetting of what the latents do not cover")
    a.add_argument("--seed", type=int, default=2)
    a.add_argument("--threads", type=int, default=2)
    args = a.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    out = pathlib.Path(args.out)
    end = args.deadline or time.time() + 60 * args.minutes
    d = D.load(args.data, out / "cache")
    b = T.Batches(d, args.seed)
    saved = torch.load(out / "last.pt", weights_only=False)
    net = M.Model(saved["cfg"]).eval()
    net.load_state_dict(saved["ema"])
    with torch.autocast("cpu", torch.bfloat16):
        s = collect(net, d, b, args.scale)
    r = b.rng
    tuned = [p for n, p in net.named_parameters() if n.startswith(("decoder.", "query.", "head.", "rows_query", "logit_scale"))]
    opt = torch.optim.AdamW(tuned, lr=args.lr, betas=(0.9, 0.98), weight_decay=0.05)
    where = {c: i for i, c in enumerate(b.concepts)}
    word_of = {w: i for i, w in enumerate(s["words"][1])}
    classes = {"cifar10": D.CIFAR, "digit": D.DIGITS, "esc10": D.ESC}
    size = {"cifar10": 64, "digit": 16, "esc10": 16, "shape": 48, "clinc150": 96, "snips": 16, "language": 32}
    cat = np.array([b.category.index(x["category"]) for x in d["emoji_rows"]])
    by = {}
    for i, c in enumerate(s["emoji"][1]):
        by.setdefault(c, []).append(i)
    by_other = {}
    for i, c in enumerate(s["other"][1]):
        by_other.setdefault(c, []).append(i)
    t0, step, avg = time.time(), 0, {}
    drop = lambda z: (lambda f: f + 0.05 * f.std() * torch.randn_like(f))(z.float())
    while True:
        p = step / args.steps if args.steps else (time.time() - t0) / max(1.0, end - t0)
        if p >= 1:
            break
        for g in opt.param_groups:
            g["lr"] = args.lr * min(1, (step + 1) / 50) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * p)))
        loss = {}
        cs = r.choice(b.concepts, 192, replace=False)
        pic = s["emoji"][0][[by[c][r.integers(len(by[c]))] for c in cs]]
        z, text, media, link = [pic], [], [], []
        for c in cs:
            o = by_other.get(c)
            text.append(s["other"][0][o[r.integers(len(o))]] if o and r.random() < 0.25 else s["names"][0][where[c]])
        n_text = len(text)
        groups, extra = [("emoji", 192)], {}
        for k, n in size.items():
            i = r.integers(0, len(s[k][0]), n)
            z.append(s[k][0][i]); groups.append((k, n)); extra[k] = i
        want_words, word_at = [], {}
        for k, names in classes.items():
            for i in extra[k][:16]:
                w = str(r.choice(D.WORDS[names[s[k][1][i]]]))
                if w not in word_at:
                    word_at[w] = n_text + len(word_at)
                    text.append(s["words"][0][word_of[w]])
                want_words.append(word_at[w])
        shape_words, shape_at = [], {}
        for i in extra["shape"]:
            c = s["shape_caption"][i]
            if c not in shape_at:
                shape_at[c] = len(text)
                text.append(s["shape_names"][0][c])
            shape_words.append(shape_at[c])
        z.append(torch.stack(text)); groups.append(("text", len(text)))
        with torch.autocast("cpu", torch.bfloat16):
            heads = {"emoji": ["emoji_category", "embedding"], "cifar10": ["cifar10", "embedding"], "digit": ["digit", "audio_kind", "embedding"],
                     "esc10": ["esc10", "audio_kind", "embedding"], "shape": ["shape", "embedding"], "clinc150": ["clinc150"], "snips": ["snips"],
                     "language": ["language"], "text": ["embedding"]}
            h = {k: net.decode(drop(v), heads[k]) for (k, n), v in zip(groups, z)}
            mi = r.integers(0, len(s["masked"][0]), 16)
            y = torch.from_numpy(s["masked"][1][mi])
            m = int((y != -100).sum(1).max())
            order = torch.argsort((y == -100).int(), dim=1, stable=True)[:, :m]
            q = torch.gather(s["masked_rows"][mi], 1, order.unsqueeze(-1).expand(-1, -1, s["masked_rows"].shape[-1]))
            loss["masked"] = 0.2 * F.cross_entropy(net.decode_rows(s["masked"][0][mi].float(), q).float().flatten(0, 1), torch.gather(y, 1, order).flatten())
        for k in size:
            y = torch.as_tensor(s[k][1][extra[k]])
            loss[k] = T.WEIGHT[k] * F.cross_entropy(h[k][k].float(), y, label_smoothing=0.05, ignore_index=-1)
        loss["category"] = 0.3 * F.cross_entropy(h["emoji"]["emoji_category"].float(), torch.from_numpy(cat[cs]))
        for k, v in (("digit", 0), ("esc10", 1)):
            loss["kind"] = loss.get("kind", 0) + 0.1 * F.cross_entropy(h[k]["audio_kind"].float(), torch.full((len(extra[k]),), v))
        media = torch.cat([h["emoji"]["embedding"]] + [h[k]["embedding"][:16] for k in classes] + [h["shape"]["embedding"]])
        link = torch.tensor(list(range(192)) + want_words + shape_words)
        cap = h["text"]["embedding"]
        pos = F.one_hot(link, len(cap)).float()
        lg = net.logit_scale.clamp(max=math.log(60.0)).exp() * media @ cap.T
        loss["contrast"] = 1.5 * (T.multi_positive(lg, pos) + T.multi_positive(lg.T, pos.T))
        total = sum(loss.values())
        opt.zero_grad(set_to_none=True)
        total.backward()
        torch.nn.utils.clip_grad_norm_(tuned, 2.0)
        opt.step()
        step += 1
        for k, v in loss.items():
            v = v.detach().item()
            avg[k] = 0.95 * avg.get(k, v) + 0.05 * v
        if step % 25 == 0:
            print(f"step {step} {p * 100:.0f}% {(time.time() - t0) / step:.2f} s/step " + " ".join(f"{k} {v:.3f}" for k, v in avg.items()), flush=True)
    net.load_state_dict({k: torch.lerp(v, net.state_dict()[k], args.keep) if v.is_floating_point() else v for k, v in saved["ema"].items()})
    torch.save({"ema": net.state_dict(), "cfg": saved["cfg"], "step": saved["step"]}, out / "tuned.pt")
    v = T.validate(net, d)
    print(f"after {step} steps: " + " ".join(f"{k} {x:.4f}" for k, x in v.items()), flush=True)


if __name__ == "__main__":
    main()
