"""Recordings of machines, made up: an archive of them, and folders of a class each."""

import numpy as np

LENGTH = 16  # of a window


def folders(path, count=3):
    for name in ("good", "bad"):
        (path / name).mkdir(parents=True)
        for k in range(count):
            np.save(path / name / f"{k}.npy", np.random.default_rng(k).normal(size=LENGTH * 8))
    return path


def archive(path, **changes):
    """Two rigs of two loads, three faults each."""
    count = 12
    rng = np.random.default_rng(3)
    content = {
        "samples": rng.integers(-100, 100, count * 80).astype(np.int16),
        "offsets": np.arange(count + 1) * 80,
        "scale": np.linspace(0.5, 2, count),
        "rig": np.repeat([0, 1], 6).astype(np.uint8),
        "rpm": np.full(count, 600, np.int16),
        "load_hp": np.tile([0, 0, 0, 1, 1, 1], 2).astype(np.int8),
        "labels": np.tile([0, 1, 2], 4).astype(np.uint8),
        "part": np.tile([0, 1, 1], 4).astype(np.uint8),
        "label_names": np.array(["normal", "inner slight", "inner severe"]),
        "part_names": np.array(["normal", "inner"]),
        "rig_names": np.array(["one", "two"]),
    }
    np.savez(path / "machines.npz", **(content | changes))
    return path / "machines.npz"
