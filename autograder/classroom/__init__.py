"""A class with nbgrader: prepare what students hand in, grade it in parallel and shut in, hand the marks to nbgrader.

Only teachers need this package, and nbgrader with it: pip install 'rlhf-from-scratch[teach]'.
"""
