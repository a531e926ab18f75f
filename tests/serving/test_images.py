"""A served model of images gives the images of the same call in Python."""
from __future__ import annotations

import base64
import io
import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image
from tests.serving.test_app import served

import maskless
from maskless.serving.images import png


class Counted(maskless.ImageModel):
    """Notes how many images every call had."""

    calls: list[int]

    def generate(self, n=1, **named):
        self.calls.append(n)
        return super().generate(n, **named)


def opened(classes: int = 3) -> Counted:
    torch.manual_seed(0)
    config = maskless.PartitionConfig(vocab_size=4, length=16, width=16, heads=2, encoder_layers=1, decoder_layers=1, grid=(4, 4), classes=classes)
    network = maskless.build(config)
    torch.nn.init.normal_(network.head.weight)
    names = ("cat", "dog", "hen")[:classes]
    model = Counted(network, maskless.ImageCodes(maskless.PixelCodec(levels=4), grid=(4, 4), classes=names), device="cpu")
    model.calls = []
    return model


def pixels(text: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))


@pytest.fixture
def client():
    with served(opened(), "toy", wait=0.05) as found:
        yield found


def test_images_are_those_of_python(client):
    asked = {"label": "dog", "steps": 5, "seed": 3, "guidance": 1.0}
    expected = opened().generate(labels=1, steps=5, seed=3, guidance=1.0)
    for label in ("dog", 1):
        (found,) = client.post("/v1/generate", json={**asked, "label": label}).json()["images"]
        assert (found["label"], found["nfe"]) == (1, expected.nfe) and (pixels(found["png"]) == expected.pixels[0, ..., 0]).all()
    several = client.post("/v1/generate", json={**asked, "n": 3}).json()["images"]
    again = opened().generate(3, labels=1, steps=5, seed=3, guidance=1.0)
    assert all((pixels(one["png"]) == other[..., 0]).all() for one, other in zip(several, again.pixels, strict=True))
    assert client.post("/v1/generate", json={"steps": 2}).json()["images"][0]["label"] is None


def test_a_model_without_classes():
    with served(opened(classes=0), "toy", wait=0.0) as client:
        assert client.get("/v1/model").json()["classes"] == 0
        assert client.post("/v1/generate", json={"steps": 2}).json()["images"][0]["label"] is None


def test_those_who_ask_at_once_share_a_call_and_get_their_own_images():
    model, labels = opened(), ["cat", 1, "hen", 0]
    with served(model, "toy", wait=20.0) as client, ThreadPoolExecutor(4) as pool:            # the fourth ends the waiting
        found = list(pool.map(lambda asked: client.post("/v1/generate", json={"label": asked[1], "steps": 3, "seed": asked[0]}).json()["images"][0],
                              enumerate(labels)))
    assert model.calls == [4]
    for seed, (label, image) in enumerate(zip(labels, found)):
        assert (pixels(image["png"]) == opened().generate(labels=label, steps=3, seed=seed).pixels[0, ..., 0]).all()


def test_guidance_without_a_label_is_refused_whoever_else_asks():
    with served(opened(), "toy", wait=0.5) as client, ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda more: client.post("/v1/generate", json={"guidance": 1.0, "steps": 3, **more}), [{"label": 1}, {}]))
    assert [reply.status_code for reply in found] == [200, 400] and "there is no label" in found[1].json()["error"]


def test_an_image_is_watched_as_it_is_made(client):
    reply = client.post("/v1/generate", json={"steps": 4, "label": 0, "stream": True})
    *steps, last = [json.loads(line.removeprefix("data: ")) for line in reply.text.split("\n\n") if line]
    assert [(step["step"], step["steps"]) for step in steps] == [(number, 4) for number in (1, 2, 3, 4)]
    film = maskless.Film(opened())
    expected = film.model.generate(labels=0, steps=4, watch=film)
    for step, frame in zip(steps, film.frames, strict=True):
        assert (pixels(step["png"]) == frame[..., 0]).all()
    assert (pixels(last["images"][0]["png"]) == expected.pixels[0, ..., 0]).all()


def test_part_of_an_image_is_painted_anew(client):
    model = opened()
    image, mask = model.generate(seed=5, steps=4).pixels[0], np.zeros((4, 4, 1), np.uint8)
    mask[2:] = 255
    expected = model.infill(image, mask[..., 0] > 0, labels="hen", n=2, steps=3, seed=1).pixels
    found = client.post("/v1/infill", json={"image": png(image), "mask": png(mask), "label": "hen", "n": 2, "steps": 3, "seed": 1}).json()["images"]
    assert [(pixels(one["png"]) == other[..., 0]).all() for one, other in zip(found, expected, strict=True)] == [True, True]
    beyond = client.post("/v1/infill", json={"image": png(image[:2, :3]), "at": [1, 1], "steps": 3}).json()["images"][0]["png"]
    assert (pixels(beyond)[1:3, 1:] == image[:2, :3, 0]).all()


def test_what_is_served_is_described(client):
    said = client.get("/v1/model").json()
    assert (said["makes"], said["size"], said["classes"], said["names"]) == ("images", [4, 4], 3, ["cat", "dog", "hen"])
    assert (said["options"]["order"], said["options"]["steps"]) == ("halton", 16)
    page = client.get("/")
    assert page.status_code == 200 and "Paint anew" in page.text and "://" not in page.text
    assert client.post("/v1/score", json={"of": "a"}).status_code == 404


@pytest.mark.parametrize(("verb", "asked", "sentence"), [
    ("generate", {"label": "cow"}, "there is no class 'cow'; choose cat, dog, hen"),
    ("generate", {"label": 7}, "label 7 is not in 0..2"),
    ("generate", {"labels": 1}, "'labels' is nothing that can be asked"),
    ("generate", {"prompt": "a"}, "'prompt' is nothing that can be asked"),
    ("generate", {"n": 5}, "n is 5 and a request has at most 4"),
    ("generate", {"batch": 4}, "'batch' is nothing that can be asked"),
    ("infill", {}, "image is missing; add it"),
    ("infill", {"image": "?"}, "image is not base64"),
    ("infill", {"image": "aaaa"}, "image is not an image that can be read"),
    ("infill", {"image": png(np.zeros((4, 4, 1), np.uint8))}, "no cell is open"),
    ("infill", {"image": png(np.zeros((9, 9, 1), np.uint8))}, "9 x 9 pixels do not fit into 4 x 4"),
    ("infill", {"image": png(np.zeros((4, 4, 1), np.uint8)), "at": [1]}, "at"),
    ("infill", {"image": base64.b64encode(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n").decode()}, "not an image that can be read"),
])
def test_a_mistake_is_one_sentence(client, verb, asked, sentence):
    reply = client.post(f"/v1/{verb}", json=asked)
    assert reply.status_code == 400 and list(reply.json()) == ["error"] and sentence in reply.json()["error"]
