"""The experiment on medical images: nothing tested is trained on, and its figures are those of the answers it keeps."""

from __future__ import annotations

import csv
import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from sklearn import metrics

from experiments import medical_images as experiment
from jaxtl.data import Split, from_arrays
from jaxtl.errors import InputError
from jaxtl.problems.clinical import ELSEWHERE, HELD, HERE, reading_of, score_of
from jaxtl.problems.few_shot import held_out, labelled_examples
from jaxtl.protocol import MEASURES, Draw, Result, Run, Truth
from jaxtl.protocol.decisions import net_benefit
from jaxtl.report import clinical
from jaxtl.report.clinical import Studied, answers_of, clinical_section
from jaxtl.report.plots.style import styled
from jaxtl.selection.validation import calibrated

RANDOM = np.random.default_rng(0)
CONFIG = experiment.Config(sources=("photographs",), validation=12, n_x_rays=(2,), n_cells=(2,), replicates=2)


def sheet(path, name, images, labels, split, names, **further):
    """One set of mosaics, lossless, ten tiles in a row."""
    rows = images.reshape(-1, 10, *images.shape[1:]).swapaxes(1, 2)
    mosaic = rows.reshape(rows.shape[0] * rows.shape[1], -1, *images.shape[3:])
    Image.fromarray(mosaic).save(path / "one.png")
    blob = np.frombuffer((path / "one.png").read_bytes(), np.uint8)
    own = {"blob": blob, "offsets": np.array([0, len(blob)]), "labels": labels, "split": split}
    return {f"{name}_{key}": array for key, array in {**own, "label_names": np.array(names), **further}.items()}


