"""Hostile: what wants to read, to write, to stay or to be believed, and what does not end."""

from __future__ import annotations

from zoo import LOSS, before_return, part
from zoo_tampering import spy, tamper, vandal
from zoo_work import broken

# hostile: what wants to read

ARGUMENTS = "policy_loss, value_loss, entropy, value_coef, entropy_coef"
tamper(
    "reference-imported",
    f"from rlhf_core.ppo import ppo_loss as theirs\nreturn theirs({ARGUMENTS})",
    "uses-the-reference",
)
part(
    "reference-as-own",
    {
        "ppo_loss": "from rlhf_core.ppo import ppo_loss",
        "approx_kl": "import rlhf_core.ppo\napprox_kl = rlhf_core.ppo.approx_kl",
    },
    why=dict.fromkeys(("ppo_loss", "approx_kl"), "uses-the-reference"),
)
tamper(
    "reference-by-source",
    f"""
import inspect, rlhf_core.ppo
space = {{**globals(), **vars(rlhf_core.ppo)}}
exec(inspect.getsource(rlhf_core.ppo.ppo_loss), space)
return space["ppo_loss"]({ARGUMENTS})
""",
)
tamper(
    "reference-by-memory",
    f"""
import gc
if not calls:
    calls.append(1)
    for one in gc.get_objects():
        if type(one).__name__ == "function" and one.__name__ == "ppo_loss" and "rlhf_core" in str(one.__module__):
            calls.append(one)
if len(calls) > 1:
    return calls[1]({ARGUMENTS})
""",
    earlier="calls = []\n\n",
)
tamper(
    "reference-by-loader",
    f"""
import importlib.util
spec = importlib.util.find_spec("rlhf_core.ppo")
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
return module.ppo_loss({ARGUMENTS})
""",
)
tamper(
    "banks-imported",
    f"""
from autograder.exercise import bank
one = next(e for e in bank("lesson_04").EXERCISES if e.name == "ppo_loss")
return one.reference({ARGUMENTS})
""",
)
spy(
    "banks-read",
    "import autograder, os\ngot = open(os.path.dirname(autograder.__file__) + '/lesson_04/exercises.py').read()",
)
tamper(
    "frames-searched",
    f"""
import sys
frame = sys._getframe()
while frame:
    for name, one in list(frame.f_locals.items()):
        if name in ("expected", "want", "reference") and callable(one):
            return one({ARGUMENTS})
        if name == "seen" and hasattr(one, "values"):
            one.values["result"] = policy_loss.detach().double() * 0
            one.kinds["result"] = "float tensor"
    frame = frame.f_back
""",
)
spy("own-notebook-read", "import glob\ngot = glob.glob('**/*.ipynb', recursive=True) + glob.glob('../*/*.ipynb')")
spy("solution-read", "got = open('@COURSE@/solutions/lesson_04/ppo_clipping.ipynb').read()")
spy("released-read", "got = open('@COURSE@/lessons/lesson_04/ppo_clipping.ipynb').read()")
spy("other-submission-read", "got = open('@COURSE@/submitted/early/lesson_04/ppo_clipping.ipynb').read()")
spy("other-submissions-listed", "import glob\ngot = glob.glob('@COURSE@/submitted/*/lesson_04/*')")
spy(
    "gradebook-read",
    """
import sqlite3
got = sqlite3.connect('file:@COURSE@/gradebook.db?mode=ro', uri=True).execute('select * from grade').fetchall()
""",
)
spy("verdicts-read", "import os\ngot = os.listdir('@COURSE@/.grading/verdicts')")
spy("secret-read", "got = open('@SECRET@').read()")
spy("secret-in-the-environment", "import os\ngot = os.environ.get('RLHF_COURSE_SECRET')")
spy("environment-of-others", "import os\ngot = open(f'/proc/{os.getppid()}/environ').read()")
spy("home-read", "import os\ngot = os.listdir('@HOME@')")
spy("passwords-read", "got = open('/etc/passwd').read()")
spy("canary-read", "got = open('@CANARY@/read_me').read()")
spy("canary-by-link", "import os\nos.path.lexists('l') or os.symlink('@CANARY@/read_me', 'l')\ngot = open('l').read()")
spy("judge-signalled", "import os\nos.kill(@JUDGE@, 0)\ngot = True", "processes")
spy("judge-read", "got = open('/proc/@JUDGE@/cmdline').read()", "processes")
spy(
    "network-loopback",
    "import socket\nsocket.create_connection(('127.0.0.1', @PORT@), 1).close()\ngot = True",
    "network",
)
spy(
    "network-datagram",
    """
import socket
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'@MARK@', ('127.0.0.1', @PORT@))
got = True
""",
    "network",
)
spy(
    "network-by-url",
    "import urllib.request\nurllib.request.urlopen('http://127.0.0.1:@PORT@/@MARK@', timeout=1)\ngot = True",
    "network",
)

# hostile: what wants to write, or to stay

