"""The embedded suite: sizes, ids, and that its splits share nothing."""

from __future__ import annotations

import hashlib
import itertools
import socket
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from oodbench.datasets import mini
from oodbench.datasets.mini import CLASSES, POOL, Mini
from oodbench.errors import RequestError
from oodbench.images import Images

SUITE = Mini()
NOWHERE = Path("/nowhere")
SETS = {
    ("pictures", "train"): 2400,
    ("pictures", "val"): 320,
    ("pictures", "test"): 640,
    ("outliers", "train"): 4000,
    ("outliers", "val"): 500,
    **{(name, "test"): 250 for name in SUITE.ood_sets},
}


@cache
def opened(name: str, split: str) -> Images:
    return SUITE.image_set(name).open(split, NOWHERE)


@cache
def pixels(name: str, split: str) -> np.ndarray:
    images = opened(name, split)
    return images.batch(range(len(images)))


def rectangles(name: str, split: str) -> list[tuple[str, int, int, int]]:
    """Picture, top, left and side of every patch, from its id."""
    found = []
    for patch_id in opened(name, split).ids:
        picture, size, place = patch_id.split("/")
        y, x = place.split("-")
        found.append((picture, int(y), int(x), int(size)))
    return found


@pytest.mark.parametrize(("key", "count"), SETS.items(), ids=lambda v: str(v))
def test_sizes_shapes_and_ids(key: tuple[str, str], count: int) -> None:
    images = opened(*key)
    assert len(images) == count
    assert pixels(*key).shape == (count, 3, 32, 32)
    assert pixels(*key).dtype == np.uint8
    assert len(set(images.ids)) == count


def test_classes_are_balanced_and_named() -> None:
    assert SUITE.image_set("pictures").classes == CLASSES
    for split, each in (("train", 300), ("val", 40), ("test", 80)):
        images = opened("pictures", split)
        assert images.labels is not None
        assert np.bincount(images.labels).tolist() == [each] * 8
        for patch_id, label in zip(images.ids, images.labels, strict=True):
            assert patch_id.split("/")[0] == CLASSES[label]
    assert opened("outliers", "train").labels is None


def test_in_distribution_pool_and_ood_come_from_different_pictures() -> None:
    sources = [set(CLASSES), set(POOL), *({name} for name in SUITE.ood_sets)]
    for one, other in itertools.combinations(sources, 2):
        assert not one & other
    for name, split in SETS:
        if name != "digits":
            allowed = {"pictures": set(CLASSES), "outliers": set(POOL)}.get(name, {name})
            assert {r[0] for r in rectangles(name, split)} == allowed


@pytest.mark.parametrize("key", [key for key in SETS if key[0] != "digits"], ids=str)
def test_a_patch_is_what_its_id_says(key: tuple[str, str]) -> None:
    for index in range(0, SETS[key], 41):
        picture, y, x, size = rectangles(*key)[index]
        source = mini.picture(picture)
        assert y >= 0
        assert x >= 0
        assert y + size <= source.shape[0]
        assert x + size <= source.shape[1]
        crop = source[y : y + size, x : x + size].astype(np.int64)
        ours = pixels(*key)[index].transpose(1, 2, 0).astype(int)
        if size == 32:
            expected = crop
        elif size == 64:
            expected = (crop.reshape(32, 2, 32, 2, 3).sum((1, 3)) + 2) // 4
        else:  # 48: the pixels whose centres lie in (1.5 i, 1.5 (i + 1)], two and one by turns
            columns = np.stack([crop[:, 0::3] + crop[:, 1::3], 2 * crop[:, 2::3]], 2)
            halves = columns.reshape(48, 32, 3)
            both = np.stack([halves[0::3] + halves[1::3], 2 * halves[2::3]], 1)
            expected = both.reshape(32, 32, 3) / 4
        # PIL rounds after each of the two passes.
        assert np.abs(ours - expected).max() <= 1


