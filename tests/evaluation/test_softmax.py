import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from clzoo.evaluation.softmax import (
    Softmax,
    Standardization,
    cross_entropy,
    fit_softmax,
    mean_curvature,
    second_moments,
)


def problem(seed=0, count=300, dim=12, classes=4):
    """Overlapping classes, features of very uneven variance and correlated; float64."""
    g = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (count,), generator=g)
    centers = torch.randn(classes, dim, generator=g, dtype=torch.float64)
    x = centers[labels] + 1.5 * torch.randn(count, dim, generator=g, dtype=torch.float64)
    x = x @ torch.randn(dim, dim, generator=g, dtype=torch.float64) * torch.logspace(0, -2, dim, dtype=torch.float64)
    return x, labels, classes


def random_softmax(seed, classes, dim):
    g = torch.Generator().manual_seed(seed)
    return Softmax(
        torch.randn(classes, dim, generator=g, dtype=torch.float64),
        torch.randn(classes, generator=g, dtype=torch.float64),
    )


def positive(seed, count):
    return torch.rand(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.1


def objective(fit, x, labels, penalty, weights):
    """Image by image."""
    total = 0.0
    for image, label, weight in zip(x, labels, weights / weights.sum(), strict=True):
        scores = fit.weight @ image + fit.bias
        total += weight * (torch.logsumexp(scores, 0) - scores[label])
    return float(total + penalty / 2 * fit.weight.square().sum())


@pytest.mark.parametrize("penalty", [1e-1, 1e-3])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_optimum_is_scikit_learns(penalty, weighted):
    x, labels, classes = problem()
    weights = positive(1, len(x)) if weighted else torch.ones(len(x), dtype=torch.float64)
    fit = fit_softmax(x, labels, classes, penalty=penalty, weights=weights, tolerance=1e-8)
    theirs = LogisticRegression(C=1 / (penalty * weights.sum().item()), tol=1e-9, max_iter=100_000)
    theirs.fit(x.numpy(), labels.numpy(), sample_weight=weights.numpy())
    reference = Softmax(torch.from_numpy(theirs.coef_), torch.from_numpy(theirs.intercept_))
    ours, expected = (objective(one, x, labels, penalty, weights) for one in (fit, reference))
    assert ours == pytest.approx(expected, abs=1e-8)
    torch.testing.assert_close(fit.weight, reference.weight, rtol=1e-3, atol=1e-3 * reference.weight.abs().max().item())
    # A number added to all biases changes nothing.
    torch.testing.assert_close(fit.bias - fit.bias.mean(), reference.bias - reference.bias.mean(), rtol=1e-3, atol=1e-3)


def test_the_stated_tolerance_is_near_the_optimum_in_float32():
    x, labels, classes = problem(count=2000)
    weights = torch.ones(len(x), dtype=torch.float64)
    x = (x - x.mean(dim=0)) / x.std(dim=0)
    exact = fit_softmax(x, labels, classes, penalty=1e-4, tolerance=1e-9)
    fit = fit_softmax(x.float(), labels, classes, penalty=1e-4)
    found = Softmax(fit.weight.double(), fit.bias.double())
    gap = objective(found, x, labels, 1e-4, weights) - objective(exact, x, labels, 1e-4, weights)
    assert 0 <= gap < 5e-5


@pytest.mark.parametrize("budget", [1, 3000, 1 << 30])
def test_gradient_by_hand_equals_autograd_whatever_the_blocks(budget):
    x, labels, classes = problem()
    at, share = random_softmax(2, classes, x.shape[1]), positive(3, len(x))
    weight, bias = at.weight.clone().requires_grad_(), at.bias.clone().requires_grad_()
    each = torch.nn.functional.cross_entropy(x @ weight.T + bias, labels, reduction="none")
    (share * each).sum().backward()
    loss, gradient = cross_entropy(x, labels, at, share, budget=budget)
    torch.testing.assert_close(loss, (share * each).sum().detach())
    torch.testing.assert_close(gradient, torch.cat([weight.grad, bias.grad[:, None]], dim=1))


@pytest.mark.parametrize("factor", [1e-3, 1.0, 1e3])
def test_the_preconditioner_does_not_change_the_optimum(factor):
    x, labels, classes = problem()
    usual = fit_softmax(x, labels, classes, penalty=1e-2, tolerance=1e-9)
    other = factor * torch.eye(x.shape[1] + 1, dtype=torch.float64)
    fit = fit_softmax(x, labels, classes, penalty=1e-2, moments=other, tolerance=1e-9)
    torch.testing.assert_close(fit.weight, usual.weight, rtol=1e-3, atol=1e-4)


def test_the_preconditioner_saves_steps_on_features_of_uneven_variance(monkeypatch):
    g = torch.Generator().manual_seed(9)
    labels, classes = torch.randint(4, (1000,), generator=g), 4
    centers, rotation = torch.randn(classes, 60, generator=g), torch.linalg.qr(torch.randn(60, 60, generator=g))[0]
    x = (centers[labels] / 4 + torch.randn(1000, 60, generator=g)) * torch.logspace(0, -2, 60) @ rotation
    x = Standardization.of(x)(x)
    calls = []
    step = torch.optim.LBFGS.step

    def counted(self, closure):
        def one_more():
            calls[-1] += 1
            return closure()

        calls.append(0)
        return step(self, one_more)

    monkeypatch.setattr(torch.optim.LBFGS, "step", counted)
    plain = torch.eye(61, dtype=torch.float64)
    for moments in (None, plain):
        fit_softmax(x, labels, classes, penalty=1e-4, moments=moments)
    assert calls[0] < calls[1] / 3


def test_blocks_of_rows_and_another_start_do_not_change_the_optimum():
    x, labels, classes = problem()
    whole = fit_softmax(x, labels, classes, penalty=1e-2, tolerance=1e-9)
    blocks = fit_softmax(x, labels, classes, penalty=1e-2, tolerance=1e-9, budget=3000)
    far = fit_softmax(
        x, labels, classes, penalty=1e-2, tolerance=1e-9, start=random_softmax(4, classes, x.shape[1])
    )  # fmt: skip
    torch.testing.assert_close(blocks.weight, whole.weight, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(far.weight, whole.weight, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(blocks.scores(x, budget=3000), whole.scores(x), rtol=1e-5, atol=1e-5)


def test_an_image_of_weight_zero_counts_as_if_it_were_not_there():
    x, labels, classes = problem()
    kept = torch.rand(len(x), generator=torch.Generator().manual_seed(5)) < 0.7
    without = fit_softmax(x[kept], labels[kept], classes, penalty=1e-2, tolerance=1e-9)
    weighted = fit_softmax(x, labels, classes, penalty=1e-2, weights=kept.double(), tolerance=1e-9)
    torch.testing.assert_close(weighted.weight, without.weight, rtol=1e-4, atol=1e-5)


def test_a_class_without_images_is_never_predicted_and_leaves_the_others_alone():
    x, labels, classes = problem()
    compact = fit_softmax(x, labels, classes, penalty=1e-2, tolerance=1e-9)
    places = torch.tensor([0, 2, 3, 5])  # of the four classes among six
    fit = fit_softmax(x, places[labels], 6, penalty=1e-2, tolerance=1e-9)
    assert fit.bias[[1, 4]].tolist() == [-torch.inf, -torch.inf]
    torch.testing.assert_close(fit.scores(x)[:, places], compact.scores(x), rtol=1e-4, atol=1e-4)
    again = fit_softmax(x, places[labels], 6, penalty=1e-3, start=fit)
    assert torch.isfinite(again.weight).all()


def test_an_unpenalised_bias_takes_up_the_whole_offset():
    x, labels, classes = problem()
    offset = torch.tensor([0.0, -1.0, -2.0, -3.0], dtype=torch.float64)
    plain = fit_softmax(x, labels, classes, penalty=1e-2, tolerance=1e-9)
    fit = fit_softmax(x, labels, classes, penalty=1e-2, offset=offset, tolerance=1e-9)
    torch.testing.assert_close(fit.weight, plain.weight, rtol=1e-3, atol=1e-4)
    shifted = fit.bias + offset
    torch.testing.assert_close(shifted - shifted.mean(), plain.bias - plain.bias.mean(), rtol=1e-3, atol=1e-4)


def test_standardization_gives_mean_zero_and_variance_one_and_leaves_still_dimensions_at_zero():
    x = problem()[0].float() * 7 + 1000
    x[:, 3] = 0.1  # not a binary fraction
    z = Standardization.of(x)(x)
    moving = [i for i in range(x.shape[1]) if i != 3]
    reference = x.double().numpy()[:, moving]
    expected = (reference - reference.mean(axis=0)) / reference.std(axis=0)
    np.testing.assert_allclose(z[:, moving].numpy(), expected, atol=1e-3)
    assert z[:, 3].tolist() == [0.0] * len(x)


def test_features_far_from_zero_are_fitted_as_well_as_centered_ones():
    x, labels, classes = problem()
    reference = fit_softmax(Standardization.of(x)(x), labels, classes, penalty=1e-2, tolerance=1e-9)
    far = (x + 500).float()
    fit = fit_softmax(far, labels, classes, penalty=1e-2, standardization=Standardization.of(far))
    assert (
        fit.scores(far).argmax(dim=1) == reference.scores(Standardization.of(x)(x)).argmax(dim=1)
    ).float().mean() > 0.99


def test_moments_are_the_weighted_mean_of_outer_products():
    x, _, _ = problem(count=50)
    weights = positive(6, len(x))
    standardization = Standardization.of(x)
    expected = np.zeros((x.shape[1] + 1, x.shape[1] + 1))
    for image, weight in zip(standardization(x).numpy(), (weights / weights.sum()).numpy(), strict=True):
        z = np.append(image, 1.0)
        expected += weight * np.outer(z, z)
    found = second_moments(x, weights, standardization, budget=3000)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_moments_of_fewer_images_than_dimensions_are_positive_definite_in_float32(seed):
    x = torch.randn(20, 200, generator=torch.Generator().manual_seed(seed)) * torch.logspace(2, -2, 200)
    torch.linalg.cholesky(second_moments(x, torch.ones(len(x))))


def test_mean_curvature_is_the_mean_eigenvalue_of_the_hessian_of_an_image():
    x, _, classes = problem(count=40)
    at, share = random_softmax(7, classes, x.shape[1]), positive(8, 40)
    share /= share.sum()
    expected = 0.0
    for image, weight in zip(x, share, strict=True):
        p = torch.softmax(at.weight @ image + at.bias, 0)
        eigenvalues = torch.linalg.eigvalsh(torch.diag(p) - torch.outer(p, p))  # one of them is 0
        expected += float(weight * eigenvalues.sum() / (classes - 1))
    assert mean_curvature(x, at, share, budget=3000) == pytest.approx(max(1e-4, expected))
    zeros = Softmax(torch.zeros_like(at.weight), torch.zeros_like(at.bias))
    assert mean_curvature(x, zeros, share) == pytest.approx(1 / classes)


def test_features_mapped_from_a_file_are_fitted_as_they_lie(tmp_path):
    x, labels, classes = problem()
    np.save(tmp_path / "x.npy", x.float().numpy())
    mapped = torch.from_numpy(np.load(tmp_path / "x.npy", mmap_mode="c"))
    fit = fit_softmax(mapped, labels, classes, penalty=1e-2, budget=3000)
    torch.testing.assert_close(fit.weight, fit_softmax(x.float(), labels, classes, penalty=1e-2, budget=3000).weight)


def test_a_fit_that_runs_out_of_steps_says_so(monkeypatch, caplog):
    monkeypatch.setattr("clzoo.evaluation.softmax._STEPS", 2)
    x, labels, classes = problem()
    with caplog.at_level("WARNING", logger="clzoo"):
        fit_softmax(x, labels, classes, penalty=1e-3)
    assert "did not converge in 2 steps" in caplog.text


@pytest.mark.gpu
def test_a_gpu_finds_the_same_optimum_with_features_there_or_moved_block_by_block():
    x, labels, classes = problem()
    expected = fit_softmax(x, labels, classes, penalty=1e-2, tolerance=1e-8)
    cuda = torch.device("cuda")
    for place in (x, x.to(cuda)):
        fit = fit_softmax(place, labels, classes, penalty=1e-2, tolerance=1e-8, device=cuda, budget=3000)
        assert fit.weight.device.type == "cuda"
        torch.testing.assert_close(fit.weight.cpu(), expected.weight, rtol=1e-4, atol=1e-5)
