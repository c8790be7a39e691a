"""Write the trained model as mmserve reads it, and a reference case that the Go forward is checked against.

    python export.py DATA_DIR OUT_DIR MODEL_DIR CASE_DIR

MODEL_DIR gets model.json and model.safetensors (float16); CASE_DIR gets case.json, inputs.safetensors
and expected.safetensors, computed in float32 from the float16 weights. The inputs come from validation
pieces; no CIFAR-10 picture is among them.
"""
import argparse
import json
import pathlib

import numpy as np
import torch
from safetensors.torch import save_file

import caption as C
import data as D
import model as M
import train as T

SENTENCES = ["play some jazz from the nineties", "what is the weather in Oslo tomorrow?", "transfer 100 dollars to my savings account",
             "Alle Menschen sind frei und gleich an Würde und Rechten geboren.", "Todos los seres humanos nacen libres",
             "pizza", "собака", "To be, or not to be: that is the question"]
MASKED = "What light through yonder window breaks?"


def digit_pcm(root, name):
    import zipfile
    z = zipfile.ZipFile(pathlib.Path(root) / "fsdd" / "recordings.zip")
    pcm, rate = D._wav(z.read(name))
    return D.resample(pcm, rate, 16000).astype(np.float32)


def case_inputs(d, root):
    """{modality: [(note, adapter output)]} and the tensors to store beside them."""
    e, s = d["emoji"], d["shapes"]
    out, store = {k: [] for k in ("image", "audio", "pointcloud", "text")}, {}
    for i in np.flatnonzero(e["split"] == "val_style")[::17][:8]:
        k = len(out["image"])
        store[f"image.{k}.pixels"] = torch.from_numpy(e["x"][i])
        out["image"].append(("emoji " + e["file"][i], T.Batches.norm(e["x"][i]).numpy()))
    f = d["fsdd"]
    for i in np.flatnonzero(f["split"] == "val")[::20][:6]:
        k = len(out["audio"])
        if k < 2:
            store[f"audio.{k}.pcm"] = torch.from_numpy(digit_pcm(root, f["file"][i]))
        out["audio"].append(("fsdd " + f["file"][i], D.logmel(f["mel"][i])[..., None]))
    for i in np.flatnonzero(d["esc10"]["split"] == "val")[[3, 30]]:
        out["audio"].append(("esc10 " + d["esc10"]["file"][i] + ", first 1.2 s", D.logmel(d["esc10"]["mel"][i][:120])[..., None]))
    for i in np.flatnonzero(s["split"] == "val")[::16][:8]:
        k = len(out["pointcloud"])
        xyz, n, c = s["xyz"][i][:96], s["normals"][i][:96], s["rgb"][i][:96]
        if k == 6:
            n = None
        if k == 7:
            n = c = None
        cols = [xyz] + ([n] if n is not None else []) + ([c.astype(np.float32)] if c is not None else [])
        store[f"pointcloud.{k}.points"] = torch.from_numpy(np.concatenate(cols, 1).astype(np.float32))
        note = "shapes3d " + s["caption"][i] + ", 96 points: xyz" + (", normals" if n is not None else "") + (", rgb 0..255" if c is not None else "")
        out["pointcloud"].append((note, D.point_rows(xyz, n, c)))
    for t in SENTENCES:
        out["text"].append((t, D.tokens(t)))
    return out, store


