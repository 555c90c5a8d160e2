"""Images imported: forms, layouts, what is refused, and what is left."""

import io
import json
import os
import pickle
import signal
import tarfile
import time
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from picture_files import (
    REPEATS,
    ZEROS,
    encoded,
    pixels,
    tar_bomb,
    write_cifar,
    write_digits,
    write_folder,
    write_imagenet32,
    write_tar,
    write_zip,
    zip_bomb,
)
from PIL import Image

from oodbench.data import importing
from oodbench.data.batches import CIFAR10, CIFAR100
from oodbench.data.layout import arrange
from oodbench.datasets.cifar10 import CLASSES
from oodbench.imported import Manifest, PackedImages, read_manifest

FORMS: dict[str, Callable[[Path, dict[str, bytes]], Path]] = {
    "folder": lambda path, files: write_folder(path / "pictures", files),
    "tar": lambda path, files: write_tar(path / "pictures.tar", files, "w"),
    "tar.gz": lambda path, files: write_tar(path / "pictures.tgz", files),
    "zip": lambda path, files: write_zip(path / "pictures.zip", files),
    "zip of another name": lambda path, files: write_zip(path / "pictures.tar", files),
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


@pytest.fixture
def load(call: Any, root: Path) -> Callable[..., Any]:
    """Call ``oodbench data import`` into the root of the test."""

    def load(name: str, source: Path, *options: object) -> Any:
        return call("data", "import", name, "--from", source, "--data-root", root, *options)

    return load


def manifest(root: Path, name: str) -> Manifest:
    return read_manifest(root / name)


def contents(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def refused(result: Any, *parts: str) -> None:
    assert result.code == 2
    assert result.out == ""
    assert result.err.startswith("oodbench: ")
    assert result.err.count("\n") == 1, result.err
    for part in parts:
        assert part in result.err


@pytest.mark.parametrize("form", FORMS)
def test_the_same_pictures_are_the_same_set_in_whatever_form_they_come(
    form: str, load: Any, root: Path, tmp_path: Path
) -> None:
    names = [f"{kind}/{i}.png" for i in (3, 11, 2) for kind in ("dog", "cat")]
    result = load("mine", FORMS[form](tmp_path, {f"all/{name}": encoded(name) for name in names}))
    assert result.code == 0, result.err
    images = PackedImages(root / "mine", "test")
    assert list(images.ids) == sorted(names)
    assert images.labels is not None
    assert images.labels.tolist() == [int(name.startswith("dog")) for name in sorted(names)]
    expected = np.stack([pixels(name).transpose(2, 0, 1) for name in sorted(names)])
    assert np.array_equal(images.batch(range(6)), expected)
    told = manifest(root, "mine")
    assert told.classes == ("cat", "dog")
    assert told.splits["test"].digest == images.digest
    assert told.preprocessing == "none"
    assert sorted(p.name for p in root.rglob("*")) == ["mine", "set.json", "test.json", "test.npy"]


LAYOUTS: dict[str, tuple[list[str], dict[str, tuple[str | None, str | None]]]] = {
    "flat below folders": (
        ["iSUN/iSUN_patches/1.jpeg", "iSUN/iSUN_patches/2.jpeg"],
        {"1.jpeg": (None, None), "2.jpeg": (None, None)},
    ),
    "classes below folders": (
        ["dtd/images/banded/1.jpg", "dtd/images/dotted/1.jpg"],
        {"banded/1.jpg": (None, "banded"), "dotted/1.jpg": (None, "dotted")},
    ),
    "classes in splits": (
        ["x/train/a/1.png", "x/train/b/1.png", "x/Validation/b/1.png", "x/test/a/1.png"],
        {
            "train/a/1.png": ("train", "a"),
            "train/b/1.png": ("train", "b"),
            "Validation/b/1.png": ("val", "b"),
            "test/a/1.png": ("test", "a"),
        },
    ),
    "a folder in each class, none in another split": (
        ["t/train/n1/images/1.JPEG", "t/train/n2/images/2.JPEG", "t/val/images/v.JPEG"],
        {
            "train/n1/images/1.JPEG": ("train", "n1"),
            "train/n2/images/2.JPEG": ("train", "n2"),
            "val/images/v.JPEG": ("val", None),
        },
    ),
    "a class called train": (
        ["bus/1.png", "train/1.png"],
        {"bus/1.png": (None, "bus"), "train/1.png": (None, "train")},
    ),
    "a split alone": (
        ["test/a/1.png", "test/b/1.png"],
        {"test/a/1.png": ("test", "a"), "test/b/1.png": ("test", "b")},
    ),
    "pictures beside folders": (
        ["a/1.png", "b/1.png", "2.png"],
        {"a/1.png": (None, None), "b/1.png": (None, None), "2.png": (None, None)},
    ),
    "pictures beside splits": (
        ["train/1.png", "test/1.png", "logo.png"],
        {"train/1.png": ("train", None), "test/1.png": ("test", None)},
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_splits_and_classes_are_told_by_the_structure(layout: str) -> None:
    paths, expected = LAYOUTS[layout]
    places = arrange(paths).places
    assert {place.image_id: (place.split, place.group) for place in places} == expected
    assert [place.image_id for place in places] == sorted(expected)


def test_pictures_of_all_sizes_are_resized_as_torchvision_does(
    load: Any, root: Path, tmp_path: Path
) -> None:
    from torchvision.transforms import CenterCrop, Compose, Resize

    rng = np.random.default_rng(0)
    sizes = [(32, 32), (36, 36), (33, 32), (20, 31), *rng.integers(20, 200, (46, 2)).tolist()]
    files = {
        f"{i:02}.{'png' if i % 2 else 'jpg'}": encoded(i, tuple(size), "PNG" if i % 2 else "JPEG")
        for i, size in enumerate(sizes)
    }
    assert load("mine", write_folder(tmp_path / "x", files)).code == 0
    images = PackedImages(root / "mine", "test")
    assert list(images.ids) == list(files)
    prepare = Compose([Resize(32), CenterCrop(32)])
    for i, data in enumerate(files.values()):
        expected = np.asarray(prepare(Image.open(io.BytesIO(data)).convert("RGB")))
        assert np.array_equal(images.batch([i])[0], expected.transpose(2, 0, 1)), sizes[i]
    assert "shorter side to 32 pixels" in manifest(root, "mine").preprocessing


GREY = pixels("grey")[..., 0]
LOW = np.random.default_rng(0).integers(0, 256, GREY.shape, dtype=np.uint16)
DEEP = (GREY.astype(np.uint16) << 8) | LOW
OPAQUE, CLEAR = np.full_like(GREY, 255), np.zeros_like(GREY)
RED = np.dstack([OPAQUE, CLEAR, CLEAR])
KEYED = np.where((GREY > 127)[..., None], RED, pixels("keyed") // 2)
ON_WHITE = np.where((GREY > 127)[..., None], 255, KEYED).astype(np.uint8)


def _saved(form: str, picture: Image.Image | np.ndarray, **options: Any) -> bytes:
    file = io.BytesIO()
    picture = Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture
    picture.save(file, form, **options)
    return file.getvalue()


# Of each: the file, and its RGB pixels [32, 32, 3], made here by hand; None if it is refused.
MODES: dict[str, tuple[bytes, np.ndarray | None]] = {
    "RGB": (_saved("PNG", pixels("a")), pixels("a")),
    "1": (_saved("PNG", GREY > 127), np.dstack([(GREY > 127).astype(np.uint8) * 255] * 3)),
    "L": (_saved("PNG", GREY), np.dstack([GREY] * 3)),
    "P": (
        _saved("PNG", Image.fromarray(GREY).convert("P")),
        np.dstack([GREY] * 3),
    ),
    "CMYK": (
        _saved(
            "TIFF", Image.merge("CMYK", list(map(Image.fromarray, (CLEAR, GREY, OPAQUE, CLEAR))))
        ),
        np.dstack([OPAQUE, 255 - GREY, CLEAR]),
    ),
    "opaque RGBA": (_saved("PNG", np.dstack([pixels("a"), OPAQUE])), pixels("a")),
    "transparent RGBA": (_saved("PNG", np.dstack([RED, CLEAR])), np.full_like(RED, 255)),
    "transparent LA": (_saved("PNG", np.dstack([GREY, CLEAR])), np.full_like(RED, 255)),
    "transparent colour": (_saved("PNG", KEYED, transparency=(255, 0, 0)), ON_WHITE),
    "16-bit PNG": (_saved("PNG", DEEP), np.dstack([GREY] * 3)),
    "16-bit TIFF": (_saved("TIFF", DEEP), np.dstack([GREY] * 3)),
    "16-bit PGM": (b"P5 32 32 65535\n" + DEEP.astype(">u2").tobytes(), np.dstack([GREY] * 3)),
    "int32 TIFF": (_saved("TIFF", DEEP.astype(np.int32) << 8), None),
    "small int32 TIFF": (_saved("TIFF", GREY.astype(np.int32)), None),
    "float TIFF": (_saved("TIFF", (GREY / 255).astype(np.float32)), None),
}


@pytest.mark.parametrize("mode", MODES)
def test_pictures_of_all_modes_become_rgb_as_those_that_are_scored(
    mode: str, load: Any, root: Path, tmp_path: Path
) -> None:
    from oodbench.data.named import Picture, read_picture

    data, expected = MODES[mode]
    folder = write_folder(tmp_path / "x", {"1.png": data, "2.png": encoded("other")})
    assert load("mine", folder).code == 0
    images = PackedImages(root / "mine", "test")
    scored = read_picture(folder / "1.png", 32)
    if expected is None:
        assert manifest(root, "mine").unreadable == ("1.png",)
        assert not isinstance(scored, Picture)
        assert "whose range is not known" in scored.reason
    else:
        (image,) = images.batch([0])
        assert np.array_equal(image.transpose(1, 2, 0), expected)
        assert isinstance(scored, Picture)
        assert np.array_equal(scored.pixels, image)
        told = {"16": "16 bits to 8", "tr": "transparency over white"}.get(mode[:2], "none")
        assert manifest(root, "mine").preprocessing == told


def test_the_stand_in_for_cut_outs_is_cut_out_and_not_resized(
    load: Any, root: Path, tmp_path: Path
) -> None:
    files = {"1.png": encoded(1, (128, 128)), "2.png": encoded(2), "3.png": encoded(3, (90, 41))}
    archive = write_tar(tmp_path / "x.tar.gz", files | {"small.png": encoded(4, (31, 64))})
    result = load("lsun_c_standin", archive)
    assert result.code == 0
    assert "left out: small.png; smaller than 32×32 pixels (1)\n" in result.err
    first, second, third = PackedImages(root / "lsun_c_standin", "test").batch(range(3))
    assert np.array_equal(first.transpose(1, 2, 0), pixels(1, 128, 128)[48:80, 48:80])
    assert np.array_equal(second.transpose(1, 2, 0), pixels(2))
    assert np.array_equal(third.transpose(1, 2, 0), pixels(3, 90, 41)[29:61, 4:36])
    assert manifest(root, "lsun_c_standin").preprocessing == "centre 32×32 cut out, not resized"
    assert "unchanged" in load("lsun_c_standin", archive).out
    assert load("lsun_r_standin", archive).code == 0
    assert "shorter side to 32 pixels" in manifest(root, "lsun_r_standin").preprocessing
    array = np.stack([pixels(i, 40, 40) for i in range(2)])
    np.save(tmp_path / "a.npy", array)
    assert load("lsun_c_standin", tmp_path / "a.npy", "--force").code == 0
    cut = PackedImages(root / "lsun_c_standin", "test").batch(range(2))
    assert np.array_equal(cut.transpose(0, 2, 3, 1), array[:, 4:36, 4:36])


def test_a_stand_in_that_was_resized_is_not_taken_for_one_cut_out(
    load: Any, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from oodbench.datasets.lsun_c_standin import LsunCStandIn

    archive = write_tar(tmp_path / "x.tar.gz", {"1.png": encoded(1, (128, 128))})
    with monkeypatch.context() as patch:
        patch.setattr(LsunCStandIn, "resampling", "bilinear")
        assert load("lsun_c_standin", archive).code == 0
    refused(load("lsun_c_standin", archive), "holds another set of that name")


def test_cards_say_where_the_images_are_and_what_is_known_of_their_archives() -> None:
    from oodbench.data.known import known_sets

    cards = {name: one.card for name, one in known_sets().items()}
    for name in ("miniplaces", "lsun_c_standin", "lsun_r_standin"):
        assert cards[name].source == "https://github.com/CSAILVision/miniplaces"
    assert all(cards[name].archives[0].checksum for name in ("isun", "lsun_c", "lsun_r"))


@pytest.mark.parametrize("orientation", range(2, 9))
def test_pictures_are_turned_upright_as_those_that_are_scored(
    orientation: int, load: Any, root: Path, tmp_path: Path
) -> None:
    from oodbench.data.named import Picture, read_picture

    # Of every orientation: what is stored, made from what is seen by hand.
    stored = {
        2: np.fliplr,
        3: lambda seen: np.rot90(seen, 2),
        4: np.flipud,
        5: lambda seen: seen.transpose(1, 0, 2),
        6: lambda seen: np.rot90(seen, 1),
        7: lambda seen: np.rot90(seen, 2).transpose(1, 0, 2),
        8: lambda seen: np.rot90(seen, 3),
    }
    seen = pixels("turned", 48, 32)
    exif = Image.Exif()
    exif[0x0112] = orientation
    folder = tmp_path / "x"
    folder.mkdir()
    turned = np.ascontiguousarray(stored[orientation](seen))
    Image.fromarray(turned).save(folder / "1.png", exif=exif)
    assert load("mine", folder).code == 0
    (image,) = PackedImages(root / "mine", "test").batch([0])
    assert np.array_equal(image.transpose(1, 2, 0), seen[8:40])
    assert "turned upright where EXIF says so; shorter" in manifest(root, "mine").preprocessing
    scored = read_picture(folder / "1.png", 32)
    assert isinstance(scored, Picture)
    assert np.array_equal(scored.pixels, image)


@pytest.mark.parametrize("tags", [b"Exif\0\0rubbish", b"Exif\0\0MM\0*\0\0\0\xff", b""])
def test_tags_that_are_damaged_or_say_upright_change_nothing(
    tags: bytes, load: Any, root: Path, tmp_path: Path
) -> None:
    upright = Image.Exif()
    upright[0x0112] = 1
    folder = tmp_path / "x"
    folder.mkdir()
    Image.fromarray(pixels("tags")).save(folder / "1.png", exif=tags or upright)
    assert load("mine", folder).code == 0
    (image,) = PackedImages(root / "mine", "test").batch([0])
    assert np.array_equal(image.transpose(1, 2, 0), pixels("tags"))
    assert manifest(root, "mine").preprocessing == "none"


def test_another_side_can_be_asked_for(load: Any, root: Path, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "x", {"1.png": encoded(1, (64, 80))})
    assert load("mine", folder, "--side", 48).code == 0
    assert PackedImages(root / "mine", "test").batch([0]).shape == (1, 3, 48, 48)
    refused(load("mine", folder, "--side", 0), "--side 0: 1 to 1024 pixels")


def test_unreadable_pictures_are_named_counted_and_left_out(
    load: Any, root: Path, tmp_path: Path
) -> None:
    whole = encoded("whole", (300, 300))
    huge = b"\x89PNG\r\n\x1a\n" + bytes.fromhex(
        "0000000d49484452000186a0000186a008020000000385ea91"  # 100,000 × 100,000 pixels
    )
    bad = {"empty.png": b"", "cut.png": whole[: len(whole) // 2], "huge.png": huge}
    bad |= {f"text{i}.jpg": b"no picture" for i in range(4)}
    good = {f"{i}.png": encoded(i) for i in range(5)}
    result = load("mine", write_tar(tmp_path / "x.tar.gz", bad | good | {"readme.txt": b"text"}))
    assert result.code == 0
    assert "7 of 12 files cannot be read as an image and are left out" in result.err
    assert "cut.png, empty.png, huge.png, text0.jpg, text1.jpg and 2 more; not a" in result.err
    assert "; not a picture (PNG, JPEG, BMP, GIF, TIFF, WEBP, PPM) (5); empty (1); " in result.err
    assert manifest(root, "mine").unreadable == tuple(sorted(bad))
    images = PackedImages(root / "mine", "test")
    assert list(images.ids) == sorted(good)
    expected = np.stack([pixels(i).transpose(2, 0, 1) for i in range(5)])
    assert np.array_equal(images.batch(range(5)), expected)
    (tmp_path / "bad").mkdir()
    only_bad = load("other", write_tar(tmp_path / "bad.tar.gz", bad))
    refused(only_bad, "none of 7 files of bad.tar.gz can be read")
    assert not (root / "other").exists()


def test_a_pool_goes_to_train_and_splits_that_a_set_does_not_use_are_left_out(
    load: Any, root: Path, tmp_path: Path
) -> None:
    flat = {f"n{k}/{i}.png": encoded((k, i)) for k in range(3) for i in range(2)}
    assert load("tinyimagenet", write_folder(tmp_path / "flat", flat)).code == 0
    assert list(manifest(root, "tinyimagenet").splits) == ["train"]
    official = {
        **{f"tiny-imagenet-200/train/n{k}/images/n{k}_0.JPEG": encoded(k) for k in range(3)},
        **{f"tiny-imagenet-200/val/images/val_{k}.JPEG": encoded(k) for k in range(3)},
        "tiny-imagenet-200/words.txt": b"words",
    }
    result = load("tinyimagenet", write_zip(tmp_path / "t.zip", official), "--force")
    assert result.code == 0
    assert "tinyimagenet does not use val: left out" in result.err
    images = PackedImages(root / "tinyimagenet", "train")
    assert list(images.ids) == [f"train/n{k}/images/n{k}_0.JPEG" for k in range(3)]
    places = {f"val_256/Places365_val_{i}.jpg": encoded(i, (40, 40)) for i in range(2)}
    assert load("places365", write_tar(tmp_path / "val_256.tar", places, "w")).code == 0
    assert list(manifest(root, "places365").splits) == ["test"]
    assert load("textures", write_folder(tmp_path / "v", {"val/1.png": encoded(1)})).code == 0
    assert list(manifest(root, "textures").splits) == ["test"]
    refused(
        load("random300k", write_folder(tmp_path / "w", {"val/1.png": encoded(1)})),
        "the splits val are there; random300k has train",
    )


def test_labels_follow_the_classes_of_a_known_set(load: Any, root: Path, tmp_path: Path) -> None:
    some = {f"{kind}/1.png": encoded(kind) for kind in ("truck", "cat")}
    assert load("cifar10", write_folder(tmp_path / "a", some)).code == 0
    assert PackedImages(root / "cifar10", "test").labels.tolist() == [3, 9]  # type: ignore
    assert manifest(root, "cifar10").classes == CLASSES
    assert manifest(root, "cifar10").note == (
        "cifar10: 2 of 10,000 test images, not the official archive"
    )
    digits = {f"{digit}/1.png": encoded(digit) for digit in (7, 2)}
    assert load("svhn", write_folder(tmp_path / "b", digits)).code == 0
    assert PackedImages(root / "svhn", "test").labels.tolist() == [2, 7]  # type: ignore
    foreign = {f"{kind}/1.png": encoded(kind) for kind in ("cat", "unicorn")}
    result = load("cifar100", write_folder(tmp_path / "c", foreign))
    assert "cat is none of its classes; imported without labels" in result.err
    assert PackedImages(root / "cifar100", "test").labels is None


def test_notes_say_what_is_there(load: Any, root: Path, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "x", {"1.png": encoded(1)})
    assert load("textures", folder).code == 0
    assert manifest(root, "textures").note == (
        "textures: 1 of 5,640 images, not the official archive"
    )
    again = load("textures", folder, "--note", "stripes only")
    assert again.code == 0
    assert "unchanged" in again.out
    assert manifest(root, "textures").note == "stripes only"
    assert load("textures", folder).code == 0
    assert manifest(root, "textures").note == "stripes only"
    assert load("miniplaces", folder, "--note", "one").code == 0
    assert manifest(root, "miniplaces").note == (
        "MiniPlaces (100 kinds of Places2, 128 pixels) in place of Places365; one"
    )
    assert load("mine", folder).code == 0
    assert manifest(root, "mine").note == ""


def test_an_archive_with_the_published_checksum_is_official(
    load: Any, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import hashlib
    from dataclasses import replace

    from oodbench.datasets.isun import Isun

    path = write_tar(tmp_path / "renamed", {f"iSUN/{i}.png": encoded(i) for i in range(3)})
    digest = hashlib.md5(path.read_bytes()).hexdigest()
    archive = replace(Isun.card.archives[0], checksum=f"md5:{digest}")
    card = replace(Isun.card, archives=(archive,), images={"test": 3})
    monkeypatch.setattr(Isun, "card", card)
    unpacked = write_folder(tmp_path / "x", {f"{i}.png": encoded(i) for i in range(3)})
    assert load("isun", unpacked).code == 0
    assert not manifest(root, "isun").official
    assert "official" in load("isun", path).out
    assert manifest(root, "isun").official
    assert manifest(root, "isun").note == ""


@pytest.mark.parametrize("place", ["folder", "parent", "tar.gz"])
def test_cifar_batches_are_read_and_kept_for_torchvision(
    place: str, load: Any, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision.datasets import CIFAR10 as Torchvision

    batches = {f"data_batch_{i}": 4 for i in range(1, 6)} | {"test_batch": 6}
    folder = write_cifar(
        tmp_path / "down" / "cifar-10-batches-py", batches, "batches.meta", "label_names", CLASSES
    )
    source = {"folder": folder, "parent": tmp_path / "down", "tar.gz": tmp_path / "c.tar.gz"}[place]
    # The published archive is in no order.
    files = [(f"cifar-10-batches-py/{p.name}", p.read_bytes()) for p in folder.iterdir()]
    write_tar(tmp_path / "c.tar.gz", dict(sorted(files, key=lambda file: file[0][::-1])))
    assert load("cifar10", source).code == 0
    told = manifest(root, "cifar10")
    assert told.note == (
        "cifar10: 20 of 50,000 train images, 6 of 10,000 test images, not the official archive"
    )
    assert (told.official, told.classes, told.preprocessing) == (False, CLASSES, "none")
    monkeypatch.setattr(Torchvision, "_check_integrity", lambda self: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    for split in ("train", "test"):
        images = PackedImages(root / "cifar10", split)
        theirs = Torchvision(root / "cifar10", train=split == "train", download=False)
        ours = images.batch(range(len(images))).transpose(0, 2, 3, 1)
        assert np.array_equal(ours, theirs.data)
        assert images.labels is not None
        assert images.labels.tolist() == theirs.targets
    assert PackedImages(root / "cifar10", "train").ids[4:6] == (
        "data_batch_2/00000",
        "data_batch_2/00001",
    )


def test_cifar_100_batches_are_read(load: Any, root: Path, tmp_path: Path) -> None:
    from oodbench.datasets.cifar100 import CLASSES as HUNDRED

    folder = write_cifar(
        tmp_path / "cifar-100-python", {"train": 9, "test": 5}, "meta", "fine_label_names", HUNDRED
    )
    assert load("cifar100", folder).code == 0
    assert {split: one.images for split, one in manifest(root, "cifar100").splits.items()} == {
        "train": 9,
        "test": 5,
    }
    refused(load("cifar10", folder), "these are the files of CIFAR-100, not of cifar10")
    refused(load("textures", folder), "these are the files of CIFAR-100, not of textures")
    assert load("hundred", folder).code == 0


def _published_files(folder: Path) -> dict[str, Path]:
    """Write a little of every published form; return the folder of each, by its set."""
    from oodbench.datasets.cifar100 import CLASSES as HUNDRED

    cifar100 = {"train": 2, "test": 2}
    return {
        "cifar10": write_cifar(
            folder / "cifar10", {"test_batch": 3}, "batches.meta", "label_names", CLASSES
        ),
        "cifar100": write_cifar(folder / "cifar100", cifar100, "meta", "fine_label_names", HUNDRED),
        "svhn": write_digits(folder / "svhn", {"test": 4}),
        "imagenet32": write_imagenet32(folder / "imagenet32", {"train_data_batch_1": 2}),
    }


FORMED = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "svhn": "SVHN"} | {
    "imagenet32": "ImageNet 32×32"
}


@pytest.mark.parametrize("name", [*FORMED, "textures", "random300k"])
def test_the_files_of_another_set_are_refused_under_a_known_name(
    name: str, load: Any, root: Path, tmp_path: Path
) -> None:
    for other, folder in _published_files(tmp_path / "files").items():
        result = load(name, folder)
        if other == name:
            assert result.code == 0, result.err
        else:
            refused(result, f"these are the files of {FORMED[other]}, not of {name}")
    assert [path.name for path in root.glob("*")] == [name] * (name in FORMED)
    assert load("mine", tmp_path / "files" / "svhn").code == 0


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "svhn"])
def test_among_several_published_sets_that_of_the_name_is_found(
    name: str, load: Any, root: Path, tmp_path: Path
) -> None:
    _published_files(tmp_path / "files")
    assert load(name, tmp_path / "files").code == 0
    assert manifest(root, name).splits["test"].images == {"svhn": 4, "cifar100": 2}.get(name, 3)


def test_right_checksums_of_another_form_make_nothing_official(
    load: Any, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import hashlib

    folder = _published_files(tmp_path / "files")["cifar10"]
    digests = {p.name: hashlib.md5(p.read_bytes()).hexdigest() for p in folder.iterdir()}
    monkeypatch.setitem(vars(CIFAR10), "checksums", digests)
    assert load("cifar10", folder).code == 0
    assert manifest(root, "cifar10").official
    # Even if the files were not refused.
    monkeypatch.setattr("oodbench.data.understanding._published", lambda *given: given[2][0])
    assert load("svhn", folder).code == 0
    assert not manifest(root, "svhn").official


def test_published_splits_that_a_set_does_not_use_are_left_out(
    load: Any, root: Path, tmp_path: Path
) -> None:
    batches = {"train_data_batch_1": 4, "train_data_batch_10": 3, "val_data": 2}
    result = load("imagenet32", write_imagenet32(tmp_path / "both", batches))
    assert result.code == 0
    assert "imagenet32 does not use val: left out" in result.err
    told = manifest(root, "imagenet32")
    assert {split: one.images for split, one in told.splits.items()} == {"train": 7}
    assert told.classes is None
    only_val = write_imagenet32(tmp_path / "val", {"val_data": 2})
    refused(load("imagenet32", only_val), "the splits val are there; imagenet32 has train")
    assert load("mine", tmp_path / "both").code == 0
    assert list(manifest(root, "mine").splits) == ["train", "val"]


def test_files_that_a_mac_puts_beside_the_published_ones_are_passed_over(
    load: Any, root: Path, tmp_path: Path
) -> None:
    digits = write_digits(tmp_path / "svhn", {"train": 3, "test": 4})
    files = {f"svhn/{path.name}": path.read_bytes() for path in digits.iterdir()}
    files |= {f"__MACOSX/svhn/._{path.name}": b"\0\5\x16\7" for path in digits.iterdir()}
    assert load("svhn", write_zip(tmp_path / "svhn.zip", files)).code == 0
    assert sum(one.images for one in manifest(root, "svhn").splits.values()) == 7


def test_the_checksums_of_cifar_are_those_of_torchvision() -> None:
    from torchvision import datasets

    for ours, theirs in ((CIFAR10, datasets.CIFAR10), (CIFAR100, datasets.CIFAR100)):
        files = dict([*theirs.train_list, *theirs.test_list])
        assert ours.checksums == files | {theirs.meta["filename"]: theirs.meta["md5"]}
        assert ours.folder == theirs.base_folder
        assert list(ours.batches) == [name for name, _ in theirs.train_list + theirs.test_list]


def test_a_batch_that_would_run_something_is_refused(load: Any, root: Path, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "run"),)

    batch = pickle.dumps({"data": Evil(), "labels": []})
    refused(
        load("cifar10", write_folder(tmp_path / "x", {"data_batch_1": batch})), "which is no data"
    )
    assert not (tmp_path / "run").exists()
    assert not (root / "cifar10").exists()


def test_digits_of_the_test_file_are_balanced_and_ten_is_zero(
    load: Any, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from scipy.io import savemat

    monkeypatch.setattr("oodbench.data.digits._FIRST_TEST_DIGITS", 2)
    digits = [10, 1, 1, 2, 1, 10, 10, 3]
    images = np.stack([pixels(i) for i in range(8)], axis=3)
    (tmp_path / "x").mkdir()
    for name in ("train_32x32.mat", "test_32x32.mat"):
        savemat(tmp_path / "x" / name, {"X": images, "y": np.array(digits)[:, None]})
    assert load("svhn", tmp_path / "x").code == 0
    train, test = (PackedImages(root / "svhn", split) for split in ("train", "test"))
    assert train.labels.tolist() == [digit % 10 for digit in digits]  # type: ignore
    assert test.labels.tolist() == [0, 1, 1, 2, 0, 3]  # type: ignore
    assert test.ids[-1] == "test_32x32/00007"
    assert np.array_equal(test.batch([5])[0], pixels(7).transpose(2, 0, 1))
    assert "test digits of each class" in manifest(root, "svhn").preprocessing
    single = tmp_path / "x" / "train_32x32.mat"
    assert load("digits", single).code == 0
    assert list(manifest(root, "digits").splits) == ["train"]
    single.write_bytes(single.read_bytes()[:5_000])
    refused(load("digits2", single), "train_32x32.mat is no .mat file of SVHN")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros((25_000_000, 1), np.uint8), "and y has 25,000,000 labels"),
        (np.zeros((4, 1)) - 1, "y has other labels than 1 to 10"),
        (np.full((4, 1), np.nan), "y has other labels than 1 to 10"),
        (np.full((4, 1), 1.5), "y has other labels than 1 to 10"),
        (np.array(["four"]), "is no .mat file of SVHN"),
        (np.array([["a"]] * 4, dtype=object), "y is cell"),
    ],
)
def test_labels_that_do_not_fit_the_digits_are_not_read(
    labels: np.ndarray, message: str, load: Any, root: Path, tmp_path: Path
) -> None:
    from scipy.io import savemat

    images = np.stack([pixels(i) for i in range(4)], axis=3)
    path = tmp_path / "test_32x32.mat"
    savemat(path, {"X": images, "y": labels}, do_compression=True)
    tracemalloc.start()
    result = load("svhn", path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    refused(result, "test_32x32.mat is no .mat file of SVHN", message)
    # To find the shapes the library unpacks 128 KiB of each variable.
    assert peak < 100 << 20
    assert not (root / "svhn").exists()


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["cat", "dog"], "test_batch is no file of CIFAR-10"),
        ([1.5, 2.0], "test_batch is no file of CIFAR-10"),
        (7, "test_batch is no file of CIFAR-10"),
        ([1], "test_batch is no file of CIFAR-10"),
        ([0, -1], "the labels of x do not fit its classes"),
        ([0, 10], "the labels of x do not fit its classes"),
    ],
)
def test_labels_that_are_none_of_a_batch_are_refused(
    labels: Any, message: str, load: Any, root: Path, tmp_path: Path
) -> None:
    data = np.stack([pixels(i).transpose(2, 0, 1).ravel() for i in range(2)])
    files = {
        "test_batch": {"data": data, "labels": labels},
        "batches.meta": {"label_names": list(CLASSES)},
    }
    folder = write_folder(
        tmp_path / "x", {name: pickle.dumps(told) for name, told in files.items()}
    )
    refused(load("cifar10", folder), message)
    write_folder(folder, {"batches.meta": pickle.dumps({"label_names": 5})})
    refused(load("cifar10", folder), "batches.meta is no file of CIFAR-10")
    assert not (root / "cifar10").exists()


def test_files_that_are_not_taken_for_pictures_are_counted_and_named(
    load: Any, root: Path, tmp_path: Path
) -> None:
    files = {f"photo{i}.HEIC": b"x" for i in range(3)} | {"readme.txt": b"x", "Makefile": b"x"}
    files |= {"1.png": encoded(1), "2.jfif": encoded(2, form="JPEG"), ".DS_Store": b"x"}
    result = load("mine", write_folder(tmp_path / "x", files))
    assert result.code == 0
    assert result.err == (
        "mine: files left out (5), as their names do not end like a picture's: "
        ".heic (3, such as photo0.HEIC), .txt (1, readme.txt), no ending (1, Makefile)\n"
    )
    assert list(PackedImages(root / "mine", "test").ids) == ["1.png", "2.jfif"]
    endings = {f"{i}.x{i}": b"x" for i in range(9)}
    result = load("other", write_folder(tmp_path / "y", endings | {"1.png": encoded(1)}))
    assert result.err.endswith(".x4 (1, 4.x4) and 4 more endings\n")


def test_pictures_with_long_names_have_different_ids(load: Any, root: Path, tmp_path: Path) -> None:
    long = "/".join(["folder" * 30] * 2)
    names = [f"{long}/{i}.png" for i in range(2)] + ["other/" + "long" * 60 + ".png"]
    files = {name: encoded(name) for name in names}
    assert load("mine", write_tar(tmp_path / "x.tar.gz", files)).code == 0
    ids = list(PackedImages(root / "mine", "test").ids)
    # What is different when it is cut stays as it was.
    assert ids == [*names[:2], f"{names[2][:197]}…"]


def test_images_of_one_id_are_refused(load: Any, root: Path, tmp_path: Path) -> None:
    for part in "ab":
        write_digits(tmp_path / "x" / part, {"test": 2})
    refused(load("svhn", tmp_path / "x"), "x has several images test_32x32/00000")
    assert not (root / "svhn").exists()


def _sparse_tar(path: Path) -> Path:
    """Write a tar with a sparse file whose map is no list of numbers."""
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        info = tarfile.TarInfo("1.png")
        info.pax_headers = {"GNU.sparse.map": "one,two", "GNU.sparse.size": "9"}
        archive.addfile(info)
    return path


def _edited_zip(path: Path, old: bytes, new: bytes) -> Path:
    """Write a zip of a picture and put other bytes into its directory."""
    data = bytearray(write_zip(path, {"päth.png": encoded(1)}).read_bytes())
    place = data.rindex(old, data.rindex(b"PK\1\2"))
    data[place : place + len(old)] = new
    path.write_bytes(data)
    return path


STRANGE: dict[str, tuple[Callable[[Path], Path], str]] = {
    "zip of version 99": (
        # Made by and needed: the first two fields after the signature.
        lambda p: _edited_zip(p / "x", b"PK\1\2\x14\x03\x14\0", b"PK\1\2\x14\x03\x63\0"),
        "x is damaged or not complete (zip file version 9.9)",
    ),
    "zip with a name that is no UTF-8": (
        lambda p: _edited_zip(p / "x", "ä".encode(), b"\xff\xff"),
        "x is damaged or not complete ('utf-8' codec can't decode",
    ),
    "tar with a broken sparse map": (
        lambda p: _sparse_tar(p / "x"),
        "x is damaged or not complete (invalid literal for int()",
    ),
    "a strip": (
        lambda p: np.save(p / "x.npy", np.zeros((1, 1, 200_000, 3), np.uint8)) or p / "x.npy",
        "none of 1 files of x.npy can be read as an image; the first is 00000",
    ),
    "a user that is not there": (
        lambda p: Path("~nosuchuser/x"),
        "~nosuchuser/x: there is no such user",
    ),
    "a link to itself": (
        lambda p: _looped(p / "x"),
        "none of 2 files of x can be read as an image; the first is 1.png",
    ),
}


def _looped(folder: Path) -> Path:
    folder.mkdir()
    (folder / "1.png").symlink_to(folder / "1.png")
    (folder / "2.png").symlink_to(folder / "nothing")
    return folder


@pytest.mark.parametrize("strange", STRANGE)
def test_strange_sources_are_told_in_one_line_with_their_name(
    strange: str, load: Any, root: Path, tmp_path: Path
) -> None:
    write, message = STRANGE[strange]
    refused(load("mine", write(tmp_path)), message)
    assert not (root / "mine").exists()


def test_a_user_that_is_not_there_is_told_of_pictures_to_be_scored() -> None:
    from oodbench.data.named import Unread, find_pictures

    assert find_pictures(["~nosuchuser/x.png"]) == [Unread("~nosuchuser/x.png", "no such user")]


def test_an_array_is_read_by_its_content(load: Any, root: Path, tmp_path: Path) -> None:
    array = np.stack([pixels(i) for i in range(5)])
    with open(tmp_path / "array.bin", "wb") as file:
        np.save(file, array)
    assert load("random300k", tmp_path / "array.bin").code == 0
    images = PackedImages(root / "random300k", "train")
    assert np.array_equal(images.batch(range(5)).transpose(0, 2, 3, 1), array)
    assert images.ids[4] == "00004"
    np.save(tmp_path / "wrong.npy", array.astype(np.float32))
    refused(load("mine", tmp_path / "wrong.npy"), "float32 [5, 32, 32, 3]", "uint8 [N, H, W, 3]")
    np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
    refused(load("mine", tmp_path / "objects.npy"), "objects.npy cannot be read")
    cut = (tmp_path / "array.bin").read_bytes()[:-100]
    (tmp_path / "cut.npy").write_bytes(cut)
    refused(load("mine", tmp_path / "cut.npy"), "cut.npy cannot be read")


def _tar_entry(path: Path, **fields: Any) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for info in (tarfile.TarInfo("good.png"), tarfile.TarInfo("bad.png")):
            data = encoded(1)
            if info.name == "bad.png":
                for field, value in fields.items():
                    setattr(info, field, value)
                data = b"" if "type" in fields else data
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def _zip_link(path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        info = zipfile.ZipInfo("bad.png")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc/passwd")
    return path


UNSAFE: dict[str, tuple[Callable[[Path], Path], str]] = {
    "tar, up": (lambda p: _tar_entry(p, name="a/../../bad.png"), "a/../../bad.png is a path that"),
    "tar, absolute": (lambda p: _tar_entry(p, name="/tmp/bad.png"), "/tmp/bad.png is an absolute"),
    "tar, symlink": (
        lambda p: _tar_entry(p, type=tarfile.SYMTYPE, linkname="/etc/passwd"),
        "bad.png is a link or device",
    ),
    "tar, hard link": (
        lambda p: _tar_entry(p, type=tarfile.LNKTYPE, linkname="good.png"),
        "bad.png is a link or device",
    ),
    "tar, device": (lambda p: _tar_entry(p, type=tarfile.CHRTYPE), "bad.png is a link or device"),
    "tar, pipe": (lambda p: _tar_entry(p, type=tarfile.FIFOTYPE), "bad.png is a link or device"),
    "tar, twice": (lambda p: _tar_entry(p, name="good.png"), "good.png is in it twice"),
    "zip, up": (lambda p: write_zip(p, {"../bad.png": encoded(1)}), "../bad.png is a path that"),
    "zip, up in Windows": (
        lambda p: write_zip(p, {"a\\..\\..\\bad.png": encoded(1)}),
        "is a path that leads out of it",
    ),
    "zip, absolute": (lambda p: write_zip(p, {"/bad.png": encoded(1)}), "an absolute path"),
    "zip, drive": (lambda p: write_zip(p, {"C:\\bad.png": encoded(1)}), "an absolute path"),
    "zip, symlink": (_zip_link, "bad.png is a link or device"),
    "tar, control characters": (
        lambda p: _tar_entry(p, name="../\x1b[31m\nbad.png"),
        "../\\x1b[31m\\nbad.png is a path that",
    ),
}


@pytest.mark.parametrize("unsafe", UNSAFE)
def test_an_archive_that_reaches_outside_is_refused_and_leaves_nothing(
    unsafe: str, load: Any, root: Path, tmp_path: Path
) -> None:
    write, message = UNSAFE[unsafe]
    refused(load("mine", write(tmp_path / "archive")), "archive is refused: its entry", message)
    assert not root.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["archive"]


BOMBS: dict[str, Callable[[Path], Path]] = {
    "zip": zip_bomb,
    "tar.gz": lambda path: tar_bomb(path, [ZEROS * REPEATS]),
    "tar.gz of many files": lambda path: tar_bomb(path, [ZEROS] * REPEATS),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_ten_gigabytes_of_zeros_are_refused_early_and_in_little_memory(
    bomb: str, load: Any, root: Path, tmp_path: Path
) -> None:
    path = BOMBS[bomb](tmp_path / "bomb")
    assert path.stat().st_size < 16 << 20
    tracemalloc.start()
    start = time.process_time()
    result = load("mine", path)
    seconds = time.process_time() - start
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    refused(result, "bomb would unpack to more than")
    assert seconds < 30
    assert peak < 64 << 20
    assert not root.exists()


def test_a_file_name_of_ten_gigabytes_is_not_read(load: Any, root: Path, tmp_path: Path) -> None:
    for kind in (tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME):
        path = tar_bomb(tmp_path / "bomb", [ZEROS * REPEATS], kind)
        tracemalloc.start()
        result = load("mine", path)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        refused(result, "the name of an entry has more than a megabyte")
        assert peak < 64 << 20


def test_a_picture_too_large_to_be_one_is_not_read(load: Any, root: Path, tmp_path: Path) -> None:
    with open(tmp_path / "large.png", "wb") as file:
        file.truncate(300 << 20)
    write_folder(tmp_path / "x", {"1.png": encoded(1)})
    os.link(tmp_path / "large.png", tmp_path / "x" / "large.png")
    assert load("mine", tmp_path / "x").code == 0
    assert manifest(root, "mine").unreadable == ("large.png",)


@pytest.mark.parametrize("form", ["tar", "tar.gz", "zip"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.8])
def test_an_archive_that_is_cut_is_told_in_one_line(
    form: str, share: float, load: Any, root: Path, tmp_path: Path
) -> None:
    path = FORMS[form](tmp_path, {f"{i}.png": encoded(i, (64, 64)) for i in range(40)})
    data = path.read_bytes()
    # Also at the border of an entry, where a tar looks complete.
    path.write_bytes(data[: int(len(data) * share) // 512 * 512])
    refused(load("mine", path), "damaged or not complete")
    assert not root.exists()


def test_a_damaged_file_in_a_sound_archive_is_unreadable(
    load: Any, root: Path, tmp_path: Path
) -> None:
    path = write_zip(tmp_path / "x.zip", {"1.png": encoded(1), "2.png": encoded(2, (64, 64))})
    data = bytearray(path.read_bytes())
    data[data.index(b"IDAT") + 20] ^= 255
    path.write_bytes(data)
    assert load("mine", path).code == 0
    assert manifest(root, "mine").unreadable == ("1.png",)


@pytest.mark.parametrize(
    ("data", "message"), [(b"", "is empty"), (b"hello" * 300, "is no tar, tar.gz or zip")]
)
def test_what_is_no_archive_is_told_so(
    data: bytes, message: str, load: Any, tmp_path: Path
) -> None:
    (tmp_path / "x.tar.gz").write_bytes(data)
    refused(load("mine", tmp_path / "x.tar.gz"), message)
    refused(load("mine", tmp_path / "nothing"), "there is no")
    refused(load("mine", write_folder(tmp_path / "f", {"a.txt": b"x"})), "holds no pictures")
    refused(load("mine", write_tar(tmp_path / "t", {"a.txt": b"x"})), "holds no pictures")
    refused(load("mine", Path("/dev/null")), "neither a file nor a folder")


def test_importing_twice_changes_nothing(load: Any, root: Path, tmp_path: Path) -> None:
    files = {f"{i}.png": encoded(i) for i in range(3)}
    for source in (write_tar(tmp_path / "x.tar.gz", files), write_folder(tmp_path / "y", files)):
        assert load("mine", source).code == 0
        before = contents(root)
        times = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
        again = load("mine", source)
        assert again.code == 0
        assert again.out.startswith("already there, unchanged: mine: test 3")
        assert contents(root) == before
        assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == times


def test_other_images_replace_a_set_only_if_forced(load: Any, root: Path, tmp_path: Path) -> None:
    assert load("mine", write_folder(tmp_path / "a", {"1.png": encoded(1)})).code == 0
    before = contents(root)
    other = write_folder(tmp_path / "b", {"1.png": encoded(2)})
    refused(load("mine", other), "holds another set of that name", "from a", "--force replaces it")
    assert contents(root) == before
    assert load("mine", other, "--force").code == 0
    assert np.array_equal(
        PackedImages(root / "mine", "test").batch([0])[0], pixels(2).transpose(2, 0, 1)
    )
    assert [path.name for path in root.iterdir()] == ["mine"]


def test_further_splits_are_added_without_force(load: Any, root: Path, tmp_path: Path) -> None:
    files = {f"{split}/{i}.png": encoded((split, i)) for split in ("train", "test") for i in "ab"}
    only_test = {name: data for name, data in files.items() if name.startswith("test")}
    assert load("mine", write_folder(tmp_path / "a", only_test)).code == 0
    assert load("mine", write_folder(tmp_path / "b", files)).code == 0
    assert list(manifest(root, "mine").splits) == ["train", "test"]
    assert "unchanged" in load("mine", tmp_path / "a").out


def test_splits_that_come_one_by_one_are_put_together_and_the_note_stays(
    load: Any, root: Path, tmp_path: Path
) -> None:
    def pictures(split: str, count: int, size: int = 32) -> Path:
        files = {f"{split}/{i}.png": encoded((split, i), (size, size)) for i in range(count)}
        return write_folder(tmp_path / f"{split}{count}", files)

    assert load("mine", pictures("train", 3), "--note", "of the first day").code == 0
    test = write_tar(tmp_path / "t.tar.gz", {f"test/{i}.png": encoded(i, (40, 40)) for i in "ab"})
    assert load("mine", test).code == 0
    told = manifest(root, "mine")
    assert {split: one.images for split, one in told.splits.items()} == {"train": 3, "test": 2}
    assert all(PackedImages(root / "mine", s).digest == told.splits[s].digest for s in told.splits)
    assert told.note == "of the first day"
    assert told.source["train3"] == "folder"
    assert told.source["t.tar.gz"].startswith("sha256 ")
    assert told.preprocessing.startswith("shorter side to 32 pixels")
    before = contents(root)
    for source in (test, tmp_path / "train3"):
        assert "already there, unchanged: mine: train 3, test 2" in load("mine", source).out
        assert contents(root) == before
    refused(load("mine", pictures("train", 4)), "holds another set", "from train3, t.tar.gz")
    refused(load("mine", pictures("val", 2), "--side", 48), "holds another set")
    assert contents(root) == before
    assert load("mine", pictures("val", 1), "--note", "of both days").code == 0
    assert list(manifest(root, "mine").splits) == ["train", "val", "test"]
    assert manifest(root, "mine").note == "of both days"
    assert [path.name for path in root.iterdir()] == ["mine"]


def test_the_automatic_note_follows_what_is_added_and_a_users_own_does_not(
    load: Any, root: Path, tmp_path: Path
) -> None:
    assert load("svhn", write_digits(tmp_path / "a", {"test": 3})).code == 0
    assert manifest(root, "svhn").note == "svhn: 3 of 10,000 test images, not the official archive"
    assert load("svhn", write_digits(tmp_path / "b", {"train": 4})).code == 0
    assert manifest(root, "svhn").note == (
        "svhn: 4 of 73,257 train images, 3 of 10,000 test images, not the official archive"
    )
    for split, note in (("train", ["--note", "one"]), ("test", [])):
        folder = write_folder(tmp_path / split, {f"{split}/1.png": encoded(1)})
        assert load("miniplaces", folder, *note).code == 0
    stand_in = "MiniPlaces (100 kinds of Places2, 128 pixels) in place of Places365; one"
    assert manifest(root, "miniplaces").note == stand_in


def test_a_set_put_together_is_official_only_if_all_of_it_is(
    load: Any, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import hashlib
    from dataclasses import replace

    from oodbench.data.known import known_set

    svhn = known_set("svhn")
    assert svhn is not None
    folder = write_digits(tmp_path / "svhn", {"train": 4, "test": 3})
    digests = [
        "md5:" + hashlib.md5((folder / one.file).read_bytes()).hexdigest()
        for one in svhn.card.archives
    ]

    def publish(*checksums: str) -> None:
        archives = tuple(
            replace(one, checksum=checksum)
            for one, checksum in zip(svhn.card.archives, checksums, strict=True)
        )
        monkeypatch.setattr(type(svhn), "card", replace(svhn.card, archives=archives))

    publish(digests[0], "")
    assert load("svhn", folder / "test_32x32.mat").code == 0
    assert manifest(root, "svhn").official
    assert load("svhn", folder / "train_32x32.mat").code == 0
    assert not manifest(root, "svhn").official
    publish(*digests)
    assert load("svhn", folder).code == 0
    assert manifest(root, "svhn").official
    (folder / "test_32x32.mat").unlink()
    (folder / "train_32x32.mat").rename(folder / "test_32x32.mat")
    assert load("svhn", folder, "--force").code == 0
    assert not manifest(root, "svhn").official


def test_a_set_that_is_official_stays_so_when_it_comes_again_without_a_checksum(
    load: Any, root: Path, tmp_path: Path
) -> None:
    folder = write_folder(tmp_path / "x", {"1.png": encoded(1)})
    assert load("isun", folder).code == 0
    path = root / "isun" / "set.json"
    path.write_text(path.read_text().replace('"official": false', '"official": true'))
    assert "unchanged" in load("isun", folder).out
    assert manifest(root, "isun").official


def test_files_kept_for_torchvision_stay_when_a_split_is_added(
    load: Any, root: Path, tmp_path: Path
) -> None:
    meta = ("batches.meta", "label_names", CLASSES)
    for name in ("test_batch", "data_batch_1"):
        assert load("cifar10", write_cifar(tmp_path / name, {name: 3}, *meta)).code == 0
    kept = sorted(path.name for path in (root / "cifar10" / "cifar-10-batches-py").iterdir())
    assert kept == ["batches.meta", "data_batch_1", "test_batch"]


def test_a_damaged_set_is_replaced(load: Any, root: Path, tmp_path: Path) -> None:
    source = write_tar(tmp_path / "x.tar.gz", {"1.png": encoded(1)})
    assert load("mine", source).code == 0
    before = contents(root)
    whole = before["mine/test.npy"]
    for damage in (b"", whole[:-1], whole[:-1] + bytes([whole[-1] ^ 255])):
        (root / "mine" / "test.npy").write_bytes(damage)
        result = load("mine", source)
        assert result.code == 0
        assert "it is replaced" in result.err
        assert contents(root) == before


def _spoil(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def test_a_damaged_set_is_replaced_by_nothing_else(load: Any, root: Path, tmp_path: Path) -> None:
    def pictures(name: str, *splits: str) -> Path:
        files = {f"{split}/{i}.png": encoded((split, i)) for split in splits for i in "ab"}
        return write_folder(tmp_path / name, files)

    whole = pictures("whole", "train", "test")
    assert load("mine", whole).code == 0
    before = contents(root)
    _spoil(root / "mine" / "test.npy")
    damaged = contents(root)
    other = write_folder(tmp_path / "other", {"test/a.png": encoded("other")})
    refused(load("mine", other), "holds another set of that name", "--force replaces it")
    refused(load("mine", pictures("train", "train")), "test.npy", "import all its splits")
    assert contents(root) == damaged
    # The split that was damaged is enough: the other is sound, and stays.
    assert load("mine", pictures("test", "test")).code == 0
    assert {name: data for name, data in contents(root).items() if "set.json" not in name} == {
        name: data for name, data in before.items() if "set.json" not in name
    }
    for split in ("train", "test"):
        _spoil(root / "mine" / f"{split}.npy")
    assert load("mine", whole).code == 0
    assert contents(root) == before
    _spoil(root / "mine" / "test.npy")
    assert load("mine", other, "--force").code == 0
    assert list(manifest(root, "mine").splits) == ["test"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"schema": 2}', "was written by a newer oodbench; upgrade oodbench"),
        ("[]", "set.json is damaged (TypeError); import the set again with --force"),
        (None, "set.json cannot be read: Permission denied"),
    ],
)
def test_a_set_whose_manifest_cannot_be_read_is_replaced_only_if_forced(
    text: str | None,
    message: str,
    load: Any,
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = write_folder(tmp_path / "a", {"1.png": encoded(1)})
    assert load("mine", source).code == 0
    if text is not None:
        (root / "mine" / "set.json").write_text(text)
    before = contents(root)
    with monkeypatch.context() as patch:
        if text is None:

            def denied(*_: Any, **__: Any) -> str:
                raise PermissionError(13, "Permission denied")

            patch.setattr(Path, "read_text", denied)
        refused(load("mine", source), message)
    assert contents(root) == before
    assert load("mine", source, "--force").code == 0
    assert manifest(root, "mine").splits["test"].images == 1


def test_a_folder_that_no_import_wrote_is_not_touched(
    load: Any, root: Path, tmp_path: Path
) -> None:
    write_folder(root / "mine", {"precious.txt": b"words", "1.png": encoded(1)})
    before = contents(root)
    refused(load("mine", root / "mine"), "was not written by an import")
    (root / "other").write_text("a file")
    refused(load("other", root / "mine"), "was not written by an import")
    (root / "other").unlink()
    assert contents(root) == before


def _replacement(there: bool, load: Any, tmp_path: Path) -> Path:
    """Import a set if there is to be one; return a folder of other pictures to replace it."""
    if there:
        assert load("mine", write_folder(tmp_path / "a", {"1.png": encoded(1)})).code == 0
    return write_folder(tmp_path / "b", {f"{i}.png": encoded(i) for i in range(5)})


@pytest.mark.parametrize("moment", ["pixels", "manifest", "move"])
@pytest.mark.parametrize("there", [False, True])
def test_an_import_that_is_killed_leaves_the_old_set_or_nothing(
    moment: str,
    there: bool,
    load: Any,
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = _replacement(there, load, tmp_path)
    before = contents(root)

    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    target = {
        "pixels": "oodbench.data.importing.SplitWriter.finish",
        "manifest": "oodbench.data.importing._write",
        "move": "oodbench.data.importing.put_in_place",
    }[moment]
    with monkeypatch.context() as patch:
        patch.setattr(target, killed)
        result = load("mine", source, "--force")
    assert result.code == 130
    assert result.err.endswith("oodbench: interrupted; nothing was imported\n")
    assert contents(root) == before
    assert [path.name for path in root.iterdir()] == (["mine"] if there else [])
    assert load("mine", source, "--force").code == 0


@pytest.mark.parametrize("fault", [KeyboardInterrupt(), OSError(5, "Input/output error")])
@pytest.mark.parametrize("there", [False, True])
def test_a_replacement_that_fails_between_its_two_moves_leaves_the_old_set(
    fault: BaseException,
    there: bool,
    load: Any,
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = _replacement(there, load, tmp_path)
    before = contents(root)
    rename, moved = os.rename, []

    def failing(old: Path, new: Path) -> None:
        if new == root / "mine" and not moved:
            moved.append(old)
            raise fault
        rename(old, new)

    with monkeypatch.context() as patch:
        patch.setattr("oodbench.data.packing.os.rename", failing)
        result = load("mine", source, "--force")
    assert moved
    assert result.code in (2, 130)
    assert contents(root) == before
    assert [path.name for path in root.iterdir()] == (["mine"] if there else [])
    assert load("mine", source, "--force").code == 0


def _ended() -> int:
    """Return the number of a process that has ended."""
    ended = os.fork()
    if ended == 0:
        os._exit(0)
    os.waitpid(ended, 0)
    return ended


def _killed_between_the_moves(root: Path, load: Any, source: Path) -> None:
    """Replace the set mine in a process that is killed when the old one is moved away."""
    process = os.fork()
    if process == 0:
        rename = os.rename

        def killed(old: Path, new: Path) -> None:
            if new == root / "mine":
                os.kill(os.getpid(), signal.SIGKILL)
            rename(old, new)

        os.rename = killed
        load("mine", source, "--force")
        os._exit(1)
    _, status = os.waitpid(process, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    assert not (root / "mine").exists()
    assert len(list(root.glob(".mine.*/set.json"))) == 2


def test_a_set_that_a_killed_import_had_moved_away_is_put_back_by_the_next(
    load: Any, root: Path, tmp_path: Path
) -> None:
    old = write_folder(tmp_path / "a", {"1.png": encoded(1)})
    new = write_folder(tmp_path / "b", {f"{i}.png": encoded(i) for i in range(5)})
    assert load("mine", old).code == 0
    before = contents(root)
    _killed_between_the_moves(root, load, new)
    assert load("other", new).code == 0
    assert {name: data for name, data in contents(root).items() if "other" not in name} == before
    _killed_between_the_moves(root, load, new)
    refused(load("mine", new), "holds another set of that name")
    assert load("mine", new, "--force").code == 0
    assert sorted(path.name for path in root.iterdir()) == ["mine", "other"]


def test_what_was_left_of_a_set_in_removal_is_not_put_back(
    load: Any, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_folder(tmp_path / "a", {"1.png": encoded(1)})
    assert load("mine", source).code == 0
    with monkeypatch.context() as patch:
        # As if killed when the old one is about to be removed.
        patch.setattr("oodbench.data.packing.shutil.rmtree", lambda *_, **__: None)
        other = write_folder(tmp_path / "b", {"1.png": encoded(2)})
        assert load("mine", other, "--force").code == 0
    (left,) = root.glob(".mine.*.old")
    assert sorted(path.name for path in left.iterdir()) == ["test.json", "test.npy"]


def test_what_a_killed_process_left_is_swept(load: Any, root: Path, tmp_path: Path) -> None:
    from oodbench.files import machine

    left = root / f".other.{machine()}-{_ended()}-01234567.tmp"
    running = root / f".other.{machine()}-{os.getppid()}-01234567.tmp"
    for folder in (left, running):
        write_folder(folder, {"test.raw": b"pixels"})
    assert load("mine", write_folder(tmp_path / "a", {"1.png": encoded(1)})).code == 0
    assert sorted(path.name for path in root.iterdir()) == sorted([running.name, "mine"])


def test_a_full_disk_is_told_in_one_line(
    load: Any, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(importing.SplitWriter, "add", full)
    source = write_folder(tmp_path / "a", {"1.png": encoded(1)})
    refused(load("mine", source), "No space left on device; choose another folder")
    assert list(root.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mini", "mini is no image set that is imported"),
        ("imported", "imported is no image set that is imported"),
        ("tinyimagenet_all", "another view of tinyimagenet"),
        ("atom", "atom is the name of one of the detectors"),
        ("linf", "linf is the name of one of the attacks"),
        ("My", "is no name for a set"),
        ("../x", "is no name for a set"),
        ("", "is no name for a set"),
        ("CIFAR10", "did you mean cifar10"),
    ],
)
def test_a_name_that_is_not_free_is_refused(
    name: str, message: str, load: Any, root: Path, tmp_path: Path
) -> None:
    refused(load(name, write_folder(tmp_path / "a", {"1.png": encoded(1)})), message)
    assert not root.exists()


def test_a_new_name_that_is_nearly_known_is_asked_about(load: Any, tmp_path: Path) -> None:
    result = load("cifar_10", write_folder(tmp_path / "a", {"1.png": encoded(1)}))
    assert result.code == 0
    assert "cifar_10 is a new set; did you mean cifar10" in result.err


def test_names_that_are_no_text_can_be_stored(load: Any, root: Path, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with open(os.fsencode(tmp_path / "a") + b"/\xff\n.png", "wb") as file:
        file.write(encoded(1))
    assert load("mine", tmp_path / "a").code == 0
    assert json.loads((root / "mine" / "test.json").read_text())["ids"] == ["\\xff\\n.png"]
