"""Grids as they are published: CSV files and an archive hold the same, and what is damaged is refused in two lines."""

import itertools

import numpy as np
import pytest

from jaxtl.errors import InputError
from jaxtl.selection.grid_files import read_grid

TASKS = ("CIFAR-10_ResNet_50", "AG_News_BERT-base")
RUNS = list(itertools.product((0.0, 0.01), (0.0, 1e-06), (0.1, 0.001), (100, 1000), (1001, 2001)))
RNG = np.random.default_rng(0)
FIGURES = RNG.uniform(0.1, 0.9, size=(len(TASKS), len(RUNS), 5))  # accuracy, loss, seconds; accuracy, seconds


def written(directory):
    """Both files of both tasks, the runs of the second file in another order."""
    for task, figures in zip(TASKS, FIGURES, strict=True):
        names = [f"l2-sp_alpha={a}_beta={b}_lr_0={r}_n={n}_random_state={s}" for a, b, r, n, s in RUNS]
        tuned = ["criterion,model_name,n,random_state,runtime,val_acc,val_nll"]
        tuned += [f"l2-sp,{name},1,1,{f[2]},{f[0]},{f[1]}" for name, f in zip(names, figures, strict=True)]
        again = ["criterion,model_name,n,random_state,runtime,test_acc,test_nll"]
        again += [f"l2-sp,{name},1,1,{f[4]},{f[3]},0.5" for name, f in zip(names, figures, strict=True)][::-1]
        (directory / f"tuned_{task}.csv").write_text("\n".join(tuned) + "\n")
        (directory / f"retrained_{task}.csv").write_text("\n".join(again) + "\n")
    (directory / "tuned_CIFAR-10.csv").write_text("a copy under another name")
    return directory


def packed(path, **replaced):
    """The same runs as an archive."""
    alpha, beta, rate, n, seed = np.tile(np.array(RUNS), (len(TASKS), 1)).T
    accuracy, loss, tuning, test, training = FIGURES.reshape(-1, 5).T
    columns = {"alpha": alpha, "beta": beta, "learning_rate": rate, "n": n.astype(int), "seed": seed.astype(int)}
    columns |= {"validation_accuracy": accuracy, "validation_nll": loss, "tuning_seconds": tuning}
    columns |= {"test_accuracy": test, "training_seconds": training, "tasks": np.array(TASKS)}
    np.savez(path, **columns | {"task": np.repeat(np.arange(len(TASKS)), len(RUNS))} | replaced)
    return path


def test_csv_files_and_an_archive_hold_the_same_grid(tmp_path):
    ours, theirs = read_grid(written(tmp_path)), read_grid(packed(tmp_path / "grid.npz"))
    assert ours.cells == theirs.cells
    assert {str(cell) for cell in ours.cells} >= {"AG News, BERT-base, n = 1,000", "CIFAR-10, ResNet-50, n = 100"}
    for name in ("alpha", "beta", "learning_rate", "validation_accuracy", "validation_loss", "training_seconds"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))


def test_a_run_is_found_at_its_cell_draw_and_setting(tmp_path):
    grid, run = read_grid(written(tmp_path)), RUNS.index((0.01, 1e-06, 0.1, 1000, 2001))
    cell = [str(cell) for cell in grid.cells].index("CIFAR-10, ResNet-50, n = 1,000")
    (setting,) = np.flatnonzero((grid.alpha == 0.01) & (grid.beta == 1e-06) & (grid.learning_rate == 0.1))
    found = [grid.validation_accuracy, grid.validation_loss, grid.tuning_seconds, grid.test_accuracy]
    expected = np.round(FIGURES[0, run, [0, 3]], 6), FIGURES[0, run, [1, 2, 4]]
    np.testing.assert_array_equal([found[0][cell, 1, setting], found[3][cell, 1, setting]], expected[0])
    rest = [found[1][cell, 1, setting], found[2][cell, 1, setting], grid.training_seconds[cell, 1, setting]]
    np.testing.assert_array_equal(rest, expected[1])


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("alpha=0.01_beta=0.0_lr_0=0.1_n=100_random_state=1001", "alpha=0.5", "line 18: no name of a run"),
        ("alpha=0.01", "alpha=x", "line 18: cannot be read"),
        ("alpha=0.01", "alpha=0.0", "line 18: a run that is there already"),
        ("val_acc", "accuracy", "line 2: cannot be read"),
        ("random_state=1001", "random_state=1", "holds other runs than its retrained_"),
    ],
)
def test_a_damaged_table_is_refused_with_its_line(old, new, says, tmp_path):
    file = written(tmp_path) / "tuned_CIFAR-10_ResNet_50.csv"
    file.write_text(file.read_text().replace(old, new, 1))
    with pytest.raises(InputError) as refused:
        read_grid(tmp_path)
    assert says in str(refused.value)
    assert len(str(refused.value).splitlines()) == 2


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"task": np.full(64, 2)}, "numbers without a name"),
        ({"task": np.full(64, -1)}, "numbers without a name"),
        ({"alpha": np.zeros(3)}, "columns of different lengths"),
        ({"beta": np.full(64, "0.1")}, "or no numbers"),
        ({"tasks": np.array(["CIFAR-10_ResNet_50", "AG_News_GPT"])}, "no trunk in 'AG_News_GPT'"),
        ({"test_accuracy": np.full(64, 55.0)}, "test_accuracy outside 0 to 1"),
    ],
)
def test_an_archive_that_is_no_grid_is_refused(change, says, tmp_path):
    with pytest.raises(InputError) as refused:
        read_grid(packed(tmp_path / "grid.npz", **change))
    assert says in str(refused.value)


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(InputError, match=r"holds no tuned_\*.csv of a known trunk"):
        read_grid(tmp_path)
    (written(tmp_path) / "retrained_AG_News_BERT-base.csv").unlink()
    with pytest.raises(InputError, match=r"retrained_AG_News_BERT-base.csv: there is no such file"):
        read_grid(tmp_path)
    with pytest.raises(InputError, match=r"no such file or directory\n.*data-emphasized-ELBo"):
        read_grid(tmp_path / "nowhere")
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    with pytest.raises(InputError, match="has no tasks"):
        read_grid(tmp_path / "other.npz")
