"""Train the default model: python train.py DATA_DIR OUT_DIR [--minutes 60 | --steps N]. Resumes from OUT_DIR/last.pt.

One step draws a small batch of every task, runs the modalities' stems and cross-attentions, then all
latents together through the shared layers. Learning rate: linear warm-up, then cosine over the
budget. The averaged (EMA) weights are what is validated and exported.
"""
import argparse
import copy
import io
import json
import math
import pathlib
import time

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

import data as D
import model as M
import optim

HERE = pathlib.Path(__file__).parent


class Batches:
    """Augmented batches from the cached arrays. rng is the only source of randomness."""

    def __init__(self, d, seed, use_val=False):
        self.d, self.rng = d, np.random.default_rng(seed)
        c = d["cifar"]
        self.cifar_i = np.flatnonzero(~c["val"])
        self.cifar_pad = np.pad(c["x"], ((0, 0), (4, 4), (4, 4), (0, 0)), mode="reflect")
        e = d["emoji"]
        self.emoji_i = np.flatnonzero(e["split"] == "train")
        self.by_concept = {}
        for i in self.emoji_i:
            self.by_concept.setdefault(e["concept"][i], []).append(i)
        self.concepts = np.array(sorted(self.by_concept))
        self.category = sorted({r["category"] for r in d["emoji_rows"]})
        self.fsdd_i = np.flatnonzero(d["fsdd"]["split"] == "train")
        self.esc_i = np.flatnonzero(d["esc10"]["split"] == "train")
        self.shape_i = np.flatnonzero(d["shapes"]["split"] == "train")
        # one draw per class a little more even than the raw counts
        y = d["shapes"]["y"][self.shape_i]
        n = np.bincount(y + 1, minlength=31)[y + 1]
        self.shape_p = (1 / np.sqrt(n)) / (1 / np.sqrt(n)).sum()
        t = d["text"]
        self.text_i = {k: np.flatnonzero(t[k]["split"] == "train") for k in ("snips", "clinc150", "language")}
        rows = d["emoji_rows"]
        # where colour is the meaning, or the drawing may not be mirrored
        self.coloured = np.array([x["category"] in ("Flags", "Symbols") or "heart" in x["label"] for x in rows])
        self.mirrored = np.array([x["category"] in ("Animals & Nature", "Food & Drink", "Activities", "Travel & Places") and
                                  x["subcategory"] != "time" and "facing" not in x["label"] for x in rows])
        self.proxy_of = np.full(len(rows), -1)
        self.proxy_of[self.concepts] = np.arange(len(self.concepts))
        by_word = {}
        for k, c in enumerate(self.concepts):
            for w in {rows[c]["label"], *rows[c].get("tags", [])}:
                by_word.setdefault(w, []).append(k)

        def target(words):
            v = np.zeros(len(self.concepts), bool)
            for w in words:
                v[by_word.get(w, [])] = True
            return v

        self.class_target = {k: target(w) for k, w in D.WORDS.items()}
        for k, w in enumerate(D.DIGITS):
            self.class_target[w] = target([f"keycap: {k}"])
        self.shape_target = np.stack([target([c]) if target([c]).any() else target([w for w in c.split() if w not in D.VAGUE])
                                      for c in d["shapes"]["caption"]])

    # images -------------------------------------------------------------------------------------
    def cifar(self, n):
        r = self.rng
        i = r.choice(self.cifar_i, n)
        oy, ox, flip = r.integers(0, 9, n), r.integers(0, 9, n), r.random(n) < 0.5
        x = np.empty((n, 32, 32, 3), np.float32)
        for j in range(n):
            im = self.cifar_pad[i[j], oy[j]:oy[j] + 32, ox[j]:ox[j] + 32]
            x[j] = im[:, ::-1] if flip[j] else im
        x = self.colour(x, 0.25)
        for j in np.flatnonzero(r.random(n) < 0.5):  # cutout
            y, z = r.integers(-3, 28, 2)
            x[j, max(0, y):y + 8, max(0, z):z + 8] = 127.5
        grey = r.random(n) < 0.06
        x[grey] = x[grey].mean(-1, keepdims=True)
        self.degrade(x, 0.12)
        return self.norm(x), self.d["cifar"]["y"][i]

    def degrade(self, x, p):
        """A part p of the pictures half-size or JPEG-coded, in place."""
        r = self.rng
        for j in np.flatnonzero(r.random(len(x)) < p):
            im = Image.fromarray(np.clip(x[j], 0, 255).astype(np.uint8))
            if r.random() < 0.5:
                k = int(r.integers(14, 25))
                im = im.resize((k, k), Image.BICUBIC).resize((32, 32), Image.BICUBIC)
            else:
                f = io.BytesIO()
                im.save(f, "JPEG", quality=int(r.integers(25, 75)))
                im = Image.open(f)
            x[j] = np.asarray(im)

    def hue(self, x, angle, saturation):
        """Colours turned by angle about the grey axis (radians) and scaled away from it; n x 32 x 32 x 3 and n."""
        k = np.full((3, 3), 1 / 3)
        cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
        a = angle[:, None, None]
        turn = np.cos(a) * (np.eye(3) - k) + np.sin(a) * cross
        m = k + saturation[:, None, None] * turn
        return np.einsum("nhwc,ndc->nhwd", x, m.astype(np.float32)).clip(0, 255)

    def colour(self, x, s):
        r, n = self.rng, len(x)
        gain = 1 + s * (r.random((n, 1, 1, 1)) * 2 - 1) + 0.3 * s * (r.random((n, 1, 1, 3)) * 2 - 1)
        mean = x.mean((1, 2), keepdims=True)
        return (((x - mean) * gain + mean * (1 + s * (r.random((n, 1, 1, 1)) * 2 - 1))).clip(0, 255)).astype(np.float32)

    @staticmethod
    def norm(x):
        return torch.from_numpy(((np.asarray(x, np.float32) / 255 - 0.5) / 0.25).astype(np.float32))

    def emoji(self, n):
        """n pictures of n different concepts."""
        r, e = self.rng, self.d["emoji"]
        cs = r.choice(self.concepts, n, replace=False)
        i = np.array([r.choice(self.by_concept[c]) for c in cs])
        rgba = torch.from_numpy(e["rgba"][i]).permute(0, 3, 1, 2).float()
        s = 1 + 0.14 * torch.from_numpy(r.standard_normal(n)).float().clamp(-2, 2)
        asp = 1 + 0.08 * torch.from_numpy(r.standard_normal(n)).float().clamp(-2, 2)
        a = 0.12 * torch.from_numpy(r.standard_normal(n)).float().clamp(-2, 2)
        th = torch.zeros(n, 2, 3)
        th[:, 0, 0], th[:, 0, 1] = s * asp * torch.cos(a), -s * torch.sin(a)
        th[:, 1, 0], th[:, 1, 1] = s * torch.sin(a), s / asp * torch.cos(a)
        th[:, :, 2] = 0.1 * torch.from_numpy(r.standard_normal((n, 2))).float()
        th[torch.from_numpy(self.mirrored[cs] & (r.random(n) < 0.3)), :, 0] *= -1
        p = F.grid_sample(rgba, F.affine_grid(th, (n, 4, 32, 32), align_corners=False), align_corners=False)
        bg = torch.from_numpy(r.random((n, 3, 1, 1)) * 255).float()
        bg[torch.from_numpy(r.random(n) < 0.6)] = 255.0
        x = p[:, :3] + bg * (1 - p[:, 3:] / 255)
        x = self.colour(x.permute(0, 2, 3, 1).numpy(), 0.35)
        wild = ~self.coloured[cs] & (r.random(n) < 0.15)
        x = self.hue(x, np.where(wild, r.uniform(-np.pi, np.pi, n), r.normal(0, 0.12, n)), np.where(wild, r.uniform(0, 1.3, n), r.uniform(0.6, 1.4, n)))
        x = 255 * (x / 255) ** np.exp(r.normal(0, 0.2, (n, 1, 1, 1))).astype(np.float32)
        for j in np.flatnonzero(r.random(n) < 0.35):  # cutout
            y, z = r.integers(-3, 28, 2)
            x[j, max(0, y):y + 9, max(0, z):z + 9] = r.random(3) * 255
        grey = r.random(n) < 0.05
        x[grey] = x[grey].mean(-1, keepdims=True)
        self.degrade(x, 0.1)
        keep = r.random(n) < 0.1
        x[keep] = e["x"][i[keep]]
        return self.norm(x), e["concept"][i], i

    def name(self, c):
        """A caption of a concept: English label most of the time, else a tag-enriched or foreign name."""
        r, row = self.rng, self.d["emoji_rows"][c]
        u = r.random()
        if u < 0.75 or not row.get("labels"):
            return row["label"]
        if u < 0.80 and row.get("tags"):
            return row["label"] + " " + str(r.choice(row["tags"]))
        return row["labels"][str(r.choice(sorted(row["labels"])))]

    # sounds -------------------------------------------------------------------------------------
    def augment(self, p):
        """p: T x 64 mel power."""
        r = self.rng
        t = len(p)
        if r.random() < 0.6:  # speed
            m = max(6, int(round(t * r.uniform(0.8, 1.25))))
            p = p[np.clip((np.arange(m) * t / m).round().astype(int), 0, t - 1)]
        if r.random() < 0.6:  # pitch: shift the mel axis
            s = r.uniform(-3, 3)
            j = np.arange(64) * (1 + 0.03 * r.standard_normal()) + s
            p = p[:, np.clip(j.round().astype(int), 0, 63)]
        g = np.interp(np.arange(64), np.linspace(0, 63, 5), r.normal(0, 4, 5))
        p = p * 10 ** (g / 10)
        if r.random() < 0.6:  # noise 5..60 dB under the peak frame
            tilt = np.interp(np.arange(64), [0, 63], r.normal(0, 10, 2))
            lvl = p.mean(1).max() * 10 ** ((r.uniform(-60, -6) + tilt) / 10)
            p = p + lvl * r.exponential(1.0, p.shape)
        if r.random() < 0.15:  # band limit
            p = p.copy()
            p[:, int(r.integers(38, 62)):] = 0
        return p

    def mask(self, x):
        r = self.rng
        if r.random() < 0.4:
            w = int(r.integers(1, 10)); f = int(r.integers(0, 64 - w)); x[:, f:f + w] = x.mean()
        if r.random() < 0.4 and len(x) > 20:
            w = int(r.integers(1, max(2, len(x) // 6))); f = int(r.integers(0, len(x) - w)); x[f:f + w] = x.mean()
        return x

    def sounds(self, nd, ne):
        r, out, y = self.rng, [], []
        for i in r.choice(self.fsdd_i, nd):
            p = self.augment(self.d["fsdd"]["mel"][i].astype(np.float64))
            a, b = r.integers(0, 12, 2) * (r.random() < 0.7)
            floor = p.min(0, keepdims=True) * r.uniform(0.2, 1)
            p = np.concatenate([np.repeat(floor, a, 0), p, np.repeat(floor, b, 0)])
            if r.random() < 0.3:
                p = p[int(r.integers(0, 4)):]
            out.append(self.mask(D.logmel(p)))
            y.append(self.d["fsdd"]["y"][i])
        for i in r.choice(self.esc_i, ne):
            p = self.d["esc10"]["mel"][i]
            n = int(min(len(p), r.integers(200, 501)))
            f = int(r.integers(0, len(p) - n + 1))
            p = p[f:f + n] if r.random() < 0.8 else p[:500]
            if r.random() < 0.3:
                k = int(r.integers(0, len(p))); p = np.roll(p, k, 0)
            out.append(self.mask(D.logmel(self.augment(p.astype(np.float64)))))
            y.append(self.d["esc10"]["y"][i])
        return out, np.array(y)

    # points -------------------------------------------------------------------------------------
    def shapes(self, n):
        r, s = self.rng, self.d["shapes"]
        i = r.choice(self.shape_i, n, p=self.shape_p)
        m = int(r.choice([192, 256, 384, 512, 1024], p=[.2, .3, .25, .2, .05]))
        out = np.empty((n, m, 57), np.float32)
        for j, k in enumerate(i):
            if r.random() < 0.25:  # partial view: keep one side
                side = s["xyz"][k] @ r.standard_normal(3)
                sel = r.choice(np.argsort(side)[: int(1024 * r.uniform(.6, 1))], m, replace=True)
            else:
                sel = r.choice(1024, m, replace=False)
            xyz, nrm = s["xyz"][k][sel], s["normals"][k][sel]
            a = r.uniform(-np.pi, np.pi) if r.random() < 0.5 else r.normal(0, 0.15)
            if r.random() < 0.3:
                xyz, nrm = xyz * [-1, 1, 1], nrm * [-1, 1, 1]
            rot = np.array([[np.cos(a), 0, np.sin(a)], [0, 1, 0], [-np.sin(a), 0, np.cos(a)]])
            tilt = r.normal(0, 0.05, (3, 3)) + np.eye(3)
            xyz = (xyz @ rot.T @ tilt.T) * r.uniform(.7, 1.3, 3) + r.normal(0, .01, (m, 3))
            nrm = (nrm @ rot.T).astype(np.float32) if r.random() < 0.7 else None
            rgb = None
            if r.random() < 0.6:
                rgb = np.clip(s["rgb"][k][sel] * r.uniform(.7, 1.2, 3) + r.normal(0, 6, 3), 0, 255)
            out[j] = D.point_rows(xyz, nrm, rgb)
            if r.random() < 0.5:  # scale and place are never exact
                out[j] = self.moved(out[j])
        # in the second half, some clouds get up to half of another's points, and that part of its label
        other, keep = np.arange(n), np.ones(n, np.float32)
        alone = out.copy()
        for j in range(-(-n // 2), n):
            if r.random() < 0.6:
                other[j] = k = r.integers(0, n)
                c = int(m * r.uniform(0, 0.5))
                out[j, :c], keep[j] = alone[k, :c], 1 - c / m
        return torch.from_numpy(out), s["y"][i], i, other, keep

    def moved(self, rows):
        r = self.rng
        xyz = rows[:, 6:9] * r.uniform(.85, 1.05) + r.normal(0, .04, 3)
        return np.concatenate([rows[:, :6], D.fourier(xyz, 8, [32] * 3)], 1)

    # text ---------------------------------------------------------------------------------------
    def noisy(self, t):
        """Case and small typing noise, so that a missing capital or full stop changes nothing."""
        r = self.rng
        if r.random() < 0.2:
            t = t.lower()
        elif r.random() < 0.1:
            t = t.capitalize()
        if r.random() < 0.15:
            t = t.rstrip(".?! ") if r.random() < 0.5 else t + str(r.choice([".", "?", "!"]))
        if r.random() < 0.25:  # drop or swap one word
            w = t.split(" ")
            if len(w) > 4:
                del w[int(r.integers(0, len(w)))]
                t = " ".join(w)
        return t

    def intents(self, task, n):
        r, t = self.rng, self.d["text"][task]
        i = r.choice(self.text_i[task], n)
        return [D.tokens(self.noisy(t["text"][j]), 160) for j in i], t["y"][i]

    def languages(self, n):
        r, t = self.rng, self.d["text"]["language"]
        i = r.choice(self.text_i["language"], n)
        out = []
        for j in i:
            b = t["text"][j].encode()
            m = int(r.integers(24, 150))
            f = int(r.integers(0, max(1, len(b) - m))) if r.random() < .7 else 0
            b = b[f:f + m] if r.random() > .06 else b[:500]
            out.append(D.tokens(b))
        return out, t["y"][i]

    def masked(self, n):
        """Ids with 15 % of bytes masked, the targets (-100 elsewhere)."""
        r, b = self.rng, self.d["text"]["shakespeare"]["train"]
        out, want = [], []
        for _ in range(n):
            f = int(r.integers(0, len(b) - 126))
            ids = D.tokens(b[f:f + 126])
            m = np.zeros(len(ids), bool)
            m[1:-1] = r.random(126) < 0.16
            if r.random() < 0.3:  # one in seven, as the evaluation masks
                m[:] = False
                m[1 + 3:-1:7] = True
            want.append(np.where(m, ids, -100))
            out.append(np.where(m, 3, ids))
        return out, np.stack(want)


def pad(seqs, to=1):
    """Items of unequal length to one array (length a multiple of to) and their lengths."""
    n = torch.tensor([len(s) for s in seqs])
    x = np.zeros((len(seqs), -(-int(n.max()) // to) * to) + seqs[0].shape[1:], seqs[0].dtype)
    for i, s in enumerate(seqs):
        x[i, :len(s)] = s
    return torch.from_numpy(x), n


def multi_positive(logits, pos):
    """Mean over rows of the cross-entropy against a uniform choice of the row's positives."""
    lp = F.log_softmax(logits, -1)
    return -((lp * pos).sum(-1) / pos.sum(-1).clamp(min=1))[pos.sum(-1) > 0].mean()


class Proxies(torch.nn.Module):
    """One learned unit vector an emoji concept of the training split: targets that pictures, names, sounds and shapes share.

    They exist in training only. Against all of them at once a small batch has 1,600 negatives.
    """

    def __init__(self, n, dim, scale=24.0):
        super().__init__()
        self.proxy = torch.nn.Parameter(torch.randn(n, dim) * dim ** -0.5)
        self.scale = scale

    def forward(self, x):
        return self.scale * x @ F.normalize(self.proxy, dim=-1).T


def any_of(logits, pos):
    """Minus the log of the probability that falls on a row's positives, over rows that have any."""
    keep = pos.any(1)
    if not keep.any():
        return logits.sum() * 0
    lp = F.log_softmax(logits[keep], -1)
    return -torch.logsumexp(lp.masked_fill(~pos[keep], -1e9), -1).mean()


def step_loss(net, proxies, b, size):
    """Losses of one multi-task batch: {task: scalar}. A task of size 0 is left out."""
    r = b.rng
    z, tasks = [], []  # latents and what to do with them

    def add(name, lat, **kw):
        if lat.shape[0]:
            tasks.append(dict(name=name, n=lat.shape[0], **kw))
            z.append(lat)

    # captions: a deduplicated list of strings, and which one belongs to which picture, sound or shape
    texts, index, links, target = [], {}, {}, {}

    def word(t):
        if t not in index:
            index[t] = len(texts)
            texts.append(t)
        return index[t]

    if size["emoji"]:
        xc, yc = b.cifar(size["cifar10"])
        xe, concept, _ = b.emoji(size["emoji"])
        rows, _ = net.modalities["image"](torch.cat([xc, xe]))
        lat = net.attend_input(rows)
        add("cifar10", lat[:len(yc)], y=yc)
        add("emoji", lat[len(yc):], concept=concept)
        named = concept[:-(-len(concept) // 2)]  # names cost as much as pictures and are learned sooner
        links["emoji"] = [word(b.name(c)) for c in named]
        target["emoji"] = np.zeros((len(concept), len(b.concepts)), bool)
        target["emoji"][np.arange(len(concept)), b.proxy_of[concept]] = True
        links["cifar10"] = [word(str(r.choice(D.WORDS[D.CIFAR[y]]))) for y in yc[:8]]
        target["cifar10"] = np.stack([b.class_target[D.CIFAR[y]] for y in yc[:8]])

    nd, ne = size["digit"], size["esc10"]
    snd, ys = b.sounds(nd, ne)
    for name, part, y, names in (("digit", snd[:nd], ys[:nd], D.DIGITS), ("esc10", snd[nd:], ys[nd:], D.ESC)):
        if part:
            x, n = pad(part, 64)
            rows, mask = net.modalities["audio"](x.unsqueeze(-1), n)
            add(name, net.attend_input(rows, mask), y=y)
            links[name] = [word(str(r.choice(D.WORDS[names[k]]))) for k in y]
            target[name] = np.stack([b.class_target[names[k]] for k in y])

    if size["shape"]:
        xp, yp, pi, other, keep = b.shapes(size["shape"])
        rows, _ = net.modalities["pointcloud"](xp)
        add("shape", net.attend_input(rows), y=yp, other=yp[other], keep=torch.from_numpy(keep))
        links["shape"] = [word(b.d["shapes"]["caption"][i]) for i in pi[:-(-len(pi) // 2)]]
        target["shape"] = b.shape_target[pi] | b.shape_target[pi[other]]

    a, ya = b.intents("snips", size["snips"])
    c, ycl = b.intents("clinc150", size["clinc150"])
    short = a + c + [D.tokens(t) for t in texts]
    by_length, lat = np.argsort([len(v) for v in short], kind="stable"), []
    for part in np.array_split(by_length, 3):  # less padding
        x, n = pad([short[i] for i in part], 8)
        rows, mask = net.modalities["text"](x, n)
        lat.append(net.attend_input(rows, mask))
    lat = torch.cat(lat)[torch.from_numpy(np.argsort(by_length))]
    add("snips", lat[:len(a)], y=ya)
    add("clinc150", lat[len(a):len(a) + len(c)], y=ycl)
    add("captions", lat[len(a) + len(c):])

    if size["language"]:
        lang, yl = b.languages(size["language"])
        x, n = pad(lang, 32)
        rows, mask = net.modalities["text"](x, n)
        add("language", net.attend_input(rows, mask), y=yl)
    if size["masked_bytes"]:
        mb, want = b.masked(size["masked_bytes"])
        rows_m, _ = net.modalities["text"](torch.from_numpy(np.stack(mb)))
        add("masked_bytes", net.attend_input(rows_m), y=want)

    z = net.process(torch.cat(z))
    out, losses, o = {}, {}, 0
    kinds = {"cifar10": ["cifar10", "embedding"], "emoji": ["emoji_category", "embedding"], "digit": ["digit", "audio_kind", "embedding"],
             "esc10": ["esc10", "audio_kind", "embedding"], "shape": ["shape", "embedding"], "snips": ["snips"], "clinc150": ["clinc150"],
             "captions": ["embedding"], "language": ["language"]}
    ce = lambda x, y, s=0.0: F.cross_entropy(x.float(), torch.as_tensor(y), label_smoothing=s, ignore_index=-1)
    for t in tasks:
        lat = z[o:o + t["n"]]
        o += t["n"]
        if t["name"] == "masked_bytes":
            y = torch.from_numpy(t["y"])
            sel = y != -100
            # decode only masked rows: queries do not see each other
            m = int(sel.sum(1).max())
            order = torch.argsort((~sel).int(), dim=1, stable=True)[:, :m]
            q = torch.gather(rows_m, 1, order.unsqueeze(-1).expand(-1, -1, rows_m.shape[-1]))
            lg = net.decode_rows(lat, q)
            losses["masked_bytes"] = F.cross_entropy(lg.float().flatten(0, 1), torch.gather(y, 1, order).flatten())
            continue
        h = out[t["name"]] = net.decode(lat, kinds[t["name"]], DROP.get(t["name"], 0.0))
        if t["name"] == "emoji":
            cat = [b.category.index(b.d["emoji_rows"][c]["category"]) for c in t["concept"]]
            losses["emoji_category"] = ce(h["emoji_category"], cat)
        elif t["name"] == "shape":
            each = [F.cross_entropy(h["shape"].float(), torch.as_tensor(y), label_smoothing=SMOOTH["shape"], ignore_index=-1, reduction="none")
                    for y in (t["y"], t["other"])]
            losses["shape"] = (t["keep"] * each[0] + (1 - t["keep"]) * each[1]).sum() / max(1, int((t["y"] >= 0).sum()))
        elif t["name"] != "captions":
            losses[t["name"]] = ce(h[t["name"]], t["y"], SMOOTH.get(t["name"], 0.02))
        if "audio_kind" in h:
            losses["audio_kind"] = losses.get("audio_kind", 0) + 0.5 * ce(h["audio_kind"], np.full(t["n"], int(t["name"] == "esc10")))

    scale = net.logit_scale.clamp(max=math.log(60.0)).exp()
    cap = out["captions"]["embedding"]
    order = list(links)
    media = torch.cat([out[k]["embedding"][:len(links[k])] for k in order])
    link = torch.tensor([j for k in order for j in links[k]])
    pos = F.one_hot(link, len(texts)).float()
    lg = scale * media @ cap.T
    losses["contrast"] = 0.5 * (multi_positive(lg, pos) + multi_positive(lg.T, pos.T))
    lp = proxies(torch.cat([out[k]["embedding"] for k in order] + [cap[link]])).float()
    at, name_at = 0, lp.shape[0] - len(link)
    for k in order:
        want, n, m = torch.from_numpy(target[k]), len(target[k]), len(links[k])
        losses["proxy " + k] = any_of(lp[at:at + n], want)
        losses["proxy name " + k] = any_of(lp[name_at:name_at + m], want[:m])
        at, name_at = at + out[k]["embedding"].shape[0], name_at + m
    return losses


WEIGHT = {"cifar10": 1.5, "emoji_category": 0.1, "digit": 0.4, "esc10": 0.4, "audio_kind": 0.1, "shape": 1.0, "snips": 0.3,
          "clinc150": 0.8, "language": 0.5, "masked_bytes": 0.2, "contrast": 0.7, "proxy emoji": 1.0, "proxy name emoji": 0.5,
          "proxy esc10": 0.1, "proxy shape": 0.2, "proxy cifar10": 0.05, "proxy digit": 0.05, "proxy name esc10": 0.03,
          "proxy name shape": 0.1, "proxy name cifar10": 0.03, "proxy name digit": 0.03}
SIZE = {"cifar10": 64, "emoji": 64, "digit": 8, "esc10": 6, "shape": 36, "snips": 4, "clinc150": 24, "language": 10, "masked_bytes": 2}
SMOOTH = {"cifar10": 0.05, "clinc150": 0.05, "shape": 0.1, "esc10": 0.05}
DROP = {"shape": 0.3, "esc10": 0.15, "clinc150": 0.1}


# ---- validation ----------------------------------------------------------------------------------

@torch.no_grad()
def encode(net, modality, items, names, batch=64):
    """Items to {head: tensor}; items of unequal length are padded and masked."""
    out = {k: [] for k in names}
    order = np.argsort([len(x) for x in items], kind="stable")
    for f in range(0, len(items), batch):
        sel = order[f:f + batch]
        x, n = pad([items[i] for i in sel])
        if modality == "image":
            rows, mask = net.modalities[modality](x)
        else:
            rows, mask = net.modalities[modality](x, n if len(set(n.tolist())) > 1 else None)
        h = net.decode(net.process(net.attend_input(rows, mask)), names)
        for k in names:
            out[k].append(h[k].float())
    inv = torch.from_numpy(np.argsort(order))
    return {k: torch.cat(v)[inv] for k, v in out.items()}


@torch.no_grad()
def validate(net, d, split="val"):
    """Accuracies on the pieces cut from train."""
    acc = lambda lg, y: float((lg.argmax(-1).numpy() == np.asarray(y)).mean())
    res = {}
    c, e = d["cifar"], d["emoji"]
    i = np.flatnonzero(c["val"])
    res["cifar10"] = acc(encode(net, "image", list(Batches.norm(c["x"][i]).numpy()), ["cifar10"], 128)["cifar10"], c["y"][i])
    rows = d["emoji_rows"]
    names = encode(net, "text", [D.tokens(r["label"]) for r in rows], ["embedding"], 128)["embedding"]
    for s in ("val_style", "val_concept"):
        i = np.flatnonzero(e["split"] == s)
        img = encode(net, "image", list(Batches.norm(e["x"][i]).numpy()), ["embedding"], 128)["embedding"]
        cc = e["concept"][i]
        sim = names[cc] @ img.T  # name -> picture, among the piece's pictures
        own = torch.from_numpy(cc[:, None] == cc[None])
        rank = ((sim >= sim.masked_fill(~own, -9).max(1).values[:, None]) & ~own).sum(1)  # a tie counts as wrong
        res[s + "_top1"], res[s + "_top5"] = float((rank < 1).float().mean()), float((rank < 5).float().mean())
        if s == "val_style":
            res["picture_to_name"] = float(((img @ names.T).argmax(1).numpy() == cc).mean())
    for k, key, y in (("fsdd", "digit", "y"), ("esc10", "esc10", "y")):
        i = np.flatnonzero(d[k]["split"] == split)
        h = encode(net, "audio", [D.logmel(d[k]["mel"][j])[..., None] for j in i], [key], 32)
        res[key] = acc(h[key], d[k][y][i])
    s = d["shapes"]
    i = np.flatnonzero((s["split"] == split) & (s["y"] >= 0))
    h = encode(net, "pointcloud", [D.point_rows(s["xyz"][j], s["normals"][j], s["rgb"][j]) for j in i], ["shape"], 32)
    res["shape"] = acc(h["shape"], s["y"][i])
    for k in ("snips", "clinc150", "language"):
        t = d["text"][k]
        i = np.flatnonzero(t["split"] == split)
        if k == "clinc150":
            i = i[t["y"][i] != t["labels"].index("oos")][::3]
        res[k] = acc(encode(net, "text", [D.tokens(t["text"][j]) for j in i], [k], 64)[k], t["y"][i])
    res["masked_bits"] = masked_bits(net, d["text"]["shakespeare"]["val"][:126 * 60])
    return res


@torch.no_grad()
def masked_bits(net, b):
    """Bits per masked byte: windows of 126 bytes, every byte at index 3 mod 7 masked."""
    ids = np.stack([D.tokens(b[f:f + 126]) for f in range(0, len(b) - 125, 126)])
    m = np.zeros(ids.shape, bool)
    m[:, 1 + 3:-1:7] = True
    tot = []
    for f in range(0, len(ids), 32):
        x = torch.from_numpy(np.where(m, 3, ids)[f:f + 32])
        rows, _ = net.modalities["text"](x)
        lg = net.decode_rows(net.process(net.attend_input(rows)), rows[:, m[0]])
        tot.append(F.cross_entropy(lg.float().flatten(0, 1), torch.from_numpy(ids[f:f + 32][:, m[0]]).flatten(), reduction="none"))
    return float(torch.cat(tot).mean() / math.log(2))


def labels_of(d):
    pretty = lambda l: [s.replace("_", " ") for s in l]
    return {"cifar10": D.CIFAR, "emoji_category": sorted({r["category"] for r in d["emoji_rows"]}), "digit": [str(i) for i in range(10)],
            "esc10": D.ESC, "shape": d["shapes"]["names"], "snips": d["text"]["snips"]["labels"], "clinc150": d["text"]["clinc150"]["labels"],
            "language": d["text"]["language"]["labels"]}


def build(d, config, seed):
    cfg = M.read_config(config)
    cfg["heads"] = M.heads(d, labels_of(d))
    torch.manual_seed(seed)
    return M.Model(cfg), cfg


def average(params, progress):
    """Gradients averaged over the processes; gives back rank 0's progress."""
    ps = [p for p in params if p.grad is not None]
    flat = torch.cat([p.grad.flatten() for p in ps] + [torch.tensor([progress])])
    torch.distributed.all_reduce(flat)
    n = torch.distributed.get_world_size()
    o = 0
    for p in ps:
        p.grad.copy_(flat[o:o + p.numel()].view_as(p)).div_(n)
        o += p.numel()
    return float(flat[-1])


def freeze_norms(part, source):
    """Batch norms of part use the running statistics of source (the averaged weights) from now on."""
    for m, s in zip(part.modules(), source.modules()):
        if isinstance(m, torch.nn.modules.batchnorm._BatchNorm) and m.training:
            m.eval()
            m.running_mean.copy_(s.running_mean)
            m.running_var.copy_(s.running_var)


def main():
    a = argparse.ArgumentParser(description=__doc__)
    a.add_argument("data")
    a.add_argument("out")
    a.add_argument("--config", default=str(HERE / "configs" / "default.json"))
    a.add_argument("--minutes", type=float, default=60, help="wall-clock budget; the schedule follows it")
    a.add_argument("--steps", type=int, default=0, help="step budget instead (repeatable runs)")
    a.add_argument("--lr", type=float, default=2e-3)
    a.add_argument("--wd", type=float, default=0.05)
    a.add_argument("--seed", type=int, default=0)
    a.add_argument("--threads", type=int, default=2)
    a.add_argument("--float32", action="store_true", help="no bfloat16 autocast")
    a.add_argument("--exclude-speaker", default="", help="leave one fsdd speaker out of training")
    a.add_argument("--tasks", default="", help="train these tasks alone (of: " + " ".join(SIZE) + ")")
    a.add_argument("--enlarge", type=int, default=1, help="with --tasks: batches so many times the usual size")
    a.add_argument("--rank", type=int, default=0, help="this process among --world; start one process a rank")
    a.add_argument("--world", type=int, default=1, help="processes that share one batch (gradients averaged through files in OUT_DIR)")
    a.add_argument("--deadline", type=float, default=0, help="unix time to finish at instead of --minutes")
    args = a.parse_args()
    torch.set_num_threads(args.threads)
    out = pathlib.Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    lead = args.rank == 0
    size = {k: -(-v // args.world) for k, v in SIZE.items()}
    if args.tasks:
        size = {k: size[k] * args.enlarge if k in args.tasks.split(",") else 0 for k in size}
    if args.world > 1:
        torch.distributed.init_process_group("gloo", init_method=f"file://{out.resolve()}/rendezvous", rank=args.rank, world_size=args.world)
    d = D.load(args.data, out / "cache")
    b = Batches(d, args.seed + 7919 * args.rank)
    net, cfg = build(d, args.config, args.seed)
    ema = copy.deepcopy(net).requires_grad_(False).eval()
    proxies = Proxies(len(b.concepts), 128)
    opts = optim.split(net, args.lr, args.wd, proxies, args.rank, args.world)
    if args.exclude_speaker:
        b.fsdd_i = b.fsdd_i[d["fsdd"]["speaker"][b.fsdd_i] != args.exclude_speaker]
    step, used = 0, 0.0
    last = out / "last.pt"
    if last.exists():
        s = torch.load(last, weights_only=False)
        net.load_state_dict(s["net"]); ema.load_state_dict(s["ema"]); proxies.load_state_dict(s["proxies"])
        for o, state in zip(opts, s["opts"] or []):
            o.load_state_dict(state)
        step, used = s["step"], s["used"]
        if lead:
            b.rng.bit_generator.state = s["rng"]
        else:
            b.rng = np.random.default_rng([args.seed, args.rank, step])
        print(f"resumed at step {step}, {used / 60:.1f} min used", flush=True)
    print(f"{sum(p.numel() for p in net.parameters())} parameters", flush=True)
    params = [p for o in opts for g in o.param_groups for p in g["params"]]
    log = open(out / "log.jsonl", "a")
    avg, t0, saved, validated = {}, time.time(), time.time(), time.time()

    def save():
        torch.save({"net": net.state_dict(), "ema": ema.state_dict(), "opts": [o.state_dict() for o in opts], "step": step,
                    "used": used + time.time() - t0, "rng": b.rng.bit_generator.state, "proxies": proxies.state_dict(), "cfg": cfg},
                   out / "last.tmp")
        (out / "last.tmp").replace(last)

    def check():
        """In float32: bfloat16 makes ties."""
        v = {} if args.tasks else validate(ema, d)
        if args.exclude_speaker:
            f = d["fsdd"]
            i = np.flatnonzero(f["speaker"] == args.exclude_speaker)
            h = encode(ema, "audio", [D.logmel(f["mel"][j])[..., None] for j in i], ["digit"], 32)["digit"]
            v["speaker " + args.exclude_speaker] = float((h.argmax(-1).numpy() == f["y"][i]).mean())
        return v

    began = step
    shared = 0.0  # rank 0's progress, which every rank follows
    while True:
        spent = used + time.time() - t0
        if args.steps:
            progress = step / args.steps
        elif args.deadline:
            progress = spent / (spent + max(0.0, args.deadline - time.time()))
        else:
            progress = spent / (60 * args.minutes)
        real_progress = progress
        if args.world > 1:
            progress = shared or real_progress
        if progress >= 1:
            break
        lr = args.lr * min(1.0, (step + 1) / 200) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))
        for g in (g for o in opts for g in o.param_groups):
            g["lr"] = lr
        net.train()
        if progress > 0.3:  # digits and sounds come in batches of their own: settle on one set of statistics
            freeze_norms(net.modalities["audio"], ema.modalities["audio"])
        with torch.autocast("cpu", torch.bfloat16, enabled=not args.float32):
            losses = step_loss(net, proxies, b, size)
            loss = sum(WEIGHT[k] * v for k, v in losses.items())
        for o in opts:
            o.zero_grad(set_to_none=True)
        loss.backward()
        if args.world > 1:
            shared = average(params, real_progress if lead else 0.0)
        norm = torch.nn.utils.clip_grad_norm_(params, 2.0)
        if not torch.isfinite(norm):
            print(f"step {step}: gradient not finite, skipped", flush=True)
            continue
        for o in opts:
            o.step()
        step += 1
        decay = min(0.998, (1 + step) / (20 + step))
        with torch.no_grad():
            torch._foreach_lerp_([p for p in ema.parameters()], [p for p in net.parameters()], 1 - decay)
            for p, q in zip(ema.buffers(), net.buffers()):
                p.lerp_(q, 1 - decay) if p.is_floating_point() else p.copy_(q)
        for k, v in losses.items():
            v = v.detach().item()
            avg[k] = 0.98 * avg.get(k, v) + 0.02 * v
        if step % 25 == 0 and lead:
            print(f"step {step} {progress * 100:.1f}% lr {lr:.2e} {(used + time.time() - t0) / step:.3f} s/step " +
                  " ".join(f"{k} {v:.3f}" for k, v in avg.items()), flush=True)
            log.write(json.dumps({"step": step, "progress": progress, "lr": lr, "loss": avg}) + "\n"); log.flush()
        if lead and time.time() - saved > 120:
            save(); saved = time.time()
        if lead and time.time() - validated > 600:
            v = check()
            print(f"validation at step {step}: " + " ".join(f"{k} {x:.3f}" for k, x in v.items()), flush=True)
            log.write(json.dumps({"step": step, "progress": progress, "val": v}) + "\n"); log.flush()
            validated = time.time()
    if not lead or step == began:
        return
    save()
    v = check()
    print(f"final validation, step {step}: " + " ".join(f"{k} {x:.4f}" for k, x in v.items()), flush=True)
    log.write(json.dumps({"step": step, "progress": 1.0, "val": v}) + "\n")


if __name__ == "__main__":
    main()
