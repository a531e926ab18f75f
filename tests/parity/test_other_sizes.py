"""Golden files of other sizes, written here by dense loops that follow the released samplers line by line."""
from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from maskless.checkpoints.reference.names import DIT, PARTITION, WHOLE, native_name
from maskless.evaluation.golden import verify
from maskless.models import Denoiser, MaskedConfig, PartitionConfig, build

SIZES = {"vocab_size": 13, "width": 24, "heads": 3, "length": 10, "cond_dim": 6, "dropout": 0.0}
MASK, BOS, L = 4, 9, 10  # as BERT: the mask lies inside the vocabulary
META = {"mask_index": str(MASK), "bos": str(BOS), "eos": "7"}


def masked() -> Denoiser:
    return randomised(build(MaskedConfig(**SIZES, layers=3, mask_id=MASK, forbidden=(MASK,))))


def partition() -> Denoiser:
    config = PartitionConfig(**SIZES, encoder_layers=3, decoder_layers=1, query_mlp=True, forbidden=(MASK,))
    return randomised(build(config))


def randomised(model: Denoiser) -> Denoiser:
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.25)
    return model.eval()


def exported(model: Denoiser, prefix: str = "param/") -> dict[str, Tensor]:
    """Under the names of the released code."""
    table = PARTITION if isinstance(model.config, PartitionConfig) else DIT
    layers = range(max(getattr(model.config, name, 0) for name in ("layers", "encoder_layers", "decoder_layers")))
    stems = {key.replace("{i}", str(i)) for key in table for i in layers}
    keys = [*WHOLE, *(f"{stem}.{leaf}" for stem in stems for leaf in ("weight", "bias"))]
    state, found = model.state_dict(), {}
    for key in keys:
        if (name := native_name(key, table)) in state:
            found[prefix + key] = state[name].clone()
    assert len(found) == len(state)
    pairs = model.config.width // model.config.heads // 2
    found[f"{prefix}rotary_emb.inv_freq"] = 10000.0 ** (-torch.arange(pairs) / pairs)
    return found


def log_p(model: Denoiser, tokens: Tensor) -> Tensor:
    logits = model(tokens, tokens != MASK).detach()
    logits[..., MASK] = -torch.inf
    return logits.log_softmax(-1)


def raced(p: Tensor, u: Tensor) -> Tensor:
    return (p / (1e-10 - (u + 1e-10).log())).argmax(-1)


def checked(folder: Path, name: str, tensors: dict[str, Tensor], meta: dict[str, str]) -> None:
    path = folder / f"{name}.safetensors"
    save_file({key: value.contiguous() for key, value in tensors.items()}, path, meta)
    report = verify(path)
    assert report.passed and not report.unchecked, [each for each in report.found if not each.passed]
    if "sampler" in name:
        tensors["out"][0, -1] += 1
        save_file(tensors, path, meta)
        assert not verify(path).passed


def numbered(draws: list[Tensor]) -> dict[str, Tensor]:
    return {f"rng/{i:03d}_{'binomial' if draw.dim() == 1 else 'rand_like'}": draw for i, draw in enumerate(draws)}


@pytest.mark.parametrize(("steps", "rows"), [(1, 1), (3, 2), (40, 3)])
@pytest.mark.parametrize("removal", ["ancestral", "greedy", "none"])
def test_ancestral_with_a_cache(steps, rows, removal, tmp_path):
    model, draws, calls, cache = masked(), [], 0, None
    x = torch.full((rows, L), MASK)
    x[:, 0] = BOS
    times = torch.linspace(1, 1e-5, steps + 1)
    for i in range(steps + 1):
        if i == steps and removal != "ancestral":
            break
        if cache is None:
            cache, calls = log_p(model, x).double().exp(), calls + 1
        tokens, luck = torch.rand(rows, L, 13, dtype=torch.float64), torch.rand(rows, L, dtype=torch.float64)
        draws += [tokens, luck]
        chance = 1.0 if i == steps else float((1 - 1e-5) / steps / times[i])
        after = torch.where((x == MASK) & (luck < chance), raced(cache, tokens), x)
        cache = cache if torch.equal(after, x) else None
        x = after
    if removal == "greedy":
        calls += 1
        x = torch.where(x == MASK, log_p(model, x).argmax(-1), x)
    sampling = {"predictor": "ddpm_cache", "noise_removal": removal, "inject_bos": True}
    meta = {**META, "sampling": json.dumps(sampling), "network_calls": str(calls)}
    checked(tmp_path, "text_sampler_mdlm_ddpm_cache", {**exported(model), **numbered(draws), "out": x}, meta)


