#!/usr/bin/env bash
# One round of Apache Kafka's console tools: create, produce with every codec, consume in a group exactly that, commit.
#
#   java_round.sh BOOTSTRAP TOPIC ROUND [PROTOCOL]
#
# PROTOCOL is the group protocol, classic or consumer.
set -euo pipefail
bootstrap=$1 topic=$2 round=$3 protocol=${4:-classic}
tools=$(cd "$(dirname "${BASH_SOURCE[0]}")/../../../tools/kafka" && pwd)
export JDK_JAVA_OPTIONS="-Xmx256m -XX:TieredStopAtLevel=1 -XX:+UseSerialGC -Dlog4j2.configurationFile=$tools/log4j2.properties"
tool() { timeout 90 "$tools/kafka" run "org.apache.kafka.tools.$1" --bootstrap-server "$bootstrap" --topic "$topic" "${@:2}"; }
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
tool TopicCommand --create --if-not-exists --partitions 3 >/dev/null
for codec in none gzip snappy lz4 zstd; do
  seq 100 | sed "s/^/round $round $codec /" | tee -a "$scratch/sent" | tool ConsoleProducer --compression-codec "$codec" >/dev/null
done
tool consumer.ConsoleConsumer --group "java-$topic" --command-property "group.protocol=$protocol" --from-beginning --max-messages 500 --timeout-ms 30000 >"$scratch/read" 2>"$scratch/log"
diff <(sort "$scratch/sent") <(sort "$scratch/read") >&2 || { cat "$scratch/log" >&2; echo "not what was sent" >&2; exit 1; }
# Nothing is left over: a record read twice or a commit that was lost would show as lag.
timeout 90 "$tools/kafka" run org.apache.kafka.tools.consumer.group.ConsumerGroupCommand --bootstrap-server "$bootstrap" \
  --describe --group "java-$topic" 2>/dev/null | awk -v t="$topic" '$2 == t { lag += $6; n++ } END { exit !(n && lag == 0) }' ||
  { echo "the group has not committed everything" >&2; exit 1; }
echo ok
