# Sourced by the other scripts: a virtual environment beside the checkout, made once and brought up to date when
# setup.py or the pinned versions change. Sets $ROOT, puts the environment's programs on PATH, caches compiled programs.
#
# PYTHON: the interpreter to build it with (3.11 or later). VENV: its folder.
set -euo pipefail

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
VENV="${VENV:-$ROOT/.venv}"

find_python() {
  for candidate in "${PYTHON:-}" python3.12 python3.11 python3; do
    if [ -n "$candidate" ] && "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  echo "mlic_jax needs Python 3.11 or later: install it, or name it by PYTHON=/path/to/python3.11" >&2
  return 1
}

prepare() {  # prepare EXTRAS
  local stamp wanted began
  stamp="$VENV/.mlic-$1"
  wanted="$(cat "$ROOT/setup.py" "$ROOT/launch/constraints.txt" | cksum)"
  if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then
    return
  fi
  began=$SECONDS
  if [ ! -x "$VENV/bin/python" ]; then
    local python
    python="$(find_python)"
    echo "== making a virtual environment in $VENV ($("$python" --version))"
    "$python" -m venv "$VENV"
  fi
  echo "== installing mlic_jax[$1] and what it needs (about 1 GB; a minute or two)"
  "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check \
    -c "$ROOT/launch/constraints.txt" -e "$ROOT[$1]"
  echo "$wanted" > "$stamp"
  echo "== installed in $((SECONDS - began)) s"
}

activate() {
  export PATH="$VENV/bin:$PATH"
  # Compiled programs are kept beside the checkout: whatever ran once starts at once.
  export JAX_COMPILATION_CACHE_DIR="${JAX_COMPILATION_CACHE_DIR:-$ROOT/.cache/jax}"
  export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0 JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES=-1
}
