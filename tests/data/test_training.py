import json
import logging

import numpy as np
import pytest
from picture_folders import encoded, make_folder, make_shard, noise, picture
from PIL import Image

from clzoo.data.training import open_training_set
from clzoo.errors import ClzooError


@pytest.fixture
def folder(tmp_path):
    return make_folder(tmp_path / "pictures", {"ant": 3, "bee": 3})


def colours(opened) -> list[tuple[int, ...]]:
    """The middle pixel of every sample, as the loop would get it."""
    return [opened.image(sample).resize((1, 1)).getpixel((0, 0)) for sample in range(len(opened))]


def expected(*counts: int) -> list[tuple[int, ...]]:
    return [picture(label, n).getpixel((0, 0)) for label, count in enumerate(counts) for n in range(count)]


# Folders


def test_a_folder_is_read_in_the_order_of_its_paths_with_its_classes(folder):
    opened = open_training_set("mine", folder, 16)
    assert opened.pixels.shape == (6, 16, 16, 3)
    assert opened.classes == ("ant", "bee")
    assert opened.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert opened.labels.dtype == np.int64
    assert colours(opened) == expected(3, 3)


def test_a_set_above_the_budget_streams_the_same_images(folder):
    streamed = open_training_set("mine", folder, 16, budget=6 * 16 * 16 * 3 - 1)
    assert streamed.pixels is None
    assert streamed.image(0).size == (40, 30)  # as it is on disk: crops are cut from the whole picture
    assert colours(streamed) == expected(3, 3)
    assert open_training_set("mine", folder, 16, budget=6 * 16 * 16 * 3).pixels is not None


def test_images_of_the_right_size_are_not_touched(tmp_path):
    pixels = noise(1, 32, seed=0)[0]
    (tmp_path / "c").mkdir()
    Image.fromarray(pixels).save(tmp_path / "c" / "x.png")
    assert np.array_equal(open_training_set("mine", tmp_path, 32).pixels[0], pixels)


def test_the_split_is_a_sub_folder_and_never_mixed_with_another(tmp_path):
    make_folder(tmp_path / "train", {"ant": 3, "bee": 2})
    make_folder(tmp_path / "val", {"ant": 1, "bee": 1})
    assert len(open_training_set("mine", tmp_path, 16)) == 5
    assert len(open_training_set("mine", tmp_path, 16, split="test")) == 2
    with pytest.raises(ClzooError, match=r"has no splits.*for the test split"):
        open_training_set("mine", tmp_path / "train", 16, split="test")
    (tmp_path / "train").rename(tmp_path.with_name(f"{tmp_path.name}-elsewhere"))
    with pytest.raises(ClzooError, match="has the split val, but not train"):
        open_training_set("mine", tmp_path, 16)


def test_a_flat_folder_has_no_labels(tmp_path):
    for number in range(3):
        picture(0, number).save(tmp_path / f"{number}.jpg")
    opened = open_training_set("mine", tmp_path, 16)
    assert len(opened) == 3
    assert opened.labels is None
    assert opened.classes == ()
    with pytest.raises(ClzooError, match=r"Hydra needs labels.*has none.*<class>/<image>\.jpg"):
        opened.require_labels("Hydra")


def test_images_outside_of_class_folders_cost_the_labels_and_are_named(folder, caplog):
    picture(0, 0).save(folder / "stray.png")
    with caplog.at_level(logging.WARNING, "clzoo"):
        opened = open_training_set("mine", folder, 16)
    assert len(opened) == 7
    assert opened.labels is None
    assert "1 of 7 images lie outside of class folders" in caplog.text
    assert "stray.png" in caplog.text


def test_an_empty_class_folder_keeps_its_number_and_is_named(folder, caplog):
    (folder / "antlion").mkdir()
    with caplog.at_level(logging.WARNING, "clzoo"):
        opened = open_training_set("mine", folder, 16)
    assert opened.classes == ("ant", "antlion", "bee")
    assert opened.labels.tolist() == [0, 0, 0, 2, 2, 2]
    assert "1 of 3 class folders hold no images: antlion" in caplog.text


