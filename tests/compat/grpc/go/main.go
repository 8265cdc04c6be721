// Checks of the gRPC door with a client that protoc-gen-go and protoc-gen-go-grpc made from the .proto files, and the services and
// members of the end-to-end test on it:
//
//	grpc-judge check NAME                            one check of checks.go; GRPC is the broker's address
//	grpc-judge create TOPIC PARTITIONS
//	grpc-judge produce TOPIC                         a producing service: lines "number TAB key TAB value" from standard input
//	grpc-judge consume GROUP FILE TOPIC...           a group member, which writes what it reads to the file and then commits
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	millrace "grpcjudge/millrace/v1"
)

// door is the broker as the generated client sees it.
type door struct {
	produce millrace.ProduceServiceClient
	consume millrace.ConsumeServiceClient
	admin   millrace.AdminServiceClient
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "grpc-judge:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	connection, err := grpc.NewClient(os.Getenv("GRPC"),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithNoProxy(),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.5, MaxDelay: 200 * time.Millisecond},
			MinConnectTimeout: time.Second,
		}),
	)
	if err != nil {
		return err
	}
	defer connection.Close()
	d := &door{millrace.NewProduceServiceClient(connection), millrace.NewConsumeServiceClient(connection), millrace.NewAdminServiceClient(connection)}
	switch {
	case len(args) == 2 && args[0] == "check" && checks[args[1]] != nil:
		return checks[args[1]](ctx, d)
	case len(args) == 3 && args[0] == "create":
		return d.create(ctx, args[1], args[2])
	case len(args) == 2 && args[0] == "produce":
		return d.publish(ctx, args[1])
	case len(args) >= 4 && args[0] == "consume":
		return d.read(ctx, args[1], args[2], args[3:])
	default:
		return fmt.Errorf("usage: grpc-judge check|create|produce|consume ..., see grpc/go/main.go")
	}
}

// create makes a topic that may exist already.
func (d *door) create(ctx context.Context, topic, partitions string) error {
	count, err := strconv.ParseInt(partitions, 10, 32)
	if err != nil {
		return err
	}
	_, err = d.admin.CreateTopic(ctx, &millrace.CreateTopicRequest{Name: topic, Partitions: int32(count)})
	if status.Code(err) == codes.AlreadyExists {
		return nil
	}
	return err
}
