#!/usr/bin/env bash
# What there is to know on a machine with a GPU of NVIDIA's, in under ten minutes, with this checkout and its wheels:
# tests marked cuda, then steps a second of one agent and of 16 to 1,024 members. Writes gpu.json and gpu.md.
#
#   benchmarks/gpu/check.sh [--dry] [OUT]
#
# --dry: all of it on the CPU, for a moment each, in less than a minute. OUT: a folder, benchmarks/results/gpu by default,
# of a dry run one that is thrown away. PYTHON: an interpreter with a torch for CUDA. WHEELS: a folder of wheels, if that
# interpreter lacks the rest; on a machine with network, `pip download -d wheels "stable-baselines3>=2.9" hypothesis pytest
# tqdm tyro rich pandas matplotlib` fills it. They go into an environment of their own that sees PYTHON's packages.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

dry=
if [[ ${1:-} == --dry ]]; then dry=--dry; shift; fi
out=${1:-benchmarks/results/gpu}
python=${PYTHON:-python3}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
[[ -z $dry || $# -gt 0 ]] || out=$scratch/gpu
export PYTHONPATH=$PWD OMP_NUM_THREADS=1

if [[ -n ${WHEELS:-} ]]; then
  "$python" -m venv --system-site-packages "$scratch/venv"
  python=$scratch/venv/bin/python
  "$python" -m pip install --quiet --no-index --find-links "$WHEELS" --no-deps "$WHEELS"/*.whl
fi
"$python" -c 'import gsrl, pytest, hypothesis, stable_baselines3, torch, sys
if not sys.argv[1:] and not torch.cuda.is_available(): raise SystemExit("torch sees no GPU: give --dry, or another PYTHON")' $dry

chosen=cuda
status=0
if [[ -n $dry ]]; then
  export GSRL_TEST_DEVICE=cpu
  only=(-k "not conform or straight-through]")
else
  only=()
fi
timeout 240 "$python" -m pytest -q -m "$chosen" -p no:cacheprovider tests/integration/test_cuda.py "${only[@]}" \
  2>&1 | tee "$scratch/tests" || status=$?
"$python" benchmarks/gpu/speed.py $dry --minutes 4 --tests "$scratch/tests" --out "$out"
[[ -z $dry ]] || cat "$out/gpu.md"
exit $status
