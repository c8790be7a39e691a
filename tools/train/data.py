"""Raw data folders to arrays: the preprocessing of PREPROCESS.md, with a cache on disk.

Every public function returns plain numpy; nothing here knows the network. The splits follow the
data's own files; validation pieces are cut from train by a hash of the item's name.
"""
import csv
import gzip
import io
import json
import math
import pathlib
import tarfile
import zipfile
import zlib

import numpy as np
from PIL import Image

CIFAR = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
ESC = ["baby_cry", "chainsaw", "clock_tick", "dog_bark", "fire_crackling", "helicopter",
       "person_sneeze", "rain", "rooster", "sea_waves"]
DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
# Words that name the classes of the unlabelled-by-caption sets; training draws one at random.
WORDS = {
    "airplane": ["airplane", "a photo of an airplane", "plane"],
    "automobile": ["automobile", "a photo of an automobile", "car"],
    "bird": ["bird", "a photo of a bird"], "cat": ["cat", "a photo of a cat"],
    "deer": ["deer", "a photo of a deer"], "dog": ["dog", "a photo of a dog"],
    "frog": ["frog", "a photo of a frog"], "horse": ["horse", "a photo of a horse"],
    "ship": ["ship", "a photo of a ship"], "truck": ["truck", "a photo of a truck"],
    "baby_cry": ["baby", "crying baby", "sound of a crying baby"],
    "chainsaw": ["chainsaw", "sound of a chainsaw"],
    "clock_tick": ["clock", "ticking clock", "mantelpiece clock"],
    "dog_bark": ["dog", "barking dog", "dog face"],
    "fire_crackling": ["fire", "crackling fire"],
    "helicopter": ["helicopter", "sound of a helicopter"],
    "person_sneeze": ["sneeze", "sneezing face", "person sneezing"],
    "rain": ["rain", "cloud with rain", "sound of rain"],
    "rooster": ["rooster", "sound of a rooster"],
    "sea_waves": ["sea waves", "water wave"],
}
for _i, _w in enumerate(DIGITS):
    WORDS[_w] = [_w, str(_i), "the digit " + _w]
# Words of shape captions that say how a thing is, not what it is.
VAGUE = set("""small large big high low long short wide thin thick flat round square single double half open closed empty full filled
front back side left right up down upper lower top bottom middle center centre end corner straight diagonal inner outer old new first second
age first-age second-age third-age red green blue white black brown grey gray yellow orange purple pink dark light dead snow autumn moss
part piece type body tile kit set single with and of the a on in normal common simple basic level output input details""".split())
CAPTION = {**{c: WORDS[c][1] for c in CIFAR}, **{w: "the digit " + w for w in DIGITS},
           "baby_cry": "crying baby", "chainsaw": "sound of a chainsaw", "clock_tick": "ticking clock",
           "dog_bark": "barking dog", "fire_crackling": "crackling fire", "helicopter": "sound of a helicopter",
           "person_sneeze": "person sneezing", "rain": "sound of rain", "rooster": "sound of a rooster",
           "sea_waves": "sea waves"}


def held_out(name, per_mille):
    """True for the part of names (about per_mille/1000) that validation keeps."""
    return zlib.crc32(name.encode()) % 1000 < per_mille


# ---- image -------------------------------------------------------------------------------------

def square(im, size=32, background=(255, 255, 255)):
    """Any picture to size x size x 3 uint8: flatten on background, centre square, Pillow bicubic."""
    if im.mode in ("P", "LA", "RGBA", "PA") or "transparency" in im.info:
        im = im.convert("RGBA")
        flat = Image.new("RGBA", im.size, tuple(background) + (255,))
        im = Image.alpha_composite(flat, im)
    im = im.convert("RGB")
    w, h = im.size
    s = min(w, h)
    x, y = (w - s) // 2, (h - s) // 2
    im = im.crop((x, y, x + s, y + s))
    if s != size:
        im = im.resize((size, size), Image.BICUBIC)
    return np.asarray(im, np.uint8)


def cifar(root, split):
    xs, ys, names = [], [], []
    with tarfile.open(root / "cifar10" / f"{split}.tar.gz") as t:
        for m in t:
            if not m.isfile():
                continue
            _, cls, name = m.name.rsplit("/", 2)
            im = Image.open(io.BytesIO(t.extractfile(m).read()))
            xs.append(square(im))
            ys.append(CIFAR.index(cls))
            names.append(cls + "/" + name)
    val = np.array([split == "train" and held_out(n, 20) for n in names])
    return {"x": np.stack(xs), "y": np.array(ys), "val": val}