def filled(model: Denoiser, order: Tensor, counts: list[list[int]], races: list, top_p: float = 1.0) -> Tensor:
    """Row by row, each site from the tokens before its step."""
    out = torch.full((len(order), L), MASK)
    out[:, 0] = BOS
    done = torch.zeros(len(order), dtype=torch.long)
    for count, race in zip(counts, races):
        for b, n in enumerate(count):
            where = order[b, done[b]:done[b] + n]
            if n == 0 or race is None:
                continue
            logits = model(out[b:b + 1], out[b:b + 1] != MASK)[0, where].detach()
            best, rank = logits.sort(-1, descending=True)
            mass = best.softmax(-1)
            cut = (mass.cumsum(-1) - mass > top_p).scatter(-1, rank, mass.cumsum(-1) - mass > top_p)
            logits = logits.masked_fill(cut, -torch.inf)
            logits[:, MASK] = -torch.inf
            out[b, where] = raced(logits.log_softmax(-1).double().exp(), race[b, :n])
        done += torch.tensor(count)
    return out


@pytest.mark.parametrize("steps", [2, 5, 10])
@pytest.mark.parametrize("top_p", [1.0, 0.8])
def test_uniform(steps, top_p, tmp_path):
    model, keys, k = partition(), torch.rand(2, L - 1), L // steps
    sizes = [k] * (steps - 1) + [k - 1]  # ten steps: the last asks for nothing
    races = [torch.rand(2, size, 13, dtype=torch.float64) for size in sizes]
    out = filled(model, keys.argsort(1) + 1, [[size] * 2 for size in sizes], races, top_p)
    meta = {**META, "sampling": json.dumps({"p_nucleus": top_p}), "neg_infinity_mode": "true-inf"}
    tensors = {**exported(model), **numbered([keys, *races]), "out": out}
    checked(tmp_path, "text_sampler_pgm_uniform_nucleus", tensors, meta)


@pytest.mark.parametrize("binomials", [[[0, 0], [9, 9]], [[3, 0], [0, 0], [9, 2], [1, 1]], [[12, 1]]])
def test_nonuniform(binomials, tmp_path):
    model, keys, left = partition(), torch.rand(2, L - 1), [L - 1, L - 1]
    draws, counts, races = [keys], [], []
    for drawn in binomials:
        counts.append([min(n, rest) for n, rest in zip(drawn, left)])
        left = [rest - n for n, rest in zip(counts[-1], left)]
        races.append(torch.rand(2, max(counts[-1]), 13, dtype=torch.float64) if max(counts[-1]) else None)
        draws += [torch.tensor(drawn).float(), *([] if races[-1] is None else [races[-1]])]
    if max(left):
        counts.append(left)
        races.append(torch.rand(2, max(left), 13, dtype=torch.float64))
        draws.append(races[-1])
    out = filled(model, keys.argsort(1) + 1, counts, races)
    checked(tmp_path, "text_sampler_pgm_nonuniform", {**exported(model), **numbered(draws), "out": out}, META)


