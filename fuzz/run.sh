#!/bin/sh
# Fuzzes what reads untrusted bytes, then prints which of its lines the committed corpus reaches.
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

while [ "$seconds" -gt 0 ]; do
    round=$((seconds < 60 ? seconds : 60))
    $python fuzz/target.py .cache/fuzz/corpus fuzz/corpus -max_total_time=$round -timeout=5 -rss_limit_mb=1024 \
        -malloc_limit_mb=256 -max_len=4096 -artifact_prefix=.cache/fuzz/ -verbosity=0 -print_final_stats=1
    seconds=$((seconds - round))
done

export COVERAGE_FILE=.cache/fuzz/coverage
package=mlic_jax
readers=$package/container.py,$package/entropy/rangecoder.py,$package/metadata.py,$package/plane.py,$package/picture.py
$python -m coverage run --include="$readers" fuzz/target.py --replay fuzz/corpus
$python -m coverage report -m
