"""Questions about models that take torch to answer, put to a process of its own.

Loading torch and Lightning takes seconds and 400 MB, more than planning 40,000 points: a process
that plans leaves it to another one, and answers itself only where it has loaded them already.
The other one is gone when the first is, and Ctrl-C is the first one's business.

    python -m asdgan.sweep.probe MODULE:FUNCTION LIFE < CONFIGS
"""

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from asdgan._system.lifetime import end_with
from asdgan.errors import BadInput

if TYPE_CHECKING:
    from omegaconf import DictConfig


def answers(question: str, configs: "Sequence[DictConfig]", *, failing: str) -> list[Any]:
    """What a function says of each config.

    Args:
        question: `module:function`, which takes a config and gives what JSON can say.
        configs: What it is asked about.
        failing: What it means when the other process fails: the beginning of a sentence.

    Raises:
        BadInput: The other process failed.
    """
    from omegaconf import OmegaConf

    if "torch" in sys.modules:
        return [_asked(question)(config) for config in configs]
    if not configs:
        return []
    life, ours = os.pipe()
    try:
        done = subprocess.run(
            [sys.executable, "-m", "asdgan.sweep.probe", question, str(life)],
            input=json.dumps([OmegaConf.to_container(one, resolve=False) for one in configs]),
            capture_output=True,
            text=True,
            check=False,
            pass_fds=[life],
            start_new_session=True,
        )
    finally:
        os.close(ours)
        os.close(life)
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise BadInput(f"{failing}: {said[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def _asked(question: str) -> Any:  # noqa: ANN401 - a function of one config
    module, _, name = question.partition(":")
    return getattr(importlib.import_module(module), name)


def main() -> int:
    """Answers for the configs that standard input lists; gives the exit code."""
    question, life = sys.argv[1:]
    end_with(int(life))  # before the imports that take long
    from omegaconf import DictConfig

    from asdgan.training import train

    train.quiet_libraries()
    function = _asked(question)
    print(json.dumps([function(DictConfig(one)) for one in json.load(sys.stdin)]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
