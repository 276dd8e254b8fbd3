import itertools
import logging
import statistics

import numpy as np
import pytest
import torch

from clzoo.errors import ClzooError
from clzoo.evaluation.features import Features
from clzoo.evaluation.relations import (
    CONTROL_DRAWS,
    class_means,
    class_relations,
    evaluate_relations,
    taxonomy_order,
    taxonomy_scores,
)
from clzoo.evaluation.taxonomy import read_taxonomy
from clzoo.methods.hydra import FeatureFilter, HydraOptions, PairLoss, gate_vectors, read_filter

ANIMALS = ("cat", "cow", "dog", "pig", "wolf", "sheep", "lion", "goat")
KINDS = {"cat": "feline", "lion": "feline", "dog": "canine", "wolf": "canine"} | dict.fromkeys(
    ("cow", "pig", "sheep", "goat"), "farm"
)


def vectors(count=8, dim=12, seed=0):
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))


def by_parent(names, taxonomy, dim=40, noise=0.3, seed=0):
    """Class vectors (C, d) that lie near their parent's."""
    generator = torch.Generator().manual_seed(seed)
    centers = {group: torch.randn(dim, generator=generator) for group in sorted(set(taxonomy.values()))}
    return torch.stack([centers[taxonomy[name]] + noise * torch.randn(dim, generator=generator) for name in names])


def features_around(classes, means, per_class=5, noise=0.05, seed=1):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(len(classes)).repeat(per_class)
    x = means[labels] + noise * torch.randn(len(labels), means.shape[1], generator=generator)
    return Features(x, labels, tuple(classes), "somewhere", {})


def trained_like(classes, dim=16, seed=0):
    """A filter as training leaves it: running statistics moved from where they start."""
    torch.manual_seed(seed)
    filter = FeatureFilter(classes, dim, label_dim=10, hidden_dim=14)
    filter.train()
    for _ in range(3):
        a, b = torch.randint(classes, (2, 64))
        filter(a, b)
    return filter


# -- class vectors ---------------------------------------------------------------------------------------------------


def test_class_means_are_of_features_of_length_one():
    x, labels = vectors(30, 4), torch.arange(30) % 3
    means = class_means(100 * x, labels, ("a", "b", "c"))
    for c in range(3):
        rows = [x[i].double() / x[i].double().norm() for i in range(30) if labels[i] == c]
        torch.testing.assert_close(means[c], sum(rows) / len(rows))


def test_a_class_without_images_is_an_error_that_names_it():
    with pytest.raises(ClzooError, match="none of unicorn, yeti"):
        class_means(vectors(2, 4), torch.tensor([0, 2]), ("cat", "unicorn", "dog", "yeti"))


def test_gate_vectors_are_the_single_class_gates_in_eval_mode():
    filter = trained_like(6)
    gates = gate_vectors(filter)
    assert filter.training  # left as it was
    filter.eval()
    expected = torch.cat([filter(torch.tensor([c]), torch.tensor([c])) for c in range(6)]).detach()
    torch.testing.assert_close(gates, expected)
    assert not gates.requires_grad
    assert ((gates > 0) & (gates < 1)).all()


# -- a filter from tensors -------------------------------------------------------------------------------------------


def as_published(filter, prefix, table="label_embedding", mlp="mlp"):
    state = filter.state_dict()
    renamed = {name.replace("label_embedding", table).replace("gate.", f"{mlp}."): t for name, t in state.items()}
    return {"projector.0.weight": torch.ones(2, 2)} | {prefix + name: tensor for name, tensor in renamed.items()}


@pytest.mark.parametrize(
    ("prefix", "names"),
    [
        ("pair_loss.filter.", {"mlp": "gate"}),
        ("filter.", {}),
        ("filter.gate.", {}),
        ("filter.", {"table": "f_l", "mlp": "f_g"}),
    ],
)
def test_a_filter_is_read_from_every_layout_with_its_sizes(prefix, names):
    filter = trained_like(7, dim=5)
    found = read_filter(as_published(filter, prefix, **names))
    assert not found.training
    assert torch.equal(gate_vectors(found), gate_vectors(filter))


def test_a_filter_is_read_from_what_our_own_runs_keep():
    torch.manual_seed(0)
    loss = PairLoss(9, 6, HydraOptions(name="hydra", projector=[6]))
    tensors = {f"pair_loss.{name}": tensor for name, tensor in loss.state_dict().items()}
    assert torch.equal(gate_vectors(read_filter(tensors)), gate_vectors(loss.filter))


