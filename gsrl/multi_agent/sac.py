"""Soft actor-critics of a team, which learn from one replay, and act each by itself."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, ClassVar, Literal, Self, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gsrl import checkpoint
from gsrl._random import seed_sequence
from gsrl._settings import fixed
from gsrl.algorithms.policies import CriticForm
from gsrl.algorithms.sac_loss import EntropyCoefficient
from gsrl.checks import as_finite, check_finite, largest
from gsrl.comms.protocol import MessageProtocol
from gsrl.distributions import FactoredCategorical
from gsrl.estimators import Estimator, make_estimator
from gsrl.estimators.base import draw_noise_in_lockstep
from gsrl.learning import Mapped, Task
from gsrl.multi_agent.sac_loss import Sight, TeamActor, TeamBatch, TeamCritic, TeamSACLoss
from gsrl.multi_agent.speech import Speech
from gsrl.multi_agent.vec_env import Joint, ParallelVecEnv, WorldStateError
from gsrl.normalization import GROWTH, RunningMoments
from gsrl.relaxations import gumbel_noise
from gsrl.replay import Column, Ring, windows

__all__ = ["MultiAgentSAC"]

WORLDS_AT_ONCE = 128
"""Of an evaluation."""

LOGGED_EPISODES = 200
"""Of an evaluation in the middle of the training."""

MOST_MEANINGS = 100
"""Of a protocol: more are numbers, and not to be told one by one."""

Played: TypeAlias = tuple[Joint, NDArray[np.int64], NDArray[np.float64], NDArray[np.bool_]]
"""What agents have before them, what they do, what they earn, and which episodes still went on."""

NUMBERS = ("num_steps", "normalized_at", "longest_wait")
"""Of a state."""

MOMENTS = ("count", "mean", "squares")
"""Attributes of the statistics of observations."""

FLAG, REAL = np.dtype(np.bool_), np.dtype(np.float32)


@fixed(
    *("seeds", "estimator", "critic", "critics_see", "others", "n_envs", "batch_size", "buffer_size", "hidden"),
    *("gamma", "target_entropy_ratio", "signalling_bonus", "max_grad_norm", "share", "n_steps"),
)
class MultiAgentSAC(Task):
    r"""Soft actor-critics of a team with discrete actions, each with a policy and critics of its own; several seeds.

    Agents are a dimension of all tensors: the gradient of all actors is one
    ``estimator.expectation(policy [B, A, n, K], f)``, whose ``f`` says in row (b, i) what agent i's action is worth to
    it, given what the others do. So every estimator of gsrl serves, and actions, messages among them, are choices in
    training and in evaluation alike. Spaces may differ by agent; masks are kept everywhere, and an agent that has left
    enters no loss. See :class:`gsrl.multi_agent.sac_loss.TeamSACLoss`.

    Between two updates each member's worlds make one step, with actions drawn from the policies. Teams of different
    seeds share nothing: each has the initialisation, worlds and noise of its seed, whatever its company, and parameters
    differ by rounding alone. A team whose loss is not finite is reported by a warning and frozen.

    A file holds replay too, and where worlds are in their episodes: the team that is made of it goes on as the one that
    was saved. Where worlds cannot be brought to that point, a warning says so, and new episodes begin.

    Args:
        env: A function that makes a world: an environment of PettingZoo's Parallel interface, see
            :class:`gsrl.multi_agent.ParallelVecEnv`. In games in turns, by :class:`gsrl.multi_agent.TurnBased`, what an
            agent does leads to its next turn, and discounting counts turns of its own.
        seeds: Of each team.
        estimator: Of the actors' gradients: a name, or an estimator of which each team gets a copy.
        critic: ``"network"``: of observations and actions, the own one among them; ``"choices"``: with the values of
            all own choices as outputs, so that the ``exact`` gradient costs one call; for actions of one factor;
            ``"multilinear"``: with values of own choices and pairs of them as outputs, whose expectation is exact for
            several factors too. The smaller one of two critics counts, of multilinear ones their mean.
        critics_see: ``"all"``: the observations and actions of all agents, which only training needs; ``"state"``: the
            state of the world, what the agent observes, and all actions; ``"own"``: those of the agent alone, so that
            each learns independently of the others.
        others: Whether an actor sees the others act as they do now, ``"current"``, or as in replay, ``"replayed"``.
        share: Groups of agents with the same spaces, by name, that share the parameters of actors and critics; None:
            each has its own.
        n_steps: Largest length of the n-step returns. A window ends where any agent's part in the episode does. Biased
            above 1, for later actions are those of older policies.
        speech: What agents say, hear and alone know, by name; None: what the environment says.
        n_envs: Worlds of each team, and steps between updates.
        batch_size: Transitions in an update.
        learning_rate: Adam's step size, or a function of the share of the training that remains, from 1 down to 0.
        gamma: Discount factor.
        polyak: By which share target critics follow at each update.
        buffer_size: Transitions kept for replay.
        learning_starts: Steps with uniformly random actions before the first update.
        hidden: Widths of all networks.
        target_entropy_ratio: Share of the largest entropy that is left by masks, to which the alpha of each agent and
            factor steers; or a function of the share of the training that remains.
        signalling_bonus: What a nat that messages tell is worth, in units of return, see
            :func:`gsrl.multi_agent.sac_loss.signalling`.
        max_grad_norm: Largest norm of the gradient of an agent's actor, of its critics and of its alphas; None: no
            clipping.
        device: Of the networks.
        compile: Whether the update is compiled, see :class:`gsrl.learning.Learner`.
        tensorboard_log: Folder for TensorBoard; None: there is no log.
        verbose: 1: what is logged is printed, of the first team.

    Attributes:
        lockstep: The teams: their losses, learners and generators, and who still learns.
        vec_env: The worlds of all teams.
        replay: What they have seen.

    Raises:
        TypeError: ``env`` makes no Parallel environment with discrete actions.
        ValueError: An argument is out of its range, or agents have no messages, but ``signalling_bonus`` is not 0.

    Example:
        >>> from envs.mpe import SpeakerListenerEnv
        >>> how = {"n_envs": 1, "batch_size": 4, "learning_starts": 4, "hidden": (8,)}
        >>> team = MultiAgentSAC(SpeakerListenerEnv, seeds=(0, 1), signalling_bonus=1.0, **how)
        >>> team.learn(8).evaluate(2).shape  # of two teams and episodes, and of both agents
        (2, 2, 2)
    """

    SETTINGS: ClassVar[tuple[str, ...]] = (
        *("seeds", "estimator", "critic", "critics_see", "others", "n_envs", "batch_size"),
        *("learning_rate", "gamma", "polyak", "buffer_size", "learning_starts", "hidden", "target_entropy_ratio"),
        *("signalling_bonus", "max_grad_norm", "share", "n_steps"),
    )
    TARGETS: ClassVar[tuple[tuple[str, str], ...]] = (("critic", "critic_target"),)
    """What follows what, see :class:`gsrl.learning.Learner`."""

    unit, score, member = "step", "return", "team"
    advanced = ("estimator", "expected_q")

    def __init__(
        self,
        env: Callable[[], Any],
        seeds: Sequence[int] = (0,),
        *,
        estimator: str | Estimator = "st-gumbel",
        critic: CriticForm = "network",
        critics_see: Sight = "all",
        others: Literal["current", "replayed"] = "current",
        share: Sequence[Sequence[str]] | None = None,
        n_steps: int = 1,
        speech: Mapping[str, Speech] | None = None,
        n_envs: int = 32,
        batch_size: int = 128,
        learning_rate: float | Callable[[float], float] = 3e-3,
        gamma: float = 0.95,
        polyak: float = 0.01,
        buffer_size: int = 100_000,
        learning_starts: int = 2000,
        hidden: Sequence[int] = (64, 64),
        target_entropy_ratio: float | Callable[[float], float] = 0.2,
        signalling_bonus: float = 0.0,
        max_grad_norm: float | None = None,
        device: torch.device | str = "auto",
        compile: bool = False,
        tensorboard_log: str | None = None,
        verbose: int = 0,
        _saved: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        self.critic, self.critics_see, self.others = critic, critics_see, others
        self.n_envs, self.gamma, self.polyak, self.buffer_size = n_envs, gamma, polyak, buffer_size
        self.learning_starts, self.hidden = learning_starts, list(hidden)
        self.target_entropy_ratio, self.signalling_bonus = target_entropy_ratio, signalling_bonus
        self.share, self.n_steps = None if share is None else [list(group) for group in share], n_steps
        self._check_settings()
        self._make_env = env
        self.vec_env = ParallelVecEnv(env, n_envs, seeds, with_states=critics_see == "state")
        self._state_size = self.vec_env.states.shape[1]
        team = self.team = self.vec_env.spaces
        self.speech = Speech.of(env(), speech)
        if signalling_bonus and not any(each.factors for each in self.speech.values()):
            raise ValueError(
                f"signalling_bonus must be 0 where no agent says anything, but got {signalling_bonus}: say in speech "
                "which factors of actions are messages."
            )
        self._groups()
        if critic == "choices" and team.n > 1:
            raise ValueError(
                f"critic must be 'network' or 'multilinear' for actions of {team.n} factors, but got 'choices'."
            )
        shape = (team.n, team.K)
        made = make_estimator(estimator, shape=shape) if isinstance(estimator, str) else estimator
        if not isinstance(made, Estimator):
            raise TypeError(f"estimator must be a name or an estimator, but got {type(made).__name__}.")
        self.estimator = made
        super().__init__(
            seeds,
            batch_size=batch_size,
            learning_rate=learning_rate,
            max_grad_norm=max_grad_norm,
            device=device,
            compile=compile,
            tensorboard_log=tensorboard_log,
            verbose=verbose,
            targets=self.TARGETS,
            rngs={"explore": "exploration"},
            _saved=_saved,
        )
        self.replay = Ring(
            buffer_size,
            transition_columns(team.n, team.K, len(team.agents), team.O, self._state_size),
            n_envs,
            num_members=len(self.seeds),
            generator=[np.random.default_rng(seed_sequence(seed, "data")) for seed in self.seeds],
        )
        self._heard = np.zeros((len(team.agents), team.O), np.bool_)
        for i, agent in enumerate(team.agents):
            self._heard[i, list(self.speech[agent].heard)] = True
        self._moments = {
            "observations": RunningMoments(len(self.seeds), (len(team.agents), team.O)),
            "states": RunningMoments(len(self.seeds), (self._state_size,)),
        }
        self._waits = np.zeros((self.vec_env.num_worlds, len(team.agents)), np.int64)
        self._longest_wait = 0
        self._normalized_at = 0.0
        self._num_steps, self._begins = 0, True
        self._act = Mapped(self.lockstep, _act, ["actor", "normalizer"], "acting")

    def _check_settings(self) -> None:
        choices = {
            "critic": ("network", "choices", "multilinear"),
            "critics_see": ("all", "state", "own"),
            "others": ("current", "replayed"),
        }
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {known}, but got {getattr(self, name)!r}.")
        if not self.hidden or min(self.hidden) < 1:
            raise ValueError(f"hidden must hold widths of at least 1, but got {self.hidden}.")
        ratio = self.target_entropy_ratio
        for name, value in (
            *(("gamma", self.gamma), ("polyak", self.polyak)),
            ("target_entropy_ratio", ratio(1.0) if callable(ratio) else ratio),
        ):
            if not 0 <= value <= 1:
                raise ValueError(f"{name} must be in [0, 1], but got {value}.")
        if not 0 <= self.signalling_bonus < float("inf"):
            raise ValueError(f"signalling_bonus must be finite and at least 0, but got {self.signalling_bonus}.")
        for name in ("learning_starts", "n_steps"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} must be an integer of at least 1, but got {value!r}.")

    def _groups(self) -> list[int]:
        """Of each agent, the number of its parameters."""
        team, leaders = self.team, {agent: agent for agent in self.team.agents}
        named: set[str] = set()
        for group in self.share or ():
            for agent in group:
                if agent not in team.index:
                    raise ValueError(f"share must be of agents among {team.agents}, but names {agent!r}.")
                if agent in named:
                    raise ValueError(f"share must name an agent once, but names {agent} twice.")
                if self._spaces_of(agent) != self._spaces_of(group[0]):
                    raise ValueError(
                        f"share must be of agents with the same spaces, but {agent} and {group[0]} differ."
                    )
                leaders[agent] = group[0]
                named.add(agent)
        first = list(dict.fromkeys(leaders.values()))
        return [first.index(leaders[agent]) for agent in team.agents]

    def _spaces_of(self, agent: str) -> tuple[Any, Any]:
        i = self.team.index[agent]
        return self.team.observation_spaces[i], self.team.codecs[i].space

    def make_loss(self, seed: int) -> TeamSACLoss:
        """The loss of a team, with its networks."""
        ratio = self.target_entropy_ratio
        return self._loss_of(
            EntropyCoefficient(n=len(self.team.agents) * self.team.n),
            target_entropy_ratio=ratio(1.0) if callable(ratio) else ratio,
        )

    def _loss_of(self, entropy_coefficient: EntropyCoefficient | None, critics: int = 2, **how: Any) -> TeamSACLoss:
        """The loss with these alphas, if any, and so many critics of each agent."""
        team, states = self.team, self._state_size
        sizes = (self._groups(), team.O, team.n, team.K, self.hidden)
        return TeamSACLoss(
            TeamActor(*sizes),
            TeamCritic(*sizes, sees=self.critics_see, form=self.critic, states=states, critics=critics),
            entropy_coefficient,
            copy.deepcopy(self.estimator),
            team,
            self.speech,
            others_are_current=self.others == "current",
            signalling_bonus=self.signalling_bonus,
            critics="mean" if self.critic == "multilinear" else "min",
            states=states,
            **how,
        )

    # Training

    @property
    def steps(self) -> int:
        """Steps of each team so far, in all its worlds together."""
        return self._num_steps * self.n_envs

    def steps_of(self, updates: int) -> int:
        """Steps that so many updates take, with those before the first."""
        random = -(-self.learning_starts // self.n_envs)
        return (updates + random) * self.n_envs if updates else 0

    def tau(self) -> float:
        """Polyak's coefficient."""
        return self.polyak

    def collect(self) -> tuple[Any, ...]:
        """Lets the worlds make a step, and draws transitions and noise of all teams, ``[S, B, ...]``."""
        if self._begins:
            if self._num_steps:
                self.vec_env.seed("resumption", self.steps)
                self.replay.end_episodes()
            self.vec_env.reset()
            self._begins = False
        if callable(self.target_entropy_ratio):
            for loss in self.lockstep.losses:
                loss.target_entropy_ratio.fill_(self.target_entropy_ratio(self.remaining))
        while self.steps < self.learning_starts:
            self._step_worlds(is_random=True)
        self._step_worlds(is_random=False)
        self._normalize()
        return (self._sample(), *self._draw_noise())

    def _apart(self, array: NDArray[Any]) -> NDArray[Any]:
        """What is of all worlds, by team."""
        return array.reshape(len(self.seeds), self.n_envs, *array.shape[1:])

    def _step_worlds(self, is_random: bool) -> None:
        joint, states = self.vec_env.joint, self.vec_env.states
        observations, masks = self._apart(joint.observations), self._apart(joint.masks)
        if is_random:
            scores = np.stack([rng.random(masks.shape[1:]) for rng in self.rngs["explore"]])
            actions = np.where(masks, scores, -1.0).argmax(-1)
        else:
            noise = gumbel_noise(masks.shape, generator=self.lockstep.generators).to(self.device)
            given = (torch.as_tensor(array.copy()).to(self.device) for array in (observations, masks))
            actions = self._chosen(self._act(*given, noise), observations, masks)
        after, rewards, terminated, truncated = self.vec_env.step(actions.reshape(joint.masks.shape[:-1]))
        check_finite(torch.from_numpy(after.observations), after.observations.shape[:1])
        rewards = as_finite("rewards", rewards, REAL)
        self._count_waits(joint.active, after.active | terminated)
        self.replay.append(
            {
                "observations": joint.observations,
                "masks": joint.masks,
                "actions": actions.reshape(joint.masks.shape[:-1]),
                "rewards": rewards,
                "terminated": terminated,
                "truncated": truncated,
                "active": joint.active,
                "next_observations": after.observations,
                "next_masks": after.masks,
                "next_active": after.active,
                "states": states,
                "next_states": self.vec_env.states_after,
            }
        )
        self._moments["observations"].add(observations)
        self._moments["states"].add(self._apart(states))
        self._waits[self.vec_env.over] = 0
        self._num_steps += 1

    def _count_waits(self, active: NDArray[np.bool_], is_next: NDArray[np.bool_]) -> None:
        """Learns how many steps lie at most between two turns of an agent, or its last turn and its end."""
        self._waits = np.where(active, 0, self._waits + 1)
        waited = self._waits[is_next]
        if waited.size and waited.max() > self._longest_wait:
            self._longest_wait = int(waited.max())
            if self.n_steps > 1:
                raise ValueError(f"n_steps must be 1 where agents wait for their turns, but got {self.n_steps}.")

    def _chosen(self, scores: Tensor, observations: NDArray[np.float32], masks: NDArray[np.bool_]) -> NDArray[np.int64]:
        """The choices with the largest scores; teams of which one is NaN are frozen, and take what is legal."""
        values: NDArray[np.float32] = scores.cpu().numpy()
        broken = np.isnan(values).reshape(len(values), -1).any(1)
        for index in np.flatnonzero(broken).tolist():
            self.lockstep.alive[index] = False
        if broken.any():
            values = np.where(masks, np.nan_to_num(values, nan=0.0, neginf=0.0), -np.inf)
        choices: NDArray[np.int64] = values.argmax(-1)
        return choices

    def _normalize(self) -> None:
        """Normalises observations anew where there are enough new ones; messages are left as they are."""
        moments = self._moments["observations"]
        count = float(moments.count.flat[0])
        if count <= (1 + GROWTH) * self._normalized_at:
            return
        self._normalized_at = count
        mean, deviation = np.where(self._heard, 0.0, moments.mean), moments.deviation()
        states = self._moments["states"]
        for index in np.flatnonzero(self.lockstep.alive.cpu()).tolist():
            own = np.where(self._heard, 1.0, deviation[index])
            self.lockstep.losses[index].normalizer.set_(mean[index], own)
            self.lockstep.losses[index].state_normalizer.set_(states.mean[index], states.deviation()[index])

    def _sample(self) -> TeamBatch:
        ring = self.replay
        starts = ring.draw(self.batch_size)
        rewards, discounts, last, active = self._turns(starts) if self._longest_wait else self._windows(starts)
        found = dict.fromkeys(("states", "next_states"), torch.zeros(*starts.shape, 0, device=self.device))
        names = [name for name in TeamBatch._fields if name in ring.columns and name not in ("rewards", "active")]
        for name in names:
            found[name] = self._on_device(ring.gather(name, last if name.startswith("next_") else starts))
        return TeamBatch(
            **{**found, "actions": found["actions"].long()},
            rewards=self._on_device(rewards),
            discounts=self._on_device(discounts),
            active=self._on_device(active).float(),
        )

    def _windows(self, starts: NDArray[np.int64]) -> tuple[NDArray[Any], ...]:
        """Returns of up to ``n_steps`` steps, discounts, the last steps and who was active, where all act at once."""
        ring, agents = self.replay, len(self.team.agents)
        steps = windows.step_indices(starts, self.n_steps, ring.n_envs, ring.capacity, ring.first)  # [S, B, N]
        groups = windows.groups(np.array(self.n_steps))
        closing = windows.closing_steps(ring.closed.reshape(-1, agents).take(steps, axis=0).any(-1), groups)
        last = windows.last_indices(steps, closing)
        closing = np.repeat(closing[..., None], agents, -1)  # [S, B, A]
        gamma = np.array(self.gamma)
        weights = windows.reward_weights(gamma, np.ones((), REAL), self.n_steps)
        rewards = windows.returns(ring.gather("rewards", steps).swapaxes(-1, -2), closing, weights, groups)
        discounts = windows.bootstrap_discounts(
            closing, ring.gather("terminated", last), windows.discounts(gamma, self.n_steps)
        )
        return rewards, discounts, last, ring.gather("active", starts)

    def _turns(self, starts: NDArray[np.int64]) -> tuple[NDArray[Any], ...]:
        """The same to the next turn of the agent that was on turn, or the end of its part; a turn is one step of gamma.

        Where several were on turn, those count whose next turn comes with that of the first.
        """
        ring, agents = self.replay, len(self.team.agents)
        steps = windows.step_indices(starts, self._longest_wait + 1, ring.n_envs, ring.capacity, ring.first)
        ended = ring.gather("terminated", steps) | ring.gather("truncated", steps)  # [S, B, N, A]
        is_next = ended | ring.gather("next_active", steps)
        closed = is_next | ring.closed.reshape(-1, agents).take(steps, axis=0)  # the newest step too
        closed[..., -1, :] = True
        closing = closed.argmax(-2)  # [S, B, A]
        is_known = np.take_along_axis(is_next, closing[..., None, :], -2).squeeze(-2)
        active = ring.gather("active", starts) & is_known
        first = np.take_along_axis(closing, active.argmax(-1)[..., None], -1)  # [S, B, 1]
        active &= closing == first
        within = np.arange(steps.shape[-1]) <= first  # [S, B, N]
        rewards = (ring.gather("rewards", steps) * within[..., None]).sum(-2)
        last = np.take_along_axis(steps, first, -1).squeeze(-1)
        discounts = np.where(ring.gather("terminated", last), 0.0, self.gamma).astype(REAL)
        return rewards.astype(REAL), discounts, last, active

    def _on_device(self, array: NDArray[Any]) -> Tensor:
        return torch.as_tensor(array).to(self.device)

    def _draw_noise(self) -> tuple[Any, Tensor, Tensor]:
        team, generators = self.team, self.lockstep.generators
        shape = (self.batch_size, len(team.agents), team.n, team.K)
        blank = FactoredCategorical(torch.zeros(shape), validate_args=False)
        noise = draw_noise_in_lockstep(self.estimator, blank, generators)
        others, after = (gumbel_noise((len(generators), *shape), generator=generators) for _ in range(2))
        on_device = noise.to(self.device) if isinstance(noise, Tensor) else tuple(x.to(self.device) for x in noise)
        return on_device, others.to(self.device), after.to(self.device)

    def figures(self) -> dict[str, NDArray[np.float64]]:
        """Mean over episodes and agents of the return."""
        return {"mean_return": self.evaluate(LOGGED_EPISODES).mean((1, 2))}

    # Execution

    def play(
        self, index: int, episodes: int, seed: int, *, scramble: bool = False, env: Callable[[], Any] | None = None
    ) -> NDArray[np.float64]:
        """Returns of the agents ``[N, A]`` in episodes that are the same for all teams, with the most probable choices.

        Args:
            index: Of the team.
            episodes: N.
            seed: Of the episodes.
            scramble: Whether what each agent hears at a step is exchanged among the episodes that go on: a return that
                survives this was not got by talking.
            env: A function that makes a world to play in; None: that of the training.
        """
        parts = []
        for batch in self._played(index, episodes, seed, scramble=scramble, env=env):
            parts.append(sum(rewards * going[:, None] for _, _, rewards, going in batch))
        return np.concatenate(parts)[:episodes]

    def _played(
        self,
        index: int,
        episodes: int,
        seed: int,
        *,
        scramble: bool = False,
        env: Callable[[], Any] | None = None,
    ) -> Iterator[Iterator[Played]]:
        """The steps of episodes, some at once, so many or a few more; see :meth:`play`."""
        if not isinstance(episodes, int) or episodes < 1:
            raise ValueError(f"episodes must be an integer of at least 1, but got {episodes!r}.")
        at_once = min(episodes, WORLDS_AT_ONCE)
        worlds = ParallelVecEnv(env or self._make_env, at_once, (seed,))
        rng = np.random.default_rng(seed_sequence(seed, "evaluation"))

        def steps() -> Iterator[Played]:
            joint, going = worlds.reset(), np.ones(at_once, np.bool_)
            while going.any():
                observations = self._scrambled(joint.observations, going, rng) if scramble else joint.observations
                actions = self.predict(observations, joint.masks, index)
                _, rewards, _, _ = worlds.step(actions)
                yield joint, actions, rewards, going
                going = going & ~worlds.over
                joint = worlds.joint

        for batch in range(-(-episodes // at_once)):
            worlds.seed("evaluation", batch)
            yield steps()
        worlds.close()

    def protocol(self, index: int = 0, episodes: int = 1000, seed: int = 0) -> dict[str, MessageProtocol]:
        """What each agent that speaks says of what it alone knows, at all steps of the episodes of an evaluation.

        A meaning is a value of what it alone knows, or, where nobody says what that is, of all that it observes but
        does not hear. They are numbered from 0 on in falling order: of a one-hot part, each has the number of its 1.

        Args:
            index: Of the team.
            episodes: How many.
            seed: Of the episodes.

        Returns:
            By agent; nobody says whether it was understood.

        Raises:
            ValueError: No agent speaks; or what one knows takes more than 100 values, as numbers that vary do.

        Example:
            >>> from envs.mpe import SpeakerListenerEnv
            >>> team = MultiAgentSAC(SpeakerListenerEnv, n_envs=1, buffer_size=100)  # which has learned nothing
            >>> print(team.protocol(episodes=10)["speaker_0"].to_markdown(), end="")
            | message | meanings | probability |
            | --- | --- | ---: |
            | 2 | 0; 1; 2 | 1 |
        """
        speaking = [i for i, agent in enumerate(self.team.agents) if self.speech[agent].factors]
        if not speaking:
            raise ValueError(f"agents must have messages for a protocol, but none of {self.team.agents} has any.")
        known = {i: _places_known(self.speech[self.team.agents[i]], self.team.sizes[i]) for i in speaking}
        said: dict[int, list[NDArray[np.int64]]] = {i: [] for i in speaking}
        knew: dict[int, list[NDArray[np.float32]]] = {i: [] for i in speaking}
        for batch in self._played(index, episodes, seed):
            for joint, actions, _, going in batch:
                for i in speaking:
                    speaks = going & joint.active[:, i]
                    said[i].append(actions[speaks, i][:, list(self.speech[self.team.agents[i]].factors)])
                    knew[i].append(joint.observations[speaks, i][:, known[i]])
        found = {}
        for i in speaking:
            agent, messages = self.team.agents[i], np.concatenate(said[i])
            values, meanings = np.unique(-np.concatenate(knew[i]), axis=0, return_inverse=True)
            if len(values) > MOST_MEANINGS:
                raise ValueError(
                    f"private of {agent} must name what it alone knows, of at most {MOST_MEANINGS} values, but got "
                    f"places {known[i]}, which take {len(values)}."
                )
            lengths, weights = np.full(len(messages), messages.shape[1]), np.full(len(messages), 1 / len(messages))
            found[agent] = MessageProtocol.of_episodes(messages, lengths, meanings.reshape(-1, 1), None, weights)
        return found

    def _scrambled(
        self, observations: NDArray[np.float32], going: NDArray[np.bool_], rng: np.random.Generator
    ) -> NDArray[np.float32]:
        exchanged, (rows,) = observations.copy(), going.nonzero()
        order = rng.permutation(rows)
        exchanged[rows] = np.where(self._heard, observations[order], observations[rows])
        return exchanged

    @torch.no_grad()
    def predict(self, observations: NDArray[np.float32], masks: NDArray[np.bool_], index: int = 0) -> NDArray[np.int64]:
        """The most probable choices ``[B, A, n]`` of a team.

        Args:
            observations: Of a joint, ``[B, A, O]``.
            masks: Likewise, ``[B, A, n, K]``.
            index: Of the team.

        Raises:
            gsrl.checks.NonFiniteError: An observation or a parameter is not finite.
        """
        loss = self.lockstep.losses[index]
        given = torch.from_numpy(observations).to(self.device)
        policy = loss.actor(loss.normalizer(given), torch.from_numpy(np.array(masks)).to(self.device))
        return largest(policy.logits, given, loss)

    # State

    def state_dict(self) -> dict[str, Any]:
        """All that changes while the teams learn: replay too, and where worlds are in their episodes."""
        moments = {kind: {name: getattr(each, name).copy() for name in MOMENTS} for kind, each in self._moments.items()}
        worlds = None if self._begins else self.vec_env.state_dict()
        own = {"replay": self.replay.state_dict(), "worlds": worlds, "moments": moments, "waits": self._waits.copy()}
        numbers = {name: getattr(self, f"_{name}") for name in NUMBERS}
        return {**super().state_dict(), **own, **numbers}

    def state_of_one(self, state: Mapping[str, Any], index: int) -> dict[str, Any]:
        """Of a team by itself, without replay, which is larger than all else, and in worlds that begin anew."""
        moments = {
            kind: {name: array[index : index + 1] for name, array in each.items()}
            for kind, each in state["moments"].items()
        }
        own = {"moments": moments, "replay": None, "worlds": None, "waits": np.zeros_like(self._waits[: self.n_envs])}
        return {**super().state_of_one(state, index), **own}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores :meth:`state_dict`, of as many teams of the same settings.

        Raises:
            gsrl.checkpoint.CheckpointError: An entry is missing or has another shape.
            ValueError: There is another number of teams.
        """
        checkpoint.check_entries(state, dict.fromkeys(("replay", "worlds", "moments", "waits", *NUMBERS)))
        checkpoint.check_counts(state, "num_steps", "longest_wait")
        super().load_state_dict(state)
        self.replay.reset()
        if state["replay"] is not None:
            self.replay.load_state_dict(state["replay"])
        for kind, moments in self._moments.items():
            for name, array in state["moments"][kind].items():
                getattr(moments, name)[...] = array
        self._waits[...] = state["waits"]
        for name in NUMBERS:
            setattr(self, f"_{name}", state[name])
        self._begins = state["worlds"] is None
        if not self._begins:
            try:
                self.vec_env.load_state_dict(state["worlds"])
            except WorldStateError as error:
                self._begins = True
                warnings.warn(
                    f"new episodes begin, as worlds could not be brought to where they were: {error}", stacklevel=2
                )

    def settings(self) -> dict[str, Any]:
        """What a file holds beside the state."""
        speech = {
            agent: {name: list(places) for name, places in asdict(each).items()} for agent, each in self.speech.items()
        }
        return {**super().settings(), "speech": speech}

    @classmethod
    def of_saved(cls, tree: Mapping[str, Any], *given: Any, **how: Any) -> Self:
        """Teams with the settings of a file."""
        speech = {
            agent: Speech(**{name: tuple(places) for name, places in each.items()})
            for agent, each in tree["speech"].items()
        }
        return super().of_saved(tree, *given, speech=speech, **how)


def _places_known(speech: Speech, size: int) -> list[int]:
    """Places of what an agent alone knows, or of all that it does not hear."""
    return list(speech.private) or [place for place in range(size) if place not in speech.heard]


def transition_columns(n: int, K: int, agents: int, inputs: int, states: int = 0) -> dict[str, Column]:
    """What replay keeps of a joint transition.

    That is ``agents * (8 * inputs + 2 * n * K + n * c + 9) + 8 * states`` bytes, with c = 1 for up to 256 choices and 2
    above: of each agent two observations, two masks, an action, a reward, four flags and the mark of the ring; and two
    states.

    Args:
        n: Factors.
        K: Choices.
        agents: ``A``.
        inputs: ``O``.
        states: ``D``.
    """
    of_states = dict.fromkeys(("states", "next_states"), Column((states,), REAL)) if states else {}
    return {
        **of_states,
        "observations": Column((agents, inputs), REAL),
        "masks": Column((agents, n, K), FLAG),
        "actions": Column((agents, n), np.min_scalar_type(K - 1)),
        "rewards": Column((agents,), REAL),
        "terminated": Column((agents,), FLAG),
        "truncated": Column((agents,), FLAG),
        "active": Column((agents,), FLAG),
        "next_observations": Column((agents, inputs), REAL),
        "next_masks": Column((agents, n, K), FLAG),
        "next_active": Column((agents,), FLAG),
    }


def _act(loss: TeamSACLoss, observations: Tensor, masks: Tensor, noise: Tensor) -> Tensor:
    """Scores ``[B, A, n, K]``, whose largest are drawn actions."""
    policy = loss.actor(loss.normalizer(observations), masks)
    scores: Tensor = policy.perturbed(noise=noise)
    return scores
