#!/usr/bin/env bash
# Installs the wheel into an empty environment and uses it in an empty folder: .ci/wheel.sh [PYTHON]
set -euo pipefail
cd "$(dirname "$0")/.."
unset PYTHONPATH PYTHONDONTWRITEBYTECODE
uv=$PWD/.venv/bin/uv constraints=$PWD/constraints.txt python=${1:-$PWD/.venv/bin/python}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

"$uv" build --quiet --wheel --out-dir "$folder" .
"$uv" venv --quiet --python "$python" "$folder/venv"
"$uv" pip install --quiet --python "$folder/venv/bin/python" --constraint "$constraints" \
    "$(echo "$folder"/mvrec-*.whl)[demo]"
mkdir "$folder/empty"
cd "$folder/empty"
export PATH=$folder/venv/bin:$PATH

echo "$(mvrec --version) on $(python --version)"
python - <<'CODE'
import contextlib, io
from mvrec.cli.main import COMMANDS, main

for command in COMMANDS:
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        main([command, "--help"])
    assert "usage: " in out.getvalue(), f"mvrec {command} --help"
print(f"--help of {len(COMMANDS)} commands")
CODE
mvrec recipes > recipes.txt
grep -q '^  mvit_b_16x4 ' recipes.txt
mvrec recipes show demo > my.yaml
grep -q 'class_path: mvrec.data.MovingDigits' my.yaml
mvrec demo --model.backbone.embed_dim 8 --model.backbone.depth 2 --model.backbone.dim_mults '{}' \
    --model.backbone.head_mults '{}' --model.backbone.q_strides '{1: 2}' \
    --data.clips_per_class 2 --data.eval_clips_per_class 2 --data.num_workers 0 \
    --trainer.max_epochs 1 --trainer.limit_train_batches 2 2>&1 | tail -5
test -f runs/demo/checkpoints/best.ckpt
mvrec prep index data/moving_digits --out lists 2>&1 | tail -12
mvrec prep check lists --out check 2>&1 | tail -9
