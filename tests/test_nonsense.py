"""What every experiment's command line has in common: what is said of it, and what happens to nonsense."""

from __future__ import annotations

import dataclasses
import importlib
import json
import re
from typing import Annotated, Literal, get_args, get_origin, get_type_hints

import pytest
from rich.console import Console

from experiments import cifar_transfer, lambda_selection, learned_starts, multitask
from jaxtl import cli, data, report
from jaxtl.cli import flags, page
from jaxtl.errors import InputError
from jaxtl.problems import check_halving, check_plan

EXPERIMENTS = [
    *("cifar_transfer", "lambda_selection", "learned_rates", "label_trees", "learned_starts"),
    *("multitask", "ridge_regression", "calibration", "finetune_methods", "choose_source", "when_it_helps"),
    "text_transfer",
    *("domain_digits", "domain_corrupted", "domain_cells"),
    *("published_grid", "audio_visual_digits", "federated_transfer", "object_detection", "bearing_faults"),
    *("image_text", "reviews_with_pictures", "cross_modal", "medical_images"),
    *(
        f"benchmarks.{part}"
        for part in ("accuracy", "machine", "step", "multitask", "federated", "selection", "benchmarks")
    ),
]
WORK = (
    "keep_to_data",
    "make_source",
    "encoder",
    "make_sources",
    "keep",
    "textbook",
    "train",
    "study",
    "compare_pairs",
)  # where each of them begins to work
QUICK = {"data": "digits", "images": "digits", "source_steps": "2", "validation": "50", "n_per_class": "5"}
QUICK |= {"n": "50", "n_new": "20", "path_points": "2", "steps": "10"}
NUMBERS = [
    *("0", "-1", "1", "3", "1.5", "-0.0", "0.5", "1e400", "-1e400", "inf", "-inf", "nan", "1e-320", "1e30", "1e308"),
    *("2147483647", "2147483648", "4294967295", "4294967296", "9223372036854775808", "-9223372036854775809"),
    *("99999999999999999999", "9" * 5000, "1" + "0" * 400, "0x10", "1_000", "٣", "²", "True", "None"),
]
WORDS = [
    *("", " ", "\0", "a\0b", "\udcff", "\ud800", "a\nb", "\x1b[31m", "é", "a", "a" * 300, "a" * 5000, "/a" * 3000),
    *("..", "~nobody/x", "%s", "{0}", "'", '"', "[/b]", "digits", "0-4:5-9", "0-4", "a:b:c", "::", "mlp_64", "mlp_²"),
    *("mlp_99999999999", "mlp_-1", "cnn_" + "9" * 5000, "data:99999999999999999999", "data:-1", "data:1", "all"),
]
SEVERAL = ["()", "[]", "(,)", ",", "(1)", "1,1", "1,2", "2,1", "1,inf", "1,nan", "0,1", "-1,1", "1,2,3", "1," * 2000]


class Began(Exception):
    """The work began: the command line was accepted."""


@pytest.fixture
def idle(monkeypatch, tmp_path):
    """Every experiment up to where its work begins; data are read once."""
    loaded = {}

    def kept(read):
        def load(name, directory=None, progress=None):
            if (read, name, directory) not in loaded:
                loaded[read, name, directory] = read(name, directory)
            return loaded[read, name, directory]

        return load

    def begin(*args, **kwargs):
        raise Began

    monkeypatch.chdir(tmp_path)
    for name in EXPERIMENTS:
        experiment = importlib.import_module(f"experiments.{name}")
        for work in WORK:
            if hasattr(experiment, work):
                monkeypatch.setattr(experiment, work, begin)
        for read in (data.load, data.load_texts):
            if hasattr(experiment, read.__name__):
                monkeypatch.setattr(experiment, read.__name__, kept(read))


