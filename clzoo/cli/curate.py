"""clzoo curate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from clzoo.cli.common import max_pixels_option, output_file, quiet_option, refuse_written_over, report, say
from clzoo.wording import plain


@click.group("curate")
def command() -> None:
    """Look through a collection: duplicates, leaks, labels, what to label. Nothing is changed or deleted."""


def json_and_page(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add how a job is reported."""
    options = (
        click.option("--json", "as_json", is_flag=True, help="Print JSON."),
        click.option("--html", "page", metavar="FILE", type=output_file(), help="Write a page."),
        max_pixels_option,
        quiet_option,
    )
    for option in reversed(options):
        function = option(function)
    return function


def job_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add what every job on one store has."""
    option = click.option("--images", metavar="PLACE", help="Where the images of the store lie now, if they moved.")
    return option(json_and_page(function))


def copies_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add what duplicates and leaks share: how copies are told."""
    options = (
        click.option("--false-flags", type=float, default=0.001, show_default=True, help="False share of the pairs."),
        click.option("--threshold", type=float, metavar="COSINE", help="Report from this similarity instead."),
        click.option("--model", metavar="NAME", help="The model of the store, where it has moved."),
    )
    for option in reversed(options):
        function = option(function)
    return function


@command.command("duplicates")
@click.argument("store", metavar="STORE", type=click.Path(path_type=Path))
@copies_options
@click.option("--keep", type=click.Choice(["largest", "oldest", "first"]), default="largest", show_default=True)
@job_options
def duplicates(
    store: Path,
    false_flags: float,
    threshold: float | None,
    model: str | None,
    keep: str,
    images: str | None,
    as_json: bool,
    page: Path | None,
    quiet: bool,
) -> None:
    """Find the groups of images that are one: the same file, the same pixels, or copies.

    The threshold is chosen so that of the pairs reported the share --false-flags is false. Copies of the collection's
    own images are planted, which tells the kinds that the store's encoder sees there. --json lists what to keep and
    what could go, with reasons; nothing is deleted.
    """
    from clzoo.curation import find_duplicates
    from clzoo.embed import open_store

    opened = open_store(store, images=images)
    found = find_duplicates(opened, false_flags=false_flags, threshold=threshold, keep=keep, encoder=model)
    report(found, as_json, page)


@command.command("leaks")
@click.argument("train", metavar="TRAIN", type=click.Path(path_type=Path))
@click.argument("test", metavar="TEST", type=click.Path(path_type=Path))
@copies_options
@click.option("--out", metavar="CERT", type=output_file(), help="Write the certificate, JSON.")
@click.option("--train-images", metavar="PLACE", help="Where the images of TRAIN lie now, if they have moved.")
@click.option("--test-images", metavar="PLACE", help="The same of TEST.")
@json_and_page
def leaks(
    train: Path,
    test: Path,
    false_flags: float,
    threshold: float | None,
    model: str | None,
    out: Path | None,
    train_images: str | None,
    test_images: str | None,
    as_json: bool,
    page: Path | None,
    quiet: bool,
) -> None:
    """Find the images of the store TEST that are in the store TRAIN too.

    The certificate names both stores, the weights, the threshold and every pair; clzoo evaluate --leaks CERT judges
    with and without those images.
    """
    from clzoo.curation import find_leaks
    from clzoo.embed import open_store

    stores = open_store(train, images=train_images), open_store(test, images=test_images)
    found = find_leaks(*stores, false_flags=false_flags, threshold=threshold, encoder=model)
    if out is not None:
        say(f"wrote {found.save(out)}", err=as_json)
    report(found, as_json, page)


@command.command("labels")
@click.argument("store", metavar="STORE", type=click.Path(path_type=Path))
@click.option("--method", type=click.Choice(["linear", "knn"]), default="linear", show_default=True)
@click.option(
    "--ranking",
    type=click.Choice(["self_confidence", "normalized_margin"]),
    default="self_confidence",
    show_default=True,
)
@job_options
def labels(
    store: Path, method: str, ranking: str, images: str | None, as_json: bool, page: Path | None, quiet: bool
) -> None:
    """Rank the labels of STORE by how probably they are wrong.

    Each image is judged by the images of other folds. --json lists the labels that they contradict.
    """
    from clzoo.curation import find_label_errors
    from clzoo.embed import open_store

    report(find_label_errors(open_store(store, images=images), method=method, ranking=ranking), as_json, page)


@command.command("outliers")
@click.argument("store", metavar="STORE", type=click.Path(path_type=Path))
@click.option("-k", default=10, show_default=True, type=click.IntRange(min=1), help="Which neighbor's distance counts.")
@click.option("--by-class", is_flag=True, help="Among the images of the same label.")
@job_options
def outliers(
    store: Path, k: int, by_class: bool, images: str | None, as_json: bool, page: Path | None, quiet: bool
) -> None:
    """Rank the images of STORE by the distance to their k-th neighbor, the farthest first."""
    from clzoo.curation import find_outliers
    from clzoo.embed import open_store

    report(find_outliers(open_store(store, images=images), k=k, by_class=by_class), as_json, page)


