"""Pictures: what is drawn is what was stored, nothing overlaps, and names stay names."""

import itertools
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox
from sklearn.metrics import roc_curve

from oodbench import leaderboard as lb
from oodbench import metrics, plots
from oodbench.commands.plot import command
from oodbench.errors import DamagedFileError
from oodbench.identity import digest
from oodbench.images import Images
from oodbench.keeping import Kept, kept_path, most_damaged, read_kept
from oodbench.mining_example import (
    CHOICES,
    CLASSES,
    CONTOUR,
    LEAST_AREA,
    MEANS,
    SIDE,
    SIGMA,
    Choice,
    Setting,
    example,
    from_the_data,
    ood_points,
    outlier_pool,
    pushed,
    train,
)
from oodbench.plots import eps, gallery, heatmap, mining, roc, scores, style, winners
from oodbench.records import (
    Place,
    arrays_digest,
    find_records,
    ids_array,
    read_record,
    read_scores,
    write_arrays,
    write_named,
    write_record,
)
from oodbench.registry import load as plugin

TEMPLATE = read_record(next((Path(__file__).parent / "historic").glob("*.json")))
TEMPLATE["digests"].pop("record")
HOSTILE = ("<script>alert(1)<|script>", r"$\frac{x}$ & 100%_b", "_begins|x", "a$b_1^2$<&>\"'")
"""Names of detectors; a slash would be another folder."""
STORED = ("roc", "scores", "eps", "winners", "heatmap")
Put = Callable[..., dict[str, Any]]


def put(
    root: Path,
    *,
    detector: str = "alpha",
    seed: int = 0,
    attack: str = "none",
    radius: int | None = None,
    name: str = "rings",
    ood: Any = None,
    id_scores: Any = None,
    **changed: Any,
) -> dict[str, Any]:
    """Store a record and the scores that it is of, both kinds of images drawn if not given."""
    rng = np.random.default_rng(int(digest([detector, seed])[:8], 16))
    known = np.asarray(rng.normal(0, 1, 60) if id_scores is None else id_scores, np.float32)
    rng = np.random.default_rng(int(digest([detector, seed, attack, radius, name])[:8], 16))
    shift = 2 - (radius or 0) / 8 - (attack != "none")
    ood = np.asarray(rng.normal(shift, 1, 50) if ood is None else ood, np.float32)
    clean = {"ids": ids_array([f"id/{i}" for i in range(len(known))]), "scores": known}
    place = Place(root, "tiny", detector, seed)
    file = place.id_scores(arrays_digest(clean))
    if not file.exists():
        write_named(file, clean, {}, place.suite_folder, "textures")
    won = changed.pop("won", {"score/a": len(ood) - 20, "score/b": 20} if radius else {})
    tried = {**TEMPLATE["attack"], "won": won} if won else None
    record = {
        **TEMPLATE,
        **metrics.compute(known, ood),
        "detector": detector,
        "seed": seed,
        "perturbation": attack,
        "eps": None if radius is None else f"{radius}/255",
        "attack": tried,
        "set": name,
        "n_id": len(known),
        "n_ood": len(ood),
        **changed,
        "digests": {**TEMPLATE["digests"], "id_scores": arrays_digest(clean), "set": digest(name)},
    }
    record["identity"] = digest({**record, "seconds": 0})
    path = place.record(attack, name, record["identity"])
    ids = ids_array([f"{name}/{i}" for i in range(len(ood))])
    write_record(path, record, {"ids": ids, "scores": ood})
    return read_record(path)


def fill(
    root: Path,
    detectors: tuple[str, ...],
    sets: tuple[str, ...],
    seeds: tuple[int, ...] = (0,),
    radii: tuple[int, ...] = (2, 8),
) -> None:
    """Store clean images, a corruption, and two attacks at some radii."""
    for detector, seed, name in itertools.product(detectors, seeds, sets):
        where = {"detector": detector, "seed": seed, "name": name}
        put(root, **where)
        put(root, **where, attack="corruption", won={"fog": 30, "clean": 20})
        for radius in radii:
            put(root, **where, attack="linf", radius=radius)
            stages = {"corruption": {"fog": 50}, "linf": {"score/a": 10, "score/b": 40}}
            put(root, **where, attack="compositional", radius=radius, won=stages)


