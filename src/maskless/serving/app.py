"""A model behind HTTP: the calls of `TextModel` as JSON, a page to try them on, and one batch for all who ask alike.

A text does not depend on who else is in its batch: its noise is its own and rows do not see each other. So what comes back is what the same
call in Python gives, up to the rounding of products of more rows.
"""
from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from maskless.api.text import Completion, TextModel
from maskless.api.watching import shown
from maskless.config import build
from maskless.decoding import Canvas, SamplerOptions
from maskless.decoding.decode import Callback, Record
from maskless.evaluation.conditional import LogProb
from maskless.models import kind_of
from maskless.serving.batcher import Batcher, Busy
from maskless.serving.requests import Generate, Infill, Sampled, Score, sampled

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response


@dataclass(frozen=True)
class Kind:
    """Requests of one kind go through the model together.

    Attributes:
        steps: calls of the model; None for a request that goes alone.
        like: all that they share, or an object of its own.
    """

    steps: int | None
    like: Any


@dataclass(frozen=True)
class Job:
    """A request, and what is called after every step of a text that is watched."""

    asked: Any
    watch: Callback | None = None


class Service:
    """A model and the batcher before it, whose `work` somebody must call.

    Args:
        model: a model of texts.
        name: what users know it by.
        most: requests of a batch, and texts of one request.
        wait: seconds, see `Batcher`.
    """

    def __init__(self, model: TextModel, name: str, *, most: int = 32, wait: float = 0.005):
        self.model, self.name, self.most = model, name, most
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
        return await asyncio.wrap_future(self._alone(Job(asked)))

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
        if asked.n > self.most:
            raise ValueError(f"n is {asked.n} and a request has at most {self.most}; ask for fewer, or start the server with another --batch")
        if watch is not None and asked.n > 1:
            raise ValueError(f"n is {asked.n} and stream true, which shows one text; leave one of the two out")
        steps = asked.steps(self.model)
        if steps is None:
            return self._alone(Job(asked, watch))
        like = [type(asked).__name__, getattr(asked, "length", None), asked.refresh, asked.options]
        return self.batcher.ask(Kind(steps, json.dumps(like, sort_keys=True)), Job(asked))

    def _alone(self, job: Job) -> Future[Any]:
        return self.batcher.ask(Kind(None, object()), job, alone=True)

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


def application(service: Service) -> Starlette:
    """The routes: `/` a page, `/v1/model`, `/v1/generate`, `/v1/infill`, `/v1/score` (docs/serving.md)."""
    from starlette.applications import Starlette
    from starlette.responses import HTMLResponse, JSONResponse, StreamingResponse
    from starlette.routing import Route

    def page(_: Request) -> Response:
        return HTMLResponse(files("maskless.serving").joinpath("page", "index.html").read_text(encoding="utf-8"))

    def model(_: Request) -> Response:
        return JSONResponse(service.description())

    async def score(request: Request) -> Response:
        found = await service.score(build(Score, await tree(request)))
        return JSONResponse({**asdict(found), "nats_per_token": found.nats_per_token})

    def texts(kind: type[Sampled]) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            asked = sampled(kind, await tree(request))
            if not asked.stream:
                return JSONResponse(listed(await service.texts(asked)))
            steps = service.steps(asked)
            return StreamingResponse(events(await anext(steps), steps), media_type="text/event-stream")
        return answer

    def mistaken(_: Request, error: Exception) -> Response:
        return JSONResponse({"error": str(error)}, status_code=400)

    def busy(_: Request, error: Exception) -> Response:
        return JSONResponse({"error": str(error)}, status_code=503, headers={"Retry-After": "1"})

    routes = [Route("/", page), Route("/v1/model", model), Route("/v1/score", score, methods=["POST"]),
              Route("/v1/generate", texts(Generate), methods=["POST"]), Route("/v1/infill", texts(Infill), methods=["POST"])]
    return Starlette(routes=routes, exception_handlers={ValueError: mistaken, Busy: busy})


async def tree(request: Request) -> dict[str, Any]:
    """The JSON object that a request carries."""
    try:
        found = json.loads(await request.body())
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ValueError('the request is no JSON object; send one, such as {"text": "The ___ sat."}')
    return found


async def events(first: dict[str, Any], rest: AsyncIterator[dict[str, Any]]) -> AsyncIterator[str]:
    """Server-sent events."""
    yield f"data: {json.dumps(first)}\n\n"
    async for frame in rest:
        yield f"data: {json.dumps(frame)}\n\n"
