"""Tiny models of every kind, with every parameter randomised (the zero-initialised ones too)."""
from __future__ import annotations

import torch

from maskless.decoding import Canvas
from maskless.models import (
    AutoregressiveConfig,
    CausalPartitionConfig,
    Denoiser,
    MaskedConfig,
    MaskGITConfig,
    PartitionConfig,
    PrimeConfig,
    PrimeLlamaConfig,
    PrimePartitionConfig,
    UNetConfig,
    build,
)

V, L = 11, 12
SIZES = {"vocab_size": V, "length": L, "width": 32, "heads": 2, "dropout": 0.0}
GRID = {"grid": (3, 4)}
UNET = {"width": 4, "multipliers": (1, 2), "blocks": 1, "attention": (2,), "head_width": 4, "dropout": 0.0}

CONFIGS = {
    "masked": MaskedConfig(**SIZES, layers=2, cond_dim=8),
    "masked, imported": MaskedConfig(**SIZES, layers=2, cond_dim=8, mask_id=10, forbidden=(10,)),
    "masked, timed": MaskedConfig(**SIZES, layers=2, cond_dim=8, time_conditioned=True),
    "masked, axial": MaskedConfig(**SIZES, layers=2, classes=3, positions="axial", **GRID),
    "partition": PartitionConfig(**SIZES, encoder_layers=2, decoder_layers=2, cond_dim=8),
    "partition, learned": PartitionConfig(**SIZES, encoder_layers=1, decoder_layers=2, query="learned", cond_dim=0),
    "partition, mean": PartitionConfig(**SIZES, encoder_layers=2, decoder_layers=1, query="mean", cond_dim=8, query_mlp=True),
    "partition, logsumexp": PartitionConfig(**SIZES, encoder_layers=1, decoder_layers=1, query="logsumexp", cond_dim=8, forbidden=(10,)),
    "causal, token": CausalPartitionConfig(**SIZES, encoder_layers=2, decoder_layers=2, cond_dim=8),
    "causal, set": CausalPartitionConfig(**SIZES, encoder_layers=2, decoder_layers=2, cond_dim=0, causal="set", prompt="reading"),
    "causal, mean": CausalPartitionConfig(**SIZES, encoder_layers=2, decoder_layers=1, cond_dim=8, query="mean", forbidden=(10,)),
    "causal, logsumexp": CausalPartitionConfig(**SIZES, encoder_layers=1, decoder_layers=2, cond_dim=0, query="logsumexp", causal="set"),
    "maskgit": MaskGITConfig(**SIZES, layers=2, classes=3),
    "maskgit, imported": MaskGITConfig(**{**SIZES, "heads": 6}, layers=1, classes=3, registers=2, mask_id=10, forbidden=(10,), **GRID),
    "maskgit, axial": MaskGITConfig(**SIZES, layers=2, registers=0, positions="axial", **GRID),
    "partition, image": PartitionConfig(**SIZES, encoder_layers=2, decoder_layers=2, classes=3, registers=2, **GRID),
    "partition, axial": PartitionConfig(**SIZES, encoder_layers=1, decoder_layers=1, classes=3, registers=4, query="mean", positions="axial", **GRID),
    "partition, self": PartitionConfig(**SIZES, encoder_layers=1, decoder_layers=4, classes=3, registers=4, self_layers=(0, 2, 3), forbidden=(10,)),
    "partition, self, plain": PartitionConfig(**SIZES, encoder_layers=1, decoder_layers=2, self_layers=(1,), query="logsumexp", cond_dim=8),
    "causal, image": CausalPartitionConfig(**SIZES, encoder_layers=2, decoder_layers=1, classes=3, registers=4, query="mean", **GRID),
    "causal, axial": CausalPartitionConfig(**SIZES, encoder_layers=1, decoder_layers=2, classes=3, registers=4, causal="set",
                                           query="logsumexp", positions="axial", **GRID),
    "autoregressive": AutoregressiveConfig(**SIZES, layers=2),
    "prime": PrimeConfig(**SIZES, layers=2, cond_dim=8),
    "prime, one digit": PrimeConfig(**SIZES, layers=1, digits=1, code="shuffled", cond_dim=8, time_conditioned=True),
    "prime, bits": PrimeConfig(**SIZES, layers=1, digits=4, code="shuffled", merge="sum", tables="separate", cond_dim=0, forbidden=(10,)),
    "prime, groups": PrimePartitionConfig(**SIZES, encoder_layers=2, decoder_layers=2, cond_dim=8),
    "prime, groups, late": PrimePartitionConfig(**SIZES, encoder_layers=1, decoder_layers=1, digits=4, code="shuffled", fusion="late", registers=2,
                                                cond_dim=0, forbidden=(10,)),
    "prime, llama": PrimeLlamaConfig(V, digits=4, code="shuffled", length=L, width=32, heads=2, layers=2, inner=24, forbidden=(10,)),
    "prime, axial": PrimeConfig(**SIZES, layers=2, merge="sum", tables="separate", classes=3, positions="axial", **GRID),
    "prime, groups, axial": PrimePartitionConfig(**SIZES, encoder_layers=1, decoder_layers=2, classes=3, registers=2, positions="axial", **GRID),
    "prime, separate": PrimeConfig(**SIZES, layers=1, digits=2, base=5, tables="separate", cond_dim=8),
    "unet": UNetConfig(V, length=L, planes=1, **GRID, **UNET),
    "unet, planes": UNetConfig(V, length=L, planes=3, grid=(6, 2), digits=4, classes=3, forbidden=(10,), **{**UNET, "multipliers": (3, 2)}),
}
LABELLED = [name for name, config in CONFIGS.items() if getattr(config, "classes", 0)]
ANY_ORDER = [name for name in CONFIGS if name != "autoregressive"]
CAUSAL = [name for name in CONFIGS if name.startswith("causal")]
FOLDED = [name for name, config in CONFIGS.items() if getattr(config, "cond_dim", 0) and not config.time_conditioned
          and not getattr(config, "classes", 0)]
