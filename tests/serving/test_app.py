"""What HTTP gives is what Python gives, one by one and in batches."""
from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import pytest
from starlette.testclient import TestClient
from tests.api import test_text
from tests.training.runs import environment

import maskless
from maskless.serving.app import Job, Left, Service, application
from maskless.serving.texts import Generate, Score


class Counted(maskless.TextModel):
    """Notes how many texts every call had."""

    def __init__(self, *args, **named):
        super().__init__(*args, **named)
        self.calls: list[int] = []

    def generate(self, n=1, *, prompt="", **named):
        self.calls.append(len(prompt) if isinstance(prompt, list) else n)
        try:
            return super().generate(n, prompt=prompt, **named)
        except ConnectionError:
            self.calls.append(-1)
            raise

    def infill(self, text, **named):
        self.calls.append(len(text) if isinstance(text, list) else named.get("n", 1))
        return super().infill(text, **named)


def opened(name: str) -> Counted:
    plain = test_text.opened(name)
    return Counted(plain.model, plain.tokenizer, device="cpu")


@contextmanager
def served(model: maskless.TextModel, name: str, *, wait: float):
    service = Service(model, name, most=4, wait=wait)
    worker = threading.Thread(target=service.batcher.work)
    worker.start()
    try:
        with TestClient(application(service)) as client:
            yield client
    finally:
        service.batcher.close()
        worker.join()


@pytest.fixture(params=["partition", "causal_partition", "autoregressive", "prime"])
def client(request):
    with served(opened(request.param), request.param, wait=0.05) as found:
        yield found


@pytest.fixture
def partition():
    model = opened("partition")
    with served(model, "toy", wait=0.05) as found:
        yield found, model


def test_texts_are_those_of_python(client):
    name = client.get("/v1/model").json()["name"]
    model, steps = opened(name), {} if name == "autoregressive" else {"steps": 5}
    asked = {"prompt": "To be", "length": 20, "seed": 3, "temperature": 0.7, **steps}
    expected = model.generate(prompt="To be", length=20, seed=3, temperature=0.7, **steps)[0]
    assert client.post("/v1/generate", json=asked).json() == {"texts": [{"text": expected.text, "gaps": [], "nfe": expected.nfe}]}
    several = client.post("/v1/generate", json={**asked, "n": 3}).json()["texts"]
    again = model.generate(3, prompt="To be", length=20, seed=3, temperature=0.7, **steps)
    assert [each["text"] for each in several] == [each.text for each in again]


def test_the_usual_number_of_steps_is_that_of_python(client):
    """Of what is open: fewer sites behind a space that is lent, more slots where tokens have digits."""
    asked = {"prompt": "To be ", "length": 20}
    expected = opened(client.get("/v1/model").json()["name"]).generate(**asked)[0]
    assert client.post("/v1/generate", json=asked).json() == {"texts": [{"text": expected.text, "gaps": [], "nfe": expected.nfe}]}


@pytest.mark.parametrize("more", [{"steps": 60}, {"plan": "ancestral", "steps": 30}, {"plan": "root", "steps": 40},
                                  {"order": "entropy-bound", "steps": 60}])
def test_more_steps_than_open_sites_change_no_text(partition, more):
    client, model = partition
    asked = {"prompt": "To be", "length": 20, "seed": 3, **more}
    expected = model.generate(**asked)[0]
    streamed = client.post("/v1/generate", json={**asked, "stream": True}).text.split("\n\n")[-2].removeprefix("data: ")
    for found in (client.post("/v1/generate", json=asked).json(), json.loads(streamed)):
        assert (found["texts"][0]["text"], found["texts"][0]["nfe"]) == (expected.text, expected.nfe)
    filled = client.post("/v1/infill", json={"text": "The ___{4} house ___{3}.", "steps": 20, "seed": 1}).json()["texts"][0]["text"]
    assert filled == model.infill("The ___{4} house ___{3}.", steps=20, seed=1).text


def test_a_space_at_the_end_of_a_prompt_is_lent():
    model = maskless.load("tiny", device="cpu")
    expected = model.generate(prompt="The old house ", length=24)[0]
    with served(model, "tiny", wait=0.0) as client:
        found = client.post("/v1/generate", json={"prompt": "The old house ", "length": 24}).json()["texts"][0]
    assert (found["text"], found["nfe"]) == (expected.text, expected.nfe)