def test_reading_a_filter_draws_no_random_numbers():
    tensors = as_published(trained_like(7), "filter.")
    before = torch.get_rng_state()
    read_filter(tensors)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_filter_in_half_precision_computes_in_float32():
    tensors = {
        name: t.half() if t.is_floating_point() else t for name, t in as_published(trained_like(7), "filter.").items()
    }
    assert gate_vectors(read_filter(tensors)).dtype == torch.float32


def test_no_filter_is_none():
    assert read_filter({}) is None
    assert read_filter({"projector.0.weight": torch.ones(2, 2), "logit_scale": torch.ones(1)}) is None


def without(tensors, ending):
    return {name: tensor for name, tensor in tensors.items() if not name.endswith(ending)}


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors: {"filter.0.weight": torch.ones(2, 2)},
        lambda tensors: without(tensors, "label_embedding.weight"),
        lambda tensors: without(tensors, "5.weight"),
        lambda tensors: without(tensors, "running_mean"),
        lambda tensors: tensors | {"filter.other.weight": torch.ones(7, 10)},
        lambda tensors: tensors | {"filter.second.1.weight": torch.ones(10)},
        lambda tensors: tensors | {"filter.mlp.2.weight": torch.ones(14, 9)},
        lambda tensors: tensors | {"filter.label_embedding.weight": torch.ones(7)},
    ],
)
def test_an_unknown_layout_is_an_error_that_names_the_tensors(change):
    with pytest.raises(ClzooError, match=r"unknown layout: .*weight.* under 'filter\.'"):
        read_filter(change(as_published(trained_like(7), "filter.")))


# -- relations -------------------------------------------------------------------------------------------------------


def cosines_in_loops(v):
    mean = sum(v) / len(v)
    centered = [row - mean for row in v]
    return [[float(a @ b / (a.norm() * b.norm())) for b in centered] for a in centered]


def test_similarity_is_the_cosine_after_the_mean_is_subtracted():
    v = vectors() + 3
    found = class_relations(v, ANIMALS)
    np.testing.assert_allclose(found.similarity, cosines_in_loops(list(v.double())), atol=1e-6)
    np.testing.assert_allclose(found.inner, (v.double() @ v.double().T).numpy(), rtol=1e-6)


def test_neighbors_are_the_five_most_similar_others():
    v = vectors()
    similarity = cosines_in_loops(list(v.double()))
    for name, neighbors in class_relations(v, ANIMALS).neighbor_names().items():
        row = similarity[ANIMALS.index(name)]
        others = sorted((n for n in ANIMALS if n != name), key=lambda n: -row[ANIMALS.index(n)])
        assert neighbors == others[:5]


def test_the_tree_joins_the_nearest_by_the_average_over_their_pairs():
    v = vectors(6)
    distance = 1 - np.array(cosines_in_loops(list(v.double())))
    groups = {i: [i] for i in range(6)}
    for step, (left, right, height, size) in enumerate(class_relations(v, ANIMALS[:6]).linkage):
        means = {
            (a, b): distance[np.ix_(groups[a], groups[b])].mean() for a, b in itertools.combinations(sorted(groups), 2)
        }
        nearest = min(means, key=means.get)
        assert (int(left), int(right)) == nearest
        assert height == pytest.approx(means[nearest], abs=1e-6)
        groups[6 + step] = groups.pop(int(left)) + groups.pop(int(right))
        assert size == len(groups[6 + step])


def test_classes_of_one_kind_are_neighbors_and_stand_together_in_the_order():
    found = class_relations(by_parent(ANIMALS, KINDS), ANIMALS)
    assert found.neighbor_names()["cat"][0] == "lion"
    assert set(found.neighbor_names()["pig"][:3]) == {"cow", "sheep", "goat"}
    kinds = [KINDS[ANIMALS[i]] for i in found.order]
    assert len(list(itertools.groupby(kinds))) == 3


def test_equal_classes_have_no_relations():
    equal = vectors(1).expand(8, -1) * 7
    found = class_relations(equal * (1 + 1e-7 * vectors()), ANIMALS)  # but for rounding
    assert np.array_equal(found.similarity, np.eye(8))
    assert found.neighbors[3].tolist() == [0, 1, 2, 4, 5]  # ties go to the first
    assert taxonomy_scores(found.similarity, ANIMALS, KINDS)["spearman"] is None


