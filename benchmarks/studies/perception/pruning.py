"""Token pruning: what masks keep, what estimators do to gradients, what a learned choice is worth, and what it costs.

- ``masks``: how often a mask keeps, over its logit and temperature, beside one that adds a single Gumbel variable.
- ``gradients``: bias and variance of every estimator for a transformer of 16 tokens with one stage, against the exact
  gradient over 2^16 masks; and of the exact choice of 4, against that over its 1,820 subsets.
- ``comparison``: accuracy of transformers that go on from the same dense ones, each for as many updates: dense, with a
  choice that is learned in several ways, and with those that are not. The dense ones are trained first, and kept in
  ``work``.
- ``speed``: images a second, one thread, and operations.
- ``page``: tables and figures of what is there.

Rows are appended as they come, one for each variant and seed; those that are there already are not run again.

    python benchmarks/studies/perception/pruning.py WHAT [--dataset digits-clutter] [--variants subset random] [--help]
"""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Any, Literal

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
import tyro
from scipy import stats
from stable_baselines3.common.utils import LinearSchedule
from torch import Tensor
from torch.nn import functional as F

from benchmarks.studies.common import RESULTS, Rows, in_turns, repeated, start, write_page
from benchmarks.studies.perception.reduction import ReducedClassifier
from gsrl.diagnostics import compare
from gsrl.estimators import make_estimator
from gsrl.perception.classifier import PrunedClassifier
from gsrl.perception.data import digits
from gsrl.perception.masks import GumbelSoftMask, keep_or_drop, make_pathwise
from gsrl.perception.pruning import TokenPruner, VisionTransformer, save_picture
from gsrl.subsets import SubsetOfK, relaxed_subset

OUT = RESULTS / "perception"
WHAT = Literal["masks", "gradients", "comparison", "speed", "page"]

PATHWISE = ("st-gumbel", "gumbel-rao", "gapped-st", "straight-through", "reinmax")
AT_1 = ("gapped-st", "straight-through", "reinmax")
"""Estimators whose temperature is left at 1."""

BATCH = 2_000
"""Masks that a transformer is given at a time."""

HELD = {f"held at {tau:g}": {"initial_temperature": tau, "final_temperature": tau} for tau in (0.1, 0.5, 1.0)}
"""Temperatures that do not fall."""

VARIANTS: dict[str, dict[str, Any]] = {
    "dense": {"stages": (), "shares": ()},
    "subset": {},
    "random": {"ranking": "random"},
    "positions": {"ranking": "positions"},
    "brightness": {"ranking": "brightness", "choose": "top-k"},
    "contrast": {"ranking": "contrast", "choose": "top-k"},
    "top-k": {"choose": "top-k"},
    "independent": {"choose": "independent"},
    "subset, rate of 10": {"predictor_rate": 10.0},
    **{f"subset, {name}": how for name, how in HELD.items()},
    **{
        f"{choose}, {name}": {"choose": choose, "estimator": name}
        | ({"initial_temperature": 1.0, "final_temperature": 1.0} if name in AT_1 else {})
        for choose in ("subset", "independent")
        for name in PATHWISE[1:]
    },
    "independent, gumbel-softmax": {"choose": "independent", "estimator": "gumbel-softmax"},
    "class attention": {"method": "class attention"},
    "token merging": {"method": "token merging"},
}
"""What a transformer's tokens are chosen by; settings of a task."""


TEXT = """What the words mean: [the page on token pruning](../../../docs/token-pruning.md).

Of gradients, `relative_bias` is |E g - exact| / |exact|, with its standard error; what is unbiased has its error
there. `variance` is the total one of an estimate over |exact|², `cosine` its mean with the exact gradient.
`relaxed-subset` is k softmaxes in turn, `gsrl.subsets.relaxed_subset`. Accuracies are of images that were not trained
on; differences are paired by seed, with 95 % intervals of Student's t. Images a second are by the processor's clock."""
"""What stands before the tables."""


# Masks


