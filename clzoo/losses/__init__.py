"""Contrastive losses: pure functions on raw embeddings, one file per family.

Each normalises its embeddings itself, raises half and bfloat16 to float32 (float64 stays), and returns a scalar. None
builds an N x N x D tensor, and large matrices are worked through in blocks of rows (clzoo.losses.blocks).
"""

from clzoo.losses.align_uniform import align_uniform
from clzoo.losses.cacr import cacr, cacr_momentum, cacr_queue
from clzoo.losses.hcl import hcl
from clzoo.losses.hydra import hydra_pair
from clzoo.losses.infonce import info_nce, info_nce_keys, info_nce_queue
from clzoo.losses.potential_samples import potential_samples
from clzoo.losses.reco import reco_global
from clzoo.losses.supervised import sup_con

__all__ = [
    "align_uniform",
    "cacr",
    "cacr_momentum",
    "cacr_queue",
    "hcl",
    "hydra_pair",
    "info_nce",
    "info_nce_keys",
    "info_nce_queue",
    "potential_samples",
    "reco_global",
    "sup_con",
]
