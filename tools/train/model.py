"""The network that model.json describes, in PyTorch: stems, one shared encoder, decoder queries.

Shapes: a modality's input is B x axes.. x channels; rows are B x M x row_channels; latents B x N x D.
Parameter names in the exported file are those of docs/model-json.md.
"""
import copy
import json
import math

import torch
import torch.nn as nn
import torch.nn.functional as F

ACT = {"relu": F.relu, "gelu": F.gelu, "identity": lambda x: x}


class StemLayer(nn.Module):
    """conv + bias -> activation -> (+ input) -> (max pool). Batch norm exists in training only: export folds it."""

    def __init__(self, cin, spec, norm):
        super().__init__()
        self.spec = spec
        self.axes = len(spec["kernel"])
        conv = {1: nn.Conv1d, 2: nn.Conv2d}[self.axes]
        self.conv = conv(cin, spec["out"], spec["kernel"], spec["stride"], spec["padding"], bias=not norm)
        self.norm = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d}[self.axes](spec["out"]) if norm else None
        nn.init.kaiming_normal_(self.conv.weight, nonlinearity="relu")
        if spec.get("residual"):
            if self.norm is None:
                self.conv.weight.data.mul_(0.5)

    def length(self, n):
        """Valid length along the first axis after this layer (long tensor)."""
        s = self.spec
        n = (n + 2 * s["padding"][0] - s["kernel"][0]) // s["stride"][0] + 1
        return n // s["max_pool"][0] if s.get("max_pool") else n

    def forward(self, x, n=None):
        y = self.conv(x)
        if self.norm is not None:
            y = self.norm(y)
        y = ACT[self.spec["activation"]](y)
        if self.spec.get("residual"):
            y = y + x
        if self.spec.get("max_pool"):
            y = {1: F.max_pool1d, 2: F.max_pool2d}[self.axes](y, self.spec["max_pool"])
        if n is not None:  # padding rows stay exactly zero, as if each item were alone
            n = self.length(n)
            keep = (torch.arange(y.shape[2]) < n[:, None]).to(y.dtype)
            y = y * keep.view(keep.shape[0], 1, -1, *([1] * (self.axes - 1)))
        return y, n

    def folded(self):
        """Weight and bias with the batch norm multiplied in."""
        w = self.conv.weight.double()
        if self.norm is None:
            return w.float(), self.conv.bias.float()
        b = self.norm
        s = b.weight.double() / torch.sqrt(b.running_var.double() + b.eps)
        return (w * s.view(-1, *([1] * (w.dim() - 1)))).float(), (b.bias.double() - b.running_mean.double() * s).float()


def fourier(sizes, bands, max_resolution):
    """Perceiver Fourier code of a grid: prod(sizes) x (D + 2*D*bands), rows in row-major order."""
    axes = [torch.linspace(-1.0, 1.0, n) if n > 1 else torch.tensor([-1.0]) for n in sizes]
    pos = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(sizes))
    arg = torch.cat([pos[:, d:d + 1] * torch.linspace(1.0, r / 2.0, bands) for d, r in enumerate(max_resolution)], -1)
    arg = arg * torch.tensor(math.pi, dtype=torch.float32)
    return torch.cat([pos, torch.sin(arg), torch.cos(arg)], -1)


class Modality(nn.Module):
    """Adapter output to rows: [stem features, position code, learned padding]."""

    def __init__(self, name, spec, width):
        super().__init__()
        self.name, self.spec = name, spec
        c = spec["input"]["channels"]
        if "embedding" in spec:
            self.embedding = nn.Embedding(spec["embedding"]["rows"], spec["embedding"]["channels"])
            c = spec["embedding"]["channels"]
        norm = all(l["activation"] == "relu" for l in spec["stem"])
        self.stem = nn.ModuleList()
        for l in spec["stem"]:
            self.stem.append(StemLayer(c, l, norm))
            c = l["out"]
        p = spec["position"]
        if p["kind"] == "fourier":
            c += len(p["max_resolution"]) * (1 + 2 * p["bands"])
        elif p["kind"] == "learned":
            self.position = nn.Parameter(torch.randn(p["rows"], p["channels"]) * 0.02 * 10)
            c += p["channels"]
        self.padding = nn.Parameter(torch.randn(1, width - c) * 0.02)
        self.tables = {}

    def code(self, x, n):
        """x: B x C x grid; n: valid lengths along axis 0 or None. B x M x P, or None."""
        p = self.spec["position"]
        b, grid = x.shape[0], x.shape[2:]
        if p["kind"] == "learned":
            return self.position[:grid[0]].expand(b, -1, -1)
        if p["kind"] != "fourier":
            return None
        out = []
        for length in ([grid[0]] if n is None else n.tolist()):
            k = (length,) + tuple(grid[1:])
            if k not in self.tables:
                self.tables[k] = fourier(k, p["bands"], p["max_resolution"])
            out.append(self.tables[k])
        m = grid.numel()
        if n is None:
            return out[0].expand(b, -1, -1)
        return torch.stack([F.pad(t, (0, 0, 0, m - t.shape[0])) for t in out])

    def forward(self, x, n=None):
        """x: B x axes.. x channels (text: B x T ids); n: valid lengths. rows B x M x width, key mask B x M or None."""
        if hasattr(self, "embedding"):
            x = self.embedding(x)
            if n is not None:
                x = x * (torch.arange(x.shape[1]) < n[:, None]).unsqueeze(-1)
        x = x.movedim(-1, 1)
        if x.dim() == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        for l in self.stem:
            x, n = l(x, n)
        rows = [x.flatten(2).transpose(1, 2).float()]
        code = self.code(x, n)
        if code is not None:
            rows.append(code)
        rows.append(self.padding.expand(*rows[0].shape[:2], -1))
        mask = None
        if n is not None and int(n.min()) < x.shape[2]:
            per = x.shape[3] if x.dim() == 4 else 1
            mask = torch.arange(x.shape[2] * per) < n[:, None] * per
        return torch.cat(rows, -1), mask


