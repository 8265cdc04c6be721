package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// run is one kill -9 test: idempotent producers that live through every round, one producer a round that dies with the broker,
// a reader that follows the log all the time, a fresh reader after every restart, and one that commits offsets.
type run struct {
	bootstrap, broker, state, topic, group string
	partitions                             int
	rng                                    *rand.Rand
	history                                *history
	failures                               chan error
}

func kill9(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("kill9", flag.ContinueOnError)
	rounds := flags.Int("rounds", 200, "kill -9 rounds")
	bootstrap := flags.String("bootstrap", "127.0.0.1:9092", "the broker's Kafka address")
	broker := flags.String("broker", "", "program with the verbs `start STATE` and `spawn STATE`, which write the pid to STATE/pid")
	state := flags.String("state", "", "the broker's state directory")
	seed := flags.Uint64("seed", uint64(time.Now().UnixNano()), "seed of the kill instants")
	live := flags.Duration("live", 700*time.Millisecond, "longest time between the first acknowledgement of a round and its kill")
	if err := flags.Parse(args); err != nil {
		return err
	}
	t := &run{
		bootstrap: *bootstrap, broker: *broker, state: *state, partitions: 4,
		topic: "kill9", group: "kill9-commits",
		rng:     rand.New(rand.NewPCG(*seed, 0)),
		history: newHistory(4), failures: make(chan error, 64),
	}
	fmt.Printf("kill9: %d rounds, seed %d\n", *rounds, *seed)
	return t.all(ctx, *rounds, *live)
}

func (t *run) all(ctx context.Context, rounds int, live time.Duration) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := t.exec(ctx, "start"); err != nil {
		return err
	}
	if err := t.createTopic(ctx); err != nil {
		return err
	}
	var background sync.WaitGroup
	producing, stopProducing := context.WithCancel(ctx)
	defer stopProducing()
	for i := range 4 {
		background.Go(func() { t.report(t.produce(producing, i, true)) })
	}
	background.Go(func() { t.report(t.commitOffsets(producing)) })
	following, stopFollowing := context.WithCancel(ctx)
	defer stopFollowing()
	var follower sync.WaitGroup
	follower.Go(func() { t.report(t.follow(following)) })

	began := time.Now()
	var acked []int
	for round := range rounds {
		n, err := t.round(ctx, round, live)
		if err == nil {
			err = t.failed()
		}
		if err != nil {
			return fmt.Errorf("round %d: %w", round, err)
		}
		acked = append(acked, n)
		if round%20 == 19 || round == rounds-1 {
			fmt.Printf("kill9: round %d, %d records acknowledged, %.2f s a round\n", round+1, t.history.ackCount(), time.Since(began).Seconds()/float64(round+1))
		}
	}
	stopProducing()
	background.Wait()
	if err := t.crash(); err != nil {
		return err
	}
	if err := t.exec(ctx, "start"); err != nil {
		return err
	}
	stopFollowing()
	follower.Wait()
	ends, err := t.reread(ctx, func(int32) int64 { return 0 })
	if err != nil {
		return fmt.Errorf("final read: %w", err)
	}
	t.history.settle(true)
	if err := errors.Join(t.failed(), t.history.verdict()); err != nil {
		return err
	}
	slices.Sort(acked)
	if acked[0] == 0 {
		return fmt.Errorf("a round without an acknowledged record proves nothing")
	}
	total := int64(0)
	for _, end := range ends {
		total += end
	}
	fmt.Printf("kill9: %d rounds in %.0f s (%.2f s a round): %d records acknowledged (a round: least %d, median %d, most %d), %d in the log, none lost, duplicated or reordered\n",
		rounds, time.Since(began).Seconds(), time.Since(began).Seconds()/float64(rounds), t.history.ackCount(), acked[0], acked[len(acked)/2], acked[len(acked)-1], total)
	return nil
}

