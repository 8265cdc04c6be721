package main

import (
	"context"
	"fmt"
	"io"
	"reflect"
	"sort"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	millrace "grpcjudge/millrace/v1"
)

const stamp = int64(1_700_000_000_000)

var checks = map[string]func(context.Context, *door) error{
	"produce-stream": checkProduceStream,
	"consume":        checkConsume,
	"group":          checkGroup,
	"admin":          checkAdmin,
}

type stream = grpc.BidiStreamingClient[millrace.ConsumeRequest, millrace.ConsumeResponse]

// fresh is a name that no other check uses.
func fresh(name string) string { return fmt.Sprintf("compat-go-%s-%d", name, time.Now().UnixNano()) }

func same(what string, expected, got any) error {
	if !reflect.DeepEqual(expected, got) {
		return fmt.Errorf("%s: expected %v, got %v", what, expected, got)
	}
	return nil
}

// refused says whether the call ended in this status with this google.rpc.ErrorInfo.
func refused(err error, code codes.Code, reason string) error {
	said := status.Convert(err)
	got := ""
	for _, detail := range said.Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok {
			got = info.Domain + " " + info.Reason
		}
	}
	return same("refusal ("+said.Message()+")", code.String()+" millrace "+reason, said.Code().String()+" "+got)
}

func earliest() *millrace.Position {
	return &millrace.Position{At: &millrace.Position_Edge{Edge: millrace.Edge_EDGE_EARLIEST}}
}

func (d *door) make(ctx context.Context, name string, partitions int32) (string, error) {
	topic := fresh(name)
	_, err := d.admin.CreateTopic(ctx, &millrace.CreateTopicRequest{Name: topic, Partitions: partitions})
	return topic, err
}

// numbered is record n of a check: every field of it tells n.
func numbered(n int) *millrace.Record {
	text := []byte(fmt.Sprint(n))
	return &millrace.Record{
		Key: []byte("key"), Value: text, TimestampMs: proto.Int64(stamp + int64(n)),
		Headers: []*millrace.Header{{Key: "n", Value: text}, {Key: "n", Value: []byte{0, 255}}, {Key: "null"}},
	}
}

// isNumbered says whether a record that was read is the n-th, at this offset.
func isNumbered(r *millrace.Record, n int, offset int64) error {
	expected := numbered(n)
	expected.Offset = offset
	if !proto.Equal(expected, r) {
		return fmt.Errorf("expected %v, got %v", expected, r)
	}
	return nil
}

// fill writes numbered records to a partition.
func (d *door) fill(ctx context.Context, topic string, partition int32, count int) error {
	records := &millrace.Records{}
	for n := range count {
		records.Records = append(records.Records, numbered(n))
	}
	answer, err := d.produce.Produce(ctx, &millrace.ProduceRequest{
		Topic: topic, Partition: &partition, Payload: &millrace.ProduceRequest_Records{Records: records},
	})
	if err != nil {
		return err
	}
	return same("answer", []int64{int64(partition), 0}, []int64{int64(answer.Partition), answer.BaseOffset})
}

func checkProduceStream(ctx context.Context, d *door) error {
	ctx, done := context.WithTimeout(ctx, 50*time.Second)
	defer done()
	topic, err := d.make(ctx, "stream", 4)
	if err != nil {
		return err
	}
	flow, err := d.produce.ProduceStream(ctx)
	if err != nil {
		return err
	}
	const total, bad = 2000, 999
	sent := make(chan error, 1)
	go func() {
		for n := range total {
			partition := int32(n % 4)
			if n == bad {
				partition = 99
			}
			request := &millrace.ProduceRequest{
				Topic: topic, Partition: &partition, RequestId: uint64(n), Payload: &millrace.ProduceRequest_Record{Record: numbered(n)},
			}
			if err := flow.Send(request); err != nil {
				sent <- err
				return
			}
		}
		sent <- flow.CloseSend()
	}()
	where := map[[2]int64]int{}
	next, last := map[int32]int64{}, map[int32]uint64{}
	for range total {
		answer, err := flow.Recv()
		if err != nil {
			return err
		}
		if answer.RequestId == bad {
			if err := same("refusal", "UNKNOWN_TOPIC_OR_PARTITION", answer.GetRefused().GetReason()); err != nil {
				return err
			}
			continue
		}
		written := answer.GetWritten()
		if written == nil {
			return fmt.Errorf("request %d: %v", answer.RequestId, answer.GetRefused())
		}
		p := written.Partition
		if written.BaseOffset != next[p] || (next[p] > 0 && answer.RequestId <= last[p]) {
			return fmt.Errorf("partition %d: answer %v behind request %d at offset %d", p, answer, last[p], next[p]-1)
		}
		next[p], last[p] = next[p]+1, answer.RequestId
		where[[2]int64{int64(p), written.BaseOffset}] = int(answer.RequestId)
	}
	if _, err := flow.Recv(); err != io.EOF {
		return fmt.Errorf("the stream did not end: %v", err)
	}
	if err := <-sent; err != nil {
		return err
	}
	return d.eachRecord(ctx, topic, 4, total-1, func(partition int32, r *millrace.Record) error {
		return isNumbered(r, where[[2]int64{int64(partition), r.Offset}], r.Offset)
	})
}

