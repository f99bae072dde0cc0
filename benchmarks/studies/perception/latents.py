"""Discrete latents of digits: what is learned from each estimator, what its gradients are like, and three quantisers.

- *Autoencoders*: the bound on log p(x) of the 360 test digits, binary, for codes of 4 variables of 8 values, where it
  is exact, and of 20 of 10, where it is of 16 codes an image, and the importance bound of 500. All have 1,500 updates
  of 100 images; seconds say what an estimator costs that decodes several codes of each.
- *Gradients*: of the encoder's logits of 20 test digits, against enumeration, while an autoencoder of 4 variables of 8
  values learns from exact gradients.
- *Quantisers*: 64 codes at 4x4 places of a digit, grey; squared error and perplexity of the codes on the test set.

Seeds are in lock-step, and differences paired by them. Seconds are the processor's, of training alone, for all seeds.

    python benchmarks/studies/perception/latents.py [--only autoencoders gradients quantisers] [--seeds 5]
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from scipy import stats

from benchmarks.studies.common import RESULTS, Rows, start, write_page
from gsrl import diagnostics, make_estimator
from gsrl._files import save_figure
from gsrl.estimators import Estimator
from gsrl.perception.autoencoders import Autoencoder, ImageVAE, ImageVQVAE

Part = Literal["autoencoders", "quantisers", "gradients"]
PARTS: tuple[Part, ...] = get_args(Part)
UPDATES, BATCH, INTERVAL = 1500, 100, 100
LEARNING_RATE = 2e-3

ESTIMATORS: dict[str, tuple[str, dict[str, Any]]] = {
    "exact": ("exact", {}),
    "rloo, m = 4": ("rloo", {"num_samples": 4}),
    "reinmax": ("reinmax", {"temperature": 1.0}),
    "gumbel-softmax, τ = .5": ("gumbel-softmax", {"temperature": 0.5}),
    "st-gumbel": ("st-gumbel", {"temperature": 1.0}),
    "straight-through": ("straight-through", {"temperature": 1.0}),
    "reinforce": ("reinforce", {"baseline": "running-mean"}),
}
"""By label, name and settings."""
SIZES = ((20, 10), (4, 8))
"""n and K."""
QUANTISERS: dict[str, dict[str, Any]] = {
    "gumbel": {"method": "gumbel"},
    "ema": {"method": "ema"},
    "gumbel, no diversity": {"method": "gumbel", "diversity": 0.0},
    "straight-through": {"method": "straight-through"},
    "ema, no revival": {"method": "ema", "revival": 0.0},
}
MEASURED_AT = (0, 100, 500, 1500)
"""Updates after which gradients are measured."""


class Interval(NamedTuple):
    """A mean and half of its 95 % interval."""

    mean: float
    half: float

    @classmethod
    def of(cls, values: Any) -> Interval:
        """Student's, over seeds."""
        values = np.asarray(values, float)
        half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5 if len(values) > 1 else 0.0
        return cls(float(values.mean()), float(half))

    def text(self, digits: int = 2, sign: str = "") -> str:
        """As tables have it."""
        return f"{self.mean:{sign}.{digits}f} ± {self.half:.{digits}f}"


def estimator_of(label: str) -> Estimator:
    """An estimator as it is used here."""
    name, settings = ESTIMATORS[label]
    return make_estimator(name, **settings)


def learn(task: Autoencoder, updates: int) -> float:
    """Trains, and returns the processor's seconds."""
    begin = time.process_time()
    task.learn(updates * task.batch_size, total=UPDATES * BATCH, log_interval=2 * UPDATES)
    return time.process_time() - begin


# Autoencoders


def autoencoder(n: int, K: int, label: str, seeds: int) -> ImageVAE:
    """Members that learn from an estimator."""
    return ImageVAE(
        range(seeds),
        n=n,
        K=K,
        estimator=estimator_of(label),
        batch_size=BATCH,
        learning_rate=LEARNING_RATE,
        device="cpu",
    )


def learned(n: int, K: int, label: str, seeds: int) -> Iterator[dict[str, Any]]:
    """A row for each seed and evaluation; the last one with log p(x), or the importance bound."""
    task, seconds = autoencoder(n, K, label, seeds), 0.0
    for updates in range(INTERVAL, UPDATES + 1, INTERVAL):
        seconds += learn(task, INTERVAL)
        bounds = task.evaluate(360).mean(1)
        for seed, (bound, vae) in enumerate(zip(bounds, task.lockstep.losses, strict=True)):
            row = {"seed": seed, "updates": updates, "bound": -bound, "seconds": seconds}
            if updates == UPDATES:
                generator, images = torch.Generator().manual_seed(seed), task.images()
                found = vae.log_likelihood(images) if vae.is_listed else vae.importance_bound(images, 500, generator)
                row["likelihood"] = -found.mean().item()
            yield row


