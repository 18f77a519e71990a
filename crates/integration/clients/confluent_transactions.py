"""Transactions of confluent-kafka (librdkafka): commits and aborts, a consume-transform-produce loop, fencing.

    confluent_transactions.py BOOTSTRAP TOPIC ROUND

What was committed is read once, in order; what was aborted is never read by read_committed.
"""

import sys
import time

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

bootstrap, topic, turn = sys.argv[1:4]
servers = {"bootstrap.servers": bootstrap}
source, sink = f"{topic}-source", f"{topic}-sink"
PARTITIONS, TRANSACTIONS, RECORDS = 3, 20, 30


def create():
    """Creates both topics, in the first round."""
    admin = AdminClient(servers)
    for created in admin.create_topics([NewTopic(name, PARTITIONS) for name in (source, sink)]).values():
        created.result(30)


def transactional(name):
    """A producer that has fenced those before it."""
    producer = Producer({**servers, "transactional.id": f"{topic}-{name}", "transaction.timeout.ms": 60000})
    producer.init_transactions(60)
    return producer


def read(name, expected, isolation="read_committed"):
    """Everything in a topic of this round, by partition; at least `expected` records."""
    consumer = Consumer({**servers, "group.id": "none", "isolation.level": isolation, "enable.auto.commit": False,
                         "enable.partition.eof": True})
    consumer.assign([TopicPartition(name, partition, 0) for partition in range(PARTITIONS)])
    ends, found, deadline = set(), {}, time.monotonic() + 60
    while time.monotonic() < deadline and (len(ends) < PARTITIONS or sum(map(len, found.values())) < expected):
        message = consumer.poll(1)
        if message is None:
            continue
        if message.error():
            ends.add(message.partition())
            continue
        text = message.value().decode()
        if text.startswith(f"{turn} "):
            found.setdefault(message.partition(), []).append(text)
    consumer.close()
    return found


if turn == "1":
    create()

# Every third transaction is aborted.
producer, committed = transactional("writer"), {}
for transaction in range(TRANSACTIONS):
    producer.begin_transaction()
    for record in range(RECORDS):
        partition = record % PARTITIONS
        text = f"{turn} {transaction} {record}"
        producer.produce(source, text, partition=partition)
        if transaction % 3 != 2:
            committed.setdefault(partition, []).append(text)
    if transaction % 3 == 2:
        producer.flush(30)
        producer.abort_transaction(30)
    else:
        producer.commit_transaction(30)
count = sum(map(len, committed.values()))
if read(source, count) != committed:
    sys.exit("read_committed did not get what was committed, once and in order")
everything = sum(map(len, read(source, TRANSACTIONS * RECORDS, "read_uncommitted").values()))
if everything != TRANSACTIONS * RECORDS:
    sys.exit(f"read_uncommitted got {everything} of {TRANSACTIONS * RECORDS} records")

# Exactly once from source to sink, with offsets in the same transactions; some are aborted and done again.
consumer = Consumer({**servers, "group.id": f"{topic}-group", "isolation.level": "read_committed",
                     "enable.auto.commit": False, "auto.offset.reset": "earliest"})
consumer.subscribe([source])
copier, copied, attempt, deadline = transactional("copier"), 0, 0, time.monotonic() + 120
while copied < count and time.monotonic() < deadline:
    messages = [message for message in consumer.consume(50, 1) if not message.error()]
    if not messages:
        continue
    attempt += 1
    copier.begin_transaction()
    for message in messages:
        copier.produce(sink, message.value(), partition=message.partition())
    copier.send_offsets_to_transaction(consumer.position(consumer.assignment()), consumer.consumer_group_metadata(), 30)
    if attempt % 4 == 3:
        copier.abort_transaction(30)
        for partition, offset in {m.partition(): m.offset() for m in reversed(messages)}.items():
            consumer.seek(TopicPartition(source, partition, offset))
    else:
        copier.commit_transaction(30)
        copied += len(messages)
consumer.close()
if read(sink, count) != committed:
    sys.exit("the copy is not what was committed")

# Whoever comes later under the same id fences the one before.
zombie = transactional("fenced")
zombie.begin_transaction()
zombie.produce(sink, "0 zombie", partition=0)
zombie.flush(30)
transactional("fenced")
try:
    zombie.commit_transaction(30)
    sys.exit("a fenced producer has committed")
except KafkaException as error:
    if not error.args[0].fatal():
        raise
if any("zombie" in text for texts in read(sink, count).values() for text in texts):
    sys.exit("what a fenced producer wrote is read")
print("ok")
