"""Networks, their folded copies, and the pass that detectors share."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.fft import dctn
from torch import Tensor, nn
from torch.nn import functional as F

from oodbench.errors import ConformanceError
from oodbench.model import TTA, Backbone, Model, input_gradient
from oodbench.network import Network, Normalised, fold_batch_norm, initialised
from oodbench.networks.conv3 import Conv3
from oodbench.networks.conv6 import Conv6, opponent_cosines
from oodbench.networks.conv6wide import Conv6Wide
from oodbench.registry import entries, load
from oodbench.testing import check_network


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def unfolded(seed: int = 0, kind: type[Network] = Conv3) -> Network:
    """A network whose running statistics and affine parameters are far from their defaults."""
    network = initialised(kind, 7, seed)
    generator = rng(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in [
                (module.running_mean, -0.5, 0.5),
                (module.running_var, 0.2, 2.0),
                (module.weight.data, 0.5, 1.5),
                (module.bias.data, -0.5, 0.5),
            ]:
                tensor.uniform_(low, high, generator=generator)
    return network.eval()


IMAGES = torch.rand(5, 3, 32, 32, generator=rng(9))


def test_folding_batch_norm_changes_nothing_but_the_cost() -> None:
    network = unfolded()
    folded = fold_batch_norm(network)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
    with torch.no_grad():
        maps, logits = network.tapped(IMAGES)
        folded_maps, folded_logits = folded.tapped(IMAGES)
    assert torch.allclose(logits, folded_logits, atol=1e-5)
    assert list(maps) == list(folded_maps) == list(network.taps)
    for tap in maps:
        assert torch.allclose(maps[tap], folded_maps[tap], atol=1e-5)
    with torch.no_grad():
        plain = initialised(Conv3, 7, 0).eval()(IMAGES)
    assert not torch.allclose(logits, plain, atol=0.1)


@pytest.mark.parametrize(
    ("name", "left"),
    # Of a pre-activation network those that follow a sum or a concatenation cannot be folded.
    [("conv6", 0), ("conv6wide", 0), ("densenet", 48 + 2 + 1), ("wideresnet", 18 + 1)],
)
def test_of_every_network_what_follows_a_convolution_is_folded(name: str, left: int) -> None:
    network = unfolded(kind=load("networks", name))
    folded = fold_batch_norm(network)
    assert sum(isinstance(m, nn.BatchNorm2d) for m in folded.modules()) == left
    with torch.no_grad():
        logits, again = network(IMAGES).double(), folded(IMAGES).double()
    assert (logits - again).abs().max() <= 1e-4 * logits.abs().max()


@pytest.mark.parametrize(
    ("name", "outputs", "parameters"),
    # Of DenseNet-BC-100-12 as counted from the published code; of the others by hand.
    [
        ("densenet", 10, 769_162),
        ("densenet", 11, 769_505),
        ("densenet", 100, 800_032),
        ("wideresnet", 10, 8_949_210),
        (
            "conv6",
            10,
            9 * (3 * 24 + 24 * 48 + 48 * 96 + 96 * 96 + 96 * 192 + 192 * 192)
            + 2 * (24 + 48 + 96 + 96 + 192 + 192)
            + 1_930,
        ),
        (
            "conv6wide",
            11,
            9 * (3 * 32 + 32 * 64 + 64 * 144 + 144 * 144 + 144 * 288 + 288 * 288)
            + 2 * (32 + 64 + 144 + 144 + 288 + 288)
            + 3_179,
        ),
    ],
)
def test_networks_have_as_many_parameters_as_published(
    name: str, outputs: int, parameters: int
) -> None:
    built = initialised(load("networks", name), outputs, 0)
    assert sum(p.numel() for p in built.parameters()) == parameters


def test_images_are_normalised_inside_the_network_as_published() -> None:
    images = torch.rand(4, 3, 8, 8, generator=rng(1))
    mean = torch.tensor([125.3, 123.0, 113.9])[:, None, None]
    std = torch.tensor([63.0, 62.1, 66.7])[:, None, None]
    assert torch.allclose(Normalised()(images), (255 * images - mean) / std, atol=1e-5)
    assert not Normalised().state_dict()


def test_every_convolution_of_densenet_starts_with_the_published_spread() -> None:
    built = initialised(load("networks", "densenet"), 10, 0)
    weights = [m.weight for m in built.modules() if isinstance(m, nn.Conv2d)]
    assert len(weights) == 99
    assert torch.cat([w.flatten() for w in weights]).std().item() == pytest.approx(
        (2 / 16) ** 0.5, rel=0.01
    )
    assert built.head.bias.abs().max() == 0


def test_the_cosines_of_conv6_are_an_orthonormal_basis_from_flat_to_fine() -> None:
    basis = opponent_cosines()
    flat = basis.flatten(1)
    assert torch.allclose(flat @ flat.T, torch.eye(27), atol=1e-6)
    # By hand: even grey, then grey that falls along one axis as cos(π(2i+1)/6) does.
    assert torch.allclose(basis[0], torch.full((3, 3, 3), 27**-0.5))
    slope = torch.tensor([1.0, 0, -1]).expand(3, 3, 3) / 18**0.5
    assert torch.allclose(basis[1], slope, atol=1e-6)
    assert torch.allclose(basis[2], slope.transpose(1, 2), atol=1e-6)
    even_red_blue = torch.tensor([1.0, 0, -1])[:, None, None].expand(3, 3, 3) / 18**0.5
    assert torch.allclose(basis[3], even_red_blue, atol=1e-6)


def test_the_cosines_of_conv6_are_those_of_scipy() -> None:
    # The transform of a basis of cosines has one coefficient a pattern, whatever its colour.
    spectrum = dctn(opponent_cosines().numpy(), axes=(2, 3), norm="ortho")
    assert np.array_equal((np.abs(spectrum).max(1) > 1e-6).sum((1, 2)), np.ones(27))


@pytest.mark.parametrize(("kind", "patterns"), [(Conv6, 12), (Conv6Wide, 16)])
def test_conv6_starts_with_smooth_patterns_of_both_signs(kind: type[Conv6], patterns: int) -> None:
    network = initialised(kind, 10, 0)
    first = next(m for m in network.modules() if isinstance(m, nn.Conv2d)).weight.detach()
    assert torch.equal(first[:patterns], opponent_cosines()[:patterns])
    assert torch.equal(first[patterns:], -first[:patterns])


@pytest.mark.parametrize("name", ["conv6", "conv6wide"])
def test_conv6_is_six_convolutions_as_written_out(name: str) -> None:
    network = unfolded(kind=load("networks", name))
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(convolutions) == len(norms) == 6
    x = Normalised()(IMAGES)
    with torch.no_grad():
        for number, (convolution, norm) in enumerate(zip(convolutions, norms, strict=True)):
            x = F.conv2d(x, convolution.weight, padding=1)
            x = (x - norm.running_mean[:, None, None]) / (norm.running_var + 1e-5).sqrt()[
                :, None, None
            ]
            x = x * norm.weight[:, None, None] + norm.bias[:, None, None]
            x = x * (x > 0)
            if number in (0, 1, 3):
                x = F.max_pool2d(x, 2)
        logits = F.linear(x.amax((2, 3)), network.head.weight, network.head.bias)
        assert torch.allclose(network(IMAGES), logits, atol=1e-4)


@pytest.mark.parametrize("kind", [Conv6, Conv6Wide])
def test_later_convolutions_of_conv6_pass_their_inputs_on_at_first(kind: type[Conv6]) -> None:
    network = initialised(kind, 10, 0)
    later = [m for m in network.modules() if isinstance(m, nn.Conv2d)][1:]
    assert len(later) == 5
    for layer in later:
        maps = torch.rand(2, layer.in_channels, 8, 8, generator=rng(1))
        with torch.no_grad():
            out = layer(maps)
        assert torch.allclose(out[:, : layer.in_channels], maps, atol=1e-6)
        new = layer.weight[layer.in_channels :].detach()
        if len(new):
            # Kaiming: variance 2 / (9 · inputs).
            expected = (2 / (9 * layer.in_channels)) ** 0.5
            assert new.std().item() == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("training", [True, False])
def test_folding_leaves_the_original_as_it_is(training: bool) -> None:
    network = unfolded().train(training)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    folded = fold_batch_norm(network)
    assert not folded.training
    assert network.training is training
    assert not any(p.requires_grad for p in folded.parameters())
    assert all(p.requires_grad for p in network.parameters())
    with torch.no_grad():
        for parameter in folded.parameters():
            parameter.add_(1)
    after = network.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize("name", sorted(entries("networks")))
def test_stopping_at_a_tap_gives_the_same_map_and_runs_no_further(name: str) -> None:
    network = initialised(entries("networks")[name].load(), 7, 0).eval()
    with torch.no_grad():
        whole, logits = network.tapped(IMAGES)
    assert logits.shape == (5, 7)
    assert tuple(whole) == network.taps
    heads: list[int] = []
    for module in network.modules():
        if isinstance(module, nn.Linear):
            module.register_forward_hook(lambda *_: heads.append(1))
    for number, tap in enumerate(network.taps):
        with torch.no_grad():
            maps, empty = network.tapped(IMAGES, until=tap)
        assert torch.equal(maps[tap], whole[tap])
        assert tuple(maps) == network.taps[: number + 1]
        assert empty.numel() == 0
    assert not heads
    with pytest.raises(KeyError, match="no tap"):
        Model(Backbone(network, 7)).features(IMAGES, "nowhere")


@pytest.mark.parametrize("name", sorted(entries("networks")))
def test_weights_depend_on_the_seed_alone_and_leave_the_global_generator(name: str) -> None:
    network = entries("networks")[name].load()
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    first = initialised(network, 7, 3).state_dict()
    assert torch.equal(torch.rand(3), expected)
    again, other = initialised(network, 7, 3).state_dict(), initialised(network, 7, 4).state_dict()
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


def test_global_pooling_takes_the_maximum_wherever_it_is() -> None:
    network = unfolded()
    assert isinstance(network, Conv3)
    block = torch.rand(1, 64, 4, 4, generator=rng(1))
    network.block3 = nn.Identity()

    def logits(features: Tensor) -> Tensor:
        network.block1 = network.block2 = nn.Sequential()
        with torch.no_grad():
            return network(features)

    moved = block.flatten(2)[:, :, torch.randperm(16, generator=rng(2))].reshape(block.shape)
    assert torch.equal(logits(block), logits(moved))
    # What is below the maximum does not count, as it would in an average ...
    top = block.amax((2, 3), keepdim=True)
    lower = torch.where(block == top, block, block - 0.5)
    assert torch.equal(logits(block), logits(lower))
    # ... and the maximum does.
    assert not torch.allclose(logits(block), logits(torch.where(block == top, top + 1, block)))


class Counting:
    def __init__(self, outputs: int = 7, dtype: torch.dtype = torch.float32) -> None:
        self.network = unfolded()
        self.forwards = 0
        self.backbone = Backbone(self.network, outputs, dtype=dtype)
        self.backbone.network.block1.register_forward_hook(self._count)  # type: ignore

    def _count(self, *_: object) -> None:
        self.forwards += 1


def test_one_pass_serves_all_detectors_of_a_network() -> None:
    counting = Counting()
    one, other = Model(counting.backbone), Model(counting.backbone, {"x": torch.ones(1)})
    images = IMAGES.clone()
    with torch.no_grad():
        logits = one.logits(images)
        assert torch.equal(other.logits(images), logits)
        assert torch.equal(other.outputs(images)[1], logits)
        for tap in other.taps:
            other.features(images, tap)
    assert counting.forwards == 1
    assert other.logits(images) is logits  # without a graph grad mode makes no difference


def test_a_pass_up_to_a_tap_is_not_taken_for_a_whole_one() -> None:
    counting = Counting()
    model, images = Model(counting.backbone), IMAGES.clone()
    with torch.no_grad():
        model.features(images, "block1")
        assert model.logits(images).shape == (5, 7)
        assert model.outputs(images)[0].keys() == {"block1", "block2", "block3"}


def test_the_pass_is_run_again_after_a_change_in_place_or_for_another_tensor() -> None:
    counting = Counting()
    model, images = Model(counting.backbone), IMAGES.clone()
    with torch.no_grad():
        before = model.logits(images)
        images.mul_(0.5)
        after = model.logits(images)
        assert counting.forwards == 2
        images[0, 0, 0, 0] = 1.0
        model.logits(images)
        assert counting.forwards == 3
        model.logits(images.clone())
        assert counting.forwards == 4
        fresh = Model(Backbone(unfolded(), 7)).logits(IMAGES * 0.5)
    assert not torch.equal(before, after)
    assert torch.allclose(after, fresh, atol=1e-6)


def test_a_tensor_at_the_address_of_a_dead_one_is_not_taken_for_it() -> None:
    counting = Counting()
    model = Model(counting.backbone)
    with torch.no_grad():
        for number in range(5):
            images = torch.full((2, 3, 32, 32), number / 5)
            expected = counting.backbone.network(images)
            assert torch.allclose(model.logits(images), expected, atol=1e-5)
            del images


def test_a_pass_with_a_graph_is_never_kept() -> None:
    counting = Counting()
    model = Model(counting.backbone)
    images = IMAGES.clone().requires_grad_()
    for _ in range(2):
        gradient = input_gradient(model.logits(images).sum(1), images)
        assert bool((gradient != 0).any())
    assert counting.forwards == 2
    with torch.no_grad():
        kept = model.logits(images)
    assert not kept.requires_grad
    assert model.logits(images).requires_grad


def test_the_network_under_a_detector_is_frozen() -> None:
    counting = Counting()
    assert not counting.backbone.network.training
    images = IMAGES.clone().requires_grad_()
    Model(counting.backbone).logits(images).sum().backward()
    assert all(p.grad is None for p in counting.backbone.network.parameters())


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.1)], ids=str
)
def test_the_copy_for_searching_is_nearly_the_same_function(
    dtype: torch.dtype, tolerance: float
) -> None:
    backbone = Backbone(unfolded(), 7)
    search = backbone.for_search(dtype)
    with torch.no_grad():
        exact, near = Model(backbone).logits(IMAGES), Model(search).logits(IMAGES)
    assert near.dtype == torch.float32
    assert (exact - near).abs().max() <= tolerance * exact.abs().max()
    assert next(backbone.network.parameters()).dtype == torch.float32


def test_float64_stays_float64() -> None:
    model = Model(Backbone(unfolded(), 7, dtype=torch.float64))
    assert model.logits(IMAGES.double()).dtype == torch.float64
    assert model.features(IMAGES.double(), "block2").dtype == torch.float64


def views_by_hand(images: Tensor, tta: TTA) -> list[tuple[Tensor, bool]]:
    """The views of images, and of each whether it is mirrored, cut out of a mirrored border."""
    if tta == "none":
        return [(images, False)]
    border = ((0, 0), (0, 0), (1, 1), (1, 1))
    padded = np.pad(images.numpy(), border, mode="reflect")
    height, width = images.shape[2:]
    corners = [(1, 1), (2, 2), (0, 0)] if tta == "mirror_shift" else [(1, 1)]
    cuts = [padded[:, :, top : top + height, left : left + width] for top, left in corners]
    pairs = [(cut, cut[..., ::-1].copy()) for cut in cuts]
    return [(torch.from_numpy(x), bool(n)) for pair in pairs for n, x in enumerate(pair)]


@pytest.mark.parametrize(("tta", "passes"), [("none", 1), ("mirror", 2), ("mirror_shift", 6)])
def test_outputs_are_means_over_views_of_test_time_augmentation(tta: TTA, passes: int) -> None:
    counting = Counting()
    images = torch.rand(4, 3, 32, 28, generator=rng(4))
    by_hand = [(counting.network.tapped(view), back) for view, back in views_by_hand(images, tta)]
    assert len(by_hand) == passes
    counting.forwards = 0
    model = Model(counting.backbone.with_tta(tta))
    with torch.no_grad():
        maps, logits = model.outputs(images)
        assert model.logits(images) is logits
    assert counting.forwards == passes
    assert torch.allclose(logits, torch.stack([z for (_, z), _ in by_hand]).mean(0), atol=1e-5)
    for tap in model.taps:
        found = [x[tap].flip(3) if mirrored else x[tap] for (x, _), mirrored in by_hand]
        assert torch.allclose(maps[tap], torch.stack(found).mean(0), atol=1e-5)
        assert torch.allclose(model.features(images.clone(), tap), maps[tap], atol=1e-6)


def test_with_mirrored_views_an_image_and_its_mirror_image_are_the_same() -> None:
    network = unfolded()
    with torch.no_grad():
        for same in (True, False):
            backbone = Backbone(network, 7, tta="mirror" if same else "none")
            maps, logits = Model(backbone).outputs(IMAGES)
            mirrored_maps, mirrored = Model(backbone).outputs(IMAGES.flip(3))
            assert torch.allclose(logits, mirrored, atol=1e-5) is same
            assert (
                torch.allclose(maps["block2"], mirrored_maps["block2"].flip(3), atol=1e-5) is same
            )


def test_the_gradient_of_a_mean_over_views_is_that_of_all_its_views() -> None:
    model = Model(Backbone(unfolded(), 7, dtype=torch.float64, tta="mirror_shift"))
    at = IMAGES[:2].double()
    way = torch.randn(at.shape, generator=rng(3), dtype=torch.float64)
    gradient = input_gradient(model.logits(at.requires_grad_()).square().sum(1), at)
    step = 1e-6 * way
    with torch.no_grad():
        ahead, behind = (model.logits(at + sign * step).square().sum() for sign in (1, -1))
    assert float((gradient * way).sum()) == pytest.approx(float(ahead - behind) / 2e-6, rel=1e-4)


def test_the_copy_for_searching_has_the_same_views() -> None:
    backbone = Backbone(unfolded(), 7, tta="mirror_shift")
    search = backbone.for_search(torch.float32)
    with torch.no_grad():
        exact, alone = (Model(x).logits(IMAGES) for x in (backbone, backbone.with_tta("none")))
        assert torch.allclose(Model(search).logits(IMAGES), exact, atol=1e-4)
    assert not torch.allclose(alone, exact, atol=1e-2)


class Mixing(Conv6):
    """A little of what it says of an image depends on the others of the batch."""

    def tapped(self, images: Tensor, until: str | None = None) -> tuple[dict[str, Tensor], Tensor]:
        maps, logits = super().tapped(images, until)
        return maps, logits + 0.05 * logits.mean(0) if len(logits) else logits


def test_a_network_that_mixes_images_is_refused_and_one_that_does_not_passes() -> None:
    with pytest.raises(ConformanceError, match="depend on the batch"):
        check_network(Mixing)
    check_network(Conv6)
