"""The learner: Adam and clipping against torch's, Polyak averaging, views, state."""

from __future__ import annotations

import copy
import functools
import importlib
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters

from gsrl.learning import Lockstep
from gsrl.learning import learner as learner_module
from gsrl.learning.learner import Learner, adam_, bias_corrections, clip_by_norm_


class Regression(nn.Module):
    """Two children, each with its own error; ``follower`` follows ``first``."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.first = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
            self.second = nn.Linear(3, 1)
        self.follower = copy.deepcopy(self.first).requires_grad_(False)

    def forward(self, inputs: Tensor, scale: float = 1.0) -> tuple[Tensor, dict[str, Tensor]]:
        first = (self.first(inputs) - inputs.sum(-1, keepdim=True)).square().mean()
        second = (self.second(inputs) - self.follower(inputs)).square().mean()
        loss = first + scale * second
        return loss, {"loss": loss.detach()}


class Known(Regression):
    """As if it were one of the library's: what is not, is not recorded."""

    __module__ = "gsrl.losses"


def inputs(seed: int = 0) -> Tensor:
    return torch.randn(8, 3, generator=torch.Generator().manual_seed(seed))


# Adam and clipping


@pytest.mark.parametrize(
    ("betas", "eps"), [((0.9, 0.999), 1e-8), ((0.5, 0.9), 1e-3), ((0.0, 0.999), 1e-5)], ids=["default", "other", "no"]
)
def test_adam_is_that_of_torch(betas: tuple[float, float], eps: float) -> None:
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(6, generator=generator, dtype=torch.float64)
    ours, exp_avg, exp_avg_sq = start.clone(), torch.zeros_like(start), torch.zeros_like(start)
    theirs = nn.Parameter(start.clone())
    optimizer = torch.optim.Adam([theirs], betas=betas, eps=eps)
    for count in range(1, 51):
        gradient = torch.randn(6, generator=generator, dtype=torch.float64) * 10.0 ** (count % 5 - 2)
        learning_rate = 0.1 / count  # that changes, as with a schedule
        adam_(ours, gradient, exp_avg, exp_avg_sq, bias_corrections(count, learning_rate, betas, eps), betas)
        theirs.grad, optimizer.param_groups[0]["lr"] = gradient.clone(), learning_rate
        optimizer.step()
        torch.testing.assert_close(ours, theirs.detach(), rtol=1e-6, atol=0.0)
    assert (ours - start).abs().min() > 1e-3


def test_the_first_step_of_adam_by_hand() -> None:
    parameters, gradient = torch.tensor([1.0, 1.0, 1.0]), torch.tensor([4.0, -1e-3, 0.0])
    adam_(parameters, gradient, torch.zeros(3), torch.zeros(3), bias_corrections(1, 0.1))
    # Bias corrections cancel: a step is the learning rate times the sign.
    torch.testing.assert_close(parameters, torch.tensor([0.9, 1.1, 1.0]), rtol=1e-4, atol=0.0)


@pytest.mark.parametrize("max_norm", [0.1, 1.0, 100.0])
def test_clipping_is_that_of_torch(max_norm: float) -> None:
    gradient = torch.randn(50, generator=torch.Generator().manual_seed(0))
    parameter = nn.Parameter(torch.zeros(50))
    parameter.grad = gradient.clone()
    norm = nn.utils.clip_grad_norm_([parameter], max_norm)
    returned = clip_by_norm_(gradient, max_norm)
    torch.testing.assert_close(gradient, parameter.grad)
    torch.testing.assert_close(returned, norm)


# Updates


def reference_step(
    loss: Regression, optimizer: torch.optim.Optimizer, batch: Tensor, tau: float, max_norm: float | None
) -> None:
    optimizer.zero_grad()
    loss(batch)[0].backward()
    if max_norm is not None:
        for child in (loss.first, loss.second):
            nn.utils.clip_grad_norm_(child.parameters(), max_norm)
    optimizer.step()
    with torch.no_grad():
        for source, target in zip(loss.first.parameters(), loss.follower.parameters(), strict=True):
            target.copy_((1 - tau) * target + tau * source)