def test_folders_beside_a_list_of_paths_are_no_classes(folder):
    (folder / "list.txt").write_text("ant/00.png\nbee/00.png\nbee/01.png\n")
    before = open_training_set("mine", folder / "list.txt", 16)
    (folder / "runs").mkdir()  # where clzoo pretrain writes unless it is told otherwise
    after = open_training_set("mine", folder / "list.txt", 16)
    assert before.classes == after.classes == ("ant", "bee")
    assert before.fingerprint() == after.fingerprint()


def test_what_clzoo_writes_among_the_images_is_neither_a_class_nor_an_image(folder, caplog):
    before = open_training_set("mine", folder, 16)
    (folder / "runs").mkdir()
    assert open_training_set("mine", folder, 16).classes == (
        "ant",
        "bee",
    )  # no class for a while
    (folder / "runs" / "mine").mkdir()
    for name in ("recipe.yaml", "data.json", "state.json"):
        (folder / "runs" / "mine" / name).touch()
    picture(0, 0).save(folder / "runs" / "mine" / "curves.png")
    (folder / "store").mkdir()
    for name in ("manifest.json", "errors.parquet"):
        (folder / "store" / name).touch()
    (folder / "projector").mkdir()
    for name in ("projector_config.pbtxt", "tensors.tsv"):
        (folder / "projector" / name).touch()
    picture(0, 0).save(folder / "projector" / "sprite.png")
    with caplog.at_level(logging.INFO, "clzoo"):
        after = open_training_set("mine", folder, 16)
    assert before.classes == after.classes == ("ant", "bee")
    assert before.fingerprint() == after.fingerprint()
    assert "passed over 3 folders that clzoo made" in caplog.text


def test_a_folder_of_ones_own_that_is_called_so_is_searched(folder):
    for name in ("recipe.yaml", "data.json"):  # of a kitchen
        (folder / "ant" / name).touch()
    assert len(open_training_set("mine", folder, 16)) == 6


def test_one_class_is_an_error_only_where_labels_are_needed(tmp_path):
    opened = open_training_set("mine", make_folder(tmp_path / "one", {"ant": 2}), 16)
    assert len(opened) == 2
    with pytest.raises(ClzooError, match=r"SupCon needs at least two classes.*class ant"):
        opened.require_labels("SupCon")


def test_labels_that_suffice_are_handed_out(folder):
    assert open_training_set("mine", folder, 16).require_labels("SupCon").tolist() == [0, 0, 0, 1, 1, 1]


def test_missing_and_empty_folders_are_errors_that_say_what_is_expected(tmp_path):
    with pytest.raises(ClzooError, match=r"not a folder or file.*<class>/<image>\.jpg"):
        open_training_set("mine", tmp_path / "nothing", 32)
    with pytest.raises(ClzooError, match="holds no images: found nothing"):
        open_training_set("mine", tmp_path, 32)
    with pytest.raises(ClzooError, match=r"no data were named for mine.*--data DIR"):
        open_training_set("mine", None, 32)


# Unreadable files


def test_a_resident_set_leaves_a_damaged_file_out_and_names_it(folder, caplog):
    (folder / "ant" / "01.png").write_bytes(b"\x89PNG broken")
    with caplog.at_level(logging.WARNING, "clzoo"):
        opened = open_training_set("mine", folder, 16)
    assert opened.labels.tolist() == [0, 0, 1, 1, 1]
    assert colours(opened) == [c for n, c in enumerate(expected(3, 3)) if n != 1]
    assert len(opened.skipped) == 1
    assert opened.skipped[0].startswith("ant/01.png: ")
    assert "ant/01.png" in caplog.text
    assert "1 of 6 images cannot be decoded" in caplog.text
    assert opened.fingerprint()["skipped"] == 1


def test_a_streamed_set_takes_the_next_image_of_the_class_for_a_damaged_one(folder, caplog):
    (folder / "ant" / "02.png").write_bytes(b"")  # the next path is bee/00.png: another class
    streamed = open_training_set("mine", folder, 16, budget=0)
    before = streamed.fingerprint()
    with caplog.at_level(logging.WARNING, "clzoo"):
        found = colours(streamed) + colours(streamed)
    good = expected(3, 3)
    good[2] = good[0]
    assert found == good + good
    assert list(streamed.unreadable) == [2]
    assert streamed.skipped == ("ant/02.png: empty file (zero bytes)",)
    assert caplog.text.count("ant/02.png") == 1  # named once, however often it is met
    assert streamed.fingerprint() == before  # so that a run can be resumed


