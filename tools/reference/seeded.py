"""Small reference cases whose weights and inputs come from formulas, made with Hugging Face transformers.

    pip install torch transformers==4.46.1
    python seeded.py OUT_DIR

Each case is a folder: config.json, names.json (every tensor's name and shape) and expected.json (for each
stage: shape, statistics, the first values and hash-picked probes). Weights and inputs are not stored:
genweights.py says how a value follows from a tensor's name. `mmserve verify OUT_DIR/*` reads them.
"""
import json
import pathlib
import sys

import numpy as np
import torch
import transformers
from transformers import PerceiverConfig

import genweights as G

TINY = dict(num_latents=7, d_latents=32, num_blocks=2, num_self_attends_per_block=2, num_self_attention_heads=4,
            num_cross_attention_heads=1, qk_channels=None, v_channels=None)
LABELS = {str(i): f"LABEL_{i}" for i in range(9)}
TEXT = dict(d_model=24, max_position_embeddings=30, num_cross_attention_heads=4)
CASES = {
    "flow": ("PerceiverForOpticalFlow", dict(train_size=[6, 8], d_model=322), {"inputs": ("flow", (2, 2, 27, 6, 8))}),
    "flow_q_wide": ("PerceiverForOpticalFlow", dict(train_size=[5, 7], d_model=322, cross_attention_shape_for_attention="q", num_blocks=1,
                    self_attention_widening_factor=3, cross_attention_widening_factor=2, hidden_act="silu"), {"inputs": ("flow", (1, 2, 27, 7, 5))}),
    "image_learned": ("PerceiverForImageClassificationLearned", dict(image_size=6, d_model=512, id2label=LABELS, num_latents=5), {"inputs": ("image", (2, 3, 6, 6))}),
    "image_fourier_wide": ("PerceiverForImageClassificationFourier", dict(d_model=261, id2label=LABELS, cross_attention_widening_factor=2, hidden_act="relu",
                           qk_channels=16, v_channels=32), {"inputs": ("image", (1, 3, 9, 13))}),
    "image_conv": ("PerceiverForImageClassificationConvProcessing", dict(d_model=322, id2label=LABELS, hidden_act="gelu_new"), {"inputs": ("image", (2, 3, 37, 30))}),
    "seqcls_noresidual": ("PerceiverForSequenceClassification", dict(TEXT, use_query_residual=False, hidden_act="quick_gelu", id2label=LABELS), {"inputs": ("ids", 21, 17)}),
    "mlm_wide": ("PerceiverForMaskedLM", dict(TEXT, self_attention_widening_factor=2, num_blocks=1, qk_channels=8, v_channels=32), {"inputs": ("ids", 30, 26)}),
    "multimodal": ("PerceiverForMultimodalAutoencoding", dict(num_frames=2, audio_samples_per_frame=48, samples_per_patch=8, image_size=4, output_shape=[1, 2, 16, 16],
                   output_num_channels=20, _label_trainable_num_channels=30, d_model=405, id2label=LABELS),
                   {"image": ("image", (1, 2, 3, 16, 16)), "audio": ("audio", (1, 96, 1)), "image_points": (3, 40), "audio_points": (1, 9)}),
}


def summary(name, t):
    x = t.detach().float().numpy()
    flat = x.reshape(-1)
    at = G.probe_positions(name, flat.size, 32)
    return {"shape": list(x.shape), "mean": float(flat.astype(np.float64).mean()), "std": float(flat.astype(np.float64).std()),
            "min": float(flat.min()), "max": float(flat.max()), "first": [float(v) for v in flat[:16]],
            "probe_positions": [int(v) for v in at], "probe_values": [float(flat[v]) for v in at]}