// eachRecord reads so many records from the beginnings of a topic's partitions.
func (d *door) eachRecord(ctx context.Context, topic string, partitions int32, count int, take func(int32, *millrace.Record) error) error {
	ctx, done := context.WithCancel(ctx)
	defer done()
	source := &millrace.AssignedPartitions{}
	for p := range partitions {
		source.Partitions = append(source.Partitions, &millrace.StartPartition{Topic: topic, Partition: p, Position: earliest()})
	}
	reader, err := d.start(ctx, &millrace.Start{Source: &millrace.Start_Partitions{Partitions: source}})
	if err != nil {
		return err
	}
	if _, err := expect(reader, (*millrace.ConsumeResponse).GetAssigned); err != nil {
		return err
	}
	for count > 0 {
		answer, err := expect(reader, (*millrace.ConsumeResponse).GetRecords)
		if err != nil {
			return err
		}
		for _, r := range answer.Records {
			if err := take(answer.Partition, r); err != nil {
				return err
			}
			count--
		}
	}
	return same("records too few", 0, count)
}

func (d *door) start(ctx context.Context, start *millrace.Start) (stream, error) {
	reader, err := d.consume.Consume(ctx)
	if err != nil {
		return nil, err
	}
	return reader, reader.Send(&millrace.ConsumeRequest{Request: &millrace.ConsumeRequest_Start{Start: start}})
}

// expect is the next answer, which must be of the kind that `kind` takes out.
func expect[T any](reader stream, kind func(*millrace.ConsumeResponse) *T) (*T, error) {
	answer, err := reader.Recv()
	if err != nil {
		return nil, err
	}
	if taken := kind(answer); taken != nil {
		return taken, nil
	}
	return nil, fmt.Errorf("an answer of another kind than %T: %v", new(T), answer)
}

// until is the next answer of a kind; records before it are dropped.
func until[T any](reader stream, kind func(*millrace.ConsumeResponse) *T) (*T, error) {
	for {
		answer, err := reader.Recv()
		if err != nil {
			return nil, err
		}
		if taken := kind(answer); taken != nil {
			return taken, nil
		}
		if answer.GetRecords() == nil {
			return nil, fmt.Errorf("an answer of another kind than %T: %v", new(T), answer)
		}
	}
}

