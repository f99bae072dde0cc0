"""GradientDiagnosticsCallback: what it measures on a live agent, what it logs, and that training does not notice."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3 import DQN
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import configure
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import envs  # noqa: F401  (registers the probes)
from gsrl import DiscreteSAC, make_estimator
from gsrl.callbacks import GradientDiagnosticsCallback, actor_problem
from gsrl.diagnostics import compare
from gsrl.estimators import GumbelSoftmax, STGumbel
from gsrl.replay import ReplayBatch
from gsrl.temperature import ExponentialTemperature, LearnedTemperature
from gsrl.values import combine_critics

CARTPOLE = "CartPole-v1"
STATISTICS = {"relative_bias", "relative_bias_error", "variance", "snr", "cosine"}
SLOPE = {"relative_error", "cosine", "sign_agreement", "scale"}
DEFAULTS = ["st-gumbel", "gumbel-softmax", "straight-through", "reinmax", "reinforce", "rloo"]


def make_model(env: Any = CARTPOLE, policy: str = "MlpPolicy", **settings: Any) -> DiscreteSAC:
    defaults: dict[str, Any] = {
        "policy_kwargs": {"net_arch": [8]},
        "buffer_size": 1000,
        "learning_starts": 20,
        "batch_size": 8,
        "seed": 0,
        "device": "cpu",
    }
    return DiscreteSAC(policy, gym.make(env) if isinstance(env, str) else env, **(defaults | settings))


def make_callback(every: int = 50, estimators: Any = None, **settings: Any) -> GradientDiagnosticsCallback:
    return GradientDiagnosticsCallback(every, estimators, **({"num_samples": 20, "batch_size": 16} | settings))


def measure(model: DiscreteSAC, callback: GradientDiagnosticsCallback) -> dict[str, dict[str, float]]:
    """What a callback measures on an agent that stands still: statistics by estimator."""
    callback.init_callback(model)
    assert callback.on_step()
    assert callback.comparison is not None
    return {row.estimator: {name: getattr(row, name) for name in STATISTICS} for row in callback.comparison.rows}


def scalars(folder: Path) -> dict[str, dict[int, float]]:
    """TensorBoard's figures: value by step, by tag."""
    (run,) = folder.glob("DiscreteSAC_*")
    events = EventAccumulator(str(run))
    events.Reload()
    return {tag: {event.step: event.value for event in events.Scalars(tag)} for tag in events.Tags()["scalars"]}


def leaves(tree: Any) -> Iterator[Any]:
    if isinstance(tree, Mapping):
        for value in tree.values():
            yield from leaves(value)
    elif isinstance(tree, Sequence) and not isinstance(tree, str):
        for value in tree:
            yield from leaves(value)
    else:
        yield tree


def assert_same(left: Any, right: Any) -> None:
    """Two trees of tensors, arrays and numbers are equal, bit for bit."""
    for one, other in zip(leaves(left), leaves(right), strict=True):
        if isinstance(one, torch.Tensor | np.ndarray):
            assert one.shape == other.shape
            assert (one == other).all()
        else:
            assert one == other


# Training does not notice


@pytest.mark.parametrize(
    "make_own",
    [
        lambda: STGumbel(ExponentialTemperature(1.0, 0.25, 100)),
        lambda: GumbelSoftmax(LearnedTemperature(1.0, 0.1)),
        lambda: make_estimator("reinforce", baseline="running-mean"),
        lambda: make_estimator("relax", n=1, K=2),
    ],
    ids=["schedule", "learned", "running mean", "control variate"],
)
def test_training_is_the_same_bit_for_bit(make_own: Any) -> None:
    def train(callback: GradientDiagnosticsCallback | None) -> tuple[DiscreteSAC, Any]:
        torch.manual_seed(0)
        np.random.seed(0)
        env = VecNormalize(DummyVecEnv([lambda: gym.make(CARTPOLE)]))
        model = make_model(env, estimator=make_own()).learn(150, callback)
        state = model.state_dict()
        for name in ("ep_info_buffer", "ep_success_buffer"):  # they hold wall time
            del state[name]
        return model, (state, torch.get_rng_state(), np.random.get_state()[1], env.obs_rms.mean)

    callback = make_callback()
    (_, without), (model, with_callback) = train(None), train(callback)
    assert callback.comparison is not None
    assert_same(without, with_callback)
    assert [name for name, p in model.learner.loss.named_parameters() if p.grad is not None] == []


# What is measured


