"""Images encoded into shards: what is in them, work that was stopped, and training rows read where they lie."""
from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import types
import weakref

import numpy as np
import pytest
import torch
from PIL import Image

from maskless.alone import LOCK
from maskless.data.codec import PixelCodec
from maskless.data.image_sources import ImageArrays, ImageFolder
from maskless.data.images import ImageCodes
from maskless.data.loader import Loader
from maskless.data.shards import Encoded, Encoding, Shards, encode_images
from maskless.data.sources import open_data, tokenizer_of
from tests.data.test_pictures import content
from tests.surface.conftest import call  # noqa: F401  (a fixture)
from tests.training.runs import REPOSITORY, environment

GRID = (4, 4)


@pytest.fixture
def photos(tmp_path):
    """Eleven images of three classes, each of one shade: 10 times its number."""
    for number in range(11):
        path = tmp_path / "photos" / "abc"[number // 4] / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content(Image.new("L", (6, 8), 10 * number)))
    return tmp_path / "photos"


def work(photos, **changes) -> Encoding:
    source = ImageFolder(train=str(photos))
    settings = {"codes": ImageCodes(PixelCodec(256), GRID, source.classes()), "size": 4, "shard": 4, "batch": 3}
    return Encoding(source, **(settings | changes))


def test_shards_hold_every_image_in_order(photos, tmp_path):
    seen = []
    shards = encode_images(work(photos), tmp_path / "codes", seen.append)
    assert seen == [0, 3, 4, 7, 8, 11] and len(shards) == 11 and shards.length == 16 and len(shards.stores) == 3
    batch = shards.read(torch.tensor([10, 0, 5, 4]))
    assert batch.tokens[:, 0].tolist() == [100, 0, 50, 40] and batch.labels.tolist() == [2, 0, 1, 1]
    assert (batch.tokens == batch.tokens[:, :1]).all()
    assert sorted(path.name for path in (tmp_path / "codes").iterdir()) == [
        "codec.json", "images.json", "manifest.json", "shard-00000", "shard-00001", "shard-00002"]
    assert shards.stores[1].manifest.identity["images"] == ["b/04.png", "b/05.png", "b/06.png", "b/07.png"]
    assert shards.manifest["transform"] == {"size": 4, "fit": "crop", "channels": 1}
    again = encode_images(work(photos), tmp_path / "codes", seen.append)  # nothing is left to do
    assert len(again) == 11 and len(seen) == 6


def test_work_that_was_stopped_goes_on(photos, tmp_path, monkeypatch):
    def stopped(done):
        if done > 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encode_images(work(photos), tmp_path / "codes", stopped)
    with pytest.raises(ValueError, match="is not finished: encode the images again"):
        Shards(tmp_path / "codes")
    (photos / "a" / "00.png").write_bytes((photos / "a" / "00.png").read_bytes())
    os.utime(photos / "a" / "00.png", ns=(0, 0))
    with pytest.raises(ValueError, match=r"was encoded from something else \(source differ\)"):
        encode_images(work(photos), tmp_path / "codes")
    plan = json.loads((tmp_path / "codes" / "plan.json").read_text())
    plan["source"] = json.loads(json.dumps(work(photos).plan()["source"]))
    (tmp_path / "codes" / "plan.json").write_text(json.dumps(plan))
    opened = []
    monkeypatch.setattr("maskless.data.image_sources.read_picture", lambda file, name: opened.append(name) or Image.open(file))
    shards = encode_images(work(photos), tmp_path / "codes")
    assert len(opened) == 7  # the four images of the first shard are not read again
    assert shards.read(torch.arange(11)).tokens[:, 0].tolist() == [10 * number for number in range(11)]


def test_two_at_once_do_not_disturb_each_other(photos, tmp_path):
    place, refused = tmp_path / "codes", []

    def meanwhile(done):
        before = sorted(place.rglob("*"))
        with pytest.raises(ValueError, match=r"another process encodes images into .*codes: wait until it is done, or choose a new folder"):
            encode_images(work(photos), place)
        assert sorted(place.rglob("*")) == before                   # what is half written is still there
        refused.append(done)

    shards = encode_images(work(photos), place, meanwhile)
    assert refused == [0, 3, 4, 7, 8, 11] and shards.read(torch.arange(11)).tokens[:, 0].tolist() == [10 * number for number in range(11)]
    assert not (place / LOCK).exists() and len(encode_images(work(photos), place)) == 11


def test_a_lock_that_a_dead_process_left_is_no_obstacle(photos, tmp_path):
    (tmp_path / "codes").mkdir()
    (tmp_path / "codes" / LOCK).touch()
    assert len(encode_images(work(photos), tmp_path / "codes")) == 11 and not (tmp_path / "codes" / LOCK).exists()


def test_the_command_takes_data_sets(tmp_path, call, monkeypatch):  # noqa: F811
    """By the names that recipes know; a folder of such a name comes first."""
    records = [{"image": Image.new("L", (4, 4), 10 * number), "label": number % 3} for number in range(5)]
    asked = []

    class Fetched(list):
        features = types.MappingProxyType({"label": types.SimpleNamespace(names=["a", "b", "c"])})

    monkeypatch.setattr("maskless.data.image_sources.fetched", lambda name, *where: asked.append((name, *where)) or Fetched(records))
    monkeypatch.chdir(tmp_path)
    how = ["--codec", "pixels:256", "--size", 4]
    ended = call("encode-images", "hub:fashion_mnist", tmp_path / "codes", *how)
    assert ended.code == 0 and "5 images, 4 x 4 codes out of 256, 3 classes" in ended.out, ended.err
    assert set(asked) == {("fashion_mnist", "zalando-datasets/fashion_mnist", None, "train", None)}
    shards = Shards(tmp_path / "codes")
    assert shards.read(torch.arange(5)).labels.tolist() == [0, 1, 2, 0, 1] and shards.manifest["source"][0] == "ImageHub"
    assert call("encode-images", "hub:someone/else", tmp_path / "others", *how).code == 0 and asked[-1][1] == "someone/else"
    ended = call("encode-images", "hub:shoes", tmp_path / "none", *how)
    assert ended.code == 2 and "'shoes': it must be one of mnist, fashion_mnist" in ended.err and not (tmp_path / "none").exists()
    found = types.SimpleNamespace(images=(np.arange(20 * 64.0) % 17).reshape(20, 8, 8), target=np.arange(20) % 10)
    monkeypatch.setitem(sys.modules, "sklearn", types.SimpleNamespace(datasets=types.SimpleNamespace(load_digits=lambda: found)))
    monkeypatch.setitem(sys.modules, "sklearn.datasets", types.SimpleNamespace(load_digits=lambda: found))
    assert call("encode-images", "digits", tmp_path / "digits_codes", "--codec", "pixels:16", "--size", 8, "--batch", 512, "-q").code == 0
    assert len(Shards(tmp_path / "digits_codes")) == 20
    (tmp_path / "digits").mkdir()
    ended = call("encode-images", "digits", tmp_path / "none", *how)
    assert ended.code == 2 and "digits" in ended.err and not (tmp_path / "none").exists()


@pytest.mark.parametrize("moment", ["before", "after"])
def test_kill_9_loses_no_shard(photos, tmp_path, moment):
    code = f"""
import os, signal, sys
from pathlib import Path
from maskless.cli.main import main
rename = Path.rename
def deadly(path, target):
    if target.name == "shard-00001" and {moment!r} == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    rename(path, target)
    if target.name == "shard-00001":
        os.kill(os.getpid(), signal.SIGKILL)
Path.rename = deadly
main()
"""
    words = ["encode-images", str(photos), str(tmp_path / "codes"), "--codec", "pixels:256", "--size", "4", "--shard", "4", "-q"]
    ended = subprocess.run([sys.executable, "-c", code, *words], cwd=REPOSITORY, env=environment(), capture_output=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    complete = sorted(path.name for path in (tmp_path / "codes").glob("shard-?????"))
    assert complete == ["shard-00000"] + (["shard-00001"] if moment == "after" else [])
    shards = encode_images(work(photos), tmp_path / "codes")
    assert shards.read(torch.arange(11)).tokens[:, 0].tolist() == [10 * number for number in range(11)]
    assert not list((tmp_path / "codes").glob("*.tmp")) and not (tmp_path / "codes" / LOCK).exists()


def test_a_damaged_image_stops_the_work_and_harms_nothing(photos, tmp_path):
    bad = photos / "b" / "06.png"
    bad.write_bytes(bad.read_bytes()[:50])
    with pytest.raises(ValueError, match=r"06\.png is truncated or damaged"):
        encode_images(work(photos), tmp_path / "codes")
    assert sorted(path.name for path in (tmp_path / "codes").glob("shard-*")) == ["shard-00000"]


def test_an_error_leaves_nothing_on_stdout(photos, tmp_path, call):  # noqa: F811
    (photos / "b" / "06.png").write_bytes(b"")
    ended = call("encode-images", photos, tmp_path / "codes", "--codec", "pixels:256", "--size", 4)
    assert ended.code == 2 and ended.out == "" and "06.png" in ended.err


@pytest.mark.parametrize("how", ["repaired", "removed", "one added"])
def test_after_a_damaged_image_the_work_goes_on(photos, tmp_path, how):
    """As long as the images of the shards that are there are what they were."""
    bad, codes, opened = photos / "b" / "06.png", tmp_path / "codes", []
    whole = bad.read_bytes()
    bad.write_bytes(whole[:50])
    with pytest.raises(ValueError, match=r"06\.png is truncated or damaged"):
        encode_images(work(photos), codes)
    shades = [10 * number for number in range(11)]
    if how == "removed":
        bad.unlink()
        shades.remove(60)
    else:
        bad.write_bytes(whole)
    if how == "one added":
        (photos / "c" / "11.png").write_bytes(content(Image.new("L", (6, 8), 110)))
        shades.append(110)
    shards = encode_images(work(photos), codes, opened.append)
    assert opened[0] == 4 and shards.read(torch.arange(len(shades))).tokens[:, 0].tolist() == shades
    assert len(encode_images(work(photos), codes)) == len(shades)  # nothing is left to do


@pytest.mark.parametrize("number", [0, 3])
def test_an_image_of_a_shard_that_changed_ends_the_work(photos, tmp_path, number):
    bad, changed = photos / "b" / "06.png", photos / "a" / f"{number:02d}.png"
    bad.write_bytes(bad.read_bytes()[:50])
    with pytest.raises(ValueError, match=r"06\.png is truncated or damaged"):
        encode_images(work(photos), tmp_path / "codes")
    changed.unlink()
    with pytest.raises(ValueError, match=r"was encoded from something else \(source differ\): choose a new folder"):
        encode_images(work(photos), tmp_path / "codes")


def test_images_added_after_the_last_shard_end_the_work(photos, tmp_path):
    """The last shard is short: what comes after it has no place."""
    codes = tmp_path / "codes"
    encode_images(work(photos), codes)
    (codes / "manifest.json").rename(codes / "plan.json")  # as if killed in between
    (photos / "c" / "11.png").write_bytes((photos / "c" / "10.png").read_bytes())
    with pytest.raises(ValueError, match=r"source differ"):
        encode_images(work(photos), codes)
    (photos / "c" / "11.png").unlink()
    assert len(encode_images(work(photos), codes)) == 11


def test_any_source_may_change_before_the_first_shard(photos, tmp_path):
    np.savez(tmp_path / "a.npz", x=np.zeros((3, 4, 4), np.uint8))
    images = ImageArrays(train=str(tmp_path / "a.npz"))
    arrays = lambda: Encoding(images, ImageCodes(PixelCodec(256), GRID), 4, shard=4, batch=3)
    with pytest.raises(KeyboardInterrupt):
        encode_images(arrays(), tmp_path / "codes", interrupted)
    np.savez(tmp_path / "a.npz", x=np.ones((6, 4, 4), np.uint8))
    assert len(encode_images(arrays(), tmp_path / "codes")) == 6
    (tmp_path / "codes" / "manifest.json").rename(tmp_path / "codes" / "plan.json")
    np.savez(tmp_path / "a.npz", x=np.ones((7, 4, 4), np.uint8))
    with pytest.raises(ValueError, match=r"source differ"):
        encode_images(arrays(), tmp_path / "codes")


def test_the_part_for_validation(photos, tmp_path):
    jpeg = content(Image.new("L", (4, 4), 70))
    parts = {f"{part}_{name}": value for part, n in (("train", 3), ("test", 2)) for name, value in {
        "bytes": np.frombuffer(jpeg * n, np.uint8), "offsets": np.arange(n + 1) * len(jpeg), "labels": np.arange(n)}.items()}
    np.savez(tmp_path / "a.npz", **parts)
    images = ImageArrays(train=str(tmp_path / "a.npz"))
    arrays = lambda split: Encoding(images, ImageCodes(PixelCodec(256), GRID, images.classes()), 4, split=split)
    assert [len(encode_images(arrays(split), tmp_path / split)) for split in ("train", "valid")] == [3, 2]
    held_out = Encoded(train=str(tmp_path / "train"), valid=str(tmp_path / "valid"))
    assert [len(held_out.stored(split, 16)) for split in ("train", "valid")] == [3, 2]
    with pytest.raises(ValueError, match="split differ"):
        encode_images(arrays("valid"), tmp_path / "train")
    with pytest.raises(ValueError, match="this source has no part for validation"):
        work(photos, split="valid")


def test_classes_of_the_other_folder_are_the_same(photos, tmp_path):
    """A part for validation that lacks a class would number the others anew."""
    for name in "bc":
        shutil.copytree(photos / name, tmp_path / "fewer" / name)
    for name in ("photos", "fewer"):
        encode_images(work(tmp_path / name), tmp_path / f"{name}_codes")
    parts = {"train": str(tmp_path / "photos_codes"), "valid": str(tmp_path / "fewer_codes")}
    with pytest.raises(ValueError, match=r"fewer_codes has the classes b, c and .*photos_codes a, b, c: encode folders with the same subfolders"):
        open_data(Encoded(**parts), length=16, split="valid")
    assert len(open_data(Encoded(**parts, labels=False), length=16, split="valid")) == 7


def test_a_data_set_that_is_in_no_table_is_asked_for_its_parts(tmp_path, call, monkeypatch):  # noqa: F811
    asked = []
    records = [{"image": Image.new("L", (4, 4), 10 * number)} for number in range(3)]
    monkeypatch.setattr("maskless.data.image_sources.fetched", lambda name, place, config, part, revision: asked.append(part) or records)
    monkeypatch.setattr("maskless.data.image_sources.parts", lambda name, place: ["train", "test"] if place == "some/one" else ["train"])
    how = ["--codec", "pixels:256", "--size", 4, "--split", "valid"]
    assert call("encode-images", "hub:some/one", tmp_path / "codes", *how).code == 0 and asked[-1] == "test"
    ended = call("encode-images", "hub:other/one", tmp_path / "none", *how)
    assert ended.code == 2 and "no part for validation" in ended.err
    assert call("encode-images", tmp_path, tmp_path / "none", *how, "--device", "tpu").code == 2


def interrupted(done: int) -> None:
    raise KeyboardInterrupt


def test_what_cannot_be_encoded(photos, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").write_text("a")
    with pytest.raises(ValueError, match="exists and holds something else"):
        encode_images(work(photos), tmp_path / "full")
    with pytest.raises(ValueError, match="shard is 0"):
        work(photos, shard=0)
    with pytest.raises(ValueError, match="an image of 6 x 8 pixels cannot be padded to 4"):
        encode_images(work(photos, fit="pad"), tmp_path / "codes")
    assert len(encode_images(work(photos), tmp_path / "codes")) == 11   # nothing was there yet, so another way is no other work
    encode_images(work(photos), tmp_path / "done")
    for change in ({"shard": 5}, {"codes": ImageCodes(PixelCodec(128), GRID, ("a", "b", "c"))}):
        with pytest.raises(ValueError, match=r"was encoded from something else .*: choose a new folder"):
            encode_images(work(photos, **change), tmp_path / "done")


def test_training_rows_are_read_where_they_lie(photos, tmp_path):
    encode_images(work(photos), tmp_path / "codes")
    spec = Encoded(train=str(tmp_path / "codes"), holdout=0.4, seed=1)
    codes = tokenizer_of(spec)
    assert codes.grid == GRID and codes.classes == ("a", "b", "c") and codes.vocabulary.size == 256
    parts = [open_data(spec, length=16, split=split, cache=tmp_path / "cache") for split in ("train", "valid")]
    shades = [part.read(torch.arange(len(part))).tokens[:, 0].tolist() for part in parts]
    assert sorted(shades[0] + shades[1]) == [10 * number for number in range(11)] and all(shades)
    batch = Loader(parts[0], batch_size=4, seed=0).batch(5)
    assert batch.labels.tolist() == [shade // 40 for shade in batch.tokens[:, 0].tolist()]
    plain = Encoded(train=str(tmp_path / "codes"), valid=str(tmp_path / "codes"), labels=False)
    assert tokenizer_of(plain).classes == () and len(open_data(plain, length=16, split="valid")) == 11
    assert open_data(plain, length=16, split="train").read(torch.tensor([3])).labels is None
    assert not (tmp_path / "cache").exists()
    with pytest.raises(ValueError, match="an image is 4 x 4 codes: length is 16, not 17"):
        open_data(spec, length=17, split="train")
    with pytest.raises(ValueError, match="holds no encoded images: give a folder of encode-images"):
        open_data(Encoded(train=str(photos), valid=str(photos)), length=16, split="train")
    with pytest.raises(ValueError, match="no image is left"):
        open_data(Encoded(train=str(tmp_path / "codes"), holdout=0.0), length=16, split="valid")


def test_mirror_images_are_trained_on_as_well(tmp_path):
    """Those of the rows that are trained on, and of no row that is held out."""
    shades = np.arange(9 * 4, dtype=np.uint8).reshape(9, 1, 4).repeat(4, 1)
    np.savez(tmp_path / "a.npz", x_train=shades, y_train=np.arange(9) % 3)
    source = ImageArrays(train=str(tmp_path / "a.npz"))
    codes = ImageCodes(PixelCodec(256), GRID, source.classes())
    for mirror, name in ((False, "plain"), (True, "mirrored")):
        encode_images(Encoding(source, codes, 4, shard=4, batch=3, mirror=mirror), tmp_path / name)
    spec = Encoded(train=str(tmp_path / "plain"), mirrored=str(tmp_path / "mirrored"), holdout=0.4, seed=1)
    train, held = (open_data(spec, length=16, split=split) for split in ("train", "valid"))
    assert len(train) == 2 * (9 - len(held)) and 0 < len(held) < 9
    mixed = train.read(torch.arange(len(train)).flip(0))
    plain, turned = (part.flip(0) for part in mixed.tokens.chunk(2)[::-1])
    assert torch.equal(turned.view(-1, *GRID).flip(-1), plain.view(-1, *GRID)) and not torch.equal(turned, plain)
    assert torch.equal(*mixed.labels.chunk(2)) and train.read(torch.tensor([0])).labels.tolist() == [int(plain[0, 0]) // 4 % 3]
    assert not {*plain[:, 0].tolist()} & {*held.read(torch.arange(len(held))).tokens[:, 0].tolist()}
    for mirrored in ("plain", "other"):
        encode_images(Encoding(source, codes, 4, split="train", shard=9, batch=3), tmp_path / "other")
        with pytest.raises(ValueError, match=rf"{mirrored} does not hold the mirror images of .*plain \(transform differ\)"):
            open_data(Encoded(train=str(tmp_path / "plain"), mirrored=str(tmp_path / mirrored)), length=16, split="train")


def test_damaged_shards_say_so(photos, tmp_path):
    encode_images(work(photos), tmp_path / "codes")
    manifest = tmp_path / "codes" / "manifest.json"
    whole = json.loads(manifest.read_text())
    for change, message in (({"images": 12}, "has 11 images, not 12"), ({"format": 9}, "is not a manifest of format 1"),
                            ({"shards": 4}, "shard-00003 is not a token store")):
        manifest.write_text(json.dumps({**whole, **change}))
        with pytest.raises(ValueError, match=message):
            Shards(tmp_path / "codes")
    manifest.write_text(json.dumps(whole))
    os.truncate(tmp_path / "codes" / "shard-00001" / "tokens.bin", 3)
    with pytest.raises(ValueError, match="is damaged"):
        Shards(tmp_path / "codes")


def test_memory_does_not_grow_with_the_images(tmp_path):
    """No more than one batch of images is alive at any time."""
    alive = most = 0

    def gone():
        nonlocal alive
        alive -= 1

    class Many:
        divided = False

        def identity(self):
            return "many"

        def pictures(self, split, start=0):
            nonlocal alive, most
            from maskless.data.image_sources import Picture

            for number in range(start, 40):
                image = Image.new("L", (4, 4), number)
                weakref.finalize(image, gone)
                alive += 1
                most = max(most, alive)
                yield Picture(image, None, str(number))

    many = Encoding.__new__(Encoding)
    many.__dict__.update(source=Many(), codes=ImageCodes(PixelCodec(256), GRID), size=4, fit="crop", shard=16, batch=3)
    assert len(encode_images(many, tmp_path / "codes")) == 40
    assert most <= 3 * 2 + 2
