from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from clzoo import neighbors
from clzoo.errors import ClzooError
from clzoo.neighbors import MEMORY_BUDGET, nearest, nearest_others, plan_blocks, precision

TINY = 30_000  # bytes: blocks of 32 rows
CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def signs(rows, seed, dim=16):
    """Vectors of +1 and -1 in 16 or 64 dimensions: their lengths are powers of 2, so their cosines are exact."""
    return torch.randint(2, (rows, dim), generator=torch.Generator().manual_seed(seed)) * 2.0 - 1


def normal(rows, seed, dim=24):
    return torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed))


def one_at_a_time(bank, queries, k):
    """Rows and cosines of the k nearest, in float64, the lower row first among equals."""
    found = []
    for query in queries.double():
        cosines = [float(query @ row / (query.norm() * row.norm())) for row in bank.double()]
        found.append(sorted(enumerate(cosines), key=lambda pair: (-pair[1], pair[0]))[:k])
    rows = torch.tensor([[row for row, _ in pairs] for pairs in found])
    return torch.tensor([[cosine for _, cosine in pairs] for pairs in found], dtype=torch.float64), rows


@pytest.mark.parametrize("budget", [TINY, 200_000, MEMORY_BUDGET])
@pytest.mark.parametrize("k", [1, 7, 33, 300])
@pytest.mark.parametrize("seed", [0, 1])
def test_ties_at_every_place_go_to_the_lower_row(seed, k, budget):
    bank, queries = signs(300, seed), signs(70, seed + 100)  # 17 possible cosines: nearly everything ties
    bank[200:260] = bank[torch.arange(60) % 7]  # and rows that are there many times
    similarity, rows = nearest(bank, queries, k, budget=budget)
    expected, expected_rows = one_at_a_time(bank, queries, k)
    assert torch.equal(rows, expected_rows)
    assert torch.equal(similarity.double(), expected)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(("bank", "queries", "k"), [(500, 40, 5), (333, 1, 100), (31, 65, 31), (1000, 3, 1), (1, 1, 1)])
def test_real_numbers_give_the_neighbors_that_float64_gives(bank, queries, k, seed):
    bank, queries = 3 * normal(bank, seed), normal(queries, seed + 100)
    expected, expected_rows = one_at_a_time(bank, queries, k)
    for budget in (TINY, MEMORY_BUDGET):
        similarity, rows = nearest(bank, queries, k, budget=budget)
        assert torch.equal(rows, expected_rows)
        torch.testing.assert_close(similarity.double(), expected, rtol=0, atol=3e-7)


@pytest.mark.parametrize("queries", [1, 2, 3, 33, 600])
@pytest.mark.parametrize("budget", [MEMORY_BUDGET, 4 << 20])
def test_equal_rows_are_equally_near_wherever_they_stand(queries, budget):
    bank, queries = normal(4999, 0, dim=512), normal(queries, 1, dim=512)
    copies = torch.arange(0, 4999, 7)  # 715 rows, in all blocks and at every place of a group
    bank[copies] = queries[0]
    similarity, rows = nearest(bank, queries, 400, budget=budget)
    assert torch.equal(rows[0], copies[:400])
    assert len(similarity[0].unique()) == 1


def test_the_division_into_blocks_changes_nothing():
    bank, queries = normal(2000, 0, dim=64), normal(300, 1, dim=64)
    whole = nearest(bank, queries, 50)
    for budget in (TINY, 500_000, 2_000_000):
        similarity, rows = nearest(bank, queries, 50, budget=budget)
        assert torch.equal(rows, whole[1])
        assert torch.equal(similarity, whole[0])


def test_a_constant_bank_gives_its_first_rows():
    similarity, rows = nearest(torch.ones(5000, 4), torch.ones(2, 4), 40)
    assert rows.tolist() == [list(range(40))] * 2
    assert torch.equal(similarity, torch.ones(2, 40))


def test_zero_vectors_are_near_to_nothing_and_opposite_ones_are_farthest():
    bank = torch.tensor([[0.0, 0.0], [-2.0, 0.0], [3.0, 0.0], [0.0, -1.0]])
    similarity, rows = nearest(bank, torch.tensor([[5.0, 0.0], [0.0, 0.0]]), 4)
    assert similarity.tolist() == [[1, 0, 0, -1], [0, 0, 0, 0]]
    assert rows.tolist() == [[2, 0, 3, 1], [0, 1, 2, 3]]