@pytest.mark.parametrize(("stride", "strides", "inner"), [(5, 1, 2), (3, 3, 4)])
@pytest.mark.parametrize("noted", [True, False])
def test_semi_autoregression(stride, strides, inner, noted, tmp_path):
    model, draws, parts, dt, calls = masked(), [], [], 1 / inner, 0
    prefix = torch.zeros(2, 0, dtype=torch.long)
    for _ in range(strides + 1):
        x = torch.cat([prefix, torch.full((2, L - prefix.shape[1]), MASK)], 1)
        for i in range(inner + 1):
            tokens, luck = torch.rand(2, L, 13, dtype=torch.float64), torch.rand(2, L, dtype=torch.float64)
            draws += [tokens, luck]
            reveal = (luck < dt / (1 - i * dt)) if i < inner else torch.ones_like(luck).bool()
            after = torch.where((x == MASK) & reveal, raced(log_p(model, x).double().exp(), tokens), x)
            calls, x = calls + int(not torch.equal(after, x)), after
        parts.append(x[:, :stride])
        prefix = x[:, stride:]
    out = torch.cat([*parts, prefix], 1)
    rows = [row[1:] for row in out.tolist()]
    lengths = torch.tensor([row.index(7) if 7 in row else len(row) for row in rows])
    note = {"note": f"stride_length {stride}, num_strides {strides}, dt {dt}."} if noted else {}
    tensors = {**exported(model), **numbered(draws), "out": out, "network_calls": torch.tensor(calls)}
    checked(tmp_path, "text_sampler_mdlm_semi_ar", {**tensors, "sequence_lengths": lengths}, {**META, **note})


def test_partition_loss(tmp_path):
    model, x0, group = partition(), torch.randint(5, 13, (4, 7)), torch.rand(4, 7) < 0.5
    t, valid = torch.tensor([0.001, 0.3, 0.7, 0.999]), torch.arange(7) < torch.tensor([[7], [5], [7], [2]])
    logits = model(x0, ~group)
    logits = torch.where(torch.arange(13) == MASK, -torch.inf, logits)
    law = logits.log_softmax(-1)
    loss = -law.gather(-1, x0[..., None])[..., 0] / torch.where(group, t[:, None], 1 - t[:, None]) / 2
    bound = torch.where(group, 2 * loss, 0.0)
    total = (loss * valid).sum() / valid.sum()
    leaves = {
        "decoder.group_swap.query_processor.2.weight": model.swap.process[2].weight,
        "output_layer.linear.weight": model.head.weight,
    }
    found = torch.autograd.grad(total, list(leaves.values()))
    grads = {f"grad/{key}": grad for key, grad in zip(leaves, found)}
    checked(tmp_path, "text_pgm_loss_bertlike", {
        **exported(model), "x0": x0, "group_idxs": group.long(), "t": t, "valid_tokens": valid.long(),
        "train/loss": total.detach(), "train/token_loss": loss.detach(),
        "eval/token_nelbo": bound.detach(), "log_x_theta": law.detach(),
        "eval/loss": ((bound * valid).sum() / valid.sum()).detach(), **grads,
    }, {"mask_index": str(MASK)})


def test_checkpoint(tmp_path):
    raw = exported(masked(), "backbone.")
    average = {key: value + 0.01 for key, value in raw.items() if "inv_freq" not in key}
    torch.save({"state_dict": raw, "ema": {"decay": 0.9, "num_updates": 1, "shadow_params": list(average.values())}},
               tmp_path / "text_mdlm_tiny.ckpt")
    x = torch.randint(5, 13, (2, L))
    xt = torch.where(torch.rand(2, L) < 0.5, MASK, x)
    other = masked()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.01)
    raw_logits, averaged = (model(xt, xt != MASK).detach() for model in (masked(), other))
    expected = {"x": x, "xt": xt, "logits_raw": raw_logits, "logits_ema": averaged}
    checked(tmp_path, "text_mdlm_tiny_io", expected, META)


