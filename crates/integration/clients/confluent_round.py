"""One round of confluent-kafka (librdkafka): create, produce with every codec, consume in a group exactly that, commit.

    confluent_round.py BOOTSTRAP TOPIC ROUND [PROTOCOL]

PROTOCOL is the group protocol, classic or consumer.
"""

import sys
import time

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer
from confluent_kafka.admin import AdminClient, NewTopic

bootstrap, topic, turn = sys.argv[1:4]
protocol = sys.argv[4] if len(sys.argv) > 4 else "classic"
servers = {"bootstrap.servers": bootstrap}
admin = AdminClient(servers)
for created in admin.create_topics([NewTopic(topic, 3, 1)]).values():
    try:
        created.result(30)
    except KafkaException as error:
        if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
            raise

expected, failures = set(), []
for codec in ("none", "gzip", "snappy", "lz4", "zstd"):
    producer = Producer({**servers, "compression.type": codec, "enable.idempotence": True, "linger.ms": 20})
    for n in range(100):
        text = f"round {turn} {codec} {n}"
        producer.produce(topic, text, on_delivery=lambda error, _: error and failures.append(error))
        expected.add(text)
    if producer.flush(30) or failures:
        sys.exit(f"not delivered with {codec}: {failures}")

consumer = Consumer({**servers, "group.id": f"confluent-{topic}", "auto.offset.reset": "earliest",
                     "enable.auto.commit": False, "group.protocol": protocol})
consumer.subscribe([topic])
end = time.monotonic() + 60
while expected and time.monotonic() < end:
    message = consumer.poll(1)
    if message is None:
        continue
    if message.error():
        sys.exit(str(message.error()))
    text = message.value().decode()
    if text not in expected:
        sys.exit(f"unexpected or repeated record {text!r}")
    expected.remove(text)
if expected:
    sys.exit(f"{len(expected)} records missing")
consumer.commit(asynchronous=False)
consumer.close()
print("ok")