def test_a_bank_on_disk_and_half_precision_are_read_as_they_are(tmp_path):
    bank, queries = normal(700, 0), normal(20, 1)
    np.save(tmp_path / "bank.npy", bank.numpy())
    mapped = torch.from_numpy(np.load(tmp_path / "bank.npy", mmap_mode="c"))
    assert torch.equal(nearest(mapped, queries, 9, budget=TINY)[1], nearest(bank, queries, 9)[1])
    half = bank.half()
    assert torch.equal(nearest(half, queries, 9)[1], nearest(half.float(), queries, 9)[1])
    assert torch.equal(half, bank.half()), "the caller's features were changed"


@pytest.fixture
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def test_the_mode_of_the_caller_does_not_matter(three_threads):
    bank, queries = normal(700, 0).requires_grad_(), normal(300, 1)
    similarity, rows = nearest(bank, queries, 9)
    assert not similarity.requires_grad
    with torch.inference_mode():
        again = nearest(bank * 1, queries * 1, 9)
    assert torch.equal(again[1], rows)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(nearest(bank, queries, 9)[0], similarity)


def test_the_number_of_threads_changes_nothing_and_is_as_before(three_threads):
    similarity, rows = nearest(normal(700, 0), normal(300, 1), 9)
    with ThreadPoolExecutor(1) as pool:
        assert [torch.get_num_threads(), pool.submit(torch.get_num_threads).result()] == [3, 3]
    torch.set_num_threads(1)
    alone = nearest(normal(700, 0), normal(300, 1), 9)
    assert torch.equal(alone[1], rows)
    assert torch.equal(alone[0], similarity)


def test_lower_precision_that_the_process_allows_is_not_used_and_stays_allowed():
    bank, queries = normal(2000, 0, dim=512), normal(300, 1, dim=512)
    exact = nearest(bank, queries, 9)
    try:
        torch.set_float32_matmul_precision("medium")
        similarity, rows = nearest(bank, queries, 9)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert torch.equal(similarity, exact[0])
    assert torch.equal(rows, exact[1])


@pytest.mark.parametrize("threads", [1, 2, 64])
@pytest.mark.parametrize("device", [CPU, CUDA], ids=str)
@pytest.mark.parametrize("budget", [128 << 20, 1 << 30, 8 << 30])
@pytest.mark.parametrize(
    ("bank", "queries", "dim", "k"),
    [(50_000, 10_000, 512, 200), (1_281_167, 50_000, 2048, 200), (1_281_167, 50_000, 2048, 5000), (40, 3, 8, 40)],
)
def test_a_plan_stays_within_its_budget(bank, queries, dim, k, budget, device, threads, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    blocks = plan_blocks(bank, queries, dim, k, budget=budget, device=device)
    assert blocks.bytes <= budget
    assert blocks.bytes >= 4 * (dim * (blocks.bank + blocks.queries) + blocks.workers * blocks.tile * blocks.bank)
    for rows in (blocks.bank, blocks.queries, blocks.tile):
        assert rows % 32 == 0
        assert rows > 0


def test_a_plan_for_imagenet_reads_the_bank_few_times_and_multiplies_large_blocks():
    blocks = plan_blocks(1_281_167, 50_000, 2048, 200)
    assert -(-50_000 // blocks.queries) <= 2
    assert blocks.tile >= 256
    assert blocks.bank >= 16_384
    assert plan_blocks(50_000, 10_000, 512, 200).bank >= 50_000


def resident_growth(function):
    """Bytes by which the memory of this process was larger while `function` ran than before."""

    def status(field):
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith(field))

    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    except OSError:
        pytest.skip("this system does not measure the peak")
    before = status("VmRSS")
    function()
    return status("VmHWM") - before


@pytest.mark.parametrize(("bank", "dim", "k"), [(100_000, 64, 20), (20_000, 512, 200), (20_000, 64, 1000)])
def test_the_memory_that_is_used_is_the_memory_that_was_planned(bank, dim, k):
    features, queries = normal(bank, 0, dim), normal(1000, 1, dim)
    budget = 64 << 20  # a sixth of the whole matrix of similarities in the first case
    nearest(features[:3000], queries[:600], 20)  # what is loaded once
    result = 12 * len(queries) * k
    assert resident_growth(lambda: nearest(features, queries, k, budget=budget)) < 1.2 * budget + result


def test_what_cannot_be_compared_is_an_error():
    bank, queries = normal(10, 0), normal(4, 1)
    with pytest.raises(ClzooError, match="k=11 needs at least 11 bank images, found 10"):
        nearest(bank, queries, 11)
    with pytest.raises(ClzooError, match="k of at least 1, found k=0"):
        nearest(bank, queries, 0)
    with pytest.raises(ClzooError, match=r"same dimension.*\(10, 24\) and \(4, 23\)"):
        nearest(bank, queries[:, 1:], 3)
    with pytest.raises(ClzooError, match=r"same dimension.*\(24,\)"):
        nearest(bank, queries[0], 3)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 1e30])
