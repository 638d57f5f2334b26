"""The grader: runs a learner's function on seeded cases, compares it with the reference, and names the misconception."""

from __future__ import annotations


def check(function, name: str | None = None):
    """Grade one function at once, in a notebook cell or anywhere: `check(gae)`."""
    from autograder.notebook import check as check_function

    return check_function(function, name)
