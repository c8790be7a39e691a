"""Loss and validation curves as PNG: python plot.py OUT_DIR PNG."""
import json
import pathlib
import sys

import matplotlib
matplotlib.use("Agg")
import matplotlib.pyplot as plt


def read(path):
    return [json.loads(l) for l in open(path)] if path.exists() else []


def main():
    out, png = pathlib.Path(sys.argv[1]), sys.argv[2]
    log, cap = read(out / "log.jsonl"), read(out / "caption-log.jsonl")
    fig, ax = plt.subplots(1, 3, figsize=(21, 5.5))
    for a in ax:
        a.set_prop_cycle(color=plt.get_cmap("tab20").colors)
    rows = [r for r in log if "loss" in r]
    for k in rows[-1]["loss"] if rows else []:
        xy = [(r["step"], r["loss"][k]) for r in rows if k in r["loss"]]
        ax[0].plot(*zip(*xy), label=k)
    ax[0].set_yscale("log")
    ax[0].set_title("training loss (running mean)")
    val = [r for r in log if "val" in r]
    for k in val[-1]["val"] if val else []:
        if k != "masked_bits":
            ax[1].plot([r["step"] for r in val], [r["val"].get(k) for r in val], marker=".", label=k)
    ax[1].set_title("validation (pieces of train)")
    for name in ("lm", "caption"):
        xy = [(r["step"], r["loss"]) for r in cap if r.get("phase") == name and "loss" in r]
        if xy:
            ax[2].plot(*zip(*xy), label=name)
    ax[2].set_title("caption part: nats a byte (caption: with a fifth of the guess)")
    for a in ax:
        a.set_xlabel("step")
        a.grid(alpha=0.3)
        if a.get_legend_handles_labels()[0]:
            a.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))
    fig.tight_layout()
    fig.savefig(png, dpi=70)


if __name__ == "__main__":
    main()
