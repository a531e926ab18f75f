"""The released text models of Prime: the importer, and the network derived anew in float64, time-conditioned as well."""
from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

import maskless
from maskless.checkpoints.inspect import inspect
from maskless.checkpoints.native import load_model
from maskless.checkpoints.reference.foreign import open_foreign
from maskless.checkpoints.reference.prime import import_prime
from maskless.data.batch import Batch
from maskless.evaluation.golden import verify
from maskless.objectives import SubNelbo
from maskless.subtokens import SubTokenCode

GOLDEN = Path(__file__).parents[1] / "golden"
NAMES = ("prime_text_l2", "prime_text_l2_co", "prime_text_l3")


def weights_of(name: str) -> dict[str, Tensor]:
    return {key.removeprefix("param/"): value for key, value in load_file(GOLDEN / f"{name}.safetensors").items() if key.startswith("param/")}


def derived(w: dict[str, Tensor], yt: Tensor, sigma: Tensor, heads: int) -> Tensor:
    """Logits (B, L, V) of the released network, written from the specification alone (Prime 3, text 1): no code of the package."""
    w = {key: value.double() for key, value in w.items()}
    silu = lambda x: x / (1 + torch.exp(-x))
    norm = lambda x, weight: (x - x.mean(-1, keepdim=True)) / (x.var(-1, correction=0, keepdim=True) + 1e-5).sqrt() * weight
    angles = sigma.double()[:, None] * torch.exp(-math.log(10000.0) * torch.arange(128, dtype=torch.float64) / 128)
    c = torch.cat([angles.cos(), angles.sin()], 1)
    c = silu(c @ w["sigma_map.mlp.0.weight"].T + w["sigma_map.mlp.0.bias"])
    c = silu(c @ w["sigma_map.mlp.2.weight"].T + w["sigma_map.mlp.2.bias"])
    table, depth = w["vocab_embed.embedding"], w["output_layer.norm_final.weight"].shape[0]
    rows, length = len(yt), yt.shape[1] * table.shape[1] // depth
    x = table[yt].reshape(rows, length, depth)
    width = depth // heads
    frequency = 10000.0 ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    turn = torch.arange(length, dtype=torch.float64)[:, None] * frequency
    cos, sin = (torch.cat([f, f], 1)[None, :, None] for f in (turn.cos(), turn.sin()))

    def rotated(v: Tensor) -> Tensor:
        one, two = v[..., :width // 2], v[..., width // 2:]
        return v * cos + torch.cat([-two, one], -1) * sin

    for n in range(1 + max(int(key.split(".")[1]) for key in w if key.startswith("blocks."))):
        at = lambda name, n=n: w[f"blocks.{n}.{name}"]
        shift1, scale1, gate1, shift2, scale2, gate2 = (c @ at("adaLN_modulation.weight").T + at("adaLN_modulation.bias"))[:, None].chunk(6, -1)
        h = norm(x, at("norm1.weight")) * (1 + scale1) + shift1
        q, k, v = (h @ at("attn_qkv.weight").T).view(rows, length, 3, heads, width).unbind(2)
        scores = torch.einsum("bqhd,bkhd->bhqk", rotated(q), rotated(k)) / math.sqrt(width)
        mixed = torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), v).reshape(rows, length, depth)
        x = x + gate1 * (mixed @ at("attn_out.weight").T)
        h = norm(x, at("norm2.weight")) * (1 + scale2) + shift2
        u = h @ at("mlp.0.weight").T + at("mlp.0.bias")
        u = 0.5 * u * (1 + torch.tanh(math.sqrt(2 / math.pi) * (u + 0.044715 * u**3)))
        x = x + gate2 * (u @ at("mlp.2.weight").T + at("mlp.2.bias"))
    shift, scale = (c @ w["output_layer.adaLN_modulation.weight"].T + w["output_layer.adaLN_modulation.bias"])[:, None].chunk(2, -1)
    return (norm(x, w["output_layer.norm_final.weight"]) * (1 + scale) + shift) @ w["output_layer.linear.weight"].T + w["output_layer.linear.bias"]


