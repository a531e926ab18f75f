"""Golden files of image samplers: those at hand, each expected tensor wrong in turn, and files of other sizes from loops written here."""
from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tests.decoding.test_halton import by_definition
from torch import Tensor

from maskless.checkpoints.reference.images import import_images
from maskless.evaluation.golden import verify

GOLDEN = Path(__file__).parents[1] / "golden"
RUNS = sorted(GOLDEN.glob("image_sample_*.safetensors"))
SCHEDULES = GOLDEN / "image_schedules.safetensors"


def metadata(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        return dict(file.metadata() or {})


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.stem)
def test_this_build_samples_as_recorded(path):
    report = verify(path)
    assert report.passed and not report.unchecked, [each for each in report.found if not each.passed]
    assert {each.name for each in report.found} == {name for name in load_file(path) if name.startswith("out/")}
    assert max(each.relative for each in report.found) < 5e-6


def test_orders_and_tables():
    report = verify(SCHEDULES)
    assert report.passed and not report.unchecked
    assert {each.name.split("/")[0] for each in report.found} >= {"halton", "halton_steps", "conf_maskgit", "conf_pgm", "conf_raw", "conf_modes",
                                                                  "mask_rate", "cfg_linear", "inv_temp_default", "inv_temp_1_1.2_warm0"}


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.stem)
def test_every_expected_tensor_of_a_run_matters(path, tmp_path):
    tensors, wrong = load_file(path), {}
    for name in [name for name in tensors if name.startswith("out/")]:
        last = tensors[name].view(-1)[-1:]
        wrong[name] = tensors[name].clone()
        wrong[name].view(-1)[-1:] = ~last if last.dtype == torch.bool else last + (0.02 if last.is_floating_point() else 1)
    save_file({**tensors, **wrong}, tmp_path / path.name, metadata(path))
    assert {each.name for each in verify(tmp_path / path.name).found if not each.passed} == set(wrong)


@pytest.mark.parametrize("name", ["halton/16/flat", "halton_steps/24/8/per_step", "conf_maskgit/32/8/cumulative", "conf_pgm/8/12/per_step",
                                  "conf_modes/root/16/12", "mask_rate/arccos", "cfg_linear/8", "lr/value", "inv_temp_default/32"])
def test_every_kind_of_table_matters(name, tmp_path):
    tensors = load_file(SCHEDULES)
    tensors[name].view(-1)[1] += 1
    save_file(tensors, tmp_path / SCHEDULES.name)
    assert [each.name for each in verify(tmp_path / SCHEDULES.name).found if not each.passed] == [name]


@pytest.mark.parametrize("path", RUNS[:1] + RUNS[-1:], ids=lambda path: path.stem)
def test_a_run_that_does_not_say_how_is_refused(path, tmp_path):
    save_file(load_file(path), tmp_path / path.name)
    with pytest.raises(ValueError, match=r"config\.sampler"):
        verify(tmp_path / path.name)


# -- other sizes ---------------------------------------------------------------------------------------------------------------------------


def filled(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) * 0.5 for name, shape in shapes.items()}


def maskgit_state(side: int, codes: int, *, width: int = 12, classes: int = 3, registers: int = 1) -> dict[str, Tensor]:
    d, inner, n = width, 256, "transformer.layers.0"
    shapes = {"cls_emb.weight": (classes + 1, d), "tok_emb.weight": (codes + 1, d), "pos_emb.weight": (side**2, d),
              "reg_tokens.weight": (registers, d),
              f"{n}.mlp.1.weight": (6 * d, d), f"{n}.mlp.1.bias": (6 * d,), f"{n}.ln1.weight": (d,), f"{n}.ln2.weight": (d,),
              **{f"{n}.attn.{name}.weight": (d, d) for name in ("wq", "wk", "wv", "wo")},
              f"{n}.ff.w1.weight": (inner, d), f"{n}.ff.w3.weight": (inner, d), f"{n}.ff.w2.weight": (d, inner),
              "last_norm.norm_final.weight": (d,), "last_norm.norm_final.bias": (d,), "last_norm.mlp.1.weight": (2 * d, d),
              "last_norm.mlp.1.bias": (2 * d,), "head.bias": (codes + 1,)}
    state = filled(shapes)
    return {**state, "head.weight": state["tok_emb.weight"].clone()}


