"""Made-up examples in two modalities that have as much in common as is said: what alignment can be held against."""

from __future__ import annotations

import numpy as np

from jaxtl.data.dataset import Split
from jaxtl.data.modalities import Modalities, of_pairs
from jaxtl.errors import InputError

EDGE = 4  # values of each of two factors; a class is a pair of values
CODE = 8  # numbers of what a modality sees of a class
SIZE = 24  # numbers of an example


def factors(common: float, *, per_class: int = 60, tested: int = 30, noise: float = 0.6, seed: int = 0) -> Modalities:
    """Examples x_m = (√common · s[i, j] + √(1 − common) · u_m) Q_m + noise of the classes (i, j), 16 of them.

    u_left is a code of i alone and u_right of j alone: with nothing in common each modality knows what the other does
    not, and only both together know the class. s is one code of (i, j), which both see.

    Args:
        common: 0 to 1.
        per_class, tested: examples of each class to learn from, pairs to be tested on.
        noise: standard deviation, where codes are normal.
        seed: >= 0.

    Raises:
        InputError: `common` out of range.

    Example:
        >>> made = factors(0.5)
        >>> made.names, len(made.classes), made.train["left"]["left"].shape
        (('left', 'right'), 16, (960, 24))
    """
    if not 0 <= common <= 1:
        raise InputError(f"{common}", where="factors common", todo="give a share from 0 to 1")
    random = np.random.default_rng(seed)
    label = np.arange(EDGE**2)
    shared, own = random.normal(size=(EDGE**2, CODE)), random.normal(size=(2, EDGE, CODE))
    maps, parts = random.normal(size=(2, CODE, SIZE)) / np.sqrt(CODE), {}
    for k, (name, factor) in enumerate((("left", label // EDGE), ("right", label % EDGE))):
        codes = np.sqrt(common) * shared + np.sqrt(1 - common) * own[k][factor]
        both = []
        for count in (per_class, tested):
            labels = np.repeat(label, count)
            seen = codes[labels] @ maps[k] + noise * random.normal(size=(len(labels), SIZE))
            both.append(Split(**{name: seen.astype(np.float32), "label": labels.astype(np.int32)}))
        parts[name] = both
    told = f"made up, {common:g} of what a class is being in both modalities"
    return of_pairs(f"factors, {common:g} in common", parts, tuple(f"{i // EDGE}{i % EDGE}" for i in label), told)
