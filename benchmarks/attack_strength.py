"""Is the `linf` search as strong as the attacks of public libraries on the same score and steps?

On `mini`, for every detector and seed: the mean AUROC over the OOD sets (the lower, the stronger
the attack) under our search, beside attacks of torchattacks, foolbox and ART; see
`library_attacks.py` for how each is made to lower the true score. All are given the network that
our search makes for itself, batch norm folded, and as many gradients; the table by attack shows
what each does besides. The images that they return are rounded to 8 bits within the ball and judged
by our judge: true score in float32, the clean image a candidate too. All in-distribution images
count, whatever the limit.

    pip install --no-deps torchattacks foolbox adversarial-robustness-toolbox \
        eagerpy requests tqdm six GitPython gitdb smmap charset-normalizer idna urllib3 certifi
    export OMP_NUM_THREADS=2
    python benchmarks/attack_strength.py --limit 40 --write

Without ``--no-deps`` torchattacks asks for old versions of other packages. Every run is stored
under ``--cache``, and one that was cut off goes on from there; a run of ours is found again only
with the same source of the attack and of what it imports. Times are of the attack alone; ours has
the judge's time in it.

Ours does not go on with `square` where gradients lead nowhere, unless ``--fallback`` is given: its
queries are beyond the budget, and beside ``--square`` they would be compared with themselves. Ours
also lowers what a detector offers as `attack_objectives` (CCU); the libraries lower the score.

``--race`` asks instead what time our search needs for the strength of the best library attack, on
the network as the detector has it and on the folded one;
``--square`` whether our search without gradients goes lower than the one with them.
"""

from __future__ import annotations

import argparse
import fnmatch
import hashlib
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from library_attacks import LibraryAttack, library_attacks
from torch import Tensor

from oodbench import metrics
from oodbench.api import Places
from oodbench.identity import digest, parameters
from oodbench.judging import Ledger, Shown, Subject, judged, worst_case
from oodbench.plugins import PluginSpec, resolved
from oodbench.registry import entries
from oodbench.threat import to_float, to_grid
from oodbench.workbench import Workbench

SUITE = "mini"
BATCH = 256
NEAR = 0.1
"""AUROC points within which a library attack counts as strong as the best one."""
OURS = "linf"


@dataclass(frozen=True)
class Result:
    """What an attack did to a detector.

    Attributes:
        scores: Scores of the worst images, by OOD set.
        seconds: Time of the attack.
        gradients: Gradients that it says it took, per image.
        backward: Images that went back through the networks, per image, whoever asked.
        forward: Images that went forward through them, per image.
        fallback: Images on which ours went on without gradients.
        threads: How many threads it had.
    """

    scores: dict[str, list[float]]
    seconds: float
    gradients: float
    backward: float
    forward: float
    fallback: int
    threads: int


