"""Is the `linf` search as strong as PGD of public libraries given the same score and steps?

For every detector of `mini`: mean AUROC over the OOD sets under our search (the lower, the
stronger the attack) beside foolbox's LinfPGD and torchattacks' PGD on the same score. All final
images pass through the same judge: rounded to 8 bits within the ball, scored in float32, the
clean image a candidate too. Weights come from $OODBENCH_STORE and are trained where absent.

    pip install foolbox torchattacks
    python benchmarks/attack_strength.py --write
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from oodbench import metrics
from oodbench.api import Places
from oodbench.judging import Ledger, Shown, Subject, judged, worst_case
from oodbench.plugins import PluginSpec, resolved
from oodbench.registry import entries, load
from oodbench.threat import to_float, to_grid
from oodbench.workbench import Workbench

SUITE = "mini"
Attack = Callable[[Subject, Tensor, int, int], Tensor]
"""Subject, images in [0, 1], radius in levels, steps → attacked images in [0, 1]."""


def foolbox_pgd(step: float | None) -> Attack:
    """Return foolbox's LinfPGD with a step in levels; None takes 2.5 · ε / steps."""
    import eagerpy
    import foolbox

    class OnScore(foolbox.attacks.LinfPGD):
        def get_loss_fn(
            self, model: foolbox.Model, labels: eagerpy.Tensor
        ) -> Callable[[eagerpy.Tensor], eagerpy.Tensor]:
            return lambda x: -model(x).sum()  # it climbs

    def attack(subject: Subject, images: Tensor, k: int, steps: int) -> Tensor:
        class Score(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                return subject.detector.score(subject.search_model, x)

        model = foolbox.PyTorchModel(Score().eval(), bounds=(0, 1), device=images.device)
        size = 2.5 * k / steps if step is None else step
        search = OnScore(steps=steps, abs_stepsize=size / 255, random_start=True)
        labels = torch.zeros(len(images), dtype=torch.long, device=images.device)
        criterion = foolbox.criteria.Misclassification(labels)
        return search.run(model, images, criterion, epsilon=k / 255)

    return attack


def torchattacks_pgd(step: float) -> Attack:
    """Return torchattacks' PGD with a step in levels.

    It takes a classifier: one of two classes whose cross entropy falls with the score. The
    scale keeps the softmax away from saturation; the sign of the gradient is all that is used.
    """
    import torchattacks

    def attack(subject: Subject, images: Tensor, k: int, steps: int) -> Tensor:
        class Classifier(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.where = nn.Parameter(torch.zeros(1))  # by which its device is found

            def forward(self, x: Tensor) -> Tensor:
                score = subject.detector.score(subject.search_model, x).float() / 100
                return torch.stack([score, torch.zeros_like(score)], 1)

        model = Classifier().eval().to(images.device)
        search = torchattacks.PGD(model, eps=k / 255, alpha=step / 255, steps=steps)
        return search(images, torch.zeros(len(images), dtype=torch.long))

    return attack


def libraries() -> dict[str, Attack]:
    """Return the attacks of the libraries that are installed."""
    found: dict[str, Attack] = {}
    try:
        for name, step in (("1", 1.0), ("2", 2.0), ("2.5ε/n", None)):
            found[f"foolbox {name}"] = foolbox_pgd(step)
    except ImportError:
        print("foolbox is not installed", file=sys.stderr)
    try:
        found["torchattacks 2"] = torchattacks_pgd(2.0)
    except ImportError:
        print("torchattacks is not installed", file=sys.stderr)
    return found


class Bench:
    """Scores of one detector under all attacks."""

    def __init__(self, bench: Workbench, name: str, seed: int, limit: int | None) -> None:
        """Load or train the detector."""
        suite = bench.suite(SUITE)
        spec = resolved(PluginSpec("detectors", name), suite.published)
        taught = bench.taught(spec, SUITE, suite.schedule, suite.network, seed)
        self.bench, self.limit, self.sets = bench, limit, suite.ood_sets
        self.subject = bench.subject(spec, taught, "float32")
        self.known = np.concatenate([self._judged(x) for x, _ in self.batches(suite.id_set)])

    def batches(self, name: str) -> Iterator[tuple[Tensor, list[str]]]:
        """Yield images, uint8, with their ids."""
        images = self.bench.limited(SUITE, name, self.limit)
        for indices in np.array_split(np.arange(len(images)), -(-len(images) // 250)):
            yield self.bench.pixels(images, indices), [images.ids[i] for i in indices]

    def _judged(self, images: Tensor) -> np.ndarray:
        score = self.subject.detector.score
        return judged(score, self.subject.model, Shown.of(images)).cpu().numpy()

    def clean(self, images: Tensor, ids: list[str]) -> np.ndarray:
        """Return the scores of images as they are."""
        return self._judged(images)

    def ours(self, k: int, budget: int) -> Callable[[Tensor, list[str]], np.ndarray]:
        """Return the scores under our search."""
        linf = load("attacks", "linf")(eps=k, budget=budget)

        def scores(images: Tensor, ids: list[str]) -> np.ndarray:
            (verdict,) = worst_case([self.subject], [linf], images, ids, 0, Ledger())
            return verdict.values.cpu().numpy()

        return scores

    def theirs(
        self, attack: Attack, k: int, budget: int
    ) -> Callable[[Tensor, list[str]], np.ndarray]:
        """Return the scores under a library's attack, the clean image a candidate."""

        def scores(images: Tensor, ids: list[str]) -> np.ndarray:
            found = attack(self.subject, to_float(images), k, budget).detach()
            final = to_grid(found * 255, images, k)
            return np.minimum(self._judged(final), self._judged(images))

        return scores

    def run(
        self, scores: Callable[[Tensor, list[str]], np.ndarray]
    ) -> tuple[list[np.ndarray], float]:
        """Return the scores of each OOD set, and the seconds they took."""
        torch.manual_seed(0)
        start = time.perf_counter()
        found = [
            np.concatenate([scores(*batch) for batch in self.batches(name)]) for name in self.sets
        ]
        return found, time.perf_counter() - start

    def mean_auroc(self, sets: list[np.ndarray]) -> float:
        """Return the mean AUROC over the OOD sets, in percent."""
        return 100 * float(np.mean([metrics.auroc(self.known, scores) for scores in sets]))


def rows(arguments: argparse.Namespace) -> Iterator[list[str]]:
    """Yield a row of the table for each detector and seed."""
    bench = Places(device=arguments.device).workbench()
    for name in arguments.detectors:
        for seed in arguments.seeds:
            case = Bench(bench, name, seed, arguments.limit)
            clean = case.mean_auroc(case.run(case.clean)[0])
            ours, our_time = case.run(case.ours(arguments.eps, arguments.budget))
            results = {
                label: case.run(case.theirs(attack, arguments.eps, arguments.budget))
                for label, attack in libraries().items()
            }
            if not results:
                sys.exit("install foolbox or torchattacks")
            areas = {label: case.mean_auroc(found) for label, (found, _) in results.items()}
            best = min(areas, key=lambda label: areas[label])
            together = zip(*(found for found, _ in results.values()), strict=True)
            every = [np.minimum.reduce(sets) for sets in together]
            area = case.mean_auroc(ours)
            lower = np.mean(np.concatenate(ours) <= np.concatenate(results[best][0]) + 1e-6)
            yield [
                name,
                str(seed),
                f"{clean:.2f}",
                f"{area:.2f}",
                f"{areas[best]:.2f} ({best})",
                f"{area - areas[best]:+.2f}",
                f"{case.mean_auroc(every):.2f}",
                f"{100 * lower:.1f} %",
                f"{our_time:.1f}",
                f"{results[best][1]:.1f}",
            ]


def main() -> None:
    """Print the table; with --write keep it beside this file."""
    parser = argparse.ArgumentParser(description="linf beside PGD of public libraries")
    parser.add_argument("--detectors", nargs="+", default=sorted(entries("detectors")))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--budget", type=int, default=100, help="gradient steps an image")
    parser.add_argument("--eps", type=int, default=8, help="radius in grey levels")
    parser.add_argument("--limit", type=int, help="images of each test set")
    parser.add_argument("--device", help="such as cpu or cuda:0")
    parser.add_argument(
        "--write", action="store_true", help="write the table to attack_strength.md"
    )
    arguments = parser.parse_args()
    lines = [
        f"# Strength of `linf`: {SUITE}, ε {arguments.eps}/255, {arguments.budget} steps an image",
        "",
        "Mean AUROC in percent over the OOD sets; lower is the stronger attack. `best library`"
        " is the strongest single run of the libraries (step in grey levels), `all library runs`"
        " keeps the lowest score of each image over all of them, at as many times the steps."
        " `ours lower` is the share of images whose score our search leaves no higher than the"
        " best library run does.",
        "",
    ]
    head = ["detector", "seed", "clean", "ours", "best library", "difference"]
    head += ["all library runs", "ours lower", "our s", "library s"]
    lines += ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    print("\n".join(lines), flush=True)
    for row in rows(arguments):
        lines.append("| " + " | ".join(row) + " |")
        print(lines[-1], flush=True)
    lines += ["", f"torch {torch.__version__}, {torch.get_num_threads()} threads."]
    print("\n".join(lines[-2:]))
    if arguments.write:
        path = Path(__file__).with_suffix(".md")
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
