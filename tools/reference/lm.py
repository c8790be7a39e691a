#!/usr/bin/env python3
"""Logits and greedy tokens of small language models by transformers (4.46), for flamingo's tests.

Weights are not stored: genweights.py gives every value from its tensor's name, as
weights.Seeded does in Go.

Usage: lm.py flamingo/testdata/transformers.json

MosaicGPT (MPT-1B) is not part of transformers: it is restated here from its published code.
"""
import json
import math
import sys

import torch
import torch.nn.functional as F
import transformers

import genweights

BASE = dict(vocab_size=31, hidden_size=60, num_hidden_layers=2, num_attention_heads=6, intermediate_size=52, max_position_embeddings=64)
LLAMA = dict(BASE, num_key_value_heads=2)
CASES = {
    "llama-grouped-biases": ("llama", dict(LLAMA, attention_bias=True, mlp_bias=True, rope_theta=500.0), 13),
    "llama-tied": ("llama", dict(LLAMA, tie_word_embeddings=True, num_key_value_heads=6, head_dim=8), 9),
    "llama-rope-linear": ("llama", dict(LLAMA, max_position_embeddings=16, rope_scaling={"type": "linear", "factor": 3.0}), 29),
    "llama-rope-dynamic": ("llama", dict(LLAMA, max_position_embeddings=16, rope_scaling={"type": "dynamic", "factor": 4.0}), 29),
    "llama-rope-llama3": ("llama", dict(LLAMA, rope_scaling={"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 24}), 29),
    "llama-rope-yarn": ("llama", dict(LLAMA, max_position_embeddings=32, rope_scaling={"rope_type": "yarn", "factor": 4.0}), 29),
    "llama-rope-yarn-stated": ("llama", dict(LLAMA, max_position_embeddings=32, rope_scaling={"rope_type": "yarn", "factor": 2.0, "beta_fast": 4.0, "beta_slow": 2.0, "attention_factor": 1.3}), 29),
    "mistral-window": ("mistral", dict(LLAMA, sliding_window=5), 17),
    "mistral-no-window": ("mistral", dict(LLAMA, sliding_window=None), 17),
    "qwen2": ("qwen2", dict(LLAMA, tie_word_embeddings=True), 11),
    "gpt_neox-parallel": ("gpt_neox", dict(BASE, hidden_size=72, rotary_pct=0.34), 12),
    "gpt_neox-sequential-linear": ("gpt_neox", dict(BASE, use_parallel_residual=False, rotary_pct=1.0, rope_scaling={"type": "linear", "factor": 2.0}), 12),
    "mpt-odd-heads": ("mpt", dict(vocab_size=31, d_model=60, n_heads=6, n_layers=2, expansion_ratio=4, max_seq_len=64, attn_config={"alibi": True, "alibi_bias_max": 8, "clip_qkv": 0.7, "softmax_scale": 0.4}), 14),
    "opt": ("opt", dict(vocab_size=31, hidden_size=60, num_hidden_layers=2, num_attention_heads=6, ffn_dim=52, max_position_embeddings=64, word_embed_proj_dim=60), 10),
    "opt-350m": ("opt", dict(vocab_size=31, hidden_size=60, num_hidden_layers=2, num_attention_heads=6, ffn_dim=52, max_position_embeddings=64, word_embed_proj_dim=20, do_layer_norm_before=False, activation_function="gelu"), 10),
}


MOSAIC = {
    "mosaic_gpt": dict(vocab_size=31, d_model=48, n_heads=3, n_layers=2, mlp_ratio=2, max_seq_len=64, alibi=True, alibi_bias_max=8,
                       attn_qk_ln=True, attn_clip_qkv=1.1, no_bias=True),
    "mosaic_gpt-learned-biases": dict(vocab_size=31, d_model=48, n_heads=4, n_layers=2, mlp_ratio=4, max_seq_len=64, alibi=False, attn_qk_ln=True),
}


def mosaic(c, ids):
    """logits of every token, and the names and shapes that were read"""
    names, d, heads = {}, c["d_model"], c["n_heads"]

    def w(name, *shape):
        names[name] = list(shape)
        return torch.from_numpy(genweights.weight(name, list(shape)))

    def bias(name, n):
        return None if c.get("no_bias") else w(name + ".bias", n)

    def norm(x, name):
        return F.layer_norm(x, (d,), w(name + ".weight", d), bias(name, d), 1e-5)

    def linear(x, name, n_in, n_out):
        return F.linear(x, w(name + ".weight", n_out, n_in), bias(name, n_out))

    t = len(ids)
    embedding = w("transformer.wte.weight", c["vocab_size"], d)
    x = embedding[ids]
    scores = torch.full((t, t), float("-inf")).triu(1)[None].repeat(heads, 1, 1)
    if c["alibi"]:
        n = 1 << math.ceil(math.log2(heads))
        slopes = 1 / 2 ** (torch.arange(1, n + 1, dtype=torch.float32) * c["alibi_bias_max"] / n)
        if n != heads:
            slopes = torch.cat([slopes[1::2], slopes[::2]])[:heads]
        scores = scores + slopes[:, None, None] * torch.arange(1 - t, 1, dtype=torch.float32)
    else:
        x = x + w("transformer.wpe.weight", c["max_seq_len"], d)[:t]
    for i in range(c["n_layers"]):
        at = f"transformer.blocks.{i}."
        qkv = linear(norm(x, at + "ln_1"), at + "attn.Wqkv", d, 3 * d)
        if "attn_clip_qkv" in c:
            qkv = qkv.clamp(-c["attn_clip_qkv"], c["attn_clip_qkv"])
        q, k, v = qkv.chunk(3, -1)
        if c["attn_qk_ln"]:
            q, k = norm(q, at + "attn.q_ln"), norm(k, at + "attn.k_ln")
        q, k, v = (y.view(t, heads, d // heads).transpose(0, 1) for y in (q, k, v))
        o = torch.softmax(q @ k.transpose(1, 2) / math.sqrt(d // heads) + scores, -1) @ v
        x = x + linear(o.transpose(0, 1).reshape(t, d), at + "attn.out_proj", d, d)
        hidden = c["mlp_ratio"] * d
        x = x + linear(F.gelu(linear(norm(x, at + "ln_2"), at + "mlp.mlp_up", d, hidden)), at + "mlp.mlp_down", hidden, d)
    return norm(x, "transformer.ln_f") @ embedding.T, names


def run_mosaic(values, length):
    ids = (genweights.hash_u64("input:ids", 0, length) % 31).astype("int64").tolist()
    logits, names = mosaic(values, ids)
    out = []
    for _ in range(6):
        out.append(int(mosaic(values, ids + out)[0][-1].argmax()))
    return {"ids": ids, "first": round6(logits[0]), "last": round6(logits[-1]), "greedy": out, "names": names}


def round6(row):
    return [round(float(x), 6) for x in row]


def run(kind, values, length):
    config = transformers.AutoConfig.for_model(kind, **values)
    config._attn_implementation = "eager"
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(torch.from_numpy(genweights.weight(name, list(p.shape))))
        ids = (genweights.hash_u64("input:ids", 0, length) % 31).astype("int64")[None]
        ids = torch.from_numpy(ids)
        logits = model(ids).logits[0]
        # one token after another, the cache as it grows
        out, cache, last = [], None, ids
        for _ in range(6):
            step = model(last, past_key_values=cache, use_cache=True)
            cache, top = step.past_key_values, torch.topk(step.logits[0, -1], 2)
            assert top.values[0] - top.values[1] > 1e-3, (kind, top)
            out.append(int(top.indices[0]))
            last = top.indices[:1][None]
    return {"ids": ids[0].tolist(), "first": round6(logits[0]), "last": round6(logits[-1]), "greedy": out}


def main():
    cases = []
    for name, (kind, values, length) in CASES.items():
        torch.manual_seed(0)
        cases.append({"name": name, "config": dict(values, model_type=kind), **run(kind, values, length)})
    for name, values in MOSAIC.items():
        cases.append({"name": name, "config": dict(values, model_type="mosaic_gpt"), **run_mosaic(values, 12)})
    with open(sys.argv[1], "w") as f:
        f.write("[\n" + ",\n".join(json.dumps(c, separators=(",", ":")) for c in cases) + "\n]\n")


if __name__ == "__main__":
    main()
