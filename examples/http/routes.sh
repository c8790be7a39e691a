#!/bin/sh
# Every route, with curl. Start a server first: mmserve serve
# usage: MMSERVE=http://127.0.0.1:8080 MEDIA=testdata/media sh examples/http/routes.sh
# MMSERVE_KEY is the key, MMSERVE_ADMIN the URL of --admin-listen, where there are such.
set -eu
url=${MMSERVE:-http://127.0.0.1:8080}
media=${MEDIA:-testdata/media}
auth="Authorization: Bearer ${MMSERVE_KEY:-none}"
ask() { curl --fail-with-body --silent --show-error -H "$auth" "$@"; echo; }
start() { head -c 300; cat >/dev/null; echo; } # of a long answer

# What an image, a sound, a point cloud and a text are.
ask --data-binary @"$media/image/go-video-001.rgb.jpeg" -H 'Content-Type: image/jpeg' "$url/v1/predict?top=3"
ask --data-binary @"$media/audio/fsdd-7_george_0.wav" -H 'Content-Type: audio/wav' "$url/v1/predict?top=3"
ask --data-binary @"$media/pointcloud/pyntcloud-diamond.ply" -H 'Content-Type: application/octet-stream' "$url/v1/predict?top=3"
ask -H 'Content-Type: application/json' "$url/v1/predict" \
  -d '{"inputs":[{"content":[{"type":"text","text":"what is the weather in Lisbon"}]}]}'

# Latents: JSON, then a NumPy file.
ask -H 'Content-Type: application/json' "$url/v1/encode" \
  -d '{"inputs":[{"id":"a","content":[{"type":"text","text":"hello"}]}],"output":["latents","pooled"],"dtype":"f16"}' | start
ask --output /dev/null --data-binary @"$media/audio/fsdd-7_george_0.wav" -H 'Accept: application/x-npy' -H 'Content-Type: audio/wav' "$url/v1/encode"
# Latents kept as a file, and what the model answers of them later, without the sound.
kept=$(mktemp)
ask --output "$kept" --data-binary @"$media/audio/fsdd-7_george_0.wav" -H 'Accept: application/vnd.safetensors' -H 'Content-Type: audio/wav' "$url/v1/encode"
ask --data-binary @"$kept" -H 'Content-Type: application/vnd.safetensors' "$url/v1/decode?modality=audio&top=1"
rm "$kept"
# Several files in one request, one part an item.
ask -F 'request={"output":["pooled"]};type=application/json' -F "a=@$media/audio/fsdd-7_george_0.wav;type=audio/wav" \
  -F "b=@$media/image/go-video-001.rgb.jpeg;type=image/jpeg" "$url/v1/encode" | start

# Text about media, from the model's own language model: as it comes, whole, and in OpenAI's words.
ask -N -H 'Content-Type: application/json' "$url/v1/generate" -d '{"content":[{"type":"text","text":"seven"}],"max_tokens":4}'
ask -H 'Content-Type: application/json' "$url/v1/generate" -d '{"content":[{"type":"text","text":"seven"}],"max_tokens":4,"stream":false}'
ask -H 'Content-Type: application/json' "$url/v1/chat/completions" -d @- <<BODY
{"messages":[{"role":"user","content":[
  {"type":"image_url","image_url":{"url":"data:image/jpeg;base64,$(base64 <"$media/image/go-video-001.rgb.jpeg" | tr -d '\n')"}}]}],
 "max_tokens":4,"temperature":0}
BODY

# What it would cost; what there is.
ask --data-binary @"$media/image/go-video-001.rgb.jpeg" -H 'Content-Type: image/jpeg' "$url/v1/plan"
ask "$url/v1/models"
ask "$url/v1/models/default" | start
ask "$url/v1/modalities" | start

# OpenAI's embeddings, and the Open Inference Protocol's words for the same.
ask -H 'Content-Type: application/json' "$url/v1/embeddings" -d '{"input":["hello","world"],"dimensions":8}'
ask "$url/v2"
ask "$url/v2/health/live"
ask "$url/v2/health/ready" || true # 503 until the first canary has passed
ask "$url/v2/models/default"
ask "$url/v2/models/default/ready"
ask -H 'Content-Type: application/json' "$url/v2/models/default/infer" \
  -d '{"inputs":[{"name":"text","datatype":"BYTES","shape":[1],"data":["hello"]}],"outputs":[{"name":"pooled"}]}' | start

# For operators. Where the server has --admin-listen, the last four are on that address.
ask "$url/healthz"
ask "$url/readyz" || true
ask "$url/openapi.json" | start
admin=${MMSERVE_ADMIN:-$url}
ask -X POST "$admin/admin/v1/models/default/unload"
ask -X POST "$admin/admin/v1/models/default/load" | start
ask -X POST "$admin/admin/v1/models/default/reload" | start
ask "$admin/metrics" | grep '^mmserve_requests_total' | head -n 5
