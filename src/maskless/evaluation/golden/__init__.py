"""Golden files: is what this build computes on this device what it should be?

A golden file holds weights, inputs, recorded draws and expected outputs; its kind follows from its name. Every expected
tensor is compared, through the production importer, models, objectives and decoding loop (docs/verify.md).
"""
from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from maskless.evaluation.golden import (
    distillation,
    harness,
    image_losses,
    image_metrics,
    image_networks,
    image_samplers,
    image_vq,
    losses,
    networks,
    prime,
    samplers,
    small,
)
from maskless.evaluation.golden.case import Case, Comparison

Check = Callable[[Case], None]

KINDS: dict[str, Check] = {
    "image_loss_maskgit": image_losses.check_maskgit_loss,
    "image_loss_pgm": image_losses.check_pgm_loss,
    "image_maskgit": image_networks.check_maskgit,
    "image_metrics": image_metrics.check_image_metrics,
    "image_pgm_sample": image_networks.check_sampling,
    "image_pgm_train": image_networks.check_training,
    "image_pgm_variant": image_networks.check_variant,
    "image_sample_maskgit_confidence": image_samplers.check_maskgit_confidence,
    "image_sample_maskgit_halton": image_samplers.check_maskgit_halton,
    "image_sample_pgm_confidence": image_samplers.check_pgm_confidence,
    "image_sample_pgm_halton": image_samplers.check_pgm_halton,
    "image_schedules": image_samplers.check_schedules,
    "image_vq_a": image_vq.check_vq,
    "image_vq_b_decode": image_vq.check_vq,
    "image_vq_b_encode": image_vq.check_vq,
    "prime_text_l": prime.check_prime,
    "text_ar": losses.check_autoregressive,
    "text_categorical": small.check_categorical,
    "text_complement_mdlm": losses.check_complementary,
    "text_harness": harness.check_harness,
    "text_mdlm_orig": losses.check_masked,
    "text_mdlm_efficient": losses.check_masked,
    "text_mdlm_tiny_io": networks.check_checkpoint,
    "text_metrics": small.check_metrics,
    "text_nucleus": small.check_nucleus,
    "text_pgm_backbone": networks.check_backbone,
    "text_pgm_loss": losses.check_partition,
    "text_pgm_tiny_io": networks.check_checkpoint,
    "text_sampler_mdlm_analytic": samplers.check_analytic,
    "text_sampler_mdlm_ddpm": samplers.check_ancestral,
    "text_sampler_mdlm_semi_ar": samplers.check_semi_autoregressive,
    "text_sampler_pgm_naive": samplers.check_ancestral,
    "text_sampler_pgm_nonuniform": samplers.check_nonuniform,
    "text_sampler_pgm_uniform": samplers.check_uniform,
    "text_sampler_sdtt_ancestral": samplers.check_sdtt,
    "text_schedule": small.check_schedule,
    "text_sdtt_mdlm_k": distillation.check_distillation,
    "text_sdtt_pgm_k": distillation.check_distillation,
    "text_sdtt_schedule": distillation.check_rounds,
}


@dataclass(frozen=True)
class Report:
    """All comparisons of one file, and what it holds that was not looked at."""

    path: Path
    kind: str
    found: list[Comparison]
    unchecked: list[str]

    @property
    def passed(self) -> bool:
        return all(comparison.passed for comparison in self.found)


def kind_of(path: Path, kinds: Mapping[str, object]) -> str:
    """The longest known kind with which the file's name begins.

    Raises:
        ValueError: there is none.
    """
    fitting = [kind for kind in kinds if path.name.startswith(kind)]
    if not fitting:
        raise ValueError(f"{path.name} is of no kind known here; the kinds are {', '.join(sorted(kinds))}")
    return max(fitting, key=len)


def verify(
    path: Path, *, device: str = "cpu", dtype: torch.dtype = torch.float32, more: Mapping[str, Check] | None = None,
) -> Report:
    """Check one golden file.

    Args:
        path: a .safetensors file named after its kind, or text_data*.json.
        device: where the networks run.
        dtype: of weights and activations. Times, losses and draws keep their own precision.
        more: kinds that live above this package.

    Raises:
        ValueError: an unknown kind, a damaged file, or one in which nothing could be compared.
        OSError: the file cannot be read.
    """
    kinds: dict[str, Check] = {**KINDS, **(more or {})}
    if not path.exists():
        raise ValueError(f"{path} does not exist")
    if path.suffix == ".json" and path.name.startswith("text_data"):
        with complete(path, "text_data"):
            agreed = small.check_text(path)
        return _report(Report(path, "text_data", [Comparison(name, float(not ok), float(not ok), ok) for name, ok in agreed.items()], []))
    kind = kind_of(path, kinds)
    case = Case.read(path, _device(device), dtype)
    with complete(path, kind):
        kinds[kind](case)
    return _report(Report(path, kind, case.found, case.unchecked()))


@contextmanager
def complete(path: Path, kind: str) -> Iterator[None]:
    """Raise ValueError that names the file and its kind for whatever a check stumbles over."""
    try:
        yield
    except (LookupError, RuntimeError, ArithmeticError, AttributeError, TypeError, ValueError) as error:
        if isinstance(error, ValueError) and str(path) in str(error):
            raise
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise ValueError(f"{path} is not a complete file of kind {kind}: {reason}") from error


def _device(name: str) -> torch.device:
    try:
        return torch.zeros(1, device=name).device
    except (RuntimeError, AssertionError) as error:  # torch asserts that it was built for the device
        raise ValueError(f"device {name!r} cannot be used by this torch build: {str(error).splitlines()[0]}") from error


def _report(report: Report) -> Report:
    if not report.found:
        raise ValueError(f"{report.path}: nothing was compared; the file has no expected tensor of kind {report.kind}")
    return report


__all__ = ["KINDS", "Case", "Comparison", "Report", "kind_of", "verify"]
