import json
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from picture_folders import encoded, make_folder, make_shard, noise, picture
from PIL import Image

from clzoo.cli import cli
from clzoo.data.packing import pack
from clzoo.data.training import open_training_set
from clzoo.errors import ClzooError
from clzoo.files import filled_folder
from clzoo.images import DECODING


@pytest.fixture
def folder(tmp_path):
    return make_folder(tmp_path / "pictures", {"ant": 3, "bee": 2})


def clzoo(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments], catch_exceptions=False)


def test_a_pack_is_the_resident_set_on_disk(folder, tmp_path):
    direct = open_training_set("mine", folder, 16)
    (summary,) = pack(folder, 16, tmp_path / "packed")
    packed = open_training_set("mine", tmp_path / "packed", 16)
    assert np.array_equal(packed.pixels, direct.pixels)
    assert not isinstance(packed.pixels, np.memmap)  # in memory: the loop moves it to the device
    assert packed.labels.tolist() == direct.labels.tolist()
    assert packed.classes == direct.classes == tuple(summary["classes"])


def test_the_files_are_plain_numpy_parquet_and_json(folder, tmp_path):
    (summary,) = pack(folder, 16, tmp_path / "packed")
    pixels = np.load(tmp_path / "packed" / "pixels.npy", mmap_mode="r")
    assert (pixels.shape, pixels.dtype) == ((5, 16, 16, 3), np.uint8)
    items = pq.read_table(tmp_path / "packed" / "items.parquet").to_pydict()
    assert items == {
        "path": ["ant/00.png", "ant/01.png", "ant/02.png", "bee/00.png", "bee/01.png"],
        "label": [0, 0, 0, 1, 1],
    }
    stored = json.loads((tmp_path / "packed" / "pack.json").read_text())
    assert {**stored, "folder": str(tmp_path / "packed")} == summary
    assert stored["source"]["images"] == 5


def test_a_pack_of_other_rules_of_the_decoder_is_named(folder, tmp_path, caplog):
    (summary,) = pack(folder, 16, tmp_path / "packed")
    assert summary["decoding"] == DECODING
    open_training_set("mine", tmp_path / "packed", 16)
    assert "decoder's rules" not in caplog.text
    path = tmp_path / "packed" / "pack.json"
    path.write_text(json.dumps({key: value for key, value in summary.items() if key not in ("decoding", "folder")}))
    open_training_set("mine", tmp_path / "packed", 16)
    assert "another version of the decoder's rules" in caplog.text
    assert f"clzoo pack SRC --size 16 --out {tmp_path / 'packed'}" in caplog.text


def test_a_pack_above_the_budget_is_mapped_and_streamed(folder, tmp_path):
    pack(folder, 16, tmp_path / "packed")
    streamed = open_training_set("mine", tmp_path / "packed", 16, budget=0)
    assert streamed.pixels is None
    assert isinstance(streamed.images.pixels, np.memmap)
    resident = open_training_set("mine", tmp_path / "packed", 16)
    for sample in range(5):
        assert np.array_equal(np.asarray(streamed.image(sample)), resident.pixels[sample])


def test_the_fingerprint_of_a_mapped_pack_tells_other_pixels_without_reading_them(folder, tmp_path):
    pack(folder, 16, tmp_path / "one")
    pack(folder, 16, tmp_path / "same")
    Image.new("RGB", (40, 30), (1, 2, 3)).save(folder / "ant" / "00.png")
    pack(folder, 16, tmp_path / "other")
    one, same, other = (
        open_training_set("mine", tmp_path / name, 16, budget=0).fingerprint() for name in ("one", "same", "other")
    )
    assert one == same != other


def test_a_pack_tells_which_images_it_was_made_of(tmp_path):
    found = {}
    for name, seed in (("one", 0), ("copy", 0), ("other", 1)):
        (tmp_path / name / "c").mkdir(parents=True)
        Image.fromarray(noise(1, 16, seed)[0]).save(tmp_path / name / "c" / "1.bmp")
        os.utime(tmp_path / name / "c" / "1.bmp", (1, 1))
        (summary,) = pack(tmp_path / name, 16, tmp_path / f"{name}-packed")
        found[name] = summary["source"]["sha256"]
    assert found["one"] == found["copy"] != found["other"]


def test_subsets_of_a_pack_are_those_of_its_source(tmp_path):
    folder = make_folder(tmp_path / "pictures", {"ant": 20, "bee": 20}, width=8, height=8)
    pack(folder, 8, tmp_path / "packed")
    for budget in (0, 1 << 30):
        direct, packed = (
            open_training_set("mine", path, 8, subset="longtail-10", budget=budget)
            for path in (folder, tmp_path / "packed")
        )
        assert packed.rows.tolist() == direct.rows.tolist()
        assert [packed.image(n).tobytes() for n in range(22)] == [direct.image(n).tobytes() for n in range(22)]


def test_each_split_becomes_a_pack(tmp_path):
    make_folder(tmp_path / "src" / "train", {"ant": 3, "bee": 2})
    make_folder(tmp_path / "src" / "val", {"ant": 1, "bee": 1})
    made = pack(tmp_path / "src", 16, tmp_path / "packed")
    assert [(summary["folder"], summary["images"]) for summary in made] == [
        (str(tmp_path / "packed" / "train"), 5),
        (str(tmp_path / "packed" / "test"), 2),
    ]
    assert len(open_training_set("mine", tmp_path / "packed", 16)) == 5
    assert len(open_training_set("mine", tmp_path / "packed", 16, split="test")) == 2


