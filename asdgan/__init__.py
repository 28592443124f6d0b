"""asdgan: train and compare detectors of anomalous machine sound."""

import os

__version__ = "0.1.0"

# Torch's threads wait for one another by spinning, a thousand times a step; on cores that other
# work shares, that makes two threads ten times slower than one. Read when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
