"""Call a function and write down what happened as plain data: the same for reference, known mistake and learner."""

from __future__ import annotations

import random
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

MAX_ELEMENTS = 1_000_000
MAX_PARTS = 30
CPU = torch.device("cpu")
UNUSUAL = 718_281_828
LEARNER = "learner: "  # begins the file name of code that is the learner's own

# taken before anybody's code runs, so that replacing torch's functions does not reach the grader
_equal, _grad, _clone, _detach = torch.equal, torch.autograd.grad, Tensor.clone, Tensor.detach
_mul, _sum, _stack = torch.mul, torch.sum, torch.stack
_random, _empty, _getrandbits = Tensor.random_, torch.empty, random.getrandbits
_len_torch_function_stack = torch._C._len_torch_function_stack
_pop_torch_function_stack = torch._C._pop_torch_function_stack

FIRST: dict[bool, dict[str, object]] = {}  # numpy is loaded → what the generators give first


class ReferenceUsed(BaseException):
    """The learner's code called or read the reference implementation of the exercise itself."""


class Stop(BaseException):
    """Whoever watches has seen enough, for the time is up. No Exception, so that learners' code seldom swallows it."""


@dataclass
class Observation:
    """What one call did.

    Attributes:
        values: the results by name, as float64.
        kinds: of each result: "float tensor", "int tensor", "bool tensor", "number", or what was returned instead.
        grads: per argument the gradient that reached it, None where there was none; empty where none was asked for.
        changed: positions of arguments that were modified.
        state: global states that were left changed, in words.
        error: "Type: message" if the call raised, with the learner's own line in `where`.
        missing: the function is not written yet.
        reference_used: it calls or reads the reference implementation.
    """

    values: dict[str, Tensor] = field(default_factory=dict)
    kinds: dict[str, str] = field(default_factory=dict)
    grads: list[Tensor | None] = field(default_factory=list)
    changed: list[int] = field(default_factory=list)
    state: list[str] = field(default_factory=list)
    error: str | None = None
    where: str | None = None
    missing: bool = False
    reference_used: bool = False


def same_observation(one: Observation, other: Observation) -> bool:
    """Whether two calls did the very same."""
    mine, theirs = dict(vars(one)), dict(vars(other))
    left, right = ([*fields.pop("values").values(), *fields.pop("grads")] for fields in (mine, theirs))
    if mine != theirs or len(left) != len(right):
        return False
    return all(a is b if a is None or b is None else _equal(a, b) for a, b in zip(left, right, strict=True))


def observe(
    function: Callable,
    args: tuple,
    probe: Callable,
    parts: tuple[str, ...],
    gradients: bool,
    interruptible: bool = True,
) -> Observation:
    """Call a function once.

    Args:
        function: anything callable.
        args: its arguments; it gets a copy.
        probe: how to call it, see `autograder.probes`.
        parts: names of several results.
        gradients: also pull a fixed cotangent back through the results.
        interruptible: a KeyboardInterrupt comes from a keyboard, and ends all.
    """
    reset()
    leaves = fresh(args, gradients)
    # what the function gets is no leaf: in-place operations then work, and are seen
    given = [a.clone() if type(a) is Tensor and a.requires_grad else a for a in leaves]
    handed: list[object] = []  # what the function itself returned: a dict of its own is no recording of a probe

    def handing(*received: object) -> object:
        handed.append(function(*received))
        return handed[-1]

    before, seen = {**first_numbers(), **settings()}, Observation()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            result = probe(handing, *given)
            seen.state = changes(before, global_state())
            reset()  # what follows must not depend on what the function left behind
            results = named(result, parts, recorded=not any(result is own for own in handed))
            for name, one in results.items():
                record(seen, name, one)
            if gradients:
                seen.grads = pull_back([r for n, r in results.items() if seen.kinds[n] == "float tensor"], leaves)
        except NotImplementedError as error:
            seen.missing = "aten::" not in str(error)  # torch raises this type too, where an operation does not exist
            seen.error, seen.where = describe(error), own_line(error)
        except ReferenceUsed:
            seen.reference_used = True
        except Stop:
            raise
        except BaseException as error:  # a learner's function may raise anything
            if interruptible and issubclass(type(error), KeyboardInterrupt):
                raise
            seen.error, seen.where = describe(error), own_line(error)
    if seen.error or seen.reference_used:
        seen.state = seen.state or changes(before, global_state())
        reset()
    if not seen.error:
        seen.changed = [
            i
            for i, (a, leaf, b) in enumerate(zip(given, leaves, args, strict=True))
            if not unchanged(a, b) or (type(a) is Tensor and a.requires_grad != leaf.requires_grad)
        ]
        if any(type(leaf) is Tensor and leaf.grad is not None for leaf in leaves):
            seen.state.append("the gradients of its arguments (is backward() called inside?)")
    return seen


