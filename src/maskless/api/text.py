"""A model with its tokenizer: generate, infill, score, save.

B rows, L sites.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal, overload

import torch
from torch import Tensor

from maskless.api.model import Dtype, GivenSampler, LoadedModel, Seeds, check_count, check_whole, seeds_of
from maskless.api.template import Script, Template, check_text
from maskless.data.batch import Batch
from maskless.data.tokenizer import Tokenizer
from maskless.decoding import Canvas, Noise, Sampler, Speculative
from maskless.decoding.decode import Callback
from maskless.evaluation.conditional import LogProb, conditional_bounds, log_prob
from maskless.models import Denoiser

MOST_DRAWS = 1_000_000                                              # of a score
MOST_TEXTS = 65_536                                                 # of a call, which holds them all at once
SEARCHED = (1, 2, 3, 4, 6, 8, 12, 16)                               # gap lengths that `lengths="search"` compares


@dataclass(frozen=True)
class Completion:
    """A generated text.

    Attributes:
        text: all of it, prompt included; `str(completion)` is this.
        gaps: what was filled in, gap by gap (for `infill`).
        tokens: ids of the whole row, BOS included, absent sites left out.
        nfe: calls of the model that made it (shared by the rows of its batch).

    Example:
        >>> str(Completion("To be", gaps=(), tokens=(256, 84, 111), nfe=1))
        'To be'
    """

    text: str
    gaps: tuple[str, ...]
    tokens: tuple[int, ...]
    nfe: int

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Gapped:
    """A text with gaps, and the rows that are filled for it: one, or one for each of several lengths.

    Attributes:
        texts: the pieces between the gaps, as they were written.
        pieces: their ids.
        lent: gap by gap, whether its first token brings the space before it.
        layouts: tokens (L,) and known (L,) of every row.
        spans: of every row, where its gaps lie.
    """

    texts: tuple[str, ...]
    pieces: list[list[int]]
    lent: tuple[bool, ...]
    layouts: list[tuple[Tensor, Tensor]]
    spans: list[list[tuple[int, int]]]

    @property
    def spaced(self) -> list[list[int]]:
        """Of every row, the sites whose tokens bring a space."""
        return [[start for (start, _), space in zip(spans, self.lent) if space] for spans in self.spans]


class TextModel(LoadedModel):
    """A network, its tokenizer, and where it runs.

    Args:
        model: the network as trained.
        tokenizer: of the data it was trained on.
        device: "auto" takes CUDA, then MPS, then the CPU.
        dtype, compile: see `LoadedModel`.

    Raises:
        ValueError: if tokenizer and model do not fit each other, or this machine has no such device.

    Example:
        >>> import maskless
        >>> network = maskless.build(maskless.PartitionConfig(vocab_size=259, length=32, width=16, heads=2, encoder_layers=1, decoder_layers=1))
        >>> model = maskless.TextModel(network, maskless.load_tokenizer("bytes"))
        >>> len(model.generate(2, steps=4, length=8))
        2
    """

    def __init__(self, model: Denoiser, tokenizer: Tokenizer, *, device: str = "auto", dtype: Dtype = "auto", compile: str = "auto"):
        from maskless.checkpoints.native import check_vocabulary

        if not hasattr(tokenizer, "vocabulary"):
            raise ValueError(f"tokenizer is {tokenizer!r}; give a tokenizer, such as maskless.load_tokenizer(\"bytes\")")
        check_vocabulary(tokenizer.vocabulary.size, model.config, "the tokenizer")
        super().__init__(model, device=device, dtype=dtype, compile=compile)
        self.tokenizer = tokenizer

    def generate(self, n: int = 1, *, prompt: str | list[str] = "", length: int | None = None, seed: Seeds = 0,
                 sampler: GivenSampler = None, watch: Callback | None = None, refresh: int = 0, **options: Any) -> list[Completion]:
        """Texts, in parallel and in any order. BOS and what the vocabulary forbids (padding) are never drawn.

        Args:
            n: how many.
            prompt: the beginning of each, kept as it is; or a list with one for each of the n (which may be left out).
            length: sites of a row, BOS and prompt included; the model's length if None.
            seed: one number (row b of any call with this seed draws the same noise), or one per text.
            sampler: full control, a `Sampler` or all `SamplerOptions`; without it one is made from `options`, the fields of `SamplerOptions`
                (steps, order, top_p, guidance, ...).
            watch: called with (canvas, record) after every step.
            refresh: order-causal models: encode everything known afresh, as one bidirectional commit, every so many steps; 0 keeps the cache.

        Raises:
            ValueError: if the prompt does not fit, an option is out of range, guidance has no prompt, or options were given beside a sampler.

        Example:
            >>> import maskless
            >>> network = maskless.build(maskless.MaskedConfig(vocab_size=259, length=32, width=16, heads=2, layers=1))
            >>> model = maskless.TextModel(network, maskless.load_tokenizer("bytes"))
            >>> model.generate(prompt="To be", length=16, steps=3)[0].text[:5]
            'To be'
        """
        check_count("n", n, of="texts", most=MOST_TEXTS)
        prompts = _one_each("prompt", prompt, n)
        sites: int = self.model.config.length if length is None else length
        self._check_length(sites)
        rows, lent = zip(*map(self.read_prompt, prompts))
        if (longest := max(map(len, rows))) >= sites:
            raise ValueError(f"the prompt takes {longest} of {sites} sites, none is left to generate; shorten it or raise length")
        tokens = torch.full((len(rows), sites), self.tokenizer.vocabulary.filler)
        for row, ids in enumerate(rows):
            tokens[row, :len(ids)] = torch.tensor(ids, dtype=torch.int64)
        taken = torch.tensor([len(ids) for ids in rows])[:, None]
        chosen = self._chosen(sampler, options, sites - int(taken.min()), self._opening)
        if chosen.guidance and longest == len(self._opening):
            raise ValueError("guidance forgets the prompt, and there is none to be guided by; give a prompt, or leave guidance out")
        canvas = self._canvas(tokens, torch.arange(sites) < taken)
        if any(lent):
            self._begin_with_space(canvas, (torch.arange(sites) == taken) & torch.tensor(lent)[:, None])
        nfe = self._fill(canvas, Noise(seeds_of(seed, len(rows)), self.device), chosen, watch, refresh)
        return [Completion(self._continued(prompt, row, ids[len(row):]), (), tuple(ids), nfe)
                for prompt, row, ids in zip(prompts, rows, self._rows(canvas))]

    def read_prompt(self, prompt: str) -> tuple[list[int], bool]:
        """The tokens that a prompt takes, BOS included, and whether the space at its end is lent to what follows (docs/api.md)."""
        lent = prompt.endswith(" ") and self._spaces is not None
        return [*self._opening, *self.tokenizer.encode(prompt[:-1] if lent else prompt)], lent

    @overload
    def infill(self, text: str, *, n: Literal[1] = 1, lengths: int | Sequence[int] | Literal["search"] | None = None,
               seed: Seeds = 0, sampler: GivenSampler = None, watch: Callback | None = None, refresh: int = 0,
               **options: Any) -> Completion: ...

    @overload
    def infill(self, text: str, *, n: int, lengths: int | Sequence[int] | Literal["search"] | None = None,
               seed: Seeds = 0, sampler: GivenSampler = None, watch: Callback | None = None, refresh: int = 0,
               **options: Any) -> Completion | list[Completion]: ...

    @overload
    def infill(self, text: list[str], *, lengths: int | Sequence[int] | None = None, seed: Seeds = 0, sampler: GivenSampler = None,
               watch: Callback | None = None, refresh: int = 0, **options: Any) -> list[Completion]: ...

    def infill(self, text: str | list[str], *, n: int = 1, lengths: int | Sequence[int] | Literal["search"] | None = None,
               seed: Seeds = 0, sampler: GivenSampler = None, watch: Callback | None = None, refresh: int = 0,
               **options: Any) -> Completion | list[Completion]:
        """Fill the gaps of a text; what is known comes back unchanged, byte for byte. BOS, EOS and padding fill no gap, whatever the sampler.

        Args:
            text: with `___` where tokens are missing, or `___{12}` for a gap of 12 tokens; or a list of such texts, filled in one batch.
            n: how many ways to fill the gaps of one text, in one batch.
            lengths: tokens of the gaps that do not say: one number, one per gap, or "search": lengths 1 to 16, all gaps alike, decoded in
                one batch and compared by the bound per token of what was filled in.
            seed: one number, or one for each completion.
            sampler, watch, refresh, options: as for `generate`.

        Returns:
            one `Completion`; a list of them if n is above 1 or `text` is a list.

        Raises:
            ValueError: if there is no gap, a gap has no length, the text does not fit, or the model only goes left to right.

        Example:
            >>> import maskless
            >>> network = maskless.build(maskless.PartitionConfig(vocab_size=259, length=32, width=16, heads=2, encoder_layers=1, decoder_layers=1))
            >>> model = maskless.TextModel(network, maskless.load_tokenizer("bytes"))
            >>> model.infill("The ___ sat.", lengths=3).text.endswith(" sat.")
            True
        """
        check_count("n", n, of="texts", most=MOST_TEXTS)
        if isinstance(text, list) and (n > 1 or lengths == "search"):
            raise ValueError(f"a list of texts was given with n {n} and lengths {lengths}; several ways and lengths to search are of one text")
        texts = _one_each("text", text, n)
        read = {each: self._gapped(each, lengths) for each in texts}
        gapped = [read[each] for each in texts]
        layouts = [layout for one in gapped for layout in one.layouts]
        chosen = self._chosen(sampler, options, max(int((~known).sum()) for _, known in layouts), self._specials)
        canvas = self._infill_canvas(layouts)
        if any(any(one.lent) for one in gapped):
            begins = torch.zeros_like(canvas.by_site().known, device="cpu")
            for row, starts in enumerate(starts for one in gapped for starts in one.spaced):
                begins[row, starts] = True
            self._begin_with_space(canvas, begins)
        tries = len(gapped[0].layouts)
        nfe = self._fill(canvas, Noise(seeds_of(seed, len(gapped), tries), self.device), chosen, watch, refresh)
        best = self._likeliest(canvas, layouts, len(gapped)) if tries > 1 else [0] * len(gapped)
        rows = self._rows(canvas)
        found = [self._filled(one, one.spans[each], rows[row * tries + each], nfe) for row, (one, each) in enumerate(zip(gapped, best))]
        return found[0] if isinstance(text, str) and n == 1 else found

    def logprob(self, of: str | Sequence[str], given: str = "___", *, samples: int = 128, seed: int = 0) -> LogProb:
        """log p(of | given), in nats, of the gaps of `given` filled with `of`.

        Args:
            of: the span, or one per gap; taken as it is, `___` too.
            given: a text with a gap for each span; without any gap, a prompt that `of` continues.
            samples: Monte-Carlo draws of the bound, at least 2.
            seed: of these draws.

        Returns:
            a `LogProb` that says whether it is a bound or exact, with its standard error.

        Raises:
            ValueError: if spans and gaps do not match, a span is empty or not of the length that its gap states, or the text does not fit.
        """
        check_count("samples", samples, 2, of="draws (a bound with its error needs two)", most=MOST_DRAWS)
        check_whole("seed", seed)
        seeds_of(seed, 1)                                           # in range
        check_text("given", given)
        said: Any = of
        spans: list[str] = [of] if isinstance(of, str) else list(said) if isinstance(said, Sequence) else [said]
        for span in spans:
            check_text("of", span)
        template = Template.parse(given) if "___" in given else Template((given, ""), (None,))
        if len(spans) != len(template.sizes):
            raise ValueError(f"{len(spans)} spans were given for {len(template.sizes)} gaps; give one span per gap")
        lent = self._lent(template)
        filled = [self._behind_space(span) if space else self.tokenizer.encode(span) for span, space in zip(spans, lent)]
        if empty := [number for number, (span, ids) in enumerate(zip(spans, filled)) if not span or not ids]:
            raise ValueError(f"span {empty[0]} is empty; there is nothing to score")
        for span, ids, size in zip(spans, filled, template.sizes):
            if size not in (None, len(ids)):
                raise ValueError(f"the gap of {span!r} states {size} tokens, and the span has {len(ids)}; write ___, or ___{{{len(ids)}}}")
        tokens, known = self._layout(template.ids(self.tokenizer, lent), [len(ids) for ids in filled])
        target = ~known
        if self.model.left_to_right and bool(target[0]):
            raise ValueError("an autoregressive model without a BOS has no law of the first token; score what follows one (given=)")
        tokens[target] = torch.tensor([id for ids in filled for id in ids])
        if self.model.left_to_right and not bool(target[int(target.long().argmax()):].all()):
            raise ValueError("an autoregressive model scores continuations only, and text follows the span; use a masked or partition model")
        batch = Batch(tokens[None], torch.ones_like(known)[None], known[None])
        return log_prob(self.model, batch, samples=samples, seed=seed, anchor=bool(self._opening))

    def save_pretrained(self, folder: str | Path, *, dtype: torch.dtype = torch.float32) -> Path:
        """Write config.json, model.safetensors and tokenizer.json into a new folder; `maskless.load(folder)` gives the model back.

        Args:
            folder: made if need be; it must not hold a model yet.
            dtype: of the weights in the file; bfloat16 takes half the room.
        """
        from maskless.checkpoints.native import save_model

        return save_model(folder, self.model, tokenizer=self.tokenizer, extra=self.notes, dtype=dtype)

    @staticmethod
    def from_pretrained(source: str | Path, **where: Any) -> TextModel:
        """`maskless.load`, under the name that users of huggingface_hub know.

        Raises:
            ValueError: as `load`; also for a model of images.
        """
        from maskless.api.load import load

        model = load(source, **where)
        if not isinstance(model, TextModel):
            raise ValueError(f"{source} is a model of images; use maskless.load")
        return model

    def push_to_hub(self, repo_id: str, **settings: Any) -> str:
        """Upload what `save_pretrained` writes to a Hugging Face repository (made if need be); returns its address.

        Args:
            repo_id: "organisation/name".
            settings: `private`, `token` and others of `huggingface_hub.HfApi.create_repo`.
        """
        import tempfile

        from huggingface_hub import HfApi

        hub = HfApi(token=settings.pop("token", None))
        address = hub.create_repo(repo_id, exist_ok=True, **settings)
        with tempfile.TemporaryDirectory() as folder:
            hub.upload_folder(repo_id=repo_id, folder_path=self.save_pretrained(Path(folder) / "model"))
        return str(address)

    # -- rows and canvases -------------------------------------------------------------------------------------------------------------------

    @property
    def _opening(self) -> list[int]:
        bos = self.tokenizer.vocabulary.bos
        return [] if bos is None else [bos]

    def _check_length(self, length: int) -> None:
        check_whole("length", length)
        if not 1 <= length <= self.model.config.length:
            raise ValueError(f"length {length} is not in 1..{self.model.config.length}, what the model was made for")

    def _canvas(self, tokens: Tensor, known: Tensor, present: Tensor | None = None) -> Canvas:
        anchor = (torch.arange(tokens.shape[1]) < len(self._opening)).expand_as(tokens)
        return self.model.canvas(tokens, known, present=present, anchor=anchor).to(self.device)

    def _fixed(self, forbid: Sequence[int]) -> dict[str, Any]:
        """What the vocabulary decides about a sampler."""
        vocabulary = self.tokenizer.vocabulary
        return {"eos": vocabulary.eos, "forbid": tuple(sorted({*forbid, *vocabulary.forbidden}))}

    def _chosen(self, sampler: GivenSampler, options: dict[str, Any], sites: int, forbid: Sequence[int]) -> Sampler | Speculative:
        """The sampler that was given, or that of named options, for canvases with so many open sites."""
        fixed = self._fixed(forbid)
        return self._own(sampler, options, sites, **fixed) or self._sampler(options, sites, **fixed)

    @property
    def _specials(self) -> list[int]:
        """Ids that never fill a gap."""
        vocabulary = self.tokenizer.vocabulary
        return sorted({id for id in (vocabulary.bos, vocabulary.eos, vocabulary.pad) if id is not None})

    # A tokenizer that joins a space to the word behind it has hardly a space by itself in what a model was trained on. So a space before a gap is
    # lent to the gap: its first token is one that begins with a space, which is taken off the gap's text again.

    @cached_property
    def _spaces(self) -> Tensor | None:
        """(V,) the tokens that begin with a space behind another; None where no token is a space with more behind it."""
        read, ids = self.tokenizer.decode_bytes, range(self.tokenizer.vocabulary.size)
        left = next((id for id in ids if read([id]).strip()), 0)
        pieces = [read([left, id]).removeprefix(read([left])) for id in ids]
        if not any(piece.startswith(b" ") and piece.strip() for piece in pieces):
            return None
        found = torch.zeros(self.model.vocab_size, dtype=torch.bool)
        found[:len(pieces)] = torch.tensor([piece.startswith(b" ") for piece in pieces])
        return found

    def _begin_with_space(self, canvas: Canvas, where: Tensor) -> None:
        assert self._spaces is not None
        canvas.limit(where.to(self.device), self._spaces.to(self.device))

    def _lent(self, template: Template) -> tuple[bool, ...]:
        """Which gaps begin with the space that stands before them."""
        return tuple(space and self._spaces is not None for space in template.spaced)

    def _behind_space(self, span: str) -> list[int]:
        """The ids of a span with the space before it; some tokenizers begin every text with one."""
        ids = self.tokenizer.encode(span)
        begun = bool(ids) and not span.startswith(" ") and self._spaces is not None and bool(self._spaces[ids[0]])
        return ids if begun else self.tokenizer.encode(f" {span}")

    def _continued(self, prompt: str, row: Sequence[int], ids: Sequence[int]) -> str:
        """A prompt, whose row begins with BOS, and what was generated behind it."""
        script = Script(self.tokenizer, self._opening)
        script.write(prompt, row[len(self._opening):])
        script.read(ids)
        return script.text

    def _gapped(self, text: str, lengths: int | Sequence[int] | Literal["search"] | None) -> Gapped:
        template = Template.parse(text)
        lent = self._lent(template)
        pieces = template.ids(self.tokenizer, lent)
        if isinstance(lengths, str) and lengths == "search":
            wanted = [template.lengths(None)] if all(template.sizes) else self._searched(template, pieces)
        else:
            wanted = [template.lengths(lengths)]
        spans = [_gap_spans(pieces, each, len(self._opening)) for each in wanted]
        return Gapped(template.pieces, pieces, lent, [self._layout(pieces, each) for each in wanted], spans)

    def _filled(self, gapped: Gapped, spans: Sequence[tuple[int, int]], row: Sequence[int], nfe: int) -> Completion:
        """A template's texts, with their ids, and the gaps of a row between them."""
        script, gaps = Script(self.tokenizer, self._opening), []
        for text, ids, span in zip_longest(gapped.texts, gapped.pieces, spans):
            script.write(text, ids)
            gaps += [] if span is None else [script.read(row[slice(*span)])]
        return Completion(script.text, tuple(gaps), tuple(row), nfe)

    def _rows(self, canvas: Canvas) -> list[list[int]]:
        tokens, _, present = (x.cpu() for x in canvas.by_site())
        return [row[here].tolist() for row, here in zip(tokens, present)]

    def _layout(self, pieces: Sequence[Sequence[int]], lengths: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Tokens (L,) and known (L,) of a template's pieces with gaps of the given lengths."""
        taken = len(self._opening) + sum(map(len, pieces)) + sum(lengths)
        if taken > self.model.config.length:
            raise ValueError(f"the text with its gaps takes {taken} sites, the model has {self.model.config.length}; shorten it")
        tokens, known = list(self._opening), [True] * len(self._opening)
        for ids, gap in zip(pieces, [*lengths, 0]):
            tokens += [*ids, *[self.tokenizer.vocabulary.filler] * gap]
            known += [True] * len(ids) + [False] * gap
        return torch.tensor(tokens), torch.tensor(known)

    def _infill_canvas(self, layouts: Sequence[tuple[Tensor, Tensor]]) -> Canvas:
        longest = max(len(tokens) for tokens, _ in layouts)
        tokens = torch.full((len(layouts), longest), self.tokenizer.vocabulary.filler)
        known = torch.zeros(len(layouts), longest, dtype=torch.bool)
        for row, (ids, seen) in enumerate(layouts):
            tokens[row, :len(ids)], known[row, :len(ids)] = ids, seen
        present = torch.arange(longest) < torch.tensor([len(ids) for ids, _ in layouts])[:, None]
        return self._canvas(tokens, known, present)

    def _searched(self, template: Template, pieces: Sequence[Sequence[int]]) -> list[list[int]]:
        taken = len(self._opening) + sum(map(len, pieces))
        room = [length for length in SEARCHED if taken + sum(template.lengths(length)) <= self.model.config.length]
        if not room:
            least = taken + sum(template.lengths(1))
            raise ValueError(f"the text with its gaps takes at least {least} of {self.model.config.length} sites; shorten it")
        return [template.lengths(length) for length in room]

    def _likeliest(self, canvas: Canvas, layouts: Sequence[tuple[Tensor, Tensor]], n: int) -> list[int]:
        """Of each n-th part of the rows, the one whose filled gaps have the best bound per token."""
        known = torch.nn.utils.rnn.pad_sequence([seen for _, seen in layouts], batch_first=True)
        tokens, _, present = (x.cpu() for x in canvas.by_site())
        batch = Batch(tokens, present, known & present)
        bounds = conditional_bounds(self.model, batch, samples=32, anchor=bool(self._opening)).mean(1) / batch.targets.sum(1)
        return bounds.view(n, -1).argmax(1).tolist()


def _gap_spans(pieces: Sequence[Sequence[int]], lengths: Sequence[int], start: int) -> list[tuple[int, int]]:
    spans, at = [], start
    for ids, gap in zip(pieces, lengths):
        at += len(ids)
        spans.append((at, at + gap))
        at += gap
    return spans


def _one_each(name: str, given: str | list[str], n: int) -> list[str]:
    """A text for each of n rows: the same, or a list of them.

    Raises:
        ValueError: if one is no text, there is none, or there are not as many as rows.
    """
    texts = [given] * n if isinstance(given, str) else given
    if not isinstance(texts, list):
        raise ValueError(f"{name} is {texts!r}; give a text, or a list of texts")
    if len(texts) != n and (n > 1 or not texts):
        raise ValueError(f"{len(texts)} texts were given as {name} for {n} rows; give one for each, or one for all")
    for text in texts:
        check_text(name, text)
    return texts