def build(name, cls, extra, inputs):
    cfg = PerceiverConfig(**{**TINY, **extra})
    cfg.architectures = [cls]
    torch.manual_seed(0)
    model = getattr(transformers, cls)(cfg).eval()
    state = {k: torch.from_numpy(np.ascontiguousarray(G.weight(k, tuple(v.shape)))) for k, v in model.state_dict().items()}
    model.load_state_dict(state)
    if cls == "PerceiverForMaskedLM":
        pass  # the output embedding is the input embedding: one tensor
    stages, said = {}, {}
    note = lambda k, pick: lambda m, a, kw, o: stages.__setitem__(k, pick(a, kw, o).detach().clone())
    p = model.perceiver
    p.input_preprocessor.register_forward_hook(note("preprocessor_output", lambda a, kw, o: o[0] if isinstance(o, tuple) else o), with_kwargs=True)
    p.encoder.cross_attention.register_forward_hook(note("encoder_cross_attention_output", lambda a, kw, o: o[0]), with_kwargs=True)
    for n, m in model.named_modules():
        if n.endswith("decoding_cross_attention"):
            m.register_forward_hook(note("decoder_query", lambda a, kw, o: a[0] if a else kw["hidden_states"]), with_kwargs=True)
            m.register_forward_hook(note("decoder_cross_attention_output", lambda a, kw, o: o[0]), with_kwargs=True)
        if n.endswith("final_layer") and isinstance(m, torch.nn.Linear):
            m.register_forward_hook(note("decoder_final_layer_output", lambda a, kw, o: o), with_kwargs=True)
    with torch.no_grad():
        if "ids" in str(inputs.get("inputs", [""])[0]):
            _, n, length = inputs["inputs"]
            ids = (6 + (G.hash_u64("input:ids", 0, n) >> np.uint64(32)) % np.uint64(256)).astype(np.int64)
            ids[0], ids[length - 1], ids[length:] = 4, 5, 0
            ids[52:61] = 3
            mask = (np.arange(n) < length).astype(np.int64)
            said = {"inputs": f"language_input({n}, {length}) ids", "attention_mask": f"language_input({n}, {length}) mask"}
            out = model(inputs=torch.from_numpy(ids)[None], attention_mask=torch.from_numpy(mask)[None], output_hidden_states=True)
        elif "image" in inputs:
            img, aud = (torch.from_numpy(G.float_input(inputs[k][0], inputs[k][1])) for k in ("image", "audio"))
            label = torch.zeros(1, len(cfg.id2label))
            (i0, i1), (a0, a1) = inputs["image_points"], inputs["audio_points"]
            out = model(inputs={"image": img, "audio": aud, "label": label}, output_hidden_states=True,
                        subsampled_output_points={"image": torch.arange(i0, i1), "audio": torch.arange(a0, a1), "label": None})
            said = {'inputs["image"]': f'float_input("image", {tuple(img.shape)})', 'inputs["audio"]': f'float_input("audio", {tuple(aud.shape)})',
                    'inputs["label"]': f"zeros {tuple(label.shape)}", 'subsampled_output_points["image"]': f"arange({i0}, {i1})",
                    'subsampled_output_points["audio"]': f"arange({a0}, {a1})", 'subsampled_output_points["label"]': None}
        else:
            kind, shape = inputs["inputs"]
            said = {"inputs": f'float_input("{kind}", {shape})'}
            out = model(inputs=torch.from_numpy(G.float_input(kind, shape)), output_hidden_states=True)
    for i, h in enumerate(out.hidden_states):
        stages[f"hidden_states.{i}"] = h
    stages["last_hidden_state"] = out.hidden_states[-1]
    if isinstance(out.logits, dict):
        for k, v in out.logits.items():
            stages[f"logits.{k}"] = v
    else:
        stages["logits"] = out.logits
    tensors = [{"name": k, "dtype": "I64" if v.dtype == torch.int64 else "F32", "shape": list(v.shape)} for k, v in model.state_dict().items()]
    config = {k: v for k, v in cfg.to_dict().items() if k not in ("label2id",)}
    return config, tensors, {"model": name, "architecture": cls, "reference": f"transformers {transformers.__version__}, PyTorch {torch.__version__.split('+')[0]} CPU, float32, eval mode",
                             "inputs": said, "expected": {k: summary(k, v) for k, v in stages.items()}}


def main():
    out = pathlib.Path(sys.argv[1])
    for name, (cls, extra, inputs) in CASES.items():
        config, tensors, expected = build(name, cls, extra, inputs)
        d = out / name
        d.mkdir(parents=True, exist_ok=True)
        json.dump(config, open(d / "config.json", "w"), indent=1, sort_keys=True)
        json.dump({"model": name, "architecture": cls, "num_tensors": len(tensors), "tensors": tensors}, open(d / "names.json", "w"))
        json.dump(expected, open(d / "expected.json", "w"))
        print(name, len(tensors), "tensors,", len(expected["expected"]), "stages")


if __name__ == "__main__":
    main()
