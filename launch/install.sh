#!/usr/bin/env bash
# The environment alone, without starting anything: once on a cluster's login node, or in an image.
#
#   ./launch/install.sh [cpu|cuda|tpu]      default cpu; CUDA=12 or CUDA=13 where the driver cannot be asked
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
prepare "train" "${1:-cpu}"
echo "source $VENV/bin/activate"
