"""Environments by name: made vectorised, with errors that say what to do."""

from __future__ import annotations

import math
import re
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces, wrappers
from gymnasium.error import DependencyNotInstalled, UnregisteredEnv
from gymnasium.wrappers import TimeLimit
from stable_baselines3.common.env_util import is_wrapped, make_vec_env
from stable_baselines3.common.preprocessing import check_for_nested_spaces, get_obs_shape
from stable_baselines3.common.vec_env import VecEnv

from gsrl._random import environment_seeds
from gsrl.checks import EnvironmentDataError, NonFiniteError
from gsrl.masking import MASK_KEY, adapt, check_masks, shows_masks
from gsrl.multi_agent import AgentsVecEnv
from gsrl.runs import teams
from gsrl.runs.cards import Card, cards, full_name, get_card
from gsrl.runs.errors import UsageError, nearest
from gsrl.runs.named import Named, foreign_modules, pairs
from gsrl.runs.rewind import Rewindable
from gsrl.spaces import OneHotCodec
from gsrl.vec_env import LONGEST_EPISODE, seed_environments

__all__ = [
    "ENVIRONMENT_FAULTS",
    "EnvironmentFailure",
    "check_environment",
    "check_origin",
    "full_name",
    "make_environment",
    "make_environments",
    "make_plain",
    "render_modes",
]

EXTRAS = ("box2d", "minatar", "minigrid", "mujoco")
"""Extras of this project that hold what an environment needs."""

LARGEST_REWARD = float(np.finfo(np.float32).max)
"""Rewards are learned from in single precision."""

NUMBERS = frozenset({float, int, np.float64, np.float32})
INTEGERS = frozenset({int, np.int64})
BOOLEANS = frozenset({bool, np.bool_})

NEED_JAX = ("phys2d/", "tabular/")
"""Beginnings of the names that are not suggested: no extra of this project makes them work."""


def _rescaled(env: gym.Env, min_obs: Any = 0.0, max_obs: Any = 1.0) -> gym.Env:
    """Gymnasium's ``RescaleObservation``, which wants arrays; what has no bounds stays as it is."""
    space = env.observation_space
    if not isinstance(space, spaces.Box) or space.dtype.kind != "f":
        raise TypeError(f"observations must be in a Box of floating-point numbers, but are in {space}")
    bounded = np.isfinite(space.low) & np.isfinite(space.high)
    low, high = np.where(bounded, min_obs, space.low), np.where(bounded, max_obs, space.high)
    return wrappers.RescaleObservation(env, low.astype(space.dtype), high.astype(space.dtype))


WRAPPERS: Mapping[str, Callable[..., gym.Env]] = {
    "ClipReward": wrappers.ClipReward,
    "FilterObservation": wrappers.FilterObservation,
    "FlattenObservation": wrappers.FlattenObservation,
    "FrameStackObservation": wrappers.FrameStackObservation,
    "GrayscaleObservation": wrappers.GrayscaleObservation,
    "MaxAndSkipObservation": wrappers.MaxAndSkipObservation,
    "RescaleObservation": _rescaled,
    "TimeAwareObservation": wrappers.TimeAwareObservation,
    "TimeLimit": wrappers.TimeLimit,
}
"""Gymnasium's wrappers that have a name here. ``FlattenObservation`` makes numbers of a ``Discrete`` space one-hot."""

WITH_STATISTICS = ("NormalizeObservation", "NormalizeReward")
"""Those that are refused: each keeps statistics of its own, which evaluations would lack."""

OPTIONS_OF_MAKE = ("id", "render_mode", "max_episode_steps", "disable_env_checker", "vectorization_mode")
"""Arguments of Gymnasium's ``make`` itself, which no environment is given."""


class EnvironmentFailure(RuntimeError):
    """An environment raised, or returned what no agent can use; the message says what and where."""


ENVIRONMENT_FAULTS = (EnvironmentFailure, EnvironmentDataError, NonFiniteError)
"""What is raised where an environment, or what it returned, is at fault: a sentence says all of it."""


