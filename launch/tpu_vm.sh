#!/usr/bin/env bash
# Training on a TPU VM, or on every host of a slice.
#
#   one host:   ./launch/tpu_vm.sh CONFIG WORKDIR [--config.key=value ...]
#   a slice:    gcloud compute tpus tpu-vm ssh NAME --zone=ZONE --worker=all \
#                 --command="mlic_jax/launch/tpu_vm.sh CONFIG gs://BUCKET/runs/RUN --config.data.source=..."
#
# All hosts run the same command; jax asks the machine which others there are. WORKDIR must be a place that all of them
# see: a bucket, or a folder that is mounted on each. Every host needs the photos. A preempted run goes on when the same
# command is given again.
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
need_config_and_workdir "$@"
prepare "train" tpu
activate
CONFIG="$1" WORKDIR="$2"
shift 2
MLIC_DISTRIBUTED=1 exec mlic train --config "$CONFIG" --workdir "$WORKDIR" "$@"
