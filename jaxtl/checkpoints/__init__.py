"""Checkpoints that are whole or refused: orbax behind digests, fall-back and a lock.

    workdir/.lock                           held by the process that writes here
    workdir/checkpoints/100/arrays/         orbax: an array per leaf, under its path "params/head/kernel"
    workdir/checkpoints/100/manifest.json   meta; shape, dtype and crc32 of every leaf; crc32 of every file
    workdir/checkpoints/90.corrupt/         did not verify: set aside by `restore` and kept

Orbax alone loads a flipped bit without a word, takes an empty directory for the newest step, and casts or pads what
does not fit. The digest of a file shows damage before a parser meets it; the digest of a leaf shows that what is read
is what was saved. It is crc32, because the enemy is a bad disk and no forger: three times as fast as sha256.
"""

from jaxtl.checkpoints.states import is_owned, latest_step, own, read_meta, restore, save
from jaxtl.checkpoints.weights import export, load_weights

__all__ = ["export", "is_owned", "latest_step", "load_weights", "own", "read_meta", "restore", "save"]
