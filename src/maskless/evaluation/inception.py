"""The InceptionV3 of the Frechet inception distance ("inception-v3-compat"), written from the published architecture.

Szegedy et al., arXiv 1512.00567, with what the weights of 2015-12-05 were trained with: average pooling that does not count padding, max pooling
in the last block, 1008 classes. Tensors are named as in torch-fidelity's file of those weights.

    299 -> 149 -> 147 -> 147 -> 73 -> 73 -> 71 -> 35     stem, 192 channels
    35  : 256, 288, 288                                   three blocks of 1x1, 5x5, 3x3-3x3, pool
    17  : 768, 768, 768, 768, 768                         a halving, four blocks of 1x7 and 7x1
    8   : 1280, 2048, 2048                                a halving, two blocks that fork; then the mean over 8 x 8

Letters: B images, F = 2048 features, K = 1008 classes.
"""
from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from maskless.checkpoints.native import check_weights, read_tensors

FILE = "weights-inception-2015-12-05-6726825d.pth"
ADDRESS = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{FILE}"
WIDTH, CLASSES = 2048, 1008


class Unit(nn.Module):
    """A convolution without bias, batch normalisation with eps 1e-3, ReLU."""

    def __init__(self, width: int, out: int, kernel: tuple[int, int], stride: int, padding: tuple[int, int]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, out, kernel, stride=stride, padding=padding, bias=False)
        self.bn = nn.BatchNorm2d(out, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.bn(self.conv(x)))


