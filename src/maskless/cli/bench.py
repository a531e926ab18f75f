"""`maskless bench`: speed and memory, side by side in one process."""
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    import torch

bench = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Speed and memory of models side by side, measured and counted.")


def _folder(out: Path | None) -> Path | None:
    """What `--out` names, refused before anything is measured where it cannot become a folder."""
    if out is not None and (file := next((path for path in (out, *out.parents) if path.exists()), Path())).is_file():
        raise ValueError(f"--out {out} needs a folder, and {file} is a file; give another name")
    return out


PresetName = Annotated[str, typer.Option(help="cpu-small (the configuration of the project's CPU figures), toy, gpu, gpu-long or memory.")]
Models = Annotated[str | None, typer.Option(help="Comma-separated contenders; a name that is not known lists them.")]
Batch = Annotated[str | None, typer.Option(help="Rows, or `best`: double for each contender until memory ends or speed no longer rises.")]
Length = Annotated[str | None, typer.Option(help="Sites of a row; more, comma-separated, make the curve against length.")]
Steps = Annotated[str | None, typer.Option(help="Calls of the model; more, comma-separated, make the curve against steps.")]
Dtype = Annotated[str | None, typer.Option(help="float32, bfloat16 or float16.")]
Repeats = Annotated[int | None, typer.Option(help="Interleaved repetitions.", min=1)]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
Weights = Annotated[list[Path] | None, typer.Option(help="A checkpoint folder, or tiny (in the package): for contenders of its kind; repeatable.")]
Compile = Annotated[str, typer.Option(help="Of the calls: auto (CUDA graphs where there is CUDA), off, graphs, or inductor (torch.compile).")]
Out = Annotated[Path | None, typer.Option(help="Write bench.json and bench.png into this folder.", callback=_folder)]


@bench.command()
def sampling(preset: PresetName = "cpu-small", models: Models = None, batch: Batch = None, length: Length = None, steps: Steps = None,
             dtype: Dtype = None, repeats: Repeats = None, device: Device = "auto", compile: Compile = "auto", weights: Weights = None,
             sweep: Annotated[bool, typer.Option(help="Also time the preset's other steps and lengths, at most twice each.")] = True,
             out: Out = None) -> None:
    """Tokens per second, calls, memory and counted cost of whole generations."""
    from maskless.evaluation.bench import report
    from maskless.evaluation.bench.contenders import USUAL
    from maskless.evaluation.bench.sampling import run

    chosen = _chosen(preset, batch, length, steps, dtype, sweep)
    names = _contenders(models, USUAL)
    networks = _networks(chosen.setting, device, weights, compile)
    found = run(chosen, names, networks, repeats=repeats or chosen.repeats, progress=_progress)
    _head(found.setting, networks.device)
    report.print_sampling(found)
    if out is not None:
        _write(out, found, "sampling", preset, networks.device, compile)


@bench.command()
def training(preset: PresetName = "cpu-small",
             models: Annotated[str, typer.Option(help="Comma-separated: mdlm, pgm, any-order, ar, or pgm- and a way of attending.")] = "mdlm,pgm",
             batch: Batch = None, length: Length = None, dtype: Dtype = None, repeats: Repeats = 5, device: Device = "auto", out: Out = None) -> None:
    """Time of a training step, beside MDLM of equal depth, at several lengths with equal sites a batch."""
    from dataclasses import replace

    from maskless.evaluation.bench import report
    from maskless.evaluation.bench.training import run

    _refuse_best(batch, "training compares times at one batch")
    chosen, where = _chosen(preset, batch, length, None, dtype, False), _device(device)
    lengths = _numbers(length, "length", 2) or list(chosen.training)
    if batch is None and chosen.training_batch:
        chosen = replace(chosen, setting=replace(chosen.setting, batch=chosen.training_batch))
    rows = run(chosen.setting, lengths, _words(models), where, repeats=repeats or 5, progress=_progress)
    _head(chosen.setting, where)
    report.print_training(rows)
    if out is not None:
        from maskless.evaluation.bench.picture import draw_training

        path = report.write_json(out, report.training_document(rows, chosen.setting, preset, where))
        draw_training(out / "bench.png", rows, chosen.setting, f"{preset} on {report.where(where, chosen.setting.dtype)['device']}")
        typer.echo(f"\nwritten: {path} and {out / 'bench.png'}")