class _Watched(gym.Wrapper):
    """Tells what the environment does wrong from what its users do: all that it returns is looked at here.

    A quick look at each step lets the usual pass; what it does not know is looked at closely.

    Args:
        env: The environment.
    """

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        space = env.observation_space
        self._spaces: dict[Any, spaces.Space] = {**space} if isinstance(space, spaces.Dict) else {None: space}
        self._fits = _quick_look(space)
        discrete = isinstance(env.action_space, spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary)
        self._codec = OneHotCodec(env.action_space) if discrete else None
        self._mask_shape = (sum(self._codec.sizes),) if self._codec is not None and self._codec.n == 1 else None
        self._masked = False

    def reset(self, **arguments: Any) -> tuple[Any, dict[str, Any]]:
        """Resets the environment."""
        try:
            observation, info = self.env.reset(**arguments)
        except Exception as error:
            raise self._raised("reset", error) from error
        self._masked = isinstance(info, dict) and info.get(MASK_KEY) is not None
        if not (self._fits(observation) and type(info) is dict and not self._masked):
            self._look_closely("reset", observation, info)
        return observation, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Steps the environment."""
        try:
            outcome: tuple[Any, ...] = self.env.step(action)
            observation, reward, terminated, truncated, info = outcome
        except Exception as error:
            raise self._raised(f"step({action})", error) from error
        if not (
            type(reward) in NUMBERS
            and -LARGEST_REWARD <= reward <= LARGEST_REWARD
            and type(terminated) in BOOLEANS
            and type(truncated) in BOOLEANS
            and self._fits(observation)
            and type(info) is dict
            and (self._fits_mask(info.get(MASK_KEY)) if self._masked else MASK_KEY not in info)
        ):
            self._look_closely(f"step({action})", observation, info, reward, terminated, truncated)
        return observation, reward, terminated, truncated, info

    def close(self) -> None:
        """Closes the environment."""
        try:
            super().close()
        except Exception as error:
            raise self._raised("close", error) from error

    def _fits_mask(self, mask: Any) -> bool:
        """A quick look at a mask, of one factor, in single bytes."""
        if type(mask) is not np.ndarray or mask.shape != self._mask_shape or mask.itemsize > 1:
            return False
        entries = mask.tobytes()
        return 1 in entries and max(entries) == 1

    def _look_closely(
        self, call: str, observation: Any, info: Any, reward: Any = 0.0, terminated: Any = False, truncated: Any = False
    ) -> None:
        """Raises ``EnvironmentFailure`` for what fits no space, is not finite, or is of another kind."""
        try:
            for key, space in self._spaces.items():
                try:
                    part = observation if key is None else observation[key]
                except (KeyError, IndexError, TypeError):
                    raise ValueError(f"observation must have an entry {key!r}, but got {observation!r}") from None
                _check_observation("observation" if key is None else f"observation[{key!r}]", part, space)
            _check_reward(reward)
            for name, end in (("terminated", terminated), ("truncated", truncated)):
                if not np.shape(end) == () or np.asarray(end).dtype != np.bool_:
                    raise ValueError(f"{name} must be a boolean, but got {end!r}")
            if not isinstance(info, dict):
                raise ValueError(f"info must be a dict, but got {info!r}")
            mask = info.get(MASK_KEY)
            if not terminated:  # the last mask of all is not needed
                if (mask is not None) != self._masked:
                    raise ValueError(f"info must hold {MASK_KEY!r} at every reset and step, or never")
                if mask is not None and self._codec is not None:
                    check_masks(self._codec, mask, f"info[{MASK_KEY!r}]")
        except ValueError as error:
            reason = f"{self._name} returned what cannot be used from {call}: {error}"
            raise EnvironmentFailure(reason) from error

    def _raised(self, call: str, error: Exception) -> EnvironmentFailure:
        innermost = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(innermost.filename).name}, line {innermost.lineno}"
        return EnvironmentFailure(f"{self._name} raised {type(error).__name__} in {call}: {error} ({place})")

    @property
    def _name(self) -> str:
        return self.spec.id if self.spec is not None else str(self.unwrapped)


def _quick_look(space: spaces.Space) -> Callable[[Any], bool]:
    """Returns a function that knows the usual observations of a space; of others it says nothing by False."""
    if isinstance(space, spaces.Dict):
        looks = {key: _quick_look(part) for key, part in space.items()}

        def fits(value: Any) -> bool:
            return isinstance(value, dict) and all(key in value and look(value[key]) for key, look in looks.items())

    elif isinstance(space, spaces.Box):
        shape, dtype, is_float, vdot = space.shape, space.dtype, space.dtype.kind == "f", np.vdot

        def fits(value: Any) -> bool:
            return (
                type(value) is np.ndarray
                and value.shape == shape
                and value.dtype == dtype
                # One cheap number, which is finite only if all entries are; or rarely not, when it overflows.
                and (not is_float or math.isfinite(vdot(value, value)))
            )

    elif isinstance(space, spaces.Discrete):
        start, end = int(space.start), int(space.start + space.n)

        def fits(value: Any) -> bool:
            return type(value) in INTEGERS and start <= value < end

    else:
        return space.contains
    return fits


def _check_observation(name: str, value: Any, space: spaces.Space) -> None:
    if not isinstance(space, spaces.Box):
        if not space.contains(value):
            raise ValueError(f"{name} must be in {space}, but got {value!r}")
        return
    try:
        array = np.asarray(value)
    except (TypeError, ValueError):  # lists of unequal lengths
        raise ValueError(f"{name} must be an array, but got {value!r}") from None
    if array.shape != space.shape:
        raise ValueError(f"{name} must have shape {space.shape}, but got {array.shape}")
    if array.dtype.kind not in "fiub":
        raise ValueError(f"{name} must hold real numbers, but got {value!r}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite, but got {value!r}")


def _check_reward(reward: Any) -> None:
    try:
        value = float(reward)
    except (TypeError, ValueError):  # of what is no real number, or is several
        value = math.nan
    if isinstance(reward, str | bytes | np.complexfloating) or not abs(value) <= LARGEST_REWARD:
        raise ValueError(f"reward must be a finite number of single precision, but got {reward!r}")


class _Bounded(TimeLimit):
    """Truncates episodes where the environment has no time limit, and says so."""

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Steps the environment."""
        observation, reward, terminated, truncated, info = super().step(action)
        elapsed: Any = self._elapsed_steps  # by its type None, which it is before the first reset
        if truncated and not terminated and elapsed == self._max_episode_steps:
            warnings.warn(
                f"{self.spec.id if self.spec is not None else self.unwrapped} has no time limit: an episode was cut "
                f"off after {self._max_episode_steps} steps; --max-episode-steps sets another bound",
                stacklevel=2,
            )
        return observation, reward, terminated, truncated, info


