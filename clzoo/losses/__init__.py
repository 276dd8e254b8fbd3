"""Contrastive losses: pure functions on raw embeddings, one file per family.

Each L2-normalises its embeddings itself, raises half and bfloat16 to float32 (float64 stays), and returns a scalar.
"""

from clzoo.losses.cacr import cacr
from clzoo.losses.infonce import info_nce

__all__ = ["cacr", "info_nce"]
