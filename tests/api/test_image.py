"""Image models: generate, fill in, paint beyond the border, save; files and films of images."""
from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

import maskless
from maskless.api.image_quality import Row, Way, draw, ways
from maskless.cli.imaging import labels_of
from maskless.evaluation.image_metrics import Measurement

SIZES = {"length": 24, "width": 16, "heads": 2, "dropout": 0.0, "classes": 3, "grid": (4, 6)}
CONFIGS = {
    "maskgit": maskless.MaskGITConfig(5, **SIZES, layers=1, registers=1),
    "partition": maskless.PartitionConfig(5, **SIZES, encoder_layers=1, decoder_layers=1, registers=2),
    "causal_partition": maskless.CausalPartitionConfig(5, **SIZES, encoder_layers=1, decoder_layers=1, registers=2),
    "with BOS": maskless.PartitionConfig(7, **{**SIZES, "length": 25}, encoder_layers=1, decoder_layers=1, registers=2, forbidden=(5, 6)),
}
CODES = maskless.ImageCodes(maskless.PixelCodec(levels=5), grid=(4, 6), classes=("hat", "shoe", "bag"))


def opened(name: str = "partition") -> maskless.ImageModel:
    torch.manual_seed(0)
    network = maskless.build(CONFIGS[name])
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0, 0.3)
    return maskless.ImageModel(network, CODES, device="cpu")


@pytest.mark.parametrize("name", CONFIGS)
def test_images_have_their_size_and_the_seed_decides(name):
    model = opened(name)
    images = model.generate(3, labels="shoe", steps=5, seed=4)
    assert images.pixels.shape == (3, 4, 6, 1) and images.pixels.dtype == np.uint8 and images.labels == (1, 1, 1)
    assert int(images.codes.min()) >= 0 and int(images.codes.max()) < 5
    assert torch.equal(images.codes, model.generate(3, labels=1, steps=5, seed=4).codes)
    assert torch.equal(images.codes[:2], model.generate(2, labels=1, steps=5, seed=4).codes)
    assert not torch.equal(images.codes, model.generate(3, labels=1, steps=5, seed=5).codes)
    assert not torch.equal(images.codes, model.generate(3, labels=2, steps=5, seed=4).codes)


@pytest.mark.parametrize("name", ["a.png", "a.npz"])
def test_what_was_saved_stays_until_all_is_written(tmp_path, monkeypatch, name):
    images, place = opened().generate(2, steps=2), tmp_path / name
    images.save(place)
    before = place.read_bytes()

    def full(file, *args, **named):
        (file if hasattr(file, "write_bytes") else args[0]).write_bytes(b"cut")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("numpy.savez_compressed", full)
    monkeypatch.setattr("PIL.Image.Image.save", full)
    with pytest.raises(OSError):
        images.save(place)
    assert place.read_bytes() == before and [each.name for each in tmp_path.iterdir()] == [name]


def test_a_seed_of_its_own_for_every_image_and_batches_change_nothing():
    model = opened()
    together = model.generate(3, labels=["hat", 2, None], seed=[7, 8, 9], steps=4)
    assert together.labels == (0, 2, 3)                             # 3 is no class
    for n, (label, seed) in enumerate(zip(("hat", 2, None), (7, 8, 9))):
        assert torch.equal(together.codes[n], model.generate(1, labels=[label], seed=[seed], steps=4).codes[0])
    assert torch.equal(together.codes, model.generate(3, labels=["hat", 2, None], seed=[7, 8, 9], steps=4, batch=2).codes)


@pytest.mark.parametrize("options", [
    {"order": "confidence", "plan": "arccos-maskgit"}, {"order": "random"}, {"order": "raster", "plan": "even"}, {"roll": True},
    {"guidance": 2.0}, {"guidance": 2.0, "guidance_schedule": "linear"}, {"temperature": 1.0, "temperature_last": 0.5}, {"top_k": 3, "top_k_last": 1},
], ids=str)
def test_ways_of_sampling(options):
    images = opened().generate(2, labels=[0, 1], steps=6, **options)
    assert images.nfe == 6 and images.pixels.shape == (2, 4, 6, 1)


def test_a_sampler_of_ones_own():
    model, how = opened(), {"steps": 3, "order": "confidence", "plan": "cosine"}
    assert torch.equal(model.generate(2, sampler=maskless.SamplerOptions(**how)).codes, model.generate(2, **how).codes)
    image = np.zeros((2, 6), np.uint8)
    for call in (lambda **said: model.generate(2, **said), lambda **said: model.infill(image, **said)):
        with pytest.raises(ValueError, match=r"^sampler was given and so was temperature; put it into the sampler, or leave sampler out$"):
            call(sampler=maskless.Sampler(), temperature=0.0)