def fresh(args: tuple, gradients: bool) -> list:
    """A copy of the arguments; float tensors ask for gradients."""
    copies = [copy_of(a) for a in args]
    if gradients:
        for a in copies:
            if type(a) is Tensor and a.is_floating_point():
                a.requires_grad_(True)
    return copies


def copy_of(argument: object) -> object:
    """A copy that shares nothing."""
    if type(argument) is Tensor:
        return _clone(argument)
    return [copy_of(a) for a in argument] if isinstance(argument, list) else argument


def reset() -> None:
    """The same global state before every call, whatever a notebook has set."""
    leave_modes()
    torch.set_default_dtype(torch.float32)
    torch.set_grad_enabled(True)
    torch.set_autocast_enabled("cpu", False)
    if torch.are_deterministic_algorithms_enabled():
        torch.use_deterministic_algorithms(False)
    # a seed that nobody sets, so that setting one is seen
    torch.default_generator.manual_seed(
        UNUSUAL
    )  # torch.manual_seed also formats a traceback, which takes half a millisecond
    random.seed(UNUSUAL)
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed(UNUSUAL)


def leave_modes() -> None:
    """Nothing stands between a call of torch's functions and what they do."""
    if not _len_torch_function_stack():
        return
    if torch.get_default_device().type != "cpu":  # this is a mode, too
        torch.set_default_device(None)
    while _len_torch_function_stack():
        _pop_torch_function_stack()


def global_state() -> dict[str, object]:
    """What a function must leave as it found it; the generators move on, and modes are left."""
    found = settings()
    leave_modes()
    return {**next_numbers(), **found}


def settings() -> dict[str, object]:
    """How torch works."""
    return {
        "the default dtype": torch.get_default_dtype(),
        "the grad mode": torch.is_grad_enabled(),
        "the default device": torch.get_default_device() if _len_torch_function_stack() else CPU,
        "the number of threads": torch.get_num_threads(),
        "whether torch is deterministic": torch.are_deterministic_algorithms_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "how torch's functions work": _len_torch_function_stack(),
    }


def next_numbers() -> dict[str, object]:
    """What each generator gives next, which says where it stands."""
    numbers: dict[str, object] = {
        "torch's random generator": int(_random(_empty(1, dtype=torch.int64), generator=torch.default_generator)),
        "Python's random generator": _getrandbits(64),
    }
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numbers["NumPy's random generator"] = numpy.random.bytes(8)
    return numbers


def first_numbers() -> dict[str, object]:
    """What each generator gives first after `reset`."""
    loaded = "numpy" in sys.modules
    if loaded not in FIRST:
        reset()
        FIRST[loaded] = next_numbers()
        reset()
    return FIRST[loaded]


def changes(before: dict[str, object], after: dict[str, object]) -> list[str]:
    """What is not as it was; a library imported meanwhile has no before."""
    return [name for name in before if before[name] != after.get(name)]


def named(result: object, parts: tuple[str, ...], recorded: bool) -> dict[str, object]:
    """The results by name; something of another form under the name "result".

    Args:
        result: what came back.
        parts: names of the parts of a tuple, where one is asked for.
        recorded: a dict is a probe's recordings by name.
    """
    kind = type(result)
    if recorded and issubclass(kind, dict) and len(result) <= MAX_PARTS:
        return {str(name): one for name, one in dict.items(result)}
    if parts and issubclass(kind, (tuple, list)) and len(result) == len(parts):
        return dict(zip(parts, tuple(result), strict=True))
    return {"result": result}


def record(seen: Observation, name: str, one: object) -> None:
    """Add one result."""
    seen.values[name] = torch.tensor(float("nan"), dtype=torch.float64)
    if type(one) is Tensor:
        if one.numel() > MAX_ELEMENTS:
            seen.kinds[name] = f"a tensor of {one.numel()} elements"
        elif one.is_complex() or one.is_sparse or one.is_quantized or one.device.type == "meta":
            seen.kinds[name] = "a tensor that is not an ordinary one"
        else:
            seen.values[name] = _detach(one).to("cpu", torch.float64).clone()
            seen.kinds[name] = f"{dtype_kind(one.dtype)} tensor"
    elif is_number(one):
        seen.values[name] = torch.tensor(float(one), dtype=torch.float64)
        seen.kinds[name] = "number"
    else:
        seen.kinds[name] = what_it_is(one)