def pgm_state(codes: int, *, width: int = 16, classes: int = 3, registers: int = 2) -> dict[str, Tensor]:
    d, e, c, swap = width, "encoder.blocks.0", "decoder.layers.0", "decoder.group_swap"
    linear = lambda name, rows, columns: {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}
    shapes = {"vocab_embed.embedding": (codes + 2, d), "cls_embed.embedding_table.weight": (classes + 1, d), "reg_tokens.weight": (registers, d),
              **{f"{e}.{name}.weight": (d,) for name in ("norm1", "norm2")}, f"{e}.attn_qkv.weight": (3 * d, d), f"{e}.attn_out.weight": (d, d),
              **{f"{c}.{name}.weight": (d,) for name in ("q_norm1", "kv_norm1", "norm2")}, f"{c}.attn_q.weight": (d, d),
              f"{c}.attn_kv.weight": (2 * d, d), f"{c}.attn_out.weight": (d, d), f"{swap}.base_embedding": (1, d),
              **linear(f"{swap}.query_processor", d, d),
              **linear(f"{swap}.hidden_to_key_value", 2 * d, d), **linear(f"{swap}.output_linear", d, d), "output_layer.norm_final.weight": (d,),
              f"{swap}.pre_query_norm.weight": (d,), f"{swap}.pre_query_norm.bias": (d,),
              **linear("output_layer.linear", codes + 2, d), **linear("output_layer.adaLN_modulation", 2 * d, d)}
    for block in (e, c):
        shapes |= linear(f"{block}.mlp.0", 4 * d, d) | linear(f"{block}.mlp.2", d, 4 * d) | linear(f"{block}.adaLN_modulation", 6 * d, d)
    return {**filled(shapes), "rotary_emb.inv_freq": 10000.0 ** (-torch.arange(4) / 4)}


def released_order(side: int, rolls: list[int]) -> Tensor:
    return torch.stack([torch.tensor(by_definition(side, side)).roll(shift) for shift in rolls])


def halton_table(cells: int, steps: int) -> list[int]:
    return [min(cells, max(i + 1, int(cells * (1 - math.acos((i + 1) / steps) * 2 / math.pi)))) for i in range(steps)]


def confidence_table(cells: int, steps: int) -> list[int]:
    return [int(cells * (1 - math.acos(i / (steps - 1)) * 2 / math.pi)) for i in range(steps)]


@torch.no_grad()
def guided(model, tokens: Tensor, known: Tensor, labels: Tensor, w: float) -> tuple[Tensor, Tensor, Tensor]:
    cond, none = model(tokens, known, cond=labels), model(tokens, known, cond=torch.full_like(labels, model.null_label))
    return (1 + w) * cond - w * none, cond, none


def checked(folder: Path, name: str, state: dict[str, Tensor], tensors: dict[str, Tensor], config: dict) -> None:
    weights = {f"param/{key}": value for key, value in state.items()}
    path = folder / f"{name}.safetensors"
    save_file({key: value.contiguous() for key, value in {**weights, **tensors}.items()}, path, {"config": json.dumps(config)})
    report = verify(path)
    assert report.passed and not report.unchecked, [each for each in report.found if not each.passed]
    tensors["out/codes"][0, -1, -1] += 1
    save_file({key: value.contiguous() for key, value in {**weights, **tensors}.items()}, path, {"config": json.dumps(config)})
    assert not verify(path).passed