def test_an_entropy_bound_needs_no_other_plan():
    assert opened().generate(1, order="entropy-bound", steps=6).nfe <= 6


@pytest.mark.parametrize("name", CONFIGS)
def test_what_is_not_masked_comes_back(name):
    model, image = opened(name), np.full((4, 6), 190, np.uint8)     # 190 is no level of the codec: the codec would change it
    mask = np.zeros((4, 6), bool)
    mask[1:3, 2:5] = True
    filled = model.infill(image, mask, labels="bag", n=2, steps=3, seed=1)
    assert (filled.pixels[:, ~mask] == 190).all()
    kept = model.codec.encode(torch.full((1, 1, 4, 6), 190 / 127.5 - 1))[0]
    assert (filled.codes[:, ~torch.from_numpy(mask)] == kept[~torch.from_numpy(mask)]).all()
    assert not (filled.pixels[:, mask] == 190).all() and not torch.equal(filled.codes[0], filled.codes[1])


def test_beyond_the_border():
    model, image = opened(), np.full((2, 3, 1), 255, np.uint8)
    painted = model.infill(image, at=(1, 2), steps=4, seed=3)
    assert (painted.pixels[0, 1:3, 2:5] == 255).all() and painted.pixels.shape == (1, 4, 6, 1) and (painted.pixels != 255).any()


def test_cells_of_several_pixels_open_as_a_whole():
    class Doubled:
        """Two pixels a side of a cell."""

        vocab_size, factor, channels, planes, hash = 5, 2, 1, 1, "doubled"

        def encode(self, images):
            return maskless.PixelCodec(levels=5).encode(images[..., ::2, ::2])

        def decode(self, codes):
            return maskless.PixelCodec(levels=5).decode(codes).repeat_interleave(2, 2).repeat_interleave(2, 3)

        def to(self, device):
            return self

        def save(self, folder):
            raise AssertionError

    model = maskless.ImageModel(opened().model, maskless.ImageCodes(Doubled(), (4, 6)), device="cpu")
    image, mask = np.zeros((8, 12), np.uint8), np.zeros((8, 12), bool)
    mask[3, 5] = True                                               # one pixel of cell (1, 2)
    filled = model.infill(image, mask, steps=1, seed=2)
    assert (filled.pixels[0, ..., 0][~mask] == 0).all()
    changed = filled.codes[0] != 0
    assert changed.sum() <= 1 and (not changed.any() or bool(changed[1, 2]))


def test_saved_and_loaded(tmp_path):
    model = opened()
    model.save_pretrained(tmp_path / "half", dtype=torch.bfloat16)
    model.save_pretrained(tmp_path / "model")
    again = maskless.load(tmp_path / "model", device="cpu")
    assert isinstance(again, maskless.ImageModel) and again.codes.classes == ("hat", "shoe", "bag")
    assert torch.equal(again.generate(1, labels=0, steps=4).codes, model.generate(1, labels=0, steps=4).codes)
    half = maskless.ImageModel.from_pretrained(tmp_path / "half", device="cpu")
    assert half.model.head.weight.dtype == torch.float32
    assert (tmp_path / "half" / "model.safetensors").stat().st_size < 0.6 * (tmp_path / "model" / "model.safetensors").stat().st_size
    with pytest.raises(ValueError, match="model of images"):
        maskless.TextModel.from_pretrained(tmp_path / "model")


def test_files(tmp_path):
    images = opened().generate(5, labels=0, steps=2)
    grid = np.asarray(Image.open(images.save(tmp_path / "grid.png", columns=3)))
    assert grid.shape == (4 * 2 + 2, 6 * 3 + 4)
    assert (grid[:4, :6] == images.pixels[0, ..., 0]).all() and (grid[6:, 8:14] == images.pixels[4, ..., 0]).all()
    images.save(tmp_path / "each")
    assert (np.asarray(Image.open(tmp_path / "each" / "00004.png")) == images.pixels[4, ..., 0]).all()
    arrays = np.load(images.save(tmp_path / "all.npz"))
    assert (arrays["pixels"] == images.pixels).all() and arrays["labels"].tolist() == [0] * 5
    for name, word in (("grid.jpg", "ends in .jpg"), ("each", "exists")):
        with pytest.raises(ValueError, match=word):
            images.save(tmp_path / name)


