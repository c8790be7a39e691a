#!/bin/sh
# Every route, with curl. Start a server first: mmserve serve
# usage: MMSERVE=http://127.0.0.1:8080 MEDIA=testdata/media sh examples/http/routes.sh
set -eu
url=${MMSERVE:-http://127.0.0.1:8080}
media=${MEDIA:-testdata/media}
auth="Authorization: Bearer ${MMSERVE_KEY:-none}"
ask() { curl --fail-with-body --silent --show-error -H "$auth" "$@"; echo; }

# What an image, a sound, a point cloud and a text are.
ask --data-binary @"$media/image/go-video-001.rgb.jpeg" -H 'Content-Type: image/jpeg' "$url/v1/predict?top=3"
ask --data-binary @"$media/audio/fsdd-7_george_0.wav" -H 'Content-Type: audio/wav' "$url/v1/predict?top=3"
ask --data-binary @"$media/pointcloud/pyntcloud-diamond.ply" -H 'Content-Type: application/octet-stream' "$url/v1/predict?top=3"
ask -H 'Content-Type: application/json' "$url/v1/predict" \
  -d '{"inputs":[{"content":[{"type":"text","text":"what is the weather in Lisbon"}]}]}'

# Latents: JSON, then a NumPy file.
ask -H 'Content-Type: application/json' "$url/v1/encode" \
  -d '{"inputs":[{"id":"a","content":[{"type":"text","text":"hello"}]}],"output":["latents","pooled"],"dtype":"f16"}' | head -c 300
ask --output /dev/null --data-binary @"$media/audio/fsdd-7_george_0.wav" -H 'Accept: application/x-npy' -H 'Content-Type: audio/wav' "$url/v1/encode"
# Several files in one request, one part an item.
ask -F 'request={"output":["pooled"]};type=application/json' -F "a=@$media/audio/fsdd-7_george_0.wav;type=audio/wav" \
  -F "b=@$media/image/go-video-001.rgb.jpeg;type=image/jpeg" "$url/v1/encode" | head -c 300

# What it would cost; what there is.
ask --data-binary @"$media/image/go-video-001.rgb.jpeg" -H 'Content-Type: image/jpeg' "$url/v1/plan"
ask "$url/v1/models"
ask "$url/v1/modalities" | head -c 300

# OpenAI's and the Open Inference Protocol's words for the same.
ask -H 'Content-Type: application/json' "$url/v1/embeddings" -d '{"input":["hello","world"],"dimensions":8}'
ask -H 'Content-Type: application/json' "$url/v2/models/default/infer" \
  -d '{"inputs":[{"name":"text","datatype":"BYTES","shape":[1],"data":["hello"]}],"outputs":[{"name":"pooled"}]}' | head -c 300
ask "$url/v2/models/default"
ask "$url/healthz"
ask "$url/metrics" | head -n 5