// round lets the broker work for a random while, kills it, starts it again and checks what is left. It returns how many records
// were acknowledged between the restart and the kill.
func (t *run) round(ctx context.Context, round int, live time.Duration) (int, error) {
	before := t.history.ackCount()
	mortal, kill := context.WithCancel(ctx)
	defer kill()
	var dying sync.WaitGroup
	dying.Go(func() { t.report(t.produce(mortal, 1000+round, false)) })
	if err := t.waitFor(ctx, "an acknowledgement", func() bool { return t.history.ackCount() > before }); err != nil {
		return 0, err
	}
	time.Sleep(5*time.Millisecond + time.Duration(t.rng.Int64N(int64(live))))
	if err := t.crash(); err != nil {
		return 0, err
	}
	kill()
	n := t.history.ackCount() - before
	if t.rng.IntN(5) == 0 {
		// The next one dies while it starts.
		if err := t.exec(ctx, "spawn"); err != nil {
			return 0, err
		}
		time.Sleep(time.Duration(t.rng.Int64N(int64(60 * time.Millisecond))))
		if err := t.crash(); err != nil {
			return 0, err
		}
	}
	if err := t.exec(ctx, "start"); err != nil {
		return 0, err
	}
	dying.Wait()
	floor := t.history.committedFloor()
	if _, err := t.reread(ctx, func(p int32) int64 { return max(0, t.history.end(p)-500) }); err != nil {
		return 0, err
	}
	if err := t.waitFor(ctx, "every acknowledged record to be readable", func() bool { t.history.settle(false); return !t.history.behind() }); err != nil {
		t.history.settle(true)
		return 0, errors.Join(err, t.history.verdict())
	}
	committed, err := t.committed(ctx)
	if err != nil {
		return 0, err
	}
	t.history.committedRead(committed, floor)
	return n, t.history.verdict()
}

// produce sends unique records as fast as a small window allows. An immortal producer must never see an error: it retries until
// the record is in. A mortal one is dropped in mid-flight; what was not acknowledged may be in the log once, or not.
func (t *run) produce(ctx context.Context, producer int, immortal bool) error {
	codecs := []kgo.CompressionCodec{kgo.NoCompression(), kgo.ZstdCompression(), kgo.Lz4Compression(), kgo.SnappyCompression(), kgo.GzipCompression()}
	client, err := kgo.NewClient(append(quick(t.bootstrap),
		kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.ProducerLinger(0),
		kgo.ProducerBatchCompression(codecs[producer%len(codecs)]),
		kgo.StopProducerOnDataLossDetected(),
		kgo.ProduceRequestTimeout(5*time.Second),
	)...)
	if err != nil {
		return err
	}
	window := make(chan struct{}, 200)
	for ctx.Err() == nil {
		for range 4 {
			partition := int32(rand.IntN(t.partitions))
			r := t.history.send(producer, partition)
			window <- struct{}{}
			client.Produce(context.Background(), &kgo.Record{Topic: t.topic, Partition: partition, Value: body(r)}, func(record *kgo.Record, err error) {
				<-window
				if err == nil {
					t.history.acked(r, place{record.Partition, record.Offset})
				} else if immortal {
					t.report(fmt.Errorf("producer %d gave record %d up: %w", producer, r.n, err))
				}
			})
		}
		time.Sleep(time.Millisecond)
	}
	if immortal {
		flush, done := context.WithTimeout(context.Background(), 30*time.Second)
		defer done()
		if err := client.Flush(flush); err != nil {
			return fmt.Errorf("producer %d: %w", producer, err)
		}
	}
	client.Close()
	return nil
}

// follow reads the log from its start, through every restart: what a reader was shown must never be taken back.
func (t *run) follow(ctx context.Context) error {
	client, err := t.reader(func(int32) int64 { return 0 })
	if err != nil {
		return err
	}
	defer client.Close()
	for ctx.Err() == nil {
		if err := t.poll(ctx, client); err != nil {
			return fmt.Errorf("following reader: %w", err)
		}
	}
	return nil
}

