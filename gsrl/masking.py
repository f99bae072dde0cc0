"""Action masks: from any environment into `info["action_mask"]`, and from there to the matrix of a policy.

Inside the library a mask is one flat boolean array a state, True where a choice is legal: the choices of the first
factor, then those of the second, and so on; `L = sum(codec.sizes)` in all.

| space | L | entries |
|---|---|---|
| `Discrete(A)` | A | one an action |
| `MultiDiscrete([k1..kn])` | k1 + ... + kn | one a choice, as in sb3-contrib |
| `MultiBinary(n)` | 2n | pairs: whether 0 is legal, whether 1 is |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, TypeAlias, overload

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from gymnasium.vector import VectorEnv
from numpy.typing import ArrayLike, NDArray
from stable_baselines3.common.env_util import is_wrapped
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, is_vecenv_wrapped, unwrap_vec_normalize
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from gsrl.spaces import OneHotCodec
from gsrl.vec_env import GymnasiumVecEnv, naming_dead_workers

__all__ = [
    "MASK_KEY",
    "ActionMasker",
    "VecActionMasker",
    "adapt",
    "check_masks",
    "current_masks",
    "has_method",
    "shows_masks",
    "to_matrix",
]

MASK_KEY = "action_mask"
"""Where the mask of a state stands in the info of the step or reset that leads to it."""

MaskSource: TypeAlias = Literal["info", "method", "observation"] | Callable[[gym.Env], ArrayLike]


class ActionMasker(gym.Wrapper, RecordConstructorArgs):
    """Writes the mask of legal actions into `info["action_mask"]` at every reset and step.

    It goes around the environment itself, inside whatever resets it at the end of an episode, such as a `VecEnv`. The
    mask is checked, and is an array of its own. After a step that terminated nobody acts: the environment is not
    asked, and every choice is legal there.

    Environments may give 0 and 1 for booleans, and a tuple of one array a factor, as `MultiDiscrete.sample` takes. A
    mask in the observation stays there: `gymnasium.wrappers.FilterObservation`, outside this one, removes it.

    Args:
        env: The environment, with a `Discrete`, `MultiDiscrete` or `MultiBinary` action space.
        source: Who gives the mask. `"info"`: the environment's own info; `"method"`: a method of the environment or of
            a wrapper; `"observation"`: an entry of the `Dict` observation; or a function of the environment. None: the
            first of these three that there is.
        name: Of the entry or method, with one of the three; None: `"action_mask"`, and `"action_masks"` for the method,
            as in sb3-contrib.

    Raises:
        TypeError: The action space is of another kind.
        ValueError: There is no such source; at a step or reset: the mask is missing, has the wrong length, entries
            other than 0 and 1, or no legal choice of a factor.

    Example:
        >>> import gymnasium as gym
        >>> env = ActionMasker(gym.make("CartPole-v1"), lambda env: np.array([True, False]))
        >>> env.reset(seed=0)[1]["action_mask"]
        array([ True, False])
    """

    def __init__(self, env: gym.Env, source: MaskSource | None = None, *, name: str | None = None) -> None:
        RecordConstructorArgs.__init__(self, source=source, name=name)
        super().__init__(env)
        if name is not None and not isinstance(source, str):
            raise ValueError(f"name goes with the source 'info', 'method' or 'observation', but got {source!r}.")
        self.codec = OneHotCodec(env.action_space)
        self._source = source
        self._info_name = (name or MASK_KEY) if source in (None, "info") else None
        self._read = self._reader(source, name)

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """Resets the environment, with the arguments that were given, and adds the first mask."""
        observation, info = self.env.reset(**kwargs)
        return observation, {**info, MASK_KEY: self._mask(observation, info)}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Steps the environment, and adds the mask of the next action."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        mask = np.ones(sum(self.codec.sizes), np.bool_) if terminated else self._mask(observation, info)
        return observation, reward, terminated, truncated, {**info, MASK_KEY: mask}

    def _reader(self, source: MaskSource | None, name: str | None) -> Callable[[gym.Env, Any], Any] | None:
        """What gives the mask where the info does not, as a function of the environment and the observation.

        It holds neither: a copy of this wrapper asks its own environment.
        """
        if callable(source):
            return partial(_mask_of_function, source)
        if source not in (None, "info", "method", "observation"):
            raise ValueError(f"source must be 'info', 'method', 'observation' or a function, but got {source!r}.")
        if source in (None, "method"):
            method = name or "action_masks"
            if self.env.has_wrapper_attr(method):
                return partial(_mask_of_method, method)
            if source == "method":
                raise ValueError(f"source is 'method', but {self.env} has no method {method!r}.")
        if source in (None, "observation"):
            key, space = name or MASK_KEY, self.env.observation_space
            if isinstance(space, spaces.Dict) and key in space.spaces:
                return partial(_mask_of_entry, key)
            if source == "observation":
                raise ValueError(f"source is 'observation', but the observation space has no entry {key!r}: {space}.")
        return None

    def _mask(self, observation: Any, info: Mapping[str, Any]) -> NDArray[np.bool_]:
        mask = None if self._info_name is None else info.get(self._info_name)
        if mask is None and self._read is not None:
            mask = self._read(self.env, observation)
        if mask is None:
            places = "info, method and observation" if self._source is None else self._source
            raise ValueError(
                f"{self.env} must give an action mask at every reset and step, but got none from its {places}."
            )
        mask = np.hstack(mask) if isinstance(mask, tuple) else np.array(mask)
        if mask.ndim != 1:
            raise ValueError(f"the action mask must be a flat array, but got shape {mask.shape} from {self.env}.")
        return check_masks(self.codec, mask, "the action mask")


def _mask_of_function(function: Callable[[gym.Env], ArrayLike], env: gym.Env, observation: Any) -> ArrayLike:
    return function(env)


def _mask_of_method(name: str, env: gym.Env, observation: Any) -> Any:
    return env.get_wrapper_attr(name)()


def _mask_of_entry(key: str, env: gym.Env, observation: Any) -> Any:
    return observation[key]


class VecActionMasker(VecEnvWrapper):
    """:class:`ActionMasker` for environments that are vectorised already, as by Stable-Baselines3's `make_vec_env`.

    Masks come from the environments' method `action_masks`, by `env_method`, or, where there is none, from an entry
    `"action_mask"` of the observations. Infos that hold masks are left alone.

    At the end of an episode the environment has been reset before it could be asked. Of the final observation of one
    that was truncated, of which the return goes on, all choices count as legal then: a bias, which masks in the
    observations do not have, nor an :class:`ActionMasker` around each environment, inside the vectorised one.

    Args:
        venv: The environments, with a `Discrete`, `MultiDiscrete` or `MultiBinary` action space.

    Example:
        >>> import gymnasium as gym
        >>> from stable_baselines3.common.vec_env import DummyVecEnv
        >>> class OnlyLeft(gym.Wrapper):
        ...     def action_masks(self):
        ...         return [1, 0]
        >>> env = VecActionMasker(DummyVecEnv([lambda: OnlyLeft(gym.make("CartPole-v1"))]))
        >>> _ = env.reset()
        >>> current_masks(env)
        array([[ True, False]])
    """

    def __init__(self, venv: VecEnv) -> None:
        super().__init__(venv)
        self.codec = OneHotCodec(venv.action_space)
        self._has_method = has_method(venv)
        self._all = np.ones(sum(self.codec.sizes), np.bool_)
        self._first = np.ones((self.num_envs, len(self._all)), np.bool_)  # of the last reset of each

    def reset(self) -> VecEnvObs:
        """Resets all environments, and adds their first masks."""
        observations = self.venv.reset()
        infos = self._reset_infos()
        if not all(MASK_KEY in info for info in infos):
            self._first = self._masks(observations)
            self._complete_resets(infos)
        return observations

    def step_wait(self) -> VecEnvStepReturn:
        """Waits for the step, and adds the masks of the next actions."""
        observations, rewards, dones, infos = self.venv.step_wait()
        resets = self._reset_infos()  # a SubprocVecEnv makes them anew
        if not all(MASK_KEY in info for info in (*infos, *resets)):
            masks = self._masks(observations)
            self._first[dones] = masks[dones]
            self._complete_resets(resets)
            infos = [
                info if MASK_KEY in info else {**info, MASK_KEY: self._final(info) if done else mask}
                for info, mask, done in zip(infos, masks, dones, strict=True)
            ]
        return observations, rewards, dones, infos

    def _complete_resets(self, infos: Sequence[dict[str, Any]]) -> None:
        self.unwrapped.reset_infos = [
            info if MASK_KEY in info else {**info, MASK_KEY: mask}
            for info, mask in zip(infos, self._first.copy(), strict=True)
        ]

    def _reset_infos(self) -> list[dict[str, Any]]:
        return list(getattr(self.unwrapped, "reset_infos", None) or [{} for _ in range(self.num_envs)])

    def _masks(self, observations: Any) -> NDArray[np.bool_]:
        """Those of the states that all environments are in, `[n_envs, L]`."""
        masks = self.venv.env_method("action_masks") if self._has_method else observations[MASK_KEY]
        flat = [np.hstack(mask) if isinstance(mask, tuple) else np.array(mask) for mask in masks]
        return check_masks(self.codec, np.stack(flat), "action masks")

    def _final(self, info: Mapping[str, Any]) -> NDArray[np.bool_]:
        """That of the final observation of an episode."""
        if self._has_method or not info.get("TimeLimit.truncated", False):
            return self._all
        return check_masks(self.codec, np.array(info["terminal_observation"][MASK_KEY]), "action masks")


def has_method(env: VecEnv) -> bool:
    """Whether the environments have a method `action_masks`; False where that cannot be seen.

    Example:
        >>> import gymnasium as gym
        >>> from gsrl.vec_env import SyncVecEnv
        >>> class OnlyLeft(gym.Wrapper):
        ...     def action_masks(self):
        ...         return [True, False]
        >>> has_method(SyncVecEnv([lambda: OnlyLeft(gym.make("CartPole-v1"))]))
        True
    """
    try:
        return bool(env.has_attr("action_masks"))
    except (AttributeError, NotImplementedError):
        return False


def _shows_plain_masks(env: VecEnv) -> bool:
    """Whether observations have the masks as the environments gave them, neither normalised nor stacked."""
    space, normalized = env.observation_space, unwrap_vec_normalize(env)
    is_normalized = normalized is not None and normalized.norm_obs and MASK_KEY in (normalized.norm_obs_keys or ())
    if not isinstance(space, spaces.Dict) or not shows_masks(space) or is_normalized:
        return False
    return space[MASK_KEY].shape == (sum(OneHotCodec(env.action_space).sizes),)


def _masks_are_written(env: VecEnv) -> bool:
    """Whether something writes masks into the infos already, or whatever is there cannot be made to."""
    if is_vecenv_wrapped(env, VecActionMasker) or isinstance(env.unwrapped, GymnasiumVecEnv):
        return True
    try:
        return all(env.env_is_wrapped(ActionMasker))
    except (AttributeError, NotImplementedError):
        return False


@overload
def adapt(env: gym.Env) -> gym.Env: ...


@overload
def adapt(env: VectorEnv | VecEnv) -> VecEnv: ...


def adapt(env: gym.Env | VectorEnv | VecEnv) -> gym.Env | VecEnv:
    """An environment in the form that gives its masks, as training and evaluation take it.

    Args:
        env: A single environment, or several.

    Returns:
        A single one with a method `action_masks`, its own or a wrapper's, or an entry `"action_mask"` in its
        observations, in an :class:`ActionMasker`, unless it is in one already; a `VecEnv` of such in a
        :class:`VecActionMasker`; a `VectorEnv` as a :class:`gsrl.vec_env.GymnasiumVecEnv`; anything else as it is.

    Raises:
        RuntimeError: The process of an environment has ended.
        TypeError: An environment with such masks has an action space that :class:`ActionMasker` refuses.
        ValueError: As :class:`gsrl.vec_env.GymnasiumVecEnv`.

    Example:
        >>> import gymnasium as gym
        >>> class OnlyLeft(gym.Wrapper):
        ...     def action_masks(self):
        ...         return [True, False]
        >>> adapt(OnlyLeft(gym.make("CartPole-v1"))).reset()[1]["action_mask"]
        array([ True, False])
        >>> plain = gym.make("CartPole-v1")
        >>> adapt(plain) is plain
        True
    """
    if isinstance(env, VectorEnv | VecEnv):
        with naming_dead_workers(env):
            if isinstance(env, VectorEnv):
                return GymnasiumVecEnv(env)
            gives_masks = has_method(env) or _shows_plain_masks(env)
            return VecActionMasker(env) if gives_masks and not _masks_are_written(env) else env
    if not isinstance(env, gym.Env) or is_wrapped(env, ActionMasker):
        return env
    return ActionMasker(env) if shows_masks(env.observation_space) or env.has_wrapper_attr("action_masks") else env


def shows_masks(observation_space: spaces.Space[Any]) -> bool:
    """Whether observations have an entry `"action_mask"`.

    Example:
        >>> from gymnasium import spaces
        >>> shows_masks(spaces.Dict({"observation": spaces.Discrete(2), "action_mask": spaces.MultiBinary(3)}))
        True
    """
    return isinstance(observation_space, spaces.Dict) and MASK_KEY in observation_space.spaces


def check_masks(codec: OneHotCodec, masks: ArrayLike, name: str = "masks") -> NDArray[np.bool_]:
    """Flat masks as booleans, or an error.

    Args:
        codec: Of the action space.
        masks: Booleans, or 0 and 1, `[*batch, L]`, True where a choice is legal.
        name: What the error calls them.

    Returns:
        bool `[*batch, L]`; not a copy where they are boolean already.

    Raises:
        ValueError: The length is wrong, an entry is neither 0 nor 1, or a factor of a row has no legal choice.

    Example:
        >>> from gymnasium import spaces
        >>> check_masks(gsrl.OneHotCodec(spaces.Discrete(3)), [[1, 0, 1]])
        array([[ True, False,  True]])
    """
    masks = _to_bool(codec, masks, name)
    _check_legal(_matrix(codec, masks), name)
    return masks


def to_matrix(codec: OneHotCodec, flat: ArrayLike, *, validate_args: bool = True) -> NDArray[np.bool_]:
    """Flat masks as the matrices of a policy.

    Args:
        codec: Of the action space.
        flat: Booleans, or 0 and 1, `[*batch, L]`, True where a choice is legal.
        validate_args: Whether values are checked (the length always is).

    Returns:
        bool `[*batch, n, K]`, False where a factor does not have the choice.

    Raises:
        ValueError: As :func:`check_masks`.

    Example:
        >>> from gymnasium import spaces
        >>> to_matrix(gsrl.OneHotCodec(spaces.MultiDiscrete([2, 3])), [True, False, True, True, False])
        array([[ True, False, False],
               [ True,  True, False]])
    """
    matrix = _matrix(codec, _to_bool(codec, flat, "masks"))
    if validate_args:
        _check_legal(matrix, "masks")
    return matrix


def current_masks(
    env: VecEnv, infos: Sequence[Mapping[str, Any]] | None = None, dones: Sequence[bool] | NDArray[Any] = ()
) -> NDArray[Any] | None:
    """The masks of the next action of every sub-environment, after a reset or a step of all.

    A sub-environment that is done has been reset already: its mask is in `env.reset_infos`, while its info holds the
    one of the final observation.

    Args:
        env: The environments, wrapped or not.
        infos: Of the step; None after a reset.
        dones: Of the step, `[n_envs]`.

    Returns:
        `[n_envs, L]`, as the environments gave them; None where they give none.

    Raises:
        ValueError: A sub-environment lacks the mask after this step or its last reset, while another one has it, or it
            itself the other time; a mask is a tuple of arrays, which only :class:`ActionMasker` takes.

    Example:
        >>> import gymnasium as gym
        >>> from gsrl.vec_env import SyncVecEnv
        >>> env = SyncVecEnv([lambda: ActionMasker(gym.make("CartPole-v1"), lambda env: [1, 0])] * 2)
        >>> _ = env.reset()
        >>> current_masks(env)
        array([[ True, False],
               [ True, False]])
    """
    # Wrappers of a VecEnv have a `reset_infos` of their own, which nobody fills.
    # One that never called the constructor of the base class has none.
    resets: Sequence[Mapping[str, Any]] = getattr(env.unwrapped, "reset_infos", None) or [{}] * env.num_envs
    current = list(resets)
    if infos is not None:
        current = [reset if done else info for info, reset, done in zip(infos, resets, dones, strict=True)]
    given = [info.get(MASK_KEY) is not None for info in (*current, *resets)]
    if not any(given):
        return None
    if not all(given):
        raise ValueError(
            f"every environment must give info[{MASK_KEY!r}] at every reset and step, or none ever: "
            f"environment {given.index(False) % env.num_envs} left it out."
        )
    masks = [info[MASK_KEY] for info in current]
    if any(isinstance(mask, tuple) and any(map(np.ndim, mask)) for mask in masks):
        raise ValueError(
            f"info[{MASK_KEY!r}] must be a flat array, but got a tuple of arrays: wrap the environment in ActionMasker."
        )
    return np.stack([np.asarray(mask) for mask in masks])


def _to_bool(codec: OneHotCodec, masks: ArrayLike, name: str) -> NDArray[np.bool_]:
    length = sum(codec.sizes)
    try:
        masks = np.asarray(masks)
    except ValueError:  # lists or arrays of unequal lengths
        raise ValueError(
            f"{name} must have shape [*batch, {length}] for {codec.space}, but got unequal lengths."
        ) from None
    if masks.ndim < 1 or masks.shape[-1] != length:
        raise ValueError(f"{name} must have shape [*batch, {length}] for {codec.space}, but got {list(masks.shape)}.")
    if masks.dtype == np.bool_:
        return masks
    other = (masks != 0) & (masks != 1)
    if other.any():
        raise ValueError(f"{name} must be boolean, or 0 and 1, but got {masks[other][0]!r}.")
    return masks.astype(np.bool_)


def _matrix(codec: OneHotCodec, flat: NDArray[np.bool_]) -> NDArray[np.bool_]:
    shape = (*flat.shape[:-1], codec.n, codec.K)
    if codec.mask is None:
        return flat.reshape(shape)
    matrix = np.zeros(shape, np.bool_)
    matrix[..., codec.mask.numpy()] = flat
    return matrix


def _check_legal(matrix: NDArray[np.bool_], name: str) -> None:
    legal = matrix.any(-1)  # [*batch, n]
    if not legal.all():
        *row, factor = np.argwhere(~legal)[0].tolist()
        where = f" in row {row[0] if len(row) == 1 else tuple(row)}" if row else ""
        raise ValueError(f"{name} must leave every factor a legal choice, but got none for factor {factor}{where}.")
