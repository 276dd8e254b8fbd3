"""Model cards: the front matter that the Hub reads, and a body that says only what is recorded."""

from __future__ import annotations

import dataclasses

import pytest
from huggingface_hub import ModelCard
from small_models import METRICS, result, small_config

from clzoo import assets
from clzoo.config import ModelConfig, Source
from clzoo.files import read_json
from clzoo.zoo.cards import UNKNOWN, is_generated, render_card
from clzoo.zoo.entries import list_models

PROVEN = {"weights_sha256": "ab" * 32, "probe": (0.5,) * 16}
SOURCE = Source(repo="somebody/Models", file="r50.pth", revision="c0ffee", sha256="cd" * 32, size=94_343_634, layout="")
EMPTY = {"results": [], "training": {}}


def front_matter(config: ModelConfig, metrics: dict = EMPTY) -> dict:
    return ModelCard(render_card(config, metrics)).data.to_dict()


def section(card: str, title: str) -> str:
    return card.split(f"## {title}\n")[1].split("\n## ")[0]


def test_the_front_matter_says_what_the_hub_asks_for():
    data = front_matter(small_config(**PROVEN), METRICS)
    assert data["license"] == "apache-2.0"
    assert data["library_name"] == "clzoo"
    assert data["pipeline_tag"] == "image-feature-extraction"
    assert data["tags"] == ["clzoo", "contrastive-learning", "self-supervised", "cacr", "timm"]
    assert data["datasets"] == ["uoft-cs/cifar10"]


def test_only_measurements_of_this_model_enter_the_model_index():
    (entry,) = front_matter(small_config(**PROVEN), METRICS)["model-index"]
    (measured,) = entry["results"]
    assert measured["dataset"] == {"name": "CIFAR-10 (JPEG copy)", "type": "cifar-10-jpeg-copy", "split": "test"}
    (metric,) = measured["metrics"]
    assert metric == {"type": "accuracy", "value": 65.1, "name": "top-1, knn:v1(k=20,T=0.07,cos)"}


def test_without_measurements_there_is_no_model_index_and_the_card_says_so():
    assert "model-index" not in front_matter(small_config(**PROVEN))
    assert "records no measurements" in section(render_card(small_config(**PROVEN), EMPTY), "Measured")


def test_the_table_names_protocol_control_spread_and_seeds():
    table = section(render_card(small_config(**PROVEN), METRICS), "Measured")
    protocol, data = "knn:v1(k=20,T=0.07,cos)", "CIFAR-10 (JPEG copy), test"
    assert f"| **this model** | {protocol} | {data} | top-1 | 65.1 | 0 |" in table
    assert f"| random initialisation | {protocol} | {data} | top-1 | 29.3 ± 0.31 | 0, 1, 2 |" in table
    assert f"| raw pixels | {protocol} | {data} | top-1 | 39.8 | 0 |" in table


@pytest.mark.parametrize("start", [{}, {"continued from": "simclr-resnet50-in1k"}])
def test_counts_of_a_continued_run_are_said_to_be_of_it_alone(start):
    metrics = {"results": [], "training": {"recipe": "recipe.yaml", **start, "epochs": 2}}
    training = section(render_card(small_config(**PROVEN), metrics), "Training")
    assert training.startswith("\n|")
    assert training.endswith("| epochs | 2 |\n" if not start else "of what it was continued from come on top.\n")


def test_a_published_number_stands_apart_with_its_source_and_outside_of_the_model_index():
    config = small_config(source=SOURCE, published={"linear": 74.7}, **PROVEN)
    card = render_card(config, METRICS)
    assert "| linear | 74.7 | [somebody/Models](https://huggingface.co/somebody/Models) |" in section(card, "Published")
    assert "74.7" not in section(card, "Measured")
    assert "74.7" not in str(front_matter(config, METRICS))


@pytest.mark.parametrize(
    ("license", "fields"),
    [
        ("mit", {"license": "mit"}),
        ("Apache-2.0", {"license": "apache-2.0"}),
        ("not stated", {"license": "unknown"}),
        ("DINOv3 License", {"license": "other", "license_name": "dinov3-license"}),
    ],
)
def test_the_license_follows_the_hubs_convention(license, fields):
    data = front_matter(small_config(license=license, **PROVEN))
    assert {key: value for key, value in data.items() if key.startswith("license")} == fields


def test_an_unstated_license_and_a_license_note_are_spelled_out():
    card = render_card(small_config(license="not stated", license_note="Code: CC-BY-NC.", **PROVEN), EMPTY)
    assert "states no license" in section(card, "License")
    assert "Code: CC-BY-NC." in section(card, "License")


def test_timm_is_named_only_where_timm_can_load_the_weights():
    for changes, named in (
        (PROVEN, True),
        ({**PROVEN, "stem_stride": 1}, False),  # a stem that timm does not know
        ({"source": SOURCE}, False),  # no weights in the folder
    ):
        config = small_config(**changes)
        assert ("timm" in front_matter(config)["tags"]) == named, changes
        card = render_card(config, EMPTY)
        for call in ("timm.create_model(", "AutoModel.from_pretrained(", "SentenceTransformer("):
            assert (call in card) == named, changes


