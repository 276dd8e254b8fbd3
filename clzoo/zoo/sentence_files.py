"""The files by which sentence-transformers embeds images with an entry: the pooled feature, L2-normalised.

Without them it takes the mean over all tokens of a ViT, which is no feature of ours (cosine 0.05).
"""

from __future__ import annotations

from typing import Any

from clzoo.config import ModelConfig

SENTENCE_FILES = ("modules.json", "sentence_bert_config.json")
"""Names of the files; they are part of an entry."""

_MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Normalize", "type": "sentence_transformers.models.Normalize"},  # has no files
]

_TRANSFORMER = {
    "transformer_task": "feature-extraction",
    "modality_config": {"image": {"method": "forward", "method_output_name": "pooler_output"}},
    "module_output_name": "sentence_embedding",
}


def sentence_files(config: ModelConfig) -> dict[str, Any]:
    """Name -> JSON value of each file; none where timm, which sentence-transformers goes through, does not build it."""
    return dict(zip(SENTENCE_FILES, (_MODULES, _TRANSFORMER), strict=True)) if config.timm_builds_it else {}
