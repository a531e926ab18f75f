"""Every way of attending among groups is the dense one: outputs and gradients, whatever the groups."""
from __future__ import annotations

import pytest
import torch
from tests.tiny import CAUSAL, PARTITION, V, tiny
from torch.utils._python_dispatch import TorchDispatchMode

from maskless.layers.attention import everywhere
from maskless.layers.groups import GROUPINGS, by_segments, dense
from maskless.layers.segments import BLOCK
from maskless.models import CausalPartitionTransformer, PartitionConfig, build

ON_CPU = ["segments", "plain"]
B, L, H, D = 7, 12, 2, 16
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5}


def groups(seed: int = 0, *, length: int = L, ragged: bool = True) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Random groups of any size, an empty one on either side; and how much of each row there is."""
    generator = torch.Generator().manual_seed(seed)
    known = torch.rand(B, length, generator=generator) < torch.rand(B, 1, generator=generator)
    known[0], known[1] = True, False
    if not ragged:
        return known, None
    present = torch.arange(length) < torch.randint(1, length + 1, (B, 1), generator=generator)
    present[2] = torch.rand(length, generator=generator) < 0.5          # gaps as well
    present[2, 0] = present[0] = True
    return known, present


def inputs(length: int) -> torch.Tensor:
    """Queries, keys, values and a gradient, (4, B, L, H, D), as bfloat16 can hold them."""
    generator = torch.Generator().manual_seed(9)
    return torch.randn(4, B, length, H, D, generator=generator).bfloat16().double()


def order(known: torch.Tensor) -> torch.Tensor:
    """A log: every row in an order of its own."""
    return torch.rand(known.shape, generator=torch.Generator().manual_seed(4)).argsort(1).to(known.device)


def attended(name: str, known, present, *, causal: bool, dtype: torch.dtype, device: str = "cpu", backward: bool = True) -> list[torch.Tensor]:
    """Both attentions of a way of attending, in site order, and the gradients of queries, keys and values."""
    q, k, v, weight = (x.to(device, dtype) for x in inputs(known.shape[1]))
    here = torch.ones_like(known) if present is None else present
    known, here = known.to(device), here.to(device)
    log = order(known) if causal else None
    leaves = [x.requires_grad_(backward) for x in (q, k, v)]      # FlexAttention on a CPU refuses what wants a gradient
    made, found = GROUPINGS[name](known, None if present is None else here, log), []
    for queries, attend in ((made.tokens, made.own), (made.queries, made.other)):
        args = [place.arrange(x).transpose(1, 2) for place, x in ((queries, q), (made.tokens, k), (made.tokens, v))]
        found.append(queries.restore(attend(*args)) * here[..., None])
    if not backward:
        return [x.detach().cpu() for x in found]
    weighted = (torch.stack(found) * weight.flatten(2)).sum()
    return [x.detach().cpu() for x in (*found, *torch.autograd.grad(weighted, leaves))]


def assert_equal(ours, theirs, tolerance):
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.isfinite().all()
        torch.testing.assert_close(mine, other, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("name", ON_CPU)
def test_outputs_and_gradients_equal_those_of_masks(name, ragged, causal, dtype):
    for seed in range(4):
        known, present = groups(seed, ragged=ragged)
        ours, theirs = (attended(way, known, present, causal=causal, dtype=dtype) for way in (name, "dense"))
        assert_equal(ours, theirs, TOLERANCE[dtype])


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("length", [L, 300])
def test_flex_looks_where_masks_do(length, causal, monkeypatch):
    """On a CPU FlexAttention runs forward only, here uncompiled; 300 sites are three blocks, the last one not full."""
    monkeypatch.setattr("torch.nn.attention.flex_attention._FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)
    known, present = groups(1, length=length)
    ours, theirs = (attended(way, known, present, causal=causal, dtype=torch.float64, backward=False) for way in ("flex", "dense"))
    assert_equal(ours, theirs, 1e-12)


@pytest.mark.parametrize("causal", [False, True])
def test_flex_leaves_out_no_square_and_masks_every_mixed_one(causal):
    """What the compiled kernel trusts and the one above does not read: which squares hold anything, which are full."""
    length = 5 * BLOCK + 30
    known, present = groups(2, length=length)
    made, (own, other) = GROUPINGS["flex"](known, present, order(known) if causal else None), seen(known, present, causal=causal)
    blocks = torch.arange(length) // BLOCK
    for attend, queries, sees in ((made.own, made.tokens, own), (made.other, made.queries, other)):
        sees = queries.arrange(made.tokens.arrange(sees.transpose(1, 2)).transpose(1, 2))
        present_pairs = queries.arrange(present)[:, :, None] & made.tokens.arrange(present)[:, None]
        some, full = listed(attend.mask, "kv"), listed(attend.mask, "full_kv")
        assert not (some & full).any() and not (~(some | full)[:, blocks][:, :, blocks] & sees).any()
        assert (sees | ~full[:, blocks][:, :, blocks] | ~present_pairs).all()
        assert full.sum() > some.sum() / 2                                              # and most squares need no mask


def seen(known, present, *, causal: bool):
    """The two masks (B, L, L) of the reference, between sites that are there."""
    same, both = known[:, :, None] == known[:, None], present[:, :, None] & present[:, None]
    rank = order(known).argsort(1)
    return same & both & (rank[:, None] <= rank[:, :, None] if causal else True), ~same & both


def listed(mask, which: str) -> torch.Tensor:
    """The squares a block mask lists, (B, N / BLOCK, M / BLOCK)."""
    count, index = (getattr(mask, f"{which}_{part}")[:, 0] for part in ("num_blocks", "indices"))
    first = torch.arange(index.shape[-1]) < count[..., None]
    return torch.zeros_like(first).scatter(-1, index.long(), first)


def test_dense_is_a_query_at_the_sites_it_may_see():
    """The reference itself, one query at a time."""
    known, present = groups(3)
    found = attended("dense", known, present, causal=True, dtype=torch.float64, backward=False)
    q, k, v, _ = inputs(L)
    rank = order(known).argsort(1)
    for row in range(B):
        for site in present[row].nonzero()[:, 0].tolist():
            mine = (known[row] == known[row, site]) & present[row]
            for out, seen in zip(found, (mine & (rank[row] <= rank[row, site]), ~(known[row] == known[row, site]) & present[row])):
                scores = torch.einsum("hd,mhd->hm", q[row, site], k[row, seen]) / D**0.5
                expected = torch.einsum("hm,mhd->hd", scores.softmax(-1), v[row, seen]).flatten()
                torch.testing.assert_close(out[row, site], expected, rtol=1e-12, atol=1e-12)


# ------------------------------------------------------------------------------------------------------------ the model


def states(name: str, way: str, *, ragged: bool, dtype: torch.dtype) -> list[torch.Tensor]:
    """Hidden states at the sites that are there, and the gradients of all weights."""
    model = tiny(name, dtype)
    known, present = groups(5, ragged=ragged)
    tokens = torch.randint(V, known.shape, generator=torch.Generator().manual_seed(1))
    here = torch.ones_like(known) if present is None else present
    hidden = model.hidden(tokens, known, present=present, grouping=GROUPINGS[way]) * here[..., None]
    if isinstance(model, CausalPartitionTransformer):
        hidden = hidden + model.hidden_of_groups(tokens, known, order(known), present=present, grouping=GROUPINGS[way]) * here[..., None]
    weight = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64).to(dtype)
    gradients = torch.autograd.grad((hidden * weight).sum() / hidden.numel(), list(model.parameters()), allow_unused=True)
    return [hidden.detach(), *(g for g in gradients if g is not None)]


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("model", [*PARTITION, *CAUSAL])  # all four kinds of query, and the order-causal model
@pytest.mark.parametrize("way", ON_CPU)
def test_a_model_does_not_notice(way, model, ragged, dtype):
    ours, theirs = (states(model, which, ragged=ragged, dtype=dtype) for which in (way, "dense"))
    assert_equal(ours, theirs, {torch.float64: 1e-12, torch.float32: 1e-4}[dtype])


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("model", ["prime, groups", "prime, groups, late"])
@pytest.mark.parametrize("way", ON_CPU)
def test_digits_in_groups_do_not_notice(way, model, ragged, dtype):
    """Tokens in both groups have a place in either; late fusion keeps to masks."""
    made, (known, present), found = tiny(model, dtype), groups(5, ragged=ragged), []
    generator = torch.Generator().manual_seed(3)
    digits = torch.randint(made.base, (B, L * made.per_site), generator=generator)
    own = known.repeat_interleave(made.per_site, 1) ^ (torch.rand(digits.shape, generator=generator) < 0.2)
    own[0], own[1] = True, False                                        # nothing in the other group
    slots = None if present is None else present.repeat_interleave(made.per_site, 1)
    for which in (way, "dense"):
        hidden = made.hidden_of_digit_groups(digits, own, present=slots, grouping=GROUPINGS[which])
        weight = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64).to(dtype)
        gradients = torch.autograd.grad((hidden * weight).sum() / hidden.numel(), list(made.parameters()), allow_unused=True)
        found.append([hidden.detach(), *(g for g in gradients if g is not None)])
    assert_equal(*found, {torch.float64: 1e-12, torch.float32: 1e-4}[dtype])


class Seen(TorchDispatchMode):
    """The shapes of all tensors that are made."""

    def __init__(self):
        super().__init__()
        self.shapes: set[tuple[int, ...]] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        self.shapes |= {tuple(x.shape) for x in torch.utils._pytree.tree_leaves(made) if isinstance(x, torch.Tensor)}
        return made


@pytest.mark.parametrize("way", ["dense", *ON_CPU])
def test_no_mask_of_all_pairs(way):
    length = 40
    sizes = {"vocab_size": V, "length": length, "width": 32, "heads": 2, "encoder_layers": 1, "decoder_layers": 1, "cond_dim": 0, "dropout": 0.0}
    model = build(PartitionConfig(**sizes))
    known = torch.arange(length).expand(B, -1) % 3 == 0
    with Seen() as seen:
        model.hidden(torch.zeros_like(known, dtype=torch.int64), known, grouping=GROUPINGS[way]).sum().backward()
    pairs = [shape for shape in seen.shapes if shape[-2:] == (length, length)]
    assert bool(pairs) == (way == "dense")


@pytest.mark.parametrize("way", ["varlen", "flex"])
@pytest.mark.parametrize("causal", [False, True])
def test_accelerators_are_never_waited_for(way, causal):
    """Tensors without data raise wherever the host wants a value."""
    known, present = (x.to("meta") for x in groups())
    made = GROUPINGS[way](known, present, order(known) if causal else None)
    hidden = torch.zeros(B, L, 4, device="meta")
    assert made.queries.restore(made.tokens.arrange(hidden)).shape == hidden.shape


@pytest.mark.parametrize("name", [*PARTITION, *CAUSAL])
def test_sorting_never_waits(name):
    """The whole training pass on sorted rows, but for the kernel (which has no shapes to offer on the meta device)."""
    known, present = (x.to("meta") for x in groups())
    model, tokens = tiny(name, torch.float32).to("meta"), torch.zeros(B, L, dtype=torch.int64, device="meta")
    sorting = by_segments(lambda queries, keys, length, causal: everywhere)
    assert model.hidden(tokens, known, present=present, grouping=sorting).shape == (B, L, 32)


@pytest.mark.parametrize("way", ON_CPU)
def test_one_attention_per_segment_is_refused_where_it_would_wait(way):
    known, _ = groups()
    with pytest.raises(ValueError, match="would wait for the meta device"):
        GROUPINGS[way](known.to("meta"))


# --------------------------------------------------------------------------------------------------------- accelerators

GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("way, dtype, tolerance", [
    pytest.param("varlen", torch.bfloat16, 3e-2, marks=GPU),
    pytest.param("flex", torch.bfloat16, 3e-2, marks=GPU),
    pytest.param("flex", torch.float32, 1e-3, marks=GPU),
])
@pytest.mark.filterwarnings("default")                              # torch.compile looks at the gradients of what has none, and says so
def test_gradients_on_a_gpu(way, dtype, tolerance, ragged, causal):
    for length in (64, 300):
        known, present = groups(1, length=length, ragged=ragged)
        ours = attended(way, known, present, causal=causal, dtype=dtype, device="cuda")
        theirs = attended("dense", known, present, causal=causal, dtype=torch.float64)
        assert_equal([x.double() for x in ours], theirs, tolerance)


def test_dense_is_the_default():
    model = tiny("partition")
    known, present = groups(2)
    tokens = torch.zeros_like(known, dtype=torch.int64)
    assert torch.equal(model.hidden(tokens, known, present=present), model.hidden(tokens, known, present=present, grouping=dense))
