"""What the documentation shows works as it stands."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from oodbench import testing

DOCS = Path(__file__).parents[1] / "docs"


def examples(page: str, language: str = "python") -> list[str]:
    text = (DOCS / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize(
    ("kind", "name"),
    [("detectors", "knn"), ("attacks", "darker"), ("datasets", "gradients")],
)
def test_plugins_of_the_documentation_keep_their_contracts(
    kind: str, name: str, tmp_path: Path
) -> None:
    (source,) = [text for text in examples("plugins.md") if text.startswith(f"# {name}.py\n")]
    file = tmp_path / f"{name}.py"
    file.write_text(source, encoding="utf-8")
    assert testing.check(kind, str(file))


def test_plugins_of_the_documentation_run_together(run: Any, in_folder: Path) -> None:
    for text in examples("plugins.md"):
        if (match := re.match(r"# (\w+\.py)\n", text)) is not None:
            Path(match[1]).write_text(text, encoding="utf-8")
    places = ("--ood", "rings", "--set", "k=5", "--json")
    result = run("--detector", "./knn.py", "--attack", "none,./darker.py", *places)
    assert result.code == 0, result.err
    clean, darker = result.json
    assert darker["auroc"] <= clean["auroc"]


def test_the_records_are_read_as_the_documentation_says(
    in_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from oodbench.files import shipped_results

    shipped = shipped_results() / "mini" / "msp" / "0" / "none"
    shutil.copytree(shipped, in_folder / "oodbench-results" / "mini" / "msp" / "0" / "none")
    (source,) = [text for text in examples("metrics.md") if "find_records" in text]
    exec(source, {})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len([p for p in shipped.glob("*.json") if "audit" not in p.name]) > 0
    assert all(re.fullmatch(r"msp 0 none None \w+ 0\.\d+ \[0\.\d+, 0\.\d+\]", x) for x in lines)


def test_every_page_is_reached_from_a_table_of_contents() -> None:
    pages = {path.stem for path in DOCS.glob("*.md")} | {path.stem for path in DOCS.glob("*.rst")}
    contents = "\n".join(
        [text for page in ("guide.md", "evidence.md") for text in examples(page, "{toctree}")]
    )
    listed = set(re.findall(r"^(\w+)$", contents, re.MULTILINE))
    config = (DOCS / "conf.py").read_text(encoding="utf-8")
    listed |= set(re.findall(r"^docs/(\w+)$", config, re.MULTILINE))
    assert pages == listed
