"""`mlic evaluate`, `mlic benchmark` and `mlic claim`."""

from __future__ import annotations

import os
import pathlib
import sys

from mlic_jax import runtime
from mlic_jax.cli import common
from mlic_jax.errors import UsageError


def evaluate(arguments):
    from mlic_jax import api
    from mlic_jax.evaluation import evaluate
    from mlic_jax.evaluation.report.tables import cell, markdown_table
    from mlic_jax.metrics import registry
    from mlic_jax.training.runs import export_run

    if not arguments.run and not arguments.model:
        raise UsageError("evaluate needs --run WORKDIR or --model FILE.mlicm")
    metrics = registry.parse(arguments.metrics)
    runtime.prepare_jax()
    pictures = common.pictures(arguments.images, arguments.limit)
    models = [(_label(path), export_run(path, arguments.which)) for path in arguments.run]
    models += [(_label(path), api.load_model(path)) for path in arguments.model]
    codecs = [name for name in (arguments.compare or "").split(",") if name]
    with runtime.Bar("evaluate", len(models) * len(pictures) + 2 * len(codecs), arguments.quiet) as bar:
        found = evaluate.compare(models, pictures, codecs, bar.done, metrics)
    for row in [row for rows in found["rows"] for row in rows] if arguments.per_image else []:
        values = [f"{registry.METRICS[name].label} {cell(row[registry.METRICS[name].key])}" for name in metrics]
        print(
            f"{row['name']}: {row['bytes']} bytes, {row['bpp']:.4f} bpp (estimated {row['bpp_estimated']:.4f}), "
            + ", ".join(values)
        )
    label = arguments.label or models[0][1].model
    if len(models) == 1:
        found["points"][0]["model"] = label
    if arguments.json:
        print(evaluate.to_json(label, _about(models), found["points"], found["rows"]).decode())
    else:
        print(markdown_table(evaluate.summary(found)), end="")
        for name, differences in found["bd"].items():
            for key, difference in differences.items():
                print(
                    f"BD-rate against {name} in {registry.BY_KEY[key].title}: {difference.value:+.1f} % "
                    f"({difference.interpolator}, {difference.low:.1f} to {difference.high:.1f} dB)"
                )
    if arguments.out:
        notes = [_about(models), *arguments.note]
        written = evaluate.write(arguments.out, label, notes, found, pictures)
        if not arguments.json:
            print("\n".join(f"wrote {path}" for path in written.values()))


def _label(path: str) -> str:
    return pathlib.Path(path).stem


def _about(models) -> str:
    artifact = models[0][1]
    parameters = sum(array.size for name, array in artifact.arrays().items() if name.startswith("params/"))
    words = f"{artifact.model}, {parameters / 1e6:.2f} million parameters"
    if "step" in artifact.card:
        data = artifact.card["trained_with"]["data"]
        photos = "the bundled photos" if data["source"] == "bundled" else data["source"]
        words += f", trained for {artifact.card['step']} steps of {data['batch_size']} patches of {data['patch_size']}"
        words += f"x{data['patch_size']} pixels from {photos}"
    return words + ". All rates are of whole files, all distortions of decoded 8-bit pictures."


def benchmark(arguments):
    from mlic_jax import api, classical
    from mlic_jax.evaluation.benchmark import entrants, main, results
    from mlic_jax.evaluation.report.tables import markdown_table
    from mlic_jax.metrics import registry

    codecs = [name for name in arguments.codecs.split(",") if name]
    specs = [entrants.parse(word) for word in arguments.models]
    if specs:
        runtime.prepare_jax()

    def load(path):
        from mlic_jax.training.runs import export_run

        return export_run(path, arguments.which) if os.path.isdir(path) else api.load_model(path)

    outcome = main.benchmark(
        list(classical.available()) if codecs == ["all"] else codecs,
        specs,
        load,
        arguments.curves,
        [name for name in arguments.anchors.split(",") if name],
        lambda: common.pictures(arguments.images, arguments.limit),
        arguments.out,
        main.Options(
            cache=arguments.cache or os.path.join(arguments.out, "cache"),
            fresh=arguments.fresh,
            jobs=arguments.jobs,
            bpp=arguments.at,
            shown=arguments.show,
            timed=arguments.timing,
            quiet=arguments.quiet,
            metrics=registry.parse(arguments.metrics),
        ),
    )
    curves = outcome.found.curves()
    print(f"{outcome.measured} results measured, {outcome.reused} found in the cache", file=sys.stderr)
    rates = results.bd_rates(curves, outcome.found.anchors, outcome.found.metrics)
    print(markdown_table(results.summary(outcome.found, curves, rates)))
    print("\n".join(f"wrote {path}" for path in outcome.written.values()))


def claim(arguments):
    from mlic_jax.evaluation.claim import main

    runtime.prepare_jax()
    return main.command(arguments, lambda: common.pictures(arguments.images, arguments.limit))