@pytest.mark.parametrize("kind", ["fork", "upstream_rolled"])
@pytest.mark.parametrize("side, steps, w", [(4, 5, 0.0), (4, 3, 2.5), (3, 12, 1.0), (4, 1, 1.0)])
def test_maskgit_in_halton_order(kind, side, steps, w, tmp_path):
    codes, labels, cells = 11, torch.tensor([2, 0]), side * side
    state = maskgit_state(side, codes)
    model, rolls = import_images(state, {"heads": 3}), [0, 0] if kind == "fork" else [3, side]
    order, x, before, seen = released_order(side, rolls), torch.full((2, cells), codes), 0, []
    for end in halton_table(cells, steps):
        logits, *_ = guided(model, x, x != codes, labels, w)
        chosen = order[:, (0 if kind == "fork" else before):end]
        mask, pred = torch.zeros(2, cells, dtype=torch.bool).scatter(1, chosen, True), logits.argmax(-1)
        seen.append((x, mask, pred))
        x, before = torch.where(mask, pred, x), end
    shown = [torch.stack(each).unflatten(-1, (side, side)) for each in zip(*seen)]
    out = {**dict(zip(("out/in_codes_per_step", "out/mask_per_step", "out/pred_per_step"), shown)), "in/labels": labels,
           "out/codes": x.clamp(max=codes - 1).unflatten(-1, (side, side))}
    if kind != "fork":
        out["in/rolls"] = torch.tensor(rolls)
    sampler = {"step": steps, "w": w, "cfg": "constant", "rewrite": "all cells up to r" if kind == "fork" else "only new cells"}
    checked(tmp_path, f"image_sample_maskgit_halton_{kind}", state, out, {"heads": 3, "codebook_size": codes, "sampler": sampler})


@pytest.mark.parametrize("side, steps, w", [(4, 5, 0.0), (4, 3, 2.5), (3, 12, 1.0)])
def test_maskgit_by_confidence(side, steps, w, tmp_path):
    codes, labels, cells = 11, torch.tensor([2, 0]), side * side
    state, gumbel = maskgit_state(side, codes), -(-torch.rand(steps, 2, side * side, dtype=torch.float64).log()).log()
    model, x, seen = import_images(state, {"heads": 3}), torch.full((2, cells), codes), []
    for i, known in enumerate(confidence_table(cells, steps)):
        ramp = i / (steps - 1)
        law = guided(model, x, x != codes, labels, w * ramp)[0].log_softmax(-1)
        pred = law.argmax(-1)
        score = law.gather(-1, pred[..., None])[..., 0] + 2 * (1 - ramp) * gumbel[i]
        score = torch.where(x != codes, torch.inf, score)
        seen.append(x)
        best = score.sort(1, descending=True).values[:, min(cells, max(known, i + 1)) - 1]
        x = torch.where(score >= best[:, None], pred, x)
    out = {"in/gumbel": gumbel, "in/labels": labels, "out/in_codes_per_step": torch.stack(seen).unflatten(-1, (side, side)),
           "out/codes": x.clamp(max=codes - 1).unflatten(-1, (side, side))}
    sampler = {"step": steps, "w": w, "cfg": "linear index/(step-1)", "r_temp": 2}
    checked(tmp_path, "image_sample_maskgit_confidence", state, out, {"heads": 3, "codebook_size": codes, "sampler": sampler})


def shorter(known: Tensor, log: list[Tensor], hidden: int) -> Tensor:
    """Without the `hidden` newest tokens, as released."""
    newest = torch.cat(log, 1)[:, -hidden:] if hidden else torch.zeros(len(known), 0, dtype=torch.long)
    return known & ~torch.zeros_like(known).scatter(1, newest, True)