def keep(root: Path, record: dict[str, Any], falls: list[float]) -> None:
    """Keep an image for each fall of the score."""
    path = Place(root, record["suite"], record["detector"], record["seed"]).record(
        record["perturbation"], record["set"], record["identity"]
    )
    original = np.random.default_rng(0).integers(8, 248, (len(falls), 3, 16, 16), np.uint8)
    before = np.full(len(falls), 3, np.float32)
    kept = Kept(
        ids=ids_array([f"{record['set']}/{i}" for i in range(len(falls))]),
        original=original,
        attacked=original + np.uint8(4),
        before=before,
        after=before - np.array(falls, np.float32),
        tags=ids_array(["fog > score/a"] * len(falls)),
    )
    meta = {"identity": record["identity"], "scores": record["digests"]["scores"], "asked": 8}
    write_arrays(kept_path(path), kept.arrays, meta)


@pytest.fixture
def asked(tmp_path: Path) -> plots.Asked:
    return plots.Asked(tmp_path)


# Labels


def visible(figure: Figure) -> Iterator[tuple[Text, Bbox]]:
    """Yield the texts of a figure and where they are, in pixels."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    beyond = set()
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        low, high = sorted(axis.get_view_interval())
        room = 1e-9 * (high - low)
        for tick in axis.get_major_ticks():
            if not low - room <= tick.get_loc() <= high + room:
                # Ticks beyond the axis are there, but are not drawn.
                beyond |= {tick.label1, tick.label2}
    for text in figure.findobj(Text):
        axes = text.axes
        hidden = text in beyond or (axes is not None and not axes.get_visible())
        if text.get_visible() and text.get_text().strip() and not hidden:
            yield text, text.get_window_extent(renderer)


def collisions(figure: Figure) -> list[str]:
    """Return which labels overlap each other or the edge of the figure."""
    known = list(visible(figure))
    frame = figure.bbox
    found = [
        f"{text.get_text()!r} leaves the figure"
        for text, box in known
        if box.x0 < frame.x0 - 1
        or box.y0 < frame.y0 - 1
        or box.x1 > frame.x1 + 1
        or box.y1 > frame.y1 + 1
    ]
    for (one, a), (other, b) in itertools.combinations(known, 2):
        width = min(a.x1, b.x1) - max(a.x0, b.x0)
        height = min(a.y1, b.y1) - max(a.y0, b.y0)
        # Labels at an angle overlap as boxes and not as texts; their distance is what counts.
        if one.get_rotation() == other.get_rotation() not in (0, 90):
            (x, y), (u, v) = (
                text.get_transform().transform(text.get_position()) for text in (one, other)
            )
            size = one.get_fontsize() * figure.dpi / 72
            if y == v and abs(x - u) * np.sin(np.radians(one.get_rotation())) >= size:
                continue
        if width > 1 and height > 1:
            found.append(f"{one.get_text()!r} on {other.get_text()!r}")
    return found


def empty(figure: Figure) -> int:
    """Return how many panels hold nothing."""
    return sum(
        not (axes.lines or axes.images or axes.patches or axes.texts or axes.collections)
        for axes in figure.findobj(lambda artist: hasattr(artist, "get_xaxis"))
    )


def test_labels_on_each_other_and_empty_panels_are_noticed() -> None:
    figure = Figure(figsize=(3, 3))
    axes = figure.subplots()
    assert empty(figure) == 1
    axes.plot([0, 1])
    assert (empty(figure), collisions(figure)) == (0, [])
    axes.text(0.5, 0.5, "one label")
    axes.text(0.6, 0.5, "another")
    axes.text(0.9, 0.2, "far beyond the edge of the figure")
    assert len(collisions(figure)) == 2


@pytest.fixture(scope="module", params=["many", "one"])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of thirteen detectors on six sets, and of one on one."""
    root = tmp_path_factory.mktemp("store")
    if request.param == "many":
        names = tuple(f"detector_{i}" for i in range(13))
        fill(root, names, tuple(f"some_set_{i}" for i in range(6)), radii=(8,))
        fill(root, names[:1], ("some_set_0",), (1,), radii=(1, 2, 4, 8, 16, 32))
    else:
        fill(root, ("alpha",), ("rings",))
    for record in map(read_record, find_records(root)):
        if record["perturbation"] == "linf" and record["detector"] in ("detector_0", "alpha"):
            keep(root, record, [1, 2])
    return root


