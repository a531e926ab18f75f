"""The large model of MDM-Prime-v2 and SMDM: files of the released layout, and the network derived anew in float64."""
from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

import maskless
from maskless.checkpoints.convert import convert
from maskless.checkpoints.inspect import inspect
from maskless.checkpoints.native import load_model
from maskless.checkpoints.reference.foreign import open_foreign
from maskless.subtokens import SubTokenCode

V, D, HEADS, LAYERS, INNER = 50, 32, 2, 2, 24
SET = {"heads": HEADS, "length": 12}


def weights(digits: int = 6, base: int = 2) -> dict[str, Tensor]:
    """Random numbers under the released names."""
    generator = torch.Generator().manual_seed(0)
    shapes = {"lm_head.weight": (V, D), "transformer.wte.weight": ((base + 1) * digits, D), "transformer.ln_f.weight": (D,)}
    for n in range(LAYERS):
        at = f"transformer.h.{n}"
        shapes |= {f"{at}.norm_1.weight": (D,), f"{at}.attn.attn.weight": (3 * D, D), f"{at}.attn.proj.weight": (D, D), f"{at}.norm_2.weight": (D,),
                   f"{at}.mlp.swiglu.w1.weight": (INNER, D), f"{at}.mlp.swiglu.w2.weight": (INNER, D), f"{at}.mlp.swiglu.w3.weight": (D, INNER)}
    return {key: torch.randn(shape, generator=generator) / 3 for key, shape in shapes.items()}


def written(path: Path, state: dict[str, Tensor]) -> Path:
    torch.save({"model": state}, path)
    return path


def permutation(path: Path, count: int = 64) -> Tensor:
    found = torch.randperm(count, generator=torch.Generator().manual_seed(1))
    torch.save(found, path)
    return found