def test_which_image_stands_in_does_not_depend_on_who_was_met_first(folder):
    for name in ("00", "01"):
        (folder / "bee" / f"{name}.png").write_bytes(b"no image")
    one, two = (open_training_set("mine", folder, 16, budget=0) for _ in range(2))
    forwards = {sample: one.image(sample).tobytes() for sample in range(6)}
    backwards = {sample: two.image(sample).tobytes() for sample in reversed(range(6))}
    assert forwards == backwards
    assert forwards[3] == forwards[4] == forwards[5]
    assert sorted(one.unreadable) == sorted(two.unreadable) == [3, 4]


def test_a_class_without_any_readable_image_is_an_error(folder):
    for path in (folder / "bee").iterdir():
        path.write_bytes(b"no image")
    streamed = open_training_set("mine", folder, 16, budget=0)
    with pytest.raises(ClzooError, match=r"no image of the class bee can be decoded, the first: bee/01\.png"):
        streamed.image(4)


def test_a_set_without_any_readable_image_is_an_error(tmp_path):
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "a.jpg").write_bytes(b"")
    with pytest.raises(ClzooError, match=r"none of the 1 images.*c/a\.jpg: empty file"):
        open_training_set("mine", tmp_path, 16)


# Fingerprints


@pytest.mark.parametrize("budget", [0, 1 << 30])
def test_the_fingerprint_belongs_to_the_images_and_not_to_their_place(folder, tmp_path, budget):
    found = open_training_set("mine", folder, 16, budget=budget).fingerprint()
    assert found == open_training_set("mine", folder, 16, budget=budget).fingerprint()
    assert json.loads(json.dumps(found)) == found
    moved = folder.rename(tmp_path / "moved")
    assert open_training_set("mine", moved, 16, budget=budget).fingerprint() == found
    Image.new("RGB", (41, 30), (9, 9, 9)).save(moved / "ant" / "00.png", compress_level=0)
    assert open_training_set("mine", moved, 16, budget=budget).fingerprint()["sha256"] != found["sha256"]


@pytest.mark.parametrize("budget", [0, 1 << 30])
def test_the_fingerprint_tells_other_labels(tmp_path, budget):
    one = make_folder(tmp_path / "one", {"ant": 2, "bee": 2})
    labelled = open_training_set("mine", one, 16, budget=budget)
    other = open_training_set("mine", one, 16, budget=budget)
    other.labels = other.labels[::-1].copy()
    assert labelled.fingerprint()["sha256"] != other.fingerprint()["sha256"]


# Tar shards


