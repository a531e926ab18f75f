"""No file runs anything: what it names is refused by name before anything is built."""
from __future__ import annotations

import copyreg
import datetime
import pickle
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from maskless.checkpoints.contents import read_contents
from maskless.checkpoints.pickles import Inert, Stored, machine
from maskless.checkpoints.torchfile import read_torch
from tests.checkpoints.bombs import UNUSUAL, as_legacy, as_zip, laughs, running, text, weights

GOLDEN = Path(__file__).parents[1] / "golden"
NAMES = list(running(Path("marker")))


def run_by_python(pickled: bytes, marker: Path) -> None:
    """Let Python's own unpickler do what it does; some payloads end in an error after they ran."""
    try:
        pickle.loads(pickled)
    except Exception:
        return


@pytest.mark.parametrize("layout", [as_zip, as_legacy], ids=["zip", "legacy"])
@pytest.mark.parametrize("name", NAMES)
def test_nothing_runs(name, layout, tmp_path, monkeypatch):
    marker = tmp_path / "marker"
    pickled, refused = running(marker)[name]
    run_by_python(pickled, marker)
    assert marker.exists(), "this payload runs nothing: the test could not fail"
    marker.unlink()
    path = layout(tmp_path / "x.ckpt", pickled)
    monkeypatch.setattr(machine.Machine, "run", lambda *_: pytest.fail("something was built"))
    if layout is as_legacy:                                         # its first three pickles are harmless, and are read
        monkeypatch.undo()
    with pytest.raises(ValueError) as caught:
        read_contents(path)
    said = str(caught.value)
    assert refused in said and said.startswith(str(path)) and "\n" not in said
    assert not marker.exists()


def test_an_extension_code_runs_nothing(tmp_path):
    marker = tmp_path / "marker"
    pickled = b"\x80\x02\x82\x77" + text(f"touch {marker}") + b"\x85R."
    copyreg.add_extension("posix", "system", 0x77)
    try:
        pickle.loads(pickled)
        assert marker.exists()
        marker.unlink()
        with pytest.raises(ValueError, match="extension code"):
            read_contents(as_zip(tmp_path / "x.ckpt", pickled))
    finally:
        copyreg.remove_extension("posix", "system", 0x77)
    assert not marker.exists()


@pytest.mark.parametrize("name", UNUSUAL)
def test_unusual_uses_are_refused(name, tmp_path):
    pickled, refused = UNUSUAL[name]
    start = time.perf_counter()
    with pytest.raises(ValueError) as caught:
        read_contents(as_zip(tmp_path / "x.ckpt", pickled + b".", {"0": bytes(16)}))
    assert refused in str(caught.value) and "\n" not in str(caught.value)
    assert time.perf_counter() - start < 5


def test_a_storage_is_read_where_it_lies(tmp_path):
    """The builders of these files make good ones too, or the refusals above would mean nothing."""
    data = torch.arange(4.0).numpy().tobytes()
    contents = read_contents(as_zip(tmp_path / "x.ckpt", b"}" + weights() + b".", {"0": data}))
    assert contents.weights["a"].load().tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("parts", [
    {"more": {"archive/other.pkl": b"."}}, {"more": {"other/data.pkl": b"."}}, {"more": {"archive/code/__torch__.py": b""}},
    {"compression": zipfile.ZIP_DEFLATED},
])
def test_archives_that_torch_did_not_write(parts, tmp_path):
    with pytest.raises(ValueError, match=r"x.ckpt (holds|is a TorchScript|declares)"):
        read_contents(as_zip(tmp_path / "x.ckpt", b"}" + weights() + b".", {"0": bytes(16)}, **parts))


def test_a_second_pickle_is_not_read(tmp_path):
    with pytest.raises(ValueError, match="several pickles"):
        read_contents(as_zip(tmp_path / "x.ckpt", b"}" + weights() + b".N.", {"0": bytes(16)}))


