package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	millrace "grpcjudge/millrace/v1"
)

const (
	// Between two tries while the broker is away.
	pause = 50 * time.Millisecond
	// Requests of one partition that are not answered: fewer than the batches that the broker remembers of a producer.
	inFlight = 4
	// Records in one request, and records that are not answered.
	batchRecords, unanswered = 500, 20_000
	// What a member may be sent ahead, and how often it commits.
	credit      = int64(1 << 20)
	commitEvery = 500 * time.Millisecond
)

// again says whether a failure means no more than that the broker is away.
func again(code codes.Code) bool {
	switch code {
	case codes.Unavailable, codes.ResourceExhausted, codes.Canceled, codes.Unknown, codes.Internal, codes.DeadlineExceeded:
		return true
	}
	return false
}

// patient repeats a call while the broker is away.
func patient[T any](ctx context.Context, call func(context.Context) (T, error)) (T, error) {
	for {
		bounded, done := context.WithTimeout(ctx, 10*time.Second)
		answer, err := call(bounded)
		done()
		if err == nil || ctx.Err() != nil || !again(status.Code(err)) {
			return answer, err
		}
		time.Sleep(pause)
	}
}

// publisher writes records exactly once: requests of one partition carry sequence numbers, and what is not answered when a stream
// breaks is sent again on the next one, in order.
type publisher struct {
	door     *door
	topic    string
	me       *millrace.InitProducerResponse
	lanes    []lane
	serial   uint64
	flow     *flow
	answered int
}

// lane is what is on its way to one partition.
type lane struct {
	pending  []*millrace.Record
	flight   []*millrace.ProduceRequest
	sequence int32
}

// flow is one stream: requests go through a channel of its own, answers come with its name.
type flow struct {
	requests chan *millrace.ProduceRequest
	cancel   context.CancelFunc
}

type answer struct {
	from *flow
	what *millrace.ProduceStreamResponse
	err  error
}

func (d *door) publish(ctx context.Context, topic string) error {
	described, err := patient(ctx, func(ctx context.Context) (*millrace.DescribeTopicResponse, error) {
		return d.admin.DescribeTopic(ctx, &millrace.DescribeTopicRequest{Name: topic})
	})
	if err != nil {
		return err
	}
	me, err := patient(ctx, func(ctx context.Context) (*millrace.InitProducerResponse, error) {
		return d.produce.InitProducer(ctx, &millrace.InitProducerRequest{})
	})
	if err != nil {
		return err
	}
	p := &publisher{door: d, topic: topic, me: me, lanes: make([]lane, len(described.Partitions))}
	return p.run(ctx)
}

func (p *publisher) run(ctx context.Context) error {
	stamp, err := strconv.ParseInt(os.Getenv("E2E_STAMP"), 10, 64)
	if err != nil {
		return fmt.Errorf("E2E_STAMP: %w", err)
	}
	lines, answers, room := make(chan *millrace.Record), make(chan answer, 100), make(chan struct{}, unanswered)
	failed := make(chan error, 1)
	go func() { failed <- scan(stamp, lines, room) }()
	p.open(ctx, answers)
	read, open := 0, true
	for open || p.answered < read {
		select {
		case record, more := <-lines:
			if !more {
				lines, open = nil, false
				if err := <-failed; err != nil {
					return err
				}
				continue
			}
			read++
			at := int(murmur2(record.Key)&0x7fffffff) % len(p.lanes)
			p.lanes[at].pending = append(p.lanes[at].pending, record)
			p.send(at)
		case came := <-answers:
			if came.from != p.flow {
				continue
			}
			count, err := p.take(ctx, came, answers)
			if err != nil {
				return err
			}
			for range count {
				<-room
			}
		}
	}
	p.flow.cancel()
	fmt.Println("acked", p.answered)
	return nil
}

// scan makes a record of each line, and waits while too many are not answered.
func scan(stamp int64, lines chan<- *millrace.Record, room chan<- struct{}) error {
	defer close(lines)
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		parts := bytes.SplitN(bytes.Clone(in.Bytes()), []byte("\t"), 3)
		if len(parts) != 3 {
			return fmt.Errorf("not number TAB key TAB value: %q", in.Text())
		}
		number, err := strconv.ParseInt(string(parts[0]), 10, 64)
		if err != nil {
			return err
		}
		room <- struct{}{}
		lines <- &millrace.Record{
			Key: parts[1], Value: parts[2], TimestampMs: proto.Int64(stamp + number),
			Headers: []*millrace.Header{{Key: "line", Value: parts[0]}, {Key: "mark", Value: append([]byte("ü"), parts[0]...)}},
		}
	}
	return in.Err()
}

