"""--share I/N and clzoo store merge: the shares together are the store of a single run, whatever was killed."""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from pictures import by_path, files_of, make_image, make_images
from small_models import small_encoder
from warm_python import WarmPython

from clzoo import ClzooError, Encoder, embed_folder, open_store
from clzoo.cli import main
from clzoo.data.sources import list_images
from clzoo.embed import Store, compact, merge_stores
from clzoo.embed.manifest import MANIFEST
from clzoo.embed.shares import Share, parse_share
from clzoo.embed.writer import LOCK


def embed_shares(source: Path, encoder: Encoder, out: Path, total: int, **options: object) -> list[Path]:
    """All shares, in an order that is not theirs."""
    shares = [Share(number, total) for number in range(total, 0, -1)]
    return [
        embed_folder(source, encoder, out, share=share, progress=False, **options).store  # type: ignore[arg-type]
        for share in shares
    ]


def assert_equal_stores(store: Store, single: Store) -> None:
    """Row for row: items, order, errors, settings; vectors within the rounding of fp16 (batches differ)."""
    assert store.items.equals(single.items)
    assert store.errors() == single.errors()
    assert store.complete
    (segment,) = store.manifest.segments
    assert files_of(store.path) == {MANIFEST, "errors.parquet", segment.embeddings, segment.items}
    ours = {"generation", "errors_generation", "segments", "merged"}
    for key, value in vars(single.manifest).items():
        assert key in ours or getattr(store.manifest, key) == value, key
    np.testing.assert_allclose(store.embeddings(), single.embeddings(), atol=1e-3)


@pytest.fixture
def mixed(images: Path) -> Path:
    """24 pictures, and six files that fail: in decoding and in listing."""
    for number in range(5):
        (images / "cats" / f"broken-{number}.jpg").write_bytes(b"x" * number)
    (images / "link.png").symlink_to(images / "nowhere.png")
    return images


@pytest.mark.parametrize("total", [1, 2, 3, 7, 40])  # with 40 many shares are empty
def test_merged_shares_equal_the_store_of_a_single_run_row_for_row(
    mixed: Path, encoder: Encoder, tmp_path: Path, total: int
) -> None:
    embed_folder(mixed, encoder, tmp_path / "single", labels=True, progress=False)
    folders = embed_shares(mixed, encoder, tmp_path / "store", total, labels=True)
    assert folders[0].name == f"store-shard-{total}-of-{total}"
    merged = merge_stores(tmp_path / "store", folders)
    assert_equal_stores(merged, open_store(tmp_path / "single"))
    assert merged.manifest.errors == 6


def test_shares_in_batches_of_one_merge_bit_for_bit(images: Path, encoder: Encoder, tmp_path: Path) -> None:
    """Batches of the same size: then a CPU computes each vector the same way, whichever process does."""
    options = {"batch_size": 1, "workers": 1, "store_dtype": "fp32"}
    embed_folder(images, encoder, tmp_path / "single", progress=False, **options)  # type: ignore[arg-type]
    merged = merge_stores(tmp_path / "store", embed_shares(images, encoder, tmp_path / "store", 3, **options))
    assert (merged.embeddings() == open_store(tmp_path / "single").embeddings()).all()


def test_shares_are_disjoint_and_stable_when_files_are_added(tmp_path: Path) -> None:
    images = make_images(tmp_path / "images", 200)

    def shares() -> list[set[str]]:
        listing = list_images(images)
        return [{item.path for item in Share(number, 4).of(listing).items} for number in (1, 2, 3, 4)]

    before = shares()
    assert sum(map(len, before)) == len(set.union(*before)) == 200
    assert min(map(len, before)) > 30
    make_images(tmp_path / "images" / "new", 50)
    after = shares()
    assert sum(map(len, after)) == 250
    for one, other in zip(before, after, strict=True):
        assert one < other


def test_a_share_has_its_own_ids_and_failures(mixed: Path) -> None:
    listing = list_images(mixed)
    shares = [Share(number, 3).of(listing) for number in (1, 2, 3)]
    for number, share in enumerate(shares):
        assert (share.ids % 3 == number).all()
        assert len(share.ids) == len(share.items)
    failures = sorted(failure for share in shares for failure in share.failures)
    assert failures == sorted(listing.failures)


