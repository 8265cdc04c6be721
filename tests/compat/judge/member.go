package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// quick makes a client come back soon after a broker restart and never give a record up.
func quick(bootstrap string) []kgo.Opt {
	return []kgo.Opt{
		kgo.SeedBrokers(strings.Split(bootstrap, ",")...),
		kgo.RetryBackoffFn(func(int) time.Duration { return 50 * time.Millisecond }),
		kgo.MetadataMinAge(100 * time.Millisecond),
		kgo.AlwaysRetryEOF(),
	}
}

// produce writes each line; a record's time is E2E_STAMP and its number.
func produce(ctx context.Context, bootstrap, topic string) error {
	stamp, err := strconv.ParseInt(os.Getenv("E2E_STAMP"), 10, 64)
	if err != nil {
		return fmt.Errorf("E2E_STAMP: %w", err)
	}
	client, err := kgo.NewClient(append(quick(bootstrap),
		kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.UnknownTopicRetries(-1),
		kgo.ProducerLinger(5*time.Millisecond),
		kgo.ProducerBatchCompression(kgo.SnappyCompression()),
		kgo.StopProducerOnDataLossDetected(),
	)...)
	if err != nil {
		return err
	}
	defer client.Close()
	var mu sync.Mutex
	var acked int
	var failure error
	failed := func() error { mu.Lock(); defer mu.Unlock(); return failure }
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() && failed() == nil {
		parts := bytes.SplitN(in.Bytes(), []byte("\t"), 3)
		if len(parts) != 3 {
			return fmt.Errorf("not number TAB key TAB value: %q", in.Text())
		}
		number, err := strconv.ParseInt(string(parts[0]), 10, 64)
		if err != nil {
			return err
		}
		record := &kgo.Record{
			Topic:     topic,
			Key:       bytes.Clone(parts[1]),
			Value:     bytes.Clone(parts[2]),
			Timestamp: time.UnixMilli(stamp + number),
			Headers: []kgo.RecordHeader{
				{Key: "line", Value: bytes.Clone(parts[0])},
				{Key: "mark", Value: append([]byte("ü"), parts[0]...)},
			},
		}
		client.Produce(ctx, record, func(_ *kgo.Record, err error) {
			mu.Lock()
			defer mu.Unlock()
			if err != nil && failure == nil {
				failure = err
			} else if err == nil {
				acked++
			}
		})
	}
	if err := in.Err(); err != nil {
		return err
	}
	if err := client.Flush(ctx); err != nil {
		return err
	}
	fmt.Println("acked", acked)
	return failed()
}

func consume(ctx context.Context, bootstrap, group, path string, topics []string) error {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer file.Close()
	out := bufio.NewWriterSize(file, 1<<16)
	client, err := kgo.NewClient(append(quick(bootstrap),
		kgo.ClientID("franz-go"),
		kgo.ConsumerGroup(group),
		kgo.ConsumeTopics(topics...),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.Balancers(kgo.RangeBalancer()),
		kgo.SessionTimeout(6*time.Second),
		kgo.HeartbeatInterval(time.Second),
		kgo.DisableAutoCommit(),
		kgo.BlockRebalanceOnPoll(),
	)...)
	if err != nil {
		return err
	}
	defer client.CloseAllowingRebalance()
	for ctx.Err() == nil {
		poll, done := context.WithTimeout(ctx, 200*time.Millisecond)
		fetches := client.PollFetches(poll)
		done()
		for r := range fetches.RecordsAll() {
			var headers []string
			for _, h := range r.Headers {
				headers = append(headers, h.Key+"="+string(h.Value))
			}
			fmt.Fprintf(out, "%s\t%d\t%d\t%d\t%s\t%s\t%s\n",
				r.Topic, r.Partition, r.Offset, r.Timestamp.UnixMilli(), strings.Join(headers, ","), r.Key, r.Value)
		}
		if !fetches.Empty() {
			if err := out.Flush(); err != nil {
				return err
			}
			commit(client)
		}
		client.AllowRebalance()
	}
	commit(client)
	return nil
}

// commit commits what was written; a rebalance or a broker that is down only means that records are read again.
func commit(client *kgo.Client) {
	ctx, done := context.WithTimeout(context.Background(), 5*time.Second)
	defer done()
	if err := client.CommitUncommittedOffsets(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "not committed:", err)
	}
}
