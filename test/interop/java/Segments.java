import java.io.*;
import java.nio.charset.StandardCharsets;
import java.nio.file.*;
import java.time.Duration;
import java.util.*;
import java.util.concurrent.Future;

import org.apache.kafka.clients.admin.*;
import org.apache.kafka.clients.consumer.*;
import org.apache.kafka.clients.producer.*;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.header.internals.RecordHeader;
import org.apache.kafka.common.serialization.*;

/**
 * Fills topics of one partition each, and writes down what DumpLogSegments must then say of their files, in its own words: a
 * line for each record and each marker, with the offset that the broker acknowledged.
 *
 * <pre>
 *   Segments PROPERTIES FOLDER
 *     FOLDER/topics          name and id of every topic, the internal ones too
 *     FOLDER/TOPIC           the lines of its records and markers
 *     FOLDER/TOPIC.aborted   first offset, marker, and the first offset that is undecided after it
 *     FOLDER/commits         group, topic, partition, offset, metadata; none of the last two: deleted
 *     FOLDER/transactions    transactional id and state of every transaction that ended
 * </pre>
 */
public class Segments {
    static final int RECORDS = 4500;
    static final Random random = new Random(7); // the same in every run
    static Properties base = new Properties();
    static Path folder;
    static Admin admin;
    static PrintWriter ended;

    /** A topic as it is filled. */
    static class Filled {
        final String name;
        final String time; // what the tool calls the timestamps; the broker's own are not known
        final PrintWriter want, aborted;
        long next;

        Filled(String name, Map<String, String> configs) throws Exception {
            this.name = name;
            Map<String, String> all = new HashMap<>(configs);
            all.put("segment.bytes", "1048576");
            admin.createTopics(List.of(new NewTopic(name, 1, (short) 1).configs(all))).all().get();
            time = configs.containsKey("message.timestamp.type") ? "LogAppendTime:" : "CreateTime:";
            want = new PrintWriter(new FileWriter(folder.resolve(name).toFile()));
            aborted = new PrintWriter(new FileWriter(folder.resolve(name + ".aborted").toFile()));
        }

        TopicPartition partition() { return new TopicPartition(name, 0); }

        /** Sends records, waits for all, and writes them down. sequence is that of the first, -1 if the producer has none. */
        void send(KafkaProducer<String, String> p, List<ProducerRecord<String, String>> records, int sequence) throws Exception {
            List<Future<RecordMetadata>> sent = new ArrayList<>();
            for (ProducerRecord<String, String> r : records) sent.add(p.send(r));
            p.flush();
            for (int i = 0; i < records.size(); i++) {
                long offset = sent.get(i).get().offset();
                if (offset != next) throw new AssertionError(name + ": record at offset " + offset + ", want " + next);
                want.println(line(records.get(i), offset, sequence < 0 ? -1 : sequence + i));
                next++;
            }
        }

        String line(ProducerRecord<String, String> r, long offset, int sequence) {
            StringJoiner headers = new StringJoiner(",", "[", "]");
            r.headers().forEach(h -> headers.add(h.key()));
            return "| offset: " + offset + " " + time + (time.startsWith("C") ? " " + r.timestamp() : "") + " keySize: " + size(r.key()) + " valueSize: " + size(r.value())
                + " sequence: " + sequence + " headerKeys: " + headers + (r.key() == null ? "" : " key: " + r.key()) + (r.value() == null ? "" : " payload: " + r.value());
        }

        /** Waits until the marker that follows everything is there. */
        void marker(boolean commit) throws Exception {
            want.println("| offset: " + next + (commit ? " COMMIT" : " ABORT"));
            next++;
            long deadline = System.nanoTime() + Duration.ofSeconds(30).toNanos();
            while (admin.listOffsets(Map.of(partition(), OffsetSpec.latest())).all().get().get(partition()).offset() < next) {
                if (System.nanoTime() > deadline) throw new AssertionError(name + ": no marker at offset " + (next - 1));
                Thread.sleep(5);
            }
        }

        void close() { want.close(); aborted.close(); }
    }

