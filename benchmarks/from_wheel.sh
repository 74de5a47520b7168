#!/usr/bin/env bash
# The example of a model of one's own, from an empty folder with nothing but the wheel installed.
#
#     benchmarks/from_wheel.sh [FOLDER]      # a temporary folder where none is named; it may have a venv of an earlier call
#
# Builds the wheel, makes a virtual environment with it, and there: trains, kills the training (SIGKILL), goes on, exports,
# compresses, decompresses in another process, and asks for the file without the module. Ends with the first thing that
# is not so. Nine minutes on two shared cores, most of it installation and first compilations.
set -euo pipefail

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
FOLDER="$(mkdir -p "${1:-.}" && cd "${1:-$(mktemp -d)}" && pwd)"
unset PYTHONPATH MLIC_MODEL MLIC_MODELS MLIC_MODULES
export JAX_PLATFORMS=cpu

fail() { echo "FAILED: $*" >&2; exit 1; }
say() { echo "== $*"; }

say "the wheel"
rm -rf "$FOLDER/dist" "$FOLDER/empty"
"${PYTHON:-python3}" -m pip wheel --quiet --no-deps "$ROOT" -w "$FOLDER/dist"
ls -l "$FOLDER"/dist | awk 'NR > 1 {print $5, $9}'
[ -x "$FOLDER/venv/bin/python" ] || "${PYTHON:-python3}" -m venv "$FOLDER/venv"
wheel="$(ls "$FOLDER"/dist/*.whl)"
"$FOLDER/venv/bin/python" -m pip install --quiet --disable-pip-version-check -c "$ROOT/launch/constraints.txt" "$wheel[train,hub]"
"$FOLDER/venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --force-reinstall "$wheel"
export PATH="$FOLDER/venv/bin:$PATH"

mkdir "$FOLDER/empty"
cd "$FOLDER/empty"
cp "$ROOT"/examples/own_model/{config,snake_hyperprior}.py .
python - << 'PYTHON'
import mlic_jax, pathlib
assert "site-packages" in mlic_jax.__file__, mlic_jax.__file__
from mlic_jax import data
from PIL import Image
Image.open(data.bundled("validation")[0]).save("photo.png")
PYTHON
mlic models

say "a training that is killed"
train=(env PYTHONPATH=. mlic train --config config.py --workdir run --config.train.steps=24
  --config.train.checkpoint_every=4 --config.train.evaluate_every=12 --config.train.log_every=1 --config.train.samples=1
  --config.data.batch_size=4 --config.data.patch_size=64 --config.data.validation_patch=64)
"${train[@]}" > first.log 2>&1 &
process=$!
for _ in $(seq 3000); do
  kill -0 $process 2> /dev/null || { cat first.log; fail "the training ended by itself"; }
  [ -d run/checkpoints/8 ] && break
  sleep 0.2
done
kill -9 $process
wait $process 2> /dev/null && fail "it was not killed"
echo "killed; checkpoints that are whole: $(ls run/checkpoints | grep -x '[0-9]*' | sort -n | tr '\n' ' ')"

say "the same command again"
"${train[@]}" 2>&1 | tee second.log | grep -a resumed || { cat second.log; fail "it did not go on"; }
steps="$(python -c 'import json; print([r["step"] for r in map(json.loads, open("run/metrics.jsonl")) if r["kind"] == "train"] == list(range(1, 25)))')"
[ "$steps" = True ] || fail "metrics.jsonl does not have each step once"
echo "each of 24 steps stands once in metrics.jsonl"

say "export, compress, and decompress in another process"
PYTHONPATH=. mlic export --run run -o snake.mlicm --folder snake
export MLIC_MODULES=snake_hyperprior
PYTHONPATH=. mlic compress photo.png -m snake.mlicm
PYTHONPATH=. mlic decompress photo.mlic -m snake.mlicm -o back.png
PYTHONPATH=. mlic decompress photo.mlic -m snake -o again.png
cmp back.png again.png || fail "the folder is another model than the file"
mlic info photo.mlic | grep -E "model|portable|bpp"
MLIC_MODELS=. mlic models

say "without the module"
status=0
mkdir elsewhere
(cd elsewhere && mlic decompress ../photo.mlic -m ../snake.mlicm -o back.png) 2> error.txt || status=$?
cat error.txt
[ "$status" = 5 ] && [ "$(wc -l < error.txt)" = 1 ] || fail "exit status $status"
grep -q "no module 'snake_hyperprior'" error.txt || fail "the line names no module"
status=0
(unset MLIC_MODULES; PYTHONPATH=. mlic decompress photo.mlic -m snake.mlicm -o no.png) 2> error.txt || status=$?
cat error.txt
[ "$status" = 5 ] && [ "$(wc -l < error.txt)" = 1 ] || fail "exit status $status"
say "all of it is so"
