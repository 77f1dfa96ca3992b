"""Recordings in windows: standardised, no sample on two sides, groups whole; and the files that they come from."""

from __future__ import annotations

import io
import wave
import zipfile

import numpy as np
import pytest
from machines import LENGTH, archive, folders

from jaxtl.data import hold_out
from jaxtl.data.signal_files import holds_signals, list_signals, read_signal, recorded
from jaxtl.data.vibrations import NAMES, load_vibrations
from jaxtl.data.windows import Recorded, in_windows, windows
from jaxtl.errors import InputError


def marked(counts, classes=2):
    """Recordings in which every sample is a number of its own: windows tell where they come from by their order."""
    rng = np.random.default_rng(0)
    signals = tuple(rng.normal(size=(count, 1)).astype(np.float32) for count in counts)
    return Recorded("made up", signals, np.arange(len(counts)) % classes, tuple("abcdef"[:classes]), "here")


def places(found, part):
    """[(recording, first sample)] of every window of a part, found by looking for it."""
    every = {
        window.tobytes(): (number, LENGTH * k)
        for number, signal in enumerate(found.signals)
        for k, window in enumerate(windows(signal, LENGTH))
    }
    return [every[window.tobytes()] for window in part["signal"]]


def test_windows_share_no_sample_and_have_mean_0_and_deviation_1():
    signal = 5 + 3 * np.random.default_rng(1).normal(size=(70, 2))
    found = windows(signal, LENGTH)
    assert found.shape == (4, LENGTH, 2)
    assert found.dtype == np.float32
    assert np.allclose(found.mean(axis=1), 0, atol=1e-5)
    assert np.allclose(found.std(axis=1), 1, atol=1e-5)
    assert np.allclose(found[1] * signal[16:32].std(axis=0) + signal[16:32].mean(axis=0), signal[16:32], atol=1e-4)
    assert not windows(np.full((20, 1), 7.0), LENGTH).any()  # a sensor that is dead


def test_one_recording_a_class_is_cut_in_time_with_a_window_between():
    found = marked([LENGTH * 20 + 3, LENGTH * 30])
    data = in_windows(found, LENGTH)
    train, test = places(found, data.train), places(found, data.test)
    for number, count in enumerate((20, 30)):
        before = [start for of, start in train if of == number]
        after = [start for of, start in test if of == number]
        assert max(before) + 2 * LENGTH == min(after)  # a whole window of samples lies between
        assert len(before) + len(after) + 1 == count
        assert len(before) == int(0.7 * count)
    assert "first 70% of every recording in time" in data.origin
    assert {*data.train.groups} & {*data.test.groups} == set()


def test_validation_takes_stretches_of_time_and_not_single_windows():
    found = marked([LENGTH * 40, LENGTH * 40])
    data = in_windows(found, LENGTH)
    held, rest = hold_out(data.train.labels, 10, 0, data.train.groups)
    assert {*data.train.groups[held]} & {*data.train.groups[rest]} == set()
    train = np.array(places(found, data.train))
    for group in np.unique(data.train.groups):
        own = train[data.train.groups == group]
        assert len({*own[:, 0]}) == 1
        assert (np.diff(own[:, 1]) == LENGTH).all()


@pytest.mark.parametrize("seed", range(4))
def test_of_several_recordings_a_class_none_is_on_both_sides(seed):
    found = marked([LENGTH * 8] * 12, classes=3)
    data = in_windows(found, LENGTH, seed)
    sides = [{of for of, _ in places(found, part)} for part in (data.train, data.test)]
    assert not sides[0] & sides[1]
    assert len(sides[0] | sides[1]) == 12
    assert {*data.test.labels} == {*data.train.labels} == {0, 1, 2}
    assert (data.train.groups == data.train["recording"]).all()


def test_recordings_for_testing_that_are_named_are_those():
    found = marked([LENGTH * 8] * 4)._replace(tested=np.array([False, False, True, True]))
    data = in_windows(found, LENGTH)
    assert {*data.test["recording"]} == {2, 3}
    assert {*data.train["recording"]} == {0, 1}


def test_what_cannot_be_cut_is_refused():
    with pytest.raises(InputError, match="recording 1 has 40 samples, 2 windows"):
        in_windows(marked([LENGTH * 8, 40]), LENGTH)
    odd = marked([LENGTH * 8, LENGTH * 8])
    with pytest.raises(InputError, match="recordings of 1, 2 channels"):
        in_windows(odd._replace(signals=(odd.signals[0], np.ones((200, 2), np.float32))), LENGTH)


# ---------------------------------------------------------------- files


def wav(samples, width=2, channels=1, rate=8000):
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(channels)
        out.setsampwidth(width)
        out.setframerate(rate)
        out.writeframes(samples)
    return file.getvalue()


def test_numbers_of_every_format_are_read_as_they_are(tmp_path):
    values = np.random.default_rng(2).integers(-30000, 30000, (50, 2))
    np.save(tmp_path / "a.npy", values.astype(np.int16))
    np.save(tmp_path / "f.npy", np.asfortranarray(values.astype(np.float64)))
    (tmp_path / "b.csv").write_text("x;y\n" + "\n".join(f"{x};{y}" for x, y in values))
    (tmp_path / "c.csv").write_text("\n".join(f"{x} {y}" for x, y in values))
    for name in ("a.npy", "f.npy", "b.csv", "c.csv"):
        assert np.array_equal(read_signal(tmp_path / name).samples, values), name
    (tmp_path / "w.wav").write_bytes(wav(values.astype("<i2").tobytes(), channels=2))
    found = read_signal(tmp_path / "w.wav")
    assert np.array_equal(found.samples * 2**15, values)
    assert found.rate == 8000
    (tmp_path / "e.wav").write_bytes(wav(bytes([0, 128, 255]), 1))
    assert np.allclose(read_signal(tmp_path / "e.wav").samples[:, 0], [-1, 0, 127 / 128])
    three = (np.array([1, -1, 2**22]).astype("<i4")).view(np.uint8).reshape(-1, 4)[:, :3].tobytes()
    (tmp_path / "t.wav").write_bytes(wav(three, 3))
    assert np.allclose(read_signal(tmp_path / "t.wav").samples[:, 0] * 2**23, [1, -1, 2**22])