class Cache:
    """Results by what determines them, a line of JSON each."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._found: dict[str, Result] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
            try:
                entry = json.loads(line)
                self._found[entry["key"]] = Result(**entry["result"])
            except (ValueError, KeyError, TypeError):
                continue  # the last line of a run that was cut off

    def get(self, identity: dict[str, Any]) -> Result | None:
        """Return a result that is there."""
        return self._found.get(digest(identity))

    def put(self, identity: dict[str, Any], result: Result) -> None:
        """Keep a result."""
        key = digest(identity)
        self._found[key] = result
        entry = {"key": key, "identity": identity, "result": asdict(result)}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")


class Passes:
    """Counts what goes through the networks of a subject, the same way for ours and for theirs.

    What an attack says of itself leaves out what it does besides: a look at the gradients before
    the search, values without a gradient, the judge.

    Attributes:
        forward: Images that went forward.
        backward: Images whose gradient came back.
    """

    def __init__(self, subject: Subject) -> None:
        models = (subject.model, subject.search_model)
        self._networks = {id(m.backbone.network): m.backbone.network for m in models}
        self.forward = self.backward = 0

    def __enter__(self) -> Passes:
        for network in self._networks.values():
            network.tapped = self._counted(network.tapped)
        return self

    def __exit__(self, *_: object) -> None:
        for network in self._networks.values():
            del network.tapped  # the class's own comes back

    def _counted(self, tapped: Callable[..., Any]) -> Callable[..., Any]:
        def through(inputs: Tensor, *others: Any) -> Any:
            self.forward += len(inputs)
            if torch.is_grad_enabled() and inputs.requires_grad:
                inputs = inputs.view_as(inputs)  # a tensor of this pass alone
                inputs.register_hook(self._back)
            return tapped(inputs, *others)

        return through

    def _back(self, gradients: Tensor) -> None:
        self.backward += len(gradients)


def without_fallback(attack: Any) -> Any:
    """Return an attack that does not go on without gradients where they lead nowhere.

    Its thousands of queries are no gradient steps, so that it would have more than its budget.
    """
    kind = type(attack)
    alone = type(kind.__name__, (kind,), {"fallback": "", "__module__": kind.__module__})
    return alone(**parameters(attack))


@cache
def source_of(plugin: type) -> str:
    """Return a digest of a plugin's source and of all of oodbench that it imports.

    While an attack is being worked on its version says too little. It is taken once, before the
    first run: files that change later are not what is running.
    """
    modules: dict[str, ModuleType] = {}
    waiting = [plugin.__module__]
    while waiting:
        name = waiting.pop()
        module = sys.modules.get(name)
        if name in modules or module is None:
            continue
        modules[name] = module
        for value in vars(module).values():
            other = value.__name__ if isinstance(value, ModuleType) else value_module(value)
            if other.partition(".")[0] == "oodbench":
                waiting.append(other)
    total = hashlib.sha256()
    for _, module in sorted(modules.items()):
        if module.__file__ is not None:
            total.update(Path(module.__file__).read_bytes())
    return total.hexdigest()[:16]


def value_module(value: object) -> str:
    """Return the name of the module that defines a value, or nothing."""
    name = getattr(value, "__module__", None)
    return name if isinstance(name, str) else ""


class Bench:
    """Scores of one detector under all attacks."""

    def __init__(
        self,
        bench: Workbench,
        cache: Cache,
        name: str,
        seed: int,
        limit: int | None,
        arguments: argparse.Namespace,
    ) -> None:
        """Load or train the detector."""
        eps, self._fallback = arguments.eps, arguments.fallback
        suite = bench.suite(SUITE)
        spec = resolved(PluginSpec("detectors", name), suite.published)
        taught = bench.taught(spec, SUITE, suite.schedule, suite.network, seed)
        self._bench, self._cache, self._eps = bench, cache, eps
        self.subject: Subject = bench.subject(spec, taught, "float32")
        self._identity = {
            "detector": spec.identity(),
            "weights": bench.weights(taught).digest,
            "seed": seed,
            "eps": eps,
            "limit": limit,
            "device": bench.device.type,
            "torch": torch.__version__,
        }
        self.title = f"{name}, seed {seed}"
        known = bench.limited(SUITE, suite.id_set, None)
        parts = [
            self._judged(bench.pixels(known, chunk)) for chunk in _chunks(np.arange(len(known)))
        ]
        self._known = np.concatenate(parts)
        images, self._ids, self._sets = [], [], []
        for name in suite.ood_sets:
            found = bench.limited(SUITE, name, limit)
            images.append(bench.pixels(found, range(len(found))))
            self._ids += [f"{name}/{image_id}" for image_id in found.ids]
            self._sets += [name] * len(found)
        self._images = torch.cat(images)

    def _judged(self, images: Tensor) -> np.ndarray:
        score = self.subject.detector.score
        return judged(score, self.subject.model, Shown.of(images)).cpu().numpy()

    def batches(self) -> Iterator[tuple[Tensor, list[str]]]:
        """Yield the images of all OOD sets, uint8, with their ids."""
        for chunk in _chunks(np.arange(len(self._ids))):
            yield self._images[torch.from_numpy(chunk)], [self._ids[i] for i in chunk]

    def clean(self) -> dict[str, list[float]]:
        """Return the scores of the images as they are."""
        return self._by_set([self._judged(images) for images, _ in self.batches()])

    def ours(self, reference: str, **params: int) -> Result:
        """Attack by one of our own, or find that it was done."""
        spec = PluginSpec("attacks", reference).replaced(eps=self._eps, **params)
        identity = self._identity | {
            "attack": spec.identity(),
            "source": source_of(type(spec.instance)),
            "fallback": self._fallback,
        }
        found = self._cache.get(identity)
        if found is None:
            found = self.attack_by_ours(spec)
            self._cache.put(identity, found)
            self._report(" ".join([reference, *map(str, params.values())]), found)
        return found

    def attack_by_ours(self, spec: PluginSpec) -> Result:
        """Attack by one of our own."""
        attack, scores, seconds, ledger = spec.instance, [], 0.0, Ledger()
        if not self._fallback:
            attack = without_fallback(attack)
        passes = Passes(self.subject)
        for images, ids in self.batches():
            with passes:
                start = self._now()
                (verdict,) = worst_case([self.subject], [attack], images, ids, 0, ledger)
                seconds += self._now() - start
            scores.append(verdict.values.cpu().numpy())
        fallback = ledger.fallback["images"]
        return self._result(scores, seconds, ledger.gradient_images, passes, fallback)

    def theirs(self, attack: LibraryAttack, budget: int) -> Result:
        """Attack by a library, or find that it was done."""
        identity = self._identity | {"attack": attack.identity(), "budget": budget}
        found = self._cache.get(identity)
        if found is None:
            found = self.attack_by_theirs(attack, budget)
            self._cache.put(identity, found)
            self._report(f"{attack.name} {budget}", found)
        return found

    def attack_by_theirs(
        self, attack: LibraryAttack, budget: int, *, folded: bool = True
    ) -> Result:
        """Attack by a library, the clean image a candidate."""
        scores, seconds, gradients, passes = [], 0.0, 0, Passes(self.subject)
        for images, _ in self.batches():
            with passes:
                start = self._now()
                pixels = to_float(images)
                found, taken = attack(self.subject, pixels, self._eps, budget, folded=folded)
                seconds += self._now() - start
            gradients += taken
            final = to_grid(found * 255, images, self._eps)
            scores.append(np.minimum(self._judged(final), self._judged(images)))
        return self._result(scores, seconds, gradients, passes, 0)

    def _now(self) -> float:
        if self._bench.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def _result(
        self,
        scores: list[np.ndarray],
        seconds: float,
        gradients: int,
        passes: Passes,
        fallback: int,
    ) -> Result:
        each = [n / len(self._ids) for n in (gradients, passes.backward, passes.forward)]
        return Result(self._by_set(scores), seconds, *each, fallback, torch.get_num_threads())

    def _by_set(self, scores: list[np.ndarray]) -> dict[str, list[float]]:
        found: dict[str, list[float]] = {}
        for name, value in zip(self._sets, np.concatenate(scores).tolist(), strict=True):
            found.setdefault(name, []).append(value)
        return found

    def _report(self, attack: str, result: Result) -> None:
        area = self.auroc(result.scores)
        print(f"{self.title}: {attack}: {area:.2f} %, {result.seconds:.1f} s", file=sys.stderr)

    def auroc(self, scores: dict[str, list[float]]) -> float:
        """Return the mean AUROC over the OOD sets, in percent."""
        areas = [metrics.auroc(self._known, values) for values in scores.values()]
        return 100 * float(np.mean(areas))

    @property
    def count(self) -> int:
        """Number of images attacked."""
        return len(self._ids)


def _chunks(indices: np.ndarray) -> list[np.ndarray]:
    return np.array_split(indices, -(-len(indices) // BATCH))


def lowest(results: Iterable[Result]) -> dict[str, list[float]]:
    """Return the lowest score of each image under several attacks."""
    every = [result.scores for result in results]
    return {
        name: np.minimum.reduce([scores[name] for scores in every]).tolist() for name in every[0]
    }


@dataclass(frozen=True)
class Standing:
    """Our attack beside those of the libraries, on one detector and with one budget.

    Attributes:
        ours: Mean AUROC under our attack.
        areas: Mean AUROC under each of theirs.
        together: That of the lowest score of each image over all of theirs.
        our_result: Our attack.
        results: Theirs.
    """

    ours: float
    areas: dict[str, float]
    together: float
    our_result: Result
    results: dict[str, Result]

    @classmethod
    def of(cls, case: Bench, attacks: Sequence[LibraryAttack], budget: int) -> Standing:
        """Carry all attacks out, or find that they were."""
        ours = case.ours(OURS, budget=budget)
        results = {attack.name: case.theirs(attack, budget) for attack in attacks}
        areas = {name: case.auroc(result.scores) for name, result in results.items()}
        together = case.auroc(lowest(results.values()))
        return cls(case.auroc(ours.scores), areas, together, ours, results)

    @property
    def best(self) -> str:
        """The strongest single attack of the libraries."""
        return min(self.areas, key=lambda name: self.areas[name])

    @property
    def difference(self) -> float:
        """How far ours is above the best of theirs; below 0, ours is the stronger one."""
        return self.ours - self.areas[self.best]

    @property
    def near(self) -> list[str]:
        """Those of theirs that are as strong as the best, the fastest first."""
        close = [name for name in self.areas if self.areas[name] <= self.areas[self.best] + NEAR]
        return sorted(close, key=lambda name: self.results[name].seconds)


def row(*cells: object) -> str:
    """Return a line of a table."""
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def head(*cells: str) -> list[str]:
    """Return the first two lines of a table."""
    return [row(*cells), "|" + " --- |" * len(cells)]


class Runs:
    """All that the command line asks for, done as it is needed."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        """Open the workbench and the cache."""
        self.arguments = arguments
        self._bench = Places(device=arguments.device).workbench()
        self._cache = Cache(arguments.cache)
        for name in (OURS, "square") if arguments.square else (OURS,):
            source_of(type(PluginSpec("attacks", name).instance))
        found = list(library_attacks().values())
        if arguments.libraries:
            found = [attack for attack in found if attack.library in arguments.libraries]
        self.attacks = [a for a in found if _matches(a.name, arguments.attacks)]
        if not self.attacks:
            sys.exit("no attack of a library is left; see the top of this file for installing them")

    @property
    def device(self) -> str:
        """Name of the device."""
        return str(self._bench.device)

    def cases(self, limit: int | None) -> Iterator[tuple[str, int, Bench]]:
        """Yield the detectors and seeds."""
        for name in self.arguments.detectors:
            for seed in self.arguments.seeds:
                case = Bench(self._bench, self._cache, name, seed, limit, self.arguments)
                yield name, seed, case

    def chosen(self, budget: int) -> list[LibraryAttack]:
        """Return the attacks that are carried out with a budget."""
        if budget == min(self.arguments.budgets):
            return self.attacks
        return [a for a in self.attacks if _matches(a.name, self.arguments.long_attacks)]

    def strength(self) -> Iterator[str]:
        """Yield the lines of the table by detector and of the one by attack."""
        budgets = sorted(self.arguments.budgets)
        gains = f"gain {budgets[0]} → {budgets[-1]}"
        columns = ["detector", "seed", "clean"]
        for budget in budgets:
            columns += [f"ours @{budget}", f"best library @{budget}", "difference"]
        columns += [gains] if len(budgets) > 1 else []
        columns += ["our s", "library s"]
        yield (
            "Mean AUROC in percent over the OOD sets, after @ the gradients an image; lower is"
            " the stronger attack. `best library` is the strongest single one of those below,"
            " `difference` how far ours is above it. Seconds are at the smaller budget, all OOD"
            " images together; `library s` is the fastest attack among those within"
            f" {NEAR} points of the best."
        )
        yield ""
        for budget in budgets:
            names = ", ".join(attack.name for attack in self.chosen(budget))
            yield f"- Library attacks @{budget}: {names}."
        yield ""
        yield from head(*columns)
        standings: dict[int, list[Standing]] = {budget: [] for budget in budgets}
        titles, numbers, count = [], [], 0
        for name, seed, case in self.cases(self.arguments.limit):
            count = case.count
            clean = case.auroc(case.clean())
            line, values = [name, seed, f"{clean:.2f}"], [clean]
            for budget in budgets:
                now = Standing.of(case, self.chosen(budget), budget)
                standings[budget].append(now)
                best = now.areas[now.best]
                line += [f"{now.ours:.2f}", f"{best:.2f} ({now.best})", f"{now.difference:+.2f}"]
                values += [now.ours, best, now.difference]
            first, last = standings[budgets[0]][-1], standings[budgets[-1]][-1]
            if len(budgets) > 1:
                line.append(f"{first.ours - last.ours:.2f}")
                values.append(first.ours - last.ours)
            seconds = [first.our_result.seconds, first.results[first.near[0]].seconds]
            line += [f"{value:.1f}" for value in seconds]
            titles.append(case.title)
            numbers.append(values + seconds)
            yield row(*line)
        means = np.mean(numbers, axis=0).tolist()
        yield row("**mean**", "", *(f"{value:.2f}" for value in means))
        yield ""
        for budget in budgets:
            most = max(zip(standings[budget], titles, strict=True), key=lambda x: x[0].difference)
            above = sum(now.difference > NEAR for now in standings[budget])
            yield (
                f"- @{budget}: the greatest difference is {most[0].difference:+.2f} ({most[1]});"
                f" ours is more than {NEAR} above the best library attack in {above} of"
                f" {len(titles)} rows. Libraries: {', '.join(standings[budget][0].areas)}."
            )
        yield from self._by_attack(standings, count)

    def _by_attack(self, standings: dict[int, list[Standing]], count: int) -> Iterator[str]:
        budgets = sorted(standings)
        yield ""
        yield "## By attack"
        yield ""
        yield (
            f"Means over the {len(standings[budgets[0]])} rows above. `best` counts the rows in"
            " which no other library attack is stronger, `gradients` what the attack says it took"
            " per image, `back` and `forward` what really went through the networks per image (ours"
            " has its look at the gradients and its judge in it),"
            " `ms` is the time for one image and step. The last row keeps the lowest score of"
            " each image over all library attacks, at as many times the gradients."
        )
        yield ""
        columns = ["attack"]
        for budget in budgets:
            columns += [f"AUROC @{budget}", "best", "gradients", "back", "forward", "ms"]
        yield from head(*columns)

        def cells(areas: list[float], results: list[Result], best: object, budget: int) -> list:
            seconds = float(np.mean([result.seconds for result in results]))
            counts = [[x.gradients, x.backward, x.forward] for x in results]
            each = [f"{value:.1f}" for value in np.mean(counts, axis=0)]
            ms = 1000 * seconds / (count * budget)
            return [f"{np.mean(areas):.2f}", best, *each, f"{ms:.4f}"]

        line: list[object] = [f"**{OURS}**"]
        for budget in budgets:
            found = standings[budget]
            results = [now.our_result for now in found]
            line += cells([now.ours for now in found], results, "", budget)
        yield row(*line)
        for attack in self.attacks:
            line = [attack.name]
            for budget in budgets:
                found = standings[budget]
                if attack.name not in found[0].areas:
                    line += ["–"] * 6
                    continue
                best = sum(now.best == attack.name for now in found)
                results = [now.results[attack.name] for now in found]
                line += cells([now.areas[attack.name] for now in found], results, best, budget)
            yield row(*line)
        line = ["all of them, image by image"]
        for budget in budgets:
            line += [f"{np.mean([now.together for now in standings[budget]]):.2f}", *[""] * 5]
        yield row(*line)

    def square(self) -> Iterator[str]:
        """Yield the lines of the table of the search without gradients."""
        limit, queries = self.arguments.square_limit, self.arguments.queries
        budget = min(self.arguments.budgets)
        yield f"## Without gradients: `square`, {queries} queries, {limit} images a set"
        yield ""
        yield (
            "Where it goes lower than the search with gradients, these are masked. `together`"
            " keeps the lower score of each image."
        )
        yield ""
        yield from head(
            "detector", "seed", "clean", f"{OURS} @{budget}", "square", "square − linf",
            "together", "images lower", "linf s", "square s",
        )  # fmt: skip
        lower, shares = [], []
        for name, seed, case in self.cases(limit):
            ours = case.ours(OURS, budget=budget)
            theirs = case.ours("square", queries=queries)
            areas = [case.auroc(case.clean()), case.auroc(ours.scores), case.auroc(theirs.scores)]
            flat = [np.concatenate(list(result.scores.values())) for result in (ours, theirs)]
            shares.append(float(np.mean(flat[1] < flat[0])))
            if areas[2] < areas[1]:
                lower.append(case.title)
            yield row(
                name,
                seed,
                *(f"{area:.2f}" for area in areas),
                f"{areas[2] - areas[1]:+.2f}",
                f"{case.auroc(lowest([ours, theirs])):.2f}",
                f"{100 * shares[-1]:.1f} %",
                f"{ours.seconds:.1f}",
                f"{theirs.seconds:.1f}",
            )
        yield ""
        which = f": {'; '.join(lower)}" if lower else ""
        yield (
            f"`square` has the lower mean AUROC in {len(lower)} of {len(shares)} rows{which}."
            f" It goes lower on {100 * np.mean(shares):.1f} % of images, on at most"
            f" {100 * max(shares):.1f} % in a row."
        )

    def race(self) -> Iterator[str]:
        """Yield the lines of the table of the time to the same strength."""
        budget, repeats = min(self.arguments.budgets), self.arguments.repeats
        yield f"## Time to the strength of the best library attack @{budget}"
        yield ""
        yield (
            "`ours` is the smallest of the budgets"
            f" {', '.join(map(str, sorted(self.arguments.race_budgets)))} whose mean AUROC is no"
            f" higher than that of the best library attack; `fastest` the fastest attack within"
            f" {NEAR} points of that. A library attacks the network of the detector; `folded s` is"
            " what the same attack takes where it is given the network with batch norm folded that"
            f" our search makes for itself. Medians of {repeats} interleaved repeats in one"
            " process, and of the ratios within a repeat."
        )
        yield ""
        yield from head(
            "detector", "seed", "best library", "fastest", "its AUROC", "its s", "folded s",
            "ours", "our AUROC", "our s", "ours / library", "ours / folded",
        )  # fmt: skip
        ratios: list[float] = []
        folded_ratios: list[float] = []
        for name, seed, case in self.cases(self.arguments.limit):
            now = Standing.of(case, self.attacks, budget)
            goal = now.areas[now.best]
            reached = None
            for steps in sorted(self.arguments.race_budgets):
                area = case.auroc(case.ours(OURS, budget=steps).scores)
                if area <= goal:
                    reached = steps
                    break
            start = [name, seed, f"{goal:.2f} ({now.best})"]
            if reached is None:
                best = f"{area:.2f} @{steps}"
                yield row(*start, now.near[0], "", "", "", "none", best, "", "–", "–")
                continue
            spec = PluginSpec("attacks", OURS).replaced(eps=self.arguments.eps, budget=reached)
            # What looked fastest once may not be: those that are about as fast all run.
            by_name = {attack.name: attack for attack in self.attacks}
            rivals = [by_name[rival] for rival in now.near[:3]]
            own: list[float] = []
            others: dict[str, list[float]] = {rival.name: [] for rival in rivals}
            case.attack_by_ours(spec)  # warms up
            for _ in range(repeats):
                own.append(case.attack_by_ours(spec).seconds)
                for rival in rivals:
                    others[rival.name].append(case.attack_by_theirs(rival, budget).seconds)
            fastest = min(others, key=lambda rival: statistics.median(others[rival]))
            plain: list[float] = []
            for _ in range(repeats):
                own.append(case.attack_by_ours(spec).seconds)
                plain.append(case.attack_by_theirs(by_name[fastest], budget, folded=False).seconds)
            ratios.append(_ratio(own[repeats:], plain))
            folded_ratios.append(_ratio(own[:repeats], others[fastest]))
            yield row(
                *start,
                fastest,
                f"{now.areas[fastest]:.2f}",
                f"{statistics.median(plain):.2f}",
                f"{statistics.median(others[fastest]):.2f}",
                f"@{reached}",
                f"{area:.2f}",
                f"{statistics.median(own):.2f}",
                f"{ratios[-1]:.2f}",
                f"{folded_ratios[-1]:.2f}",
            )
        if ratios:
            yield ""
            yield f"- Ours / library: {_spread(ratios)}."
            yield f"- Ours / folded: {_spread(folded_ratios)}."


def _ratio(own: Sequence[float], others: Sequence[float]) -> float:
    """Return the median over repeats of the ratio of two times."""
    return statistics.median(a / b for a, b in zip(own, others, strict=True))


def _spread(ratios: Sequence[float]) -> str:
    """Put the ratios of a race in words."""
    return (
        f"median {statistics.median(ratios):.2f}, greatest {max(ratios):.2f},"
        f" {sum(ratio <= 0.5 for ratio in ratios)} of {len(ratios)} at most 0.5"
    )


def _matches(name: str, patterns: Sequence[str] | None) -> bool:
    return patterns is None or any(fnmatch.fnmatch(name, pattern) for pattern in patterns)


def parsed() -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(description="linf beside attacks of public libraries")
    parser.add_argument("--detectors", nargs="+", default=sorted(entries("detectors")))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument(
        "--budgets", nargs="+", type=int, default=[100, 500], help="gradient steps an image"
    )
    parser.add_argument("--eps", type=int, default=8, help="radius in grey levels")
    parser.add_argument("--limit", type=int, help="images of each OOD set")
    parser.add_argument(
        "--fallback",
        action="store_true",
        help="let ours go on without gradients where they lead nowhere, beyond its budget",
    )
    parser.add_argument("--libraries", nargs="+", help="torchattacks, foolbox, art; all")
    parser.add_argument("--attacks", nargs="+", help="names or patterns such as '*/apgd'; all")
    parser.add_argument(
        "--long-attacks", nargs="+", help="the same, for budgets above the smallest; all"
    )
    parser.add_argument("--device", help="such as cpu or cuda:0")
    parser.add_argument(
        "--cache", type=Path, default=Path("oodbench-results/attack_strength.jsonl")
    )
    parser.add_argument("--square", action="store_true", help="only the search without gradients")
    parser.add_argument("--square-limit", type=int, default=50, help="its images of each set")
    parser.add_argument("--queries", type=int, default=5000, help="its scores an image")
    parser.add_argument("--race", action="store_true", help="only the time to equal strength")
    parser.add_argument("--race-budgets", nargs="+", type=int, default=[20, 30, 40, 50, 75, 100])
    parser.add_argument("--repeats", type=int, default=3, help="timings of the race")
    parser.add_argument(
        "--write", action="store_true", help="write it all beside this file, each table its own"
    )
    return parser.parse_args()


def main() -> None:
    """Print the tables; with --write keep them beside this file."""
    arguments = parsed()
    runs = Runs(arguments)
    limit = "all" if arguments.limit is None else arguments.limit
    parts = []
    if arguments.race:
        parts.append(("attack_strength_race.md", runs.race()))
    if arguments.square:
        parts.append(("attack_strength_square.md", runs.square()))
    if not parts:
        parts.append(("attack_strength.md", runs.strength()))
    versions = {a.library: a.identity()["library"] for a in runs.attacks}
    for file, part in parts:
        images = arguments.square_limit if file.endswith("square.md") else limit
        lines = [
            f"# Strength of `linf`: {SUITE}, ε {arguments.eps}/255, {images} images a set",
            "",
        ]
        print("\n".join(lines), flush=True)
        for line in part:
            lines.append(line)
            print(line, flush=True)
        used = ", ".join(f"{name} {number}" for name, number in versions.items())
        lines += [
            "",
            f"torch {torch.__version__}, {runs.device}, {torch.get_num_threads()} threads; {used}.",
        ]
        print("\n".join(lines[-2:]))
        if arguments.write:
            path = Path(__file__).with_name(file)
            path.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
