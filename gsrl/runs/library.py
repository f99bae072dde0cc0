"""The cards that come with the library, as they come: our agents, Stable-Baselines3's, and those that talk."""

from __future__ import annotations

import dataclasses
import re
from typing import Any, Literal

from gymnasium import spaces
from stable_baselines3 import A2C, DQN, PPO, SAC

from gsrl.algorithms.discrete_sac import DiscreteSAC
from gsrl.algorithms.reinforce import Reinforce
from gsrl.comms import DIAL, Channel, DiscriminationGame, LewisGame, SignallingGame
from gsrl.multi_agent import MADDPG, MultiAgentSAC
from gsrl.perception.autoencoders import ImageVAE, ImageVQVAE
from gsrl.perception.classifier import PrunedClassifier
from gsrl.perception.data import DATASETS
from gsrl.runs import games, teams
from gsrl.runs.cards import DISCRETE, Card, TaskCard, register
from gsrl.runs.settings import Setting

__all__: list[str] = []

# Discrete soft actor-critic

_ESTIMATORS = Setting(
    type=Literal[
        *("auto", "st-gumbel", "gumbel-softmax", "gumbel-rao", "gapped-st", "straight-through", "reinmax"),
        *("local-expectation", "reinforce", "rloo"),
    ]
)

_DISCRETE_SAC = Card(
    name="discrete-sac",
    algorithm=DiscreteSAC,
    summary="discrete soft actor-critic as it comes: nothing to tune",
    source='Christodoulou, "Soft Actor-Critic for Discrete Action Settings", 2019',
    without=("target_entropy", "target_update_interval", "n_critics"),
    own={"estimator": _ESTIMATORS},
)

_GUMBEL_SAC = dataclasses.replace(
    _DISCRETE_SAC,
    name="gumbel-sac",
    summary="discrete soft actor-critic, the gradient an estimator's",
    source=f'{_DISCRETE_SAC.source}; Jang et al., "Categorical Reparameterization with Gumbel-Softmax", 2017',
    own={"estimator": Setting("st-gumbel").over(_ESTIMATORS)},
)

_EXACT_SAC = dataclasses.replace(
    _DISCRETE_SAC,
    name="exact-sac",
    summary="discrete soft actor-critic, exact gradient",
    own={},
    fixed={"estimator": "exact", "temperature": None},
)

# REINFORCE: they differ in the baseline alone

_REINFORCE = Card(
    name="reinforce",
    algorithm=Reinforce,
    summary="REINFORCE, without a baseline or with a running mean",
    source='Williams, "Simple statistical gradient-following algorithms for connectionist reinforcement learning", '
    "1992",
    without=("gae_lambda", "critic_updates"),  # of value networks
    own={
        "baseline": Setting(
            "none",
            Literal["none", "running-mean"],
            "What returns are compared with: nothing, or a running mean of earlier ones.",
        )
    },
)

_RLOO = dataclasses.replace(
    _REINFORCE,
    name="reinforce-rloo",
    summary="REINFORCE, the other episodes of an update as the baseline",
    source='Kool et al., "Buy 4 REINFORCE samples, get a baseline for free!", 2019',
    own={},
    fixed={"baseline": "leave-one-out"},
)

_BASELINE = dataclasses.replace(
    _REINFORCE,
    name="reinforce-baseline",
    summary="REINFORCE, a value network as the baseline",
    source='Sutton and Barto, "Reinforcement Learning: An Introduction", 2018, Section 13.4; Schulman et al., '
    '"High-Dimensional Continuous Control Using Generalized Advantage Estimation", 2016',
    without=(),
    own={},
    fixed={"baseline": "value"},
)

_RELAX = dataclasses.replace(
    _BASELINE,
    name="reinforce-relax",
    summary="REINFORCE, a value network and RELAX's control variate",
    source='Grathwohl et al., "Backpropagation through the Void", 2018',
    fixed={"baseline": "relax"},
)

# Stable-Baselines3's, and sb3-contrib's

_PPO = Card(
    name="ppo",
    algorithm=PPO,
    summary="proximal policy optimisation (Stable-Baselines3)",
    source='Schulman et al., "Proximal Policy Optimization Algorithms", 2017',
    names=(
        *("learning_rate", "n_steps", "batch_size", "n_epochs", "gamma", "gae_lambda", "clip_range", "ent_coef"),
        *("vf_coef", "max_grad_norm", "linear_decay", "normalize", "net_arch"),
    ),
    action_spaces=(spaces.Box, *DISCRETE),
    masks="ignored",
)

