# shellcheck shell=bash
# Sourced by the other scripts: a virtual environment beside the checkout, made once and brought up to date when
# setup.py or the pinned versions change. Sets $ROOT, puts the environment's programs on PATH, caches compiled programs.
#
# PYTHON: the interpreter to build it with (3.11 or later). VENV: its folder. CUDA: 12 or 13, where the driver is not asked.
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

prepare() {  # prepare EXTRAS [cpu|cuda|tpu]
  local jax stamp wanted began
  jax="$(jax_for "${2:-cpu}")"
  stamp="$VENV/.mlic-$1${jax:+-$jax}"
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
  echo "== installing mlic_jax[$1]${jax:+ and $jax} and what it needs (about 1 GB, with CUDA 4; a minute or two)"
  "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check \
    -c "$ROOT/launch/constraints.txt" -e "${ROOT}[$1]" ${jax:+"$jax"}
  echo "$wanted" > "$stamp"
  echo "== installed in $((SECONDS - began)) s"
}

jax_for() {  # jax_for cpu|cuda|tpu: what pip has to install beyond mlic_jax
  local driver
  case "$1" in
    cpu) ;;
    tpu) echo "jax[tpu]" ;;
    cuda)
      # CUDA 13 needs a driver of 580 or later. Where there is none to ask, as on a cluster's login node, it is assumed.
      driver="$( (nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null || true) | head -n 1)"
      driver="${driver%%.*}"
      if [[ "$driver" =~ ^[0-9]+$ ]] && [ "$driver" -lt 580 ]; then
        echo "jax[cuda${CUDA:-12}]"
      else
        echo "jax[cuda${CUDA:-13}]"
      fi
      ;;
    *)
      echo "no such kind of machine: $1 (cpu, cuda and tpu are)" >&2
      return 2
      ;;
  esac
}

need_config_and_workdir() {  # need_config_and_workdir "$@"
  if [ $# -lt 2 ]; then
    echo "usage: ${0##*/} CONFIG[:VARIANT] WORKDIR [--config.key=value ...]" >&2
    exit 2
  fi
}

activate() {
  export PATH="$VENV/bin:$PATH"
  # Compiled programs are kept beside the checkout: whatever ran once starts at once.
  export JAX_COMPILATION_CACHE_DIR="${JAX_COMPILATION_CACHE_DIR:-$ROOT/.cache/jax}"
  export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0 JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES=-1
}
