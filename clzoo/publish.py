"""From a finished run to a hub entry: weights, config, recipe, measurements, card."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from clzoo.config import ModelConfig
from clzoo.data.known_sets import claimed, recognised
from clzoo.data.opening import has_test_split
from clzoo.data.training import TrainingSet
from clzoo.encoder import Encoder
from clzoo.errors import ClzooError
from clzoo.evaluation.controls import measure_controls
from clzoo.evaluation.features import extract
from clzoo.evaluation.label_free import evaluate_without_labels
from clzoo.evaluation.opening import open_splits, title_of
from clzoo.evaluation.run import evaluate
from clzoo.evaluation.subject import with_heads
from clzoo.files import read_json
from clzoo.knn import KNN_V1
from clzoo.metrics import THIS_MODEL
from clzoo.pretrain.data_names import TrainedOn, trained_on
from clzoo.pretrain.feed import images_of
from clzoo.pretrain.recipe import Recipe
from clzoo.pretrain.recipe_files import load_recipe
from clzoo.pretrain.run_folder import ADAPTATION, VERDICT, is_gone, read_data, read_source, require_same_data
from clzoo.pretrain.start import save_pretraining_state
from clzoo.pretrain.trained import encoder_of, load_method, started_from
from clzoo.wording import clzoo_command
from clzoo.zoo.pushing import push
from clzoo.zoo.saving import round_weights, save_entry
from clzoo.zoo.swapping import settle

log = logging.getLogger("clzoo")

CONTROL_SEEDS = (0, 1, 2)


def publish(
    run: Path,
    name: str,
    data: str | Path | None,
    out: Path,
    *,
    protocols: str | None = None,
    seeds: int = 1,
    measured: Path | None = None,
    device: str = "auto",
    title: str | None = None,
    dtype: str = "fp32",
    overwrite: bool = False,
    accept_verdict: bool = False,
) -> Path:
    """Make the hub entry `out` of a finished run, and measure it.

    With labelled `data` that have a test split: by `protocols`, its k-NN accuracy beside two controls. Without labels:
    what needs none (`clzoo.evaluation.label_free`), on the images that it trained on, which are looked for where the
    run had them if `data` are not given. The card says that there was no labelled evaluation, and where the images
    cannot be reached that nothing was measured.

    Args:
        name: zoo name, <method>-<backbone>-<data>.
        data: what the run trained on; for an evaluation with labels it has `train` and `test` (or `val`).
        protocols, seeds: what to measure with labels, default "knn,linear"; see `clzoo.evaluate`.
        measured: metrics.json of an earlier `clzoo evaluate` of this run, to be taken instead of measuring again.
        title: what the card calls the data, where it differs from the recipe's title ("CIFAR-10 (JPEG copy)").
        dtype: fp16 stores half the bytes; the weights are rounded before they are measured.
        overwrite: replace the entry that `out` holds, as a whole; files that are no part of it stay.
        accept_verdict: publish an adaptation too that was not shown to help; the card says so in either case.

    Raises:
        ClzooError: an unfinished run, other data than the run's, a name that does not fit the recipe, a title that
            claims a published data set, `protocols` without labelled data or beside `measured`, `measured` of other
            weights or of other test images than the controls' would be;
            `out` holds an entry and `overwrite` is not set;
            an adaptation that was not shown to help and `accept_verdict` is not set, or a verdict on other weights.
    """
    settle(out)
    if not overwrite and (out / "config.json").is_file():
        raise ClzooError(f"{out} holds an entry already. To replace it add --overwrite, or give another --out.")
    recipe, state = _finished(run, data)
    images_of_run = trained_on(run, recipe)
    _require_fitting(name, recipe, images_of_run.id)
    verdict = _verdict_on(run, accept_verdict)
    if measured is not None and (protocols is not None or seeds != 1):
        raise ClzooError(
            f"{measured} is taken as it is: leave out --protocol and --seeds, or --metrics to measure again."
        )
    if protocols is not None and data is None:
        raise ClzooError(f"--protocol {protocols} is measured with labels. Name labelled images: --data DIR")
    images = None if measured is not None and data is None else _images_of(run, recipe, data)
    fingerprint, names = read_data(run)
    classes = names or (None if images is None or images.labels is None else images.classes)
    method = load_method(run, recipe, len(classes) if classes else fingerprint["classes"] or None)
    round_weights(method.backbone, dtype)
    encoder = encoder_of(method, recipe, name, device)
    subject = with_heads(encoder, name, recipe, method, images=fingerprint["images"], classes=classes)
    _require_own_title(title, images_of_run, names)
    encoder.config = replace(encoder.config, data=images_of_run.id)
    _warn_of(name, images_of_run)
    called = title or images_of_run.title
    images_of_run = replace(images_of_run, title=called)
    if measured is not None:
        evaluation = _with_controls(_read_measured(measured, encoder), encoder, data, called, measured)
    elif data is not None and images is not None and (protocols or _has_labelled_test(images, data)):
        open_splits(data)  # without a test split of their own, all images were trained on
        evaluation = evaluate(subject, data, protocols or "knn,linear", seeds=seeds, title=called).metrics
        evaluation = _with_controls(evaluation, encoder, data, called)
    elif images is not None:
        evaluation = evaluate_without_labels(subject, images, title or title_of(data or str(read_source(run))))
    else:
        evaluation = {"labels": False, "model": {"weights_sha256": encoder.weights_sha256}, "data": {}, "results": []}
    metrics = {
        "results": _with_hub_id(evaluation),
        "training": _training(recipe, state, images_of_run),
        "evaluation": _published(evaluation, name),
        **({} if verdict is None else {"adaptation": verdict}),
    }

    def add_state(folder: Path) -> None:
        save_pretraining_state(method, folder, classes)

    return save_entry(encoder, out, metrics=metrics, recipe=recipe.for_others().to_yaml(), dtype=dtype, add=add_state)


def publish_and_push(run: Path, data: str | Path | None, repo_id: str, *, device: str = "auto") -> str:
    """Publish a finished run into its folder `entry`, and push that; returns the URL of the commit.

    An entry that is of the same weights already is not measured again: so a push that failed is tried again quickly.

    Raises:
        ClzooError: what `publish` raises; or the push failed, after everything was saved.
    """
    recipe, out = load_recipe(run / "recipe.yaml"), run / "entry"
    settle(out)
    if _weights_of(out) is None or _weights_of(out) != _weights_of(run):
        publish(run, name_for(recipe, trained_on(run, recipe).id), data, out, device=device, overwrite=True)
    return push_saved(out, repo_id)


def push_saved(entry: Path, repo_id: str) -> str:
    """Push an entry; an error says that it is saved, and what to type."""
    try:
        return push(entry, repo_id)
    except ClzooError as error:
        again = clzoo_command("push", entry, repo_id)
        raise ClzooError(f"{entry} is saved, but it was not pushed: {error} Then type: {again}") from error


def _weights_of(folder: Path) -> str | None:
    path = folder / "config.json"
    return ModelConfig.load(path).weights_sha256 if path.is_file() else None


def name_for(recipe: Recipe, data: str) -> str:
    """A zoo name that fits a recipe, and what it trained on (`TrainedOn.id`)."""
    parts = (recipe.method.name, recipe.backbone.name, data)
    return "-".join(re.sub(r"[^A-Za-z0-9_.]+", "_", part) for part in parts)


def publish_command(run: Path, data: str | Path) -> str:
    """What to type to publish a finished run that trained on `data`."""
    recipe = load_recipe(run / "recipe.yaml")
    name = name_for(recipe, trained_on(run, recipe).id)
    words = ["publish", str(run), name]
    if read_data(run)[1] is not None:  # labelled
        words += ["--data", str(data)]
    if (Path("hub") / name / "config.json").is_file():
        words += ["--out", str(run / "entry")]
    return clzoo_command(*words)


def _finished(run: Path, data: str | Path | None) -> tuple[Recipe, dict[str, Any]]:
    """Recipe and state of a run that came to its end."""
    state = read_json(run / "state.json")
    if not state["finished"]:
        source = str(data or read_source(run) or "DIR")
        again = clzoo_command("pretrain", run / "recipe.yaml", "--data", source, "--out", run)
        raise ClzooError(f"{run} stopped at step {state['step']} of {state['steps']}. Finish it first: {again}")
    return load_recipe(run / "recipe.yaml"), state


def _verdict_on(run: Path, accepted: bool) -> dict[str, Any] | None:
    """What `clzoo adapt` found out about this run; None of a run that is no adaptation.

    Raises:
        ClzooError: it did not help, or it is not known whether it did, and that is not accepted; or the verdict is on
            other weights.
    """
    around = run.resolve().parent
    is_further_seed = around.name == ADAPTATION and run.name.startswith("seed-") and (around / "plan.json").is_file()
    judged = around.parent if is_further_seed else run
    if not (judged / ADAPTATION).is_dir():
        return None
    if not (judged / VERDICT).is_file():
        raise ClzooError(f"{judged} was not judged yet. Type the command again that began it: clzoo adapt IMAGES ...")
    report: dict[str, Any] = read_json(judged / VERDICT)
    if _weights_of(run) not in report["weights_sha256"]:
        raise ClzooError(
            f"{judged / VERDICT} is on other weights. Type the command again that made it: clzoo adapt ..."
        )
    if report["verdict"] != "helped" and not accepted:
        raise ClzooError(
            f"{run} was not shown to be better than {report['from']}: {report['sentence']}. To publish it all the "
            "same, with this on its card, add --accept-verdict"
        )
    return report


def _require_own_title(title: str | None, images: TrainedOn, names: Sequence[str] | None) -> None:
    """Refuse a title that claims a published data set, where the run was trained on other images."""
    claim = claimed(title) if title is not None else None
    is_unnamed = claim is not None and not names and images.images in claim.images.values()  # nobody knows
    if claim is not None and claim is not images.known and not is_unnamed:
        raise ClzooError(
            f"--title {title!r} is the name of a data set of {claim.images['train']:,} and {claim.images['test']:,} "
            f"images; the run was trained on {images.images:,} images, {images.title}. Leave out --title, "
            "or say what these are."
        )


def _require_fitting(name: str, recipe: Recipe, data: str) -> None:
    if name.count("-") != 2 or not name.startswith(f"{recipe.method.name}-"):
        raise ClzooError(
            f"{name!r} does not fit the run; zoo names are <method>-<backbone>-<data>, here for example "
            f"{name_for(recipe, data)}."
        )


def _images_of(run: Path, recipe: Recipe, data: str | Path | None) -> TrainingSet | None:
    """The images that a run trained on: those given, or those that still lie where they were; None if none are there.

    Raises:
        ClzooError: those given are others.
    """
    if data is not None:
        given = images_of(recipe, data)
        require_same_data(run, given.fingerprint(), "Name the images it trained on by --data.")
        return given
    if (source := read_source(run)) is None:
        log.warning("%s does not say where its images are, so nothing is measured on them; name them by --data", run)
        return None
    if is_gone(source):
        log.warning(
            "the images of %s are no longer in %s, so nothing is measured on them; name them by --data", run, source
        )
        return None
    try:
        return _images_of(run, recipe, source)
    except ClzooError as error:
        log.warning("the images of %s are not at hand, so nothing is measured on them: %s", run, error)
        return None


def _has_labelled_test(images: TrainingSet, data: str | Path) -> bool:
    """Whether `data` can be evaluated with labels; says why not."""
    if images.labels is None:
        log.info("%s has no labels: only what needs none is measured", images.origin)
    elif not has_test_split(data):
        log.warning("%s has no test split: only what needs no labels is measured", data)
    else:
        return True
    return False


def _training(recipe: Recipe, state: dict[str, Any], images: TrainedOn) -> dict[str, Any]:
    return {
        "recipe": "recipe.yaml",
        **images.training_facts(),
        **started_from(recipe),
        "seed": recipe.seed,
        "epochs": recipe.schedule.epochs,
        **({"shortened to steps": state["steps"]} if recipe.schedule.shortened else {}),
        **{key: state[key] for key in ("images_seen", "encoder_forwards", "minutes", "hardware", "versions")},
    }


def _published(evaluation: dict[str, Any], name: str) -> dict[str, Any]:
    """What is published of an evaluation beside its results: everything but where files lay on this machine."""
    data = {
        key: {k: v for k, v in value.items() if k != "origin"} if isinstance(value, dict) else value
        for key, value in evaluation["data"].items()
    }
    rest = {key: value for key, value in evaluation.items() if key != "results"}
    return {**rest, "data": data, "model": {**evaluation["model"], "name": name}}


def _warn_of(name: str, images: TrainedOn) -> None:
    """Say so where a name claims a published data set that the images are not."""
    claim = claimed(name.rpartition("-")[2])
    if claim is not None and claim is not images.known:
        log.warning(
            "the name %s says %s, but the %d images of %s are not that data set; the card does not say so. A name that "
            "fits: %s",
            name, claim.title, images.images, images.title, f"{name.rpartition('-')[0]}-{images.id}",
        )  # fmt: skip


def _with_hub_id(evaluation: dict[str, Any]) -> list[dict[str, Any]]:
    """Labelled results of the model itself on a data set of the Hub say which one; by classes and counts, whole."""
    rows: list[dict[str, Any]] = evaluation["results"]
    data = evaluation["data"]
    if evaluation.get("labels") is False or "classes" not in data:
        return rows
    known = recognised(data["classes"], {split: data[split]["images"] for split in ("train", "test")})
    hub_id, title = known.hub_id if known else None, data["title"]
    if hub_id is None:
        return rows
    own = [row["of"] == THIS_MODEL and row["dataset"] == title for row in rows]
    return [{**row, "dataset_id": hub_id} if is_own else row for row, is_own in zip(rows, own, strict=True)]


def _read_measured(path: Path, encoder: Encoder) -> dict[str, Any]:
    evaluation: dict[str, Any] = read_json(path)
    found = evaluation.get("model", {}).get("weights_sha256")
    if found != encoder.weights_sha256:
        raise ClzooError(
            f"{path} was measured on weights {found}, the run's are {encoder.weights_sha256}. "
            "Leave out --metrics to measure again."
        )
    return evaluation


def _with_controls(
    evaluation: dict[str, Any], encoder: Encoder, data: str | Path | None, title: str, path: Path | None = None
) -> dict[str, Any]:
    """With k-NN of the untrained network and of the pixels, to be held against the model's, unless they are there.

    Raises:
        ClzooError: the evaluation was read from `path`, and is of other test images than those of `data`.
    """
    if data is None or any(row["of"] != THIS_MODEL and row["protocol"] == KNN_V1.id for row in evaluation["results"]):
        return evaluation
    train, test = open_splits(data)
    if path is not None and extract(encoder, test).fingerprint["sha256"] != evaluation["data"]["test"]["sha256"]:
        raise ClzooError(
            f"{path} was measured on other test images than {test.origin}, on which the untrained network would be "
            "measured to stand beside it. Leave out --metrics to measure again, or --data."
        )
    log.info("measuring %s of three untrained networks, and of raw pixels", KNN_V1.id)
    title = evaluation["data"].get("title", title)  # as the model's own rows say
    found = measure_controls(encoder, train, test, ["knn"], seeds=CONTROL_SEEDS)
    return {**evaluation, "results": [*evaluation["results"], *(result.to_json(title, of) for of, result in found)]}