@pytest.mark.parametrize("kind", [*STORED, "gallery"])
def test_no_label_is_on_another_and_no_panel_is_empty(
    kind: str, store: Path, tmp_path: Path
) -> None:
    # Thirteen detectors at one radius; radii have a figure of their own.
    selection = lb.Selection() if kind == "eps" else lb.Selection(eps=["8/255"])
    drawn = plots.plot(kind, plots.Asked(store, selection=selection), tmp_path / "figure.png")
    assert (collisions(drawn.figure), empty(drawn.figure)) == ([], 0)
    assert drawn.path is not None
    assert drawn.path.read_bytes().startswith(b"\x89PNG")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of detectors and sets whose names are markup."""
    root = tmp_path_factory.mktemp("hostile")
    fill(root, HOSTILE, HOSTILE)
    for record in map(read_record, find_records(root)):
        if record["perturbation"] == "corruption" and record["detector"] == HOSTILE[0]:
            keep(root, record, [1])
    return root


@pytest.mark.parametrize("kind", [*STORED, "gallery"])
def test_names_stay_names_whatever_is_in_them(kind: str, hostile: Path, tmp_path: Path) -> None:
    file = tmp_path / f"{kind}.svg"
    drawn = plots.plot(kind, plots.Asked(hostile), file)
    assert collisions(drawn.figure) == []
    tree = ElementTree.parse(file)
    tags = {element.tag.rpartition("}")[2] for element in tree.iter()}
    assert not tags & {"script", "foreignObject"}
    written = {
        "".join(element.itertext()) for element in tree.iter() if element.tag.endswith("}text")
    }
    for name in HOSTILE:
        known = [text for text in written if name in text]
        assert known, f"{name} is not in {sorted(written)}"
    plots.plot(kind, plots.Asked(hostile), tmp_path / "figure.PNG")
    before = file.read_bytes()
    plots.plot(kind, plots.Asked(hostile), file)
    assert file.read_bytes() == before, "the same figure is the same file"


def test_a_long_name_is_shortened_in_the_middle_and_stays_on_one_line() -> None:
    assert style.clipped("a\nb") == "a b"
    assert style.clipped("abcdefghij", 5) == "ab…ij"
    assert style.clipped("abcdefghij", 6) == "ab…hij"


# ROC

some_scores = st.lists(st.integers(-4, 4), min_size=1, max_size=40)


@given(some_scores, some_scores)
def test_the_roc_curve_is_that_of_scikit_learn_ties_included(a: list[int], b: list[int]) -> None:
    fpr, tpr = roc.roc(a, b)
    assert np.trapezoid(tpr, fpr) == pytest.approx(metrics.auroc(a, b), abs=1e-12)
    # ID is the positive class of both, and a lower score more positive.
    labels = np.repeat([1, 0], [len(a), len(b)])
    theirs = roc_curve(labels, -np.array([*a, *b]), drop_intermediate=False)
    for x, y in zip(*theirs[:2], strict=True):
        at = np.isclose(tpr, y)
        assert fpr[at].min() - 1e-9 <= x <= fpr[at].max() + 1e-9
    assert (np.diff(fpr) >= -1e-12).all()
    assert (np.diff(tpr) >= -1e-12).all()


def test_the_drawn_curve_is_the_mean_of_the_records_and_its_point_their_operating_point(
    tmp_path: Path, asked: plots.Asked
) -> None:
    records = [
        put(tmp_path, seed=seed, name=name) for seed in (0, 1) for name in ("rings", "noise")
    ]
    drawn = plots.drawn("roc", asked)
    (panel,) = drawn.figure.axes
    curve, point = panel.lines[:2]
    x, y = curve.get_data()
    assert np.trapezoid(y, x) == pytest.approx(np.mean([r["auroc"] for r in records]), abs=1e-12)
    at = (np.mean([r["fpr95"] for r in records]), 1 - np.mean([r["fnr"] for r in records]))
    assert np.ravel(point.get_data()) == pytest.approx(at, abs=1e-12)
    # The point is on the curve, at the lowest TPR of at least 95 %.
    assert 0.95 <= at[1] < 0.95 + 1 / 60
    on = np.isclose(y, at[1])
    assert x[on].min() - 1e-12 <= at[0] <= x[on].max() + 1e-12
    assert drawn.data[0].auroc == pytest.approx(np.mean([r["auroc"] for r in records]))


def test_attacked_id_images_move_the_curve_and_the_point_but_not_the_threshold(
    run: Any, tmp_path: Path
) -> None:
    places = ("--detector", "msp", "--attack", "linf", "--eps", "8/255", "--budget", 4)
    assert run(*places, "--limit", 20, "--side", "id", "--ood", "rings").code == 0
    records = map(read_record, find_records(tmp_path / "results"))
    (record,) = (record for record in records if record["fnr"] > 0.05)
    curves = plots.drawn("roc", plots.Asked(tmp_path / "results")).data
    (curve,) = (one for one in curves if one.point[1] < 0.95)
    assert np.trapezoid(curve.tpr, curve.fpr) == pytest.approx(record["auroc"], abs=1e-12)
    assert curve.point == pytest.approx((record["fpr95"], 1 - record["fnr"]))


# Histograms


def test_the_histograms_hold_every_image_and_each_set_counts_the_same(
    tmp_path: Path, asked: plots.Asked
) -> None:
    known = np.random.default_rng(0).normal(0, 1, 100)
    first, second = np.full(30, 1.0), np.full(10, 2.0)
    for name, values in (("rings", first), ("noise", second)):
        record = put(tmp_path, id_scores=known, name=name, ood=values)
        put(tmp_path, id_scores=known, name=name, ood=values - 1.5, attack="linf", radius=8)
    (drawn,) = plots.drawn("scores", asked).data
    assert list(drawn.shares) == ["clean ID", "clean OOD", "attacked OOD"]
    for shares in drawn.shares.values():
        assert shares.sum() == pytest.approx(1)
    assert drawn.threshold == record["threshold"] == metrics.threshold95(np.float32(known))
    bins = np.searchsorted(drawn.edges, [1.0, 2.0], side="right") - 1
    assert drawn.shares["clean OOD"][bins] == pytest.approx([0.5, 0.5])
    bins = np.searchsorted(drawn.edges, [-0.5, 0.5], side="right") - 1
    assert drawn.shares["attacked OOD"][bins] == pytest.approx([0.5, 0.5])
    # All but the bins at the ends, which also hold what is beyond.
    counts = np.histogram(np.float32(known), drawn.edges)[0] / 100
    assert drawn.shares["clean ID"][1:-1] == pytest.approx(counts[1:-1])


def test_what_is_drawn_are_these_shares_and_the_threshold(
    tmp_path: Path, asked: plots.Asked
) -> None:
    record = put(tmp_path)
    drawn = plots.drawn("scores", asked)
    (panel,) = drawn.figure.axes
    steps = [patch.get_data() for patch in panel.patches]
    for shown, wanted in zip(steps, drawn.data[0].shares.values(), strict=True):
        assert (shown.values == wanted).all()
        assert (shown.edges == drawn.data[0].edges).all()
    assert set(panel.lines[0].get_xdata()) == {record["threshold"]}


def test_few_huge_scores_do_not_squeeze_all_others_into_one_bin() -> None:
    known = np.linspace(0, 1, 100)
    edges = scores.edges_for([known, np.array([0.5] * 90 + [1e9] * 10)], 0.95)
    assert edges[-1] < 5
    shares = scores.binned([[0.5, 1e9, np.inf, -np.inf]], edges)
    assert (shares.sum(), shares[0], shares[-1]) == (1, 0.25, 0.5)
    assert edges[0] < 0.95 < edges[-1]


def test_clean_images_of_other_sets_are_not_put_beside_attacked_ones(
    tmp_path: Path, asked: plots.Asked
) -> None:
    put(tmp_path, name="rings")
    for name in ("rings", "noise"):
        put(tmp_path, name=name, attack="linf", radius=8)
    drawn = plots.drawn("scores", asked)
    assert list(drawn.data[0].shares) == ["clean ID", "attacked OOD"]
    assert any("no records of the clean OOD images for alpha" in note for note in drawn.notes)


def test_of_several_attacks_the_strongest_is_shown_and_said_to_be(
    tmp_path: Path, asked: plots.Asked
) -> None:
    fill(tmp_path, ("alpha", "beta"), ("rings",))
    records = pd.DataFrame([read_record(path) for path in find_records(tmp_path)])
    attacked = records[records["perturbation"] != "none"]
    means = attacked.groupby(["perturbation", attacked["eps"].fillna("")])["fpr95"].mean()
    drawn = plots.drawn("scores", asked)
    shown = {one.column for one in drawn.data}
    assert [means[tuple(name.split())] for name in shown] == [means.max()]
    assert any(f"{shown.pop()}, the strongest" in note for note in drawn.notes)
    chosen = replace(asked, selection=lb.Selection(attacks=["linf"], eps=["2/255", "8/255"]))
    assert {one.column for one in plots.drawn("scores", chosen).data} == {
        "linf 2/255",
        "linf 8/255",
    }


# Radii


def test_curves_against_the_radius_are_means_over_sets_with_the_spread_over_seeds(
    tmp_path: Path, asked: plots.Asked
) -> None:
    fill(tmp_path, ("alpha", "beta"), ("rings", "noise"), (0, 1, 2), (2, 4, 8, 16))
    frame = pd.DataFrame([read_record(path) for path in find_records(tmp_path)])
    frame["level"] = frame["eps"].fillna("0/255").str.partition("/")[0].astype(int)
    each = frame.groupby(["detector", "perturbation", "level", "seed"])[["fpr95", "auroc"]].mean()
    drawn = plots.drawn("eps", asked)
    assert {(one.row, one.column) for one in drawn.data} == set(
        itertools.product(("alpha", "beta"), ("linf", "compositional"))
    )
    for curve in drawn.data:
        assert curve.levels == [0, 2, 4, 8, 16]
    assert any("ε = 0" in text.get_text() for text in drawn.figure.findobj(Text))
    for curve in drawn.data:
        # At zero there is what stands before the ball.
        before = "none" if curve.column == "linf" else "corruption"
        for place, level in enumerate(curve.levels):
            wanted = each.loc[(curve.row, curve.column if level else before, level)]
            for metric in eps.METRICS:
                assert curve.means[metric][place] == pytest.approx(wanted[metric].mean())
                assert curve.spreads[metric][place] == pytest.approx(wanted[metric].std())
    lines = [axes.lines[0].get_ydata() for axes in drawn.figure.axes]
    first = {one.column: one.means for one in drawn.data if one.row == "alpha"}
    columns = [axes.get_title() for axes in drawn.figure.axes[:2]]
    assert set(columns) == {"linf", "compositional"}
    assert np.allclose(lines, [first[c][m] for m in eps.METRICS for c in columns])


def test_a_radius_of_zero_needs_the_same_sets(tmp_path: Path, asked: plots.Asked) -> None:
    put(tmp_path, name="rings")
    for name, radius in itertools.product(("rings", "noise"), (4, 8)):
        put(tmp_path, name=name, attack="linf", radius=radius)
    drawn = plots.drawn("eps", asked)
    (curve,) = drawn.data
    assert curve.levels == [4, 8]
    assert not any("ε = 0" in text.get_text() for text in drawn.figure.findobj(Text))


def test_several_radii_are_the_same_cells_as_one_at_a_time(run: Any, tmp_path: Path) -> None:
    common = ("--detector", "msp", "--attack", "none,linf", "--limit", 8, "--ood", "rings")
    common = (*common, "--budget", 4, "--json")
    both = run(*common, "--eps", "2/255,16/510", "--eps", "4/255").json
    assert [record["eps"] for record in both] == [None, "2/255", "8/255", "4/255"]
    one = run(*common, "--eps", "4/255", results=tmp_path / "other").json
    assert {r["identity"] for r in one} == {both[0]["identity"], both[3]["identity"]}
    again = run(*common, "--eps", "4/255,2/255")
    assert [record["seconds"] for record in again.json] == [
        both[0]["seconds"],
        both[3]["seconds"],
        both[1]["seconds"],
    ]
    refused = run(*common, "--eps", "4/255,8")
    assert (refused.code, "8/255" in refused.err) == (2, True)


# Winners, heat map


def test_shares_of_what_won_are_counted_over_sets_and_stages(
    tmp_path: Path, asked: plots.Asked
) -> None:
    for name, first in (("rings", 30), ("noise", 10)):
        stages = {"corruption": {"fog": first, "snow": 50 - first}, "linf": {"score": 50}}
        put(tmp_path, name=name, attack="compositional", radius=8, won=stages)
    first, second = plots.drawn("winners", asked).data
    assert first.title == "compositional 8/255: stage corruption"
    assert (first.names, first.shares.tolist()) == (["snow", "fog"], [[0.6, 0.4]])
    assert (second.names, second.shares.tolist()) == (["score"], [[1.0]])


def test_the_rarest_winners_share_a_column(tmp_path: Path, asked: plots.Asked) -> None:
    won = {f"corruption_{i:02}": i + 1 for i in range(30)}
    put(tmp_path, attack="corruption", ood=np.arange(465), won=won)
    (found,) = plots.drawn("winners", asked).data
    assert len(found.names) == winners.MOST
    assert (found.names[0], found.names[-1]) == ("corruption_29", "9 others")
    assert found.shares.sum() == pytest.approx(1)
    assert found.shares[0, -1] == pytest.approx(sum(range(1, 10)) / 465)


def test_the_heat_map_holds_the_mean_over_seeds_and_hatches_what_is_missing(
    tmp_path: Path, asked: plots.Asked
) -> None:
    known = [put(tmp_path, detector="alpha", seed=seed) for seed in (0, 1)]
    put(tmp_path, detector="beta", name="noise")
    drawn = plots.drawn("heatmap", replace(asked, metric="auroc"))
    (heat,) = drawn.data
    assert (heat.rows, heat.sets) == (["alpha", "beta"], ["noise", "rings"])
    mean = np.mean([record["auroc"] for record in known])
    assert heat.values[0, 1] == pytest.approx(mean)
    assert np.isnan(heat.values).tolist() == [[True, False], [False, True]]
    texts = {(*t.get_position(), t.get_text()) for t in drawn.figure.axes[0].texts}
    assert (1, 0, f"{100 * mean:.1f}") in texts
    assert len(texts) == 2
    (foot,) = [text.get_text() for text, _ in visible(drawn.figure) if "Hatched" in text.get_text()]
    assert heat.seeds.tolist() == [[0, 2], [1, 0]]
    assert foot.splitlines()[-1] == f"{heat.title} on beta: 1 of 2 seeds"
    assert set(heatmap.NAMES) == set(lb.METRICS)


# Kept images, gallery


def test_the_images_kept_are_those_whose_score_fell_most(run: Any, tmp_path: Path) -> None:
    root = tmp_path / "results"
    common = ("--detector", "energy", "--attack", "linf", "--eps", "6/255", "--budget", 6)
    common = (*common, "--limit", 12)
    assert run(*common, "--attack", "none").code == 0
    records = {path: path.read_bytes() for path in find_records(root)}
    result = run(*common, "--attack", "none", "--keep-images", 3)
    assert (result.code, {path: path.read_bytes() for path in find_records(root)}) == (0, records)
    found = {path: read_kept(path, read_record(path)) for path in records}
    assert sum(kept is not None for kept in found.values()) == 2, "clean images are not kept"
    clean = {r["set"]: path for path in records if (r := read_record(path))["eps"] is None}
    for path, kept in found.items():
        record = read_record(path)
        if kept is None:
            continue
        before, after = read_scores(clean[record["set"]]), read_scores(path)
        assert before["ids"].tolist() == after["ids"].tolist()
        falls = dict(zip(before["ids"], before["scores"] - after["scores"], strict=True))
        assert set(kept.ids) == set(sorted(falls, key=lambda one: -falls[one])[:3])
        assert [falls[one] for one in kept.ids] == pytest.approx(kept.before - kept.after, abs=1e-4)
        assert np.diff(kept.before - kept.after).max() <= 1e-6
        change = kept.attacked.astype(int) - kept.original
        assert 0 < np.abs(change).max() <= 6
        original = _tiny_images(record["set"])
        for name, pixels in zip(kept.ids, kept.original, strict=True):
            place = list(original.ids).index(name)
            assert (original.batch([place])[0] == pixels).all()
    # More are made anew, fewer are there.
    path = next(path for path, kept in found.items() if kept is not None)
    assert run(*common, "--keep-images", 2).code == 0
    assert len(read_kept(path, read_record(path)) or ()) == 3
    assert run(*common, "--keep-images", 5).code == 0
    assert len(read_kept(path, read_record(path)) or ()) == 5


def _tiny_images(name: str) -> Images:
    suite = plugin("datasets", str(Path(__file__).parent / "plugins" / "tiny.py"))()
    return suite.image_set(name).open("test", Path())  # type: ignore[no-any-return]


def test_an_image_whose_score_did_not_fall_is_not_damaged() -> None:
    before = np.array([1, 2, 3, np.inf, 5], np.float32)
    after = np.array([0, 2, 4, np.inf, 3], np.float32)
    assert most_damaged(before, after, list("abcde"), 9).tolist() == [4, 0]
    assert most_damaged(before, after, list("abcde"), 1).tolist() == [4]


def test_the_gallery_shows_the_largest_falls_each_image_once(
    tmp_path: Path, asked: plots.Asked
) -> None:
    weak = put(tmp_path, attack="linf", radius=2)
    strong = put(tmp_path, attack="linf", radius=8)
    other = put(tmp_path, attack="linf", radius=8, name="noise")
    later = put(tmp_path, detector="beta", attack="linf", radius=8)
    for record, falls in ((weak, [1, 7]), (strong, [5, 2]), (other, [6, 3]), (later, [99])):
        keep(tmp_path, record, falls)
    drawn = plots.drawn("gallery", replace(asked, images=3))
    falls = [(one.image_set, one.attack, round(one.before - one.after)) for one in drawn.data]
    assert falls == [
        ("rings", "linf 2/255", 7),
        ("noise", "linf 8/255", 6),
        ("rings", "linf 8/255", 5),
    ]
    (note,) = drawn.notes
    assert "showing alpha, seed 0" in note
    assert "beta, seed 0" in note
    first = drawn.figure.axes[:4]
    shown = [axes.images[0].get_array() for axes in first[:3]]
    assert (shown[0] == drawn.data[0].original.transpose(1, 2, 0)).all()
    assert (shown[2] == drawn.data[0].attacked.transpose(1, 2, 0)).all()
    text = first[3].texts[0].get_text()
    threshold = weak["threshold"]
    assert f"score 3 → -4, threshold {threshold:.4g}" in text
    assert "rejected → accepted" in text
    assert "largest change 4 of 255 levels" in text


def test_a_perturbation_is_amplified_to_the_end_of_the_range_and_never_weakened() -> None:
    original = np.full((3, 2, 2), 100, np.uint8)
    attacked = original.copy()
    attacked[0, 0, 0], attacked[1, 0, 0] = 104, 98
    shown, factor = gallery.amplified(original, attacked)
    assert factor == 127 / 4
    assert (shown[0, 0, 0], shown[1, 0, 0], shown[2, 1, 1]) == (255, round(128 - 63.5), 128)
    attacked[0, 0, 0] = 255
    assert gallery.amplified(original, attacked)[1] == 1
    assert gallery.amplified(original, original)[1] == 1
    assert (gallery.amplified(original, original)[0] == 128).all()


# Two dimensions

SMALL = Setting(
    per_class=60, pool=960, chosen=120, ood=100, epochs=4, batch_size=30, grid=41, far=2.5
)


def test_the_pool_is_mostly_far_with_a_few_near_and_a_few_of_the_classes() -> None:
    its = Setting()
    distance = from_the_data(outlier_pool(3, its))
    assert len(distance) == its.pool
    far, near, alike = np.split(distance, [43_200, 45_600])
    assert far.min() > its.far
    assert (near.min() > CONTOUR, near.max() < CONTOUR + its.reach) == (True, True)
    # Of a Gaussian in the plane 99 % are within the contour; 0.2 % is one standard error.
    assert (alike < CONTOUR).mean() == pytest.approx(0.99, abs=0.008)


def test_ood_points_are_pushed_towards_the_data_by_no_more_than_eps_and_stay_outside() -> None:
    points = np.random.default_rng(0).uniform(-SIDE, SIDE, (500, 2))
    moved = pushed(points, 0.5)
    assert np.abs(moved - points).max() <= 0.5 + 1e-12
    assert (from_the_data(moved) <= from_the_data(points) + 1e-12).all()
    assert pushed(MEANS + 0.1, 0.5) == pytest.approx(MEANS)
    its = Setting(ood=400)
    distance = from_the_data(ood_points(0, its))
    assert (len(distance), distance.min() > CONTOUR) == (400, True)
    assert distance.max() < CONTOUR + its.reach


def test_the_least_area_is_that_of_the_region_that_holds_95_percent() -> None:
    rng = np.random.default_rng(0)
    points = rng.normal(0, SIGMA, (200_000, 2))
    radius = np.quantile(np.linalg.norm(points, axis=1), 0.95)
    assert CLASSES * np.pi * radius**2 == pytest.approx(LEAST_AREA, rel=0.01)


def test_networks_repeat_themselves_and_share_data_but_not_outliers() -> None:
    one, again = train(Choice(0.0), 1, SMALL), train(Choice(0.0), 1, SMALL)
    other = train(Choice(None), 1, SMALL)
    assert (one.error, one.area) == (again.error, again.area)
    assert (one.regions == again.regions).all()
    assert (one.points == other.points).all()
    # The hardest are the nearest: what is mined is closer to the data than what is drawn.
    assert from_the_data(one.outliers).mean() < from_the_data(other.outliers).mean()
    assert one.error == (one.id_error + one.ood_error) / 2


def test_the_example_is_drawn_with_its_measured_errors() -> None:
    choices = list(dict.fromkeys([*mining.SHOWN, Choice(0.025)]))
    found = example(choices, (0, 1), SMALL)
    with style.styled():
        drawn = mining.picture(found, SMALL)
    assert (collisions(drawn.figure), empty(drawn.figure)) == ([], 0)
    *regions, errors, areas = drawn.figure.findobj(lambda artist: hasattr(artist, "get_xaxis"))
    for panel, choice in zip(regions, mining.SHOWN, strict=True):
        mine = [one for one in found if one.choice == choice]
        assert (panel.images[0].get_array() == mine[0].regions).all()
        told = f"OOD {100 * np.mean([one.ood_error for one in mine]):.1f} %"
        assert told in panel.get_title()
    mined = [one for one in choices if one.quantile is not None]
    wanted = [100 * np.mean([o.error for o in found if o.choice == choice]) for choice in mined]
    assert errors.lines[0].get_ydata() == pytest.approx(wanted)
    assert areas.lines[0].get_xdata().tolist() == [one.quantile for one in mined]


@pytest.mark.slow
def test_mining_beats_random_outliers_and_a_quantile_beats_the_hardest_only() -> None:
    found = example(mining.SHOWN, (10, 11, 12))

    def mean(choice: Choice, measure: str) -> float:
        return float(np.mean([getattr(one, measure) for one in found if one.choice == choice]))

    random, hardest, mined, beyond = mining.SHOWN
    assert mean(mined, "error") < mean(hardest, "error") / 2 < mean(random, "error") / 2
    assert mean(beyond, "error") > mean(random, "error")
    # Random outliers leave the boundary loose; the hardest cost ID points.
    assert mean(random, "ood_error") > 0.3 > mean(mined, "ood_error")
    assert mean(hardest, "id_error") > 0.1 > mean(mined, "id_error")
    assert mean(mined, "area") < mean(random, "area")
    assert set(mining.SHOWN) <= set(CHOICES)


# Command line


def test_a_picture_is_written_and_its_file_alone_is_printed(
    call: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path / "results", ("alpha",), ("rings",))
    monkeypatch.chdir(tmp_path)
    result = call("plot", "heatmap", "--results", "results")
    assert (result.code, result.out) == (0, "oodbench-heatmap.png\n")
    result = call("plot", "roc", "--results", "results", "--out", "my roc.svg")
    assert (result.code, result.out) == (0, "my roc.svg\n")
    assert ElementTree.parse("my roc.svg").getroot().tag.endswith("svg")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("roc", "--out", "x.pdf"), ".png or .svg"),
        (("roc", "--out", "nowhere/x.png"), "nowhere"),
        (("pie",), "pie"),
        (("heatmap", "--metric", "f1"), "--metric f1"),
        (("gallery", "--images", "0"), "1 to 40"),
        (("gallery",), "--keep-images"),
        (("roc", "--metric", "auroc"), "--metric means nothing to plot roc"),
        (("mining", "--detector", "atom"), "--detector means nothing to plot mining"),
        (("roc", "--detector", "alfa"), "--detector alfa"),
        (("roc", "--ood", "nothing"), "--ood nothing"),
        (("eps", "--attack", "none"), "no attack that has a radius"),
        (("eps", "--attack", "linf", "--eps", "8/255", "--detector", "beta"), "more than the one"),
        (("winners", "--attack", "none"), "nothing was tried"),
        (("roc", "--eps", "8"), "8/255"),
    ],
)
def test_a_request_that_cannot_be_drawn_says_why_and_leaves_no_file(
    arguments: tuple[str, ...],
    told: str,
    call: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fill(tmp_path / "results", ("alpha",), ("rings",))
    put(tmp_path / "results", detector="beta", attack="linf", radius=8)
    monkeypatch.chdir(tmp_path)
    where = () if arguments[0] == "mining" else ("--results", "results")
    result = call("plot", *arguments, *where)
    assert (result.code, result.out) == (2, "")
    assert told in result.err
    assert "Traceback" not in result.err
    assert [path.name for path in tmp_path.iterdir()] == ["results"]


def test_a_table_is_chosen_and_what_is_left_out_is_said(tmp_path: Path, asked: plots.Asked) -> None:
    put(tmp_path)
    put(tmp_path, preset="paper", detector="beta")
    drawn = plots.drawn("roc", asked)
    assert [curve.row for curve in drawn.data] == ["alpha"]
    assert any("left out" in note and "paper" in note for note in drawn.notes)
    put(tmp_path, network="wide", detector="beta")
    assert any("left out: 2, see" in note for note in plots.drawn("roc", asked).notes)


@pytest.mark.parametrize("kind", ["roc", "heatmap"])
def test_a_folder_beside_the_one_of_results_is_said_to_be_so(
    kind: str, tmp_path: Path, call: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path / "results")
    monkeypatch.chdir(tmp_path)
    meant = tmp_path / "results"
    (suite,) = Path("results").iterdir()
    for named in (suite, "."):
        result = call("plot", kind, "--results", named)
        assert (result.code, result.out) == (2, "")
        assert f"{named} is no folder of results, but {meant} is one; name that" in result.err


def test_scores_that_do_not_go_with_the_records_are_refused(
    tmp_path: Path, asked: plots.Asked
) -> None:
    put(tmp_path)
    (file,) = tmp_path.rglob("id--*.npz")
    file.unlink()
    with pytest.raises(DamagedFileError, match="no in-distribution scores") as told:
        plots.drawn("roc", asked)
    assert "run --force" in str(told.value)


def test_matplotlib_is_loaded_for_drawing_alone_and_its_settings_stay() -> None:
    code = (
        "import sys, oodbench.plots, oodbench.commands.plot\n"
        "assert not {'matplotlib', 'torch', 'pandas'} & set(sys.modules)\n"
        "import matplotlib\n"
        "matplotlib.rcParams['font.size'] = 3\n"
        "try: oodbench.plots.drawn('heatmap', oodbench.plots.Asked('/nowhere'))\n"
        "except oodbench.errors.RequestError: pass\n"
        "assert matplotlib.rcParams['font.size'] == 3\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_command_knows_the_kinds_that_there_are() -> None:
    kinds = next(option for option in command.params if option.name == "kind")
    assert tuple(kinds.type.choices) == tuple(plots.KINDS)  # type: ignore[attr-defined]
    assert all(f"{kind} " in (command.help or "") for kind in plots.KINDS)
