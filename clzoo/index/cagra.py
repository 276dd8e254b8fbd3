"""CAGRA graphs (Ootomo et al., arXiv 2308.15136): built by cuVS on a GPU, kept and searched as an HNSW graph on CPUs.

FAISS has no factory string for them, so "CAGRA" and "CAGRA32" are ours. What is written is FAISS's IndexHNSWCagra,
which every FAISS of the same version reads, with or without a GPU.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from clzoo.embed.store import Store
from clzoo.errors import ClzooError
from clzoo.index.files import import_faiss
from clzoo.index.vectors import normalized_batches

_FACTORY = re.compile(r"CAGRA(\d+)?")
_DEGREE = 64  # neighbors of a node, cuVS's default; twice as many while the graph is built, as there too


def is_cagra(factory: str) -> bool:
    """Whether a factory string is one of ours: CAGRA, or CAGRA and the number of neighbors that a node keeps."""
    return _FACTORY.fullmatch(factory) is not None


def cagra_index(factory: str, store: Store) -> Any:
    """A `faiss.IndexIDMap2` over the graph of a store's vectors. Meanwhile they are float32 in memory, here and there.

    Raises:
        ClzooError: a FAISS without cuVS, no GPU, or what FAISS refuses.
    """
    faiss = import_faiss()
    found = _FACTORY.fullmatch(factory)
    degree = int(found[1] or _DEGREE) if found else 0
    if not hasattr(faiss, "GpuIndexCagra"):
        raise ClzooError(
            f"factory {factory!r} is built by cuVS on a GPU, and FAISS {faiss.__version__} here has no cuVS in it. "
            "Type: conda install -c pytorch -c rapidsai -c conda-forge faiss-gpu-cuvs; or on a CPU: --factory HNSW32"
        )
    if faiss.get_num_gpus() == 0:
        raise ClzooError(f"factory {factory!r} is built on a GPU, and FAISS sees none. Type: --factory HNSW32")
    if degree < 2 or degree % 2 or len(store) <= 2 * degree:
        raise ClzooError(
            f"factory {factory!r} needs an even number of neighbors and more than twice as many rows, found "
            f"{len(store)} rows. Type: --factory Flat"
        )
    vectors = np.concatenate([vectors for _, vectors in normalized_batches(store)])  # (N, D)
    config = faiss.GpuIndexCagraConfig()
    config.graph_degree, config.intermediate_graph_degree = degree, 2 * degree
    graph = faiss.IndexHNSWCagra(store.dim, degree // 2, faiss.METRIC_INNER_PRODUCT)
    index = faiss.IndexIDMap2(graph)  # while it is empty, as FAISS demands; the ids follow
    graph.this.disown()
    index.own_fields = True
    try:
        on_gpu = faiss.GpuIndexCagra(faiss.StandardGpuResources(), store.dim, faiss.METRIC_INNER_PRODUCT, config)
        on_gpu.train(vectors)  # cuVS builds from all rows at once; there is no `add`
        on_gpu.copyTo(graph)
    except RuntimeError as error:
        reason = str(error).rsplit(": ", 1)[-1]
        raise ClzooError(
            f"faiss cannot build {factory!r} from {len(store)} vectors: {reason}. Type: --factory HNSW32"
        ) from error
    index.ntotal = graph.ntotal
    faiss.copy_array_to_vector(store.ids, index.id_map)
    index.construct_rev_map()
    return index