@bench.command()
def scaling(preset: PresetName = "cpu-small", models: Models = None, batch: Batch = None, length: Length = None,
            sizes: Annotated[str | None, typer.Option(help="Tokens a call, from many to few; the first is used for all lengths.")] = None,
            dtype: Dtype = None, repeats: Repeats = 3, device: Device = "auto", compile: Compile = "auto", weights: Weights = None,
            out: Out = None) -> None:
    """Time per call from k = 16 to k = 1 at the first length, time per token along the lengths, with counted attention."""
    from dataclasses import replace

    from maskless.evaluation.bench import report
    from maskless.evaluation.bench.scaling import DEFAULT, run

    _refuse_best(batch, "scaling compares times at one batch")
    chosen = _chosen(preset, batch, length, None, dtype, True)
    chosen = replace(chosen, sizes=tuple(_numbers(sizes, "sizes", 1)) or chosen.sizes, scaling=tuple(_numbers(length, "length", 2)) or chosen.scaling)
    names = _contenders(models, DEFAULT)
    networks = _networks(chosen.setting, device, weights, compile)
    found = run(chosen, names, networks, repeats=repeats or 3, progress=_progress)
    _head(found.setting, networks.device)
    report.print_scaling(found)
    if out is not None:
        _write(out, found, "scaling", preset, networks.device, compile)


@bench.command()
def memory(preset: PresetName = "memory", models: Models = None, batch: Batch = None, length: Length = None, steps: Steps = None,
           calls: Annotated[int | None, typer.Option(help="Run only so many: the last of the plan, or the first of a model with a cache.",
                                                     min=1)] = None,
           dtype: Dtype = None, device: Device = "auto", weights: Weights = None,
           out: Annotated[Path | None, typer.Option(help="Write bench.json into this folder.", callback=_folder)] = None) -> None:
    """Peak memory of sampling beside weights and caches; by default the published 8/8 model at 32 rows of 1024 sites."""
    from maskless.evaluation.bench import report
    from maskless.evaluation.bench.contenders import Networks
    from maskless.evaluation.bench.peak import measure

    _refuse_best(batch, "memory is measured at one batch")
    chosen = _chosen(preset, batch, length, steps, dtype, False)
    names = _contenders(models, ("pgm-cached",))
    networks = Networks(chosen.setting, _device(device), weights or ())
    rows = [measure(name, networks, calls) for name in names]
    _head(networks.setting, networks.device)
    report.print_memory(rows, networks.device)
    if out is not None:
        typer.echo(f"\nwritten: {report.write_json(out, report.memory_document(rows, networks, preset))}")


def _networks(setting: Any, device: str, weights: list[Path] | None, compile: str) -> Any:
    from maskless.evaluation.bench.contenders import Networks
    from maskless.models.captured import recorder

    where = _device(device)
    return Networks(setting, where, weights or (), recorder(compile, where))


def _write(out: Path, found: Any, what: str, preset: str, device: torch.device, compile: str) -> None:
    """bench.json and bench.png."""
    from maskless.evaluation.bench import picture, report

    path = report.write_json(out, report.rows_document(found, what, preset, device, compile))
    draw = {"sampling": picture.draw_sampling, "scaling": picture.draw_scaling}[what]
    draw(out / "bench.png", found, f"{preset} on {report.where(device, found.setting.dtype)['device']}")
    typer.echo(f"\nwritten: {path} and {out / 'bench.png'}")


