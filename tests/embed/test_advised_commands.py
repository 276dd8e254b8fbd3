"""The commands that messages advise are typed: they work for a store of any model, size, type and normalisation."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest

from clzoo import ClzooError, embed_folder, open_store
from clzoo.curation import find_label_errors
from clzoo.embed import merge_stores
from clzoo.embed.shares import Share

OPTIONS: dict[str, Any] = {"size": 48, "store_dtype": "fp32", "normalize": False, "progress": False}


def type_what_is_advised(error: ClzooError, before: str, clzoo_says: Any) -> None:
    words = shlex.split(str(error).split(before)[1].split("; then")[0])
    code, _, err = clzoo_says(*words[1:])
    assert code == 0, err


def test_labels_come_into_a_store_by_the_advised_command(
    images: Path, model_folder: Path, tmp_path: Path, clzoo_says: Any
) -> None:
    before = embed_folder(images, model_folder, tmp_path / "a store", **OPTIONS)
    with pytest.raises(ClzooError, match="has no labels") as caught:
        find_label_errors(before.store)
    type_what_is_advised(caught.value, "Type: ", clzoo_says)
    store = open_store(before.store)
    assert set(store.labels) == {"cats", "dogs"}
    assert store.manifest.segments[0].embeddings == f"embeddings-{before.generation}.npy"  # nothing was embedded


@pytest.mark.parametrize("is_there", [True, False])
def test_a_share_that_is_missing_or_unfinished_is_made_by_the_advised_command(
    images: Path, model_folder: Path, tmp_path: Path, clzoo_says: Any, is_there: bool
) -> None:
    out = tmp_path / "it's a store"
    first, second = (
        embed_folder(images, model_folder, out, share=Share(number, 2), labels=True, **OPTIONS).store
        for number in (1, 2)
    )
    if is_there:
        manifest = second / "manifest.json"
        manifest.write_text(manifest.read_text().replace('"complete": true', '"complete": false'))
        before, folders = "Type: ", [first, second]
    else:
        shutil.rmtree(second)
        before, folders = "or make it: ", [first]
    with pytest.raises(ClzooError) as caught:
        merge_stores(out, folders)
    type_what_is_advised(caught.value, before, clzoo_says)
    assert len(merge_stores(out, [first, second])) == 24