@pytest.mark.parametrize("row", [0, 40, 99])
def test_features_that_are_not_finite_are_found_in_any_block(row, bad):
    bank, queries = normal(100, 0), normal(100, 1)
    bank[row, 3] = bad
    for both in ((bank, queries), (queries, bank)):
        with pytest.raises(ClzooError, match="not finite"):
            nearest(*both, 3, budget=TINY)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["highest", "high"])
@pytest.mark.parametrize("budget", [1 << 20, MEMORY_BUDGET])
def test_a_gpu_finds_what_the_cpu_finds(budget, precision):
    bank, queries = signs(3000, 0, dim=64), signs(700, 1, dim=64)
    expected = nearest(bank, queries, 50)
    real, real_queries = normal(20_000, 2, dim=512), normal(500, 3, dim=512)
    real[torch.arange(0, 20_000, 7)] = real_queries[0]
    real_expected = nearest(real, real_queries, 100)
    try:
        torch.set_float32_matmul_precision(precision)
        similarity, rows = nearest(bank, queries, 50, budget=budget, device=CUDA)
        assert rows.device.type == "cpu"
        assert torch.equal(rows, expected[1])
        assert torch.equal(similarity, expected[0])
        similarity, rows = nearest(real.cuda(), real_queries.cuda(), 100, budget=budget)
        assert rows.device.type == "cuda"
        torch.testing.assert_close(similarity.cpu(), real_expected[0], rtol=0, atol=5e-7)  # TF32: 1e-4
        assert torch.equal(rows[0].cpu(), real_expected[1][0])
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        nearest(real, real_queries, 100, budget=64 << 20, device=CUDA)
        assert torch.cuda.max_memory_allocated() - before < 80 << 20
    finally:
        torch.set_float32_matmul_precision("highest")


def test_keys_order_by_similarity_and_then_by_row():
    values = torch.tensor([-1.0, -0.5, -1e-30, 0.0, -0.0, 1e-30, 0.5, 1.0])
    rows = torch.tensor([0, 9, 3, 6, 5, 1, 1, 2**32 - 1])
    keys = neighbors._keys(values, rows)
    assert keys.argsort().tolist() == list(range(8))  # 0.0 and -0.0 are equal, so row 5 is better than row 6
    assert torch.equal(neighbors._similarity_of(keys), values)
    assert torch.equal(neighbors._row_of(keys), rows)


def test_the_nearest_others_are_never_the_vector_itself_and_precision_is_their_share_of_one_group():
    vectors = np.array([[1, 0], [0.9, 0.1], [0, 1], [0.1, 0.9], [0, 1]], np.float32)
    assert nearest_others(vectors, 2).tolist() == [[1, 3], [0, 3], [4, 3], [2, 4], [2, 3]]
    assert nearest_others(np.ones((9, 3), np.float32), 2).tolist() == [[1, 2], [0, 2], *[[0, 1]] * 7]
    assert precision(["a", "a", "b", "b", "a"], nearest_others(vectors, 1)) == 3 / 5
    assert precision(["a", "a", "b", "b", "a"], nearest_others(vectors, 2)) == 4 / 10