def _progress(line: str) -> None:
    typer.echo(line, err=True)


def _head(setting: Any, device: torch.device) -> None:
    """What was run, and where."""
    from maskless.evaluation.bench.report import where

    typer.echo(", ".join(f"{name} {value}" for name, value in setting.described().items() if name != "dtype"))
    typer.echo(", ".join(f"{name} {value}" for name, value in where(device, setting.dtype).items()))


def _contenders(models: str | None, usual: Sequence[str]) -> Sequence[str]:
    """The names that `--models` gives, each known, or the usual ones."""
    from maskless.evaluation.bench.contenders import CONTENDERS, checked

    return usual if models is None else checked(_words(models), CONTENDERS)


def _words(names: str) -> list[str]:
    """What stands between commas, each once."""
    return list(dict.fromkeys(name.strip() for name in names.split(",")))


def _refuse_best(batch: str | None, why: str) -> None:
    if batch == "best":
        raise ValueError(f"--batch best is of `bench sampling`; {why}: give a number")


def _device(name: str) -> torch.device:
    import torch

    from maskless.cli.sampling import one_of
    from maskless.evaluation.machine import best_device

    one_of(name, "device", ("auto", "cpu", "cuda", "mps"))
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there.get(name, True):
        raise ValueError(f"--device {name} is not available here; leave it out, or give cpu")
    return best_device() if name == "auto" else torch.device(name)


def _chosen(preset: str, batch: str | None, length: str | None, steps: str | None, dtype: str | None, sweep: bool) -> Any:
    """The preset with what the options change: the first of several lengths or steps is the setting's, the others make the curve."""
    from dataclasses import replace

    from maskless.evaluation.bench import setting as s

    chosen = s.preset(preset)
    lengths, counts = _numbers(length, "length", 2), _numbers(steps, "steps", 1)
    at = lengths[0] if lengths else chosen.setting.length
    calls = counts[0] if counts else min(chosen.setting.steps, at)
    for most, sites in ((max(counts, default=calls), at), (calls, min(lengths, default=at))):
        if most > sites:
            raise ValueError(f"{most} steps are more calls than a row of {sites} sites can take; give --steps, at most {sites}, or a larger --length")
    changed: dict[str, Any] = {"length": at, "steps": calls}
    if dtype is not None:
        changed["dtype"] = s.dtype_of(dtype)
    if batch is not None and batch != "best":
        changed["batch"], *others = _numbers(batch, "batch", 1)
        if others:
            raise ValueError(f"--batch {batch} is several numbers; give one, or `best`")
    best = batch == "best" or (batch is None and chosen.best_batch)
    beside = {"lengths": tuple(lengths[1:] if lengths else (n for n in chosen.lengths if n >= calls)),
              "steps": tuple(counts[1:] if counts else (n for n in chosen.steps if n <= at))}
    return replace(chosen, setting=replace(chosen.setting, **changed), best_batch=best, **(beside if sweep else {"lengths": (), "steps": ()}))


def _numbers(text: str | None, name: str, least: int) -> list[int]:
    if text is None:
        return []
    try:
        values = [int(part) for part in text.split(",")]
    except ValueError:
        also = " or best" if name == "batch" else ", or several with commas"
        raise ValueError(f"--{name} {text} is not a whole number; give a number{also}") from None
    if low := [value for value in values if value < least]:
        raise ValueError(f"--{name} {low[0]} is below {least}; give a larger number")
    return values


