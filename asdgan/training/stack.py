"""Points that train as one: lanes of one model, read at several numbers of epochs.

A single run is a stack of one. What a stack is called follows from its points alone, so that the
next call finds what an earlier one left, in whatever order it was planned.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from omegaconf import DictConfig, OmegaConf

from asdgan._system.files import canonical
from asdgan.config import compose
from asdgan.results import ledger


@dataclass(frozen=True)
class Stack:
    """Lanes of one machine type, and the epochs at which they are read.

    Attributes:
        config: Settings of the first lane, composed and checked.
        machine_type: What all lanes listen to.
        data: Fingerprint of its clips.
        recipe: Of the model.
        lanes: For each lane the axes that are not what `config` says; all name the same axes.
        readings: Numbers of epochs, ascending.
        signer: Of its points; a plan hands one to all stacks that share a config.
    """

    config: DictConfig
    machine_type: str
    data: str
    recipe: int
    lanes: tuple[Mapping[str, Any], ...]
    readings: tuple[int, ...]
    signer: ledger.Signer | None = field(default=None, compare=False, repr=False)

    @cached_property
    def _identity(self) -> dict[str, Any]:
        return compose.identity(self.config, self.machine_type)

    def settings(self, lane: int, epochs: int) -> dict[str, Any]:
        """Every setting of one point, flat."""
        return {**self._identity, **self.lanes[lane], "epochs": epochs}

    def signature(self, lane: int, epochs: int) -> str:
        """The name of one point."""
        return self._sign({**self.lanes[lane], "epochs": epochs})

    @cached_property
    def _sign(self) -> ledger.Signer:
        return self.signer or ledger.Signer(
            self._identity, self.recipe, self.data, [*self.lanes[0], "epochs"]
        )

    @cached_property
    def names(self) -> tuple[str, ...]:
        """A name for each lane, whatever it is read at."""
        return tuple(self.signature(lane, 0) for lane in range(len(self.lanes)))

    @cached_property
    def key(self) -> str:
        """The name of this training, 16 hex digits, whatever it is read at."""
        return hashlib.sha256(canonical(list(self.names))).hexdigest()[:16]

    @property
    def kin(self) -> str:
        """What the folders of all stacks of this machine type and detector begin with."""
        return f"{self.machine_type}-{self.config.detector}"

    @property
    def folder(self) -> str:
        """Name of the folder that its results lie in, below `runs`."""
        return f"{self.kin}-{self.key}"

    @property
    def checkpoint(self) -> str:
        """Name of the file in that folder that it goes on from."""
        return f"checkpoint_{self.readings[-1]:05d}"

    def as_config(self) -> DictConfig:
        """The settings with one value a lane on the axes that lanes may differ in.

        A stack of one keeps plain values: it is built without a lane axis.
        """
        config = OmegaConf.create(OmegaConf.to_container(self.config, resolve=False))
        assert isinstance(config, DictConfig)
        config.machine = self.machine_type
        config.epochs = self.readings[-1]
        if len(self.lanes) == 1:
            config.merge_with(dict(self.lanes[0]))
            return config
        for axis in self.lanes[0]:
            config[axis] = [lane[axis] for lane in self.lanes]
        if "seed" not in self.lanes[0]:
            config.seed = [config.seed] * len(self.lanes)
        return config