def masks(out: Path, samples: int = 200_000) -> None:
    """How often a mask keeps."""
    rows = Rows(out / "masks.csv")
    runs = [{"temperature": tau, "logit": round(l, 2)} for tau in (0.1, 0.5, 1.0) for l in (-2, -1, 0, 0.92, 1, 2)]
    for run in rows.missing(runs):
        mask, logits = GumbelSoftMask(run["temperature"]), torch.full((samples, 1), float(run["logit"]))
        noise = mask.draw_noise(logits.shape, torch.Generator().manual_seed(round(100 * run["temperature"])))
        right, one = (
            (mask(logits, noise=each, hard=True).double().mean().item())
            for each in (noise, noise * torch.tensor([0.0, 1.0]))
        )
        sigmoid = torch.tensor(float(run["logit"])).sigmoid().item()
        rows.add([{"samples": samples, "sigmoid": sigmoid, "kept": right, "kept_with_one_gumbel": one}], **run)


# Gradients


class Given(torch.nn.Module):
    """A ranking whose log-odds ``[M, N]`` are given, each row its own."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.own = [logits]  # in a list: it is nobody's parameter

    def forward(self, inputs: Tensor) -> Tensor:
        """The log-odds."""
        return self.own[0]


def trained(seed: int) -> VisionTransformer:
    """A transformer of 16 tokens that knows its digits."""
    small: dict[str, Any] = {"patch": 2, "width": 16, "depth": 3, "stages": (), "shares": ()}
    task = PrunedClassifier("digits", seeds=(seed,), **small).learn(64 * 400)
    network: VisionTransformer = task.lockstep.losses[0].pruner.encoder
    return network.requires_grad_(False)


def cross_entropy(keep: Tensor, network: VisionTransformer, image: Tensor, label: Tensor) -> Tensor:
    """That of an image, ``[M]``, with masks ``[M, 16]``."""
    answers = [network(image.expand(len(part), -1, -1, -1), part) for part in keep.split(BATCH)]
    outputs = torch.cat(answers)
    return F.cross_entropy(outputs, label.expand(len(outputs)), reduction="none")


def gradients(out: Path, seeds: int, samples: int = 10_000) -> None:
    """Bias and variance by estimator."""
    rows = Rows(out / "gradients.csv")
    for seed in range(seeds):
        if rows.holds(seed=seed):
            continue
        network = trained(seed)
        images, labels = digits("test")
        image, label = images[seed : seed + 1], labels[seed : seed + 1]
        logits = torch.randn(16, generator=torch.Generator().manual_seed(seed))

        cost = partial(cross_entropy, network=network, image=image, label=label)
        subsets = _subsets(logits, cost, samples, seed, network, image, label)
        rows.add([*_independent(logits, cost, samples, seed), *subsets], seed=seed)
        print("seed", seed, "is done", flush=True)


def _independent(logits: Tensor, cost: Any, samples: int, seed: int) -> list[dict[str, Any]]:
    policy = keep_or_drop(logits)
    subjects: dict[str, Any] = {}
    for tau in (0.1, 0.5, 1.0):
        for name in ("gumbel-softmax", "st-gumbel", "gumbel-rao"):
            subjects[f"{name} {tau:g}"] = make_estimator(name, temperature=tau)
    for name in (*AT_1, "reinforce", "rloo", "arm", "disarm", "rebar", "local-expectation"):
        subjects[f"{name} 1" if name in AT_1 else name] = make_estimator(name, shape=(16, 2))
    rows = []

    def f(matrix: Tensor) -> Tensor:
        return cost(matrix[..., 1].reshape(-1, 16)).view(matrix.shape[:-2])

    with torch.no_grad():
        support = policy.enumerate_support()
        values = f(support)
    probs = policy.log_prob(support).exp()
    exact = torch.einsum("m,m,mnk->nk", values, probs, support - policy.probs)
    for label, estimator in subjects.items():
        calls = 32 if label == "local-expectation" else 4
        count = max(400, samples // calls) if calls > 4 else samples
        found = compare(policy, f, {label: estimator}, count, exact=exact, seed=seed, measure_cost=False).rows[0]
        name, _, temperature = label.partition(" ")
        rows.append(
            {
                "choose": "independent",
                "estimator": name,
                "temperature": temperature,
                "samples": count,
                "relative_bias": found.relative_bias,
                "relative_bias_error": found.relative_bias_error,
                "variance": found.variance / exact.square().sum().item(),
                "cosine": found.cosine,
            }
        )
    return rows


def _subsets(
    logits: Tensor,
    cost: Any,
    samples: int,
    seed: int,
    network: VisionTransformer,
    image: Tensor,
    label: Tensor,
    k: int = 4,
) -> list[dict[str, Any]]:
    """The slopes of a pruner for exactly k, and of relaxed subsets, against the sum over all subsets."""
    variable = logits.clone().requires_grad_()
    distribution = SubsetOfK(variable, k)
    support = distribution.enumerate_support()
    with torch.no_grad():
        values = cost(support)
    (exact,) = torch.autograd.grad((distribution.log_prob(support).exp() * values).sum(), variable)
    subjects = [(name, tau) for name in PATHWISE for tau in ((1.0,) if name in AT_1 else (0.1, 0.5, 1.0))]
    rows = []
    for name, tau in [*subjects, *(("relaxed-subset", tau) for tau in (0.1, 0.5, 1.0))]:
        generator = torch.Generator().manual_seed(seed)
        estimates = []
        for _ in range(max(1, samples // BATCH)):
            leaves = logits.expand(BATCH, 16).clone().requires_grad_()
            if name == "relaxed-subset":
                value = cost(relaxed_subset(leaves, k, tau, hard=True, generator=generator))
            else:
                pruner = TokenPruner(network, {0: k / 16}, "subset", make_pathwise(name, tau), ranking=Given(leaves))
                outputs = pruner(image.expand(BATCH, -1, -1, -1), generator=generator).outputs
                value = F.cross_entropy(outputs, label.expand(BATCH), reduction="none")
            (slope,) = torch.autograd.grad(value.sum(), leaves)
            estimates.append(slope)
        found = torch.cat(estimates)
        mean, norm = found.mean(0), exact.norm()
        cosines = F.cosine_similarity(found, exact.expand_as(found), dim=-1)
        rows.append(
            {
                "choose": "subset",
                "estimator": name,
                "temperature": f"{tau:g}",
                "samples": len(found),
                "relative_bias": ((mean - exact).norm() / norm).item(),
                "relative_bias_error": ((found.var(0).sum() / len(found)).sqrt() / norm).item(),
                "variance": (found.var(0).sum() / norm**2).item(),
                "cosine": cosines.mean().item(),
            }
        )
    return rows


# Comparison


def settings_of(dataset: str, patch: int, width: int, seeds: int) -> dict[str, Any]:
    """Those that all variants share."""
    return {"dataset": dataset, "patch": patch, "width": width, "seeds": tuple(range(seeds))}


def dense_start(file: Path, updates: int, shared: dict[str, Any]) -> PrunedClassifier:
    """Dense transformers, trained for so many updates; goes on where it was stopped."""
    how = {**shared, **VARIANTS["dense"]}
    task = PrunedClassifier.load(file) if file.exists() else PrunedClassifier(**how)
    while task.num_updates < updates:
        task.learn(task.batch_size * min(100, updates - task.num_updates))
        task.save(file)
        print(f"dense, {task.num_updates} updates: accuracy {task.evaluate(500).mean(1).round(3)}", flush=True)
    return task


def comparison(
    out: Path,
    work: Path,
    shared: dict[str, Any],
    first_updates: int,
    updates: int,
    variants: tuple[str, ...],
    stages: dict[int, float],
    images: int,
) -> None:
    """Accuracy by variant and seed."""
    rows = Rows(out / "comparison.csv")
    named = {name: shared[name] for name in ("dataset", "patch", "width")}
    where = {"stages": " ".join(f"{block}:{share:g}" for block, share in stages.items())}
    run = {**named, **where, "first_updates": first_updates, "updates": updates}
    todo = [name for name in variants if not rows.holds(**run, variant=name)]
    if not todo:
        return
    work.mkdir(parents=True, exist_ok=True)
    file = work / f"{'-'.join(map(str, named.values()))}.zip"
    dense = dense_start(file, first_updates, shared)
    for name in todo:
        how = {"stages": tuple(stages), "shares": tuple(stages.values()), "annealing": updates, **VARIANTS[name]}
        kind: Any = ReducedClassifier if "method" in how else PrunedClassifier
        task = kind(**{**shared, **how}, learning_rate=LinearSchedule(1e-3, 0.0, 1.0)).start_from(dense)
        begin = time.process_time()
        task.learn(task.batch_size * updates)
        seconds = time.process_time() - begin
        accuracy = task.evaluate(images).mean(1)
        pruner: TokenPruner = task.lockstep.losses[0].pruner
        rows.add(
            [
                {
                    "seed": seed,
                    "accuracy": accuracy[index],
                    "flops": pruner.flops(),
                    "share_of_flops": pruner.flops() / pruner.encoder.flops(),
                    "images": images,
                    "cpu_seconds": round(seconds / len(task.seeds), 1),
                }
                for index, seed in enumerate(task.seeds)
            ],
            **run,
            variant=name,
        )
        print(f"{name}: accuracy {accuracy.round(3)}, {seconds:.0f} s", flush=True)
        if VARIANTS[name].get("stages", stages) and name in ("subset", "independent", "top-k"):
            shown, _ = task.source.test(8, seed=1)
            with torch.no_grad():
                pruned = pruner(shown, deterministic=True)
            file = out / f"kept-{shared['dataset']}-{_slug(where['stages'])}-{name}.png"
            save_picture(file, shown, pruned, shared["patch"])


# Speed


def speed(out: Path, rounds: int = 7) -> None:
    """Images a second, on one thread."""
    shapes: dict[str, tuple[tuple[int, int, int], int, dict[int, float]]] = {
        "clutter, 64 tokens": ((1, 16, 16), 2, {0: 0.5, 2: 0.25, 4: 0.125}),
        "MNIST, 196 tokens": ((1, 28, 28), 2, {0: 0.7, 2: 0.49, 4: 0.343}),
    }
    rows = Rows(out / "speed.csv")
    runs = [{"network": name, "batch": batch} for name in shapes for batch in (1, 64)]
    for run in rows.missing(runs):
        shape, patch, stages = shapes[run["network"]]
        network = VisionTransformer(shape, patch, width=32, depth=6, heads=2).eval()
        pruner = TokenPruner(network, stages).eval()
        images = torch.rand(run["batch"], *shape)

        def dense(network: VisionTransformer = network, images: Tensor = images) -> Tensor:
            with torch.no_grad():
                return network(images)

        def pruned(pruner: TokenPruner = pruner, images: Tensor = images) -> Tensor:
            with torch.no_grad():
                return pruner(images, deterministic=True).outputs

        calls = 20 if run["batch"] > 1 else 100
        seconds = in_turns({"dense": repeated(dense), "pruned": repeated(pruned)}, calls, rounds, time.process_time)
        per_image = seconds.median() / run["batch"]
        rows.add(
            [
                {
                    "dense_images_a_second": round(1 / per_image["dense"]),
                    "pruned_images_a_second": round(1 / per_image["pruned"]),
                    "times_as_fast": round((seconds["dense"] / seconds["pruned"]).median(), 2),
                    "share_of_flops": round(pruner.flops() / network.flops(), 3),
                }
            ],
            **run,
        )


# What came of it


def differences(table: pd.DataFrame, than: str = "dense") -> pd.DataFrame:
    """Accuracy in per cent by variant, and how it differs from another's on the same seeds, with 95 % intervals."""
    wide = 100 * table.pivot(index="seed", columns="variant", values="accuracy")
    lines = []
    for name in dict.fromkeys(table["variant"]):
        own = table[table["variant"] == name]
        difference = (wide[name] - wide[than]).dropna() if than in wide else pd.Series(dtype=float)
        half = np.nan
        if len(difference) > 1:
            half = stats.t.ppf(0.975, len(difference) - 1) * difference.sem()
        lines.append(
            {
                "variant": name,
                "seeds": len(own),
                "accuracy, %": f"{wide[name].mean():.1f}",
                f"less {than}": "" if name == than or difference.empty else f"{difference.mean():+.1f} ± {half:.1f}",
                "share of FLOPs": f"{own['share_of_flops'].iloc[0]:.2f}",
            }
        )
    return pd.DataFrame(lines)


