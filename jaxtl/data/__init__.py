"""Data: sets by name, by path or from arrays; splits of them; the order of batches; augmentation inside the step.

What reads and splits runs on the host in NumPy; `epoch_batch`, `normalise`, `random_crop` and `random_flip` run inside
a compiled step.
"""

from jaxtl.data.augment import channel_statistics, normalise, random_crop, random_flip
from jaxtl.data.batches import image_batches, on_device
from jaxtl.data.dataset import DataSet, Split, from_arrays
from jaxtl.data.sampling import epoch_batch
from jaxtl.data.sources import load
from jaxtl.data.splits import by_class, hold_out, per_class, stratified_folds
from jaxtl.data.tasks import source_and_target

__all__ = [
    "DataSet",
    "Split",
    "by_class",
    "channel_statistics",
    "epoch_batch",
    "from_arrays",
    "hold_out",
    "image_batches",
    "load",
    "normalise",
    "on_device",
    "per_class",
    "random_crop",
    "random_flip",
    "source_and_target",
    "stratified_folds",
]
