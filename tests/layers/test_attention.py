"""Attention by products is the fused attention, whole and in pieces."""
import pytest
import torch
import torch.nn.functional as F

from maskless.layers import attention
from maskless.layers.attention import Masked, bias, by_products, merge

MASKS = {"none": lambda n, m: None, "causal": lambda n, m: torch.ones(n, m, dtype=torch.bool).tril()[None, None],
         "keys": lambda n, m: torch.rand(3, 1, 1, m) < 0.7, "pairs": lambda n, m: (torch.rand(3, 1, n, m) < 0.5) | torch.eye(n, m, dtype=torch.bool)}


def inputs(queries, keys, rows=3):
    torch.manual_seed(0)
    q, k, v = (torch.randn(3, n, 2, 8, dtype=torch.float64).transpose(1, 2) for n in (queries, keys, keys))
    return q[:rows], k, v


@pytest.mark.parametrize("piece", [1, 40, 1 << 21])
@pytest.mark.parametrize("queries", [1, 7, 70])
@pytest.mark.parametrize("mask", MASKS)
def test_products_equal_the_fused_attention(monkeypatch, mask, queries, piece):
    monkeypatch.setattr(attention, "PIECE", piece)
    (q, k, v), seen = inputs(queries, 9), MASKS[mask](queries, 9)
    if seen is not None:
        seen = seen | (torch.arange(9) == 0)
    with torch.no_grad():
        found = by_products(q, k, v, bias(seen, q, v.dtype))
        torch.testing.assert_close(found, F.scaled_dot_product_attention(q, k, v, attn_mask=seen), rtol=0, atol=1e-12)


def test_queries_shared_by_all_rows_are_taken_in_pieces(monkeypatch):
    monkeypatch.setattr(attention, "PIECE", 20)
    q, k, v = inputs(5, 9, rows=1)
    with torch.no_grad():
        torch.testing.assert_close(by_products(q, k, v), F.scaled_dot_product_attention(q.expand(3, -1, -1, -1), k, v), rtol=0, atol=1e-12)


def test_gradients_of_products_are_those_of_the_fused_attention():
    found = []
    for attend in (by_products, F.scaled_dot_product_attention):
        leaves = [x.detach().requires_grad_() for x in inputs(7, 9)]
        attend(*leaves).square().sum().backward()
        found.append([x.grad for x in leaves])
    for ours, theirs in zip(*found):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("vectors", [False, True])
def test_bfloat16_stays_close_and_a_query_that_sees_nothing_gets_zeros(monkeypatch, vectors):
    monkeypatch.setattr(attention, "_bf16_in_vectors", lambda: vectors)
    q, k, v = inputs(7, 9)
    seen = MASKS["pairs"](7, 9)
    seen[1, :, 2] = False
    with torch.no_grad():
        found = Masked(seen)(*(x.bfloat16() for x in (q, k, v)))
        want = merge(F.scaled_dot_product_attention(q, k, v, attn_mask=seen)).nan_to_num()
    assert found.dtype == torch.bfloat16 and bool((found[1, 2] == 0).all())
    torch.testing.assert_close(found.double(), want, rtol=0, atol=0.03)


@pytest.mark.parametrize("vectors", [False, True])
def test_queries_that_all_see_something_need_no_second_look(monkeypatch, vectors):
    monkeypatch.setattr(attention, "_bf16_in_vectors", lambda: vectors)
    q, k, v = (x.bfloat16() for x in inputs(7, 9))
    seen = MASKS["pairs"](7, 9)
    with torch.no_grad():
        torch.testing.assert_close(Masked(seen, blind=False)(q, k, v), Masked(seen)(q, k, v), rtol=0, atol=0)


def test_one_bias_serves_all_layers_and_every_number_of_queries(monkeypatch):
    monkeypatch.setattr(attention, "_bf16_in_vectors", lambda: True)
    attend = Masked(torch.rand(3, 1, 1, 9) < 0.7)
    for queries in (7, 70, 7):
        q, k, v = (x.bfloat16() for x in inputs(queries, 9))
        want = Masked(attend.mask)(q, k, v)
        with torch.no_grad():
            torch.testing.assert_close(attend(q, k, v), want, rtol=0, atol=0)
    assert sorted(queries for queries, _ in attend.biases) == [7, 70]


def test_products_are_taken_in_bfloat16_on_such_processors_only(monkeypatch):
    asked = []
    monkeypatch.setattr(attention, "by_products", lambda q, k, v, bias: asked.append(v.dtype) or by_products(q, k, v, bias))
    monkeypatch.setattr(attention, "_bf16_in_vectors", lambda: True)
    q, k, v = inputs(7, 9)
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        attention.attention(*(x.to(dtype) for x in (q, k, v)))
    monkeypatch.setattr(attention, "_bf16_in_vectors", lambda: False)
    attention.attention(*(x.bfloat16() for x in (q, k, v)))
    assert asked == [torch.bfloat16]
