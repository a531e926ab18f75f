"""Sources of images, the rows made of them, and what stands where text has a tokenizer."""
from __future__ import annotations

import io
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from maskless.config import build
from maskless.data.codec import PixelCodec
from maskless.data.image_sources import Digits, ImageArrays, ImageFolder, ImageHub
from maskless.data.images import ImageCodes, Images, PlainPixels, load_image_codes
from maskless.data.source import Source
from maskless.data.sources import open_data, tokenizer_of
from maskless.data.vq import VQCodec
from maskless.data.vqgan import VQ, VQConfig
from tests.data.test_pictures import content

RNG = np.random.default_rng(0)
TINY = VQConfig(ch=4, ch_mult=(1, 1), res_blocks=1, z_channels=4, codebook_size=8, codebook_dim=2, channels=1, groups=2)


def noise(n: int = 6, size: int = 8, *more: int) -> np.ndarray:
    return RNG.integers(0, 256, (n, size, size, *more), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path) -> Path:
    """Two classes of two images each, of several kinds and sizes."""
    for name, size, kind in (("cat/a.png", 8, "PNG"), ("cat/deep/b.JPEG", 12, "JPEG"), ("dog/a.png", 9, "PNG"), ("dog/c.webp", 8, "WEBP")):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content(Image.fromarray(noise(1, size, 3)[0]), kind))
    return tmp_path / "photos"


@pytest.fixture
def arrays(tmp_path) -> Path:
    images = noise(12)
    np.savez(tmp_path / "a.npz", x_train=images[:8], y_train=np.arange(8) % 3, x_test=images[8:], y_test=np.array([2, 0, 1, 1]))
    return tmp_path / "a.npz"


def opened(source, split="train", tmp=None, **changes):
    spec = Images(**({"source": source, "size": 8, "codec": PixelCodec(256)} | changes))
    return spec, open_data(spec, length=tokenizer_of(spec).length, split=split, cache=tmp)


def test_a_folder_of_classes(folder, tmp_path):
    spec, store = opened(ImageFolder(train=str(folder)), tmp=tmp_path / "cache", holdout=0.0)
    batch = store.read(torch.arange(4))
    assert batch.labels.tolist() == [0, 0, 1, 1] and tokenizer_of(spec).classes == ("cat", "dog")
    first = np.asarray(Image.open(folder / "cat/a.png").convert("L"))
    assert batch.tokens[0].view(8, 8).tolist() == first.tolist()
    again = open_data(spec, length=64, split="train", cache=tmp_path / "cache")
    assert again.folder == store.folder and len(list((tmp_path / "cache").iterdir())) == 1
    with pytest.raises(ValueError, match="the valid part of the images data"):
        open_data(spec, length=64, split="valid", cache=tmp_path / "cache")


def test_folders_with_a_validation_part_and_without_classes(folder, tmp_path):
    plain = tmp_path / "plain"
    plain.mkdir()
    for number, image in enumerate(noise(3, 10)):
        (plain / f"{number}.png").write_bytes(content(Image.fromarray(image)))
    source = ImageFolder(train=str(plain), valid=str(folder / "cat"))
    _, store = opened(source, "valid", tmp=tmp_path / "cache")
    assert len(store) == 2 and store.read(torch.tensor([0])).labels is None
    valid = ImageFolder(train=str(folder), valid=str(tmp_path))
    with pytest.raises(ValueError, match=r"is of no class of .*: the classes are cat, dog"):
        opened(valid, "valid", tmp=tmp_path / "cache")
    (folder / "lost.png").write_bytes((plain / "0.png").read_bytes())
    with pytest.raises(ValueError, match=r"lost\.png has no class, other images of"):
        opened(ImageFolder(train=str(folder)), tmp=tmp_path / "cache")


def test_arrays_with_parts(arrays, tmp_path):
    source = ImageArrays(train=str(arrays))
    assert source.divided and source.classes() == ("0", "1", "2")
    _, train = opened(source, tmp=tmp_path / "cache")
    _, valid = opened(source, "valid", tmp=tmp_path / "cache")
    assert (len(train), len(valid)) == (8, 4)
    assert valid.read(torch.arange(4)).labels.tolist() == [2, 0, 1, 1]
    assert train.read(torch.tensor([5])).tokens.view(8, 8).tolist() == np.load(arrays)["x_train"][5].tolist()
    other = ImageArrays(train=str(arrays), valid=str(arrays))
    assert len(list(other.pictures("valid"))) == 4