def page(out: Path) -> None:
    """Tables and figures."""
    tables: dict[str, pd.DataFrame] = {}
    if (out / "masks.csv").exists():
        tables["How often a mask keeps"] = pd.read_csv(out / "masks.csv").round(4)
    if (out / "gradients.csv").exists():
        found = pd.read_csv(out / "gradients.csv")
        _draw_gradients(found, out / "gradients.png")
        keys = ["choose", "estimator", "temperature"]
        numbers = ["relative_bias", "relative_bias_error", "variance", "cosine"]
        means = found.groupby(keys, dropna=False, sort=False)[numbers].mean().round(3).reset_index()
        tables[f"Gradients of a choice among 16 tokens, means over {found['seed'].nunique()} networks and images"] = (
            means
        )
    if (out / "comparison.csv").exists():
        keys = ["dataset", "patch", "width", "stages", "first_updates", "updates"]
        for values, part in pd.read_csv(out / "comparison.csv").groupby(keys, sort=False):
            dataset, patch, width, stages, first, updates = values
            heading = f"{dataset}, patches of {patch}, width {width}, stages {stages}, {first} + {updates} updates"
            tables[heading] = differences(part)
            _draw_comparison(part, out / f"comparison-{dataset}-{_slug(str(stages))}.png")
    if (out / "speed.csv").exists():
        tables["Images a second, one thread"] = pd.read_csv(out / "speed.csv")
    write_page(out / "pruning.md", "Token pruning", TEXT, tables)


