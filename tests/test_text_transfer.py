"""A model of texts is carried over with its words; what reads the texts otherwise is judged on the same draws."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from experiments import text_transfer as experiment
from experiments.text_transfer import CONTRASTS, ENCODER, ROWS, Config, OfModel
from jaxtl.data import Vocabulary, load_texts, tokenised
from jaxtl.finetune import tfidf
from jaxtl.methods.finetuning import STAGES
from jaxtl.models import initialise
from jaxtl.problems import FewTexts, Source, Texts, check_tasks, make_model, outputs
from jaxtl.problems.few_shot import seed_of
from jaxtl.program import Weights
from jaxtl.protocol import Draw
from jaxtl.protocol.training import Trainer
from jaxtl.selection import heads

TINY = {
    "source": "numpy_docs",
    "data": "scipy_docs",
    "embedding": 6,
    "hidden": 5,
    "length": 16,
    "n_per_class": (4,),
    "source_steps": 4,
    "steps": 6,
    "trials": 2,
    "report_draws": 2,
    "validation": 40,
    "dropout": 0.2,
}
DRAW = Draw(0)
METHODS = ("fine_tune", "tfidf")


@pytest.fixture(scope="module", params=["bilstm", "average"])
def problem(request):
    config = OfModel(**TINY, model=request.param)
    theirs, ours = (load_texts(name) for name in ("numpy_docs", "scipy_docs"))
    known = Vocabulary.of(theirs.train["text"], 300)
    task, source_task = tokenised(ours, known.extended(ours.train["text"], 100), 16), tokenised(theirs, known, 16)
    texts = Texts.of(source_task)
    model = make_model(config, texts, head=2)
    weights = Weights(initialise(model, jax.random.key(0), texts.like))
    encoded = tuple(np.random.default_rng(0).normal(size=(len(part), 8)) for part in (ours.train, ours.test))
    return FewTexts(config, Source(source_task, texts, weights, 0.5), task, 4, ours, encoded)


def test_words_that_both_know_are_carried_over_and_others_are_new(problem):
    labels, report = problem.moved.labels["trunk"], problem.moved.report
    assert labels["embedding"] == {"transferred": "transferred", "new": "new"}
    assert set(jax.tree.leaves({name: part for name, part in labels.items() if name != "embedding"})) <= {"transferred"}
    assert "trunk/embedding/transferred" in report.copied
    assert not np.any(problem.moved.anchor["trunk"]["embedding"]["new"])


def test_a_text_of_known_words_has_the_features_that_the_source_gives_it(problem):
    source = problem.source
    model = make_model(problem.config, source.images, head=2)
    tokens = jnp.asarray(source.task.test["token"])
    there = outputs(model, source.weights, tokens, source.images, "features")
    here = outputs(problem.model, problem.start(DRAW), tokens, problem.source_images, "features")
    np.testing.assert_allclose(here, there, atol=1e-6)
    assert problem.on_source(problem.start(DRAW), DRAW) == pytest.approx(
        np.mean(outputs(model, source.weights, tokens, source.images, "head").argmax(1) == source.task.test.labels)
    )


def test_rows_of_the_embedding_that_are_held_do_not_move_and_new_ones_do(problem):
    trainer = Trainer(problem, {**ROWS, "transfer": STAGES["three_stages"].before[0]})
    start = problem.start(DRAW).params["trunk"]["embedding"]
    held = trainer.train("transfer", {"learning_rate": 1.0}, DRAW).weights.params["trunk"]["embedding"]
    np.testing.assert_array_equal(held["transferred"], start["transferred"])
    seen = np.unique(problem.task.train["token"][problem.examples(DRAW).seen])
    moved = np.flatnonzero((np.asarray(held["new"]) != np.asarray(start["new"])).any(axis=1)) + problem.images.words
    assert set(moved) == {number for number in seen if number >= problem.images.words} != set()
    free = trainer.train("fine_tune", {"learning_rate": 1.0}, DRAW).weights.params["trunk"]["embedding"]
    assert not np.array_equal(free["transferred"], start["transferred"])


def test_weighted_words_are_those_of_scikit_learn_on_the_labelled_texts_alone(problem):
    trained = Trainer(problem, ROWS).train("tfidf", {}, DRAW)
    examples, texts = problem.examples(DRAW), problem.texts
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=tfidf.WORD.pattern)
    seen = words.fit_transform(texts.train["text"][examples.seen])
    labels = examples.labels[examples.seen]
    _, lam = tfidf.logistic(seen, labels, 2, None, seed_of(problem.config, DRAW))
    theirs = LogisticRegression(C=1 / (lam * len(labels)), max_iter=5000).fit(seen, labels)
    expected = theirs.decision_function(words.transform(texts.test["text"]))
    logits = problem.answers(trained.weights)
    np.testing.assert_allclose(logits[:, 1] - logits[:, 0], expected, atol=2e-3)
    metrics, arrays = problem.test(trained, DRAW)
    assert metrics["test"] == pytest.approx(theirs.score(words.transform(texts.test["text"]), texts.test.labels))
    np.testing.assert_array_equal(arrays["prediction"], logits.argmax(axis=1))
    held = texts.train["text"][examples.held]
    right = theirs.predict(words.transform(held)) == examples.labels[examples.held]
    assert problem.validate(trained, DRAW) == pytest.approx(right.mean())


def test_features_of_an_encoder_are_judged_on_the_examples_that_they_are_of(problem):
    trained, examples = Trainer(problem, ROWS).train(ENCODER, {}, DRAW), problem.examples(DRAW)
    seen = examples.seen
    head, _ = heads.logistic(problem.encoded[0][seen], examples.labels[seen], 2, None, seed_of(problem.config, DRAW))
    train, test = (features @ head["kernel"] + head["bias"] for features in problem.encoded)
    np.testing.assert_array_equal(problem.answers(trained.weights, examples.held), train[examples.held])
    np.testing.assert_array_equal(problem.answers(trained.weights), test)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    experiment.main(Config(**TINY, models=("average",), back=False, methods=METHODS), workdir)
    return workdir


def test_all_rows_see_the_same_draws_and_the_contrasts_are_those_that_were_planned(finished):
    found = json.loads((finished / "summary.json").read_text())
    assert [(row["split"], row["name"]) for row in found["methods"]] == [
        ("numpy_docs → scipy_docs", name) for name in METHODS
    ]
    assert {tuple(row["seeds"]) for row in found["methods"]} == {(1, 2)}
    told = [(contrast["a"], contrast["b"]) for contrast in found["contrasts"]]
    assert told == [pair for pair in CONTRASTS if {*pair} <= {*METHODS}]


def test_the_way_back_has_a_vocabulary_of_its_own():
    pair = load_texts("numpy_docs"), load_texts("scipy_docs")
    there, back = (experiment.way_of(Config(**TINY), *texts) for texts in (pair, pair[::-1]))
    assert (there.title, back.title) == ("numpy_docs → scipy_docs", "scipy_docs → numpy_docs")
    assert there.task.words[0] == there.source_task.words[0] != back.source_task.words[0] == back.task.words[0]
    assert there.source_task.words[1] == 0 < min(there.task.words[1], back.task.words[1])


def test_the_vocabulary_is_kept_with_the_run_and_learned_from_training_texts_only(finished):
    (path,) = finished.glob("numpy_docs*scipy_docs/vocabulary.json")
    kept = Vocabulary.from_bytes(path.read_bytes())
    theirs, ours = (load_texts(name) for name in ("numpy_docs", "scipy_docs"))
    known = Vocabulary.of(theirs.train["text"], experiment.SOURCE_WORDS)
    assert kept.words == known.extended(ours.train["text"], experiment.NEW_WORDS).words


def test_the_plan_is_refused_where_a_set_has_too_few_texts():
    config = OfModel(**{**TINY, "n_per_class": (10_000,)}, model="average")
    theirs = load_texts("numpy_docs")
    task = tokenised(theirs, Vocabulary.of(theirs.train["text"], 50), 8)
    with pytest.raises(Exception, match="n_per_class=10000"):
        check_tasks(config, task, task, config.n_per_class, folds=False, models=2)
