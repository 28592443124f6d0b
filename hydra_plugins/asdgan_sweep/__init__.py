"""Doors that Hydra finds: the sweeper that answers -m, and the launcher of local workers.

Hydra imports this at every start, so nothing heavy is imported outside a method.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


@dataclass
class SweeperConfig:
    """hydra/sweeper=asdgan."""

    _target_: str = "hydra_plugins.asdgan_sweep.AsdganSweeper"


@dataclass
class LocalConfig:
    """hydra/launcher=local."""

    _target_: str = "hydra_plugins.asdgan_sweep.LocalLauncher"


class AsdganSweeper(Sweeper):
    """Plans stacks of points, hands them to the launcher as text, and follows their results."""

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Makes the launcher that the config names."""
        self.hydra_context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:  # noqa: ANN401 - as Hydra declares it
        """Runs what is missing; ends the process with the sweep's exit code."""
        from asdgan.sweep import drive

        assert self.launcher is not None  # set up by Hydra first
        code = drive.answer(arguments, self.launcher)
        if code:
            raise SystemExit(code)


class LocalLauncher(Launcher):
    """One warm process for each GPU, or for each core where there is none."""

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Keeps what the jobs need to know."""
        self.config = config

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Runs jobs of a plan; returns when all have ended, however they did."""
        from asdgan.sweep import local

        return local.launch(self.config, job_overrides)


ConfigStore.instance().store(group="hydra/sweeper", name="asdgan", node=SweeperConfig)
ConfigStore.instance().store(group="hydra/launcher", name="local", node=LocalConfig)
