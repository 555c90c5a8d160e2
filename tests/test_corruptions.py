"""The 19 corruptions: each against an image by image computation with other libraries.

`REFERENCE` follows the published formulas and parameters with scikit-image, SciPy, PIL and plain
loops; it shares nothing with `oodbench.corruptions` but the textures of frost.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from skimage import color, exposure, feature, filters, util
from torch import Tensor

from oodbench.attacks.corruption import Corruption
from oodbench.corruptions import CORRUPTIONS, corrupt
from oodbench.corruptions.batch import Draws
from oodbench.corruptions.blur import glass_pass
from oodbench.corruptions.digital import elastic_transform
from oodbench.corruptions.operators import line_blur, line_taps
from oodbench.corruptions.plasma import plasma
from oodbench.corruptions.weather import frost_textures
from oodbench.datasets.mini import Mini
from oodbench.randomness import generator
from oodbench.testing import check

Floats = NDArray[np.float64]
Levels = NDArray[np.uint8]

SEVERITIES = (1, 2, 3, 4, 5)
DETERMINISTIC = (
    "brightness",
    "contrast",
    "pixelate",
    "jpeg_compression",
    "gaussian_blur",
    "saturate",
    "defocus_blur",
    "zoom_blur",
)


# The reference: functions of one image, uint8 [H, W, 3], a generator and the severity.


def truncate(values: Floats) -> Levels:
    # Whole levels may come out a last bit too low.
    return np.floor(np.clip(values, 0, 1) * 255 + 1e-6).astype(np.uint8)


def planes(rng: np.random.Generator, image: Levels) -> Floats:
    """Standard normal draws for an image, drawn channel by channel."""
    height, width, channels = image.shape
    return rng.standard_normal((channels, height, width)).transpose(1, 2, 0)


def gaussian_noise(image: Levels, rng: np.random.Generator, severity: int) -> Levels:
    c = [0.04, 0.06, 0.08, 0.09, 0.10][severity - 1]
    return truncate(image / 255 + c * planes(rng, image))


def shot_noise(image: Levels, rng: np.random.Generator, severity: int) -> Levels:
    c = [500, 250, 100, 75, 50][severity - 1]
    means = image.transpose(2, 0, 1) / 255 * c
    return truncate(rng.poisson(means).transpose(1, 2, 0) / c)


def impulse_noise(image: Levels, rng: np.random.Generator, severity: int) -> Levels:
    c = [0.01, 0.02, 0.03, 0.05, 0.07][severity - 1]
    return truncate(util.random_noise(image / 255, mode="s&p", rng=rng, amount=c))


def defocus_blur(image: Levels, rng: np.random.Generator, severity: int) -> Levels:
    radius, alias = [(0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)][severity - 1]
    x, y = np.meshgrid(np.arange(-8, 9), np.arange(-8, 9))
    kernel = (x**2 + y**2 <= radius**2).astype(float)
    kernel /= kernel.sum()
    taps = np.exp(-np.array([1, 0, 1]) / (2 * alias**2))
    for axis in (0, 1):
        kernel = ndimage.correlate1d(kernel, taps / taps.sum(), axis=axis, mode="mirror")
    return truncate(ndimage.correlate(image / 255, kernel[:, :, None], mode="mirror"))


def glass_blur(image: Levels, rng: np.random.Generator, severity: int) -> Levels:
    sigma, passes = [(0.05, 1), (0.25, 1), (0.4, 1), (0.25, 2), (0.4, 2)][severity - 1]
    height, width = image.shape[:2]
    moves = rng.integers(-1, 1, (passes, 2, height - 2, width - 2), dtype=np.int8)
    levels = truncate(filters.gaussian(image / 255, sigma=sigma, channel_axis=-1))
    for dy, dx in moves:
        levels = glass_loop(levels, dy, dx)
    return truncate(filters.gaussian(levels / 255, sigma=sigma, channel_axis=-1))


def glass_loop(levels: Levels, dy: NDArray[Any], dx: NDArray[Any]) -> Levels:
    levels = levels.copy()
    for h in range(levels.shape[0] - 1, 1, -1):
        for w in range(levels.shape[1] - 1, 1, -1):
            levels[h, w] = levels[h + dy[h - 2, w - 2], w + dx[h - 2, w - 2]]
    return levels


def smear(levels: Floats, radius: int, sigma: float, angle: float) -> Floats:
    width = 2 * radius + 1
    weights = np.exp(-np.square(np.arange(width)) / (2.0 * sigma * sigma))
    point = width * math.sin(math.radians(angle)), width * math.cos(math.radians(angle))
    length = math.hypot(*point)
    total = np.zeros(levels.shape)
    for i, weight in enumerate(weights / weights.sum()):
        dy, dx = (-math.ceil(i * along / length - 0.5) for along in point)
        if abs(dy) >= levels.shape[0] or abs(dx) >= levels.shape[1]:
            break
        pad = [(abs(dy),) * 2, (abs(dx),) * 2] + [(0, 0)] * (levels.ndim - 2)
        padded = np.pad(levels, pad, mode="edge")
        top, left = abs(dy) - dy, abs(dx) - dx
        total += weight * padded[top : top + len(levels), left : left + levels.shape[1]]
    return np.round(total)


def motion_blur(image: Levels, rng: np.random.Generator, severity: int) -> Levels:
    radius, sigma = [(6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)][severity - 1]
    return smear(image.astype(float), radius, sigma, rng.uniform(-45, 45)).astype(np.uint8)


def zoomed(values: Floats, factor: float) -> Floats:
    sizes = values.shape[:2]
    crops = [math.ceil(size / factor) for size in sizes]
    parts = tuple(
        slice((size - crop) // 2, (size - crop) // 2 + crop)
        for size, crop in zip(sizes, crops, strict=True)
    )
    factors = (factor, factor) + (1,) * (values.ndim - 2)
    large = ndimage.zoom(values[parts], factors, order=1)
    starts = [(large.shape[axis] - size) // 2 for axis, size in enumerate(sizes)]
    return large[starts[0] : starts[0] + sizes[0], starts[1] : starts[1] + sizes[1]]


def zoom_blur(image: Levels, rng: np.random.Generator, severity: int) -> Levels:
    last = [106, 111, 115, 120, 125][severity - 1]
    copies = [zoomed(image / 255, percent / 100) for percent in range(100, last + 1)]
    return truncate((image / 255 + sum(copies)) / (len(copies) + 1))


def snow(image: Levels, rng: np.random.Generator, severity: int) -> Levels:
    loc, scale, factor, threshold, radius, sigma, mix = [
        (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
        (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
    ][severity - 1]
    layer = zoomed(rng.normal(loc, scale, image.shape[:2]), factor)
    layer[layer < threshold] = 0
    layer = smear(truncate(layer).astype(float), radius, sigma, rng.uniform(-135, -45)) / 255
    u = image / 255
    grey = (u * (0.299, 0.587, 0.114)).sum(2, keepdims=True)
    u = mix * u + (1 - mix) * np.maximum(u, grey * 1.5 + 0.5)
    return truncate(u + (layer + np.rot90(layer, 2))[:, :, None])


def frost(image: Levels, rng: np.random.Generator, severity: int) -> Levels:
    a, b = [(1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)][severity - 1]
    textures = frost_textures()
    texture = textures[rng.integers(len(textures))].transpose(1, 2, 0)
    top, left = rng.integers(len(texture), size=2)
    rolled = np.roll(texture, (-top, -left), (0, 1))
    return truncate((a * image + b * rolled[: image.shape[0], : image.shape[1]]) / 255)


def diamond_square(rng: np.random.Generator, side: int, decay: float) -> Floats:
    height: dict[tuple[int, int], float] = {(0, 0): 0.0}
    step, w = side, 100.0
    while step >= 2:
        half = step // 2
        for kind in ("square", "horizontal", "vertical"):
            noise = rng.uniform(-w, w, (side // step, side // step))
            for i, j in np.ndindex(*noise.shape):
                y, x = i * step, j * step
                y += half if kind != "horizontal" else 0
                x += half if kind != "vertical" else 0
                near = (
                    [(-half, -half), (-half, half), (half, -half), (half, half)]
                    if kind == "square"
                    else [(-half, 0), (half, 0), (0, -half), (0, half)]
                )
                mean = sum(height[(y + b) % side, (x + a) % side] for b, a in near) / 4
                height[y, x] = mean + w * noise[i, j]
        step, w = half, w / decay
    cloud = np.array([[height[y, x] for x in range(side)] for y in range(side)])
    cloud -= cloud.min()
    return cloud / cloud.max()


def fog(image: Levels, rng: np.random.Generator, severity: int) -> Levels:
    a, decay = [(0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)][severity - 1]
    side = 2 ** (max(image.shape) - 1).bit_length()
    cloud = diamond_square(rng, side, decay)[: image.shape[0], : image.shape[1], None]
    u = image / 255
    return truncate((u + a * cloud) * u.max() / (u.max() + a))


def brightness(image: Levels, rng: np.random.Generator, severity: int) -> Levels:
    hsv = color.rgb2hsv(image / 255)
    hsv[..., 2] = np.clip(hsv[..., 2] + [0.05, 0.1, 0.15, 0.2, 0.3][severity - 1], 0, 1)
    return truncate(color.hsv2rgb(hsv))


def contrast(image: Levels, rng: np.random.Generator, severity: int) -> Levels:
    u = image / 255
    mean = u.mean((0, 1))
    return truncate((u - mean) * [0.75, 0.5, 0.4, 0.3, 0.15][severity - 1] + mean)


def elastic(image: Levels, rng: np.random.Generator, severity: int) -> Levels:
    strength, sigma, jitter = [
        (0, 0, 2.56),
        (1.6, 6.4, 2.24),
        (2.56, 1.92, 1.92),
        (3.2, 1.28, 1.6),
        (3.2, 0.96, 0.96),
    ][severity - 1]
    height, width = image.shape[:2]
    x, y, reach = width // 2, height // 2, min(height, width) // 3
    points = np.array([(x + reach, y + reach), (x + reach, y - reach), (x - reach, y - reach)])
    moved = points + rng.uniform(-jitter, jitter, (3, 2))
    # From the result to the source; SciPy wants (row, column).
    source, result = (np.vstack((each[:, ::-1].T, np.ones(3))) for each in (points, moved))
    matrix = (source @ np.linalg.inv(result))[:2]
    warped = [
        ndimage.affine_transform(plane, matrix, order=1, mode="mirror")
        for plane in (image / 255).transpose(2, 0, 1)
    ]
    if strength:
        dx, dy = (
            strength
            * ndimage.gaussian_filter(
                rng.uniform(-1, 1, (height, width)), sigma, mode="reflect", truncate=3
            )
            for _ in range(2)
        )
        rows, columns = np.mgrid[:height, :width]
        places = (rows + dy, columns + dx)
        warped = [ndimage.map_coordinates(p, places, order=1, mode="reflect") for p in warped]
    return truncate(np.stack(warped, 2))


def pixelate(image: Levels, rng: np.random.Generator, severity: int) -> Levels:
    share = [0.95, 0.9, 0.85, 0.75, 0.65][severity - 1]
    height, width = image.shape[:2]
    small = Image.fromarray(image).resize((int(width * share), int(height * share)), Image.BOX)
    return np.asarray(small.resize((width, height), Image.BOX))


def jpeg_compression(image: Levels, rng: np.random.Generator, severity: int) -> Levels:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=[80, 65, 58, 50, 40][severity - 1])
    return np.asarray(Image.open(file))


def speckle_noise(image: Levels, rng: np.random.Generator, severity: int) -> Levels:
    c = [0.06, 0.1, 0.12, 0.16, 0.2][severity - 1]
    return truncate(image / 255 + image / 255 * c * planes(rng, image))


def gaussian_blur(image: Levels, rng: np.random.Generator, severity: int) -> Levels:
    sigma = [0.4, 0.6, 0.7, 0.8, 1.0][severity - 1]
    return truncate(filters.gaussian(image / 255, sigma=sigma, channel_axis=-1))


def spatter(image: Levels, rng: np.random.Generator, severity: int) -> Levels:
    loc, scale, sigma, threshold, k = [
        (0.62, 0.1, 0.7, 0.7, 0.5),
        (0.65, 0.1, 0.8, 0.7, 0.5),
        (0.65, 0.3, 1, 0.69, 0.5),
        (0.65, 0.1, 0.7, 0.69, 0.6),
        (0.65, 0.1, 0.5, 0.68, 0.6),
    ][severity - 1]
    layer = filters.gaussian(rng.normal(loc, scale, image.shape[:2]), sigma=sigma)
    layer[layer < threshold] = 0
    if severity > 3:
        mask = filters.gaussian((layer > threshold).astype(float), sigma=k)
        mask[mask < 0.8] = 0
        mask = mask[:, :, None]
        return truncate(image / 255 * (1 - mask) + mask * np.array([63, 42, 20]) / 255)
    eight_bit = np.clip(layer * 255, 0, 255).astype(np.uint8)
    edges = feature.canny(eight_bit, 0, 50, 150, mode="nearest")
    distance = ndimage.distance_transform_edt(~edges) if edges.any() else np.inf
    distance = np.minimum(distance, 20) * np.ones(layer.shape)
    distance = np.floor(ndimage.uniform_filter(distance, 3, mode="mirror") + 1e-6)
    equal = np.floor(255 * exposure.equalize_hist(distance.astype(np.uint8)))
    kernel = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]])
    relief = np.clip(ndimage.correlate(equal, kernel, mode="mirror"), 0, 255)
    mask = layer * ndimage.uniform_filter(relief, 3, mode="mirror")
    mask = mask / mask.max() * k if mask.max() > 0 else mask
    return truncate(image / 255 + mask[:, :, None] * np.array([175, 238, 238]) / 255)


def saturate(image: Levels, rng: np.random.Generator, severity: int) -> Levels:
    a, b = [(0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)][severity - 1]
    hsv = color.rgb2hsv(image / 255)
    hsv[..., 1] = np.clip(hsv[..., 1] * a + b, 0, 1)
    return truncate(color.hsv2rgb(hsv))


# The published order.
REFERENCE: dict[str, Callable[[Levels, np.random.Generator, int], Levels]] = {
    "gaussian_noise": gaussian_noise,
    "shot_noise": shot_noise,
    "impulse_noise": impulse_noise,
    "defocus_blur": defocus_blur,
    "glass_blur": glass_blur,
    "motion_blur": motion_blur,
    "zoom_blur": zoom_blur,
    "snow": snow,
    "frost": frost,
    "fog": fog,
    "brightness": brightness,
    "contrast": contrast,
    "elastic_transform": elastic,
    "pixelate": pixelate,
    "jpeg_compression": jpeg_compression,
    "speckle_noise": speckle_noise,
    "gaussian_blur": gaussian_blur,
    "spatter": spatter,
    "saturate": saturate,
}
RANDOM = tuple(name for name in REFERENCE if name not in DETERMINISTIC)


# Images


@cache
def pictures(each: int = 40) -> tuple[Tensor, list[str]]:
    """So many test pictures of each of the five OOD sets of `mini`."""
    suite = Mini()
    parts, ids = [], []
    for name in suite.ood_sets:
        images = suite.image_set(name).open("test", Path())
        parts.append(torch.from_numpy(images.batch(np.arange(each))))
        ids += [f"{name}/{image_id}" for image_id in images.ids[:each]]
    return torch.cat(parts), ids


def flat(levels: list[int], side: int = 32) -> tuple[Tensor, list[str]]:
    """Pictures of one colour."""
    images = torch.tensor(levels, dtype=torch.uint8)[:, None, None, None]
    return images.repeat(1, 3, side, side), [f"flat/{level}" for level in levels]


def referred(
    name: str, severity: int, images: Tensor, generators: list[np.random.Generator]
) -> Tensor:
    results = [
        REFERENCE[name](image, rng, severity).transpose(2, 0, 1)
        for image, rng in zip(images.permute(0, 2, 3, 1).numpy(), generators, strict=True)
    ]
    return torch.from_numpy(np.stack(results))


def same_draws(name: str, severity: int, ids: list[str]) -> list[np.random.Generator]:
    return [generator(0, f"corruption/{name}", image_id, severity) for image_id in ids]


def changes(corrupted: Tensor, images: Tensor) -> Tensor:
    return corrupted.double() - images.double()


# Against the reference


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("name", [name for name in REFERENCE if name != "impulse_noise"])
def test_a_corruption_is_that_of_other_libraries_given_the_same_draws(
    name: str, severity: int
) -> None:
    images, ids = pictures() if name in DETERMINISTIC else pictures(8)
    ours = corrupt(images, ids, name, severity, 0)
    theirs = referred(name, severity, images, same_draws(name, severity, ids))
    near = changes(ours, theirs).abs() <= 1
    assert near.double().mean() >= 0.99
    # Not one image is off as a whole, either.
    assert near.double().mean((1, 2, 3)).min() >= 0.9


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("name", RANDOM)
def test_a_random_corruption_changes_images_as_much_as_with_draws_of_other_libraries(
    name: str, severity: int
) -> None:
    images, ids = pictures(20 if name == "fog" else 40)
    rng = np.random.default_rng([SEVERITIES.index(severity), RANDOM.index(name)])
    ours = changes(corrupt(images, ids, name, severity, 0), images)
    theirs = changes(referred(name, severity, images, [rng] * len(images)), images)
    for moment in (1, 2):
        difference = ((ours**moment).mean((1, 2, 3)) - (theirs**moment).mean((1, 2, 3))).numpy()
        error = difference.std(ddof=1) / np.sqrt(len(difference))
        assert abs(difference.mean()) <= 3 * error + 1e-9, moment


@pytest.mark.parametrize("name", [name for name in REFERENCE if name != "impulse_noise"])
@pytest.mark.parametrize("size", [(40, 48), (17, 16)])
def test_images_of_other_sizes_are_corrupted_alike(name: str, size: tuple[int, int]) -> None:
    images, ids = pictures(1)
    images = torch.nn.functional.interpolate(images, size=size)
    for severity in (3, 5):
        ours = corrupt(images, ids, name, severity, 0)
        theirs = referred(name, severity, images, same_draws(name, severity, ids))
        assert (changes(ours, theirs).abs() <= 1).double().mean() >= 0.99


# Laws


@pytest.mark.parametrize("severity", SEVERITIES)
def test_the_variance_of_noise_is_what_its_formula_says(severity: int) -> None:
    index = severity - 1
    for level in (60, 100, 128):
        images, _ = flat([level] * 60)
        ids = [str(i) for i in range(60)]
        u = level / 255
        laws = {
            "gaussian_noise": [0.04, 0.06, 0.08, 0.09, 0.10][index] ** 2,
            "shot_noise": u / [500, 250, 100, 75, 50][index],
            "speckle_noise": [0.06, 0.1, 0.12, 0.16, 0.2][index] ** 2 * u**2,
        }
        for name, variance in laws.items():
            if level == 60 and name == "gaussian_noise":
                continue  # some of it would be clipped
            noise = (corrupt(images, ids, name, severity, 0).double() / 255 - u).flatten()
            # Cutting off the decimals of a level takes half a level and adds a twelfth; less
            # evenly so where few counts fall on a level, as in shot noise.
            expected = variance + 1 / 12 / 255**2
            uneven = (0.05, 0.25) if name == "shot_noise" else (0.002, 0)
            error = 4 * math.sqrt(2 / len(noise))
            assert abs(float(noise.var()) / expected - 1) <= error + uneven[0]
            error = 4 * math.sqrt(expected / len(noise))
            assert abs(float(noise.mean()) + 0.5 / 255) <= error + uneven[1] / 255


@pytest.mark.parametrize("severity", SEVERITIES)
def test_impulse_noise_is_black_or_white_equally_often_at_the_stated_rate(severity: int) -> None:
    images, ids = flat([100] * 100)
    ids = [f"{image_id}/{i}" for i, image_id in enumerate(ids)]
    result = corrupt(images, ids, "impulse_noise", severity, 0)
    assert set(result.unique().tolist()) == {0, 100, 255}
    half = [0.01, 0.02, 0.03, 0.05, 0.07][severity - 1] / 2
    error = math.sqrt(half / result.numel())
    for extreme in (0, 255):
        assert abs(float((result == extreme).double().mean()) - half) <= 3 * error


@pytest.mark.parametrize("severity", SEVERITIES)
def test_fog_runs_from_none_to_the_full_amount_and_keeps_the_maximum(severity: int) -> None:
    levels = list(range(0, 256, 15))
    images, ids = flat(levels)
    result = corrupt(images, ids, "fog", severity, 0)
    assert torch.equal(result[:, 0], result[:, 2])
    a = [0.2, 0.5, 0.75, 1, 1.5][severity - 1]
    for level, image in zip(levels, result, strict=True):
        u = level / 255
        assert int(image.max()) == level
        assert int(image.min()) == math.floor(255 * u * u / (u + a) + 1e-6)


def test_plasma_treats_both_axes_directions_and_borders_alike() -> None:
    rng = np.random.default_rng(0)
    maps = plasma(torch.from_numpy(rng.random((3000, 16**2 - 1))), 16, 2.0)
    assert (maps.amin((1, 2)) == 0).all()
    assert (maps.amax((1, 2)) == 1).all()
    # Mirroring about the first point and swapping the axes leave the law as it is. The steps to
    # the left of the first column and above the first row cross the border.
    steps = torch.stack(
        [
            (maps.roll(shift, axis) - maps).select(axis, 0).square().mean(1)
            for axis in (1, 2)
            for shift in (1, -1)
        ]
    )
    error = (steps - steps.mean(0)).std(1) / math.sqrt(len(maps))
    assert ((steps.mean(1) - steps.mean()).abs() <= 3 * error).all()
    # Neighbours across the border are as near as others; opposite points are farther apart.
    far = (maps.roll(8, 1) - maps).select(1, 0).square().mean()
    assert steps.mean() < far / 4


def test_an_elastic_transform_without_strength_is_the_identity() -> None:
    images, ids = pictures(4)
    draws = Draws(0, "elastic_transform", 1, tuple(ids), images.device)
    assert torch.equal(elastic_transform(images, draws, 0, 0, 0), images)


@pytest.mark.parametrize(
    ("angle", "step"), [(0, (0, -1)), (45, (-1, -1)), (-45, (1, -1)), (90, (-1, 0)), (-90, (1, 0))]
)
def test_motion_blur_smears_a_white_pixel_one_way_along_its_angle(
    angle: float, step: tuple[int, int]
) -> None:
    white = torch.zeros(1, 1, 32, 32, dtype=torch.float64)
    white[0, 0, 16, 16] = 1
    blurred = line_blur(white, torch.from_numpy(line_taps(angle, 6))[None], 2.0)[0, 0]
    weights = [math.exp(-(i**2) / 8) for i in range(13)]
    # Along a diagonal pixels are √2 apart, and some take two taps.
    apart = math.sqrt(2) if 0 not in step else 1
    expected = torch.zeros(32, 32, dtype=torch.float64)
    for i, weight in enumerate(weights):
        along = round(i / apart)
        expected[16 + along * step[0], 16 + along * step[1]] += weight / sum(weights)
    torch.testing.assert_close(blurred, expected, atol=1e-12, rtol=0)


def test_a_glass_pass_in_parallel_is_the_loop_from_the_last_pixel_to_the_first() -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (5, 3, 32, 24), dtype=np.uint8)
    moves = rng.integers(-1, 1, (5, 2, 30, 22), dtype=np.int8)
    result = glass_pass(torch.from_numpy(images), torch.from_numpy(moves)).numpy()
    for image, (dy, dx), ours in zip(images, moves, result, strict=True):
        expected = glass_loop(image.transpose(1, 2, 0), dy, dx)
        np.testing.assert_array_equal(ours.transpose(1, 2, 0), expected)
    assert (result != images).any()


@pytest.mark.parametrize(
    "name",
    [
        "gaussian_blur",
        "defocus_blur",
        "zoom_blur",
        "glass_blur",
        "motion_blur",
        "pixelate",
        "contrast",
        "elastic_transform",
    ],
)
def test_a_picture_of_one_colour_stays_what_it_is_under_averages(name: str) -> None:
    images, ids = flat(list(range(256)))
    for severity in SEVERITIES:
        assert torch.equal(corrupt(images, ids, name, severity, 0), images)


def test_frost_textures_are_bluish_white_and_have_the_stated_mean() -> None:
    textures = frost_textures()
    np.testing.assert_allclose(textures.mean((0, 2, 3)), (146, 167, 179), atol=2)
    assert textures.min() >= 0
    assert textures.max() <= 255


def test_water_without_any_liquid_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    images, ids = pictures(2)
    monkeypatch.setattr(
        Draws, "stack", lambda self, draw: torch.zeros(len(self.ids), 1, 32, 32).double()
    )
    assert torch.equal(corrupt(images, ids, "spatter", 1, 0), images)


@pytest.mark.parametrize(
    "name",
    [
        name
        for name in REFERENCE
        if name not in ("saturate", "elastic_transform", "glass_blur", "spatter", "frost")
    ],
)
def test_a_higher_severity_changes_images_more(name: str) -> None:
    # Frost is left out too: the image's weight falls with the severity, so that a bright image
    # is brightened less. The digits, the last fifth of the pictures, consist of squares of 4×4
    # pixels, and 24×24 pixels keep them better than 27×27 do.
    images, ids = (each[:160] for each in pictures())
    sizes = torch.stack(
        [
            changes(corrupt(images, ids, name, s, 0), images).abs().mean((1, 2, 3))
            for s in SEVERITIES
        ]
    )
    for severity in (1, 2, 3, 4):
        gain = sizes[severity] - sizes[severity - 1]
        # The kernels of motion blur at 3 and 4 differ by taps that weigh nothing.
        error = gain.std() / math.sqrt(len(gain)) if (name, severity) == ("motion_blur", 3) else 0
        assert gain.mean() > -3 * error, severity


# Contract


@pytest.mark.parametrize("name", REFERENCE)
def test_a_result_is_a_function_of_image_id_and_seed_whatever_the_batch(name: str) -> None:
    images, ids = pictures(6)
    plain, plain_ids = flat([0, 1, 123, 254, 255])
    images, ids = torch.cat((images, plain)), ids + plain_ids
    kept = images.clone()
    for severity in SEVERITIES:
        whole = corrupt(images, ids, name, severity, 3)
        assert (whole.dtype, whole.shape) == (torch.uint8, images.shape)
        assert torch.equal(corrupt(images, ids, name, severity, 3), whole)
        backwards = corrupt(images.flip(0), ids[::-1], name, severity, 3)
        assert torch.equal(backwards.flip(0), whole)
        for part in (slice(0, 1), slice(3, 10), slice(32, 35)):
            assert torch.equal(corrupt(images[part], ids[part], name, severity, 3), whole[part])
    assert torch.equal(images, kept)


@pytest.mark.parametrize("name", RANDOM)
def test_images_seeds_and_severities_draw_independently(name: str) -> None:
    image = pictures(1)[0][2:3]
    results = [
        corrupt(image, [image_id], name, 2, seed)
        for image_id, seed in (("a", 0), ("b", 0), ("a", 1))
    ]
    assert not torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_noise_of_one_severity_says_nothing_about_another() -> None:
    images, ids = flat(list(range(110, 140)))
    noise = [changes(corrupt(images, ids, "gaussian_noise", s, 0), images) for s in (1, 2)]
    speckle = changes(corrupt(images, ids, "speckle_noise", 1, 0), images)
    for other in (noise[1], speckle):
        pair = torch.stack((noise[0].flatten(), other.flatten()))
        assert abs(float(torch.corrcoef(pair)[0, 1])) < 4 / math.sqrt(images.numel())


def test_the_types_stand_in_the_published_order() -> None:
    assert list(CORRUPTIONS) == list(REFERENCE)
    assert {name for name, kind in CORRUPTIONS.items() if kind.approximate} == {
        "frost",
        "motion_blur",
        "snow",
        "spatter",
    }
    assert all(len(kind.parameters) == 5 for kind in CORRUPTIONS.values())


def test_the_search_goes_through_all_types_of_a_severity_before_the_next() -> None:
    images, ids = pictures(1)
    attack = Corruption()
    tags = []
    for candidate in attack.search({}, images, ids, 0):
        name, severity = str(candidate.tags).split("/")
        assert torch.equal(candidate.images, corrupt(images, ids, name, int(severity), 0))
        tags.append(candidate.tags)
    assert tags == [f"{name}/{severity}" for severity in SEVERITIES for name in REFERENCE]
    assert (attack.queries, attack.gradient_steps, attack.shared, attack.in_all) == (
        95,
        0,
        True,
        True,
    )
    mild = Corruption(severity=2)
    assert [c.tags for c in mild.search({}, images, ids, 0)] == tags[:38]
    assert mild.queries == 38
    for kind in CORRUPTIONS.values():
        if kind.approximate:
            assert kind.name.replace("_", " ") in attack.note


def test_candidates_are_made_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    def spy(images: Tensor, ids: list[str], name: str, severity: int, seed: int) -> Tensor:
        made.append(name)
        return images

    monkeypatch.setattr("oodbench.attacks.corruption.corrupt", spy)
    images, ids = pictures(1)
    search = Corruption().search({}, images, ids, 0)
    next(search)
    assert made == ["gaussian_noise"]


@pytest.mark.parametrize("severity", [0, 6, -1])
def test_a_severity_that_does_not_exist_is_refused(severity: int) -> None:
    images, ids = pictures(1)
    with pytest.raises(ValueError, match="severity must be 1 to 5"):
        Corruption(severity=severity)
    with pytest.raises(ValueError, match="severity must be 1 to 5"):
        corrupt(images, ids, "fog", severity, 0)


def test_a_type_that_does_not_exist_is_refused_with_those_that_do() -> None:
    images, ids = pictures(1)
    with pytest.raises(ValueError, match=r"no corruption rain; .*fog"):
        corrupt(images, ids, "rain", 1, 0)


def test_no_images_give_no_images() -> None:
    none = torch.empty((0, 3, 32, 32), dtype=torch.uint8)
    assert corrupt(none, [], "fog", 1, 0).shape == none.shape


def test_the_attack_keeps_its_contract() -> None:
    assert "batch-independence" in check("attacks", "corruption")
