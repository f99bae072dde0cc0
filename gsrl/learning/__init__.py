"""Learning: one loss (:class:`Learner`), or many in lock-step (:class:`Lockstep`)."""

from gsrl.learning.learner import Learner
from gsrl.learning.lockstep import Lockstep, Mapped

__all__ = ["Learner", "Lockstep", "Mapped"]
