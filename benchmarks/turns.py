"""Processes that take turns on the same cores, so that whatever else happens on a machine slows all of them down.

A worker answers each line on its stdin by a line of JSON. It may run in another environment, so this module imports
nothing of mlic_jax.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time


def answers():
    """For a worker: the stream for its answers. Whatever libraries print goes to stderr from here on."""
    stream = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return stream


def take_turns(commands, threads, rounds, greeted=False):
    """Starts a worker for each command, bound to `threads` cores, and asks all of them `rounds` times.

    Args:
      commands: name -> the command line of a worker.
      threads: cores that all share, told to OpenMP as well.
      rounds: how often each is asked; their order is reversed in every other round.
      greeted: whether a worker writes one line before it is asked.

    Returns:
      name -> its answers, the greeting first.
    """
    cores = sorted(os.sched_getaffinity(0))[-threads:]
    workers, replies = {}, {name: [] for name in commands}

    def listen(name):
        line = workers[name].stdout.readline()
        if not line:
            raise SystemExit(f"the process of {name} ended with status {workers[name].wait()}: see above")
        replies[name].append(json.loads(line))

    try:
        for name, command in commands.items():
            workers[name] = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, "OMP_NUM_THREADS": str(threads), "JAX_PLATFORMS": "cpu"},
                preexec_fn=lambda: os.sched_setaffinity(0, cores),
            )
        for name in commands if greeted else ():
            listen(name)
        for turn in range(rounds):
            for name in list(commands) if turn % 2 == 0 else list(commands)[::-1]:
                workers[name].stdin.write("go\n")
                workers[name].stdin.flush()
                listen(name)
                time.sleep(0.3)  # threads that spin while they wait for work have gone to sleep
            print(f"{threads} threads, turn {turn + 1} of {rounds}", file=sys.stderr)
    finally:
        for worker in workers.values():
            worker.stdin.close()
            worker.wait()
    return replies