// open begins a stream and sends again what has no answer.
func (p *publisher) open(ctx context.Context, answers chan<- answer) {
	ctx, cancel := context.WithCancel(ctx)
	p.flow = &flow{requests: make(chan *millrace.ProduceRequest, 2*inFlight*len(p.lanes)), cancel: cancel}
	go p.flow.carry(ctx, p.door, answers)
	for _, lane := range p.lanes {
		for _, request := range lane.flight {
			p.flow.requests <- request
		}
	}
}

func (f *flow) carry(ctx context.Context, d *door, answers chan<- answer) {
	stream, err := d.produce.ProduceStream(ctx)
	if err == nil {
		go func() {
			for {
				select {
				case request := <-f.requests:
					if stream.Send(request) != nil {
						return // Recv says why
					}
				case <-ctx.Done():
					return
				}
			}
		}()
	}
	for err == nil {
		var came *millrace.ProduceStreamResponse
		if came, err = stream.Recv(); err == nil {
			answers <- answer{from: f, what: came}
		}
	}
	answers <- answer{from: f, err: err}
}

func (p *publisher) send(partition int) {
	at := &p.lanes[partition]
	for len(at.pending) > 0 && len(at.flight) < inFlight {
		count := min(len(at.pending), batchRecords)
		p.serial++
		number := int32(partition)
		request := &millrace.ProduceRequest{
			Topic: p.topic, Partition: &number, RequestId: p.serial,
			Payload:  &millrace.ProduceRequest_Records{Records: &millrace.Records{Records: at.pending[:count:count]}},
			Sequence: &millrace.Sequence{ProducerId: p.me.ProducerId, ProducerEpoch: p.me.ProducerEpoch, BaseSequence: at.sequence},
		}
		at.pending, at.sequence = at.pending[count:], at.sequence+int32(count)
		at.flight = append(at.flight, request)
		p.flow.requests <- request
	}
}

// take handles what came on the stream, and returns how many records are acknowledged by it.
func (p *publisher) take(ctx context.Context, came answer, answers chan<- answer) (int, error) {
	refused := came.what.GetRefused()
	switch {
	case came.err != nil && came.err != io.EOF && !again(status.Code(came.err)):
		return 0, came.err
	case refused != nil && !again(codes.Code(refused.Code)):
		return 0, fmt.Errorf("refused: %v", refused)
	case came.err != nil || refused != nil:
		// What was behind a refusal may be refused for the gap: all of it again, in order.
		fmt.Fprintln(os.Stderr, "stream ended:", came.err, refused)
		p.flow.cancel()
		time.Sleep(pause)
		p.open(ctx, answers)
		return 0, nil
	}
	partition := int(came.what.GetWritten().GetPartition())
	at := &p.lanes[partition]
	if len(at.flight) == 0 || at.flight[0].RequestId != came.what.RequestId {
		return 0, fmt.Errorf("request %d of partition %d was answered out of turn", came.what.RequestId, partition)
	}
	count := len(at.flight[0].GetRecords().Records)
	at.flight = at.flight[1:]
	p.answered += count
	p.send(partition)
	return count, nil
}

// murmur2 is the hash by which Kafka's clients choose a key's partition.
func murmur2(data []byte) uint32 {
	const m = uint32(0x5bd1e995)
	h := uint32(0x9747b28c) ^ uint32(len(data))
	for ; len(data) >= 4; data = data[4:] {
		k := uint32(data[0]) | uint32(data[1])<<8 | uint32(data[2])<<16 | uint32(data[3])<<24
		k *= m
		k ^= k >> 24
		h = h*m ^ k*m
	}
	if len(data) > 0 {
		for n := len(data) - 1; n >= 0; n-- {
			h ^= uint32(data[n]) << (8 * n)
		}
		h *= m
	}
	h ^= h >> 13
	h *= m
	return h ^ h>>15
}

// A member --------------------------------------------------------------------------------------------------------------------

type place struct {
	topic     string
	partition int32
}

// member writes what it reads to its file, and commits it then. What was not committed is read again, by whoever has the partition.
type member struct {
	stream stream
	out    *bufio.Writer
	// Where this stream stands: what is written, what is committed, and what the commit under way says.
	written, committed map[place]int64
	asked              map[place]int64
	serial             uint64
}

func (d *door) read(ctx context.Context, group, path string, topics []string) error {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer file.Close()
	start := &millrace.Start{
		Source: &millrace.Start_Group{Group: &millrace.GroupMember{
			Group: group, Topics: topics, Reset_: earliest(), Protocols: []string{"range"}, SessionTimeoutMs: 6000, ClientId: "grpc-go",
		}},
		InitialCreditBytes: proto.Int64(credit),
	}
	for ctx.Err() == nil {
		err := d.serve(ctx, start, bufio.NewWriterSize(file, 1<<16))
		if err == nil {
			return nil
		}
		fmt.Fprintln(os.Stderr, "stream ended:", err)
		if err != io.EOF && !again(status.Code(err)) {
			return err
		}
		time.Sleep(pause)
	}
	return nil
}

