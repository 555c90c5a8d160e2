"""Pictures in the forms that an import reads, written here without the importer."""

import gzip
import io
import pickle
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image


def pixels(seed: object, height: int = 32, width: int = 32) -> np.ndarray:
    """Return smooth noise, uint8 [H, W, 3]."""
    rng = np.random.default_rng(list(str(seed).encode()))
    small = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))


def encoded(seed: object, size: tuple[int, int] = (32, 32), form: str = "PNG") -> bytes:
    """Return a picture file."""
    file = io.BytesIO()
    Image.fromarray(pixels(seed, *size)).save(file, form)
    return file.getvalue()


def write_folder(folder: Path, files: Mapping[str, bytes]) -> Path:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def write_tar(path: Path, files: Mapping[str, bytes], mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def write_zip(path: Path, files: Mapping[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def write_cifar(
    folder: Path, batches: Mapping[str, int], meta: str, key: str, classes: Sequence[str]
) -> Path:
    """Write batches as torchvision reads them, with so many images each."""
    folder.mkdir(parents=True)
    labels = "labels" if key == "label_names" else "fine_labels"
    for name, count in batches.items():
        data = np.stack([pixels(f"{name}{i}").transpose(2, 0, 1).ravel() for i in range(count)])
        told = {"data": data, labels: [i % len(classes) for i in range(count)], "filenames": []}
        (folder / name).write_bytes(pickle.dumps(told, protocol=2))
    (folder / meta).write_bytes(pickle.dumps({key: list(classes)}, protocol=2))
    return folder


def write_digits(folder: Path, counts: Mapping[str, int]) -> Path:
    """Write the .mat files of SVHN, with so many digits in each split."""
    from scipy.io import savemat

    folder.mkdir(parents=True, exist_ok=True)
    for split, count in counts.items():
        images = np.stack([pixels(f"{split}{i}") for i in range(count)], axis=3)
        digits = np.arange(1, count + 1)[:, None] % 11
        savemat(folder / f"{split}_32x32.mat", {"X": images, "y": np.maximum(digits, 1)})
    return folder


def write_imagenet32(folder: Path, batches: Mapping[str, int]) -> Path:
    """Write batches of ImageNet 32×32, with so many pictures each."""
    folder.mkdir(parents=True)
    for name, count in batches.items():
        data = np.stack([pixels(f"{name}{i}").transpose(2, 0, 1).ravel() for i in range(count)])
        told = {"data": data, "labels": list(range(1, count + 1))}
        (folder / name).write_bytes(pickle.dumps(told, protocol=2))
    return folder


ZEROS = 64 << 20
REPEATS = 160
"""So many times `ZEROS` bytes are 10 GiB."""


def zip_bomb(path: Path) -> Path:
    """Write a zip with a picture of 10 GiB of zeros, without compressing as many."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    # What is flushed fully can be repeated.
    piece = packer.compress(bytes(ZEROS)) + packer.flush(zlib.Z_FULL_FLUSH)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.png", piece * REPEATS + packer.flush())
        archive.filelist[0].compress_type = zipfile.ZIP_DEFLATED
        archive.filelist[0].file_size = ZEROS * REPEATS
    return path


def tar_bomb(path: Path, sizes: Iterable[int], kind: bytes = tarfile.REGTYPE) -> Path:
    """Write a tar.gz with files of so many bytes, all zero; sizes are multiples of `ZEROS`."""
    piece = gzip.compress(bytes(ZEROS))
    with open(path, "wb") as file:
        for i, size in enumerate(sizes):
            info = tarfile.TarInfo(f"{i}.png")
            info.size, info.type = size, kind
            file.write(gzip.compress(info.tobuf(tarfile.GNU_FORMAT)))
            file.write(piece * (size // ZEROS))
    return path