@torch.no_grad()
def main():
    a = argparse.ArgumentParser(description=__doc__)
    for k in ("data", "out", "model_dir", "case_dir"):
        a.add_argument(k)
    args = a.parse_args()
    torch.set_num_threads(1)
    out = pathlib.Path(args.out)
    d = D.load(args.data, out / "cache")
    s = torch.load(out / "last.pt", weights_only=False)
    cfg = s["cfg"]
    net = M.Model(cfg)
    net.load_state_dict(s["ema"])
    cap = C.Captioner(cfg)
    if (out / "caption.pt").exists():
        cap.load_state_dict(torch.load(out / "caption.pt")["cap"])
    tensors = {k: v.half() for k, v in {**net.export(), **cap.export()}.items()}
    assert all(torch.isfinite(v).all() for v in tensors.values())
    md, cd = pathlib.Path(args.model_dir), pathlib.Path(args.case_dir)
    md.mkdir(parents=True, exist_ok=True)
    cd.mkdir(parents=True, exist_ok=True)
    json.dump(cfg, open(md / "model.json", "w", encoding="utf8"), ensure_ascii=False, indent=1)
    save_file(tensors, md / "model.safetensors", metadata={"format": "pt", "producer": "mmserve tools/train"})

    net = M.Model.published(cfg, tensors)
    with torch.no_grad():
        state = {}
        for k in cap.state_dict():
            state[k] = tensors[k if k.startswith("resampler.") else "caption." + k].float()
        cap.load_state_dict(state)
    cap.eval()
    items, store = case_inputs(d, args.data)
    expected, notes = {}, {}
    for m, l in items.items():
        names = [k for k, h in cfg["heads"].items() if m in h["modalities"] and h["kind"] != "masked_bytes"]
        for i, (note, x) in enumerate(l):
            p = f"{m}.{i}"
            t = torch.from_numpy(x)
            store[p] = t
            rows, _ = net.modalities[m](t[None])
            c = net.attend_input(rows)
            z = net.process(c)
            if i == 0:
                expected[p + ".rows"] = rows[0]
            if i < 2:
                expected[p + ".encoder_cross_attention_output"] = c[0]
            if i < 3:
                expected[p + ".last_hidden_state"] = z[0]
            for k, v in net.decode(z, names).items():
                expected[p + f".heads.{k}"] = v[0]
            soft = cap.resampler(z)
            if i < 2:
                expected[p + ".resampled"] = soft[0]
                lg = cap(torch.tensor([[cfg["caption"]["media_token_id"]] + [v + 6 for v in b"dog"]]), soft)
                expected[p + ".caption_logits"] = lg[0]
            notes[p] = {"note": note, "caption": cap.greedy(soft)[0].decode("utf8", "replace")}
    ids = D.tokens(MASKED)
    masked = ids.copy()
    masked[1 + 3:-1:7] = 3
    store["masked.0"] = torch.from_numpy(masked)
    rows, _ = net.modalities["text"](torch.from_numpy(masked)[None])
    expected["masked.0.heads.masked_bytes"] = net.decode_rows(net.process(net.attend_input(rows)), rows)[0]
    notes["masked.0"] = {"note": MASKED + " (every byte at index 3 mod 7 masked)"}
    save_file({k: v.contiguous() for k, v in store.items()}, cd / "inputs.safetensors")
    save_file({k: v.float().contiguous() for k, v in expected.items()}, cd / "expected.safetensors")
    json.dump({
        "name": "default", "kind": "native", "architecture": "mmserve",
        "description": "The default model: float16 weights widened to float32, PyTorch CPU, float32 arithmetic, eval mode",
        "weights_dtype": "float16", "num_parameters": sum(v.numel() for v in tensors.values()),
        "meaning": {
            "<modality>.<i>": "what the adapter gives: image 32x32x3, audio T x 64 x 1, pointcloud M x 57, text ids",
            "image.<i>.pixels": "uint8 before rescale and normalise", "audio.<i>.pcm": "16 kHz mono before the log-mel",
            "pointcloud.<i>.points": "xyz (as read, before the unit sphere) and what the note lists, columns in that order",
            "rows": "M x row_channels, read by the encoder", "heads.<h>": "logits, or the unit vector for embedding",
            "caption_logits": "all positions for the ids [media, 'd', 'o', 'g'] given the resampled tokens",
            "masked.<i>": "ids with the mask token; heads.masked_bytes holds logits for every row"},
        "inputs": notes,
        "expected": {k: list(v.shape) for k, v in expected.items()},
    }, open(cd / "case.json", "w", encoding="utf8"), ensure_ascii=False, indent=1)
    size = (md / "model.safetensors").stat().st_size
    print(f"{len(tensors)} tensors, {size / 1e6:.2f} MB; case {sum(f.stat().st_size for f in cd.iterdir()) / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
