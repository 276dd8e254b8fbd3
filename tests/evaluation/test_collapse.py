import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from clzoo.errors import ClzooError
from clzoo.evaluation import collapse
from clzoo.evaluation.collapse import alignment_uniformity, evaluate_collapse, spectrum
from clzoo.evaluation.features import Features

CPU = torch.device("cpu")


def cloud(count, dim, seed=0):
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))


def features_of(x):
    labels = torch.arange(len(x)) % 2
    return Features(x, labels, ("cat", "dog"), "pets", {})


def effective_rank_in_loops(values):
    total = sum(values)
    return math.exp(-sum(v / total * math.log(v / total) for v in values if v > 0))


def reference(x):
    """Singular values of the centred unit rows, by numpy on the whole matrix."""
    rows = x.double().numpy()
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    found = np.linalg.svd(rows - rows.mean(axis=0), compute_uv=False)
    return np.concatenate([found, np.zeros(max(0, x.shape[1] - len(found)))])


@pytest.mark.parametrize(("count", "dim"), [(200, 12), (12, 12), (13, 12), (7, 12), (5, 1)])
def test_singular_values_and_ranks_are_those_of_a_plain_decomposition(count, dim):
    x = cloud(count, dim)
    expected = reference(x)
    found = spectrum(x)
    assert found.singular_values.shape == (dim,)
    np.testing.assert_allclose(found.singular_values.numpy(), expected, atol=1e-6)
    np.testing.assert_allclose(found.singular_values.square().sum(), (expected**2).sum(), rtol=1e-10)
    assert found.effective_rank == pytest.approx(effective_rank_in_loops(expected), rel=1e-6)
    assert found.effective_rank_covariance == pytest.approx(effective_rank_in_loops(expected**2 / count), rel=1e-8)
    assert found.numerical_rank == sum(v**2 > 1e-3 * expected[0] ** 2 for v in expected)


def test_blocks_of_rows_change_nothing(monkeypatch):
    x = cloud(50, 6)
    whole = spectrum(x)
    monkeypatch.setattr(collapse, "_ROWS", 7)
    torch.testing.assert_close(spectrum(x).singular_values, whole.singular_values, rtol=0, atol=1e-12)


def test_lengths_of_features_do_not_count():
    x = cloud(50, 6)
    stretched = x * torch.linspace(0.1, 100, 50)[:, None]
    torch.testing.assert_close(spectrum(stretched).singular_values, spectrum(x).singular_values, rtol=1e-5, atol=1e-6)


def test_a_cloud_in_a_subspace_has_the_rank_of_the_subspace():
    flat = torch.zeros(400, 20)
    flat[:, :5] = cloud(400, 5)
    found = spectrum(flat)
    assert found.numerical_rank == 5
    assert 4.8 < found.effective_rank <= 5
    assert 4.8 < found.effective_rank_covariance <= 5


@pytest.mark.parametrize(("along_first", "rank"), [(900, 2), (1100, 1)])
def test_numerical_rank_counts_from_a_thousandth_of_the_covariance(along_first, rank):
    first, second = torch.eye(2, 3)
    x = torch.cat([first.expand(along_first, 3), -first.expand(along_first, 3), second[None], -second[None]])
    found = spectrum(x)
    assert found.singular_values.tolist() == pytest.approx([math.sqrt(2 * along_first), math.sqrt(2), 0], abs=1e-4)
    assert found.numerical_rank == rank


def test_equal_directions_are_total_collapse():
    direction = cloud(1, 8)
    for x in (direction, direction.expand(100, 8), direction * torch.linspace(0.5, 3, 100)[:, None], torch.ones(3, 8)):
        found = spectrum(x)
        assert found.singular_values.tolist() == [0] * 8
        assert (found.effective_rank, found.effective_rank_covariance, found.numerical_rank) == (1, 1, 0)


def test_two_points_are_a_line():
    x = torch.eye(2, 8).repeat(50, 1)
    found = spectrum(x)
    assert found.numerical_rank == 1
    assert found.effective_rank == pytest.approx(1, abs=1e-5)


def test_alignment_and_uniformity_are_those_written_in_loops():
    first, second = cloud(9, 4, seed=1).double(), cloud(9, 4, seed=2).double()
    x, y = ([v / v.norm() for v in view] for view in (first, second))
    aligned = sum(float((a - b).square().sum()) for a, b in zip(x, y, strict=True)) / 9
    spread = [
        math.log(sum(math.exp(-2 * float((v[i] - v[j]).square().sum())) for i in range(9) for j in range(i)) / 36)
        for v in (x, y)
    ]
    assert alignment_uniformity(first, second) == pytest.approx((aligned, sum(spread) / 2), abs=1e-12)