def accepted(name, argv, workdir):
    """Whether the work began; everything but an InputError of two lines is a failure."""
    experiment = importlib.import_module(f"experiments.{name}")
    with pytest.raises((Began, InputError)) as ended:
        experiment.main(flags.parse(experiment.Config, argv, "runs/x").config, workdir)
    lines = str(ended.value).splitlines()
    assert len(lines) <= 2
    assert all(line.isprintable() and len(line) < 4500 for line in lines)  # a path may be long
    return ended.type is Began


@pytest.mark.parametrize("stride", [5, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_nonsense_in_any_field_is_refused_before_the_work_or_makes_sense(
    name, stride, idle, tmp_path, capsys, record_property
):
    """The quick form gives every field a fifth of the nonsense, and the next field the next fifth."""
    record_property("tally", "bad inputs are told in one or two lines, with exit code 2 and nothing changed on disk")
    config_class = importlib.import_module(f"experiments.{name}").Config
    fields = get_type_hints(config_class)
    kinds = (str, int, tuple[int, ...], tuple[str, ...])
    quick = {key: value for key, value in QUICK.items() if key in fields and fields[key] in kinds}
    verdicts = []
    for number, field in enumerate(dataclasses.fields(config_class)):
        hint = fields[field.name]
        several = get_origin(hint) is tuple
        part = get_args(hint)[0] if several else hint
        nonsense = (NUMBERS if part in (int, float) else WORDS[:: 1 if part is str else 5]) + (
            SEVERAL if several else []
        )
        for value in [*nonsense, "inf" if part is str else "a"][number % stride :: stride]:
            words = quick | {field.name: value}
            if name == "multitask" and field.name != "data":
                words.pop("data", None)
            verdicts.append(accepted(name, [f"--config.{key}={word}" for key, word in words.items()], tmp_path / "run"))
    assert verdicts.count(False) > len(verdicts) / 2


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_field_has_a_bound_in_its_type_that_holds_its_default_and_every_preset(name):
    config_class = importlib.import_module(f"experiments.{name}").Config

    def bounded(hint):
        bare = get_args(hint)[0] if get_origin(hint) is Annotated else hint
        if get_origin(bare) is tuple:
            return bounded(get_args(bare)[0])
        return bare is bool or get_origin(bare) is Literal or bare is not hint

    hints = get_type_hints(config_class, include_extras=True)
    fields = [field.name for field in dataclasses.fields(config_class) if field.name != "preset"]
    assert [field for field in fields if not bounded(hints[field])] == []
    cli.check(config_class())
    for preset in config_class.presets:
        flags.parse(config_class, [f"--config.preset={preset}"], "runs/x")


@pytest.mark.parametrize(
    ("name", "argv", "says"),
    [
        ("cifar_transfer", ["steps=99999999999"], "steps: 99999999999 is more than 10000000"),
        ("cifar_transfer", ["seed=-1"], "seed: -1 is less than 0"),
        ("cifar_transfer", ["splits="], "splits: nothing is given\n  give 1"),
        ("cifar_transfer", ["n_per_class=5,5"], "n_per_class: 5 is there twice"),
        ("cifar_transfer", ["widths=65536,65536,65536"], "widths: 8 models of "),
        ("cifar_transfer", ["trials=10000", "tuning_draws=1000"], "trials: 11 methods × 10000 trials × 1020 draws"),
        ("cifar_transfer", ["source_examples=0,100000"], "source_examples=100000: 100000 of "),
        ("cifar_transfer", ["chunk=7"], "source_steps: 2 is no multiple of 7"),
        ("cifar_transfer", ["pull=1,inf"], "pull: inf is more than 1e+12"),
        ("cifar_transfer", ["learning_rate=1,2,3"], "is no range\n  give low,high with low < high, or one value"),
        ("lambda_selection", ["pull=1"], "pull: (1.0,) is no range\n  give low,high with low < high"),
        ("lambda_selection", ["points=1000", "widths=4096"], "1,000,000 models of"),
        ("lambda_selection", ["chunk=7"], "source_steps: 2 is no multiple of 7"),
        ("learned_rates", ["parts="], "parts: nothing is given"),
        ("learned_rates", ["weak=1"], "weak: 1 values\n  give 2"),
        ("learned_rates", ["random=10000", "small_widths=65536,65536"], "10,000 models of"),
        ("learned_rates", ["points=1000", "widths=65536", "model=mlp"], "1000² heads on 65536 features take"),
        ("learned_rates", ["chunk=7"], "source_steps: 2 is no multiple of 7"),
        ("label_trees", ["learning_rates="], "learning_rates: nothing is given"),
        ("label_trees", ["widths=4,4,4,4,4,4"], "widths: 6 blocks halve images of 8x8 to less than a pixel"),
        ("calibration", ["trials=10000", "tuning_draws=1000"], "trials: 10000 is more than 1000"),
        ("calibration", ["tuning_draws=2"], "tuning_draws: 2 is less than 3"),
        ("learned_starts", ["tasks=2000000000"], "tasks: 2,000,000,000 tasks of 50 images take"),
        ("learned_starts", ["edge=1"], "edge: 1 is less than 2"),
        ("learned_starts", ["source_steps=10", "meta_steps=15", "chunk=10"], "meta_steps: 15 is no multiple of 10"),
        ("learned_starts", ["normalisation=batch"], "normalisation"),
        ("multitask", ["widths=65536,65536"], "20 times 3 models"),
        ("multitask", ["chunk=7"], "steps: 10 is no multiple of 7"),
        ("multitask", ["n=3"], "folds: 5 folds of 3 labelled examples"),
        ("ridge_regression", ["train_sizes=500"], "train_sizes: 500 is more than 432"),
        ("benchmarks.step", ["problems=mlp_²"], "problems: unknown problem 'mlp_²'"),
        ("benchmarks.machine", ["images=2000000000"], "images: 2,000,000,000 images of 32×32×3 take"),
        ("benchmarks.selection", ["rows=100000000", "features=10000"], "100000000 rows of 10000 features"),
    ],
)
def test_what_cannot_be_is_told_with_the_field_and_what_relates_it(name, argv, says, idle, tmp_path):
    experiment = importlib.import_module(f"experiments.{name}")
    known = {field.name for field in dataclasses.fields(experiment.Config)} - (
        {"data"} if name == "multitask" else set()
    )
    quick = {key: value for key, value in QUICK.items() if key in known and name != "benchmarks.machine"}
    words = [f"--config.{word}" for word in [*(f"{key}={value}" for key, value in quick.items()), *argv]]
    with pytest.raises(InputError, match=re.escape(says)):
        experiment.main(flags.parse(experiment.Config, words, "runs/x").config, tmp_path)


def test_one_value_fixes_what_would_be_searched(tmp_path):
    asked = ["--config.pull=1.0", "--config.learning_rate=0.05"]
    config = flags.parse(cifar_transfer.Config, asked, "runs/x").config
    assert (config.pull, config.learning_rate) == ((1.0,), (0.05,))
    cli.check(config)
    check_plan(config, cifar_transfer.RECIPES)
    assert cli.command("cifar_transfer", config).split()[3:] == ["--config.learning_rate=0.05", "--config.pull=1.0"]


@pytest.mark.parametrize("few", [{"tuning_draws": 1}, {"trials": 3}])
def test_what_is_tried_once_cannot_be_halved(few):
    for config in (cifar_transfer.Config, multitask.Config):
        with pytest.raises(InputError, match="nothing is halved"):
            check_halving(config(halving=True, **{"trials": 8, "tuning_draws": 2} | few))
        check_halving(config(halving=True, trials=8, tuning_draws=2))
        check_halving(config(**few))


@pytest.mark.parametrize(
    ("flag", "nearest"),
    [
        ("--config.lr=1", "--config.learning_rate"),
        ("--config.batch=1", "--config.batch_size"),
        ("--config.step=1", "--config.steps"),
        ("--config.data-dir=x", "--config.data_dir"),
        ("--learning_rate=1", "--config.learning_rate"),
        ("--work_dir=x", "--workdir"),
        ("--config.zzzz=1", None),
    ],
)
def test_an_unknown_flag_is_told_the_nearest_name(flag, nearest):
    with pytest.raises(InputError) as error:
        flags.parse(cifar_transfer.Config, [flag], "runs/x")
    assert error.value.todo == (f"did you mean {nearest}?" if nearest else "--help lists the flags")


@pytest.mark.parametrize("workdir", ["a\0b", "\udcff", "a\nb", "a" * 300, "/a" * 2000])
def test_a_directory_that_no_system_can_make_is_refused(workdir):
    with pytest.raises(InputError, match="--workdir"):
        flags.parse(cifar_transfer.Config, [f"--workdir={workdir}"], "runs/x")


@pytest.mark.parametrize("split", ["0-4:5-9", "cat+dog:0-2+5", "a/../../..:b", "a" * 300 + ":b", "a b:c", "a_b:c"])
def test_every_split_has_a_directory_of_its_own_inside_the_run(split, tmp_path):
    room = cli.directory_of(split)
    (tmp_path / f"{room}-source_all").mkdir()
    assert "/" not in room
    assert room == split.replace(":", "_to_") or re.search(r"-[0-9a-f]{8}$", room)


# ---------------------------------------------------------------- a run that has ended is shown again


def test_a_finished_run_is_shown_as_it_was_and_not_as_markdown(tmp_path, capsys):
    table = report.Table(
        ["method", "setting", "accuracy"], [["l2|sp", "lr 0.1 · pull 3", "66.1 ± 2.0"], ["l2", "", "–"]], (0, 1)
    )
    section = report.Section("What came out", [table, table], ["Mean over 3 draws: − l2 is paired.", "▼ an end."])
    report.print_section(Console(highlight=False), section)
    first = capsys.readouterr().out.strip().splitlines()
    header = {"experiment": "toy", "data": "digits", "device": "cpu", "config": {}, "command": "python -m x --a=b"}
    report.write_sections(tmp_path, header, {}, [section])
    page.show((tmp_path / "summary.md").read_text())
    again = capsys.readouterr().out
    assert [line for line in again.splitlines() if line][-len([line for line in first if line]) :] == [
        line for line in first if line
    ]
    assert not re.search(r"^[#|>-]|`|\*\*|\\", again, re.MULTILINE)
    assert json.loads((tmp_path / "summary.json").read_text())["command"] in again


@pytest.mark.parametrize(
    "text", ["", "| a | b |", "| a |\n| b |", "| a | b |\n| --- | --- |\n| c |", "|\n|-|", "plain"]
)
def test_a_page_that_is_no_page_of_ours_is_shown_as_it_is(text, capsys):
    page.show(text)
    assert capsys.readouterr().out.split() == text.split()


# ---------------------------------------------------------------- --help


GLOSSARIES = {
    "cifar_transfer": cifar_transfer.RECIPES,
    "multitask": multitask.METHODS,
    "lambda_selection": (*lambda_selection.MAPS, *lambda_selection.CRITERIA),
    "learned_rates": ("grid", "random", "gradient from weak", "λ alone, implicit"),
    "label_trees": ("frozen", "transferred", "new"),
    "learned_starts": ("source", "fresh", *learned_starts.META),
    "ridge_regression": ("L2", "L1", "elastic net", "group lasso", "LOO", "GCV", "AIC", "AICc", "BIC", "evidence"),
}


@pytest.mark.parametrize("name", GLOSSARIES)
def test_help_says_in_a_line_what_every_method_is(name, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    experiment = importlib.import_module(f"experiments.{name}")
    text = flags.help_text(experiment.main, experiment.Config, f"runs/{name}")
    table = (line.strip() for line in text.splitlines() if line.startswith("  "))
    rows = dict(line.split("  ", 1) for line in table if "  " in line)
    for method in GLOSSARIES[name]:
        assert len(rows[method].split()) > 2