def test_arrays_without_parts_are_divided_by_their_pixels(tmp_path):
    images = noise(200)
    images[100:] = images[:100]  # each twice: both copies are on one side
    np.savez(tmp_path / "a.npz", x=images)
    source = ImageArrays(train=str(tmp_path / "a.npz"))
    assert not source.divided and source.classes() == ()
    spec, train = opened(source, tmp=tmp_path / "cache", holdout=0.3)
    _, valid = opened(source, "valid", tmp=tmp_path / "cache", holdout=0.3)
    assert len(train) + len(valid) == 200 and 30 < len(valid) < 90
    seen, held = ({tuple(row.tolist()) for row in store.read(torch.arange(len(store))).tokens} for store in (train, valid))
    assert not seen & held and spec.classes() == ()


def packed(tmp_path, **changes) -> Path:
    """Six images as files end to end, two of them for validation."""
    files = [content(Image.fromarray(image), "JPEG") for image in noise(6, 16, 3)]
    parts = {}
    for name, some in (("train", files[:4]), ("val", files[4:])):
        parts[f"{name}_bytes"] = np.frombuffer(b"".join(some), np.uint8)
        parts[f"{name}_offsets"] = np.cumsum([0, *map(len, some)])
        parts[f"{name}_labels"] = np.arange(len(some), dtype=np.int16) % 2
    np.savez(tmp_path / "jpeg.npz", **({**parts, "classes": np.array(["fish", "bird"])} | changes))
    return tmp_path / "jpeg.npz"


def test_files_end_to_end(tmp_path):
    source = ImageArrays(train=str(packed(tmp_path)))
    spec, store = opened(source, tmp=tmp_path / "cache", codec=PixelCodec(8, 3))
    assert (len(store), store.manifest.vocabulary) == (4, 512) and tokenizer_of(spec).classes == ("fish", "bird")
    _, valid = opened(source, "valid", tmp=tmp_path / "cache", codec=PixelCodec(8, 3))
    assert valid.read(torch.arange(2)).labels.tolist() == [0, 1]


