"""The scripts of launch/ with srun, scontrol, nvidia-smi, gcloud and pip played by small programs: what is started
where, with which devices, and what happens afterwards."""

import functools
import http.server
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from mlic_jax.training import gpus

ROOT = pathlib.Path(__file__).parents[1]
LAUNCH = ROOT / "launch"
PREEMPTED = 75

# Starts SLURM_NTASKS processes as srun does, on nodes that are all this machine.
SRUN = """
import os, subprocess, sys
words = sys.argv[1:]
command = words[next(i for i, word in enumerate(words) if not word.startswith("--")):]
open("srun", "w").write(" ".join(words) + " cpus " + os.environ["SRUN_CPUS_PER_TASK"])
nodes, tasks = int(os.environ["SLURM_NNODES"]), int(os.environ["SLURM_NTASKS"])
each = tasks // nodes
started = []
for number in range(tasks):
    about = {"PROCID": number, "LOCALID": number % each, "NODEID": number // each, "STEP_NODELIST": "localhost",
             "STEP_NUM_NODES": nodes, "STEP_TASKS_PER_NODE": f"{each}(x{nodes})"}
    about = {f"SLURM_{name}": str(value) for name, value in about.items()}
    started.append(subprocess.Popen(command, env=os.environ | about))
sys.exit(max(process.wait() for process in started))
"""
SCONTROL = """
import os, sys
if sys.argv[1] == "show":
    print("JobId=7 JobName=mlic\\n   Command=" + os.environ["SUBMITTED"] + " toy runs/x")
else:
    open("scontrol", "a").write(" ".join(sys.argv[1:]) + "\\n")
"""
# Eight GPUs, and a driver of which the test says the version.
NVIDIA_SMI = """
import os, sys
if "-L" in sys.argv:
    print("\\n".join(f"GPU {n}: NVIDIA H100 (UUID: GPU-{n})" for n in range(8)))
else:
    print(os.environ.get("DRIVER", "580.65.06"))
"""
# Creates nothing; what is to run on all workers runs here, once for each, in a home of its own.
GCLOUD = """
import os, subprocess, sys
open(os.environ["NOTES"], "a").write(" ".join(sys.argv[1:5]) + "\\n")
if "ssh" in sys.argv:
    assert "--worker=all" in sys.argv
    command = next(word for word in sys.argv if word.startswith("--command=")).partition("=")[2]
    started = []
    for number, home in enumerate(os.environ["HOMES"].split(":")):
        about = {"HOME": home, "GCE_METADATA_IP": os.environ["METADATA"].split(",")[number]}
        started.append(subprocess.Popen(["bash", "-c", command], cwd=home, env=os.environ | about))
    sys.exit(max(process.wait() for process in started))
"""
GIT = """
import os, sys
if "clone" in sys.argv:
    os.symlink(os.environ["CHECKOUT"], sys.argv[-1])
"""
# Notes how it was started. Where processes are to join, it joins them as `mlic train` does.
MLIC = """
import json, os, sys
about = {"folder": os.getcwd(), "words": sys.argv[1:], "number": os.environ.get("SLURM_PROCID", "0")}
if os.environ.get("JOIN"):
    import jax
    from mlic_jax.training import together
if os.environ.get("TPU"):
    from jax._src.clusters import cloud_tpu_cluster, cluster
    cloud_tpu_cluster.running_in_cloud_tpu_vm = cluster.running_in_cloud_tpu_vm = True
    os.environ.pop("TPU_SKIP_MDS_QUERY", None)  # which jax sets where it has found no TPU
if os.environ.get("JOIN") and together.start_processes():
    about |= {"number": str(jax.process_index()), "processes": jax.process_count()}
    about["gpus"] = jax.config.values["jax_cuda_visible_devices"]
with open(os.path.join(os.environ["STARTED"], about["number"]), "w") as file:
    json.dump(about, file)
sys.exit(int(os.environ.get("STATUS_" + about["number"], "0")))
"""
PYTHON = """
import os, sys
open(os.environ["NOTES"], "a").write("pip " + " ".join(sys.argv[-2:]) + "\\n")
"""


