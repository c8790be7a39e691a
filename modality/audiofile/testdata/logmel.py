"""Makes logmel.json: log-mel values of two files of testdata/media/audio by librosa 0.11
(numpy 2.4, scipy 1.17), in float64. Run here: python3 logmel.py
Each case lists the frames kept, with all their bands, and the sum over all frames."""
import json, wave
import numpy as np, librosa

def read(name):
    w = wave.open("../../../testdata/media/audio/" + name)
    x = np.frombuffer(w.readframes(w.getnframes()), "<i2").astype(np.float64) / 32768
    return x, w.getframerate()

def case(name, file, config, log, keep=(0, 1, 2, 7, -2, -1), drop=False, **kw):
    x, sr = read(file)
    mel = librosa.filters.mel(sr=sr, n_fft=kw["n_fft"], n_mels=kw["n_mels"], fmin=kw.get("fmin", 0), fmax=kw.get("fmax"),
                              htk=kw.get("htk", False), norm=kw.get("norm", "slaney"), dtype=np.float64)
    # Padded here: librosa 0.11 pads only the tail of the signal, which puts one wrong sample, of weight
    # 6e-5, into the last frame when the hop is half the transform.
    if kw.get("center", True):
        x = np.pad(x, kw["n_fft"] // 2, mode=kw.get("pad_mode", "reflect"))
    s = np.abs(librosa.stft(x, n_fft=kw["n_fft"], hop_length=kw["hop_length"], win_length=kw.get("win_length"),
                            center=False, dtype=np.complex128)) ** kw.get("power", 2.0)
    y = log(mel @ s)
    if drop:
        y = y[:, :-1]
    t = y.shape[1]
    keep = sorted({k % t for k in keep})
    return dict(name=name, file=file, config=config, frames=t, sum=float(y.sum()),
                rows={str(k): [round(float(v), 7) for v in y[:, k]] for k in keep})

def whisper(m):
    y = np.log10(np.maximum(m, 1e-10))
    return (np.maximum(y, y[:, :-1].max() - 8) + 4) / 4   # the last frame is dropped before the maximum

cases = [
    case("whisper", "wav_s16_16000_mono.wav", dict(Range=8, Add=4, Scale=0.25, Drop=True), whisper, drop=True,
         n_fft=400, hop_length=160, n_mels=80),
    case("librosa defaults", "fsdd-7_george_0.wav", dict(Rate=8000, FFT=2048, Hop=512, Mels=128, Edge="constant", Log="db", Range=80),
         lambda m: librosa.power_to_db(m, ref=1.0, amin=1e-10, top_db=80), n_fft=2048, hop_length=512, n_mels=128, pad_mode="constant"),
    case("torchaudio defaults", "wav_s16_16000_mono.wav", dict(Hop=200, Mels=64, HTK=True, Plain=True, Log="db"),
         lambda m: 10 * np.log10(np.maximum(m, 1e-10)), n_fft=400, hop_length=200, n_mels=64, htk=True, norm=None),
    case("magnitudes, short window, not centred", "wav_s16_16000_mono.wav",
         dict(FFT=512, Window=401, Hop=160, Mels=40, MinHz=125, MaxHz=7500, HTK=True, Plain=True, Power=1, Log="ln", Floor=0.01, Edge="none"),
         lambda m: np.log(np.maximum(m, 0.01)), n_fft=512, win_length=401, hop_length=160, n_mels=40, fmin=125, fmax=7500, htk=True,
         norm=None, power=1.0, center=False),
]
with open("logmel.json", "w") as f:
    json.dump(cases, f, indent=0)
