"""The same values as an independent library, where it is installed: pip install lightly."""

import pytest
import torch
import torch.nn.functional as F

from clzoo.losses import hcl, info_nce, info_nce_queue

lightly_loss = pytest.importorskip("lightly.loss", reason="lightly is not installed")


@pytest.mark.parametrize("temperature", [0.1, 0.5])
@pytest.mark.parametrize("n", [4, 33])
def test_info_nce_is_lightlys_nt_xent(n, temperature):
    z = torch.randn(2, n, 16, generator=torch.Generator().manual_seed(0))
    expected = lightly_loss.NTXentLoss(temperature=temperature)(z[0], z[1])
    assert info_nce(z, temperature).item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_queue_form_is_lightlys_with_a_memory_bank():
    theirs = lightly_loss.NTXentLoss(temperature=0.2, memory_bank_size=(32, 16))
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(2, 32, 16, generator=generator)
    theirs(first[0].requires_grad_(), first[1])  # fills the bank
    z = torch.randn(2, 8, 16, generator=generator)
    bank = (
        theirs.memory_bank.bank.T.clone() if theirs.memory_bank.bank.shape[0] == 16 else theirs.memory_bank.bank.clone()
    )
    expected = theirs(z[0], z[1])
    assert info_nce_queue(z[0], z[1], F.normalize(bank, dim=1), 0.2).item() == pytest.approx(expected.item(), rel=1e-4)


def test_debiased_without_a_prior_is_lightlys_nt_xent():
    z = torch.randn(2, 16, 8, generator=torch.Generator().manual_seed(0))
    expected = lightly_loss.NTXentLoss(temperature=0.5)(z[0], z[1])
    assert hcl(z, temperature=0.5, tau_plus=0, beta=0).item() == pytest.approx(expected.item(), rel=1e-5)
