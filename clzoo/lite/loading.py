"""From a name or a path to a LiteEncoder."""

from __future__ import annotations

import os
from pathlib import Path

from clzoo import assets
from clzoo.config import HUB_PREFIX, ModelConfig
from clzoo.errors import ClzooError
from clzoo.graphs.provenance import GRAPH, require_same_model
from clzoo.lite.encoder import LiteEncoder
from clzoo.wording import clzoo_command
from clzoo.zoo.entries import entry


def load(path_or_name: str | Path, device: str = "cpu", revision: str | None = None) -> LiteEncoder:
    """Load an exported encoder; nothing of torch is imported.

    Args:
        path_or_name: an .onnx file that `clzoo export` wrote; the folder of a hub entry that holds a model.onnx; a name
            of `clzoo list` whose entry here holds one; or "hf-hub:ORG/REPO" (needs huggingface_hub to download it). A
            path is what has a separator or ends in .onnx: a plain word is always a zoo name.
        device: "cpu", "cuda", "tensorrt", "openvino" or "coreml"; see `clzoo.graphs.session.open_session`.
        revision: branch, tag or commit, of a repository of the Hub only.

    Raises:
        ClzooError: no such file, folder, name or repository; an entry without a model.onnx, or with one of other
            weights; a file that is damaged or not clzoo's; a device that ONNX Runtime cannot use.
    """
    text = str(path_or_name)
    if text.startswith(HUB_PREFIX):
        return _of_entry(_downloaded(text.removeprefix(HUB_PREFIX), revision), device)
    if revision is not None:
        raise ClzooError(f"revision {revision!r} was given with {text}; only repositories of the Hub have revisions.")
    if text.lower().endswith(".onnx"):
        return LiteEncoder(Path(text).expanduser(), device)
    if isinstance(path_or_name, Path) or text in (".", "..") or any(s in text for s in ("/", os.sep)):
        return _of_entry(Path(text).expanduser(), device)
    entry(text)  # an unknown name is an error that holds the closest ones
    if not (assets.HUB / text / GRAPH).is_file():
        raise ClzooError(
            f"{text} comes without a {GRAPH}. Where torch is installed, type: "
            f"{clzoo_command('export', text, '--to', 'onnx', '--out', f'{text}.onnx')}; then load {text}.onnx"
        )
    return _of_entry(assets.HUB / text, device)


def _of_entry(folder: Path, device: str) -> LiteEncoder:
    """The graph beside a config.json, if it is of the weights that the config records."""
    graph = folder / GRAPH
    if not folder.is_dir():
        found = "is no folder" if folder.exists() else "does not exist"
        raise ClzooError(f"{folder} {found}; expected an .onnx file or the folder of a hub entry.")
    if not graph.is_file():
        raise ClzooError(
            f"{folder} holds no {GRAPH}. Where torch is installed, type: "
            f"{clzoo_command('export', folder, '--to', 'onnx', '--out', graph)}"
        )
    encoder = LiteEncoder(graph, device)
    require_same_model(encoder.provenance, ModelConfig.load(folder / "config.json"), graph)
    return encoder


def _downloaded(repo: str, revision: str | None) -> Path:
    """The folder that holds config.json and model.onnx of one commit of a repository."""
    try:
        from clzoo.zoo.fetch import commit_of, fetch_file
    except ImportError as error:
        raise ClzooError(
            f"{HUB_PREFIX}{repo} must be downloaded, and {error.name} is not installed. "
            "Type: pip install huggingface_hub"
        ) from error
    from clzoo.cache import hub_cache

    config = fetch_file(repo, "config.json", revision, hub_cache=hub_cache(), offline=False)
    # The commit of the config, so that a push between the two requests cannot mix two models.
    commit = commit_of(config, "config.json")
    return fetch_file(repo, GRAPH, commit, hub_cache=hub_cache(), offline=False).parent
