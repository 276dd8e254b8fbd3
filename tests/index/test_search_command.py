"""clzoo search, as it is typed."""

from __future__ import annotations

import json
import os
import shutil
import sys

import pytest

from clzoo.cli import main
from clzoo.index import build_index


@pytest.fixture
def folder(embedded):
    build_index(embedded)
    return str(embedded.path)


def run(*arguments):
    """Exit code of `clzoo ARGUMENTS`."""
    try:
        main(["search", *map(str, arguments)])
    except SystemExit as stop:
        return stop.code or 0
    return 0


def test_the_neighbors_are_listed(folder, pictures, capsys):
    assert run(folder, pictures / "reds" / "0.jpg", "-k", 3) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == str(pictures / "reds" / "0.jpg")
    assert lines[1].split() == ["rank", "score", "path", "label"]
    rank, score, path, label = lines[2].split()
    assert (rank, path, label) == ("1", "reds/0.jpg", "reds")
    assert float(score) == pytest.approx(1, abs=1e-3)
    assert len([line for line in lines if "reds/" in line]) == 4


def test_json_is_one_document(folder, pictures, capsys):
    assert run(folder, pictures / "blues", pictures / "reds" / "0.jpg", "-k", 2, "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["root"] == str(pictures)
    assert document["model"] == "test-resnet18-random"
    assert len(document["results"]) == 7
    assert [result["query"] for result in document["results"]][-1] == str(pictures / "reds" / "0.jpg")
    for result in document["results"]:
        assert len(result["hits"]) == 2
        assert set(result["hits"][0]) == {"path", "score", "id", "label"}
        assert result["query"].endswith(result["hits"][0]["path"])


def test_a_page_is_written_and_named(folder, pictures, tmp_path, capsys):
    assert run(folder, pictures / "blues", "--html", tmp_path / "out" / "page.html") == 0
    assert str(tmp_path / "out" / "page.html") in capsys.readouterr().out
    assert (tmp_path / "out" / "page.html").read_text(encoding="utf-8").count("<section>") == 6


def test_json_stays_alone_on_standard_output_beside_a_page(folder, pictures, tmp_path, capsys):
    assert run(folder, pictures / "reds" / "0.jpg", "--json", "--html", tmp_path / "page.html") == 0
    json.loads(capsys.readouterr().out)
    assert (tmp_path / "page.html").exists()


def test_names_are_not_markup(request, pictures, capsys):
    strange = pictures / "[red]x.jpg"
    strange.write_bytes((pictures / "reds" / "0.jpg").read_bytes())
    folder = request.getfixturevalue("folder")  # embedded after the picture was added
    assert run(folder, strange, "-k", 2) == 0
    listed = [line.split()[2] for line in capsys.readouterr().out.splitlines()[2:4]]
    assert sorted(listed) == ["[red]x.jpg", "reds/0.jpg"]


def test_quiet_says_nothing_beside_the_result(folder, pictures, capsys):
    assert run(folder, pictures / "reds" / "0.jpg", "--quiet") == 0
    assert capsys.readouterr().err == ""


def test_wrong_input_is_exit_code_1_and_wrong_usage_2(folder, pictures, tmp_path, capsys):
    assert run(tmp_path / "nowhere", pictures) == 1
    assert run(folder, tmp_path / "nowhere.jpg") == 1
    assert "nowhere.jpg does not exist" in capsys.readouterr().err
    assert run(folder) == 2
    assert run(folder, pictures, "-k", 0) == 2


@pytest.mark.skipif(os.name == "nt", reason="Windows has no named pipes among files")
def test_a_page_into_a_pipe_is_wrong_usage(folder, pictures, tmp_path, capsys):
    os.mkfifo(tmp_path / "pipe")
    assert run(folder, pictures, "--html", tmp_path / "pipe") == 2
    assert "pipe is a device or a pipe, and what is written here" in capsys.readouterr().err


def test_a_stale_index_is_refused_with_what_to_type(embedded, folder, pictures, capsys):
    manifest = embedded.path / "manifest.json"
    raw = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**raw, "generation": 2}))
    assert run(folder, pictures) == 1
    message = capsys.readouterr().err
    assert "older than its store" in message
    assert "clzoo store index" in message


