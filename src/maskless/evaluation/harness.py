"""What an evaluation harness asks of a language model, answered by every model of this library: score a continuation, score a text, go on with one.

    harness = Harness(model, tokenizer, Scoring(samples=128))
    harness.score([Request("The capital of France is", " Paris")])[0].nats

Rows are [BOS] context continuation, padded to a multiple of 32 sites; passes have a fixed shape. Without lm-eval: `evaluation/tasks.py`; with
it: `api/lm_eval.py`. What is scored, and what the released harness did instead: docs/tasks.md.

Letters: B rows, L sites.
"""
from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from maskless.checkpoints.native import check_vocabulary
from maskless.data.batch import Batch
from maskless.data.tokenizer import Tokenizer
from maskless.decoding import Noise, SamplerOptions
from maskless.evaluation.conditional import LogProb, greedy, log_probs
from maskless.evaluation.mean_joint import joint_nats_per_token, released_draws, released_greedy
from maskless.evaluation.settings import WAYS, among
from maskless.models import Denoiser, kind_of
from maskless.objectives import own
from maskless.objectives.base import Timed

BUCKET = 32                                                         # rows are padded to a multiple of so many sites
ROWS, NUMBERS = 256, 1 << 23                                        # rows that are laid out at once, and nlls of all their draws, at most

Progress = Callable[[int, int], None]                               # called with (done, all)
Row = tuple[list[int], list[int], int]                              # given ids, scored ids, key of its noise


@dataclass(frozen=True)
class Scoring:
    """How continuations are scored.

    Args:
        score: "conditional": log p(continuation | context), a bound of any-order models with its error, exact from left to right.
            "mean_joint": the released harness's number, a length-normalised bound of context, continuation, BOS and EOS together, with context and
            continuation tokenised apart (masked and partition models only; for comparison with published tables).
        samples: Monte-Carlo draws of a score.
        seed: of the draws.
        overlong: "window": where context and continuation do not fit the model, the context loses its beginning, and a continuation that does not
            fit alone is scored piece by piece, each after as much text as fits; "refuse": such a request is an error. Neither is ever a free win.
        eos: whether EOS follows the continuation and is scored ("mean_joint" always does that).
        decoding: what "greedy" means: "left_to_right", token after token; or "together", all in one pass. With "mean_joint" it is the released
            LAMBADA's: together, the closing EOS seen.
        chunk: rows of a pass.

    Raises:
        ValueError: an unknown choice, or a number out of range.

    Example:
        >>> Scoring(samples=64).score
        'conditional'
    """

    score: str = "conditional"
    samples: int = 128
    seed: int = 0
    overlong: str = "window"
    eos: bool = False
    decoding: str = "left_to_right"
    chunk: int = 64

    def __post_init__(self) -> None:
        for name, choices in WAYS.items():
            among(name, (getattr(self, name),), choices)
        if self.samples < 2 or self.chunk < 1:
            raise ValueError(f"samples is {self.samples} and chunk {self.chunk}; a score with its error needs at least 2 samples, a pass 1 row")


@dataclass(frozen=True)
class Request:
    """Score `continuation` after `context`. Requests of one question share a `key`, and with it their noise: their difference has less error."""

    context: str
    continuation: str
    key: int = 0


@dataclass(frozen=True)
class Score:
    """What a continuation got.

    Attributes:
        nats: log-probability, larger is better; of "mean_joint" minus the mean nats per token of the whole row.
        standard_error: Monte-Carlo, of `nats`.
        tokens: scored.
        kind: "bound", "exact" or "mean_joint".
        greedy: whether greedy decoding writes this continuation; None where it was not asked for.
        windows: rows it took; more than one where the continuation alone did not fit.
        dropped: tokens of the context that did not fit in front of its first piece.
    """

    nats: float
    standard_error: float
    tokens: int
    kind: Literal["bound", "exact", "mean_joint"]
    greedy: bool | None = None
    windows: int = 1
    dropped: int = 0


@dataclass(frozen=True)
class Ending:
    """Where a text that is gone on with stops: after `tokens` tokens, or before the first of the strings `until`."""

    tokens: int
    until: tuple[str, ...] = ()


