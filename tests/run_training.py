"""Trains in a process of its own: what tests start to get other devices, several processes, or something to kill.

    python tests/run_training.py '[{"workdir": .., "out": "file.npz", "changes": {..}, "model": .., "arguments": {..}}]'

Runs the trainings of the list in turn, and writes to `out` the final parameters and what else a test may ask.
"""

import json
import logging
import pathlib
import sys

import jax

from mlic_jax.training import parallel, together


def main():
    together.start_processes()

    import numpy as np
    import toys

    from mlic_jax import zoo
    from mlic_jax.fileformat.artifact import flatten
    from mlic_jax.training.train import train

    zoo.MODELS.update(toys.ENTRIES)

    logging.basicConfig(level="WARNING")
    logging.getLogger("mlic_jax").setLevel("INFO")
    for run in json.loads(sys.argv[1]):
        arguments = {key: tuple(v) if isinstance(v, list) else v for key, v in run.get("arguments", {}).items()}
        config = toys.config(run.get("changes"), run.get("model", "bmshj2018-hyperprior"), **arguments)
        with toys.CompileCount() as count:
            state = train(config, run["workdir"], quiet=True)
        if parallel.is_main() and "out" in run:
            arrays = flatten({"params": parallel.local(state.params), "state": parallel.local(state.state)})
            about = {"devices": jax.device_count(), "processes": jax.process_count(), "compiled": count.steps()}
            np.savez(pathlib.Path(run["out"]), **arrays, **about, step=int(parallel.local(state.step)))


if __name__ == "__main__":
    main()
