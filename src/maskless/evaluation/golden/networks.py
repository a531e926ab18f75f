"""Golden files of bare networks: the partition transformer with its intermediates, and whole checkpoints."""
from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from maskless.checkpoints.reference.foreign import open_foreign
from maskless.checkpoints.reference.names import bare
from maskless.decoding import Canvas, Sites, Step
from maskless.evaluation.golden.case import Case
from maskless.layers.embedding import TimeEmbedding
from maskless.layers.rotary import sinusoids
from maskless.models import PartitionTransformer


@contextmanager
def intermediates(model: PartitionTransformer) -> Iterator[dict[str, Tensor]]:
    """What passes the production forward, under the names of the released code."""
    seen: dict[str, Tensor] = {}
    parts = {
        "encoder_out": model.encoder[-1], "group_swap_queries": model.swap.process, "group_swap_out": model.swap,
        "decoder_out": model.decoder[-1],
    }
    keep = lambda name: lambda _, __, out: seen.__setitem__(name, out)
    hooks = [part.register_forward_hook(keep(name)) for name, part in parts.items()]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def check_backbone(case: Case) -> None:
    """text_pgm_backbone*: training pass, packed inference, intermediates, embeddings of time and position."""
    model = case.model_of(PartitionTransformer)
    if case.has("train/x"):
        _check_training(case, model)
    for prefix in sorted({name.split("/")[0] for name in case.names("infer") if name.endswith("/noisy_positions")}):
        _check_inference(case, model, prefix)
    zero = torch.zeros(1, device=case.device, dtype=case.dtype)
    condition = model.condition(zero)
    if condition is not None:
        case.expect("aux/t_cond_zero", condition)
    if case.has("train/sigma_nonzero"):
        case.expect("aux/timestep_embedding", TimeEmbedding.features(case.input("train/sigma_nonzero")))
    if case.has("aux/pos_freqs"):
        length, width = case.tensors["aux/pos_freqs"].shape
        case.expect("aux/pos_freqs", sinusoids(torch.arange(length, device=case.device), width, torch.float32))


def _check_training(case: Case, model: PartitionTransformer) -> None:
    tokens, known = case.input("train/x"), case.input("train/group_idxs") == 0
    sigma = case.input("train/sigma") if case.has("train/sigma") else torch.zeros(len(tokens), device=case.device)
    condition = model.condition(sigma.to(case.dtype))
    with intermediates(model) as seen:
        case.expect("train/logits", model.head(model.states(tokens, known, condition)))
    for name, value in seen.items():
        case.expect(f"train/{name}", value)
    for name in case.names("train/logits_short"):
        cut = int(re.sub(r"\D", "", name))
        case.expect(name, model.head(model.states(tokens[:, :cut], known[:, :cut], condition)))
    if case.has("train/sigma_nonzero"):
        other = model.condition(case.input("train/sigma_nonzero").to(case.dtype))
        case.expect("train/logits_sigma_nonzero", model.head(model.states(tokens, known, other)))


def _check_inference(case: Case, model: PartitionTransformer, prefix: str) -> None:
    """The packed predictor on known tokens in the file's order, ragged; and the full pass it must equal."""
    tokens, where, query = (case.input(f"{prefix}/{name}") for name in ("x", "clean_positions", "noisy_positions"))
    lengths = case.input(f"{prefix}/concrete_lengths")
    filled = torch.arange(where.shape[1], device=case.device) < lengths[:, None]
    last = max(int(where.max()), int(query.max())) + 1
    length = max(last, case.tensors[f"{prefix}/full_tokens"].shape[1] if case.has(f"{prefix}/full_tokens") else 0)
    blank = torch.zeros(len(tokens), length, dtype=torch.long)
    canvas = Canvas(blank, blank.bool()).to(case.device)
    canvas.commit(Sites(where, filled), tokens, filled, lengths.tolist())
    with intermediates(model) as seen:
        hidden = model.predictor()(canvas, Sites(query, torch.ones_like(query, dtype=torch.bool)), Step(0, 1))
    case.expect(f"{prefix}/logits", model.head(hidden))
    if not model.swap.reads_memory:
        seen["group_swap_queries"] = seen["group_swap_queries"][0][query]  # out of the table that the predictor makes once
    for name, value in seen.items():
        rows = filled[..., None].expand_as(value) if name == "encoder_out" else None
        case.expect(f"{prefix}/{name}", value, where=rows)
    case.expect(f"{prefix}/sigma", torch.zeros(len(tokens)))  # packed inference is for sigma = 0
    if case.has(f"{prefix}/full_tokens"):
        full, known = case.input(f"{prefix}/full_tokens"), case.input(f"{prefix}/equivalent_group_idxs") == 0
        whole = Sites(query, torch.ones_like(query, dtype=torch.bool)).take(model(full, known))
        case.expect(f"{prefix}/train_mode_logits_at_noisy", whole)


@torch.no_grad()
def check_checkpoint(case: Case) -> None:
    """text_*_tiny_io*: logits of the raw and the averaged weights of the checkpoint beside it."""
    beside = case.path.with_name(re.sub(r"_io.*", "", case.path.stem) + ".ckpt")
    if not beside.exists():
        raise ValueError(f"{case.path} needs the checkpoint {beside.name} beside it")
    overrides = {"mask_id": int(case.meta["mask_index"])} if "mask_index" in case.meta else {}
    file = open_foreign(beside, overrides=overrides)
    order, names = case.meta.get("ema_parameter_order"), [key for key in map(bare, file.contents.weights) if not file.importer.buffers(key)]
    if order is not None and file.averaged and names != order:
        raise ValueError(f"{beside}: its parameters are not in the order that {case.path.name} gives for the EMA list")
    for name, average in (("logits_raw", False), ("logits_ema", True)):
        model = file.model(average=average).to(case.device, case.dtype)
        if case.has("group_idxs"):
            tokens, known = case.input("x"), case.input("group_idxs") == 0
        else:
            tokens = case.input("xt") if case.has("xt") else case.input("x")
            known = tokens != model.config.forbidden[0]
        case.expect(name, model(tokens, known))
    case.used.add("x")  # the clean tokens of a masked input