@pytest.mark.parametrize("text", ["0/4", "5/4", "-1/4", "1/0", "1", "a/b", "1/4/2", "", "1/ 4", "\u0661/\u0664"])
def test_a_share_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(ClzooError, match="expected I/N"):
        parse_share(text)


def test_the_first_share_is_1_and_the_last_n() -> None:
    assert parse_share("1/4") == Share(1, 4)
    assert str(parse_share("4/4")) == "4/4"


# Merging --------------------------------------------------------------------------------------------------------------


def test_merging_again_changes_nothing_and_updated_shares_make_a_new_generation(
    images: Path, encoder: Encoder, tmp_path: Path
) -> None:
    folders = embed_shares(images, encoder, tmp_path / "store", 2)
    first = merge_stores(tmp_path / "store", folders)
    assert merge_stores(tmp_path / "store", folders[::-1]).generation == first.generation
    make_image(images / "cats" / "000.jpg", np.random.default_rng(5))
    (images / "dogs" / "001.png").unlink()
    (images / "broken.jpg").touch()
    embed_shares(images, encoder, tmp_path / "store", 2)
    second = merge_stores(tmp_path / "store", folders)
    assert second.generation > first.generation
    embed_folder(images, encoder, tmp_path / "single", progress=False)
    assert_equal_stores(second, open_store(tmp_path / "single"))


def test_a_merged_store_is_continued_by_a_plain_run(images: Path, encoder: Encoder, tmp_path: Path) -> None:
    merge_stores(tmp_path / "store", embed_shares(images, encoder, tmp_path / "store", 2))
    make_image(images / "new.png", np.random.default_rng(5))
    summary = embed_folder(images, encoder, tmp_path / "store", progress=False)
    assert (summary.embedded, summary.unchanged) == (1, 24)


