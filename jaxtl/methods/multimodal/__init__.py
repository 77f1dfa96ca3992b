"""Several modalities of one example, such as an image and what is heard: one answer, one space, or one network.

what each of them says     fusion (fuse_average, fuse_weighted, fuse_vote, fuse_product, fuse_trained, tempered)
what each of them sees     features (concatenated, gated, low_rank)
one space for both         alignment (clip_loss, siglip_loss, cosine_loss, cca_loss, mse_loss)
how much each counts       worth (fit_weights, precision_weights, leave_one_out, shapley)

Whatever is absent counts as if it had never been there. Rows of a table on `problems.Pairs` are in `recipes`.
"""

from jaxtl.methods.multimodal.alignment import (
    cca_loss,
    clip_loss,
    clip_scale,
    cosine_loss,
    mse_loss,
    siglip_loss,
)
from jaxtl.methods.multimodal.features import (
    concatenated,
    gated,
    init_concatenated,
    init_gated,
    init_low_rank,
    low_rank,
)
from jaxtl.methods.multimodal.fusion import (
    drop_modalities,
    fuse_average,
    fuse_product,
    fuse_trained,
    fuse_vote,
    fuse_weighted,
    tempered,
)
from jaxtl.methods.multimodal.worth import fit_weights, leave_one_out, precision_weights, shapley

__all__ = [
    "cca_loss",
    "clip_loss",
    "clip_scale",
    "concatenated",
    "cosine_loss",
    "drop_modalities",
    "fit_weights",
    "fuse_average",
    "fuse_product",
    "fuse_trained",
    "fuse_vote",
    "fuse_weighted",
    "gated",
    "init_concatenated",
    "init_gated",
    "init_low_rank",
    "leave_one_out",
    "low_rank",
    "mse_loss",
    "precision_weights",
    "shapley",
    "siglip_loss",
    "tempered",
]