    static int size(String s) { return s == null ? -1 : s.length(); }

    static KafkaProducer<String, String> producer(Object... pairs) {
        Properties p = new Properties();
        p.putAll(base);
        p.put("linger.ms", "5");
        for (int i = 0; i < pairs.length; i += 2) p.put(pairs[i], pairs[i + 1]);
        return new KafkaProducer<>(p, new StringSerializer(), new StringSerializer());
    }

    /** Does not compress well, so that segments of all codecs fill up. */
    static String value() {
        byte[] b = new byte[600];
        random.nextBytes(b);
        return Base64.getEncoder().encodeToString(b);
    }

    /** Records without keys, without values and with headers among others, and timestamps that go back. */
    static List<ProducerRecord<String, String>> records(String topic, String key, int count) {
        long now = System.currentTimeMillis() - count;
        List<ProducerRecord<String, String>> list = new ArrayList<>();
        for (int i = 0; i < count; i++) {
            ProducerRecord<String, String> r = new ProducerRecord<>(topic, 0, i % 7 == 0 ? now - i : now + i, i % 11 == 3 ? null : key + i, i % 13 == 5 ? null : value());
            if (i % 5 == 0) r.headers().add(new RecordHeader("h" + i, "x".getBytes(StandardCharsets.UTF_8))).add(new RecordHeader("empty", null));
            list.add(r);
        }
        return list;
    }

    static void codec(String codec) throws Exception {
        Filled t = new Filled("dump-" + codec, Map.of());
        try (KafkaProducer<String, String> p = producer("compression.type", codec, "enable.idempotence", "true")) {
            t.send(p, records(t.name, "k", RECORDS), 0);
        }
        t.close();
    }

    static void withoutIdempotence() throws Exception {
        Filled t = new Filled("dump-plain", Map.of());
        try (KafkaProducer<String, String> p = producer("enable.idempotence", "false", "max.in.flight.requests.per.connection", "1")) {
            t.send(p, records(t.name, "k", RECORDS), -1);
        }
        t.close();
    }

    /** Timestamps are the broker's. */
    static void appendTime() throws Exception {
        Filled t = new Filled("dump-append-time", Map.of("message.timestamp.type", "LogAppendTime"));
        try (KafkaProducer<String, String> p = producer("compression.type", "snappy")) {
            t.send(p, records(t.name, "k", RECORDS), 0);
        }
        t.close();
    }

    /** Two producers whose transactions overlap; some are aborted. */
    static void transactions() throws Exception {
        Filled t = new Filled("dump-transactions", Map.of());
        try (KafkaProducer<String, String> a = producer("transactional.id", "dump-a"); KafkaProducer<String, String> b = producer("transactional.id", "dump-b")) {
            a.initTransactions();
            b.initTransactions();
            for (int i = 0; i < 60; i++) {
                boolean commitA = i % 3 != 0, commitB = i % 4 != 0;
                a.beginTransaction();
                long firstA = t.next;
                t.send(a, records(t.name, "a" + i + "-", 40), 0);
                b.beginTransaction();
                long firstB = t.next;
                t.send(b, records(t.name, "b" + i + "-", 40), 0);
                end(a, "dump-a", commitA);
                if (!commitA) t.aborted.println(firstA + " " + t.next + " " + firstB);
                t.marker(commitA);
                end(b, "dump-b", commitB);
                if (!commitB) t.aborted.println(firstB + " " + t.next + " " + (t.next + 1));
                t.marker(commitB);
            }
        }
        t.close();
    }

    static void end(KafkaProducer<String, String> p, String id, boolean commit) {
        if (commit) p.commitTransaction();
        else p.abortTransaction();
        ended.println(id + (commit ? " CompleteCommit" : " CompleteAbort"));
    }

