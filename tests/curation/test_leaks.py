"""Leaks: test images that are in the train set, their certificate, and judging without them."""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path

import pytest
from labelled_pictures import CLASSES, make_splits
from patterns import content_of, make_patterns
from PIL import Image
from small_models import small_encoder

import clzoo
from clzoo import ClzooError, embed_folder, evaluate, find_leaks
from clzoo.certificate import read_certificate
from clzoo.cli import main
from clzoo.evaluation.leaks import WITHOUT

LEAKED = {"ant/00.png": "byte-identical", "bee/00.bmp": "pixel-identical"}


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Splits of which two test images are train images, the model that embedded both, and the stores."""
    place = tmp_path_factory.mktemp("leaks")
    data = make_splits(place / "data")
    shutil.copy(data / "train/ant/05.png", data / "test/ant/00.png")
    with Image.open(data / "train/bee/05.png") as image:
        image.save(data / "test/bee/00.bmp")
    (data / "test/bee/00.png").unlink()
    small_encoder().save_pretrained(place / "model")
    for split in ("train", "test"):
        clzoo.embed_folder(data / split, place / "model", out=place / split, store_dtype="fp32")
    return place


@pytest.fixture(scope="module")
def certificate(place) -> Path:
    return find_leaks(place / "train", place / "test", threshold=0.99999).save(place / "leaks.json")


def test_leaks_are_found_and_named_beside_their_train_images(place, certificate):
    found = {leak["test"]: leak for leak in read_certificate(certificate)["leaks"]}
    assert {name: leak["kind"] for name, leak in found.items()} == LEAKED
    assert found["ant/00.png"]["train"] == "ant/05.png"
    assert found["bee/00.bmp"]["train"] == "bee/05.png"


def test_the_command_writes_the_certificate_and_changes_nothing_else(place, certificate, tmp_path, capsys):
    before = content_of(place)
    arguments = [str(place / "train"), str(place / "test"), "--threshold", "0.99999", "--out", str(tmp_path / "c.json")]
    main(["curate", "leaks", *arguments, "--html", str(tmp_path / "page.html"), "--json", "--quiet"])
    assert json.loads(capsys.readouterr().out) == json.loads((tmp_path / "c.json").read_text())
    assert json.loads((tmp_path / "c.json").read_text()) == json.loads(certificate.read_text())
    assert (tmp_path / "page.html").read_text().count("<img") == 4
    assert content_of(place) == before


def test_every_protocol_is_measured_with_and_without(place, certificate):
    found = evaluate(place / "model", place / "data", "knn,linear", leaks=certificate)
    plain = evaluate(place / "model", place / "data", "knn,linear")
    assert [row for row in found.results if row["split"] != WITHOUT] == plain.results
    without = [row for row in found.results if row["split"] == WITHOUT]
    assert [row["protocol"] for row in without] == [row["protocol"] for row in plain.results]
    assert found.metrics["details"]["leaks"]["removed"] == 2

    names = [found.test_images.name(row) for row in found.arrays["test_rows"]]
    kept = [not any(name.endswith(leak) for leak in LEAKED) for name in names]
    right = found.arrays["predicted_knn_v1"] == found.arrays["test_labels"]
    assert sum(kept) == len(kept) - 2 == 4 * len(CLASSES) - 2
    assert without[0]["value"] == pytest.approx(100 * right[kept].mean(), abs=0.05)


def test_no_number_of_a_set_that_the_certificate_is_not_of_says_without_leaks(place, certificate, tmp_path):
    other = make_splits(tmp_path / "other", contrast=6)
    found = evaluate(
        place / "model", place / "data", "transfer", settings=[f"transfer.sets=[{other}]"], leaks=certificate
    )
    assert {row["dataset"] for row in found.results if row["split"] != WITHOUT} == {"data", "other", "data, other"}
    assert {row["dataset"] for row in found.results if row["split"] == WITHOUT} == {"data"}


def test_the_page_shows_one_headline_of_each_protocol(place, certificate, tmp_path):
    folder = evaluate(place / "model", place / "data", "knn", leaks=certificate).write(tmp_path / "report")
    page = (folder / "report.html").read_text()
    assert page.count('class="big"') == 1
    assert WITHOUT in page


def test_a_certificate_of_other_weights_or_images_or_none_is_refused(place, certificate, tmp_path):
    small_encoder(seed=1).save_pretrained(tmp_path / "other")
    with pytest.raises(ClzooError, match="is of the weights"):
        evaluate(tmp_path / "other", place / "data", "knn", leaks=certificate)
    data = shutil.copytree(place / "data", tmp_path / "data")
    evaluate(place / "model", data, "knn", leaks=certificate)  # the same images elsewhere
    (data / "test/cat/00.png").unlink()
    with pytest.raises(ClzooError, match="are not the same"):
        evaluate(place / "model", data, "knn", leaks=certificate)
    changed = json.loads(certificate.read_text())
    changed["leaks"] = changed["leaks"][1:]
    (tmp_path / "changed.json").write_text(json.dumps(changed))
    with pytest.raises(ClzooError, match="was changed after it was written"):
        evaluate(place / "model", place / "data", "knn", leaks=tmp_path / "changed.json")
    (tmp_path / "of none.json").write_text("{}")
    with pytest.raises(ClzooError, match=r"no certificate.* --out '.*of none\.json'$"):
        evaluate(place / "model", place / "data", "knn", leaks=tmp_path / "of none.json")


def test_stores_of_different_encoders_are_refused(place, tmp_path):
    clzoo.embed_folder(place / "data/test", small_encoder(seed=1), out=tmp_path / "other")
    with pytest.raises(ClzooError, match="cannot be compared"):
        find_leaks(place / "train", tmp_path / "other")


def test_files_that_changed_since_they_were_embedded_are_refused(tmp_path):
    folder = make_patterns(tmp_path / "pictures", 8)
    encoder = small_encoder()
    for name in ("train", "test"):
        embed_folder(folder, encoder, tmp_path / name, progress=False)
    Image.new("RGB", (9, 9)).save(folder / "003.png")
    with pytest.raises(ClzooError, match=r"1 files of .*train are .* first is 003.png. Embed again: clzoo"):
        find_leaks(tmp_path / "train", tmp_path / "test", encoder=encoder)


def test_archives_that_were_written_anew_and_files_that_are_gone_are_refused(tmp_path):
    folder, encoder = make_patterns(tmp_path / "pictures", 8), small_encoder()
    for name in ("train", "test"):
        with tarfile.open(tmp_path / f"{name}.tar", "w") as archive:
            archive.add(folder, "pictures")
        embed_folder(tmp_path / f"{name}.tar", encoder, tmp_path / f"{name}-tar", progress=False)
    Image.new("RGB", (48, 48)).save(folder / "003.png")
    with tarfile.open(tmp_path / "test.tar", "w") as archive:
        archive.add(folder, "set.zip")  # a folder that is called like an archive
    with pytest.raises(ClzooError, match=r"8 files of .*test-tar are others than those that were embedded"):
        find_leaks(tmp_path / "train-tar", tmp_path / "test-tar", encoder=encoder)
    for name in ("train", "test"):
        embed_folder(folder, encoder, tmp_path / name, progress=False)
    (folder / "005.png").unlink()
    with pytest.raises(ClzooError, match=r"1 files of .*train are no longer among those .* the first is 005.png"):
        find_leaks(tmp_path / "train", tmp_path / "test", encoder=encoder)


def test_a_certificate_of_packs_fits_them(place, tmp_path):
    main(["pack", str(place / "data"), "--out", str(tmp_path / "packs"), "--size", "40", "--quiet"])
    for split in ("train", "test"):
        embed_folder(tmp_path / "packs" / split, place / "model", out=tmp_path / split, progress=False)
    path = find_leaks(tmp_path / "train", tmp_path / "test", threshold=0.99999).save(tmp_path / "leaks.json")
    metrics = evaluate(place / "model", tmp_path / "packs", "knn", leaks=path, cache_dir=tmp_path / "cache").metrics
    assert metrics["details"]["leaks"]["removed"] == 2


def test_relations_go_without_a_class_that_is_leaked_as_a_whole(tmp_path, caplog):
    data = make_splits(tmp_path / "data", classes=("ant", "bee", "cow", "dog", "eel", "fox"))
    for path in (data / "test" / "ant").iterdir():
        shutil.copy(path, data / "train" / "ant" / f"leaked-{path.name}")
    encoder = small_encoder()
    for split in ("train", "test"):
        embed_folder(data / split, encoder, tmp_path / split, progress=False)
    leaks = find_leaks(tmp_path / "train", tmp_path / "test", threshold=1, encoder=encoder)
    certificate = leaks.save(tmp_path / "certificate.json")
    rows = evaluate(encoder, data, "knn,relations", leaks=certificate, cache_dir=tmp_path / "cache").metrics["results"]
    protocols = [row["protocol"].partition(":")[0] for row in rows if row["split"] == WITHOUT]
    assert set(protocols) == {"knn"}
    assert "without them a class has none left" in caplog.text