_MASKABLE_PPO = dataclasses.replace(
    _PPO,
    name="maskable-ppo",
    algorithm="sb3_contrib.MaskablePPO",
    summary="proximal policy optimisation with action masks (sb3-contrib)",
    source='Huang and Ontañón, "A Closer Look at Invalid Action Masking in Policy Gradient Algorithms", 2022',
    constructors=(PPO,),
    action_spaces=DISCRETE,
    masks="required",
)

_A2C = Card(
    name="a2c",
    algorithm=A2C,
    summary="advantage actor-critic (Stable-Baselines3)",
    source='Mnih et al., "Asynchronous Methods for Deep Reinforcement Learning", 2016, in its synchronous form',
    names=(
        *("learning_rate", "n_steps", "gamma", "gae_lambda", "ent_coef", "vf_coef", "max_grad_norm", "linear_decay"),
        *("normalize", "net_arch"),
    ),
    action_spaces=(spaces.Box, *DISCRETE),
    masks="ignored",
)

_OF_DQN = (
    *("buffer_size", "learning_starts", "batch_size", "tau", "gamma", "train_freq", "gradient_steps"),
    *("target_update_interval", "exploration_fraction", "exploration_initial_eps", "exploration_final_eps"),
    *("max_grad_norm", "net_arch"),
)
_BUFFER = {"buffer_size": Setting(100_000)}  # RL Zoo sets it to this or less everywhere

_DQN = Card(
    name="dqn",
    algorithm=DQN,
    summary="deep Q-learning (Stable-Baselines3)",
    source='Mnih et al., "Human-level control through deep reinforcement learning", 2015',
    names=("learning_rate", *_OF_DQN),
    own=_BUFFER,
    action_spaces=(spaces.Discrete,),
    masks="ignored",
)

_QRDQN = dataclasses.replace(
    _DQN,
    name="qrdqn",
    algorithm="sb3_contrib.QRDQN",
    summary="quantile-regression deep Q-learning (sb3-contrib)",
    source='Dabney et al., "Distributional Reinforcement Learning with Quantile Regression", 2018',
    constructors=(DQN,),
    names=("learning_rate", "linear_decay", "n_quantiles", *_OF_DQN),
    own={
        **_BUFFER,
        # Where sb3-contrib's defaults are not those of DQN; it need not be installed.
        "learning_rate": Setting(5e-5),
        "n_quantiles": Setting(200, int, "Quantiles of the return that the network tells."),
        "exploration_fraction": Setting(0.005),
        "exploration_final_eps": Setting(0.01),
        "max_grad_norm": Setting(None),
    },
)


def _ent_coef(env: Any, settings: Any) -> float | str:
    """Refuses words that Stable-Baselines3 would stumble over later."""
    given: float | str = settings.ent_coef
    if isinstance(given, str) and not re.fullmatch(r"auto(_\d+(\.\d*)?)?", given):
        raise ValueError(f"ent_coef must be a number, auto, or auto_0.1 and the like, but got {given!r}")
    return given


_SAC = Card(
    name="sac",
    algorithm=SAC,
    summary="soft actor-critic for continuous actions (Stable-Baselines3)",
    source='Haarnoja et al., "Soft Actor-Critic Algorithms and Applications", 2018',
    names=(
        *("learning_rate", "buffer_size", "learning_starts", "batch_size", "tau", "gamma", "train_freq"),
        *("gradient_steps", "ent_coef", "net_arch"),
    ),
    own={"net_arch": Setting((256, 256))},
    made={"ent_coef": _ent_coef},
    action_spaces=(spaces.Box,),
    masks="ignored",
)

# Agents that talk

_SIGNALLING_ESTIMATORS: Any = Literal[
    *("st-gumbel", "gumbel-softmax", "gumbel-rao", "gapped-st", "straight-through", "reinmax", "reinforce", "rloo"),
    *("exact", "muprop", "rebar", "relax", "arsm", "unordered-set"),
]
_AGENTS = Literal["mlp", "gru", "lstm"]

_ATTRIBUTES = {"attributes": 2, "values": 10, "held_out": 0.2}