@bench.command()
def images(
    models: Annotated[list[Path] | None, typer.Argument(help="Image models; none: PGM and MaskGIT with random weights, for speed alone.")] = None,
    classifier: Annotated[Path | None, typer.Option(help="The folder of a classifier, whose features measure distances.")] = None,
    real: Annotated[Path | None, typer.Option(help="An .npz of real images; their test split is the reference.")] = None,
    count: Annotated[int, typer.Option(help="Images of a distance.", min=1)] = 500,
    orders: Annotated[str, typer.Option(help="Comma-separated: halton, confidence, random, raster.")] = "halton,confidence",
    steps: Annotated[str, typer.Option(help="Comma-separated numbers of calls.")] = "8,16,32,64",
    guidance: Annotated[str, typer.Option(help="Comma-separated strengths, each at --at steps.")] = "0,1,2,3",
    at: Annotated[str, typer.Option(help="Comma-separated numbers of calls of the guided rows.")] = "16",
    grids: Annotated[str, typer.Option(help="Without models: cells of a side.")] = "16,32",
    batch: Annotated[int, typer.Option(help="Images at once.", min=1)] = 50,
    seed: Annotated[int, typer.Option(help="Of the first image.")] = 0,
    device: Device = "auto", dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16; random weights: float32.")] = "float32",
    out: Out = None,
) -> None:
    """Distance to real images against images per second; without models, speed alone on larger grids."""
    from maskless.cli.bench_images import measure, speeds

    if not models:
        speeds(_numbers(grids, "grids", 1), _numbers(steps, "steps", 1), batch, _device(device), out)
        return
    if classifier is None or real is None:
        raise ValueError("distances need --classifier (maskless train image/classifier_fashion) and --real (an .npz of real images); give both")
    chosen = {"orders": orders.split(","), "steps": _numbers(steps, "steps", 1), "guidances": _floats(guidance), "at": _numbers(at, "at", 1)}
    measure(models, classifier, real, chosen, count=count, batch=batch, seed=seed, device=str(_device(device)), dtype=dtype, out=out)


@bench.command()
def curve(
    models: Annotated[list[str], typer.Argument(metavar="MODEL...", help="Folders: teachers, students (RUN/rounds/2), any others.")],
    scorer: Annotated[str | None, typer.Option(help="Texts: an autoregressive checkpoint, or a causal model's Hugging Face name.")] = None,
    features: Annotated[str | None, typer.Option(help="Images: a classifier's folder, or a protocol of Inception.")] = None,
    steps: Annotated[str, typer.Option(help="Comma-separated calls of a generation.")] = "4,8,16,32,64,128,256",
    samples: Annotated[int, typer.Option(help="Texts or images of a quality.", min=1)] = 256,
    sampler: Annotated[list[str], typer.Option("--sampler", metavar="NAME=VALUE", help="Of the sampler: guidance=1, top_p=0.9, order=spaced; may be "
                                               "repeated.")] = [],  # noqa: B006
    refresh: Annotated[int, typer.Option(help="Order-causal models: encode all that is known afresh every so many steps.", min=0)] = 0,
    batch: Annotated[int, typer.Option(help="Rows of a timing.", min=1)] = 32,
    repeats: Annotated[int, typer.Option(help="Timings of each; 0: none.", min=0)] = 3,
    seed: Annotated[int, typer.Option(help="Of the samples.")] = 0,
    weights: Annotated[str, typer.Option(help="ema (the moving average where there is one) or raw.")] = "ema",
    device: Device = "auto", dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    out: Annotated[Path, typer.Option(help="The folder of results; a later command adds to it.", callback=_folder)] = Path("curve"),
) -> None:
    """Quality against calls and against tokens per second, for teachers and students side by side, with what distilling them has cost."""
    from maskless.cli.bench_curve import measure

    asked = {"steps": tuple(_numbers(steps, "steps", 1)), "samples": samples, "scorer": scorer, "features": features, "refresh": refresh,
             "batch": batch, "repeats": repeats, "seed": seed}
    measure(models, asked, sampler, weights=weights, device=str(_device(device)), dtype=dtype, out=out)


def _floats(given: str) -> list[float]:
    try:
        return [float(part) for part in given.split(",")]
    except ValueError:
        raise ValueError(f"--guidance {given} is not understood; give numbers such as 0,1,2") from None