def test_a_film_shows_every_step_and_what_is_not_known(tmp_path):
    model = opened()
    film = maskless.Film(model, enlarge=2)
    with pytest.raises(ValueError, match="the film has no frames; give it to a call"):
        film.save(tmp_path / "none.gif")
    images = model.generate(1, labels=0, steps=6, seed=1, watch=film)
    assert len(film.frames) == 6 and film.frames[0].shape == (8, 12, 1)
    grey = [int((frame == 96).all(-1).sum()) // 4 for frame in film.frames]
    assert grey == sorted(grey, reverse=True) and grey[0] > 0 and grey[-1] == 0
    assert (film.frames[-1][::2, ::2] == images.pixels[0]).all()
    with Image.open(film.save(tmp_path / "a.gif")) as read:
        assert read.n_frames > 1
    several = maskless.Film(model)
    model.generate(5, labels=0, steps=6, watch=several, batch=3)
    assert len({frame.shape for frame in several.frames}) == 1 and len(several.frames) == 6                # of the first three
    with pytest.raises(ValueError, match=r"\.gif"):
        film.save(tmp_path / "a.png")


@pytest.mark.parametrize("wrong, word", [
    (lambda m: m.generate(0), "n is 0"), (lambda m: m.generate(2, batch=0), "batch is 0"),
    (lambda m: m.generate(1, labels=3), r"not in 0\.\.2"),
    (lambda m: m.generate(1, labels="coat"), "hat, shoe, bag"),
    (lambda m: m.generate(2, labels=[0]), "1 labels were given for 2"),
    (lambda m: m.generate(2, seed=[1]), "1 seeds were given for 2"),
    (lambda m: m.generate(1, stepps=3), "stepps"),
    (lambda m: m.infill(np.zeros((4, 6), np.uint8), np.zeros((4, 5), bool)), "4 x 5"),
    (lambda m: m.infill(np.zeros((4, 6), np.uint8)), "no cell is open"),
    (lambda m: m.infill(np.zeros((4, 6), np.uint8), at=(1, 0)), "do not fit"),
    (lambda m: m.infill(np.zeros((0, 6), np.uint8)), r"the image is uint8 of shape \(0, 6\)"),
    (lambda m: m.infill(np.zeros((4, 6, 3), np.uint8), np.ones((4, 6), bool)), "3 channels"),
    (lambda m: m.infill(np.zeros((4, 6)), np.ones((4, 6), bool)), r"the image is float64 of shape \(4, 6\)"),
    (lambda m: m.infill(np.zeros(4, np.uint8)), r"the image is uint8 of shape \(4,\)"),
    (lambda m: m.infill(np.zeros((4, 6), np.uint8), np.ones(4, bool)), "the mask has 4 pixels"),
    (lambda m: m.generate(1, labels="--2"), "no class '--2'"), (lambda m: m.generate(1, labels="²"), "no class '²'"),
    (lambda m: m.generate(1, labels="-1"), r"label -1 is not in 0\.\.2"),
])
def test_mistakes(wrong, word):
    with pytest.raises(ValueError, match=word):
        wrong(opened())


def test_schedules_end_with_the_last_cell():
    seen = []
    images = opened().generate(1, labels=0, steps=200, guidance=3.0, guidance_schedule="linear", watch=lambda _, record: seen.append(record.step))
    assert images.nfe == 24 == len(seen) and seen[-1].progress == 1


def test_a_class_is_called_by_its_name_before_its_number():
    network = maskless.build(maskless.PartitionConfig(5, **SIZES, encoder_layers=1, decoder_layers=1, registers=2))
    model = maskless.ImageModel(network, maskless.ImageCodes(maskless.PixelCodec(levels=5), (4, 6), ("1", "10", "2")), device="cpu")
    assert model.generate(5, labels=["1", "10", "2", "0", np.int64(1)], steps=2).labels == (0, 1, 2, 0, 1)
    assert model.generate(2, labels=np.int64(2), steps=2).labels == (2, 2)


def test_what_a_mask_covers_is_not_seen():
    """By a codec that looks beyond a cell: the codes of known cells are those of any other content under the mask."""
    seen = []

    class Wide(maskless.PixelCodec):
        factor = 2

        def encode(self, images):
            seen.append(images)
            return super().encode(images)[..., ::2, ::2]

        def decode(self, codes):
            return super().decode(codes).repeat_interleave(2, -1).repeat_interleave(2, -2)

    network = maskless.build(maskless.PartitionConfig(5, **SIZES, encoder_layers=1, decoder_layers=1, registers=2))
    model = maskless.ImageModel(network, maskless.ImageCodes(Wide(levels=5), (4, 6)), device="cpu")
    image, mask = np.arange(96, dtype=np.uint8).reshape(8, 12), np.zeros((8, 12), bool)
    mask[2:5, 3:7] = True
    codes = [model.infill(np.where(mask, under, image).astype(np.uint8), mask, steps=3).codes for under in (0, 255)]
    assert torch.equal(*codes) and torch.equal(seen[0], seen[1])
    model.infill(image[:4, :6], at=(2, 4), steps=3)
    beyond = ((seen[2][0, 0] + 1) * 127.5).round()
    assert float(beyond[0, 0]) == 0 and float(beyond[7, 11]) == 41 and float(beyond[0, 5]) == 1          # the border goes on


def test_a_codec_goes_where_its_model_is(monkeypatch):
    codec, placed = maskless.PixelCodec(levels=5), []
    monkeypatch.setattr(maskless.PixelCodec, "to", lambda self, device: placed.append(device) or self)
    network = maskless.build(CONFIGS["partition"])
    maskless.ImageModel(network, maskless.ImageCodes(codec, (4, 6)), device="cpu")
    assert placed == [torch.device("cpu")]


def test_models_and_codecs_that_do_not_fit():
    network = maskless.build(CONFIGS["partition"])
    for codes, word in ((maskless.ImageCodes(maskless.PixelCodec(levels=4), (4, 6)), "vocab_size"),
                        (maskless.ImageCodes(maskless.PixelCodec(levels=5), (6, 4)), "6 x 4"),
                        (maskless.ImageCodes(maskless.PixelCodec(levels=5), (4, 6), ("a", "b")), "2 classes")):
        with pytest.raises(ValueError, match=word):
            maskless.ImageModel(network, codes, device="cpu")
    unlabelled = maskless.build(maskless.PartitionConfig(5, **{**SIZES, "classes": 0}, encoder_layers=1, decoder_layers=1, registers=2))
    model = maskless.ImageModel(unlabelled, maskless.ImageCodes(maskless.PixelCodec(levels=5), (4, 6)), device="cpu")
    assert model.generate(1, steps=2).labels is None
    with pytest.raises(ValueError, match="no classes"):
        model.generate(1, labels=0)
    with pytest.raises(ValueError, match="forgets what is known, and nothing is known"):
        model.generate(1, guidance=2.0)
    assert len(model.infill(np.zeros((2, 6), np.uint8), steps=2, guidance=2.0)) == 1    # forgets the half that is known


def test_guidance_by_label_has_a_label_to_go_by():
    model = opened()
    with pytest.raises(ValueError, match="guidance is by label, and there is no label"):
        model.generate(2, steps=2, guidance=2.0)
    assert len(model.generate(2, labels=[None, 1], steps=2, guidance=2.0)) == 2


def test_labels_and_seeds_may_be_tensors():
    model = opened()
    given, listed = (model.generate(2, labels=labels, seed=seeds, steps=2) for labels, seeds in
                     ((torch.tensor([1, 0]), torch.tensor([3, 4])), ([1, 0], [3, 4])))
    assert torch.equal(given.codes, listed.codes)
    assert torch.equal(model.generate(1, labels=torch.tensor(1), steps=2).codes, model.generate(1, labels=1, steps=2).codes)


def test_a_name_with_a_comma_is_one_class():
    model = maskless.ImageModel(opened().model, maskless.ImageCodes(CODES.codec, CODES.grid, ("bag, leather", "shoe", "hat")), device="cpu")
    assert labels_of("bag, leather", 2, model) == ["bag, leather"] * 2 and labels_of("shoe,hat", 3, model) == ["shoe", "hat", "shoe"]
    with pytest.raises(ValueError, match="names 3 classes for 2 images"):
        labels_of("shoe,hat,shoe", 2, model)


def test_ways_are_steps_without_guidance_and_strengths_at_one_number_of_steps():
    assert ways(["halton"], [4], [0.0, 1.0], [8, 16]) == [Way("halton", 4), Way("halton", 8, 1.0), Way("halton", 16, 1.0)]
    with pytest.raises(ValueError, match="spiral"):
        ways(["spiral"], [4], [], [4])
    with pytest.raises(ValueError, match="guidance nan is not a finite number"):
        ways(["halton"], [4], [float("nan")], [4])


def test_a_picture_holds_every_model(tmp_path, monkeypatch):
    found = []
    monkeypatch.setattr("matplotlib.axes.Axes.errorbar", lambda self, *_, label, **how: found.append(label))
    monkeypatch.setattr("matplotlib.figure.Figure.legend", lambda *_, **how: None)
    distance = Measurement("Frechet distance", 1.0, 0.1, "", 4, 4, "toy", "none", "test")
    draw(tmp_path / "a.png", [Row(f"m{n}", Way("halton", 2), distance, 1.0, 1.0, 1.0, 2, 4, 5) for n in range(6)])
    assert found == [f"m{n}, halton" for n in range(6)] and (tmp_path / "a.png").exists()
