"""Pushing a hub entry to the Hugging Face Hub: checked first, then one commit."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

import clzoo
from clzoo.backbones import with_fixed_size
from clzoo.config import HUB_PREFIX, ModelConfig
from clzoo.errors import ClzooError
from clzoo.files import as_json, read_json
from clzoo.graphs.provenance import GRAPH, require_same_model
from clzoo.graphs.session import open_session
from clzoo.metrics import check_metrics
from clzoo.proof import weights_sha256
from clzoo.zoo.cards import is_generated, render_card
from clzoo.zoo.locating import locate, pretraining_state
from clzoo.zoo.saving import EVAL_RESULTS, OUR_RESULTS, save_entry
from clzoo.zoo.sentence_files import SENTENCE_FILES, sentence_files
from clzoo.zoo.swapping import settle
from clzoo.zoo.weights import read_safetensors

if TYPE_CHECKING:
    from clzoo.encoder import Encoder

log = logging.getLogger("clzoo")

_REQUIRED = ("config.json", "model.safetensors", "README.md", "metrics.json")
_OPTIONAL = ("recipe.yaml", "pretrain.safetensors", GRAPH, *SENTENCE_FILES)

_LOG_IN = "Type: hf auth login; or set HF_TOKEN to a token with write access (https://huggingface.co/settings/tokens)."


def push(
    path: str | Path,
    repo_id: str,
    *,
    token: str | None = None,
    private: bool = False,
    revision: str | None = None,
    commit_message: str | None = None,
    create_pr: bool = False,
    accept_license: bool = False,
) -> str:
    """Upload a hub entry in one commit; the repository is made if it does not exist.

    What goes up: config.json, model.safetensors, README.md, metrics.json, the results in the Hub's own format, and
    recipe.yaml, pretrain.safetensors and model.onnx (`clzoo export FOLDER --to onnx --out FOLDER/model.onnx`) if there,
    which has to be of the same weights; nothing else that lies in the folder. A card that clzoo wrote is
    written anew, to name the repository.

    Args:
        path: the folder, as `Encoder.save_pretrained` or `clzoo publish` wrote it.
        repo_id: OWNER/NAME.
        token: default: HF_TOKEN, or what `hf auth login` stored. Never logged.
        private: make the repository private; an existing public one is refused.
        revision: an existing branch; default main.
        commit_message: default names the model and this clzoo.
        create_pr: propose the commit as a pull request to an existing repository.
        accept_license: push weights although their publisher states no license.

    Returns:
        URL of the commit, or of the pull request.

    Raises:
        ClzooError: an incomplete folder, weights that are not those of its config, no stated license, no access, no
            such repository or branch, no network.
    """
    folder = Path(path)
    config, metrics = _checked_entry(folder)
    if config.license == "not stated" and not accept_license:
        raise ClzooError(
            f"the license of {config.name} is not stated{f' by {config.source.repo}' if config.source else ''}, so you "
            "may have no right to redistribute its weights. If you have, type the same with --accept-license "
            "(in Python: accept_license=True); if you trained them, set clzoo.license in config.json."
        )
    if repo_id.count("/") != 1:
        raise ClzooError(f"the repository must be OWNER/NAME, found {repo_id!r}.")
    api = HfApi(token=token, library_name="clzoo", library_version=clzoo.__version__)
    with _explained(repo_id, revision):
        if not create_pr:
            _make_repository(api, repo_id, private)
        elif private:
            _require_private(api, repo_id)
        commit = api.create_commit(
            repo_id,
            _operations(folder, config, metrics, repo_id, set(api.list_repo_files(repo_id, revision=revision))),
            commit_message=commit_message or f"Upload {config.name} with clzoo {clzoo.__version__}",
            revision=revision,
            create_pr=create_pr,
        )
    url = str(commit.pr_url or commit.commit_url)
    log.info("pushed %s to %s; load it with clzoo.load(%r)", config.name, url, f"{HUB_PREFIX}{repo_id}")
    return url


def prepare_push(repo_id: str, *, private: bool = False, branch: str | None = None, token: str | None = None) -> None:
    """Check, before long work, that its result can be pushed: make the repository, and the branch, if they are missing.

    Args:
        private: as in `push`.
        branch: that `push` will be given as its revision; None for main.

    Raises:
        ClzooError: no access, no network, no name of a repository, or one that is public and was to be private.
    """
    if repo_id.count("/") != 1:
        raise ClzooError(f"the repository must be OWNER/NAME, found {repo_id!r}.")
    api = HfApi(token=token, library_name="clzoo", library_version=clzoo.__version__)
    with _explained(repo_id, None):
        _make_repository(api, repo_id, private)
        if branch is not None:
            try:
                api.model_info(repo_id, revision=branch)
            except RevisionNotFoundError:
                api.create_branch(repo_id, branch=branch, exist_ok=True)


def _make_repository(api: HfApi, repo_id: str, private: bool) -> None:
    """Make it if it does not exist; with `private`, one that everybody can read is refused."""
    api.create_repo(repo_id, private=private or None, exist_ok=True)  # None: the owner's own default
    if private:
        _require_private(api, repo_id)


def _require_private(api: HfApi, repo_id: str) -> None:
    if not api.model_info(repo_id).private:
        raise ClzooError(f"{repo_id} exists and is public. Type: hf repos settings {repo_id} --private")


def push_encoder(
    encoder: Encoder,
    repo_id: str,
    *,
    metrics: dict[str, Any] | None = None,
    recipe: str | None = None,
    dtype: str = "fp32",
    **options: Any,
) -> str:
    """Save an encoder to a temporary folder (see `save_entry`) and push that; `options` as in `push`."""
    with tempfile.TemporaryDirectory(prefix="clzoo-push-") as folder:
        return push(save_entry(encoder, Path(folder), metrics=metrics, recipe=recipe, dtype=dtype), repo_id, **options)


def _checked_entry(folder: Path) -> tuple[ModelConfig, dict[str, Any]]:
    """Config and metrics of a folder that is whole: every file there, and the weights those of its config."""
    remake = "Write it anew with encoder.save_pretrained(FOLDER) or clzoo publish."
    settle(folder)
    if not folder.is_dir():
        raise ClzooError(f"{folder} is not a folder; expected a model folder. {remake}")
    missing = [name for name in _REQUIRED if not (folder / name).is_file()]
    if missing:
        raise ClzooError(f"{folder} is not a whole model folder: {', '.join(missing)} missing. {remake}")
    config = with_fixed_size(ModelConfig.load(folder / "config.json"))
    metrics = read_json(folder / "metrics.json")
    check_metrics(metrics)
    found = weights_sha256(read_safetensors(folder / "model.safetensors", next_step=remake))
    if found != config.weights_sha256:
        raise ClzooError(
            f"{folder / 'model.safetensors'} holds other weights than config.json says: their hash is {found}, "
            f"expected clzoo.weights_sha256 {config.weights_sha256}. {remake}"
        )
    pretraining_state(locate(folder))
    if (graph := folder / GRAPH).is_file():
        require_same_model(open_session(graph)[1], config, graph)
    return config, metrics


def _operations(
    folder: Path, config: ModelConfig, metrics: dict[str, Any], repo_id: str, remote: set[str]
) -> list[CommitOperationAdd | CommitOperationDelete]:
    """The one commit: our files, and the removal of an optional one that belongs to what lay there before."""
    operations: list[CommitOperationAdd | CommitOperationDelete] = []
    generated = {"config.json": config.to_json(), **sentence_files(config)}  # so that an entry of an older clzoo loads
    for name in (*_REQUIRED, *_OPTIONAL):
        path = folder / name
        if name in generated:
            operations.append(CommitOperationAdd(name, as_json(generated[name]).encode()))
        elif name == "README.md" and is_generated(path.read_text(encoding="utf-8", errors="replace")):
            card = render_card(config, metrics, address=f"{HUB_PREFIX}{repo_id}")
            operations.append(CommitOperationAdd(name, card.encode()))
        elif path.is_file() and name not in SENTENCE_FILES:
            operations.append(CommitOperationAdd(name, path))
        elif name in remote:
            operations.append(CommitOperationDelete(name))
    stale = remote & {f"{EVAL_RESULTS}/{name}" for name in OUR_RESULTS}  # others may add files of their own there
    return operations + [CommitOperationDelete(name) for name in sorted(stale)]


@contextmanager
def _explained(repo_id: str, revision: str | None) -> Iterator[None]:
    """Turn what `huggingface_hub` raises into a ClzooError that says what to do."""
    try:
        yield
    except HFValidationError as error:
        raise ClzooError(f"{repo_id!r} is not a valid repository name: {error}") from error
    except OfflineModeIsEnabled as error:
        raise ClzooError("HF_HUB_OFFLINE is set, so nothing can be pushed. Type: unset HF_HUB_OFFLINE") from error
    except RevisionNotFoundError as error:
        raise ClzooError(
            f"{repo_id} has no branch {revision!r}. Type: hf repos branch create {repo_id} {revision}"
        ) from error
    except HfHubHTTPError as error:
        raise ClzooError(_refusal(error, repo_id)) from error
    except ValueError as error:  # e.g. the front matter of a card that a person wrote
        raise ClzooError(f"the Hub refuses a file: {error}. Correct it and push again.") from error
    except (OSError, HTTPError, RuntimeError) as error:  # RuntimeError: an upload that failed after its retries
        reason = error.__cause__ or error
        raise ClzooError(
            f"the connection to the Hub failed while pushing to {repo_id} ({type(reason).__name__}: {reason}). "
            "Check the network and push again: what has arrived already is not sent twice."
        ) from error


def _refusal(error: HfHubHTTPError, repo_id: str) -> str:
    status = error.response.status_code if error.response is not None else None
    if status == 401:
        return f"the Hub does not accept the token, or there is none, for {repo_id}. {_LOG_IN}"
    if isinstance(error, RepositoryNotFoundError):
        return f"the Hub has no model repository {repo_id} that you can see. Type: hf repos create {repo_id}"
    if status == 403:
        return f"the token has no right to write to {repo_id}. {_LOG_IN}"
    return (
        f"the Hub refused the push to {repo_id} with status {status}: {error.server_message or error}. Try again later."
    )