def check_environment(env_id: str, agent: str, env_kwargs: Sequence[str] = (), wrapper: Sequence[str] = ()) -> str:
    """Sees that an environment exists and suits the agent; one of Gymnasium's is made, to see that it can be.

    Args:
        env_id: Gymnasium's name of the environment; ``module:name`` imports the module that registers it. Of agents
            that talk, one of their own.
        agent: Name of its card.
        env_kwargs: See :func:`make_environments`, as for the next.
        wrapper: Around it.

    Returns:
        Its whole name, with the version that Gymnasium takes where ``env_id`` has none.

    Raises:
        UsageError: It does not; the message says what to do.
    """
    card = get_card(agent)
    if card.environments is not None:
        if env_id not in card.environments:
            raise UsageError(f"unknown environment {env_id!r} of {agent}; {nearest(env_id, card.environments)}")
        return env_id
    talkers = [other.name for other in cards() if env_id in (other.environments or ())]
    if talkers:
        raise UsageError(
            f"{env_id} is an environment of {', '.join(talkers)}, and none of Gymnasium's, which {agent} needs"
        )
    env = make_plain(env_id, env_kwargs=env_kwargs, wrapper=wrapper)
    try:
        try:
            check_for_nested_spaces(env.observation_space)
            get_obs_shape(env.observation_space)
            _check_not_empty(env.observation_space)
        except (NotImplementedError, ValueError) as error:
            raise UsageError(f"{agent} cannot read what {env_id} shows: {error}") from error
        if not isinstance(env.action_space, card.action_spaces):
            kinds = " or ".join(space.__name__ for space in card.action_spaces)
            raise UsageError(f"{agent} needs a {kinds} action space, but {env_id} has {env.action_space}")
        _check_masks(env, env_id, card)
    finally:
        with suppress(Exception):  # one that cannot be closed is of use all the same
            env.close()
    return full_name(env_id)


