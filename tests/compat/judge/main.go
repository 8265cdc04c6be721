// Programs on franz-go that judge a broker from outside:
//
//	judge produce BOOTSTRAP TOPIC                 a producing service: lines "number TAB key TAB value" from standard input
//	judge consume BOOTSTRAP GROUP FILE TOPIC...   a group member: appends "topic partition offset time headers key value" lines, then commits
//	judge topics BOOTSTRAP PARTITIONS TOPIC...    creates topics
//	judge kill9 [flags]                           kill -9 rounds under a producer history, see kill9.go
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	args := os.Args[1:]
	var err error
	switch {
	case len(args) == 3 && args[0] == "produce":
		err = produce(ctx, args[1], args[2])
	case len(args) >= 5 && args[0] == "consume":
		err = consume(ctx, args[1], args[2], args[3], args[4:])
	case len(args) >= 4 && args[0] == "topics":
		err = createTopics(ctx, args[1], args[2], args[3:])
	case len(args) >= 1 && args[0] == "kill9":
		err = kill9(ctx, args[1:])
	default:
		err = fmt.Errorf("usage: judge produce|consume|topics|kill9 ..., see judge/main.go")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "judge:", err)
		os.Exit(1)
	}
}
