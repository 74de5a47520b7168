"""Which GPUs of its node a process of a run takes, under SLURM and Open MPI.

jax takes it that processes of these have one GPU each, and shows every process the GPU of its own number on the node
alone: where a node has one process, GPU 0.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping

# Variables that leave some of the node's GPUs visible, by number or name, with commas between.
_VISIBLE = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")
# SLURM's variables that say that each process sees its own GPUs and no others'.
_BOUND = ("SLURM_GPUS_PER_TASK", "SLURM_GPU_BIND")


def local_device_ids(environment: Mapping[str, str] = os.environ) -> list[int] | None:
    """The GPUs that this process takes, counted among those that it sees: all of them, or its equal share where
    several processes of the node see the same.

    Returns:
      None where jax is to choose: no cluster that it knows, no GPUs, or JAX_LOCAL_DEVICE_IDS says it already.
    """
    place = _place_on_node(environment)
    if place is None or environment.get("JAX_LOCAL_DEVICE_IDS"):
        return None
    index, processes = place
    count = _visible(environment)
    bound = any(environment.get(name) for name in _BOUND) or "gpu" in environment.get("SLURM_TRES_PER_TASK", "")
    if bound or count < processes or count % processes:
        return list(range(count)) or None
    share = count // processes
    return list(range(index * share, (index + 1) * share)) or None


def _place_on_node(environment: Mapping[str, str]) -> tuple[int, int] | None:
    """(number of this process on its node, processes there)."""
    if "SLURM_LOCALID" in environment:
        tasks = _expanded(environment.get("SLURM_STEP_TASKS_PER_NODE", "1"))
        node = int(environment.get("SLURM_NODEID", 0))
        return int(environment["SLURM_LOCALID"]), tasks[node] if node < len(tasks) else 1
    if "OMPI_COMM_WORLD_LOCAL_RANK" in environment:
        size = int(environment.get("OMPI_COMM_WORLD_LOCAL_SIZE", 1))
        return int(environment["OMPI_COMM_WORLD_LOCAL_RANK"]), size
    return None


def _expanded(tasks: str) -> list[int]:
    """SLURM's "2(x3),1" as [2, 2, 2, 1]."""
    parts = re.findall(r"(\d+)(?:\(x(\d+)\))?", tasks)
    return [int(count) for count, times in parts for _ in range(int(times or 1))]


def _visible(environment: Mapping[str, str]) -> int:
    for name in _VISIBLE:
        if name in environment:
            words = [word.strip() for word in environment[name].split(",")]
            # From the first that is none on, none is visible: "-1", "NoDevFiles".
            return next((i for i, word in enumerate(words) if word in ("", "-1", "NoDevFiles")), len(words))
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    return len(re.findall(r"^GPU \d+:", listed.stdout, re.MULTILINE))
