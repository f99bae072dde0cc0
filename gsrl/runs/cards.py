"""Cards: what can be run, each an algorithm with its settings, tuned by environment; and the registry of them.

A setting is named, explained and given its default by the constructor that it belongs to, see
:mod:`gsrl.runs.settings`. What a command line needs beside those is here, once for all cards: :data:`SETTINGS`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import find_highest_version, get_env_id, parse_env_id
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecNormalize

from gsrl.algorithms.base import Algorithm
from gsrl.algorithms.extractors import SmallCNN
from gsrl.estimators import ESTIMATORS, make_estimator
from gsrl.learning import Task
from gsrl.runs.errors import UsageError, nearest
from gsrl.runs.settings import Setting, is_schedule, make_settings, parameters, plain_type, setting_of
from gsrl.schedules import ExponentialSchedule

__all__ = [
    "DISCRETE",
    "Card",
    "Defaults",
    "TaskCard",
    "cards",
    "defaults",
    "full_name",
    "get_card",
    "has_temperature",
    "in_lockstep",
    "load_zoo",
    "loaded_zoo",
    "register",
    "tune",
    "with_estimator",
]

DISCRETE = (spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)
"""Action spaces of gsrl's algorithms."""

STEPS = 100_000
"""Of a run, where an agent has not been tuned."""

ANNEALED = 0.7
"""Share of the run after which ``final_ent_coef`` is reached."""

TEMPERATURES = {
    **dict.fromkeys(("st-gumbel", "gumbel-softmax", "gumbel-rao"), 0.5),
    **dict.fromkeys(("gapped-st", "straight-through", "reinmax"), 1.0),
}
"""Estimators of an actor's gradient with a temperature, and what it is unless given. Straight-through and ReinMax keep
their promises at 1 alone; with Gumbel noise in the gradient 1 is too much (``docs/decisions.md``)."""

SETTINGS = {
    "linear_decay": Setting(False, bool, "Let the learning rate fall linearly to 0 over the run; a clip range too."),
    "final_ent_coef": Setting(
        None,
        float | None,
        "What an entropy coefficient that is a number falls to, exponentially, over the first 70 % of the run; None: "
        "it stays.",
    ),
    "temperature": Setting(
        None,
        float | None,
        "Temperature of the relaxed samples that carry the gradient, where the estimator has one. None: .5 for "
        "st-gumbel, gumbel-softmax and gumbel-rao, 1 for the others. Near 1 and above, a learned entropy coefficient "
        "does not settle with the former three.",
    ),
    "normalize": Setting(False, bool, "Normalise observations and rewards by their running statistics."),
    "net_arch": Setting((64, 64), tuple[int, ...], "Widths of the hidden layers, of every network."),
}
"""Settings that are no constructor's, or have another form there."""

NO_SETTINGS = {
    *("policy", "env", "policy_kwargs", "stats_window_size", "tensorboard_log", "verbose", "seed", "seeds", "device"),
    *(
        "compile",
        "optimize_memory_usage",
        "observation_space",
        "action_space",
        "lr_schedule",
        "activation_fn",
        "normalize_images",
    ),
    *("features_extractor_class", "features_extractor_kwargs", "targets", "rates", "make_generator", "rngs", "alone"),
}
"""Arguments of constructors that are none: what builds an agent gives them, or nobody."""

LEAST = {"learning_starts": 0, "gradient_steps": -1}
"""The least value of whole-numbered settings; 1 for all others. Those who talk look at theirs themselves."""

SHARES = ("gamma", "tau", "gae_lambda", "exploration_fraction", "exploration_initial_eps", "exploration_final_eps")
"""Settings that lie between 0 and 1; Stable-Baselines3 takes any number."""

POSITIVE = ("learning_rate", "max_grad_norm", "clip_range", "temperature")
"""Settings that are finite and above 0."""

SMALL_IMAGES = range(3, 36)
"""Sides of an image, in pixels, that ``SmallCNN`` takes and Stable-Baselines3's ``NatureCNN`` does not."""


