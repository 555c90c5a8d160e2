"""Records: what is stored of a cell, and the files that hold them."""

import io
import json
import lzma
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oodbench.errors import DamagedFileError, OodbenchError, RequestError
from oodbench.files import write_atomically
from oodbench.identity import SHORT, canonical_json, digest, digest_bytes

Arrays = dict[str, NDArray[Any]]

_SMALL = 600

SCHEMA = 1
"""Version of the record format; older ones are read through `_UPGRADES`."""

SIDES = ("ood", "id", "both")
"""Which test images are attacked; see `oodbench.sides`."""

_UPGRADES: dict[int, Any] = {}
"""Steps by the version that they start from: record → record of the next version."""


@dataclass(frozen=True)
class Place:
    """Where the files of a detector's results lie.

    Attributes:
        root: The results folder.
        suite: Name of the suite.
        detector: Name of the detector.
        seed: Training seed.
    """

    root: Path
    suite: str
    detector: str
    seed: int

    @property
    def folder(self) -> Path:
        """Folder of all files of the detector and seed."""
        return self.root / self.suite / self.detector / str(self.seed)

    def record(self, perturbation: str, image_set: str, identity: str) -> Path:
        """File of a cell's record."""
        return self.folder / perturbation / f"{image_set}--{identity[:SHORT]}.json"

    def id_scores(self, identity: str) -> Path:
        """File of the scores of the in-distribution test images."""
        return self.folder / f"id--{identity[:SHORT]}.npz"

    def id_attacked(self, perturbation: str, identity: str) -> Path:
        """File of the scores of the attacked in-distribution test images."""
        return self.folder / perturbation / f"id--{identity[:SHORT]}.npz"

    @property
    def suite_folder(self) -> Path:
        """Folder of all files of the suite."""
        return self.root / self.suite


def usual_path(record: Mapping[str, Any]) -> Path:
    """Return where `run` stores a record, below the results folder."""
    place = Place(Path(), record["suite"], record["detector"], record["seed"])
    return place.record(record["perturbation"], record["set"], record["identity"])


def misplaced(root: Path, path: Path, record: Mapping[str, Any]) -> OodbenchError | None:
    """Return what is wrong where a record below a results folder is not in its place.

    A folder above or below the one meant is a slip of whoever names it; the record is sound.
    """
    if path == root / usual_path(record):
        return None
    usual, parts = usual_path(record).parts, path.absolute().parts
    if parts[-len(usual) :] != usual:
        return DamagedFileError(f"{path} is the record of another cell; delete it")
    meant = Path(*parts[: -len(usual)])
    return RequestError(f"{root} is no folder of results, but {meant} is one; name that")


# Arrays


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]], meta: Mapping[str, Any]) -> None:
    """Write arrays and plain data as an npz file that knows its own digest.

    Texts are stored as UTF-8, which compresses to two thirds of NumPy's four bytes a character.
    """
    text = canonical_json(dict(meta) | {"digest": arrays_digest(arrays)})
    stored = {**arrays, "meta": np.array(text)}

    def write(temporary: Path) -> None:
        with zipfile.ZipFile(temporary, "w") as file:
            for name, array in stored.items():
                packed = np.char.encode(array, "utf-8") if array.dtype.kind == "U" else array
                content = io.BytesIO()
                np.lib.format.write_array(content, np.asarray(packed), allow_pickle=False)
                # A fixed time: the same arrays are the same file.
                file.writestr(_member(f"{name}.npy", len(content.getvalue())), content.getvalue())

    write_atomically(path, write)


def _member(name: str, size: int) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name)
    # What LZMA saves on a few hundred bytes its own header takes.
    entry.compress_type = zipfile.ZIP_LZMA if size > _SMALL else zipfile.ZIP_DEFLATED
    return entry


def read_arrays(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Read what `write_arrays` wrote.

    Raises:
        DamagedFileError: If the file is truncated, edited or foreign.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: _decoded(file[name]) for name in file.files}
        meta: dict[str, Any] = json.loads(str(arrays.pop("meta")))
        whole = meta["digest"] == arrays_digest(arrays)
    except _UNREADABLE as error:
        raise DamagedFileError(_damaged(path, "cannot be read")) from error
    if not whole:
        raise DamagedFileError(_damaged(path, "was changed after it was written"))
    return arrays, meta


_UNREADABLE = (
    OSError,
    ValueError,
    KeyError,
    EOFError,
    TypeError,
    NotImplementedError,
    zipfile.BadZipFile,
    lzma.LZMAError,
    zlib.error,
)


def _decoded(array: NDArray[Any]) -> NDArray[Any]:
    return np.char.decode(array, "utf-8") if array.dtype.kind == "S" else array


def write_named(
    path: Path,
    arrays: Mapping[str, NDArray[Any]],
    meta: Mapping[str, Any],
    suite_folder: Path,
    image_set: str,
) -> None:
    """Write arrays, their ``ids`` in a file of the suite that all scores of these images share.

    The file is named after its content, so that whoever writes it writes the same.
    """
    ids = {"ids": arrays["ids"]}
    digest_of_ids = arrays_digest(ids)
    shared = suite_folder / "ids" / f"{image_set}--{digest_of_ids[:SHORT]}.npz"
    if not _holds(shared, digest_of_ids):
        write_arrays(shared, ids, {})
    others = {name: array for name, array in arrays.items() if name != "ids"}
    write_arrays(path, others, {**meta, "ids": shared.stem})