def test_too_few_classes_and_broken_vectors_are_errors():
    with pytest.raises(ClzooError, match=r"at least 6 classes.*found 5: cat, cow"):
        class_relations(vectors(5), ANIMALS[:5])
    with pytest.raises(ClzooError, match="found 1: cat"):
        class_relations(vectors(1), ANIMALS[:1])
    with pytest.raises(ClzooError, match="8 class vectors and 7 class names"):
        class_relations(vectors(8), ANIMALS[:7])
    broken = vectors()
    broken[0, 0] = float("nan")
    with pytest.raises(ClzooError, match="not finite"):
        class_relations(broken, ANIMALS)


# -- against a taxonomy ----------------------------------------------------------------------------------------------


def rank(values):
    """Ranks with the mean rank for equal values."""
    return [sum(w < v for w in values) + (sum(w == v for w in values) + 1) / 2 for v in values]


def correlation(a, b):
    return statistics.correlation(rank(a), rank(b))


def test_scores_are_those_counted_pair_by_pair():
    similarity = class_relations(vectors(), ANIMALS).similarity
    scores = taxonomy_scores(similarity, ANIMALS, KINDS)
    pairs = list(itertools.combinations(range(8), 2))
    same = [float(KINDS[ANIMALS[i]] == KINDS[ANIMALS[j]]) for i, j in pairs]
    assert scores["spearman"] == pytest.approx(correlation([float(similarity[p]) for p in pairs], same))
    shares = []
    for i, name in enumerate(ANIMALS):
        others = sorted((j for j in range(8) if j != i), key=lambda j: -similarity[i, j])[:5]
        shares.append(sum(KINDS[ANIMALS[j]] == KINDS[name] for j in others) / 5)
    assert scores["purity_at_5"] == pytest.approx(sum(shares) / 8)


def test_with_more_levels_pairs_are_ranked_by_the_ancestors_they_share():
    levels = KINDS | {"feline": "carnivore", "canine": "carnivore", "carnivore": "animal", "farm": "animal"}

    def above(name):
        return {levels[name], *above(levels[name])} if name in levels else set()

    similarity = class_relations(vectors(), ANIMALS).similarity
    pairs = list(itertools.combinations(range(8), 2))
    depth = [len(above(ANIMALS[i]) & above(ANIMALS[j])) for i, j in pairs]
    assert set(depth) == {1, 2, 3}
    scores = taxonomy_scores(similarity, ANIMALS, levels)
    assert scores["spearman"] == pytest.approx(correlation([float(similarity[p]) for p in pairs], depth))
    assert scores["purity_at_5"] == taxonomy_scores(similarity, ANIMALS, KINDS)["purity_at_5"]  # parents alone


def test_chance_is_the_mean_of_random_neighbors_and_the_best_has_all_siblings():
    siblings = [sum(KINDS[a] == KINDS[b] for b in ANIMALS) - 1 for a in ANIMALS]
    drawn = [
        taxonomy_scores(np.random.RandomState(seed).rand(8, 8), ANIMALS, KINDS)["purity_at_5"] for seed in range(600)
    ]
    perfect = np.array([[float(KINDS[a] == KINDS[b]) for b in ANIMALS] for a in ANIMALS])
    scores = taxonomy_scores(perfect, ANIMALS, KINDS)
    assert scores["purity_at_5_by_chance"] == pytest.approx(statistics.mean(drawn), abs=0.015)
    assert scores["purity_at_5"] == pytest.approx(scores["purity_at_5_at_best"])
    assert scores["purity_at_5_at_best"] == pytest.approx(sum(siblings) / 8 / 5)
    assert scores["spearman"] == pytest.approx(1)


def test_a_class_that_the_taxonomy_lacks_is_an_error_that_names_it():
    with pytest.raises(ClzooError, match="lacks 2 of 8 classes: cat, goat"):
        taxonomy_scores(np.eye(8), ANIMALS, {k: v for k, v in KINDS.items() if k not in ("cat", "goat")})


def test_one_parent_for_all_has_no_correlation():
    scores = taxonomy_scores(np.random.RandomState(0).rand(8, 8), ANIMALS, dict.fromkeys(ANIMALS, "animal"))
    assert scores["spearman"] is None
    assert scores["purity_at_5"] == 1


