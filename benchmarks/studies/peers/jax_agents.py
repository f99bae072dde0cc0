r"""Agents in JAX on CartPole-v1, one update a step, as ``throughput.py`` and ``members.py`` time them.

``rejax`` is its SAC with gymnax's environment compiled in, of one seed or of many under ``vmap``; ``sbx`` is the DQN of
Stable-Baselines3's JAX port, in Gymnasium's environment. They live in an environment of their own, and this file
imports nothing of gsrl's; torch, which sbx-rl asks for, may be that of the CPU:

    python -m venv .venv-jax
    .venv-jax/bin/pip install rejax==0.1.3 gymnax==0.0.9 sbx-rl==0.28.0 \
        --extra-index-url https://download.pytorch.org/whl/cpu
    .venv-jax/bin/python benchmarks/studies/peers/jax_agents.py rejax [--members 16] [--steps 20000]

trains on one thread and prints how long that took, compiling apart. With ``--serve`` it is the other end of
``--jax-python`` of the two studies: it compiles, fills its replay, prints a line of JSON with its versions, then reads
a number of steps from each line of its input, trains that long, and answers with the processor's seconds that it took.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
os.environ["OMP_NUM_THREADS"] = "1"

ENV = "CartPole-v1"


def rejax_sac(
    members: int, *, width: int, learning_rate: float, buffer_size: int, learning_starts: int, batch_size: int
) -> Callable[[int], object]:
    """Takes so many steps of each member, past those without updates."""
    import jax
    from rejax import SAC

    agent = SAC.create(
        env=ENV,
        hidden_layer_sizes=(width, width),
        learning_rate=learning_rate,
        buffer_size=buffer_size,
        fill_buffer=learning_starts,
        batch_size=batch_size,
        num_envs=1,
        polyak=0.995,
    )

    def go_on(state: Any, steps: int) -> Any:
        return jax.lax.fori_loop(0, steps, lambda _, each: agent.train_iteration(each), state)

    keys = jax.random.split(jax.random.PRNGKey(0), members)
    if members == 1:
        state, run = agent.init_state(keys[0]), jax.jit(go_on)
    else:
        state, run = jax.vmap(agent.init_state)(keys), jax.jit(jax.vmap(go_on, in_axes=(0, None)))

    def learn(steps: int) -> None:
        nonlocal state
        state = jax.block_until_ready(run(state, steps))

    learn(learning_starts + 1)
    return learn


def sbx_dqn(
    members: int, *, width: int, learning_rate: float, buffer_size: int, learning_starts: int, batch_size: int
) -> Callable[[int], object]:
    """The same; one agent."""
    from sbx import DQN

    if members != 1:
        raise SystemExit(f"--members must be 1 for sbx, but got {members}")
    agent = DQN(
        "MlpPolicy",
        ENV,
        learning_rate=learning_rate,
        buffer_size=buffer_size,
        learning_starts=learning_starts,
        batch_size=batch_size,
        train_freq=1,
        gradient_steps=1,
        policy_kwargs={"net_arch": [width, width]},
        seed=0,
    )

    def learn(steps: int) -> None:
        agent.learn(steps, log_interval=None, reset_num_timesteps=False)

    learn(learning_starts + 10)
    return learn


AGENTS: dict[str, tuple[Callable[..., Callable[[int], object]], tuple[str, ...]]] = {
    "rejax": (rejax_sac, ("rejax", "gymnax", "jax")),
    "sbx": (sbx_dqn, ("sbx-rl", "stable-baselines3", "jax")),
}


def main() -> None:
    """Trains, or serves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("agent", choices=AGENTS)
    parser.add_argument("--members", type=int, default=1)
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--serve", action="store_true", help="train as long as each line of the input says")
    parser.add_argument("--settings", type=json.loads, default={}, help="JSON: arguments of the agent")
    options = parser.parse_args()
    make, packages = AGENTS[options.agent]
    defaults = {"width": 64, "learning_rate": 1e-3, "buffer_size": 100_000, "learning_starts": 500, "batch_size": 64}
    begin = time.process_time()
    learn = make(options.members, **{**defaults, **options.settings})
    ready = time.process_time()
    if not options.serve:
        learn(options.steps)
        rate = options.members * options.steps / (time.process_time() - ready)
        print(f"{ready - begin:.1f} s until the first updates, then {rate:,.0f} steps a second of all members")
        return
    print(json.dumps({name: version(name) for name in packages}), flush=True)
    for line in sys.stdin:
        start = time.process_time()
        learn(int(line))
        print(time.process_time() - start, flush=True)


if __name__ == "__main__":
    main()
