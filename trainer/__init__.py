"""Training and sampling. Whatever imports torch here waits for its threads asleep.

OpenMP spins by default: on a machine with other work than ours - a loader's processes are enough - threads then wait for each
other's time slices, and a step takes ten times as long. The variable is read when torch is first imported.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