_SIGNALLING = TaskCard(
    name="signalling",
    algorithm=SignallingGame,
    summary="a sender and a receiver learn a language",
    source='Lewis, "Convention", 1969; Havrylov and Titov, "Emergence of Language with Multi-agent Games", 2017',
    constructors=(SignallingGame, Channel, LewisGame, DiscriminationGame),
    names=(
        *("meanings", "prior_exponent", "attributes", "values", "held_out", "candidates"),
        *games.SETTINGS,
    ),
    own={
        **{name: Setting(None) for name in ("attributes", "values", "candidates")},
        "held_out": Setting(
            None, help="Share of the meanings that are never trained on; eval --split held_out plays them."
        ),
        "meanings": Setting(None, help="How many, in Lewis's game."),
        "prior_exponent": Setting(
            None,
            float | None,
            "Makes the i-th meaning i ** -exponent times as probable as the first, in Lewis's game; None: all are "
            "equally probable. The diversity bonus is at odds with it.",
        ),
        "vocabulary": Setting(10),
        "estimator": Setting(
            "st-gumbel",
            _SIGNALLING_ESTIMATORS,
            "Estimator of the sender's gradient. Those from exact on are for messages of one symbol.",
        ),
        "temperature": Setting(
            help="Temperature of the relaxation, where the estimator has one. None: 2 for st-gumbel, gumbel-softmax "
            "and gumbel-rao, 1 for the others, of which rebar and relax learn theirs from there."
        ),
        "baseline": Setting("running-mean", Literal["running-mean", "none"], "Baseline of reinforce."),
        "num_samples": Setting(4, int, "Messages drawn of each meaning, of rloo and unordered-set."),
        "entropy_bonus": Setting(0.05),
        "diversity_bonus": Setting(1.0),
        **{name: Setting("mlp", _AGENTS) for name in ("sender", "receiver")},
    },
    made={"game": games.make_game, "channel": games.make_channel},
    tuned={
        "lewis": {"steps": 64_000, "meanings": 10},
        "noisy-lewis": {"steps": 64_000, "meanings": 10, "erasure": 0.1},
        "attribute-value": {"steps": 153_600, **_ATTRIBUTES, "length": 3, "variable_length": True},
        "discrimination": {"steps": 128_000, **_ATTRIBUTES, "candidates": 5, "length": 2},
    },
    environments=dict.fromkeys(games.OPTIONS, "accuracy"),
    condition="hard messages",
    play=games.play,
    best_score=games.best_score,
)

_TEAM = {"prisoners": Setting(3, int, "Of the switch riddle."), "hidden": Setting(64)}

_DIAL = TaskCard(
    name="dial",
    algorithm=DIAL,
    summary="agents that act and talk: the message carries a gradient",
    source='Foerster et al., "Learning to Communicate with Deep Multi-Agent Reinforcement Learning", 2016',
    own={
        **_TEAM,
        "estimator": Setting(
            "st-gumbel",
            Literal["st-gumbel", "gumbel-softmax", "gumbel-rao", "gapped-st", "straight-through", "reinmax"],
        ),
        "temperature": Setting(1.0, float, "Temperature of the relaxation."),
    },
    fixed={"communication": "dial"},
    made={"env": games.make_riddle},
    tuned={
        "switch-riddle": {"steps": 32_000, "hidden": 128, "batch_size": 8, "learning_rate": 2e-3, "linear_decay": True}
    },
    environments={"switch-riddle": "return"},
    condition="hard messages",
    play=games.play_riddle,
    best_score=games.best_return,
)

# After reinforced inter-agent learning of the same paper, where messages are learned by their values.
_RIAL = dataclasses.replace(
    _DIAL,
    name="rial",
    summary="agents that act and talk: messages are learned by REINFORCE",
    own=_TEAM,
    fixed={"communication": "rial", "estimator": "reinforce"},
    without=("temperature",),
)

# What they reach anyone reaches without a word.
_NO_COMMUNICATION = dataclasses.replace(
    _RIAL,
    name="no-communication",
    summary="the same agents, who hear nothing: the baseline",
    fixed={"communication": "none", "estimator": None},
    without=("temperature", "vocabulary", "length", "entropy_bonus"),
)

# Teams

_SAMPLED: Any = Literal[
    *("st-gumbel", "gumbel-softmax", "gumbel-rao", "gapped-st", "straight-through", "reinmax", "reinforce", "rloo"),
    *("exact", "local-expectation"),
]

_MASAC = TaskCard(
    name="masac",
    algorithm=MultiAgentSAC,
    summary="soft actor-critics of a team that acts and talks",
    source='Lowe et al., "Multi-Agent Actor-Critic for Mixed Cooperative-Competitive Environments", 2017; Haarnoja et '
    'al., "Soft Actor-Critic Algorithms and Applications", 2018',
    without=("speech", "share", "n_envs"),
    own={
        "estimator": Setting("st-gumbel", _SAMPLED, "Estimator of the actors' gradients."),
        "temperature": Setting(1.0, float, "Temperature of the relaxation, where the estimator has one."),
        "hidden": Setting((64, 64), tuple[int, ...]),
    },
    made={"env": teams.world_maker},
    tuned={
        "mpe2/simple_speaker_listener_v4": {"steps": 130_000, "signalling_bonus": 1.0},
        "mpe2/simple_reference_v3": {"steps": 400_000, "signalling_bonus": 1.0},
        "mpe2/simple_spread_v3": {"steps": 200_000},
    },
    environments=teams.ENVIRONMENTS,
    play=teams.play,
    condition="hard messages",
    unit="step",
    n_envs=32,
    episodes=1000,
)