@pytest.mark.parametrize("timed", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_the_network_derived_anew_in_float64(name, timed):
    """With the noise level really fed, too: sigma(t) = -ln(1 - 0.999 t)."""
    tensors, weights = load_file(GOLDEN / f"{name}.safetensors"), weights_of(name)
    yt, t = tensors["in/yt"], tensors["in/t"].double()
    sigma = -torch.log1p(-(1 - 1e-3) * t) if timed else torch.zeros_like(t)
    want = derived(weights, yt, sigma, heads=2)
    model = import_prime(weights, {"time_conditioning": timed}, code="digits").double()
    got = model.head(model.hidden_of_digits(yt, yt != model.base, t=t))
    torch.testing.assert_close(got, want, rtol=0, atol=2e-7)       # the rotary frequencies of the package are float32
    if not timed:
        torch.testing.assert_close(tensors["out/logits"].double(), want, rtol=0, atol=2e-5)
    # the bound from these logits by brute force over the classes
    digits, unknown = model.code.encode(tensors["in/x0"]), (yt == model.base).unflatten(1, (-1, model.per_site))
    total = torch.zeros(yt.shape[0], dtype=torch.float64)
    for b, i, j in unknown.nonzero().tolist():
        fits = ((model.table == digits[b, i]) | unknown[b, i]).all(1)
        law = want[b, i].masked_fill(~fits, -torch.inf).softmax(0)
        total[b] -= law[model.table[:, j] == digits[b, i, j]].sum().log() / t[b]
    found = SubNelbo(low=0).scored(model, Batch.of(tensors["in/x0"]), unknown, t)
    torch.testing.assert_close(found.bound, total, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("last", [0.35, 1e-5])
def test_a_time_conditioned_step_and_its_last_fill(last, tmp_path):
    """A golden file written from the specification alone; the last fill may be told the time after the step, or the end of the grid."""
    source = GOLDEN / "prime_text_l2_co.safetensors"
    tensors, weights = load_file(source), weights_of("prime_text_l2_co")
    yt, table, base = tensors["in/yt"], tensors["code/table"], 8
    race = lambda p, u: (p / (1e-10 - (u + 1e-10).log())).argmax(-1)

    def law(digits: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        logits = derived(weights, digits, -torch.log1p(-(1 - 1e-3) * t), 2).float()
        seen = digits.unflatten(1, (-1, 2))[..., None, :]
        return logits, logits.masked_fill(~((seen == base) | (seen == table)).all(-1), -torch.inf).log_softmax(-1)

    found = {name: value for name, value in tensors.items() if not name.startswith(("ref/", "valid/", "grad_"))}
    found["in/sigma_net"] = found["in/sigma_schedule"].clone()
    found["out/logits"], found["out/log_p"] = law(yt, tensors["in/t"])
    found["step/p_x0"] = law(yt, tensors["step/t"])[1].exp()
    found["step/x0_hat"] = race(found["step/p_x0"], tensors["step/u_x0"])
    reveal = torch.full((*yt.shape, base + 1), 0.0).scatter_(2, table[found["step/x0_hat"]].flatten(1)[..., None], 0.25)
    reveal[..., base] = 0.35                                        # t = 0.6, dt = 0.25
    states = torch.where(yt == base, race(reveal, tensors["step/u_reveal"]), yt)
    found["step/ys"], found["final/p_x0"] = states, law(states, torch.full((len(yt),), last))[1].exp()
    found["final/x0_hat"] = race(found["final/p_x0"], tensors["final/u_x0"])
    found["final/y"] = torch.where(states == base, table[found["final/x0_hat"]].flatten(1), states)
    found["final/x"] = (found["final/y"].unflatten(1, (-1, 2)) * torch.tensor([base, 1])).sum(-1)
    path = tmp_path / "prime_text_l2_co_tcond.safetensors"
    with safe_open(source, "pt") as file:
        save_file({name: value.contiguous() for name, value in found.items()}, path, file.metadata())
    report = verify(path)
    assert report.passed and not report.unchecked, [each.name for each in report.found if not each.passed]


def lightning(
    folder: Path, state: dict[str, Tensor], prime: dict | None, average: bool = True, prefix: str = "backbone.", timed: bool = False,
) -> Path:
    """A file as the released trainer writes it; the average is the weights and one."""
    path = folder / "checkpoint.ckpt"
    order = [key for key in state if key != "rotary_emb.inv_freq" and not key.startswith("wrapped_encoder.")]
    config = {"model": {"hidden_size": 32, "cond_dim": 16, "length": 16, "n_blocks": 2, "n_heads": 2, "dropout": 0.1}, "time_conditioning": timed}
    if prime is not None:
        config["prime"] = prime
    named = {key if key.startswith("wrapped_encoder.") else f"{prefix}{key}": value for key, value in state.items()}
    ema = {"decay": 0.9999, "num_updates": 5, "shadow_params": [state[key] + 1 for key in order]}
    torch.save({"state_dict": named, "global_step": 7, "hyper_parameters": {"config": config}, **({"ema": ema} if average else {})}, path)
    return path


@pytest.mark.parametrize("timed", [False, True])
def test_whether_it_is_told_the_time_stands_beside_the_model(timed, tmp_path):
    path = lightning(tmp_path, weights_of("prime_text_l2"), {"target_length": 2, "vocab_size": 50}, timed=timed)
    assert open_foreign(path).model().config.time_conditioned is timed


def test_a_released_file_is_looked_at_converted_and_sampled(tmp_path):
    weights = weights_of("prime_text_l2_co")
    path = lightning(tmp_path, weights, {"target_length": 2, "base": 50257, "vocab_size": 50, "carry_over": True})
    report = inspect(path)
    assert report.kind == "Prime text model" and not report.problems
    assert {"digits": 2, "base": 8, "vocab_size": 50, "tables": "shared"}.items() <= report.architecture.items()
    assert any("filter_observed True" in note for note in report.inferred) and any("code digits" in note for note in report.inferred)
    file = open_foreign(path)
    raw, mean = file.model(average=False), file.model()
    assert torch.equal(raw.head.bias, weights["output_layer.linear.bias"]) and torch.equal(mean.head.bias, raw.head.bias + 1)
    assert torch.equal(raw.table, SubTokenCode.digits(50, 2).table)
    from maskless.checkpoints.convert import convert

    made = convert(path, tmp_path / "native", average=False)
    again, _ = load_model(made.folder)
    yt = load_file(GOLDEN / "prime_text_l2_co.safetensors")["in/yt"]
    with torch.no_grad():
        want = load_file(GOLDEN / "prime_text_l2_co.safetensors")["out/logits"]
        torch.testing.assert_close(again.head(again.hidden_of_digits(yt, yt != 8)), want, rtol=0, atol=1e-5)
    canvas = again.canvas(torch.zeros(2, 16, dtype=torch.int64), torch.zeros(2, 16, dtype=torch.bool))
    maskless.Sampler(maskless.Ancestral(8))(again, canvas, maskless.Noise.of(0, 2))
    assert bool(canvas.known.all()) and not bool(canvas.invalid.any())


def second_version(digits: int = 6, summed: bool = False) -> tuple[dict[str, Tensor], Tensor]:
    """Weights in the form of v2, and a permutation of all its codes."""
    weights, width = weights_of("prime_text_l2"), 32
    table = torch.randn(3 * digits, width if summed else 16)
    swapped = {("vocab_embed.weight.weight" if key == "vocab_embed.embedding" else key): value for key, value in weights.items()}
    return {**swapped, "vocab_embed.weight.weight": table}, torch.randperm(2**digits, generator=torch.Generator().manual_seed(0))


def test_the_second_version_needs_its_permutation(tmp_path):
    weights, permutation = second_version(summed=True)
    prime = {"target_length": 6, "non_shared_emb": True, "sum_emb": True, "permutation_file_path": "perm.pt"}
    path = lightning(tmp_path, weights, prime)
    with pytest.raises(ValueError, match=r"the settings say that ids were shuffled.*--set permutation=perm\.pt"):
        open_foreign(path).model()
    torch.save(permutation, tmp_path / "perm.pt")
    given = open_foreign(path, overrides={"permutation": str(tmp_path / "perm.pt")}).model()
    assert (given.config.digits, given.base, given.config.merge, given.config.tables) == (6, 2, "sum", "separate")
    assert torch.equal(given.code.numbers, permutation[:50])
    inside = {**weights, "wrapped_encoder.perm": permutation, "wrapped_encoder.inv_perm": permutation.argsort(),
              "wrapped_encoder.lookup_table": torch.zeros(64, 6, dtype=torch.int64)}
    path = lightning(tmp_path, inside, None)
    assert not inspect(path).problems
    assert torch.equal(open_foreign(path).model().table, given.table)
    bare = lightning(tmp_path, weights, None)
    with pytest.raises(ValueError, match=r"the number of digits is in no shape; give it with --set digits=16"):
        open_foreign(bare).model()
    with pytest.raises(ValueError, match=r"nothing says whether this does.*--set code=digits"):
        open_foreign(bare, overrides={"digits": 6}).model()
    plain = open_foreign(bare, overrides={"digits": 6, "code": "digits"}).model()
    assert torch.equal(plain.table, SubTokenCode.digits(50, 6).table)


@pytest.mark.parametrize(("change", "says"), [
    ({"target_length": 3}, "says digits 3, the weights have 2"), ({"vocab_size": 51}, "says vocab_size 51, the weights have 50"),
])
def test_settings_that_contradict_the_shapes(change, says, tmp_path):
    path = lightning(tmp_path, weights_of("prime_text_l2"), {"target_length": 2, "vocab_size": 50, **change})
    with pytest.raises(ValueError, match=says):
        open_foreign(path).model()


@pytest.mark.parametrize(("edit", "says"), [
    (lambda w: w.pop("output_layer.linear.bias"), "missing"), (lambda w: w.update({"blocks.7.norm9.weight": torch.ones(1)}), "unknown parameter"),
    (lambda w: w.update({"vocab_embed.embedding": torch.ones(6, 16)}), "cannot write 50 classes"),
    (lambda w: w.pop("sigma_map.mlp.0.weight"), "there is no sigma_map"),
])
def test_damaged_weights_are_one_sentence(edit, says, tmp_path):
    weights = weights_of("prime_text_l2")
    edit(weights)
    with pytest.raises(ValueError, match=says):
        open_foreign(lightning(tmp_path, weights, {"target_length": 2}, average=False)).model()