def test_settings_without_end(tmp_path):
    """Shared a billion billion times, or nested twenty thousand deep, or in a circle: refused, and quickly."""
    for settings in (laughs(60), b"]" * 20_000 + b"a" * 19_999, b"]q\x00h\x00a"):
        pickled = b"}" + weights() + text("hyper_parameters") + b"}" + text("config") + settings + b"ss."
        start = time.perf_counter()
        with pytest.raises(ValueError, match="in a circle or without end"):
            read_contents(as_zip(tmp_path / "x.ckpt", pickled, {"0": bytes(16)}))
        assert time.perf_counter() - start < 10


def test_too_many_operations(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "MAX_OPERATIONS", 1000)
    with pytest.raises(ValueError, match="more than 1,000 operations"):
        read_contents(as_zip(tmp_path / "x.ckpt", b"N" * 2000 + b"."))


@pytest.mark.parametrize("name", ["text_pgm_tiny", "text_sdtt_pgm_tiny"])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_what_torch_reads_is_read_alike(name, zipped, tmp_path):
    """Where torch's own weights_only reader can read a file, ours gives the same, container by container, bit by bit."""
    wanted = torch.load(GOLDEN / f"{name}.ckpt", weights_only=True)
    torch.save(wanted, tmp_path / "x.ckpt", _use_new_zipfile_serialization=zipped)
    file = read_torch(tmp_path / "x.ckpt")
    assert file.layout == ("zip" if zipped else "legacy")

    def same(ours, theirs):
        if isinstance(ours, Stored):
            assert torch.equal(file.tensor(ours), theirs)
        elif isinstance(theirs, dict):
            assert list(ours) == list(theirs)
            for key in theirs:
                same(ours[key], theirs[key])
        elif isinstance(theirs, list | tuple):
            assert type(ours) is type(theirs) and len(ours) == len(theirs)
            for one, other in zip(ours, theirs):
                same(one, other)
        else:
            assert type(ours) is type(theirs) and ours == theirs

    same(file.content, wanted)


def test_plain_values_and_numbers(tmp_path):
    """What real checkpoints hold besides: views, types, parameters, numpy numbers."""
    table = torch.arange(12.0).view(3, 4)
    saved = {
        "row": table[1], "columns": table.t(), "half": table.half(), "small": torch.tensor([1, 65535], dtype=torch.uint16), "none": torch.empty(0, 3),
        "parameter": torch.nn.Parameter(table), "dtype": torch.bfloat16, "rate": np.float64(0.25), "count": np.int64(7), "array": np.arange(3),
        "set": {1, 2}, "complex": 1j, "bytes": b"\xff", "big": 1 << 70,
    }
    torch.save(saved, tmp_path / "x.pt")
    file = read_torch(tmp_path / "x.pt")
    for name in ("row", "columns", "half", "small", "none", "parameter"):
        assert torch.equal(file.tensor(file.content[name]), saved[name]) and file.tensor(file.content[name]).dtype == saved[name].dtype
    for name in ("dtype", "rate", "count", "set", "complex", "bytes", "big"):
        assert file.content[name] == saved[name], name


def test_changing_a_tensor_does_not_change_the_file(tmp_path):
    torch.save({"a": torch.zeros(4)}, tmp_path / "x.pt")
    before = (tmp_path / "x.pt").read_bytes()
    file = read_torch(tmp_path / "x.pt")
    file.tensor(file.content["a"]).fill_(1)
    assert (tmp_path / "x.pt").read_bytes() == before


def test_records_are_inert():
    """Classes of other packages are records: nothing of them is imported."""
    import sys

    content = read_torch(GOLDEN / "text_pgm_tiny_omegaconf.ckpt").content
    config = content["hyper_parameters"]["config"]
    assert isinstance(config, Inert) and config.name == "omegaconf.dictconfig.DictConfig"
    assert not {"omegaconf", "transformers"} & set(sys.modules)


def test_dates_and_ranges_beside_the_weights_do_no_harm(tmp_path):
    loops = {"begun": datetime.datetime(2025, 5, 24), "seen": range(3), "part": slice(1, 2)}
    torch.save({"state_dict": {"a": torch.ones(2)}, "loops": loops}, tmp_path / "x.ckpt")
    content = read_torch(tmp_path / "x.ckpt").content
    assert {type(value) for value in content["loops"].values()} == {Inert} and list(content["state_dict"]) == ["a"]