def lines_of_autoencoders(rows: pd.DataFrame) -> pd.DataFrame:
    """A line for each estimator, best first; differences from the first one in the study, paired by seed."""
    last = rows[rows["updates"] == UPDATES]
    bounds = last.pivot_table(index="seed", columns="estimator", values="bound")
    first = next(label for label in ESTIMATORS if label in bounds)
    lines = []
    for label in bounds.mean().sort_values().index:
        group = rows[rows["estimator"] == label]
        own = group[group["updates"] == UPDATES]
        fastest = rows.groupby("estimator")["seconds"].max().min()
        within = group[group["seconds"] <= fastest * 1.001]
        at = within[within["updates"] == within["updates"].max()] if len(within) else within
        lines.append(
            {
                "estimator": label,
                "bound": Interval.of(own["bound"]).text(),
                f"less {first}": Interval.of(bounds[label] - bounds[first]).text(sign="+"),
                "log p or importance bound": Interval.of(own["likelihood"]).text(),
                "seconds": f"{own['seconds'].iloc[0]:.0f}",
                f"bound after {fastest:.0f} s": f"{at['bound'].mean():.2f}" if len(at) else "",
            }
        )
    return pd.DataFrame(lines)


def draw_bounds(rows: pd.DataFrame) -> Figure:
    """Bounds by updates and by seconds, the mean of the seeds."""
    sizes = [size for size in SIZES if len(of_size(rows, *size))]
    figure = Figure(figsize=(7.2, 2.9 * len(sizes) + 0.5), layout="constrained")
    panels = figure.subplots(len(sizes), 2, squeeze=False)
    for (n, K), (by_updates, by_seconds) in zip(sizes, panels, strict=True):
        part = of_size(rows, n, K)
        for index, label in enumerate(ESTIMATORS):
            group = part[part["estimator"] == label].groupby("updates")[["bound", "seconds"]].mean()
            if len(group):
                by_updates.plot(group.index, group["bound"], color=f"C{index}", label=label, lw=1.2)
                by_seconds.plot(group["seconds"], group["bound"], color=f"C{index}", lw=1.2)
        top = float(part[part["updates"] == 3 * INTERVAL]["bound"].quantile(0.9))
        for axes, what in ((by_updates, "updates"), (by_seconds, "seconds of all seeds")):
            axes.set(xlabel=what, ylabel="-bound, nats", title=f"n = {n}, K = {K}", ylim=(None, top))
        by_seconds.set_xscale("log")
        by_seconds.xaxis.set_minor_formatter(NullFormatter())
    named = {name: line for row in panels for line, name in zip(*row[0].get_legend_handles_labels(), strict=True)}
    figure.legend(named.values(), named.keys(), loc="outside upper center", ncols=4)
    return figure


def of_size(rows: pd.DataFrame, n: int, K: int) -> pd.DataFrame:
    """Rows of a size of code."""
    return rows[(rows["n"] == n) & (rows["K"] == K)]


# Gradients


def gradients(samples: int) -> Iterator[dict[str, Any]]:
    """Bias and variance of each estimator, while an autoencoder learns from exact gradients."""
    n, K = SIZES[1]
    task = autoencoder(n, K, "exact", 1)
    estimators = {label: estimator_of(label) for label in ESTIMATORS if label != "exact"}
    for updates in MEASURED_AT:
        if updates > task.num_updates:
            learn(task, updates - task.num_updates)
        vae, x = task.lockstep.losses[0], task.images(20)
        with torch.no_grad():
            policy = vae.encode(x)
        found = diagnostics.compare(policy, vae.objective(x), estimators, samples, measure_cost=False)
        for row in found.to_frame().to_dict("records"):
            yield {"updates": updates, "gradient_norm": found.gradient_norm, **row}


# Quantisers


def quantised(label: str, seeds: int) -> Iterator[dict[str, Any]]:
    """A row for each seed."""
    settings = QUANTISERS[label]
    task = ImageVQVAE(range(seeds), batch_size=BATCH, learning_rate=LEARNING_RATE, device="cpu", **settings)
    seconds = learn(task, UPDATES)
    images = task.images()
    for seed, (loss, perplexity) in enumerate(zip(task.lockstep.losses, task.perplexity(images), strict=True)):
        with torch.no_grad():
            error = (loss.reconstruct(images)[0] - images).square().mean().item()
        yield {"seed": seed, "error": error, "perplexity": perplexity, "seconds": seconds}


def lines_of_quantisers(rows: pd.DataFrame) -> pd.DataFrame:
    """A line for each, with ratios of errors to those of moving averages, paired by seed."""
    errors = rows.pivot_table(index="seed", columns="quantiser", values="error")
    return pd.DataFrame(
        {
            "quantiser": label,
            "error": Interval.of(group["error"]).text(4),
            "times that of ema": Interval.of(errors[label] / errors["ema"]).text() if "ema" in errors else "",
            "perplexity": Interval.of(group["perplexity"]).text(1),
            "seconds": f"{group['seconds'].iloc[0]:.0f}",
        }
        for label, group in rows.groupby("quantiser", sort=False)
    )


