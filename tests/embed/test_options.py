"""The options of embedding are one dataclass: the keywords of `embed_folder` and of `clzoo embed` are its fields."""

from __future__ import annotations

import dataclasses
import inspect
from pathlib import Path

import pytest

from clzoo.cli.embed import command
from clzoo.embed import embed_folder, pipeline
from clzoo.embed.options import EmbedOptions
from clzoo.errors import ClzooError

FIELDS = {field.name: field for field in dataclasses.fields(EmbedOptions)}
OF_THE_CALL = {"strict", "allow_removals", "share"}  # of embed_folder alone: they change no vector


class ReachedError(Exception):
    pass


def test_the_keywords_of_embed_folder_are_the_fields_with_their_defaults_and_types() -> None:
    parameters = inspect.signature(embed_folder).parameters.values()
    keywords = {p.name: p for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}
    assert keywords.keys() - OF_THE_CALL == FIELDS.keys()
    for name, field in FIELDS.items():
        assert keywords[name].default == field.default, name
        assert keywords[name].annotation == field.type, name


def test_each_keyword_arrives_in_its_own_field(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given = {
        **{"device": "cuda:3", "size": 37, "batch_size": 5, "workers": 7, "dtype": "bf16", "store_dtype": "fp32"},
        **{"normalize": False, "labels": True, "engine": "ray", "backend": "torch", "decode": "cpu", "progress": False},
    }
    assert given.keys() == FIELDS.keys()
    handed_on = []

    def record(source: object, encoder: object, out: object, options: EmbedOptions, **_: object) -> None:
        handed_on.append(options)
        raise ReachedError

    monkeypatch.setattr(pipeline, "embed_share", record)
    with pytest.raises(ReachedError):
        embed_folder(tmp_path, "model", tmp_path / "store", **given)  # type: ignore[arg-type]
    with pytest.raises(ReachedError):
        embed_folder(tmp_path, "model", tmp_path / "store", decode="gpu")
    assert [dataclasses.asdict(options) for options in handed_on] == [
        given,
        {name: field.default for name, field in FIELDS.items()} | {"decode": "gpu"},
    ]


def test_the_command_has_every_option_with_the_same_default() -> None:
    options = {option.name: option for option in command.params}
    assert FIELDS.keys() - options.keys() == {"progress"}  # which is --quiet
    context = command.make_context("embed", ["images"])
    for name in FIELDS.keys() & options.keys():
        assert context.params[name] == FIELDS[name].default, name


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"store_dtype": "fp64"}, "store_dtype must be fp16 or fp32, found 'fp64'"),
        ({"batch_size": 0}, "batch_size must be at least 1, found 0"),
        ({"workers": -1}, "workers must be at least 1, found -1"),
        ({"engine": "spark"}, "engine must be one of local, ray, found 'spark'"),
        ({"decode": "tpu"}, "decode must be one of cpu, gpu, found 'tpu'"),
        ({"decode": "gpu", "engine": "ray"}, "decode 'gpu' is for --engine local"),
    ],
)
def test_a_wrong_value_is_refused_before_the_source_is_opened(given: dict[str, object], said: str) -> None:
    with pytest.raises(ClzooError, match=said):
        embed_folder("nowhere", **given)  # type: ignore[arg-type]
