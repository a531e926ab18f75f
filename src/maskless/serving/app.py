"""A model behind HTTP: the calls of `TextModel` or `ImageModel` as JSON, a page to try them on, and one batch for all who ask alike.

What is made does not depend on who else is in its batch: its noise is its own and rows do not see each other. So what comes back is what the same
call in Python gives, up to the rounding of products of more rows.
"""
from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from maskless.api.image import ImageModel
from maskless.api.text import TextModel
from maskless.config import build
from maskless.decoding import Canvas, SamplerOptions
from maskless.decoding.decode import Callback, Record
from maskless.models import kind_of
from maskless.serving import images, texts
from maskless.serving.asked import Sampled, sampled
from maskless.serving.batcher import Batcher, Busy

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response


Gone = Callable[[], Awaitable[None]]
LARGEST_BODY = 1 << 20                                              # bytes of a request
MOST_DRAWS = 4096                                                   # of a score


class Left(Exception):
    """Nobody waits for the answer."""


@dataclass(frozen=True)
class Job:
    """A request, and what is called after every step of one that is watched."""

    asked: Any
    watch: Callback | None = None


class Service:
    """A model and the batcher before it, whose `work` somebody must call.

    Args:
        model: a model of texts or of images.
        name: what users know it by.
        most: requests of a batch, and texts or images of one request.
        wait: seconds, see `Batcher`.
    """

    def __init__(self, model: TextModel | ImageModel, name: str, *, most: int = 32, wait: float = 0.005):
        self.model, self.name, self.most = model, name, most
        self.batcher = Batcher(self._run, most=most, wait=wait)

    @property
    def makes(self) -> str:
        return "images" if isinstance(self.model, ImageModel) else "texts"

    @property
    def routes(self) -> dict[str, type[Sampled]]:
        """What can be asked for, by the last word of its address."""
        of = images if isinstance(self.model, ImageModel) else texts
        return {"generate": of.Generate, "infill": of.Infill}

    def description(self) -> dict[str, Any]:
        network, options = self.model.model, asdict(SamplerOptions())
        said = {"name": self.name, "makes": self.makes, "kind": kind_of(network.config), "parameters": network.parameter_count(),
                "length": network.config.length, "vocab_size": network.config.vocab_size, "device": str(self.model.device),
                "dtype": str(self.model.dtype).removeprefix("torch."), "left_to_right": network.left_to_right, "most": self.most}
        if isinstance(self.model, ImageModel):
            options |= self.model.usual({}, self.model.codes.length)
            said |= {"size": self.model.size, "channels": self.model.codec.channels, "classes": network.null_label or 0,
                     "names": self.model.codes.classes}
        return said | {"options": options}

    async def answer(self, asked: Sampled, gone: Gone) -> dict[str, Any]:
        """What is sent back to a request.

        Args:
            gone: returns when who asked has left; one who still waits then is not served.

        Raises:
            ValueError: what the call in Python says, and for more than go together.
            Busy: see `Batcher.ask`.
        """
        return asked.told(await unless(gone, self._ask(asked)))

    async def score(self, asked: texts.Score, gone: Gone) -> dict[str, Any]:
        """As `TextModel.logprob`."""
        if asked.samples > MOST_DRAWS:
            raise ValueError(f"samples is {asked.samples} and a request has at most {MOST_DRAWS}; ask for fewer")
        return await unless(gone, self._alone(Job(asked)))

    async def steps(self, asked: Sampled) -> AsyncIterator[dict[str, Any]]:
        """What there is after every step, and the answer at the end. One who leaves ends the decode.

        Raises:
            ValueError: before the first step; an error after it is the last thing that comes.
        """
        loop, frames, left, begun = asyncio.get_running_loop(), asyncio.Queue[dict[str, Any] | None](), False, False

        def watch(canvas: Canvas, record: Record) -> None:
            if left:
                raise ConnectionError("nobody listens any more")
            frame = {"step": record.step.index + 1, "steps": record.step.total, **asked.frame(self.model, canvas, record)}
            loop.call_soon_threadsafe(frames.put_nowait, frame)

        answer = self._ask(asked, watch)
        answer.add_done_callback(lambda _: loop.call_soon_threadsafe(frames.put_nowait, None))
        try:
            while (frame := await frames.get()) is not None:
                begun = True
                yield frame
            if (error := answer.exception()) is None:
                yield asked.told(answer.result())
            elif begun:
                yield {"error": str(error)}
            else:
                raise error
        finally:
            left = True

    def _ask(self, asked: Sampled, watch: Callback | None = None) -> Future[list[Any]]:
        if asked.n > self.most:
            raise ValueError(f"n is {asked.n} and a request has at most {self.most}; ask for fewer, or start the server with another --batch")
        if watch is not None and asked.n > 1:
            raise ValueError(f"n is {asked.n} and stream true, which shows one; leave one of the two out")
        like = asked.like(self.model)
        if like is None:
            return self._alone(Job(asked, watch))
        return self.batcher.ask((type(asked), like, asked.refresh, json.dumps(asked.options, sort_keys=True)), Job(asked))

    def _alone(self, job: Job) -> Future[Any]:
        return self.batcher.ask(object(), job, alone=True)

    def _run(self, kind: Hashable, jobs: list[Job]) -> Sequence[Any]:
        first = jobs[0]
        if isinstance(kind, tuple):
            return [[one] for one in first.asked.together(self.model, [job.asked for job in jobs])]
        return [first.asked.alone(self.model, **{} if first.watch is None else {"watch": first.watch})]