class Layer(nn.Module):
    """The Perceiver layer (pre-LN attention + MLP); kv None means self-attention."""

    def __init__(self, q_dim, kv_dim, qk, v, heads, widening, cross, residual=True):
        super().__init__()
        self.heads, self.cross, self.residual = heads, cross, residual
        self.layernorm1 = nn.LayerNorm(q_dim)
        if cross:
            self.layernorm2 = nn.LayerNorm(kv_dim)
        self.query, self.key, self.value = nn.Linear(q_dim, qk), nn.Linear(kv_dim, qk), nn.Linear(kv_dim, v)
        self.output = nn.Linear(v, q_dim)
        self.layernorm = nn.LayerNorm(q_dim)
        self.dense1, self.dense2 = nn.Linear(q_dim, q_dim * widening), nn.Linear(q_dim * widening, q_dim)
        for l in (self.query, self.key, self.value, self.output, self.dense1, self.dense2):
            nn.init.xavier_uniform_(l.weight)
            nn.init.zeros_(l.bias)

    def attend(self, q, kv, mask):
        b, l = q.shape[:2]
        s = kv.shape[1]
        h = self.heads
        q = self.query(q).view(b, l, h, -1).transpose(1, 2)
        k = self.key(kv).view(b, s, h, -1).transpose(1, 2)
        v = self.value(kv).view(b, s, h, -1).transpose(1, 2)
        w = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)  # plain: at 16 queries faster than the fused kernel
        if mask is not None:
            w = w.masked_fill(~mask[:, None, None, :], -1e9)
        o = w.float().softmax(-1).to(v.dtype) @ v
        return self.output(o.transpose(1, 2).reshape(b, l, -1))

    def forward(self, x, kv=None, mask=None):
        a = self.layernorm1(x)
        o = self.attend(a, self.layernorm2(kv) if self.cross else a, mask)
        x = o + x if self.residual else o
        return x + self.dense2(F.gelu(self.dense1(self.layernorm(x))))

    NAMES = {"layernorm1": "attention.self.layernorm1", "layernorm2": "attention.self.layernorm2",
             "query": "attention.self.query", "key": "attention.self.key", "value": "attention.self.value",
             "output": "attention.output.dense", "layernorm": "layernorm", "dense1": "mlp.dense1", "dense2": "mlp.dense2"}