func checkConsume(ctx context.Context, d *door) error {
	ctx, done := context.WithTimeout(ctx, 50*time.Second)
	defer done()
	topic, err := d.make(ctx, "consume", 3)
	if err != nil {
		return err
	}
	for p := range int32(3) {
		if err := d.fill(ctx, topic, p, 100); err != nil {
			return err
		}
	}
	next := map[int32]int64{}
	err = d.eachRecord(ctx, topic, 3, 300, func(p int32, r *millrace.Record) error {
		defer func() { next[p]++ }()
		return isNumbered(r, int(next[p]), next[p])
	})
	if err != nil {
		return err
	}

	// By time, with credit for little, and with a seek.
	place := &millrace.Position{At: &millrace.Position_TimestampMs{TimestampMs: stamp + 60}}
	reader, err := d.start(ctx, &millrace.Start{
		Source: &millrace.Start_Partitions{Partitions: &millrace.AssignedPartitions{Partitions: []*millrace.StartPartition{
			{Topic: topic, Partition: 1, Position: place},
		}}},
		InitialCreditBytes: proto.Int64(1), AnswerBytesMax: 200,
	})
	if err != nil {
		return err
	}
	assigned, err := expect(reader, (*millrace.ConsumeResponse).GetAssigned)
	if err != nil {
		return err
	}
	if err := same("start", int64(60), assigned.Partitions[0].Offset); err != nil {
		return err
	}
	at := int64(60)
	for at < 100 {
		answer, err := expect(reader, (*millrace.ConsumeResponse).GetRecords)
		if err != nil {
			return err
		}
		for _, r := range answer.Records {
			if err := isNumbered(r, int(at), at); err != nil {
				return err
			}
			at++
		}
		if err := reader.Send(&millrace.ConsumeRequest{Request: &millrace.ConsumeRequest_CreditBytes{CreditBytes: answer.CreditBytes}}); err != nil {
			return err
		}
	}
	place = &millrace.Position{At: &millrace.Position_Offset{Offset: 99}}
	seek := &millrace.Seek{Topic: topic, Partition: 1, Position: place}
	if err := reader.Send(&millrace.ConsumeRequest{Request: &millrace.ConsumeRequest_Seek{Seek: seek}}); err != nil {
		return err
	}
	if _, err := until(reader, (*millrace.ConsumeResponse).GetSought); err != nil {
		return err
	}
	answer, err := expect(reader, (*millrace.ConsumeResponse).GetRecords)
	if err != nil {
		return err
	}
	if err := isNumbered(answer.Records[0], 99, 99); err != nil {
		return err
	}

	reader, err = d.start(ctx, &millrace.Start{Source: &millrace.Start_Partitions{Partitions: &millrace.AssignedPartitions{
		Partitions: []*millrace.StartPartition{{Topic: fresh("none"), Position: earliest()}},
	}}})
	if err == nil {
		_, err = reader.Recv()
	}
	return refused(err, codes.NotFound, "UNKNOWN_TOPIC_OR_PARTITION")
}

func checkGroup(ctx context.Context, d *door) error {
	ctx, done := context.WithTimeout(ctx, 80*time.Second)
	defer done()
	topic, err := d.make(ctx, "group", 4)
	if err != nil {
		return err
	}
	for p := range int32(4) {
		if err := d.fill(ctx, topic, p, 10); err != nil {
			return err
		}
	}
	start := &millrace.Start{Source: &millrace.Start_Group{Group: &millrace.GroupMember{
		Group: fresh("group"), Topics: []string{topic}, Reset_: earliest(), SessionTimeoutMs: 6000, ClientId: "go",
	}}}
	one, err := d.start(ctx, start)
	if err != nil {
		return err
	}
	first, err := expect(one, (*millrace.ConsumeResponse).GetAssigned)
	if err != nil {
		return err
	}
	if err := same("alone", []int32{0, 1, 2, 3}, numbers(first)); err != nil {
		return err
	}
	if err := commit(one, topic, map[int32]int64{0: 1, 1: 2, 2: 3, 3: 4}); err != nil {
		return err
	}
	second, leave := context.WithCancel(ctx)
	defer leave()
	two, err := d.start(second, start)
	if err != nil {
		return err
	}
	halves, err := rebalance(one, two)
	if err != nil {
		return err
	}
	both := append(numbers(halves[0]), numbers(halves[1])...)
	sort.Slice(both, func(i, j int) bool { return both[i] < both[j] })
	if err := same("shared", []int32{0, 1, 2, 3}, both); err != nil {
		return err
	}
	for _, half := range halves {
		for _, s := range half.Partitions {
			if err := same("start", int64(s.Partition)+1, s.Offset); err != nil {
				return err
			}
		}
	}
	leave()
	halves, err = rebalance(one)
	if err != nil {
		return err
	}
	return same("alone again", []int32{0, 1, 2, 3}, numbers(halves[0]))
}

// rebalance lets the first member release what is revoked, and returns what the members are assigned then.
func rebalance(members ...stream) ([]*millrace.Assignment, error) {
	if _, err := until(members[0], (*millrace.ConsumeResponse).GetRevoked); err != nil {
		return nil, err
	}
	if err := members[0].Send(&millrace.ConsumeRequest{Request: &millrace.ConsumeRequest_Released{Released: &millrace.Released{}}}); err != nil {
		return nil, err
	}
	var assigned []*millrace.Assignment
	for _, member := range members {
		one, err := until(member, (*millrace.ConsumeResponse).GetAssigned)
		if err != nil {
			return nil, err
		}
		assigned = append(assigned, one)
	}
	return assigned, nil
}

func numbers(a *millrace.Assignment) []int32 {
	var out []int32
	for _, s := range a.Partitions {
		out = append(out, s.Partition)
	}
	sort.Slice(out, func(i, j int) bool { return out[i] < out[j] })
	return out
}