class Defaults(NamedTuple):
    """What an agent uses on an environment unless told otherwise."""

    steps: int
    """Environment steps of a run."""
    n_envs: int
    """Environments stepped together."""
    settings: Any
    """The ``Settings`` of the card."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Card:
    """An agent that can be run: an algorithm, and what it is given."""

    name: str
    """What the command line calls it."""
    algorithm: type[Any] | str
    """Its class; ``"package.Class"`` of one that may not be installed."""
    summary: str
    """What it is, in a line."""
    source: str = ""
    """Where it was published, and where its tuned settings come from."""
    constructors: tuple[type[Any], ...] = ()
    """Classes that its settings are read from, the first that has a name; none: the algorithm and its policy."""
    names: tuple[str, ...] = ()
    """Its settings; none: all arguments of the constructors that can be one."""
    without: tuple[str, ...] = ()
    """Arguments of the constructors that are no settings of it all the same."""
    own: Mapping[str, Setting] = field(default_factory=dict)
    """What its settings are otherwise than in the constructor, and those that are in none."""
    fixed: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of the constructor that make it what it is."""
    made: Mapping[str, Callable[[Any, Any], Any]] = field(default_factory=dict)
    """Arguments of the constructor that are made of environment and settings."""
    tuned: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """By environment, settings beside ``steps`` and ``n_envs``; those that are fixed, or have no other default, too."""
    action_spaces: tuple[type[spaces.Space], ...] = DISCRETE
    """Gymnasium's action spaces that it handles."""
    unit: str = "step"
    """What is counted, in the singular."""
    n_envs: int = 1
    """Environments stepped together unless tuned otherwise."""
    environments: Mapping[str, str] | None = None
    """Environments of its own, each with what a score is there, such as ``"accuracy"``; None: Gymnasium's."""
    masks: Literal["kept", "ignored", "required"] = "kept"
    """What it does where an environment gives masks of legal actions. ``"required"``: they are kept, but must be there,
    and in a method ``action_masks()``. ``"ignored"``: it is not let into an environment that gives them by that method
    or in its observations."""

    is_task: ClassVar[bool] = False
    """Whether it trains in environments of its own, and not in Gymnasium's."""
    decimals: ClassVar[int] = 1
    """Of a score that is printed."""

    # Settings

    @property
    def Settings(self) -> type[Any]:
        """The frozen dataclass of its settings."""
        registered = tuple(ESTIMATORS)  # which it offers
        if registered not in self._made:
            chosen = {name: self._setting(name) for name in self.names or self._all_names()}
            self._made[registered] = make_settings(
                self.name, chosen, lambda values: (restored, (self.name, values, tuple(_ZOO)))
            )
        return self._made[registered]

    @cached_property
    def _made(self) -> dict[tuple[str, ...], type[Any]]:
        return {}

    def _all_names(self) -> list[str]:
        algorithm, *others = self._constructors
        found: list[str] = []
        for name in parameters(algorithm):
            found.append(name)
            if name == "learning_rate":
                found.append("linear_decay")
            if name == "ent_coef" and is_schedule(name, algorithm):
                found.append("final_ent_coef")
            if name == "estimator":
                found.append("temperature")
        found += [name for other in others for name in parameters(other)]
        found += [name for name in self.own if name not in found]
        left_out = {*NO_SETTINGS, *self.without, *self.fixed, *self.made}
        return [name for name in dict.fromkeys(found) if name not in left_out and not name.startswith("_")]

    def _setting(self, name: str) -> Setting:
        own = self.own.get(name, Setting()).over(SETTINGS.get(name, Setting()))
        found = setting_of(name, self._constructors, own)
        return _with_registered(found) if name == "estimator" else found

    @property
    def _constructors(self) -> tuple[type[Any], ...]:
        if self.constructors:
            return self.constructors
        if isinstance(self.algorithm, str):
            raise TypeError(f"constructors must be given for {self.name}, whose algorithm may not be installed.")
        return (self.algorithm, *_policy_of(self.algorithm))

    @property
    def earlier(self) -> dict[str, Any]:
        """What settings were before they had a name, or when their default was another: stored ones may lack them."""
        known = {each.name for each in fields(self.Settings)}
        earlier = [getattr(each, "EARLIER", {}) for each in self._constructors]
        return {name: value for each in earlier for name, value in each.items() if name in known}

    def tuned_settings(self, env_id: str) -> dict[str, Any] | None:
        """Returns what differs from the defaults on an environment; None where it has not been tuned.

        Args:
            env_id: Name of the environment, with the module that registers it or without, with its version or without.
        """
        tuned = self.tuned.get(full_name(env_id).rpartition(":")[2])
        if tuned is None:
            return None
        plain = {"steps": STEPS, "n_envs": self.n_envs, **vars(self.Settings())}
        own = {name: value for name, value in tuned.items() if name not in self.fixed}
        return {name: value for name, value in own.items() if name not in plain or plain[name] != value}

    def table(self) -> str:
        """Returns its settings as a table in Markdown."""
        settings = {each.name: self._setting(each.name) for each in fields(self.Settings)}
        rows = [f"| `{name}` | `{each.default}` | {each.help} |" for name, each in settings.items()]
        return "\n".join(["| setting | default | what it is |", "|---|---|---|", *rows])

    def score(self, env: str) -> str:
        """Returns what a score in an environment is: of those that act in Gymnasium's, a return."""
        return "return"

    # Agents

    @property
    def constructor(self) -> type[Any]:
        """The algorithm's class.

        Raises:
            UsageError: It is not installed.
        """
        if not isinstance(self.algorithm, str):
            return self.algorithm
        package, _, name = self.algorithm.rpartition(".")
        try:
            found: type[Any] = getattr(import_module(package), name)
        except ModuleNotFoundError as error:
            remedy = 'pip install -e ".[contrib]"'
            raise UsageError(f"{package.replace('_', '-')} is not installed: {remedy}") from error
        return found

    def arguments(self, env: Any, settings: Any) -> dict[str, Any]:
        """Returns what the agent, and a :class:`gsrl.Population` of it, are built from.

        Those are arguments of the algorithm's constructor, and the ``temperature`` of the estimator that is named among
        them, None if it has none. Small images are read by :class:`gsrl.algorithms.extractors.SmallCNN`, with
        ``net_arch`` on top of it. Images are stored once, where that is no loss.

        Args:
            env: Where it trains, a vectorised environment.
            settings: Its ``Settings``.

        Raises:
            ValueError: A setting is out of range; the message names it.
        """
        arguments = self._values(env, settings)
        known = parameters(self.constructor)
        of_policy = [name for each in _policy_of(self.constructor) for name in parameters(each) if name not in known]
        policy_kwargs = {name: arguments.pop(name) for name in of_policy if name in arguments}
        policy_kwargs["net_arch"] = list(policy_kwargs["net_arch"])
        if _is_small_image(env.observation_space):
            policy_kwargs["features_extractor_class"] = SmallCNN
        space = env.observation_space
        is_ours = issubclass(self.constructor, Algorithm)  # Stable-Baselines3's loses final observations
        if is_ours and "optimize_memory_usage" in known and isinstance(space, spaces.Box) and len(space.shape) > 2:
            arguments["optimize_memory_usage"] = True
        if arguments.pop("linear_decay", False):
            decaying = [name for name in ("learning_rate", "clip_range") if name in arguments]
            arguments |= {name: LinearSchedule(arguments[name], 0.0, 1.0) for name in decaying}
        end = arguments.pop("final_ent_coef", None)
        if end is not None:
            start = settings.ent_coef
            if isinstance(start, str) or not (start > 0 and end > 0):
                raise ValueError(f"final_ent_coef and ent_coef must be positive numbers, but got {end} and {start}")
            arguments["ent_coef"] = ExponentialSchedule(start, end, ANNEALED)
        if arguments.pop("normalize", False):
            env = VecNormalize(env, gamma=settings.gamma)
        return {
            "policy": _policy_name(env.observation_space),
            "env": env,
            "policy_kwargs": policy_kwargs,
            **arguments,
        }

    def make(self, env: Any, settings: Any, *, device: str = "cpu", compile: bool = False, **seed: Any) -> Any:
        """Builds the agent.

        Args:
            env: Where it trains.
            settings: Its ``Settings``.
            device: Where its networks are.
            compile: Whether updates are compiled.
            **seed: ``seed`` of the agent and the environment, and, of those of Stable-Baselines3, of Python's, NumPy's
                and torch's global generators; of those that talk ``seeds``, which are played in lock-step.

        Raises:
            UsageError: What it needs is not installed.
            ValueError: A setting is out of range; the message names it.
        """
        arguments = self.arguments(env, settings)
        temperature = arguments.pop("temperature", None) if "estimator" in arguments else None
        if temperature is not None:
            arguments["estimator"] = make_estimator(arguments["estimator"], temperature=temperature)
        compiled = {"compile": True} if compile else {}  # which only some take
        return self.constructor(**arguments, **seed, device=device, **compiled)

    def _values(self, env: Any, settings: Any) -> dict[str, Any]:
        """Settings and all else that is fixed or made, by name."""
        values = {
            each.name: _checked(each, getattr(settings, each.name), counts=not self.is_task)
            for each in fields(settings)
        }
        values |= self.fixed
        if "temperature" in values and "estimator" in values:
            given, name = values["temperature"], values["estimator"]
            default = TEMPERATURES.get(name) if given is None else given
            values["temperature"] = default if has_temperature(name) else None
        return values | {name: make(env, settings) for name, make in self.made.items()}


