package main

import (
	"context"
	"flag"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// exchange makes a round: it produces so many records with every codec, then consumes in the group exactly these
// and commits. A later round of the same group must get what that round produced and nothing else.
func exchange(args []string) error {
	flags := flag.NewFlagSet("exchange", flag.ExitOnError)
	bootstrap := flags.String("bootstrap", "127.0.0.1:9092", "bootstrap servers")
	topic := flags.String("topic", "exchange", "topic, created if missing")
	round := flags.String("round", "1", "marks the records of this round")
	count := flags.Int("count", 100, "records a codec")
	flags.Parse(args)
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	codecs := map[string]kgo.CompressionCodec{
		"none": kgo.NoCompression(), "gzip": kgo.GzipCompression(), "snappy": kgo.SnappyCompression(),
		"lz4": kgo.Lz4Compression(), "zstd": kgo.ZstdCompression(),
	}
	expected := make(map[string]bool)
	for name, codec := range codecs {
		client, err := kgo.NewClient(seeds(*bootstrap), kgo.DefaultProduceTopic(*topic), kgo.ProducerBatchCompression(codec))
		if err != nil {
			return err
		}
		if err := createTopic(ctx, client, *topic, 3); err != nil {
			return fmt.Errorf("create: %w", err)
		}
		var records []*kgo.Record
		for n := range *count {
			text := fmt.Sprintf("round %s %s %d", *round, name, n)
			expected[text] = true
			records = append(records, kgo.StringRecord(text))
		}
		if err := client.ProduceSync(ctx, records...).FirstErr(); err != nil {
			return fmt.Errorf("produce %s: %w", name, err)
		}
		client.Close()
	}
	client, err := kgo.NewClient(
		seeds(*bootstrap), kgo.ConsumerGroup("kgo-"+*topic), kgo.ConsumeTopics(*topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.DisableAutoCommit(),
	)
	if err != nil {
		return err
	}
	defer client.Close()
	for len(expected) > 0 {
		fetches := client.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			return fmt.Errorf("consume, %d records missing: %w", len(expected), err)
		}
		for _, record := range fetches.Records() {
			if !expected[string(record.Value)] {
				return fmt.Errorf("unexpected or repeated record %q", record.Value)
			}
			delete(expected, string(record.Value))
		}
	}
	if err := client.CommitUncommittedOffsets(ctx); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	fmt.Println("ok")
	return nil
}
