"""Single pictures get scores and verdicts, whatever file they are in."""

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from picture_files import pixels
from PIL import Image

from oodbench import metrics, score_images
from oodbench.data.named import Picture, Unread, find_pictures, read_picture
from oodbench.data.pictures import prepared
from oodbench.held_out import HeldOut
from oodbench.scoring import IN, OUT

SIDE = 32


def write(path: Path, array: np.ndarray, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)
    return path


def read(path: Path) -> Picture:
    found = read_picture(path, SIDE)
    assert isinstance(found, Picture), found
    return found


@pytest.fixture
def score(call: Any, tiny: str, shared_store: Path) -> Any:
    """Call ``oodbench score`` on the tiny suite."""

    def score(*arguments: object, detector: str = "msp") -> Any:
        places = ("--store", shared_store, "--device", "cpu")
        return call("score", "--suite", tiny, "--detector", detector, *places, *arguments)

    return score


def lines(result: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.out.splitlines()]


def test_every_kind_of_file_is_scored_or_told_in_one_line(score: Any, tmp_path: Path) -> None:
    colour = pixels("photo", 48, 64)
    alpha = np.dstack([colour, np.full(colour.shape[:2], 100, np.uint8)])
    good = [
        write(tmp_path / "photo.jpg", colour),
        write(tmp_path / "grey.png", colour[..., 0]),
        write(tmp_path / "rgba.png", alpha),
        write(tmp_path / "one.png", colour[:1, :1]),
        write(tmp_path / "folder" / "a2.png", colour),
    ]
    text = tmp_path / "text.png"
    text.write_text("I am no picture\n")
    empty = tmp_path / "empty.png"
    empty.touch()
    (tmp_path / "bare").mkdir()
    bad = [text, empty, tmp_path / "bare", tmp_path / "missing.png"]
    given = [good[0], text, *good[1:4], empty, tmp_path / "folder", *bad[2:]]
    result = score(*given, "--json")
    assert result.code == 2
    assert [line["image"] for line in lines(result)] == [str(path) for path in good]
    told = [line for line in result.err.splitlines() if line.startswith("oodbench: ")]
    assert [line.split(": ")[1] for line in told] == [str(path) for path in bad]
    for line, reason in zip(
        told, ("not a picture", "empty", "no pictures in this folder", "no such file"), strict=True
    ):
        assert reason in line
    assert score(*good).code == 0
    table = score(*given)
    assert table.code == 2
    verdicts = [line["verdict"] for line in lines(result)]
    assert re.findall(r"(?:in|out-of)-distribution(?= *\n)", table.out)[: len(good)] == verdicts
    assert "text.png" not in table.out


