"""Media to latents, a task's answer and embeddings, with nothing but Python's own library.

usage: MMSERVE=http://127.0.0.1:8080 python3 examples/http/encode.py FILE…
"""

import array
import base64
import json
import os
import sys
import urllib.error
import urllib.request

URL = os.environ.get("MMSERVE", "http://127.0.0.1:8080")


def ask(path, body, content_type="application/json"):
    data = json.dumps(body).encode() if content_type == "application/json" else body
    request = urllib.request.Request(URL + path, data=data, headers={
        "Content-Type": content_type, "Authorization": "Bearer " + os.environ.get("MMSERVE_KEY", "none")})
    try:
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as e:
        problem = json.load(e)
        sys.exit(f"{problem.get('status')} {problem.get('code')}: {problem.get('detail')}")


def floats(tensor):
    """A tensor's values, row by row (f32)."""
    values = array.array("f")
    values.frombytes(base64.b64decode(tensor["data"]))
    if sys.byteorder == "big":
        values.byteswap()
    return values


for name in sys.argv[1:]:
    with open(name, "rb") as f:
        item = ask("/v1/encode?output=latents", f.read(), "application/octet-stream")["data"][0]
    latents = floats(item["latents"])
    print(name, item["plan"]["modality"], item["latents"]["shape"], f"first {latents[0]:.4f}")
    # Kept for as long as one likes, they are asked without the file.
    decoded = ask("/v1/decode", {"inputs": [{"latents": item["latents"]}], "modality": item["plan"]["modality"], "top": 1})["data"][0]["prediction"]
    print({head["task"]: head["classes"][0]["label"] for head in decoded["heads"]})

answer = ask("/v1/predict", {"inputs": [{"content": [{"type": "text", "text": "play some jazz"}]}], "top": 2})
print(json.dumps(answer["data"][0]["prediction"])[:200])
vectors = [d["embedding"] for d in ask("/v1/embeddings", {"input": ["a cat", "a kitten"]})["data"]]
print("cosine", round(sum(a * b for a, b in zip(*vectors)), 4))
