"""Golden files of bare image networks: MaskGIT, and the partition transformer with registers, labels and BOS at site 0."""
from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from maskless.checkpoints.reference.quirks import released_predictor
from maskless.decoding import Canvas, Sites, Step
from maskless.evaluation.golden.case import Case
from maskless.evaluation.golden.networks import intermediates
from maskless.models import MaskGITTransformer, PartitionTransformer

PARTS = {"mid/enc_out": "encoder_out", "mid/swap_out": "group_swap_out", "mid/dec_out": "decoder_out"}


@torch.no_grad()
def check_maskgit(case: Case) -> None:
    """image_maskgit_*: logits of codes that are masked in part, some rows without their class."""
    model, code = case.model_of(MaskGITTransformer), case.input("in/code").flatten(1)
    case.expect("out/logits", model(code, code != model.config.mask_id, cond=case.labels()))


@torch.no_grad()
def check_training(case: Case) -> None:
    """image_pgm_train*: two groups in one pass, with intermediates of registers and sites."""
    model, labels = case.model_of(PartitionTransformer), case.labels()
    with intermediates(model) as seen:
        case.expect("out/logits", model(case.input("in/tokens"), case.input("in/group_idxs") == 0, cond=labels))
    for name, part in PARTS.items():
        case.expect(name, seen[part])
    condition = model.condition_at(None, labels)
    assert condition is not None
    case.expect("mid/cond", condition)


@torch.no_grad()
def check_variant(case: Case) -> None:
    """image_pgm_variant_*: training pass and packed inference of other decoders, queries and numbers of registers."""
    model = case.model_of(PartitionTransformer)
    case.expect("train/logits", model(case.input("train/tokens"), case.input("train/group_idxs") == 0, cond=case.labels()))
    where, lengths = case.input("sample/clean_positions"), case.input("sample/concrete_lengths")
    filled = _filled(where, lengths - model.config.registers // 2)
    case.expect("sample/concrete_lengths", filled.sum(1) + model.config.registers // 2)
    query = case.input("sample/noisy_positions")
    canvas = _canvas(case.input("sample/tokens"), where, filled, query)
    hidden = released_predictor(model, case.labels())(canvas, _all(query), Step(0, 1))
    case.expect("sample/logits", model.head(hidden))


@torch.no_grad()
def check_sampling(case: Case) -> None:
    """image_pgm_sample*: packed inference, with the register counted (`fixed`) and as released (`ref`)."""
    model = case.model_of(PartitionTransformer)
    for prefix in sorted(name.removesuffix("/in/noisy_positions") for name in case.names("") if name.endswith("/in/noisy_positions")):
        _check_sampling(case, model, prefix)


def _check_sampling(case: Case, model: PartitionTransformer, prefix: str) -> None:
    tokens, where, query = (case.input(f"{prefix}/in/{name}") for name in ("tokens", "clean_positions", "noisy_positions"))
    ahead, labels = model.config.registers // 2, case.labels()
    fixed, ref = f"{prefix}/fixed/concrete_lengths", f"{prefix}/ref/concrete_lengths"
    lengths = case.input(fixed) - ahead if case.has(fixed) else case.input(ref)
    filled = _filled(where, lengths)
    case.expect(fixed, filled.sum(1) + ahead)
    case.expect(ref, filled.sum(1))
    canvas = _canvas(tokens, where, filled, query)
    with intermediates(model) as seen:
        counted = released_predictor(model, labels)(canvas, _all(query), Step(0, 1))
    case.expect(f"{prefix}/fixed/logits", model.head(counted))
    visible = torch.nn.functional.pad(filled, (ahead, 0), value=True)
    case.expect(f"{prefix}/fixed/enc_out", seen["encoder_out"], where=visible[..., None].expand_as(seen["encoder_out"]))
    if case.has(f"{prefix}/ref/logits"):
        hidden = released_predictor(model, labels, counted=False)(canvas, _all(query), Step(0, 1))
        case.expect(f"{prefix}/ref/logits", model.head(hidden))


def _filled(where: Int[Tensor, "B N"], counts: Int[Tensor, " B"]) -> Tensor:
    return torch.arange(where.shape[1], device=where.device) < counts[:, None]


def _all(query: Int[Tensor, "B Q"]) -> Sites:
    return Sites(query, torch.ones_like(query, dtype=torch.bool))


def _canvas(tokens: Int[Tensor, "B N"], where: Int[Tensor, "B N"], filled: Tensor, query: Int[Tensor, "B Q"]) -> Canvas:
    """What is known, in the file's order."""
    blank = torch.zeros(len(tokens), max(int(where.max()), int(query.max())) + 1, dtype=torch.long)
    canvas = Canvas(blank, blank.bool()).to(tokens.device)
    canvas.commit(Sites(where, filled), tokens, filled, filled.sum(1).tolist())
    return canvas