def test_where_nothing_can_be_scored_nothing_is_trained(score: Any, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    reasons = {
        "missing.png": "no such file or folder",
        "pipe": "not a file",
        "x" * 300: "File name too long",
    }
    result = score(*(tmp_path / name for name in reasons), "--store", tmp_path / "new")
    assert (result.code, result.out) == (2, "")
    told = result.err.splitlines()
    assert [line.rpartition(": ")[2] for line in told] == list(reasons.values())
    assert not (tmp_path / "new").exists()


def test_names_of_pictures_are_whole_for_programs_and_cannot_forge_lines_for_people(
    score: Any, tmp_path: Path
) -> None:
    folder = tmp_path / ("long" * 50) / "[bold]two\nlines"
    file = write(folder / "a\x1b[31m.png", pixels("a"))
    (line,) = lines(score(file, "--json"))
    assert line["image"] == str(file)
    result = score(file)
    assert result.code == 0
    assert "\x1b" not in result.out
    assert "[bold]two" in "".join(result.out.split())
    assert "two\n" not in result.out.replace("\\n", "")
    (folder / "b.png").touch()
    (told,) = [line for line in score(folder).err.splitlines() if "empty" in line]
    assert told.startswith("oodbench: ")


def test_the_table_has_score_threshold_and_verdict_of_each_detector_and_what_was_done(
    score: Any, tmp_path: Path
) -> None:
    big, same = write(tmp_path / "big.png", pixels("a", 64, 96)), tmp_path / "same.png"
    write(same, pixels("b"))
    chosen = "msp,energy"
    found = lines(score(big, same, "--json", detector=chosen))
    table = score(big, same, detector=chosen).out
    rows = [line.split() for line in table.splitlines()]
    for line in found:
        figures = [f"{line['score']:.4g}", f"{line['threshold']:.4g}"]
        share = f"{100 * line['id_share']:.2f}"
        assert [line["detector"], *figures, share, "%", line["verdict"]] in rows
    said = " ".join(table.split())
    assert "accepts 95 % of 30 held-out in-distribution images" in said
    assert "centre 32×32 cut out, 67 % of it: " in said
    # What is as large as the suite's images is not touched, and nothing is said of it.
    assert said.count("same.png") == 1


def test_the_verdict_comes_from_validation_images_and_agrees_with_the_share(
    score: Any, tiny: str, shared_store: Path, tmp_path: Path
) -> None:
    import torch

    from oodbench.api import Places
    from oodbench.threat import to_float

    bench = Places("cpu", store=shared_store).workbench()
    images = bench.images(tiny, "textures", "val")
    files = [
        write(tmp_path / f"{i:03}.png", images.batch([i])[0].transpose(1, 2, 0))
        for i in range(len(images))
    ]
    found = lines(score(*files, "--json", "--batch-size", "7"))
    scores = np.array([line["score"] for line in found])
    # By hand: (1 - p) / p of the likeliest class, on the very same pixels.
    taught = bench.taught(_spec("msp"), tiny, "fast", "conv3", 0)
    logits = bench.backbone(taught).tapped(to_float(torch.from_numpy(images.batch(range(30)))))[1]
    logits = logits.double().numpy()
    top = logits.argmax(1)
    others = logits.copy()
    others[np.arange(30), top] = -np.inf
    by_hand = np.log(np.exp(others - logits.max(1)[:, None]).sum(1))
    np.testing.assert_allclose(scores, by_hand, rtol=1e-4, atol=1e-4)
    threshold = metrics.threshold95(scores)
    for line in found:
        assert line["threshold"] == threshold
        assert line["n_id"] == 30
        assert line["margin"] == line["score"] - threshold
        count = int((scores >= line["score"]).sum())
        assert line["id_share"] == count / 30
        assert line["p_value"] == (count + 1) / 31
        assert line["verdict"] == (OUT if line["score"] > threshold else IN)
        assert (line["verdict"] == OUT) == (line["id_share"] <= 0.05)
    assert sum(line["verdict"] == OUT for line in found) == 1
    predicted = [line["predicted"] for line in found]
    assert predicted == [("stripes", "checks", "dots")[label] for label in top]


def _spec(name: str) -> Any:
    from oodbench.plugins import PluginSpec

    return PluginSpec("detectors", name)


@pytest.mark.parametrize("n", [1, 19, 20, 21, 320])
def test_out_of_distribution_is_a_share_of_at_most_five_percent_ties_too(n: int) -> None:
    rng = np.random.default_rng(n)
    held = HeldOut(np.sort(rng.integers(0, 9, n)).astype(np.float32), None)
    for score in np.arange(-1, 10, 0.5):
        share = held.at_least(score) / n
        assert (score > held.threshold) == (share <= 0.05)


def test_several_detectors_and_seeds_and_python_say_the_same(
    score: Any, tiny: str, shared_store: Path, tmp_path: Path
) -> None:
    file = write(tmp_path / "a.png", pixels("a"))
    (tmp_path / "b.png").write_text("no")
    result = score(file, "--json", detector="msp,mahalanobis_single")
    by_line = {line["detector"]: line["score"] for line in lines(result)}
    assert list(by_line) == ["msp", "mahalanobis_single"]
    table = score_images(tmp_path, "msp,mahalanobis_single", tiny, store=shared_store, device="cpu")
    good = table[table["error"].isna()]
    assert dict(zip(good["detector"], good["score"], strict=True)) == by_line
    (bad,) = table[table["error"].notna()].to_dict("records")
    assert bad["image"].endswith("b.png")
    assert "not a picture" in bad["error"]


def test_the_same_pixels_have_the_same_score_alone_and_among_others(
    score: Any, tmp_path: Path
) -> None:
    files = [write(tmp_path / f"{i}.png", pixels(i)) for i in range(20)]
    together = {line["image"]: line["score"] for line in lines(score(tmp_path, "--json"))}
    for file in files[::7]:
        (alone,) = lines(score(file, "--json"))
        assert alone["score"] == together[str(file)]


def test_a_network_of_ones_own_says_of_images_too(score: Any, tmp_path: Path) -> None:
    from test_foreign import OWN, saved

    file = write(tmp_path / "a.png", pixels("a"))
    brought = ("--model", f"{OWN}:Net", "--weights", saved(tmp_path))
    (line,) = lines(score(file, *brought, "--json"))
    assert line["network"] == "own_networks:net"
    refused = score(file, *brought, detector="oe")
    assert refused.code == 2
    assert "oe needs a network taught in another way" in refused.err


def test_folders_are_searched_in_natural_order_and_each_file_counts_once(tmp_path: Path) -> None:
    names = ["img1.png", "img2.png", "img10.png", "sub/img3.JPG"]
    for name in reversed(names):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    (tmp_path / "notes.txt").touch()
    (tmp_path / ".hidden.png").touch()
    (tmp_path / "sub" / "loop").symlink_to(tmp_path)
    expected = [tmp_path / name for name in names]
    assert find_pictures([tmp_path]) == expected
    assert find_pictures([expected[2], tmp_path]) == [expected[2], *expected[:2], expected[3]]


def test_exif_orientation_is_honoured(tmp_path: Path) -> None:
    array = pixels("turn", SIDE, SIDE)
    for orientation, undo in ((6, 1), (8, 3), (3, 2)):
        exif = Image.Exif()
        exif[0x0112] = orientation
        path = write(tmp_path / f"{orientation}.png", np.rot90(array, undo).copy(), exif=exif)
        found = read(path)
        assert np.array_equal(found.pixels.transpose(1, 2, 0), array)
        assert found.prepared == ("turned upright (EXIF)",)


def test_transparency_is_laid_over_white(tmp_path: Path) -> None:
    array = pixels("alpha")
    alpha = np.tile(np.linspace(0, 255, SIDE).round().astype(np.uint8), (SIDE, 1))
    found = read(write(tmp_path / "a.png", np.dstack([array, alpha])))
    share = alpha[..., None] / 255
    expected = array * share + 255 * (1 - share)
    np.testing.assert_allclose(found.pixels.transpose(1, 2, 0), expected, atol=1)
    assert found.prepared == ("transparency over white",)
    opaque = read(write(tmp_path / "b.png", np.dstack([array, np.full_like(alpha, 255)])))
    assert np.array_equal(opaque.pixels.transpose(1, 2, 0), array)
    assert opaque.prepared == ()


def test_sixteen_bits_greys_palettes_and_frames_become_rgb_and_it_is_said(tmp_path: Path) -> None:
    grey = pixels("grey")[..., 0]
    low = np.random.default_rng(0).integers(0, 256, grey.shape, dtype=np.uint16)
    deep = read(write(tmp_path / "deep.png", (grey.astype(np.uint16) << 8) | low))
    assert np.array_equal(deep.pixels, np.stack([grey] * 3))
    assert deep.prepared == ("16 bits to 8", "greyscale to RGB")
    flat = read(write(tmp_path / "grey.png", grey))
    assert np.array_equal(flat.pixels, np.stack([grey] * 3))
    frames = [Image.fromarray(pixels(i)).convert("P") for i in range(3)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    first = read(tmp_path / "a.gif")
    shown = np.asarray(frames[0].convert("RGB")).transpose(2, 0, 1)
    assert np.array_equal(first.pixels, shown)
    assert first.prepared[0] == "first of 3 frames"
    floats = tmp_path / "a.tif"
    Image.fromarray(grey.astype(np.float32)).save(floats)
    refused = read_picture(floats, SIDE)
    assert isinstance(refused, Unread)
    assert "floating-point" in refused.reason


def test_a_picture_is_fitted_as_torchvision_does_and_it_is_said() -> None:
    from torchvision.transforms import v2

    picture = Image.fromarray(pixels("big", 90, 120))
    reference = v2.Compose([v2.Resize(SIDE), v2.CenterCrop(SIDE)])(picture)
    found = prepared(picture, SIDE)
    assert np.array_equal(found.pixels.transpose(1, 2, 0), np.asarray(reference))
    assert found.done == (
        "shorter side resized to 32 pixels (bilinear, antialiased), centre 32×32 cut out,"
        " 75 % of it",
    )
    assert found.size == (120, 90)


def test_mini_takes_pictures_as_its_own_patches_were_taken() -> None:
    from oodbench.datasets import mini

    patch = mini.picture("coffee")[100:148, 200:248]
    found = prepared(Image.fromarray(patch), mini.SIDE, mini.Mini.resampling)
    assert np.array_equal(found.pixels.transpose(1, 2, 0), mini._resize(patch))
    assert mini.Mini.resampling == "box"


def test_pictures_that_would_swell_beyond_measure_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.png", pixels("a", 64, 64))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert isinstance(read_picture(path, SIDE), Unread)