def emoji(root):
    """Pictures as served (32x32 on white) and for augmentation (40x40 premultiplied RGBA)."""
    rows = [json.loads(l) for l in open(root / "emoji" / "captions.jsonl", encoding="utf8")]
    z = zipfile.ZipFile(root / "emoji" / "images.zip")
    out = {"x": [], "rgba": [], "concept": [], "split": [], "style": [], "file": []}
    for ci, r in enumerate(rows):
        for style, f in sorted(r["images"].items()):
            im = Image.open(io.BytesIO(z.read(f["file"]))).convert("RGBA")
            out["x"].append(square(im))
            a = np.asarray(im, np.float32)
            pre = np.concatenate([a[..., :3] * a[..., 3:] / 255, a[..., 3:]], -1)
            pre = np.clip(pre + 0.5, 0, 255).astype(np.uint8)
            chans = [np.asarray(Image.fromarray(pre[..., k]).resize((40, 40), Image.BICUBIC)) for k in range(4)]
            out["rgba"].append(np.stack(chans, -1))
            out["concept"].append(ci)
            out["split"].append(f["split"])
            out["style"].append(style)
            out["file"].append(f["file"])
    split = np.array(out["split"])
    concept = np.array(out["concept"])
    seen = {}
    for c in concept[split == "train"]:
        seen[c] = seen.get(c, 0) + 1
    for i in range(len(split)):  # validation: whole concepts, and single styles of concepts seen elsewhere
        if split[i] != "train":
            continue
        if held_out("concept" + rows[concept[i]]["hex"], 25):
            split[i] = "val_concept"
        elif seen[concept[i]] >= 2 and held_out(out["file"][i], 30):
            split[i] = "val_style"
            seen[concept[i]] -= 1
    return {"x": np.stack(out["x"]), "rgba": np.stack(out["rgba"]), "concept": concept, "split": split,
            "style": np.array(out["style"]), "file": np.array(out["file"])}, rows


# ---- audio -------------------------------------------------------------------------------------

