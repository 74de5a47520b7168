#!/usr/bin/env bash
# The way through the project in some five minutes on two cores: compress, decompress, train, compare by real files.
#
#   ./launch/demo.sh [FOLDER]      results go to FOLDER (default runs/demo); run again to see them again
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
prepare "train,bench"
activate
export JAX_PLATFORMS="${JAX_PLATFORMS:-cpu}"
RUN="${1:-$ROOT/runs/demo}"
BEGAN=$SECONDS

echo
echo "== 1. Compressing a photo with the weights that come with the package, and back"
PHOTO="$(python -c 'from mlic_jax import data; print(data.bundled("validation")[0])')"
NAME="$(basename "$PHOTO" .png)"
mkdir -p "$RUN"
mlic compress "$PHOTO" -q 40 -o "$RUN/$NAME.mlic" -f
mlic info "$RUN/$NAME.mlic"
mlic decompress "$RUN/$NAME.mlic" -o "$RUN/$NAME.png" -f

echo
echo "== 2. Training the same codec from nothing, on the photos that come with the project"
mlic train --config demo --workdir "$RUN/training"
echo
echo "   and what decides the probabilities of symbols once more, on larger patches"
mlic train --config demo:priors --workdir "$RUN/priors" --config.init_from="$RUN/training"
mlic export --run "$RUN/priors" -o "$RUN/demo.mlicm" -f

echo
echo "== 3. Both beside JPEG, JPEG 2000, WebP and AVIF, on photos held out from step 2 (three were in the shipped weights' training)"
mlic benchmark --models "trained in this demo=$RUN/demo.mlicm" shipped=kltnet-tiny \
  --codecs jpeg,jpeg2000,webp,avif -j 2 --out "$RUN/report"

cat <<TEXT

== Done in $((SECONDS - BEGAN)) s. Next:
  open $RUN/report/report.html                 pictures side by side, the curves, the figures
  mlic compress YOUR.jpg                       your own photo (first: source $VENV/bin/activate)
  mlic train --config mbt2018_mean:4 --workdir runs/mean-4 --config.data.source=YOUR_PHOTOS
                                               a full-width model, on a GPU: docs/training.md
  $ROOT/launch/test.sh      the tests
TEXT
