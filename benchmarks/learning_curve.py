"""Training here against training in CompressAI: the same weights, photos, batches, recipe and number of steps.

    python benchmarks/learning_curve.py --compressai VENV/bin/python                    # curves: 10 minutes, 2 cores
    python benchmarks/learning_curve.py --compressai VENV/bin/python --check-gradients  # one step: 1 minute

VENV is an environment with CompressAI 1.2.8 (PyTorch on the CPU, numpy 1), which cannot be the one that jax lives in:
this file runs in both, and CompressAI's half is at its end. Both sides start from our initial weights and read the same
batches of bundled photos from a file; each has its own loss, Adam, clipping and evaluation. In run 1 CompressAI also
gets the noise that ours draws, so that the curves lie on one another until rounding errors have grown, for some fifty
steps. How far these grow afterwards shows the control: CompressAI's run 1 again, from weights that are one float32
apart. The other runs have noise of their own.

Two figures are compared, as means over the runs of a side: the training loss over the last tenth of the steps, and the
loss on patches of photos held out from training, with rounded latents and 8-bit pictures. The exit status is 1 where
one of them differs by more than LIMIT. With --check-gradients it is 1 where loss, gradients or Adam's update of one
batch with the same noise differ by more than GRADIENT_LIMIT and UPDATE_LIMIT.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import importlib.metadata
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from types import SimpleNamespace

import numpy as np

MODELS = ("bmshj2018-hyperprior", "mbt2018-mean")
LIMIT = 0.03  # of the loss
GRADIENT_LIMIT = 1e-4  # of the loss; of the gradient's norm
# Of Adam's first update, in learning rates: mean over a parameter array. One gradient of some 1e-8 (Adam's epsilon)
# among thousands of larger ones can be all rounding error, and so its update.
UPDATE_LIMIT = 1e-3
WINDOWS = 10  # rows of the table
CHECK_STEPS = 200  # of training, after which gradients are compared again
CONTROL = "control"  # run 1 of CompressAI again, from weights that are one float32 apart
LATENTS = ("z", "y")  # in coding order
ANOTHER_NOISE = 1_000_000  # runs draw the noise of steps that lie so far apart


# --------------------------------------------------------------------------------------------------- ours


def make_config(args):
    from mlic_jax.training import config as defaults

    config = defaults.defaults()
    config.model.name = args.model
    config.model.arguments = {"N": args.N, "M": args.M, "lmbda": args.lmbda}
    config.data.batch_size, config.data.patch_size = args.batch, args.patch
    config.optimizer.learning_rate, config.optimizer.clip_norm = args.learning_rate, args.clip_norm
    config.optimizer.schedule, config.optimizer.decay_steps = args.schedule, args.steps
    config.train.steps = args.steps
    return config


def write_batches(config, path):
    """The first batches of the training pipeline, uint8 [steps, B, P, P, 3]."""
    from mlic_jax.data import make_source, make_train_iterator

    data = config.data
    shape = config.train.steps, data.batch_size, data.patch_size, data.patch_size, 3
    file = np.lib.format.open_memmap(path, "w+", np.uint8, shape)
    source = make_source("bundled", "train")
    batches = make_train_iterator(
        source, seed=config.seed, batch_size=data.batch_size, patch_size=data.patch_size, scale_range=data.scale_range
    )
    with contextlib.closing(batches):
        for step in range(len(file)):
            file[step] = next(batches)["image"]
    file.flush()


def positions(config):
    return np.arange(config.data.batch_size, dtype=np.int32)


def keys_of(config, step):
    """The keys that `mlic_jax.training.step` gives to the examples of a batch."""
    import jax

    key = jax.random.fold_in(jax.random.key(config.seed), step)
    return jax.vmap(lambda position: jax.random.fold_in(key, position))(positions(config))


def write_noise(config, folder):
    """The noise that our coder adds in run 1: float32 [steps, B, h, w, C] in noise_y.npy and noise_z.npy."""
    import jax
    import jax.numpy as jnp

    from mlic_jax.entropy import coders

    arguments, data = config.model.arguments, config.data
    sizes = {"z": (data.patch_size // 64, arguments.N), "y": (data.patch_size // 16, arguments.M)}
    shapes = {name: (data.batch_size, side, side, channels) for name, (side, channels) in sizes.items()}

    @jax.jit
    def noise(step):
        zeros = {name: jnp.zeros(shape) for name, shape in shapes.items()}
        coder = coders.Training(zeros, keys_of(config, step), "noise")
        return {name: coder(name, SimpleNamespace(bits=jnp.zeros_like)) for name in LATENTS}

    files = {
        name: np.lib.format.open_memmap(folder / f"noise_{name}.npy", "w+", np.float32, (config.train.steps, *shape))
        for name, shape in shapes.items()
    }
    for step in range(config.train.steps):
        for name, value in noise(step).items():
            files[name][step] = value
    for file in files.values():
        file.flush()


class Ours:
    """Our trainer's own step on batches from a file; the optimiser is the config's, as `mlic train` makes it."""

    def __init__(self, config):
        from mlic_jax.training import runs, train

        self.config, self.codec = config, runs.make_codec(config)
        self.start = runs.initialise(self.codec, config)
        (self.step,) = train.step_functions(self.codec, config)

    def train(self, batches, run=0):
        """(the last train state, {"loss", "bpp", "mse255": a number for every step})."""
        import jax.numpy as jnp

        from mlic_jax.training import parallel, runs

        state = runs.initialise(self.codec, self.config)
        state = state._replace(step=parallel.replicate(jnp.int32(run * ANOTHER_NOISE)))
        history = {"loss": [], "bpp": [], "mse255": []}
        for images in batches:
            batch = {"image": np.array(images), "position": positions(self.config)}
            state, measured = self.step(state, parallel.shard(batch))
            measured = parallel.local(measured)
            for name, values in history.items():
                values.append(float(measured[name]))
        return state, history

    def validate(self, state, held_out):
        from mlic_jax.training import validation

        return validation.validate(self.codec, state, held_out)[0]

    def gradients(self, params, images):
        """(loss, gradients) of a batch with the noise of step 0."""
        import jax

        batch = {"image": np.array(images), "position": positions(self.config)}
        loss = jax.jit(jax.value_and_grad(self.codec.objectives["rd"].loss, has_aux=True))
        (value, _), gradients = loss(params, {}, batch, keys_of(self.config, 0), 0)
        return float(value), gradients


def host_params(state):
    import jax

    from mlic_jax.training import parallel

    return jax.device_get(parallel.local(state.params))


# --------------------------------------------------------------------------------------------------- the comparison


def share_cores():
    """(cores for us, cores for CompressAI): half of what this process may use for each, and binds it to our half."""
    if not hasattr(os, "sched_setaffinity"):
        return None, None
    cores = sorted(os.sched_getaffinity(0))
    half = (len(cores) + 1) // 2
    ours, theirs = cores[:half], cores[half:] or cores
    os.sched_setaffinity(0, ours)
    return ours, theirs


@contextlib.contextmanager
def compressai(args, folder, cores, **job):
    """Starts CompressAI's half in its own environment; gives a function that waits for its report."""
    config = {key: getattr(args, key) for key in ("model", "N", "M", "lmbda", "learning_rate", "schedule", "clip_norm")}
    path = folder / "job.json"
    path.write_text(json.dumps({**config, "cores": cores, **job}))
    process = subprocess.Popen([args.compressai, __file__, "--job", str(path)], stdout=sys.stderr)

    def report():
        if process.wait():
            raise SystemExit(f"CompressAI's half ended with status {process.returncode}; its message stands above")
        return json.loads((folder / "compressai.json").read_text())

    try:
        yield report
    finally:
        process.kill()  # nothing to do where it has ended
        process.wait()


