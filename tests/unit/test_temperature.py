from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
import torch
from torch.func import functional_call, vmap

import gsrl
from gsrl.temperature import (
    TEMPERATURES,
    ConstantTemperature,
    CosineTemperature,
    ExponentialTemperature,
    LearnedTemperature,
    LinearTemperature,
    StateTemperature,
    as_temperature,
    make_temperature,
)

# Temperature after 0, 1, 2, 3, 4 and 9 steps, for initial 2, minimum 0.5, steps 4.
CURVES = {
    ExponentialTemperature: [2, 2**0.5, 1, 2**-0.5, 0.5, 0.5],
    LinearTemperature: [2, 1.625, 1.25, 0.875, 0.5, 0.5],
    CosineTemperature: [2, 1.25 + 0.75 * 0.5**0.5, 1.25, 1.25 - 0.75 * 0.5**0.5, 0.5, 0.5],
}
COUNTS = [0, 1, 2, 3, 4, 9]
SETTINGS = {
    "constant": {"value": 0.7},
    "exponential": {"initial": 2.0, "minimum": 0.5, "steps": 4},
    "linear": {"initial": 2.0, "minimum": 0.5, "steps": 4},
    "cosine": {"initial": 2.0, "minimum": 0.5, "steps": 4},
    "learned": {"initial": 2.0, "minimum": 0.5},
    "state": {"in_features": 3, "maximum": 5.0},
}
schedules = pytest.mark.parametrize("cls", CURVES)


def advance(temperature, steps):
    for _ in range(steps):
        temperature.step()
    return temperature


@schedules
@pytest.mark.parametrize("index", range(len(COUNTS)))
def test_schedule_by_hand(cls, index):
    value = advance(cls(2, 0.5, 4), COUNTS[index])()
    assert value.shape == ()
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(CURVES[cls][index], rel=1e-6)


@schedules
def test_schedule_ends_exactly_at_its_minimum_and_never_falls_below(cls):
    temperature = cls(1.7, 0.1, 37)
    minimum = torch.tensor(0.1)
    values = []
    for _ in range(37):
        values.append(temperature())
        temperature.step()
    assert all(later <= earlier for earlier, later in itertools.pairwise(values))
    assert min(values) > minimum
    assert temperature() == minimum
    assert advance(temperature, 1000)() == minimum


@schedules
def test_schedule_may_be_flat(cls):
    assert advance(cls(0.5, 0.5, 3), 2)().item() == 0.5


@schedules
def test_only_step_advances(cls):
    temperature = cls(2, 0.5, 4)
    temperature.step()
    for _ in range(3):
        temperature.eval()()
        temperature.train()()
    assert temperature.count.item() == 1


@schedules
def test_state_dict_continues_the_schedule(cls):
    saved = advance(cls(2, 0.5, 4), 2)
    resumed = cls(2, 0.5, 4)
    resumed.load_state_dict(saved.state_dict())
    assert list(saved.state_dict()) == ["count"]
    assert advance(resumed, 1)().item() == pytest.approx(CURVES[cls][3], rel=1e-6)


@schedules
def test_schedule_under_vmap_with_a_count_a_member(cls):
    temperature = cls(2, 0.5, 4)
    values = vmap(lambda count: functional_call(temperature, {"count": count}, ()))(torch.tensor(COUNTS))
    assert values.tolist() == pytest.approx(CURVES[cls], rel=1e-6)
    assert temperature.count.item() == 0


def test_constant():
    temperature = ConstantTemperature(0.7)
    assert temperature().shape == ()
    assert temperature() == torch.tensor(0.7, dtype=torch.float32)
    assert advance(temperature, 5)() is temperature()
    assert not temperature().requires_grad
    assert list(temperature.parameters()) == []
    assert temperature.state_dict() == {}
    assert temperature.to("meta")().is_meta


@pytest.mark.parametrize(("initial", "minimum"), [(1.0, 0.5), (0.5001, 0.5), (100.0, 1e-3), (1e-3, 1e-4)])
def test_learned_starts_at_its_initial_value(initial, minimum):
    assert advance(LearnedTemperature(initial, minimum), 3)().item() == pytest.approx(initial, rel=1e-5)


