"""What a run says before it works."""

import dataclasses
import io

import numpy as np
from problems import network
from rich.console import Console

from jaxtl import report
from jaxtl.data import from_arrays
from jaxtl.transfer import transfer

IMAGES = np.random.default_rng(0).integers(0, 256, (20, 4, 4), np.uint8)
DATA = from_arrays(IMAGES, np.arange(20) % 2, origin="a drawer")


def said(fn, *args, **parts):
    console = Console(file=io.StringIO(), width=200)
    fn(console, *args, **parts)
    return console.file.getvalue()


def test_one_data_set_in_two_roles_is_one_line():
    assert said(report.print_data, source=DATA, target=DATA) == (
        "source and target: 16 training and 4 test images, 2 classes, a drawer\n"
    )


def test_two_data_sets_are_two_lines_and_a_notice_is_said_once():
    other = dataclasses.replace(DATA, origin="a shelf", notice="not what was asked for")
    lines = said(report.print_data, source=DATA, target=other).splitlines()
    assert [line.split(":")[0] for line in lines] == ["source", "target", "NOTE"]
    assert "a shelf" in lines[1]


def test_labels_are_counted_and_the_fate_of_every_parameter_told():
    lines = said(report.print_transfer, transfer(network(), network(0.3), reinit=["head/.*"])).splitlines()
    assert lines[0].split() == ["label", "leaves", "parameters", "memory"]
    assert ["new", "2", "18", "0.1", "kB"] in [line.split() for line in lines]
    assert "copied (2): trunk/bias, trunk/kernel" in lines
    assert "re-initialised (2): head/bias, head/kernel" in lines


def test_a_batch_of_more_than_there_is_is_told():
    assert said(report.print_batches, 50, 25) == "NOTE: batches are of all 25 labelled examples, not of batch_size 50\n"
    assert said(report.print_batches, 50, 50) == ""