@pytest.mark.parametrize("max_norm", [None, 0.5])
def test_updates_are_those_of_a_plain_loop(max_norm: float | None) -> None:
    ours, plain = Regression(), Regression()
    learner = Learner(ours, [("first", "follower")], max_grad_norm=max_norm)
    optimizer = torch.optim.Adam([p for p in plain.parameters() if p.requires_grad], lr=0.01)
    for step in range(30):
        metrics = learner.update(inputs(step), learning_rate=0.01, tau=0.1)
        if step == 0:
            assert metrics["loss"] == plain(inputs(0))[0]  # from before the update
        reference_step(plain, optimizer, inputs(step), tau=0.1, max_norm=max_norm)
    for (name, p), expected in zip(ours.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(p, expected, rtol=1e-5, atol=1e-6, msg=lambda m, name=name: f"{name}: {m}")


def test_polyak_by_hand() -> None:
    loss = Regression()
    learner = Learner(loss, [("first", "follower")])
    before = [p.clone() for p in loss.follower.parameters()]
    learner.update(inputs(), learning_rate=0.1, tau=0.25)
    for old, source, target in zip(before, loss.first.parameters(), loss.follower.parameters(), strict=True):
        torch.testing.assert_close(target, 0.75 * old + 0.25 * source)
        assert not torch.equal(target, old)
    learner.update(inputs(), learning_rate=0.1, tau=1.0)
    for source, target in zip(loss.first.parameters(), loss.follower.parameters(), strict=True):
        torch.testing.assert_close(target, source)


def test_targets_stay_without_tau() -> None:
    loss = Regression()
    before = [p.clone() for p in loss.follower.parameters()]
    Learner(loss, [("first", "follower")]).update(inputs(), learning_rate=0.1)
    assert all(torch.equal(p, old) for p, old in zip(loss.follower.parameters(), before, strict=True))


def test_targets_are_used() -> None:
    """What the target holds decides what ``second`` learns."""
    results = []
    for value in (0.0, 1.0):
        loss = Regression()
        learner = Learner(loss, [("first", "follower")])
        for p in loss.follower.parameters():
            p.data.fill_(value)  # in place: still a view of the learner's tensor
        for _ in range(200):
            learner.update(inputs(), learning_rate=0.05, tau=0.0)
        error = (loss.second(inputs()) - loss.follower(inputs())).square().mean()
        results.append((loss.second.bias.item(), error.item()))
    assert results[0][0] == pytest.approx(0.0, abs=0.02)
    assert results[0][1] == pytest.approx(0.0, abs=1e-3)
    assert results[1][0] > 1.0


class Normalised(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.source, self.target = nn.BatchNorm1d(3), nn.BatchNorm1d(3).requires_grad_(False)

    def forward(self, batch: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return self.source(batch).square().mean(), {}


def test_buffers_of_a_target_follow() -> None:
    loss = Normalised()
    Learner(loss, [("source", "target")]).update(inputs() + 5.0, learning_rate=0.1, tau=0.1)
    assert torch.equal(loss.target.running_mean, loss.source.running_mean)
    assert loss.source.running_mean.min() > 0.3
    assert loss.target.num_batches_tracked == 1


def as_function(learner: Any, *args: Any, learning_rate: Any, tau: Any) -> None:
    """An update by the function that is compiled."""
    is_due, tau = tau is not None, 0.0 if tau is None else tau
    if isinstance(learner, Lockstep):
        numbers = (learner.alive, learner._counts, learning_rate, torch.full_like(learner._counts, tau))
        learner._update.update_(learner._update.views, (args, {}), *numbers, torch.tensor(is_due))
    else:
        learner.count += 1
        corrections = bias_corrections(learner.count, learning_rate)
        learner._update.update_(learner._update.views, (args, {}), torch.tensor((*corrections, tau, is_due)))


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("together", [False, True])
def test_buffers_of_a_target_follow_when_its_parameters_do_not(together: bool, compiled: bool) -> None:
    losses = [Normalised(), Normalised()]
    learner: Any = Lockstep([Learner(loss, [("source", "target")]) for loss in losses])
    batch, rate = torch.stack([inputs() + 5.0, inputs() - 5.0]), torch.full((2,), 0.1, dtype=torch.float64)
    if not together:
        learner, batch, rate = Learner(losses[0], [("source", "target")]), batch[0], 0.1
    update = functools.partial(as_function, learner) if compiled else learner.update
    update(batch, learning_rate=rate, tau=None)  # not due
    means = [loss.source.running_mean.clone() for loss in losses]
    assert means[0].min() > 0.3
    assert not losses[0].target.running_mean.any()
    tau = 0.0 if not together or compiled else torch.zeros(2, dtype=torch.float64)
    if together:
        learner.alive[1] = False
        before = losses[1].target.running_mean.clone()
    update(batch, learning_rate=rate, tau=tau)
    assert torch.equal(losses[0].target.running_mean, losses[0].source.running_mean)
    assert (losses[0].target.weight == 1).all()
    assert not (losses[0].source.weight == 1).any()
    if together:
        assert torch.equal(losses[1].target.running_mean, before)  # frozen


def test_children_are_clipped_apart() -> None:
    scale, max_norm = 1e-6, 1e-3
    plain = Regression()
    parameters = {"first": list(plain.first.parameters()), "second": list(plain.second.parameters())}
    gradients = {
        name: torch.cat([g.flatten() for g in torch.autograd.grad(plain(inputs(), scale)[0], p)])
        for name, p in parameters.items()
    }
    loss = Regression()
    learner = Learner(loss, max_grad_norm=max_norm)
    learner.update(inputs(), scale, learning_rate=0.0, tau=0.0)
    norms = learner.gradient_norms()
    assert norms.keys() == gradients.keys()
    for name, norm in norms.items():  # before clipping
        torch.testing.assert_close(norm, gradients[name].norm())

    # The first moment holds a tenth of the clipped gradient.
    moments = learner.state_dict()["exp_avg"]
    clipped = {
        child: 10 * torch.cat([moment.flatten() for name, moment in moments.items() if name.startswith(child)])
        for child in gradients
    }
    assert gradients["first"].norm() > 1.0
    assert clipped["first"].norm().item() == pytest.approx(max_norm, rel=1e-3)
    # The large norm of its sibling does not shrink a small one.
    assert gradients["second"].norm() < max_norm
    torch.testing.assert_close(clipped["second"], gradients["second"])


def test_gradient_norms_are_zero_at_first() -> None:
    assert all(norm.item() == 0.0 for norm in Learner(Regression()).gradient_norms().values())


def test_unused_parameters_get_no_gradient_and_stay() -> None:
    class Unused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.Linear(3, 1), nn.Linear(3, 1)

        def forward(self, batch: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            return self.used(batch).sum(), {}

    loss = Unused()
    before = loss.unused.weight.clone()
    learner = Learner(loss)
    learner.update(inputs(), learning_rate=0.1, tau=0.0)
    assert torch.equal(loss.unused.weight, before)
    assert learner.gradient_norms()["unused"].item() == 0.0
    # d sum / d bias = 8 and d sum / d weight = sum of the inputs.
    expected = torch.cat([inputs().sum(0), torch.tensor([8.0])]).norm()
    torch.testing.assert_close(learner.gradient_norms()["used"], expected)


def test_modules_see_the_update() -> None:
    loss = Regression()
    parameters = list(loss.first.parameters())
    before = loss.first(inputs())
    Learner(loss).update(inputs(), learning_rate=0.1, tau=0.0)
    after = loss.first(inputs())
    assert all(p is q for p, q in zip(parameters, loss.first.parameters(), strict=True))  # the same objects
    assert not torch.allclose(before, after)
    assert all(p.grad is None for p in loss.parameters())
    # And the other way round: what is loaded into the modules is what is trained.
    fresh = Regression(1)
    learner = Learner(loss)
    loss.load_state_dict(fresh.state_dict())
    learner.update(inputs(), learning_rate=0.0, tau=0.0)
    torch.testing.assert_close(loss.first(inputs()), fresh.first(inputs()))


# State


def test_a_restored_learner_goes_on_identically() -> None:
    loss = Regression()
    learner = Learner(loss, [("first", "follower")])
    for step in range(5):
        learner.update(inputs(step), learning_rate=0.01, tau=0.1)
    parameters, state = copy.deepcopy(loss.state_dict()), copy.deepcopy(learner.state_dict())
    assert state["count"] == 5
    assert set(state["exp_avg"]) == {name for name, p in loss.named_parameters() if p.requires_grad}

    other = Regression(1)
    restored = Learner(other, [("first", "follower")])
    other.load_state_dict(parameters)
    restored.load_state_dict(state)
    for step in range(5, 10):
        learner.update(inputs(step), learning_rate=0.01, tau=0.1)
        restored.update(inputs(step), learning_rate=0.01, tau=0.1)
    assert all(torch.equal(p, q) for p, q in zip(loss.parameters(), other.parameters(), strict=True))


def state_without(learner: Learner, name: str) -> dict[str, Any]:
    state = copy.deepcopy(learner.state_dict())
    del state["exp_avg"][name], state["exp_avg_sq"][name]
    return state


def test_states_that_do_not_fit() -> None:
    learner = Learner(Regression())
    learner.update(inputs(), learning_rate=0.1, tau=0.0)
    partial = state_without(learner, "second.bias")
    fresh = Learner(Regression())
    with pytest.raises(KeyError, match=r"missing \['second.bias'\], unknown \[\]"):
        fresh.load_state_dict(partial)
    fresh.load_state_dict(partial, strict=False)
    assert fresh.state_dict()["exp_avg"]["second.bias"].item() == 0.0
    torch.testing.assert_close(fresh.state_dict()["exp_avg"]["second.weight"], partial["exp_avg"]["second.weight"])

    strange = copy.deepcopy(learner.state_dict())
    strange["exp_avg"]["third"] = torch.zeros(1)
    for strict in (True, False):
        with pytest.raises(KeyError, match=r"unknown \['third'\]"):
            fresh.load_state_dict(strange, strict=strict)


def test_moved_parameters_are_noticed() -> None:
    loss = Regression()
    learner = Learner(loss)
    loss.double()
    with pytest.raises(RuntimeError, match="make a new learner"):
        learner.update(inputs(), learning_rate=0.1, tau=0.0)


# Lock-step


def lockstep(count: int = 3, **settings: Any) -> tuple[Lockstep, list[Learner], list[Learner]]:
    """Members in lock-step, the members, and the same ones alone."""
    members, alone = (
        [
            Learner(Regression(seed), [("first", "follower")], max_grad_norm=settings.get("max_grad_norm"))
            for seed in range(count)
        ]
        for _ in range(2)
    )
    return Lockstep(members, compile=settings.get("compile", False)), members, alone


RATES = torch.tensor([0.01, 0.03, 0.1], dtype=torch.float64)
TAUS = torch.tensor([0.0, 0.1, 1.0], dtype=torch.float64)


@pytest.mark.parametrize("compile", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("max_norm", [None, 0.5])
def test_members_learn_as_they_would_alone(max_norm: float | None, compile: bool) -> None:
    together, members, alone = lockstep(max_grad_norm=max_norm, compile=compile)
    for step in range(30):
        batches = [inputs(100 * step + member) for member in range(3)]
        metrics = together.update(torch.stack(batches), learning_rate=RATES, tau=TAUS)
        for member, learner in enumerate(alone):
            rate, tau = RATES[member].item(), TAUS[member].item()
            own = learner.update(batches[member], learning_rate=rate, tau=tau)
            torch.testing.assert_close(metrics["loss"][member], own["loss"], rtol=1e-4, atol=1e-6)
    for member, learner in zip(members, alone, strict=True):
        for (name, p), expected in zip(member.loss.named_parameters(), learner.loss.parameters(), strict=True):
            torch.testing.assert_close(p, expected, rtol=1e-4, atol=1e-6, msg=lambda m, name=name: f"{name}: {m}")
    assert together.counts == [30, 30, 30]
    norms = [learner.gradient_norms() for learner in alone]
    for child, norm in together.gradient_norms().items():
        torch.testing.assert_close(norm, torch.stack([own[child] for own in norms]), rtol=1e-3, atol=1e-6)


def test_members_are_views() -> None:
    together, members, _ = lockstep()
    weight = members[1].loss.get_parameter("second.weight")
    before = weight.clone()
    together.update(torch.stack([inputs()] * 3), learning_rate=RATES, tau=TAUS)
    assert not torch.equal(weight, before)
    assert torch.equal(together.tensors("second")["weight"][1], weight)
    state = members[1].state_dict()
    moment = state["exp_avg"]["second.weight"]
    members[2].load_state_dict({**state, "exp_avg": {k: v.clone() for k, v in state["exp_avg"].items()}})
    assert torch.equal(members[2].state_dict()["exp_avg"]["second.weight"], moment)


@pytest.mark.parametrize("compile", [False, True], ids=["eager", "compiled"])
def test_what_is_not_finite_freezes_one_member(compile: bool) -> None:
    together, members, _ = lockstep(compile=compile)
    others, unharmed, _ = lockstep()
    for step in range(3):
        batch = torch.stack([inputs(step)] * 3)
        others.update(batch, learning_rate=RATES, tau=TAUS)
        if step == 1:
            before = [p.clone() for p in members[1].loss.parameters()]
        if step >= 1:
            batch = batch.clone()
            batch[1] = torch.nan
        together.update(batch, learning_rate=RATES, tau=TAUS)
    assert together.alive.tolist() == [True, False, True]
    assert together.counts == [3, 1, 3]
    assert all(torch.equal(p, old) for p, old in zip(members[1].loss.parameters(), before, strict=True))
    for index in (0, 2):
        for p, expected in zip(members[index].loss.parameters(), unharmed[index].loss.parameters(), strict=True):
            torch.testing.assert_close(p, expected, rtol=1e-5, atol=1e-6)


def test_members_must_be_alike() -> None:
    first = Learner(Regression(), max_grad_norm=1.0)
    with pytest.raises(ValueError, match="max_grad_norm must be the same for all members, but member 1 has None"):
        Lockstep([first, Learner(Regression())])
    other = Regression()
    other.second = nn.Linear(3, 2)
    with pytest.raises(ValueError, match="networks of the same shapes"):
        Lockstep([Learner(Regression()), Learner(other)])


# Compiling


def test_compiled_updates_are_the_eager_ones() -> None:
    eager = Learner(Regression(), [("first", "follower")], max_grad_norm=0.5)
    compiled = Learner(Regression(), [("first", "follower")], max_grad_norm=0.5, compile=True)
    for step in range(20):
        for learner in (eager, compiled):
            learner.update(inputs(step), learning_rate=0.01 / (step + 1), tau=0.1 * (step % 2))
    for p, expected in zip(compiled.loss.parameters(), eager.loss.parameters(), strict=True):
        torch.testing.assert_close(p, expected, rtol=1e-5, atol=1e-6)
    assert compiled.state_dict()["count"] == 20
    # Other shapes and other strides than those that were compiled for.
    for other in (inputs(7)[:5], inputs(8).T.contiguous().T):
        for learner in (eager, compiled):
            learner.update(other, learning_rate=0.01, tau=0.1)
    for p, expected in zip(compiled.loss.parameters(), eager.loss.parameters(), strict=True):
        torch.testing.assert_close(p, expected, rtol=1e-5, atol=1e-6)


def test_what_was_compiled_is_found_in_the_cache_of_torch(capsys: pytest.CaptureFixture[str]) -> None:
    first, second = (Learner(Regression(), [("first", "follower")], max_grad_norm=0.25, compile=True) for _ in range(2))
    first.update(inputs(0), learning_rate=0.01)
    found = counters["inductor"]["fxgraph_cache_hit"]
    second.update(inputs(0), learning_rate=0.01)
    assert counters["inductor"]["fxgraph_cache_hit"] == found + 1
    for p, expected in zip(second.loss.parameters(), first.loss.parameters(), strict=True):
        assert torch.equal(p, expected)
    assert capsys.readouterr().err.count("compiling the update ... ") == 2


def test_without_a_compiler_updates_stay_eager(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("no C++ compiler\nand a long trace")

    monkeypatch.setattr("torch._inductor.compile_fx.compile_fx", fail)
    eager, other = Learner(Regression()), Learner(Regression(), compile=True)
    with pytest.warns(UserWarning, match="cannot be compiled, and stays eager: no C\\+\\+ compiler$"):
        other.update(inputs(), learning_rate=0.01, tau=0.0)
    eager.update(inputs(), learning_rate=0.01, tau=0.0)
    for learner in (eager, other):
        learner.update(inputs(1), learning_rate=0.01, tau=0.0)
    for p, expected in zip(other.loss.parameters(), eager.loss.parameters(), strict=True):
        assert torch.equal(p, expected)


def test_recorded_updates_are_the_eager_ones_to_the_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learner_module, "EAGER_UPDATES", 3)
    recorded = Learner(Known(), [("first", "follower")], max_grad_norm=0.5)
    eager = Learner(Known(), [("first", "follower")], max_grad_norm=0.5, record=False)
    for step in range(20):
        for learner in (eager, recorded):
            metrics = learner.update(inputs(step)[: 8 - step // 15], learning_rate=0.01, tau=0.1)
            assert not metrics["loss"].requires_grad
    assert len(recorded._update.traced._records) == 2  # one for each shape
    for p, expected in zip(recorded.loss.parameters(), eager.loss.parameters(), strict=True):
        assert torch.equal(p, expected)


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("affine", [False, True])
def test_layer_norms_are_recorded(affine: bool, together: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their gradient has a list of booleans among its arguments, which torch's tracer does not know."""
    monkeypatch.setattr(learner_module, "EAGER_UPDATES", 1)

    def made(seed: int, record: bool) -> Learner:
        torch.manual_seed(seed)
        loss = Known(seed)
        loss.second = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3, elementwise_affine=affine), nn.Linear(3, 1))  # type: ignore[assignment]
        return Learner(loss, record=record)

    recorded, eager = made(0, record=True), made(0, record=False)
    both = Lockstep([recorded, made(1, record=True)]) if together else recorded
    for step in range(5):
        if isinstance(both, Lockstep):
            both.update(torch.stack([inputs(step)] * 2), learning_rate=0.01)
        else:
            both.update(inputs(step), learning_rate=0.01)
        eager.update(inputs(step), learning_rate=0.01)
    assert both._update is not None
    assert len(both._update.traced._records) == 1
    for p, expected in zip(recorded.loss.parameters(), eager.loss.parameters(), strict=True):
        torch.testing.assert_close(p, expected, rtol=1e-5, atol=1e-6 if together else 0.0)


def test_what_is_exchanged_after_the_recording_has_its_effect(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learner_module, "EAGER_UPDATES", 1)
    learners = [Learner(Known(), [("first", "follower")], record=record) for record in (False, True)]
    for step in range(6):
        for learner in learners:
            if step == 3:
                learner.loss.get_submodule("second").register_forward_hook(lambda module, given, output: output + 1)
            learner.update(inputs(step), learning_rate=0.01, tau=0.1)
    for p, expected in zip(learners[1].loss.parameters(), learners[0].loss.parameters(), strict=True):
        assert torch.equal(p, expected)


def test_copies_and_pickles_go_on_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learner_module, "EAGER_UPDATES", 2)
    learner = Learner(Regression(), [("first", "follower")])
    for step in range(5):
        learner.update(inputs(step), learning_rate=0.01, tau=0.1)
    others = [copy.deepcopy(learner), pickle.loads(pickle.dumps(learner))]
    learner.update(inputs(9), learning_rate=0.01, tau=0.1)
    for other in others:
        other.update(inputs(9), learning_rate=0.01, tau=0.1)
        for p, expected in zip(other.loss.parameters(), learner.loss.parameters(), strict=True):
            assert torch.equal(p, expected)
            assert p.data_ptr() != expected.data_ptr()


def test_what_a_stranger_wrote_is_not_recorded() -> None:
    """It may decide by values: a record of one decision would be repeated for ever."""

    class Deciding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 1)

        def forward(self, inputs: Tensor) -> Tensor:
            return self.linear(inputs if inputs.sum() > 0 else -inputs)

    loss = Known()
    assert Learner(loss)._update.traced.is_possible
    loss.second = Deciding()  # type: ignore[assignment]
    assert not Learner(loss)._update.traced.is_possible


def test_the_earlier_name_of_the_module_warns() -> None:
    with pytest.warns(DeprecationWarning, match=r"gsrl\.learner is now gsrl\.learning"):
        assert importlib.import_module("gsrl.learner").Learner is Learner


# Rates


def test_parts_of_a_loss_have_rates_of_their_own() -> None:
    """As torch's Adam with groups does, alone and in lock-step."""
    rates = {"first": 3.0, "first.2.bias": 0.5, "second": 0.0}
    theirs = Regression()
    groups = [
        {"params": [p], "lr": 1e-2 * (0.5 if name == "first.2.bias" else 3.0 if name.startswith("first") else 0.0)}
        for name, p in theirs.named_parameters()
        if p.requires_grad
    ]
    optimizer = torch.optim.Adam(groups)
    alone, compiled = (Learner(Regression(), rates=rates, compile=compile) for compile in (False, True))
    together = Lockstep([Learner(Regression(seed), rates=rates) for seed in (0, 1)])
    for step in range(5):
        optimizer.zero_grad()
        theirs(inputs(step))[0].backward()
        optimizer.step()
        for learner in (alone, compiled):
            learner.update(inputs(step), learning_rate=1e-2)
        together.update(inputs(step).repeat(2, 1, 1), learning_rate=1e-2)
    for name, expected in theirs.named_parameters():
        for own in (alone.loss, compiled.loss, together.losses[0]):
            torch.testing.assert_close(own.get_parameter(name), expected, rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match="paths of trained parameters of the loss, but got 'follower'"):
        Learner(Regression(), rates={"follower": 2.0})
    with pytest.raises(ValueError, match="rates must be the same for all members"):
        Lockstep([Learner(Regression(), rates=rates), Learner(Regression())])


class Rows(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.zeros(3, 2)), nn.Parameter(torch.zeros(3))


class Shared(nn.Module):
    """Rows of two owners, the first of which has rows 0 and 2."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Rows()
        self.owners = {"net.weight": [0, 1, 0], "net.bias": [0, 1, 0]}

    def forward(self, slopes: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        loss = (self.net.weight * slopes[:, :2]).sum() + (self.net.bias * slopes[:, 2]).sum()
        return loss, {"loss": loss.detach()}


SLOPES = torch.tensor([[1.0, 2.0, 2.0], [0.3, 0.0, 0.4], [4.0, 0.0, 0.0]])
"""The norms are 5 and 1/2."""


@pytest.mark.parametrize(("members", "compile"), [(0, False), (2, False), (2, True)])
def test_owners_of_rows_are_clipped_each_by_its_norm(members: int, compile: bool) -> None:
    learners = [Learner(Shared(), max_grad_norm=1.0, compile=compile) for _ in range(max(members, 1))]
    if members:
        lockstep = Lockstep(learners, compile=compile)
        lockstep.update(torch.stack([SLOPES, 10 * SLOPES]), learning_rate=0.1)
        norms = lockstep.gradient_norms()["net"]
        torch.testing.assert_close(norms, torch.tensor([[5.0, 0.5], [50.0, 5.0]]))
        assert lockstep.scalars()[1]["train/gradient_norm_net"] == pytest.approx(27.5)
    else:
        learners[0].update(SLOPES, learning_rate=0.1)
        torch.testing.assert_close(learners[0].gradient_norms()["net"], torch.tensor([5.0, 0.5]))
    clipped = SLOPES / torch.tensor([5.0, 1.0, 5.0])[:, None]
    moments = learners[0].state_dict()["exp_avg"]
    torch.testing.assert_close(moments["net.weight"], 0.1 * clipped[:, :2])
    torch.testing.assert_close(moments["net.bias"], 0.1 * clipped[:, 2])
