"""What a model knows, as a tree that ``gsrl.checkpoint`` stores: no pickle.

A Stable-Baselines3 model is rebuilt from the agent's settings, and takes its state dicts from the tree. Its random
numbers come from the global generators of Python, NumPy and torch, so their states are in the tree as well.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecNormalize

from gsrl import checkpoint
from gsrl._trees import map_arrays
from gsrl.algorithms.discrete_sac import DiscreteSAC
from gsrl.algorithms.reinforce import Reinforce

__all__ = ["check_sizes", "load_parameters", "load_state_dict", "save_model", "state_dict"]

OWN = (DiscreteSAC, Reinforce)
"""Algorithms of gsrl's, which know their state themselves."""

OPENED_BY = "gsrl.runs.session.load_model, given the folder that the file is in"
"""What the model file of a baseline says of itself."""

PROGRESS = (
    "num_timesteps",
    "_n_updates",
    "_episode_num",
    "_n_calls",
    "exploration_rate",
    "_last_obs",
    "_last_original_obs",
    "_last_episode_starts",
)
"""Numbers and arrays that Stable-Baselines3's algorithms advance; not every algorithm has every one."""

SIZES = ("net_arch", "hidden", "layers", "length", "vocabulary")
"""Settings, of all agents, that networks grow with."""

REPLAY = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")
"""Arrays of Stable-Baselines3's replay buffer, the steps along the first axis."""


def state_dict(model: BaseAlgorithm) -> dict[str, Any]:
    """Returns all that changes while a model learns, its replay buffer included."""
    return {
        "model": model.state_dict() if isinstance(model, OWN) else _baseline_state(model),
        "normalization": _normalization_state(model.get_vec_normalize_env()),
        "generators": _generators_state(model),
    }


def load_state_dict(model: BaseAlgorithm, state: Mapping[str, Any]) -> None:
    """Restores :func:`state_dict` into a model made with the same settings, and the global generators.

    The model then is in the middle of an episode, and its environment must be: see :func:`gsrl.runs.rewind.restore`.
    Otherwise ``model.set_env(env, force_reset=True)`` lets it begin new episodes.

    Args:
        model: The model, changed in place.
        state: What :func:`state_dict` returned.

    Raises:
        Exception: The state is that of another model; this one may then be good for nothing. The caller says of which
            file, see :func:`gsrl.checkpoint.fitting`.
    """
    checkpoint.check_entries(state, _expected(model))
    if isinstance(model, OWN):
        model.load_state_dict(state["model"])
    else:
        _load_baseline_state(model, state["model"])
    _load_normalization_state(model.get_vec_normalize_env(), state["normalization"])
    _load_generators_state(model, state["generators"])


def save_model(path: Path, model: BaseAlgorithm) -> None:
    """Saves what is needed to act, without replay.

    Args:
        path: Path of the file.
        model: The model.
    """
    if isinstance(model, OWN):
        model.save(path)  # which the algorithm's load reads too, without the settings of the run
    else:
        normalization = _normalization_state(model.get_vec_normalize_env())
        tree = {"opened_by": OPENED_BY, "parameters": model.get_parameters(), "normalization": normalization}
        checkpoint.save(path, tree)


def check_sizes(tree: Any, settings: Any, path: Path) -> None:
    """Refuses settings of larger networks than a file has parameters of, before a model is made of them.

    Args:
        tree: What was loaded.
        settings: The agent's ``Settings``.
        path: The file it was loaded from, for the error.

    Raises:
        gsrl.checkpoint.CheckpointError: They are larger.
    """
    with checkpoint.fitting(path):
        sizes = {name: getattr(settings, name) for name in SIZES if hasattr(settings, name)}
        checkpoint.Stored.of(tree).check(sizes)


def load_parameters(tree: Any, model: BaseAlgorithm, path: Path) -> None:
    """Restores what :func:`save_model` saved into a model made with the same settings, on any device.

    Args:
        tree: What :func:`gsrl.checkpoint.load` returned.
        model: The model, changed in place.
        path: The file it was loaded from, for the error.

    Raises:
        gsrl.checkpoint.CheckpointError: The file is not a saved model, is that of another one, or holds parameters that
            are not finite.
    """
    with checkpoint.fitting(path):
        checkpoint.check_entries(tree, {"parameters": _lasting_parameters(model)})
        _set_parameters(model, tree["parameters"])
        if not isinstance(model, OWN):  # which normalise by what is in their policy, and save their own under this name
            _load_normalization_state(model.get_vec_normalize_env(), tree.get("normalization"))
        names = [name for name, value in model.policy.named_parameters() if not value.isfinite().all()]
        if names:
            raise ValueError(f"{len(names)} parameters are not finite, such as {names[0]}: its training diverged")


def _expected(model: BaseAlgorithm) -> dict[str, Any]:
    """A state with the entries that one to be restored must have."""
    own = isinstance(model, OWN)  # which looks for them itself
    return {
        "model": None if own else {**_baseline_state(model), "parameters": _lasting_parameters(model)},
        "normalization": _normalization_state(model.get_vec_normalize_env()),
        "generators": _generators_state(model),
    }