def _play(model: Task, settings: Any, episodes: int, *, seed: int = 0) -> Any:
    return model.evaluate(episodes, seed=seed)


def _unknown(env: str, settings: Any) -> float | None:
    return None


@dataclass(frozen=True, kw_only=True, eq=False)
class TaskCard(Card):
    """A :class:`gsrl.learning.Task`, in environments of its own: agents that talk, or a learner of anybody's."""

    environments: Mapping[str, str]
    play: Callable[..., Any] = _play
    """``play(model, settings, episodes, *, seed)``: scores ``[seeds, episodes]``; by default those of
    :meth:`gsrl.learning.Task.evaluate`. Of ``deterministic``, ``scramble`` and ``split`` it takes what it knows."""
    best_score: Callable[[str, Any], float | None] = _unknown
    """The best mean score that there can be in an environment, by its name and settings; None where it is not known."""
    condition: str = ""
    """Under which scores are taken, for pictures; of agents that talk, hard messages."""
    unit: str = "episode"
    episodes: int = 10_000
    """Of an evaluation, where not all there are can be listed."""

    is_task: ClassVar[bool] = True
    decimals: ClassVar[int] = 3

    def score(self, env: str) -> str:
        """Returns what a score in an environment is."""
        return self.environments[env]

    def scores(self, env: str) -> str:
        """Returns the same, with the condition under which it is taken."""
        return f"{self.score(env)}, {self.condition}" if self.condition else self.score(env)

    def arguments(self, env: Any, settings: Any) -> dict[str, Any]:
        """Returns what they are built from; see :meth:`Card.arguments`.

        Args:
            env: Name of the environment.
            settings: Their ``Settings``.
        """
        known = parameters(self.constructor)
        if "estimator" in known:
            known = {**known, "temperature": known["estimator"]}
        return {name: value for name, value in self._values(env, settings).items() if name in known}

    @property
    def steps_environments(self) -> bool:
        """Whether it steps several environments together, which are an option of the run."""
        return "n_envs" in parameters(self.constructor)

    def learn(self, model: Task, settings: Any, steps: int, total: int) -> None:
        """Trains for some steps more.

        Args:
            model: Who learns.
            settings: Their ``Settings``.
            steps: How many, in its unit.
            total: Those of the whole training.
        """
        if getattr(settings, "linear_decay", False):
            model.learning_rate = lambda remaining: settings.learning_rate * remaining
        # No evaluations of their own: they are the run's affair.
        Task.learn(model, steps, total=total, log_interval=total)

    def load(self, path: Path, env: str, settings: Any, device: str) -> Any:
        """Loads a saved model.

        Args:
            path: Of its file.
            env: Name of the environment.
            settings: Its ``Settings``.
            device: Where its networks are to be.

        Raises:
            gsrl.checkpoint.CheckpointError: The file is damaged.
        """
        given = [make(env, settings) for name, make in self.made.items() if name == "env"]
        return self.constructor.load(path, *given, device=device)


