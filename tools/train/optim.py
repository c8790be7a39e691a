"""Muon for the weight matrices (momentum, then the nearest orthogonal matrix), AdamW for everything else.

The update is scaled to the root-mean-square that AdamW's has (0.2 * sqrt(larger side)), so one
learning rate serves both.
"""
import torch


def orthogonal(g, steps=4):
    """Newton-Schulz iteration towards the orthogonal factor of g (rows x cols), in bfloat16."""
    x = g.bfloat16()
    tall = x.shape[0] > x.shape[1]
    if tall:
        x = x.T
    x = x / (x.norm() + 1e-7)
    for _ in range(steps):
        a = x @ x.T
        b = torch.addmm(a, a, a, beta=-4.7750, alpha=2.0315)
        x = torch.addmm(x, b, x, beta=3.4445)
    return x.T if tall else x


class Muon(torch.optim.Optimizer):
    def __init__(self, params, lr, momentum=0.95, weight_decay=0.0):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                s = self.state[p]
                if "buf" not in s:
                    s["buf"] = torch.zeros_like(p)
                s["buf"].lerp_(p.grad, 1 - group["momentum"])
                g = p.grad.lerp(s["buf"], group["momentum"]).flatten(1)
                u = orthogonal(g).to(p.dtype).view_as(p)
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(u, alpha=-group["lr"] * 0.2 * max(g.shape) ** 0.5)


def split(net, lr, wd):
    """[Muon, AdamW] over a model's parameters: matrices inside layers and stems to Muon."""
    muon, decay, rest = [], [], []
    for n, p in net.named_parameters():
        inner = n.startswith(("cross.", "layers.", "decoder.", "rows_query")) or ".stem." in n and ".stem.0." not in n
        if inner and p.dim() >= 2:
            muon.append(p)
        elif p.dim() >= 2 and n.startswith("head") or ".stem.0." in n and p.dim() > 1:
            decay.append(p)
        else:
            rest.append(p)
    return [Muon(muon, lr, weight_decay=wd),
            torch.optim.AdamW([{"params": decay, "weight_decay": wd}, {"params": rest, "weight_decay": 0.0}], lr=lr, betas=(0.9, 0.98))]