// serve is one stream to its end; nil when it ended because it was told to.
func (d *door) serve(ctx context.Context, start *millrace.Start, out *bufio.Writer) error {
	// The stream outlives the wish to stop: what is written is committed first.
	inner, cancel := context.WithCancel(context.Background())
	defer cancel()
	stream, err := d.start(inner, start)
	if err != nil {
		return err
	}
	m := &member{stream: stream, out: out}
	answers, failed := make(chan *millrace.ConsumeResponse), make(chan error, 1)
	go func() {
		for {
			answer, err := stream.Recv()
			if err != nil {
				failed <- err
				return
			}
			select {
			case answers <- answer:
			case <-inner.Done():
				return
			}
		}
	}()
	tick := time.NewTicker(commitEvery)
	defer tick.Stop()
	for {
		if ctx.Err() != nil {
			if m.asked == nil && !m.commit() {
				break
			}
			tick.Reset(20 * time.Millisecond)
		}
		select {
		case answer := <-answers:
			if err := m.handle(answer); err != nil {
				return err
			}
		case err := <-failed:
			return err
		case <-tick.C:
			if m.asked == nil {
				m.commit()
			}
		}
	}
	// Who cancels its stream has left the group.
	return nil
}

// say sends a request; a stream that broke says so to who receives.
func (m *member) say(request *millrace.ConsumeRequest) { _ = m.stream.Send(request) }

// commit asks to commit what is written and not committed; false if that is nothing.
func (m *member) commit() bool {
	asked := &millrace.StreamCommit{}
	m.asked = nil
	for at, offset := range m.written {
		if m.committed[at] != offset {
			if m.asked == nil {
				m.asked = map[place]int64{}
			}
			m.asked[at] = offset
			asked.Offsets = append(asked.Offsets, &millrace.CommittedOffset{Topic: at.topic, Partition: at.partition, Offset: offset})
		}
	}
	if m.asked == nil {
		return false
	}
	m.serial++
	asked.RequestId = m.serial
	m.say(&millrace.ConsumeRequest{Request: &millrace.ConsumeRequest_Commit{Commit: asked}})
	return true
}

func (m *member) handle(answer *millrace.ConsumeResponse) error {
	switch what := answer.Response.(type) {
	case *millrace.ConsumeResponse_Records:
		return m.write(what.Records)
	case *millrace.ConsumeResponse_Assigned:
		m.written, m.committed, m.asked = map[place]int64{}, map[place]int64{}, nil
		for _, s := range what.Assigned.Partitions {
			m.written[place{s.Topic, s.Partition}], m.committed[place{s.Topic, s.Partition}] = s.Offset, s.Offset
		}
	case *millrace.ConsumeResponse_Revoked:
		if !what.Revoked.Lost {
			// Requests are taken in their order: this commit is before the release.
			m.commit()
			m.say(&millrace.ConsumeRequest{Request: &millrace.ConsumeRequest_Released{Released: &millrace.Released{}}})
		}
		m.written, m.committed, m.asked = nil, nil, nil
	case *millrace.ConsumeResponse_Committed:
		if what.Committed.RequestId != m.serial || m.asked == nil {
			return nil
		}
		for _, result := range what.Committed.Results {
			at := place{result.Topic, result.Partition}
			if result.Status.GetCode() != 0 {
				fmt.Fprintln(os.Stderr, "not committed:", result)
			} else if _, mine := m.written[at]; mine {
				m.committed[at] = m.asked[at]
			}
		}
		m.asked = nil
	}
	return nil
}

func (m *member) write(fetched *millrace.FetchedRecords) error {
	m.say(&millrace.ConsumeRequest{Request: &millrace.ConsumeRequest_CreditBytes{CreditBytes: fetched.CreditBytes}})
	at := place{fetched.Topic, fetched.Partition}
	if _, mine := m.written[at]; !mine {
		return nil // on its way when the partition was taken
	}
	for _, r := range fetched.Records {
		var named []byte
		for n, h := range r.Headers {
			if n > 0 {
				named = append(named, ',')
			}
			named = append(append(append(named, h.Key...), '='), h.Value...)
		}
		fmt.Fprintf(m.out, "%s\t%d\t%d\t%d\t%s\t%s\t%s\n", at.topic, at.partition, r.Offset, r.GetTimestampMs(), named, r.Key, r.Value)
	}
	m.written[at] = fetched.NextOffset
	return m.out.Flush()
}
