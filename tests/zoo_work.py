"""Honest work, work that is partly done, wrong in known ways and in ways of its own, and code that does not run."""

from __future__ import annotations

from breakages import code, insert, markdown, merge, to, write
from zoo import EVERYTHING, FRACTION, KL, LOSS, POLICY, SHORT, VALUE, before_return, mutant, part, whole, written

# honest work in several styles

whole("honest")
whole("honest-short", written(**SHORT))
whole("honest-own-cells", insert(2, code("print('hello')"), markdown("My notes.")), insert(9, code("x = [1, 2]")))
whole(
    "honest-loops",
    written(
        clipped_policy_loss="""def clipped_policy_loss(lp, old, adv, mask, eps):
    terms = []
    for b in range(mask.shape[0]):
        for t in range(mask.shape[1]):
            if mask[b, t]:
                rho = torch.exp(lp[b, t] - old[b, t].detach())
                a = adv[b, t].detach()
                terms.append(torch.minimum(rho * a, rho.clamp(1 - eps, 1 + eps) * a))
    return -sum(terms) / len(terms)""",
        approx_kl="""def approx_kl(lp, old, mask):
    total, count = 0.0, 0
    for row, other, keep in zip(lp.tolist(), old.tolist(), mask.tolist()):
        for a, b, k in zip(row, other, keep):
            if k:
                total += math.exp(a - b) - 1 - (a - b)
                count += 1
    return total / count""",
    ),
    insert(2, code("import math")),
)
whole(
    "honest-float64",
    written(
        clipped_value_loss="""def clipped_value_loss(values, old_values, returns, mask, clip_range):
    v, old, r = values[mask].double(), old_values[mask].detach().double(), returns[mask].detach().double()
    near = old + (v - old).clamp(-clip_range, clip_range)
    return (0.5 * torch.maximum((v - r) ** 2, (near - r) ** 2).mean()).float()""",
        clip_fraction=mutant(FRACTION, ("cut.float()", "cut.double()")),
    ),
)
whole(
    "honest-numpy",
    written(
        clip_fraction="""def clip_fraction(logprobs, old_logprobs, advantages, mask, clip_range):
    m = mask.numpy()
    rho, a = np.exp((logprobs - old_logprobs).numpy()[m]), advantages.numpy()[m]
    return np.mean(((rho > 1 + clip_range) & (a > 0)) | ((rho < 1 - clip_range) & (a < 0)))""",
        approx_kl="""def approx_kl(logprobs, old_logprobs, mask):
    d = (logprobs - old_logprobs).numpy()[mask.numpy()].astype(np.float64)
    return np.mean(np.expm1(d) - d)""",
    ),
    insert(2, code("import numpy as np")),
)
whole(
    "honest-helpers",
    written(
        clipped_policy_loss="""def clipped_policy_loss(logprobs, old_logprobs, advantages, mask, clip_range):
    ratio, a = my_ratio(logprobs, old_logprobs, mask), advantages[mask].detach()
    return -torch.min(ratio * a, ratio.clamp(ONE - clip_range, ONE + clip_range) * a).mean()""",
        approx_kl="""def approx_kl(logprobs, old_logprobs, mask):
    r = my_ratio(logprobs, old_logprobs, mask)
    return (r - ONE - r.log()).mean().item()""",
    ),
    insert(2, code("ONE = 1.0\n\n\ndef my_ratio(new, old, mask):\n    return (new[mask] - old[mask].detach()).exp()")),
)
whole(
    "honest-callables",
    written(
        ppo_loss="ppo_loss = lambda p, v, h, cv, ch: p + cv * v - ch * h",
        approx_kl="""class Estimate:
    def __call__(self, logprobs, old_logprobs, mask):
        d = (logprobs - old_logprobs)[mask]
        return torch.mean(torch.expm1(d) - d)

approx_kl = Estimate()""",
        clip_fraction="""from functools import partial, wraps

def plain(function):
    @wraps(function)
    def inner(*args):
        return function(*args)
    return inner

@plain
"""
        + mutant(FRACTION, ("def clip_fraction(", "def share(extra, "))
        + "\n\nclip_fraction = partial(share, None)",
    ),
)
whole("honest-all-in-one-cell", written(**SHORT), merge(*EVERYTHING), repaired="share a cell")
whole(
    "honest-unicode",
    written(ppo_loss="def ppo_loss(π, 値, Ñ, α, β):\n    λόγος = π + α * 値\n    return λόγος - β * Ñ"),
)
whole("honest-syntax-error-elsewhere", written(**SHORT), insert(2, code("for x in ((:\n")))
whole("honest-one-answer", written(**SHORT), to("clip-bound", write("YOUR ANSWER HERE")), answers=("first-minibatch",))
whole("honest-answer-erased", written(**SHORT), to("clip-bound", write("   ")), answers=("first-minibatch",))
whole(
    "honest-global-state",
    written(**SHORT),
    insert(2, code("torch.set_default_dtype(torch.float64)\ntorch.set_grad_enabled(False)\ntorch.set_num_threads(4)")),
)
whole(
    "honest-experiments",
    written(**SHORT),
    insert(
        2,
        code("!pip install nothing\nname = input('who are you?')"),
        code("%matplotlib inline\nimport matplotlib.pyplot as plt\nplt.plot([1])\nplt.show()"),
        code("while True:\n    pass"),
        code("import sys\nsys.exit(3)"),
        code("raise ValueError('stop')"),
        code("import urllib.request\nurllib.request.urlopen('http://example.org')"),
    ),
)
part("honest-magic", {"ppo_loss": "%%time\n" + LOSS}, ["ppo_loss"])
part("honest-exec", {"ppo_loss": f"exec('''{LOSS}''')"}, ["ppo_loss"])
part(
    "honest-warnings",
    {
        "ppo_loss": before_return(
            LOSS, "import sys, warnings", "warnings.warn('hm')", "print('no', file=sys.stderr)", "print(1)"
        )
    },
    ["ppo_loss"],
)
part(
    "honest-wrong-one-before",
    {"ppo_loss": LOSS},
    ["ppo_loss"],
    cells=[mutant(LOSS, ("- entropy_coef", "+ entropy_coef"))],
)
part("o'brien", {"ppo_loss": LOSS}, ["ppo_loss"])
part("Zoë Müller-Łuk", {"ppo_loss": LOSS}, ["ppo_loss"])