    /** Forty keys over and over, tombstones, and transactions of which every other one is aborted. */
    static void compacted() throws Exception {
        Filled t = new Filled("dump-compacted", Map.of("cleanup.policy", "compact", "min.cleanable.dirty.ratio", "0.01"));
        try (KafkaProducer<String, String> plain = producer("compression.type", "lz4"); KafkaProducer<String, String> txn = producer("transactional.id", "dump-compacted")) {
            txn.initTransactions();
            int sequence = 0;
            for (int i = 0; i < 150; i++) {
                List<ProducerRecord<String, String>> list = new ArrayList<>();
                for (int k = 0; k < 40; k++) list.add(new ProducerRecord<>(t.name, 0, System.currentTimeMillis(), "key" + k, value()));
                list.add(new ProducerRecord<>(t.name, 0, System.currentTimeMillis(), "gone" + i % 50, i % 2 == 0 ? null : "soon"));
                if (i % 5 != 4) {
                    t.send(plain, list, sequence);
                    sequence += list.size();
                    continue;
                }
                boolean commit = i % 10 == 9;
                long first = t.next;
                txn.beginTransaction();
                t.send(txn, list, 0);
                end(txn, "dump-compacted", commit);
                if (!commit) t.aborted.println(first + " " + t.next + " " + (t.next + 1));
                t.marker(commit);
            }
        }
        t.close();
    }

    /** Commits by members of both protocols, by nobody's member, in transactions, and one that is deleted. */
    static void groups(PrintWriter commits) throws Exception {
        TopicPartition tp = new TopicPartition("dump-none", 0);
        for (String protocol : List.of("classic", "consumer")) {
            Properties p = new Properties();
            p.putAll(base);
            p.putAll(Map.of("group.id", "dump-" + protocol, "group.protocol", protocol, "auto.offset.reset", "earliest", "enable.auto.commit", "false", "max.poll.records", "100"));
            try (KafkaConsumer<String, String> c = new KafkaConsumer<>(p, new StringDeserializer(), new StringDeserializer())) {
                c.subscribe(List.of(tp.topic()));
                for (long at = 0; at < 1000; ) {
                    if (c.poll(Duration.ofMillis(200)).isEmpty()) continue;
                    at = c.position(tp);
                    c.commitSync(Map.of(tp, new OffsetAndMetadata(at, "at-" + at)));
                    commits.println("dump-" + protocol + " " + tp.topic() + " 0 " + at + " at-" + at);
                }
            }
        }
        admin.alterConsumerGroupOffsets("dump-alone", Map.of(tp, new OffsetAndMetadata(7, "seven"))).all().get();
        commits.println("dump-alone " + tp.topic() + " 0 7 seven");
        admin.deleteConsumerGroupOffsets("dump-alone", Set.of(tp)).all().get();
        commits.println("dump-alone " + tp.topic() + " 0");
        try (KafkaProducer<String, String> p = producer("transactional.id", "dump-offsets")) {
            p.initTransactions();
            for (int i = 1; i <= 6; i++) {
                p.beginTransaction();
                p.sendOffsetsToTransaction(Map.of(tp, new OffsetAndMetadata(i, "txn-" + i)), new ConsumerGroupMetadata("dump-txn"));
                end(p, "dump-offsets", i % 3 != 0);
                commits.println("dump-txn " + tp.topic() + " 0 " + i + " txn-" + i);
            }
        }
    }

    public static void main(String[] args) throws Exception {
        try (FileInputStream in = new FileInputStream(args[0])) { base.load(in); }
        folder = Files.createDirectories(Path.of(args[1]));
        Properties forAdmin = new Properties();
        forAdmin.putAll(base);
        admin = Admin.create(forAdmin);
        ended = new PrintWriter(new FileWriter(folder.resolve("transactions").toFile()));
        compacted(); // it has the time of the others to be compacted
        for (String c : List.of("none", "gzip", "snappy", "lz4", "zstd")) codec(c);
        withoutIdempotence();
        appendTime();
        transactions();
        try (PrintWriter commits = new PrintWriter(new FileWriter(folder.resolve("commits").toFile()))) { groups(commits); }
        ended.close();
        try (PrintWriter w = new PrintWriter(new FileWriter(folder.resolve("topics").toFile()))) {
            for (TopicListing t : admin.listTopics(new ListTopicsOptions().listInternal(true)).listings().get()) w.println(t.name() + " " + t.topicId());
        }
        admin.close();
    }
}
