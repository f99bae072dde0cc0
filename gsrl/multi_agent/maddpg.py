"""MADDPG with discrete actions, whose gradient is an estimator's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from gsrl._settings import fixed
from gsrl.multi_agent.sac import MultiAgentSAC
from gsrl.multi_agent.sac_loss import TeamSACLoss

__all__ = ["MADDPG"]


@fixed("logit_penalty")
class MADDPG(MultiAgentSAC):
    r"""Multi-agent actor-critics without entropy, with target actors and one critic of each agent; several seeds.

    The critics' target is :math:`y_i = r_i + \gamma (1 - d_i) \bar Q_i(s', a')` with actions of the target actors, and
    agent i maximises :math:`\mathbb{E}_{a_i \sim \pi_i}[Q_i(s, a_i, a_{-i})]`, less ``logit_penalty`` times the mean
    square of its logits, which keeps policies from becoming certain. Actions are choices, drawn from the policies,
    where the paper's code sends relaxed ones, messages among them; the gradient is an estimator's, as in
    :class:`gsrl.multi_agent.MultiAgentSAC`, whose other arguments these are.

    Source: Lowe et al. 2017 (1706.02275), Eqs. 5 and 6, and its Appendix: the regulariser is that of its code.

    Args:
        env: A function that makes a world, see :class:`gsrl.multi_agent.MultiAgentSAC`.
        seeds: Of each team.
        logit_penalty: Weight of the mean square of the logits of legal choices.
        **settings: Of :class:`gsrl.multi_agent.MultiAgentSAC`, but for ``target_entropy_ratio``.

    Raises:
        TypeError: ``env`` makes no Parallel environment with discrete actions.
        ValueError: An argument is out of its range.

    Example:
        >>> from envs.mpe import SpreadEnv
        >>> team = MADDPG(SpreadEnv, seeds=range(2), critics_see="state", n_envs=1, batch_size=4, learning_starts=4)
        >>> team.learn(8).evaluate(2).shape  # of two teams and episodes, and three agents
        (2, 2, 3)
    """

    SETTINGS: ClassVar[tuple[str, ...]] = (
        *(name for name in MultiAgentSAC.SETTINGS if name != "target_entropy_ratio"),
        "logit_penalty",
    )
    TARGETS: ClassVar[tuple[tuple[str, str], ...]] = (("critic", "critic_target"), ("actor", "actor_target"))

    def __init__(
        self, env: Callable[[], Any], seeds: Sequence[int] = (0,), *, logit_penalty: float = 1e-3, **settings: Any
    ) -> None:
        if not 0 <= logit_penalty < float("inf"):
            raise ValueError(f"logit_penalty must be finite and at least 0, but got {logit_penalty}.")
        self.logit_penalty = logit_penalty
        super().__init__(env, seeds, target_entropy_ratio=0.0, **settings)

    def make_loss(self, seed: int) -> TeamSACLoss:
        """The loss of a team, with its networks."""
        return self._loss_of(None, critics=1, has_actor_target=True, logit_penalty=self.logit_penalty)