def prepare(args, folder):
    """Writes all that both sides read; returns our side, the batches and the held-out patches."""
    import jax

    from mlic_jax.data import make_source, validation_batch
    from mlic_jax.interop.compressai import to_compressai

    jax.config.update("jax_default_matmul_precision", "highest")  # on accelerators; CPUs have no other
    config = make_config(args)
    ours = Ours(config)
    np.savez(folder / "weights_0.npz", **to_compressai(args.model, host_params(ours.start)))
    write_batches(config, folder / "batches.npy")
    write_noise(config, folder)
    held_out = validation_batch(make_source("bundled", "validation"), 256, 8)
    np.save(folder / "held_out.npy", held_out)
    return ours, np.load(folder / "batches.npy", mmap_mode="r"), held_out


def check_gradients(args, folder):
    """One batch with the same noise on both sides, at the initial weights and after CHECK_STEPS steps of ours."""
    from mlic_jax.fileformat.artifact import flatten
    from mlic_jax.interop.compressai import from_compressai, to_compressai

    args.steps = CHECK_STEPS
    cores = share_cores()[1]
    ours, batches, _ = prepare(args, folder)
    params = [host_params(ours.start), host_params(ours.train(batches)[0])]
    np.savez(folder / "weights_1.npz", **to_compressai(args.model, params[1]))
    with compressai(args, folder, cores, task="gradients", points=len(params)) as report:
        their_report = report()
    rows = []
    for point, weights in enumerate(params):
        loss, gradients = ours.gradients(weights, batches[0])
        with np.load(folder / f"gradients_{point}.npz") as file:
            theirs = flatten(from_compressai(args.model, dict(file))[0])
        gradients = {name: np.asarray(value) for name, value in flatten(gradients).items()}
        updates, their_updates = first_update(gradients, args.clip_norm), first_update(theirs, args.clip_norm)
        apart = {name: float(np.mean(np.abs(update - their_updates[name]))) for name, update in updates.items()}
        worst = max(apart, key=apart.get)
        row = {
            "steps": point * CHECK_STEPS,
            "loss": loss,
            "compressai_loss": their_report["losses"][point],
            "loss_difference": abs(loss / their_report["losses"][point] - 1),
            "gradient_difference": norm(value - theirs[name] for name, value in gradients.items())
            / norm(theirs.values()),
            "worst_parameter": worst,
            "worst_update": apart[worst],
        }
        rows.append(row)
        print(
            f"after {row['steps']:3} steps: loss {loss:.6f}, CompressAI {row['compressai_loss']:.6f}, relative "
            f"difference {row['loss_difference']:.1e}; gradients {row['gradient_difference']:.1e}; "
            f"Adam's update {apart[worst]:.1e} at worst ({worst})"
        )
    good = all(
        max(row["loss_difference"], row["gradient_difference"]) <= GRADIENT_LIMIT
        and row["worst_update"] <= UPDATE_LIMIT
        for row in rows
    )
    print(
        f"both sides {'agree' if good else 'DIFFER'} (limits {GRADIENT_LIMIT:g}, {GRADIENT_LIMIT:g}, {UPDATE_LIMIT:g})"
    )
    return good, {"check": rows}, their_report["versions"]