def test_merging_reads_a_bounded_part_at_a_time(
    images: Path, encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = embed_shares(images, encoder, tmp_path / "store", 3)
    monkeypatch.setattr(compact, "_CHUNK", 5 * encoder.dim * 2)
    stores = [open_store(folder) for folder in folders]
    parts = list(compact.rows_in_order(stores))
    assert [len(part) for part in parts] == [5, 5, 5, 5, 4]
    expected = {path: vector for store in stores for path, vector in by_path(store).items()}
    assert (np.concatenate(parts) == np.stack([expected[path] for path in sorted(expected)])).all()


def test_what_does_not_make_a_whole_is_refused_and_named(images: Path, encoder: Encoder, tmp_path: Path) -> None:
    out = tmp_path / "store"
    first, second, third = sorted(embed_shares(images, encoder, out, 3))
    whole = embed_folder(images, encoder, tmp_path / "whole", progress=False).store
    of_two = embed_folder(images, encoder, out, share=Share(2, 2), progress=False).store
    shutil.copytree(first, tmp_path / "copy")
    unfinished = shutil.copytree(second, tmp_path / "unfinished")
    manifest = json.loads((unfinished / MANIFEST).read_text())
    (unfinished / MANIFEST).write_text(json.dumps({**manifest, "complete": False}))
    for folders, message in (
        ([first, third], r"share 2/3 is missing .*--share 2/3"),
        ([first, unfinished, third], r"unfinished, share 2/3, is not finished\. Type: clzoo embed .* --share 2/3"),
        ([first, second, third, tmp_path / "copy"], "are both share 1/3"),
        ([first, of_two, third], "is a share of 2"),
        ([first, second, whole], "is a whole store"),
        ([first, second, images], "is not an embedding store"),
        ([], "nothing to merge"),
    ):
        with pytest.raises(ClzooError, match=message):
            merge_stores(out, folders)
        assert not out.exists()
    with pytest.raises(ClzooError, match="is one of the shares"):
        merge_stores(first, [first, second, third])


@pytest.mark.parametrize(
    ("options", "key"), [({"normalize": False}, "normalized"), ({"store_dtype": "fp32"}, "dtype"), ({}, "weights")]
)
def test_shares_of_different_settings_are_refused(
    images: Path, encoder: Encoder, tmp_path: Path, options: dict[str, object], key: str
) -> None:
    one = embed_folder(images, encoder, tmp_path / "a", share=Share(1, 2), progress=False).store
    model = encoder if options else small_encoder(seed=1)
    two = embed_folder(images, model, tmp_path / "a", share=Share(2, 2), progress=False, **options).store  # type: ignore[arg-type]
    with pytest.raises(ClzooError, match=f"do not belong together: {key}"):
        merge_stores(tmp_path / "out", [one, two])


def test_shares_of_different_sources_are_refused(images: Path, encoder: Encoder, tmp_path: Path) -> None:
    other = make_images(tmp_path / "other", 8)
    one = embed_folder(images, encoder, tmp_path / "a", share=Share(1, 2), progress=False).store
    two = embed_folder(other, encoder, tmp_path / "a", share=Share(2, 2), progress=False).store
    with pytest.raises(ClzooError, match="do not belong together: root"):
        merge_stores(tmp_path / "out", [one, two])


def test_a_merge_into_something_else_or_beside_a_writer_is_refused(
    images: Path, encoder: Encoder, tmp_path: Path
) -> None:
    folders = embed_shares(images, encoder, tmp_path / "store", 2)
    with pytest.raises(ClzooError, match="no embedding store and is not empty"):
        merge_stores(images, folders)
    other = embed_folder(make_images(tmp_path / "other", 4), encoder, tmp_path / "taken", progress=False).store
    with pytest.raises(ClzooError, match=r"taken holds the images of .*other, this run names .*images"):
        merge_stores(other, folders)
    (tmp_path / "out").mkdir()
    with FileLock(tmp_path / "out" / LOCK), pytest.raises(ClzooError, match="another clzoo process"):
        merge_stores(tmp_path / "out", folders)


def test_one_share_never_takes_the_folder_of_another_or_of_the_whole(
    images: Path, encoder: Encoder, tmp_path: Path
) -> None:
    share = embed_folder(images, encoder, tmp_path / "a", share=Share(1, 2), progress=False).store
    with pytest.raises(ClzooError, match=r"holds share 1/2 of its source, this run is of a whole source"):
        embed_folder(images, encoder, share, progress=False)
    share.rename(tmp_path / "a-shard-2-of-2")
    with pytest.raises(ClzooError, match=r"holds share 1/2 .*this run is of share 2/2"):
        embed_folder(images, encoder, tmp_path / "a", share=Share(2, 2), progress=False)


# Killed ---------------------------------------------------------------------------------------------------------------

# Forks a child for every line: "embed SOURCE OUT I/N SECONDS" or "merge OUT STEP SHARE ...". Prints its exit code.
_VICTIMS = """
import os, signal, sys, time
from pathlib import Path
from small_models import small_encoder
from clzoo.embed import run
from clzoo.embed.merging import merge_stores
from clzoo.embed.pipeline import embed_folder
from clzoo.embed.shares import parse_share

run.FLUSH_ROWS = 8
encoder = small_encoder()
encoder.weights_sha256
print("ready", flush=True)

def kill_before_step(folder, step):
    seen = 0
    def hook(event, arguments):
        nonlocal seen
        if event in ("open", "os.rename", "os.remove") and str(arguments[0]).startswith(folder + "/"):
            seen += 1
            if seen == step:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)

for line in sys.stdin:
    what, *rest = line.split()
    if (child := os.fork()) == 0:
        try:
            if what == "embed":
                source, out, share, _ = rest
                embed_folder(source, encoder, out, share=parse_share(share), batch_size=4, workers=2, progress=False)
            else:
                out, step, *shares = rest
                kill_before_step(out, int(step))
                merge_stores(out, shares)
        finally:
            os._exit(0)
    if what == "embed":
        time.sleep(float(rest[-1]))
        os.kill(child, signal.SIGKILL)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Victims:
    """Runs shares and merges in processes that can be killed, without importing torch each time."""

    def __init__(self, warm: WarmPython, folder: Path) -> None:
        pipes = [folder / "told", folder / "said"]
        for pipe in pipes:
            os.mkfifo(pipe)
        code = f"import sys; sys.path.insert(0, {str(Path(__file__).parents[1])!r}){_VICTIMS}"
        self.process = warm.start(("-c", code), os.environ, timeout=600, stdin=pipes[0], stdout=pipes[1])
        self._told, self._said = os.fdopen(os.open(pipes[0], os.O_RDWR), "w"), pipes[1].open()
        assert self._line() == "ready"

    def finishes(self, *line: object) -> bool:
        self._told.write(" ".join(map(str, line)) + "\n")
        self._told.flush()
        code = int(self._line())
        assert code in (0, -9)
        return code == 0

    def _line(self) -> str:
        return self._said.readline().strip()


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL and fork are POSIX")
def test_killed_shares_are_run_again_and_a_merge_killed_at_any_step_is_whole_or_absent(
    encoder: Encoder, tmp_path: Path, warm_python: WarmPython
) -> None:
    images = make_images(tmp_path / "images", 40)
    (images / "broken.jpg").touch()
    single = embed_folder(images, encoder, tmp_path / "single", progress=False).store
    rng = random.Random(seed := random.SystemRandom().randrange(1000))
    print("seed", seed)
    victims = Victims(warm_python, tmp_path)
    try:
        out, folders = tmp_path / "store", []
        for share in ("1/2", "2/2"):
            kills = 0
            while not victims.finishes("embed", images, out, share, f"{rng.uniform(0, 0.15):.4f}") and kills < 8:
                kills += 1
            folders.append(embed_folder(images, encoder, out, share=parse_share(share), progress=False).store)
        whole = by_path(open_store(single))
        for old in (False, True):  # into nothing; over an earlier merge
            step = 0
            finished = False
            while not finished:
                step += 1
                out = tmp_path / f"merged-{old}-{step}"
                if old:
                    shutil.copytree(tmp_path / "before", out)
                finished = victims.finishes("merge", out, step, *folders)
                if (out / MANIFEST).exists():
                    found = by_path(open_store(out))
                    assert open_store(out).complete
                    assert sorted(found) in ([*sorted(whole)], [*sorted(whole)][1:])
                merged = merge_stores(out, folders)
                assert_equal_stores(merged, open_store(single))
                shutil.rmtree(out)
            assert step > 8
            if not old:  # a store of one row less
                victim = next(iter(sorted(whole)))
                content = (images / victim).read_bytes()
                status = (images / victim).stat()
                (images / victim).unlink()
                merge_stores(tmp_path / "before", embed_shares(images, encoder, tmp_path / "fewer", 2))
                (images / victim).write_bytes(content)
                os.utime(images / victim, ns=(status.st_atime_ns, status.st_mtime_ns))
    finally:
        victims.process.kill()


# The command ----------------------------------------------------------------------------------------------------------


def run(*arguments: object) -> int:
    """Exit code of `clzoo ARGUMENTS`."""
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_shares_are_embedded_and_merged_as_typed(
    images: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(images.parent)
    encoder = ("--model", model_folder, "--backend", "torch")  # the default would be exported first
    for share in ("1/2", "2/2"):
        assert run("embed", "images/", *encoder, "--share", share, "--quiet") == 0
    folders = [f"images-embeddings-shard-{number}-of-2" for number in (1, 2)]
    assert run("store", "merge", "images-embeddings", folders[1]) == 1
    assert "share 1/2 is missing" in capsys.readouterr().err
    assert run("store", "merge", "images-embeddings", *folders) == 0
    assert "images-embeddings: 24 vectors" in capsys.readouterr().out
    assert run("store", "merge", "images-embeddings") == 2
    assert run("embed", "images/", *encoder, "--share", "3/2") == 1
    assert run("embed", "images/", *encoder, "--share", "1/2", "--index", "faiss") == 2
    assert run("embed", "images/", *encoder, "--json") == 0  # continues the merged store
    assert json.loads(capsys.readouterr().out)["unchanged"] == 24


def test_shares_with_labels_since_and_of_a_moved_source_are_merged_over_the_earlier_merge(
    images: Path, encoder: Encoder, tmp_path: Path
) -> None:
    folders = embed_shares(images, encoder, tmp_path / "out", 2)
    assert merge_stores(tmp_path / "out", folders).labels == [None] * 24
    embed_shares(images, encoder, tmp_path / "out", 2, labels=True)
    assert set(merge_stores(tmp_path / "out", folders).labels) == {"cats", "dogs"}
    moved = images.rename(tmp_path / "moved")
    embed_shares(moved, encoder, tmp_path / "out", 2)
    assert merge_stores(tmp_path / "out", folders).root == moved


def test_a_merge_over_that_of_another_source_is_refused(images: Path, encoder: Encoder, tmp_path: Path) -> None:
    merge_stores(tmp_path / "out", embed_shares(images, encoder, tmp_path / "out", 2))
    other = shutil.copytree(images, tmp_path / "other")
    with pytest.raises(ClzooError, match=r"out holds the images of .*images, this run names .*other"):
        merge_stores(tmp_path / "out", embed_shares(other, encoder, tmp_path / "others", 2))
