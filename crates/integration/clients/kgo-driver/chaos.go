package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// run is one chaos run: idempotent producers and group members on one topic, everything they see in one history.
type run struct {
	bootstrap, topic                string
	group, protocol                 string
	partitions, producers, members  int
	rate, size                      int
	patience                        time.Duration
	history                         *history
	acked, polled, commits, unknown atomic.Int64
	fatal                           chan error
}

// chaos talks with its parent over the standard streams. It prints `ready` once records are acked, polled and
// committed; answers `status` with its counts; and on `stop` (or the end of its input) ends the load, waits for
// every ack and for the group to reach the end, reads the whole topic back and prints `done`.
func chaos(args []string) error {
	r := &run{fatal: make(chan error, 1)}
	flags := flag.NewFlagSet("chaos", flag.ExitOnError)
	flags.StringVar(&r.bootstrap, "bootstrap", "127.0.0.1:9092", "bootstrap servers")
	flags.StringVar(&r.topic, "topic", "chaos", "topic, created if missing")
	flags.StringVar(&r.group, "group", "chaos", "consumer group")
	flags.StringVar(&r.protocol, "protocol", "classic", "group protocol: classic or consumer")
	flags.IntVar(&r.partitions, "partitions", 6, "partitions of the topic")
	flags.IntVar(&r.producers, "producers", 8, "idempotent producers")
	flags.IntVar(&r.members, "members", 3, "group members; 0 for no group at all")
	flags.IntVar(&r.rate, "rate", 100, "records per second and producer")
	flags.IntVar(&r.size, "size", 1000, "largest payload")
	flags.DurationVar(&r.patience, "patience", 120*time.Second, "how long acks and the group may take after the load")
	path := flags.String("history", "history.jsonl", "file to write")
	flags.Parse(args)
	var err error
	if r.history, err = newHistory(*path); err != nil {
		return err
	}
	if err := r.all(); err != nil {
		r.history.close()
		return err
	}
	if err := r.history.close(); err != nil {
		return err
	}
	fmt.Println("done", r.status())
	return nil
}

func (r *run) status() string {
	return fmt.Sprintf("%d %d %d %d", r.acked.Load(), r.polled.Load(), r.commits.Load(), r.unknown.Load())
}

// fail ends the run with the first error that no retry mends.
func (r *run) fail(err error) {
	select {
	case r.fatal <- err:
	default:
	}
}

func (r *run) all() error {
	observer, err := kgo.NewClient(seeds(r.bootstrap), kgo.RetryTimeout(5*time.Second))
	if err != nil {
		return err
	}
	defer observer.Close()
	err = until(r.patience, "creating the topic", func(ctx context.Context) error {
		return createTopic(ctx, observer, r.topic, r.partitions)
	})
	if err != nil {
		return err
	}

	load, endLoad := context.WithCancel(context.Background())
	group, endGroup := context.WithCancel(context.Background())
	defer endGroup()
	var producers, readers sync.WaitGroup
	for i := range r.producers {
		producers.Go(func() { r.produce(load, uint32(i)) })
	}
	for i := range r.members {
		readers.Go(func() { r.member(group, uint32(i)) })
	}
	if r.members > 0 {
		readers.Go(func() { r.observe(group, observer) })
	}

	err = r.converse()
	endLoad()
	if err != nil {
		return err
	}
	if err := r.wait(&producers, "the producers' last acks"); err != nil {
		return err
	}
	if r.members > 0 {
		if err := r.drain(observer); err != nil {
			return err
		}
	}
	endGroup()
	if err := r.wait(&readers, "the members' end"); err != nil {
		return err
	}
	return r.readBack(observer)
}

// converse serves the parent until it says stop.
func (r *run) converse() error {
	lines := make(chan string)
	go func() {
		defer close(lines)
		for scanner := bufio.NewScanner(os.Stdin); scanner.Scan(); {
			lines <- scanner.Text()
		}
	}()
	ready := time.NewTicker(10 * time.Millisecond)
	defer ready.Stop()
	for {
		select {
		case err := <-r.fatal:
			return err
		case <-ready.C:
			if r.acked.Load() > 0 && (r.members == 0 || r.polled.Load() > 0 && r.commits.Load() > 0) {
				fmt.Println("ready")
				ready.Stop()
			}
		case line, open := <-lines:
			if !open || line == "stop" {
				return nil
			}
			fmt.Println("status", r.status())
		}
	}
}