@pytest.fixture
def place(tmp_path):
    """(a folder in which somebody types, the environment there, the file in which the faked programs note things)."""
    here, bin_, venv = tmp_path / "here", tmp_path / "bin", tmp_path / "venv" / "bin"
    for folder in (here, bin_, venv, tmp_path / "started"):
        folder.mkdir(parents=True)
    faked = {"srun": SRUN, "scontrol": SCONTROL, "nvidia-smi": NVIDIA_SMI, "gcloud": GCLOUD, "git": GIT}
    for folder, programs in ((bin_, faked), (venv, {"mlic": MLIC, "python": PYTHON})):
        for name, text in programs.items():
            (folder / name).write_text(f"#!{sys.executable}\n{text}")
            (folder / name).chmod(0o755)
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "CUDA", "MLIC_"))
    }
    environment |= {
        "PATH": f"{bin_}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "VENV": str(venv.parent),
        "STARTED": str(tmp_path / "started"),
        "NOTES": str(tmp_path / "notes"),
        "SUBMITTED": str(LAUNCH / "slurm.sbatch"),
        "JAX_COORDINATOR_PORT": str(free_port()),
    }
    return here, environment, tmp_path / "notes"


def free_port():
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return found.getsockname()[1]


def run(place, *words, **more):
    here, environment, _ = place
    return subprocess.run(
        list(map(str, words)),
        cwd=here,
        env=environment | more,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def submit(place, tmp_path, *words, nodes=1, tasks=None, **more):
    """Runs a copy of the batch script, as SLURM does."""
    shutil.copy(LAUNCH / "slurm.sbatch", tmp_path / "slurm_script")
    job = {"SLURM_JOB_ID": "7", "SLURM_NNODES": str(nodes), "SLURM_NTASKS": str(tasks or nodes)}
    job |= {"SLURM_CPUS_ON_NODE": "96", "SLURM_NTASKS_PER_NODE": str((tasks or nodes) // nodes)}
    return run(place, "bash", tmp_path / "slurm_script", *words, **(job | more))


def started(place):
    folder = pathlib.Path(place[1]["STARTED"])
    return [json.loads(path.read_text()) for path in sorted(folder.iterdir())]


# ---------------------------------------------------------------------- SLURM


@pytest.mark.parametrize("nodes, tasks", [(1, 1), (2, 2)])
def test_a_slurm_process_has_all_gpus_of_its_node(place, tmp_path, nodes, tasks):
    done = submit(place, tmp_path, "toy", "runs/x", "--config.seed=1", nodes=nodes, tasks=tasks, JOIN="1")
    assert done.returncode == 0, done.stderr
    found = started(place)
    assert [one["folder"] for one in found] == [str(place[0])] * tasks
    assert found[0]["words"] == ["train", "--config", "toy", "--workdir", "runs/x", "--quiet", "--config.seed=1"]
    if nodes > 1:  # one process alone asks nobody, and sees all GPUs without being told
        assert [(one["processes"], one["gpus"]) for one in found] == [(2, "0,1,2,3,4,5,6,7")] * 2
    assert (place[0] / "srun").read_text().endswith("cpus 96")


def test_processes_that_share_a_node_share_its_gpus_and_cores(place, tmp_path):
    done = submit(place, tmp_path, "toy", "runs/x", nodes=1, tasks=2, JOIN="1")
    assert done.returncode == 0, done.stderr
    assert [one["gpus"] for one in started(place)] == ["0,1,2,3", "4,5,6,7"]
    assert (place[0] / "srun").read_text().endswith("cpus 48")


SLURM = {"SLURM_LOCALID": "3", "SLURM_NODEID": "1", "SLURM_STEP_TASKS_PER_NODE": "2,4(x2)"}


@pytest.mark.parametrize(
    "environment, expected",
    [
        ({"CUDA_VISIBLE_DEVICES": "0,1"}, None),  # no cluster: jax sees all
        ({"SLURM_LOCALID": "0", "CUDA_VISIBLE_DEVICES": "0,1,2,3"}, [0, 1, 2, 3]),
        ({"SLURM_LOCALID": "0", "CUDA_VISIBLE_DEVICES": "GPU-8f1c,GPU-77aa"}, [0, 1]),
        ({"SLURM_LOCALID": "0", "CUDA_VISIBLE_DEVICES": ""}, None),
        ({"SLURM_LOCALID": "0", "CUDA_VISIBLE_DEVICES": "NoDevFiles"}, None),
        (SLURM | {"CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5,6,7"}, [6, 7]),
        (SLURM | {"CUDA_VISIBLE_DEVICES": "0"}, [0]),  # each sees its own already
        (SLURM | {"CUDA_VISIBLE_DEVICES": "0,1,2,3", "SLURM_GPUS_PER_TASK": "4"}, [0, 1, 2, 3]),
        (SLURM | {"CUDA_VISIBLE_DEVICES": "0,1,2,3", "SLURM_TRES_PER_TASK": "cpu=4,gres/gpu=4"}, [0, 1, 2, 3]),
        (SLURM | {"CUDA_VISIBLE_DEVICES": "0,1,2,3", "JAX_LOCAL_DEVICE_IDS": "2"}, None),
        (
            {"OMPI_COMM_WORLD_LOCAL_RANK": "1", "OMPI_COMM_WORLD_LOCAL_SIZE": "2", "HIP_VISIBLE_DEVICES": "0,1,2,3"},
            [2, 3],
        ),
    ],
)
def test_gpus_of_a_process(environment, expected):
    assert gpus.local_device_ids(environment) == expected


@pytest.mark.parametrize(
    "statuses, status, queued",
    [((0, 0), 0, False), ((PREEMPTED, PREEMPTED), PREEMPTED, True), ((7, 7), 7, False), ((PREEMPTED, 137), 137, False)],
)
def test_a_preempted_job_is_queued_again_and_no_other(place, tmp_path, statuses, status, queued):
    more = {f"STATUS_{number}": str(each) for number, each in enumerate(statuses)}
    done = submit(place, tmp_path, "toy", "runs/x", nodes=2, **more)
    assert done.returncode == status, done.stderr
    assert (place[0] / "scontrol").exists() == queued
    if queued:
        assert (place[0] / "scontrol").read_text() == "requeue 7\n" and "queued again" in done.stderr
    # A process that ends first, as one that has saved, does not end the others.
    assert "--kill-on-bad-exit=0 --wait=120" in (place[0] / "srun").read_text()


def test_a_cancelled_job_is_not_queued_again(place, tmp_path):
    """scancel sends SIGTERM to the batch script as well; the run saves, and that is the end."""
    here, environment, _ = place
    waits = "import time, pathlib\npathlib.Path('srun').touch()\ntime.sleep(1)\nraise SystemExit(75)"
    (tmp_path / "bin" / "srun").write_text(f"#!{sys.executable}\n{waits}")
    shutil.copy(LAUNCH / "slurm.sbatch", tmp_path / "slurm_script")
    job = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "1"}
    process = subprocess.Popen(["bash", str(tmp_path / "slurm_script"), "toy", "x"], cwd=here, env=environment | job)
    while not (here / "srun").exists():
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == PREEMPTED and not (here / "scontrol").exists()


def test_the_batch_script_says_what_is_missing(place, tmp_path):
    assert "usage" in submit(place, tmp_path).stderr
    nowhere = submit(place, tmp_path, "toy", "x", SUBMITTED=str(tmp_path / "launch" / "slurm.sbatch"))
    assert nowhere.returncode == 2 and "set MLIC_ROOT" in nowhere.stderr
    named = submit(place, tmp_path, "toy", "x", SUBMITTED="/nowhere/launch/slurm.sbatch", MLIC_ROOT=str(ROOT))
    assert named.returncode == 0, named.stderr
    (tmp_path / "venv" / "bin" / "mlic").unlink()
    bare = submit(place, tmp_path, "toy", "x")
    assert bare.returncode == 2 and "launch/install.sh cuda first" in bare.stderr


# ---------------------------------------------------------------------- one machine


@pytest.mark.parametrize(
    "kind, driver, installed",
    [("cpu", "", ""), ("cuda", "580.65", "jax[cuda13]"), ("cuda", "550.54", "jax[cuda12]"), ("tpu", "", "jax[tpu]")],
)
def test_install_makes_an_environment_and_starts_nothing(place, kind, driver, installed):
    for _ in range(2):  # the second time there is nothing to do
        done = run(place, LAUNCH / "install.sh", kind, DRIVER=driver)
        assert done.returncode == 0, done.stderr
    notes = place[2].read_text().splitlines()
    assert notes == [f"pip {ROOT}[train] {installed}" if installed else f"pip -e {ROOT}[train]"]
    assert not started(place)
    assert "cpu, cuda and tpu" in run(place, LAUNCH / "install.sh", "abacus").stderr


@pytest.mark.parametrize("script", ["gpu.sh", "tpu_vm.sh", "slurm.sbatch"])
def test_too_few_words(place, script):
    for words in ((), ("toy",)):
        done = run(place, "bash", LAUNCH / script, *words, MLIC_ROOT=str(ROOT), SLURM_JOB_ID="7")
        assert done.returncode == 2 and done.stderr.startswith("usage: ") and "unbound" not in done.stderr
    assert not started(place)


def test_the_folder_where_it_is_typed_is_kept(place):
    done = run(place, LAUNCH / "gpu.sh", "mine.py", "runs/x", "--config.data.source=photos")
    assert done.returncode == 0, done.stderr
    (one,) = started(place)
    assert one["folder"] == str(place[0])
    assert one["words"] == ["train", "--config", "mine.py", "--workdir", "runs/x", "--config.data.source=photos"]


# ---------------------------------------------------------------------- TPU


class Metadata(http.server.BaseHTTPRequestHandler):
    """What a TPU VM is told about itself: its number, and the addresses of all."""

    def __init__(self, number, *arguments):
        self.answers = {"agent-worker-number": str(number), "worker-network-endpoints": "127.0.0.1,127.0.0.1"}
        super().__init__(*arguments)

    def do_GET(self):
        answer = self.answers.get(self.path.rsplit("/", 1)[-1], "").encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_): ...


@pytest.fixture
def metadata():
    servers = [
        http.server.ThreadingHTTPServer(("localhost", 0), functools.partial(Metadata, number)) for number in range(2)
    ]
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    yield ",".join(f"localhost:{server.server_port}" for server in servers)
    for server in servers:
        server.shutdown()
        server.server_close()


def test_the_lines_of_the_docs_start_a_slice(place, tmp_path, metadata):
    """jax finds the workers by itself, without any variable that `gcloud ssh` would have to set."""
    text = (ROOT / "docs" / "training.md").read_text()
    lines = re.search(r"(?:^    .*\n)*    gcloud compute tpus(?:.*\n    .*)*", text, re.MULTILINE).group()
    homes = [tmp_path / "worker 0", tmp_path / "worker 1"]
    for home in homes:
        home.mkdir()
    done = run(
        place,
        *("bash", "-euc", lines),
        HOMES=":".join(map(str, homes)),
        METADATA=metadata,
        CHECKOUT=str(ROOT),
        JOIN="1",
        TPU="1",
    )
    assert done.returncode == 0, done.stderr
    notes = place[2].read_text().splitlines()
    assert notes[:2] == ["compute tpus tpu-vm create", "compute tpus tpu-vm ssh"]
    assert notes[2].endswith("mlic_jax[train] jax[tpu]")
    assert [(one["number"], one["processes"], one["gpus"]) for one in started(place)] == [
        ("0", 2, "all"),
        ("1", 2, "all"),
    ]


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="shellcheck is not installed")
def test_shellcheck():
    scripts = [*LAUNCH.glob("*.sh"), LAUNCH / "slurm.sbatch"]
    done = subprocess.run(
        ["shellcheck", "-x", "-P", "SCRIPTDIR", *scripts], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
