"""Policies for programs without gsrl: ONNX and TorchScript files that map observations to actions.

A file holds the actor alone, with the preprocessing of observations (one-hot numbers, images divided by 255) and the
translation of choices to actions of the space. Its inputs are arrays `[B, ...]` of any batch size.
"""

from __future__ import annotations

import os
import warnings
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from gsrl._modes import evaluation_mode
from gsrl.algorithms.policies import Actor, ActorPolicy, to_space_dtype

__all__ = ["ActionModule", "save_onnx", "save_torchscript"]

BATCH = 2
"""Rows of the observations that a policy is recorded with: a dimension of size 1 might be taken for a constant."""


class ActionModule(nn.Module):
    """A policy as a function of tensors: what `torch.onnx.export` and `torch.jit.trace` take.

    Args:
        policy: Of :class:`gsrl.DiscreteSAC` or :class:`gsrl.Reinforce`, or its actor.
        deterministic: Whether the most probable choices are taken. Otherwise they are sampled, by the random numbers of
            whatever runs the file, and not by the generator of the agent.
        action_masks: Whether there is another input, of the masks of legal choices.

    Attributes:
        names: Of the inputs: `observation`, or the keys of a `Dict` space in their order; then `action_masks`.

    Example:
        >>> model = gsrl.Reinforce("MlpPolicy", "CartPole-v1", seed=0)
        >>> ActionModule(model.policy)(torch.zeros(3, 4)).shape
        torch.Size([3])
    """

    places: Tensor

    def __init__(self, policy: ActorPolicy | Actor, *, deterministic: bool = True, action_masks: bool = False) -> None:
        super().__init__()
        self.actor = policy.actor if isinstance(policy, ActorPolicy) else policy
        self.deterministic = deterministic
        self.action_masks = action_masks
        space, codec = self.actor.observation_space, self.actor.head.codec
        self.keys = tuple(space.spaces) if isinstance(space, spaces.Dict) else None
        self.names = (*(self.keys or ("observation",)), *(("action_masks",) if action_masks else ()))
        # Where each entry of a matrix of masks stands in a flat one; L: in none, as the factor does not have it.
        length = sum(codec.sizes)
        places = torch.full((codec.n, codec.K), length)
        legal = torch.ones(codec.n, codec.K, dtype=torch.bool) if codec.mask is None else codec.mask
        places[legal] = torch.arange(length)
        self.register_buffer("places", places, persistent=False)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Maps observations, and flat masks `[B, L]` where there are, to actions `[B, *action_space.shape]`."""
        mask = None
        if self.action_masks:
            inputs, flat = inputs[:-1], inputs[-1]
            none = torch.zeros_like(flat[:, :1])
            mask = torch.cat([flat, none], -1)[:, self.places].bool()
        observations = inputs[0] if self.keys is None else dict(zip(self.keys, inputs, strict=True))
        policy = self.actor(observations, mask)
        scores = policy.logits if self.deterministic else policy.perturbed()
        codec = self.actor.head.codec
        return to_space_dtype(codec, codec.from_indices(scores.argmax(-1)))

    def examples(self) -> tuple[Tensor, ...]:
        """Inputs of the right shapes and dtypes, zeros, and masks that allow everything."""
        space = self.actor.observation_space
        parts = list(space.spaces.values()) if isinstance(space, spaces.Dict) else [space]
        shapes = [np.zeros((BATCH, *(part.shape or ())), part.dtype) for part in parts]
        if self.action_masks:
            shapes.append(np.ones((BATCH, sum(self.actor.head.codec.sizes)), np.bool_))
        return tuple(torch.as_tensor(each, device=self.actor.device) for each in shapes)


def save_onnx(
    policy: ActorPolicy | Actor,
    path: str | os.PathLike[str],
    *,
    deterministic: bool = True,
    action_masks: bool = False,
    **options: Any,
) -> None:
    """Writes a policy as an ONNX file, with inputs as :class:`ActionModule` names them and the output `actions`.

    Needs the extra `export`.

    Args:
        policy: See :class:`ActionModule`, as for the next two.
        path: Of the file.
        deterministic: Whether the most probable choices are taken.
        action_masks: Whether masks are an input.
        **options: Of `torch.onnx.export`, such as `opset_version`.

    Raises:
        ImportError: `onnx` or `onnxscript` is not installed.

    Example:
        >>> model = gsrl.Reinforce("MlpPolicy", "CartPole-v1", seed=0)
        >>> save_onnx(model.policy, "policy.onnx")  # doctest: +SKIP
        >>> from onnxruntime import InferenceSession  # doctest: +SKIP
        >>> observations = {"observation": np.zeros((3, 4), np.float32)}
        >>> InferenceSession("policy.onnx").run(["actions"], observations)[0].shape  # doctest: +SKIP
        (3,)
    """
    module = ActionModule(policy, deterministic=deterministic, action_masks=action_masks)
    batch = torch.export.Dim("batch", min=1)
    with evaluation_mode(module):
        torch.onnx.export(
            module,
            module.examples(),
            os.fspath(path),
            input_names=module.names,
            output_names=["actions"],
            dynamic_shapes=(tuple({0: batch} for _ in module.names),),  # of *inputs
            dynamo=True,
            external_data=False,
            verbose=False,
            **options,
        )


def save_torchscript(
    policy: ActorPolicy | Actor,
    path: str | os.PathLike[str],
    *,
    deterministic: bool = True,
    action_masks: bool = False,
) -> None:
    """Writes a policy as a TorchScript file, which `torch.jit.load` opens, also in C++.

    Args:
        policy: See :class:`ActionModule`, as for the next two.
        path: Of the file.
        deterministic: Whether the most probable choices are taken.
        action_masks: Whether masks are an input.

    Example:
        >>> model = gsrl.Reinforce("MlpPolicy", "CartPole-v1", seed=0)
        >>> save_torchscript(model.policy, "policy.pt")
        >>> torch.jit.load("policy.pt")(torch.zeros(3, 4)).shape
        torch.Size([3])
    """
    module = ActionModule(policy, deterministic=deterministic, action_masks=action_masks)
    with evaluation_mode(module), torch.no_grad(), warnings.catch_warnings():
        # Of checks of shapes, which hold for every batch.
        warnings.simplefilter("ignore")
        torch.jit.trace(module, module.examples(), check_trace=deterministic).save(os.fspath(path))