func (r *run) wait(group *sync.WaitGroup, what string) error {
	done := make(chan struct{})
	go func() { group.Wait(); close(done) }()
	select {
	case err := <-r.fatal:
		return err
	case <-done:
		return nil
	case <-time.After(r.patience + 30*time.Second):
		return fmt.Errorf("%s did not come", what)
	}
}

func (r *run) produce(ctx context.Context, producer uint32) {
	codecs := []kgo.CompressionCodec{kgo.NoCompression(), kgo.Lz4Compression(), kgo.ZstdCompression(), kgo.SnappyCompression(), kgo.GzipCompression()}
	client, err := kgo.NewClient(
		seeds(r.bootstrap),
		kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.ProducerBatchCompression(codecs[int(producer)%len(codecs)]),
		kgo.ProducerLinger(2*time.Millisecond),
		kgo.MaxBufferedRecords(2000),
		kgo.UnknownTopicRetries(-1),
		kgo.RetryBackoffFn(func(int) time.Duration { return 50 * time.Millisecond }),
		// A broker that forgot the producer's state must not pass for one that merely was away.
		kgo.StopProducerOnDataLossDetected(),
	)
	if err != nil {
		r.fail(err)
		return
	}
	defer client.Close()
	next := make([]uint64, r.partitions)
	tick := time.NewTicker(time.Second / time.Duration(r.rate))
	defer tick.Stop()
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			flush, cancel := context.WithTimeout(context.Background(), r.patience)
			defer cancel()
			if err := client.Flush(flush); err != nil {
				r.fail(fmt.Errorf("producer %d was not acked all it sent: %w", producer, err))
			}
			return
		case <-tick.C:
		}
		partition := int32((n + int(producer)) % r.partitions)
		v := value{producer, partition, next[partition]}
		next[partition]++
		record := &kgo.Record{Topic: r.topic, Partition: partition, Value: encode(v, n*37%r.size)}
		client.Produce(context.Background(), record, func(record *kgo.Record, err error) { r.outcome(v, record, err) })
	}
}

func (r *run) outcome(v value, record *kgo.Record, err error) {
	if err != nil {
		r.unknown.Add(1)
		r.history.note(`{"op":"unknown","partition":%d,"producer":%d,"sequence":%d}`, v.partition, v.producer, v.sequence)
		fmt.Fprintf(os.Stderr, "producer %d partition %d sequence %d: %v\n", v.producer, v.partition, v.sequence, err)
		return
	}
	r.acked.Add(1)
	r.history.note(`{"op":"acked","partition":%d,"producer":%d,"sequence":%d,"offset":%d}`, v.partition, v.producer, v.sequence, record.Offset)
}

// readBack reads every partition from its start to its end.
func (r *run) readBack(observer *kgo.Client) error {
	var starts, ends map[int32]int64
	err := until(r.patience, "asking for the offsets", func(ctx context.Context) (err error) {
		if starts, err = offsets(ctx, observer, r.topic, r.partitions, -2); err == nil {
			ends, err = offsets(ctx, observer, r.topic, r.partitions, -1)
		}
		return err
	})
	if err != nil {
		return err
	}
	from, left := make(map[int32]kgo.Offset), 0
	for p, start := range starts {
		r.history.note(`{"op":"range","partition":%d,"start":%d,"end":%d}`, p, start, ends[p])
		if start < ends[p] {
			from[p] = kgo.NewOffset().At(start)
			left++
		}
	}
	client, err := kgo.NewClient(seeds(r.bootstrap), kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{r.topic: from}))
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), r.patience)
	defer cancel()
	for left > 0 {
		fetches := client.PollFetches(ctx)
		if ctx.Err() != nil {
			return errors.New("the topic could not be read to its end")
		}
		fetches.EachRecord(func(record *kgo.Record) {
			if record.Offset >= ends[record.Partition] {
				return
			}
			if v, ok := decode(record.Value); ok && v.partition == record.Partition {
				r.history.note(`{"op":"read","partition":%d,"offset":%d,"producer":%d,"sequence":%d}`, record.Partition, record.Offset, v.producer, v.sequence)
			} else {
				r.history.note(`{"op":"altered","partition":%d,"offset":%d}`, record.Partition, record.Offset)
			}
			if record.Offset == ends[record.Partition]-1 {
				left--
			}
		})
	}
	return nil
}
