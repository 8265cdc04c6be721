package main

import (
	"slices"
	"strings"
	"testing"
)

type event struct {
	kind  string // send, ack, read, settle, commit, committed
	ref   ref
	place place
	value []byte
	whole bool
}

// good is a history without fault: two producers on two partitions, acknowledged, read by two readers across a restart.
func good() []event {
	var events, log []event
	next := []int64{0, 0}
	for n := range 40 {
		for producer := range 2 {
			r, p := ref{producer, n}, int32(n%2)
			at := place{p, next[p]}
			next[p]++
			events = append(events, event{kind: "send", ref: r, place: at}, event{kind: "ack", ref: r, place: at})
			log = append(log, event{kind: "read", place: at, value: body(r)})
		}
	}
	events = append(events, log...)
	events = append(events, event{kind: "settle"}, event{kind: "commit", place: place{0, 7}}, event{kind: "committed", place: place{0, 7}})
	events = append(events, log...) // a second reader from the start
	return append(events, event{kind: "settle", whole: true})
}

func replay(events []event) error {
	h := newHistory(2)
	for _, e := range events {
		switch e.kind {
		case "send":
			h.send(e.ref.producer, e.place.partition)
		case "ack":
			h.acked(e.ref, e.place)
		case "read":
			h.read(e.place, e.value)
		case "settle":
			h.settle(e.whole)
		case "commit":
			h.committedAck(e.place.offset)
		case "committed":
			h.committedRead(e.place.offset, h.committedFloor())
		}
	}
	return h.verdict()
}

func TestGoodHistoryPasses(t *testing.T) {
	if err := replay(good()); err != nil {
		t.Fatal(err)
	}
}

// Every way to spoil the good history must be found, or a green run means nothing.
func TestMutatedHistoriesAreFound(t *testing.T) {
	reads := func(es []event) []int {
		var at []int
		for i, e := range es {
			if e.kind == "read" {
				at = append(at, i)
			}
		}
		return at
	}
	// shift renumbers later reads of the partition as a log would that lost or gained a record at i.
	shift := func(es []event, i int, by int64) {
		for j := i + 1; j < len(es) && es[j].kind == "read"; j++ {
			if es[j].place.partition == es[i].place.partition {
				es[j].place.offset += by
			}
		}
	}
	mutators := map[string]struct {
		spoil func([]event) []event
		want  string
	}{
		"acked record dropped, log closed up": {func(es []event) []event {
			i := reads(es)[10]
			shift(es, i, -1)
			return slices.Delete(es, i, i+1)
		}, "lost"},
		"acked record dropped, hole left": {func(es []event) []event {
			i := reads(es)[10]
			return slices.Delete(es, i, i+1)
		}, "hole"},
		"last record of a partition dropped": {func(es []event) []event {
			n := len(reads(good()))
			out := slices.DeleteFunc(es, func(e event) bool { return e.kind == "read" && e.place == place{1, int64(n/4 - 1)} })
			return out
		}, "the log ends"},
		"record appended twice": {func(es []event) []event {
			i := reads(es)[12]
			again := es[i]
			again.place.offset++
			shift(es, i, 1)
			return slices.Insert(es, i+1, again)
		}, "duplicate"},
		"two records of one producer swapped": {func(es []event) []event {
			r := reads(es)
			a, b := r[8], r[12]
			es[a].value, es[b].value = es[b].value, es[a].value
			return es
		}, "reordered"},
		"second reader sees another value": {func(es []event) []event {
			r := reads(es)
			a, b := r[len(r)-1], r[len(r)-2]
			es[a].value, es[b].value = es[b].value, es[a].value
			return es
		}, "now holds"},
		"a byte flipped": {func(es []event) []event {
			i := reads(es)[5]
			es[i].value = slices.Clone(es[i].value)
			es[i].value[len(es[i].value)-1] ^= 1
			return es
		}, "phantom"},
		"a value nobody sent": {func(es []event) []event {
			i := reads(es)[5]
			es[i].value = body(ref{9, 1})
			return es
		}, "phantom"},
		"on another partition than sent to": {func(es []event) []event {
			for i := range es {
				if es[i].kind == "read" {
					es[i].place.partition = 1 - es[i].place.partition
				}
			}
			return es
		}, "was sent to partition"},
		"acknowledged at another offset": {func(es []event) []event {
			i := slices.IndexFunc(es, func(e event) bool { return e.kind == "ack" && e.ref.n == 6 })
			es[i].place.offset += 2
			return es
		}, "lost"},
		"acknowledged below an earlier acknowledgement": {func(es []event) []event {
			i := slices.IndexFunc(es, func(e event) bool { return e.kind == "ack" && e.ref.n == 6 })
			es[i].place.offset = 0
			return es
		}, "before it was sent"},
		"committed offset taken back": {func(es []event) []event {
			i := slices.IndexFunc(es, func(e event) bool { return e.kind == "committed" })
			es[i].place.offset = 6
			return es
		}, "committed offset"},
	}
	for name, m := range mutators {
		t.Run(name, func(t *testing.T) {
			err := replay(m.spoil(good()))
			if err == nil {
				t.Fatal("not found")
			}
			if !strings.Contains(err.Error(), m.want) {
				t.Fatalf("want %q, got %v", m.want, err)
			}
		})
	}
}