def test_halving_averages_two_by_two_blocks() -> None:
    rng = np.random.default_rng(0)
    block = rng.integers(0, 256, (32, 32, 3))
    even = np.repeat(np.repeat(block, 2, axis=0), 2, axis=1).astype(np.uint8)
    assert (mini._resize(even) == block).all()
    crop = rng.integers(0, 256, (64, 64, 3)).astype(np.uint8)
    rows = (crop.astype(int).reshape(64, 32, 2, 3).sum(2) + 1) // 2
    expected = (rows.reshape(32, 2, 32, 3).sum(1) + 1) // 2
    assert (mini._resize(crop) == expected).all()
    same = crop[:32, :32]
    assert (mini._resize(same) == same).all()


@pytest.mark.parametrize("name", ["pictures", "outliers"])
def test_no_pixel_of_a_picture_is_in_two_splits(name: str) -> None:
    splits = [split for set_name, split in SETS if set_name == name]
    taken: dict[tuple[str, str], np.ndarray] = {}
    for split in splits:
        for picture, y, x, size in rectangles(name, split):
            mask = taken.setdefault(
                (picture, split), np.zeros(mini.picture(picture).shape[:2], dtype=bool)
            )
            mask[y : y + size, x : x + size] = True
    for one, other in itertools.combinations(splits, 2):
        for picture in {key[0] for key in taken}:
            assert not (taken[picture, one] & taken[picture, other]).any()


def test_no_two_images_are_the_same_within_or_across_sets() -> None:
    seen: dict[bytes, str] = {}
    for name, split in SETS:
        images = opened(name, split)
        for image_id, image in zip(images.ids, pixels(name, split), strict=True):
            key = hashlib.sha256(image.tobytes()).digest()
            here = f"{name}/{split}/{image_id}"
            assert key not in seen, f"{here} equals {seen[key]}"
            seen[key] = here


@pytest.mark.parametrize("key", SETS, ids=str)
def test_no_patch_is_nearly_blank(key: tuple[str, str]) -> None:
    spread = pixels(*key).astype(float).std(axis=(2, 3)).max(1)
    assert spread.min() >= 3.0


def test_digits_are_the_bundled_ones_enlarged_without_smoothing() -> None:
    from sklearn.datasets import load_digits

    table = load_digits().images
    for digit_id, image in zip(opened("digits", "test").ids, pixels("digits", "test"), strict=True):
        small = (table[int(digit_id.split("/")[1])].astype(int) * 255 // 16).astype(np.uint8)
        assert (image == np.kron(small, np.ones((4, 4), dtype=np.uint8))).all()


def test_opening_twice_gives_the_same_digest_and_another_split_another() -> None:
    digests = set()
    for name, split in SETS:
        again = SUITE.image_set(name).open(split, NOWHERE)
        assert again.digest == opened(name, split).digest
        digests.add(again.digest)
    assert len(digests) == len(SETS)


def test_reading_a_batch_follows_the_indices() -> None:
    images = opened("flower", "test")
    assert (images.batch([7, 3, 7]) == pixels("flower", "test")[[7, 3, 7]]).all()


def test_no_network_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    mini.picture.cache_clear()
    for name in (*SUITE.ood_sets, "outliers", "pictures"):
        assert len(SUITE.image_set(name).open("test" if name != "outliers" else "val", NOWHERE))


def test_what_is_not_there_is_refused_by_name() -> None:
    with pytest.raises(RequestError, match="no image set cifar"):
        SUITE.image_set("cifar")
    for name in ("pictures", "flower", "digits"):
        with pytest.raises(RequestError, match="no split extra"):
            SUITE.image_set(name).open("extra", NOWHERE)


@pytest.mark.parametrize("name", [*CLASSES, *POOL, *SUITE.ood_sets[:-1]])
def test_every_picture_is_large_enough_for_its_patches(name: str) -> None:
    picture = mini.picture(name)
    assert picture.dtype == np.uint8
    assert picture.ndim == 3
    assert min(picture.shape[:2]) >= 64
    package, file = mini._FILES.get(name, ("skimage", f"data/{name}.png"))
    with Image.open(mini._bundled(package, file)) as image:
        assert image.size == (picture.shape[1], picture.shape[0])