def norm(arrays):
    return float(np.sqrt(sum(np.sum(np.square(a, dtype=np.float64)) for a in arrays)))


def first_update(gradients, clip_norm):
    """Adam's first update after clipping, in learning rates: the smallest gradients count as much as others."""
    factor = min(1.0, clip_norm / norm(gradients.values()))
    clipped = {name: gradient.astype(np.float64) * factor for name, gradient in gradients.items()}
    return {name: gradient / (np.abs(gradient) + 1e-8) for name, gradient in clipped.items()}


def compare_curves(args, folder):
    """Trains on both sides at the same time and prints the table."""
    cores, their_cores = share_cores()
    ours, batches, held_out = prepare(args, folder)
    began = time.perf_counter()
    runs = []
    with compressai(args, folder, their_cores, task="train", runs=args.runs, same_noise=args.same_noise) as report:
        for run in range(args.runs):
            start = time.perf_counter()
            state, history = ours.train(batches, run)
            runs.append({**history, "held_out": ours.validate(state, held_out)})
            print(f"  ours, run {run + 1}: {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
        their_report = report()
    seconds = time.perf_counter() - began
    theirs, control = their_report["runs"], their_report["control"]

    losses, their_losses = (np.array([run["loss"] for run in side]) for side in (runs, theirs))
    edges = np.linspace(0, args.steps, WINDOWS + 1).astype(int)
    rows = []
    for first, last in zip(edges[:-1], edges[1:], strict=True):
        a, b = losses[:, first:last].mean(1), their_losses[:, first:last].mean(1)
        rows.append({"first": int(first) + 1, "last": int(last), "ours": a.tolist(), "compressai": b.tolist()})
        rows[-1]["control"] = [float(np.mean(control["loss"][first:last]))]
    sides = {"ours": runs, "compressai": theirs, "control": [control]}
    last = {name: [run["held_out"]["loss"] for run in side] for name, side in sides.items()}

    noise = "the same noise" if args.same_noise else "noise of their own"
    print(f"\nloss = {args.lmbda:g} x MSE (8-bit steps) + bpp, mean over steps; run 1 has {noise} on both sides")
    print("| steps | ours | CompressAI | difference | control's | ours, all runs | CompressAI, all runs |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for row in rows:
        print(table_row(f"{row['first']}-{row['last']}", row))
    print(table_row("held-out photos, rounded latents", last))
    for side, name in ((runs, "ours"), (theirs, "CompressAI")):
        figures = side[0]["held_out"]
        print(f"held out, {name}: {figures['bpp']:.4f} bpp, {figures['psnr_db']:.3f} dB")
    differences = {"training": difference(rows[-1]), "held_out": difference(last)}
    control_differences = {"training": difference(rows[-1], "control"), "held_out": difference(last, "control")}
    for name, values in (("ours", losses[0]), ("control", np.array(control["loss"]))):
        apart = np.abs(values / their_losses[0] - 1)
        marks = [n for n in (1, 10, 30, 100, 300, 1000) if n <= args.steps]
        differences[f"{name}_up_to_step"] = {n: float(apart[:n].max()) for n in marks}
        text = ", ".join(f"{n}: {value:.1e}" for n, value in differences[f"{name}_up_to_step"].items())
        print(f"largest relative difference of single losses from CompressAI's run 1, {name}, up to step {text}")
    good = True
    for name, row in (("training", rows[-1]), ("held_out", last)):
        means, errors = zip(*(mean_and_error(row[side]) for side in ("ours", "compressai")))
        apart, error = means[0] / means[1] - 1, np.hypot(*errors) / means[1]
        differences[f"{name}_means"], differences[f"{name}_means_error"] = float(apart), float(error)
        good &= abs(apart) <= LIMIT
        print(
            f"final {name}, means of {args.runs}: ours {means[0]:.4f}, CompressAI {means[1]:.4f}, {apart:+.2%} "
            f"with standard error {error:.2%}; runs of one side differ by up to {spread(row['ours']):.2%} (ours) and "
            f"{spread(row['compressai']):.2%} (CompressAI)"
        )
    print(f"the means are {'within' if good else 'NOT within'} {LIMIT:.0%}")
    differences["control"] = control_differences
    result = {"windows": rows, "held_out": last, "differences": differences, **sides}
    print(f"{args.runs} runs on each side, at the same time: {seconds:.0f} s")
    return good, result, their_report["versions"]


def difference(row, side="ours"):
    """Of run 1, or of the control, relative to CompressAI's run 1."""
    return row[side][0] / row["compressai"][0] - 1


def mean_and_error(values):
    """(mean, its standard error, which is nan for a single run)."""
    return np.mean(values), np.std(values, ddof=1) / len(values) ** 0.5 if len(values) > 1 else np.nan


def spread(values):
    """Of runs that differ in nothing but noise: largest over smallest."""
    return max(values) / min(values) - 1


def table_row(name, row):
    spreads = (f"{min(values):.4f} to {max(values):.4f}" for values in (row["ours"], row["compressai"]))
    return (
        f"| {name} | {row['ours'][0]:.4f} | {row['compressai'][0]:.4f} | {difference(row):+.2%} | "
        f"{difference(row, 'control'):+.2%} | {' | '.join(spreads)} |"
    )


def plot(report, args, path):
    """The curves of all runs, smoothed over a fiftieth of the steps, and run 1's difference below."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    width = max(1, args.steps // 50)

    def smooth(values):
        return np.convolve(values, np.ones(width) / width, "valid")

    steps = np.arange(width, args.steps + 1)
    figure, (upper, lower) = plt.subplots(2, 1, figsize=(7, 6), height_ratios=(3, 1), sharex=True, layout="constrained")
    for side, colour, name, style in (("compressai", "#3b82f6", "CompressAI", "-"), ("ours", "#e5484d", "ours", "--")):
        for run, history in enumerate(report[side]):
            bold = {"lw": 2, "label": name, "zorder": 3, "ls": style} if run == 0 else {"lw": 0.8, "alpha": 0.5}
            upper.plot(steps, smooth(history["loss"]), color=colour, **bold)
    upper.set(yscale="log", ylabel="training loss", title=f"{args.model}, N={args.N}, M={args.M}, {args.steps} steps")
    upper.legend()
    upper.grid(alpha=0.3, which="both")
    a, b = (smooth(report[side][0]["loss"]) for side in ("ours", "compressai"))
    lower.plot(steps, 100 * (a / b - 1), color="#24292f", lw=1)
    lower.axhspan(-100 * LIMIT, 100 * LIMIT, color="#10b981", alpha=0.12, lw=0)
    lower.set(xlabel="step", ylabel="difference [%]")
    lower.grid(alpha=0.3)
    figure.savefig(path, dpi=150)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compressai", required=True, help="the Python of an environment with CompressAI")
    parser.add_argument("--model", default=MODELS[0], choices=MODELS, help="(default %(default)s)")
    parser.add_argument("--N", type=int, default=32, help="width of the transforms (default %(default)s)")
    parser.add_argument("--M", type=int, default=48, help="channels of the latent (default %(default)s)")
    parser.add_argument("--lmbda", type=float, default=0.013, help="weight of the distortion (default %(default)s)")
    parser.add_argument("--steps", type=int, default=1000, help="(default %(default)s)")
    parser.add_argument("--batch", type=int, default=8, help="patches in a step (default %(default)s)")
    parser.add_argument("--patch", type=int, default=128, help="side of a patch, 64 n pixels (default %(default)s)")
    parser.add_argument("--learning-rate", type=float, default=1e-3, help="of Adam (default %(default)s)")
    parser.add_argument("--schedule", default="cosine", choices=("cosine", "constant"), help="(default %(default)s)")
    parser.add_argument("--clip-norm", type=float, default=1.0, help="of the gradients (default %(default)s)")
    parser.add_argument("--runs", type=int, default=3, help="on each side, with other noise (default %(default)s)")
    parser.add_argument(
        "--same-noise",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="give our noise to CompressAI in run 1",
    )
    parser.add_argument("--check-gradients", action="store_true", help="compare loss and gradients, train no curves")
    parser.add_argument("--out", type=pathlib.Path, help="folder for a JSON report and a plot (default: neither)")
    args = parser.parse_args()
    if args.patch % 64 or args.steps < WINDOWS:
        parser.error(f"--patch must be a multiple of 64, --steps at least {WINDOWS}")

    probe = "import importlib.util as u; raise SystemExit(not u.find_spec('compressai'))"
    try:
        subprocess.run([args.compressai, "-c", probe], check=True)
    except (OSError, subprocess.CalledProcessError):
        parser.error(f"{args.compressai} is not the Python of an environment with CompressAI")

    with tempfile.TemporaryDirectory() as folder:
        compare = check_gradients if args.check_gradients else compare_curves
        good, report, versions = compare(args, pathlib.Path(folder))
    from data_pipeline import machine

    versions = {**{name: importlib.metadata.version(name) for name in ("jax", "flax", "optax")}, **versions}
    facts = f"{datetime.date.today()}; {machine()}; " + ", ".join(f"{k} {v}" for k, v in versions.items())
    print(facts)
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        stem = f"{'gradients' if args.check_gradients else 'learning_curve'}_{args.model}"
        settings = {k: v for k, v in vars(args).items() if k not in ("compressai", "out")}
        (args.out / f"{stem}.json").write_text(json.dumps({"facts": facts, "settings": settings, **report}, indent=1))
        if not args.check_gradients:
            plot(report, args, args.out / f"{stem}.png")
    sys.exit(not good)


# --------------------------------------------------------------------------------------------------- CompressAI's half


def compressai_half(path):
    """Runs in CompressAI's environment: does the job in a JSON file and writes compressai.json beside it."""
    job = json.loads(path.read_text())
    if job["cores"]:
        os.sched_setaffinity(0, job["cores"])
    from compressai_side import load_torch

    load_torch(len(job["cores"] or [0]))
    theirs = Theirs(job, path.parent)
    report = theirs.gradients() if job["task"] == "gradients" else theirs.train()
    report["versions"] = {name: importlib.metadata.version(name) for name in ("torch", "compressai")}
    path.with_name("compressai.json").write_text(json.dumps(report))


class Theirs:
    """CompressAI's model, loss and train step, as its examples/train.py has them.

    The auxiliary optimiser is left out: it trains only the quantiles, which nothing reads in training. They are
    computed before evaluation instead, as CompressAI offers.
    """

    def __init__(self, job, folder):
        from compressai.losses import RateDistortionLoss

        self.job, self.folder, self.criterion = job, folder, RateDistortionLoss(job["lmbda"])
        self.batches = np.load(folder / "batches.npy", mmap_mode="r")
        self.noise = {name: np.load(folder / f"noise_{name}.npy", mmap_mode="r") for name in LATENTS}

    def net(self, weights):
        import torch
        from compressai.registry import MODELS as registry

        net = registry[self.job["model"]](self.job["N"], self.job["M"])
        with np.load(self.folder / weights) as file:
            state = {name: torch.from_numpy(array) for name, array in file.items()}
        lacking, unexpected = torch.nn.Module.load_state_dict(net, state, strict=False)
        if unexpected or set(lacking) & {name for name, _ in net.named_parameters()}:
            raise SystemExit(f"the weights do not fit: missing {lacking}, unexpected {unexpected}")
        return net

    def images(self, array):
        import torch

        return torch.from_numpy(np.array(array)).permute(0, 3, 1, 2).contiguous().float() / 255

    def loss(self, net, step, given_noise):
        """CompressAI's figures of a step, as tensors."""
        images = self.images(self.batches[step])
        noise = [self.noise[name][step] for name in LATENTS] if given_noise else []
        with added_noise(noise):
            return self.criterion(net(images), images)

    def gradients(self):
        import torch

        losses = []
        for point in range(self.job["points"]):
            net = self.net(f"weights_{point}.npz").train()
            out = self.loss(net, 0, True)
            out["loss"].backward()
            losses.append(out["loss"].item())
            gradients = {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in net.named_parameters()}
            np.savez(self.folder / f"gradients_{point}.npz", **{name: g.numpy() for name, g in gradients.items()})
        return {"losses": losses}

    def train(self):
        import torch

        runs = []
        for run in (*range(self.job["runs"]), CONTROL):
            start = time.perf_counter()
            seed = 0 if run == CONTROL else run
            torch.manual_seed(seed)
            net = self.net("weights_0.npz").train()
            learned = [p for name, p in net.named_parameters() if not name.endswith(".quantiles")]
            if run == CONTROL:
                with torch.no_grad():
                    for p in learned:
                        p.copy_(torch.nextafter(p, torch.full_like(p, torch.inf)))
            optimizer = torch.optim.Adam(learned, lr=self.job["learning_rate"])
            schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self.fraction)
            history = {"loss": [], "bpp": [], "mse255": []}
            for step in range(len(self.batches)):
                optimizer.zero_grad()
                out = self.loss(net, step, self.job["same_noise"] and seed == 0)
                out["loss"].backward()
                torch.nn.utils.clip_grad_norm_(learned, self.job["clip_norm"])
                optimizer.step()
                schedule.step()
                history["loss"].append(out["loss"].item())
                history["bpp"].append(out["bpp_loss"].item())
                history["mse255"].append(out["mse_loss"].item() * 255**2)
            runs.append({**history, "held_out": self.validate(net)})
            name = run if run == CONTROL else f"run {run + 1}"
            print(f"  CompressAI, {name}: {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
        return {"control": runs.pop(), "runs": runs}

    def fraction(self, step):
        """Of the learning rate, in a step counted from 0."""
        return 1.0 if self.job["schedule"] == "constant" else 0.5 + 0.5 * np.cos(np.pi * step / len(self.batches))

    def validate(self, net):
        """As `mlic_jax.training.validation.validate`: rounded latents, pictures of 8 bits, means over the patches."""
        import torch

        net.eval()
        net.update(force=True, update_quantiles=True)
        figures = {"loss": [], "bpp": [], "psnr_db": []}
        for patch in np.load(self.folder / "held_out.npy"):
            image = self.images(patch[None])
            with torch.no_grad():
                out = net(image)
                out["x_hat"] = out["x_hat"].clamp(0, 1).mul(255).round().div(255)
                out = self.criterion(out, image)
            figures["loss"].append(out["loss"].item())
            figures["bpp"].append(out["bpp_loss"].item())
            figures["psnr_db"].append(-10 * np.log10(out["mse_loss"].item()))
        return {name: float(np.mean(values)) for name, values in figures.items()}


@contextlib.contextmanager
def added_noise(arrays):
    """Lets CompressAI's quantisers add these arrays [B, h, w, C] in turn, in place of noise of their own."""
    import torch
    from compressai.entropy_models import EntropyBottleneck
    from compressai.entropy_models.entropy_models import EntropyModel

    original, left = EntropyModel.quantize, list(arrays)

    def quantize(self, inputs, mode, means=None):
        if mode != "noise" or not arrays:
            return original(self, inputs, mode, means)
        # The bottleneck works on [C, 1, B h w].
        order = (3, 0, 1, 2) if isinstance(self, EntropyBottleneck) else (0, 3, 1, 2)
        return inputs + torch.from_numpy(np.array(left.pop(0)).transpose(order)).reshape(inputs.shape)

    EntropyModel.quantize = quantize
    try:
        yield
    finally:
        EntropyModel.quantize = original
    if left:
        raise SystemExit(f"CompressAI's model left {len(left)} arrays of noise unused")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--job"]:
        compressai_half(pathlib.Path(sys.argv[2]))
    else:
        main()