def application(service: Service) -> Starlette:
    """The routes: `/` a page, `/v1/model`, `/v1/generate`, `/v1/infill`, `/v1/score` (docs/serving.md)."""
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.requests import ClientDisconnect
    from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
    from starlette.routing import Route

    def page(_: Request) -> Response:
        return HTMLResponse(files("maskless.serving").joinpath("page", f"{service.makes}.html").read_text(encoding="utf-8"))

    def model(_: Request) -> Response:
        return JSONResponse(service.description())

    async def score(request: Request) -> Response:
        return JSONResponse(await service.score(build(texts.Score, await tree(request)), departure(request)))

    def answering(kind: type[Sampled]) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            asked = sampled(kind, await tree(request))
            if not asked.stream:
                return JSONResponse(await service.answer(asked, departure(request)))
            steps = service.steps(asked)
            return StreamingResponse(events(await anext(steps), steps), media_type="text/event-stream")
        return answer

    def saying(status: int, **headers: str) -> Callable[[Request, Exception], Response]:
        return lambda _, error: JSONResponse({"error": str(error)}, status_code=status, headers=headers)

    def refused(_: Request, error: Any) -> Response:
        return JSONResponse({"error": error.detail}, status_code=error.status_code, headers=error.headers)

    def left(_: Request, __: Exception) -> Response:
        return Response(status_code=499)                            # which nobody reads

    def failed(_: Request, error: Exception) -> Response:
        return JSONResponse({"error": f"the server could not answer ({type(error).__name__}); its log says why"}, status_code=500)

    routes = [Route("/", page), Route("/v1/model", model)]
    routes += [Route(f"/v1/{word}", answering(kind), methods=["POST"]) for word, kind in service.routes.items()]
    if isinstance(service.model, TextModel):
        routes.append(Route("/v1/score", score, methods=["POST"]))
    return Starlette(routes=routes, exception_handlers={ValueError: saying(400), Busy: saying(503, **{"Retry-After": "1"}), HTTPException: refused,
                                                        ClientDisconnect: left, Left: left, Exception: failed})


async def tree(request: Request) -> dict[str, Any]:
    """The JSON object that a request carries.

    Raises:
        ValueError: it carries none.
        HTTPException: one that is too large, or that a page of another site may have sent without being asked whether it may.
    """
    from starlette.exceptions import HTTPException

    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise HTTPException(415, "the request is not application/json; send it with Content-Type: application/json")
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > LARGEST_BODY:
            raise HTTPException(413, f"the request has more than {LARGEST_BODY:,} bytes; send less")
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise ValueError('the request is no JSON object; send one, such as {"text": "The ___ sat."}')
    return found


def departure(request: Request) -> Gone:
    """Returns when the client has left; its request has been read."""
    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
    return gone


async def unless(gone: Gone, answer: Future[Any]) -> Any:
    """The answer, which is not waited for any longer when who asked has left.

    Raises:
        Left: before it was begun.
    """
    leaving = asyncio.ensure_future(gone())
    leaving.add_done_callback(lambda _: answer.cancel())            # which does nothing to one that runs
    try:
        return await asyncio.wrap_future(answer)
    except asyncio.CancelledError:
        if answer.cancelled():
            raise Left from None
        raise
    finally:
        leaving.cancel()


async def events(first: dict[str, Any], rest: AsyncIterator[dict[str, Any]]) -> AsyncIterator[str]:
    """Server-sent events."""
    yield f"data: {json.dumps(first)}\n\n"
    async for frame in rest:
        yield f"data: {json.dumps(frame)}\n\n"
