"""The order-causal partition transformer: what is encoded stays encoded, in any order (exact KV cache for partition models).

Sites become known in some order, the log. A token looks only at tokens that became known no later than itself, so a later token
changes nothing that was computed before: keys and values are kept. Sites `b d | a c` became known in two commits:

                      token-causal      set-causal         the query of a site looks
    encoder            b  d  a  c       b  d  a  c         at earlier commits:    b  d  a  c
                    b  x  .  .  .    b  x  x  .  .                             b  .  .  .  .
                    d  x  x  .  .    d  x  x  .  .                             d  .  .  .  .
                    a  x  x  x  .    a  x  x  x  x                             a  x  x  .  .
                    c  x  x  x  x    c  x  x  x  x                             c  x  x  .  .

Registers of group 0 are the first entries of every log, in the cache from the start, a commit of their own; those of group 1 are not used.

B rows, L sites, W fresh tokens, N known tokens, Q queried sites, h heads, d head width, D width, E and M encoder and decoder layers.
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from maskless.decoding.canvas import Canvas, Sites
from maskless.decoding.decode import Predictor
from maskless.decoding.plan import Step
from maskless.layers.attention import Attend, Masked, before, causal, everywhere, span
from maskless.layers.groups import Grouping, dense
from maskless.layers.modulation import Condition
from maskless.layers.packed import linear_map
from maskless.layers.rotary import Rotation
from maskless.models.base import Conditions, on_rows, pick_rows
from maskless.models.partition import GroupSwap, PartitionConfig, PartitionTransformer


@dataclass(frozen=True)
class CausalPartitionConfig(PartitionConfig):
    """Sizes of a `CausalPartitionTransformer`: those of a `PartitionTransformer`, whose weights it can take over.

    Args:
        causal: what tokens of one commit see of each other: "token": the earlier ones; "set": all.
        prompt: in which order a token-causal model logs a prompt: "random" (seeded), or "reading" if it was trained with left-to-right orders.

    Raises:
        ValueError: for a time-conditioned model, when built: its cached states would be of other times; for decoders with self-attention, in
            which a query would look at queries that are asked at other times.

    Example:
        >>> from maskless.models import build
        >>> config = CausalPartitionConfig(vocab_size=11, length=12, width=8, heads=2, encoder_layers=1, decoder_layers=1)
        >>> build(config).config.causal
        'token'
    """

    causal: Literal["token", "set"] = "token"
    prompt: Literal["random", "reading"] = "random"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.self_layers:
            raise ValueError(f"self_layers is {list(self.self_layers)}, and the queries of an order-causal model do not see each other; unset it")


class CausalPartitionTransformer(PartitionTransformer):
    """p(x_i | what became known before), each token through the network once in a whole generation.

    Two training signatures: `hidden` splits known | unknown as the parent does (everything known is one commit: the quality mode), and
    `hidden_in_order` predicts every entry of a log from earlier commits, in one pass. Two ways of decoding: `predictor` keeps keys and
    values, `reencoding` encodes everything known afresh every few calls.

    Initialisation is the parent's.
    """

    config: CausalPartitionConfig

    def __init__(self, config: CausalPartitionConfig):
        if config.time_conditioned:
            raise ValueError("time_conditioned is set, and an order-causal model keeps what it encoded at earlier times; unset it")
        super().__init__(config)

    @property
    def packed_registers(self) -> int:
        """None: they are in the cache from the start."""
        return 0

    @property
    def shuffle_prompt(self) -> bool:
        return self.config.causal == "token" and self.config.prompt == "random"

    def hidden_in_order(self, tokens: Int[Tensor, "B L"], log: Int[Tensor, "B L"], commits: Int[Tensor, "#B L"] | None = None, *,
                        cond: Int[Tensor, " B"] | None = None) -> Float[Tensor, "B L D"]:
        """The states of log entries: entry r predicts the token at site log[:, r] from the tokens of earlier commits.

        Args:
            tokens: ids, by site.
            log: a permutation of the sites of every row; absent sites last, where nothing present sees them.
            commits: the commit of every entry, never falling along the log; None: each entry is a commit of its own (no masks at all).
            cond: labels, as for `hidden`.
        """
        condition = self.condition_at(None, cond)
        ids, places, commits = self.entries(tokens.gather(1, log), log, commits)
        encoding, querying = self.rules(commits)
        rotate = self.rotation(log.shape[1]).at(places)
        memory = self.encode(ids, rotate, condition, encoding)
        starts = self.swap.starts(self.positions(log.shape[1]))[places]
        if self.swap.reads_memory:
            starts = starts + summaries_before(self.swap, memory, commits)
        y = self.swap(self.swap.queries(starts, rotate), self.swap.keys_values(memory, rotate), querying)
        looks = [(keys_values, querying) for keys_values in self.keys_values(memory, rotate)]
        return self.final(self.decode(y, rotate, condition, looks), condition)[:, self.ahead:]

    @property
    def ahead(self) -> int:
        """How many registers, all of group 0, come before the entries of a log."""
        return self.config.registers // 2

    def entries(self, tokens: Int[Tensor, "B L"], log: Int[Tensor, "B L"],
                commits: Int[Tensor, "#B L"] | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Ids, positions and commits of the registers of group 0 and then of the entries of a log."""
        if self.ahead == 0:
            return tokens, log, commits
        own = torch.arange(-self.ahead, 0, device=log.device).expand(len(log), -1)
        if commits is None and self.ahead > 1 and self.config.causal == "set":                  # registers see each other
            commits = torch.arange(log.shape[1], device=log.device)[None]
        commits = None if commits is None else torch.cat([commits[:, :1].clamp(max=0).expand(-1, self.ahead) - 1, commits], 1)
        return torch.cat([own, tokens], 1), torch.cat([own, log], 1) + self.config.registers, commits

    def hidden_of_groups(self, tokens: Int[Tensor, "B L"], known: Bool[Tensor, "B L"], log: Int[Tensor, "B L"], *,
                         cond: Int[Tensor, " B"] | None = None, present: Bool[Tensor, "B L"] | None = None,
                         grouping: Grouping = dense) -> Float[Tensor, "B L D"]:
        """Both sides of the split `known` | not `known` from each other, by site; a token looks at its own group no later in `log` than itself."""
        return self.states(tokens, known, self.condition_at(None, cond), present, grouping, log)

    def rules(self, commits: Int[Tensor, "#B L"] | None) -> tuple[Attend, Attend]:
        """Whom a token looks at in the encoder, and whom its query looks at."""
        if commits is None:
            return causal, before
        own, other = commits[:, None, :, None], commits[:, None, None]
        return causal if self.config.causal == "token" else Masked(other <= own), Masked(other < own)

    def predictor(self, cond: Int[Tensor, " B"] | None = None) -> Predictor:
        return CachedPredictor(self, cond)

    def verifier(self, cond: Int[Tensor, " B"] | None = None) -> CachedPredictor:
        """The predictor as speculation needs it (`decoding/speculate.py`)."""
        if self.config.causal != "token":
            raise ValueError(f"causal is {self.config.causal}: drafts would see each other; speculation needs a token-causal model (causal: token)")
        return CachedPredictor(self, cond)

    def full_predictor(self, cond: Int[Tensor, " B"] | None = None) -> Predictor:
        """The training pass over the log, without a cache: the reference that `predictor` equals."""
        return InOrderPredictor(self, cond)

    def reencoding(self, every: int = 1) -> Reencoding:
        """The model with everything known encoded afresh, as one bidirectional commit, every so many calls."""
        return Reencoding(self, every)