# partly done

part("part-nothing", {})
part("part-one", {"ppo_loss": LOSS}, ["ppo_loss"], {"approx_kl": "not written"})
part("part-two", {"ppo_loss": LOSS, "clip_fraction": FRACTION}, ["ppo_loss", "clip_fraction"])
part("part-pass", {"ppo_loss": "def ppo_loss(*args):\n    pass"}, (), {"ppo_loss": "missing"})
part("part-commented-out", {"ppo_loss": "# " + LOSS.replace("\n", "\n# ")}, (), {"ppo_loss": "missing"})
whole(
    "part-answers-only",
    written(**{name: f"def {name}(*args):\n    raise NotImplementedError" for name in EVERYTHING}),
    lost=dict.fromkeys(EVERYTHING, "missing"),
)

# wrong in known ways

CUT = "cut = (ratio > 1 + clip_range) & (a > 0) | (ratio < 1 - clip_range) & (a < 0)"
CLAMPED = "torch.clamp(ratio, 1 - clip_range, 1 + clip_range)"
PLUS = mutant(LOSS, ("- entropy_coef", "+ entropy_coef"))
whole(
    "wrong-known",
    written(
        clipped_policy_loss=mutant(POLICY, (f"torch.min(ratio * a, {CLAMPED} * a)", f"({CLAMPED} * a)")),
        clip_fraction=mutant(FRACTION, (CUT, "cut = (ratio - 1).abs() > clip_range")),
        approx_kl=mutant(KL, ("logprobs - old_logprobs", "old_logprobs - logprobs")),
        clipped_value_loss=mutant(VALUE, ("maximum", "minimum")),
        ppo_loss=PLUS,
    ),
    lost={
        "clipped_policy_loss": "clipped-term-only",
        "clip_fraction": "sign-ignored",
        "approx_kl": "reversed",
        "clipped_value_loss": "min-for-max",
        "ppo_loss": "entropy-added",
    },
)


