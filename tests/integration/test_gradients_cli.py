"""The command that measures gradient estimators, on test problems and on trained agents."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pytest
import torch

import run_agent
from gsrl import DiscreteSAC, FactoredCategorical, checkpoint
from gsrl.estimators import ESTIMATORS
from gsrl.objectives import OBJECTIVES, Problem
from gsrl.runs import gradients
from gsrl.runs.errors import UsageError
from gsrl.values import combine_critics

ALL = set(ESTIMATORS)
QUICK = ["--num-samples", "300"]
TRAIN = ["--steps", "120", "--learning-starts", "40", "--batch-size", "16", "--eval-every", "1000"]


@pytest.fixture(autouse=True)
def few_updates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gradients, "ADAPT_STEPS", 5)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run of gumbel-sac."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    assert run_agent.main(["train", *TRAIN, "--eval-episodes", "2", "--out", str(folder)]) == 0
    return folder


def rows(folder: Path) -> dict[str, dict[str, float]]:
    """The table that was written, by estimator, without what a clock said."""
    with (folder / "gradients.csv").open(newline="") as file:
        return {
            row["estimator"]: {k: float(v) for k, v in row.items() if k not in ("estimator", "biased", "seconds")}
            for row in csv.DictReader(file)
        }


def square(z: torch.Tensor) -> torch.Tensor:
    return z[..., 0].sum(-1) ** 2


@pytest.mark.parametrize(
    ("n", "K", "missing"),
    [
        (1, 2, {"unordered-set"}),
        (1, 3, {"arm", "disarm", "unordered-set"}),
        (1, 4, {"arm", "disarm"}),
        (2, 2, set()),
        (3, 3, {"arm", "disarm"}),
        (12, 2, set()),
        (13, 2, {"exact"}),
        (1, 91, {"arm", "disarm"}),
        (1, 92, {"arm", "disarm", "arsm"}),
        (64, 65, {"arm", "disarm", "exact", "local-expectation"}),
    ],
)
def test_the_estimators_that_fit(n: int, K: int, missing: set[str]) -> None:
    estimators = gradients.fitting_estimators(n, K)
    assert estimators.keys() == ALL - missing
    logits = torch.linspace(-1, 1, n * K).reshape(n, K)
    for name, estimator in estimators.items():
        assert estimator.name == name
        leaf = logits.clone().requires_grad_()
        value = estimator.expectation(FactoredCategorical(leaf), square, generator=torch.Generator().manual_seed(0))
        (estimate,) = torch.autograd.grad(value, leaf)
        assert estimate.shape == (n, K)
        assert estimate.isfinite().all(), name


def test_temperature_reaches_every_relaxation() -> None:
    cold = gradients.fitting_estimators(2, 2, temperature=0.25)
    for name in ("gumbel-softmax", "st-gumbel", "straight-through", "gumbel-rao", "gapped-st"):
        assert cold[name].settings["temperature"]() == 0.25
    assert cold["rebar"].settings["temperature"] == cold["relax"].settings["temperature"] == 0.25
    assert cold["decoupled-st"].settings["forward_temperature"]() == 0.5
    assert cold["decoupled-st"].settings["backward_temperature"]() == 0.25
    assert cold["reinmax"].settings["temperature"]() == 1.0
    assert gradients.fitting_estimators(2, 2, temperature=1.5)["reinmax"].settings["temperature"]() == 1.5


def test_every_objective_has_its_options() -> None:
    assert gradients.OPTIONS.keys() == OBJECTIVES.keys()
    assert gradients.make_problem("polynomial", {"n": 5, "exponent": 3.0}).logits.shape == (5, 2)
    assert gradients.make_problem("cubic", {"n": 2, "K": 4}).logits.shape == (2, 4)
    assert gradients.make_problem("quadratic", {"K": 7}).logits.shape == (1, 7)
    one = torch.tensor([[[0.0, 1.0]]])
    assert gradients.make_problem("bernoulli", {"exponent": 3.0}).f(one).item() == pytest.approx(0.55**3)


def test_a_test_problem_is_measured_alike_each_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    assert run_agent.main(["gradients", *QUICK]) == 0
    printed = capsys.readouterr().out
    folder = Path("runs/gradients_quadratic")
    first = rows(folder)
    assert first.keys() == gradients.fitting_estimators(1, 4).keys()
    for text in (*first, "quadratic, n = 1, K = 4", "gradient norm 0.486 (closed form)", "memory"):
        assert text in printed
    assert "rebar and relax fitted to the problem first, by 5 updates" in printed
    assert str(folder / "gradients.csv") in printed
    assert str(folder / "gradients.png") in printed
    picture = (folder / "gradients.png").read_bytes()
    assert picture.startswith(b"\x89PNG\r\n\x1a\n")
    assert len(picture) > 20_000

    assert first["exact"]["relative_bias"] < 1e-6
    assert first["exact"]["variance"] == 0
    straight = first["straight-through"]  # .8841 by enumeration; 5 standard errors are exceeded once in a million
    assert abs(straight["relative_bias"] - 0.8841) < 5 * straight["relative_bias_error"]
    assert straight["samples"] == 300

    assert run_agent.main(["gradients", *QUICK, "--out", "again"]) == 0
    assert rows(Path("again")) == first
    names = ["--estimators", "reinmax", "relax"]
    assert run_agent.main(["gradients", *QUICK, *names, "--out", "fewer"]) == 0
    assert rows(Path("fewer")) == {name: first[name] for name in ("reinmax", "relax")}
    assert run_agent.main(["gradients", *QUICK, *names, "--seed", "1", "--out", "other"]) == 0
    assert rows(Path("other"))["reinmax"]["variance"] != first["reinmax"]["variance"]


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_the_table_fits_the_console_and_keeps_what_matters(
    columns: int, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    names = ["--estimators", "straight-through", "reinforce"]
    assert run_agent.main(["gradients", *QUICK, *names, "--objective", "cubic", "--out", str(tmp_path)]) == 0
    table = capsys.readouterr().out.partition("temperature 1")[0]
    assert max(len(line) for line in table.splitlines()) <= columns
    assert "…" not in table
    for text in ("straight-through", "reinforce", "relative bias", "variance", "cosine", "2.63"):
        assert text in table
    assert ("memory" in table) == (columns == 120)


def test_more_configurations_than_can_be_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--objective", "polynomial", "--n", "40", "--exponent", "3", "--estimators", "local-expectation", "arm"]
    assert run_agent.main(["gradients", *QUICK, *options, "--out", str(tmp_path)]) == 0
    assert "closed form" in capsys.readouterr().out
    assert rows(tmp_path)["local-expectation"]["relative_bias"] < 1e-4  # exact where factors are apart
    assert rows(tmp_path)["arm"]["calls"] == 2


def test_the_problem_of_a_run_is_its_actor_and_its_critics(run: Path) -> None:
    problem = gradients.load_problem(run, seed=3)
    model = DiscreteSAC.load(run / "model.zip", device="cpu")
    assert problem.name == "discrete-sac on CartPole-v1"
    assert problem.logits.shape == (gradients.OBSERVATIONS, 1, 2)
    assert torch.equal(problem.logits, gradients.load_problem(run, seed=3).logits)
    assert not torch.equal(problem.logits, gradients.load_problem(run, seed=4).logits)

    # Every row is an observation of the replay, as actor and critics of the saved model see it.
    replay = checkpoint.load(run / "checkpoint.zip")["model"]["replay_buffer"]
    stored = torch.as_tensor(replay["observations"]).reshape(-1, 4)
    with torch.no_grad():
        logits = model.policy.actor(stored).logits
        values = combine_critics(model.policy.critic(stored).values, model.critics)
    distance = (problem.logits[:, None] - logits).abs().amax((-2, -1))
    assert distance.amin(1).max() < 1e-5
    expected = values[distance.argmin(1), 0]
    first, second = torch.eye(2).reshape(2, 1, 1, 2).expand(2, gradients.OBSERVATIONS, 1, 2)
    both = problem.f(torch.stack([first, second]))
    torch.testing.assert_close(both.T, expected, rtol=1e-3, atol=1e-4)


def test_the_problem_of_a_run_with_masks_has_the_choices_that_were_legal(tmp_path: Path) -> None:
    small = [*TRAIN, "--net-arch", "8", "--eval-episodes", "2"]
    assert run_agent.main(["train", "--env", "gsrl/MaskedGrid-v0", *small, "--out", str(tmp_path / "run")]) == 0
    policy = gradients.load_problem(tmp_path / "run", seed=3).policy()
    replay = checkpoint.load(tmp_path / "run" / "checkpoint.zip")["model"]["replay_buffer"]
    stored = np.unpackbits(np.asarray(replay["action_masks"]), axis=-1, count=16).reshape(-1, 16).astype(bool)
    assert {tuple(row) for row in policy.mask[:, 0].tolist()} <= {tuple(row) for row in stored.tolist()}
    assert (policy.mask.sum(-1) < 16).all()
    assert len(policy.mask.unique(dim=0)) > 8


def test_a_run_is_measured_in_its_own_folder(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    before = {path.name for path in run.iterdir()}
    names = ["--estimators", "exact", "straight-through", "st-gumbel", "rloo"]
    assert run_agent.main(["gradients", *QUICK, *names, "--run", str(run)]) == 0
    printed = capsys.readouterr().out
    assert "discrete-sac on CartPole-v1, n = 1, K = 2" in printed
    assert "(enumeration)" in printed
    # The critics give the values of all actions at once: they are linear, and straight-through is exact.
    assert "relative error 0, cosine 1, same sign 100%, scale 1" in printed
    found = rows(run)
    assert found["straight-through"]["relative_bias"] < 1e-3
    assert found["straight-through"]["variance"] < 1e-6
    assert found["st-gumbel"]["relative_bias"] > 0.1
    assert found["rloo"]["relative_bias"] < 5 * found["rloo"]["relative_bias_error"]
    assert {path.name for path in run.iterdir()} == before | {"gradients.csv", "gradients.png"}

    assert run_agent.main(["eval", str(run), "--episodes", "1"]) == 0  # the run is as it was


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--estimators", "reinmx"], "unknown estimator 'reinmx'; did you mean reinmax"),
        (["--estimators", "arm", "--objective", "cubic"], "arm does not fit n = 3, K = 3: it needs K = 2"),
        (["--estimators", "unordered-set", "--objective", "bernoulli"], "only 2 configurations to draw from"),
        (["--estimators", "exact", "--objective", "polynomial"], "takes more than 4096 calls"),
        (["--estimators", "rloo", "rloo"], "--estimators must not name one twice, but got rloo rloo"),
        (["--objective", "cubi"], "unknown objective 'cubi'; did you mean cubic?"),
        (["--n", "3"], "quadratic has no --n; it has --K"),
        (["--objective", "polynomial", "--K", "3"], "polynomial has no --K; it has --n and --exponent"),
        (["--K", "1"], "--K must be at least 2, but got 1"),
        (["--objective", "cubic", "--n", "0"], "--n must be at least 1, but got 0"),
        (["--objective", "bernoulli", "--exponent", "0.5"], "--exponent must be at least 1, but got 0.5"),
        (["--objective", "bernoulli", "--exponent", "nan"], "--exponent must be at least 1, but got nan"),
        (["--temperature", "0"], "--temperature must be positive and finite, but got 0.0"),
        (["--temperature", "nan"], "--temperature must be positive and finite, but got nan"),
        (["--num-samples", "1"], "--num-samples must be at least 2, but got 1"),
        (["--seed", "-1"], "--seed must be at least 0 and below 2**31, but got -1"),
        (["--run", "nowhere"], "nowhere holds no run"),
        (["--run", "nowhere", "--objective", "cubic"], "leave --objective, --n, --K and --exponent out"),
        (["--out", "file"], "--out file cannot be a folder"),
    ],
)
def test_mistakes_are_answered_in_a_line(
    options: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    assert run_agent.main(["gradients", *options]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("run_agent.py: error: ")
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert not Path("runs").exists()


def test_a_run_without_a_critic_of_its_actions_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "ppo"
    small = ["--steps", "32", "--n-envs", "2", "--n-steps", "16", "--batch-size", "32", "--n-epochs", "1"]
    argv = ["train", "--agent", "ppo", *small, "--eval-episodes", "1", "--out", str(folder)]
    assert run_agent.main(argv) == 0
    capsys.readouterr()
    assert run_agent.main(["gradients", "--run", str(folder)]) == 2
    error = capsys.readouterr().err
    assert f"gradients needs a run of a soft actor-critic agent, but {folder} is one of ppo" in error
    assert error.count("\n") == 1
    assert not (folder / "gradients.csv").exists()


def test_a_run_that_has_not_taken_a_step_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "killed"
    monkeypatch.setattr(DiscreteSAC, "learn", _killed)
    with pytest.raises(KeyError):
        run_agent.main(["train", *TRAIN, "--out", str(folder)])
    capsys.readouterr()
    assert run_agent.main(["gradients", "--run", str(folder)]) == 2
    assert "its training has not taken a step" in capsys.readouterr().err


def _killed(*args: object, **kwargs: object) -> None:
    raise KeyError("killed")


def test_a_gradient_of_zero_has_no_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # .55^3000 is 0 in floating point, so that both choices cost the same.
    options = ["--objective", "bernoulli", "--exponent", "3000", "--estimators", "exact", "st-gumbel", "relax"]
    assert run_agent.main(["gradients", *QUICK, *options, "--out", str(tmp_path)]) == 0
    assert "picture      none: the gradient is 0" in capsys.readouterr().out
    assert {path.name for path in tmp_path.iterdir()} == {"gradients.csv"}
    with (tmp_path / "gradients.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    assert [(row["estimator"], row["bias"], row["relative_bias"]) for row in found] == [
        ("exact", "0.0", ""),
        ("st-gumbel", "0.0", ""),
        ("relax", "0.0", ""),
    ]


@pytest.mark.parametrize(
    ("masks", "num_samples"),
    [
        # 3 * 2, 3 * 3 and 2 * 2 configurations: the row with the fewest counts.
        ([[[1, 1, 1], [1, 1, 0]], [[1, 1, 1], [1, 1, 1]], [[1, 0, 1], [0, 1, 1]]], 2),
        ([[[1, 1, 1], [1, 1, 0]]], 3),
        ([[[1, 1, 1], [0, 1, 0]]], None),
    ],
)
def test_the_unordered_set_counts_legal_configurations(masks: list[list[list[int]]], num_samples: int | None) -> None:
    mask = torch.tensor(masks, dtype=torch.bool)
    logits = torch.zeros(mask.shape).masked_fill(~mask, -torch.inf)
    problem = Problem("masked", logits, square)
    chosen = gradients.choose_estimators([], problem, 1.0)
    assert ("unordered-set" in chosen) == (num_samples is not None)
    if num_samples is None:
        with pytest.raises(UsageError, match="only 3 configurations to draw from"):
            gradients.choose_estimators(["unordered-set"], problem, 1.0)
    else:
        assert chosen["unordered-set"].settings == {"num_samples": num_samples}
        assert gradients.measure(problem, {"set": chosen["unordered-set"]}, 10, seed=0).rows[0].calls == num_samples


def test_settings_are_described() -> None:
    cubic = gradients.make_problem("cubic", {})
    chosen = gradients.choose_estimators(["decoupled-st", "rloo", "relax"], cubic, 0.5)
    assert gradients.describe(chosen, 0.5).splitlines() == [
        "temperature 0.5, decoupled-st samples at 1",
        "samples in an estimate: rloo 10",
        "relax fitted to the problem first, by 5 updates",
    ]
    assert gradients.describe(gradients.choose_estimators(["exact"], cubic, 1.0), 1.0) == "temperature 1"


def test_relax_and_rebar_are_fitted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gradients, "ADAPT_STEPS", 150)
    problem = gradients.make_problem("quadratic", {})
    variances = {}
    for fitted in (False, True):
        if not fitted:
            monkeypatch.setattr(gradients, "ADAPTED", ())
        else:
            monkeypatch.setattr(gradients, "ADAPTED", ("rebar", "relax"))
        estimators = gradients.choose_estimators(["rebar", "relax"], problem, 1.0)
        comparison = gradients.measure(problem, estimators, 2000, seed=0)
        variances[fitted] = {row.estimator: row.variance for row in comparison.rows}
    # Before: relax is REINFORCE, of total variance 1.169.
    assert variances[False]["relax"] == pytest.approx(1.169, rel=0.1)
    assert variances[True]["relax"] < 0.7 * variances[False]["relax"]
    assert variances[True]["rebar"] < variances[False]["rebar"]
    assert not math.isnan(variances[True]["rebar"])
