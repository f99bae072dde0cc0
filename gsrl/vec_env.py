"""Environments side by side, in the form of Stable-Baselines3: those of one process, and Gymnasium's."""

from __future__ import annotations

import os
import socket
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from copy import deepcopy
from functools import update_wrapper
from multiprocessing import connection
from operator import attrgetter
from typing import Any, cast

import gymnasium as gym
import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.wrappers import TimeLimit
from stable_baselines3.common.env_util import is_wrapped
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn
from stable_baselines3.common.vec_env.util import dict_to_obs

from gsrl._trees import map_arrays
from gsrl.checks import (
    EnvironmentDataError,
    checked_end,
    checked_ends,
    checked_numbers,
    checked_observation,
    checked_real,
)

__all__ = [
    "LONGEST_EPISODE",
    "GymnasiumVecEnv",
    "RealRewards",
    "StepWatch",
    "SyncVecEnv",
    "has_time_limit",
    "monitored",
    "naming_dead_workers",
    "seed_environments",
]

LONGEST_EPISODE = 10_000
"""Steps after which an episode is cut off where :func:`has_time_limit` knows of no end."""

PATIENCE = 10.0
"""Seconds that a process may take to end after its pipe has broken."""

BOOLEANS = frozenset({bool, np.bool_})
"""Types of what says that an episode ended."""

INTEGERS = frozenset({int, np.int64})
"""Types of observations of `Discrete` spaces that need no closer look."""

NUMBERS = frozenset({bool, int, float, np.bool_, np.float32, np.float64, np.int64})
"""Types of rewards that need no closer look."""

ATOMS = frozenset({bool, int, float, str, bytes, type(None), np.bool_, np.float32, np.float64, np.int64})
"""Types of which nobody needs a copy, because nobody can change them."""


@contextmanager
def naming_dead_workers(env: VecEnv | VectorEnv | None) -> Iterator[None]:
    """Ends with a sentence where a worker process of a `SubprocVecEnv` or an `AsyncVectorEnv` has ended.

    Then the others are ended as well, and the environments count as closed: nobody waits for them again. Where
    processes were forked, later ones hold the pipes of earlier ones open, and reading from one whose process was killed
    would wait for ever: a thread shuts it.

    Args:
        env: The environments, wrapped or not.

    Raises:
        RuntimeError: Inside, a pipe turned out to be broken, because its process has ended.

    Example:
        >>> import gymnasium as gym
        >>> env = SyncVecEnv([lambda: gym.make("CartPole-v1")])
        >>> with naming_dead_workers(env):  # around whatever asks the environments
        ...     env.reset().shape
        (1, 4)
    """
    workers = None if env is None else _workers(env.unwrapped)
    if isinstance(workers, SubprocVecEnv) and workers not in _watched and _are_forked(workers.processes):
        _watched.add(workers)
        # Descriptors of the thread's own: numbers that others have closed are soon those of something else.
        pipes = {
            os.dup(process.sentinel): os.dup(pipe.fileno())
            for process, pipe in zip(workers.processes, workers.remotes, strict=True)
        }
        threading.Thread(target=_shut_broken_pipes, args=(pipes,), daemon=True).start()
    try:
        yield
    except (EOFError, ConnectionError) as error:
        if workers is None:
            raise
        ended = connection.wait([process.sentinel for process in workers.processes], PATIENCE)  # the pipe breaks before
        number = next((i for i, process in enumerate(workers.processes) if process.sentinel in ended), None)
        if number is None:
            raise
        workers.processes[number].join(PATIENCE)
        code = workers.processes[number].exitcode
        for process in workers.processes:
            process.kill()
            process.join()
        workers.closed = True
        raise RuntimeError(
            f"env must keep its worker processes, but that of environment {number} has ended, with exit code {code}"
            f"{' (a signal)' if code is not None and code < 0 else ''}: it was killed, memory may be short, or the "
            "environment raised what stands above. All are closed."
        ) from error


_watched: weakref.WeakSet[Any] = weakref.WeakSet()


def _workers(env: Any) -> Any:
    """Of environments in other processes, what has the list ``processes``; None of all others."""
    inner = env.vector_env.unwrapped if isinstance(env, GymnasiumVecEnv) else env
    return inner if isinstance(inner, SubprocVecEnv | AsyncVectorEnv) and not inner.closed else None