# Pictures


def draw_images() -> Figure:
    """Test digits, what two autoencoders make of them and of codes that are drawn, and how codes are used."""
    vae = ImageVAE((0,), n=20, K=10, learning_rate=LEARNING_RATE, device="cpu")
    vq = ImageVQVAE((0,), learning_rate=LEARNING_RATE, device="cpu")
    for task in (vae, vq):
        learn(task, UPDATES)
    categorical, quantiser = vae.lockstep.losses[0], vq.lockstep.losses[0]
    binary, grey = vae.images(12), vq.images(12)
    with torch.no_grad():
        decoded, _ = quantiser.reconstruct(grey)
        _, codes = quantiser.reconstruct(vq.images())
    rows = {
        "binary digits": binary,
        "from 20 x 10": categorical.reconstruct(binary),
        "drawn, 20 x 10": categorical.sample(12, torch.Generator().manual_seed(0)),
        "grey digits": grey,
        "from 64 codes": decoded,
    }
    figure = Figure(figsize=(7.2, 4.4))
    parts: Any = figure.subfigures(2, 1, height_ratios=(3, 1.2))
    top, bottom = parts
    grid = top.subplots(len(rows), 12)
    for line, (title, images) in zip(grid, rows.items(), strict=True):
        for axes, image in zip(line, images, strict=True):
            axes.imshow(image[0], cmap="gray_r", vmin=0, vmax=1)
            axes.set(xticks=[], yticks=[])
        line[0].set_ylabel(title, rotation=0, ha="right", va="center", fontsize=8)
    axes = bottom.subplots()
    axes.bar(np.arange(64), np.sort(codes.flatten().bincount(minlength=64).numpy() / codes.numel())[::-1])
    axes.axhline(1 / 64, color="C1", lw=1)
    axes.set(xlabel="codes of the gumbel quantiser, by use", ylabel="share of places")
    return figure


def main(
    *,
    only: tuple[Part, ...] = PARTS,
    seeds: int = 5,
    samples: int = 2000,
    pictures: bool = True,
    out: Path = RESULTS / "perception",
) -> None:
    """Trains what is missing, keeps each row, and writes page and pictures.

    Args:
        only: Parts of the study.
        seeds: Seeds 0, 1, ..., in lock-step.
        samples: Estimates of each gradient.
        pictures: Whether autoencoders are trained for a picture of what they make.
        out: Folder of rows, page and pictures.
    """
    vaes, vqs, measured = (Rows(out / f"latents-{part}.csv") for part in PARTS)
    if "autoencoders" in only:
        labels = sorted(ESTIMATORS, key=lambda label: label == "exact")  # which takes longest
        sizes = [(n, K, label) for label in labels for n, K in SIZES if label != "exact" or K**n <= 2**16]
        for run in vaes.missing({"n": n, "K": K, "estimator": label} for n, K, label in sizes):
            vaes.add(learned(run["n"], run["K"], run["estimator"], seeds), **run)
    if "quantisers" in only:
        for run in vqs.missing({"quantiser": label} for label in QUANTISERS):
            vqs.add(quantised(run["quantiser"], seeds), **run)
    if "gradients" in only:
        for _ in measured.missing([{"updates": MEASURED_AT[-1]}]):
            measured.add(gradients(samples))

    tables, all_rows = {}, vaes.table()
    for n, K in SIZES if len(all_rows) else ():
        if len(part := of_size(all_rows, n, K)):
            tables[f"Autoencoders, n = {n}, K = {K}: nats of -log p(x), {UPDATES:,} updates of {BATCH}"] = (
                lines_of_autoencoders(part)
            )
    if len(rows := vqs.table()):
        tables[f"Quantisers: 64 codes, 4x4 places, {UPDATES:,} updates of {BATCH}"] = lines_of_quantisers(rows)
    if len(rows := measured.table()):
        deviation = rows["variance"] ** 0.5 / rows["gradient_norm"]
        columns = ["updates", "estimator", "relative_bias", "relative_bias_error", "relative_deviation", "cosine"]
        tables["Gradients of the encoder's logits, n = 4, K = 8, in units of the exact gradient's norm"] = rows.assign(
            relative_deviation=deviation
        )[columns].round(3)
    write_page(
        out / "latents.md",
        "Discrete latents of digits",
        "Means over seeds with 95 % intervals. Lower is better, but for perplexity. Seconds are the processor's, of "
        "training alone, all seeds together.",
        tables,
    )
    if len(all_rows):
        save_figure(draw_bounds(all_rows), out / "latents.png")
    if pictures:
        save_figure(draw_images(), out / "latents-images.png")


if __name__ == "__main__":
    start(main, __doc__)
