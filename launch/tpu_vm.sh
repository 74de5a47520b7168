#!/usr/bin/env bash
# Training on a TPU VM, or on every host of a slice.
#
#   one host:   ./launch/tpu_vm.sh CONFIG WORKDIR [--config.key=value ...]
#   a slice:    gcloud compute tpus tpu-vm ssh NAME --zone=ZONE --worker=all \
#                 --command="cd mlic_jax && ./launch/tpu_vm.sh CONFIG /mnt/shared/runs/RUN --config.data.source=..."
#
# On a slice all hosts run the same command and find each other; WORKDIR must be a folder that all of them see (NFS, a mounted
# bucket), and every
# host needs the photos. A preempted run goes on when the same command is given again.
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
if [ $# -lt 2 ]; then
  echo "usage: $0 CONFIG[:ARGUMENT] WORKDIR [--config.key=value ...]" >&2
  exit 2
fi
prepare "train"
"$VENV/bin/python" -m pip install --quiet -c "$ROOT/launch/constraints.txt" "jax[tpu]"
activate
cd "$ROOT"
CONFIG="$1" WORKDIR="$2"
shift 2
# A single host has no others to look for.
case "${TPU_WORKER_HOSTNAMES:-localhost}" in *,*) export MLIC_DISTRIBUTED=1 ;; esac
exec mlic train --config "$CONFIG" --workdir "$WORKDIR" "$@"
