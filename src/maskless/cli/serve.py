"""`maskless serve`: a model behind HTTP."""
from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable
from typing import Annotated, Any

import typer

from maskless.cli import imaging
from maskless.cli import sampling as s


def serve(
    model: s.ModelArgument, *,
    host: Annotated[str, typer.Option(help="Where to listen; 0.0.0.0: for everybody who reaches this machine.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 8000,
    batch: Annotated[int, typer.Option(min=1, help="Requests that go through the model together, and texts or images of one request, at most.")] = 32,
    wait: Annotated[float, typer.Option(min=0, max=60_000, help="Milliseconds that a request waits for others when nobody is served.")] = 5,
    device: s.Device = "auto", compile: s.Compile = "auto", weights: s.Weights = "ema",
) -> None:
    """Serve a model of texts or images: a page to try it, and its calls as JSON (docs/serving.md)."""
    try:
        import starlette  # noqa: F401
        import uvicorn
    except ModuleNotFoundError as error:
        raise ValueError(f"{error.name} is not installed, and serving needs it; pip install 'maskless[serve]'") from None
    from maskless.data.pictures import pillow
    from maskless.serving.app import Service, application

    opened = s.open_model(model, weights, device, compile)
    if imaging.makes_images(opened):
        pillow()                                                    # which sends and reads them
    try:
        listening = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise ValueError(f"--host {host} --port {port} cannot be used ({error.strerror or error}); give another; port 0 is any free one") from None
    service = Service(opened, model, most=batch, wait=wait / 1000)
    name, number = listening.getsockname()[:2]
    name = f"[{name}]" if ":" in name else name
    signal.signal(signal.SIGTERM, signal.default_int_handler)       # ends it as Ctrl-C does
    typer.echo(f"{model} is served at http://{name}:{number} (Ctrl-C ends it)")
    server = uvicorn.Server(uvicorn.Config(application(service), log_level="warning", timeout_graceful_shutdown=1))
    listener = threading.Thread(target=_listen, args=(server, listening, service.batcher.close), name="listener")
    listener.start()
    try:
        service.batcher.work()
    finally:
        service.batcher.abandon()
        server.should_exit = True
        listener.join()


def _listen(server: Any, listening: socket.socket, ended: Callable[[], None]) -> None:
    try:
        server.run(sockets=[listening])
    finally:
        ended()
