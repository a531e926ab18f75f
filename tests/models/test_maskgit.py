"""What is particular to MaskGIT: a head that is the embedding, heads narrower than the model, positions of a grid."""
from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from tests.tiny import CONFIGS, L, V, tiny

from maskless.layers.mlp import SwiGLU
from maskless.layers.norm import RMSNorm, unit
from maskless.layers.rotary import cells, rotation
from maskless.models import build
from maskless.objectives.cross_entropy import weighted_nll

MASKGIT = [name for name in CONFIGS if name.startswith("maskgit")]


@pytest.mark.parametrize("name", MASKGIT)
def test_the_head_is_the_embedding_and_is_trained_from_both_ends(name):
    model, tokens = tiny(name), torch.randint(V - 1, (3, L))
    known, weights = torch.rand(3, L) < 0.5, torch.rand(3, L, dtype=torch.float64)
    assert model.head.weight is model.embedding.weight
    assert sum(key.endswith(("embedding.weight", "head.weight")) for key in model.state_dict()) == 1
    loss, _ = weighted_nll(model, model.hidden(tokens, known), tokens, weights, chunk=5)
    logits = model(tokens, known)
    if model.allowed is not None:
        logits = logits.masked_fill(~model.allowed, -torch.inf)
    plain = (F.cross_entropy(logits.transpose(1, 2), tokens, reduction="none") * weights).sum()
    ours, theirs = (torch.autograd.grad(value, list(model.parameters())) for value in (loss, plain))
    for a, b in zip(ours, theirs):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
    of_input = torch.autograd.grad(model.hidden(tokens, known).square().sum(), model.embedding.weight)[0]
    assert (ours[0] - of_input).abs().max() > 0 and of_input.abs().max() > 0


def test_copies_are_tied_to_their_own_embedding():
    model = tiny("maskgit")
    for other in (copy.deepcopy(model), copy.deepcopy(model).float().to(torch.float64)):
        assert other.head.weight is other.embedding.weight and other.head.weight is not model.embedding.weight
    assert len(list(model.parameters())) == len({id(p) for p in model.parameters()})


def test_what_stands_at_unknown_sites_is_one_vector_or_one_row():
    native, imported = tiny("maskgit"), tiny("maskgit, imported")
    assert native.mask is not None and len(native.embedding.weight) == V and imported.mask is None
    nothing = torch.zeros(1, L, dtype=torch.bool)
    given = imported(torch.full((1, L), 10), ~nothing)              # the mask row, given as a token
    torch.testing.assert_close(imported(torch.zeros(1, L, dtype=torch.int64), nothing), given)


def test_heads_may_be_narrower_than_the_model():
    attention = tiny("maskgit, imported").blocks[0].attention
    assert attention.q.weight.shape == (30, 32) and attention.out.weight.shape == (32, 30)


def test_a_new_model_has_its_blocks_closed_and_its_last_modulation_open():
    torch.manual_seed(0)
    model = build(CONFIGS["maskgit"])
    assert all(block.ada.weight.abs().max() == 0 for block in model.blocks) and model.ada.weight.abs().max() > 0
    assert 0.01 < model.embedding.weight.std() < 0.03


def test_norms_and_the_mlp_follow_their_formulas():
    x = torch.randn(5, 24, dtype=torch.float64)
    exact = x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(unit(x), exact, rtol=1e-12, atol=1e-12)
    norm = RMSNorm(24, bias=True).double()
    torch.nn.init.normal_(norm.bias)
    torch.testing.assert_close(norm(x), exact + norm.bias)
    torch.testing.assert_close(unit(x.bfloat16()), exact.bfloat16(), rtol=2e-2, atol=2e-2)
    assert [SwiGLU(width).up.weight.shape[0] for width in (384, 512, 768, 1024, 1152)] == [1024, 1536, 2048, 2816, 3072]
    mlp = SwiGLU(24).double()
    torch.testing.assert_close(mlp(x), (F.silu(x @ mlp.gate.weight.T) * (x @ mlp.up.weight.T)) @ mlp.down.weight.T)


def test_axial_rotations_tell_rows_and_columns_apart():
    """The score of two cells depends on how far apart they are in rows and columns, on nothing else; registers lie before the first cell."""
    q, k = torch.randn(2, 1, 1, 1, 8, dtype=torch.float64)
    turned = rotation(cells(torch.arange(-2, 12), 4), 8, torch.float64)
    scores = (turned(q.expand(-1, -1, 14, -1)) @ turned(k.expand(-1, -1, 14, -1)).transpose(-1, -2))[0, 0, 2:, 2:].view(3, 4, 3, 4)
    for row, column in [(0, 0), (1, 0), (0, 1), (1, 2)]:
        shifted = scores[row:, column:, row:, column:]
        torch.testing.assert_close(shifted, scores[:3 - row, :4 - column, :3 - row, :4 - column])
    assert (scores[0, 0, 0, 1] - scores[0, 0, 1, 0]).abs() > 1e-3 and (scores[0, 3, 1, 0] - scores[0, 0, 0, 1]).abs() > 1e-3
    place = cells(torch.arange(-2, 6), 4)
    assert place.rows.tolist() == [-2, -1, 0, 0, 0, 0, 1, 1] and place.columns.tolist() == [-2, -1, 0, 1, 2, 3, 0, 1]