# The registry

_CARDS: dict[str, Card] = {}
_ZOO: list[str] = []  # modules that brought some


def register(card: Card) -> None:
    """Adds a card to those that can be run.

    Raises:
        ValueError: There is another one of its name.
    """
    if _CARDS.setdefault(card.name, card) is not card:
        raise ValueError(f"name must be that of no other card, but got {card.name!r}.")


def tune(name: str, tuned: Mapping[str, Mapping[str, Any]]) -> None:
    """Gives a card settings by environment, beside those that it has.

    Args:
        name: Of the card.
        tuned: See :attr:`Card.tuned`.

    Raises:
        UsageError: There is no such card.
    """
    card = get_card(name)
    _CARDS[name] = dataclasses.replace(card, tuned={**card.tuned, **tuned})


def load_zoo(module: str) -> None:
    """Imports a module that registers cards, or tunes them, and environments; processes of a training do so as well.

    Raises:
        UsageError: There is no such module.
    """
    try:
        import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        raise UsageError(f"--zoo {module} is no module that can be imported") from None
    if module not in _ZOO:
        _ZOO.append(module)


def loaded_zoo() -> list[str]:
    """Returns the modules that :func:`load_zoo` has imported."""
    return list(_ZOO)


def cards() -> list[Card]:
    """Returns all cards, in the order in which they came."""
    return list(_CARDS.values())


def get_card(name: str) -> Card:
    """Returns a card.

    Raises:
        UsageError: There is none of this name; the message offers the nearest.
    """
    if name not in _CARDS:
        raise UsageError(f"unknown agent {name!r}; {nearest(name, _CARDS)}")
    return _CARDS[name]


