import java.time.Duration;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.common.MessageFormatter;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.connect.mirror.MirrorClient;
import org.apache.kafka.connect.mirror.RemoteClusterUtils;

/**
 * Asks with Apache Kafka's own clients of MirrorMaker 2: where groups of a remote cluster
 * lie, what is upstream and how far, and which topics belong to the mirror.
 *
 * BOOTSTRAP ALIAS GROUP...: a line for each answer.
 * format BOOTSTRAP TOPIC CLASS: the topic's first record, as a formatter of Apache Kafka's prints it.
 */
public class RemoteOffsets {
    public static void main(String[] args) throws Exception {
        if (args[0].equals("format")) {
            format(args[1], new TopicPartition(args[2], 0), (MessageFormatter) Class.forName(args[3]).getDeclaredConstructor().newInstance());
            return;
        }
        Map<String, Object> props = Map.of("bootstrap.servers", args[0]);
        try (MirrorClient client = new MirrorClient(props)) {
            System.out.println("upstream " + String.join(" ", new java.util.TreeSet<>(client.upstreamClusters())));
            System.out.println("hops " + client.replicationHops(args[1]));
            System.out.println("heartbeats " + String.join(" ", new java.util.TreeSet<>(client.heartbeatTopics())));
            System.out.println("checkpoints " + String.join(" ", new java.util.TreeSet<>(client.checkpointTopics())));
        }
        for (int i = 2; i < args.length; i++) {
            Map<TopicPartition, OffsetAndMetadata> found = RemoteClusterUtils.translateOffsets(props, args[1], args[i], Duration.ofSeconds(30));
            Map<String, OffsetAndMetadata> sorted = new TreeMap<>();
            found.forEach((tp, o) -> sorted.put(tp.topic() + " " + tp.partition(), o));
            String group = args[i];
            sorted.forEach((tp, o) -> System.out.println("group " + group + " " + tp + " " + o.offset() + " " + o.metadata()));
        }
    }

    static void format(String bootstrap, TopicPartition from, MessageFormatter formatter) {
        Map<String, Object> props = Map.of("bootstrap.servers", bootstrap,
            "key.deserializer", ByteArrayDeserializer.class.getName(), "value.deserializer", ByteArrayDeserializer.class.getName());
        try (KafkaConsumer<byte[], byte[]> consumer = new KafkaConsumer<>(props)) {
            consumer.assign(List.of(from));
            consumer.seekToBeginning(List.of(from));
            for (int i = 0; i < 60; i++) {
                for (ConsumerRecord<byte[], byte[]> record : consumer.poll(Duration.ofSeconds(1))) {
                    formatter.writeTo(record, System.out);
                    return;
                }
            }
        }
    }
}
