import pytest
import torch
from torch import nn

from clzoo.losses import cacr, info_nce
from clzoo.methods import METHODS, create_method
from clzoo.methods.cacr import CACROptions
from clzoo.methods.simclr import SimCLROptions


def backbone() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 6), nn.BatchNorm1d(6))


def views(count: int) -> list[torch.Tensor]:
    return list(torch.randn(count, 8, 3, 4, 4, generator=torch.Generator().manual_seed(1)))


def test_cacr_gives_each_view_a_forward_pass_of_its_own():
    method = create_method(backbone(), 6, CACROptions(name="cacr", views=3, t_neg=2.0))
    batch = views(3)
    z = torch.stack([method.projector(method.backbone(view)) for view in batch])
    assert method(batch).item() == pytest.approx(cacr(z, t_pos=1.0, t_neg=2.0).item())


def test_a_joint_forward_shares_the_batchnorm_statistics_of_all_views():
    separate, joint = (
        create_method(backbone(), 6, CACROptions(name="cacr", views=3, joint_forward=joint)) for joint in (False, True)
    )
    joint.load_state_dict(separate.state_dict())
    batch = [(1 + number) * view for number, view in enumerate(views(3))]  # views of different spread
    assert abs(separate(batch).item() - joint(batch).item()) > 1e-3


def test_simclr_is_info_nce_of_the_projections():
    method = create_method(backbone(), 6, SimCLROptions(name="simclr", temperature=0.3))
    batch = views(2)
    z = method.projector(method.backbone(torch.cat(batch)))
    assert method(batch).item() == pytest.approx(info_nce(torch.stack([z[:8], z[8:]]), 0.3).item())


@pytest.mark.parametrize("options", [CACROptions(name="cacr"), SimCLROptions(name="simclr")])
def test_every_parameter_of_a_method_gets_a_gradient(options):
    method = create_method(backbone(), 6, options)
    method(views(options.views)).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in method.projector[3].parameters() if p.ndim > 1)
    assert method.backbone[1].weight.grad.abs().sum() > 0


def test_every_method_of_the_registry_can_be_named_by_a_recipe():
    assert set(METHODS) == {CACROptions(name="cacr").name, SimCLROptions(name="simclr").name}