def test_wrong_arrays(tmp_path, arrays):
    good = dict(np.load(arrays))
    cases = {
        "image 3 of .* has the label 9, not one of 0..2": {"y_train": np.array([0, 1, 2, 9] * 2), "classes": np.array(list("abc"))},
        "has the label -1": {"y_train": np.array([0, -1] * 4)},
        "y_train holds float64, and labels are whole numbers": {"y_train": np.full(8, 0.5)},
        "y_train holds <U5, and labels are whole numbers": {"y_train": np.full(8, "shoes")},
        "x_train is a single value": {"x_train": np.uint8(3)},
        "8 images and 7 labels": {"y_train": np.zeros(7, int)},
        "is no image but float64": {"x_train": np.zeros((8, 8, 8))},
        "is no image but uint8 of shape \\(8, 8, 2\\)": {"x_train": np.zeros((8, 8, 8, 2), np.uint8)},
    }
    for message, change in cases.items():
        np.savez(tmp_path / "b.npz", **{**good, **change})
        with pytest.raises(ValueError, match=message) as caught:
            opened(ImageArrays(train=str(tmp_path / "b.npz")), tmp=tmp_path / "cache")
        assert "\n" not in str(caught.value) and "b.npz" in str(caught.value)
    np.savez(tmp_path / "b.npz", z=np.zeros(3))
    with pytest.raises(ValueError, match="holds no images: it needs x_train"):
        opened(ImageArrays(train=str(tmp_path / "b.npz")), tmp=tmp_path / "cache")
    whole, plain = arrays.read_bytes(), io.BytesIO()
    np.save(plain, np.zeros(3))
    flipped = bytes([*whole[:200], whole[200] ^ 255, *whole[201:]])
    for damaged in (b"PK garbage", whole[:len(whole) // 2], flipped, plain.getvalue()):
        (tmp_path / "c.npz").write_bytes(damaged)
        with pytest.raises(ValueError, match=r"c\.npz is damaged or no \.npz file"):
            opened(ImageArrays(train=str(tmp_path / "c.npz")), tmp=tmp_path / "cache")
    offsets = np.array([0, 5, 10, 15, 20])
    with pytest.raises(ValueError, match=r"image 0 of .* is not an image"):
        opened(ImageArrays(train=str(packed(tmp_path, train_offsets=offsets))), tmp=tmp_path / "cache", codec=PixelCodec(8, 3))
    assert not (tmp_path / "cache").exists() or list((tmp_path / "cache").iterdir()) == []


def test_wrong_files_in_a_folder(folder, tmp_path):
    (folder / "dog" / "z.png").write_bytes((folder / "dog" / "a.png").read_bytes()[:100])
    with pytest.raises(ValueError, match=r"z\.png is truncated or damaged"):
        opened(ImageFolder(train=str(folder)), tmp=tmp_path / "cache")
    (folder / "dog" / "z.png").write_text("not an image")
    with pytest.raises(ValueError, match=r"z\.png is not an image that can be read: take it away or convert it"):
        opened(ImageFolder(train=str(folder)), tmp=tmp_path / "cache")
    with pytest.raises(ValueError, match="there is no file or folder"):
        opened(ImageFolder(train=str(folder / "none")), tmp=tmp_path / "cache")


def test_mirror_images_follow_their_originals_in_training_only(arrays, tmp_path):
    _, plain = opened(ImageArrays(train=str(arrays)), tmp=tmp_path / "cache")
    _, both = opened(ImageArrays(train=str(arrays)), tmp=tmp_path / "cache", flips=True)
    assert len(both) == 2 * len(plain)
    tokens = both.read(torch.arange(16)).tokens.view(8, 2, 8, 8)
    assert torch.equal(tokens[:, 0].flatten(1), plain.read(torch.arange(8)).tokens)
    assert torch.equal(tokens[:, 1], tokens[:, 0].flip(-1))
    assert both.read(torch.arange(16)).labels.view(8, 2).diff().abs().sum() == 0
    assert len(opened(ImageArrays(train=str(arrays)), "valid", tmp=tmp_path / "cache", flips=True)[1]) == 4


def test_labels_can_be_left_out_and_padding_asked_for(arrays, tmp_path):
    spec, store = opened(ImageArrays(train=str(arrays)), tmp=tmp_path / "cache", labels=False, fit="pad", size=10)
    assert store.read(torch.tensor([0])).labels is None and tokenizer_of(spec).classes == () and store.length == 100
    assert store.read(torch.tensor([0])).tokens.view(10, 10)[0].sum() == 0


def test_a_vq_codec_by_its_folder(arrays, tmp_path):
    torch.manual_seed(0)
    codec = VQCodec(VQ(TINY))
    (tmp_path / "codec").mkdir()
    codec.save(tmp_path / "codec")
    tree = {"source": {"type": "arrays", "train": str(arrays)}, "size": 8, "codec": str(tmp_path / "codec")}
    spec = build(Images, tree)
    store = open_data(spec, length=16, split="train", cache=tmp_path / "cache")
    images = torch.from_numpy(np.load(arrays)["x_train"])[:, None] / 255 * 2 - 1
    assert torch.equal(store.read(torch.arange(8)).tokens, codec.encode(images).flatten(1))
    codes = tokenizer_of(spec)
    assert codes.grid == (4, 4) and codes.vocabulary.size == 8
    assert torch.equal(codes.images(store.read(torch.arange(2)).tokens), codec.decode(codec.encode(images[:2])))
    with torch.no_grad():
        codec.model.quant_conv.weight.add_(1)
    VQCodec(codec.model).save(tmp_path / "codec")  # another codec in the same place is another store
    assert open_data(spec, length=16, split="train", cache=tmp_path / "cache").folder != store.folder
    with pytest.raises(ValueError, match="an image is 4 x 4 codes: length is 16, not 17"):
        open_data(spec, length=17, split="train", cache=tmp_path / "cache")
    with pytest.raises(ValueError, match="size is 9, no multiple of the 2 pixels of a cell"):
        tokenizer_of(build(Images, {**tree, "size": 9}))
    with pytest.raises(ValueError, match=r"none does not exist: give a folder with codec\.json"):
        tokenizer_of(build(Images, {**tree, "codec": str(tmp_path / "none")}))


def test_what_a_recipe_may_not_say():
    tree = {"source": {"type": "digits"}, "size": 8, "codec": {"type": "pixels", "levels": 4}}
    assert build(Images, tree).codec == PixelCodec(4)
    for change, message in (({"size": 0}, "size is 0"), ({"fit": "stretch"}, "fit is 'stretch'"), ({"holdout": 1.5}, "holdout"),
                            ({"codec": {"type": "pixels", "levels": 1}}, "codec: levels is 1"), ({"codec": 3}, "codec is 3"),
                            ({"source": {"type": "video"}}, "source.type is 'video'"), ({"codec": {"type": "jpeg"}}, "codec.type"),
                            ({"source": {"type": "hub", "name": "mnits"}}, "source: name is 'mnits'")):
        with pytest.raises(ValueError, match=message):
            build(Images, {**tree, **change})


def test_bytes_to_train_a_codec_on(tmp_path):
    np.savez(tmp_path / "a.npz", x=noise(5, 8, 3), y=np.arange(5))
    spec = PlainPixels(source=ImageArrays(train=str(tmp_path / "a.npz")), size=8, channels=3, holdout=0.0)
    store = open_data(spec, length=3 * 64, split="train", cache=tmp_path / "cache")
    images = np.load(tmp_path / "a.npz")["x"]
    assert torch.equal(store.read(torch.arange(5)).tokens.view(5, 3, 8, 8), torch.from_numpy(images).permute(0, 3, 1, 2))
    assert store.manifest.files["tokens"]["bytes"] == 5 * 192 and store.read(torch.tensor([4])).labels.tolist() == [4]
    with pytest.raises(ValueError, match="channels is 2"):
        PlainPixels(source=Digits(), size=8, channels=2)


def test_the_hub_by_name(monkeypatch, tmp_path):
    calls = []

    class Set(list):
        features = {"label": types.SimpleNamespace(names=["cat", "dog"])}  # noqa: RUF012

    def load_dataset(path, name, *, split, revision):
        calls.append((path, name, split, revision))
        picture = Image.fromarray(noise(1)[0])
        return Set([{"img": picture, "image": {"bytes": content(picture)}, "label": 1, "jpg": picture, "cls": 7}])

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    spec, store = opened(ImageHub(name="cifar10"), "valid", tmp=tmp_path / "cache", codec=PixelCodec(4, 3))
    assert store.read(torch.tensor([0])).labels.tolist() == [1] and tokenizer_of(spec).classes == ("cat", "dog")
    assert ("uoft-cs/cifar10", None, "test", None) in calls
    assert next(ImageHub(name="imagenet").pictures("valid")).label == 7
    assert calls[-1] == ("timm/imagenet-1k-wds", None, "validation", None)
    mine = ImageHub(name="me/birds", image="jpg", label="cls")
    assert not mine.divided and mine.classes() == () and next(mine.pictures("train")).label is None
    assert calls[-1][0] == "me/birds"
    assert next(ImageHub(name="mnist", repository="copy/of/it").pictures("train")).image.size == (8, 8)
    with pytest.raises(ValueError, match="me/birds has no column 'photo' but img, image, label, jpg, cls"):
        next(ImageHub(name="me/birds", image="photo").pictures("train"))
    with pytest.raises(ValueError, match="image 0 of me/birds is no image but int"):
        next(ImageHub(name="me/birds", image="cls").pictures("train"))
    with pytest.raises(ValueError, match="name is 'mnits': it must be one of mnist"):
        ImageHub(name="mnits")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ValueError, match=r"pip install 'maskless\[data\]'"):
        next(ImageHub(name="mnist").pictures("train"))


def test_the_digits_of_scikit_learn(monkeypatch, tmp_path):
    found = types.SimpleNamespace(images=(np.arange(20 * 64.0) % 17).reshape(20, 8, 8), target=np.arange(20) % 10)
    datasets = types.SimpleNamespace(load_digits=lambda: found)
    monkeypatch.setitem(sys.modules, "sklearn", types.SimpleNamespace(datasets=datasets))
    monkeypatch.setitem(sys.modules, "sklearn.datasets", datasets)
    spec, store = opened(Digits(), tmp=tmp_path / "cache", codec=PixelCodec(17), holdout=0.0)
    assert len(store) == 20 and len(tokenizer_of(spec).classes) == 10 and store.read(torch.tensor([13])).labels.tolist() == [3]
    assert torch.equal(store.read(torch.arange(20)).tokens.flatten(), torch.from_numpy(np.rint(found.images).astype(int)).flatten())
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ValueError, match=r"scikit-learn: pip install 'maskless\[images\]'"):
        next(Digits().pictures("train"))


