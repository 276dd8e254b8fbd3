"""Duplicates: what is one is found and named, with the one to keep; nothing is changed."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from patterns import content_of, make_patterns, pattern
from picture_folders import encoded, make_shard
from PIL import Image

import clzoo
from clzoo import ClzooError, find_duplicates, open_store
from clzoo.cli import main
from clzoo.curation.calibration import plant
from clzoo.curation.duplicates import BYTES, NEAR, PIXELS
from clzoo.curation.grouping import Preference, keep_and_remove
from clzoo.curation.pictures import Pictures, on_disk
from clzoo.curation.planting import KINDS
from clzoo.data import sources


@pytest.fixture(scope="module")
def found(planted, encoder):
    return find_duplicates(planted / "store", encoder=encoder, false_flags=0.01)


def test_every_planted_copy_is_found_and_named_and_nothing_else(found):
    groups = [{Path(m.path).stem: m.kind for m in group if not m.is_kept} for group in found.groups]
    kept = [[Path(m.path).stem for m in group if m.is_kept] for group in found.groups]
    assert kept == [["000"], ["b_same_pixels"], ["002"]]  # a BMP of the same pixels has more bytes
    assert groups == [{"a_same_file": BYTES}, {"001": PIXELS}, {"c_cut": NEAR}]


def test_reasons_say_why_the_other_is_kept(found):
    reasons = {Path(member.path).stem: member.reason for member in found.removable}
    assert reasons["001"] == "the other: more bytes"
    assert reasons["c_cut"] == "the other: more pixels"


@pytest.mark.parametrize(("keep", "kept"), [("oldest", "c_cut"), ("first", "002")])
def test_another_rule_keeps_another(planted, encoder, keep, kept):
    found = find_duplicates(planted / "store", encoder=encoder, false_flags=0.01, keep=keep)
    assert Path(found.groups[2][0].path).stem == kept


def test_the_report_says_which_kinds_are_seen(found):
    kinds = {kind.name: kind for kind in found.calibration.kinds}
    assert kinds["PNG"].found == 1
    assert kinds["cut to 90 % of each side"].found >= 0.9
    assert kinds["a quarter of the size"].found == 0
    assert all(kind.planted == found.calibration.planted_images for kind in kinds.values())
    text = "\n".join(found.summary())
    assert "a quarter of the size (" in text
    assert "mostly not seen" in text


def test_nothing_is_changed(planted, tmp_path, capsys):
    before = content_of(planted)
    main(["curate", "duplicates", str(planted / "store"), "--html", str(tmp_path / "page.html"), "--json", "--quiet"])
    assert content_of(planted) == before
    out = json.loads(capsys.readouterr().out)
    assert out["images"] == 63
    assert [sum(member["keep"] for member in group) for group in out["groups"]] == [1, 1, 1]
    page = (tmp_path / "page.html").read_text()
    assert page.count("<img") == 6
    assert "default-src 'none'" in page
    assert "<script" not in page


def test_pictures_that_moved_are_asked_for_and_taken_from_their_new_place(planted, tmp_path, encoder):
    store = shutil.copytree(planted / "store", tmp_path / "store")
    manifest = json.loads((store / "manifest.json").read_text())
    (store / "manifest.json").write_text(json.dumps({**manifest, "root": str(tmp_path / "gone")}))
    with pytest.raises(ClzooError, match="--images DIR"):
        find_duplicates(store, encoder=encoder)
    found = find_duplicates(open_store(store, images=planted / "pictures"), encoder=encoder, false_flags=0.01)
    assert len(found.groups) == 3


def test_one_image_and_none_and_nothing_but_copies(tmp_path, encoder):
    one = make_patterns(tmp_path / "one", 1)
    clzoo.embed_folder(one, encoder, out=tmp_path / "store1")
    assert find_duplicates(tmp_path / "store1", encoder=encoder).groups == []

    for number in range(5):
        shutil.copy(one / "000.png", one / f"copy{number}.png")
    clzoo.embed_folder(one, encoder, out=tmp_path / "store6")
    found = find_duplicates(tmp_path / "store6", encoder=encoder)
    assert [len(group) for group in found.groups] == [6]
    assert found.count(BYTES) == 5
    assert "too few images" in found.calibration.rule

    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "broken.png").write_bytes(b"no picture")
    with pytest.raises(ClzooError, match="none of the 1 images"):
        clzoo.embed_folder(tmp_path / "none", encoder, out=tmp_path / "store0")
    with pytest.raises(ClzooError, match="is empty"):
        find_duplicates(tmp_path / "store0", encoder=encoder)


def test_a_cut_of_every_picture_is_found(tmp_path, encoder):
    folder = make_patterns(tmp_path / "twice", 60)
    for path in sorted(folder.glob("*.png")):
        with Image.open(path) as image:
            image.crop((2, 2, 46, 46)).save(path.with_suffix(".bmp"))
    clzoo.embed_folder(folder, encoder, out=tmp_path / "store")
    found = find_duplicates(tmp_path / "store", encoder=encoder, false_flags=0.05)
    assert [{Path(member.path).stem for member in group} for group in found.groups] == [{f"{n:03}"} for n in range(60)]


def test_vectors_that_are_not_finite_and_another_encoder_are_refused(planted, tmp_path):
    from small_models import small_encoder

    with pytest.raises(ClzooError, match="Use the model that made it"):
        find_duplicates(planted / "store", encoder=small_encoder())
    store = shutil.copytree(planted / "store", tmp_path / "store")
    vectors = store / open_store(store).manifest.segments[0].embeddings
    broken = np.load(vectors)
    broken[3, 5] = np.nan
    np.save(vectors, broken)
    with pytest.raises(ClzooError, match="not finite"):
        find_duplicates(store)


def test_a_large_collection_goes_through_the_index_and_the_report_says_so(planted, encoder, found, monkeypatch):
    pytest.importorskip("faiss")
    assert found.calibration.recall is None
    monkeypatch.setattr("clzoo.curation.indexed_pairs.EXACT", 100)
    indexed = find_duplicates(planted / "store", encoder=encoder, false_flags=0.01)
    assert indexed.groups == found.groups
    assert indexed.as_json()["calibration"]["recall"] == 1
    assert "through an index, which found 100.0% of a sample" in "\n".join(indexed.summary())


def test_a_few_pictures_are_in_memory_at_a_time(planted, encoder, monkeypatch):
    sizes = []
    real = type(encoder).embed
    monkeypatch.setattr(type(encoder), "embed", lambda self, images: sizes.append(len(images)) or real(self, images))
    store = open_store(planted / "store")
    shown, vectors = plant(Pictures(store), np.arange(20), encoder)
    assert shown.tolist() == list(range(20))
    assert {kind: len(copies) for kind, copies in vectors.items()} == dict.fromkeys(KINDS, 20)
    assert max(sizes) < 10
    assert sum(sizes) == 20 * len(KINDS)


def test_a_picture_with_a_side_that_jpeg_cannot_hold_ends_nothing(tmp_path, encoder):
    folder = make_patterns(tmp_path / "pictures", 5)
    Image.new("RGB", (66_000, 20), "red").save(folder / "wide.png")
    clzoo.embed_folder(folder, encoder, out=tmp_path / "store")
    assert len(find_duplicates(tmp_path / "store", encoder=encoder).calibration.kinds) == len(KINDS)


def test_each_shard_is_opened_once(tmp_path, encoder, monkeypatch):
    members = {f"{number:03}.png": encoded(pattern(number)) for number in range(40)}
    members["copy.png"] = members["007.png"]
    make_shard(tmp_path / "images" / "one.tar", members)
    clzoo.embed_folder(tmp_path / "images", encoder, out=tmp_path / "store")
    opened = []
    read_headers = sources.read_headers
    monkeypatch.setattr(sources, "read_headers", lambda *a, **k: opened.append(1) or read_headers(*a, **k))
    found = find_duplicates(tmp_path / "store", encoder=encoder)
    assert [[member.path for member in group] for group in found.groups] == [["one.tar/007.png", "one.tar/copy.png"]]
    assert len(opened) == 1


def test_in_a_chain_nothing_goes_that_is_only_like_something_that_goes():
    neighbors = {0: [1], 1: [0, 2], 2: [1, 3], 3: [2]}
    kept, removed = keep_and_remove([0, 1, 2, 3], neighbors, key=lambda row: row)
    assert kept == [0, 2]
    assert removed == {1: 0, 3: 2}


def test_preferences_fall_back_in_order():
    large, old = Preference(100, 5, 9, "b"), Preference(50, 9, 1, "a")
    assert large.key("largest") < old.key("largest")
    assert old.key("oldest") < large.key("oldest")
    assert old.key("first") < large.key("first")
    assert large.reason(old, "largest") == "more pixels"
    assert old.reason(large, "oldest") == "older file"
    assert Preference(1, 1, 1, "a").reason(Preference(1, 1, 1, "b"), "largest") == "first by path"


@pytest.fixture
def copies(tmp_path, encoder):
    """Eight patterns, of two of which there is a copy; and the store."""
    folder = make_patterns(tmp_path / "pictures", 8)
    for name in ("000", "001"):
        shutil.copy(folder / f"{name}.png", folder / f"copy{name}.png")
    return folder, tmp_path / "store"


def listed(store, encoder, **options):
    found = find_duplicates(store, encoder=encoder, threshold=0.999, **options)
    return found, {Path(m.path).name: m.is_kept for group in found.groups for m in group}


@pytest.mark.skipif(os.name == "nt", reason="links")
def test_a_link_is_no_copy_of_the_file_that_it_leads_to(copies, encoder):
    folder, store = copies
    (folder / "aa.png").symlink_to(folder / "002.png")
    (folder.parent / "zz").mkdir()
    (folder / "linked").symlink_to(folder.parent / "zz")
    shutil.copy(folder / "003.png", folder.parent / "zz" / "003.png")  # one file more, by a way through a link
    (folder / "again").symlink_to(folder.parent / "zz")  # and the same by another
    clzoo.embed_folder(folder, encoder, store, progress=False)
    for keep in ("first", "largest", "oldest"):
        found, kept = listed(store, encoder, keep=keep)
        assert found.names == 2
        assert "aa.png" not in kept
        assert "002.png" not in kept
        assert len(found.removable) == 3  # both copies, and 003.png here or there
        assert "2 paths are links to the file of another path" in "\n".join(found.summary())


def test_files_that_changed_since_they_were_embedded_are_left_out_and_said(copies, encoder):
    folder, store = copies
    clzoo.embed_folder(folder, encoder, store, progress=False)
    (folder / "000.png").unlink()
    Image.new("RGB", (64, 64), "blue").save(folder / "copy001.png")
    for keep in ("first", "largest", "oldest"):
        found, kept = listed(store, encoder, keep=keep)
        assert found.changed == 1
        assert kept == {"copy000.png": True, "000.png": False}  # what cannot be read is never kept for what can
        assert "1 files are others than those that were embedded" in "\n".join(found.summary())
    (reason,) = (member.reason for member in found.removable)
    assert reason == "the other: can be read"


def test_a_threshold_of_one_finds_every_equal_picture(tmp_path, encoder):
    folder = make_patterns(tmp_path / "pictures", 30)
    clzoo.embed_folder(folder, encoder, tmp_path / "train", progress=False)
    again = tmp_path / "again"
    again.mkdir()
    for path in folder.iterdir():
        Image.open(path).save(again / f"{path.stem}.bmp")
    clzoo.embed_folder(again, encoder, tmp_path / "test", progress=False)
    assert len(clzoo.find_leaks(tmp_path / "train", tmp_path / "test", threshold=1, encoder=encoder).leaks) == 30


def test_what_a_program_held_is_no_file_whatever_lies_at_its_ids(tmp_path, encoder, monkeypatch):
    folder = make_patterns(tmp_path / "pictures", 3)
    monkeypatch.chdir(folder)
    held = {path.name: Image.open(path) for path in folder.iterdir()}
    clzoo.embed_folder(held, encoder, tmp_path / "held", progress=False)
    clzoo.embed_folder(folder, encoder, tmp_path / "files", progress=False)
    assert (on_disk(open_store(tmp_path / "held")) == -1).all()
    assert (on_disk(open_store(tmp_path / "files")) > 0).all()