func commit(reader stream, topic string, offsets map[int32]int64) error {
	made := &millrace.StreamCommit{RequestId: 9}
	for p, offset := range offsets {
		made.Offsets = append(made.Offsets, &millrace.CommittedOffset{Topic: topic, Partition: p, Offset: offset})
	}
	if err := reader.Send(&millrace.ConsumeRequest{Request: &millrace.ConsumeRequest_Commit{Commit: made}}); err != nil {
		return err
	}
	answer, err := until(reader, (*millrace.ConsumeResponse).GetCommitted)
	if err != nil {
		return err
	}
	for _, result := range answer.Results {
		if result.Status.GetCode() != 0 {
			return fmt.Errorf("commit: %v", result)
		}
	}
	return same("results", []int{9, len(offsets)}, []int{int(answer.RequestId), len(answer.Results)})
}

func checkAdmin(ctx context.Context, d *door) error {
	ctx, done := context.WithTimeout(ctx, 50*time.Second)
	defer done()
	topic := fresh("admin")
	setting := &millrace.ConfigEntry{Name: "retention.ms", Value: proto.String("3600000")}
	made, err := d.admin.CreateTopic(ctx, &millrace.CreateTopicRequest{Name: topic, Partitions: 2, Configs: []*millrace.ConfigEntry{setting}})
	if err != nil {
		return err
	}
	_, err = d.admin.CreateTopic(ctx, &millrace.CreateTopicRequest{Name: topic, Partitions: 2})
	if err := refused(err, codes.AlreadyExists, "TOPIC_ALREADY_EXISTS"); err != nil {
		return err
	}
	if err := d.fill(ctx, topic, 1, 10); err != nil {
		return err
	}
	if _, err := d.admin.AddPartitions(ctx, &millrace.AddPartitionsRequest{Topic: topic, Partitions: 3}); err != nil {
		return err
	}
	described, err := d.admin.DescribeTopic(ctx, &millrace.DescribeTopicRequest{Name: topic})
	if err != nil {
		return err
	}
	ends := []int64{}
	for _, p := range described.Partitions {
		ends = append(ends, p.HighWatermark)
	}
	if err := same("ends", []int64{0, 10, 0}, ends); err != nil {
		return err
	}
	if err := same("id and setting", made.Topic.Id+" 3600000", described.Topic.Id+" "+described.Configs[0].GetValue()); err != nil {
		return err
	}

	group := fresh("admin")
	offset := &millrace.CommittedOffset{Topic: topic, Partition: 1, Offset: 4}
	if _, err := d.consume.Commit(ctx, &millrace.CommitRequest{Group: group, Offsets: []*millrace.CommittedOffset{offset}}); err != nil {
		return err
	}
	lag, err := d.admin.DescribeGroup(ctx, &millrace.DescribeGroupRequest{Group: group})
	if err != nil {
		return err
	}
	if err := same("lag", []int64{4, 10, 6}, []int64{lag.Partitions[0].GetCommitted(), lag.Partitions[0].HighWatermark, lag.Partitions[0].Lag}); err != nil {
		return err
	}
	reset, err := d.admin.ResetOffsets(ctx, &millrace.ResetOffsetsRequest{Group: group, Topic: topic, Partitions: []int32{1}, Position: earliest()})
	if err != nil {
		return err
	}
	if err := same("reset", []int64{4, 0}, []int64{reset.Offsets[0].GetBefore(), reset.Offsets[0].After}); err != nil {
		return err
	}
	if _, err := d.admin.DeleteGroup(ctx, &millrace.DeleteGroupRequest{Group: group}); err != nil {
		return err
	}
	_, err = d.admin.DescribeGroup(ctx, &millrace.DescribeGroupRequest{Group: group})
	if err := refused(err, codes.NotFound, "GROUP_ID_NOT_FOUND"); err != nil {
		return err
	}

	watched, err := d.admin.WatchTopics(ctx, &millrace.WatchTopicsRequest{})
	if err != nil {
		return err
	}
	picture, err := watched.Recv()
	if err != nil {
		return err
	}
	if err := same("in the first picture", true, shows(picture, topic)); err != nil {
		return err
	}
	if _, err := d.admin.DeleteTopic(ctx, &millrace.DeleteTopicRequest{Name: topic}); err != nil {
		return err
	}
	for shows(picture, topic) {
		if picture, err = watched.Recv(); err != nil {
			return err
		}
	}
	return nil
}

func shows(picture *millrace.ListTopicsResponse, topic string) bool {
	for _, t := range picture.Topics {
		if t.Name == topic {
			return true
		}
	}
	return false
}
