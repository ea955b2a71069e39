#!/usr/bin/env bash
# Make the embedded world from openly licensed artwork: about two hours on two CPU cores.
# Every step resumes where it was killed; run the same command again.
#
#   bash recipes/embedded/build.sh WORK_FOLDER
#
# Needs node (for npm) and, besides expo, resvg-py and scipy: pip install resvg-py scipy

set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
work=$1
shipped=$here/../../expo_cli/embedded
mkdir -p "$work"
export OMP_NUM_THREADS=1

# The artwork and its captions. Their licences are in NOTICE.
npm install --prefix "$work/npm" \
    @iconify-json/noto@1.2.9 @iconify-json/fluent-emoji-flat@1.2.6 @iconify-json/twemoji@1.2.5 \
    @lobehub/fluent-emoji-3d@1.1.0 emojibase-data@17.0.0
python "$here/data.py" "$work/npm/node_modules" "$work"
python "$here/tokenizer.py" "$work/npm/node_modules" "$work"

# The autoencoder and the text encoder do not need each other: one core each.
python "$here/vae.py" "$work" --minutes 12 &
autoencoder=$!
python "$here/clip.py" "$work" --minutes 10
wait "$autoencoder"

# The denoiser takes the longest.
python "$here/unet.py" "$work" --minutes 93 &
denoiser=$!

# Meanwhile the rewards learn from artwork and from flaws, each from its own kinds ...
python "$here/reward_a.py" "$work" --minutes 10
python "$here/reward_b.py" "$work" --minutes 12

# ... and then also from what the denoiser draws by now; the second, which starts from nothing, for longer.
python "$here/own_samples.py" "$work" b
python "$here/reward_b.py" "$work" --minutes 22 --own-samples
python "$here/own_samples.py" "$work" a
python "$here/reward_a.py" "$work" --minutes 16 --own-samples
python "$here/own_samples.py" "$work" b
python "$here/reward_b.py" "$work" --minutes 32 --own-samples
wait "$denoiser"

# Ship it, measure what is shipped (WORK_FOLDER/figures.json) and draw the picture of its card.
python "$here/export.py" "$work" "$shipped"
python "$here/measure.py" "$work"
python "$here/grid.py" "$shipped/emoji-sd" "$shipped/emoji-sd/samples.png"
