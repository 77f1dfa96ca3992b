"""Examples of the same classes in several modalities, of which it is said which belong together: pairs.

What makes a pair is that both are of one class, and nothing else: a written 3 and a spoken 3. No example is in two
pairs, and none of those that are tested is learned from.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxtl.data.dataset import DataSet, Split
from jaxtl.data.log_mel import log_mel
from jaxtl.data.recordings import Recordings, late
from jaxtl.data.splits import imbalanced, per_class
from jaxtl.errors import InputError

IMAGE, AUDIO = "image", "audio"
TEST_TAKES = 5  # the first so many of each word and speaker are for testing, as the authors of the digits have it
LATE = (100, 200, 300, 400)  # milliseconds
NOISE = (0.1, 0.3)  # of images: standard deviation as a share of the largest value there can be
HISS = (0.01, 0.05)  # of recordings, as a share of the peak


@dataclasses.dataclass(frozen=True, eq=False)
class Modalities:
    """Examples by modality to learn from, and pairs to be tested on.

    Attributes:
        name: short, for tables.
        train: by modality a part with a field of that name, "label", and "group" where there are groups.
        test: pairs: a field for each modality, "label", and "group" as in `train`.
        worse: what is wrong, in words -> by modality what then stands in place of its field of `test`.
        classes: their names.
        origin: where it came from, and what a pair is, in words.
        notice: a line to show when this is not what was asked for; else "".
    """

    name: str
    train: Mapping[str, Split]
    test: Split
    worse: Mapping[str, Mapping[str, np.ndarray]]
    classes: tuple[str, ...]
    origin: str
    notice: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """Of the modalities, sorted."""
        return tuple(sorted(self.train))

    @property
    def content(self) -> tuple[Any, ...]:
        """All that is no result of arithmetic in floats, which may differ by rounding on another machine."""
        parts = [*self.train.values(), self.test]
        return tuple(array for part in parts for array in part.fields.values() if array.dtype.kind in "iu")


def pairs_by_class(labels: Mapping[str, np.ndarray], seed: int) -> dict[str, np.ndarray]:
    """As many pairs as there can be: of each class, examples of every modality in an order drawn by lot.

    Args:
        labels: by modality integers [N_m].
        seed: >= 0.

    Returns:
        By modality indices [P], class after class; the k-th of all of them are a pair.

    Raises:
        InputError: no class that all modalities have.

    Example:
        >>> found = pairs_by_class({"image": np.array([0, 0, 1, 2]), "audio": np.array([1, 1, 0])}, seed=0)
        >>> [np.array([0, 0, 1, 2])[found["image"]].tolist(), np.array([1, 1, 0])[found["audio"]].tolist()]
        [[0, 1], [0, 1]]
    """
    counts = [dict(zip(*np.unique(own, return_counts=True), strict=True)) for own in labels.values()]
    common = sorted(set.intersection(*(set(count) for count in counts)))
    if not common:
        raise InputError("no class is in all modalities", where="pairs_by_class", todo="give the same classes to all")
    found: dict[str, list[np.ndarray]] = {name: [] for name in labels}
    for label in common:
        most = min(count[label] for count in counts)
        for k, name in enumerate(sorted(labels)):
            order = np.random.default_rng([seed, int(label), k]).permutation(np.flatnonzero(labels[name] == label))
            found[name].append(order[:most])
    return {name: np.concatenate(parts) for name, parts in found.items()}


def drawn_pairs(
    labels: Mapping[str, np.ndarray], n: int, share: float, seed: int, among: Mapping[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """n examples of each class in every modality, of which a share is in pairs.

    A smaller share parts pairs and changes no example; of a larger n those of a smaller one are a part.

    Args:
        labels: by modality integers [N_m].
        n: examples of a class.
        share: in (0, 1]; at least one pair of each class.
        seed: >= 0.
        among: by modality the indices to draw from.

    Returns:
        (by modality indices [P] of pairs, by modality indices of those that are alone).

    Raises:
        InputError: what `per_class` refuses, by the name of the modality.

    Example:
        >>> labels = {"a": np.arange(8) % 2, "b": np.arange(8) % 2}
        >>> both, alone = drawn_pairs(labels, 4, 0.25, 0, {"a": np.arange(8), "b": np.arange(8)})
        >>> [len(part[name]) for part in (both, alone) for name in "ab"]
        [2, 2, 6, 6]
    """
    paired, alone = {}, {}
    for k, name in enumerate(sorted(labels)):
        try:
            drawn = per_class(labels[name], n, len(labels) * seed + k, among=among[name]).reshape(-1, n)
        except InputError as error:
            raise InputError(error.what, where=name, todo=error.todo) from None
        count = max(1, round(share * n))
        paired[name], alone[name] = drawn[:, :count].ravel(), drawn[:, count:].ravel()
    return paired, alone


def thinned(
    labels: Mapping[str, np.ndarray], pairs: Mapping[str, np.ndarray], ratio: float, seed: int
) -> dict[str, np.ndarray]:
    """Pairs of which the first class has `ratio` times more than the last, see `imbalanced`.

    Args:
        labels: by modality integers [N_m].
        pairs: by modality indices [P]; the k-th of all of them are a pair. Or of one modality, what is alone.
        ratio: at least 1.
        seed: >= 0.

    Example:
        >>> labels = np.array([0, 0, 0, 0, 1, 1, 1, 1])
        >>> kept = thinned({"a": labels, "b": labels}, {"a": np.arange(8), "b": np.arange(8)}, 4.0, 0)
        >>> labels[kept["b"]].tolist()
        [0, 0, 0, 0, 1]
    """
    first = min(pairs)
    kept = imbalanced(labels[first][pairs[first]], ratio, seed)
    return {name: rows[kept] for name, rows in pairs.items()}


def of_two_sets(sets: Mapping[str, DataSet], ratio: float = 1.0) -> Modalities:
    """Examples of several sets, of which those of classes with the same number belong together.

    What an example of one says beside its class, one of another does not know: given the class they are independent.

    Args:
        sets: by the name of the modality; their "image" fields hold what there is of an example.
        ratio: so many times more examples the first class has than the last, in both parts.

    Raises:
        InputError: sets of different numbers of classes.

    Example:
        >>> from jaxtl.data import by_class, load
        >>> digits = load("digits")
        >>> pair = of_two_sets({"a": by_class(digits, [0, 1]), "b": by_class(digits, [2, 3])}, ratio=4.0)
        >>> pair.names, np.bincount(pair.test.labels).tolist()
        (('a', 'b'), [35, 9])
    """
    counts = {len(one.classes) for one in sets.values()}
    if len(counts) > 1:
        what = f"{' and '.join(str(len(one.classes)) for one in sets.values())} classes"
        raise InputError(what, where="of_two_sets", todo="give sets of as many classes")
    parts = {
        name: [Split(**{name: np.asarray(part.images), "label": part.labels}) for part in (one.train, one.test)]
        for name, one in sets.items()
    }
    classes = tuple(" with ".join(names) for names in zip(*(one.classes for one in sets.values()), strict=True))
    origin = f"{'; '.join(one.origin for one in sets.values())}; a pair is of one class, whose number both have"
    notice = "; ".join(dict.fromkeys(one.notice for one in sets.values() if one.notice))
    return of_pairs(" and ".join(one.name for one in sets.values()), parts, classes, origin, notice, ratio)


def of_pairs(
    name: str,
    parts: Mapping[str, Sequence[Split]],
    classes: tuple[str, ...],
    origin: str,
    notice: str = "",
    ratio: float = 1.0,
) -> Modalities:
    """Examples by modality, of which any two of one class may be a pair.

    Args:
        name, classes, origin, notice: see `Modalities`.
        parts: by modality (what is learned from, what is tested), each with a field of that name.
        ratio: so many times more examples the first class has than the last, in both parts.
    """
    tested = {modality: part for modality, (_, part) in parts.items()}
    labels = {modality: part.labels for modality, part in tested.items()}
    test = _tested(tested, thinned(labels, pairs_by_class(labels, 0), ratio, 0))
    train = {modality: part.take(imbalanced(part.labels, ratio, 0)) for modality, (part, _) in parts.items()}
    return Modalities(name, train, test, {}, classes, origin, notice)


def halves(data: DataSet) -> Modalities:
    """The upper half of some images and the lower half of others: two views of a class, always at hand.

    Args:
        data: images with a class each.

    Raises:
        InputError: no images, or of one row.
    """
    if "image" not in data.train or data.train.images.ndim != 4 or data.train.images.shape[1] < 2:
        raise InputError("has no images to be halved", where=data.name, todo="name a set of images with classes")
    middle = data.train.images.shape[1] // 2
    rows = {"lower": slice(middle, None), "upper": slice(0, middle)}
    parts = {
        name: (data.train.take(slice(k, None, 2)), data.test.take(slice(k, None, 2))) for k, name in enumerate(rows)
    }
    views = {
        name: tuple(Split(**{name: np.asarray(part.images)[:, rows[name]], "label": part.labels}) for part in both)
        for name, both in parts.items()
    }
    tested = {name: view[1] for name, view in views.items()}
    test = _tested(tested, pairs_by_class({name: part.labels for name, part in tested.items()}, 0))
    worse = {f"{name} noise {share:g}": {name: noisy(test[name], share)} for name in rows for share in NOISE}
    told = "upper half and lower half of different images of a class"
    notice = f"these are NO TWO MODALITIES but two views of {data.name}: {told}"
    train = {name: view[0] for name, view in views.items()}
    return Modalities(f"{data.name}, halved", train, test, worse, data.classes, f"{data.origin}; {told}", notice)


def image_and_audio(images: DataSet, spoken: Recordings, speakers: Sequence[int] = ()) -> Modalities:
    """Images and recordings of the same classes; the audio is a log-mel picture of each.

    Args:
        images: with a class each, in the order of those of the recordings; its test part is tested.
        spoken: recordings.
        speakers: who is heard in testing alone, in all takes; without any, the first five takes of everybody are.

    Returns:
        Pairs whose image and recording have the class in common; "group" is the speaker, or the take of a speaker.

    Raises:
        InputError: other classes, speakers that there are not, nothing left to learn from or to test.
    """
    if len(images.classes) != len(spoken.classes):
        what = f"{len(images.classes)} classes of images, {len(spoken.classes)} of recordings"
        raise InputError(what, where=f"{images.name} and {spoken.name}", todo="give the same classes to both")
    groups, tested, who = _apart(spoken, speakers)

    def heard(signal: np.ndarray) -> np.ndarray:
        return np.asarray(log_mel(signal, rate=spoken.rate))[..., None]

    sound = heard(spoken.signal)
    parts = [Split(audio=sound[own], label=spoken.label[own], group=groups[own]) for own in (~tested, tested)]
    seen = [Split(image=np.asarray(part.images), label=part.labels) for part in (images.train, images.test)]
    place = pairs_by_class({IMAGE: seen[1].labels, AUDIO: parts[1].labels}, 0)
    test = _tested({IMAGE: seen[1], AUDIO: parts[1]}, place)
    signal = spoken.signal[tested][place[AUDIO]]
    worse = {f"audio {ms} ms late": {AUDIO: heard(late(signal, ms * spoken.rate // 1000))} for ms in LATE}
    worse |= {f"audio noise {share:g}": {AUDIO: heard(noisy(signal, share))} for share in HISS}
    worse |= {f"image noise {share:g}": {IMAGE: noisy(test[IMAGE], share)} for share in NOISE}
    origin = f"{images.origin}; {spoken.origin}, tested on {who}; a pair is an image and a recording of one class"
    train = {IMAGE: seen[0], AUDIO: parts[0]}
    return Modalities(f"{images.name} and {spoken.name}", train, test, worse, images.classes, origin)


def spectrograms(spoken: Recordings, speakers: Sequence[int] = ()) -> DataSet:
    """Recordings as images: a log-mel picture of each, time downwards.

    Args:
        spoken: recordings.
        speakers: as for `image_and_audio`.

    Returns:
        Fields "image" [N, T, bands, 1], "label", and "group" as there: no take, or no speaker, is in both parts.

    Raises:
        InputError: nothing left to learn from or to test.
    """
    groups, tested, who = _apart(spoken, speakers)
    sound = np.asarray(log_mel(spoken.signal, rate=spoken.rate))[..., None]
    train, test = (Split(image=sound[own], label=spoken.label[own], group=groups[own]) for own in (~tested, tested))
    return DataSet(spoken.name, train, test, spoken.classes, f"{spoken.origin}, tested on {who}")


def _apart(spoken: Recordings, speakers: Sequence[int]) -> tuple[np.ndarray, np.ndarray, str]:
    """(the group of each recording, whether it is tested, which ones are in words)."""
    groups = spoken.speaker if speakers else (spoken.take.max() + 1) * spoken.speaker + spoken.take
    tested = np.isin(spoken.speaker, list(speakers)) if speakers else spoken.take < TEST_TAKES
    if tested.all() or not tested.any():
        who = f"speakers {list(speakers)}" if speakers else f"the first {TEST_TAKES} takes"
        what = f"{who} are {'all' if tested.any() else 'none'} of the recordings"
        raise InputError(what, where=spoken.name, todo="leave some to learn from, and some to test")
    names = " and ".join(spoken.speakers[k] for k in speakers)
    return groups, tested, f"speakers {names}" if speakers else f"takes 0–{TEST_TAKES - 1}"


def noisy(values: np.ndarray, share: float) -> np.ndarray:
    """Normal noise over values [N, ...], always the same: its deviation is a share of 255 for bytes, else of 1.

    Example:
        >>> round(float(noisy(np.zeros((100, 100), np.float32), 0.1).std()), 2)
        0.1
    """
    level = 255.0 if values.dtype == np.uint8 else 1.0
    drawn = np.random.default_rng(0).normal(0.0, share * level, values.shape)
    return (values + drawn).astype(np.float32)


def _tested(parts: Mapping[str, Split], place: Mapping[str, np.ndarray]) -> Split:
    """Pairs of test examples of each modality."""
    first = min(parts)
    fields = {name: part[name][place[name]] for name, part in parts.items()}
    known = [part.groups[place[name]] for name, part in parts.items() if part.groups is not None]
    return Split(**fields, label=parts[first].labels[place[first]], **({"group": known[0]} if known else {}))
