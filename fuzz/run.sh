#!/bin/sh
# Fuzzes what reads untrusted bytes, picture files for SECONDS and .mlic files for SECONDS, then prints which lines of the
# readers of .mlic files the committed corpus reaches.
#
#     fuzz/run.sh SECONDS [PYTHON]
#
# Needs `pip install -e .[fuzz]`. The committed corpus is only read; what a run adds is kept in .cache/fuzz/corpus and
# used again by the next. An input that is a finding is written to .cache/fuzz, and the exit status is not 0.
#
# A new process every minute: atheris keeps the numbers of every comparison that it watches, 4 KB an input. Without
# atheris, memory stays what it is (--replay).
set -eu
cd "$(dirname "$0")/.."
seconds=${1:?"usage: fuzz/run.sh SECONDS [PYTHON]"}
python=${2:-python}
mkdir -p .cache/fuzz/corpus

# Picture files first, for as long again: they need no atheris.
$python fuzz/picture_files.py "$seconds" "$(date +%s)"

while [ "$seconds" -gt 0 ]; do
    round=$((seconds < 60 ? seconds : 60))
    $python fuzz/target.py .cache/fuzz/corpus fuzz/corpus -max_total_time=$round -timeout=5 -rss_limit_mb=1024 \
        -malloc_limit_mb=256 -max_len=4096 -artifact_prefix=.cache/fuzz/ -verbosity=0 -print_final_stats=1
    seconds=$((seconds - round))
done

export COVERAGE_FILE=.cache/fuzz/coverage
files=mlic_jax/fileformat
readers=$files/container.py,mlic_jax/entropy/rangecoder.py,$files/metadata.py,$files/alpha.py,$files/modes.py
$python -m coverage run --include="$readers" fuzz/target.py --replay fuzz/corpus
$python -m coverage report -m