// reread reads every partition from the given offset to its end with a new client and returns the ends.
func (t *run) reread(ctx context.Context, from func(int32) int64) (map[int32]int64, error) {
	starts := map[int32]int64{}
	for p := range int32(t.partitions) {
		starts[p] = from(p)
	}
	client, err := t.reader(func(p int32) int64 { return starts[p] })
	if err != nil {
		return nil, err
	}
	defer client.Close()
	ends, err := t.ends(ctx, client)
	if err != nil {
		return nil, err
	}
	for p, end := range ends {
		if end < starts[p] {
			return nil, fmt.Errorf("partition %d was read up to %d and now ends at %d", p, t.history.end(p), end)
		}
	}
	next := map[int32]int64{}
	for p := range ends {
		next[p] = starts[p]
	}
	wholly := func() bool {
		for p, end := range ends {
			if next[p] < end {
				return false
			}
		}
		return true
	}
	deadline := time.Now().Add(60 * time.Second)
	for !wholly() {
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("read up to %v of %v in 60 s", next, ends)
		}
		if err := t.pollInto(ctx, client, next); err != nil {
			return nil, err
		}
	}
	return ends, nil
}

func (t *run) reader(from func(int32) int64) (*kgo.Client, error) {
	offsets := map[int32]kgo.Offset{}
	for p := range int32(t.partitions) {
		offsets[p] = kgo.NewOffset().At(from(p))
	}
	return kgo.NewClient(append(quick(t.bootstrap),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{t.topic: offsets}),
		kgo.ConsumeResetOffset(kgo.NoResetOffset()),
		kgo.FetchMaxWait(100*time.Millisecond),
	)...)
}

func (t *run) poll(ctx context.Context, client *kgo.Client) error {
	return t.pollInto(ctx, client, map[int32]int64{})
}

func (t *run) pollInto(ctx context.Context, client *kgo.Client, next map[int32]int64) error {
	poll, done := context.WithTimeout(ctx, 300*time.Millisecond)
	defer done()
	fetches := client.PollFetches(poll)
	for _, e := range fetches.Errors() {
		if errors.Is(e.Err, context.DeadlineExceeded) || errors.Is(e.Err, context.Canceled) || kerr.IsRetriable(e.Err) && !errors.Is(e.Err, kerr.OffsetOutOfRange) {
			continue
		}
		return fmt.Errorf("partition %d: %w", e.Partition, e.Err)
	}
	for r := range fetches.RecordsAll() {
		t.history.read(place{r.Partition, r.Offset}, r.Value)
		next[r.Partition] = r.Offset + 1
	}
	return nil
}

func (t *run) ends(ctx context.Context, client *kgo.Client) (map[int32]int64, error) {
	request := kmsg.NewPtrListOffsetsRequest()
	request.ReplicaID = -1
	topic := kmsg.NewListOffsetsRequestTopic()
	topic.Topic = t.topic
	for p := range int32(t.partitions) {
		partition := kmsg.NewListOffsetsRequestTopicPartition()
		partition.Partition = p
		partition.Timestamp = -1
		topic.Partitions = append(topic.Partitions, partition)
	}
	request.Topics = append(request.Topics, topic)
	ends := map[int32]int64{}
	err := t.retry(ctx, "ListOffsets", func(ctx context.Context) error {
		response, err := request.RequestWith(ctx, client)
		if err != nil {
			return err
		}
		for _, p := range response.Topics[0].Partitions {
			if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
				return err
			}
			ends[p.Partition] = p.Offset
		}
		return nil
	})
	return ends, err
}

// commitOffsets commits ever higher offsets of a group without members.
func (t *run) commitOffsets(ctx context.Context) error {
	client, err := kgo.NewClient(quick(t.bootstrap)...)
	if err != nil {
		return err
	}
	defer client.Close()
	for offset := int64(1); ctx.Err() == nil; offset++ {
		request := kmsg.NewPtrOffsetCommitRequest()
		request.Group = t.group
		request.Generation = -1
		topic := kmsg.NewOffsetCommitRequestTopic()
		topic.Topic = t.topic
		partition := kmsg.NewOffsetCommitRequestTopicPartition()
		partition.Offset = offset
		partition.LeaderEpoch = -1
		topic.Partitions = append(topic.Partitions, partition)
		request.Topics = append(request.Topics, topic)
		// What fails is not acknowledged: the broker is down, or its coordinator is not ready.
		attempt, done := context.WithTimeout(ctx, 5*time.Second)
		response, err := request.RequestWith(attempt, client)
		done()
		if err == nil && response.Topics[0].Partitions[0].ErrorCode == 0 {
			t.history.committedAck(offset)
		}
		time.Sleep(2 * time.Millisecond)
	}
	return nil
}

