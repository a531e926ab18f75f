"""The classifier behind features of one's own: its data, its training, its folder, its labels, and what is refused."""
from __future__ import annotations

import io
import json

import numpy as np
import pytest
import torch

from maskless.data.image_sources import ImageArrays
from maskless.data.images import PlainPixels
from maskless.data.labelled import labelled_images
from maskless.data.pictures import in_unit_range
from maskless.evaluation.classifier import load_classifier
from maskless.evaluation.features import Features, classifier_features, extract, statistics_of
from maskless.evaluation.image_metrics import frechet_distance, inception_score
from maskless.training.classifier import describes_classifier, rate, train_classifier
from maskless.training.recipes import recipe_names
from tests.surface.conftest import call  # noqa: F401  (a fixture)

SIZES = {"channels": 1, "size": 16, "classes": 3, "width": 4, "features": 8}


def png(pixels: np.ndarray) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Bright squares in one of three corners, on noise."""
    draw = np.random.default_rng(0)

    def split(count: int) -> tuple[np.ndarray, np.ndarray]:
        labels = draw.integers(0, 3, count)
        images = draw.integers(0, 60, (count, 12, 12)).astype(np.uint8)
        for image, label in zip(images, labels):
            image[6 * (label // 2):, 6 * (label % 2):][:6, :6] += 150
        return images, labels.astype(np.uint8)

    train, test = split(600), split(120)
    path = tmp_path_factory.mktemp("data") / "corners.npz"
    np.savez(path, x_train=train[0], y_train=train[1], x_test=test[0], y_test=test[1])
    return path


def pictures(path, size: int = 16, split: str = "valid"):
    return labelled_images(PlainPixels(source=ImageArrays(train=str(path)), size=size, fit="pad", channels=1), split)


def recipe(data, **training) -> dict:
    source = {"type": "arrays", "train": str(data)}
    return {"classifier": SIZES, "data": {"name": "corners", "source": source, "size": 16, "fit": "pad", "channels": 1},
            "training": {"epochs": 2, "batch_size": 32, "lr": 1e-2, **training}}


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    return train_classifier(recipe(data), out=tmp_path_factory.mktemp("run") / "classifier")


def test_training_learns_and_says_what_it_did(trained, data):
    card = json.loads((trained.folder / "classifier.json").read_text())
    assert card["accuracy"] > 0.95 and card["data"] == {"name": "corners", "sha256": card["data"]["sha256"], "train": 600, "held_out": 120}
    assert len(card["data"]["sha256"]) == 64 and card["recipe"]["training"]["seed"] == 0
    assert str(data.parent) not in json.dumps(card)                                                   # no places of one machine
    assert trained.name == f"corners classifier {card['crc32'][:4]}"
    assert sorted(file.name for file in trained.folder.iterdir()) == ["classifier.json", "classifier.safetensors"]


def test_training_is_a_function_of_the_seed(trained, data, tmp_path):
    again = train_classifier(recipe(data), out=tmp_path / "again")
    other = train_classifier(recipe(data, seed=1), out=tmp_path / "other")
    assert again.name == trained.name != other.name
    weights = again.network.state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in trained.network.state_dict().items() if "num_batches" not in name)


def test_features_are_labelled_and_do_not_depend_on_the_batch(trained, data):
    features = classifier_features(trained.folder)
    assert isinstance(features, Features) and (features.width, features.classes) == (8, 3)
    features.network.double()
    images = in_unit_range(pictures(data).pixels)
    whole, parts = (extract(features, images.split(size), split="test") for size in (120, 7))
    torch.testing.assert_close(whole.features, parts.features, rtol=1e-11, atol=1e-11)
    found = frechet_distance(statistics_of(whole), statistics_of(extract(features, [-images], split="negatives")))
    assert found.label == f"Frechet distance ({trained.name})" and found.value > 1 and "FID" not in str(found)
    logits = features.logits(whole.features)
    assert torch.equal(logits.argmax(1), trained.network.double()(images.double()).argmax(1))
    assert 2 < inception_score(logits, whole).value <= 3
    with pytest.raises(ValueError, match=rf"12 x 12 pixels in 1 channels do not fit the {trained.name}, which takes 16 x 16 in 1"):
        features(torch.zeros(2, 1, 12, 12))
    with pytest.raises(ValueError, match="no images of generated"):
        extract(features, [], split="generated")


def test_images_are_padded_into_the_middle(data):
    small, padded = pictures(data, 12), pictures(data)
    assert small.pixels.shape == (120, 1, 12, 12) and padded.pixels.shape == (120, 1, 16, 16)
    assert torch.equal(padded.pixels[:, :, 2:14, 2:14], small.pixels)
    assert int(padded.pixels[:, :, :2].sum() + padded.pixels[..., 14:].sum()) == 0


def test_the_rate_rises_and_falls():
    rates = [rate(1.0, step, 100) for step in range(100)]
    assert max(rates) == 1 and rates[9] == 1 and rates[0] == 0.1 and 0 < rates[-1] < 1e-3


def test_the_packaged_recipes():
    names = [name for name in recipe_names() if describes_classifier(name)]
    assert names == [f"image/classifier_{data}" for data in ("cifar", "fashion", "tiny_imagenet")] and not describes_classifier("tiny/pgm")
    

def test_the_command(data, tmp_path, call):  # noqa: F811
    changes = [f"data.source={{type: arrays, train: {data}}}", "data.name=corners", "data.size=16", "training.epochs=1"]
    changes += [f"classifier.{k}={v}" for k, v in SIZES.items()]
    ended = call("train", "image/classifier_fashion", *changes, "--out", tmp_path / "made")
    assert ended.code == 0 and "held-out images right" in ended.out and ended.out.splitlines()[-1] == str(tmp_path / "made")
    assert call("train", "image/classifier_fashion", *changes, "--out", tmp_path / "made").code == 2
    quiet = call("train", "image/classifier_fashion", *changes, "-q", "--out", tmp_path / "quiet")
    assert quiet.out.splitlines() == [str(tmp_path / "quiet")]


REFUSED = {
    "no file": (["data.source={type: arrays, train: nowhere.npz}"], "no file or folder nowhere.npz"),
    "padding below the images": (["data.size=8"], "12 x 12 pixels cannot be padded to 8"),
    "another size": (["data.size=24"], "set classifier.channels and data.channels, classifier.size and data.size alike"),
    "too few classes": (["classifier.classes=2"], "set classifier.classes=3"),
    "a size that cannot be halved": (["classifier.size=12", "data.size=12"], "multiple of 8"),
    "no epochs": (["training.epochs=0"], "epochs is 0"),
    "unknown key": (["training.epoch=1"], "did you mean training.epochs"),
    "no rate": (["training.lr=0"], "lr is 0"),
    "unknown device": (["training.device=abacus"], "abacus"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_mistakes_are_one_sentence_and_leave_nothing(what, data, tmp_path):
    changes, sentence = REFUSED[what]
    with pytest.raises(ValueError, match=sentence) as error:
        train_classifier(recipe(data), *changes, out=tmp_path / "run")
    assert "\n" not in str(error.value) and not list(tmp_path.iterdir())


@pytest.mark.parametrize("arrays, sentence", [
    ({"x_train": np.zeros((3, 4, 4), np.uint8)}, "have no classes"),
    ({"x_train": np.zeros((0, 4, 4), np.uint8), "y_train": np.zeros(0, int)}, "no images for train"),
])
def test_data_of_another_kind(arrays, sentence, tmp_path):
    np.savez(tmp_path / "other.npz", **arrays, x_test=np.zeros((1, 4, 4), np.uint8))
    with pytest.raises(ValueError, match=sentence):
        pictures(tmp_path / "other.npz", split="train")


def test_jpeg_files_end_to_end_are_images_too(tmp_path):
    files = [png(np.full((16, 16, 3), value, np.uint8)) for value in (10, 200)]
    arrays = {f"{part}_{key}": value for part in ("train", "val") for key, value in
              {"bytes": np.frombuffer(b"".join(files), np.uint8), "offsets": np.cumsum([0, *map(len, files)]), "labels": np.arange(2)}.items()}
    np.savez(tmp_path / "files.npz", **arrays)
    found = pictures(tmp_path / "files.npz")
    assert found.pixels.shape == (2, 1, 16, 16) and found.labels.tolist() == [0, 1] and found.pixels[:, 0, 0, 0].tolist() == [10, 200]
    assert found.sha256 == pictures(tmp_path / "files.npz", split="train").sha256 and len(found.sha256) == 64


def test_damaged_folders(trained, tmp_path):
    with pytest.raises(ValueError, match=r"holds no classifier.json"):
        load_classifier(tmp_path)
    for name in ("classifier.json", "classifier.safetensors"):
        (tmp_path / name).write_bytes((trained.folder / name).read_bytes())
    weights = tmp_path / "classifier.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    with pytest.raises(ValueError, match="check sum"):
        load_classifier(tmp_path)
    (tmp_path / "classifier.json").write_text("{}")
    with pytest.raises(ValueError, match="format 1"):
        load_classifier(tmp_path)