def derived(state: dict[str, Tensor], y: Tensor, digits: int, base: int) -> Tensor:
    """Logits (B, L, V) of digits y (B, L l), b where not known, by the equations."""
    w = {key: value.double() for key, value in state.items()}
    rows, length, width = len(y), y.shape[1] // digits, D // HEADS
    x = torch.zeros(rows, length, D, dtype=torch.float64)
    for j in range(digits):
        x = x + w["transformer.wte.weight"][y[:, j::digits] + j * (base + 1)]
    turn = torch.arange(length, dtype=torch.float64)[:, None] * 10000.0 ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)

    def norm(v: Tensor, weight: Tensor) -> Tensor:
        return v / (v.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight

    def rotated(v: Tensor) -> Tensor:
        one, two = v[..., :width // 2], v[..., width // 2:]
        return torch.cat([one * turn.cos() - two * turn.sin(), one * turn.sin() + two * turn.cos()], -1)

    for n in range(LAYERS):
        at = lambda name, n=n: w[f"transformer.h.{n}.{name}.weight"]
        h, mixed = norm(x, at("norm_1")), []
        for head in range(HEADS):
            q, k, v = (h @ part.T for part in at("attn.attn")[head * 3 * width:(head + 1) * 3 * width].chunk(3))
            mixed.append((rotated(q) @ rotated(k).mT / math.sqrt(width)).softmax(-1) @ v)
        x = x + torch.cat(mixed, -1) @ at("attn.proj").T
        h = norm(x, at("norm_2"))
        gate = h @ at("mlp.swiglu.w1").T
        x = x + (gate / (1 + (-gate).exp()) * (h @ at("mlp.swiglu.w2").T)) @ at("mlp.swiglu.w3").T
    return norm(x, w["transformer.ln_f.weight"]) @ w["lm_head.weight"].T


@pytest.mark.parametrize(("digits", "base"), [(6, 2), (2, 8), (1, V)])
def test_the_network_derived_anew_in_float64(digits, base, tmp_path):
    """Shuffled bits; two digits; one digit, which is SMDM."""
    state = weights(digits, base)
    path = written(tmp_path / "weights.pth", state)
    given = {} if digits == 1 else {"digits": digits}
    if digits > 1:
        numbers = permutation(tmp_path / "perm.pt", base**digits)
        given["permutation"] = str(tmp_path / "perm.pt")
    model = open_foreign(path, overrides={**SET, **given}).model().double()
    if digits > 1:
        assert torch.equal(model.code.numbers, numbers[:V])
    generator = torch.Generator().manual_seed(2)
    tokens, known = torch.randint(V, (3, 7), generator=generator), torch.rand(3, 7 * digits, generator=generator) < 0.5
    y = torch.where(known, model.table[tokens].flatten(1), base)
    got = model.head(model.hidden_of_digits(y, known))
    torch.testing.assert_close(got, derived(state, y, digits, base), rtol=0, atol=2e-7)        # the rotary frequencies of the package are float32


def test_a_released_file_is_looked_at_converted_and_sampled(tmp_path):
    """By its published name digits, length and heads (14: too many here) are known; the permutation alone is asked for."""
    state = weights(15, 2)
    path = written(tmp_path / "mdm-prime-v2-3300flops-weight-only.pth", state)
    with pytest.raises(ValueError, match=r"may shuffle ids.*--set permutation=perm\.pt, or say that there is none with --set code=digits"):
        open_foreign(path, overrides={"heads": 2}).model()
    numbers = permutation(tmp_path / "perm_32768.pt", 2**15)
    given = {"heads": 2, "permutation": str(tmp_path / "perm_32768.pt")}
    file = open_foreign(path, overrides=given)
    assert torch.equal(file.model().table, SubTokenCode.permuted(V, 15, numbers).table)
    for inferred in ("length 2048: published default", "digits 15: published default"):
        assert any(inferred in note for note in file.facts.notes)
    report = inspect(path, overrides={"heads": 2, "code": "digits"})
    assert report.kind == "Prime text model of the lit-gpt form" and not report.problems
    assert {"type": "prime_llama", "digits": 15, "base": 2, "layers": 2, "inner": INNER, "vocab_size": V}.items() <= report.architecture.items()

    made = convert(path, tmp_path / "native", overrides=given)
    again, _ = load_model(made.folder)
    y = torch.randint(3, (2, 15 * 5), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        got = again.head(again.hidden_of_digits(y.clamp(max=1), y < 2))
    torch.testing.assert_close(got.double(), derived(state, y, 15, 2), rtol=0, atol=2e-5)
    canvas = again.canvas(torch.zeros(2, 5, dtype=torch.int64), torch.zeros(2, 5, dtype=torch.bool))
    maskless.Sampler(maskless.Ancestral(8))(again, canvas, maskless.Noise.of(0, 2))
    assert bool(canvas.known.all()) and not bool(canvas.invalid.any()) and int(canvas.by_site().tokens.max()) < V


@pytest.mark.parametrize(("change", "given", "says"), [
    ({}, {"digits": 6}, "number of heads is in no shape; give it with --set heads=14"),
    ({}, {"heads": 2}, "number of digits is in no shape; give it with --set digits=15"),
    ({}, {"heads": 0, "digits": 6, "code": "digits"}, "heads is 0; give at least 1"),
    ({}, {"heads": 2, "digits": 0, "code": "digits"}, "digits is 0; give at least 1"),
    ({"module.lm_head.weight": torch.zeros(V, D)}, {"heads": 2, "digits": 6, "code": "digits"}, "two parameters have one name"),
    ({}, {"heads": 3, "digits": 6, "code": "digits"}, "no queries, keys and values of 3 heads"),
    ({}, {"heads": 2, "digits": 4, "code": "digits"}, "18 rows in 4 digits is base 3"),
    ({"transformer.h.0.attn.attn.weight": torch.zeros(2 * D, D)}, {"heads": 2, "digits": 6, "code": "digits"}, r"shape \(64, 32\)"),
    ({"transformer.h.0.attn.bias": torch.zeros(D)}, {"heads": 2, "digits": 6, "code": "digits"}, r"unexpected \['blocks.0.attn.bias"),
    ({"transformer.h.0.mlp.fc_1.weight": torch.zeros(D)}, {"heads": 2, "digits": 6, "code": "digits"}, r"unexpected \['blocks.0.mlp.fc_1"),
    ({}, {"heads": 2, "digits": 6, "code": "digits", "query": "mean"}, "query cannot be set"),
])
def test_what_does_not_fit_is_said(change, given, says, tmp_path):
    path = written(tmp_path / "weights.pth", {**weights(), **change})
    with pytest.raises(ValueError, match=says):
        open_foreign(path, overrides=given).model()


def test_another_feed_forward_form_is_said(tmp_path):
    path = written(tmp_path / "weights.pth", {key: value for key, value in weights().items() if "swiglu" not in key})
    with pytest.raises(ValueError, match=r"no mlp\.swiglu\.w1\.weight among the weights"):
        open_foreign(path, overrides=SET).model()
