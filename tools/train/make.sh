#!/bin/sh
# From raw data to the shipped files: sh make.sh DATA_DIR OUT_DIR MODEL_DIR CASE_DIR. MINUTES (default 240) is the budget of the main training.
set -e
here=$(dirname "$0")
py=${PYTHON:-python}
mkdir -p "$2"
$py "$here/train.py" "$1" "$2" --minutes "${MINUTES:-240}"
$py "$here/tune.py" "$1" "$2" --minutes "${TUNE_MINUTES:-30}" --scale "${TUNE_SCALE:-4}"
$py "$here/caption.py" "$1" "$2" --minutes "${CAPTION_MINUTES:-40}"
$py "$here/export.py" "$1" "$2" "$3" "$4"
$py "$here/plot.py" "$2" "$2/curves.png"
