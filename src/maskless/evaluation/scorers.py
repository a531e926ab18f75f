"""Language models that judge texts: an autoregressive checkpoint of this library, or any causal model of `transformers`.

B texts, L tokens, V vocabulary of the scorer.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from maskless.checkpoints.native import load_model, resolve
from maskless.checkpoints.source import is_native
from maskless.data.batch import Batch
from maskless.data.tokenizer import Tokenizer
from maskless.evaluation.micro import micro_batches, micro_rows
from maskless.evaluation.results import Named, digest_of, hash_of
from maskless.objectives import Autoregressive, Draws
from maskless.places import local

CHUNK = 1 << 22                                                     # logits that are normalised at once


@runtime_checkable
class Scorer(Protocol):
    """A language model that reads from left to right.

    Attributes:
        named: its name and the hash of its weights.
        window: tokens that it can read at once.
        eos: the id that ends a document.
        tokenizer_hash: of what its ids mean; None where it always reads texts.
    """

    named: Named
    window: int
    eos: int | None
    tokenizer_hash: str | None

    def encode(self, text: str) -> list[int]:
        """Ids of a text, no specials added."""
        ...

    @property
    def opening(self) -> list[int]:
        """What stands in front of every text."""
        ...

    def nll(self, tokens: Int[Tensor, "B L"], valid: Bool[Tensor, "B L"]) -> Float[Tensor, "B L"]:
        """-log p(token | those before it) in float64, on the CPU; 0 for the first token and where there is none."""
        ...

    def features(self, tokens: Int[Tensor, "B L"], valid: Bool[Tensor, "B L"]) -> Float[Tensor, "B F"]:
        """The last hidden state of each text's last token, on the CPU: what MAUVE compares."""
        ...


def open_scorer(source: str, device: torch.device) -> Scorer:
    """A scorer by the path of a checkpoint of this library, or by a Hugging Face name or folder.

    Raises:
        ValueError: it cannot be had, or does not read from left to right.
    """
    if is_native(local(source)):
        return OwnScorer(source, device)
    return CausalLM(source, device)


class OwnScorer:
    """An autoregressive model of this library, in float32."""

    def __init__(self, source: str, device: torch.device) -> None:
        model, tokenizer = load_model(source)
        if not model.left_to_right or not isinstance(tokenizer, Tokenizer):
            raise ValueError(f"the scorer {source} does not read text from left to right; give an autoregressive model of text")
        folder = resolve(source)
        file = next(path for path in (folder / "ema.safetensors", folder / "model.safetensors") if path.exists())
        self.model, self.tokenizer, self.device = model.to(device), tokenizer, device
        self.named, self.window = Named(Path(source).name, hash_of(file)), model.config.length
        self.eos = tokenizer.vocabulary.eos
        self.tokenizer_hash: str | None = tokenizer.hash

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text)

    @property
    def opening(self) -> list[int]:
        bos = self.tokenizer.vocabulary.bos
        return [] if bos is None else [bos]

    @torch.inference_mode()
    def nll(self, tokens: Int[Tensor, "B L"], valid: Bool[Tensor, "B L"]) -> Float[Tensor, "B L"]:
        batch = Batch(tokens, valid, torch.zeros_like(valid)).to(self.device)
        nothing = Draws(torch.zeros(len(tokens), device=self.device), torch.zeros(tokens.shape, device=self.device))
        return Autoregressive()(self.model, batch, nothing).token_loss.double().cpu()

    @torch.inference_mode()
    def features(self, tokens: Int[Tensor, "B L"], valid: Bool[Tensor, "B L"]) -> Float[Tensor, "B F"]:
        return _last(self.model.hidden(tokens.to(self.device), torch.ones_like(valid, device=self.device)).cpu(), valid)


