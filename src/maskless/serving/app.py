"""A model behind HTTP: the calls of `TextModel` as JSON, a page to try them on, and one batch for all who ask alike.

A text does not depend on who else is in its batch: its noise is its own and rows do not see each other. So what comes back is what the same
call in Python gives, up to the rounding of products of more rows.
"""
from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from importlib.resources import files
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from maskless import __version__
from maskless.api.template import Template
from maskless.api.text import Completion, TextModel
from maskless.api.watching import shown
from maskless.decoding import Canvas, SamplerOptions
from maskless.decoding.decode import Callback, Record
from maskless.decoding.options import check_names
from maskless.evaluation.conditional import LogProb
from maskless.models import kind_of
from maskless.serving.batcher import Batcher, Busy

STEPS = 64                                                          # calls of the model where a request names none and has so many open sites
SHARED = {"steps", "order", "plan", "temperature", "temperature_last", "top_k", "top_k_last", "top_p", "confidence_noise", "candidates",
          "guidance", "guidance_schedule"}
"""Options under which a row of a batch is what it is alone; requests with others get calls of their own."""


class Sampled(BaseModel):
    """What all requests for texts have, and by name the fields of `SamplerOptions`: steps, order, temperature, top_p, guidance, ...

    Attributes:
        n: texts, or ways to fill the gaps.
        seed: the same seed gives the same texts.
        refresh: as in `TextModel.generate`.
        stream: send the text after every step, as server-sent events.
    """

    model_config = ConfigDict(extra="allow", strict=True)

    n: Annotated[int, Field(ge=1)] = 1
    seed: int = 0
    refresh: Annotated[int, Field(ge=0)] = 0
    stream: bool = False

    @property
    def options(self) -> dict[str, Any]:
        return self.model_extra or {}

    def steps(self, model: TextModel) -> int | None:
        """Calls of the model, where this request may go with others that take as many; else None."""
        steps, sites = self.options.get("steps", STEPS), self.open_sites(model)
        if self.stream or self.n > 1 or sites < 1 or not isinstance(steps, int) or steps < 1 or not SHARED.issuperset(self.options):
            return None
        return sites if model.model.left_to_right else min(steps, sites)

    def open_sites(self, model: TextModel) -> int:
        """Sites to fill; 0 where that is not known yet."""
        raise NotImplementedError

    def alone(self, model: TextModel, **watched: Any) -> list[Completion]:
        """A call for this request."""
        raise NotImplementedError

    def together(self, model: TextModel, all: Sequence[Any], **options: Any) -> list[Completion]:
        """A call for several, which differ in texts and seeds."""
        raise NotImplementedError


class Generate(Sampled):
    """Texts that begin with `prompt`, of `length` sites (BOS and prompt included; the model's length if left out)."""

    prompt: str = ""
    length: int | None = None

    def open_sites(self, model: TextModel) -> int:
        taken = len(model.tokenizer.encode(self.prompt)) + (model.tokenizer.vocabulary.bos is not None)
        return (model.model.config.length if self.length is None else self.length) - taken

    def alone(self, model: TextModel, **watched: Any) -> list[Completion]:
        return model.generate(self.n, prompt=self.prompt, length=self.length, seed=self.seed, refresh=self.refresh, **self.options, **watched)

    def together(self, model: TextModel, all: Sequence[Generate], **options: Any) -> list[Completion]:
        prompts, seeds = [each.prompt for each in all], [each.seed for each in all]
        return model.generate(prompt=prompts, length=self.length, seed=seeds, refresh=self.refresh, **options)


class Infill(Sampled):
    """A text with gaps (`___`, `___{12}`); `lengths` of those that state none: a number, one per gap, or "search"."""

    text: str
    lengths: int | list[int] | Literal["search"] = "search"

    @property
    def stating(self) -> str | None:
        """The text with all lengths in it; None where they are searched for."""
        template = Template.parse(self.text)
        if self.lengths == "search":
            return self.text if all(template.sizes) else None
        return template.stating(template.lengths(self.lengths))

    def open_sites(self, model: TextModel) -> int:
        text = self.stating
        return 0 if text is None else sum(Template.parse(text).lengths(None))

    def alone(self, model: TextModel, **watched: Any) -> list[Completion]:
        found = model.infill(self.text, n=self.n, lengths=self.lengths, seed=self.seed, refresh=self.refresh, **self.options, **watched)
        return found if isinstance(found, list) else [found]

    def together(self, model: TextModel, all: Sequence[Infill], **options: Any) -> list[Completion]:
        texts, seeds = [each.stating or each.text for each in all], [each.seed for each in all]
        return model.infill(texts, seed=seeds, refresh=self.refresh, **options)