def _check_not_empty(space: spaces.Space) -> None:
    """Raises ``ValueError`` if there is nothing in an observation, or in a part of it, that a network could read."""
    parts = list(space.values()) if isinstance(space, spaces.Dict) else [space]
    if not parts:
        raise ValueError(f"{space} has no entry")
    for part in parts:
        if isinstance(part, spaces.Box) and (part.shape == () or 0 in part.shape):
            raise ValueError(f"{part} has {'no dimension' if part.shape == () else 'no entry'}")


def check_origin(env_id: str, path: Path, env_kwargs: Sequence[str] = (), wrapper: Sequence[str] = ()) -> None:
    """Sees that an environment that a file names can be made without importing anything.

    Args:
        env_id: The name in the file.
        path: Path of the file.
        env_kwargs: Arguments in the file.
        wrapper: Wrappers in the file.

    Raises:
        UsageError: One of them is, or may be, taken for something in a module that has not been imported.
    """
    named = {f"the environment {env_id!r}": [env_id]}
    named |= {f"the wrapper {text!r}": [text] for text in wrapper if text.partition(":")[0] not in WRAPPERS}
    named |= {f"the argument {text!r}": [text.partition("=")[2]] for text in env_kwargs}
    named |= {
        f"the wrapper {text!r}": [text.partition(":")[2]] for text in wrapper if text.partition(":")[0] in WRAPPERS
    }
    for what, texts in named.items():
        for module in foreign_modules(texts):
            raise UsageError(
                f"{path} names {what}: making it imports {module}, which runs that module's code; give --trust if you "
                "trust where the file came from"
            )


def make_environments(
    env_id: str,
    n_envs: int,
    seed: int,
    max_episode_steps: int | None = None,
    render_mode: str | None = None,
    *,
    env_kwargs: Sequence[str] = (),
    wrapper: Sequence[str] = (),
) -> VecEnv:
    """Makes ``n_envs`` environments stepped together, each seeded by one of its own for the training of an agent.

    Each can be rewound (see :mod:`gsrl.runs.rewind`), ends its episodes, and raises :class:`EnvironmentFailure`
    whatever goes wrong inside. Masks of legal actions that it gives by a method ``action_masks()`` or in its
    observations are in its infos as well.

    Args:
        env_id: Gymnasium's name of the environment; ``module:name`` imports the module that registers it. Of a team's
            world each agent is an environment.
        n_envs: How many.
        seed: Of the agent.
        max_episode_steps: Steps after which an episode is truncated; None: the environment's own number, and where it
            has none, :data:`gsrl.vec_env.LONGEST_EPISODE`, with a warning.
        render_mode: How they are shown, one of :func:`render_modes`; None: not at all.
        env_kwargs: Arguments of the environment's constructor, as ``name=value``.
        wrapper: Wrappers around each, the first the innermost, as :class:`gsrl.runs.named.Named` reads them.
    """
    if env_id in teams.ENVIRONMENTS:
        return AgentsVecEnv(teams.world_maker(env_id, None), n_envs, seed)

    def make() -> gym.Env:
        env = make_plain(env_id, max_episode_steps, render_mode, env_kwargs=env_kwargs, wrapper=wrapper)
        return _Watched(adapt(env if is_wrapped(env, TimeLimit) else _Bounded(env, LONGEST_EPISODE)))

    # Given a name, make_vec_env would ask for pictures, for which LunarLander simulates the sparks of its engines: with
    # them a step takes five times as long.
    env = make_vec_env(make, n_envs, seed, wrapper_class=Rewindable)
    seed_environments(env, environment_seeds(n_envs, seed, "environment"))
    return env


def make_environment(env_id: str, max_episode_steps: int | None = None, **how: Any) -> gym.Env:
    """Makes one environment, in all as those of :func:`make_environments`.

    Args:
        env_id: Gymnasium's name of the environment.
        max_episode_steps: Steps after which an episode is truncated.
        **how: ``render_mode``, ``env_kwargs`` and ``wrapper``, see :func:`make_environments`.
    """
    vec_env: Any = make_environments(env_id, 1, 0, max_episode_steps, **how)
    env: gym.Env = vec_env.envs[0]
    return env