class Model(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.cfg = cfg
        e, d = cfg["encoder"], cfg["decoder"]
        w, dl = cfg["row_channels"], e["d_latents"]
        self.modalities = nn.ModuleDict({k: Modality(k, s, w) for k, s in cfg["modalities"].items()})
        self.latents = nn.Parameter(torch.randn(e["num_latents"], dl) * 0.2)
        qk = e["qk_channels"] or (w if e["cross_attention_shape_for_attention"] == "kv" else dl)
        self.cross = Layer(dl, w, qk, e["v_channels"] or qk, e["num_cross_attention_heads"],
                           e["cross_attention_widening_factor"], True, e["use_query_residual"])
        self.layers = nn.ModuleList([Layer(dl, dl, dl, dl, e["num_self_attention_heads"], e["self_attention_widening_factor"], False)
                                     for _ in range(e["num_self_attends_per_block"])])
        self.decoder = Layer(dl, dl, dl, dl, d["num_heads"], d["widening_factor"], True, d["use_query_residual"])
        self.query, self.head = nn.ParameterDict(), nn.ModuleDict()
        for k, h in cfg["heads"].items():
            if h["kind"] == "masked_bytes":
                self.rows_query = nn.Linear(w, dl)
                self.head[k] = nn.Linear(dl, h["vocab_size"])
            else:
                self.query[k] = nn.Parameter(torch.randn(1, dl) * 0.2)
                self.head[k] = nn.Linear(dl, h["dim"] if h["kind"] == "embedding" else len(h["labels"]))
        self.logit_scale = nn.Parameter(torch.tensor(math.log(14.0)))

    def attend_input(self, rows, mask=None):
        return self.cross(self.latents.expand(rows.shape[0], -1, -1), rows, mask)

    def process(self, z):
        for _ in range(self.cfg["encoder"]["num_blocks"]):
            for l in self.layers:
                z = l(z)
        return z

    def decode(self, z, names, drop=0.0):
        """Latents B x N x D to {head: B x classes}; drop is the dropout in front of the heads, for training."""
        q = torch.cat([self.query[k] for k in names]).expand(z.shape[0], -1, -1)
        o = F.dropout(self.decoder(q, z), drop, self.training)
        out = {}
        for i, k in enumerate(names):
            y = self.head[k](o[:, i])
            out[k] = F.normalize(y.float(), dim=-1) if self.cfg["heads"][k]["kind"] == "embedding" else y
        return out

    def decode_rows(self, z, rows):
        """Masked bytes: one query a text row. B x M x vocab."""
        return self.head["masked_bytes"](self.decoder(self.rows_query(rows), z))

    def export(self):
        """Tensors under their published names, float32, batch norms folded into the stems."""
        folded = copy.deepcopy(self)
        for m in folded.modalities.values():
            for l in m.stem:
                w, b = l.folded()
                l.norm, l.conv.weight, l.conv.bias = None, nn.Parameter(w), nn.Parameter(b)
        return {k: v.detach().float().contiguous() for k, v in folded.export_targets().items()}

    @classmethod
    def published(cls, cfg, tensors):
        """The network of an exported file: stems without batch norm, every tensor as stored."""
        net = cls(cfg)
        for m in net.modalities.values():
            for l in m.stem:
                conv = {1: nn.Conv1d, 2: nn.Conv2d}[l.axes]
                c = l.conv
                l.norm, l.conv = None, conv(c.in_channels, c.out_channels, c.kernel_size, c.stride, c.padding)
        names = net.export_targets()
        with torch.no_grad():
            for k, p in names.items():
                p.copy_(tensors[k].float())
        return net.eval().requires_grad_(False)

    def export_targets(self):
        """Published name to parameter, for a network without batch norm."""
        out = {}
        for m, mod in self.modalities.items():
            p = f"modalities.{m}."
            if hasattr(mod, "embedding"):
                out[p + "embedding.weight"] = mod.embedding.weight
            for i, l in enumerate(mod.stem):
                out[p + f"stem.{i}.weight"], out[p + f"stem.{i}.bias"] = l.conv.weight, l.conv.bias
            if hasattr(mod, "position"):
                out[p + "position.weight"] = mod.position
            out[p + "padding"] = mod.padding
        out["embeddings.latents"] = self.latents
        layers = {"encoder.cross_attention": self.cross, "decoder.decoding_cross_attention": self.decoder,
                  **{f"encoder.self_attends.{i}": l for i, l in enumerate(self.layers)}}
        for prefix, l in layers.items():
            for a, b in Layer.NAMES.items():
                if hasattr(l, a):
                    out[f"{prefix}.{b}.weight"], out[f"{prefix}.{b}.bias"] = getattr(l, a).weight, getattr(l, a).bias
        for k, h in self.cfg["heads"].items():
            if h["kind"] == "masked_bytes":
                out[f"heads.{k}.query.weight"], out[f"heads.{k}.query.bias"] = self.rows_query.weight, self.rows_query.bias
            else:
                out[f"heads.{k}.query"] = self.query[k]
            out[f"heads.{k}.weight"], out[f"heads.{k}.bias"] = self.head[k].weight, self.head[k].bias
        return out


def heads(data, labels):
    """The default model's heads; labels: {task: list}."""
    cls = lambda m, l: {"kind": "classes", "modalities": [m], "labels": l}
    return {
        "embedding": {"kind": "embedding", "dim": 128, "modalities": ["image", "audio", "pointcloud", "text"]},
        "cifar10": cls("image", labels["cifar10"]),
        "emoji_category": cls("image", labels["emoji_category"]),
        "digit": cls("audio", labels["digit"]),
        "esc10": cls("audio", labels["esc10"]),
        "audio_kind": cls("audio", ["spoken digit", "environmental sound"]),
        "shape": cls("pointcloud", labels["shape"]),
        "snips": cls("text", labels["snips"]),
        "clinc150": cls("text", labels["clinc150"]),
        "language": cls("text", labels["language"]),
        "masked_bytes": {"kind": "masked_bytes", "modalities": ["text"], "vocab_size": 262},
    }


def read_config(path):
    return json.load(open(path, encoding="utf8"))
