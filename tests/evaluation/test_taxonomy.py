import tarfile
from collections import Counter
from pathlib import Path

import pytest

from clzoo.errors import ClzooError
from clzoo.evaluation.taxonomy import SHIPPED, ancestors, find_taxonomy, read_taxonomy

TINY = Path(__file__).parents[3] / "shared/data/tiny-imagenet-val.tar.xz"

# fine_label_names of the data set's meta file are in alphabetical order; these are their coarse labels, in that order.
COARSE = """
    4 1 14 8 0 6 7 7 18 3 3 14 9 18 7 11 3 9 7 11 6 11 5 10 7 6 13 15 3 15 0 11 1 10 12 14 16 9 11 5 5 19 8 8 15 13 14
    17 18 10 16 4 17 4 2 0 17 4 18 17 10 3 2 12 12 16 12 1 9 19 2 10 0 1 16 12 9 13 15 13 16 19 2 4 6 19 5 5 8 19 18 1
    2 15 6 0 17 8 14 13
"""


def classes_of(name):
    taxonomy = read_taxonomy(name)
    return sorted(set(taxonomy) - set(taxonomy.values()))


def written(tmp_path, text):
    path = tmp_path / "mine.csv"
    path.write_text(text)
    return path


def test_cifar100_has_twenty_superclasses_of_five():
    taxonomy = read_taxonomy("cifar100")
    assert len(taxonomy) == 100
    assert Counter(taxonomy.values()) == dict.fromkeys(set(taxonomy.values()), 5)
    assert len(set(taxonomy.values())) == 20


def test_cifar100_is_the_data_sets_own_assignment():
    taxonomy = read_taxonomy("cifar100")
    superclasses = sorted(set(taxonomy.values()))
    assert [superclasses.index(taxonomy[name]) for name in sorted(taxonomy)] == [int(n) for n in COARSE.split()]
    spelled = {"aquarium_fish", "sweet_pepper", "pickup_truck", "lawn_mower", "maple_tree", "keyboard", "orchid"}
    assert spelled < set(taxonomy)


def test_cifar10_is_animals_and_vehicles():
    assert Counter(read_taxonomy("cifar10").values()) == {"animal": 6, "vehicle": 4}


def test_tiny_imagenet_has_200_classes_in_groups_of_at_least_three():
    taxonomy = read_taxonomy("tiny")
    classes = classes_of("tiny")
    assert len(classes) == 200
    assert all(len(name) == 9 and name[0] == "n" and name[1:].isdigit() for name in classes)
    sizes = Counter(taxonomy[name] for name in classes)
    assert min(sizes.values()) >= 3
    assert {ancestors(name, taxonomy)[-1] for name in classes} == {"animal", "artifact", "food", "geological formation"}


@pytest.mark.parametrize(
    ("wnid", "path"),
    [
        ("n02099601", ("dog", "mammal", "vertebrate", "animal")),  # golden retriever
        ("n02279972", ("insect", "arthropod", "invertebrate", "animal")),  # monarch
        ("n04146614", ("conveyance", "artifact")),  # school bus
        ("n04285008", ("motor vehicle", "conveyance", "artifact")),  # sports car
        ("n04254777", ("clothing", "covering", "artifact")),  # sock
        ("n07749582", ("fruit", "food")),  # lemon
        ("n09246464", ("geological formation",)),  # cliff
    ],
)
def test_tiny_imagenets_groups_stand_under_groups(wnid, path):
    assert ancestors(wnid, read_taxonomy("tiny")) == path


@pytest.mark.skipif(not TINY.is_file(), reason="needs the Tiny-ImageNet archive")
def test_tiny_imagenets_classes_are_the_folders_of_the_data_set():
    with tarfile.open(TINY) as archive:
        folders = {Path(name).parts[1] for name in archive.getnames() if len(Path(name).parts) > 1}
    assert set(classes_of("tiny")) == folders


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_taxonomy_is_found_by_its_classes_in_any_order(name):
    classes = classes_of(name)
    assert find_taxonomy(classes) == name
    assert find_taxonomy(classes[::-1]) == name


def test_other_classes_have_no_shipped_taxonomy():
    classes = classes_of("cifar10")
    assert find_taxonomy(classes[1:]) is None
    assert find_taxonomy([*classes, "unicorn"]) is None


def test_comments_blank_lines_spaces_and_other_columns_are_passed_over(tmp_path):
    path = written(tmp_path, "\ufeff# by hand\n\nnote, class ,parent\nsmall,cat, pet \n  # more\nbig, cow,farm\n")
    assert read_taxonomy(path) == {"cat": "pet", "cow": "farm"}


def test_names_may_hold_commas_in_quotes(tmp_path):
    assert read_taxonomy(written(tmp_path, 'class,parent\n"cat, tabby",pet\n')) == {"cat, tabby": "pet"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("class,group\ncat,pet\n", "begins with 'class,group'; expected a header with the columns class,parent"),
        ("# nothing\n", "begins with 'nothing'"),
        ("class,parent\n", "lists no class"),
        ("class,parent\ncat\n", "'cat,' lacks a value"),
        ("class,parent\n,pet\n", "',pet' lacks a value"),
        ("class,parent\ncat,pet\ncat,farm\n", "lists 'cat' twice, under 'pet' and 'farm'"),
        ("class,parent\ncat,cat\n", "'cat' stands above itself"),
        ("class,parent\ncat,pet\npet,animal\nanimal,pet\n", "stands above itself"),
    ],
)
def test_a_file_that_is_no_taxonomy_is_an_error_that_says_why(tmp_path, text, message):
    with pytest.raises(ClzooError, match=message):
        read_taxonomy(written(tmp_path, text))


def test_an_unknown_name_is_an_error_that_lists_the_known(tmp_path):
    with pytest.raises(ClzooError, match=r"no taxonomy 'cifar1000'.*cifar10, cifar100, tiny"):
        read_taxonomy("cifar1000")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00class")
    with pytest.raises(ClzooError, match="not readable as text"):
        read_taxonomy(tmp_path / "binary.csv")