def _holds(shared: Path, digest_of_ids: str) -> bool:
    try:
        return shared.exists() and arrays_digest(read_arrays(shared)[0]) == digest_of_ids
    except DamagedFileError:
        return False


def read_named(path: Path, suite_folder: Path) -> tuple[Arrays, dict[str, Any]]:
    """Read what `write_named` wrote, or `write_arrays` with ids of their own.

    Raises:
        DamagedFileError: If one of the two files is damaged or not there.
    """
    arrays, meta = read_arrays(path)
    if "ids" in arrays or "ids" not in meta:
        return arrays, meta
    shared = suite_folder / "ids" / f"{meta['ids']}.npz"
    ids, _ = read_arrays(shared)
    if arrays_digest(ids)[:SHORT] != meta["ids"].rpartition("--")[2]:
        raise DamagedFileError(_damaged(shared, f"has other ids than {path.name} was written with"))
    return {**ids, **arrays}, meta


def arrays_digest(arrays: Mapping[str, NDArray[Any]]) -> str:
    """Return the sha256 of arrays by name, type, shape and value."""

    def chunks() -> Any:
        for name, array in sorted(arrays.items()):
            yield f"{name} {array.dtype.str} {array.shape}\n".encode()
            yield np.ascontiguousarray(array).tobytes()

    return digest_bytes(chunks())


def _damaged(path: Path, what: str) -> str:
    return f"{path} {what}; delete it, or `oodbench run --force` makes it anew"


# Records


def write_record(path: Path, record: dict[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write a record and its scores; the record last, so that with it all is there.

    A record that is replaced goes first: killed in between, there is none rather than one beside
    the scores of another. Processes that may write the same record hold `oodbench.files.locked`.

    Raises:
        jsonschema.ValidationError: If the record does not fit the schema.
    """
    digests = dict(record["digests"]) | {"scores": arrays_digest(arrays)}
    digests["record"] = digest({**record, "digests": digests})
    whole = {**record, "digests": digests}
    _validator().validate(whole)
    whole = {name: whole[name] for name in _validator().schema["required"]}
    text = _one_line_a_field(whole)
    path.unlink(missing_ok=True)
    meta = {"identity": record["identity"]}
    if "ids" in arrays:
        write_named(path.with_suffix(".npz"), arrays, meta, _suite_folder(path), record["set"])
    else:
        write_arrays(path.with_suffix(".npz"), arrays, meta)
    write_atomically(path, lambda file: _write_text(file, text))


def _suite_folder(record: Path) -> Path:
    """Return the folder of the suite that a record's file lies in; see `Place.record`."""
    return record.parents[3]


def _one_line_a_field(record: Mapping[str, Any]) -> str:
    """Return a record as JSON that can be read, compared line by line, and is not long."""
    lines = [f"{json.dumps(name)}: {canonical_json(value)}" for name, value in record.items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def read_record(path: Path) -> dict[str, Any]:
    """Read a record, upgrading one of an older version.

    Raises:
        DamagedFileError: If the file is truncated, edited, foreign or newer than this program.
    """
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        version = int(record["schema"])
        digests = dict(record["digests"])
        stated = digests.pop("record")
        whole = stated == digest({**record, "digests": digests})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedFileError(_damaged(path, "cannot be read as a record")) from error
    if not whole:
        raise DamagedFileError(_damaged(path, "was changed after it was written"))
    if version > SCHEMA:
        raise DamagedFileError(f"{path} has schema {version}; this oodbench reads up to {SCHEMA}")
    while version < SCHEMA:
        if version not in _UPGRADES:
            raise DamagedFileError(_damaged(path, f"has schema {version}, which there never was"))
        record = _UPGRADES[version](record)
        version = record["schema"]
    errors = sorted(_validator().iter_errors(record), key=str)
    if errors:
        raise DamagedFileError(_damaged(path, f"does not fit the schema ({errors[0].message})"))
    return record


def read_scores(path: Path, record: Mapping[str, Any] | None = None) -> dict[str, NDArray[Any]]:
    """Read the arrays beside a record: ``ids``, ``scores`` and what else there is.

    Args:
        path: The record's file.
        record: The record, where it was read already.

    Raises:
        DamagedFileError: If they are damaged or belong to another record.
    """
    if record is None:
        record = read_record(path)
    arrays, _ = read_named(path.with_suffix(".npz"), _suite_folder(path))
    if record["digests"]["scores"] != arrays_digest(arrays):
        raise DamagedFileError(_damaged(path.with_suffix(".npz"), "belongs to another record"))
    return arrays


def find_records(root: Path) -> list[Path]:
    """Return the files of all records below a results folder, in order."""
    # The name of a record has no dot; beside it lies what else is known of it.
    return sorted(
        path
        for path in root.rglob("*--*.json")
        if path.parent.parent.name.isdigit() and "." not in path.stem
    )


@cache
def _validator() -> Any:
    from jsonschema import Draft202012Validator

    text = files("oodbench.schemas").joinpath(f"record-{SCHEMA}.json").read_text("utf-8")
    return Draft202012Validator(json.loads(text))


def ids_array(ids: Sequence[str]) -> NDArray[np.str_]:
    """Return ids as an array of fixed-width text, which needs no pickling."""
    return np.array(list(ids), dtype=np.str_)
