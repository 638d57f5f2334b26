"""A class with nbgrader: prepare what students hand in, grade it in parallel and shut in, hand the marks to nbgrader.

Only teachers need this package, and nbgrader with it: pip install 'rlhf-from-scratch[teach]'.
"""

import sys

# jsonschema takes two seconds to prepare for checking internationalised addresses, if it can; notebooks hold none
sys.modules.setdefault("rfc3987_syntax", None)
