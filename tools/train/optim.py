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
    """Of world processes with equal gradients, each makes its share of the updates and all gather them."""

    def __init__(self, params, lr, momentum=0.95, weight_decay=0.0, rank=0, world=1):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self.rank, self.world = rank, world

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            todo = []
            for p in group["params"]:
                if p.grad is None:
                    continue
                s = self.state[p]
                if "buf" not in s:
                    s["buf"] = torch.zeros_like(p)
                s["buf"].lerp_(p.grad, 1 - group["momentum"])
                todo.append((p, p.grad.lerp(s["buf"], group["momentum"]).flatten(1)))
            todo.sort(key=lambda v: -v[1].numel())  # neighbours cost the same: every world-th is a fair share
            shares = [todo[k::self.world] for k in range(self.world)]
            update = [torch.empty(sum(g.numel() for _, g in share), dtype=torch.float32) for share in shares]
            if shares[self.rank]:
                update[self.rank] = torch.cat([orthogonal(g).float().flatten() for _, g in shares[self.rank]])
            if self.world > 1:
                for k, u in enumerate(update):
                    torch.distributed.broadcast(u, k)
            for share, u in zip(shares, update):
                for (p, g), v in zip(share, u.split([g.numel() for _, g in share])):
                    p.mul_(1 - group["lr"] * group["weight_decay"])
                    p.add_(v.view_as(p), alpha=-group["lr"] * 0.2 * max(g.shape) ** 0.5)


def split(net, lr, wd, extra, rank=0, world=1):
    """[Muon, AdamW] over a model's parameters and those of extra: matrices inside layers and stems to Muon."""
    muon, decay, rest = [], [], []
    for n, p in net.named_parameters():
        inner = n.startswith(("cross.", "layers.", "decoder.", "rows_query")) or ".stem." in n and ".stem.0." not in n
        if inner and p.dim() >= 2:
            muon.append(p)
        elif p.dim() >= 2 and n.startswith("head") or ".stem.0." in n and p.dim() > 1:
            decay.append(p)
        else:
            rest.append(p)
    rest += list(extra.parameters())
    return [Muon(muon, lr, weight_decay=wd, rank=rank, world=world),
            torch.optim.AdamW([{"params": decay, "weight_decay": wd}, {"params": rest, "weight_decay": 0.0}], lr=lr, betas=(0.9, 0.98))]
