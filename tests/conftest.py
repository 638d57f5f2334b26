"""What all tests share: no network, no progress bars, better messages from shared checks."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
sys.path.insert(0, str(Path(__file__).parent))
pytest.register_assert_rewrite("cases", "soundness")


@pytest.fixture(scope="session")
def lesson(tmp_path_factory: pytest.TempPathFactory) -> object:
    """Lesson 04, released by nbgrader, and solved by a student."""
    from given import Given  # needs nbgrader

    return Given(tmp_path_factory.mktemp("given"))


@pytest.fixture(scope="module")
def worker() -> object:
    """One process for all of a file's submissions; it waits as long as none needs, so that one that waits is found."""
    from autograder.runner import Worker

    one = Worker(seconds=5)
    yield one
    one.stop()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The zoo is graded once, for all of its tests: first, where no second process takes half of them over."""
    items.sort(key=lambda item: item.path.name != "test_zoo.py")