@pytest.mark.parametrize(
    ("address", "clzoo_says", "timm_says"),
    [
        ("hf-hub:me/model", "hf-hub:me/model", "hf-hub:me/model"),
        ("./model", "./model", "local-dir:./model"),
        (None, "cacr-test_resnet-cifar10", "local-dir:hub/cacr-test_resnet-cifar10"),
    ],
)
def test_the_example_can_be_typed_as_it_stands(address, clzoo_says, timm_says):
    card = render_card(small_config(**PROVEN), EMPTY, address=address)
    assert f'clzoo.load("{clzoo_says}")' in card
    assert f'timm.create_model("{timm_says}", pretrained=True)' in card
    folder = timm_says.partition(":")[2]
    for call in ("AutoModel.from_pretrained", "AutoImageProcessor.from_pretrained", "SentenceTransformer"):
        assert f'{call}("{folder}")' in card


def test_what_a_folder_is_called_breaks_no_command():
    card = render_card(small_config(**PROVEN), EMPTY, address='./my "best" model')
    assert 'clzoo.load("./my \\"best\\" model")' in card
    assert "clzoo export './my \"best\" model' --to onnx" in card


def test_a_card_with_weights_shows_the_road_without_torch_and_a_recipe_does_not():
    for address in ("hf-hub:me/model", "./model"):
        card = render_card(small_config(**PROVEN, stem_stride=1), EMPTY, address=address)
        assert f"clzoo export {address} --to onnx --out model.onnx --preprocess" in card
        assert 'clzoo.lite.load("model.onnx")' in card
    assert "clzoo.lite" not in render_card(small_config(recipe="recipes/reco_in1k.yaml", method="reco"), EMPTY)


@pytest.mark.parametrize("method", ["timm", "distil"])
def test_of_a_method_that_clzoo_does_not_know_nothing_is_said_about_labels(method):
    card = ModelCard(render_card(small_config(method=method, **PROVEN), EMPTY))
    assert f"by {method}; whether with labels is not recorded" in card.text
    assert card.data.tags == list(dict.fromkeys(["clzoo", method, "timm"]))


def test_a_method_that_trains_with_labels_is_not_called_self_supervised():
    for method in ("hydra", "hydra_moco", "supcon"):
        config = small_config(method=method, **PROVEN)
        assert "self-supervised" not in front_matter(config)["tags"]
        assert "with class labels" in render_card(config, EMPTY)


def test_potential_samples_is_called_a_re_implementation_wherever_it_is_named():
    for changes in (PROVEN, {}):
        card = render_card(small_config(method="potential_samples", **changes), EMPTY)
        lines = [line for line in card.splitlines() if "Potential Samples" in line]
        assert lines
        assert all("re-implementation from the abstract" in line for line in lines)


def test_what_nobody_has_run_is_called_not_verified():
    not_verified = "Not verified on the published file"
    assert not_verified in render_card(small_config(source=SOURCE), EMPTY)
    assert not_verified not in render_card(small_config(source=SOURCE, **PROVEN), EMPTY)
    assert not_verified not in render_card(small_config(**PROVEN), EMPTY)  # ours: there is no published file


def test_a_recipe_without_weights_says_how_to_train_it_and_not_how_to_load_it():
    card = render_card(small_config(recipe="recipes/reco_in1k.yaml", method="reco"), EMPTY)
    assert "clzoo pretrain recipes/reco_in1k.yaml" in card
    assert "to be pretrained" in card
    assert "clzoo.load" not in card


def test_a_converted_checkpoint_claims_no_method_and_no_data():
    config = small_config(method=UNKNOWN, data=UNKNOWN, **PROVEN)
    data = front_matter(config)
    assert data["tags"] == ["clzoo", "timm"]
    assert "datasets" not in data
    card = render_card(config, EMPTY)
    assert "is not recorded" in card
    assert "pretrained on" not in card
    assert "without labels" not in card


def test_the_provenance_names_repository_revision_file_and_hashes():
    text = section(render_card(small_config(source=SOURCE, **PROVEN), EMPTY), "Provenance")
    for fact in ("somebody/Models", "c0ffee", "r50.pth", "94,343,634", "cd" * 32, "ab" * 32):
        assert fact in text
    unpinned = dataclasses.replace(SOURCE, revision=None, sha256=None)
    text = section(render_card(small_config(source=unpinned), EMPTY), "Provenance")
    assert "not pinned yet" in text
    assert "not recorded" in text


def test_a_bar_or_a_newline_in_a_value_does_not_break_the_table():
    rows = [result(dataset="a|b\nc")]
    table = section(render_card(small_config(**PROVEN), {"results": rows}), "Measured")
    assert r"a\|b c, test" in table
    ModelCard(render_card(small_config(**PROVEN), {"results": rows}))


def test_any_change_to_a_card_breaks_its_seal_but_windows_line_ends_do_not(tmp_path):
    card = render_card(small_config(**PROVEN), METRICS)
    assert is_generated(card)
    for edited in (card + "more\n", card[1:], card.replace("65.1", "75.1"), "", "# mine\n"):
        assert not is_generated(edited)
    (tmp_path / "README.md").write_bytes(card.replace("\n", "\r\n").encode())
    assert is_generated((tmp_path / "README.md").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", list_models())
def test_the_cards_of_the_zoo_say_what_its_configs_say(name):
    folder = assets.HUB / name
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert is_generated(card)
    assert card == render_card(ModelConfig.load(folder / "config.json"), read_json(folder / "metrics.json"))