def windows(context: Sequence[int], continuation: Sequence[int], room: int) -> Iterator[tuple[list[int], list[int]]]:
    """(given, scored) parts of a text, each of at most `room` tokens, in which every token of the continuation is scored once.

    A continuation that fits is one part, after the end of the context. A longer one is cut: into the first `room` tokens where there is no
    context, and pieces of half the room, each after as much text as fits.
    """
    text, start = [*context, *continuation], len(context)
    while start < len(text):
        size = room if start == 0 or len(continuation) <= room else max(1, room // 2)
        stop = min(start + size, len(text))
        yield text[max(0, stop - room):start], text[start:stop]
        start = stop


class Harness:
    """A model and its tokenizer, as an evaluation asks them.

    Args:
        model: any network of this library that reads text, in evaluation mode and on its device.
        tokenizer: its own.
        scoring: how continuations are scored.

    Raises:
        ValueError: a tokenizer that is not the model's, a score the model does not have, or EOS without one in the vocabulary.
    """

    def __init__(self, model: Denoiser, tokenizer: Tokenizer, scoring: Scoring | None = None) -> None:
        self.model, self.tokenizer, self.scoring = model, tokenizer, scoring or Scoring()
        vocabulary = tokenizer.vocabulary
        check_vocabulary(vocabulary.size, model.config, "the tokenizer")
        self.opening = [] if vocabulary.bos is None else [vocabulary.bos]
        self.room: int = model.config.length - len(self.opening)
        joint = self.scoring.score == "mean_joint"
        if joint and not isinstance(own(kind_of(model.config)), Timed):
            raise ValueError(f"score mean_joint is of masked and partition models, and this is {kind_of(model.config)}; use score conditional")
        if (joint or self.scoring.eos) and vocabulary.eos is None:
            raise ValueError("the vocabulary has no EOS to close a continuation with; use score conditional without eos")
        self.closing = [vocabulary.eos] if (joint or self.scoring.eos) and vocabulary.eos is not None else []

    # -- scores ------------------------------------------------------------------------------------------------------------------------------

    def score(self, requests: Sequence[Request], *, decode: bool = False, progress: Progress | None = None) -> list[Score]:
        """Scores of continuations, in the order of the requests.

        Args:
            decode: also find out whether greedy decoding writes each of them (a pass a token).
            progress: called with (done, all) rows.

        Raises:
            ValueError: an empty continuation, text that cannot be written in the vocabulary, a request that does not fit where that is refused,
                or numbers that are not finite.
        """
        laid = [self._parts(request) for request in requests]
        if self.scoring.score == "mean_joint":
            return [self._mean_joint(*parts[0], dropped, decode=decode) for parts, dropped in laid]
        rows = [(given, scored, request.key) for request, (parts, _) in zip(requests, laid) for given, scored in parts]
        values = iter(self._log_probs(rows, progress))
        right = iter(self._greedy(rows) if decode else [])
        found = []
        for parts, dropped in laid:
            pieces, answers = [next(values) for _ in parts], [next(right) for _ in parts] if decode else []
            found.append(_joined(pieces, all(answers) if decode else None, dropped))
        return found

    def score_texts(self, texts: Sequence[str], progress: Progress | None = None) -> list[Score]:
        """log p of whole texts after BOS, a window at a time where they are longer than the model; an empty text is certain."""
        full = [(number, text) for number, text in enumerate(texts) if text]
        found = [Score(0.0, 0.0, 0, "exact" if self.model.left_to_right else "bound") for _ in texts]
        for (number, _), score in zip(full, self.score([Request("", text, number) for number, text in full], progress=progress)):
            found[number] = score
        return found

    def _encode(self, request: Request) -> tuple[list[int], list[int]]:
        """Ids of context and continuation: of the text as a whole, where its tokens do not cross the border; white space goes to the continuation."""
        tokenizer = self.tokenizer
        if self.scoring.score == "mean_joint":
            return tokenizer.encode(request.context), [*tokenizer.encode(request.continuation), *self.closing]
        kept = request.context.rstrip()
        moved = request.context[len(kept):] + request.continuation
        context, whole = tokenizer.encode(kept), tokenizer.encode(kept + moved)
        apart = whole[:len(context)] != context or len(whole) == len(context)
        return context, [*(tokenizer.encode(moved) if apart else whole[len(context):]), *self.closing]

    def _parts(self, request: Request) -> tuple[list[tuple[list[int], list[int]]], int]:
        """What is given and what is scored, row by row; and how many tokens of the context are left out."""
        context, continuation = self._encode(request)
        if len(continuation) == len(self.closing):
            raise ValueError(f"a continuation is empty (after {request.context[-40:]!r}); there is nothing to score")
        if not context and not self.opening and self.model.left_to_right:
            raise ValueError("an autoregressive model whose vocabulary has no BOS cannot score the first token; give a context")
        fits = len(context) + len(continuation) <= self.room
        if not fits and (self.scoring.overlong == "refuse" or (self.scoring.score == "mean_joint" and len(continuation) > self.room)):
            raise ValueError(f"context and continuation take {len(context)} + {len(continuation)} tokens, the model has {self.room}: "
                             f"{request.continuation[:40]!r}; shorten them, or leave such items out and say so")
        parts = list(windows(context, continuation, self.room))
        return parts, len(context) - len(parts[0][0])

    def _mean_joint(self, context: list[int], continuation: list[int], dropped: int, *, decode: bool) -> Score:
        prefix, suffix = torch.tensor([*self.opening, *context], dtype=torch.int64), torch.tensor(continuation)
        row, scoring = torch.cat([prefix, suffix]), self.scoring
        values = joint_nats_per_token(self.model, row, *released_draws(scoring.seed, scoring.samples, len(row)), chunk=scoring.chunk)
        if not bool(values.isfinite().all()):
            raise ValueError("a score is not finite; look at the model's weights, or score in float32")
        right = released_greedy(self.model, prefix, suffix) if decode else None
        return Score(-float(values.mean()), float(values.std()) / math.sqrt(len(values)), len(row), "mean_joint", right, dropped=dropped)

    # -- rows --------------------------------------------------------------------------------------------------------------------------------

    def _log_probs(self, rows: Sequence[Row], progress: Progress | None) -> list[LogProb]:
        found: dict[int, LogProb] = {}
        for numbers, batch in self._batches(rows):
            keys, scoring = [rows[n][2] for n in numbers], self.scoring
            found |= zip(numbers, log_probs(self.model, batch, samples=scoring.samples, seed=scoring.seed, keys=keys, chunk=scoring.chunk,
                                            anchor=bool(self.opening)))
            if progress is not None:
                progress(len(found), len(rows))
        return [found[number] for number in range(len(rows))]

    def _greedy(self, rows: Sequence[Row]) -> list[bool]:
        found: dict[int, bool] = {}
        for numbers, batch in self._batches(rows):
            together = self.scoring.decoding == "together"
            found |= zip(numbers, greedy(self.model, batch, together=together, chunk=self.scoring.chunk, anchor=bool(self.opening)).tolist())
        return [found[number] for number in range(len(rows))]

    def _batches(self, rows: Sequence[Row]) -> Iterator[tuple[list[int], Batch]]:
        """Rows of one padded length, with their numbers."""
        size = lambda n: min(-(-(len(self.opening) + len(rows[n][0]) + len(rows[n][1])) // BUCKET) * BUCKET, self.model.config.length)
        for length in sorted({size(n) for n in range(len(rows))}):
            alike = [n for n in range(len(rows)) if size(n) == length]
            most = max(1, min(ROWS, NUMBERS // (self.scoring.samples * length)))
            for start in range(0, len(alike), most):
                numbers = alike[start:start + most]
                yield numbers, self._batch([rows[n] for n in numbers], length)

    def _batch(self, rows: Sequence[Row], length: int) -> Batch:
        tokens = torch.full((len(rows), length), self.tokenizer.vocabulary.filler)
        lengths = torch.tensor([[len(self.opening) + len(given), len(self.opening) + len(given) + len(scored)] for given, scored, _ in rows])
        for row, (given, scored, _) in enumerate(rows):
            ids = [*self.opening, *given, *scored]
            tokens[row, :len(ids)] = torch.tensor(ids)
        site = torch.arange(length)
        return Batch(tokens, site < lengths[:, 1:], site < lengths[:, :1])

    # -- going on ----------------------------------------------------------------------------------------------------------------------------

    def go_on(self, contexts: Sequence[str], ending: Ending, *, options: SamplerOptions | None = None, block: int = 32,
              keys: Sequence[int] | None = None) -> list[str]:
        """Texts that go on with each context: a gap of `block` tokens behind what there is, filled in any order, and again until the ending.

        Args:
            contexts: where one does not leave half of the model's sites (or `ending.tokens`, if fewer), its beginning is left out.
            ending: where to stop; the string that ends a text is not part of it, and EOS ends it as well.
            options: of the sampler; `steps` are those of a block. None: the most probable token, from left to right.
            block: tokens of a gap.
            keys: which noise each text draws; None: every text its own.

        Raises:
            ValueError: fewer than one token or block.
        """
        if ending.tokens < 1 or block < 1:
            raise ValueError(f"tokens is {ending.tokens} and block {block}; each is at least 1")
        options = options or SamplerOptions(temperature=0, order="left-to-right", steps=block)
        return [self._go_on(key, context, ending, options, block) for key, context in zip(keys or range(len(contexts)), contexts)]

    def _go_on(self, key: int, context: str, ending: Ending, options: SamplerOptions, block: int) -> str:
        keep = self.room - min(ending.tokens, self.room // 2)
        ids, written = self.tokenizer.encode(context)[-keep:] if keep else [], []
        while len(written) < ending.tokens:
            gap = min(block, ending.tokens - len(written), self.room)
            seen = [*ids, *written][-(self.room - gap):] if gap < self.room else []
            written += self._filled(seen, gap, options, seed=(self.scoring.seed << 20) + key, start=len(written))
            text, ended = self._cut(written, ending.until)
            if ended:
                return text
        return self._cut(written, ending.until)[0]

    def _filled(self, seen: list[int], gap: int, options: SamplerOptions, *, seed: int, start: int) -> list[int]:
        """Ids of a gap behind what is seen."""
        row = [*self.opening, *seen]
        tokens = torch.tensor([[*row, *[self.tokenizer.vocabulary.filler] * gap]])
        known = (torch.arange(tokens.shape[1]) < len(row))[None]
        anchor = (torch.arange(tokens.shape[1]) < len(self.opening))[None]
        device = self.model.head.weight.device
        canvas = self.model.canvas(tokens, known, anchor=anchor).to(device)
        words = self.tokenizer.vocabulary
        forbid = tuple(id for id in (words.bos, words.pad) if id is not None and id != words.eos)
        sampler = options.sampler(gap * self.model.per_site, left_to_right=self.model.left_to_right, eos=words.eos, forbid=forbid)
        with torch.inference_mode():
            sampler(self.model, canvas, Noise([seed + (start << 40)], device))
        return canvas.by_site().tokens[0, len(row):].tolist()

    def _cut(self, written: list[int], until: Sequence[str]) -> tuple[str, bool]:
        """The text before EOS and before the first of the strings, and whether there was one."""
        eos = self.tokenizer.vocabulary.eos
        stop = written.index(eos) if eos is not None and eos in written else len(written)
        text = self.tokenizer.decode(written[:stop])
        places = [place for mark in until if mark and (place := text.find(mark)) >= 0]
        return (text[:min(places)], True) if places else (text, stop < len(written))


def _joined(parts: Sequence[LogProb], right: bool | None, dropped: int) -> Score:
    """The score of a continuation from those of its pieces."""
    error = math.sqrt(math.fsum(part.standard_error**2 for part in parts))
    return Score(math.fsum(part.nats for part in parts), error, sum(part.tokens for part in parts), parts[0].kind, right, len(parts), dropped)