def test_learned_by_hand():
    # softplus(w) = log 2 where w = 0.
    temperature = LearnedTemperature(math.log(2) + 0.5, 0.5)
    assert temperature.w.item() == pytest.approx(0, abs=1e-6)
    temperature().backward()
    assert temperature.w.grad.item() == pytest.approx(0.5, rel=1e-6)


@pytest.mark.parametrize("w", [-30.0, -2.0, 0.3, 4.0])
def test_learned_value_and_gradient_are_the_closed_form(w):
    temperature = LearnedTemperature(1.0, 0.5)
    temperature.load_state_dict({"w": torch.tensor(w)})
    assert temperature().item() == pytest.approx(0.5 + math.log1p(math.exp(w)), rel=1e-6)
    temperature().backward()
    assert temperature.w.grad.item() == pytest.approx(1 / (1 + math.exp(-w)), rel=1e-5)


def test_learned_keeps_its_minimum_where_softplus_underflows():
    temperature = LearnedTemperature(1.0, 0.25)
    temperature.load_state_dict({"w": torch.tensor(-1e4)})
    assert temperature().item() == 0.25


def test_learned_under_vmap_with_a_weight_a_member():
    temperature = LearnedTemperature(1.0, 0.5)
    values = vmap(lambda w: functional_call(temperature, {"w": w}, ()))(torch.tensor([0.0, 1.0]))
    assert values.tolist() == pytest.approx([0.5 + math.log(2), 0.5 + math.log1p(math.e)], rel=1e-6)


def test_state_by_hand():
    temperature = StateTemperature(2, maximum=4.0)
    features = torch.tensor([[1.0, 2.0], [-3.0, 0.0]])
    assert temperature(features).flatten().tolist() == pytest.approx([1 / (math.log(2) + 0.25)] * 2, rel=1e-6)
    temperature.load_state_dict({"w": torch.tensor([1.0, -2.0])})
    # w . h = -3 for both states.
    expected = 1 / (math.log1p(math.exp(-3)) + 0.25)
    values = temperature(features)
    assert values.shape == (2, 1, 1)
    assert values.flatten().tolist() == pytest.approx([expected, expected], rel=1e-6)
    # d temperature / dw = -temperature^2 sigmoid(w . h) h, here summed over the states: h = (-2, 2).
    values.sum().backward()
    slope = -(expected**2) / (1 + math.exp(3))
    assert temperature.w.grad.tolist() == pytest.approx([-2 * slope, 2 * slope], rel=1e-5)


def test_state_stays_between_zero_and_its_maximum():
    temperature = StateTemperature(1, maximum=2.0)
    temperature.load_state_dict({"w": torch.tensor([1.0])})
    low, high = temperature(torch.tensor([[1e4], [-1e4]])).flatten().tolist()
    assert low == pytest.approx(1 / (1e4 + 0.5), rel=1e-6)
    assert high == 2.0


@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
def test_state_broadcasts_over_logits(batch):
    temperature = StateTemperature(5, maximum=1.0)
    assert temperature(torch.zeros(*batch, 5)).shape == (*batch, 1, 1)
    assert (torch.zeros(*batch, 4, 7) / temperature(torch.zeros(*batch, 5))).shape == (*batch, 4, 7)


@pytest.mark.parametrize("features", [torch.zeros(2, 4), torch.tensor(1.0)])
def test_state_refuses_other_shapes(features):
    with pytest.raises(ValueError, match=r"features must have shape \[\*batch, 3\], but got"):
        StateTemperature(3, maximum=1.0)(features)


def test_building_draws_no_random_numbers():
    before = torch.get_rng_state()
    for name, settings in SETTINGS.items():
        make_temperature(name, **settings)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", TEMPERATURES)
