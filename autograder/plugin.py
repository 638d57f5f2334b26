"""`pytest --pyargs autograder.lesson_04`, where the package is installed and no repository lies about.

Pytest looks for options before it looks for the packages that are named: the grader's options are made known in between, and
only where exercises are asked for.
"""

from __future__ import annotations

from pathlib import Path


def pytest_load_initial_conftests(early_config, args):
    """Called by pytest before it reads the command line for good."""
    asked = any(str(argument).split("::")[0].split(".")[0] == "autograder" for argument in args)
    if "--pyargs" in args and asked:
        from autograder import conftest

        # under the name that pytest itself gives to a conftest.py, so that it does not register it again
        early_config.pluginmanager.register(conftest, str(Path(conftest.__file__)))
