"""An image model with its codec: generate, fill in, paint beyond the border, save.

n images, H and W pixels, h and w cells, L sites, C channels.
"""
from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from numbers import Integral, Number
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from maskless.api.image_files import GeneratedImages
from maskless.api.model import Dtype, GivenSampler, LoadedModel, Seeds, check_count, check_whole, seeds_of
from maskless.data.images import ImageCodes
from maskless.data.pictures import to_bytes, to_pixels
from maskless.decoding import Canvas, DigitCanvas, Noise, Sampler, Speculative
from maskless.decoding.decode import Callback
from maskless.models import Denoiser
from maskless.models.prime import WrittenInDigits

MOST_IMAGES = 1 << 20                                               # of a call, which holds them all at once
USUAL = {"order": "halton", "plan": "arccos", "steps": 32}          # what images are sampled with unless the call says otherwise
OF_DIGITS = {"plan": "ancestral", "alpha_power": 3.0, "steps": 64}  # and images of a Prime model, as they were published

Label = int | np.integer | str | None
Labels = Label | Sequence[Label] | np.ndarray | Tensor


class _How(NamedTuple):
    """How a canvas is filled, as `generate` is told."""

    seed: Seeds
    sampler: GivenSampler
    watch: Callback | None
    refresh: int
    batch: int
    options: dict[str, Any]