_MADDPG = dataclasses.replace(
    _MASAC,
    name="maddpg",
    algorithm=MADDPG,
    summary="actor-critics of a team, without entropy",
    source='Lowe et al., "Multi-Agent Actor-Critic for Mixed Cooperative-Competitive Environments", 2017',
    without=(*_MASAC.without, "target_entropy_ratio"),
    own={
        **_MASAC.own,
        "logit_penalty": Setting(help="Weight of the mean square of the logits of legal choices."),
    },
)

_IPPO = dataclasses.replace(
    _PPO,
    name="ippo",
    summary="PPO for each agent of a team (Stable-Baselines3)",
    source='de Witt et al., "Is Independent Learning All You Need in the StarCraft Multi-Agent Challenge?", 2020',
    own={
        "n_steps": Setting(128),
        "batch_size": Setting(512),
        "gamma": Setting(0.95),
        "ent_coef": Setting(0.01),
    },
    environments=teams.ENVIRONMENTS,
    n_envs=8,
)

_ISAC = dataclasses.replace(
    _MASAC,
    name="isac",
    summary="a soft actor-critic for each of a team, by itself",
    source='Tan, "Multi-Agent Reinforcement Learning: Independent vs. Cooperative Agents", 1993; Haarnoja et al., '
    '"Soft Actor-Critic Algorithms and Applications", 2018',
    without=(*_MASAC.without, "others"),
    fixed={"critics_see": "own"},
)

# Perception

_PRUNED_VIT = TaskCard(
    name="pruned-vit",
    algorithm=PrunedClassifier,
    summary="a vision transformer that learns which tokens to read",
    source='Rao et al., "DynamicViT: Efficient Vision Transformers with Dynamic Token Sparsification", 2021',
    without=("temperature",),
    own={
        "estimator": Setting(
            "st-gumbel",
            Literal["st-gumbel", "gumbel-softmax", "gumbel-rao", "gapped-st", "straight-through", "reinmax"],
        )
    },
    made={"dataset": lambda env, settings: env},
    environments=dict.fromkeys(DATASETS, "accuracy"),
    condition="hard choices",
    unit="image",
)

# Autoencoders with discrete codes

_PATHWISE: Any = Literal[
    "st-gumbel", "gumbel-softmax", "gumbel-rao", "gapped-st", "straight-through", "decoupled-st", "reinmax"
]
_OTHERS: Any = Literal[
    *("exact", "local-expectation", "reinforce", "rloo", "muprop", "rebar", "relax", "arm", "disarm", "arsm"),
    "unordered-set",
]

_CATEGORICAL_VAE = TaskCard(
    name="categorical-vae",
    algorithm=ImageVAE,
    summary="an autoencoder whose code is categorical variables",
    source='Kingma and Welling, "Auto-Encoding Variational Bayes", 2014; Jang et al., "Categorical Reparameterization '
    'with Gumbel-Softmax", 2017',
    own={"estimator": Setting("reinmax", _PATHWISE | _OTHERS)},
    made={"dataset": lambda env, settings: env},
    tuned={"digits": {"steps": 150_000}},
    environments=dict.fromkeys(DATASETS, "bound"),
    unit="image",
)

_VQ_VAE = TaskCard(
    name="vq-vae",
    algorithm=ImageVQVAE,
    summary="an autoencoder whose vectors are quantised",
    source='van den Oord et al., "Neural Discrete Representation Learning", 2017; Baevski et al., "vq-wav2vec", 2020',
    own={"estimator": Setting("st-gumbel", _PATHWISE)},
    made={"dataset": lambda env, settings: env},
    tuned={"digits": {"steps": 150_000}},
    environments=dict.fromkeys(DATASETS, "PSNR"),
    unit="image",
)

for _card in (
    *(_DISCRETE_SAC, _GUMBEL_SAC, _EXACT_SAC, _REINFORCE, _BASELINE, _RLOO, _RELAX),
    *(_PPO, _MASKABLE_PPO, _A2C, _DQN, _QRDQN, _SAC, _SIGNALLING, _DIAL, _RIAL, _NO_COMMUNICATION),
    *(_MASAC, _MADDPG, _ISAC, _IPPO),
    *(_PRUNED_VIT, _CATEGORICAL_VAE, _VQ_VAE),
):
    register(_card)