def make_plain(
    env_id: str,
    max_episode_steps: int | None = None,
    render_mode: str | None = None,
    *,
    env_kwargs: Sequence[str] = (),
    wrapper: Sequence[str] = (),
) -> gym.Env:
    """Makes an environment as Gymnasium does, with what was asked for around it and nothing else.

    Args:
        env_id: See :func:`make_environments`, as for all others.
        max_episode_steps: Steps after which an episode is truncated.
        render_mode: How it is shown.
        env_kwargs: Arguments of its constructor.
        wrapper: Around it.

    Raises:
        UsageError: It cannot be made; the message says what to do.
    """
    arguments = pairs(env_kwargs, "--env-kwargs")
    for name in OPTIONS_OF_MAKE:
        if name in arguments:
            raise UsageError(f"--env-kwargs must be arguments of {env_id}, but {name} is one of gymnasium.make")
    if render_mode is not None:  # not every constructor takes it
        arguments["render_mode"] = render_mode
    env = _make(env_id, max_episode_steps, arguments)
    for text in wrapper:
        if text.partition(":")[0] in WITH_STATISTICS:
            raise UsageError(
                f"--wrapper must be without statistics of its own, which evaluations would lack, but got {text}; "
                "agents normalise by a setting, --normalize-observations or --normalize, and their models keep it"
            )
        named = Named.read(text, list(WRAPPERS), "--wrapper")
        wrap = named.find(WRAPPERS, "--wrapper")
        try:
            env = wrap(env, **named.arguments)
        except Exception as error:  # wrappers raise what they like
            raise UsageError(f"--wrapper {text} cannot be put around {env_id}: {error}") from error
        if not isinstance(env, gym.Env):
            raise UsageError(f"--wrapper {named.name} must make a gymnasium.Env, but made {type(env).__name__}")
    return env


def render_modes(env_id: str, *, env_kwargs: Sequence[str] = ()) -> list[str]:
    """Returns the ways in which an environment can be shown.

    Args:
        env_id: Gymnasium's name of the environment.
        env_kwargs: Arguments of its constructor.
    """
    with closing(make_plain(env_id, env_kwargs=env_kwargs)) as env:
        return list(env.unwrapped.metadata.get("render_modes") or ())


def _make(env_id: str, max_episode_steps: int | None, arguments: Mapping[str, Any]) -> gym.Env:
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*Using the latest versioned environment")  # whose name is said
            return gym.make(env_id, max_episode_steps=max_episode_steps, **arguments)
    except UnregisteredEnv as error:
        module, colon, _ = env_id.rpartition(":")
        known = [f"{module}{colon}{name}" for name in gym.registry if not name.startswith(NEED_JAX)]
        raise UsageError(f"unknown environment {env_id!r}; {nearest(env_id, known)}") from error
    except (DependencyNotInstalled, ModuleNotFoundError) as error:
        # Gymnasium's environments name its extra; other extras are named after the package that is missing.
        named = re.search(r"gymnasium\[(\w+)\]", str(error))
        extra = named[1] if named else (getattr(error, "name", None) or "").partition(".")[0]
        remedy = f'pip install -e ".[{extra}]"' if extra in EXTRAS else str(error)
        raise UsageError(f"{env_id} needs packages that are not installed: {remedy}") from error
    except Exception as error:  # environments raise what they like
        raise UsageError(f"environment {env_id!r} cannot be made: {error}") from error


def _check_masks(env: gym.Env, env_id: str, card: Card) -> None:
    """Raises ``UsageError`` if the agent would take illegal actions, or lacks the masks that it needs."""
    agent, masks = card.name, card.masks
    if masks == "kept":
        return
    # Masks in the info alone are Gymnasium's way to give advice, as in Taxi: to ignore them is no mistake.
    fits = {
        "kept": True,
        "required": _has_masks(env),
        "ignored": not (_has_masks(env) or shows_masks(env.observation_space)),
    }
    if fits[masks]:
        return
    others = [
        other.name
        for other in cards()
        if other.environments is None and fits[other.masks] and isinstance(env.action_space, other.action_spaces)
    ]
    reason = {
        "required": f"{agent} reads masks of legal actions from a method action_masks() alone, and {env_id} has none",
        "ignored": f"{agent} would take illegal actions: it ignores the masks that {env_id} gives",
    }[masks]
    raise UsageError(f"{reason}; " + (f"train with {' or '.join(others)}" if others else "no agent of the zoo fits"))


def _has_masks(env: gym.Env) -> bool:
    return env.has_wrapper_attr("action_masks")
