"""TensorBoard's page HParams: settings of every run, and the metrics it compares them by, as TensorBoard reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata

import run_agent

SMALL = ["--steps", "120", "--eval-every", "60", "--eval-episodes", "2", "--net-arch", "16"]


def hyperparameters(folder: Path) -> tuple[dict[str, Any], set[str], dict[str, float]]:
    """The settings of a run, the metrics of the page, and the last value of each metric."""
    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    found = accumulator.summary_metadata
    start = metadata.parse_session_start_info_plugin_data(found[metadata.SESSION_START_INFO_TAG].plugin_data.content)
    experiment = metadata.parse_experiment_plugin_data(found[metadata.EXPERIMENT_TAG].plugin_data.content)
    assert metadata.SESSION_END_INFO_TAG in found
    values = {name: getattr(value, value.WhichOneof("kind")) for name, value in start.hparams.items()}
    metrics = {info.name.tag for info in experiment.metric_infos}
    return values, metrics, {tag: accumulator.Scalars(tag)[-1].value for tag in metrics}


def test_of_one_agent_and_of_a_resumed_run(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert run_agent.main(["train", "--agent", "a2c", *SMALL, "--gamma", "0.9", "--out", str(folder)]) == 0
    values, metrics, last = hyperparameters(folder)
    assert (values["agent"], values["env"], values["seed"], values["gamma"]) == ("a2c", "CartPole-v1", 0, 0.9)
    assert (values["net_arch"], values["normalize"], values["eval_every"]) == ("(16,)", False, 60)
    assert "settings" not in values
    assert metrics == {"eval/mean_return", "eval/std_return"}
    final = float((folder / "evaluations.csv").read_text().splitlines()[-1].split(",")[1])
    assert last["eval/mean_return"] == pytest.approx(final, rel=1e-6)
    assert [path for path in folder.iterdir() if path.is_dir()] == []  # no run of its own beside
    assert run_agent.main(["train", "--resume", str(folder), "--steps", "200"]) == 0
    assert hyperparameters(folder)[0] == values


def test_of_each_agent_in_lockstep(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    options = ["--seeds", "2", "--processes", "1", "--seed", "3", "--learning-starts", "20", "--gradient-samples", "4"]
    assert run_agent.main(["train", *SMALL, *options, "--out", str(folder)]) == 0
    for seed in (3, 4):
        values, metrics, last = hyperparameters(folder / f"seed_{seed}")
        assert (values["seed"], values["agent"], values["estimator"]) == (seed, "discrete-sac", "st-gumbel")
        assert metrics == set(last)
    # The gradient is measured at each evaluation, of each agent, and shown beside.
    lines = (folder / "gradients.csv").read_text().splitlines()
    assert [line.split(",")[:2] for line in lines[1:]] == [["60", "3"], ["60", "4"], ["120", "3"], ["120", "4"]]
    accumulator = EventAccumulator(str(folder / "seed_3"))
    accumulator.Reload()
    measured = [event.value for event in accumulator.Scalars("gradients/snr")]
    snr = lines[0].split(",").index("snr")
    assert measured == pytest.approx([float(lines[1].split(",")[snr]), float(lines[3].split(",")[snr])], rel=1e-6)


def test_measuring_the_gradient_does_not_disturb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluations = []
    for samples in ("0", "4"):
        folder = tmp_path / samples
        options = ["--learning-starts", "20", "--gradient-samples", samples, "--out", str(folder)]
        assert run_agent.main(["train", *SMALL, *options]) == 0
        evaluations.append((folder / "evaluations.csv").read_text())
        assert (folder / "gradients.csv").exists() == (samples == "4")
    assert evaluations[0] == evaluations[1]
    for options, message in (
        (
            ["--agent", "a2c", "--gradient-samples", "4"],
            "--gradient-samples is for discrete-sac and gumbel-sac",
        ),
        (["--gradient-samples", "1"], "--gradient-samples must be 0 or at least 2, but got 1"),
    ):
        capsys.readouterr()
        assert run_agent.main(["train", *options, "--out", str(tmp_path / "none")]) == 2
        assert message in capsys.readouterr().err
    assert run_agent.main(["search", "--gradient-samples", "4", "--out", str(tmp_path / "none")]) == 2