def test_taxonomy_order_puts_siblings_side_by_side():
    levels = KINDS | {"feline": "carnivore", "canine": "carnivore"}
    order = taxonomy_order(ANIMALS, levels)
    assert [ANIMALS[i] for i in order] == ["dog", "wolf", "cat", "lion", "cow", "goat", "pig", "sheep"]


# -- the protocol ----------------------------------------------------------------------------------------------------


def test_features_that_follow_cifar100s_superclasses_score_high_and_shuffled_labels_at_chance():
    taxonomy = read_taxonomy("cifar100")
    names = sorted(taxonomy)
    outcome = evaluate_relations(features_around(names, by_parent(names, taxonomy)), seeds=(0,))
    details = outcome.details
    assert details["taxonomy"] == "cifar100"
    assert details["gates"] is None
    assert details["features"]["purity_at_5"] > 0.75
    assert details["features"]["purity_at_5_at_best"] == pytest.approx(4 / 5)
    assert details["features"]["purity_at_5_by_chance"] == pytest.approx(4 / 99)
    control = details["controls"]["features, shuffled labels"]
    assert control["purity_at_5"] == pytest.approx(4 / 99, abs=0.03)
    assert control["spearman"] == pytest.approx(0, abs=0.03)
    assert 0 < control["spearman_std"] < 0.05
    assert {(r.metric, r.value) for r in outcome.results} == {
        ("features Spearman", details["features"]["spearman"]),
        ("features purity@5", details["features"]["purity_at_5"]),
    }
    assert {r.protocol for r in outcome.results} == {"relations:v1(unit,centered,cos,k=5,taxonomy=cifar100)"}
    assert details["features"]["neighbors"]["maple_tree"][0].endswith("_tree")


def test_gates_are_related_beside_features_with_untrained_gates_as_control(tmp_path):
    (tmp_path / "kinds.csv").write_text("\n".join(["class,parent", *(f"{k},{v}" for k, v in KINDS.items())]))
    means = by_parent(ANIMALS, KINDS)
    filter = trained_like(8)
    with torch.no_grad():  # gates that follow the kinds
        filter.label_embedding.weight.copy_(by_parent(ANIMALS, KINDS, dim=10, noise=0.1))
    outcome = evaluate_relations(
        features_around(ANIMALS, means), filter=filter, taxonomy=tmp_path / "kinds.csv", seeds=(0, 1)
    )
    details = outcome.details
    assert details["taxonomy"] == "kinds.csv"
    expected = class_relations(gate_vectors(filter), ANIMALS)
    assert details["gates"]["neighbors"] == expected.neighbor_names()
    np.testing.assert_array_equal(outcome.arrays["relations_gates_similarity"], expected.similarity)
    assert list(details["controls"]) == ["features, shuffled labels", "gates, shuffled labels", "gates, untrained"]
    assert details["gates"]["spearman"] > details["controls"]["gates, untrained"]["spearman"] + 0.3
    assert set(outcome.arrays) == {"relations_taxonomy_order"} | {
        f"relations_{source}_{part}" for source in ("features", "gates") for part in ("similarity", "order", "linkage")
    }


def test_controls_are_means_over_draws_that_follow_the_seeds():
    names = sorted(read_taxonomy("cifar10"))
    test = features_around(names, vectors(10))
    filter = trained_like(10)
    first, again, other = (evaluate_relations(test, filter=filter, seeds=seeds).details for seeds in ((0,), (0,), (1,)))
    assert first["controls"] == again["controls"] != other["controls"]
    assert first["features"] == other["features"]
    similarity = class_relations(class_means(test.x, test.labels, names), names).similarity
    drawn = []
    for draw in range(CONTROL_DRAWS):
        order = np.random.RandomState(draw).permutation(10)
        drawn.append(taxonomy_scores(similarity, [names[i] for i in order], read_taxonomy("cifar10"))["spearman"])
    control = first["controls"]["features, shuffled labels"]
    assert control["spearman"] == pytest.approx(statistics.mean(drawn))
    assert control["spearman_std"] == pytest.approx(statistics.stdev(drawn))


def test_a_run_of_the_protocol_leaves_the_global_random_state_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    names = sorted(read_taxonomy("cifar10"))
    test, filter = features_around(names, vectors(10)), FeatureFilter(10, 4).eval()
    state = torch.get_rng_state()
    assert not torch.equal(before, state)
    evaluate_relations(test, filter=filter)
    assert torch.equal(torch.get_rng_state(), state)