def wrong(name: str, exercise: str, source: str, why: str, **golden) -> None:
    """One function is wrong."""
    part(f"wrong-{name}", {exercise: source}, (), {exercise: why}, **golden)


wrong("no-clip", "clipped_policy_loss", mutant(POLICY, (CLAMPED, "ratio")), "no-clip")
wrong("sign", "clipped_policy_loss", mutant(POLICY, ("-torch.min", "torch.min")), "wrong-sign")
wrong("mask-ignored", "approx_kl", mutant(KL, ("[mask]", "")), "mask-unused")
wrong(
    "no-gradient", "clipped_value_loss", mutant(VALUE, ("values[mask], old", "values[mask].detach(), old")), "gradient"
)
wrong(
    "into-data", "clipped_policy_loss", mutant(POLICY, ("advantages[mask].detach()", "advantages[mask]")), "advantages"
)
wrong(
    "in-place",
    "ppo_loss",
    mutant(LOSS, ("    return policy_loss +", "    policy_loss +=")) + "\n    return policy_loss",
    "in-place",
)
wrong("plain-number", "ppo_loss", mutant(LOSS, ("return ", "x = ")) + "\n    return x.item()", "a-plain-number")
wrong("last-of-two", "ppo_loss", f"{LOSS}\n\n\n{PLUS}", "entropy-added")

# wrong in ways of their own

wrong("constant", "ppo_loss", "def ppo_loss(*args):\n    return torch.tensor(0.5)", "failed")
wrong("none", "ppo_loss", mutant(LOSS, ("return ", "x = ")), "None")
wrong("shape", "ppo_loss", mutant(LOSS, ("return ", "return torch.ones(1) * ")), "shape")
wrong("nan", "approx_kl", "def approx_kl(*args):\n    return float('nan')", "number")
wrong("offset", "ppo_loss", LOSS + " + 1.0", "expected")
wrong("text", "approx_kl", "def approx_kl(*args):\n    return 'about 0.1'", "text")
wrong(
    "signature", "ppo_loss", "def ppo_loss(policy_loss, value_loss):\n    return policy_loss + value_loss", "TypeError"
)
wrong(
    "array",
    "ppo_loss",
    "import numpy\n\n" + mutant(LOSS, ("return ", "x = ")) + "\n    return numpy.asarray(x.detach())",
    "ndarray",
)
wrong(
    "half-precision",
    "approx_kl",
    mutant(KL, ("(logprobs - old_logprobs)", "(logprobs.half() - old_logprobs.half())")),
    "expected",
)
wrong("changes-state", "ppo_loss", before_return(LOSS, "torch.set_default_dtype(torch.float64)"), "default dtype")
wrong("changes-seed", "ppo_loss", before_return(LOSS, "torch.manual_seed(1)"), "random generator")


# broken code


def broken(name: str, exercise: str, source: str, why: str, **golden) -> None:
    """One function is broken; another, which is right, is not harmed."""
    other, right = ("ppo_loss", LOSS) if exercise == "approx_kl" else ("approx_kl", KL)
    part(f"broken-{name}", {exercise: source, other: right}, (other,), {exercise: why}, **golden)


broken("syntax", "ppo_loss", LOSS + " +", "parse")
broken("name", "ppo_loss", mutant(LOSS, ("entropy_coef * entropy", "coefficient * entropy")), "coefficient")
broken("helper-deleted", "approx_kl", "def approx_kl(a, b, m):\n    return my_helper(a, b, m)", "my_helper")
broken("recursion", "ppo_loss", "def ppo_loss(*args):\n    return ppo_loss(*args)", "RecursionError")
broken("import", "ppo_loss", "import no_such_package\n\n" + before_return(LOSS, "no_such_package.x"), "no_such_package")
broken("constant", "approx_kl", "SIZE = [][0]\n\n" + before_return(KL, "d = d * SIZE"), "IndexError")
broken("exit-while-loading", "approx_kl", "SIZE = exit()\n\n" + before_return(KL, "d = d * SIZE"), "error")
broken("input", "ppo_loss", before_return(LOSS, "input()"), "input()")