@pytest.mark.parametrize("lengths", [{}, {"lengths": 3}, {"lengths": [3, 5]}])
@pytest.mark.parametrize("name", ["partition", "causal_partition"])
def test_gaps_and_scores_are_those_of_python(name, lengths):
    model, text = opened(name), "The ___ sat on ___."
    with served(opened(name), name, wait=0.0) as client:
        found = client.post("/v1/infill", json={"text": text, "steps": 3, "seed": 2, "order": "spaced", **lengths}).json()["texts"][0]
        expected = model.infill(text, steps=3, seed=2, order="spaced", **(lengths or {"lengths": "search"}))
        assert (found["text"], found["gaps"]) == (expected.text, list(expected.gaps))
        score = client.post("/v1/score", json={"of": ["cat", "it"], "given": text, "samples": 8}).json()
        assert score["nats"] == model.logprob(["cat", "it"], text, samples=8).nats and score["kind"] == "bound"


def test_those_who_ask_at_once_share_a_call_and_get_their_own_texts():
    model = opened("partition")
    texts = ["a ___{4} b", "___{6} und Größe", "x ___{5}", "then ___{4}."]
    with served(model, "toy", wait=20.0) as client, ThreadPoolExecutor(4) as pool:            # the fourth ends the waiting
        found = list(pool.map(lambda pair: client.post("/v1/infill", json={"text": pair[1], "steps": 3, "seed": pair[0]}).json(), enumerate(texts)))
    assert model.calls == [4]
    assert [each["texts"][0]["text"] for each in found] == [model.infill(text, steps=3, seed=seed).text for seed, text in enumerate(texts)]


def test_others_do_not_share(partition):
    client, model = partition
    asked = [{"steps": 3}, {"steps": 4}, {"steps": 3, "temperature": 0.5}, {"steps": 3, "block": 4}]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda more: client.post("/v1/infill", json={"text": "a ___{8} b", **more}).json()["texts"][0]["text"], asked))
    assert model.calls == [1, 1, 1, 1]
    assert found == [model.infill("a ___{8} b", **more).text for more in asked]


def test_a_text_is_watched_as_it_is_written(partition):
    client, model = partition
    reply = client.post("/v1/infill", json={"text": "ab___{4}c", "steps": 4, "stream": True})
    *steps, last = [json.loads(line.removeprefix("data: ")) for line in reply.text.split("\n\n") if line]
    assert reply.headers["content-type"].startswith("text/event-stream") and [step["step"] for step in steps] == [1, 2, 3, 4]
    for number, step in enumerate(steps, 1):
        assert sum(text is None for text, _ in step["sites"]) == 4 - number and sum(fresh for _, fresh in step["sites"]) == 1
    expected = model.infill("ab___{4}c", steps=4)
    assert last == {"texts": [{"text": expected.text, "gaps": list(expected.gaps), "nfe": 4}]}
    assert "".join(text for text, _ in steps[-1]["sites"] if text) == "".join(
        piece.decode(errors="replace") for piece in model.tokenizer.pieces(expected.tokens))


def test_one_who_leaves_ends_the_decode():
    model = opened("partition")
    service = Service(model, "toy")

    async def leave():
        steps = service.steps(Generate(stream=True, options={"steps": 40}))
        threading.Thread(target=service.batcher.work).start()
        first = await anext(steps)
        await steps.aclose()
        return first

    assert asyncio.run(leave())["step"] == 1
    service.batcher.ask(object(), Job(Score(of="a", samples=2))).result(60)             # whose turn comes when the decode has ended
    service.batcher.close()
    assert model.calls == [1, -1]


def test_a_full_room_is_said():
    service = Service(opened("partition"), "toy")
    service.batcher.room = 0
    reply = TestClient(application(service)).post("/v1/infill", json={"text": "a ___{2}"})
    assert reply.status_code == 503 and "try again in a moment" in reply.json()["error"] and reply.headers["retry-after"] == "1"