class Score(BaseModel):
    """log p(of | given), as `TextModel.logprob`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    of: str | list[str]
    given: str = "___"
    samples: int = 128
    seed: int = 0


@dataclass(frozen=True)
class Kind:
    """Requests of one kind go through the model together.

    Attributes:
        steps: calls of the model; None for a request that goes alone.
        like: all that they share, or a number of its own.
    """

    steps: int | None
    like: Any


@dataclass(frozen=True)
class Job:
    """A request, and what is called after every step of a text that is watched."""

    asked: Any
    watch: Callback | None = None


class Service:
    """A model and the batcher before it.

    Args:
        model: a model of texts.
        name: what users know it by.
        most: requests of a batch, and texts of one request.
        wait: seconds, see `Batcher`.
    """

    def __init__(self, model: TextModel, name: str, *, most: int = 32, wait: float = 0.005):
        self.model, self.name, self.most, self.numbers = model, name, most, itertools.count()
        self.batcher = Batcher(self._run, most=most, wait=wait)

    def description(self) -> dict[str, Any]:
        config = self.model.model.config
        return {"name": self.name, "kind": kind_of(config), "parameters": self.model.model.parameter_count(), "length": config.length,
                "vocab_size": config.vocab_size, "device": str(self.model.device), "dtype": str(self.model.dtype).removeprefix("torch."),
                "left_to_right": self.model.model.left_to_right, "most": self.most, "options": asdict(SamplerOptions())}

    async def texts(self, asked: Sampled) -> list[Completion]:
        """The texts of a request.

        Raises:
            ValueError: what the call in Python says, and for more texts than go together.
            Busy: see `Batcher.ask`.
        """
        return await asyncio.wrap_future(self._ask(asked))

    async def score(self, asked: Score) -> LogProb:
        """As `TextModel.logprob`."""
        return await asyncio.wrap_future(self.batcher.ask(self._alone(), Job(asked)))

    async def steps(self, asked: Sampled) -> AsyncIterator[dict[str, Any]]:
        """The sites of the text after every step, and the texts at the end. One who leaves ends the decode.

        Raises:
            ValueError: before the first step; an error after it is the last thing that comes.
        """
        loop, frames, left, begun = asyncio.get_running_loop(), asyncio.Queue[dict[str, Any] | None](), False, False

        def watch(canvas: Canvas, record: Record) -> None:
            if left:
                raise ConnectionError("nobody listens any more")
            sites = [[site.text, site.fresh] for site in shown(self.model.tokenizer, canvas, record)]
            loop.call_soon_threadsafe(frames.put_nowait, {"step": record.step.index + 1, "steps": record.step.total, "sites": sites})

        answer = self._ask(asked, watch)
        answer.add_done_callback(lambda _: loop.call_soon_threadsafe(frames.put_nowait, None))
        try:
            while (frame := await frames.get()) is not None:
                begun = True
                yield frame
            if (error := answer.exception()) is None:
                yield listed(answer.result())
            elif begun:
                yield {"error": str(error)}
            else:
                raise error
        finally:
            left = True

    def _ask(self, asked: Sampled, watch: Callback | None = None) -> Future[list[Completion]]:
        check_names(asked.options)
        if asked.n > self.most:
            raise ValueError(f"n is {asked.n} and a request has at most {self.most}; ask for fewer, or start the server with another --batch")
        if watch is not None and asked.n > 1:
            raise ValueError(f"n is {asked.n} and stream true, which shows one text; leave one of the two out")
        steps = asked.steps(self.model)
        like = [type(asked).__name__, getattr(asked, "length", None), asked.refresh, asked.options]
        return self.batcher.ask(self._alone() if steps is None else Kind(steps, json.dumps(like, sort_keys=True)), Job(asked, watch))

    def _alone(self) -> Kind:
        return Kind(None, next(self.numbers))

    def _run(self, kind: Kind, jobs: list[Job]) -> Sequence[Any]:
        asked = jobs[0].asked
        if isinstance(asked, Score):
            return [self.model.logprob(asked.of, asked.given, samples=asked.samples, seed=asked.seed)]
        if kind.steps is None:
            return [asked.alone(self.model, watch=jobs[0].watch)]
        together = asked.together(self.model, [job.asked for job in jobs], **{**asked.options, "steps": kind.steps})
        return [[text] for text in together]


def listed(texts: Sequence[Completion]) -> dict[str, Any]:
    return {"texts": [{"text": text.text, "gaps": text.gaps, "nfe": text.nfe} for text in texts]}


def application(service: Service) -> FastAPI:
    """The routes: `/` a page, `/v1/model`, `/v1/generate`, `/v1/infill`, `/v1/score`; `/docs` describes them."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        service.batcher.close()

    app = FastAPI(title="maskless", version=__version__, lifespan=lifespan)

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    def page() -> str:
        return files("maskless.serving").joinpath("page", "index.html").read_text(encoding="utf-8")

    @app.get("/v1/model")
    def model() -> dict[str, Any]:
        """What is served, and the options of its samplers with their defaults."""
        return service.description()

    @app.post("/v1/generate")
    async def generate(asked: Generate) -> Any:
        """Texts that begin with a prompt."""
        return await texts(asked)

    @app.post("/v1/infill")
    async def infill(asked: Infill) -> Any:
        """A text with its gaps filled."""
        return await texts(asked)

    @app.post("/v1/score")
    async def score(asked: Score) -> dict[str, Any]:
        """The log-probability of a text, alone or in the gaps of another."""
        found = await service.score(asked)
        return {**asdict(found), "nats_per_token": found.nats_per_token}

    async def texts(asked: Sampled) -> Any:
        if not asked.stream:
            return listed(await service.texts(asked))
        steps = service.steps(asked)
        first = await anext(steps)
        return StreamingResponse(events(first, steps), media_type="text/event-stream")

    @app.exception_handler(ValueError)
    def mistaken(_: Request, error: ValueError) -> JSONResponse:
        return JSONResponse({"error": str(error)}, status_code=400)

    @app.exception_handler(RequestValidationError)
    def misread(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part != "body")
        unread = first["type"] in ("json_invalid", "model_attributes_type")
        sentence = "the request is no JSON object; send one, with its Content-Type" if unread else f"{where} is not as it should be: {first['msg']}"
        return JSONResponse({"error": sentence}, status_code=400)

    @app.exception_handler(Busy)
    def busy(_: Request, error: Busy) -> JSONResponse:
        return JSONResponse({"error": str(error)}, status_code=503, headers={"Retry-After": "1"})

    return app


async def events(first: dict[str, Any], rest: AsyncIterator[dict[str, Any]]) -> AsyncIterator[str]:
    """Server-sent events."""
    yield f"data: {json.dumps(first)}\n\n"
    async for frame in rest:
        yield f"data: {json.dumps(frame)}\n\n"
