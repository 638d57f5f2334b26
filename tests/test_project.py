"""Facts about the project that stand in more than one file agree."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

import rlhf_core

tomllib = pytest.importorskip("tomllib", reason="Python 3.10 cannot read TOML by itself")
ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def constraints() -> dict[str, str]:
    """Package → pinned version."""
    lines = [line.split(";")[0].strip() for line in (ROOT / "constraints.txt").read_text().splitlines()]
    return dict(line.lower().split("==") for line in lines if line and not line.startswith("#"))


def direct() -> list[str]:
    """Every dependency that pyproject names."""
    extras = [r for rs in PROJECT["optional-dependencies"].values() for r in rs]
    names = [re.split(r"[<>=\[ ]", requirement)[0].lower() for requirement in [*PROJECT["dependencies"], *extras]]
    return [name for name in names if name != PROJECT["name"]]  # one extra may include another


def test_every_direct_dependency_is_pinned():
    missing = [name for name in direct() if name not in constraints()]
    assert not missing and constraints()["torch"] == "2.13.0"


def test_conda_builds_the_same_environment():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python, pip, section = environment["dependencies"]
    assert pip == "pip" and section == {"pip": ["-c constraints.txt", "-e .[test]"]}
    minimum = PROJECT["requires-python"].removeprefix(">=")
    assert tuple(map(int, python.split("=")[1].split("."))) >= tuple(map(int, minimum.split(".")))


def test_the_repository_has_one_address():
    address = PROJECT["urls"]["Repository"]
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    if not tracked:
        pytest.skip("not a git checkout")
    # the built notebooks have it from pyproject.toml; another test fails where they are stale
    written = [name for name in tracked if not name.endswith(".ipynb")]
    texts = {name: (ROOT / name).read_bytes() for name in written if (ROOT / name).is_file()}
    assert [name for name, text in texts.items() if address.encode() in text] == ["pyproject.toml"]


def test_the_wheel_holds_the_data(tmp_path):
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    assert rlhf_core.__version__ in wheel.name
    names = set(zipfile.ZipFile(wheel).namelist())
    for name in (
        "rlhf_core/data/movie_ratings.jsonl.xz",
        "rlhf_core/data/other_texts.jsonl.xz",
        "rlhf_core/data/verdicts.safetensors",
        "rlhf_core/data/LICENSE.txt",
        "rlhf_core/data/pocket/model.safetensors",
        "rlhf_core/data/pocket/tokenizer.json",
        "rlhf_core/data/pocket_reader/model.safetensors",
        "rlhf_core/data/pocket_reader/tokenizer.json",
        "rlhf_core/report.html.j2",
    ):
        assert name in names
    assert wheel.stat().st_size < 20 * 2**20


def test_importing_a_lessons_functions_does_not_import_transformers():
    modules = "policy preferences reward advantages ppo rollout loop evaluation dpo grpo".split()
    code = "import sys; " + "; ".join(f"import rlhf_core.{m}" for m in modules)
    code += "; assert not {'transformers', 'datasets', 'accelerate'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
