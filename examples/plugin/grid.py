#!/usr/bin/env python3
"""A modality without Go: elevation grids of the ESRI ASCII format, one row of the byte array a cell
(height / 1000, then x and y from -1 to 1). Put it, executable, into the directory of MMSERVE_PLUGINS.
The protocol is described in modality/external."""
import array
import json
import struct
import sys

INFO = {
    "name": "elevation", "doc": "elevation grids, ESRI ASCII", "channels": 3,
    "media_types": ["text/x-esri-grid"], "extensions": [".asc"],
    "magic": [{"media_type": "text/x-esri-grid", "bytes": "bmNvbHM="}],  # "ncols" in base64
    "options": {"type": "object", "additionalProperties": False},
}


def size(data):
    head = dict(line.split()[:2] for line in data[:4096].decode("ascii").lower().splitlines()[:2])
    return int(head["ncols"]), int(head["nrows"])


def answer(q, data):
    if q["op"] == "info":
        return {"info": INFO}, b""
    w, h = size(data)
    if q["op"] == "plan":
        return {"rows": w * h, "channels": 3}, b""
    lines = [l for l in data.decode("ascii").splitlines() if l.strip() and not l[0].isalpha()]
    heights = [float(v) for l in lines for v in l.split()]
    if len(heights) != w * h:
        raise ValueError(f"{len(heights)} heights, {w}x{h} are announced")
    rows = array.array("f")
    for i, z in enumerate(heights):
        rows.extend((z / 1000, 2 * (i % w) / max(w - 1, 1) - 1, 2 * (i // w) / max(h - 1, 1) - 1))
    if sys.byteorder == "big":
        rows.byteswap()
    return {"rows": w * h, "channels": 3}, rows.tobytes()


while head := sys.stdin.buffer.read(4):
    q = json.loads(sys.stdin.buffer.read(struct.unpack("<I", head)[0]))
    data = sys.stdin.buffer.read(q.get("bytes", 0))
    try:
        a, rows = answer(q, data)
    except (ValueError, KeyError) as e:
        a, rows = {"error": {"code": "malformed", "detail": f"elevation: {e}"}}, b""
    b = json.dumps(a | {"bytes": len(rows)}).encode()
    sys.stdout.buffer.write(struct.pack("<I", len(b)) + b + rows)
    sys.stdout.buffer.flush()
