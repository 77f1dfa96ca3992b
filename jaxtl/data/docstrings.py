"""Small sets of real texts that are always at hand: what NumPy and SciPy say of their own functions.

A sentence is of linear algebra or of chance (random numbers and statistics): one question, asked of two libraries, of
which the second has other words for it. Both are under the BSD licence, and read from what is installed.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from jaxtl.data.labelled import Labelled
from jaxtl.data.texts import labelled_rows, mark_of
from jaxtl.errors import InputError

CLASSES = ("linear algebra", "chance")
DOCUMENTED = {
    "numpy_docs": ("numpy", "NumPy", ("numpy.linalg", "numpy.random")),
    "scipy_docs": ("scipy", "SciPy", ("scipy.linalg", "scipy.stats")),
}
NO_PROSE = (">>>", "---", "===", " : ")  # an example, headings, a parameter
SHORTEST = 5  # words of a sentence
SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")


def documentation(name: str) -> Labelled:
    """Sentences of the docstrings of a library, as many of either class; those of one function are one group.

    Args:
        name: "numpy_docs" or "scipy_docs".

    Raises:
        InputError: Python was started without docstrings.

    Example:
        >>> found = documentation("numpy_docs")
        >>> found.classes, "Compute the determinant of an array." in found.train["text"]
        (('chance', 'linear algebra'), True)
    """
    package, title, modules = DOCUMENTED[name]
    found = _said(modules)
    shared = found[0].keys() & found[1].keys()  # said of both, such as what axes are
    for earlier in list(DOCUMENTED)[: list(DOCUMENTED).index(name)]:  # two tasks have no text in common
        shared |= set().union(*_said(DOCUMENTED[earlier][2]))
    rows = [[row for mark, row in sentences.items() if mark not in shared] for sentences in found]
    size = min(map(len, rows))
    if not size:
        todo = "start it without -OO"
        raise InputError("has no docstrings: Python has left them out", where=package, todo=todo)
    chosen = [(*part[k], kind) for part, kind in zip(rows, CLASSES, strict=True) for k in _spread(len(part), size)]
    texts, functions, kinds = ([row[k] for row in chosen] for k in range(3))
    version = importlib.import_module(package).__version__
    origin = f"docstrings of {title} {version} (BSD), {' and '.join(modules)}"
    nobody = np.zeros(len(chosen), bool)
    return labelled_rows(Path(name), texts, kinds, "classes", nobody, functions, functions, origin, [], [])


def sentences_of(docstring: str) -> list[str]:
    r"""The prose of a docstring: no headings with what stands below them, examples or formulas.

    Example:
        >>> sentences_of("Norm of a matrix or vector.\n\nParameters\n----------\nx : array")
        ['Norm of a matrix or vector.']
    """
    paragraphs = (" ".join(block.split()) for block in re.split(r"\n\s*\n", inspect.cleandoc(docstring)))
    prose = [text for text in paragraphs if text[:1].isupper() and text.endswith(".")]
    prose = [text for text in prose if not any(sign in text for sign in NO_PROSE)]
    return [sentence for text in prose for sentence in SENTENCE.split(text) if len(sentence.split()) >= SHORTEST]


def _said(modules: tuple[str, ...]) -> list[dict[bytes, tuple[str, str]]]:
    """For each module, its (sentence, function) by a mark of the sentence, each once."""
    found = [dict[bytes, tuple[str, str]]() for _ in modules]
    for sentences, module in zip(found, modules, strict=True):
        for function, docstring in _docstrings(module):
            for sentence in sentences_of(docstring):
                sentences.setdefault(mark_of(sentence), (sentence, f"{module}.{function}"))
    return found


def _docstrings(module: str) -> Iterator[tuple[str, str]]:
    """(name, docstring) of every function, class and method that a module shows and that is its package's own."""
    shown = importlib.import_module(module)
    for name in sorted(shown.__all__):
        found = getattr(shown, name)
        own = (getattr(found, "__module__", None) or module).partition(".")[0] == module.partition(".")[0]
        if own and (inspect.isroutine(found) or inspect.isclass(found)):
            yield name, found.__doc__ or ""
            methods = sorted(vars(found).items()) if inspect.isclass(found) else []
            yield from ((name, one.__doc__ or "") for key, one in methods if callable(one) and not key.startswith("_"))


def _spread(count: int, size: int) -> list[int]:
    """So many of the numbers below `count`, at equal distances."""
    return (np.arange(size) * count // size).tolist()
