"""Learning: of one loss (:class:`Learner`), of many in lock-step (:class:`Lockstep`), and of a task of one's own."""

from gsrl.learning.learner import Learner
from gsrl.learning.lockstep import Lockstep, Mapped
from gsrl.learning.task import Task

__all__ = ["Learner", "Lockstep", "Mapped", "Task"]
