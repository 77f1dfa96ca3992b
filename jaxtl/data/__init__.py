"""Data: sets by name, by path or from arrays; splits of them; the order of batches; augmentation inside the step.

What reads and splits runs on the host in NumPy; `feed` takes examples to the device, all at once or batch by batch;
`batches` with its `transforms`, `normalise` and the corruptions (`gaussian_noise`, `gaussian_blur`, `contrast`,
`pixelate`) run inside a compiled step.
"""

from jaxtl.data.arrays import from_arrays
from jaxtl.data.augment import channel_statistics, normalise, random_crop, random_flip
from jaxtl.data.batches import batches, image_batches, on_device, paired
from jaxtl.data.clients import class_parts, dirichlet_parts, iid_parts, local_epochs, on_clients
from jaxtl.data.corruptions import contrast, gaussian_blur, gaussian_noise, pixelate
from jaxtl.data.dataset import DataSet, Split
from jaxtl.data.directories import keep_to_data
from jaxtl.data.loading import load
from jaxtl.data.modalities import Modalities
from jaxtl.data.on_disk import Stored, memory_budget
from jaxtl.data.recordings import load_recordings
from jaxtl.data.sampling import epoch_batch
from jaxtl.data.source_target import source_and_target
from jaxtl.data.splits import by_class, hold_out, imbalanced, label_noise, per_class, stratified_folds
from jaxtl.data.stream import Stream, feed
from jaxtl.data.text_sets import load_texts
from jaxtl.data.vocabulary import Vocabulary, tokenised

__all__ = [
    "DataSet",
    "Modalities",
    "Split",
    "Stored",
    "Stream",
    "Vocabulary",
    "batches",
    "by_class",
    "channel_statistics",
    "class_parts",
    "contrast",
    "dirichlet_parts",
    "epoch_batch",
    "feed",
    "from_arrays",
    "gaussian_blur",
    "gaussian_noise",
    "hold_out",
    "iid_parts",
    "image_batches",
    "imbalanced",
    "keep_to_data",
    "label_noise",
    "load",
    "load_recordings",
    "load_texts",
    "local_epochs",
    "memory_budget",
    "normalise",
    "on_clients",
    "on_device",
    "paired",
    "per_class",
    "pixelate",
    "random_crop",
    "random_flip",
    "source_and_target",
    "stratified_folds",
    "tokenised",
]