class ImageModel(LoadedModel):
    """A network, the codec that turns its codes into pixels, and where it runs.

    Args:
        model: the network as trained.
        codes: the codec of the data it was trained on, its grid and the names of its classes.
        device, dtype, compile: see `LoadedModel`.

    Raises:
        ValueError: if model and codec do not fit each other.

    Example:
        >>> import maskless
        >>> sizes = {"length": 16, "width": 16, "heads": 2, "encoder_layers": 1, "decoder_layers": 1}
        >>> config = maskless.PartitionConfig(vocab_size=4, **sizes, registers=2, grid=(4, 4))
        >>> model = maskless.ImageModel(maskless.build(config), maskless.ImageCodes(maskless.PixelCodec(levels=4), grid=(4, 4)))
        >>> model.generate(2, steps=4).pixels.shape
        (2, 4, 4, 1)
    """

    def __init__(self, model: Denoiser, codes: ImageCodes, *, device: str = "auto", dtype: Dtype = "auto", compile: str = "auto"):
        from maskless.checkpoints.native import check_vocabulary

        config: Any = model.config
        self.codes, self.codec = codes, codes.codec
        rows, columns = codes.grid
        self.grid = rows, columns
        self.opening = config.length - codes.length                 # sites before the first cell: the BOS of imported models
        if (getattr(config, "grid", None) or self.grid) != self.grid or self.opening not in (0, 1):
            raise ValueError(f"the model has {config.length} sites and the codec's images {self.grid[0]} x {self.grid[1]} cells; "
                             "use the codec the model was trained with")
        check_vocabulary(codes.vocabulary.size, config, "the codec")
        if model.null_label is not None and codes.classes and len(codes.classes) != model.null_label:
            raise ValueError(f"the codec names {len(codes.classes)} classes and the model has {model.null_label}; they do not belong together")
        super().__init__(model, device=device, dtype=dtype, compile=compile)
        self.codec.to(self.device)

    def generate(self, n: int = 1, *, labels: Labels = None, seed: Seeds = 0,
                 sampler: GivenSampler = None, watch: Callback | None = None, refresh: int = 0, batch: int = 64,
                 **options: Any) -> GeneratedImages:
        """Images, in parallel and in any order.

        Args:
            n: how many.
            labels: class of all, or of each: its number, its name, or None for no class.
            seed: one number (image b of any call with this seed draws the same noise), or one per image.
            sampler: full control, a `Sampler` or all `SamplerOptions`; without it one is made from `options`, the fields of `SamplerOptions`;
                images start from order="halton", plan="arccos", steps=32, those of a Prime model from plan="ancestral", alpha_power=3, steps=64.
            watch: called with (canvas, record) after every step; see `Film`.
            refresh: see `TextModel.generate`.
            batch: images at once.

        Raises:
            ValueError: a label that is not there, an option out of range, or options beside a sampler.
        """
        check_count("n", n, of="images", most=MOST_IMAGES)
        codes, known = torch.zeros(n, *self.grid, dtype=torch.int64), torch.zeros(n, *self.grid, dtype=torch.bool)
        return self._made(codes, known, labels, _How(seed, sampler, watch, refresh, batch, options))

    def infill(self, image: np.ndarray, mask: np.ndarray | None = None, *, at: tuple[int, int] = (0, 0), labels: Labels = None,
               n: int = 1, seed: Seeds = 0, sampler: GivenSampler = None, watch: Callback | None = None,
               refresh: int = 0, batch: int = 64, **options: Any) -> GeneratedImages:
        """Paint part of an image anew (in-painting), or what lies beyond its border (out-painting); another label edits its class.

        Cells without any masked pixel keep their codes, and pixels that are not masked come back as they were. What a mask covers is not seen: where
        a codec looks beyond a cell, it finds the nearest pixels that are not masked.

        Args:
            image: (h', w', C) or (h', w') uint8, at most of the model's size.
            mask: (h', w') True where to paint anew; None: nowhere inside the image.
            at: row and column where the image lies on the model's canvas; what it does not cover is painted.
            labels, n, seed, sampler, watch, refresh, batch, options: as for `generate`.

        Raises:
            ValueError: image and mask of different sizes, an image that does not fit, nothing to paint.
        """
        check_count("n", n, of="images", most=MOST_IMAGES)
        pixels, wanted = self._placed(image, mask, at)
        open_cells = torch.from_numpy(_any_in_cell(wanted, self.codec.factor)).repeat(self.codec.planes, 1)
        with torch.inference_mode():
            codes = self.codec.encode(to_pixels(continued(pixels, ~wanted)[None]))[0].cpu()
        given = codes.masked_fill(open_cells, 0).expand(n, *self.grid)
        made = self._made(given, ~open_cells.expand(n, *self.grid), labels, _How(seed, sampler, watch, refresh, batch, options))
        kept = np.where(wanted[None, ..., None], made.pixels, pixels[None])
        return GeneratedImages(kept, made.codes, made.labels, made.nfe)

    def impute(self, image: np.ndarray, digits: int | Sequence[int], *, labels: Labels = None, n: int = 1, seed: Seeds = 0,
               sampler: GivenSampler = None, watch: Callback | None = None, batch: int = 64, **options: Any) -> GeneratedImages:
        """Keep some digits of every code of an image and draw the others: the fine for a coarse image, or the other way round.

        Args:
            image: (H, W, C) or (H, W) uint8, of the model's size.
            digits: which of the model's digits to keep, 0 the most significant.
            labels, n, seed, sampler, watch, batch, options: as for `generate`.

        Raises:
            ValueError: a model whose codes have one digit, digits that it does not have, none or all of them, an image of another size.
        """
        check_count("n", n, of="images", most=MOST_IMAGES)
        count = self.model.per_site
        if not isinstance(self.model, WrittenInDigits) or count == 1:
            raise ValueError(f"this {type(self.model).__name__} writes a code in one digit; digits are kept in models with several (a Prime model)")
        chosen: list[Any] = list(digits) if isinstance(digits, Iterable) else [digits]
        for digit in chosen:
            check_whole("a digit to keep", digit)
        if not chosen or any(not 0 <= digit < count for digit in chosen) or len(set(chosen)) == count:
            raise ValueError(f"digits {chosen} are to be kept; give some of 0..{count - 1}, not all of them")
        pixels, wanted = self._placed(image, None, (0, 0))
        if wanted.any():
            raise ValueError(f"the image has {image.shape[0]} x {image.shape[1]} pixels and the model makes {wanted.shape[0]} x {wanted.shape[1]}; "
                             "resize it")
        with torch.inference_mode():
            codes = self.codec.encode(to_pixels(pixels[None]))[0].cpu()
        kept = torch.zeros(count, dtype=torch.bool)
        kept[chosen] = True
        known = kept.expand(n, *self.grid, count)
        return self._made(codes.expand(n, *self.grid), known, labels, _How(seed, sampler, watch, 0, batch, options))

    def save_pretrained(self, folder: str | Path, *, dtype: torch.dtype = torch.float32) -> Path:
        """Write config.json, model.safetensors and the codec into a new folder; `maskless.load(folder)` gives the model back."""
        from maskless.checkpoints.native import save_model

        return save_model(folder, self.model, tokenizer=self.codes, extra=self.notes, dtype=dtype)

    @staticmethod
    def from_pretrained(source: str | Path, **where: Any) -> ImageModel:
        """`maskless.load`, for a model of images.

        Raises:
            ValueError: as `load`; also for a model of text.
        """
        from maskless.api.load import load

        model = load(source, **where)
        if not isinstance(model, ImageModel):
            raise ValueError(f"{source} is a model of text; give an image model, or use maskless.load")
        return model

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of an image in pixels."""
        return self.grid[0] * self.codec.factor // self.codec.planes, self.grid[1] * self.codec.factor

    def usual(self, options: dict[str, Any], open_sites: int) -> dict[str, Any]:
        """What stands in for options of a sampler that were not given, beside those that were."""
        if not isinstance(self.model, WrittenInDigits):
            usual = {**USUAL, "steps": min(32, open_sites)}
            if options.get("order") == "entropy-bound":             # which is a plan of its own
                return {"steps": usual["steps"]}
            if options.get("corrector"):                            # draws at random, along the ancestral plan
                return {"plan": "ancestral", "steps": usual["steps"]}
            return {"order": usual["order"]} if options.get("draft") else usual
        usual = {**OF_DIGITS, "steps": min(64, open_sites * self.model.per_site)}
        if options.get("order") == "entropy-bound":
            return {"steps": usual["steps"]}
        return usual if options.get("plan", "ancestral") == "ancestral" else {"steps": usual["steps"]}

    # -- what a film needs --------------------------------------------------------------------------------------------------------------------

    def cells(self, sites: Tensor) -> Tensor:
        """(n, L) by site as (n, h, w) by cell."""
        return sites[:, self.opening:].reshape(-1, *self.grid)

    @torch.inference_mode()
    def render(self, codes: Int[Tensor, "n h w"]) -> np.ndarray:
        """(n, H, W, C) uint8 of codes; codes that are not there yet are shown as the nearest that are."""
        return to_bytes(self.codec.decode(codes.clamp(0, self.codec.vocab_size - 1).cpu()))

    # -- parts --------------------------------------------------------------------------------------------------------------------------------

    def _within(self, options: dict[str, Any], open_sites: int) -> dict[str, Any]:
        """No more steps than there is to draw, so that what goes with the steps (guidance, temperatures) ends where they do."""
        steps, most = options.get("steps"), open_sites * self.model.per_site
        return options if options.get("plan") == "ancestral" or not isinstance(steps, Integral) else {**options, "steps": min(int(steps), most)}

    def _made(self, codes: Int[Tensor, "n h w"], known: Bool[Tensor, "n h w ..."], labels: Any, how: _How) -> GeneratedImages:
        """The images of canvases on which some codes are known, or some digits of each (n, h, w, l)."""
        check_count("batch", how.batch, of="images at once")
        n, sites = len(codes), int((~known[0].reshape(codes[0].numel(), -1).all(1)).sum())
        if sites == 0:
            raise ValueError("no cell is open; mark pixels in the mask, or place the image so that it leaves room")
        sampler = (self._own(how.sampler, how.options, sites, grid=self.grid)
                   or self._sampler(self._within({**self.usual(how.options, sites), **how.options}, sites), sites, grid=self.grid))
        seeds, classes = seeds_of(how.seed, n), self._labels(labels, n)
        self._check_guided(sampler, classes, known)
        found, nfe = [], 0
        for rows in torch.arange(n).split(how.batch):
            canvas = self._canvas(codes[rows], known[rows])
            noise = Noise([seeds[row] for row in rows.tolist()], self.device)
            nfe = self._fill(canvas, noise, sampler, how.watch, how.refresh, None if classes is None else classes[rows].to(self.device))
            found.append(self.cells(canvas.by_site().tokens).cpu())
        drawn = torch.cat(found)
        return GeneratedImages(self.render(drawn), drawn, None if classes is None else tuple(classes.tolist()), nfe)

    def _check_guided(self, sampler: Sampler | Speculative, classes: Int[Tensor, " n"] | None, known: Bool[Tensor, "n h w ..."]) -> None:
        """Raise ValueError for guidance that has nothing to go by."""
        if not sampler.guidance:
            return
        if classes is not None and bool((classes == self.model.null_label).all()):
            raise ValueError("guidance is by label, and there is no label; give labels (--label), or leave guidance out")
        if classes is None and not known.any():
            raise ValueError("guidance of a model without classes forgets what is known, and nothing is known; leave guidance out")

    def _canvas(self, codes: Int[Tensor, "n h w"], known: Bool[Tensor, "n h w ..."]) -> Canvas:
        if isinstance(self.model, WrittenInDigits) and known.dim() == 4:
            code = self.model.code.to(codes.device)
            allowed = self.model.allowed
            return DigitCanvas.of_digits(code.encode(codes.flatten(1)), known.flatten(1, 2), code=code,
                                         allowed=None if allowed is None else allowed.to(codes.device)).to(self.device)
        opening = torch.full((len(codes), self.opening), self.model.vocab_size - 1)             # BOS is the last id of imported models
        tokens = torch.cat([opening, codes.flatten(1)], 1)
        at_start = (torch.arange(tokens.shape[1]) < self.opening).expand_as(tokens)
        seen = torch.cat([torch.ones_like(opening, dtype=torch.bool), known.flatten(1)], 1)
        return self.model.canvas(tokens, seen, anchor=at_start).to(self.device)

    def _labels(self, labels: Any, n: int) -> Int[Tensor, " n"] | None:
        """(n,) numbers, None for an unlabelled model."""
        count = self.model.null_label
        labels = labels.tolist() if isinstance(labels, Tensor) else labels
        each: list[Any] = [labels] * n if labels is None or isinstance(labels, Number | str) else list(labels)
        if len(each) != n:
            raise ValueError(f"{len(each)} labels were given for {n} images; give one for each, or one for all")
        if count is None:
            if any(label is not None for label in each):
                raise ValueError(f"label {next(label for label in each if label is not None)!r} was given and the model has no classes; leave it out")
            return None
        return torch.tensor([count if label is None else self._class(label) for label in each])

    def _class(self, label: Any) -> int:
        """A class by its name; by its number where no class is called so."""
        count, names = self.model.null_label, self.codes.classes
        assert count is not None
        if label in names:
            return names.index(label)
        if isinstance(label, str) and not re.fullmatch("-?[0-9]+", label):
            raise ValueError(f"there is no class {label!r}; choose {', '.join(names) or f'a number in 0..{count - 1}'}")
        if not isinstance(label, str):
            check_whole("label", label)
        if not 0 <= int(label) < count:
            raise ValueError(f"label {label} is not in 0..{count - 1}, the classes of this model")
        return int(label)

    def _placed(self, image: np.ndarray, mask: np.ndarray | None, at: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """The image on the model's canvas (H, W, C), and which of its pixels are to be painted (H, W)."""
        picture: Any = np.asarray(image)
        for name, place in zip(("row", "column"), at):
            check_whole(f"the {name} of at", place)
        if picture.dtype != np.uint8 or picture.ndim not in (2, 3) or not picture.size:
            raise ValueError(f"the image is {picture.dtype} of shape {picture.shape}; give uint8, height x width (x channels), values 0 to 255")
        picture = picture.reshape(*picture.shape[:2], -1)
        inside: Any = np.zeros(picture.shape[:2], bool) if mask is None else np.asarray(mask, bool)
        inside = inside[..., 0] if inside.ndim == 3 and inside.shape[2] == 1 else inside
        (height, width), (top, left) = self.size, at
        if inside.shape != picture.shape[:2]:
            sides = " x ".join(map(str, inside.shape))
            raise ValueError(f"the mask has {sides} pixels and the image {picture.shape[0]} x {picture.shape[1]}; make them equal")
        if picture.shape[2] != self.codec.channels:
            raise ValueError(f"the image has {picture.shape[2]} channels and the model {self.codec.channels}; convert it")
        if top < 0 or left < 0 or top + picture.shape[0] > height or left + picture.shape[1] > width:
            raise ValueError(f"image: {picture.shape[0]} x {picture.shape[1]} pixels at ({top}, {left}) do not fit into the {height} x {width} "
                             "of the model; resize it")
        pixels, wanted = np.zeros((height, width, picture.shape[2]), np.uint8), np.ones((height, width), bool)
        here = (slice(top, top + picture.shape[0]), slice(left, left + picture.shape[1]))
        pixels[here], wanted[here] = picture, inside
        return pixels, wanted


def continued(pixels: np.ndarray, known: np.ndarray) -> np.ndarray:
    """(H, W, C) whose unknown pixels are copies of known ones nearby, found by steps to a neighbour; as it is where none is known.

    Example:
        >>> continued(np.array([[[1], [0], [0], [4]]], np.uint8), np.array([[True, False, False, True]]))[0, :, 0].tolist()
        [1, 1, 4, 4]
    """
    pixels, known = pixels.copy(), known.copy()
    here, before, after = slice(1, -1), slice(None, -2), slice(2, None)
    while known.any() and not known.all():
        seen, source = np.pad(known, 1), np.pad(pixels, ((1, 1), (1, 1), (0, 0)))
        for neighbour in ((after, here), (before, here), (here, after), (here, before)):
            found = seen[neighbour] & ~known
            pixels[found], known = source[neighbour][found], known | found
    return pixels


def _any_in_cell(mask: np.ndarray, factor: int) -> np.ndarray:
    height, width = mask.shape
    return np.asarray(mask.reshape(height // factor, factor, width // factor, factor).any((1, 3)))