@dataclass(frozen=True)
class Conv:
    """A unit of a branch: its name, channels and kernel. Stride 1 keeps the size, stride 2 halves it without padding."""

    name: str
    out: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1

    def unit(self, width: int) -> Unit:
        padding = (self.kernel[0] // 2, self.kernel[1] // 2) if self.stride == 1 else (0, 0)
        return Unit(width, self.out, self.kernel, self.stride, padding)


Step = Conv | tuple[Conv, Conv] | Callable[[Tensor], Tensor]        # two convolutions: a fork, both outputs one after the other


def average(x: Tensor) -> Tensor:
    """3 x 3 means that do not count padding."""
    return functional.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


def maximum(x: Tensor) -> Tensor:
    return functional.max_pool2d(x, 3, stride=1, padding=1)


def halve(x: Tensor) -> Tensor:
    return functional.max_pool2d(x, 3, stride=2)


class Mixed(nn.Module):
    """Branches side by side, their channels one after the other."""

    def __init__(self, width: int, *branches: tuple[Step, ...]) -> None:
        super().__init__()
        self.branches, self.out = branches, 0
        for branch in branches:
            channels = width
            for step in branch:
                convs = () if callable(step) else (step,) if isinstance(step, Conv) else step
                for conv in convs:
                    self.add_module(f"branch{conv.name}", conv.unit(channels))
                channels = sum(conv.out for conv in convs) or channels
            self.out += channels

    def forward(self, x: Tensor) -> Tensor:
        outputs = []
        for branch in self.branches:
            y = x
            for step in branch:
                y = self._step(step, y)
            outputs.append(y)
        return torch.cat(outputs, 1)

    def _step(self, step: Step, x: Tensor) -> Tensor:
        if callable(step):
            return step(x)
        if isinstance(step, Conv):
            return self.get_submodule(f"branch{step.name}")(x)
        return torch.cat([self._step(conv, x) for conv in step], 1)


def thirty_five(width: int, pooled: int) -> Mixed:
    """A block of the 35 x 35 stage."""
    return Mixed(
        width,
        (Conv("1x1", 64),),
        (Conv("5x5_1", 48), Conv("5x5_2", 64, (5, 5))),
        (Conv("3x3dbl_1", 64), Conv("3x3dbl_2", 96, (3, 3)), Conv("3x3dbl_3", 96, (3, 3))),
        (average, Conv("_pool", pooled)),
    )


def to_seventeen(width: int) -> Mixed:
    return Mixed(
        width,
        (Conv("3x3", 384, (3, 3), 2),),
        (Conv("3x3dbl_1", 64), Conv("3x3dbl_2", 96, (3, 3)), Conv("3x3dbl_3", 96, (3, 3), 2)),
        (halve,),
    )


def seventeen(width: int, inner: int) -> Mixed:
    """A block of the 17 x 17 stage: 7 x 7 as 1 x 7 and 7 x 1."""
    row, column = (1, 7), (7, 1)
    double = (Conv("7x7dbl_2", inner, column), Conv("7x7dbl_3", inner, row), Conv("7x7dbl_4", inner, column), Conv("7x7dbl_5", 192, row))
    return Mixed(
        width,
        (Conv("1x1", 192),),
        (Conv("7x7_1", inner), Conv("7x7_2", inner, row), Conv("7x7_3", 192, column)),
        (Conv("7x7dbl_1", inner), *double),
        (average, Conv("_pool", 192)),
    )


def to_eight(width: int) -> Mixed:
    return Mixed(
        width,
        (Conv("3x3_1", 192), Conv("3x3_2", 320, (3, 3), 2)),
        (Conv("7x7x3_1", 192), Conv("7x7x3_2", 192, (1, 7)), Conv("7x7x3_3", 192, (7, 1)), Conv("7x7x3_4", 192, (3, 3), 2)),
        (halve,),
    )


def eight(width: int, pool: Callable[[Tensor], Tensor]) -> Mixed:
    """A block of the 8 x 8 stage, whose 3 x 3 branches end in a fork of 1 x 3 and 3 x 1."""
    return Mixed(
        width,
        (Conv("1x1", 320),),
        (Conv("3x3_1", 384), (Conv("3x3_2a", 384, (1, 3)), Conv("3x3_2b", 384, (3, 1)))),
        (Conv("3x3dbl_1", 448), Conv("3x3dbl_2", 384, (3, 3)), (Conv("3x3dbl_3a", 384, (1, 3)), Conv("3x3dbl_3b", 384, (3, 1)))),
        (pool, Conv("_pool", 192)),
    )


class Inception(nn.Module):
    """InceptionV3 for distances: bytes in, 2048 features out."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = Unit(3, 32, (3, 3), 2, (0, 0))
        self.Conv2d_2a_3x3 = Unit(32, 32, (3, 3), 1, (0, 0))
        self.Conv2d_2b_3x3 = Unit(32, 64, (3, 3), 1, (1, 1))
        self.Conv2d_3b_1x1 = Unit(64, 80, (1, 1), 1, (0, 0))
        self.Conv2d_4a_3x3 = Unit(80, 192, (3, 3), 1, (0, 0))
        self.Mixed_5b = thirty_five(192, 32)
        self.Mixed_5c = thirty_five(256, 64)
        self.Mixed_5d = thirty_five(288, 64)
        self.Mixed_6a = to_seventeen(288)
        self.Mixed_6b = seventeen(768, 128)
        self.Mixed_6c = seventeen(768, 160)
        self.Mixed_6d = seventeen(768, 160)
        self.Mixed_6e = seventeen(768, 192)
        self.Mixed_7a = to_eight(768)
        self.Mixed_7b = eight(1280, average)
        self.Mixed_7c = eight(2048, maximum)
        self.fc = nn.Linear(WIDTH, CLASSES)

    def blocks(self) -> list[Mixed]:
        return [module for module in self.children() if isinstance(module, Mixed)]

    def forward(self, pixels: Float[Tensor, "B 3 299 299"]) -> Float[Tensor, "B F"]:
        """Features of images whose values are bytes."""
        x = (pixels - 128) / 128
        x = halve(self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x))))
        x = halve(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x)))
        for block in self.blocks():
            x = block(x)
        return x.mean((2, 3))

    def unbiased_logits(self, features: Float[Tensor, "B F"]) -> Float[Tensor, "B K"]:
        """Logits without the bias of the classes, those of the inception score."""
        return functional.linear(features, self.fc.weight)


def load_inception(path: str | Path | None = None, *, fetch: bool = True) -> tuple[Inception, str]:
    """The network and the first eight digits of its file's sha256.

    Args:
        path: a .pth or .safetensors file of the weights; None: torch's hub cache, where they are put if they are not there.
        fetch: whether they may be fetched.

    Raises:
        ValueError: the weights are not there and cannot be fetched, or are of another network.
    """
    path = Path(path).expanduser() if path is not None else _cached(fetch)
    if not path.is_file():
        raise ValueError(f"there are no Inception weights {path}; give the path of {FILE}")
    weights = {name: tensor for name, tensor in _read(path).items() if not name.endswith("num_batches_tracked")}
    with torch.device("meta"):
        network = Inception()
    shapes = {name: tensor for name, tensor in network.state_dict().items() if not name.endswith("num_batches_tracked")}
    check_weights(weights, shapes, str(path))
    network = network.to_empty(device="cpu")
    network.load_state_dict({name: tensor.float() for name, tensor in weights.items()}, strict=False)
    with open(path, "rb") as file:
        return network.eval().requires_grad_(False), hashlib.file_digest(file, "sha256").hexdigest()[:8]


def _read(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        return read_tensors(path)
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what a damaged pickle raises is open-ended
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{path} is damaged or holds no weights ({reason}); fetch {FILE} again") from None
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise ValueError(f"{path} holds no weights by name; fetch {FILE} again")
    return found


def _cached(fetch: bool) -> Path:
    path = Path(torch.hub.get_dir()) / "checkpoints" / FILE
    if path.is_file():
        return path
    remedy = f"get {ADDRESS} on another machine and give its path behind the protocol: images.features=pgm-val:/path/to/{FILE}"
    if not fetch:
        raise ValueError(f"the Inception weights are not in the cache ({FILE}); {remedy}")
    try:
        os.makedirs(path.parent, exist_ok=True)
        torch.hub.download_url_to_file(ADDRESS, str(path), hash_prefix=FILE.rsplit("-", 1)[1].split(".")[0], progress=False)
    except (OSError, RuntimeError, ValueError) as error:
        raise ValueError(f"the Inception weights could not be fetched ({type(error).__name__}: {error}); {remedy}") from None
    return path