def _slug(stages: str) -> str:
    """Stages in the name of a file."""
    return stages.replace(" ", "-").replace(":", "_")


def _draw_gradients(table: pd.DataFrame, file: Path) -> None:
    """Mean over seeds; what is unbiased is drawn where its bias was measured, which is its error."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.8), sharey=True)
    names = list(dict.fromkeys(table["estimator"]))
    colours = dict(zip(names, plt.get_cmap("tab20")(np.linspace(0, 1, len(names))), strict=True))
    for axis, choose in zip(axes, ("independent", "subset"), strict=True):
        for name, own in table[table["choose"] == choose].groupby("estimator", sort=False):
            means = own.groupby("temperature", dropna=False)[["relative_bias", "variance"]].mean()
            axis.plot(means["relative_bias"], means["variance"], "o-", label=name, markersize=4, color=colours[name])
        axis.set(xscale="log", yscale="log", xlabel="relative bias", title=choose, xlim=(0.008, 1.5))
        axis.set_xticks([0.01, 0.1, 1], ["1 %", "10 %", "100 %"])
    axes[0].set_ylabel("variance of an estimate, relative")
    handles = {label: handle for axis in axes for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside right center")
    figure.savefig(file)
    plt.close(figure)


def _draw_comparison(table: pd.DataFrame, file: Path) -> None:
    names = list(dict.fromkeys(table["variant"]))
    figure, axis = plt.subplots(figsize=(1.5 + 0.75 * len(names), 3.2))
    for place, name in enumerate(names):
        own = 100 * table.loc[table["variant"] == name, "accuracy"]
        axis.plot(np.full(len(own), place), own, "o", color="0.6", markersize=3)
        axis.plot([place - 0.25, place + 0.25], [own.mean()] * 2, color="C0")
    axis.set_xticks(range(len(names)), names, rotation=30, ha="right")
    axis.set_ylabel("accuracy, %")
    axis.set_title(f"{table['dataset'].iloc[0]}, stages {table['stages'].iloc[0]}", fontsize=9)
    figure.savefig(file)
    plt.close(figure)


def main(
    what: tyro.conf.Positional[WHAT],
    *,
    dataset: str = "digits-clutter",
    variants: tuple[str, ...] = ("dense", "subset", "random", "positions", "brightness", "contrast"),
    stages: tuple[int, ...] = (0, 2, 4),
    shares: tuple[float, ...] = (0.5, 0.25, 0.125),
    patch: int = 2,
    width: int = 32,
    first_updates: int = 600,
    updates: int = 400,
    seeds: int = 5,
    images: int = 2_000,
    out: Path = OUT,
    work: Path = Path("runs") / "pruning",
) -> None:
    """Runs what is missing of a part of the study.

    Args:
        what: The part.
        dataset: Of the comparison.
        variants: Of the comparison.
        stages: Of the comparison: blocks before which tokens go.
        shares: What remains.
        patch: Of the comparison.
        width: Of the comparison.
        first_updates: Those of the dense transformers that all variants go on from.
        updates: Of each variant.
        seeds: How many.
        images: Of an evaluation.
        out: Folder of rows, figures and page.
        work: Folder of the dense transformers.
    """
    if what == "masks":
        masks(out)
    elif what == "gradients":
        gradients(out, seeds)
    elif what == "comparison":
        shared = settings_of(dataset, patch, width, seeds)
        chosen = dict(zip(stages, shares, strict=True))
        comparison(out, work, shared, first_updates, updates, variants, chosen, images)
    elif what == "speed":
        speed(out)
    page(out)


if __name__ == "__main__":
    start(main, __doc__)