@pytest.mark.parametrize("kind", ["mdlm", "pgm"])
@pytest.mark.parametrize(("steps", "leaks"), [(1, True), (3, False), (5, True)])
def test_distillation(kind, steps, leaks, tmp_path):
    """Site by site, as the released code walks: the mask races with the tokens."""
    teacher, student = (masked(), masked()) if kind == "mdlm" else (partition(), partition())
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(0.05)
    x0, t, dt = torch.randint(5, 13, (3, L)), torch.tensor([0.3, 0.7, 0.9]), 0.15
    xt = torch.where(torch.rand(3, L) < t[:, None], MASK, x0)

    def law(model: Denoiser, x: Tensor) -> Tensor:
        logits = model(x, x != MASK)
        column = torch.arange(13) == MASK
        return logits.masked_fill(column, 0.0 if leaks else -torch.inf).log_softmax(-1).masked_fill(column, -1e7)

    s = torch.linspace(1, 0, steps)[:, None]
    times = (t * s + (1 - t) * (t - steps * dt)).clamp_min(1e-5)
    x, targets, found = xt.clone(), torch.zeros(3, L, 13), {}
    for i in range(steps):
        u, said, hidden = torch.rand(3, L, 13), law(teacher, x).detach(), x == MASK
        q = said.exp() * (0.999 * dt)
        q[..., MASK] = (0.999 * (times[i] - dt))[:, None]
        after = torch.where(hidden, (q / (1e-10 - (u + 1e-10).log())).argmax(-1), x)
        shown = hidden & (after != MASK) if i < steps - 1 else hidden
        targets[shown] = said[shown]
        found |= {f"rng/uniform_step{i}": u, f"trace/x_before_step{i}": x}
        x = after
    rows = xt == MASK
    S, Q = law(student, xt)[rows], targets[rows]
    keep = torch.arange(13) != MASK
    losses = {"kl-bwd": (S.exp() * (S - Q))[:, keep].sum(-1).mean(), "kl-fwd": (Q.exp() * (Q - S))[:, keep].sum(-1).mean(),
              "mse": (S - Q).square().mean(), "tvd": (S - Q).abs().sum(-1).mean()}
    gradient = torch.autograd.grad(losses["kl-bwd"], student.head.bias)[0]
    meta = {"mask_index": str(MASK), "subs": "branch" if leaks else "stand-alone", "num_distill_steps": str(steps)}
    checked(tmp_path, f"text_sdtt_{kind}_k{steps}", {
        **exported(teacher, "teacher/"), **exported(student, "student/"), **found, "x0": x0, "xt": xt, "t": t,
        "dt": torch.tensor(dt, dtype=torch.float64), "teacher_times": times, "teacher_targets": targets, "grad/output_layer.linear.bias": gradient,
        **{f"loss/{name}": loss.detach() for name, loss in losses.items()},
    }, meta)


@pytest.mark.parametrize("make", [masked, partition])
@pytest.mark.parametrize(("rows", "batches"), [(3, 2), (1, 5)])
def test_harness(make, rows, batches, tmp_path):
    """The released score token by token: every draw is a row, every hidden token weighs 1 / t."""
    model, prefix, suffix = make(), torch.tensor([BOS, 3, 11]), torch.tensor([8, 2, 7])
    row = torch.cat([prefix, suffix])
    first, uniforms = torch.rand(rows * batches), [torch.rand(rows, 6) for _ in range(batches)]
    means = []
    for number, draw in enumerate(uniforms):
        total = 0.0
        for b in range(rows):
            place = number * rows + b
            t = 1e-3 + (1 - 1e-3) * (float(first[place]) + place) / len(first)
            hidden = draw[b] < 1 - (1 - (1 - 1e-3) * t)
            logits = model(row[None], ~hidden[None]).detach()[0]
            logits[:, MASK] = -torch.inf
            nll = -logits.log_softmax(-1)[torch.arange(6), row]
            total += float(nll[hidden].sum()) / t
        means.append(total / (rows * 6))
    known = torch.tensor([True] * 3 + [False] * 2 + [True])
    logits = model(row[None], known[None]).detach()[0]
    logits[:, MASK] = -torch.inf
    best = torch.cat([logits.argmax(-1)[3:5], suffix[-1:]])
    name = "text_harness_mdlm" if make is masked else "text_harness_pgm"
    found = {"prefix": prefix, "suffix": suffix, "suffix_greedy_correct": best, "nll": torch.tensor(sum(means) / batches, dtype=torch.float64),
             "greedy_flag": torch.tensor(int(torch.equal(best, suffix))), "greedy_flag_correct": torch.tensor(1), "rng/000_rand": first}
    meta = META if make is masked else META | {"algo": '{"post_process_mode": "efficient"}'}     # as in every released file of PGM: it leaks not
    checked(tmp_path, name, {**exported(model), **found, **{f"rng/{i:03d}_rand": u for i, u in enumerate(uniforms, 1)}}, meta)