def test_the_help_needs_no_heavy_import():
    import subprocess

    program = (
        "import sys\nfrom clzoo.cli import main\n"
        "try:\n    main(['search', '--help'])\nexcept SystemExit:\n    pass\n"
        "assert not {'torch', 'faiss', 'pyarrow', 'numpy'} & set(sys.modules), 'heavy import'\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "QUERY..." in done.stdout


def test_the_factory_string_reaches_faiss(pictures, model_folder, tmp_path, capsys):
    embed = [str(part) for part in ("embed", pictures, "--out", tmp_path / "out", "--model", model_folder, "--json")]
    main([*embed, "--index", "faiss", "--factory", "HNSW8"])
    assert json.loads(capsys.readouterr().out)["index"]["factory"] == "HNSW8"
    with pytest.raises(SystemExit) as stop:
        main([*embed, "--factory", "HNSW8"])
    assert stop.value.code == 2


def test_embed_with_index_keeps_the_search_current(pictures, model_folder, tmp_path, capsys):
    store = tmp_path / "embedded"
    embed = [str(part) for part in ("embed", pictures, "--out", store, "--model", model_folder, "--quiet")]
    main([*embed, "--index", "faiss"])
    stamp = (store / "faiss.index").stat().st_mtime_ns
    main([*embed, "--index", "faiss"])
    assert (store / "faiss.index").stat().st_mtime_ns == stamp  # nothing has changed

    new = pictures / "reds" / "new.jpg"
    new.write_bytes((pictures / "reds" / "0.jpg").read_bytes())
    main(embed)
    assert run(store, new) == 1
    assert "older than its store" in capsys.readouterr().err

    main([*embed, "--index", "faiss"])
    assert run(store, new, "-k", 2, "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert {hit["path"] for hit in document["results"][0]["hits"]} == {"reds/0.jpg", "reds/new.jpg"}


def test_a_mapped_index_finds_the_same(folder, pictures, capsys):
    outputs = []
    for options in ((), ("--mmap",)):
        assert run(folder, pictures / "reds" / "0.jpg", *options) == 0
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1]


def test_a_moved_model_is_told_anew_and_another_is_refused(pictures, encoder, tmp_path, capsys):
    place = encoder.save_pretrained(tmp_path / "here")
    store = tmp_path / "store-of-a-folder"
    main(["embed", str(pictures), "--model", str(place), "--out", str(store), "--index", "faiss", "--quiet"])
    query = tmp_path / "new.jpg"  # not in the store: those are found by the vectors that it holds
    query.write_bytes((pictures / "reds" / "0.jpg").read_bytes())
    capsys.readouterr()
    assert run(store, query, "--json") == 0
    before = capsys.readouterr().out
    moved = place.rename(tmp_path / "there")
    assert run(store, query) == 1
    message = capsys.readouterr().err
    assert str(tmp_path / "here") in message
    assert "--model PLACE" in message
    assert run(store, query, "--json", "--model", moved) == 0
    assert capsys.readouterr().out == before
    assert run(store, query, "--model", "supcon-resnet10_w32-tiny") == 1
    assert "was made by" in capsys.readouterr().err


def test_moved_images_are_told_anew(pictures, encoder, tmp_path, capsys):
    place = tmp_path / "first"
    shutil.copytree(pictures, place)
    store, page = tmp_path / "moved-store", tmp_path / "found.html"
    model = encoder.save_pretrained(tmp_path / "model")
    main(["embed", str(place), "--model", str(model), "--out", str(store), "--index", "faiss", "--quiet"])
    moved = place.rename(tmp_path / "elsewhere")
    query = moved / "reds" / "0.jpg"
    assert run(store, query, "--model", model, "--html", page) == 0
    without = page.read_text().count("data:image/jpeg")
    assert run(store, query, "--model", model, "--html", page, "--images", moved) == 0
    assert page.read_text().count("data:image/jpeg") > without
    assert str(tmp_path / "first") in (store / "manifest.json").read_text()  # the store itself stays as it is
    capsys.readouterr()
    assert run(store, query, "--images", tmp_path / "nowhere") == 1
    assert "--images DIR" in capsys.readouterr().err