def test_name_and_settings_rebuild_a_temperature(name):
    first = make_temperature(name, **SETTINGS[name])
    second = make_temperature(first.name, **json.loads(json.dumps(first.settings)))
    assert type(first) is type(second) is TEMPERATURES[name]
    assert first.settings == second.settings == SETTINGS[name]


def test_repr_shows_the_value():
    schedule = LinearTemperature(2.0, 0.5, 4)
    schedule.step()
    assert repr(ConstantTemperature(0.7)) == "ConstantTemperature(value=0.7)"
    assert repr(schedule) == "LinearTemperature(initial=2.0, minimum=0.5, steps=4, value=1.625)"
    assert repr(LearnedTemperature(2.0, 0.5)) == "LearnedTemperature(initial=2.0, minimum=0.5, value=2.0)"
    assert repr(StateTemperature(3, 5.0)) == "StateTemperature(in_features=3, maximum=5.0)"
    assert "temperature): ConstantTemperature(value=0.3)" in repr(gsrl.make_estimator("st-gumbel", temperature=0.3))


def test_registry_names():
    assert list(TEMPERATURES) == ["constant", "exponential", "linear", "cosine", "learned", "state"]
    with pytest.raises(
        ValueError, match="must be one of constant, exponential, linear, cosine, learned, state, but got 'x'"
    ):
        make_temperature("x")
    with pytest.raises(TypeError, match="slope"):
        make_temperature("constant", value=1.0, slope=2.0)


def test_as_temperature():
    schedule = LinearTemperature(2, 0.5, 4)
    assert as_temperature(schedule) is schedule
    for value in (2, 2.0, np.float32(2), np.int64(2)):
        temperature = as_temperature(value)
        assert isinstance(temperature, ConstantTemperature)
        assert temperature().item() == 2.0
        assert json.dumps(temperature.settings) == '{"value": 2.0}'
    for value in ("1", None, True, torch.tensor(1.0), StateTemperature(2, maximum=1.0)):
        with pytest.raises(TypeError, match="value must be a number or a Temperature, but got"):
            as_temperature(value)
    with pytest.raises(ValueError, match="value must be finite and above 0, but got 0"):
        as_temperature(0)


@pytest.mark.parametrize("bad", [0, -1.0, math.nan, math.inf])
@pytest.mark.parametrize(
    ("name", "argument"), [(n, a) for n in SETTINGS for a in SETTINGS[n] if isinstance(SETTINGS[n][a], float)]
)
def test_temperatures_out_of_range_are_refused(name, argument, bad):
    with pytest.raises(ValueError, match=f"{argument} must be finite and above 0, but got {bad}"):
        make_temperature(name, **{**SETTINGS[name], argument: bad})


@pytest.mark.parametrize(("name", "argument"), [(n, a) for n in SETTINGS for a in SETTINGS[n]])
def test_arguments_of_another_type_are_refused(name, argument):
    with pytest.raises(TypeError, match=f"{argument} must be an? (number|integer), but got str"):
        make_temperature(name, **{**SETTINGS[name], argument: "1"})


@pytest.mark.parametrize(
    ("name", "argument"), [("exponential", "steps"), ("linear", "steps"), ("cosine", "steps"), ("state", "in_features")]
)
def test_counts_out_of_range_are_refused(name, argument):
    with pytest.raises(ValueError, match=f"{argument} must be at least 1, but got 0"):
        make_temperature(name, **{**SETTINGS[name], argument: 0})
    with pytest.raises(TypeError, match=f"{argument} must be an integer, but got float"):
        make_temperature(name, **{**SETTINGS[name], argument: 4.0})


@schedules
def test_a_minimum_above_the_initial_value_is_refused(cls):
    with pytest.raises(ValueError, match=r"minimum must be at most initial = 1\.0, but got 2\.0"):
        cls(1, 2, 4)


@pytest.mark.parametrize("initial", [0.5, 0.4])
def test_learned_needs_room_above_its_minimum(initial):
    with pytest.raises(ValueError, match=f"initial must be above minimum = 0.5, but got {initial}"):
        LearnedTemperature(initial, 0.5)
