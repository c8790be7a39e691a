#!/bin/sh
# From raw data to the shipped files: sh make.sh DATA_DIR OUT_DIR MODEL_DIR CASE_DIR.
#
# MINUTES (default 180) and CAPTION_MINUTES (40) are the budgets; STEPS and CAPTION_STEPS give repeatable ones instead.
# WORLD is how many processes share each batch (2 suits two cores). PYTHON names the interpreter.
# Start it again after an interruption: what is done is kept, the training goes on from its last checkpoint.
set -e
here=$(dirname "$0")
py=${PYTHON:-python}
world=${WORLD:-1}
mkdir -p "$2"
rm -f "$2/rendezvous"
[ -f "$2/cache/all.pkl" ] || $py "$here/data.py" "$1" "$2/cache"
rank=1
while [ "$rank" -lt "$world" ]; do
    $py "$here/train.py" "$1" "$2" --minutes "${MINUTES:-180}" --steps "${STEPS:-0}" --world "$world" --rank "$rank" --threads "${THREADS:-1}" &
    rank=$((rank + 1))
done
$py "$here/train.py" "$1" "$2" --minutes "${MINUTES:-180}" --steps "${STEPS:-0}" --world "$world" --rank 0 --threads "${THREADS:-1}"
wait
$py "$here/caption.py" "$1" "$2" --minutes "${CAPTION_MINUTES:-40}" --steps "${CAPTION_STEPS:-0}"
$py "$here/export.py" "$1" "$2" "$3" "$4"
$py "$here/plot.py" "$2" "$2/curves.png"