def restored(card: str, values: Mapping[str, Any], zoo: Sequence[str]) -> Any:
    """Returns the settings of a card: what a pickle of them is read by, where these modules may not be imported yet."""
    for module in zoo:
        load_zoo(module)
    return get_card(card).Settings(**values)


def defaults(name: str, env_id: str, *, tuned: bool = True) -> Defaults:
    """Returns the tuned settings of an agent on an environment, or the agent's own where it has not been tuned.

    Args:
        name: Of the card.
        env_id: Name of the environment: Gymnasium's, or, of agents that talk, their own.
        tuned: Whether tuned settings are asked for; else the agent's own.

    Raises:
        UsageError: There is no such agent.
    """
    card = get_card(name)
    settings = (card.tuned_settings(env_id) if tuned else None) or {}
    steps, n_envs = settings.pop("steps", STEPS), settings.pop("n_envs", card.n_envs)
    return Defaults(steps, n_envs, card.Settings(**settings))


def full_name(env_id: str) -> str:
    """Returns the name of an environment with its version, the highest there is where the name has none.

    Args:
        env_id: Gymnasium's name of the environment, of one that is registered; any other is returned as it is.
    """
    module, colon, name = env_id.rpartition(":")
    try:
        namespace, base, version = parse_env_id(name)
    except gym.error.Error:
        return env_id
    latest = find_highest_version(namespace, base)
    if name in gym.registry or version is not None or latest is None:
        return env_id
    return f"{module}{colon}{get_env_id(namespace, base, latest)}"


def in_lockstep() -> list[str]:
    """Returns the names of the agents of Gymnasium's environments that can be trained in lock-step."""
    return [card.name for card in cards() if isinstance(card.algorithm, type) and issubclass(card.algorithm, Algorithm)]


def with_estimator() -> list[str]:
    """Returns the names of the agents whose actor's gradient is an estimator's: it can be measured, and compiled."""
    return [name for name in in_lockstep() if "estimator" in parameters(get_card(name).constructor)]


def has_temperature(estimator: str) -> bool:
    """Returns whether an estimator's constructor takes a ``temperature``.

    Args:
        estimator: Its name; one that is not in :data:`gsrl.estimators.ESTIMATORS`, such as ``"auto"``, has none.
    """
    return estimator in ESTIMATORS and "temperature" in parameters(ESTIMATORS[estimator])


# Arguments


def _with_registered(setting: Setting) -> Setting:
    """The setting of an estimator, with the names of those that are not the library's."""
    others = tuple(name for name, cls in ESTIMATORS.items() if not cls.__module__.startswith("gsrl."))
    kind: Any = Literal[others]
    return dataclasses.replace(setting, type=plain_type(setting.type | kind)) if others else setting


def _checked(setting: dataclasses.Field[Any], value: Any, *, counts: bool) -> Any:
    """The value of a setting, which Stable-Baselines3's constructors, or ours, may not look at."""
    name, least = setting.name, LEAST.get(setting.name, 1)
    if value is None or isinstance(value, str):
        return value
    if counts and setting.type is int and value < least:
        raise ValueError(f"{name} must be at least {least}, but got {value}")
    if name in SHARES and not 0 <= value <= 1:
        raise ValueError(f"{name} must be in [0, 1], but got {value}")
    if name in POSITIVE and not 0 < value < math.inf:
        raise ValueError(f"{name} must be a positive number, but got {value}")
    if name == "net_arch" and not all(width >= 1 for width in value):
        raise ValueError(f"net_arch must hold widths of at least 1, but got {' '.join(map(str, value))}")
    return value


def _policy_of(algorithm: type[Any]) -> tuple[type[Any], ...]:
    """The policy of an algorithm for vectors, where it has one."""
    aliases = getattr(algorithm, "policy_aliases", {})
    return (aliases["MlpPolicy"],) if "MlpPolicy" in aliases else ()


def _policy_name(observation_space: spaces.Space) -> str:
    """Stable-Baselines3's name of the policy that reads these observations."""
    if isinstance(observation_space, spaces.Dict):
        return "MultiInputPolicy"
    is_image = is_image_space(observation_space) or _is_small_image(observation_space)
    return "CnnPolicy" if is_image else "MlpPolicy"


def _is_small_image(space: spaces.Space) -> bool:
    """Whether these are images too small for ``NatureCNN``, of colours or, as MinAtar's, of booleans."""
    if not isinstance(space, spaces.Box) or len(space.shape) != 3:
        return False
    _, side, _ = sorted(space.shape)  # there are fewer channels than pixels
    return side in SMALL_IMAGES and (space.dtype == np.bool_ or is_image_space(space))


import_module("gsrl.runs.library")  # which registers the cards that come with the library, made of what is above
