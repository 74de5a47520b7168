#!/usr/bin/env bash
# The way through the project in some six minutes on two cores: train, evaluate on real files, compress, decompress.
#
#   ./launch/demo.sh [FOLDER]      results go to FOLDER (default runs/demo); run again to see them again
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
prepare "train,bench"
activate
export JAX_PLATFORMS="${JAX_PLATFORMS:-cpu}"
cd "$ROOT"
RUN="${1:-runs/demo}"
BEGAN=$SECONDS

echo
echo "== 1. Training a small learned codec on the photos that come with the project"
mlic train --config configs/demo.py --workdir "$RUN"

echo
echo "== 2. Exporting its weights as one file"
mlic export --run "$RUN" -o "$RUN/demo.mlicm" -f

echo
echo "== 3. Compressing a photo it has never seen, and back"
PHOTO="$(python -c 'from mlic_jax import data; print(data.bundled("validation")[0])')"
NAME="$(basename "$PHOTO" .png)"
mlic compress "$PHOTO" -m "$RUN/demo.mlicm" -o "$RUN/$NAME.mlic" -f
mlic info "$RUN/$NAME.mlic"
mlic decompress "$RUN/$NAME.mlic" -m "$RUN/demo.mlicm" -o "$RUN/$NAME.png" -f

echo
echo "== 4. Beside JPEG, JPEG 2000, WebP and AVIF, on the photos held out from training"
mlic evaluate --model "$RUN/demo.mlicm" --compare --out "$RUN/report" --label "mlic demo" \
  --note "A demonstration: a narrow model (32 channels), trained for about three minutes on two CPU cores on eight
    photos, for a low rate, where JPEG is at its weakest. Published models of this kind are four times as wide and train
    for days; this one shows that everything works, and does not beat WebP."

cat <<TEXT

== Done in $((SECONDS - BEGAN)) s. Next:
  open $RUN/report/report.html                 pictures side by side, the curves, the figures
  mlic compress YOUR.jpg -m $RUN/demo.mlicm    your own photo (first: source .venv/bin/activate)
  mlic train --config configs/mbt2018_mean.py:4 --workdir runs/mean-4 --config.data.source=YOUR_PHOTOS
                                               a full-width model, on a GPU: docs/training.md
  ./launch/test.sh                             the tests
TEXT
