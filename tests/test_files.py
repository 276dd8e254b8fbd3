"""Files: JSON of others is bounded, errors name the file, and nothing that is written replaces a device."""

import json
import os
import stat
from pathlib import Path

import pytest

from clzoo.config import LONGEST_CONFIG, ModelConfig
from clzoo.embed.manifest import Manifest
from clzoo.errors import ClzooError
from clzoo.evaluation.taxonomy import read_taxonomy
from clzoo.files import output_path, parse_json, read_json
from clzoo.zoo.entries import entry

TIMMS, OURS = "mocov3-vit_small-in1k", "supcon-resnet10_w32-tiny"  # who builds the network: timm too, or clzoo alone

DEEP = {"lists": "[" * 5_000 + "]" * 5_000, "tables": '{"a":' * 5_000 + "0" + "}" * 5_000}


@pytest.mark.parametrize(
    "text",
    [*DEEP.values(), "[" * 101 + "]" * 101, "[" * 10**6, "{", "", "9" * 10_000, "\udcff"],
    ids=lambda text: text[:3],
)
def test_hostile_json_is_refused_by_name(text, tmp_path):
    path = tmp_path / "some.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ClzooError, match=r"some\.json (is not valid JSON|is nested more than 100)") as refusal:
        read_json(path)
    assert len(str(refusal.value)) < 500


def test_a_hundred_levels_are_read():
    assert parse_json("[" * 100 + "]" * 100, "x", "")


def test_a_file_that_is_too_long_is_not_read(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(" " * (LONGEST_CONFIG + 1))
    with pytest.raises(ClzooError, match=r"config\.json has more than 1,048,576 bytes"):
        ModelConfig.load(path)


@pytest.mark.parametrize(
    ("name", "place"),
    [
        (TIMMS, ()),
        (TIMMS, ("clzoo",)),
        (TIMMS, ("clzoo", "name")),
        (TIMMS, ("model_args",)),
        (TIMMS, ("pretrained_cfg", "mean")),
        (TIMMS, ("pretrained_cfg", "fixed_input_size")),
        (OURS, ("clzoo",)),
        (OURS, ("clzoo", "name")),
        (OURS, ("clzoo", "model_args")),
        (OURS, ("clzoo", "preprocessing")),
        (OURS, ("clzoo", "preprocessing", "mean")),
    ],
)
@pytest.mark.parametrize(
    "value",
    ["x" * 10**5, ["lol"] * 10**5, {"a": ["lol"] * 10**5}, 10**4000, None, True],
    ids=lambda v: type(v).__name__,
)
def test_a_wrong_value_anywhere_in_a_config_is_refused_shortly(name, place, value):
    raw = entry(name).to_json()
    if place[-1:] == ("model_args",) and (isinstance(value, dict) or (value is None and name == TIMMS)):
        return  # a table is what it may be; timm's file may also have none
    if place[-1:] == ("fixed_input_size",) and (value is None or value is True):
        return
    table = raw
    for key in place[:-1]:
        table = table[key]
    if place:
        table[place[-1]] = value
    else:
        raw = value
    with pytest.raises(ClzooError, match=r"^theirs") as refusal:
        ModelConfig.from_json(raw, where="theirs")
    assert len(str(refusal.value)) < 1000


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("crop_pct", 0),
        ("crop_pct", float("nan")),
        ("input_size", [3, 10**9, 10**9]),
        ("input_size", [3, 64.5, 64.5]),
        ("std", [0.2, 0, 0.2]),
        ("mean", [0.5]),
    ],
)
def test_a_preprocessing_that_cannot_be_is_refused(key, value):
    raw = entry(TIMMS).to_json()
    raw["pretrained_cfg"][key] = value
    ours = entry(OURS).to_json()
    ours["clzoo"]["preprocessing"]["size" if key == "input_size" else key] = value[-1] if key == "input_size" else value
    for config in (raw, ours):
        with pytest.raises(ClzooError, match=f"{key} is"):
            ModelConfig.from_json(config, where="theirs")


def test_the_manifest_of_a_store_is_read_with_the_same_bounds(tmp_path):
    (tmp_path / "manifest.json").write_text(DEEP["tables"])
    with pytest.raises(ClzooError, match="nested"):
        Manifest.load_from(tmp_path)


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ("class,parent\n" + "".join(f"c{n},c{n + 1}\n" for n in range(100_000)), "over 100 levels"),
        (f"class,parent\n{'x' * 200_000},y\n", "not a CSV file"),
        (f"class,parent\n{'x' * 100_000},\n", "lacks a value"),
        ("class,parent\n" + "a,b\n" * (5 << 20), "bytes"),
    ],
)
def test_a_hostile_taxonomy_is_refused_shortly(lines, reason, tmp_path):
    path = tmp_path / "theirs.csv"
    path.write_text(lines)
    with pytest.raises(ClzooError, match=reason) as refusal:
        read_taxonomy(path)
    assert len(str(refusal.value)) < 5000


def test_json_that_is_written_is_read_again(tmp_path):
    value = {"a": [1, 2.5, None, True, "ü\n\x1b"]}
    (tmp_path / "x.json").write_text(json.dumps(value))
    assert read_json(tmp_path / "x.json") == value


@pytest.mark.skipif(os.name == "nt", reason="Windows has no named pipes among files, and no /dev")
def test_a_device_or_a_pipe_is_never_replaced_by_a_file(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for place in (pipe, Path("/dev/clzoo-test"), Path("/proc/self/fd/1")):
        with pytest.raises(ClzooError, match=f"{place} is a device or a pipe"), output_path(place) as temporary:
            temporary.write_text("a page")
    assert stat.S_ISFIFO(pipe.stat().st_mode)
