"""asdgan: train and compare detectors of anomalous machine sound."""

import os

__version__ = "0.1.0"

# Torch's threads wait for one another by spinning, a thousand times a step, and GNU's library has
# them spin for milliseconds: on cores that other work shares, two threads were then up to ten
# times slower than one. Spinning so briefly costs 7 % where nothing else runs. Read when torch is
# loaded; whoever sets either variable is left alone.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
