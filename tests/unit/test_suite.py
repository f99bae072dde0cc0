"""Suites: what a file stands for, and what is said of mistakes in it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gsrl.bench.suite import Environment, read_suite, shipped, slug
from gsrl.comms.riddle import optimal_return
from gsrl.runs.cards import get_card
from gsrl.runs.errors import UsageError

GOOD = """
summary = "Two agents."
seeds = 3
eval_episodes = 7

[environments.CartPole-v1]
steps = 400
low = 20
high = 500.0
threshold = 475.0

[environments.Acrobot-v1]

[[runs]]
agents = ["gumbel-sac", "a2c"]

[[runs]]
label = "{agent} {n_steps} long"
agents = ["a2c"]
environments = ["CartPole-v1"]
seeds = 2
times = 10
settings = { learning_rate = 1, net_arch = [16, 8] }
each = { n_steps = [8, 16] }
"""


def write(folder: Path, text: str) -> str:
    path = folder / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_what_a_file_stands_for(tmp_path: Path) -> None:
    suite = read_suite(write(tmp_path, GOOD))
    assert (suite.name, suite.summary) == ("mine", "Two agents.")
    assert suite.environments[0] == Environment("CartPole-v1", 400, 20.0, 500.0, 475.0)
    plans = {(plan.label, plan.config.env): plan for plan in suite.plans}
    assert list(plans) == [
        ("gumbel-sac", "CartPole-v1"),
        ("gumbel-sac", "Acrobot-v1"),
        ("a2c", "CartPole-v1"),
        ("a2c", "Acrobot-v1"),
        ("a2c 8 long", "CartPole-v1"),
        ("a2c 16 long", "CartPole-v1"),
    ]
    ours, theirs = plans["gumbel-sac", "CartPole-v1"], plans["a2c", "CartPole-v1"]
    assert (ours.seeds, ours.config.seeds, ours.config.processes, ours.lockstep) == (3, 3, 1, True)
    assert (theirs.seeds, theirs.config.seeds, theirs.config.processes, theirs.lockstep) == (3, None, None, False)
    assert (theirs.config.steps, theirs.config.eval_episodes) == (400, 7)
    assert theirs.config.n_envs == get_card("a2c").tuned["CartPole-v1"].get("n_envs", 1)
    long = plans["a2c 16 long", "CartPole-v1"]
    assert (long.seeds, long.config.steps, long.config.settings.n_steps) == (2, 4000, 16)
    assert (long.config.settings.learning_rate, long.config.settings.net_arch) == (1.0, (16, 8))
    assert isinstance(long.config.settings.learning_rate, float)
    # Without steps of its own, an environment has those that the agent is tuned with.
    assert plans["a2c", "Acrobot-v1"].config.steps == get_card("a2c").tuned["Acrobot-v1"]["steps"]


def test_environments_without_a_version_are_the_latest(tmp_path: Path) -> None:
    expected = read_suite(write(tmp_path, GOOD))
    assert (
        read_suite(write(tmp_path, GOOD.replace("CartPole-v1", "CartPole").replace("Acrobot-v1", "Acrobot")))
        == expected
    )


def test_a_word_that_is_nearly_right_is_answered_with_the_right_one(tmp_path: Path) -> None:
    text = GOOD.replace('agents = ["gumbel-sac", "a2c"]', 'agents = ["gumbel-sac"]\nsettings.estimator = "st_gumbel"')
    with pytest.raises(UsageError, match=r"but got 'st_gumbel'; did you mean st-gumbel\?"):
        read_suite(write(tmp_path, text))


def test_seeds_may_begin_anywhere(tmp_path: Path) -> None:
    text = GOOD.replace("seeds = 2", "seeds = 2\nfirst_seed = 7").replace("seeds = 3", "seeds = 3\nfirst_seed = 100")
    ranges = {plan.label: plan.seed_range for plan in read_suite(write(tmp_path, text)).plans}
    assert ranges["gumbel-sac"] == ranges["a2c"] == range(100, 103)
    assert ranges["a2c 8 long"] == range(7, 9)
    assert {plan.config.seed for plan in read_suite(write(tmp_path, GOOD)).plans} == {0}


def test_agents_may_come_untuned(tmp_path: Path) -> None:
    plans = {(plan.label, plan.config.env): plan.config for plan in read_suite(write(tmp_path, GOOD)).plans}
    untuned = read_suite(write(tmp_path, GOOD.replace("seeds = 3", "seeds = 3\ntuned = false"))).plans
    for plan in untuned:
        if plan.label == "gumbel-sac":
            assert plan.config.settings == get_card("gumbel-sac").Settings()
            assert plan.config.settings != plans["gumbel-sac", plan.config.env].settings


def test_seeds_may_be_trained_one_by_one(tmp_path: Path) -> None:
    text = GOOD.replace("steps = 400", "steps = 5_000").replace("seeds = 3", "seeds = 3\nlockstep = false")
    plan = read_suite(write(tmp_path, text)).plans[0]
    assert (plan.seeds, plan.config.seeds, plan.config.processes, plan.lockstep) == (3, None, None, False)
    assert not plan.config.compile


def test_compiled_are_long_runs_in_lockstep_alone(tmp_path: Path) -> None:
    suite = read_suite(write(tmp_path, GOOD.replace("steps = 400", "steps = 5_000")))
    compiled = {plan.label for plan in suite.plans if plan.config.compile and plan.config.env == "CartPole-v1"}
    assert compiled == {"gumbel-sac"}


TALKING = """
[environments.switch-riddle]
steps = 5_000