@command.command("select")
@click.argument("store", metavar="STORE", type=click.Path(path_type=Path))
@click.option("-n", required=True, type=click.IntRange(min=1), help="How many images.")
@click.option("--how", type=click.Choice(["typical", "diverse", "balanced"]), default="typical", show_default=True)
@click.option("--labels", metavar="CSV", help="path,label of the images that have one so far.")
@click.option(
    "--out",
    metavar="FILE",
    type=output_file(),
    help="Write the paths as they are: a list for clzoo embed, in the folder of the images.",
)
@job_options
def select(
    store: Path,
    n: int,
    how: str,
    labels: str | None,
    out: Path | None,
    images: str | None,
    as_json: bool,
    page: Path | None,
    quiet: bool,
) -> None:
    """Choose N images of STORE to label next, a path a line.

    typical: the densest image of each of N clusters. diverse: each next the farthest from all before. balanced: as many
    from each cluster, however small.
    """
    from clzoo.curation import select_images
    from clzoo.curation.given_labels import read_labels
    from clzoo.embed import open_store

    refuse_written_over((labels,), (out, page))
    opened = open_store(store, images=images)
    known = None if labels is None else read_labels(labels, opened)
    found = select_images(opened, n, how=how, labels=known)
    if out is not None:
        say(f"wrote {found.write_list(out)}", err=True)
    elif not as_json and (odd := [path for path in found.paths if plain(path) != path]):
        say(f"{len(odd)} of these names have characters that are spelt out; --out FILE has them as they are", err=True)
    report(found, as_json, page)


@command.command("classify")
@click.argument("store", metavar="STORE")
@click.option("--labels", metavar="CSV", help="path,label of the images that have one.")
@click.option("--by-folder", is_flag=True, help="The labels that STORE was embedded with.")
@click.option(
    "--with",
    "saved",
    metavar="FILE",
    help="Name all images of STORE, or of any source, by what --save or --onnx wrote.",
)
@click.option("--save", "target", metavar="FILE", type=output_file(), help="Write the classifier, .npz.")
@click.option("--onnx", metavar="FILE", type=output_file(), help="Write encoder and classifier as one.")
@click.option("--model", metavar="NAME", help="The model of STORE or of --with, where it has moved.")
@click.option("--out", metavar="CSV", type=output_file(), help="Write path,label,confidence,sure.")
@click.option("--sure", default=0.5, show_default=True, type=click.FloatRange(0, 1), help="Less confidence is unsure.")
@job_options
def classify(
    store: str,
    labels: str | None,
    by_folder: bool,
    saved: str | None,
    target: Path | None,
    onnx: Path | None,
    model: str | None,
    out: Path | None,
    sure: float,
    images: str | None,
    as_json: bool,
    page: Path | None,
    quiet: bool,
) -> None:
    """Name the images of STORE that have no label, from those that have one.

    With --with STORE may be images themselves: any source that clzoo embed takes. What --onnx writes takes images and
    gives probabilities, without clzoo; python -m clzoo.lite classify IMAGES names images by it without torch.
    """
    if sum((labels is not None, by_folder, saved is not None)) != 1:
        raise click.UsageError("expected one of --labels CSV, --by-folder and --with FILE.")
    refuse_written_over((labels, saved), (target, onnx, out, page))
    from clzoo.curation import Classifier, classify, classify_images
    from clzoo.curation.given_labels import read_labels
    from clzoo.curation.pictures import encoder_of
    from clzoo.embed import open_store
    from clzoo.embed.manifest import is_store

    encoder = None
    if saved and not is_store(store):
        if images is not None or onnx is not None:
            raise click.UsageError(f"{store} is no store: --images and --onnx are for one.")
        found = classify_images(store, saved, encoder=model, sure=sure)
    else:
        opened = open_store(store, images=images)
        given = Classifier.load(saved) if saved else read_labels(labels, opened) if labels else opened.labels
        encoder = encoder_of(opened, model) if model is not None or onnx is not None else None
        found = classify(opened, given, sure=sure)
        if encoder is not None and encoder.place is not None:
            found = replace(found, classifier=replace(found.classifier, model=encoder.place))
    if onnx is not None and encoder is not None:
        from clzoo.curation.onnx_head import export_classifier

        say(f"wrote {export_classifier(found.classifier, encoder, onnx)}", err=as_json)
    for written in (target and found.classifier.save(target), out and found.write_csv(out)):
        if written:
            say(f"wrote {written}", err=as_json)
    report(found, as_json, page)