def summaries_before(swap: GroupSwap, memory: Float[Tensor, "B L D"], commits: Int[Tensor, "#B L"] | None) -> Float[Tensor, "B L D"]:
    """For every log entry, mean or logsumexp of the encoder outputs of earlier commits; zeros where there are none."""
    length = memory.shape[1]
    entry = torch.arange(length, device=memory.device)
    seen = entry[None] if commits is None else torch.searchsorted(commits.contiguous(), commits.contiguous())
    if swap.query == "mean":
        upto = memory.cumsum(1) / (entry + 1)[:, None]
    else:
        upto = memory.logcumsumexp(1)
    upto = F.pad(upto, (0, 0, 1, 0))                                # entry n: of the first n
    return upto.gather(1, seen.expand(len(memory), -1)[..., None].expand(-1, -1, memory.shape[-1]))


class InOrderPredictor:
    """Queries by `hidden_in_order`: known sites in the order of the log, then the unknown ones as one last commit."""

    def __init__(self, model: CausalPartitionTransformer, cond: Int[Tensor, " B"] | None = None):
        self.model, self.head, self.allowed, self.labels = model, model.head, model.allowed, model.labels_of(cond)

    def __call__(self, canvas: Canvas, sites: Sites, step: Step) -> Float[Tensor, "B Q D"]:
        entry = torch.arange(canvas.length, device=canvas.count.device).expand(canvas.rows, -1)
        logged = entry < canvas.count[:, None]
        last = torch.full_like(entry, canvas.commits + 1)
        rank = torch.full_like(canvas._log, canvas.length).scatter(1, torch.where(logged, canvas.log, canvas.length), entry)[:, :-1]
        log = (rank + canvas.length * (~canvas.present).long()).argsort(dim=1, stable=True)
        states = self.model.hidden_in_order(canvas.tokens, log, torch.where(logged, canvas.born, last), cond=self.labels)
        return sites.take(torch.zeros_like(states).scatter(1, log[..., None].expand_as(states), states))


