"""One golden file: what it gives, what it expects, and how far from it this build is."""
from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch
from jaxtyping import Bool
from safetensors import SafetensorError, safe_open
from torch import Tensor

from maskless.checkpoints.reference.images import import_images, is_images
from maskless.checkpoints.reference.importer import import_state, reference_names
from maskless.models import Denoiser, PartitionTransformer

M = TypeVar("M", bound=Denoiser)


@dataclass(frozen=True)
class Tolerance:
    """An entry x of a tensor whose largest is M may be off by share * max(|x|, M, but `small` <= M <= `large`)."""

    share: float
    small: float = 1e-2
    large: float = 1.0

    def of(self, want: Tensor, largest: float) -> Tensor:
        size = torch.where(want.isfinite(), want.abs(), 0.0)
        return self.share * size.clamp_min(min(max(largest, self.small), self.large))


TOLERANCES = {
    torch.float64: Tolerance(1e-4), torch.float32: Tolerance(1e-4),
    torch.float16: Tolerance(1e-2, large=4.0), torch.bfloat16: Tolerance(5e-2, large=4.0),
}
QUERY_BY_NAME = {
    "_logsumexp": "learn+freqs+logsumexp", "_mean": "learn+freqs+mean", "_freqs": "learn+freqs", "_learn": "learn",
}


@dataclass(frozen=True)
class Comparison:
    """One expected tensor beside ours.

    Attributes:
        absolute: the largest difference (of integers: how many differ).
        relative: the same over the largest finite entry expected.
        passed: every entry is within tolerance; integers are equal.
    """

    name: str
    absolute: float
    relative: float
    passed: bool
    note: str = ""


def compare(name: str, got: Tensor, want: Tensor, tolerance: Tolerance) -> Comparison:
    """Beside each other, broadcast where the file left out an axis that repeats."""
    got, want = got.detach().cpu(), want.detach().cpu()
    try:
        got, want = torch.broadcast_tensors(got, want)
    except RuntimeError:
        return Comparison(name, torch.inf, torch.inf, False, f"shape {tuple(got.shape)}, expected {tuple(want.shape)}")
    if not want.is_floating_point():
        wrong = int((got != want).sum())
        note = f"{wrong} of {want.numel()} differ" if wrong else ""
        return Comparison(name, float(wrong), wrong / max(want.numel(), 1), wrong == 0, note)
    got, want = got.double(), want.double()
    difference = torch.where(got == want, 0.0, (got - want).abs())  # equal infinities differ by nothing
    finite = want[want.isfinite()].abs()
    largest = float(finite.max()) if finite.numel() else 0.0
    passed = bool((difference <= tolerance.of(want, largest)).all())  # NaN fails
    worst = float(difference.max()) if difference.numel() else 0.0
    return Comparison(name, worst, worst / largest if largest else worst, passed)


def _ids(tensor: Tensor) -> Tensor:
    """Whole numbers as int64, whatever they were written as."""
    return tensor if tensor.is_floating_point() or tensor.dtype == torch.bool else tensor.long()


def _parsed(value: str) -> Any:
    try:
        return json.loads(value)
    except json.JSONDecodeError:
        return value


