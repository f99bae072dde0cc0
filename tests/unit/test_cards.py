"""Cards: settings that are read from constructors, and the registry."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import math
import pickle
from typing import Any, Literal

import pytest
from torch import Tensor

pytest.importorskip("tyro")

import run_agent
from gsrl import DiscreteSAC, FactoredCategorical, Reinforce
from gsrl.estimators import LocalExpectation, Pathwise, replace_value
from gsrl.runs import cards, gradients
from gsrl.runs.cards import Card, get_card
from gsrl.runs.environments import make_environments
from gsrl.runs.errors import UsageError
from gsrl.runs.search import parse_grid
from gsrl.runs.settings import Setting, parameters, plain_type, read_value, type_name
from tests.common.estimators import registered


class Curious(Reinforce):
    """REINFORCE that is curious.

    Args:
        curiosity: How much so; a number, or a function of the remaining progress.
        tau: Which members of a population may have of their own, see :func:`elsewhere`.
    """

    def __init__(self, *args: Any, curiosity: float = 0.25, tau: float | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.curiosity, self.own = curiosity, tau


@pytest.fixture
def curious(monkeypatch: pytest.MonkeyPatch) -> Card:
    card = Card(name="curious", algorithm=Curious, summary="a test's", own={"gamma": Setting(0.5)})
    monkeypatch.setattr(cards, "_CARDS", {**cards._CARDS, "curious": card})
    return card


def test_an_argument_of_a_constructor_is_a_setting_everywhere(
    curious: Card, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = curious.Settings(curiosity=0.5)
    names = {each.name for each in dataclasses.fields(settings)}
    assert names == {each.name for each in dataclasses.fields(get_card("reinforce-baseline").Settings)} | {
        *("curiosity", "tau", "baseline")
    }
    with pytest.raises(SystemExit):
        run_agent.main(["train", "--agent", "curious", "--help"])
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "--curiosity FLOAT How much so. (default: 0.25)" in shown
    assert "--tau {None}|FLOAT Which members of a population may have of their own. (default: None)" in shown
    assert "--gamma FLOAT Discount factor. (default: 0.5)" in shown
    assert parse_grid(["tau=.1,.2"], settings) == {"tau": (0.1, 0.2)}
    with pytest.raises(UsageError, match=r"cannot vary 'curiosity': it is the same for all; what may differ is .*tau"):
        parse_grid(["curiosity=.1,.2"], settings)
    assert "| `curiosity` | `0.25` | How much so. |" in curious.table().splitlines()
    assert curious.make(make_environments("CartPole-v1", 1, 0), settings, seed=0).curiosity == 0.5


class Soft(Pathwise):
    name, source = "soft-st", "a test"

    def _sample(self, policy: FactoredCategorical, noise: Any) -> Tensor:
        return replace_value(policy.probs, policy.sample(noise=noise))


class Hard(LocalExpectation):
    name = "hard-expectation"


def test_an_estimator_that_is_registered_is_one_of_the_command_line() -> None:
    def temperature(name: str, **given: Any) -> float:
        card = get_card("gumbel-sac")
        agent = card.make(make_environments("CartPole-v1", 1, 0), card.Settings(estimator=name, **given), seed=0)
        assert agent.estimator.name == name
        return float(agent.estimator.settings["temperature"]()) if agent.estimator.settings else math.nan

    before = get_card("dial").Settings()
    with registered(Soft), registered(Hard):
        for name in ("discrete-sac", "gumbel-sac", "signalling", "dial"):
            (kind,) = (each.type for each in dataclasses.fields(get_card(name).Settings) if each.name == "estimator")
            assert read_value("soft-st", kind) == "soft-st"
        assert temperature("soft-st") == 1.0  # its own default
        assert temperature("soft-st", temperature=0.25) == 0.25
        assert math.isnan(temperature("hard-expectation", temperature=0.25))
        card = get_card("signalling")
        settings = card.Settings(estimator="soft-st", temperature=0.25, meanings=3)
        assert card.make("lewis", settings, seeds=[0]).channel.estimator.temperature() == 0.25
        with pytest.raises(ValueError, match="temperature must be None with hard-expectation, which has none"):
            card.make("lewis", card.Settings(estimator="hard-expectation", temperature=1.0, meanings=3), seeds=[0])
        chosen = gradients.choose_estimators(("soft-st", "hard-expectation"), gradients.make_problem("cubic", {}), 0.3)
        assert chosen["soft-st"].settings["temperature"]() == 0.3
        with pytest.raises(UsageError, match=r"unknown estimator 'soft_st'; did you mean soft-st\?"):
            gradients.choose_estimators(("soft_st",), gradients.make_problem("cubic", {}), 0.3)
    assert get_card("dial").Settings() == before


def test_settings_are_copied_and_sent_to_other_processes() -> None:
    for card in cards.cards():
        settings = card.Settings()
        for other in (pickle.loads(pickle.dumps(settings)), copy.deepcopy(settings)):
            assert other == settings
            assert type(other) is card.Settings
    assert get_card("reinforce").Settings() != get_card("reinforce-rloo").Settings()


def test_cards_speak_of_settings_and_arguments_that_there_are() -> None:
    pytest.importorskip("sb3_contrib")
    for card in cards.cards():
        settings = {each.name for each in dataclasses.fields(card.Settings)}
        known = {*settings, *parameters(card.constructor), "temperature", "n_critics"}
        assert card.own.keys() <= settings, card.name
        assert {*card.fixed, *card.made, *card.without} <= known, card.name
        for tuned in card.tuned.values():
            assert tuned.keys() <= {*settings, *card.fixed, "steps", "n_envs"}, card.name


def test_every_setting_says_what_it_is() -> None:
    for card in cards.cards():
        for row in card.table().splitlines()[2:]:
            _, _, _, text, _ = row.split(" | ".strip())
            assert len(text.strip()) > 5, f"{card.name}: {row}"
            for word in (":class:", "``", "As above", "See :", " see ."):
                assert word not in text, f"{card.name}: {row}"


def test_defaults_of_an_agent_that_may_not_be_installed_are_those_of_its_library() -> None:
    contrib = pytest.importorskip("sb3_contrib")
    for name, cls in (("qrdqn", contrib.QRDQN), ("maskable-ppo", contrib.MaskablePPO)):
        theirs = {each: parameter.default for each, (parameter, _) in parameters(cls).items()}
        ours = vars(get_card(name).Settings())
        assert {each: ours[each] for each in ours.keys() & theirs.keys() - {"buffer_size"}} == {
            each: theirs[each] for each in ours.keys() & theirs.keys() - {"buffer_size"}
        }
    policy = inspect.signature(contrib.QRDQN.policy_aliases["MlpPolicy"].__init__)
    assert get_card("qrdqn").Settings().n_quantiles == policy.parameters["n_quantiles"].default


def test_what_no_command_line_can_write_is_refused() -> None:
    class Odd(Reinforce):
        def __init__(self, *args: Any, where: type[Any] = int, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)

    with pytest.raises(TypeError, match="where must have a type that can be written on a command line"):
        _ = Card(name="odd", algorithm=Odd, summary="").Settings
    assert not hasattr(Card(name="odd", algorithm=Odd, summary="", without=("where",)).Settings(), "where")
    with pytest.raises(TypeError, match="env must have a default, but has none in DiscreteSAC or DiscreteSACPolicy"):
        _ = Card(name="odd", algorithm=DiscreteSAC, summary="", names=("env",), own={"env": Setting(type=str)}).Settings


def test_a_name_stands_for_one_card(curious: Card) -> None:
    cards.register(curious)
    with pytest.raises(ValueError, match="name must be that of no other card, but got 'curious'"):
        cards.register(dataclasses.replace(curious))
    with pytest.raises(UsageError, match=r"unknown agent 'curios'; did you mean curious\?"):
        get_card("curios")


def test_tuned_settings_that_are_fixed_or_the_default_are_passed_over() -> None:
    exact, gumbel, plain = (
        get_card(name).tuned_settings("CartPole-v1") for name in ("exact-sac", "gumbel-sac", "discrete-sac")
    )
    assert plain is not None
    assert plain.pop("estimator") == "st-gumbel"
    assert gumbel == plain
    assert plain.pop("temperature") == 1.0
    assert exact == plain
    assert get_card("exact-sac").tuned_settings("CartPole") == exact  # as Gymnasium resolves it
    assert get_card("exact-sac").tuned_settings("CartPole-v0") is None
    wrong = Card(name="wrong", algorithm=Reinforce, summary="", tuned={"CartPole-v1": {"gama": 0.9}})
    assert wrong.tuned_settings("CartPole-v1") == {"gama": 0.9}  # not lost in silence


@pytest.mark.parametrize(
    ("annotation", "kind", "name"),
    [
        (float | Literal["auto"], float | Literal["auto"], "float | Literal['auto']"),
        (str | float, float | str, "float | str"),
        (int | tuple[int, str], int, "int"),
        (Literal["a", "b"] | Literal["c"], Literal["a", "b", "c"], "Literal['a', 'b', 'c']"),
        (tuple[int, ...], tuple[int, ...], "tuple[int, ...]"),
        (dict[str, Any] | None, type(None), "None"),
    ],
)
def test_what_of_a_type_a_command_line_can_write(annotation: Any, kind: Any, name: str) -> None:
    assert plain_type(annotation) == kind
    assert type_name(kind) == name


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [("3", int, 3), ("3", float, 3.0), ("auto", int | Literal["auto"], "auto"), ("true", bool, True), ("x", str, "x")],
)
def test_values_are_read_by_their_type(text: str, kind: Any, value: Any) -> None:
    assert read_value(text, kind) == value
    assert type(read_value(text, kind)) is type(value)
    for wrong, other in (("2.5", int), ("", str), ("automatic", int | Literal["auto"]), ("1", bool)):
        with pytest.raises(ValueError, match="text must be "):
            read_value(wrong, other)