def test_what_stands_for_a_tokenizer(tmp_path):
    codes = ImageCodes(PixelCodec(4), (4, 8), ("cat", "dog"))
    assert codes.length == 32 and codes.vocabulary.size == 4 and codes.vocabulary.forbidden == ()
    codes.save(tmp_path)
    assert load_image_codes(tmp_path) == codes
    tokens = torch.arange(32) % 4
    assert torch.equal(codes.codec.encode(codes.images(tokens[None])).flatten(), tokens)
    drawing = codes.decode(tokens.tolist()).splitlines()
    assert len(drawing) == 2 and drawing[0] == drawing[1] == " -*@ -*@"
    with pytest.raises(ValueError, match="rows of 31 codes do not fill a grid of 4 x 8"):
        codes.images(tokens[None, :31])
    with pytest.raises(ValueError, match="the code 4 is outside"):
        codes.images(tokens[None] + 1)
    (tmp_path / "images.json").write_text('{"grid": 4}')
    with pytest.raises(ValueError, match="is damaged"):
        load_image_codes(tmp_path)
    (tmp_path / "images.json").unlink()
    with pytest.raises(ValueError, match=r"has no images\.json"):
        load_image_codes(tmp_path)
    assert isinstance(Images(source=Digits(), size=8, codec=PixelCodec(4)), Source)