@pytest.mark.parametrize("critics", ["min", "mean"])
def test_the_objective_is_the_actors_own(critics: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model(critics=critics, n_steps=1).learn(100)
    assert model.replay_buffer is not None
    batches: list[ReplayBatch] = []
    original = model.replay_buffer._get_samples

    def recorded(*args: Any) -> ReplayBatch:
        batches.append(original(*args))
        return batches[-1]

    monkeypatch.setattr(model.replay_buffer, "_get_samples", recorded)
    callback = make_callback(batch_size=32)
    measure(model, callback)
    (batch,) = batches
    assert batch.rewards.shape == (32,)
    assert len(torch.unique(batch.observations, dim=0)) > 16

    with torch.no_grad():
        p = model.policy.actor(batch.observations).probs[:, 0]
        q = combine_critics(model.policy.critic(batch.observations).values, critics)[:, 0]
    gradient = p * (q - (p * q).sum(-1, keepdim=True))  # of sum_a p_a q_a, in the logits
    assert callback.comparison is not None
    assert callback.comparison.gradient_norm == pytest.approx(gradient.norm().item(), rel=1e-5)
    assert callback.comparison.reference == "enumeration"


def test_observations_are_normalised_as_the_agents() -> None:
    env = VecNormalize(DummyVecEnv([lambda: gym.make(CARTPOLE)]))
    model = make_model(env).learn(100)
    callback = make_callback()
    measure(model, callback)
    assert callback.comparison is not None
    normalised = callback.comparison.gradient_norm
    env.obs_rms.mean += 1.0
    measure(model, callback)
    assert callback.comparison.gradient_norm != pytest.approx(normalised, rel=1e-3)


def test_the_agents_own_estimator_takes_the_place_of_its_namesake() -> None:
    own = STGumbel(0.3)
    model = make_model(estimator=own).learn(100)
    measured = measure(model, make_callback())
    assert list(measured) == DEFAULTS
    assert measured["st-gumbel"] == measure(model, make_callback(estimators=[STGumbel(0.3)]))["st-gumbel"]
    assert measured["st-gumbel"] != measure(model, make_callback(estimators=["st-gumbel"]))["st-gumbel"]
    assert list(measure(make_model(estimator="exact").learn(100), make_callback())) == [*DEFAULTS, "exact"]


def test_a_schedule_is_measured_where_it_stands() -> None:
    model = make_model(estimator=STGumbel(ExponentialTemperature(1.0, 0.25, 80))).learn(100)
    measured = measure(model, make_callback())
    assert measured["st-gumbel"] == measure(model, make_callback(estimators=[STGumbel(0.25)]))["st-gumbel"]


def test_estimators_by_name_or_by_label() -> None:
    model = make_model().learn(100)
    assert list(measure(model, make_callback(estimators=["rloo", GumbelSoftmax(0.5)]))) == ["rloo", "gumbel-softmax"]
    measured = measure(model, make_callback(estimators={"hot": STGumbel(2.0), "cold": STGumbel(0.2)}))
    assert list(measured) == ["hot", "cold"]
    assert measured["hot"]["variance"] < measured["cold"]["variance"]


def test_the_figures_depend_on_the_seed_the_step_and_the_agent_alone() -> None:
    model = make_model().learn(100)
    callback = make_callback()
    first = measure(model, callback)
    assert measure(model, callback) == first
    assert measure(model, make_callback()) == first
    assert measure(model, make_callback(seed=1)) != first
    model.num_timesteps = 150
    assert measure(model, callback) != first


# What is logged


def test_tensorboard_holds_sane_figures_at_their_steps(tmp_path: Path) -> None:
    model = make_model(learning_starts=60, tensorboard_log=str(tmp_path), estimator="exact")
    model.learn(200, make_callback(num_samples=200, batch_size=64))
    figures = {tag: value for tag, value in scalars(tmp_path).items() if tag.startswith("gradients/")}
    assert figures.keys() == {
        "gradients/norm",
        *(f"gradients/critic_slope/{name}" for name in SLOPE),
        *(f"gradients/{label}/{name}" for label in [*DEFAULTS, "exact"] for name in STATISTICS),
    }
    assert all(value.keys() == {100, 150, 200} for value in figures.values())  # at 50 nothing has been learned

    for step in (100, 150, 200):
        of = {tag.removeprefix("gradients/"): value[step] for tag, value in figures.items()}
        assert of["norm"] > 0
        # A critic of all choices is linear: its slope is the difference it makes to choose otherwise.
        assert of["critic_slope/relative_error"] < 1e-4
        assert of["critic_slope/cosine"] == pytest.approx(1.0, abs=1e-4)
        assert of["critic_slope/sign_agreement"] == pytest.approx(1.0)
        assert of["critic_slope/scale"] == pytest.approx(1.0, abs=1e-4)
        # With one factor and a linear critic, straight-through is the exact gradient.
        for label in ("exact", "straight-through"):
            assert of[f"{label}/relative_bias"] < 1e-4
            assert of[f"{label}/variance"] < 1e-6 * of["norm"] ** 2
            assert of[f"{label}/snr"] > 1e3
            assert of[f"{label}/cosine"] == pytest.approx(1.0, abs=1e-4)
        # Four standard errors: a failure rate of 6e-5 each, at worst, were the seeds not fixed.
        for label in ("reinforce", "rloo"):
            assert 0 < of[f"{label}/relative_bias"] < 4 * of[f"{label}/relative_bias_error"]
            error = (of[f"{label}/variance"] / 200) ** 0.5 / of["norm"]
            assert of[f"{label}/relative_bias_error"] == pytest.approx(error, rel=1e-4)
        assert of["rloo/variance"] < of["reinforce/variance"]
        assert of["reinforce/cosine"] < of["rloo/cosine"] < 1
        assert of["st-gumbel/relative_bias"] > 4 * of["st-gumbel/relative_bias_error"]


def test_a_csv_file_holds_the_figures(tmp_path: Path) -> None:
    model = make_model()
    model.set_logger(configure(str(tmp_path), ["csv"]))
    model.learn(150, make_callback(estimators=["rloo"]), log_interval=1)
    with open(tmp_path / "progress.csv", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["gradients/norm"]]
    assert [int(row["time/total_timesteps"]) for row in rows] == [50, 100, 150]
    for row in rows:
        assert float(row["gradients/rloo/variance"]) > 0
        assert float(row["gradients/critic_slope/cosine"]) == pytest.approx(1.0, abs=1e-4)


def test_the_console_shows_what_fits(capsys: pytest.CaptureFixture[str]) -> None:
    long = "a label that is far longer than the console is wide: "
    model = make_model()
    model.set_logger(configure(None, ["stdout"]))
    model.learn(50, make_callback(estimators={long + "hot": STGumbel(2.0), long + "cold": STGumbel(0.2)}))
    output = capsys.readouterr().out
    assert "norm" in output
    assert "critic_slope/relative_error" in output
    assert "label" not in output


def test_several_environments_are_counted_together(tmp_path: Path) -> None:
    model = make_model(make_vec_env(CARTPOLE, 3), tensorboard_log=str(tmp_path))
    model.learn(201, make_callback(estimators=["rloo"]))
    assert list(scalars(tmp_path)["gradients/norm"]) == [51, 102, 150, 201]


def test_dict_observations(tmp_path: Path) -> None:
    model = make_model("gsrl/ProbeDictObservation-v0", "MultiInputPolicy", tensorboard_log=str(tmp_path))
    model.learn(60, make_callback())
    assert list(scalars(tmp_path)["gradients/norm"]) == [50]


def test_an_agent_loaded_without_its_replay_buffer_waits_for_transitions(tmp_path: Path) -> None:
    make_model().learn(40).save(tmp_path / "model")
    loaded = DiscreteSAC.load(tmp_path / "model", env=gym.make(CARTPOLE), tensorboard_log=str(tmp_path), device="cpu")
    loaded.learn(4, make_callback(every=1, estimators=["rloo"]), reset_num_timesteps=False)
    assert list(scalars(tmp_path)["gradients/norm"]) == [42, 43, 44]  # the buffer is empty at the first step


# Errors


def test_another_algorithm_is_refused() -> None:
    with pytest.raises(TypeError, match=r"model must be a gsrl\.DiscreteSAC, but got DQN"):
        DQN("MlpPolicy", CARTPOLE, device="cpu").learn(10, make_callback())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"every": 0}, "every must be an integer of at least 1, but got 0"),
        ({"every": 1.5}, "every must be an integer of at least 1, but got 1.5"),
        ({"num_samples": 1}, "num_samples must be an integer of at least 2, but got 1"),
        ({"batch_size": 0}, "batch_size must be an integer of at least 1, but got 0"),
        ({"seed": -1}, "seed must be an integer of at least 0, but got -1"),
    ],
)
def test_arguments_out_of_range(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GradientDiagnosticsCallback(**settings)


@pytest.mark.parametrize(
    ("estimator", "message"),
    [("gumble", "but got 'gumble'"), ("arm", "arm is for binary factors, K = 2, but got K = 3")],
)
def test_what_cannot_be_compared_is_refused_before_training(estimator: str, message: str) -> None:
    model = make_model("Acrobot-v1")  # K = 3
    with pytest.raises(ValueError, match=message):
        model.learn(10, make_callback(estimators=[estimator]))
    assert model.num_timesteps == 0


def test_what_is_measured_is_the_policy_of_legal_choices(monkeypatch: pytest.MonkeyPatch) -> None:
    policies = []

    def spy(policy: Any, *arguments: Any, **settings: Any) -> Any:
        policies.append(policy)
        return compare(policy, *arguments, **settings)

    monkeypatch.setattr("gsrl.callbacks.compare", spy)
    callback = GradientDiagnosticsCallback(50, ["rloo"], num_samples=10)
    model = DiscreteSAC("MlpPolicy", "gsrl/MaskedGrid-v0", learning_starts=20, policy_kwargs={"net_arch": [8]}, seed=0)
    model.learn(60, callback)
    legal = policies[-1].mask.sum(-1)
    assert (legal < 16).all()
    assert legal.unique().numel() > 1


class Dropped(FlattenExtractor):
    """Observations, of which training sees half."""

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        return torch.dropout(super().forward(observations), 0.5, self.training)


def test_what_is_measured_is_the_network_without_dropout() -> None:
    model = make_model(policy_kwargs={"net_arch": [8], "features_extractor_class": Dropped}).learn(60)
    model.policy.set_training_mode(True)
    first, second = (actor_problem(model, 32, np.random.default_rng(0)) for _ in range(2))
    assert torch.equal(first.logits, second.logits)
    assert torch.equal(*(problem.f(torch.eye(2).expand(1, 32, 2, 2)[:, :, :1]) for problem in (first, second)))
    assert model.policy.training