class Trap:
    """What a pickle would run."""

    def __reduce__(self):
        return print, ("opened",)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.npy", b"\x93NUMPY\x01\x00", "cannot be read"),
        ("b.npy", b"no array", "cannot be read"),
        ("c.wav", b"RIFF....WAVE", "cannot be read"),
        ("d.csv", b"1,2\n3,word\n", "cannot be read"),
        ("e.csv", b"1,2\n3\n", "cannot be read"),
        ("f.csv", b"", "holds no numbers"),
        ("g.csv", b"1\nnan\n", "NaN or infinite"),
        ("h.csv", b"%PDF-1.4", "is a PDF document"),
        ("i.csv", b"\xff\xfe1\x00", "is not in UTF-8"),
        ("j.mat", b"MATLAB 5.0", "is no recording"),
    ],
)
def test_a_bad_file_is_told_in_a_line(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=said) as caught:
        read_signal(tmp_path / name)
    assert name in str(caught.value)
    assert "\n" not in caught.value.what


def test_an_array_of_objects_is_not_unpickled_and_one_that_lies_about_its_size_is_not_allocated(tmp_path, capsys):
    np.save(tmp_path / "o.npy", np.array([Trap()], object))
    with pytest.raises(InputError, match="Python objects"):
        read_signal(tmp_path / "o.npy")
    assert "opened" not in capsys.readouterr().out
    np.save(tmp_path / "l.npy", np.zeros(8, np.float32))
    raw = (tmp_path / "l.npy").read_bytes()
    (tmp_path / "l.npy").write_bytes(raw.replace(b"(8,)", b"(9,)"))
    with pytest.raises(InputError, match="announces"):
        read_signal(tmp_path / "l.npy")
    np.save(tmp_path / "w.npy", np.zeros((2, 65)))
    with pytest.raises(InputError, match="64 channels at most"):
        read_signal(tmp_path / "w.npy")


def test_a_folder_for_each_class_becomes_recordings(tmp_path):
    place = folders(tmp_path / "machine")
    (place / "good" / "notes.txt").write_text("nothing")
    assert holds_signals(place)
    assert not holds_signals(place / "good")
    assert "1 files that are no recordings" in list_signals(place).remarks[0]
    found = recorded(place)
    assert found.classes == ("bad", "good")
    assert found.name == "machine"
    data = in_windows(found, LENGTH)
    assert {*data.train["recording"]} & {*data.test["recording"]} == set()
    (place / "bad" / "w.wav").write_bytes(wav(bytes(400)))
    with pytest.raises(InputError, match="several rates"):
        recorded(place)
    with pytest.raises(InputError, match="more than"):
        recorded(folders(tmp_path / "large"), memory=100)


def test_parts_for_training_and_testing_are_kept(tmp_path):
    for part in ("train", "test"):
        folders(tmp_path / part)
    found = recorded(tmp_path)
    assert found.tested is not None
    assert found.tested.sum() == 6
    assert len(in_windows(found, LENGTH).test) == 6 * 8


def test_a_class_without_a_recording_is_named(tmp_path):
    place = folders(tmp_path)
    (place / "other").mkdir()
    (place / "other" / "a.txt").write_text("x")
    with pytest.raises(InputError, match="class other has no recording"):
        list_signals(place)


# ---------------------------------------------------------------- machines


def test_recordings_of_machines_are_scaled_and_chosen(tmp_path):
    found = load_vibrations(archive(tmp_path))
    with np.load(tmp_path / "machines.npz") as raw:
        for k in (0, 7):
            expected = raw["samples"][80 * k : 80 * (k + 1)] * raw["scale"][k]
            assert np.allclose(found.signals[k][:, 0], expected)
    some = found.some((found.rig == 1) & (found.load_hp == 0), "two at 0", without="normal")
    assert some.classes == ("inner slight", "inner severe")
    assert some.labels.tolist() == [0, 1]
    assert np.array_equal(some.signals[0], found.signals[7])
    parts = found.some(found.rig == 0, "one", parts=True)
    assert parts.classes == ("normal", "inner")
    assert parts.labels.tolist() == [0, 1, 1, 0, 1, 1]
    with pytest.raises(InputError, match="1 classes of faults"):
        found.some(found.labels == 1, "alone")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"offsets": np.arange(13) * 70}, "do not cut the samples"),
        ({"rig": np.zeros(3, np.uint8)}, "rig is uint8"),
        ({"scale": np.full(12, np.nan)}, "scale is float64"),
        ({"labels": np.full(12, 9, np.uint8)}, "labels from 9 to 9"),
        ({"samples": np.array([Trap()], object)}, "cannot be read"),
    ],
)
def test_an_archive_whose_parts_do_not_fit_is_refused(tmp_path, changes, said):
    with pytest.raises(InputError, match=said):
        load_vibrations(archive(tmp_path, **changes))
    assert zipfile.is_zipfile(tmp_path / "machines.npz")
    assert NAMES
