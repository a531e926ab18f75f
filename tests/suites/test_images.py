"""Images against real ones: the metrics of `evaluation.image_metrics` on what the model draws, resumed and refused."""
from __future__ import annotations

import hashlib
import json
import shutil
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch

import maskless
from maskless.cli.bench_images import measure
from maskless.cli.main import app
from maskless.data.image_sources import ImageArrays
from maskless.data.images import Images, PlainPixels
from maskless.data.pictures import in_unit_range
from maskless.data.sources import Files
from maskless.decoding import SamplerOptions
from maskless.evaluation.classifier import Classifier, ClassifierConfig, save_classifier
from maskless.evaluation.feature_statistics import load_statistics, save_statistics
from maskless.evaluation.features import (
    ClassifierFeatures,
    InceptionFeatures,
    classifier_features,
    extract,
    extractor,
    statistics_of,
)
from maskless.evaluation.image_metrics import frechet_distance, kernel_distance
from maskless.evaluation.image_transform import PROTOCOLS
from maskless.evaluation.inception import Inception
from maskless.evaluation.settings import ImageQuality, Likelihood
from maskless.suites.drawing import completed
from maskless.suites.images import _origin
from maskless.suites.likelihood import open_held
from maskless.suites.run import evaluate
from maskless.suites.session import Shard
from maskless.suites.subject import open_subject, subject_of
from tests.suites.conftest import randomised

