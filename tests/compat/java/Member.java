import java.io.BufferedReader;
import java.io.BufferedWriter;
import java.io.FileOutputStream;
import java.io.InputStreamReader;
import java.io.OutputStreamWriter;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.Arrays;
import java.util.Collection;
import java.util.List;
import java.util.Properties;
import java.util.StringJoiner;
import java.util.concurrent.atomic.AtomicLong;
import java.util.concurrent.atomic.AtomicReference;
import org.apache.kafka.clients.consumer.ConsumerRebalanceListener;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.ConsumerRecords;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.KafkaException;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.errors.WakeupException;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;

/**
 * A producing service and a group member on Apache Kafka's own Java client, for the end-to-end test.
 *
 *   Member produce BOOTSTRAP TOPIC             lines "number TAB key TAB value" from standard input
 *   Member consume BOOTSTRAP GROUP FILE TOPIC..  appends "topic partition offset time headers key value" lines, then commits
 *
 * A record's time is E2E_STAMP and its number.
 */
public final class Member {
    public static void main(String[] args) throws Exception {
        if (args[0].equals("produce")) {
            produce(args[1], args[2]);
        } else {
            consume(args[1], args[2], args[3], Arrays.asList(args).subList(4, args.length));
        }
    }

    private static void produce(String bootstrap, String topic) throws Exception {
        Properties config = new Properties();
        config.put("bootstrap.servers", bootstrap);
        config.put("acks", "all");
        config.put("enable.idempotence", "true");
        config.put("linger.ms", "5");
        config.put("compression.type", "lz4");
        config.put("delivery.timeout.ms", "300000");
        config.put("request.timeout.ms", "5000");
        config.put("reconnect.backoff.max.ms", "200");
        config.put("max.block.ms", "300000");
        long stamp = Long.parseLong(System.getenv("E2E_STAMP"));
        AtomicLong acked = new AtomicLong();
        AtomicReference<Exception> failure = new AtomicReference<>();
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        try (KafkaProducer<String, String> producer = new KafkaProducer<>(config, new StringSerializer(), new StringSerializer())) {
            for (String line = in.readLine(); line != null && failure.get() == null; line = in.readLine()) {
                String[] parts = line.split("\t", 3);
                ProducerRecord<String, String> record = new ProducerRecord<>(topic, null, stamp + Long.parseLong(parts[0]), parts[1], parts[2]);
                record.headers().add("line", parts[0].getBytes(StandardCharsets.UTF_8));
                record.headers().add("mark", ("\u00fc" + parts[0]).getBytes(StandardCharsets.UTF_8));
                producer.send(record, (metadata, error) -> {
                    if (error != null) {
                        failure.compareAndSet(null, error);
                    } else {
                        acked.incrementAndGet();
                    }
                });
            }
        }
        System.out.println("acked " + acked.get());
        if (failure.get() != null) {
            failure.get().printStackTrace();
            System.exit(1);
        }
    }

    private static void consume(String bootstrap, String group, String file, List<String> topics) throws Exception {
        Properties config = new Properties();
        config.put("bootstrap.servers", bootstrap);
        config.put("group.id", group);
        config.put("client.id", "java");
        config.put("group.protocol", "classic");
        config.put("enable.auto.commit", "false");
        config.put("auto.offset.reset", "earliest");
        config.put("session.timeout.ms", "6000");
        config.put("heartbeat.interval.ms", "1000");
        config.put("reconnect.backoff.max.ms", "200");
        config.put("partition.assignment.strategy", "org.apache.kafka.clients.consumer.RangeAssignor");
        KafkaConsumer<String, String> consumer = new KafkaConsumer<>(config, new StringDeserializer(), new StringDeserializer());
        Thread main = Thread.currentThread();
        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            consumer.wakeup();
            try {
                main.join(10_000);
            } catch (InterruptedException ignored) {
                // The process ends anyway.
            }
        }));
        try (BufferedWriter out = new BufferedWriter(
                new OutputStreamWriter(new FileOutputStream(file, true), StandardCharsets.UTF_8), 1 << 16)) {
            consumer.subscribe(topics, new ConsumerRebalanceListener() {
                @Override
                public void onPartitionsRevoked(Collection<TopicPartition> partitions) {
                    commit(consumer);
                }

                @Override
                public void onPartitionsAssigned(Collection<TopicPartition> partitions) {
                    System.err.println("assigned " + partitions);
                }
            });
            while (true) {
                ConsumerRecords<String, String> records = consumer.poll(Duration.ofMillis(200));
                if (records.isEmpty()) {
                    continue;
                }
                for (ConsumerRecord<String, String> r : records) {
                    StringJoiner headers = new StringJoiner(",");
                    for (Header h : r.headers()) {
                        headers.add(h.key() + "=" + new String(h.value(), StandardCharsets.UTF_8));
                    }
                    out.write(r.topic() + "\t" + r.partition() + "\t" + r.offset() + "\t" + r.timestamp() + "\t"
                        + headers + "\t" + r.key() + "\t" + r.value() + "\n");
                }
                out.flush();
                commit(consumer);
            }
        } catch (WakeupException stop) {
            // Asked to stop: what was written is committed below.
        } finally {
            commit(consumer);
            consumer.close();
        }
    }

    /** Commits what was written; a rebalance or a broker that is down only means that records are read again. */
    private static void commit(KafkaConsumer<String, String> consumer) {
        try {
            consumer.commitSync(Duration.ofSeconds(5));
        } catch (WakeupException stop) {
            try {
                consumer.commitSync(Duration.ofSeconds(5));
            } catch (KafkaException error) {
                System.err.println("not committed: " + error);
            }
            throw stop;
        } catch (KafkaException error) {
            System.err.println("not committed: " + error);
        }
    }
}