def sample_members(numbers, kind="PNG"):
    """webdataset's layout: key.png and key.cls."""
    for n in numbers:
        yield f"{n:04}.{kind.lower()}", encoded(picture(n % 2, n // 2), kind)
        yield f"{n:04}.cls", str(n % 2).encode()


@pytest.fixture
def shards(tmp_path):
    root = tmp_path / "shards"
    make_shard(root / "toy-train-0000.tar", dict(sample_members(range(4))))
    make_shard(root / "toy-train-0001.tar", dict(sample_members(range(4, 8))))
    make_shard(root / "toy-val-0000.tar", dict(sample_members(range(8, 10))))
    return root


@pytest.mark.parametrize("budget", [0, 1 << 30])
def test_shards_are_read_at_random_with_the_class_numbers_beside_the_images(shards, budget):
    opened = open_training_set("mine", shards, 16, budget=budget)
    assert opened.labels.tolist() == [0, 1] * 4
    assert opened.classes == ("0", "1")
    order = [5, 0, 7, 3, 3]
    found = [opened.image(n).resize((1, 1)).getpixel((0, 0)) for n in order]
    assert found == [picture(n % 2, n // 2).getpixel((0, 0)) for n in order]


def test_shards_of_another_split_are_left_alone(shards):
    assert len(open_training_set("mine", shards, 16)) == 8
    assert len(open_training_set("mine", shards, 16, split="test")) == 2
    (shards / "toy-val-0000.tar").unlink()
    with pytest.raises(ClzooError, match=r"has shards of train; for the test split"):
        open_training_set("mine", shards, 16, split="test")


def test_one_shard_may_be_named_itself(shards):
    assert len(open_training_set("mine", shards / "toy-train-0001.tar", 16)) == 4


def test_shards_with_class_folders_inside_are_labelled_by_them(tmp_path):
    members = {f"{name}/{n}.png": encoded(picture(0, n)) for n in range(2) for name in ("ant", "bee")}
    opened = open_training_set("mine", make_shard(tmp_path / "x.tar", members), 16)
    assert opened.classes == ("ant", "bee")
    assert opened.labels.tolist() == [0, 0, 1, 1]


def test_a_missing_class_file_costs_the_labels_and_is_named(tmp_path, caplog):
    members = dict(sample_members(range(4)))
    del members["0002.cls"]
    with caplog.at_level(logging.WARNING, "clzoo"):
        opened = open_training_set("mine", make_shard(tmp_path / "x.tar", members), 16)
    assert opened.labels is None
    assert "1 of 4 images have no .cls" in caplog.text
    assert "0002.png" in caplog.text


@pytest.mark.parametrize("text", [b"cat", b"-1", b"", b"99999999", b"1.5"])
def test_a_damaged_class_file_is_an_error_that_names_it(tmp_path, text):
    members = {**dict(sample_members(range(4))), "0001.cls": text}
    with pytest.raises(ClzooError, match=r"x\.tar/0001\.cls holds .*expected a class number"):
        open_training_set("mine", make_shard(tmp_path / "x.tar", members), 16)


def test_a_damaged_member_of_a_shard_is_skipped_by_name(tmp_path):
    members = {**dict(sample_members(range(6))), "0002.png": b"broken"}
    streamed = open_training_set("mine", make_shard(tmp_path / "x.tar", members), 16, budget=0)
    assert streamed.image(2).tobytes() == streamed.image(4).tobytes()
    assert streamed.skipped == ("x.tar/0002.png: not an image that Pillow can read",)


def test_a_truncated_shard_is_named_and_the_rest_is_used(shards, caplog):
    damaged = shards / "toy-train-0001.tar"
    damaged.write_bytes(damaged.read_bytes()[:1100])
    with caplog.at_level(logging.WARNING, "clzoo"):
        opened = open_training_set("mine", shards, 16)
    assert "toy-train-0001.tar" in caplog.text
    assert any("toy-train-0001.tar" in reason for reason in opened.skipped)
    assert len(opened) >= 4


# Subsets


def test_a_subset_keeps_the_images_of_its_rule_and_nothing_else(tmp_path):
    folder = make_folder(tmp_path / "pictures", {"ant": 20, "bee": 20}, width=8, height=8)
    whole = open_training_set("mine", folder, 8)
    subset = open_training_set("mine", folder, 8, subset="longtail-10")
    assert np.bincount(subset.labels).tolist() == [20, 2]
    first = np.arange(20)
    np.random.RandomState(2021).shuffle(first)
    assert subset.rows.tolist() == [*range(20), *sorted(20 + first[:2])]
    assert np.array_equal(subset.pixels, whole.pixels[subset.rows])
    assert subset.classes == whole.classes
    assert subset.fingerprint() != whole.fingerprint()


def test_an_unreadable_file_does_not_change_which_images_a_subset_keeps(tmp_path):
    folder = make_folder(tmp_path / "pictures", {"ant": 20, "bee": 20}, width=8, height=8)
    kept = open_training_set("mine", folder, 8, subset="linear").rows
    (folder / "ant" / "19.png").write_bytes(b"")
    again = open_training_set("mine", folder, 8, subset="linear").rows
    assert set(again) == set(kept) - {19}


def test_a_subset_needs_labels_and_is_for_pretraining_alone(tmp_path, folder):
    picture(0, 0).save(tmp_path / "x.png")
    flat = tmp_path / "flat"
    flat.mkdir()
    (tmp_path / "x.png").rename(flat / "x.png")
    with pytest.raises(ClzooError, match=r"data\.subset=linear needs labels"):
        open_training_set("mine", flat, 16, subset="linear")
    with pytest.raises(ClzooError, match="for the images of pretraining"):
        open_training_set("mine", folder, 16, split="train", subset="linear")
    with pytest.raises(ClzooError, match="expected linear, exponential, or longtail-R"):
        open_training_set("mine", folder, 16, subset="logarithmic")
