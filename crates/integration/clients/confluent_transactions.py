"""Transactions of confluent-kafka (librdkafka): commits and aborts, a consume-transform-produce loop, fencing.

    confluent_transactions.py BOOTSTRAP TOPIC ROUND [TRANSACTIONS]

What was committed is read once, in order; what was aborted is never read by read_committed. Errors that a client is told
to repeat are repeated, those after which it must abort end in an abort and another try: brokers may die meanwhile.
"""

import sys
import time

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

bootstrap, topic, turn = sys.argv[1:4]
servers = {"bootstrap.servers": bootstrap}
source, sink = f"{topic}-source", f"{topic}-sink"
PARTITIONS, RECORDS = 3, 30
TRANSACTIONS = int(sys.argv[4]) if len(sys.argv) > 4 else 20
PATIENCE = 120


def until_done(work):
    """Repeats what may be repeated."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return work()
        except KafkaException as error:
            if not error.args[0].retriable() or time.monotonic() > deadline:
                raise


def create():
    """Creates both topics, in the first round."""
    admin = AdminClient(servers)
    for created in admin.create_topics([NewTopic(name, PARTITIONS) for name in (source, sink)]).values():
        created.result(30)


def transactional(name):
    """A producer that has fenced those before it."""
    producer = Producer({**servers, "transactional.id": f"{topic}-{name}", "transaction.timeout.ms": 60000})
    until_done(lambda: producer.init_transactions(30))
    return producer


def transaction(producer, work, commit=True):
    """One transaction; whether it was committed. False too where the client was told to abort it."""
    try:
        producer.begin_transaction()
        work()
        if commit:
            until_done(lambda: producer.commit_transaction(30))
            return True
        producer.flush(30)
    except KafkaException as error:
        if not error.args[0].txn_requires_abort():
            raise
    until_done(lambda: producer.abort_transaction(30))
    return False


def read(name, expected, isolation="read_committed"):
    """Everything in a topic of this round, by partition; at least `expected` records."""
    consumer = Consumer({**servers, "group.id": "none", "isolation.level": isolation, "enable.auto.commit": False,
                         "enable.partition.eof": True})
    consumer.assign([TopicPartition(name, partition, 0) for partition in range(PARTITIONS)])
    ends, found, deadline = set(), {}, time.monotonic() + PATIENCE
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


def write():
    """Transactions to the source, every third of which is aborted; what was committed, by partition."""
    producer, committed = transactional("writer"), {}
    number = 0
    while number < TRANSACTIONS:
        texts = [(record % PARTITIONS, f"{turn} {number} {record}") for record in range(RECORDS)]
        aborted = number % 3 == 2

        def produce():
            for partition, text in texts:
                producer.produce(source, text, partition=partition)

        if transaction(producer, produce, commit=not aborted):
            for partition, text in texts:
                committed.setdefault(partition, []).append(text)
        elif not aborted:
            continue
        number += 1
    return committed


def copy(count):
    """Exactly once from source to sink, with offsets in the same transactions; some are aborted and done again."""
    consumer = Consumer({**servers, "group.id": f"{topic}-group", "isolation.level": "read_committed",
                         "enable.auto.commit": False, "auto.offset.reset": "earliest"})
    consumer.subscribe([source])
    producer, copied, attempt, deadline = transactional("copier"), 0, 0, time.monotonic() + PATIENCE
    while copied < count and time.monotonic() < deadline:
        messages = [message for message in consumer.consume(50, 1) if not message.error()]
        if not messages:
            continue
        attempt += 1

        def pass_on():
            for message in messages:
                producer.produce(sink, message.value(), partition=message.partition())
            positions = consumer.position(consumer.assignment())
            until_done(lambda: producer.send_offsets_to_transaction(positions, consumer.consumer_group_metadata(), 30))

        if transaction(producer, pass_on, commit=attempt % 4 != 3):
            copied += len(messages)
        else:
            for partition, offset in {m.partition(): m.offset() for m in reversed(messages)}.items():
                consumer.seek(TopicPartition(source, partition, offset))
    consumer.close()


def fence():
    """Whoever comes later under the same id fences the one before."""
    zombie = transactional("fenced")
    zombie.begin_transaction()
    zombie.produce(sink, f"{turn} zombie", partition=0)
    zombie.flush(30)
    transactional("fenced")
    try:
        zombie.commit_transaction(30)
        sys.exit("a fenced producer has committed")
    except KafkaException as error:
        if not error.args[0].fatal():
            raise


if turn == "1":
    create()
committed = write()
count = sum(map(len, committed.values()))
if read(source, count) != committed:
    sys.exit("read_committed did not get what was committed, once and in order")
copy(count)
fence()
if read(sink, count) != committed:
    sys.exit("the copy is not what was committed")
print("ok")
