"""Task files: forms and prompts, what is refused, and accuracies worked out by hand."""
from __future__ import annotations

import gzip
import json
import math

import pytest
import torch

import maskless
from maskless.data.tokenizer import load_tokenizer
from maskless.evaluation.harness import Harness, Score, Scoring
from maskless.evaluation.tasks import Question, Task, figures, find_tasks, prompt, read_task, score_task
from maskless.suites.session import Session
from maskless.suites.subject import subject_of
from maskless.suites.tasks import evaluate_tasks

CHOICE = {"query": "Question: What is wet?\n", "choices": ["fire", "water", "sand"], "gold": 1}
PLAIN = {"query": "Water is", "choices": ["dry.", "wet."], "gold": 1}
SOCIAL = {"context": "Ann ran.", "question": "How is Ann?", "choices": ["tired", "blue", "tall"], "gold": 0}
SCHEMA = {"context_options": ["The cat ate because the cat", "The cat ate because the mouse"], "continuation": "was hungry.", "gold": 0}
CLOZE = {"context": "To be or not to", "continuation": "be"}
FORMS = {"choice": [CHOICE, PLAIN], "social": [SOCIAL, SOCIAL], "schema": [SCHEMA, {**SCHEMA, "gold": 1}], "cloze": [CLOZE, CLOZE]}


def written(folder, name: str, records: list) -> str:
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.jsonl.gz"
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines((record if isinstance(record, str) else json.dumps(record)) + "\n" for record in records)
    return path


def subject(kind: str = "partition"):
    sizes = {"vocab_size": 259, "length": 64, "width": 16, "heads": 2, "dropout": 0.0, "forbidden": (258,)}
    configs = {"partition": lambda: maskless.PartitionConfig(**sizes, encoder_layers=1, decoder_layers=1, cond_dim=8),
               "autoregressive": lambda: maskless.AutoregressiveConfig(**sizes, layers=1)}
    torch.manual_seed(1)
    network = maskless.build(configs[kind]())
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0, 0.2)
    return subject_of(network, load_tokenizer("bytes"), "toy", device="cpu")


@pytest.mark.parametrize(("records", "form", "contexts", "continuations"), [
    ([CHOICE], "answers", ["Question: What is wet?\nAnswer:"] * 3, [" fire", " water", " sand"]),
    ([PLAIN], "answers", ["Water is"] * 2, [" dry.", " wet."]),
    ([SOCIAL], "answers", ["Q: Ann ran. How is Ann?\nA:"] * 3, [" tired", " blue", " tall"]),
    ([SCHEMA], "schema", SCHEMA["context_options"], [" was hungry."] * 2),
    ([CLOZE], "cloze", ["To be or not to"], [" be"]),
])
def test_forms_and_prompts(records, form, contexts, continuations, tmp_path):
    task = read_task(written(tmp_path, "some_task", records))
    assert task.name == "some_task" and task.form == form
    assert list(task.questions[0].contexts) == contexts and list(task.questions[0].continuations) == continuations
    assert task.questions[0].gold == records[0].get("gold")


def test_prompts_of_questions():
    assert prompt("Question: a?") == prompt("Question: a?\n") == "Question: a?\nAnswer:"
    assert prompt("Passage: b\nQuestion: c?") == "Passage: b\nQuestion: c?\nAnswer:"
    assert prompt("The man") == "The man"


def test_a_limit_and_the_hash(tmp_path):
    path = written(tmp_path, "t", [CHOICE, PLAIN, PLAIN])
    assert len(read_task(path, 2).questions) == 2 and len(read_task(path).questions) == 3
    assert read_task(path, 2).hash == read_task(written(tmp_path, "u", [CHOICE, PLAIN])).hash != read_task(path).hash