class CausalLM:
    """A causal language model of `transformers`, in float32.

    Raises:
        ValueError: nothing that opens, weights that are not all there, a tokenizer that does not fit, a model that reads both ways.
    """

    def __init__(self, source: str, device: torch.device) -> None:
        try:
            from transformers import AutoModelForCausalLM, AutoTokenizer
        except ImportError:
            raise ValueError(f"the scorer {source} is no checkpoint of this library, and `transformers`, which could open it, is not installed; "
                             "install it (the extra hf), or give an autoregressive checkpoint") from None
        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(source)
            model, report = AutoModelForCausalLM.from_pretrained(source, output_loading_info=True)
        except Exception as error:                                  # what is raised for files that are not there, or damaged, is open-ended
            reason = (str(error).strip().splitlines() or ["no reason given"])[0]
            raise ValueError(f"the scorer {source} could not be opened by transformers ({reason}); "
                             "give a folder or a Hub name, or go online") from None
        if report["missing_keys"]:
            raise ValueError(f"the scorer {source} lacks weights ({', '.join(sorted(report['missing_keys'])[:3])}), which would be random; "
                             "get its files again")
        self.device, self.model = device, model.float().to(device).eval()
        self._check(source)
        self.tokenizer_hash: str | None = None
        local = Path(source).is_absolute() or Path(source).exists()
        self.named = Named(Path(source).name if local else source, digest_of(self.model))
        self.window = int(getattr(self.model.config, "max_position_embeddings", None) or getattr(self.model.config, "n_positions", 1024))
        self.eos = self.tokenizer.eos_token_id

    def _check(self, source: str) -> None:
        """Whether the tokenizer is the model's, and the model reads from left to right."""
        rows, tokens = self.model.get_input_embeddings().num_embeddings, len(self.tokenizer)
        if not self.encode("a") or tokens > rows:
            raise ValueError(f"the tokenizer of the scorer {source} has {tokens} tokens and its model {rows}, or it can write nothing; "
                             "put the model's own tokenizer into its folder")
        ids = torch.tensor([[0, 1, 2, 3], [0, 1, 2, 4]], device=self.device) % rows
        with torch.inference_mode():
            one, other = self.model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[:, :3]
        if not torch.allclose(one, other, rtol=1e-4, atol=1e-4, equal_nan=True):
            raise ValueError(f"the scorer {source} reads later tokens as well, so its nats are no likelihood; give a causal language model")

    def encode(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False))

    @property
    def opening(self) -> list[int]:
        first = self.tokenizer.bos_token_id if self.tokenizer.bos_token_id is not None else self.eos
        return [] if first is None else [first]

    @torch.inference_mode()
    def nll(self, tokens: Int[Tensor, "B L"], valid: Bool[Tensor, "B L"]) -> Float[Tensor, "B L"]:
        ids = tokens.to(self.device)
        logits = self.model(input_ids=ids, attention_mask=valid.to(self.device).long()).logits[:, :-1]       # padding is on the right
        found = torch.zeros(tokens.shape, dtype=torch.float64)
        size = max(1, CHUNK // logits.shape[-1])
        for start in range(0, logits.shape[1], size):
            piece = logits[:, start:start + size].float().log_softmax(-1)
            after = ids[:, start + 1:start + 1 + piece.shape[1], None]
            found[:, start + 1:start + 1 + piece.shape[1]] = -piece.gather(-1, after)[..., 0].double().cpu()
        return torch.where(valid, found, 0.0)

    @torch.inference_mode()
    def features(self, tokens: Int[Tensor, "B L"], valid: Bool[Tensor, "B L"]) -> Float[Tensor, "B F"]:
        ids, there = tokens.to(self.device), valid.to(self.device).long()
        return _last(self.model(input_ids=ids, attention_mask=there, output_hidden_states=True).hidden_states[-1].cpu(), valid)


def _last(hidden: Float[Tensor, "B L F"], valid: Bool[Tensor, "B L"]) -> Float[Tensor, "B F"]:
    return hidden[torch.arange(len(hidden)), valid.sum(1) - 1]


Read = tuple[Int[Tensor, "N W"], Bool[Tensor, "N W"]]
"""Tokens of texts, and which of them there are."""


def table(texts: Sequence[Sequence[int]], window: int) -> Read:
    """Texts side by side; longer ones than `window` lose their end.

    Args:
        texts: ids of every text, its opening included.

    Raises:
        ValueError: no text of two tokens.
    """
    width = min(window, max((len(text) for text in texts), default=0))
    if width < 2:
        raise ValueError(f"{len(texts)} samples of at most {width} tokens leave the scorer nothing to predict; give texts of 2 tokens or more")
    tokens, valid = torch.zeros(len(texts), width, dtype=torch.int64), torch.zeros(len(texts), width, dtype=torch.bool)
    for row, text in enumerate(texts):
        kept = torch.tensor(text[:width], dtype=torch.int64)
        tokens[row, :len(kept)], valid[row, :len(kept)] = kept, True
    return tokens, valid


def in_micro_batches(read: Callable[[Tensor, Tensor], Tensor], texts: Read, name: str) -> Tensor:
    """`nll` or `features` of a scorer for all texts, read in micro-batches of one shape.

    Raises:
        ValueError: numbers that are not finite.
    """
    tokens, valid = texts
    batches = [Batch(tokens, valid, torch.zeros_like(valid))]
    found = torch.cat([read(cut.tokens, cut.valid)[:real] for cut, real in micro_batches(batches, micro_rows(tokens.shape[1]))])
    if not bool(found.isfinite().all()):
        bad = int((~found.isfinite()).any(1).sum())
        raise ValueError(f"the scorer {name} gave numbers that are not finite for {bad} of {len(tokens)} samples; look at its weights")
    return found
