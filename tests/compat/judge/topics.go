package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// createTopics makes topics that may exist already.
func createTopics(ctx context.Context, bootstrap, partitions string, names []string) error {
	count, err := strconv.Atoi(partitions)
	if err != nil {
		return err
	}
	client, err := kgo.NewClient(quick(bootstrap)...)
	if err != nil {
		return err
	}
	defer client.Close()
	request := kmsg.NewPtrCreateTopicsRequest()
	for _, name := range names {
		topic := kmsg.NewCreateTopicsRequestTopic()
		topic.Topic, topic.NumPartitions, topic.ReplicationFactor = name, int32(count), 1
		request.Topics = append(request.Topics, topic)
	}
	ctx, done := context.WithTimeout(ctx, 30*time.Second)
	defer done()
	response, err := request.RequestWith(ctx, client)
	if err != nil {
		return err
	}
	for _, t := range response.Topics {
		if err := kerr.ErrorForCode(t.ErrorCode); err != nil && !errors.Is(err, kerr.TopicAlreadyExists) {
			return fmt.Errorf("%s: %w", t.Topic, err)
		}
	}
	return nil
}