@pytest.mark.parametrize(("records", "message"), [
    ([], "holds no questions"),
    ([CHOICE, CLOZE], "line 2 .* is of the form cloze"),
    ([{"query": "a", "gold": 0}], "the fields gold, query, which is no known form"),
    (["[1]"], "of no record"),
    (["{"], "line 1 .* is not valid JSON"),
    ([{**CHOICE, "gold": 3}], "gold of line 1 .* is 3"),
    ([{**CHOICE, "gold": -1}], "gold of line 1 .* is -1"),
    ([{**CHOICE, "gold": "b"}], "gold of line 1 .* is 'b'"),
    ([{**CHOICE, "choices": ["one"]}], "no list of at least 2 texts"),
    ([{**CHOICE, "choices": ["one", ""]}], "holds '', which is no text"),
    ([{**CLOZE, "continuation": " "}], "holds ' ', which is no text"),
    ([{**CHOICE, "query": 7}], "holds 7, which is no text"),
])
def test_what_is_no_task_is_refused(records, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        read_task(written(tmp_path, "bad", records))


def test_places_of_tasks(tmp_path):
    written(tmp_path, "b", [CHOICE])
    written(tmp_path, "a", [CHOICE])
    assert [path.name for path in find_tasks([str(tmp_path)])] == ["a.jsonl.gz", "b.jsonl.gz"]
    for places, message in (([], "no task files were named"), ([str(tmp_path / "none")], "there is no file"),
                            ([str(tmp_path), str(tmp_path / "a.jsonl.gz")], "two task files are called a")):
        with pytest.raises(ValueError, match=message):
            find_tasks(places)


def score(nats: float, error: float = 0.0, **more) -> Score:
    return Score(nats, error, 1, more.pop("kind", "exact"), **more)


def test_accuracies_by_hand():
    questions = tuple(Question(("q",) * 2, texts, gold) for texts, gold in (((" aaaa", " b"), 0), ((" a", " bbbb"), 0), ((" aa", " bb"), 1)))
    scores = [[score(-4.0), score(-3.0)],                           # 1 by nats; by byte -1 and -3: 0
              [score(-2.0), score(-4.0)],                           # 0 by nats; by byte -2 and -1: 1
              [score(-3.0), score(-2.0)]]                           # 1 by both
    plain, by_byte = figures(Task("t", "answers", questions, ""), scores)
    assert plain.metric == "accuracy" and plain.value == pytest.approx(2 / 3)
    assert by_byte.metric == "accuracy_per_byte" and by_byte.value == pytest.approx(2 / 3)
    assert plain.standard_error == pytest.approx(math.sqrt(2 / 3 * 1 / 3 / 2)) and plain.count == 3
    assert plain.details["chance"] == 0.5 and plain.details["undecided"] == 0
    assert figures(Task("t", "answers", questions[:1], ""), scores[:1])[0].standard_error is None


def test_what_noise_may_have_decided_is_counted():
    question = Question(("q",) * 3, (" a", " b", " b"), 1)
    near, far, twice = [score(-4.0, 0.3), score(-3.5, 0.3), score(-9.0)], [score(-4.0, 0.1), score(-3.5, 0.1), score(-9.0)], [score(-9.0)] * 3
    found = [figures(Task("t", "answers", (question,), ""), [scores])[0] for scores in (near, far)]
    assert [each.details["undecided"] for each in found] == [1.0, 0.0]
    same = Question(("q",) * 2, (" b", " b"), 1)                    # one choice that stands there twice is right, and decided
    found = figures(Task("t", "answers", (same,), ""), [twice[:2]])[0]
    assert found.value == 1.0 and found.details["undecided"] == 0


def test_a_schema_has_no_accuracy_per_byte_and_cut_texts_are_counted():
    question = Question(("a", "b"), (" c", " c"), 1)
    found = figures(Task("t", "schema", (question,), ""), [[score(-2.0, dropped=4), score(-1.0, windows=2)]])
    assert [each.metric for each in found] == ["accuracy"] and found[0].value == 1
    assert found[0].details["cut_contexts"] == 1 and found[0].details["cut_continuations"] == 1


def test_last_words_by_hand():
    questions = (Question(("a",), (" b",)),) * 4
    scores = [[score(-nats, greedy=right)] for nats, right in ((1.0, True), (2.0, False), (3.0, True), (2.0, True))]
    share, nats = figures(Task("t", "cloze", questions, ""), scores)
    assert share.value == 0.75 and share.standard_error == pytest.approx(math.sqrt(0.75 * 0.25 / 3))
    assert nats.value == 2.0 and nats.kind == "exact" and nats.details["perplexity"] == pytest.approx(math.exp(2))
    assert nats.standard_error == pytest.approx(math.sqrt((1 + 0 + 1 + 0) / 3 / 4))
    joint = figures(Task("t", "cloze", questions, ""), [[score(-2.0, kind="mean_joint", greedy=True)]] * 4)
    assert [each.metric for each in joint] == ["accuracy"]          # a score of the whole row is no measure of its last word


@pytest.mark.parametrize("kind", ["partition", "autoregressive"])
def test_a_model_that_knows_the_answers_has_them_right(kind, tmp_path):
    """Letters after a space are likely in alphabetical order of rank: the head's bias decides."""
    opened = subject(kind).opened
    with torch.no_grad():
        opened.model.head.weight.zero_()
        opened.model.head.bias.zero_()
        opened.model.head.bias[ord("a"):ord("z") + 1] = torch.arange(26, 0, -1).float()
    first, second = ({"query": "say", "choices": choices, "gold": gold} for choices, gold in ((["b", "c", "a"], 2), (["zz", "aa"], 0)))
    path = written(tmp_path, "letters", [first, second])
    task = read_task(path)
    scores = score_task(Harness(opened.model, opened.tokenizer, Scoring(samples=16)), task)
    assert [len(each) for each in scores] == [3, 2]
    assert [figure.value for figure in figures(task, scores)] == [0.5, 0.5]
    law = opened.model.head.bias.masked_fill(torch.arange(259) == 258, -math.inf).log_softmax(0)
    assert scores[0][0].nats == pytest.approx((law[32] + law[ord("b")]).item(), abs=1e-4)


@pytest.mark.parametrize("kind", ["partition", "autoregressive"])
def test_the_suite_writes_results_of_every_form(kind, tmp_path):
    from maskless.evaluation.results import read, same_but_times, text_of, write
    from maskless.evaluation.settings import Tasks

    for name, records in FORMS.items():
        written(tmp_path, name, records)
    settings, told = Tasks(files=(str(tmp_path),), budget=4), []
    session = Session(subject(kind), settings, tmp_path / "out", progress=lambda what, done, total: told.append((what, done, total)))
    found = list(evaluate_tasks(session, settings))
    metrics = ["choice_accuracy", "choice_accuracy_per_byte", "cloze_accuracy", "cloze_target_nats", "schema_accuracy", "social_accuracy",
               "social_accuracy_per_byte"]
    assert [each.metric for each in found] == metrics
    assert [each.name for each in found] == [f"toy-{metric}" for metric in metrics] and {each.suite for each in found} == {"tasks"}
    assert found[3].kind == ("exact" if kind == "autoregressive" else "bound") and {each.samples for each in found} == {2}
    assert told[-1] == ("social", 6, 6)
    for result in found:
        assert read(write(result, tmp_path / "out")) == result
    again = list(evaluate_tasks(session, settings))
    assert all(same_but_times(json.loads(text_of(one)), json.loads(text_of(other))) for one, other in zip(found, again))


def test_files_of_one_name_are_one_task_and_other_questions_are_refused(tmp_path, monkeypatch):
    from maskless.evaluation.settings import Tasks
    from maskless.suites.run import evaluate

    places = [str(written(tmp_path / folder, name, records)) for folder, name, records in (
        ("one", "cloze", FORMS["cloze"]), ("one", "choice", FORMS["choice"]), ("two", "cloze", [CLOZE]))]
    for place in places[:2]:                                        # one after the other, into one folder
        evaluate(subject(), [Tasks(files=(place,), budget=4)], out=tmp_path / "out")
    monkeypatch.setattr("maskless.suites.tasks.score_task", lambda *words: pytest.fail("nothing is scored"))
    for settings, sentence in ((Tasks(files=(places[2],), budget=4), "was measured on other data"),
                               (Tasks(files=(places[0],), budget=2), "measured with budget 4 and 2 is asked for"),
                               (Tasks(files=(places[0],), budget=4, score="mean_joint"), 'score "conditional" and "mean_joint" is asked for')):
        with pytest.raises(ValueError, match=sentence):
            evaluate(subject(), [settings], out=tmp_path / "out")


def test_the_suite_takes_the_released_score_and_a_limit(tmp_path):
    from maskless.evaluation.settings import Tasks

    written(tmp_path, "cloze", FORMS["cloze"])
    written(tmp_path, "choice", FORMS["choice"])
    settings = Tasks(files=(str(tmp_path),), budget=4, score="mean_joint", rows=1)
    found = list(evaluate_tasks(Session(subject(), settings, tmp_path), settings))
    assert [each.metric for each in found] == ["choice_accuracy", "choice_accuracy_per_byte", "cloze_accuracy"]
    assert found[0].details["score"] == "mean_joint" and found[0].samples == 1 and found[0].data.split == "first 1"
    assert found[0].uncertainty.kind == "none"


@pytest.mark.parametrize(("options", "message"), [
    ({"score": "best"}, "score has 'best'"), ({"budget": 1}, "budget is 1"), ({"rows": 0}, "rows is 0"),
    ({"overlong": "cut"}, "overlong has 'cut'"),
])
def test_settings_that_mean_nothing_are_refused(options, message):
    from maskless.evaluation.settings import Tasks

    with pytest.raises(ValueError, match=message):
        Tasks(**options)