[[runs]]
agents = ["dial"]
seeds = 4
gradient_samples = 3
settings = { prisoners = 4 }
"""


def test_agents_that_talk_are_one_process_in_lockstep(tmp_path: Path) -> None:
    pytest.importorskip("pettingzoo")
    (plan,) = read_suite(write(tmp_path, TALKING)).plans
    config = plan.config
    assert (plan.seeds, plan.lockstep, config.seeds, config.processes, config.compile) == (4, True, 4, None, False)
    assert (config.steps, config.eval_episodes, config.settings.prisoners) == (5_000, 10_000, 4)
    assert config.settings.hidden == get_card("dial").tuned["switch-riddle"]["hidden"]
    for old, new, message in (
        (
            "seeds = 4",
            "n_envs = 4",
            "dial on switch-riddle: --n-envs is for agents in Gymnasium",
        ),
        (
            '["dial"]',
            '["a2c"]',
            "switch-riddle is an environment of dial, rial, no-communication, and none",
        ),
        ("switch-riddle]", "lewis]", "unknown environment 'lewis' of dial"),
        ("prisoners = 4", "prisoners = 2", "dial cannot be made with these settings: --prisoners must be"),
    ):
        with pytest.raises(UsageError, match=re.escape(message)):
            read_suite(write(tmp_path, TALKING.replace(old, new)))


def test_agents_that_talk_pass_over_what_all_others_have(tmp_path: Path) -> None:
    pytest.importorskip("pettingzoo")
    (plan,) = read_suite(write(tmp_path, "n_envs = 4\ngradient_samples = 3\n" + TALKING)).plans
    assert (plan.config.n_envs, plan.config.gradient_samples) == (1, 0)


def test_none_is_a_word(tmp_path: Path) -> None:
    text = '[environments.CartPole-v1]\n[[runs]]\nagents = ["gumbel-sac"]\nsettings = { temperature = "none" }'
    assert read_suite(write(tmp_path, text)).plans[0].config.settings.temperature is None
    text = text.replace('temperature = "none"', 'ent_coef = "auto_0.1", temperature = 2')
    settings = read_suite(write(tmp_path, text)).plans[0].config.settings
    assert (settings.ent_coef, settings.temperature) == ("auto_0.1", 2.0)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seeds = 3", "sedes = 3", "mine.toml: sedes: unknown key; did you mean seeds"),
        ("seeds = 3", 'seeds = "3"', "mine.toml: seeds: must be a whole number, but got '3'"),
        ("seeds = 3", "seeds = 0", "mine.toml: seeds: must be at least 1, but got 0"),
        ("seeds = 3", "seeds = true", "mine.toml: seeds: must be a whole number, but got True"),
        (
            "threshold = 475.0",
            "treshold = 1.0",
            "environments.CartPole-v1.treshold: unknown key; did you mean threshold",
        ),
        ("high = 500.0", "", "environments.CartPole-v1: low and high belong together"),
        ("high = 500.0", "high = 5.0", "environments.CartPole-v1: low must be below high, but they are 20 and 5"),
        ("[environments.Acrobot-v1]", "[environments.Acrobat-v1]", "did you mean Acrobot-v1"),
        (
            'agents = ["gumbel-sac", "a2c"]',
            'agents = ["gumble-sac"]',
            "runs[1].agents: unknown agent 'gumble-sac'; did",
        ),
        ('agents = ["gumbel-sac", "a2c"]', 'agents = "a2c"', "runs[1].agents: must be a list of texts, but got 'a2c'"),
        ('agents = ["gumbel-sac", "a2c"]', "agents = []", "runs[1].agents: there are none"),
        ('agents = ["gumbel-sac", "a2c"]', 'agents = ["sac"]', "sac needs a Box action space, but CartPole-v1 has"),
        (
            'environments = ["CartPole-v1"]',
            'environments = ["CartPole-v0"]',
            "'CartPole-v0' has no table [environments.",
        ),
        (
            "learning_rate = 1",
            "learning_rat = 1",
            "runs[2].settings.learning_rat: a2c has no such setting; did you mean",
        ),
        ("learning_rate = 1", 'learning_rate = "x"', "runs[2].settings.learning_rate: must be float, but got 'x'"),
        ("n_steps = [8, 16]", "n_steps = 8", "runs[2].each.n_steps: must be a list of values, but got 8"),
        ("n_steps = [8, 16]", "n_steps = [0]", "a2c cannot be made with these settings: --n-steps must be at least 1"),
        ('label = "{agent} {n_steps} long"', 'label = "{agnt}"', "runs[2].label: '{agnt}' may hold {agent}"),
        ('label = "{agent} {n_steps} long"', 'label = "{agent.x}"', "'{agent.x}' may hold {agent}, {learning_rate}"),
        ('label = "{agent} {n_steps} long"', 'label = "{agent[x]}"', "{n_steps} as they are, and no other braces"),
        ('label = "{agent} {n_steps} long"', 'label = "{agent:>4000000000}"', "as they are, and no other braces"),
        ('label = "{agent} {n_steps} long"', 'label = "{agent!r:{n_steps}}"', "as they are, and no other braces"),
        ('label = "{agent} {n_steps} long"', 'label = "{agent"', "'{agent' cannot be filled in: expected '}'"),
        (
            'label = "{agent} {n_steps} long"',
            f'label = "{"x" * 200}"',
            "must have at most 100 characters, but got 200",
        ),
        ("threshold = 475.0", "threshold = nan", "environments.CartPole-v1.threshold: must be finite, but got nan"),
        ("high = 500.0", "high = inf", "environments.CartPole-v1.high: must be finite, but got inf"),
        ("low = 20", "low = -inf", "environments.CartPole-v1.low: must be finite, but got -inf"),
        ("low = 20", f"low = -1{'0' * 400}", "environments.CartPole-v1.low: must be finite, but got -1"),
        ("low = 20\nhigh = 500.0", "low = -1e308\nhigh = 1e308", "high must be less above low"),
        ("learning_rate = 1", "learning_rate = nan", "runs[2].settings.learning_rate: must be float, but got nan"),
        ("learning_rate = 1", f"learning_rate = 1{'0' * 400}", "learning_rate: must be float, but got 1"),
        ("net_arch = [16, 8]", "net_arch = [[16], 8]", "runs[2].settings.net_arch: must be"),
        ('["gumbel-sac", "a2c"]', '[["gumbel-sac"]]', "runs[1].agents: must be a list of texts, but got [['gum"),
        ("seeds = 3", f"seeds = {'[' * 50_000}", "mine.toml cannot be read: it is nested too deeply"),
        ("seeds = 3", "seeds = 3" + "0" * 5_000, "mine.toml is not TOML: Exceeds the limit"),
        ("steps = 400", "steps = 4" + "0" * 40, "environments.CartPole-v1.steps: must be below 1000000000000"),
        ("seeds = 3", "first_seed = -1", "mine.toml: first_seed: must be at least 0, but got -1"),
        (
            "seeds = 3",
            "seeds = 3\nfirst_seed = 2147483646",
            "runs[1]: seeds must be below 2**31, but the last is 21474836",
        ),
        ("seeds = 3", "seeds = 3_000_000_000", "seeds must be below 2**31, but the last is 2999999999"),
        ("seeds = 3", "seeds = 30_000", "runs[1]: a suite must have at most 100000 runs, but this makes 120000"),
        ("n_steps = [8, 16]", f"n_steps = {[8] * 60_000}", "must have at most 100000 runs, but this makes 120012"),
        ('label = "{agent} {n_steps} long"', 'label = "a/b"', "runs[2].label: 'a/b' must consist of letters"),
        ('label = "{agent} {n_steps} long"', "", "runs: 'a2c' on CartPole-v1 stands there twice"),
        ("[[runs]]", "[[runs", "mine.toml is not TOML"),
    ],
)
def test_mistakes_are_named_with_their_place(old: str, new: str, message: str, tmp_path: Path) -> None:
    assert old in GOOD
    with pytest.raises(UsageError) as caught:
        read_suite(write(tmp_path, GOOD.replace(old, new)))
    assert message in str(caught.value)
    assert "mine.toml" in str(caught.value)


def test_there_must_be_something_to_run(tmp_path: Path) -> None:
    for text, message in (("", "runs: there are none"), ('[[runs]]\nagents = ["a2c"]', "environments: there are none")):
        with pytest.raises(UsageError, match=message):
            read_suite(write(tmp_path, text))
    with pytest.raises(UsageError, match=r"unknown suite .smok., and no path of a .toml file; did you mean smoke"):
        read_suite("smok")
    with pytest.raises(UsageError, match=r"none.toml cannot be read: No such file"):
        read_suite(str(tmp_path / "none.toml"))


@pytest.mark.parametrize("name", shipped())
def test_the_shipped_suites_can_be_used(name: str) -> None:
    assert name in shipped()
    try:
        suite = read_suite(name)
    except UsageError as error:
        if "packages that are not installed" not in str(error):
            raise
        pytest.skip(str(error))
    assert suite.summary
    assert all(environment.low is not None for environment in suite.environments)


def test_those_who_talk_run_as_long_as_in_the_zoo_and_are_measured_by_what_is_possible() -> None:
    suite = read_suite("comms")
    for plan in suite.plans:
        assert plan.config.steps == get_card(plan.config.agent).tuned[plan.config.env]["steps"]
    lewis, prisoners = suite.environments
    assert lewis.low == 1 / suite.plans[0].config.settings.meanings
    assert prisoners.high == pytest.approx(optimal_return(3))


def test_a_label_becomes_a_name() -> None:
    assert slug("a2c ×10/b") == "a2c--10-b"
