package main

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
)

// history holds what producers sent, what was acknowledged and what was read, and knows which mixtures a log may not show.
// Every value is unique ("<producer>-<n>-<seeded body>"), so a value names its one send.
//
// Invariants checked as events come in, and by settle once the log should be whole:
//   - agreement: one (partition, offset) holds one value, whoever reads it and whenever
//   - density: offsets of a partition are 0, 1, 2, ... without a hole
//   - no phantom: every value read was sent, byte for byte
//   - no duplicate: a value is at one offset
//   - order: values of a producer on a partition stand in the order they were sent
//   - real time: a record sent after another's acknowledgement has the higher offset
//   - no loss: an acknowledged record is at the offset of its acknowledgement
//   - commits: a committed offset that was acknowledged is never taken back
type history struct {
	mu         sync.Mutex
	partitions int
	producers  map[int]*sends
	log        [][]ref // per partition, by offset: what was read there
	ackedTop   []int64 // per partition: the highest acknowledged offset
	lastRead   []map[int]int
	unsettled  []ack
	acks       int
	committed  int64
	violations []string
}

// ref names one send.
type ref struct{ producer, n int }

// place is where a send is expected or was found; offset -1 is nowhere yet.
type place struct {
	partition int32
	offset    int64
}

type sends struct {
	partition []int32
	floor     []int64 // the highest offset acknowledged on the partition before this send began
	seen      []place
}

type ack struct {
	ref
	place
}

func newHistory(partitions int) *history {
	h := &history{partitions: partitions, producers: map[int]*sends{}, log: make([][]ref, partitions), ackedTop: make([]int64, partitions)}
	for p := range partitions {
		h.ackedTop[p] = -1
		h.lastRead = append(h.lastRead, map[int]int{})
	}
	return h
}

// body is the value of a send: its name, and bytes that follow from the name.
func body(r ref) []byte {
	rng := rand.New(rand.NewPCG(uint64(r.producer), uint64(r.n)))
	name := fmt.Appendf(nil, "%d-%d-", r.producer, r.n)
	fill := make([]byte, 8+rng.IntN(192))
	for i := range fill {
		fill[i] = byte('a' + rng.IntN(26))
	}
	return append(name, fill...)
}

func parse(value []byte) (ref, bool) {
	parts := strings.SplitN(string(value), "-", 3)
	if len(parts) != 3 {
		return ref{}, false
	}
	producer, err1 := strconv.Atoi(parts[0])
	n, err2 := strconv.Atoi(parts[1])
	r := ref{producer, n}
	return r, err1 == nil && err2 == nil && bytes.Equal(value, body(r))
}

func (h *history) wrong(format string, args ...any) {
	h.violations = append(h.violations, fmt.Sprintf(format, args...))
}

// send registers the producer's next send to the partition and returns its name.
func (h *history) send(producer int, partition int32) ref {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.producers[producer]
	if s == nil {
		s = &sends{}
		h.producers[producer] = s
	}
	s.partition = append(s.partition, partition)
	s.floor = append(s.floor, h.ackedTop[partition])
	s.seen = append(s.seen, place{-1, -1})
	return ref{producer, len(s.partition) - 1}
}

func (h *history) acked(r ref, at place) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.producers[r.producer]
	if s.partition[r.n] != at.partition {
		h.wrong("%v was sent to partition %d and acknowledged on %d", r, s.partition[r.n], at.partition)
		return
	}
	if at.offset <= s.floor[r.n] {
		h.wrong("%v was acknowledged at %v, but offset %d was acknowledged before it was sent", r, at, s.floor[r.n])
	}
	h.ackedTop[at.partition] = max(h.ackedTop[at.partition], at.offset)
	h.unsettled = append(h.unsettled, ack{r, at})
	h.acks++
}

// read is one record as any reader saw it. Readers go forward from an offset that is known, so a gap is a hole in the log.
func (h *history) read(at place, value []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	r, ok := parse(value)
	s := h.producers[r.producer]
	if !ok || s == nil || r.n < 0 || r.n >= len(s.partition) {
		h.wrong("phantom at %v: %.60q was never sent", at, value)
		return
	}
	log := h.log[at.partition]
	if at.offset < int64(len(log)) {
		if log[at.offset] != r {
			h.wrong("%v held %v and now holds %v", at, log[at.offset], r)
		}
		return
	}
	if at.offset > int64(len(log)) {
		h.wrong("hole before %v: the record at offset %d was never read", at, len(log))
		for int64(len(h.log[at.partition])) < at.offset {
			h.log[at.partition] = append(h.log[at.partition], ref{-1, -1})
		}
	}
	h.log[at.partition] = append(h.log[at.partition], r)
	if s.partition[r.n] != at.partition {
		h.wrong("%v was sent to partition %d and is at %v", r, s.partition[r.n], at)
	}
	if s.seen[r.n].offset >= 0 {
		h.wrong("duplicate: %v is at %v and at %v", r, s.seen[r.n], at)
	} else {
		s.seen[r.n] = at
	}
	if last, ok := h.lastRead[at.partition][r.producer]; ok && last > r.n {
		h.wrong("reordered: %v is at %v behind send %d of its producer", r, at, last)
	}
	h.lastRead[at.partition][r.producer] = max(r.n, h.lastRead[at.partition][r.producer])
}

// end is the number of records read of a partition so far.
func (h *history) end(partition int32) int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return int64(len(h.log[partition]))
}

// behind says whether an acknowledged record has not been read yet.
func (h *history) behind() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	for p, top := range h.ackedTop {
		if int64(len(h.log[p])) <= top {
			return true
		}
	}
	return false
}

// settle checks every acknowledgement whose offset has been read; with whole, an unread one is a loss.
func (h *history) settle(whole bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	keep := h.unsettled[:0]
	for _, a := range h.unsettled {
		log := h.log[a.partition]
		switch {
		case a.offset < int64(len(log)) && log[a.offset] != a.ref:
			h.wrong("lost: %v was acknowledged at %v, which holds %v", a.ref, a.place, log[a.offset])
		case a.offset < int64(len(log)):
		case whole:
			h.wrong("lost: %v was acknowledged at %v, but the log ends at %d", a.ref, a.place, len(log))
		default:
			keep = append(keep, a)
		}
	}
	h.unsettled = keep
}

func (h *history) committedAck(offset int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.committed = max(h.committed, offset)
}

// committedFloor is taken before a fetch of the committed offset starts, to be handed to committedRead.
func (h *history) committedFloor() int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.committed
}

func (h *history) committedRead(offset, floor int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if offset < floor {
		h.wrong("committed offset %d was acknowledged, and %d is what is left", floor, offset)
	}
}

func (h *history) ackCount() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.acks
}

// verdict returns the first violations, if any.
func (h *history) verdict() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.violations) == 0 {
		return nil
	}
	return fmt.Errorf("%d violations, the first:\n  %s", len(h.violations), strings.Join(h.violations[:min(10, len(h.violations))], "\n  "))
}
