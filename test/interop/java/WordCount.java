import java.io.FileInputStream;
import java.time.Duration;
import java.util.*;

import org.apache.kafka.clients.admin.*;
import org.apache.kafka.clients.consumer.*;
import org.apache.kafka.clients.producer.*;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.serialization.*;
import org.apache.kafka.streams.*;
import org.apache.kafka.streams.kstream.*;
import org.apache.kafka.streams.processor.StateRestoreListener;

/**
 * A word count in Kafka Streams with exactly_once_v2, of which every update is checked: without a cache the counts of a word
 * come out one by one, so that a record counted twice or lost shows.
 *
 * <pre>
 *   WordCount create  PROPERTIES           the topics
 *   WordCount produce PROPERTIES FROM TO   lines of words, at a bounded rate
 *   WordCount run     PROPERTIES           the application, until it is killed; says what it restores
 *   WordCount await   PROPERTIES UPDATES   until so many updates are committed
 *   WordCount compact PROPERTIES UPDATES   until the changelog has less than half of so many
 *   WordCount verify  PROPERTIES LINES     the result of all of them, exactly, and the changelog's
 * </pre>
 */
public class WordCount {
    static final String LINES = "words-in", COUNTS = "words-out", APPLICATION = "wordcount", CHANGELOG = APPLICATION + "-counts-changelog", WORDS = "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu";

    /** Line i has three words, each drawn by its number. */
    static List<String> line(int i) {
        String[] w = WORDS.split(" ");
        return List.of(w[i % w.length], w[(i * 7 + 3) % w.length], w[(i / 5) % w.length]);
    }

    static Properties load(String file) throws Exception {
        Properties p = new Properties();
        try (FileInputStream in = new FileInputStream(file)) { p.load(in); }
        return p;
    }

    public static void main(String[] args) throws Exception {
        Properties base = load(args[1]);
        switch (args[0]) {
            case "create" -> {
                try (Admin admin = Admin.create(base)) {
                    admin.createTopics(List.of(new NewTopic(LINES, 4, (short) 1), new NewTopic(COUNTS, 4, (short) 1))).all().get();
                }
            }
            case "produce" -> produce(base, Integer.parseInt(args[2]), Integer.parseInt(args[3]));
            case "run" -> run(base);
            case "await" -> read(base, Integer.parseInt(args[2]));
            case "compact" -> compact(base, Integer.parseInt(args[2]));
            case "verify" -> verify(base, Integer.parseInt(args[2]));
            default -> throw new IllegalArgumentException(args[0]);
        }
    }

    static void produce(Properties base, int from, int to) throws Exception {
        base.put("linger.ms", "5");
        List<java.util.concurrent.Future<RecordMetadata>> sent = new ArrayList<>();
        try (KafkaProducer<String, String> p = new KafkaProducer<>(base, new StringSerializer(), new StringSerializer())) {
            for (int i = from; i < to; i++) {
                sent.add(p.send(new ProducerRecord<>(LINES, "line-" + i, String.join(" ", line(i)))));
                if (i % 100 == 99) Thread.sleep(100);
            }
            for (var f : sent) f.get();
        }
    }

