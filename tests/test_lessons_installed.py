"""The solved notebooks run from an installed wheel in an empty folder, as on Colab: nothing of the checkout is needed.

Every cell runs, but the longest experiments with fewer steps, as the cells' `quick` says. With RLHF_FULL=1 they run in full,
as they do in `make lessons`, whose outputs are committed.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))  # the build is no part of the package

from course.build import shrink  # noqa: E402

FULL = bool(os.environ.get("RLHF_FULL"))
NOTEBOOKS = {path.parent.name: path for path in sorted((ROOT / "solutions").glob("lesson_*/*.ipynb"))}
WHERE = """
import json, sys
files = {name: getattr(module, "__file__", None) for name, module in list(sys.modules.items())}
print(json.dumps({name: file for name, file in files.items() if name.split(".")[0] in ("rlhf_core", "autograder")}))
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The packages as pip installs them from a wheel, with no leftovers of older builds."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("rlhf_core", "autograder"):
        shutil.copytree(ROOT / name, folder / "source" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "source")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", folder, folder / "source"], check=True)
    (wheel,) = folder.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--no-index", "--target", folder / "site", wheel], check=True)
    shutil.rmtree(folder / "source")
    return folder / "site"


def run(path: Path, site: Path, folder: Path) -> NotebookNode:
    """A notebook after its run; the last cell tells where the packages came from."""
    notebook = nbformat.read(path, as_version=4)
    if not FULL:
        shrink(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    notebook.cells.append(new_code_cell(WHERE))
    folder.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    client = NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(folder)}})
    return client.execute(env=environment)


@pytest.fixture(scope="module")
def runs(request, site, tmp_path_factory) -> dict[str, Future]:
    """The notebooks that are asked for, two at a time."""
    asked = [
        item.callspec.params["lesson"] for item in request.session.items if "runs" in getattr(item, "fixturenames", ())
    ]
    folder = tmp_path_factory.mktemp("empty")
    pool = ThreadPoolExecutor(2)
    yield {lesson: pool.submit(run, NOTEBOOKS[lesson], site, folder / lesson) for lesson in asked}
    pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("lesson", NOTEBOOKS)
def test_a_solved_notebook_runs_from_an_installed_wheel(lesson, runs, site):
    notebook = runs[lesson].result()
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not [output for cell in code for output in cell.outputs if output.output_type == "error"]
    files = json.loads(code.pop().outputs[0].text)
    assert {"rlhf_core", "autograder"} <= set(files)
    assert {name: file for name, file in files.items() if file and not Path(file).is_relative_to(site)} == {}
    checks = [cell for cell in code if cell.source.startswith("check(")]
    assert checks
    for cell in checks:
        shown = "".join(output.get("data", {}).get("text/plain", "") for output in cell.outputs)
        assert shown.startswith("✔"), shown
    committed = nbformat.read(NOTEBOOKS[lesson], as_version=4)
    assert pictures(notebook) == pictures(committed) > 0


def pictures(notebook: NotebookNode) -> int:
    """How many figures a notebook shows."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return sum("image/png" in output.get("data", {}) for output in outputs)
