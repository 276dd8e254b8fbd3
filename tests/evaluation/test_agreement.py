import pytest
import torch

from clzoo.errors import ClzooError
from clzoo.evaluation import agreement
from clzoo.evaluation.agreement import linear_cka, neighbor_overlap


def cloud(count, dim, seed=0):
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))


def rotation(dim, seed=0):
    return torch.linalg.qr(cloud(dim, dim, seed).double()).Q.float()


def cka_by_kernels(x, y):
    """The same from the N x N kernels, entry by entry."""

    def centered_kernel(v):
        v = v.double()
        kernel = [[float(a @ b) for b in v] for a in v]
        count = len(kernel)
        rows = [sum(row) / count for row in kernel]
        mean = sum(rows) / count
        return [[kernel[i][j] - rows[i] - rows[j] + mean for j in range(count)] for i in range(count)]

    def inner(a, b):
        return sum(p * q for row, other in zip(a, b, strict=True) for p, q in zip(row, other, strict=True))

    a, b = centered_kernel(x), centered_kernel(y)
    return inner(a, b) / (inner(a, a) * inner(b, b)) ** 0.5


def others_in_loops(x, k):
    units = [row / row.norm() for row in x.double()]
    near = []
    for i, unit in enumerate(units):
        similarity = {j: float(unit @ other) for j, other in enumerate(units) if j != i}
        near.append(set(sorted(similarity, key=similarity.get, reverse=True)[:k]))
    return near


def test_cka_is_that_of_the_centred_kernels():
    x, y = cloud(20, 5), cloud(20, 7, seed=1) + 2
    y[:, :3] += x[:, :3]
    assert linear_cka(x, y) == pytest.approx(cka_by_kernels(x, y), abs=1e-10)
    assert linear_cka(y, x) == pytest.approx(linear_cka(x, y), abs=1e-12)


def test_cka_does_not_see_rotation_scale_and_shift():
    x = cloud(100, 16)
    assert linear_cka(x, x) == pytest.approx(1, abs=1e-12)
    assert linear_cka(x, 7 * x @ rotation(16) + 3) == pytest.approx(1, abs=1e-6)
    assert linear_cka(x, x * torch.linspace(0, 1, 16)) < 0.97  # another linear map is seen


def test_cka_of_unrelated_features_is_low_and_falls_with_the_number_of_images():
    few, many = (linear_cka(cloud(n, 20), cloud(n, 20, seed=1)) for n in (50, 5000))
    assert many < 0.02 < 0.1 < few


def test_cka_of_a_collapsed_encoder_is_zero():
    assert linear_cka(torch.ones(10, 4), cloud(10, 4)) == 0


def test_blocks_of_rows_do_not_change_cka(monkeypatch):
    x, y = cloud(50, 6), cloud(50, 8, seed=1)
    whole = linear_cka(x, y)
    monkeypatch.setattr(agreement, "_ROWS", 7)
    assert linear_cka(x, y) == pytest.approx(whole, abs=1e-12)


@pytest.mark.parametrize("k", [1, 4])
def test_overlap_is_that_counted_image_by_image(k):
    x = cloud(40, 6)
    y = x + 0.4 * cloud(40, 6, seed=1)
    pairs = zip(others_in_loops(x, k), others_in_loops(y, k), strict=True)
    expected = sum(len(a & b) / k for a, b in pairs) / 40
    assert 0.1 < expected < 0.9
    assert neighbor_overlap(x, y, k) == pytest.approx(expected, abs=1e-12)


def test_overlap_does_not_see_rotation_and_lengths():
    x = cloud(200, 8)
    assert neighbor_overlap(x, x) == 1
    lengths = torch.linspace(0.1, 10, 200)[:, None]
    assert neighbor_overlap(x, lengths * (x @ rotation(8))) > 0.999  # ties of float32 may fall the other way


def test_unrelated_features_share_neighbors_by_chance():
    assert neighbor_overlap(cloud(1000, 16), cloud(1000, 16, seed=1)) == pytest.approx(10 / 999, abs=0.004)


def test_an_image_is_not_its_own_neighbor_even_among_copies_of_itself():
    copies = torch.eye(8).repeat_interleave(4, dim=0)  # eight groups of four equal images
    shuffled = copies[torch.randperm(32, generator=torch.Generator().manual_seed(0))]
    assert neighbor_overlap(copies, copies, k=2) == 1
    assert neighbor_overlap(copies, shuffled, k=3) < 0.5


def test_features_of_other_images_too_few_or_broken_are_errors():
    for measure in (linear_cka, neighbor_overlap):
        with pytest.raises(ClzooError, match="of 20 and of 21"):
            measure(cloud(20, 3), cloud(21, 3))
        broken = cloud(20, 3)
        broken[4, 1] = float("nan")
        with pytest.raises(ClzooError, match="not finite"):
            measure(cloud(20, 3), broken)
    with pytest.raises(ClzooError, match="at least 11 images, found 10"):
        neighbor_overlap(cloud(10, 3), cloud(10, 3))
    with pytest.raises(ClzooError, match="at least 2 images, found 1"):
        linear_cka(cloud(1, 3), cloud(1, 3))
