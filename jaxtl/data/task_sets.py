"""Several questions about one input: sets composed from others, or made up, with a target for every task."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxtl.data.dataset import DataSet, Split
from jaxtl.data.loading import load
from jaxtl.errors import InputError, suggest

VEHICLES = ("airplane", "automobile", "ship", "truck")
TEN_CLASSES = {"two_digits": "mnist", "cifar": "cifar10"}


@dataclasses.dataclass(frozen=True, eq=False)
class TaskSet:
    """Examples with a target for every task.

    Attributes:
        name: short, for tables.
        train, test: the two parts: "image" [N, ...], and by task int32 classes [N] or float32 numbers [N, 1].
        classes: how many each task has; 0 where its target is a number.
        origin: where the inputs came from and what the tasks are, in words.
        notice: a line to show when this is not what was asked for first; else "".
        noise: by task, the mean squared error of the best prediction there is, where it is known.
    """

    name: str
    train: Split
    test: Split
    classes: Mapping[str, int]
    origin: str
    notice: str = ""
    noise: Mapping[str, float] = dataclasses.field(default_factory=dict)


def standardised(tasks: TaskSet, input_size: int) -> TaskSet:
    """Inputs and numbers in units in which those of the training part have mean 0 and variance 1.

    Args:
        tasks: any.
        input_size: images are first averaged over blocks, as large as leave this length of the shorter edge at least.

    Returns:
        Inputs float32; `noise` in the new units. Classes stay as they are.

    Example:
        >>> standardised(linnerud(), 1).train["pulse"].std()
        np.float32(1.0)
    """

    def small(inputs: np.ndarray) -> np.ndarray:
        block = max(1, min(inputs.shape[1:3]) // input_size) if inputs.ndim == 4 else 1
        if block == 1:
            return inputs.astype(np.float32)
        height, width = inputs.shape[1] // block, inputs.shape[2] // block
        blocks = inputs[:, : height * block, : width * block].reshape(-1, height, block, width, block, inputs.shape[3])
        return blocks.mean((2, 4), dtype=np.float32)

    train, test = small(tasks.train.images), small(tasks.test.images)
    axes = tuple(range(train.ndim - 1))  # one scale for each channel of images, one for each number otherwise
    mean, std = train.mean(axes), train.std(axes)
    std = np.where(std > 0, std, 1.0).astype(np.float32)
    parts = [tasks.train.having(image=(train - mean) / std), tasks.test.having(image=(test - mean) / std)]
    noise = dict(tasks.noise)
    for task in (task for task, classes in tasks.classes.items() if not classes):
        centre, scale = tasks.train[task].mean(), tasks.train[task].std()
        parts = [part.having(**{task: (part[task] - centre) / scale}) for part in parts]
        if task in noise:
            noise[task] /= float(scale) ** 2
    return dataclasses.replace(tasks, train=parts[0], test=parts[1], noise=noise)


DIGIT_TASKS = {  # what is asked of (left, right), and how many answers there are
    "left": (lambda left, right: left, 10),
    "right": (lambda left, right: right, 10),
    "larger": (lambda left, right: left > right, 2),
    "parity": (lambda left, right: (left + right) % 2, 2),
    "sum": (lambda left, right: left + right, 19),
}


def two_digits(digits: DataSet, seed: int = 0) -> TaskSet:
    """Pairs of digits side by side: which is on the left, which on the right, and what only both together tell.

    The digits of a part are shuffled and taken two by two, so that none occurs in two images, and none in both parts.

    Args:
        digits: images [N, H, W, C] of ten classes, named by digits in any order or meant in theirs.
        seed: of the order.

    Returns:
        Images [N // 2, H, 2W, C] of the dtype of the digits; tasks "left", "right" (10 classes), "larger" (whether the
        left digit is), "parity" (of the sum), "sum" (19 classes).

    Raises:
        InputError: other than ten classes, or inputs that are no images.

    Example:
        >>> from jaxtl.data.loading import load
        >>> pairs = two_digits(load("digits"))
        >>> pairs.train.images.shape, pairs.classes["sum"], len(pairs.test)
        ((719, 8, 16, 1), 19, 179)

    Source of the task: Sabour, Frosst and Hinton, "Dynamic Routing Between Capsules", 2017 (MultiMNIST, where the two
    digits overlap).
    """
    if len(digits.classes) != 10 or digits.train.images.ndim != 4:
        what = f"{len(digits.classes)} classes, images of shape {list(digits.train.images.shape[1:])}"
        raise InputError(what, where=f"two_digits of {digits.name}", todo="use images of ten digits, such as mnist")

    named = sorted(digits.classes) == list("0123456789")  # then in whatever order: the name is the digit
    digit = np.array([int(name) for name in digits.classes]) if named else np.arange(10)

    def pairs(part: Split, stream: int) -> Split:
        order = np.random.default_rng([seed, stream]).permutation(len(part))
        left, right = order[: len(part) // 2], order[len(part) // 2 :][: len(part) // 2]
        images = np.concatenate([np.asarray(part.images[left]), np.asarray(part.images[right])], axis=2)
        labels = digit[part.labels[left]], digit[part.labels[right]]
        return Split(images, **{task: answer(*labels).astype(np.int32) for task, (answer, _) in DIGIT_TASKS.items()})

    classes = {task: count for task, (_, count) in DIGIT_TASKS.items()}
    origin = f"two digits side by side, from {digits.origin}"
    return TaskSet("two_digits", pairs(digits.train, 0), pairs(digits.test, 1), classes, origin, digits.notice)


def class_and_group(dataset: DataSet, groups: Mapping[str, Sequence[str]]) -> TaskSet:
    """Two questions about one image: its class, and the group of classes that this belongs to.

    Args:
        dataset: any with names of classes.
        groups: the names of the classes in each group; together every class once.

    Returns:
        Tasks "class" and "group".

    Raises:
        InputError: an unknown class, or one that is in no group or in two.

    Example:
        >>> from jaxtl.data.loading import load
        >>> class_and_group(load("digits"), {"even": "02468", "odd": "13579"}).classes
        {'class': 10, 'group': 2}
    """
    of = [-1] * len(dataset.classes)
    for number, (group, names) in enumerate(groups.items()):
        for name in names:
            if name not in dataset.classes:
                todo = suggest(name, dataset.classes)
                raise InputError(f"no class '{name}'", where=f"group '{group}'", todo=todo)
            position = dataset.classes.index(name)
            if of[position] >= 0:
                raise InputError(f"class '{name}' is in two groups", where=f"group '{group}'", todo="name it once")
            of[position] = number
    if -1 in of:
        what = f"class '{dataset.classes[of.index(-1)]}' is in no group"
        raise InputError(what, where=dataset.name, todo="put every class into a group")

    def asked(part: Split) -> Split:
        group = np.array(of, np.int32)[part.labels]
        return Split(np.asarray(part.images), **{"class": part.labels, "group": group})

    classes = {"class": len(dataset.classes), "group": len(groups)}
    return TaskSet(dataset.name, asked(dataset.train), asked(dataset.test), classes, dataset.origin, dataset.notice)


def low_rank(
    tasks: int = 4,
    rank: int = 1,
    inputs: int = 32,
    noise: float = 1.0,
    train: int = 2000,
    test: int = 2000,
    seed: int = 0,
) -> TaskSet:
    """Linear tasks that look at the same few directions of the input, with a known answer.

    y_t = x·U·v_t + noise·ε,   U [inputs, rank] orthonormal,  v_t [rank] of length 1,  x and ε standard normal

    The signal of every task has variance 1, so the best prediction leaves noise² of 1 + noise². With rank 1 all tasks
    are one and the same up to a sign, and the examples of one are worth as much to any other.

    Args:
        tasks: how many; they are called "task_0", "task_1", ...
        rank: of what they share, at most `inputs`.
        inputs: numbers in x.
        noise: standard deviation.
        train, test: examples.
        seed: of all that is drawn.

    Raises:
        InputError: a number out of its range.

    Example:
        >>> low_rank(tasks=3, inputs=8).train["task_2"].shape
        (2000, 1)
    """
    for name, value in (("tasks", tasks), ("rank", rank), ("train", train), ("test", test)):
        if value < 1:
            raise InputError(f"{value} is less than 1", where=f"low_rank {name}")
    if rank > inputs or not noise >= 0:
        raise InputError(f"rank {rank}, inputs {inputs}, noise {noise}", where="low_rank", todo="rank <= inputs")
    random = np.random.default_rng(seed)
    directions = np.linalg.qr(random.normal(size=(inputs, rank)))[0]
    mixed = random.normal(size=(rank, tasks))
    weights = directions @ (mixed / np.linalg.norm(mixed, axis=0))
    names = [f"task_{t}" for t in range(tasks)]

    def drawn(count: int) -> Split:
        x = random.normal(size=(count, inputs))
        y = x @ weights + noise * random.normal(size=(count, tasks))
        return Split(x.astype(np.float32), **{name: y[:, [t]].astype(np.float32) for t, name in enumerate(names)})

    origin = f"made up: {tasks} linear tasks of rank {rank} on {inputs} inputs, noise {noise:g}"
    known = {name: noise**2 for name in names}
    return TaskSet("low_rank", drawn(train), drawn(test), dict.fromkeys(names, 0), origin, noise=known)


def linnerud(test: int = 8, seed: int = 0) -> TaskSet:
    """scikit-learn's Linnerud: from chin-ups, sit-ups and jumps of 20 men their weight, waist and pulse.

    Args:
        test: how many of the 20 are for testing.
        seed: of which.

    Raises:
        InputError: nobody left on one side.

    Example:
        >>> men = linnerud()
        >>> len(men.train), len(men.test), sorted(men.classes)
        (12, 8, ['pulse', 'waist', 'weight'])
    """
    from sklearn.datasets import load_linnerud

    found = load_linnerud()
    if not 1 <= test < len(found.data):
        raise InputError(f"{test} of {len(found.data)}", where="linnerud test", todo="leave some on both sides")
    order = np.random.default_rng(seed).permutation(len(found.data))
    names = [name.lower() for name in found.target_names]

    def some(index: np.ndarray) -> Split:
        targets = {name: found.target[index][:, [t]].astype(np.float32) for t, name in enumerate(names)}
        return Split(found.data[index].astype(np.float32), **targets)

    origin = f"Linnerud (scikit-learn): {len(found.data)} men, three exercises"
    return TaskSet("linnerud", some(order[test:]), some(order[:test]), dict.fromkeys(names, 0), origin)


def load_tasks(
    name: str, images: str = "auto", data_dir: str | None = None, *, rank: int, noise: float, seed: int, progress: Any
) -> TaskSet:
    """A set of several tasks.

    Args:
        name: "two_digits" side by side, "cifar" (class, and animal or vehicle), "low_rank" or "linnerud".
        images: what it is composed from, a name or a path; "auto": MNIST or CIFAR-10, and digits where it is not found.
        data_dir: where named data sets are looked for.
        rank, noise: of the low-rank tasks, whose signal has variance 1.
        seed: of all that is drawn.
        progress: shows a download, see `load`.

    Returns:
        The set; its notice says what stands for something else.
    """
    if name == "low_rank":
        return low_rank(4, rank, noise=noise, seed=seed)
    if name == "linnerud":
        return linnerud(seed=seed)
    wanted, notice = TEN_CLASSES[name] if images == "auto" else images, ""
    try:
        found = load(wanted, data_dir, progress=progress)
    except InputError as error:
        if images != "auto":
            raise
        found, notice = load("digits"), f"{wanted} was not found, so this is digits ({error.what})"
    found = dataclasses.replace(found, notice=notice or found.notice)
    if name == "two_digits":
        return two_digits(found, seed)
    if set(VEHICLES) <= set(found.classes):
        groups = {"vehicle": VEHICLES, "animal": [one for one in found.classes if one not in VEHICLES]}
    else:  # digits, where CIFAR-10 was not found
        groups = {"even": found.classes[::2], "odd": found.classes[1::2]}
    return class_and_group(found, groups)
