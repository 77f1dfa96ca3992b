"""The two experiments on images with texts: their tables against the runs, their curves, and what they refuse."""

import csv
import dataclasses
import json

import numpy as np
import pytest

from experiments import image_text, reviews_with_pictures
from jaxtl.errors import InputError

SPACES = image_text.Config(
    **{
        **image_text.Config.presets["smoke"],
        "alignments": ("classes",),
        "methods": ("zero_shot", "nearest_mean", "text_to_text"),
        "n_per_class": (1, 3),
        "steps": 4,
        "validation": 40,
        "most_train": 300,
        "most_test": 100,
    }
)
REVIEWS = reviews_with_pictures.Config(
    **{
        **reviews_with_pictures.Config.presets["smoke"],
        "methods": ("product", "bayes"),
        "steps": 4,
        "widths": (8,),
        "strengths": (1.0, 0.0),
    }
)


def reported(file, method, metric):
    """By replicate the mean over its report draws."""
    with open(file, newline="") as rows:
        runs = [run for run in csv.DictReader(rows) if (run["stage"], run["method"]) == ("report", method)]
    return [np.mean([float(run[metric]) for run in runs if run["replicate"] == str(k)]) for k in range(2)]


def test_what_is_found_and_the_curve_from_zero_are_what_the_runs_say(tmp_path):
    image_text.main(SPACES, tmp_path)
    summary = json.loads((tmp_path / "summary.json").read_text())
    found = summary["found-of-spaces"]["classes"]
    for metric, values in found.items():
        np.testing.assert_allclose(values, reported(tmp_path / "spaces.csv", "classes", metric))
    assert found["image to text@1"] == found["test"]
    assert summary["pull"]["x"] == sorted(SPACES.pulls)
    zero = [reported(tmp_path / f"n_{n}.csv", "zero_shot", "test") for n in SPACES.n_per_class]
    np.testing.assert_allclose(zero[0], zero[1], err_msg="labels change nothing without labels")
    text = (tmp_path / "summary.md").read_text()
    for picture in ("found", "pull", "from_zero"):
        assert f"](plots/{picture}" in text
    assert "nothing is zero-shot" in text, "a target of classes that were learned is told"


def test_a_space_that_is_not_learned_is_refused(tmp_path):
    with pytest.raises(InputError, match="is not learned"):
        image_text.main(dataclasses.replace(SPACES, aligned="clip"), tmp_path)


def test_reviews_with_pictures_have_a_table_by_modality_and_a_line_by_what_is_in_common(tmp_path):
    reviews_with_pictures.main(REVIEWS, tmp_path)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["common"]["x"] == [0.0, 1.0]
    lines = {name: values for name, values in summary["common"].items() if name != "x"}
    assert list(lines) == ["0 in common", "0.5 in common", "1 in common"]
    n = REVIEWS.n_per_class[0]
    for name, figures in summary[f"modalities-n_per_class-{n}"].items():
        np.testing.assert_allclose(figures["all"], reported(tmp_path / f"n_{n}.csv", name, "test"))