SIDE, REAL = 8, 20
HOW = {"samples": 12, "sampler": SamplerOptions(steps=4, order="halton"), "subset": 4, "splits": 3}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A painter of 8 x 8 pixels in two classes, a classifier for features, and real images."""
    place = tmp_path_factory.mktemp("world")
    config = maskless.PartitionConfig(4, length=SIDE * SIDE, width=16, heads=2, encoder_layers=1, decoder_layers=1, registers=2, classes=2,
                                      grid=(SIDE, SIDE), dropout=0.0)
    codes = maskless.ImageCodes(maskless.PixelCodec(levels=4), (SIDE, SIDE), ("hat", "shoe"))
    maskless.ImageModel(randomised(config), codes, device="cpu").save_pretrained(place / "painter")
    torch.manual_seed(1)
    save_classifier(place / "classifier", Classifier(ClassifierConfig(1, SIDE, classes=2, width=4, features=3)), "noise", {})
    draw = np.random.default_rng(0)
    np.savez(place / "real.npz", x_train=draw.integers(0, 256, (4, SIDE, SIDE)).astype(np.uint8), y_train=np.arange(4) % 2,
             x_test=draw.integers(0, 256, (REAL, SIDE, SIDE)).astype(np.uint8), y_test=np.arange(REAL) % 2)
    return place


def settings(world, **more) -> ImageQuality:
    data = PlainPixels(source=ImageArrays(train=str(world / "real.npz")), size=SIDE, channels=1)
    return ImageQuality(**{"features": str(world / "classifier"), "data": data, **HOW, **more})


def painter(world):
    return open_subject(world / "painter", device="cpu")


def by_metric(results) -> dict:
    return {result.metric: result for result in results}


def real_features(world):
    with np.load(world / "real.npz") as arrays:
        pixels = torch.from_numpy(arrays["x_test"])[:, None]
    return extract(classifier_features(world / "classifier"), [in_unit_range(pixels)], split="valid")


def test_the_metrics_of_what_was_drawn(world, tmp_path):
    found = by_metric(evaluate(painter(world), [settings(world)], out=tmp_path))
    assert set(found) == {"frechet_distance", "inception_score", "kernel_distance", "precision", "recall"}
    lines = [json.loads(line) for line in (tmp_path / "samples-painter.jsonl").read_text().splitlines()]
    assert [line["label"] for line in lines] == [0, 1] * 6
    codes = torch.tensor([line["tokens"] for line in lines]).view(-1, SIDE, SIDE)
    made = extract(classifier_features(world / "classifier"), [maskless.PixelCodec(levels=4).decode(codes)], split="generated")
    real = real_features(world)
    distance = frechet_distance(statistics_of(made), statistics_of(real))
    assert found["frechet_distance"].value == pytest.approx(distance.value, rel=1e-6)
    assert found["frechet_distance"].uncertainty.value == pytest.approx(distance.standard_error, rel=1e-6)
    kernel = kernel_distance(made, real, size=4)
    assert found["kernel_distance"].value == pytest.approx(kernel.value, rel=1e-6)
    for result in found.values():
        assert result.samples in (12, REAL) and result.nfe == 4 and result.sampler["order"] == "halton" and result.scorer.name.startswith("noise")
    assert found["frechet_distance"].data.documents == REAL and found["inception_score"].data is None
    assert found["frechet_distance"].better == "lower" and found["recall"].better == "higher"
    assert (tmp_path / "samples-painter.png").read_bytes().startswith(b"\x89PNG")


def test_the_same_by_shards(world, tmp_path, monkeypatch):
    monkeypatch.setattr("maskless.suites.drawing.micro_rows", lambda length: 5)
    whole = by_metric(evaluate(painter(world), [settings(world, metrics=("distance",))], out=tmp_path / "a"))
    assert evaluate(painter(world), [settings(world, metrics=("distance",))], out=tmp_path / "b", shard=Shard(1, 2)) == []
    shared = by_metric(evaluate(painter(world), [settings(world, metrics=("distance",))], out=tmp_path / "b"))
    assert shared["frechet_distance"].value == whole["frechet_distance"].value
    for name in ("samples-painter.jsonl", "samples-painter.png"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_statistics_in_a_file(world, tmp_path):
    save_statistics(tmp_path / "real.npz", statistics_of(real_features(world)))
    how = settings(world, data=None, reference=str(tmp_path / "real.npz"), metrics=("distance", "inception_score"))
    from_file = by_metric(evaluate(painter(world), [how], out=tmp_path / "out"))["frechet_distance"]
    direct = by_metric(evaluate(painter(world), [settings(world, metrics=("distance",))], out=tmp_path / "direct"))["frechet_distance"]
    assert from_file.value == pytest.approx(direct.value, rel=1e-9) and from_file.data.documents == REAL


def test_statistics_made_by_the_command(world, tmp_path, capsys):
    """What `image-statistics` writes gives the distance that the images themselves give."""
    command = ["image-statistics", str(world / "real.npz"), str(tmp_path / "real.safetensors"), "--features", str(world / "classifier")]
    app([*command, "--split", "valid", "--batch", "7", "--device", "cpu"], standalone_mode=False)
    assert capsys.readouterr().out.startswith(f"{REAL} images of valid, {SIDE} x {SIDE}, by noise classifier")
    how = settings(world, data=None, reference=str(tmp_path / "real.safetensors"), metrics=("distance",))
    from_file = by_metric(evaluate(painter(world), [how], out=tmp_path / "out"))["frechet_distance"]
    direct = by_metric(evaluate(painter(world), [settings(world, metrics=("distance",))], out=tmp_path / "direct"))["frechet_distance"]
    assert from_file.value == pytest.approx(direct.value, rel=1e-9) and from_file.data.documents == REAL
    before = (tmp_path / "real.safetensors").read_bytes()
    with pytest.raises(ValueError, match=r"real.safetensors exists; give another name"):
        app(command, standalone_mode=False)
    assert (tmp_path / "real.safetensors").read_bytes() == before
    assert from_file.details["real_images_prepared"] == direct.details["real_images_prepared"] == "crop to 8 x 8"
    for more, sentence in ((["--rows", "3"], "3 images of train are too few for a covariance of 3 features"),
                           (["--size", "16"], "do not fit the noise classifier")):
        with pytest.raises(ValueError, match=sentence):
            app([*command[:2], str(tmp_path / "other.npz"), *command[3:], *more], standalone_mode=False)
        assert not (tmp_path / "other.npz").exists()


def test_a_classifier_of_another_size_is_asked_how_images_fit(world, tmp_path):
    np.savez(tmp_path / "small.npz", x_train=np.zeros((5, 6, 6), np.uint8), y_train=np.zeros(5, int))
    command = ["image-statistics", str(tmp_path / "small.npz"), str(tmp_path / "s.npz"), "--features", str(world / "classifier")]
    with pytest.raises(ValueError, match="has 6 x 6 pixels and the classifier takes 8 x 8; say --fit pad or --fit crop"):
        app(command, standalone_mode=False)
    app([*command, "--fit", "pad"], standalone_mode=False)
    features = classifier_features(world / "classifier")
    assert load_statistics(tmp_path / "s.npz", features=features.name).prepared == "pad to 8 x 8"


def test_features_that_do_not_fit_are_refused_before_anything_is_drawn(world, tmp_path, monkeypatch):
    monkeypatch.setattr("maskless.suites.images.drawn", lambda *_: pytest.fail("images were drawn"))
    torch.manual_seed(2)
    save_classifier(tmp_path / "other", Classifier(ClassifierConfig(3, SIDE, classes=2, width=4, features=3)), "noise", {})
    with pytest.raises(ValueError, match=r"8 x 8 pixels in 1 channels do not fit the noise classifier .*, which takes 8 x 8 in 3"):
        evaluate(painter(world), [settings(world, features=str(tmp_path / "other"))], out=tmp_path / "out")
    with pytest.raises(ValueError, match="do not fit the noise classifier"):
        measure([world / "painter"], tmp_path / "other", world / "real.npz", {"orders": ["halton"], "steps": (2,), "guidances": (), "at": (4,)},
                count=4, batch=4, seed=0, device="cpu", dtype="float32", out=None)


def test_statistics_of_others(tmp_path):
    """A mean and a covariance alone, as the released evaluations keep them, once their number is said; of Inception's features only."""
    torch.manual_seed(0)
    mean, root = torch.randn(2048), torch.randn(2048, 8)
    np.savez(tmp_path / "adm.npz", mu=mean.double(), sigma=(root @ root.T).double(), arr_0=np.zeros((2, 8, 8, 3), np.uint8))
    torch.save({"mu": mean, "cov": root @ root.T}, tmp_path / "train_stats.pt")
    with torch.device("meta"):
        inception = InceptionFeatures(Inception(), "inception-v3-compat 0000", PROTOCOLS["adm"].transform)
    other = ClassifierFeatures.__new__(ClassifierFeatures)
    other.name = "toy"
    for name in ("adm.npz", "train_stats.pt"):
        how = ImageQuality(reference=str(tmp_path / name), reference_count=50_000, split="train", metrics=("distance",))
        found = load_statistics(tmp_path / name, features=inception.name, origin=_origin(how, inception))
        assert (found.count, found.split, found.transform) == (50_000, "train", inception.transform)
        torch.testing.assert_close(found.covariance, (root @ root.T).double())
        assert _origin(replace(how, reference_count=None), inception) is None
        with pytest.raises(ValueError, match="reference_count is for files of others, which hold Inception's features"):
            _origin(how, other)
        with pytest.raises(ValueError, match=r"has no count, features, transform, split; .* images.reference_count=50000"):
            load_statistics(tmp_path / name, features=inception.name)
    save_statistics(tmp_path / "ours.npz", replace(found, features=inception.name, count=400, split="valid"))
    with pytest.raises(ValueError, match="is of 400 images of valid, and 50000 of train were said"):
        load_statistics(tmp_path / "ours.npz", features=inception.name, origin=_origin(how, inception))
    with pytest.raises(ValueError, match="reference_count is 7 and there is no reference"):
        ImageQuality(reference_count=7)