def resample(x, src, dst, zeros=32, rolloff=0.945, beta=12.0):
    """Band-limited resampling with a Kaiser-windowed sinc (float64)."""
    if src == dst:
        return np.asarray(x, np.float64)
    g = math.gcd(src, dst)
    up, down = dst // g, src // g
    cut = rolloff * min(1.0, dst / src)
    half = int(math.ceil(zeros / cut))
    n_out = -(-len(x) * up // down)
    pad = np.pad(np.asarray(x, np.float64), (half, half + down + 1))
    y = np.zeros(n_out)
    for phase in range(up):
        n = np.arange(phase, n_out, up)
        t = n * down / up
        k0 = np.floor(t).astype(int)
        d = (phase * down / up) % 1.0
        k = np.arange(-half + 1, half + 1)
        arg = d - k
        win = np.i0(beta * np.sqrt(np.clip(1 - (arg / half) ** 2, 0, 1))) / np.i0(beta)
        h = cut * np.sinc(cut * arg) * win
        idx = k0[:, None] + k[None, :] + half
        y[n] = pad[idx] @ h
    return y


def mel_filters(sr=16000, n_fft=512, n_mels=64, f_min=0.0, f_max=8000.0):
    """librosa.filters.mel(htk=False, norm="slaney"): (n_mels, n_fft/2+1)."""
    def to_mel(f):
        f = np.asarray(f, np.float64)
        return np.where(f >= 1000, 15 + np.log(np.maximum(f, 1e-9) / 1000) / (np.log(6.4) / 27), f * 3 / 200)

    def to_hz(m):
        return np.where(m >= 15, 1000 * np.exp((np.log(6.4) / 27) * (m - 15)), 200 * m / 3)

    pts = to_hz(np.linspace(to_mel(f_min), to_mel(f_max), n_mels + 2))
    freqs = np.arange(n_fft // 2 + 1) * sr / n_fft
    lo, mid, hi = pts[:-2, None], pts[1:-1, None], pts[2:, None]
    w = np.maximum(0, np.minimum((freqs - lo) / (mid - lo), (hi - freqs) / (hi - mid)))
    return w * (2.0 / (hi - lo))


_MEL = mel_filters()
_WIN = np.pad(0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400), (56, 56))


def mel_power(pcm):
    """16 kHz mono samples in [-1,1] to power mel frames (T, 64), T = 1 + len//160."""
    x = np.pad(np.asarray(pcm, np.float64), (256, 256))
    t = 1 + (len(x) - 512) // 160
    idx = np.arange(t)[:, None] * 160 + np.arange(512)[None]
    spec = np.abs(np.fft.rfft(x[idx] * _WIN, axis=1)) ** 2
    return (spec @ _MEL.T).astype(np.float32)


def logmel(power):
    """power_to_db(ref=max, top_db=80), then x/40 + 1: in [-1, 1]."""
    db = 10 * np.log10(np.maximum(power, 1e-10))
    db = np.maximum(db - db.max(), -80.0)
    return (db * 0.025 + 1.0).astype(np.float32)


def _wav(b):
    import wave
    w = wave.open(io.BytesIO(b))
    assert w.getnchannels() == 1 and w.getsampwidth() == 2
    return np.frombuffer(w.readframes(w.getnframes()), "<i2") / 32768.0, w.getframerate()


def fsdd(root):
    z = zipfile.ZipFile(root / "fsdd" / "recordings.zip")
    mels, ys, speaker, split, names = [], [], [], [], []
    for n in sorted(z.namelist()):
        if not n.endswith(".wav"):
            continue
        d, who, i = n.rsplit("/", 1)[-1][:-4].split("_")
        pcm, rate = _wav(z.read(n))
        mels.append(mel_power(resample(pcm, rate, 16000)))
        ys.append(int(d))
        speaker.append(who)
        names.append(n)
        i = int(i)
        split.append("test" if i < 5 else "val" if i < 7 else "train")
    return {"mel": mels, "y": np.array(ys), "speaker": np.array(speaker), "split": np.array(split), "file": names}


def esc10(root):
    import miniaudio
    z = zipfile.ZipFile(root / "esc10" / "clips.zip")
    mels, ys, split, names = [], [], [], []
    for n in sorted(z.namelist()):
        if not n.endswith(".mp3"):
            continue
        cls, f = n.split("/")[-2:]
        fold, fsid = f.split("-")[:2]
        d = miniaudio.decode(z.read(n), nchannels=1, sample_rate=16000, output_format=miniaudio.SampleFormat.FLOAT32)
        mels.append(mel_power(np.frombuffer(d.samples, np.float32)[:160000]))
        ys.append(ESC.index(cls))
        split.append("test" if fold == "5" else "val" if fold == "4" and held_out(fsid, 500) else "train")
        names.append(n)
    return {"mel": mels, "y": np.array(ys), "split": np.array(split), "file": names}


# ---- points ------------------------------------------------------------------------------------

def shapes(root):
    d = root / "shapes3d"
    rows = [json.loads(l) for l in open(d / "index.jsonl", encoding="utf8")]
    meta = json.load(open(d / "meta.json"))
    n = len(rows)
    xyz = np.frombuffer(gzip.open(d / "xyz.i16le.gz").read(), "<i2").reshape(n, 1024, 3)
    nrm = np.frombuffer(gzip.open(d / "normals.i8.gz").read(), np.int8).reshape(n, 1024, 3)
    rgb = np.frombuffer(gzip.open(d / "rgb.u8.gz").read(), np.uint8).reshape(n, 1024, 3)
    names = [c for c in meta["classes"] if c != "other"] if "classes" in meta else None
    if isinstance(names, dict) or names is None:
        names = sorted({r["cls"] for r in rows} - {"other"})
    split = np.array(["val" if r["split"] == "train" and held_out(str(r["group"]), 80) else r["split"] for r in rows])
    y = np.array([names.index(r["cls"]) if r["cls"] in names else -1 for r in rows])
    return {"xyz": (xyz / 32767.0).astype(np.float32), "normals": (nrm / 127.0).astype(np.float32), "rgb": rgb,
            "y": y, "split": split, "caption": [r["caption"] for r in rows], "names": names}


def fourier(pos, bands, max_resolution):
    """(.., D) positions to (.., D + 2*D*bands): positions, all sines, all cosines (axis major)."""
    pos = np.asarray(pos, np.float32)
    out = [pos]
    arg = []
    for d, r in enumerate(max_resolution):
        f = np.linspace(1.0, r / 2.0, bands).astype(np.float32)
        arg.append(pos[..., d:d + 1] * f)
    arg = (np.concatenate(arg, -1) * np.float32(np.pi)).astype(np.float32)
    return np.concatenate(out + [np.sin(arg), np.cos(arg)], -1)


def unit_sphere(xyz):
    """Mean to 0, farthest point to distance 1 (M,3)."""
    xyz = xyz - xyz.mean(0, keepdims=True)
    return (xyz / max(1e-12, np.sqrt((xyz ** 2).sum(1).max()))).astype(np.float32)


def point_rows(xyz, normals=None, rgb=None, bands=8, res=32):
    """xyz (M,3) as read; normals; rgb 0..255: rows (M,57) = normals, colours in 0..1, Fourier code. 0 where absent."""
    zero = np.zeros(xyz.shape, np.float32)
    n = normals if normals is not None else zero
    c = np.asarray(rgb, np.float32) / 255 if rgb is not None else zero
    return np.concatenate([n, c, fourier(unit_sphere(xyz), bands, [res] * 3)], -1).astype(np.float32)


# ---- text --------------------------------------------------------------------------------------

def tokens(text, max_length=512):
    """[CLS] bytes [SEP]; byte b is id b+6; cut to max_length ids."""
    b = text.encode("utf8") if isinstance(text, str) else bytes(text)
    return np.array([4] + [v + 6 for v in b[:max_length - 2]] + [5], np.int64)


def texts(root):
    d = root / "text"
    out = {}

    def tsv(name, *fields):
        with open(d / name, encoding="utf8", newline="") as f:
            return [dict(zip(fields, l)) for l in csv.reader(f, delimiter="\t", quoting=csv.QUOTE_NONE)]

    rows = tsv("snips_intents.tsv", "split", "intent", "text")
    lab = sorted({r["intent"] for r in rows})
    out["snips"] = {"text": [r["text"] for r in rows], "y": np.array([lab.index(r["intent"]) for r in rows]), "labels": lab,
                    "split": np.array(["val" if r["split"] == "train" and held_out(r["text"], 30) else r["split"] for r in rows])}
    rows = tsv("clinc150_intents.tsv", "split", "domain", "intent", "text")
    lab = sorted({r["intent"] for r in rows})
    out["clinc150"] = {"text": [r["text"] for r in rows], "y": np.array([lab.index(r["intent"]) for r in rows]), "labels": lab,
                       "split": np.array([r["split"] for r in rows])}
    rows = tsv("udhr_langid.tsv", "split", "language", "text")
    code = "language"
    lab = sorted({r[code] for r in rows})
    out["language"] = {"text": [r["text"] for r in rows], "y": np.array([lab.index(r[code]) for r in rows]), "labels": lab,
                       "split": np.array(["val" if r["split"] == "train" and held_out(r[code] + r["text"], 50) else r["split"] for r in rows])}
    b = (d / "tinyshakespeare.txt").read_bytes()
    cut = len(b) * 9 // 10
    out["shakespeare"] = {"train": b[:cut * 98 // 100], "val": b[cut * 98 // 100:cut], "test": b[cut:]}
    return out


def load(root, cache):
    """Everything, from the cache when it is there."""
    import pickle
    root, cache = pathlib.Path(root), pathlib.Path(cache)
    cache.mkdir(parents=True, exist_ok=True)
    f = cache / "all.pkl"
    if f.exists():
        return pickle.load(open(f, "rb"))
    e, rows = emoji(root)
    d = {"cifar": cifar(root, "train"), "emoji": e, "emoji_rows": rows, "fsdd": fsdd(root), "esc10": esc10(root),
         "shapes": shapes(root), "text": texts(root)}
    pickle.dump(d, open(f, "wb"), protocol=4)
    return d


if __name__ == "__main__":
    import sys
    d = load(sys.argv[1], sys.argv[2])
    for k, v in d.items():
        if isinstance(v, dict):
            print(k, {a: (b.shape if hasattr(b, "shape") else len(b)) for a, b in v.items()})
            if "split" in v:
                print("   ", dict(zip(*np.unique(v["split"], return_counts=True))))
