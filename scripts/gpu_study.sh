#!/usr/bin/env bash
# The full-size CIFAR-10 recipes (ResNet-18, 200 epochs) of every method on one GPU, at most ten minutes a command:
#
#   bash scripts/gpu_study.sh DATA RUNS MINUTES [NAME ...]    # again and again, until it says that all are done
#   REHEARSE=1 bash scripts/gpu_study.sh DATA RUNS            # tiny networks on a CPU: whether it runs
#
# DATA: what `clzoo pretrain --data` takes, with labels and a test split; a few pictures will do to rehearse. RUNS:
# outside the repository; each run continues where it stopped. NAME: of the list below; default: all, in order of value.
# Finished runs are judged (k-NN, linear, collapse), and their small files packed into RUNS/results.tar.gz, cut into
# RUNS/results.tar.gz.part-aa, ... where it is larger than 16 MiB.
set -euo pipefail
[ $# -ge 2 ] || { sed -n '2,11s/^# \{0,1\}//p' "$0"; exit 2; }
PYTHON=${PYTHON:-python}
DATA=$1 RUNS=$2 MINUTES=${3:-9}
shift $(($# < 3 ? $# : 3))
JUDGING=60 # seconds that are kept for the evaluation of a run
SMALL=()
DEVICE=cuda
if [ -n "${REHEARSE:-}" ]; then
    SMALL=(--set backbone.name=resnet10_w16 --set schedule.epochs=0.01 --set schedule.batch_size=16
        --set schedule.warmup_epochs=0 --set schedule.milestones=[] --set backbone.batchnorm_groups=1)
    DEVICE=cpu JUDGING=0
fi
END=$((SECONDS + ${MINUTES%.*} * 60))
mkdir -p "$RUNS"
DATA=$(cd "$(dirname "$DATA")" && pwd)/$(basename "$DATA") RUNS=$(cd "$RUNS" && pwd)
cd "$(dirname "$0")/.."

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
known=" $(printf '%s\n' "${STUDY[@]}" | cut -d' ' -f1 | tr '\n' ' ')"
for name in "$@"; do
    [[ $known == *" $name "* ]] || { echo "no run is called $name; there are:$known" >&2; exit 2; }
done

is_finished() { grep -qs '"finished": true' "$1/state.json"; }

all_done=yes
for line in "${STUDY[@]}"; do
    read -r name recipe set <<<"$line"
    [ $# -eq 0 ] || [[ " $* " == *" $name "* ]] || continue
    run="$RUNS/$name"
    [ -f "$run/evaluation/metrics.json" ] && continue
    left=$((END - SECONDS - JUDGING))
    if [ "$left" -lt 0 ]; then
        echo "the time is up before $name; the same command goes on"
        all_done=no
        break
    fi
    if ! is_finished "$run"; then
        options=("${SMALL[@]+"${SMALL[@]}"}")
        [ -n "$set" ] && options+=(--set "$set")
        if [ -n "${REHEARSE:-}" ] && grep -q "queue:" "recipes/$recipe.yaml"; then options+=(--set method.queue=64); fi
        if [ -n "${REHEARSE:-}" ] && grep -q "group:" "recipes/$recipe.yaml"; then options+=(--set method.group=16); fi
        limit=$(printf '%d.%02d' $((left / 60)) $((left % 60 * 100 / 60)))
        "$PYTHON" -m clzoo pretrain "$recipe" --data "$DATA" --out "$run" --device "$DEVICE" --max-minutes "$limit" \
            "${options[@]+"${options[@]}"}"
    fi
    if ! is_finished "$run" || [ $((END - SECONDS)) -lt "$JUDGING" ]; then
        echo "the time is up in $name; the same command goes on"
        all_done=no
        break
    fi
    "$PYTHON" -m clzoo evaluate "$run" --data "$DATA" --protocol knn,linear,collapse --device "$DEVICE" \
        --out "$run/evaluation"
done

cd "$RUNS"
rm -f results.tar.gz.part-*
find . -type f \( -name '*.json' -o -name 'log.jsonl' -o -name 'recipe.yaml' -o -name 'curves.png' \) -print0 |
    sort -z | tar --null -czf results.tar.gz -T -
if [ "$(du -k results.tar.gz | cut -f1)" -gt 16384 ]; then
    split -b 16m results.tar.gz results.tar.gz.part-
    rm results.tar.gz
fi
echo "packed: $(ls -d "$RUNS"/results.tar.gz*)"
[ "$all_done" = no ] || echo "all runs are done: ${*:-the whole study}"