def test_shards_of_two_splits_become_two_packs(tmp_path):
    for split, count in (("train", 4), ("val", 2)):
        members = {f"{n}.png": encoded(picture(0, n)) for n in range(count)}
        make_shard(tmp_path / "src" / f"toy-{split}-0.tar", members)
    made = pack(tmp_path / "src", 16, tmp_path / "packed")
    assert [summary["images"] for summary in made] == [4, 2]


def test_images_without_labels_are_packed_without(tmp_path):
    (tmp_path / "flat").mkdir()
    picture(0, 0).save(tmp_path / "flat" / "x.png")
    pack(tmp_path / "flat", 16, tmp_path / "packed")
    assert open_training_set("mine", tmp_path / "packed", 16).labels is None


def test_unreadable_files_are_left_out_named_and_counted(folder, tmp_path):
    (folder / "ant" / "01.png").write_bytes(b"broken")
    (folder / "bee" / "01.png").write_bytes(b"")
    result = clzoo("pack", folder, "--size", 16, "--out", tmp_path / "packed")
    assert result.exit_code == 0, result.stderr
    assert "3 images of 16 px" in result.stdout
    assert "2 left out" in result.stdout
    assert "skipped ant/01.png: not an image" in result.stderr
    opened = open_training_set("mine", tmp_path / "packed", 16)
    assert opened.labels.tolist() == [0, 0, 1]
    assert opened.skipped == (
        "ant/01.png: not an image that Pillow can read",
        "bee/01.png: empty file (zero bytes)",
    )


def test_the_command_prints_its_counts_as_json(folder, tmp_path):
    result = clzoo("pack", folder, "--size", 16, "--out", tmp_path / "packed", "--json")
    assert result.exit_code == 0, result.stderr
    assert [made["images"] for made in json.loads(result.stdout)] == [5]


def test_a_place_that_is_taken_is_not_overwritten(folder, tmp_path):
    pack(folder, 16, tmp_path / "packed")
    with pytest.raises(ClzooError, match="exists already"):
        pack(folder, 8, tmp_path / "packed")
    assert open_training_set("mine", tmp_path / "packed", 16).pixels.shape == (5, 16, 16, 3)


def test_packing_a_pack_or_torchvisions_arrays_is_refused(folder, tmp_path):
    pack(folder, 16, tmp_path / "packed")
    with pytest.raises(ClzooError, match="is a pack already"):
        pack(tmp_path / "packed", 16, tmp_path / "again")
    (tmp_path / "root" / "cifar-10-batches-py").mkdir(parents=True)
    with pytest.raises(ClzooError, match="holds cifar10, which is small arrays already"):
        pack(tmp_path / "root", 32, tmp_path / "again")


def test_too_little_room_is_found_before_anything_is_decoded(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=100))
    with pytest.raises(ClzooError, match=r"5 images of 16 px take .* GiB, but .* has .* GiB free"):
        pack(folder, 16, tmp_path / "packed")
    assert not (tmp_path / "packed").exists()


def test_a_disk_that_fills_up_is_an_error_that_leaves_nothing(folder, tmp_path):
    resource = pytest.importorskip("resource", reason="limits on file sizes exist on POSIX alone")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(ClzooError, match=r"packed cannot be written: File too large\. Nothing is left"):
            pack(folder, 256, tmp_path / "packed")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in tmp_path.iterdir()] == ["pictures"]


def test_nothing_readable_leaves_nothing_behind(tmp_path):
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "a.png").write_bytes(b"")
    with pytest.raises(ClzooError, match=r"none of the images .* a\.png: empty file"):
        pack(tmp_path / "src", 16, tmp_path / "packed")
    assert [path.name for path in tmp_path.iterdir()] == ["src"]


@pytest.mark.slow
def test_a_killed_run_leaves_no_pack_and_the_next_one_tidies_up(tmp_path):
    folder = tmp_path / "src"
    folder.mkdir()
    for number, pixels in enumerate(noise(60, 300, seed=0)):
        Image.fromarray(pixels).save(folder / f"{number:02}.jpg", quality=95)
    out = tmp_path / "packed"
    command = [sys.executable, "-m", "clzoo", "pack", str(folder), "--size", "2000", "--out", str(out)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not any(tmp_path.glob(".tmp-*/content/.tmp-*/pixels.npy")) and time.monotonic() < deadline:
        time.sleep(0.005)
    assert process.poll() is None, "it was done before it could be killed"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert list(tmp_path.glob(".tmp-*"))
    assert not out.exists()
    pack(folder, 16, out)
    assert len(open_training_set("mine", out, 16)) == 60
    assert sorted(path.name for path in tmp_path.iterdir()) == ["packed", "src"]


def test_two_runs_cannot_write_one_pack(folder, tmp_path):
    with filled_folder(tmp_path / "packed"), pytest.raises(ClzooError, match="is being written by another clzoo pack"):
        pack(folder, 16, tmp_path / "packed")


@pytest.mark.parametrize("damage", ["truncate", "shape", "format", "missing"])
def test_a_damaged_pack_is_refused_with_the_command_that_makes_it_again(folder, tmp_path, damage):
    out = tmp_path / "packed"
    pack(folder, 16, out)
    if damage == "truncate":
        (out / "pixels.npy").write_bytes((out / "pixels.npy").read_bytes()[:-100])
    elif damage == "shape":
        np.save(out / "pixels.npy", np.zeros((4, 16, 16, 3), np.uint8))
    elif damage == "missing":
        (out / "items.parquet").unlink()
    else:
        stored = json.loads((out / "pack.json").read_text())
        (out / "pack.json").write_text(json.dumps({**stored, "format": 2}))
    with pytest.raises(ClzooError, match=rf"packed.*clzoo pack SRC --size 16 --out {out}"):
        open_training_set("mine", out, 16)