DIGITS = [name for name, config in CONFIGS.items() if hasattr(config, "digits")]                # several slots a site
PARTITION = [name for name in CONFIGS if name.startswith("partition")]


def tiny(name: str, dtype: torch.dtype = torch.float64, seed: int = 0) -> Denoiser:
    torch.manual_seed(seed)
    model = build(CONFIGS[name])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.3)
    return model.to(dtype).eval()


def labels_of(name: str, rows: int) -> torch.Tensor | None:
    """A label for each row, one of them "no class"; None for a model without any."""
    return torch.arange(3, 3 - rows, -1) % 4 if name in LABELLED else None


def embed_as(model: Denoiser, embedded: torch.Tensor) -> None:
    """Let the model read (B, L, D) in place of its embedding's rows; what stands in front of the sites (registers) has rows of its own."""
    def forward(ids):
        return torch.nn.functional.pad(embedded, (0, 0, ids.shape[1] - embedded.shape[1], 0))

    model.embedding.forward = forward


def ragged_canvas(seed: int = 0) -> Canvas:
    """Prompts and gaps at any place, absent sites, BOS anchors; four rows."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(V - 1, (4, L), generator=generator)
    known = torch.zeros(4, L, dtype=torch.bool)
    known[:, 0] = True
    known[0, [5, 11]] = True
    known[1, 1:7] = True
    known[3, 3] = True
    present = torch.arange(L) < torch.tensor([L, 9, 5, L])[:, None]
    return Canvas(tokens, known, present=present, anchor=torch.arange(L).expand(4, -1) < 1)


def opened(model: Denoiser, canvas: Canvas) -> Canvas:
    """The same sites on the model's own canvas."""
    return model.canvas(canvas.tokens, canvas.known, present=canvas.present, anchor=canvas.anchor)


def prefix_canvas(lengths: tuple[int, ...] = (1, 4, 2), seed: int = 0) -> Canvas:
    """Prompts from site 0 on, of different lengths."""
    tokens = torch.randint(V - 1, (len(lengths), L), generator=torch.Generator().manual_seed(seed))
    known = torch.arange(L) < torch.tensor(lengths)[:, None]
    return Canvas(tokens, known, anchor=(torch.arange(L) < 1).expand(len(lengths), -1))
