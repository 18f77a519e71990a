package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// member consumes in the group and commits what it polled, each time before it polls again.
func (r *run) member(ctx context.Context, number uint32) {
	assigned := func(_ context.Context, _ *kgo.Client, added map[string][]int32) {
		for _, p := range added[r.topic] {
			r.history.note(`{"op":"assigned","member":%d,"partition":%d}`, number, p)
		}
	}
	client, err := kgo.NewClient(
		seeds(r.bootstrap),
		protocol(r.protocol),
		kgo.ConsumerGroup(r.group),
		kgo.ConsumeTopics(r.topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.DisableAutoCommit(),
		kgo.BlockRebalanceOnPoll(),
		kgo.OnPartitionsAssigned(assigned),
		kgo.SessionTimeout(8*time.Second),
		kgo.HeartbeatInterval(500*time.Millisecond),
		kgo.RetryBackoffFn(func(int) time.Duration { return 50 * time.Millisecond }),
	)
	if err != nil {
		r.fail(err)
		return
	}
	defer client.CloseAllowingRebalance()
	for ctx.Err() == nil {
		polling, cancel := context.WithTimeout(ctx, time.Second)
		fetches := client.PollRecords(polling, 1000)
		cancel()
		heads := make(map[int32]kgo.EpochOffset)
		fetches.EachRecord(func(record *kgo.Record) {
			if v, ok := decode(record.Value); !ok || v.partition != record.Partition {
				r.fail(fmt.Errorf("member %d got an altered record at partition %d offset %d", number, record.Partition, record.Offset))
			}
			r.history.note(`{"op":"polled","member":%d,"partition":%d,"offset":%d}`, number, record.Partition, record.Offset)
			r.polled.Add(1)
			heads[record.Partition] = kgo.EpochOffset{Epoch: record.LeaderEpoch, Offset: record.Offset + 1}
		})
		if len(heads) > 0 {
			r.commit(client, number, heads)
		}
		client.AllowRebalance()
	}
}

// protocol chooses between the classic group protocol and that of KIP-848, which this library has behind a context value.
func protocol(name string) kgo.Opt {
	ctx := context.Background()
	if name == "consumer" {
		ctx = context.WithValue(ctx, "opt_in_kafka_next_gen_balancer_beta", true)
	}
	return kgo.WithContext(ctx)
}

// passing are errors of a commit after which the member, or its successor, commits again.
func passing(err error) bool {
	for _, known := range []error{
		kerr.RebalanceInProgress, kerr.IllegalGeneration, kerr.UnknownMemberID, kerr.StaleMemberEpoch, kerr.FencedMemberEpoch,
	} {
		if errors.Is(err, known) {
			return true
		}
	}
	return kerr.IsRetriable(err)
}

// commit tries once: what is not committed is polled again by whoever gets the partition next.
func (r *run) commit(client *kgo.Client, number uint32, heads map[int32]kgo.EpochOffset) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	done := func(_ *kgo.Client, _ *kmsg.OffsetCommitRequest, resp *kmsg.OffsetCommitResponse, err error) {
		if err != nil || resp == nil {
			return
		}
		for _, t := range resp.Topics {
			for _, p := range t.Partitions {
				if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
					if !passing(err) {
						r.fail(fmt.Errorf("member %d cannot commit: %w", number, err))
					}
					continue
				}
				r.history.note(`{"op":"committed","partition":%d,"offset":%d}`, p.Partition, heads[p.Partition].Offset)
				r.commits.Add(1)
			}
		}
	}
	client.CommitOffsetsSync(ctx, map[string]map[int32]kgo.EpochOffset{r.topic: heads}, done)
}

// observe asks for committed offsets and ends all the time.
func (r *run) observe(ctx context.Context, client *kgo.Client) {
	for query := 0; ctx.Err() == nil; query++ {
		asking, cancel := context.WithTimeout(ctx, 5*time.Second)
		r.history.note(`{"op":"asking","query":%d}`, query)
		if found, err := committed(asking, client, r.group, r.topic, r.partitions); err == nil {
			for p, offset := range found {
				if offset < 0 {
					r.history.note(`{"op":"group_offset","query":%d,"partition":%d,"offset":null}`, query, p)
				} else {
					r.history.note(`{"op":"group_offset","query":%d,"partition":%d,"offset":%d}`, query, p, offset)
				}
			}
		}
		if ends, err := offsets(asking, client, r.topic, r.partitions, -1); err == nil {
			for p, end := range ends {
				r.history.note(`{"op":"end","partition":%d,"end":%d}`, p, end)
			}
		}
		cancel()
		select {
		case <-ctx.Done():
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// drain waits until the group has committed the end of every partition.
func (r *run) drain(client *kgo.Client) error {
	err := until(r.patience, "the group reaches the end", func(ctx context.Context) error {
		select {
		case err := <-r.fatal:
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		default:
		}
		ends, err := offsets(ctx, client, r.topic, r.partitions, -1)
		if err != nil {
			return err
		}
		found, err := committed(ctx, client, r.group, r.topic, r.partitions)
		if err != nil {
			return err
		}
		for p, end := range ends {
			if end > 0 && found[p] != end {
				return fmt.Errorf("partition %d: committed %d, end %d", p, found[p], end)
			}
		}
		return nil
	})
	return err
}
