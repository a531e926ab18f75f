"""Labels: they reach the model through every objective, and which rows lose theirs depends on seed, step and row alone."""
from __future__ import annotations

import pytest
import torch
from objective_fakes import Labelled, Opinions, joints

from maskless.data.batch import Batch
from maskless.evaluation.likelihood import bound
from maskless.objectives import (
    AnyOrder,
    Autoregressive,
    Complementary,
    Dial,
    Draws,
    Masked,
    OrderedPartition,
    Partition,
    unlabelled,
)
from maskless.schedules import Arccos
from maskless.training.loop import forgetful

BOTH_SIDES = [Masked(), Masked(Arccos(), weights="unit", targets="all"), Complementary(), Partition(), Partition(Arccos(), weights="unit")]
IN_ORDER = [AnyOrder(), AnyOrder(2), OrderedPartition(), Dial(p_two_group=0.5)]
NULL = 2


def case(rows: int = 6) -> tuple[Batch, Draws]:
    generator = torch.Generator().manual_seed(0)
    t, u, labels = torch.rand(rows, generator=generator), torch.rand(rows, 3, generator=generator), torch.tensor([0, 1, NULL] * 2)
    return Batch.of(torch.randint(3, (rows, 3), generator=generator)).labelled(labels), Draws(t.double(), u.double())


@pytest.mark.parametrize("objective", BOTH_SIDES, ids=repr)
def test_a_row_is_predicted_under_its_own_label(objective):
    batch, draws = case()
    found = objective(Labelled(), batch, draws)
    for label in (0, 1, NULL):
        of = batch.labels == label
        alone = objective(Labelled.only(label), Batch.of(batch.tokens[of]), Draws(draws.t[of], draws.u[of]))
        torch.testing.assert_close(found.token_loss[of], alone.token_loss)
        torch.testing.assert_close(found.bound[of], alone.bound)
    none = objective(Labelled(), batch.labelled(None), draws)
    torch.testing.assert_close(none.bound, objective(Labelled.only(NULL), batch.labelled(None), draws).bound)


class Heard(Opinions):
    """Says which labels it was given."""

    def hidden_in_order(self, *args, cond=None, **named):
        self.heard = cond
        return super().hidden_in_order(*args, **named)

    def hidden_of_groups(self, tokens, known, log, *, cond=None, present=None):
        self.heard = cond
        return torch.zeros(*tokens.shape, self.vocabulary, dtype=torch.float64)

    def hidden(self, tokens, known, *, cond=None, **_):
        return self.hidden_of_groups(tokens, known, None, cond=cond)


@pytest.mark.parametrize("objective", [*IN_ORDER, Autoregressive(), Partition()], ids=repr)
def test_order_causal_and_autoregressive_models_are_told(objective):
    batch, draws = case()
    for shared in (0.1, 0.9):                                                               # both kinds of batch of the dial
        for labels in (batch.labels, None):
            model = Heard(3, 3)
            objective(model, batch.labelled(labels), Draws(draws.t, draws.u, (shared, 0.0)))
            assert model.heard is labels


def test_with_labels_the_bound_is_the_conditional_entropy_without_the_whole():
    """H(x | y) = E_y H(x | y), below H(x), the entropy of the mixture that "no class" stands for."""
    generator, each = torch.Generator().manual_seed(0), joints()
    labels = torch.randint(2, (500,), generator=generator)
    picked = torch.multinomial(each.flatten(1)[labels], 1, generator=generator)[:, 0]
    batch = Batch.of(Labelled().states[picked]).labelled(labels)
    of_class = [float(torch.special.entr(table).sum()) for table in each]
    conditional, whole = sum(of_class) / 2, float(torch.special.entr(each.mean(0)).sum())
    assert conditional < whole - 0.3
    for objective in (Masked(), Partition(Arccos(), weights="unit").reported(3)["bound"]):
        told = bound(Labelled(), objective, batch.split(2), seed=1, samples=4)
        assert told.nats_per_token * 3 == pytest.approx(conditional, abs=3 * 3.5 * told.standard_error)
        untold = bound(Labelled(), objective, batch.labelled(None).split(2), seed=1, samples=4)
        assert untold.nats_per_token * 3 == pytest.approx(whole, abs=3 * 3.5 * untold.standard_error)
        assert 3 * max(told.standard_error, untold.standard_error) < (whole - conditional) / 6


# ------------------------------------------------------------------------------------------------------- class dropout


def test_the_share_of_rows_without_a_label():
    found = torch.stack([unlabelled(5, step, torch.arange(512), 0.1) for step in range(100)]).double()
    assert abs(float(found.mean()) - 0.1) < 4 * (0.1 * 0.9 / found.numel()) ** 0.5
    assert abs(float(found.mean(1).std()) - (0.1 * 0.9 / 512) ** 0.5) < 0.004               # rows are independent of each other
    assert (found.sum(0) > 0).all()                                                         # no row always keeps its label
    assert not unlabelled(5, 0, torch.arange(512), 0.0).any() and unlabelled(5, 0, torch.arange(512), 1.0).all()


def test_any_cut_over_ranks_and_micro_batches_forgets_the_same_labels():
    rows, labels = torch.arange(24), torch.arange(24) % 3
    batch = Batch.of(torch.zeros(24, 2, dtype=torch.long)).labelled(labels)
    whole = forgetful(batch, unlabelled(1, 7, rows, 0.5), 3).labels
    assert 0 < int((whole == 3).sum()) < 24 and torch.equal(whole[whole < 3], labels[whole < 3])
    for pieces in (2, 4, 24):
        parts = zip(batch.split(pieces), rows.chunk(pieces), strict=True)
        cut = [forgetful(part, unlabelled(1, 7, places, 0.5), 3).labels for part, places in parts]
        assert torch.equal(torch.cat(cut), whole)
    for other in (unlabelled(2, 7, rows, 0.5), unlabelled(1, 8, rows, 0.5)):
        assert not torch.equal(forgetful(batch, other, 3).labels, whole)
    assert torch.equal(batch.labels, labels)
