"""The discriminator's shape and count, and the two losses, by hand."""

import pytest
import torch
from torch import nn

from stages.models.discriminator import PatchDiscriminator, adaptive_weight, hinge_loss


@pytest.mark.parametrize(
    ("layers", "parameters", "side"),
    [
        # first, then kernels and BatchNorm's two, then the last
        (3, 3 * 64 * 16 + 64 + 64 * 128 * 16 + 256 + 128 * 256 * 16 + 512 + 256 * 512 * 16 + 1024 + 512 * 16 + 1, 30),
        (2, 3 * 64 * 16 + 64 + 64 * 128 * 16 + 256 + 128 * 256 * 16 + 512 + 256 * 16 + 1, 62),
    ],
)
def test_a_map_of_patches_and_the_count_of_ldms_discriminator(layers: int, parameters: int, side: int) -> None:
    model = PatchDiscriminator(layers)
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert parameters == {3: 2_765_633, 2: 663_361}[layers]
    real, made = model(torch.rand(2, 3, 256, 256), torch.rand(2, 3, 256, 256))
    assert real.shape == made.shape == (2, 1, side, side)


def test_each_logit_sees_a_patch_only() -> None:
    """Three convolutions of stride 2 and two of stride 1, kernel 4: 70 pixels, as in pix2pix; with two, 34."""
    for layers, width in ((3, 70), (2, 34)):
        model = PatchDiscriminator(layers).eval()
        x = torch.rand(1, 3, 128, 128, requires_grad=True)
        logits = model.net(x)
        logits[0, 0, logits.shape[2] // 2, logits.shape[3] // 2].backward()
        assert x.grad is not None
        seen = x.grad.abs().sum(dim=(0, 1)).nonzero()
        assert (seen.amax(0) - seen.amin(0) + 1).tolist() == [width, width]


def test_initial_weights_are_ldms() -> None:
    torch.manual_seed(0)
    model = PatchDiscriminator()
    for part in model.net:
        if isinstance(part, nn.Conv2d):
            assert part.weight.std().item() == pytest.approx(0.02, rel=0.05) and part.weight.mean().abs() < 2e-3
        elif isinstance(part, nn.BatchNorm2d):
            assert part.weight.mean().item() == pytest.approx(1, abs=0.01) and part.weight.std().item() == pytest.approx(0.02, rel=0.3)
            assert part.bias.abs().max() == 0
        elif isinstance(part, nn.LeakyReLU):
            assert part.negative_slope == 0.2


def test_hinge_loss_by_hand() -> None:
    real, made = torch.tensor([2.0, 0.5, -1.0]), torch.tensor([-3.0, -0.5, 1.0])
    assert hinge_loss(real, made).item() == pytest.approx(0.5 * ((0 + 0.5 + 2) / 3 + (0 + 0.5 + 2) / 3))
    assert hinge_loss(torch.tensor([1.0]), torch.tensor([-1.0])) == 0


def test_the_adaptive_weight_is_the_ratio_of_the_two_pulls() -> None:
    last = torch.tensor([3.0, 4.0], requires_grad=True)
    reconstruction = last.square().sum()  # gradient 2 * (3, 4): norm 10
    adversarial = (last * torch.tensor([0.6, 0.8])).sum()  # gradient of norm 1
    assert adaptive_weight(reconstruction, adversarial, last).item() == pytest.approx(10 / (1 + 1e-4))
    assert adaptive_weight(reconstruction, adversarial * 0, last) == 1e4  # 10 / 1e-4, bounded
    assert adaptive_weight(reconstruction * 0, adversarial, last) == 0
    assert not adaptive_weight(reconstruction, adversarial, last).requires_grad and last.grad is None


def test_a_frozen_look_moves_the_picture_and_never_the_discriminator() -> None:
    model = PatchDiscriminator(2, width=8)
    x = torch.rand(2, 3, 32, 32, requires_grad=True)
    model.frozen(x).mean().backward()
    assert x.grad is not None and x.grad.abs().max() > 0 and all(p.grad is None for p in model.parameters())
    assert torch.equal(model.frozen(x), model(x, x)[1])