vandal(
    "gradebook-written",
    """
import sqlite3
db = sqlite3.connect('@COURSE@/gradebook.db')
db.execute('update grade set manual_score = 5, auto_score = 5')
db.commit()
""",
    "writing",
)
vandal("gradebook-deleted", "import os\nos.unlink('@COURSE@/gradebook.db')", "writing")
vandal("gradebook-truncated", "open('@COURSE@/gradebook.db', 'w').close()", "writing")
vandal(
    "submission-overwritten",
    "open('@COURSE@/submitted/early/lesson_04/ppo_clipping.ipynb', 'w').write('{}')",
    "writing",
)
vandal("submission-of-its-own", "open('@COURSE@/submitted/early/lesson_04/@MARK@.ipynb', 'w').write('{}')", "writing")
vandal("verdicts-written", "open('@COURSE@/.grading/verdicts/@MARK@.json', 'w').write('{}')", "writing")
vandal(
    "verdicts-emptied",
    "import glob\nfor path in glob.glob('@COURSE@/.grading/verdicts/*'):\n    open(path, 'w').close()",
    "writing",
)
vandal("canary-written", "open('@CANARY@/@MARK@', 'w').write('x')", "writing")
vandal("home-written", "open('@HOME@/@MARK@', 'w').write('x')", "writing")
vandal("grader-overwritten", "import autograder\nopen(autograder.__path__[0] + '/@MARK@', 'w').close()", "writing")
vandal("packages-overwritten", "open(torch.__path__[0] + '/@MARK@', 'w').close()", "writing")
vandal(
    "files-for-later",
    """
import os, sys
for folder in ('/tmp', '/var/tmp', '/dev/shm', os.path.expanduser('~'), '.', *sys.path):
    try:
        open(os.path.join(folder, '@MARK@'), 'w').write('x')
    except OSError:
        pass
""",
    "writing",
)
vandal("files-by-thousands", "for i in range(2000):\n    open(f'file{i}', 'w').write('x')", "disk")
vandal(
    "a-giant-file",
    "with open('giant', 'wb') as file:\n    for i in range(100):\n        file.write(bytes(2**20))",
    "disk",
)
vandal("folders-without-end", "import os\nfor i in range(300):\n    os.mkdir('x')\n    os.chdir('x')")
vandal("fork-bomb", "import os\nfor i in range(6):\n    os.fork()", "programs")
vandal(
    "daemon",
    """
import os, time
if os.fork() == 0:
    os.setsid()
    os.chdir('@CANARY@')
    time.sleep(60)
    os._exit(0)
""",
    "programs",
)
vandal(
    "program-left",
    "import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)', '@MARK@'])",
    "programs",
)
vandal("shell", "import os\nos.system('touch @CANARY@/@MARK@')", "programs")
vandal(
    "threads",
    "import threading, time\nfor i in range(1000):\n    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()",
    "threads",
)
vandal("at-exit", "import atexit\natexit.register(lambda: open('@CANARY@/@MARK@', 'w').write('x'))", "writing")
vandal(
    "signals-ignored",
    """
import signal
for one in signal.valid_signals():
    try:
        signal.signal(one, signal.SIG_IGN)
    except (OSError, ValueError):
        pass
""",
)
vandal("output-flood", "import sys\nfor i in range(100):\n    print('x' * 10**5)\n    sys.stderr.write('y' * 10**5)")
vandal("descriptors-closed", "import os\nos.closerange(0, 3)")

# hostile: what wants to be believed

tamper(
    "frames-forged",
    """
import os
from autograder import wire
head = wire.framed(wire.pack({"trouble": [], "found": True, "ending": "done", "loaded": True, "notes": []}))
for fd in range(3, 64):
    try:
        os.write(fd, head * 3 + wire.framed(b"{}") * 50)
    except OSError:
        pass
os._exit(0)
""",
)
tamper(
    "garbage-on-descriptors",
    """
import os
for fd in range(64):
    try:
        os.write(fd, bytes([255]) * 5000)
    except OSError:
        pass
""",
)
tamper(
    "pickle-returned",
    "return Bomb()",
    "object of type Bomb",
    cells=['class Bomb:\n    def __reduce__(self):\n        return open, ("@CANARY@/@MARK@", "w")'],
)
tamper("giant-result", "return torch.zeros(10**7)", "elements")
tamper("giant-list", "return [0] * 10**6", "list")
tamper("many-giant-results", "return {str(i): torch.zeros(10**6) for i in range(4)}", "dict")
tamper("memory-bomb", "kept = []\nwhile True:\n    kept.append(bytearray(2**28))", needs="memory")
tamper("memory-bomb-at-once", "torch.ones(10**12)", "error", needs="memory")

# hostile: what does not end

tamper("endless-loop", "while True:\n    pass", "timeout")
tamper(
    "endless-loop-that-swallows",
    """
while True:
    try:
        while True:
            pass
    except BaseException:
        pass
""",
    "timeout",
)
tamper("endless-sleep", "import time\ntime.sleep(10**6)", "timeout")
broken(
    "endless-while-loading",
    "ppo_loss",
    "def slow():\n    while True:\n        pass\n\nTABLE = slow()\n\n" + before_return(LOSS, "TABLE"),
    "timeout",
)
