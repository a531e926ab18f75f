"""A recipe is right or it gets one sentence: the key, the value, the remedy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import pytest

from maskless.config import Tagged, build, override, parse, read, tree_of, write


def test_what_was_written_stays_until_all_is_written(tmp_path, monkeypatch):
    place = tmp_path / "config.yaml"
    write(place, {"a": 1})
    before = place.read_text()

    def full(self, text, **named):
        self.write_bytes(text[:2].encode())
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_text", full)
    with pytest.raises(OSError):
        write(place, {"a": 2})
    assert place.read_text() == before and [each.name for each in tmp_path.iterdir()] == ["config.yaml"]


@dataclass(frozen=True)
class Small:
    width: int
    share: float = 0.5
    ids: tuple[int, ...] = ()


@dataclass(frozen=True)
class Large:
    depth: int = 3
    query: Literal["learned", "mean"] = "mean"

    def __post_init__(self) -> None:
        if self.depth > 99:
            raise ValueError(f"depth is {self.depth}; choose at most 99")


@dataclass(frozen=True)
class Rates:
    steps: int
    rate: float = 1e-3
    pair: tuple[float, float] = (0.9, 0.99)
    threads: int | None = None
    exact: bool = False


@dataclass(frozen=True)
class Whole:
    model: Annotated[Small | Large, Tagged({"small": Small, "large": Large})]
    rates: Rates


TEXT = "model: {type: small, width: 4}\nrates: {steps: 5, rate: 3e-4}"


def made(*changes: str) -> Whole:
    return build(Whole, override(parse(TEXT, "here"), changes))


def test_a_tree_becomes_dataclasses_and_comes_back(tmp_path):
    whole = made("model.ids=[1, 2]", "rates.pair=[0.5, 1]", "rates.threads=null")
    assert whole == Whole(Small(4, ids=(1, 2)), Rates(5, 3e-4, (0.5, 1.0)))
    assert build(Whole, tree_of(whole)) == whole
    write(tmp_path / "a.yaml", tree_of(whole))
    assert build(Whole, read(tmp_path / "a.yaml")) == whole


def test_overrides_leave_the_tree_alone_and_come_in_order():
    tree = parse(TEXT, "here")
    changed = override(tree, ["rates.steps=6", "rates.steps=7", "model={type: large}", "model.depth=4"])
    assert build(Whole, changed) == Whole(Large(4), Rates(7, 3e-4))
    assert tree == parse(TEXT, "here")


WRONG = {
    "rates.step=3": "unknown key rates.step; did you mean rates.steps?",
    "rate=3": "unknown key rate; did you mean rates.rate?",
    "zzz=1": "unknown key zzz; a recipe has the keys model, rates",
    "model.with=1": "unknown key model.with; did you mean model.width?",
    "model.depth=3": "model.depth is a key of large, and model.type is small, which has no such key; leave it out, or choose a type "
    "that has it (keys of small: width, share, ids)",
    "rates.steps=3.5": "rates.steps is 3.5; it must be an integer",
    "rates.steps=true": "rates.steps is true; it must be an integer",
    "rates.steps='3'": "rates.steps is '3'; it must be an integer",
    "rates.rate=fast": "rates.rate is 'fast'; it must be a number",
    "rates.rate=.nan": "rates.rate is NaN; it must be a number",
    "rates.exact=no": "rates.exact is 'no'; it must be true or false",
    "rates.threads=x": "rates.threads is 'x'; it must be an integer or null",
    "rates.pair=[1]": "rates.pair is [1]; it must be a list of 2 numbers",
    "model.ids=[a]": 'model.ids is ["a"]; it must be a list of integers',
    "model.type=smal": "model.type is 'smal'; did you mean small? it must be one of small, large",
    "model.type=null": "model.type is missing; it must be one of small, large",
    "model=3": "model is 3; it must be a mapping with a type: key, one of small, large",
    "model={type: large, query: sum}": "model.query is 'sum'; it must be one of learned, mean",
    "model={type: small}": "model.width is missing; add it (an integer)",
    "model={type: large, depth: 100}": "model: depth is 100; choose at most 99",
    "rates=null": "rates is null; it must be a mapping with the keys steps, rate, pair, threads, exact",
    "rates.rate.low=1": "'rates.rate.low=1' goes inside rates.rate, which is the single value 0.0003; set "
    "rates.rate itself",
    "rates.steps": "'rates.steps' sets nothing; write key=value, for example training.steps=100",
    "rates.steps=[": "rates.steps=[ line 1 cannot be read as YAML",
}


@pytest.mark.parametrize("change", WRONG)
def test_what_is_wrong_gets_one_sentence(change):
    with pytest.raises(ValueError) as error:
        made(change)
    assert str(error.value).startswith(WRONG[change]) and "\n" not in str(error.value)


def test_scalars_are_what_they_look_like():
    assert parse("[1e-4, -2., .5e3, 1_000, yes, 2024-01-01, true, 1.0.0, e5, ~]", "here") == [
        1e-4,
        -2.0,
        500.0,
        1000,
        "yes",
        "2024-01-01",
        True,
        "1.0.0",
        "e5",
        None,
    ]


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(ValueError, match=r"cannot be read: No such file .* give the path"):
        read(tmp_path / "none.yaml")
    (tmp_path / "list.yaml").write_text("[1]")
    with pytest.raises(ValueError, match="holds no keys"):
        read(tmp_path / "list.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"a: \xe9")
    with pytest.raises(ValueError, match="not UTF-8"):
        read(tmp_path / "latin.yaml")
    with pytest.raises(ValueError, match="a is given twice"):
        parse("a: 1\nb: 2\na: 3", "here")
    with pytest.raises(ValueError, match=r"here line 1 cannot be read as YAML"):
        parse("!!python/object:os.system {}", "here")


def test_lists_of_tagged_sections():
    from maskless.evaluation.settings import Evaluation, Generative, Likelihood

    tree = {"suites": [{"type": "likelihood", "data": {"type": "prose"}}, {"type": "generative", "sampler": {"steps": 3}}]}
    built = build(Evaluation, tree)
    assert [type(suite) for suite in built.suites] == [Likelihood, Generative] and built.suites[1].sampler.steps == 3
    assert build(Evaluation, tree_of(built)) == built


@pytest.mark.parametrize("suites, sentence", [
    ({"likelihood": 1}, "evaluation.suites is .* must be a list"),
    ([{"type": "likelihood", "budgt": 8}], r"did you mean evaluation.suites\[0\].budget"),
    ([{"type": "like"}], r"evaluation.suites\[0\].type is 'like'; did you mean likelihood"),
    ([{"type": "likelihood", "budget": 0}], r"evaluation.suites\[0\]: budget is 0"),
    ([{"type": "likelihood"}, {"type": "likelihood"}], "twice"),
])
def test_strange_lists_are_refused(suites, sentence):
    from maskless.evaluation.settings import Evaluation

    with pytest.raises(ValueError, match=sentence):
        build(Evaluation, {"suites": suites}, where="evaluation")
