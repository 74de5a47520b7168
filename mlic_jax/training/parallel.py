"""The only file that knows devices; `together.py` has the processes of a run.

`jax.pmap` is today a wrapper around `jit(shard_map)`. In the form used here nothing is replicated by hand: the train
state goes in and comes out as one whole (`in_axes=None`, `out_axes=None`), only the batch has a device axis.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mlic_jax import runtime
from mlic_jax.errors import UsageError

AXIS = "devices"


def use_all_cores(batch_size: int, parts: int) -> None:
    """Makes a device of every CPU core, as far as the batch can be shared out. Call it before jax starts.

    One CPU device leaves most cores idle: XLA splits few operations among threads. Two devices on two cores train
    nearly twice as fast. Where jax finds a GPU or TPU this changes nothing; XLA_FLAGS that set a number of devices are
    obeyed.
    """
    if "device_count" in os.environ.get("XLA_FLAGS", "") or os.environ.get("JAX_NUM_CPU_DEVICES"):
        return
    fitting = [n for n in range(1, runtime.cores() + 1) if batch_size % (n * parts) == 0]
    with contextlib.suppress(RuntimeError):  # jax has started already, in a program that calls us
        jax.config.update("jax_num_cpu_devices", max(fitting, default=1))


def is_main() -> bool:
    """Whether this process writes logs and pictures."""
    return jax.process_index() == 0


def check_batch(batch_size: int, parts: int) -> None:
    """Raises UsageError unless a batch can be shared out to all devices in `parts` equal parts each."""
    unit = jax.device_count() * parts
    if batch_size < unit or batch_size % unit:
        raise UsageError(
            f"data.batch_size {batch_size} must be a multiple of {unit}: "
            f"{jax.device_count()} devices x {parts} objectives and micro-batches"
        )


def pmap(step: Callable) -> Callable:
    """Maps (train_state, batch) -> (train_state, metrics) over all devices; the old train state's memory is reused."""
    return jax.pmap(step, axis_name=AXIS, in_axes=(None, 0), out_axes=None, donate_argnums=0)


def shard(batch: Any) -> Any:
    """[B_local, ...] -> [devices of this process, B_local / devices, ...]."""
    devices = jax.local_device_count()
    return jax.tree.map(lambda x: x.reshape(devices, x.shape[0] // devices, *x.shape[1:]), batch)


def replicated() -> NamedSharding:
    """The sharding of a train state: whole on every device of every process."""
    return NamedSharding(Mesh(np.array(jax.devices()), (AXIS,)), PartitionSpec())


def replicate(tree: Any) -> Any:
    """Puts the same host values on every device."""
    sharding = replicated()

    def put(leaf):
        value = np.asarray(leaf)
        return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])

    return jax.tree.map(put, tree)


def across_processes(tree: Any) -> Any:
    """A replicated tree as arrays of all processes, as Orbax wants it. (`pmap` returns to each process its own.)"""
    if jax.process_count() == 1:
        return tree
    sharding = replicated()

    def join(leaf):
        return jax.make_array_from_single_device_arrays(
            leaf.shape, sharding, [shard.data for shard in leaf.addressable_shards]
        )

    return jax.tree.map(join, tree)


def local(tree: Any) -> Any:
    """A replicated tree as arrays of one device of this process, for computations that are not mapped."""
    return jax.tree.map(lambda leaf: leaf.addressable_shards[0].data, tree)


def gathered(values: Any) -> np.ndarray:
    """What every process gives, [processes, ...]. All must call it; it waits for the devices to finish."""
    values = np.asarray(values)
    if jax.process_count() == 1:
        return values[None]
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(values))


def anywhere(flag: bool) -> bool:
    """Whether the flag is set in any process. All must call it."""
    return bool(np.any(gathered(flag)))


def wait_for_all(what: str) -> None:
    """Returns when all processes are here."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(what)