def _are_forked(processes: Sequence[Any]) -> bool:
    return processes[0]._start_method == "fork"


def _shut_broken_pipes(pipes: dict[int, int]) -> None:
    """Shuts each pipe when its process has ended, whoever holds the other end: then reading from it is an error.

    Args:
        pipes: Descriptors of the pipes by those that tell of the end of their processes; they are closed.
    """
    while pipes:
        for sentinel in connection.wait(list(pipes)):
            number = cast("int", sentinel)
            with socket.socket(fileno=pipes.pop(number)) as pipe, suppress(OSError):  # nobody may be there any more
                pipe.shutdown(socket.SHUT_RDWR)
            os.close(number)


class RealRewards(gym.Wrapper):
    """Refuses rewards that are no real numbers, by name; :class:`Monitor`, around it, would not say what is wrong.

    Args:
        env: The environment.

    Raises:
        gsrl.checks.EnvironmentDataError: At a step: the reward is complex, None, a text, or several numbers.

    Example:
        >>> import gymnasium as gym
        >>> env = RealRewards(gym.wrappers.TransformReward(gym.make("CartPole-v1"), lambda reward: 2j))
        >>> _ = env.reset(seed=0)
        >>> try:
        ...     env.step(0)
        ... except EnvironmentDataError as error:
        ...     print(str(error).partition(" in ")[0])
        reward must be a real number, but got 2j
    """

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """Resets the environment, with no argument that was not given: not every one takes ``options``."""
        return self.env.reset(**kwargs)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Steps the environment."""
        result = self.env.step(action)
        if type(result[1]) not in NUMBERS:
            checked_real("reward", result[1], str(self.env))
        return result


def monitored(env: gym.Env) -> gym.Env:
    """An environment whose episodes are reported, by Stable-Baselines3's `Monitor`; it is in one already, or now is.

    Example:
        >>> import gymnasium as gym
        >>> env = monitored(gym.make("CartPole-v1"))
        >>> _, done = env.reset(seed=0), False
        >>> while not done:
        ...     _, _, done, _, info = env.step(0)
        >>> sorted(info["episode"])  # length, return and time
        ['l', 'r', 't']
    """
    return env if is_wrapped(env, Monitor) else Monitor(RealRewards(env))


class SyncVecEnv(DummyVecEnv):
    """Stable-Baselines3's `DummyVecEnv`, without its deep copies: several environments in one process, stepped in turn.

    What it returns is the same, and the caller's to keep and to change: every array is a new one. A step takes half as
    long, beside what the environments themselves take.

    One thing differs: `infos[i]["terminal_observation"]` is copied before the environment is reset, so that one which
    writes over its own observations does not write over its final one.

    Args:
        env_fns: Functions that make an environment each.

    Raises:
        ValueError: Two functions return the same environment; at a step: there is not one action an environment.

    Example:
        >>> import gymnasium as gym
        >>> env = SyncVecEnv([lambda: gym.make("CartPole-v1")] * 2)
        >>> env.reset().shape
        (2, 4)
    """

    def step_wait(self) -> VecEnvStepReturn:
        """Returns observations, float32 rewards, ends of episodes and infos, each with one entry an environment.

        Raises:
            gsrl.checks.EnvironmentDataError: An observation has another shape than those of the space, or is no array
                of real numbers; a reward is no real number; an end is not boolean; an info is no dict.
        """
        if len(self.actions) != self.num_envs:
            raise ValueError(
                f"actions must be one for each of {self.num_envs} environments, but got {len(self.actions)}."
            )
        rewards, dones = np.empty(self.num_envs, np.float32), np.empty(self.num_envs, np.bool_)
        for i, (env, action) in enumerate(zip(self.envs, self.actions, strict=True)):
            observation, reward, terminated, truncated, info = env.step(action)
            self._save_obs(i, observation)
            rewards[i] = reward if type(reward) in NUMBERS else checked_real("reward", reward, f"environment {i}")
            if type(terminated) not in BOOLEANS or type(truncated) not in BOOLEANS:
                terminated = checked_end("terminated", terminated, f"environment {i}")
                truncated = checked_end("truncated", truncated, f"environment {i}")
            if not isinstance(info, dict):
                raise EnvironmentDataError(f"info must be a dict, but got {info!r} in environment {i}")
            # A copy: what is written into it must not be there when the environment returns the same dict again.
            self.buf_infos[i] = copied = _copy_info(info)
            info.pop("episode", None)  # of Monitor
            copied["TimeLimit.truncated"] = bool(truncated and not terminated)
            dones[i] = done = terminated or truncated
            if done:
                copied["terminal_observation"] = deepcopy(observation)
                observation, self.reset_infos[i] = env.reset()
                self._save_obs(i, observation)
        return self._obs_from_buf(), rewards, dones, self.buf_infos.copy()

    def _save_obs(self, env_idx: int, obs: Any) -> None:
        """Keeps an observation; one of another shape would otherwise be broadcast."""
        for key, buffer in self.buf_obs.items():
            name, value = "observation", obs
            if key is not None:
                name = f"observation[{key!r}]"
                try:
                    value = obs[key]
                except (IndexError, KeyError, TypeError):
                    raise EnvironmentDataError(
                        f"observation must have the entries {list(self.buf_obs)}, but got {obs!r} in "
                        f"environment {env_idx}"
                    ) from None
            shape, dtype = buffer.shape[1:], buffer.dtype
            if type(value) is np.ndarray:
                fits = value.shape == shape and (value.dtype == dtype or value.dtype.kind == "f" == dtype.kind)
            else:
                fits = type(value) in INTEGERS and not shape
            buffer[env_idx] = value if fits else checked_observation(name, value, shape, dtype, env_idx)

    def _obs_from_buf(self) -> VecEnvObs:
        return dict_to_obs(self.observation_space, {key: buffer.copy() for key, buffer in self.buf_obs.items()})


class GymnasiumVecEnv(VecEnv):
    """A `gymnasium.vector.VectorEnv` as a `VecEnv`, with Stable-Baselines3's conventions whatever the autoreset mode.

    Where an episode ends, the observation is the first one of the next episode and `reset_infos[i]` its info;
    `infos[i]["terminal_observation"]` is the final one, `infos[i]["TimeLimit.truncated"]` says that it was truncated
    and not terminated, and `infos[i]["episode"]` holds what `Monitor` would write: return `r`, length `l`, seconds `t`.
    `infos[i]` is what sub-environment i itself returned, `action_mask` included. On the same seeds everything equals
    `DummyVecEnv` around the same environments.

    | vector environment | how it comes to the first observation |
    |---|---|
    | `SAME_STEP` | it has reset by itself |
    | `DISABLED` | reset at once, by `options={"reset_mask": ...}` |
    | `NEXT_STEP`, `SyncVectorEnv` or `AsyncVectorEnv` with shared memory | reset at once, in the same way |
    | `NEXT_STEP`, any other (CartPole's in NumPy, for one) | by a dummy step |

    A dummy step ignores the action, earns nothing and leads from the final observation to the first of the next
    episode. It is no transition and must not be learned from. Here `infos[i]["dummy_step"]` is True in it, it belongs
    to no episode's length, and the step before it returns the final observation, which is all there is by then.
    `DiscreteSAC` and `Reinforce` drop dummy steps. Other algorithms would train on them, so `reset` raises, unless
    `allow_dummy_steps` was called for it.

    Args:
        vector_env: The vector environment, such as `gymnasium.make_vec` returns.

    Attributes:
        vector_env: The same.
        has_dummy_steps: Whether `vector_env` resets by dummy steps.

    Raises:
        TypeError: `vector_env` is not a `gymnasium.vector.VectorEnv`.
        ValueError: Its `metadata["autoreset_mode"]` is not an `AutoresetMode`.

    Example:
        >>> import gymnasium as gym
        >>> env = GymnasiumVecEnv(gym.make_vec("CartPole-v1", num_envs=2, vectorization_mode="sync"))
        >>> env.reset().shape
        (2, 4)
    """

    def __init__(self, vector_env: VectorEnv) -> None:
        if not isinstance(vector_env, VectorEnv):
            raise TypeError(
                "vector_env must be a gymnasium.vector.VectorEnv, as gymnasium.make_vec returns, but got "
                f"{vector_env!r}."
            )
        mode = vector_env.metadata.get("autoreset_mode")
        if not isinstance(mode, AutoresetMode):
            raise ValueError(
                "vector_env must have a gymnasium.vector.AutoresetMode in metadata['autoreset_mode'], but got "
                f"{mode!r}."
            )
        self.vector_env = vector_env
        self.has_dummy_steps = mode is AutoresetMode.NEXT_STEP and not _resets_a_part(vector_env)
        super().__init__(vector_env.num_envs, vector_env.single_observation_space, vector_env.single_action_space)
        self.metadata = vector_env.metadata
        self._mode = mode
        # Monitor may sit inside a wrapper that ends episodes early, and its word on episodes counts. It is known by a
        # method, because the sub-environments of other processes can be asked for attributes, not for classes.
        self._monitored = self.has_attr("get_episode_rewards")
        self._started_at = time.monotonic()
        self._returns = np.zeros(self.num_envs)
        self._lengths = np.zeros(self.num_envs, dtype=np.int64)
        self._dummy = np.zeros(self.num_envs, dtype=np.bool_)  # True where the coming step is a dummy
        self._dummy_steps_allowed = False

    # Stepping

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Seeds the next `reset`: sub-environment i with `seed + i`.

        A vector environment without sub-environments takes `seed`, for all that it draws.

        Args:
            seed: A non-negative integer; None: random numbers go on from where they are.
        """
        self._seeds = [None if seed is None else int(seed) + i for i in range(self.num_envs)]
        return self._seeds

    def allow_dummy_steps(self) -> None:
        """Promises that what `infos[i]["dummy_step"]` marks will be dropped, from the next `reset` to the one after."""
        self._dummy_steps_allowed = True

    def reset(self) -> VecEnvObs:
        """Resets all sub-environments, with the seeds and options set for this reset.

        Raises:
            RuntimeError: The vector environment has dummy steps, and they were not allowed for this reset.
            ValueError: Sub-environments were given different options.
        """
        if self.has_dummy_steps and not self._dummy_steps_allowed:
            raise RuntimeError(
                f"{self.vector_env} resets by dummy steps, which only DiscreteSAC and Reinforce leave out. For any "
                'other algorithm make it with gymnasium.make_vec(..., vectorization_mode="sync"), or with '
                "AutoresetMode.SAME_STEP where it has that. (A loop that drops the steps marked by "
                'infos[i]["dummy_step"] calls allow_dummy_steps() before reset().)'
            )
        if any(options != self._options[0] for options in self._options):
            raise ValueError(f"options must be the same for all sub-environments, but got {self._options}.")
        has_parts = isinstance(self.vector_env.unwrapped, SyncVectorEnv | AsyncVectorEnv)
        seed: Any = list(self._seeds) if has_parts else self._seeds[0]
        observations, infos = self.vector_env.reset(seed=seed, options=self._options[0] or None)
        self._dummy_steps_allowed = False
        self._reset_seeds()
        self._reset_options()
        for counts in (self._returns, self._lengths, self._dummy):
            counts.fill(0)
        self.reset_infos = _split(infos, self.num_envs)
        return map_arrays(np.array, observations)

    def step_async(self, actions: np.ndarray) -> None:
        """Takes the actions of the next `step_wait`, which does the whole step.

        Args:
            actions: `[n_envs, *action_space.shape]`.

        Raises:
            ValueError: The shape is another one.
        """
        expected = (self.num_envs, *(self.action_space.shape or ()))
        if np.shape(actions) != expected:
            raise ValueError(f"actions must have shape {list(expected)}, but got {list(np.shape(actions))}.")
        self._actions = np.asarray(actions)

    def step_wait(self) -> VecEnvStepReturn:
        """Returns observations, float32 rewards, ends of episodes and infos, each with one entry a sub-environment.

        Raises:
            RuntimeError: The vector environment is said to reset in the same step, but gives no final observation.
        """
        observations, rewards, terminated, truncated, batched = self.vector_env.step(self._actions)
        observations = map_arrays(np.array, observations)  # the vector environment may write over its own
        infos = _split(batched, self.num_envs)
        terminated = checked_ends("terminated", terminated, self.num_envs)
        truncated = checked_ends("truncated", truncated, self.num_envs)
        rewards = checked_numbers("reward", rewards, self.num_envs)
        dones = terminated | truncated
        ended = np.flatnonzero(dones).tolist()
        rewards = np.where(self._dummy, 0.0, rewards)
        self._returns += rewards
        self._lengths += ~self._dummy

        if self._mode is AutoresetMode.SAME_STEP:
            for i in ended:
                infos[i], self.reset_infos[i] = _part_final(infos[i], i)
        else:
            for i in ended:
                infos[i]["terminal_observation"] = map_arrays(lambda array, i=i: np.array(array[i]), observations)
            if self.has_dummy_steps:
                self._mark_dummy_steps(infos, dones)
            elif ended:
                self._reset_ended(observations, dones)
        for i, info in enumerate(infos):
            info["TimeLimit.truncated"] = bool(truncated[i] and not terminated[i])
        if not self._monitored:
            self._report_episodes(infos, ended)
        with np.errstate(over="ignore"):  # who learns from infinite rewards refuses them
            return observations, rewards.astype(np.float32), dones, infos

    def _reset_ended(self, observations: VecEnvObs, dones: np.ndarray) -> None:
        """Reset the sub-environments whose episode ended, and write over their final observations."""
        first, infos = self.vector_env.reset(options={"reset_mask": dones.copy()})
        map_arrays(lambda array, new: array.__setitem__(dones, new[dones]), observations, first)
        for i, info in enumerate(_split(infos, self.num_envs)):
            if dones[i]:
                self.reset_infos[i] = info

    def _mark_dummy_steps(self, infos: list[dict[str, Any]], dones: np.ndarray) -> None:
        """Mark the dummy steps just taken, and note those to come: where an episode has just ended."""
        for i in np.flatnonzero(self._dummy):
            infos[i]["dummy_step"] = True
        # The info of the observation that is returned: the final one, and after the dummy step the first.
        for i in np.flatnonzero(self._dummy | dones):
            self.reset_infos[i] = dict(infos[i])
        self._dummy[:] = dones

    def _report_episodes(self, infos: list[dict[str, Any]], ended: list[int]) -> None:
        """Write `info["episode"]`, rounded as `Monitor` does, and count anew."""
        seconds = round(time.monotonic() - self._started_at, 6)
        for i in ended:
            infos[i]["episode"] = {"r": round(float(self._returns[i]), 6), "l": int(self._lengths[i]), "t": seconds}
        self._returns[ended] = 0.0
        self._lengths[ended] = 0

    # Around it

    def close(self) -> None:
        """Closes the vector environment."""
        self.vector_env.close()

    def get_images(self) -> Sequence[np.ndarray | None]:
        """Returns a frame of each sub-environment, or None where it does not render."""
        frames: Any = self.vector_env.render()  # RGB arrays
        return [None] * self.num_envs if frames is None else list(frames)

    def has_attr(self, attr_name: str) -> bool:
        """Whether all sub-environments have an attribute; False for a vector environment without sub-environments."""
        env = self.vector_env.unwrapped
        # Never by trying: a missing attribute ends the processes of an AsyncVectorEnv.
        return isinstance(env, SyncVectorEnv | AsyncVectorEnv) and all(env.call("has_wrapper_attr", attr_name))

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """Returns an attribute of sub-environments; of an `AsyncVectorEnv`, what a method returns.

        Raises:
            AttributeError: There is no such attribute, or there are no sub-environments.
        """
        chosen = list(self._get_indices(indices))
        if attr_name == "render_mode":  # every vector environment has this one, and the base class asks for it
            return [self.vector_env.render_mode for _ in chosen]
        env = self._env_with(attr_name)
        if isinstance(env, SyncVectorEnv):
            return [env.envs[i].get_wrapper_attr(attr_name) for i in chosen]
        values = env.get_attr(attr_name)
        return [values[i] for i in chosen]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Sets an attribute that sub-environments have.

        Raises:
            AttributeError: There is no such attribute, or there are no sub-environments.
            ValueError: `indices` leaves out sub-environments of an `AsyncVectorEnv`.
        """
        env = self._env_with(attr_name)
        if isinstance(env, SyncVectorEnv):
            for i in self._get_indices(indices):
                env.envs[i].set_wrapper_attr(attr_name, value)
        else:
            self._check_all(indices)
            env.set_attr(attr_name, [value] * self.num_envs)

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        """Calls a method of sub-environments and returns what each returned.

        Raises:
            AttributeError: There is no such method, or there are no sub-environments.
            ValueError: `indices` leaves out sub-environments of an `AsyncVectorEnv`.
        """
        env = self._env_with(method_name)
        if isinstance(env, SyncVectorEnv):
            chosen = self._get_indices(indices)
            return [env.envs[i].get_wrapper_attr(method_name)(*method_args, **method_kwargs) for i in chosen]
        self._check_all(indices)
        return list(env.call(method_name, *method_args, **method_kwargs))

    def env_is_wrapped(self, wrapper_class: type[gym.Wrapper], indices: VecEnvIndices = None) -> list[bool]:
        """Whether sub-environments are wrapped; True for `Monitor`, whose work is done here where it is missing.

        Raises:
            AttributeError: The sub-environments cannot be looked into: they are not in a `SyncVectorEnv`.
        """
        chosen = list(self._get_indices(indices))
        if wrapper_class is Monitor:
            return [True] * len(chosen)
        env = self.vector_env.unwrapped
        if not isinstance(env, SyncVectorEnv):
            raise AttributeError(f"the wrappers inside {self.vector_env} cannot be seen: it is not a SyncVectorEnv.")
        return [is_wrapped(env.envs[i], wrapper_class) for i in chosen]

    def _env_with(self, attr_name: str) -> SyncVectorEnv | AsyncVectorEnv:
        """The vector environment, whose sub-environments all have the attribute."""
        env = self.vector_env.unwrapped
        if not isinstance(env, SyncVectorEnv | AsyncVectorEnv) or not self.has_attr(attr_name):
            raise AttributeError(f"{self.vector_env} has no sub-environments with an attribute {attr_name!r}.")
        return env

    def _check_all(self, indices: VecEnvIndices) -> None:
        if list(self._get_indices(indices)) != list(range(self.num_envs)):
            raise ValueError(f"indices must be None: {self.vector_env} reaches all sub-environments or none.")


class StepWatch:
    """Tells whether somebody else has reset or stepped environments, such as an evaluation in those of the training.

    The calls of ``reset`` and ``step`` are counted in the environments themselves, where these are in this process, so
    that it does not matter through which wrapper they come. Else they are counted in the outermost object that is not
    a wrapper of Stable-Baselines3's. Watches of the same environments share the counts.

    Args:
        env: Vectorised environments, wrapped or not. They are taken to be disturbed until :meth:`settle` is called.

    Attributes:
        env: The same.

    Example:
        >>> import gymnasium as gym
        >>> env = SyncVecEnv([lambda: gym.make("CartPole-v1")])
        >>> watch = StepWatch(env)
        >>> watch.settle()
        >>> watch.is_disturbed()
        False
        >>> _ = env.reset()
        >>> watch.is_disturbed()
        True
    """

    def __init__(self, env: VecEnv) -> None:
        self.env = env
        base, names = env.unwrapped, ["reset", "step"]
        if isinstance(base, DummyVecEnv):
            owners: list[Any] = [_innermost(each) for each in base.envs]
        elif isinstance(base, GymnasiumVecEnv):
            owners = [base.vector_env.unwrapped]
        else:
            owners, names = [base], ["reset", "step", "step_wait"]
        self._methods = [_counted(owner, name) for owner in owners for name in names]
        self._settled_at = -1

    def count(self) -> int:
        """Calls so far, whoever made them."""
        return sum(map(_calls, self._methods))

    def settle(self, count: int | None = None) -> None:
        """Takes it that its user knows where the environments are: now, or when so many calls had been made."""
        self._settled_at = self.count() if count is None else count

    def is_disturbed(self) -> bool:
        """Whether there were further calls since."""
        return self.count() != self._settled_at


class _CountedMethod:
    """A method that counts its calls. It can be copied and pickled with its owner."""

    def __init__(self, method: Callable[..., Any]) -> None:
        update_wrapper(self, method)  # others may look at the signature
        self.method = method
        self.calls = 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        return self.method(*args, **kwargs)


_calls = attrgetter("calls")


def _counted(owner: Any, name: str) -> _CountedMethod:
    """A method of this object, counted from now on, or already."""
    method = vars(owner).get(name)
    if not isinstance(method, _CountedMethod):
        method = vars(owner)[name] = _CountedMethod(getattr(owner, name))
    return method


def _innermost(env: gym.Env) -> gym.Env:
    while isinstance(env, gym.Wrapper):
        env = env.env
    return env


def seed_environments(env: VecEnv, seeds: Iterable[int]) -> None:
    """Gives each environment a seed of its own for the next reset, where ``env.seed(seed)`` would give ``seed + j``.

    Args:
        env: Vectorised environments, wrapped or not.
        seeds: One for each; what keeps no list of seeds takes the first, for all that it draws.

    Example:
        >>> import gymnasium as gym
        >>> env = SyncVecEnv([lambda: gym.make("CartPole-v1")] * 2)
        >>> seed_environments(env, [7, 7])
        >>> first, second = env.reset()
        >>> np.array_equal(first, second)
        True
    """
    seeds = list(seeds)
    env.seed(seeds[0])
    if isinstance(getattr(env.unwrapped, "_seeds", None), list):
        env.unwrapped._seeds = [*seeds]


def has_time_limit(env: VecEnv) -> bool:
    """Whether every environment is known to end its episodes, by :class:`gymnasium.wrappers.TimeLimit`.

    Example:
        >>> import gymnasium as gym
        >>> has_time_limit(SyncVecEnv([lambda: gym.make("CartPole-v1")]))
        True
    """
    base = env.unwrapped
    if isinstance(base, GymnasiumVecEnv):
        spec = base.vector_env.spec
        return (spec is not None and spec.max_episode_steps is not None) or base.has_attr("_max_episode_steps")
    try:
        return all(env.env_is_wrapped(TimeLimit))
    except (AttributeError, NotImplementedError):  # other people's classes need not know of wrappers
        return False


def _copy_info(info: dict[str, Any]) -> dict[str, Any]:
    """A deep copy, at a cost only for values that could change."""
    return {key: value if type(value) in ATOMS else deepcopy(value) for key, value in info.items()}


def _resets_a_part(vector_env: VectorEnv) -> bool:
    """Whether a `NEXT_STEP` environment honours `reset_mask`. Most do not, and say nothing."""
    env = vector_env.unwrapped
    # Without shared memory the worker of an AsyncVectorEnv forgets that it has just reset, and resets once more.
    return isinstance(env, SyncVectorEnv) or (
        isinstance(env, AsyncVectorEnv) and env.shared_memory and env.worker is None
    )


def _split(infos: dict[str, Any], n_envs: int) -> list[dict[str, Any]]:
    """The info of each sub-environment, from a dict of arrays where `_key` says which of them gave `key`."""
    parts: list[dict[str, Any]] = [{} for _ in range(n_envs)]
    for key, values in infos.items():
        if key.startswith("_") and key[1:] in infos:
            continue
        if isinstance(values, dict):
            values = _split(values, n_envs)
        if not hasattr(values, "__len__") or len(values) != n_envs:
            raise ValueError(f"infos[{key!r}] must have one entry a sub-environment ({n_envs}), but got {values!r}.")
        given = infos.get(f"_{key}", np.ones(n_envs, dtype=np.bool_))
        for part, value, is_given in zip(parts, values, given, strict=True):
            if is_given:
                part[key] = value
    return parts


def _part_final(info: dict[str, Any], i: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """The info of the last step, with its observation, and the info of the reset that followed in the same step."""
    if "final_obs" not in info:
        raise RuntimeError(f"infos['final_obs'] must hold the final observation of sub-environment {i}, but got none.")
    final = {**info.pop("final_info", {}), "terminal_observation": map_arrays(np.array, info.pop("final_obs"))}
    return final, info
