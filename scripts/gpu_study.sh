#!/usr/bin/env bash
# The full-size CIFAR-10 recipes (ResNet-18, 200 epochs) of every method on one GPU, at most ten minutes a command:
#
#   bash scripts/gpu_study.sh DATA RUNS MINUTES            # again and again, until it says that all are done
#   REHEARSE=1 bash scripts/gpu_study.sh DATA RUNS 1       # tiny networks on a CPU: whether it runs
#
# DATA: what `clzoo pretrain --data` takes. RUNS: outside the repository; each run continues where it stopped. Finished
# runs are judged (k-NN, linear, collapse), and their small files packed into RUNS/results.tar (under 16 MiB).
set -euo pipefail
cd "$(dirname "$0")/.."
DATA=$1 RUNS=$2 MINUTES=${3:-9}
PYTHON=${PYTHON:-python}
END=$((SECONDS + ${MINUTES%.*} * 60))
SMALL=()
DEVICE=cuda
if [ -n "${REHEARSE:-}" ]; then
    SMALL=(--set backbone.name=resnet10_w16 --set schedule.epochs=1 --set schedule.batch_size=16
        --set schedule.warmup_epochs=0 --set schedule.milestones=[] --set backbone.batchnorm_groups=1)
    DEVICE=cpu
fi
mkdir -p "$RUNS"

# In order of value: name, recipe, what is set.
STUDY=(
    "mocov2 mocov2_cifar10"
    "simclr simclr_cifar10"
    "hydra hydra_cifar10"
    "hydra_open hydra_cifar10 method.gate=false"
    "cacr_k1 cacr_cifar10 views.0.count=2"
    "cacr_k4 cacr_cifar10"
    "reco reco_cifar10"
    "ps potential_samples_cifar10"
    "supcon supcon_cifar10"
    "mocov3 mocov3_cifar10"
)
for line in "${STUDY[@]}"; do
    read -r name recipe set <<<"$line"
    run="$RUNS/$name"
    [ -f "$run/evaluation/metrics.json" ] && continue
    left=$(((END - SECONDS) / 60))
    if [ "$left" -lt 1 ] && [ -z "${REHEARSE:-}" ]; then
        echo "the time is up before $name; the same command goes on"
        break
    fi
    options=("${SMALL[@]}")
    [ -n "$set" ] && options+=(--set "$set")
    if [ -n "${REHEARSE:-}" ] && grep -q "queue:" "recipes/$recipe.yaml"; then options+=(--set method.queue=64); fi
    if [ -n "${REHEARSE:-}" ] && grep -q "group:" "recipes/$recipe.yaml"; then options+=(--set method.group=16); fi
    "$PYTHON" -m clzoo pretrain "$recipe" --data "$DATA" --out "$run" --device "$DEVICE" --max-minutes "$left" "${options[@]}"
    if grep -q '"finished": true' "$run/state.json"; then
        "$PYTHON" -m clzoo evaluate "$run" --data "$DATA" --protocol knn,linear,collapse --out "$run/evaluation"
    fi
done
(cd "$RUNS" && find . \( -name '*.json' -o -name 'log.jsonl' -o -name 'recipe.yaml' -o -name 'curves.png' \) -print0 |
    tar --null -cf results.tar -T -)
echo "packed: $RUNS/results.tar, $(du -k "$RUNS/results.tar" | cut -f1) KiB"
