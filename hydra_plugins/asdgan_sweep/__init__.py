"""Doors that Hydra finds: the sweeper that answers -m, the launchers of local workers and of Ray.

Hydra imports this at every start, so nothing heavy is imported outside a method.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
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


@dataclass
class RayConfig:
    """hydra/launcher=ray; its settings are explained in `asdgan.sweep.launchers.ray.Cluster`."""

    _target_: str = "hydra_plugins.asdgan_sweep.RayLauncher"
    address: str | None = None
    gpus: float | None = None
    cpus: float = 1
    retries: int = 3


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
        from asdgan.report import board
        from asdgan.sweep import sweep

        assert self.launcher is not None  # set up by Hydra first
        assert self.config is not None
        hydras = [one for one in self.config.hydra.overrides.hydra if "hydra.mode=" not in one]
        code = sweep.answer(arguments, self.launcher, hydras, show=board.show_sweep)
        if code:
            raise SystemExit(code)


class LocalLauncher(Launcher):
    """One warm process for each GPU, or for each core where there is none."""

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Needs nothing of it: jobs are told by their plan."""

    @contextmanager
    def opened(self, config: DictConfig) -> Iterator[tuple[int, bool]]:
        """Has workers while it lasts; gives jobs at once, and whether they have GPUs."""
        from asdgan.sweep.launchers import local

        with local.Crew(config) as self._crew:
            yield self._crew.room()

    def begin(self, folder: Path, jobs: int) -> None:
        """Starts workers for jobs of a sweep that is still being planned."""
        self._crew.begin(folder, jobs)

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Runs jobs of a plan while it is `opened`; returns when all have ended."""
        from asdgan.sweep import plan
        from asdgan.sweep.launchers import local

        self._crew.launch([plan.told(one) for one in job_overrides])
        return [local.returned() for _ in job_overrides]


class RayLauncher(Launcher):
    """Tasks of a Ray cluster, each with a share of a GPU."""

    def __init__(self, **asked: Any) -> None:  # noqa: ANN401 - as in RayConfig
        """Keeps what was asked for; nothing is joined before a sweep begins."""
        self._asked = asked

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Needs nothing of it: jobs are told by their plan."""

    @contextmanager
    def opened(self, config: DictConfig) -> Iterator[tuple[int, bool]]:
        """Joins the cluster; gives jobs at once, and whether they have GPUs."""
        from asdgan.sweep.launchers import ray

        with ray.Cluster(**self._asked) as self._cluster:
            yield self._cluster.room(config)

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Runs jobs of a plan while the cluster is `opened`; returns when all have ended."""
        from asdgan.sweep import plan
        from asdgan.sweep.launchers import local

        self._cluster.launch([plan.told(one) for one in job_overrides])
        return [local.returned() for _ in job_overrides]


ConfigStore.instance().store(group="hydra/launcher", name="ray", node=RayConfig)
ConfigStore.instance().store(group="hydra/sweeper", name="asdgan", node=SweeperConfig)
ConfigStore.instance().store(group="hydra/launcher", name="local", node=LocalConfig)