def _lasting_parameters(model: BaseAlgorithm) -> dict[str, Any]:
    """Those of a model at any time: an optimiser has most of its own only once it has taken a step."""
    parameters = model.get_parameters()
    return {name: None if name.endswith("optimizer") else value for name, value in parameters.items()}


def _baseline_state(model: BaseAlgorithm) -> dict[str, Any]:
    replay = model.replay_buffer if isinstance(model, OffPolicyAlgorithm) else None
    _, variables = model._get_torch_save_params()  # tensors that are in no state dict, such as SAC's log_ent_coef
    return {
        "parameters": model.get_parameters(),
        "variables": {name: getattr(model, name) for name in variables},
        "progress": {name: getattr(model, name) for name in PROGRESS if hasattr(model, name)},
        "episodes": list(model.ep_info_buffer or ()),
        "successes": list(model.ep_success_buffer or ()),
        "replay": None if replay is None else _replay_state(replay),
    }


def _load_baseline_state(model: BaseAlgorithm, state: Mapping[str, Any]) -> None:
    _set_parameters(model, state["parameters"])
    variables = state.get("variables", {})  # checkpoints were once written without
    for name in variables.keys() & set(model._get_torch_save_params()[1]):
        getattr(model, name).data.copy_(variables[name])
    for name in state["progress"].keys() & set(PROGRESS):
        setattr(model, name, state["progress"][name])
    model.ep_info_buffer = deque(state["episodes"], maxlen=model._stats_window_size)
    model.ep_success_buffer = deque(state["successes"], maxlen=model._stats_window_size)
    if isinstance(model, OffPolicyAlgorithm) and model.replay_buffer is not None:
        _load_replay_state(model.replay_buffer, state["replay"])


def _set_parameters(model: BaseAlgorithm, parameters: Mapping[str, Any]) -> None:
    """As the model's ``set_parameters``, which takes any names for paths of attributes."""
    own = model.get_parameters()
    if parameters.keys() != own.keys():
        raise ValueError(f"parameters must be of {sorted(own)}, but got {sorted(parameters)}")
    model.set_parameters(dict(parameters), device=model.device)


def _replay_state(buffer: ReplayBuffer) -> dict[str, Any]:
    size = buffer.size()
    arrays = {name: map_arrays(lambda array: array[:size], getattr(buffer, name)) for name in REPLAY}
    return {"pos": buffer.pos, "full": buffer.full, **arrays}


def _load_replay_state(buffer: ReplayBuffer, state: Mapping[str, Any]) -> None:
    pos, full = state["pos"], state["full"]
    if not isinstance(full, bool) or not 0 <= pos < buffer.buffer_size:
        raise ValueError(f"pos must be at least 0 and below {buffer.buffer_size}, but got {pos}")
    buffer.pos, buffer.full = pos, full
    for name in REPLAY:
        arrays, stored = getattr(buffer, name), state[name]
        if isinstance(arrays, dict):
            for key, array in arrays.items():
                array[: buffer.size()] = stored[key]
        else:
            arrays[: buffer.size()] = stored


def _generators_state(model: BaseAlgorithm) -> dict[str, Any]:
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(legacy=False),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(model.device) if model.device.type == "cuda" else None,
        "action_space": model.action_space.np_random.bit_generator.state,  # of random actions
    }


def _load_generators_state(model: BaseAlgorithm, state: Mapping[str, Any]) -> None:
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"].cpu())  # a checkpoint's tensors are on the model's device
    if model.device.type == "cuda" and state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"].cpu(), model.device)
    model.action_space.np_random.bit_generator.state = state["action_space"]


def _normalization_state(env: VecNormalize | None) -> dict[str, Any] | None:
    if env is None:
        return None
    return {"observations": map_arrays(_moments, env.obs_rms), "returns": _moments(env.ret_rms)}


def _load_normalization_state(env: VecNormalize | None, state: Mapping[str, Any] | None) -> None:
    if env is None and state is None:
        return
    if env is None or state is None:
        here, there = ("no", "with") if env is None else ("a", "without")
        raise ValueError(f"the model has {here} VecNormalize, and was saved {there} its statistics")
    statistics: Any = env.obs_rms  # of one array, or of each entry of a Dict observation
    if isinstance(statistics, dict):
        for key, value in statistics.items():
            _load_moments(value, state["observations"][key])
    else:
        _load_moments(statistics, state["observations"])
    _load_moments(env.ret_rms, state["returns"])


def _moments(statistics: RunningMeanStd) -> dict[str, Any]:
    return {"mean": np.asarray(statistics.mean), "var": np.asarray(statistics.var), "count": float(statistics.count)}


def _load_moments(statistics: RunningMeanStd, state: Mapping[str, Any]) -> None:
    if not np.shape(state["mean"]) == np.shape(state["var"]) == np.shape(statistics.mean):
        raise ValueError(f"statistics must have shape {np.shape(statistics.mean)}, but got {np.shape(state['mean'])}")
    statistics.mean, statistics.var, statistics.count = state["mean"], state["var"], state["count"]