def test_inception_with_weights_from_a_path(tmp_path, monkeypatch):
    """As the message says that comes where they cannot be fetched: images.features=PROTOCOL:PATH."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    torch.manual_seed(0)
    torch.save(Inception().state_dict(), tmp_path / "weights.pth")
    digest, cpu = hashlib.sha256((tmp_path / "weights.pth").read_bytes()).hexdigest(), torch.device("cpu")
    for protocol in ("pgm-val", "adm"):
        features = extractor(f"{protocol}:{tmp_path / 'weights.pth'}", cpu)
        assert features.name == f"inception-v3-compat {digest[:8]}" and features.transform == PROTOCOLS[protocol].transform.name
    with pytest.raises(ValueError, match=r"there are no Inception weights .*absent\.pth; give the path of weights-inception"):
        extractor(f"pgm-val:{tmp_path / 'absent.pth'}", cpu)
    with pytest.raises(ValueError, match=r"holds no classifier\.json"):
        extractor(f"other:{tmp_path / 'weights.pth'}", cpu)


def test_what_cannot_be_measured(world, models, tmp_path):
    with pytest.raises(ValueError, match="3 images of generated are too few for a covariance of 3 features"):
        evaluate(painter(world), [settings(world, samples=3)], out=tmp_path / "out")
    assert not (tmp_path / "out").exists()                          # said before anything is drawn
    with pytest.raises(ValueError, match="is a model of text; measure it with the suite generative"):
        evaluate(open_subject(models / "pgm", device="cpu"), [settings(world)], out=tmp_path / "out")
    with pytest.raises(ValueError, match="kernel_distance needs every real image"):
        settings(world, data=None, reference="real.npz")
    with pytest.raises(ValueError, match="in no run folder"):
        evaluate(painter(world), [settings(world, data=None)], out=tmp_path / "out")
    with pytest.raises(ValueError, match="metrics has 'fid'; choose from"):
        settings(world, metrics=("fid",))


@pytest.mark.parametrize("change, sentence", [
    ({"subset": 40, "metrics": ("kernel_distance",)}, "12 images of generated cannot be cut into subsets of 40"),
    ({"subset": 15, "samples": 30, "rows": 13, "metrics": ("kernel_distance",)}, "13 images of valid cannot be cut into subsets of 15"),
    ({"subset": 1}, "cannot be cut into subsets of 1"), ({"splits": 13}, "12 images cannot be cut into 13 splits"),
    ({"splits": 1}, "12 images cannot be cut into 1 splits"),
    ({"samples": 3, "metrics": ("precision_recall",)}, "3 images of generated cannot have 3 neighbours each; give at least 4"),
    ({"rows": 3, "metrics": ("precision_recall",)}, "3 images of valid cannot have 3 neighbours"),
    ({"rows": 3, "metrics": ("distance",)}, "3 images of valid are too few for a covariance of 3 features"),
])
def test_too_few_images_are_refused_before_any_is_drawn(world, tmp_path, change, sentence):
    with pytest.raises(ValueError, match=sentence):
        evaluate(painter(world), [settings(world, **change)], out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_shards_and_statistics_are_checked_as_well(world, tmp_path):
    for change in ({"subset": 40}, {"splits": 13}, {"samples": 3, "subset": 2}):
        with pytest.raises(ValueError, match=r"12 images|3 images"):
            evaluate(painter(world), [settings(world, **change)], out=tmp_path / "out", shard=Shard(1, 2))
    few = extract(classifier_features(world / "classifier"), [torch.zeros(3, 1, SIDE, SIDE)], split="real")
    save_statistics(tmp_path / "few.npz", statistics_of(few))
    with pytest.raises(ValueError, match="3 images of real are too few"):
        evaluate(painter(world), [settings(world, data=None, reference=str(tmp_path / "few.npz"), metrics=("distance",))], out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_real_images_pass_by_and_are_not_kept(world, tmp_path, monkeypatch):
    """A batch of them at a time is in memory, and their hash is that of all of them."""
    alive = most = 0
    pictures = PlainPixels.pictures

    def gone():
        nonlocal alive
        alive -= 1

    def counted(self, split, channels):
        nonlocal alive, most
        for pixels, label in pictures(self, split, channels):
            alive += 1
            most = max(most, alive)
            mine = pixels.copy()
            weakref.finalize(mine, gone)
            yield mine, label
            del mine

    monkeypatch.setattr(PlainPixels, "pictures", counted)
    monkeypatch.setattr("maskless.suites.images.TOGETHER", 3)
    told = []
    found = by_metric(evaluate(painter(world), [settings(world)], out=tmp_path, progress=lambda *line: told.append(line)))
    with np.load(world / "real.npz") as arrays:
        assert found["recall"].data.hash == hashlib.sha256(arrays["x_test"].tobytes()).hexdigest()
    assert found["recall"].data.documents == REAL and most <= 2 * 3 + 1
    assert [line for line in told if line[0] == "real images"] == [("real images", done, 0) for done in (3, 6, 9, 12, 15, 18, 20)]


def test_the_likelihood_of_images(world, models, text, tmp_path):
    data = Images(source=ImageArrays(train=str(world / "real.npz")), codec=maskless.PixelCodec(levels=4), size=SIDE)
    (found,) = evaluate(painter(world), [Likelihood(data=data, rows=3)], out=tmp_path)
    assert found.metric == "nelbo" and found.details["tokens"] == 3 * SIDE * SIDE and "bits_per_byte" not in found.details
    assert found.data.documents == REAL and found.tokenizer.name == "PixelCodec"
    assert found.data.name == "arrays-real"
    for length, sentence in ((SIDE * SIDE - 1, "takes 64 sites; leave likelihood.length out"), (SIDE * SIDE + 1, "the model has 64 sites")):
        with pytest.raises(ValueError, match=sentence):
            evaluate(painter(world), [Likelihood(data=data, length=length)], out=tmp_path / "length")
    other = Images(source=ImageArrays(train=str(world / "real.npz")), codec=maskless.PixelCodec(levels=5), size=SIDE)
    with pytest.raises(ValueError, match="another codec or grid"):
        evaluate(painter(world), [Likelihood(data=other)], out=tmp_path / "other")
    with pytest.raises(ValueError, match="is a model of images and the data are texts"):
        evaluate(painter(world), [Likelihood(data=Files(train=str(text)))], out=tmp_path / "other")
    with pytest.raises(ValueError, match="is a model of texts and the data are images"):
        evaluate(open_subject(models / "pgm", device="cpu"), [Likelihood(data=data)], out=tmp_path)


GRID = {"width": 16, "heads": 2, "dropout": 0.0}
CODES = maskless.ImageCodes(maskless.PixelCodec(levels=4), (SIDE, SIDE), ("hat", "shoe"))


def codes_of(world) -> Images:
    return Images(source=ImageArrays(train=str(world / "real.npz")), codec=maskless.PixelCodec(levels=4), size=SIDE)


@pytest.mark.parametrize("kind", ("pgm", "causal", "masked", "ar"))
def test_the_likelihood_of_images_behind_a_bos(world, tmp_path, kind):
    """As imported models have it: the BOS is seen and not scored, and every code is scored."""
    sizes = {"vocab_size": 6, "length": SIDE * SIDE + 1, **GRID}
    halves = {"encoder_layers": 1, "decoder_layers": 1, "classes": 2, "registers": 2, "grid": (SIDE, SIDE), "forbidden": (4, 5)}
    config = {"pgm": lambda: maskless.PartitionConfig(**sizes, **halves), "causal": lambda: maskless.CausalPartitionConfig(**sizes, **halves),
              "masked": lambda: maskless.MaskedConfig(**sizes, layers=1, classes=2, forbidden=(4, 5)),
              "ar": lambda: maskless.AutoregressiveConfig(**sizes, layers=1, forbidden=(4, 5))}[kind]()
    subject = subject_of(randomised(config), CODES, kind, device="cpu")
    found = by_metric(evaluate(subject, [Likelihood(data=codes_of(world), rows=3)], out=tmp_path))
    result = found["nll" if kind == "ar" else "nelbo"]
    assert result.details["tokens"] == 3 * SIDE * SIDE and result.details["length"] == SIDE * SIDE + 1 and result.samples == 3
    held = open_held(subject, codes_of(world), "valid", SIDE * SIDE + 1)
    batch = held.rows.read(torch.arange(2))
    assert batch.tokens[:, 0].tolist() == [5, 5] and batch.given.sum(1).tolist() == [1, 1] and batch.given[:, 0].all()
    with np.load(world / "real.npz") as arrays:
        assert batch.labels.tolist() == arrays["y_test"][:2].tolist()
    if kind == "ar":
        with torch.no_grad():
            laws = subject.opened.model(batch.tokens, torch.ones_like(batch.given))
        laws[..., 4:] = -torch.inf
        nll = -laws.log_softmax(-1).gather(-1, batch.tokens[..., None])[:, 1:, 0]
        (two,) = evaluate(subject, [Likelihood(data=codes_of(world), rows=2)], out=tmp_path / "two")
        assert two.value == pytest.approx(float(nll.mean()), rel=1e-5)
    with pytest.raises(ValueError, match=r"length is 64 and an image of .* takes 65 sites; leave likelihood\.length out"):
        evaluate(subject, [Likelihood(data=codes_of(world), length=SIDE * SIDE)], out=tmp_path / "length")


def test_an_autoregressive_model_scores_no_first_code_without_a_bos(world, tmp_path):
    config = maskless.AutoregressiveConfig(vocab_size=4, length=SIDE * SIDE, layers=1, **GRID)
    subject = subject_of(randomised(config), CODES, "ar", device="cpu")
    with pytest.raises(ValueError, match="without a BOS, which cannot score the first code; measure its images"):
        evaluate(subject, [Likelihood(data=codes_of(world))], out=tmp_path)


def test_a_sampler_that_is_not_said_is_the_models_own(world, tmp_path):
    """What `generate` takes by itself, every option of it recorded; and what is said of it changes that."""
    prime = maskless.PrimeConfig(vocab_size=4, length=SIDE * SIDE, layers=1, digits=2, classes=2, positions="axial", grid=(SIDE, SIDE), **GRID)
    subject = subject_of(randomised(prime), CODES, "prime", device="cpu")
    (found,) = evaluate(subject, [settings(world, sampler=None, metrics=("distance",))], out=tmp_path / "prime")
    assert (found.sampler["plan"], found.sampler["alpha_power"], found.sampler["steps"], found.sampler["order"]) == ("ancestral", 3.0, 64, "random")
    drawn = [json.loads(line)["tokens"] for line in (tmp_path / "prime" / "samples-prime.jsonl").read_text().splitlines()]
    made = subject.opened.generate(2, labels=[0, 1], seed=[0, 1]).codes
    assert drawn[:2] == made.flatten(1).tolist()
    (painted,) = evaluate(painter(world), [settings(world, sampler=None, metrics=("distance",))], out=tmp_path / "painter")
    assert (painted.sampler["plan"], painted.sampler["steps"], painted.sampler["order"]) == ("arccos", 32, "halton")
    assert completed(subject.opened, {"steps": 8}) == {"plan": "ancestral", "alpha_power": 3.0, "steps": 8}


def test_samples_of_another_codec_are_others(world, tmp_path):
    evaluate(painter(world), [settings(world, metrics=("distance",))], out=tmp_path)
    about = json.loads((tmp_path / "samples-painter.json").read_text())
    assert about["device"] == "cpu" and about["tokenizer"] == painter(world).tokenizer.hash
    (tmp_path / "samples-painter.json").write_text(json.dumps({**about, "device": "cuda"}))
    with pytest.raises(ValueError, match="were drawn with device 'cuda' and 'cpu' is asked for"):
        evaluate(painter(world), [settings(world, metrics=("distance",))], out=tmp_path)


def test_bench_images(world, tmp_path, capsys):
    """A row for every model and way, the images of each, and a picture of all rows."""
    shutil.copytree(world / "painter", tmp_path / "other")
    chosen = {"orders": ["halton", "confidence"], "steps": (2, 4), "guidances": (0.0, 1.5), "at": (4,)}
    measure([world / "painter", tmp_path / "other"], world / "classifier", world / "real.npz", chosen, count=8, batch=5, seed=0, device="cpu",
            dtype="float32", out=tmp_path / "out")
    found = json.loads((tmp_path / "out" / "images.json").read_text())
    ways = [tuple(row["way"].values()) for row in found["rows"] if row["model"] == "painter"]
    plain = [(order, steps, 0.0) for order in ("halton", "confidence") for steps in (2, 4)]
    assert ways == [*plain, ("halton", 4, 1.5), ("confidence", 4, 1.5)]
    values = {name: [row["distance"]["value"] for row in found["rows"] if row["model"] == name] for name in ("painter", "other")}
    assert values["painter"] == values["other"] and min(values["painter"]) > 0        # the same weights and seeds
    assert all(row["images_per_second"] > 0 and row["distance"]["reference_count"] == REAL for row in found["rows"])
    assert len(list((tmp_path / "out").glob("painter-*.png"))) == 6 and (tmp_path / "out" / "images.png").stat().st_size > 1000
    assert "through the codec and back" in capsys.readouterr().out