def archive(path, labs=2):
    """X-rays, three of which stand twice, and cells of laboratories, the third type rare in the second."""
    x_rays = RANDOM.integers(0, 256, (60, 8, 8), dtype=np.uint8)
    x_rays[1], x_rays[45], x_rays[3] = x_rays[0], x_rays[4], x_rays[55]  # in train, of val in train, of test in train
    split = np.repeat([0, 1, 2], (40, 10, 10))
    arrays = sheet(path, "pneumonia", x_rays, np.arange(60) % 2, split, ["normal", "pneumonia"])
    cells, lab = RANDOM.integers(0, 256, (120, 8, 8, 3), dtype=np.uint8), np.arange(120) // 2 % labs
    types = np.where(lab == 0, np.arange(120) // 2 // labs % 3, np.arange(120) % 2)
    cells[2] = cells[1]  # one cell in both laboratories
    test = np.arange(120) // 8 % 3 // 2 * 2
    arrays |= sheet(path, "wbc", cells, types, test, ["round", "long", "rare"], lab=lab)
    np.savez(path / "medical.npz", split_names=np.array(["train", "val", "test"]), **arrays)
    return dataclasses.replace(CONFIG, x_rays=f"{path}/medical.npz#pneumonia", cells=f"{path}/medical.npz#wbc")


def seen(split):
    return [np.asarray(image).tobytes() for image in split.images]


def test_no_image_is_trained_on_and_tested_or_in_two_laboratories(tmp_path):
    x_rays, *cells = experiment.questions(archive(tmp_path))
    assert (len(x_rays.task.train), len(x_rays.task.test)) == (47, 10)
    assert "trained without 3 of 50 examples: 2 repeat others, 1 is tested" in x_rays.task.notice
    first, second = cells
    assert first.task is second.other
    assert second.task is first.other
    assert first.task.classes == second.task.classes == ("round", "long")
    sides = [seen(part) for one in (first.task, second.task) for part in (one.train, one.test)]
    whole = [image for side in sides for image in side]
    assert len(set(whole)) == len(whole)
    for lab, one in enumerate(cells):
        assert {*one.task.train["lab"], *one.task.test["lab"]} == {lab}
    for training, tested in ((x_rays.task.train, x_rays.task.test), (second.task.train, first.task.test)):
        assert not {*seen(training)} & {*seen(tested)}


def test_labelled_images_those_that_choose_and_tested_ones_are_of_different_patients():
    patients, tested = np.repeat(np.arange(40), 3), np.repeat(np.arange(36, 50), 2)
    shape = (len(patients) + len(tested), 4, 4)
    images = RANDOM.integers(0, 256, shape, dtype=np.uint8)
    labels, split = patients % 2, len(patients)
    data = from_arrays(images[:split], labels, images[split:], tested % 2, groups=patients, test_groups=tested)
    task = experiment.without_copies(data)
    for replicate in range(3):
        held, pool = held_out(CONFIG, task, replicate)
        subset, _ = labelled_examples(CONFIG, task, pool, 5, replicate)
        groups = [{*task.train.groups[rows].tolist()} for rows in (held, subset)] + [{*task.test.groups.tolist()}]
        assert len(set.union(*groups)) == sum(map(len, groups))


def test_public_originals_are_read_by_path_and_the_finding_is_the_last_class(tmp_path):
    images, labels = RANDOM.integers(0, 256, (40, 8, 8), dtype=np.uint8), np.arange(40)[:, None] % 2
    parts = {"train": slice(0, 24), "val": slice(24, 30), "test": slice(30, 40)}
    arrays = {f"{name}_images": images[part] for name, part in parts.items()}
    np.savez(tmp_path / "pneumoniamnist.npz", **arrays, **{f"{n}_labels": labels[part] for n, part in parts.items()})
    config = dataclasses.replace(CONFIG, cells="no", x_rays=str(tmp_path / "pneumoniamnist.npz"))
    (asked,) = experiment.questions(config)
    assert (len(asked.task.train), len(asked.task.test), asked.task.classes) == (30, 10, ("0", "1"))
    for part in ("train", "test"):
        for name in ("NORMAL", "PNEUMONIA"):
            (tmp_path / "chest" / part / name).mkdir(parents=True)
            for k in range(4):
                image = Image.fromarray(RANDOM.integers(0, 256, (8, 8), dtype=np.uint8))
                image.save(tmp_path / "chest" / part / name / f"{k}.png")
    config = dataclasses.replace(config, x_rays=str(tmp_path / "chest"), finding="NORMAL")
    (asked,) = experiment.questions(config)
    assert (len(asked.task.train), asked.task.classes) == (8, ("PNEUMONIA", "NORMAL"))
    with pytest.raises(InputError, match="has the classes NORMAL, PNEUMONIA"):
        experiment.questions(dataclasses.replace(config, finding="measles"))


def test_what_cannot_be_asked_is_refused(tmp_path):
    with pytest.raises(InputError, match="'lab' has 3 values"):
        experiment.questions(dataclasses.replace(archive(tmp_path, labs=3), x_rays="no"))
    with pytest.raises(InputError, match="no row of laboratory answers for"):
        experiment.main(dataclasses.replace(CONFIG, sources=("laboratory",), photographs="digits"), tmp_path)


# ---------------------------------------------------------------- what is made of answers


def studied(source="photographs", classes=2, methods=("pixels", "l2_sp"), seed=0):
    """A study whose answers are made up; those of l2_sp are better, and three times too sure."""
    random = np.random.default_rng(seed)
    sizes = {HERE: 90, HELD: 80, ELSEWHERE: 60}
    truths = {name: np.random.default_rng(n).integers(0, classes, n) for name, n in sizes.items()}
    runs, kept = [], {}
    for method in methods:
        for replicate in (0, 1):
            gain = 3.0 if method == "l2_sp" else 1.0
            arrays = {
                name: (gain * (2 * random.normal(size=(len(y), classes)) + gain * np.eye(classes)[y])).astype(
                    np.float32
                )
                for name, y in truths.items()
            }
            figures = {"test": MEASURES["balanced_accuracy"].score(truths[HERE], arrays[HERE]), "roc_auc": 0.5}
            figures |= {"calibration_error": 0.2, "calibrated": 0.1, "sensitivity": 0.8, "specificity": 0.7}
            run = Run(
                method,
                "report",
                "tuned",
                replicate,
                None,
                0,
                {},
                metrics=figures,
                arrays=tuple(arrays),
                replicate=replicate,
            )
            runs.append(run)
            kept[method, replicate] = arrays
    truth = Truth(truths[HERE], ("normal", "pneumonia", "other")[:classes])
    task = SimpleNamespace(test=Split(None, truths[HERE]), classes=truth.names)
    problem = SimpleNamespace(
        task=task,
        truth=truth,
        groups=lambda: np.arange(90),
        held_labels=lambda replicate: truths[HELD],
        elsewhere=None if classes == 2 else Split(None, truths[ELSEWHERE]),
        config=SimpleNamespace(specificity=0.9),
    )
    result = Result(
        "made up",
        {"from": source},
        runs,
        [],
        lambda run: kept[run.method, run.replicate],
        MEASURES["balanced_accuracy"],
    )
    return Studied(source, result, problem), truths, kept


def test_readings_are_of_held_out_examples_alone_and_do_what_they_promise():
    _, truths, kept = studied()
    for arrays in kept.values():
        read = reading_of(arrays[HELD], truths[HELD], 0.9)
        assert read.temperature == calibrated(arrays[HELD], truths[HELD])
        called = score_of(arrays[HELD]) > read.threshold
        assert called[truths[HELD] == 0].mean() <= 0.1
    sure = np.array([[9.0, 0.0]] * 20 + [[0.0, 9.0]] * 20)  # all are right, and none is said to be certain
    assert 2 < reading_of(sure, np.repeat([0, 1], 20), 0.9).temperature < 3
    assert np.isnan(reading_of(np.eye(3)[truths[HELD] % 3], truths[HELD] % 3, 0.9).threshold)


def test_rows_figures_words_and_pictures_are_of_the_answers():
    own, truths, kept = studied()
    section, figures = clinical_section(
        "X-rays", [own], ("pixels",), "pixels", [("", "pixels"), ("photographs", "l2_sp")]
    )
    assert list(figures) == ["pixels", "photographs, l2_sp"]
    pixels, ours = section.tables[0].rows
    assert pixels[:2] == ["–", "pixels"]
    assert ours[:2] == ["photographs", "l2_sp"]
    assert pixels[3] == ""
    assert ours[3].startswith("+")
    low, high = figures["photographs, l2_sp"]["roc_auc_ci95"]
    areas = [metrics.roc_auc_score(truths[HERE], score_of(kept["l2_sp", r][HERE])) for r in (0, 1)]
    assert low < np.mean(areas) < high < low + 0.2
    assert "photographs, l2_sp: of 100 with pneumonia 80 are found, and of 100 that are normal 30" in section.lines[1]
    assert [plot.name for plot in section.plots] == ["roc", "reliability", "decisions"]
    with styled():
        for plot in section.plots:
            plot.figure()


def test_pictures_are_of_the_same_answers_at_the_temperature_of_held_out_examples():
    own, truths, kept = studied()
    answers = answers_of(own, "l2_sp")
    for r in (0, 1):
        arrays = kept["l2_sp", r]
        assert answers.temperatures[r] == calibrated(arrays[HELD], truths[HELD]) > 1
    seen = clinical._reliability(truths[HERE], answers.logits, answers.temperatures)
    assert len(seen.labels) == len(seen.plain) == 180
    assert (seen.tempered.max(axis=1) <= seen.plain.max(axis=1) + 1e-12).all()
    np.testing.assert_array_equal(seen.tempered.argmax(axis=1), seen.plain.argmax(axis=1))
    benefit = clinical._benefit(truths[HERE], answers)
    said = [1 / (1 + np.exp(-score_of(kept["l2_sp", r][HERE]) / answers.temperatures[r])) for r in (0, 1)]
    at = clinical.pictures.THRESHOLDS
    np.testing.assert_allclose(benefit, np.mean([net_benefit(truths[HERE], one, at) for one in said], axis=0))
    roc = clinical._roc(truths[HERE], answers)
    assert roc.point == pytest.approx((0.3, 0.8))
    assert np.trapezoid(roc.hits, clinical.pictures.ALARMS) == pytest.approx(
        np.mean([metrics.roc_auc_score(truths[HERE], score_of(kept["l2_sp", r][HERE])) for r in (0, 1)]), abs=0.01
    )


def test_several_types_are_shown_here_and_elsewhere_and_a_row_without_source_once():
    both = [studied(name, classes=3, seed=k)[0] for k, name in enumerate(("photographs", "laboratory"))]
    section, figures = clinical_section(
        "cells", both, ("pixels",), "pixels", [("", "pixels"), ("photographs", "l2_sp"), ("laboratory", "l2_sp")]
    )
    assert list(figures) == ["pixels", "photographs, l2_sp", "laboratory, l2_sp"]
    assert not any("are found" in line for line in section.lines)
    (plot,) = section.plots
    with styled():
        panels = [axis for axis in plot.figure().axes if axis.lines]
    assert len(panels) == 6


# ---------------------------------------------------------------- all of it


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    config = dataclasses.replace(
        CONFIG, x_rays="digits", cells="digits", photographs="digits", methods=("pixels",), source_steps=2, widths=(4,),
        input_size=4, report_draws=1, source_batch_size=8,
    )  # fmt: skip
    experiment.main(config, workdir)
    return config, workdir


def test_a_run_keeps_its_answers_and_says_of_them_what_scikit_learn_does(finished):
    config, workdir = finished
    task = experiment.questions(config)[0].task
    with open(workdir / "x_rays_photographs_2.csv", newline="") as file:
        runs = [run for run in csv.DictReader(file) if run["stage"] == "report"]
    files = [np.load(path) for path in (workdir / "x_rays" / "photographs" / "n_2").rglob("*.npz")]
    kept = [file for file in files if HERE in file.files]
    assert len(kept) == len(runs) == 2
    areas = {round(metrics.roc_auc_score(task.test.labels, score_of(one[HERE])), 9) for one in kept}
    assert areas == {round(float(run["roc_auc"]), 9) for run in runs}
    right = {round(metrics.balanced_accuracy_score(task.test.labels, one[HERE].argmax(1)), 9) for one in kept}
    assert right == {round(float(run["test"]), 9) for run in runs}
    for run in runs:
        assert 0 <= float(run["sensitivity"]) <= 1
    summary = json.loads((workdir / "summary.json").read_text())
    assert summary["cells_0, n=2"]["pixels"]["elsewhere"]
    assert "](plots/roc-question-x_rays-n_per_class-2.png)" in (workdir / "summary.md").read_text()


def test_pixels_are_answered_by_the_labelled_images_alone():
    """The same head as logistic regression on the images of the draw gives."""
    images = RANDOM.integers(0, 256, (40, 4, 4, 1), dtype=np.uint8)
    labels = np.arange(40) % 2
    problem = SimpleNamespace(
        config=SimpleNamespace(seed=0),
        task=SimpleNamespace(classes=("a", "b")),
        target_images=images,
        examples=lambda draw: SimpleNamespace(seen=np.arange(10), labels=labels),
    )
    weights = experiment.by_pixels(problem, experiment.Weights({}, {}), {}, Draw(0))
    images[10:] = 0
    again = experiment.by_pixels(problem, experiment.Weights({}, {}), {}, Draw(0))
    for name, leaf in weights.params["pixels"].items():
        np.testing.assert_array_equal(leaf, again.params["pixels"][name])