func (t *run) committed(ctx context.Context) (int64, error) {
	client, err := kgo.NewClient(quick(t.bootstrap)...)
	if err != nil {
		return 0, err
	}
	defer client.Close()
	request := kmsg.NewPtrOffsetFetchRequest()
	request.Group = t.group
	topic := kmsg.NewOffsetFetchRequestTopic()
	topic.Topic = t.topic
	topic.Partitions = []int32{0}
	request.Topics = append(request.Topics, topic)
	offset := int64(0)
	err = t.retry(ctx, "OffsetFetch", func(ctx context.Context) error {
		response, err := request.RequestWith(ctx, client)
		if err != nil {
			return err
		}
		if err := kerr.ErrorForCode(response.ErrorCode); err != nil {
			return err
		}
		if len(response.Topics) == 0 {
			return fmt.Errorf("no topic in the answer")
		}
		p := response.Topics[0].Partitions[0]
		offset = max(p.Offset, 0)
		return kerr.ErrorForCode(p.ErrorCode)
	})
	return offset, err
}

func (t *run) createTopic(ctx context.Context) error {
	client, err := kgo.NewClient(quick(t.bootstrap)...)
	if err != nil {
		return err
	}
	defer client.Close()
	request := kmsg.NewPtrCreateTopicsRequest()
	topic := kmsg.NewCreateTopicsRequestTopic()
	topic.Topic = t.topic
	topic.NumPartitions = int32(t.partitions)
	topic.ReplicationFactor = 1
	request.Topics = append(request.Topics, topic)
	return t.retry(ctx, "CreateTopics", func(ctx context.Context) error {
		response, err := request.RequestWith(ctx, client)
		if err != nil {
			return err
		}
		return kerr.ErrorForCode(response.Topics[0].ErrorCode)
	})
}

// retry calls until it works, for half a minute: a broker that has just started may still say "not yet".
func (t *run) retry(ctx context.Context, what string, call func(context.Context) error) error {
	deadline := time.Now().Add(30 * time.Second)
	for {
		attempt, done := context.WithTimeout(ctx, 10*time.Second)
		err := call(attempt)
		done()
		if err == nil || ctx.Err() != nil || time.Now().After(deadline) {
			if err != nil {
				err = fmt.Errorf("%s: %w", what, err)
			}
			return err
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (t *run) waitFor(ctx context.Context, what string, ready func() bool) error {
	deadline := time.Now().Add(30 * time.Second)
	for !ready() {
		if err := errors.Join(ctx.Err(), t.failed()); err != nil {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("waited 30 s for %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
	return nil
}

func (t *run) exec(ctx context.Context, verb string) error {
	out, err := exec.CommandContext(ctx, t.broker, verb, t.state).CombinedOutput()
	if err != nil {
		return fmt.Errorf("broker %s: %w: %s", verb, err, out)
	}
	return nil
}

// crash sends SIGKILL to the pid that the broker script wrote and waits until the process is gone.
func (t *run) crash() error {
	text, err := os.ReadFile(filepath.Join(t.state, "pid"))
	if err != nil {
		return err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return err
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		return fmt.Errorf("kill -9 %d: %w (the broker died by itself?)", pid, err)
	}
	for range 5000 {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		threads, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
		// A process whose first thread is a zombie still holds its sockets until its last thread is gone.
		if err != nil || strings.Contains(string(stat), ") Z ") && len(threads) <= 1 {
			return nil
		}
		time.Sleep(time.Millisecond)
	}
	return fmt.Errorf("pid %d is still there 5 s after kill -9", pid)
}

func (t *run) report(err error) {
	if err != nil {
		select {
		case t.failures <- err:
		default: // enough failures to stop the run are waiting
		}
	}
}

func (t *run) failed() error {
	select {
	case err := <-t.failures:
		return err
	default:
		return nil
	}
}
