"""One round of kafka-python: create, produce with every codec, consume in a group exactly that, commit.

    kafka_python_round.py BOOTSTRAP TOPIC ROUND
"""

import sys

from kafka import KafkaConsumer, KafkaProducer
from kafka.admin import KafkaAdminClient, NewTopic
from kafka.errors import TopicAlreadyExistsError

bootstrap, topic, turn = sys.argv[1:4]
admin = KafkaAdminClient(bootstrap_servers=bootstrap)
try:
    admin.create_topics([NewTopic(topic, num_partitions=3, replication_factor=1)])
except TopicAlreadyExistsError:
    pass
admin.close()

expected = set()
for codec in (None, "gzip", "snappy", "lz4", "zstd"):
    producer = KafkaProducer(bootstrap_servers=bootstrap, compression_type=codec, acks="all", linger_ms=20)
    texts = [f"round {turn} {codec} {n}" for n in range(100)]
    for sent in [producer.send(topic, text.encode()) for text in texts]:
        sent.get(30)
    producer.close()
    expected.update(texts)

consumer = KafkaConsumer(topic, bootstrap_servers=bootstrap, group_id=f"python-{topic}", auto_offset_reset="earliest",
                         enable_auto_commit=False, consumer_timeout_ms=30000)
for record in consumer:
    text = record.value.decode()
    if text not in expected:
        sys.exit(f"unexpected or repeated record {text!r}")
    expected.remove(text)
    if not expected:
        break
if expected:
    sys.exit(f"{len(expected)} records missing")
consumer.commit()
consumer.close()
print("ok")
