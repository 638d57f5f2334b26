"""Lesson 05: a learner's own functions train the model; a broken or missing one is named before anything is trained."""

from __future__ import annotations

import shutil
import sys
import warnings
from functools import partial
from pathlib import Path

import nbformat
import pytest
import tiny_ppo

sys.path.insert(0, str(Path(__file__).parent.parent))  # the build is no part of the package

import autograder.load  # noqa: E402
from autograder.load import graded_functions, graded_here, load_functions  # noqa: E402
from autograder.runner import Worker  # noqa: E402
from course.build import lessons, release, solved_notebook  # noqa: E402
from rlhf_core.functions import choose_functions  # noqa: E402
from rlhf_core.loop import REFERENCE, train  # noqa: E402

NAMES = tuple(vars(REFERENCE))
FORWARD_GAE = """
def gae(rewards, values, mask, gamma, lam):
    rewards, values = torch.where(mask, rewards, 0.0), torch.where(mask, values, 0.0)
    advantages, carried = torch.zeros_like(values), torch.zeros_like(values[:, 0])
    for t in range(values.shape[1]):
        next_value = values[:, t + 1] if t + 1 < values.shape[1] else torch.zeros_like(carried)
        carried = (rewards[:, t] + gamma * next_value - values[:, t] + gamma * lam * carried) * mask[:, t]
        advantages[:, t] = carried
    return advantages, torch.where(mask, advantages + values, 0.0)
"""
ENDLESS_GAE = """
def gae(rewards, values, mask, gamma, lam):
    while True:
        pass
"""


@pytest.fixture(scope="module")
def solved(tmp_path_factory) -> Path:
    """The solved notebooks of lessons 00 to 05, as a learner has them who has written everything."""
    folder = tmp_path_factory.mktemp("solved")
    for lesson in lessons()[:6]:
        path = lesson.notebook(folder)
        path.parent.mkdir()
        nbformat.write(solved_notebook(lesson), path)
    return folder


@pytest.fixture
def notebooks(solved, tmp_path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(solved, tmp_path / "lessons"))


def add_cell(notebooks: Path, source: str) -> None:
    """Another definition at the end of lesson 03: the last one counts."""
    path = notebooks / "lesson_03" / "gae.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell(source))
    nbformat.write(notebook, path)


def test_the_reward_rises_because_of_the_learners_functions(solved, tmp_path):
    blocks = graded_functions(solved, NAMES)
    assert [str(block) for block in blocks if block.function is None or block.why] == []
    assert not [block.name for block in blocks if block.function is getattr(REFERENCE, block.name)]
    calls, curve = dict.fromkeys(NAMES, 0), []

    def counted(name, function):
        def counting(*args, **kwargs):
            calls[name] += 1
            return function(*args, **kwargs)

        return counting

    functions = {block.name: counted(block.name, block.function) for block in blocks}
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*reference stands in.*")
        chosen = choose_functions(functions)
        assert all(getattr(chosen, name) is function for name, function in functions.items())
        before = dict(calls)
        options = {"steps": 10, "batch_size": 16, "minibatch_size": 8, "max_new_tokens": 8, "learning_rate": 1e-3}
        config = tiny_ppo.config(tmp_path / "run", save_every=100, kl_coef=0.01, **{**options, "kl_target": 8.0})
        train(config, functions, tiny_ppo.letters, lambda step, metrics: curve.append(metrics), quiet=True)
    assert all(calls[name] > before[name] for name in NAMES), "a function was not used in training"
    first, last = (sum(metrics["reward"] for metrics in part) / 3 for part in (curve[:3], curve[-3:]))
    assert last > first + 0.25, [round(metrics["reward"], 2) for metrics in curve]


def test_a_broken_gae_is_named_and_replaced(notebooks):
    add_cell(notebooks, FORWARD_GAE)
    blocks = {block.name: block for block in graded_functions(notebooks, NAMES)}
    assert [name for name, block in blocks.items() if block.function is None] == ["gae"]
    line = str(blocks["gae"])
    assert line.startswith("lesson_03  gae") and "rlhf_core's — " in line and "recursion" in line


def test_the_loop_names_a_broken_gae_before_it_trains(notebooks, tmp_path):
    add_cell(notebooks, FORWARD_GAE)
    functions, steps = load_functions(notebooks, NAMES), []
    config = tiny_ppo.config(tmp_path / "run", steps=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        with pytest.raises(UserWarning, match="gae is not used, its result differs"):
            train(config, functions, tiny_ppo.letters, lambda *step: steps.append(step), quiet=True)
    assert not steps and not (tmp_path / "run").exists()
    with pytest.warns(UserWarning, match="gae is not used") as caught:
        train(config, functions, tiny_ppo.letters, lambda *step: steps.append(step), quiet=True)
    assert len(steps) == 1 and len([w for w in caught if "stands in" in str(w.message)]) == 1


def test_a_missing_notebook_is_said_and_costs_its_own_functions(notebooks):
    shutil.rmtree(notebooks / "lesson_03")
    blocks = graded_functions(notebooks, NAMES)
    lost = [block for block in blocks if block.function is None]
    assert [block.name for block in lost] == ["shaped_rewards", "gae", "masked_whiten"]
    assert {block.why for block in lost} == {"no notebook of this lesson was found"}


def test_no_notebooks_at_all(tmp_path):
    assert {block.function for block in graded_functions(tmp_path / "nowhere", NAMES)} == {None}
    assert set(load_functions(tmp_path, NAMES).values()) == {None}


def test_an_unreadable_notebook_costs_its_own_functions(notebooks):
    (notebooks / "lesson_03" / "gae.ipynb").write_text("{", encoding="utf-8")
    blocks = graded_functions(notebooks, ["gae", "ppo_loss"])
    assert [block.function is None for block in blocks] == [True, False]
    assert "not valid JSON" in blocks[0].why


def test_stubs_are_not_written_yet(tmp_path):
    for lesson in lessons()[3:4]:
        path = lesson.notebook(tmp_path / "solutions")
        path.parent.mkdir(parents=True)
        nbformat.write(solved_notebook(lesson), path)
        release(tmp_path / "solutions", tmp_path / "lessons", [lesson.id])
    (block,) = graded_functions(tmp_path / "lessons", ["gae"])
    assert block.function is None and block.why == "not written yet"


def test_an_endless_loop_costs_one_function(notebooks, monkeypatch):
    monkeypatch.setattr(autograder.load, "Worker", partial(Worker, seconds=2.0))
    add_cell(notebooks, ENDLESS_GAE)
    blocks = {block.name: block for block in graded_functions(notebooks, ["gae", "masked_whiten"])}
    assert blocks["gae"].function is None and "a loop that never ends" in blocks["gae"].why
    assert blocks["masked_whiten"].function is not None


def test_all_notebooks_in_one_folder(notebooks, tmp_path):
    flat = tmp_path / "flat"
    flat.mkdir()
    for path in notebooks.rglob("*.ipynb"):
        shutil.copy(path, flat)
    assert [block.function is not None for block in graded_functions(flat, ["gae", "ppo_loss"])] == [True, True]


def test_functions_of_this_process_are_graded(capsys):
    scope = {}
    exec("import torch\n" + FORWARD_GAE, scope)
    broken, right = graded_here({"gae": scope["gae"], "adaptive_kl_coef": lambda *a: REFERENCE.adaptive_kl_coef(*a)})
    assert broken.function is None and "gae" in str(broken)
    assert right.function is not None or "rlhf_core" in right.why
