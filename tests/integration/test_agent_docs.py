"""The pages of docs/agents are true: every agent has one, with its settings and what it logs; links lead somewhere."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import run_agent
from gsrl.runs.cards import cards, get_card

PAGES = Path(run_agent.__file__).resolve().parent / "docs" / "agents"

EVERY = [card.name for card in cards()]

SHORT = ["--steps", "60", "--eval-every", "30", "--eval-episodes", "1"]
SAC = ["--learning-starts", "20", "--batch-size", "8"]
PPO = ["--n-steps", "16", "--n-envs", "1", "--batch-size", "16", "--n-epochs", "1"]
DQN = ["--learning-starts", "20", "--train-freq", "4", "--gradient-steps", "1"]
TEAM = [*SAC, "--n-envs", "4", "--hidden", "8"]
TALKING = ["--batch-size", "8", "--hidden", "8"]

OPTIONS = {
    "gumbel-sac": [*SAC, "--ent-coef", "auto", "--gradient-samples", "2"],
    "discrete-sac": SAC,
    "exact-sac": SAC,
    "reinforce": ["--n-episodes", "1"],
    "reinforce-baseline": ["--n-episodes", "1"],
    "reinforce-rloo": ["--n-episodes", "2"],
    "reinforce-relax": ["--n-episodes", "1"],
    "ppo": PPO,
    "ippo": PPO,
    "maskable-ppo": [*PPO, "--env", "gsrl/MaskedGrid-v0"],
    "a2c": ["--n-envs", "1"],
    "dqn": DQN,
    "qrdqn": [*DQN, "--n-quantiles", "5"],
    "sac": [*SAC, "--env", "Pendulum-v1"],
    "signalling": [*TALKING, "--estimator", "relax"],
    **dict.fromkeys(("dial", "rial", "no-communication"), TALKING),
    **dict.fromkeys(("masac", "maddpg", "isac"), TEAM),
    "pruned-vit": ["--batch-size", "8", "--width", "8"],
    "categorical-vae": [*TALKING, "--estimator", "relax"],
    "vq-vae": TALKING,
}
"""With which each agent learns and is logged within a second, in CartPole unless they say otherwise."""

SHARED = {"rial": "dial", "no-communication": "dial", "isac": "masac", "maddpg": "masac"}
"""Pages of agents that have none of their own; those of libraries are baselines."""

CONTRIB = {"maskable-ppo", "qrdqn"}
"""Agents of sb3-contrib."""

ELSEWHERE = {"rollout/success_rate", "train/gradient_norm_channel"}
"""Scalars on the pages that no environment of these runs gives, or no channel: these learn nothing."""

SCALAR = re.compile(r"`((?:eval|gradients|rollout|time|train)/\w+)`")


SETTING = re.compile(r"^\| `\w+` \| `.*$", re.MULTILINE)


def page_of(agent: str) -> Path:
    page = PAGES / f"{SHARED.get(agent, agent)}.md"
    return page if page.exists() else PAGES / "baselines.md"


def prose(page: Path) -> str:
    """The text of a page without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def sections(page: Path) -> dict[str, str]:
    """The text of every section of a page, with those below it, by the anchor that its heading has on GitHub."""
    _, *parts = re.split(r"^(#+) +(.+)$", prose(page), flags=re.MULTILINE)
    found = [(len(level), heading, text) for level, heading, text in zip(*[iter(parts)] * 3, strict=True)]
    result = {}
    for index, (level, heading, text) in enumerate(found):
        for below, _, more in found[index + 1 :]:
            if below <= level:
                break
            text += more
        result[re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")] = text
    return result


def links(page: Path, text: str) -> Iterator[tuple[Path, str]]:
    """The files and anchors, ``""`` for none, that relative links lead to."""
    for target in re.findall(r"\]\(((?!https?:)[^)]+)\)", text):
        path, _, anchor = target.partition("#")
        yield (page.parent / path).resolve() if path else page, anchor


def named(page: Path, anchor: str = "what-is-logged", pattern: re.Pattern[str] = SCALAR) -> set[str]:
    """What a section names, such as scalars, it or those of this folder that it links to."""
    text = sections(page)[anchor]
    found = set(pattern.findall(text))
    for target, linked in links(page, text):
        if target.parent == PAGES and linked:
            found |= named(target, linked, pattern)
    return found


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """What a short training of each agent writes to TensorBoard and to its progress log."""
    result = {}
    for agent in (name for name in EVERY if name not in CONTRIB or find_spec("sb3_contrib")):
        folder = tmp_path_factory.mktemp("runs") / agent
        options = OPTIONS[agent] if get_card(agent).is_task else ["--net-arch", "8", *OPTIONS[agent]]
        assert run_agent.main(["train", "--agent", agent, *SHORT, *options, "--out", str(folder)]) == 0
        events = EventAccumulator(str(folder / "seed_0" if get_card(agent).is_task else folder))
        events.Reload()
        with (folder / "progress.csv").open(newline="", encoding="utf-8") as file:
            columns = next(csv.reader(file))
        result[agent] = {*events.Tags()["scalars"], *columns} - {"steps", "seed"}
    return result


@pytest.mark.parametrize("agent", EVERY)
def test_every_agent_has_a_page(agent: str) -> None:
    assert agent in sections(page_of(agent))


def test_every_page_is_of_agents() -> None:
    assert {page_of(agent) for agent in EVERY} == set(PAGES.glob("*.md"))


@pytest.mark.parametrize("agent", EVERY)
def test_a_page_has_a_row_for_every_setting(agent: str) -> None:
    page = page_of(agent)
    rows = named(page, "settings" if "settings" in sections(page) else agent, SETTING)
    assert set(SETTING.findall(get_card(agent).table())) - rows == set()


def test_pages_have_no_rows_of_settings_that_are_none() -> None:
    rows = {row for page in PAGES.glob("*.md") for row in SETTING.findall(page.read_text(encoding="utf-8"))}
    assert rows - {row for card in cards() for row in SETTING.findall(card.table())} == set()


@pytest.mark.parametrize("agent", EVERY)
def test_a_page_names_all_that_is_logged(agent: str, logged: dict[str, set[str]]) -> None:
    if agent not in logged:
        pytest.skip("needs sb3-contrib")
    assert {"eval/mean_return", "time/updates" if get_card(agent).is_task else "train/learning_rate"} <= logged[agent]
    assert logged[agent] - named(page_of(agent)) == set()


def test_pages_name_nothing_that_is_not_logged(logged: dict[str, set[str]]) -> None:
    known = set().union(*logged.values()) | ELSEWHERE
    assert {scalar for page in PAGES.glob("*.md") for scalar in SCALAR.findall(page.read_text())} - known == set()


@pytest.mark.parametrize("page", sorted(PAGES.glob("*.md")), ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    broken = [
        f"{target.name}#{anchor}"
        for target, anchor in links(page, prose(page))
        if not target.exists() or (anchor and anchor not in sections(target))
    ]
    assert broken == []
