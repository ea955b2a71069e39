#!/usr/bin/env bash
# Keep the figures of finished runs of the quickstart, of seeds 0, 1, ... in this order, and the
# pictures of the first; then write the page of all figures.
#
#   bash recipes/quickstart/keep.sh runs/quickstart runs/quickstart-1 runs/quickstart-2
set -euo pipefail
cd "$(dirname "$0")/../.."
source recipes/environment.sh

results=recipes/results/quickstart
without_this_machine() { # absolute paths become those from here
    sed "s|$PWD/||g"
}
for ((seed = 0; seed < $#; seed++)); do
    run=${*:seed + 1:1}
    without_this_machine <"$run/evaluation/results.json" >"$results/seed-$seed.json"
done
without_this_machine <"$1/by-iteration/results.json" >"$results/results.json"
cp "$1"/by-iteration/plots/{images,reward-by-policy}.png "$results"
python recipes/quickstart/tables.py "$results"