def test_gates_are_put_in_the_order_of_the_datas_classes():
    filter = trained_like(8)
    turned = (*ANIMALS[3:], *ANIMALS[:3])
    outcome = evaluate_relations(features_around(ANIMALS, vectors()), filter=filter, filter_classes=turned)
    assert outcome.details["gates"]["neighbors"] == class_relations(gate_vectors(filter), turned).neighbor_names()


def test_gates_of_numbered_classes_are_matched_to_folders_sorted_as_text():
    filter, numbers = trained_like(8), tuple(str(n) for n in (0, 1, 2, 3, 4, 5, 10, 11))
    test = features_around(tuple(sorted(numbers)), vectors())
    outcome = evaluate_relations(test, filter=filter, filter_classes=numbers)
    assert outcome.details["gates"]["neighbors"] == class_relations(gate_vectors(filter), numbers).neighbor_names()


def test_gates_of_numbers_are_never_those_of_names():
    numbers = tuple("01234567")
    for names, of_filter in ((ANIMALS, numbers), (numbers, ANIMALS)):
        with pytest.raises(ClzooError, match=r"the gates are not of the data's classes.*8 of 8 differ"):
            evaluate_relations(features_around(names, vectors()), filter=trained_like(8), filter_classes=of_filter)


def test_gates_of_as_many_classes_under_other_names_are_an_error_that_names_the_first():
    test = features_around(ANIMALS, vectors())
    others = (*ANIMALS[:2], "axolotl", *ANIMALS[3:])
    with pytest.raises(ClzooError, match=f"none for {ANIMALS[2]}, but one for axolotl \\(1 of 8 differ\\)"):
        evaluate_relations(test, filter=trained_like(8), filter_classes=others)


def test_gates_of_other_classes_are_passed_over_with_a_warning(caplog):
    caplog.set_level(logging.WARNING, logger="clzoo")
    outcome = evaluate_relations(features_around(ANIMALS, vectors()), filter=trained_like(1000))
    assert outcome.details["gates"] is None
    assert "gates are of 1000 other classes than the data's 8" in caplog.text
    with pytest.raises(ClzooError, match="gates for 1000 classes, but 8 names"):
        evaluate_relations(features_around(ANIMALS, vectors()), filter=trained_like(1000), filter_classes=ANIMALS)


def test_without_a_taxonomy_there_are_neighbors_and_no_scores():
    outcome = evaluate_relations(features_around(ANIMALS, vectors()))
    assert outcome.results == []
    assert outcome.details["taxonomy"] is None
    assert outcome.details["controls"] == {}
    assert outcome.details["features"]["purity_at_5"] is None
    assert len(outcome.details["features"]["neighbors"]["cat"]) == 5
    assert "relations_taxonomy_order" not in outcome.arrays


def test_a_taxonomy_of_other_classes_is_an_error():
    with pytest.raises(ClzooError, match="lacks 6 of 8 classes"):
        evaluate_relations(features_around(ANIMALS, vectors()), taxonomy="cifar10")


@pytest.mark.parametrize("seed", range(4))
def test_purity_among_equally_similar_classes_is_the_mean_over_every_way_to_order_them(seed):
    print(f"seed {seed}")
    random = np.random.RandomState(seed)
    similarity = random.randint(0, 3, (8, 8)).astype(np.float32)
    similarity = (similarity + similarity.T) / 2
    drawn = []
    for _ in range(4000):  # ties broken at random
        order = np.lexsort((random.rand(8, 8), -np.where(np.eye(8), -9, similarity)), axis=1)[:, :5]
        drawn.append(np.mean([[KINDS[ANIMALS[j]] == KINDS[ANIMALS[i]] for j in row] for i, row in enumerate(order)]))
    assert taxonomy_scores(similarity, ANIMALS, KINDS)["purity_at_5"] == pytest.approx(np.mean(drawn), abs=0.01)
    shuffled = random.permutation(8)
    again = taxonomy_scores(similarity[np.ix_(shuffled, shuffled)], [ANIMALS[i] for i in shuffled], KINDS)
    assert again["purity_at_5"] == pytest.approx(taxonomy_scores(similarity, ANIMALS, KINDS)["purity_at_5"])


def test_classes_that_are_all_equal_have_the_purity_of_chance():
    scores = taxonomy_scores(class_relations(torch.ones(8, 4), ANIMALS).similarity, ANIMALS, KINDS)
    assert scores["purity_at_5"] == pytest.approx(scores["purity_at_5_by_chance"])
    assert scores["spearman"] is None