def test_equal_views_are_aligned_and_collapsed_ones_not_uniform():
    x = cloud(20, 4)
    alignment, uniformity = alignment_uniformity(x, 3 * x)
    assert alignment == pytest.approx(0, abs=1e-12)
    assert uniformity < -1
    assert alignment_uniformity(torch.ones(5, 4), torch.ones(5, 4)) == pytest.approx((0, 0), abs=1e-6)
    assert alignment_uniformity(x, -x)[0] == pytest.approx(4)


def test_backbone_and_projector_are_measured_each_in_its_own_space():
    x = cloud(60, 6)
    pairs = (cloud(10, 6, seed=1), cloud(10, 6, seed=2))
    torch.manual_seed(0)
    projector = nn.Linear(6, 3).eval()
    outcome = evaluate_collapse(features_of(x), projector=projector, pairs=pairs, device=CPU)
    with torch.no_grad():
        projected = [projector(part) for part in (x, *pairs)]
    for name, (of, first, second) in (("backbone", (x, *pairs)), ("projector", projected)):
        values = outcome.details[name]
        expected = spectrum(of)
        assert values["dim"] == of.shape[1]
        assert values["singular_values"] == pytest.approx(expected.singular_values.tolist(), rel=1e-5)
        assert values["effective_rank"] == pytest.approx(expected.effective_rank)
        assert values["numerical_rank"] == expected.numerical_rank
        assert values["alignment"] == pytest.approx(alignment_uniformity(first, second)[0])
        assert values["uniformity"] == pytest.approx(alignment_uniformity(of, of)[1])
    by_metric = {result.metric: result.value for result in outcome.results}
    assert by_metric["projector effective rank"] == outcome.details["projector"]["effective_rank"]
    assert by_metric["backbone alignment"] == outcome.details["backbone"]["alignment"]
    assert len(by_metric) == 10
    assert {result.protocol for result in outcome.results} == {"collapse:v1(unit,centered,t=2,pairs of 5000)"}


def test_the_projector_sees_raw_features_in_blocks(monkeypatch):
    monkeypatch.setattr(collapse, "_ROWS", 16)
    seen = []

    class Recorder(nn.Module):
        def forward(self, x):
            seen.append(x)
            return x[:, :2]

    x = 10 * cloud(40, 6)
    evaluate_collapse(features_of(x), projector=Recorder(), device=CPU)
    assert [len(part) for part in seen] == [16, 16, 8]
    assert torch.equal(torch.cat(seen), x)


def test_without_pairs_alignment_is_null_and_without_projector_its_part():
    outcome = evaluate_collapse(features_of(cloud(30, 4)), device=CPU)
    assert outcome.details["backbone"]["alignment"] is None
    assert outcome.details["backbone"]["uniformity"] < 0
    assert outcome.details["projector"] is None
    assert "backbone alignment" not in {result.metric for result in outcome.results}


def test_uniformity_of_many_images_is_that_of_evenly_spaced_ones(monkeypatch):
    monkeypatch.setattr(collapse, "UNIFORMITY_IMAGES", 4)
    x = cloud(10, 6)
    found = evaluate_collapse(features_of(x), device=CPU).details["backbone"]["uniformity"]
    chosen = x[[0, 3, 6, 9]]
    assert found == pytest.approx(alignment_uniformity(chosen, chosen)[1])


def test_a_feature_of_zeros_stays_at_the_origin():
    x = F.pad(cloud(10, 4), (0, 0, 1, 0))
    np.testing.assert_allclose(
        spectrum(x).singular_values.square().sum(),
        (F.normalize(x.double()) - F.normalize(x.double()).mean(dim=0)).square().sum(),
    )


def test_bad_features_are_errors():
    broken = cloud(5, 4)
    broken[2, 1] = float("inf")
    with pytest.raises(ClzooError, match="not finite"):
        spectrum(broken)
    with pytest.raises(ClzooError, match="at least one image"):
        spectrum(torch.zeros(0, 4))
    with pytest.raises(ClzooError, match=r"same shape"):
        alignment_uniformity(cloud(5, 4), cloud(6, 4))
    with pytest.raises(ClzooError, match="pets has 1"):
        evaluate_collapse(features_of(cloud(1, 4)), device=CPU)
    with pytest.raises(ClzooError, match="at least two images"):
        alignment_uniformity(cloud(1, 4), cloud(1, 4))