@dataclass
class Case:
    """A golden file under test. Checks read inputs with `input`, and `expect` what they computed."""

    path: Path
    tensors: Mapping[str, Tensor]
    meta: Mapping[str, Any]
    device: torch.device
    dtype: torch.dtype
    found: list[Comparison] = field(default_factory=list)
    used: set[str] = field(default_factory=set)

    @staticmethod
    def read(path: Path, device: torch.device, dtype: torch.dtype) -> Case:
        """Raises: ValueError if the file is damaged or no safetensors file; OSError if it cannot be read."""
        try:
            with safe_open(path, "pt") as file:
                tensors = {key: _ids(file.get_tensor(key)) for key in file.keys()}  # noqa: SIM118 (not a dict)
                said = {key: _parsed(value) for key, value in (file.metadata() or {}).items()}
        except SafetensorError as error:
            raise ValueError(f"{path} is damaged or no safetensors file ({error}); fetch it again") from error
        return Case(path, tensors, {key: value for key, value in said.items() if value is not None}, device, dtype)

    def has(self, name: str) -> bool:
        return name in self.tensors

    def input(self, name: str) -> Tensor:
        """An input, on the device; times and uniforms keep their precision."""
        self.used.add(name)
        return self.tensors[name].to(self.device)

    def names(self, prefix: str) -> list[str]:
        """Names that begin with `prefix`, in order."""
        return sorted(name for name in self.tensors if name.startswith(prefix))

    def expect(self, name: str, got: Tensor, where: Bool[Tensor, " ..."] | None = None) -> None:
        """Compare `got` with an expected tensor, if the file has it; `where` leaves out entries that mean nothing."""
        if not self.has(name):
            return
        self.used.add(name)
        want = self.tensors[name]
        if where is not None and got.shape == want.shape:
            got, want = got[where], want[where.cpu()]
        self.found.append(compare(name, got, want, TOLERANCES[self.dtype]))

    def expect_number(self, name: str, got: int) -> None:
        """Compare with an integer of the metadata, if it is there."""
        if name in self.meta:
            want = torch.tensor(int(self.meta[name]))
            self.found.append(compare(f"metadata {name}", torch.tensor(got), want, TOLERANCES[self.dtype]))

    def unchecked(self) -> list[str]:
        """Tensors that hold something and were neither read nor compared."""
        return sorted(name for name in self.tensors.keys() - self.used if self.tensors[name].numel())

    # -- what the metadata says, or what it would say ------------------------------------------------------------------

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The `model` configuration; without one, the query mode that the file is named after."""
        found = self.meta.get("model") or self.meta.get("config") or {}
        found = dict(found.get("model", found))
        by_name = next((mode for part, mode in QUERY_BY_NAME.items() if part in self.path.stem), None)
        if "swap" not in found and by_name is not None:
            found["swap"] = {"pre_query_mode": by_name}
        return {**found, "time_conditioning": self.meta.get("algo", {}).get("time_conditioning", False)}

    @cached_property
    def vocab_size(self) -> int:
        return next(len(tensor) for name, tensor in self.tensors.items() if name.endswith("/vocab_embed.embedding") and "grad/" not in name)

    @cached_property
    def mask_id(self) -> int:
        """Recorded; or the token that stands where xt differs from x0; or the last one."""
        if "mask_index" in self.meta:
            return int(self.meta["mask_index"])
        if self.has("xt") and self.has("x0"):
            replaced = self.tensors["xt"][self.tensors["xt"] != self.tensors["x0"]]
            if len(replaced):
                return int(replaced.mode().values)
        return self.vocab_size - 1

    @cached_property
    def minus_infinity(self) -> float:
        """What the released code adds to the mask logit: -1e6 (`large-finite`) or -inf."""
        mode = self.meta.get("neg_infinity_mode")
        if mode is None:
            return -torch.inf if self.has("log_x_theta") and self.tensors["log_x_theta"].isinf().any() else -1e6
        if mode in ("large-finite", "true-inf"):
            return -1e6 if mode == "large-finite" else -torch.inf
        return -abs(float(str(mode).removeprefix("value-")))

    @cached_property
    def leaky(self) -> bool:
        """Whether the mask counts in the normaliser of masked sites: of MDLM with post_process_mode=efficient; PGM has no mask to leak to."""
        if isinstance(self.model, PartitionTransformer):
            return False
        mode = self.meta.get("algo", {}).get("post_process_mode")
        return str(mode).startswith("efficient") if mode else "efficient" in self.path.stem

    @property
    def of_branch(self) -> bool:
        """Whether a file of distillation is of the branch, where the mask counts in the normaliser, or of the stand-alone repository."""
        said = str(self.meta.get("subs", "branch"))
        return said.startswith("branch") and "origsubs" not in self.path.stem

    @cached_property
    def model(self) -> Denoiser:
        """The model of the file."""
        return self.imported("param/")

    def imported(self, prefix: str) -> Denoiser:
        """The model whose weights are under `prefix`, through the production importer."""
        state = {name.removeprefix(prefix): self.input(name) for name in self.names(prefix)}
        if not state:
            raise ValueError(f"{self.path} has no weights under {prefix}")
        if is_images(state):
            model = import_images(state, self.settings)
        else:
            model = import_state(state, self.settings, mask_id=self.mask_id)
        return model.to(self.device, self.dtype)

    def labels(self, y: str = "in/y", dropped: str = "in/drop_label") -> Tensor | None:
        """The recorded labels, those that were dropped as no class; None where the file has none."""
        null = self.model.null_label
        if null is None or not self.has(y):
            return None
        labels = self.input(y)
        return labels.masked_fill(self.input(dropped), null) if self.has(dropped) else labels

    def model_of(self, kind: type[M]) -> M:
        """The model, if it is one of the right kind."""
        if not isinstance(self.model, kind):
            raise ValueError(f"{self.path} has weights of a {type(self.model).__name__}, not of a {kind.__name__}")
        return self.model

    def expect_gradients(self, loss: Tensor, model: Denoiser | None = None) -> None:
        """Compare d loss / d parameter of a model (None: the file's only one) for every `grad/<reference key>`."""
        keys = [name.removeprefix("grad/") for name in self.names("grad/")]
        if not keys:
            return
        model = model or self.model
        parameters, native = dict(model.named_parameters()), reference_names(model, keys)
        for key, grad in zip(keys, torch.autograd.grad(loss, [parameters[native[key]] for key in keys])):
            self.expect(f"grad/{key}", grad)