    static void run(Properties base) {
        base.put(StreamsConfig.APPLICATION_ID_CONFIG, APPLICATION);
        base.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, StreamsConfig.EXACTLY_ONCE_V2);
        base.put(StreamsConfig.STATESTORE_CACHE_MAX_BYTES_CONFIG, "0");
        base.put(StreamsConfig.COMMIT_INTERVAL_MS_CONFIG, "200");
        base.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, "2");
        base.put(StreamsConfig.REPLICATION_FACTOR_CONFIG, "1");
        base.put(StreamsConfig.DEFAULT_KEY_SERDE_CLASS_CONFIG, Serdes.StringSerde.class);
        base.put(StreamsConfig.DEFAULT_VALUE_SERDE_CLASS_CONFIG, Serdes.StringSerde.class);
        base.put("consumer.session.timeout.ms", "6000");
        base.put("consumer.auto.offset.reset", "earliest");
        base.put("producer.transaction.timeout.ms", "10000");
        // The changelog is to be compacted while the test runs.
        base.put("topic.segment.ms", "1000");
        base.put("topic.min.cleanable.dirty.ratio", "0.01");
        StreamsBuilder b = new StreamsBuilder();
        b.<String, String>stream(LINES)
            .flatMapValues(line -> List.of(line.split(" ")))
            .groupBy((k, word) -> word)
            .count(Materialized.as("counts"))
            .toStream()
            .mapValues(String::valueOf)
            .to(COUNTS);
        KafkaStreams s = new KafkaStreams(b.build(), base);
        s.setUncaughtExceptionHandler(e -> {
            e.printStackTrace();
            return org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse.REPLACE_THREAD;
        });
        s.setGlobalStateRestoreListener(new StateRestoreListener() {
            public void onRestoreStart(TopicPartition p, String store, long start, long end) {}
            public void onBatchRestored(TopicPartition p, String store, long end, long records) {}
            public void onRestoreEnd(TopicPartition p, String store, long records) { System.out.println("restored " + p.partition() + " " + records); }
        });
        s.start();
    }

    /** The changelog as a restoring instance reads it. */
    static List<ConsumerRecord<String, Long>> changelog(Properties base) {
        Properties p = onlyServers(base);
        p.put("isolation.level", "read_committed");
        List<ConsumerRecord<String, Long>> got = new ArrayList<>();
        try (KafkaConsumer<String, Long> c = new KafkaConsumer<>(p, new StringDeserializer(), new LongDeserializer())) {
            List<TopicPartition> all = new ArrayList<>();
            c.partitionsFor(CHANGELOG).forEach(i -> all.add(new TopicPartition(i.topic(), i.partition())));
            c.assign(all);
            c.seekToBeginning(all);
            Map<TopicPartition, Long> ends = c.endOffsets(all);
            while (all.stream().anyMatch(tp -> c.position(tp) < ends.get(tp))) c.poll(Duration.ofMillis(200)).forEach(got::add);
        }
        return got;
    }

    /** Each update was written to the changelog, too. */
    static void compact(Properties base, int updates) throws Exception {
        long deadline = System.currentTimeMillis() + 150_000;
        while (true) {
            int left = changelog(base).size();
            System.out.println(left + " records are left in the changelog");
            if (2 * left < updates) return;
            if (System.currentTimeMillis() > deadline) throw new AssertionError("of " + updates + " that were written");
            Thread.sleep(1000);
        }
    }

    /** Reads committed updates until there are want, or half a minute brings none. */
    static Map<String, List<String>> read(Properties base, int want) {
        base.put("isolation.level", "read_committed");
        Map<String, List<String>> got = new TreeMap<>();
        int n = 0;
        try (KafkaConsumer<String, String> c = new KafkaConsumer<>(base, new StringDeserializer(), new StringDeserializer())) {
            List<TopicPartition> all = new ArrayList<>();
            c.partitionsFor(COUNTS).forEach(p -> all.add(new TopicPartition(p.topic(), p.partition())));
            c.assign(all);
            c.seekToBeginning(all);
            long quiet = System.currentTimeMillis() + 30_000;
            while (System.currentTimeMillis() < quiet && n < want) {
                for (ConsumerRecord<String, String> r : c.poll(Duration.ofMillis(200))) {
                    got.computeIfAbsent(r.key(), k -> new ArrayList<>()).add(r.value());
                    n++;
                    quiet = System.currentTimeMillis() + 30_000;
                }
            }
            // What is too much comes after what is due.
            for (ConsumerRecord<String, String> r : c.poll(Duration.ofSeconds(2))) got.computeIfAbsent(r.key(), k -> new ArrayList<>()).add(r.value());
        }
        if (n < want) throw new AssertionError(n + " updates, want " + want);
        return got;
    }

    static void verify(Properties base, int lines) throws Exception {
        Map<String, Integer> want = new TreeMap<>();
        for (int i = 0; i < lines; i++) for (String w : line(i)) want.merge(w, 1, Integer::sum);
        Map<String, List<String>> got = read(base, 3 * lines);
        for (var e : want.entrySet()) {
            List<String> counts = new ArrayList<>();
            for (int n = 1; n <= e.getValue(); n++) counts.add(String.valueOf(n));
            List<String> had = got.getOrDefault(e.getKey(), List.of());
            if (had.equals(counts)) continue;
            int at = 0;
            while (at < Math.min(had.size(), counts.size()) && had.get(at).equals(counts.get(at))) at++;
            throw new AssertionError(e.getKey() + ": " + had.size() + " updates, want " + counts.size() + "; they part at " + at + ": " + had.subList(at, Math.min(at + 5, had.size())));
        }
        Map<String, Integer> last = new TreeMap<>();
        for (ConsumerRecord<String, Long> r : changelog(base)) last.put(r.key(), r.value().intValue());
        if (!last.equals(want)) throw new AssertionError("the changelog ends with " + last + ", want " + want);
        try (Admin admin = Admin.create(onlyServers(base))) {
            ConfigResource topic = new ConfigResource(ConfigResource.Type.TOPIC, CHANGELOG);
            String policy = admin.describeConfigs(List.of(topic)).all().get().get(topic).get("cleanup.policy").value();
            if (!policy.equals("compact")) throw new AssertionError("the changelog's cleanup.policy is " + policy);
        }
        System.out.println(3 * lines + " updates of " + want.size() + " words, each once and in order");
    }

    static Properties onlyServers(Properties base) {
        Properties p = new Properties();
        p.put("bootstrap.servers", base.get("bootstrap.servers"));
        return p;
    }
}
