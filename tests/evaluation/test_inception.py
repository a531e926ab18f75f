"""Inception and what is done to images before it: sizes, names and counts of the published network, and the round trip of its file."""
from __future__ import annotations

import hashlib

import pytest
import torch
from safetensors.torch import save_file

from maskless.data.pictures import in_unit_range
from maskless.evaluation.features import Features, InceptionFeatures, extract, inception_features
from maskless.evaluation.image_transform import (
    BICUBIC_TRUNCATED,
    PROTOCOLS,
    TRUNCATED_BILINEAR,
    bicubic,
    bilinear,
    protocol,
    to_255,
)
from maskless.evaluation.inception import FILE, Inception, average, load_inception, maximum

# Keras documents 21,802,784 weights without the classes: convolutions, shifts, means and variances of 17,216 channels.
KERAS, CHANNELS = 21_802_784, 17_216


@pytest.fixture(scope="module")
def network() -> Inception:
    torch.manual_seed(0)
    made = Inception().eval().requires_grad_(False)
    for module in made.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            torch.nn.init.uniform_(module.weight, 0.8, 1.2)
    return made


@pytest.fixture(scope="module")
def file(network, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "random.pth"
    torch.save(network.state_dict(), path)
    return path


def test_the_network_has_the_published_number_of_weights():
    with torch.device("meta"):
        network = Inception()
    counted = {name: parameter.numel() for name, parameter in network.named_parameters() if not name.startswith("fc.")}
    assert sum(counted.values()) == KERAS - 3 * CHANNELS + 2 * CHANNELS                              # ours have scales, and buffers do not count
    assert sum(size for name, size in counted.items() if name.endswith("bn.bias")) == CHANNELS
    assert sum(parameter.numel() for parameter in network.fc.parameters()) == 2048 * 1008 + 1008
    assert len([name for name in network.state_dict() if name.endswith("conv.weight")]) == 94        # as published: 94 convolutions


def test_tensors_are_named_as_in_the_released_file():
    with torch.device("meta"):
        shapes = {name: tuple(tensor.shape) for name, tensor in Inception().state_dict().items()}
    for name, shape in {
        "Conv2d_1a_3x3.conv.weight": (32, 3, 3, 3), "Conv2d_4a_3x3.bn.running_var": (192,), "Mixed_5b.branch_pool.conv.weight": (32, 192, 1, 1),
        "Mixed_5d.branch5x5_2.conv.weight": (64, 48, 5, 5), "Mixed_6a.branch3x3dbl_3.conv.weight": (96, 96, 3, 3),
        "Mixed_6b.branch7x7_2.conv.weight": (128, 128, 1, 7), "Mixed_6e.branch7x7dbl_5.conv.weight": (192, 192, 1, 7),
        "Mixed_7a.branch7x7x3_4.conv.weight": (192, 192, 3, 3), "Mixed_7b.branch3x3_2b.conv.weight": (384, 384, 3, 1),
        "Mixed_7c.branch3x3dbl_3a.conv.weight": (384, 384, 1, 3), "Mixed_7c.branch_pool.conv.weight": (192, 2048, 1, 1), "fc.weight": (1008, 2048),
    }.items():
        assert shapes[name] == shape, name


def test_sizes_along_the_way():
    with torch.device("meta"):
        network, x = Inception().eval(), torch.zeros(2, 3, 299, 299)
        seen = []
        for block in network.blocks():
            block.register_forward_hook(lambda module, inputs, output: seen.append(tuple(output.shape[1:3])))
        features = network(x)
    assert features.shape == (2, 2048) and network.unbiased_logits(features).shape == (2, 1008)
    assert seen == [(256, 35), (288, 35), (288, 35), (768, 17), (768, 17), (768, 17), (768, 17), (768, 17), (1280, 8), (2048, 8), (2048, 8)]


def test_pools_do_not_count_padding(network):
    ones = torch.ones(1, 1, 4, 4)
    assert torch.equal(average(ones), ones) and torch.equal(maximum(-ones), -ones)
    pools = {name: [step for branch in block.branches for step in branch if callable(step)] for name, block in network.named_children()
             if hasattr(block, "branches")}
    assert pools["Mixed_7c"] == [maximum] and pools["Mixed_7b"] == [average] and pools["Mixed_5b"] == [average]


def test_round_trip_through_a_file(network, file, tmp_path):
    found, digest = load_inception(file)
    weights = network.state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in found.state_dict().items() if not name.endswith("num_batches_tracked"))
    assert not found.training and len(digest) == 8
    kept = {name: tensor for name, tensor in weights.items() if not name.endswith("num_batches_tracked")}
    save_file(kept, tmp_path / "random.safetensors")
    again, other = load_inception(tmp_path / "random.safetensors")
    assert torch.equal(again.fc.weight, network.fc.weight) and other != digest


