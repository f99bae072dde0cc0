"""Files from before act and learn on as those who wrote them.

Those of earlier/write.py are from before defaults were others, those of earlier/kinds.py of each kind there is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from earlier import kinds
from earlier.write import ENV, FOLDER, actions, learn_on, parameters

from gsrl import DiscreteSAC, Population
from gsrl.algorithms.policies import CnnPolicy, DiscreteSACPolicy, MultiInputPolicy
from gsrl.algorithms.reinforce import ReinforcePolicy

# Rounding differs between processors.
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def expected() -> dict[str, np.ndarray]:
    """What the code that wrote the files made of them."""
    with np.load(FOLDER / "expected.npz") as arrays:
        return dict(arrays)


def test_an_agent(expected: dict[str, np.ndarray]) -> None:
    agent = DiscreteSAC.load(FOLDER / "agent.zip", device="cpu")
    assert {name: getattr(agent, name) for name in DiscreteSAC.EARLIER} == DiscreteSAC.EARLIER
    np.testing.assert_array_equal(actions(agent), expected["actions"])
    np.testing.assert_allclose(parameters(learn_on(agent)), expected["parameters"], rtol=0, atol=TOLERANCE)


def test_settings_given_on_loading_count() -> None:
    changed = {"n_step_correction": True, "batch_size": 5, "tau": 0.5}
    agent = DiscreteSAC.load(FOLDER / "agent.zip", device="cpu", **changed)
    expected = {**DiscreteSAC.EARLIER, **changed}
    assert {name: getattr(agent, name) for name in expected} == expected


def test_a_policy_by_itself(expected: dict[str, np.ndarray]) -> None:
    policy = DiscreteSACPolicy.load(FOLDER / "policy.zip", device="cpu")
    np.testing.assert_array_equal(actions(policy), expected["actions"])


def test_a_population(expected: dict[str, np.ndarray]) -> None:
    population = Population.load(FOLDER / "population.zip", DiscreteSAC, ENV, device="cpu")
    assert [settings["gamma"] for settings in population.settings] == [0.9, 0.99]
    members = [population.member(index) for index in range(2)]
    for member in members:
        assert {name: getattr(member, name) for name in DiscreteSAC.EARLIER} == DiscreteSAC.EARLIER
    np.testing.assert_array_equal([actions(member) for member in members], expected["actions of members"])
    population.learn(40)
    learned = [parameters(population.member(index)) for index in range(2)]
    np.testing.assert_allclose(learned, expected["parameters of members"], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("kind", kinds.KINDS)
def test_each_kind_goes_on(kind: str, tmp_path: Path) -> None:
    found, expected = kinds.going_on(kind, tmp_path), kinds.recorded()[kind]
    assert found.keys() >= expected.keys()
    for name, value in expected.items():
        # Sums over hundreds of parameters, each as exact as TOLERANCE.
        assert found[name] == pytest.approx(value, rel=1e-4, abs=1e-4), name


def test_what_is_loaded_is_saved_with_what_it_was_loaded_with(tmp_path: Any, expected: dict[str, np.ndarray]) -> None:
    DiscreteSAC.load(FOLDER / "agent.zip", device="cpu").save(tmp_path / "agent.zip", include=["replay_buffer"])
    again = DiscreteSAC.load(tmp_path / "agent.zip", device="cpu")
    np.testing.assert_allclose(parameters(learn_on(again)), expected["parameters"], rtol=0, atol=TOLERANCE)
    DiscreteSACPolicy.load(FOLDER / "policy.zip", device="cpu").save(tmp_path / "policy.zip")
    again = DiscreteSACPolicy.load(tmp_path / "policy.zip", device="cpu")
    np.testing.assert_array_equal(actions(again), expected["actions"])


@pytest.mark.parametrize(
    ("policy", "arguments", "net_arch"),
    [
        (DiscreteSACPolicy, {}, [256, 256]),
        (DiscreteSACPolicy, {"net_arch": None}, [256, 256]),
        (DiscreteSACPolicy, {"net_arch": [8]}, [8]),
        (MultiInputPolicy, {}, [256, 256]),
        (CnnPolicy, {}, []),
        (CnnPolicy, {"net_arch": [8]}, [8]),
    ],
)
def test_layers_that_no_argument_named(policy: type[Any], arguments: dict[str, Any], net_arch: list[int]) -> None:
    earlier = policy.earlier_arguments(arguments)
    assert earlier == {"net_arch": net_arch, "layer_norm": False, "normalize_observations": False}
    given = {"layer_norm": True, "normalize_observations": True}
    assert policy.earlier_arguments({**arguments, **given}) == {"net_arch": net_arch, **given}


def test_a_policy_whose_defaults_are_what_they_were() -> None:
    assert ReinforcePolicy.earlier_arguments({"net_arch": [8]}) == {"net_arch": [8]}