@pytest.mark.parametrize(("verb", "asked", "sentence"), [
    ("generate", {"promt": "x"}, "'promt' is nothing that can be asked for here; there are length, n, prompt"),
    ("generate", {"steps": 0}, "steps 0 is below 1"),
    ("generate", {"steps": "8"}, "steps is '8'; it must be an integer or null"),
    ("generate", {"order": "up", "stream": True}, "order is 'up'; it must be one of random"),
    ("generate", {"n": 5}, "n is 5 and a request has at most 4"),
    ("generate", {"n": 0}, "n is 0; give 1 or more texts"),
    ("generate", {"n": 2, "options": {}}, "'options' is nothing that can be asked"),
    ("generate", {"n": "2"}, "n is '2'"),
    ("generate", {"prompt": "x" * 60}, "the prompt takes 61 of 48 sites"),
    ("generate", {"length": 900}, "length 900 is not in 1..48"),
    ("generate", {"refresh": 2}, "this model keeps no cache"),
    ("generate", {"n": 2, "stream": True}, "stream true, which shows one"),
    ("infill", {"text": "nothing is missing"}, "has no gap"),
    ("infill", {"text": "a ___ b", "lengths": [1, 2]}, "2 lengths were given for 1 gaps"),
    ("infill", {}, "text is missing; add it"),
    ("score", {"of": "", "given": "a ___"}, "span 0 is empty"),
    ("score", {"of": "a", "size": 3}, "size"),
    ("score", [1], "the request is no JSON object"),
    ("score", {"of": "a", "samples": 5000}, "a request has at most 4096"),
    ("score", {"of": "a", "seed": 1 << 64}, "is out of range"),
    ("generate", {"steps": 10**30}, "is above 100000"),
    ("generate", {"guidance": 1e39}, "guidance is 1e+39; give a number between"),
    ("infill", {"text": "a ___{1000000000000000000000000000000}"}, "takes 1000000000000000000000000000003 sites, the model has 48"),
    ("infill", {"text": "a ___", "lengths": 10**30}, "sites, the model has 48"),
])
def test_a_mistake_is_one_sentence(partition, verb, asked, sentence):
    reply = partition[0].post(f"/v1/{verb}", json=asked)
    assert reply.status_code == 400 and list(reply.json()) == ["error"] and sentence in reply.json()["error"]


@pytest.mark.parametrize(("status", "content", "kind", "sentence"), [
    (400, "[" * 100_000, "application/json", "the request is no JSON object"),
    (413, '{"prompt": "' + "x" * (1 << 20) + '"}', "application/json", "more than 1,048,576 bytes"),
    (415, "{}", "text/plain", "Content-Type: application/json"),
])
def test_bodies_that_are_not_read(partition, status, content, kind, sentence):
    reply = partition[0].post("/v1/generate", content=content, headers={"Content-Type": kind})
    assert reply.status_code == status and sentence in reply.json()["error"]


def test_every_answer_is_json(partition, monkeypatch):
    client, model = partition
    assert client.get("/v1/nothing").json() == {"error": "Not Found"} and client.get("/v1/generate").json() == {"error": "Method Not Allowed"}
    monkeypatch.setattr(type(model), "infill", lambda self, *args, **named: 1 / 0)
    reply = TestClient(client.app, raise_server_exceptions=False).post("/v1/infill", json={"text": "a ___{2}"})
    assert reply.status_code == 500 and reply.json() == {"error": "the server could not answer (ZeroDivisionError); its log says why"}


def test_one_who_leaves_while_others_are_served_is_not_served():
    service, gone = Service(opened("partition"), "toy"), threading.Event()

    async def leave():
        async def departed():
            while not gone.is_set():
                await asyncio.sleep(0.01)

        answer = asyncio.ensure_future(service.answer(Generate(n=2), departed))
        await asyncio.sleep(0.05)
        gone.set()
        with pytest.raises(Left):
            await answer

    asyncio.run(leave())
    service.batcher.close()
    service.batcher.work()
    assert service.model.calls == []


def test_the_page_needs_nothing_from_elsewhere(partition):
    page = partition[0].get("/")
    assert page.status_code == 200 and "<title>maskless</title>" in page.text and "://" not in page.text


@contextmanager
def ending(process: subprocess.Popen):
    """A process that is gone afterwards, whatever happens."""
    with process:
        try:
            yield
        finally:
            process.kill()


def test_the_command_serves_and_ends(tmp_path):
    process = subprocess.Popen([sys.executable, "-m", "maskless.cli.main", "serve", "tiny", "--port", "0", "--device", "cpu"], env=environment(),
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with ending(process):
        line = process.stdout.readline()
        assert line.startswith("tiny is served at http://127.0.0.1:")
        address = line.split()[4]
        found = httpx.post(f"{address}/v1/infill", json={"text": "The ___{3}.", "steps": 1}, timeout=60)
        assert found.json()["texts"][0]["text"].startswith("The ")
        process.terminate()                                         # as Ctrl-C, which a process in the background does not hear
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in err


def test_what_is_not_installed_is_named():
    code = "import sys; sys.modules['uvicorn'] = None; sys.argv = ['maskless', 'serve', 'tiny']; from maskless.cli.main import main; main()"
    ended = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=False)
    assert ended.returncode == 2 and ended.stderr == "maskless: uvicorn is not installed, and serving needs it; pip install 'maskless[serve]'\n"


def test_a_port_in_use_is_one_sentence():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ended = subprocess.run([sys.executable, "-m", "maskless.cli.main", "serve", "tiny", "--port", port], env=environment(), capture_output=True,
                               text=True, check=False)
    assert ended.returncode == 2 and f"--port {port} cannot be used" in ended.stderr and ended.stderr.count("\n") == 1
