"""Training of transformers that prune their tokens, on images that come without a download."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from gsrl import checkpoint
from gsrl._random import seed_of, seed_sequence
from gsrl._settings import fixed
from gsrl.estimators import Pathwise
from gsrl.learning import Task
from gsrl.perception.data import Source
from gsrl.perception.masks import make_pathwise
from gsrl.perception.pruning import RANKINGS, TokenPruner, VisionTransformer
from gsrl.temperature import ConstantTemperature, ExponentialTemperature

__all__ = ["PrunedClassifier", "PruningLoss"]

EVALUATED = 256
"""Images that an evaluation reads at a time."""

LOGGED_IMAGES = 360
"""Of an evaluation in the middle of the training."""


class PruningLoss(nn.Module):
    """Cross-entropy of a pruned transformer, and what the shares of its tokens are from what they should be.

    Args:
        pruner: What answers.
        ratio_weight: Of the latter.
        gather: Whether dropped tokens are left out in training too, which is for choices that do not learn.

    Example:
        >>> network = VisionTransformer((1, 8, 8), patch=2, width=8, depth=2, heads=2, n_outputs=10)
        >>> loss = PruningLoss(TokenPruner(network, {0: 0.25}), ratio_weight=2.0, gather=False)
        >>> total, metrics = loss(torch.rand(4, 1, 8, 8), torch.tensor([3, 1, 4, 1]))
        >>> metrics["share_0"]  # of the tokens, a quarter
        tensor(0.2500)
    """

    def __init__(self, pruner: TokenPruner, ratio_weight: float, gather: bool) -> None:
        super().__init__()
        self.pruner, self.ratio_weight, self.gather = pruner, ratio_weight, gather

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Of images ``[B, C, H, W]`` and labels ``[B]``: the mean loss, and metrics."""
        pruned = self.pruner(images, gather=self.gather)
        error = F.cross_entropy(pruned.outputs, labels)
        metrics = {
            "cross_entropy": error,
            "accuracy": (pruned.outputs.argmax(-1) == labels).to(error.dtype).mean(),
            **{f"share_{block}": pruned.shares[:, i].mean() for i, block in enumerate(self.pruner.stages)},
        }
        return error + self.ratio_weight * pruned.loss, {name: value.detach() for name, value in metrics.items()}