def dtype_kind(dtype: torch.dtype) -> str:
    """bool, float (of whatever precision), int (int64), or the name of another integer type."""
    if dtype.is_floating_point:
        return "float"
    return {torch.bool: "bool", torch.int64: "int"}.get(dtype, str(dtype).removeprefix("torch."))


def is_number(one: object) -> bool:
    """A Python or NumPy number, not a bool, and nothing that only behaves like one."""
    if type(one) in (int, float):
        return True
    numpy = sys.modules.get("numpy")
    return numpy is not None and type(one).__module__ == "numpy" and isinstance(one, (numpy.floating, numpy.integer))


def what_it_is(one: object) -> str:
    """In words, from the type alone: no method of the object is called."""
    kind = type(one)
    known = {type(None): "None", bool: "a Python bool", list: "a list", tuple: "a tuple", dict: "a dict", str: "a text"}
    if kind in known:
        sizes = f" of {len(one)}" if kind in (list, tuple) else ""
        return known[kind] + sizes
    if issubclass(kind, Tensor):
        return f"a subclass of torch.Tensor ({kind.__name__})"
    return f"an object of type {kind.__name__}"


def pull_back(results: list, args: list) -> list[Tensor | None]:
    """Gradients of a fixed weighting of all results with respect to every float tensor argument."""
    outputs = [r for r in results if type(r) is Tensor and r.requires_grad]
    leaves = [a for a in args if type(a) is Tensor and a.requires_grad]
    if not outputs:
        return [None] * len(args)
    # one number to pull back from: given several cotangents, torch.autograd.grad imports sympy first, which takes 0.4 s
    weighted = _stack([_sum(_mul(o, weights_for(o))).to(torch.float64) for o in outputs])
    found = iter(_grad(_sum(weighted), leaves, allow_unused=True))
    by_id = {id(a): g for a, g in zip(leaves, found, strict=True)}
    grads = [by_id.get(id(a)) for a in args]
    return [None if g is None else _detach(g).to(torch.float64) for g in grads]


def weights_for(output: Tensor) -> Tensor:
    """A cotangent that differs from place to place."""
    return torch.linspace(0.5, 1.5, output.numel(), dtype=output.dtype).reshape(output.shape)


def unchanged(after: object, before: object) -> bool:
    """Whether an argument is as it was."""
    if type(before) is Tensor:
        if type(after) is not Tensor or after.shape != before.shape or after.dtype != before.dtype:
            return False
        left, right = _detach(after), before
        if before.is_floating_point():
            left, right = left.nan_to_num(nan=7.25), right.nan_to_num(nan=7.25)
        return _equal(left, right)
    if isinstance(before, list):
        return type(after) is list and len(after) == len(before) and all(map(unchanged, after, before))
    return True


def describe(error: BaseException) -> str:
    """Type and first line of the message; a type of one's own counts as the type of Python that it is a kind of."""
    kind = type(error)  # never `isinstance`, which asks the object
    names = [one.__name__ for one in kind.__mro__ if one.__module__ == "builtins"]
    name = "ValueError" if issubclass(kind, ValueError) else names[0]
    try:
        text = str(error)[:2000].strip().splitlines()[0][:160]
    except BaseException as trouble:  # no message, or an exception whose __str__ raises
        if issubclass(type(trouble), Stop):
            raise
        text = ""
    own = kind.__name__[:60]
    return ": ".join(word for word in (name, "" if own in names else own, text) if word)


def own_line(error: BaseException) -> str | None:
    """The learner's own line that raised: "cell 3, line 4". No file is opened for it."""
    found, step = None, BaseException.__dict__["__traceback__"].__get__(error)  # the true one, whatever its class says
    while step is not None:
        file = step.tb_frame.f_code.co_filename
        if file.startswith(LEARNER):
            found = f"{file.removeprefix(LEARNER)}, line {step.tb_lineno}"
        elif "ipykernel" in file or file.startswith("<ipython-input"):
            found = f"this function's cell, line {step.tb_lineno}"
        step = step.tb_next
    return found
