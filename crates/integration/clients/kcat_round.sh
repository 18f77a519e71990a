#!/usr/bin/env bash
# One round of kcat: produce with every codec (which creates the topic), consume in a group exactly that, commit.
#
#   kcat_round.sh BOOTSTRAP TOPIC ROUND
set -euo pipefail
bootstrap=$1 topic=$2 round=$3
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
for codec in none gzip snappy lz4 zstd; do
  seq 100 | sed "s/^/round $round $codec /" | tee -a "$scratch/sent" |
    kcat -P -b "$bootstrap" -t "$topic" -X "compression.codec=$codec" -X acks=all -X enable.idempotence=true
done
kcat -b "$bootstrap" -L -t "$topic" | grep -q "topic \"$topic\" with" || { echo "the topic is not listed" >&2; exit 1; }
# -e ends at the end of every partition; the offsets are committed on the way out.
timeout 60 kcat -b "$bootstrap" -G "kcat-$topic" -e -q -X auto.offset.reset=earliest "$topic" >"$scratch/read"
diff <(sort "$scratch/sent") <(sort "$scratch/read") >&2 || { echo "not what was sent" >&2; exit 1; }
echo ok