@fixed("seeds", "dataset", "stages", "shares", "choose", "estimator", "ranking", "batch_size")
class PrunedClassifier(Task):
    """A vision transformer that learns to say what is on an image, and which of its tokens are worth reading.

    Args:
        dataset: One of :data:`gsrl.perception.data.DATASETS`.
        seeds: Of each member.
        stages: Numbers of the blocks before which tokens are dropped; none: all are read.
        shares: Of all tokens, what remains after each stage.
        choose: How tokens are chosen: "subset", "independent" or "top-k", see
            :class:`gsrl.perception.pruning.TokenPruner`.
        estimator: Estimator of the gradient of the choice.
        initial_temperature: Temperature of the relaxation at first.
        final_temperature: What it falls to, exponentially.
        annealing: Updates until it is there.
        ranking: What tokens are chosen by: "learned", a predictor at each stage; or, to compare with, "random",
            "positions", "brightness" or "contrast".
        patch: Side of a patch in pixels.
        width: Of tokens.
        depth: Number of blocks.
        heads: Of the attention.
        mlp_ratio: Width of a block's perceptron, in widths of tokens.
        stem: "conv": patches are of the features of a 3x3 convolution; "linear": of pixels.
        ratio_weight: Weight of the shares' loss, of "independent".
        per: Whether shares are to be met by each "image" or on the average of a "batch", of "independent".
        batch_size: Images of an update.
        learning_rate: Adam's step size, or a function of the share of the training that remains, from 1 down to 0.
        predictor_rate: What it is multiplied by for what chooses.
        max_grad_norm: Largest norm of the gradient; None: no clipping.
        device: Of the networks.
        compile: Whether updates are compiled.
        tensorboard_log: Folder for TensorBoard; None: there is no log.
        verbose: 1: what is logged is printed, of the first member.

    Raises:
        ModuleNotFoundError: The package that has the images is not installed.
        ValueError: An argument is out of its range.

    Example:
        >>> task = PrunedClassifier(
        ...     "digits", seeds=range(2), stages=(0,), shares=(0.25,), width=8, depth=1, stem="linear"
        ... )
        >>> task.learn(64 * 2).evaluate(20).shape  # of each member and image whether it is told right
        (2, 20)
    """

    SETTINGS = (
        *("dataset", "seeds", "stages", "shares", "choose", "estimator", "initial_temperature", "final_temperature"),
        *("annealing", "ranking", "patch", "width", "depth", "heads", "mlp_ratio", "stem", "ratio_weight", "per"),
        *("batch_size", "learning_rate", "predictor_rate", "max_grad_norm"),
    )
    unit, score, member = "image", "accuracy", "model"

    def __init__(
        self,
        dataset: str = "digits-clutter",
        seeds: Sequence[int] = (0,),
        *,
        stages: tuple[int, ...] = (0, 2, 4),
        shares: tuple[float, ...] = (0.5, 0.25, 0.125),
        choose: Literal["subset", "independent", "top-k"] = "subset",
        estimator: str = "st-gumbel",
        initial_temperature: float = 1.0,
        final_temperature: float = 0.1,
        annealing: int = 10_000,
        ranking: Literal["learned", "random", "positions", "brightness", "contrast"] = "learned",
        patch: int = 2,
        width: int = 32,
        depth: int = 6,
        heads: int = 2,
        mlp_ratio: float = 2.0,
        stem: Literal["conv", "linear"] = "conv",
        ratio_weight: float = 2.0,
        per: Literal["image", "batch"] = "batch",
        batch_size: int = 64,
        learning_rate: float | Callable[[float], float] = 2e-3,
        predictor_rate: float = 2.0,
        max_grad_norm: float | None = 1.0,
        device: torch.device | str = "auto",
        compile: bool = False,
        tensorboard_log: str | None = None,
        verbose: int = 0,
        _saved: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        self.dataset, self.stages, self.shares = dataset, tuple(stages), tuple(shares)
        self.choose, self.estimator, self.ranking, self.per = choose, estimator, ranking, per
        self.initial_temperature, self.final_temperature = initial_temperature, final_temperature
        self.annealing, self.ratio_weight, self.predictor_rate = annealing, ratio_weight, predictor_rate
        self.patch, self.width, self.depth, self.heads = patch, width, depth, heads
        self.mlp_ratio, self.stem = mlp_ratio, stem
        if len(self.stages) != len(self.shares):
            raise ValueError(f"shares must be as many as stages, {self.stages}, but got {self.shares}.")
        if len(set(self.stages)) != len(self.stages):
            raise ValueError(f"stages must be different, but got {self.stages}.")
        if ranking != "learned" and ranking not in RANKINGS:
            raise ValueError(f"ranking must be one of {('learned', *RANKINGS)}, but got {ranking!r}.")
        if not ratio_weight >= 0:
            raise ValueError(f"ratio_weight must be at least 0, but got {ratio_weight}.")
        if not predictor_rate > 0:
            raise ValueError(f"predictor_rate must be positive, but got {predictor_rate}.")
        self.source = Source(dataset)
        learns = bool(self.stages) and ranking in ("learned", "positions")
        chooser = "pruner.predictors" if ranking == "learned" else "pruner.ranking"
        super().__init__(
            seeds,
            batch_size=batch_size,
            learning_rate=learning_rate,
            max_grad_norm=max_grad_norm,
            device=device,
            compile=compile,
            tensorboard_log=tensorboard_log,
            verbose=verbose,
            rates={chooser: predictor_rate} if learns else {},
            rngs={"images": "data"},
            _saved=_saved,
        )

    # Construction

    def make_loss(self, seed: int) -> PruningLoss:
        """The loss of a member, with its transformer."""
        network = VisionTransformer(
            self.source.image_shape,
            self.patch,
            self.width,
            self.depth,
            self.heads,
            self.mlp_ratio,
            self.source.num_classes,
            self.stem,
            self.source.mean,
            self.source.std,
        )
        ranking = None if self.ranking == "learned" else RANKINGS[self.ranking](network)
        stages = dict(zip(self.stages, self.shares, strict=True))
        pruner = TokenPruner(network, stages, self.choose, self._make_estimator(), ranking=ranking, per=self.per)
        return PruningLoss(pruner, self.ratio_weight, self.ranking in ("random", "brightness", "contrast"))

    def _make_estimator(self) -> Pathwise:
        first, last = self.initial_temperature, self.final_temperature
        falls = first != last
        temperature = ExponentialTemperature(first, last, self.annealing) if falls else ConstantTemperature(first)
        return make_pathwise(self.estimator, temperature)

    def check_saved(self, members: Sequence[Mapping[str, Any]]) -> None:
        """Compares the networks of these settings with saved ones, see :meth:`gsrl.learning.Task.check_saved`."""
        stored = checkpoint.Stored.of([member["loss"] for member in members])
        sizes = {name: getattr(self, name) for name in ("width", "depth", "heads", "patch")}
        stored.check({**sizes, "hidden": round(self.mlp_ratio * self.width)})
        if self.depth > stored.tensors or self.batch_size > checkpoint.SMALL:
            raise ValueError(
                f"a depth of {self.depth} and a batch_size of {self.batch_size} are too many for {stored.tensors} "
                "tensors"
            )
        super().check_saved(members)

    def start_from(self, other: PrunedClassifier) -> Self:
        """Takes over the transformers of as many members of another task, such as one that reads all tokens.

        Raises:
            ValueError: They are of other shapes, or there is another number of them.
        """
        if len(other.seeds) != len(self.seeds):
            raise ValueError(f"other must have {len(self.seeds)} members, but got {len(other.seeds)}.")
        pairs = list(zip(self.lockstep.losses, other.lockstep.losses, strict=True))
        for own, theirs in pairs:
            try:
                own.pruner.encoder.load_state_dict(theirs.pruner.encoder.state_dict())
            except RuntimeError as error:
                raise ValueError(f"other must have transformers of the same shapes: {error}") from None
        return self

    # Training

    def collect(self) -> tuple[Tensor, Tensor]:
        """Images ``[S, B, C, H, W]`` and labels ``[S, B]``."""
        drawn = [self.source.batch(self.batch_size, rng) for rng in self.rngs["images"]]
        images, labels = (torch.stack(tensors).to(self.device) for tensors in zip(*drawn, strict=True))
        return images, labels

    def advance(self, metrics: Mapping[str, Any]) -> None:
        """Lets temperatures fall."""
        for loss in self.lockstep.losses:
            loss.pruner.step()

    def figures(self) -> dict[str, NDArray[np.float64]]:
        """The accuracy on some images that are not trained on."""
        return {self.score: self.evaluate(LOGGED_IMAGES).mean(1)}

    # Execution

    @torch.no_grad()
    def play(self, index: int, episodes: int, seed: int, **how: Any) -> NDArray[np.float64]:
        """Whether each of some images that are not trained on is told right, 1 or 0, with hard choices.

        There is no noise in them, unless it is all that ranks the tokens.

        Args:
            index: Of the member; all see the same images.
            episodes: How many; where nothing is drawn beside, at most as many as there are.
            seed: Of the images.
            **how: ``gather``, see :meth:`gsrl.perception.pruning.TokenPruner.forward`.
        """
        if not isinstance(episodes, int) or episodes < 1:
            raise ValueError(f"episodes must be an integer of at least 1, but got {episodes!r}.")
        pruner: TokenPruner = self.lockstep.losses[index].pruner
        images, labels = self.source.test(episodes, seed)
        # Of equal tokens without noise the same would be kept of every image.
        is_random = self.ranking == "random"
        generator = torch.Generator().manual_seed(seed_of(seed_sequence(self.seeds[index], "evaluation", seed)))
        how = {"deterministic": not is_random, "generator": generator, **how}
        answers = [pruner(part.to(self.device), **how).outputs.argmax(-1) for part in images.split(EVALUATED)]
        return (torch.cat(answers).cpu() == labels).numpy().astype(np.float64)