def test_features_do_not_depend_on_the_batch(network):
    features = InceptionFeatures(network, "inception-v3-compat 00000000", BICUBIC_TRUNCATED)
    assert isinstance(features, Features) and features.width == 2048
    images = torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
    together = extract(features, [images], split="x")
    apart = extract(features, images.split(1), split="x")
    torch.testing.assert_close(together.features, apart.features, rtol=1e-4, atol=1e-5)
    assert (together.features[0] - together.features[1]).abs().max() > 1e-2
    logits = features.logits(together.features)
    torch.testing.assert_close(logits + network.fc.bias, network.fc(together.features))


# ------------------------------------------------------------------------------------------------------ transforms


def test_resizes():
    row = torch.tensor([0.0, 10, 20]).expand(1, 1, 3, 3)
    assert bilinear(row, 3, 6)[0, 0, 0].tolist() == [0, 5, 10, 15, 20, 20]                             # no half-pixel centres
    assert bilinear(row.mT, 6, 3)[0, 0, :, 0].tolist() == [0, 5, 10, 15, 20, 20]
    same = torch.rand(1, 3, 5, 5) * 255
    torch.testing.assert_close(bilinear(same, 5, 5), same)
    pytest.importorskip("PIL")
    torch.testing.assert_close(bicubic(same, 5, 5), same)
    torch.testing.assert_close(bicubic(torch.full((1, 1, 4, 6), 77.0), 9, 11), torch.full((1, 1, 9, 11), 77.0))
    wide = torch.nn.functional.interpolate(same, size=(13, 3), mode="bicubic", antialias=True).clamp(0, 255)
    torch.testing.assert_close(bicubic(same, 13, 3), wide, rtol=1e-3, atol=0.1)


def test_bytes_are_truncated_not_rounded():
    assert to_255(torch.tensor([-3.0, -1, 0, 1, 2]).reshape(1, 1, 1, 5)).flatten().tolist() == [0, 0, 127.5, 255, 255]
    grey = torch.full((1, 1, 299, 299), 0.9 / 127.5 - 1)
    for transform in (BICUBIC_TRUNCATED, TRUNCATED_BILINEAR):
        out = transform(grey)
        assert out.shape == (1, 3, 299, 299) and torch.equal(out, torch.zeros_like(out))
    with pytest.raises(ValueError, match=r"\(1, 2, 4, 4\) cannot be given"):
        BICUBIC_TRUNCATED(torch.zeros(1, 2, 4, 4))


def test_protocols_are_different_and_named():
    assert set(PROTOCOLS) == {"pgm-val", "halton-train", "adm"}
    assert protocol("pgm-val").images == 49_664 and "validation" in protocol("pgm-val").reference
    assert protocol("adm").transform is TRUNCATED_BILINEAR
    with pytest.raises(ValueError, match="'fid' is unknown; use one of pgm-val, halton-train, adm"):
        protocol("fid")


# ------------------------------------------------------------------------------------------------------- bad input


def test_names_and_shapes_are_checked(network, tmp_path):
    weights = {name: tensor for name, tensor in network.state_dict().items() if not name.endswith("num_batches_tracked")}
    for name, change in {"fc.weight": weights["fc.weight"][:1000], "Mixed_5b.branch1x1.conv.weight": None}.items():
        changed = {key: tensor for key, tensor in weights.items() if key != name} | ({} if change is None else {name: change.clone()})
        save_file(changed, tmp_path / "other.safetensors")
        with pytest.raises(ValueError, match=name):
            load_inception(tmp_path / "other.safetensors")


@pytest.mark.parametrize("content", [b"", b"garbage" * 100])
def test_damaged_weights_are_one_sentence(content, tmp_path):
    (tmp_path / "damaged.pth").write_bytes(content)
    with pytest.raises(ValueError, match=r"damaged.pth is damaged") as error:
        load_inception(tmp_path / "damaged.pth")
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="no Inception weights"):
        load_inception(tmp_path / "none.pth")


def test_without_the_network_the_remedy_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))

    def unreachable(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    for fetch in (True, False):
        with pytest.raises(ValueError, match=rf"{FILE} .* its path behind the protocol: images\.features=pgm-val:/path/to/{FILE}") as error:
            inception_features(fetch=fetch)
        assert "\n" not in str(error.value)


def test_the_cache_folder_is_used(file, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / FILE).symlink_to(file)
    assert inception_features(fetch=False).name == f"inception-v3-compat {hashlib.sha256(file.read_bytes()).hexdigest()[:8]}"


def test_adm_sees_the_bytes_of_an_image():
    """Bytes become floats in [-1, 1] on the way; float32 brings 63 of 256 back a little below themselves, where truncation takes one away."""
    levels = torch.arange(256, dtype=torch.uint8)
    flat = in_unit_range(levels[:, None, None, None].expand(-1, 3, 8, 8))
    seen = PROTOCOLS["adm"].transform(flat)
    assert torch.equal(seen[:, 0, 150, 150], levels.float())
