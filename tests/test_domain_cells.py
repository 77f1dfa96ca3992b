"""The experiments on cells and on corrupted photographs: who is on which side, and what they refuse."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest
from PIL import Image

from experiments import domain_cells as cells
from experiments import domain_corrupted as corrupted
from jaxtl.errors import InputError
from jaxtl.methods.domain.recipes import RECIPES

RANDOM = np.random.default_rng(0)


def archive(path, labs=2, count=48):
    """Tiles of 8 pixels: three types, the last one rare in laboratory 1."""
    labels = np.arange(count) % 2
    lab = np.arange(count) // 2 % labs
    labels[lab == 0] = np.arange(np.sum(lab == 0)) % 3
    images = RANDOM.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    mosaic = images.reshape(6, count // 6, 8, 8, 3).swapaxes(1, 2).reshape(48, -1, 3)
    place = path / "one.png"
    Image.fromarray(mosaic).save(place)
    blob = np.frombuffer(place.read_bytes(), np.uint8)
    own = {"blob": blob, "offsets": np.array([0, len(blob)]), "labels": labels, "lab": lab}
    own |= {"split": np.arange(count) // 4 % 4 // 3 * 2, "label_names": np.array(["round", "long", "rare"])}
    names = {f"wbc_{key}": array for key, array in own.items()}
    np.savez(path / "medical.npz", split_names=np.array(["train", "val", "test"]), **names)
    return str(path / "medical.npz")


def test_laboratories_are_apart_and_types_that_one_lacks_are_left_out(tmp_path):
    first, second = cells.laboratories(cells.Config(data=archive(tmp_path)))
    assert first.classes == second.classes == ("round", "long")
    for lab, side in enumerate((first, second)):
        assert {*side.train["lab"], *side.test["lab"]} == {lab}
        assert {*side.train.labels} == {0, 1}
    images = [
        {image.tobytes() for part in (side.train, side.test) for image in part.images} for side in (first, second)
    ]
    assert not images[0] & images[1]


def test_three_laboratories_or_none_are_refused(tmp_path):
    with pytest.raises(InputError, match="'lab' has 3 values"):
        cells.laboratories(cells.Config(data=archive(tmp_path, labs=3)))


@pytest.mark.parametrize("module", [cells, corrupted])
def test_rows_of_the_default_are_known_and_a_wrong_one_is_refused_before_the_work(module, tmp_path):
    config = module.Config(data="digits", methods=("source_only", "osbp"))
    assert {*module.Config().methods} <= {*RECIPES}
    with pytest.raises(InputError, match="osbp answers with a class that the source has not"):
        module.main(config, tmp_path)
    with pytest.raises(InputError, match="tent changes statistics of batch normalisation"):
        module.main(dataclasses.replace(config, methods=("tent",), normalisation="group"), tmp_path)


def test_every_corruption_changes_grey_levels_and_leaves_what_is_seen():
    images = RANDOM.integers(60, 200, (40, 8, 8, 3)).astype(np.uint8)
    for name, corrupt in corrupted.CORRUPTIONS.items():
        found = np.asarray(corrupt(images, jax.random.key(0)))
        assert found.shape == images.shape, name
        assert 4 < np.abs(found - images.astype(float)).mean() < 60, name
