"""Networks and policies that are saved by themselves, as tensors and JSON."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from typing import Any, BinaryIO, ClassVar, TypeVar

import torch
from stable_baselines3.common.policies import BaseModel
from stable_baselines3.common.utils import get_device
from torch import nn

from gsrl import checkpoint
from gsrl._random import default_generator_lent

__all__ = ["DEFAULTS", "SavedModule"]

DEFAULTS = 2
"""Which defaults hold in what is written now for arguments that are not named: files say so, those of before do not."""

SelfSavedModule = TypeVar("SelfSavedModule", bound="SavedModule")


class SavedModule(BaseModel):
    """A module of Stable-Baselines3's whose ``save`` writes no pickle, and whose ``load`` runs no code.

    It remembers the arguments of its constructor but for modules and the learning rate, which are not its own.

    Example:
        >>> policy = gsrl.DiscreteSAC("MlpPolicy", "CartPole-v1", seed=0).policy
        >>> policy.save("policy.zip")
        >>> loaded = type(policy).load("policy.zip")
        >>> x = np.ones(4, np.float32)
        >>> bool(loaded.predict(x, deterministic=True)[0] == policy.predict(x, deterministic=True)[0])
        True
    """

    EARLIER: ClassVar[Mapping[str, Any]] = {}
    """Arguments whose defaults have changed, and what they were: they hold for files that do not say by which."""

    @classmethod
    def earlier_arguments(cls, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments of a file that does not say by which defaults it was written, completed by those of then."""
        return {**cls.EARLIER, **arguments}

    def __new__(cls, *args: Any, **kwargs: Any) -> SavedModule:
        """Remembers the arguments."""
        module = super().__new__(cls)
        if args or kwargs:  # not for a copy, which takes them over
            given = _named(cls, args) | kwargs
            module.__dict__["_arguments"] = {
                name: value
                for name, value in given.items()
                if not isinstance(value, nn.Module) and name != "lr_schedule"
            }
        return module

    def _get_constructor_parameters(self) -> dict[str, Any]:
        arguments: dict[str, Any] = self.__dict__["_arguments"]
        return arguments

    def save(self, path: str | os.PathLike[str] | BinaryIO) -> None:
        """Saves the module by itself, as tensors and JSON.

        Args:
            path: Path or binary file object.
        """
        tree = {"module": type(self).__name__, "arguments": self._get_constructor_parameters(), "defaults": DEFAULTS}
        checkpoint.save(path, {**tree, "state": self.state_dict()})

    @classmethod
    def load(
        cls: type[SelfSavedModule],
        path: str | os.PathLike[str] | BinaryIO,
        device: torch.device | str = "auto",
        *,
        trusted: bool = False,
    ) -> SelfSavedModule:
        """Loads what :meth:`save` of this class wrote, in evaluation mode.

        Args:
            path: Path or binary file object.
            device: Of the module; where there is no GPU, the CPU.
            trusted: Whether classes that gsrl does not know are imported. This runs code of the file's choosing.

        Raises:
            gsrl.checkpoint.CheckpointError: The file is damaged, foreign, of a newer format, or of another class.
        """
        tree = checkpoint.load(path, trusted=trusted)
        name = checkpoint.file_name(path)
        if not isinstance(tree, Mapping) or "module" not in tree:
            raise checkpoint.CheckpointError(
                f"{name} must be what {cls.__name__}.save wrote, but it is another gsrl checkpoint; "
                "a saved agent is loaded by its algorithm, whose policy attribute this may be."
            )
        if tree["module"] != cls.__name__:
            raise checkpoint.CheckpointError(
                f"{name} must be what {cls.__name__}.save wrote, but {tree['module']}.save did."
            )
        with checkpoint.fitting(path), default_generator_lent(0):
            checkpoint.check_entries(tree, {"arguments": None, "state": None})
            arguments = dict(tree["arguments"])
            if "defaults" not in tree:
                arguments = cls.earlier_arguments(arguments)
            if not trusted:
                checkpoint.Stored.of(tree["state"]).check(arguments, "arguments")
                checkpoint.check_module(tree["state"], lambda: cls._from_arguments(dict(arguments)), "state")
            module = cls._from_arguments(arguments)
            module.load_state_dict(tree["state"])
        checkpoint.check_finite(module.state_dict(), name)
        module.to(get_device(device)).train(False)
        return module

    @classmethod
    def _from_arguments(cls: type[SelfSavedModule], arguments: dict[str, Any]) -> SelfSavedModule:
        return cls(**arguments)

    def load_from_vector(self, vector: Any) -> None:
        """Writes all parameters, one after another, from one vector of numbers."""
        vector = torch.as_tensor(vector, dtype=torch.float32, device=self.device)
        count = sum(parameter.numel() for parameter in self.parameters())
        if vector.shape != (count,):
            raise ValueError(f"vector must have shape [{count}], but got {list(vector.shape)}.")
        # In place: the parameters stay those of the learner.
        with torch.no_grad():
            for parameter, piece in zip(
                self.parameters(), vector.split([parameter.numel() for parameter in self.parameters()]), strict=True
            ):
                parameter.copy_(piece.view_as(parameter))


def _named(cls: type, args: tuple[Any, ...]) -> dict[str, Any]:
    """Positional arguments of a class by their names: of the first base whose constructor names them."""
    base: Any
    for base in cls.__mro__:
        parameters = list(inspect.signature(base.__init__).parameters.values())[1:]
        if not any(parameter.kind is inspect.Parameter.VAR_POSITIONAL for parameter in parameters):
            return dict(zip((parameter.name for parameter in parameters), args, strict=False))
    return {}