class CachedPredictor:
    """Every known token passes the encoder once, and its keys and values for all layers are kept, in log order, rotated by its position.

    Buffers are (layers, B, h, ahead + L + 1, d), made once; what is not valid goes to the last column. Entries are the registers of group 0
    (`ahead` of them), then the log. Rows may know different numbers of sites: every row has its own cursor, and the host's bounds on the
    counts give the width of what is fresh.

    Args:
        cond: labels (B,).
        refresh: encode everything known afresh, as one bidirectional commit, at every `refresh`-th call and after sites were forgotten;
            0: never.
    """

    def __init__(self, model: CausalPartitionTransformer, cond: Int[Tensor, " B"] | None = None, *, refresh: int = 0):
        self.model, self.head, self.allowed, self.refresh = model, model.head, model.allowed, refresh
        self.labels, self.ahead, self.first = model.labels_of(cond), model.ahead, model.config.registers
        self.calls = 0

    # -- opening ------------------------------------------------------------------------------------------------------------------------------

    def _open(self, canvas: Canvas) -> None:
        model, config = self.model, self.model.config
        model.check_canvas(canvas)
        like, width = model.embedding.weight, config.width // config.heads

        def buffers(layers: int) -> tuple[Tensor, Tensor]:
            shape = (layers, canvas.rows, config.heads, self.ahead + canvas.length + 1, width)
            return like.new_zeros(shape), like.new_zeros(shape)

        self.encoder = buffers(config.encoder_layers)
        self.decoder = buffers(config.decoder_layers + 1)                                       # the swap's come last
        self.rotations = model.rotation(canvas.length)
        self.starts = model.swap.starts(model.positions(canvas.length))                         # (R + L, D)
        self.queries = None if model.swap.reads_memory else model.swap.queries(self.starts[None], self.rotations)[0].transpose(0, 1)
        together = torch.cat([layer.attention.kv.weight * layer.norm_kv.weight for layer in model.decoder])
        self.kv = linear_map(together, like=model.decoder[0].attention.kv)                      # D -> M * 2D
        self.conditions: Callable[[Tensor | None], Condition | None] = Conditions(lambda labels: model.condition_at(None, labels), self.labels)
        self._restart(canvas)
        self.revision = canvas.revision

    def _restart(self, canvas: Canvas) -> None:
        self.seen = torch.zeros_like(canvas.count)                                              # (B,) entries in the cache
        self.passed, self.reached = [0] * canvas.rows, [0] * canvas.rows                        # bounds of it on the host
        self.commits = -1                                                                       # made when it last looked
        wide = torch.promote_types(self.starts.dtype, torch.float32)                            # a sum of many in bfloat16 stops growing
        self.summary = self.starts.new_full((canvas.rows, self.starts.shape[-1]), self._nothing, dtype=wide)

    def _follow(self, canvas: Canvas) -> bool:
        """Drop what was computed from sites that were forgotten since the last look, all from the first of them on; False if there were none."""
        if canvas.revision == self.revision:
            return False
        if self.model.swap.reads_memory:
            self._restart(canvas)                                                               # a running summary cannot be cut back
        for kept in canvas.intact[self.revision:]:
            stays = [self.ahead + n for n in (kept.entries if self.model.config.causal == "token" else kept.commits)]
            self.seen = torch.minimum(self.seen, torch.tensor(stays, device=self.seen.device))
            self.passed = [min(pair) for pair in zip(self.passed, stays)]
            self.reached = [min(pair) for pair in zip(self.reached, stays)]
        self.revision, self.commits = canvas.revision, -1                                       # what is fresh may be of any commit
        return True

    # -- a call -------------------------------------------------------------------------------------------------------------------------------

    def __call__(self, canvas: Canvas, sites: Sites, step: Step) -> Float[Tensor, "B Q D"]:
        if self.calls == 0:
            self._open(canvas)
        forgot = self._follow(canvas)                               # and what was encoded as one commit has looked at what went
        afresh = self.refresh > 0 and (forgot or self.calls % self.refresh == 0)
        if afresh:
            self._restart(canvas)
        self.calls += 1
        self.append(canvas, one_commit=afresh)
        return on_rows(step, canvas, sites, lambda rows: self.decode(canvas, sites, rows))

    def append(self, canvas: Canvas, *, one_commit: bool = False) -> None:
        """Encode the entries that are not in the cache yet, and keep their keys and values for encoder, swap and decoder."""
        width = self.ahead + max(high - low for high, low in zip(canvas.greatest, self.passed))
        if width < 1:
            return
        place = self.seen[:, None] + torch.arange(width, device=self.seen.device)              # (B, W)
        fresh = place < self.ahead + canvas.count[:, None]
        where = self._place(place, fresh, self._cursor(canvas), self._end(canvas))
        ids, positions = self._entries(canvas, place)
        attend = self._rule(canvas, where, one_commit)
        x = self._encode(ids, self.rotations.at(positions), where, attend)
        if self.model.swap.reads_memory:
            self.summary = self._running(x.masked_fill(~fresh[..., None], self._nothing), self.summary)[:, -1]
        self._seen(canvas)

    def _seen(self, canvas: Canvas) -> None:
        """Note that all that is known is in the cache."""
        self.seen = self.ahead + canvas.count
        self.passed, self.reached = ([self.ahead + n for n in bound] for bound in (canvas.least, canvas.greatest))
        self.commits = canvas.commits

    def _end(self, canvas: Canvas) -> int:
        """How many entries any row has; 1 where none has one, which is then not seen."""
        return max(1, self.ahead + canvas.most)

    def _place(self, index: Tensor, fresh: Tensor, start: int | None, end: int) -> Place:
        return Place(index, fresh, start, end, span(end, self.encoder[0].shape[-2] - 1, self.encoder[0]))

    def _entries(self, canvas: Canvas, place: Int[Tensor, "B W"]) -> tuple[Tensor, Tensor]:
        """Ids and positions of the entries at `place`."""
        entry = place - self.ahead
        log = canvas.log.gather(1, entry.clamp(0, canvas.length - 1))
        ids = canvas.tokens.gather(1, log)
        if self.ahead == 0:
            return ids, log
        return torch.where(entry < 0, entry, ids), self.first + torch.where(entry < 0, entry, log)

    def _cursor(self, canvas: Canvas) -> int | None:
        """The cursor of all rows, where the host knows that they agree, and agree on what is known."""
        ends, cursors = {*canvas.least, *canvas.greatest}, {*self.passed, *self.reached}
        return min(cursors) if len(ends) == len(cursors) == 1 else None

    def _rule(self, canvas: Canvas, where: Place, one_commit: bool) -> Attend:
        """Whom the fresh tokens look at among entries 0..span-1."""
        entry, place, width = torch.arange(where.span, device=self.seen.device), where.index, where.index.shape[1]
        token = self.model.config.causal == "token" and not one_commit
        if where.start is not None and where.span == where.end and (width == 1 or one_commit or (not token and canvas.commits == self.commits + 1)):
            return everywhere
        if token:
            alike = len({*self.passed, *self.reached}) == 1
            return Masked((entry <= (place[:1] if alike else place)[..., None])[:, None], blind=False)
        known = entry < self.ahead + canvas.count[:, None]
        if one_commit:
            return Masked(known[:, None, None])
        born = F.pad(canvas.born, (self.ahead, 0), value=-1)                                   # the registers are the first commit
        mine = born.gather(1, place.clamp(max=self.ahead + canvas.length - 1))
        return Masked(((born[:, None, :where.span] <= mine[..., None]) & known[:, None])[:, None])

    def _encode(self, ids: Int[Tensor, "B W"], rotate: Rotation, where: Place, attend: Attend) -> Float[Tensor, "B W D"]:
        """Pass tokens and registers through the encoder, and keep their keys and values for all layers."""
        x, condition = self.model.embed(ids), self.conditions(None)
        for index, block in enumerate(self.model.encoder):
            x = block(x, condition, rotate, where.attention(self.encoder[0][index], self.encoder[1][index], attend))
        self._remember(x, rotate, where)
        return x

    def _remember(self, memory: Float[Tensor, "B W D"], rotate: Rotation, where: Place) -> None:
        """Keys and values of all decoder layers in one product; the norm they share is applied once, its weights are in the product."""
        kv = self.kv(F.layer_norm(memory, memory.shape[-1:], eps=1e-5))
        k, v = kv.unflatten(-1, (len(self.model.decoder), 2, self.model.config.heads, -1)).permute(3, 2, 0, 4, 1, 5)     # (M, B, h, W, d) each
        for buffer, of_layers, of_swap in zip(self.decoder, (rotate(k), v), self.model.swap.keys_values(memory, rotate)):
            where.write(buffer[:-1], of_layers)
            where.write(buffer[-1], of_swap)

    @property
    def _nothing(self) -> float:
        """What changes no running sum (of values, or of exponentials)."""
        return 0.0 if self.model.swap.query == "mean" else -torch.inf

    def _running(self, memory: Float[Tensor, "B W D"], summary: Float[Tensor, "B D"]) -> Float[Tensor, "B W1 D"]:
        """The summary of the cache, and with one more, two more, ... of these encoder outputs."""
        states = torch.cat([summary[:, None], memory.to(summary)], 1)
        return states.cumsum(1) if self.model.swap.query == "mean" else states.logcumsumexp(1)

    # -- queries ------------------------------------------------------------------------------------------------------------------------------

    def decode(self, canvas: Canvas, sites: Sites, rows: Tensor | None) -> Float[Tensor, "R Q D"]:
        """The states of the queried sites over everything in the cache."""
        known = self.ahead + pick_rows(canvas.count, rows)
        memory = self._decoded(span(self._end(canvas), self.decoder[0].shape[-2] - 1, self.decoder[0]), rows)
        entry = torch.arange(memory[0].shape[-2], device=known.device)
        fewest = self.ahead + canvas.fewest
        attend = everywhere if fewest == len(entry) else Masked((entry < known[:, None])[:, None, None], blind=fewest == 0)
        of_rows = (memory, pick_rows(self.summary, rows)[:, None], known[:, None], rows if self.labels is not None else None)
        return self._answer(pick_rows(sites.index, rows), attend, *of_rows)

    def _decoded(self, end: int, rows: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The keys and values (M + 1, R, h, end, d) that queries look at."""
        keys, values = (buffer[..., :end, :] if rows is None else buffer[..., :end, :].index_select(1, rows) for buffer in self.decoder)
        return keys, values

    def _answer(self, sites: Int[Tensor, "R Q"], attend: Attend, memory: tuple[Tensor, Tensor], summary: Float[Tensor, "R _ D"],
                known: Int[Tensor, "R _"], rows: Tensor | None = None) -> Float[Tensor, "R Q D"]:
        model, positions = self.model, self.first + sites
        looks = [(keys_values, attend) for keys_values in zip(*memory)]
        rotate, condition = self.rotations.at(positions), self.conditions(rows)
        y = model.swap(self._queries(positions, summary, known, rotate), *looks[-1])
        return model.final(model.decode(y, rotate, condition, looks[:-1]), condition)

    def _queries(self, query: Tensor, summary: Tensor, known: Tensor, rotate: Rotation) -> Float[Tensor, "R h Q d"]:
        if self.queries is not None:
            return self.queries[query].transpose(1, 2)
        if self.model.swap.query == "mean":
            summary = summary / known.clamp(min=1)[..., None]
        start = self.starts[query]
        return self.model.swap.queries(start + summary.masked_fill(known[..., None] == 0, 0.0).to(start), rotate)

    # -- speculation --------------------------------------------------------------------------------------------------------------------------

    def verify(self, canvas: Canvas, sites: Sites, tokens: Int[Tensor, "B K"]) -> Float[Tensor, "B K1 D"]:
        """States of K + 1 sites, query j over what is known and `tokens` at sites 0..j-1, which enter the cache but not the canvas."""
        drafts, seen = sites.index[:, :-1], self.seen[:, None]
        place = seen + torch.arange(tokens.shape[1], device=seen.device)
        end = min(self.ahead + canvas.length, self._end(canvas) + tokens.shape[1])
        where = self._place(place, sites.valid[:, :-1], None, end)
        entry = torch.arange(where.span, device=seen.device)
        x = self._encode(tokens, self.rotations.at(self.first + drafts), where, Masked((entry <= place[..., None])[:, None], blind=False))
        self.running = self._running(x, self.summary) if self.model.swap.reads_memory else self.summary[:, None]
        known = seen + torch.arange(tokens.shape[1] + 1, device=seen.device)
        memory = self._decoded(where.span)
        return self._answer(sites.index, Masked((entry < known[..., None])[:, None]), memory, self.running, known)

    def settle(self, canvas: Canvas) -> None:
        """Keep of the verified tokens those the canvas has committed, but for each row's newest, which may not be the one drafted."""
        kept = torch.maximum(self.seen, self.ahead + canvas.count - 1)
        if self.model.swap.reads_memory:
            self.summary = self.running.gather(1, (kept - self.seen)[:, None, None].expand(-1, 1, self.running.shape[-1]))[:, 0]
        self.seen = kept
        self.passed = [max(low, self.ahead + n - 1) for low, n in zip(self.passed, canvas.least)]
        self.reached = [max(high, self.ahead + n - 1) for high, n in zip(self.reached, canvas.greatest)]


class Place:
    """Where fresh entries go in the buffers: one slice where all rows agree, else their own columns, or the bin (the last one).

    Args:
        index: (B, W) log entries.
        fresh: (B, W) False on what a row does not have.
        start: the cursor that all rows share, or None.
        end: entries that any row has once these are in.
        span: how many are looked at; what no row has is masked.
    """

    def __init__(self, index: Int[Tensor, "B W"], fresh: Bool[Tensor, "B W"], start: int | None, end: int, span: int):
        self.index, self.fresh, self.start, self.end, self.span = index, fresh, start, end, span

    def write(self, buffer: Float[Tensor, "*M B h L1 d"], values: Float[Tensor, "*M B h W d"]) -> None:
        """Put values in place; `buffer` is a view of the cache, of one layer or of several."""
        if self.start is not None:
            buffer[..., self.start:self.end, :] = values
        else:
            column = torch.where(self.fresh, self.index, buffer.shape[-2] - 1)[:, None, :, None]
            buffer.scatter_(-2, column.expand_as(values), values.to(buffer.dtype))

    def attention(self, keys: Tensor, values: Tensor, attend: Attend) -> Attend:
        """Attention that puts its own keys and values into the cache first, and looks at all that is there."""
        def look(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            self.write(keys, k)
            self.write(values, v)
            return attend(q, keys[:, :, :self.span], values[:, :, :self.span])
        return look


@dataclass(frozen=True)
class Reencoding:
    """An order-causal model in its bidirectional mode: a `Model` whose predictor starts afresh every `every` calls.

    Needs a model that was trained for it (a share of two-group batches).

    Raises:
        ValueError: `every` below 1.
    """

    model: CausalPartitionTransformer
    every: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.every, int) or self.every < 1:
            raise ValueError(f"refresh every {self.every} calls: give the number of calls between two encodings, a whole number of at least 1")

    left_to_right: ClassVar[bool] = False

    @property
    def shuffle_prompt(self) -> bool:
        return False

    @property
    def null_label(self) -> int | None:
        return self.model.null_label

    def predictor(self, cond: Int[Tensor, " B"] | None = None) -> Predictor:
        return CachedPredictor(self.model, cond, refresh=self.every)