@pytest.mark.parametrize("kind", ["ref", "fixed_rolled"])
@pytest.mark.parametrize("side, steps, w, registers", [(4, 5, 0.0, 2), (4, 3, 2.5, 4), (3, 12, 1.0, 2)])
def test_partition_model_in_halton_order(kind, side, steps, w, registers, tmp_path):
    codes, labels, cells = 11, torch.tensor([2, 0]), side * side
    state = pgm_state(codes, registers=registers)
    model, rolls = import_images(state, {"length": cells + 1}), [0, 0] if kind == "ref" else [3, side]
    positions, x, known = 1 + released_order(side, rolls), torch.full((2, cells + 1), codes), torch.zeros(2, cells + 1, dtype=torch.bool)
    x[:, 0], known[:, 0] = codes + 1, True
    log, table, found = [torch.zeros(2, 1, dtype=torch.long)], [0, *halton_table(cells, steps)], []
    for i, (begin, end) in enumerate(itertools.pairwise(table)):
        if begin == end:
            continue
        where = positions[:, begin:end]
        seen = known if kind != "ref" else shorter(known, log, registers // 2)
        logits, *halves = (each.gather(1, where[..., None].expand(-1, -1, codes + 2)) for each in guided(model, x, seen, labels, w * i / (steps - 1)))
        logits[..., codes:] = -torch.inf
        x, known = x.scatter(1, where, logits.argmax(-1)), known.scatter(1, where, True)
        log.append(where)
        found.append(halves)
    counted = 0 if kind == "ref" else registers // 2
    out = {"in/labels": labels, "out/order_positions": positions, "out/per_step": torch.tensor(table).diff(),
           "out/lengths_passed": torch.tensor(table[:-1])[:, None].expand(-1, 2) + 1 + counted, "out/codes": x[:, 1:].unflatten(-1, (side, side))}
    if w:
        out |= {f"out/logits_{name}": torch.cat(each, 1) for name, each in zip(("cond", "uncond"), zip(*found))}
    if kind != "ref":
        out["in/rolls"] = torch.tensor(rolls)
    sampler = {"step": steps, "w": w, "lengths": "register counted" if counted else "as released (register not counted)"}
    checked(tmp_path, f"image_sample_pgm_halton_{kind}", state, out, {"model": {"length": cells + 1}, "codebook_size": codes, "sampler": sampler})


@pytest.mark.parametrize("kind", ["ref", "fixed"])
@pytest.mark.parametrize("side, steps, w, registers", [(4, 5, 0.0, 2), (4, 3, 2.5, 4), (5, 6, 1.0, 2)])
def test_partition_model_by_confidence(kind, side, steps, w, registers, tmp_path):
    codes, labels, cells = 11, torch.tensor([2, 0]), side * side
    state, raw = pgm_state(codes, registers=registers), confidence_table(cells, steps)
    counts = [max(raw[0], 1), *(b - a for a, b in itertools.pairwise(raw))]
    counts[-1] = cells - sum(counts[:-1])
    model, x, known = import_images(state, {"length": cells + 1}), torch.full((2, cells + 1), codes), torch.zeros(2, cells + 1, dtype=torch.bool)
    x[:, 0], known[:, 0] = codes + 1, True
    log, looked, gumbel, last = [torch.zeros(2, 1, dtype=torch.long)], [], [], None
    for i, count in enumerate(counts):
        open_sites = torch.stack([row.nonzero()[:, 0] for row in ~known])
        seen = known if kind != "ref" else shorter(known, log, registers // 2)
        logits, *_ = guided(model, x, seen, labels, w * i / (steps - 1))
        law = logits.gather(1, open_sites[..., None].expand(-1, -1, codes + 2)).log_softmax(-1)
        pred, noise = law.argmax(-1), -(-torch.rand(open_sites.shape, dtype=torch.float64).log()).log()
        score = law.gather(-1, pred[..., None])[..., 0] + 5 * (1 - i / (steps - 1)) * noise
        best = score.topk(count, 1).indices.sort(1).values
        last = torch.cat(log, 1)
        packed = x.gather(1, last)
        x = x.scatter(1, open_sites.gather(1, best), pred.gather(1, best))
        log.append(open_sites.gather(1, best))
        known = known.scatter(1, log[-1], True)
        looked, gumbel = [*looked, open_sites], [*gumbel, noise]
    out = {"in/labels": labels, "in/gumbel": torch.cat(gumbel, 1), "out/noisy_positions": torch.cat(looked, 1),
           "out/remaining_per_step": torch.tensor([each.shape[1] for each in looked]), "out/clean_positions_last_call": last,
           "out/code_last_call": packed, "out/codes": x[:, 1:].clamp(max=codes - 1).unflatten(-1, (side, side))}
    sampler = {"step": steps, "w": w, "r_temp": 5, "lengths": "as released" if kind == "ref" else "register counted"}
    checked(tmp_path, f"image_sample_pgm_confidence_{kind}", state, out, {"model": {"length": cells + 1}, "codebook_size": codes, "sampler": sampler})
