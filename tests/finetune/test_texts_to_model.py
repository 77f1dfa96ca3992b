"""From labelled texts to a model: a tiny encoder and tokenizer, as one types it; what words alone do; mistakes."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from vocabulary import WORDS, description

import jaxtl as tl
from jaxtl.cli import commands
from jaxtl.errors import InputError
from jaxtl.finetune import load_finetuned, plan, trunks
from jaxtl.finetune.inputs import Tokens
from jaxtl.finetune.kinds import KINDS
from jaxtl.finetune.modalities import PICTURES, TEXTS, modality_of, shortened
from jaxtl.finetune.options import Options
from jaxtl.finetune.readings import Reading
from jaxtl.finetune.work import Work, kept_outputs
from jaxtl.models import Classifier, initialise
from jaxtl.models.bert import SentenceEncoder
from jaxtl.models.pretrained import Pretrained
from jaxtl.models.torch_names import ARCHITECTURES

TINY = SentenceEncoder(16, 2, 4, len(WORDS), places=32, window=16)
WINDOW = "--size=16"


def tiny(name="tiny", progress=None):
    """A trunk of random weights."""
    params = initialise(Classifier(TINY, ()), jax.random.key(0), jax.ShapeDtypeStruct((16,), np.int32))["trunk"]
    params["words"]["embedding"] = params["words"]["embedding"] * 5  # so that words can be told apart
    return Pretrained("tiny", TINY, params, {}, 16, (), (), "mine", "made up", 16, TINY.stage_names, description())


@pytest.fixture(autouse=True)
def at_hand(monkeypatch):
    monkeypatch.setattr(trunks, "_pretrained", tiny)
    made = ARCHITECTURES["minilm_l6"]._replace(make=lambda weights: TINY)
    monkeypatch.setitem(ARCHITECTURES, "tiny", made)


def texts(count, seed=0):
    """[(text, label)]: what is good is said with other words than what is bad; some are long."""
    rng, own = np.random.default_rng(seed), {"good": ["good", "fine", "finely"], "bad": ["bad", "dull"]}
    rows = []
    for k in range(count):
        label = ["good", "bad"][k % 2]
        said = [*rng.choice(own[label], 2 + 10 * (k % 5 == 0)), *rng.choice(["the", "film", "is", "very", "a"], 4)]
        rows.append((" ".join(rng.permutation(said)), label))
    return rows


def table(path, rows, header=("text", "label")):
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    """A table, new texts, and a run by each kind of head."""
    pytest.importorskip("tokenizers")
    room = tmp_path_factory.mktemp("room")
    table(room / "reviews.csv", [*texts(36), ("<script>alert(1)</script> `good` " + "film " * 400, "bad"), ("", "bad")])
    table(room / "new.csv", [*texts(6, 1), ("", "x"), ("word " * 10**5, "")], ("text", "id"))
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(room)
        patched.setenv("JAXTL_DATA", str(room / "cache"))
        patched.setattr(trunks, "_pretrained", tiny)
        patched.setitem(ARCHITECTURES, "tiny", ARCHITECTURES["minilm_l6"]._replace(make=lambda weights: TINY))
        for methods, run in (("ridge", "encoder"), ("tfidf", "words")):
            wanted = ["finetune", "reviews.csv", f"--methods={methods}", f"--workdir=runs/{run}", "--budget=60s"]
            assert commands.execute(wanted) == 0
    return room


@pytest.fixture
def here(room, monkeypatch):
    monkeypatch.chdir(room)
    monkeypatch.setenv("JAXTL_DATA", str(room / "cache"))
    return room


def told(capsys, arguments, code=0):
    assert commands.execute(arguments) == code
    out = capsys.readouterr()
    return out.out if code == 0 else out.err


@pytest.mark.parametrize("run", ["encoder", "words"])
def test_a_table_of_texts_becomes_a_model_and_a_report(here, run):
    place = here / "runs" / run
    summary = json.loads((place / "summary.json").read_text())
    assert summary["unseen"] > 0.7
    assert np.sum(summary["confusion"]) == 38
    assert "1 of 38 texts are empty" in summary["notice"]
    page, plain = (place / "report.html").read_text(), (place / "summary.md").read_text()
    assert "38 labelled texts, 2 classes of" in page
    assert "judged by the texts left out" in page
    assert "picture" not in plain
    assert "<script" not in page
    assert "new_texts/" in plain


def test_the_encoder_says_how_texts_were_prepared(here):
    summary = json.loads((here / "runs/encoder/summary.json").read_text())
    assert "texts are longer than 14 tokens: windows of them" in summary["notice"]
    assert "1 texts are longer than 112 tokens: their ends are left out" in summary["notice"]
    assert (here / "runs/encoder/tokenizer.json").read_bytes() == description()


@pytest.mark.parametrize("run", ["encoder", "words"])
def test_new_texts_are_predicted(here, capsys, run):
    out = told(capsys, ["predict", f"runs/{run}", "new.csv", "--csv=out.csv"])
    assert "8 texts" in out
    header, *rows = csv.reader((here / "out.csv").read_text().splitlines())
    assert header == ["file", "class", "p(bad)", "p(good)"]
    assert [row[0] for row in rows] == [f"row {k}" for k in range(2, 10)]
    assert np.mean([row[1] == label for row, (_, label) in zip(rows, texts(6, 1), strict=False)]) > 0.6
    assert all(sum(map(float, row[2:])) == pytest.approx(1, abs=1e-4) for row in rows)
    (here / "some").mkdir(exist_ok=True)
    (here / "some" / "a.txt").write_text("a good film")
    (here / "some" / "b.txt").write_bytes(b"\xff")
    out = told(capsys, ["predict", f"runs/{run}", "some"])
    assert "a.txt" in out
    assert "not read: b.txt: is not in UTF-8" in out


@pytest.mark.parametrize("run", ["encoder", "words"])
def test_what_is_said_does_not_depend_on_what_is_asked_beside_it(here, run):
    model = load_finetuned(f"runs/{run}")
    asked = [text for text, _ in texts(40, 2)]
    together = model.probabilities(asked)
    np.testing.assert_allclose(
        np.concatenate([model.probabilities([text]) for text in asked[:6]]), together[:6], atol=1e-5
    )
    assert model.probabilities([]).shape == (0, 2)


def test_a_model_of_texts_is_exported(here, capsys):
    pytest.importorskip("flatbuffers")
    out = told(capsys, ["export", "runs/encoder", "--to=out/model.stablehlo"])
    assert "out/model.tokenizer.json" in out
    read = jax.export.deserialize(bytearray(Path("out/model.stablehlo").read_bytes()))
    model = load_finetuned("runs/encoder")
    asked = [text for text, _ in texts(5, 3)]
    tokens = np.zeros((5, model.inputs.length), np.int32)
    rows = model.inputs.prepared(asked)
    tokens[:, : rows.shape[1]] = rows
    np.testing.assert_allclose(np.asarray(read.call(tokens)), model.probabilities(asked), atol=1e-5)


def test_words_go_out_beside_their_weights_and_as_no_network(here, capsys):
    out = told(capsys, ["export", "runs/words", "--to=out/words.safetensors"])
    assert "out/words.json" in out
    assert len(json.loads(Path("out/words.json").read_text())["terms"]) > 20
    assert tl.load_weights("out/words.safetensors")["head"]["kernel"].shape[1] == 2
    err = told(capsys, ["export", "runs/words", "--to=out/words.stablehlo"], 2)
    assert "is a table of words, and no network\n  use .safetensors" in err


@pytest.mark.slow
def test_an_exported_onnx_says_what_the_model_says(here, capsys):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("jax2onnx")
    told(capsys, ["export", "runs/encoder", "--to=out/model.onnx"])
    session, model = onnxruntime.InferenceSession("out/model.onnx"), load_finetuned("runs/encoder")
    tokens = model.inputs.noise(3)
    found = session.run(None, {session.get_inputs()[0].name: tokens})[0]
    ours = model.probabilities_of(jax.tree.map(jax.numpy.asarray, model.weights), tokens)
    assert np.abs(found - np.asarray(ours)).max() < 1e-5


# ---------------------------------------------------------------- fine-tuning


@pytest.fixture(scope="module")
def work(room):
    workdir = room / "work"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(trunks, "_pretrained", tiny)
        options = Options(data="x", trunk="tiny")
        begun = TEXTS.begin(options, room / "reviews.csv", workdir, trunks.Quiet, print)
    features, _ = kept_outputs(workdir, begun.trunk, begun.inputs, None, begun.prepared_by, trunks.Quiet)
    return Work(options, begun, features, workdir, TEXTS, KINDS["classes"], trunks.Quiet)


@pytest.mark.parametrize("depth", [1, pytest.param(0, marks=pytest.mark.slow)])
def test_blocks_above_a_cut_are_fine_tuned_and_are_the_model_that_is_kept(work, depth):
    bench = work.bench(plan.Plan(plan.Effort(3, 1, 2, 1, 4), depth, ("l2_sp",), 1.0, ""))
    fitted = bench.fit("l2_sp", bench.parts.whole)
    model = work.model(fitted, "l2_sp", Reading(1.5))
    odds = np.exp(fitted.logits(np.arange(len(work.data.train))) / 1.5)
    said = model.probabilities(work.data.train["text"])
    np.testing.assert_allclose(said, odds / odds.sum(1, keepdims=True), atol=2e-5)
    trained = model.weights.params["trunk"]
    moved = jax.tree.map(lambda a, b: bool(np.any(np.asarray(a) != np.asarray(b))), trained, work.trunk.params)
    by_stage = {name: any(jax.tree.leaves(tree)) for name, tree in moved.items()}
    assert by_stage["block_1"]
    assert by_stage["block_0"] == by_stage["words"] == (depth == 0)


def test_words_are_learned_within_a_draw(work):
    bench = work.bench(plan.Plan(plan.HEADS_ALONE, 0, (), 0.0, ""))
    draw = next(iter(bench.parts.draws))
    fitted = bench.fit("tfidf", bench.parts.whole._replace(seed=draw))
    rows, out = bench.parts.of(bench.parts.whole._replace(seed=draw))
    known = " ".join(work.data.train["text"][rows])
    assert all(word in known.lower() for word in fitted.words.terms if " " not in word)
    assert fitted.logits(out).shape == (len(out), 2)


def test_texts_of_one_length_go_through_the_trunk_together():
    tokens = np.zeros((300, 64), np.int32)
    lengths = np.random.default_rng(0).integers(1, 65, 300)
    for row, length in zip(tokens, lengths, strict=True):
        row[:length] = 1
    seen = np.zeros(300, int)
    for rows, block in Tokens(b"", 16, 64).blocks(tokens):
        assert block.shape[1] in (16, 32, 64)
        assert block.shape[1] < 2 * max(lengths[rows].max(), 16)
        assert (block[: len(rows)].sum(axis=1) == lengths[rows]).all()
        seen[rows] += 1
    assert (seen == 1).all()


# ---------------------------------------------------------------- what is there, and what is not


def test_what_the_examples_are_is_seen_from_the_data(here):
    assert modality_of("reviews.csv") is TEXTS
    assert modality_of("nowhere") is PICTURES
    assert modality_of(tl.from_arrays(np.zeros((4, 8, 8), np.uint8), [0, 1, 0, 1])) is PICTURES


@pytest.mark.parametrize("lacks", ["weights", "library"])
def test_without_a_trunk_words_alone_are_used_and_it_is_said(here, tmp_path, monkeypatch, lacks):
    def never(name, progress):
        raise InputError("cannot be had", where=name, todo="connect")

    if lacks == "weights":
        monkeypatch.setattr(trunks, "_pretrained", never)
    else:
        monkeypatch.setitem(sys.modules, "tokenizers", None)
    said = []
    begun = TEXTS.begin(Options(data="x"), "reviews.csv", tmp_path, trunks.Quiet, lambda text, **_: said.append(text))
    assert begun.trunk.name == "tfidf"
    assert "words alone" in said[0]
    assert ("cannot be had" if lacks == "weights" else 'pip install "jaxtl[text]"') in begun.notice
    if lacks == "weights":
        with pytest.raises(InputError, match="cannot be had"):
            TEXTS.begin(Options(data="x", trunk="minilm_l6"), "reviews.csv", tmp_path, trunks.Quiet, print)


def test_a_folder_of_texts_and_words_alone_in_the_library(tmp_path):
    for number, (text, label) in enumerate(texts(24)):
        (tmp_path / "t" / label).mkdir(parents=True, exist_ok=True)
        (tmp_path / "t" / label / f"{number}.txt").write_text(text)
    model = tl.finetune(tmp_path / "t", trunk="tfidf", workdir=tmp_path / "run", budget="30s")
    assert model.trunk == "tfidf"
    assert model.probabilities(["good fine film", "dull bad film"]).argmax(axis=1).tolist() == [1, 0]
    assert model.report.is_file()


def test_a_damaged_model_of_texts_is_told(here, tmp_path):
    shutil.copytree("runs/encoder", tmp_path / "run")
    (tmp_path / "run" / "tokenizer.json").unlink()
    with pytest.raises(InputError):
        load_finetuned(tmp_path / "run")
    shutil.copytree("runs/words", tmp_path / "words")
    said = json.loads((tmp_path / "words" / "model.json").read_text())
    (tmp_path / "words" / "model.json").write_text(json.dumps(said | {"terms": said["terms"][1:]}))
    with pytest.raises(InputError, match="not what a run writes"):
        load_finetuned(tmp_path / "words")


def test_numbers_and_several_labels_are_learned_from_texts_and_not_by_words_alone(tmp_path):
    pytest.importorskip("tokenizers")
    rows = [(text, str(3.5 + len(text) / 10)) for text, _ in texts(14)]
    table(tmp_path / "stars.csv", rows)
    model = tl.finetune(tmp_path / "stars.csv", workdir=tmp_path / "run", budget="30s", methods=("ridge",))
    assert model.said(["good", "good " * 30]).shape == (2, 3)
    table(
        tmp_path / "tags.csv", [(text, f"{label};film" if k % 3 else label) for k, (text, label) in enumerate(texts(8))]
    )
    assert TEXTS.begin(Options(), tmp_path / "tags.csv", tmp_path / "x", trunks.Quiet, print).data.task == "several"
    with pytest.raises(InputError, match="words alone learn classes only"):
        tl.finetune(tmp_path / "stars.csv", workdir=tmp_path / "other", trunk="tfidf")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--trunk=small_cnn"], "--trunk=small_cnn: takes pictures, and these are texts\n  leave --trunk out"),
        (["--size=8"], "--size=8: 8 tokens, and tiny sees 16 to 32 at a time"),
        (["--trunk=tfidf", "--methods=ridge"], "--methods: ridge would need a trunk, and there is none"),
    ],
)
def test_mistakes_are_told_in_two_lines(here, capsys, options, said):
    err = told(capsys, ["finetune", "reviews.csv", "--workdir=runs/mistake", *options], 2)
    assert said in err
    assert len(err.strip().splitlines()) == 2


def test_a_long_text_is_shown_by_its_ends():
    shown = shortened("good " * 1000 + "bad end", 30)
    assert shown.startswith("good good")
    assert shown.endswith("bad end")
    assert len(shown) <= 31
    assert shortened(" a\nb ") == "a b"
