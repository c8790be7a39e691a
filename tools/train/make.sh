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
data=$1
out=$2
mkdir -p "$out"
[ -f "$out/cache/all.pkl" ] || $py "$here/data.py" "$data" "$out/cache"

# together SCRIPT ARGS..: one process a rank, rank 0 in front
together() {
    script=$1
    shift
    rm -f "$out/rendezvous"
    rank=1
    while [ "$rank" -lt "$world" ]; do
        $py "$here/$script" "$data" "$out" "$@" --world "$world" --rank "$rank" --threads "${THREADS:-1}" &
        rank=$((rank + 1))
    done
    $py "$here/$script" "$data" "$out" "$@" --world "$world" --rank 0 --threads "${THREADS:-1}"
    wait
}

together train.py --minutes "${MINUTES:-180}" --steps "${STEPS:-0}"
set -- "$3" "$4" --deadline "$(($(date +%s) + 60 * ${CAPTION_MINUTES:-40}))" --steps "${CAPTION_STEPS:-0}"
model=$1 case=$2
shift 2
$py "$here/caption.py" "$data" "$out" "$@" --lm-only
$py "$here/caption.py" "$data" "$out" "$@" --collect-only --views "${VIEWS:-24}"
together caption.py "$@"
$py "$here/export.py" "$data" "$out" "$model" "$case"
$py "$here/plot.py" "$out" "$out/curves.png"
