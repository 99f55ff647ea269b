import java.io.FileInputStream;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Collection;
import java.util.Collections;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.Set;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;

import org.apache.kafka.clients.admin.*;
import org.apache.kafka.clients.consumer.*;
import org.apache.kafka.clients.producer.*;
import org.apache.kafka.common.ElectionType;
import org.apache.kafka.common.KafkaException;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.acl.*;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.errors.*;
import org.apache.kafka.common.quota.*;
import org.apache.kafka.common.resource.*;
import org.apache.kafka.common.serialization.*;

/**
 * Java's own clients: producer, consumer with both group protocols, transactions, admin. Prints a line for each check.
 * Arguments: a properties file of the connection, and what the names of the checks begin with.
 */
public class Clients {
    interface Check { void run() throws Exception; }

    static Properties base = new Properties();
    static String prefix, topic;
    static Admin admin;
    static final List<String> values = new ArrayList<>();

    static void check(String name, Check c) {
        try {
            c.run();
            System.out.println("PASS " + prefix + "/" + name);
        } catch (Throwable e) {
            System.out.println("FAIL " + prefix + "/" + name);
            System.err.println(prefix + "/" + name + ": " + e);
            e.printStackTrace();
        }
    }

    static void equal(String what, Object got, Object want) {
        if (!got.equals(want)) {
            String g = got.toString(), w = want.toString();
            throw new AssertionError(what + ": got " + g.substring(0, Math.min(300, g.length())) + ", want " + w.substring(0, Math.min(300, w.length())));
        }
    }

    /** Repeats c until it throws nothing: for what a broker may learn a moment later. */
    static void eventually(Check c) throws Exception {
        long deadline = System.nanoTime() + TimeUnit.SECONDS.toNanos(40);
        while (true) {
            try {
                c.run();
                return;
            } catch (Throwable e) {
                if (System.nanoTime() > deadline) throw e;
                Thread.sleep(50);
            }
        }
    }

    static <T extends Throwable> T expect(Class<T> type, Check c) throws Exception {
        try {
            c.run();
        } catch (ExecutionException e) {
            if (type.isInstance(e.getCause())) return type.cast(e.getCause());
            throw e;
        } catch (Exception e) {
            if (type.isInstance(e)) return type.cast(e);
            throw e;
        }
        throw new AssertionError("no " + type.getSimpleName());
    }

    static Properties with(Object... pairs) {
        Properties p = new Properties();
        p.putAll(base);
        for (int i = 0; i < pairs.length; i += 2) p.put(pairs[i], pairs[i + 1]);
        return p;
    }

    static KafkaProducer<String, String> producer(Object... pairs) {
        return new KafkaProducer<>(with(pairs), new StringSerializer(), new StringSerializer());
    }

    static KafkaConsumer<String, String> consumer(String group, String protocol, Object... pairs) {
        Properties p = with(pairs);
        p.putAll(Map.of("group.id", group, "group.protocol", protocol, "auto.offset.reset", "earliest", "enable.auto.commit", "false", "isolation.level", "read_committed"));
        return new KafkaConsumer<>(p, new StringDeserializer(), new StringDeserializer());
    }

    /** Reads with a group until it has count records, then one more second; commits. */
    static List<String> consume(String group, String protocol, int count, long quietMs) {
        List<String> got = new ArrayList<>();
        try (KafkaConsumer<String, String> c = consumer(group, protocol)) {
            c.subscribe(List.of(topic));
            long deadline = System.currentTimeMillis() + quietMs;
            while (System.currentTimeMillis() < deadline) {
                ConsumerRecords<String, String> records = c.poll(Duration.ofMillis(200));
                for (ConsumerRecord<String, String> r : records) got.add(r.value());
                if (!records.isEmpty()) deadline = System.currentTimeMillis() + (got.size() >= count ? 1000 : quietMs);
            }
            if (!got.isEmpty()) c.commitSync();
        }
        Collections.sort(got);
        return got;
    }

    static List<String> sorted() {
        List<String> s = new ArrayList<>(values);
        Collections.sort(s);
        return s;
    }

    static void produce(String codec) throws Exception {
        List<java.util.concurrent.Future<RecordMetadata>> sent = new ArrayList<>();
        try (KafkaProducer<String, String> p = producer("compression.type", codec, "linger.ms", "20")) {
            for (int i = 0; i < 500; i++) {
                String v = codec + "-" + i;
                ProducerRecord<String, String> r = new ProducerRecord<>(topic, "k" + i, v);
                r.headers().add("h", "x".getBytes());
                sent.add(p.send(r));
                values.add(v);
            }
            for (java.util.concurrent.Future<RecordMetadata> f : sent) equal("offset known", f.get(30, TimeUnit.SECONDS).hasOffset(), true);
        }
    }

    static Map<Integer, Long> committed(String group) throws Exception {
        Map<Integer, Long> m = new HashMap<>();
        admin.listConsumerGroupOffsets(group).partitionsToOffsetAndMetadata().get().forEach((tp, o) -> m.put(tp.partition(), o == null ? -1 : o.offset()));
        return m;
    }

    static void twoMembers(String protocol) throws Exception {
        String group = topic + "-two-" + protocol;
        KafkaConsumer<String, String> a = consumer(group, protocol), b = consumer(group, protocol);
        a.subscribe(List.of(topic));
        b.subscribe(List.of(topic));
        eventually(() -> {
            a.poll(Duration.ofMillis(50));
            b.poll(Duration.ofMillis(50));
            equal("smaller and larger share", List.of(Math.min(a.assignment().size(), b.assignment().size()), Math.max(a.assignment().size(), b.assignment().size())), List.of(1, 2));
        });
        ConsumerGroupDescription d = admin.describeConsumerGroups(List.of(group)).all().get().get(group);
        equal("members", d.members().size(), 2);
        eventually(() -> {
            a.poll(Duration.ofMillis(50));
            b.poll(Duration.ofMillis(50));
            equal("state", admin.describeConsumerGroups(List.of(group)).all().get().get(group).state().toString(), "Stable");
        });
        b.close();
        eventually(() -> {
            a.poll(Duration.ofMillis(50));
            equal("all partitions", a.assignment().size(), 3);
        });
        a.close();
    }

    static void migrate() throws Exception {
        String group = topic + "-migrates";
        KafkaConsumer<String, String> classic = consumer(group, "classic");
        classic.subscribe(List.of(topic));
        eventually(() -> { classic.poll(Duration.ofMillis(50)); equal("assigned", classic.assignment().size(), 3); });
        KafkaConsumer<String, String> modern = consumer(group, "consumer");
        modern.subscribe(List.of(topic));
        eventually(() -> {
            classic.poll(Duration.ofMillis(50));
            modern.poll(Duration.ofMillis(50));
            equal("both have some", !classic.assignment().isEmpty() && !modern.assignment().isEmpty() && classic.assignment().size() + modern.assignment().size() == 3, true);
        });
        classic.close();
        eventually(() -> { modern.poll(Duration.ofMillis(50)); equal("assigned", modern.assignment().size(), 3); });
        modern.close();
    }

    static void transactions(String protocol) throws Exception {
        String group = topic + "-" + protocol;
        try (KafkaProducer<String, String> p = producer("transactional.id", topic + "-tx-" + protocol, "transaction.timeout.ms", "20000");
             KafkaConsumer<String, String> c = consumer(group, protocol)) {
            p.initTransactions();
            for (int i = 0; i < 20; i++) {
                p.beginTransaction();
                String v = "tx-" + protocol + "-" + i;
                p.send(new ProducerRecord<>(topic, v));
                p.send(new ProducerRecord<>(topic, i % 3, null, v + "-second"));
                if (i % 4 == 3) {
                    p.abortTransaction();
                    continue;
                }
                p.sendOffsetsToTransaction(Map.of(new TopicPartition(topic, 0), new OffsetAndMetadata(i)), new ConsumerGroupMetadata(group));
                p.commitTransaction();
                values.add(v);
                values.add(v + "-second");
            }
        }
        equal("offset", committed(group).get(0), 18L);
        equal("values", consume(topic + "-reads-tx-" + protocol, protocol, values.size(), 20_000), sorted());
    }

    static void fence() throws Exception {
        KafkaProducer<String, String> first = producer("transactional.id", topic + "-fenced");
        first.initTransactions();
        first.beginTransaction();
        first.send(new ProducerRecord<>(topic, "fenced")).get();
        KafkaProducer<String, String> second = producer("transactional.id", topic + "-fenced");
        second.initTransactions();
        expect(ProducerFencedException.class, first::commitTransaction);
        first.close();
        second.close();
        KafkaProducer<String, String> third = producer("transactional.id", topic + "-fenced2");
        third.initTransactions();
        third.beginTransaction();
        third.send(new ProducerRecord<>(topic, "fenced")).get();
        admin.fenceProducers(List.of(topic + "-fenced2")).all().get();
        expect(KafkaException.class, third::commitTransaction);
        third.close(Duration.ZERO);
    }

    static void openTransaction() throws Exception {
        String id = topic + "-open";
        try (KafkaProducer<String, String> p = producer("transactional.id", id)) {
            p.initTransactions();
            p.beginTransaction();
            p.send(new ProducerRecord<>(topic, 0, null, "open")).get();
            TransactionDescription d = admin.describeTransactions(List.of(id)).all().get().get(id);
            equal("state", d.state().toString(), "Ongoing");
            equal("partitions", d.topicPartitions(), Set.of(new TopicPartition(topic, 0)));
            equal("listed", admin.listTransactions().all().get().stream().filter(t -> t.transactionalId().equals(id)).count(), 1L);
            TopicPartition tp = new TopicPartition(topic, 0);
            equal("open in the partition", admin.describeProducers(List.of(tp)).all().get().get(tp).activeProducers().stream().filter(s -> s.currentTransactionStartOffset().isPresent()).count(), 1L);
            long lso = admin.listOffsets(Map.of(tp, OffsetSpec.latest()), new ListOffsetsOptions(org.apache.kafka.common.IsolationLevel.READ_COMMITTED)).all().get().get(tp).offset();
            long end = admin.listOffsets(Map.of(tp, OffsetSpec.latest())).all().get().get(tp).offset();
            equal("the stable offset is behind the end", end - lso >= 1, true);
            p.abortTransaction();
        }
    }

    static void offsetsForTimes() throws Exception {
        try (KafkaConsumer<String, String> c = consumer(topic + "-times", "classic")) {
            TopicPartition tp = new TopicPartition(topic, 0);
            c.assign(List.of(tp));
            long begin = c.beginningOffsets(List.of(tp)).get(tp), end = c.endOffsets(List.of(tp)).get(tp);
            equal("records", end > begin, true);
            equal("first at time 0", c.offsetsForTimes(Map.of(tp, 0L)).get(tp).offset(), begin);
            equal("none in an hour", c.offsetsForTimes(Map.of(tp, System.currentTimeMillis() + 3_600_000)).get(tp) == null, true);
            c.seek(tp, end - 1);
        }
        admin.listOffsets(Map.of(new TopicPartition(topic, 0), OffsetSpec.maxTimestamp())).all().get();
    }

    static void configs() throws Exception {
        ConfigResource r = new ConfigResource(ConfigResource.Type.TOPIC, topic);
        admin.incrementalAlterConfigs(Map.of(r, List.of(new AlterConfigOp(new ConfigEntry("retention.ms", "123456789"), AlterConfigOp.OpType.SET)))).all().get();
        eventually(() -> {
            ConfigEntry e = admin.describeConfigs(List.of(r)).all().get().get(r).get("retention.ms");
            equal("value and source", List.of(e.value(), e.source().toString()), List.of("123456789", "DYNAMIC_TOPIC_CONFIG"));
        });
        admin.incrementalAlterConfigs(Map.of(r, List.of(new AlterConfigOp(new ConfigEntry("retention.ms", null), AlterConfigOp.OpType.DELETE)))).all().get();
        expect(InvalidConfigurationException.class, () -> admin.incrementalAlterConfigs(Map.of(r, List.of(new AlterConfigOp(new ConfigEntry("retention.ms", "soon"), AlterConfigOp.OpType.SET)))).all().get());
        ConfigResource b = new ConfigResource(ConfigResource.Type.BROKER, "1");
        equal("node.id", admin.describeConfigs(List.of(b)).all().get().get(b).get("node.id").value(), "1");
    }

    static void quotas() throws Exception {
        ClientQuotaEntity entity = new ClientQuotaEntity(Map.of(ClientQuotaEntity.CLIENT_ID, topic));
        admin.alterClientQuotas(List.of(new ClientQuotaAlteration(entity, List.of(new ClientQuotaAlteration.Op("consumer_byte_rate", 1e6))))).all().get();
        ClientQuotaFilter filter = ClientQuotaFilter.contains(List.of(ClientQuotaFilterComponent.ofEntity(ClientQuotaEntity.CLIENT_ID, topic)));
        eventually(() -> equal("quotas", admin.describeClientQuotas(filter).entities().get(), Map.of(entity, Map.of("consumer_byte_rate", 1e6))));
        admin.alterClientQuotas(List.of(new ClientQuotaAlteration(entity, List.of(new ClientQuotaAlteration.Op("consumer_byte_rate", null))))).all().get();
        eventually(() -> equal("quotas", admin.describeClientQuotas(filter).entities().get(), Map.of()));
    }

    static void acls() throws Exception {
        AclBinding rule = new AclBinding(new ResourcePattern(ResourceType.TOPIC, topic, PatternType.PREFIXED), new AccessControlEntry("User:somebody", "*", AclOperation.READ, AclPermissionType.ALLOW));
        admin.createAcls(List.of(rule)).all().get();
        eventually(() -> equal("rules", new ArrayList<>(admin.describeAcls(rule.toFilter()).values().get()), List.of(rule)));
        equal("deleted", new ArrayList<>(admin.deleteAcls(List.of(rule.toFilter())).all().get()), List.of(rule));
    }

    static void scramUsers() throws Exception {
        String user = "user-" + topic;
        admin.alterUserScramCredentials(List.of(new UserScramCredentialUpsertion(user, new ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 8192), "password"))).all().get();
        eventually(() -> equal("iterations", admin.describeUserScramCredentials(List.of(user)).all().get().get(user).credentialInfos().get(0).iterations(), 8192));
        admin.alterUserScramCredentials(List.of(new UserScramCredentialDeletion(user, ScramMechanism.SCRAM_SHA_512))).all().get();
        eventually(() -> expect(ResourceNotFoundException.class, () -> admin.describeUserScramCredentials(List.of(user)).description(user).get()));
    }

    static void describe() throws Exception {
        equal("brokers", admin.describeCluster().nodes().get().size(), 1);
        TopicDescription d = admin.describeTopics(List.of(topic)).allTopicNames().get().get(topic);
        equal("partitions", d.partitions().size(), 3);
        equal("by id", admin.describeTopics(org.apache.kafka.common.TopicCollection.ofTopicIds(List.of(d.topicId()))).allTopicIds().get().get(d.topicId()).name(), topic);
        equal("log dirs", admin.describeLogDirs(List.of(1)).allDescriptions().get().get(1).size(), 1);
        equal("reassignments", admin.listPartitionReassignments().reassignments().get().size(), 0);
        FeatureMetadata f = admin.describeFeatures().featureMetadata().get();
        equal("transaction.version", f.finalizedFeatures().get("transaction.version").maxVersionLevel(), (short) 2);
    }

    static void topics() throws Exception {
        admin.createTopics(List.of(new NewTopic(topic, 3, (short) 1))).all().get();
        expect(TopicExistsException.class, () -> admin.createTopics(List.of(new NewTopic(topic, 3, (short) 1))).all().get());
        expect(InvalidTopicException.class, () -> admin.createTopics(List.of(new NewTopic("no good", 3, (short) 1))).all().get());
        expect(InvalidReplicationFactorException.class, () -> admin.createTopics(List.of(new NewTopic(topic + "-many", 3, (short) 3))).all().get());
        expect(InvalidConfigurationException.class, () -> admin.createTopics(List.of(new NewTopic(topic + "-bad", 1, (short) 1).configs(Map.of("retention.ms", "soon")))).all().get());
        expect(UnknownTopicOrPartitionException.class, () -> admin.describeTopics(List.of(topic + "-none")).allTopicNames().get());
    }

    static void groups() throws Exception {
        Set<String> listed = new HashSet<>();
        for (ConsumerGroupListing l : admin.listConsumerGroups().all().get()) listed.add(l.groupId());
        equal("listed", listed.containsAll(Set.of(topic + "-classic", topic + "-consumer")), true);
        String g = topic + "-consumer";
        equal("committed", committed(g).values().stream().mapToLong(Long::longValue).sum() > 0, true);
        admin.alterConsumerGroupOffsets(g, Map.of(new TopicPartition(topic, 1), new OffsetAndMetadata(7, "note"))).all().get();
        equal("altered", committed(g).get(1), 7L);
        admin.deleteConsumerGroupOffsets(g, Set.of(new TopicPartition(topic, 1))).all().get();
        equal("deleted", committed(g).containsKey(1), false);
        admin.deleteConsumerGroups(List.of(g)).all().get();
        expect(GroupIdNotFoundException.class, () -> admin.deleteConsumerGroups(List.of(g)).all().get());
    }

    static void staticMember() throws Exception {
        String group = topic + "-static";
        KafkaConsumer<String, String> a = consumer(group, "classic", "group.instance.id", "one");
        a.subscribe(List.of(topic));
        eventually(() -> { a.poll(Duration.ofMillis(50)); equal("assigned", a.assignment().size(), 3); });
        a.close();
        equal("members stay", admin.describeConsumerGroups(List.of(group)).all().get().get(group).members().size(), 1);
        admin.removeMembersFromConsumerGroup(group, new RemoveMembersFromConsumerGroupOptions(List.of(new MemberToRemove("one")))).all().get();
        equal("members", admin.describeConsumerGroups(List.of(group)).all().get().get(group).members().size(), 0);
    }

    static void partitionsAndRecords() throws Exception {
        TopicPartition tp = new TopicPartition(topic, 0);
        admin.electLeaders(ElectionType.PREFERRED, Set.of(tp)).partitions().get().get(tp).ifPresent(e -> equal("election", e.getClass(), ElectionNotNeededException.class));
        equal("low watermark", admin.deleteRecords(Map.of(tp, RecordsToDelete.beforeOffset(3))).lowWatermarks().get(tp).get().lowWatermark(), 3L);
        expect(org.apache.kafka.common.errors.OffsetOutOfRangeException.class, () -> admin.deleteRecords(Map.of(tp, RecordsToDelete.beforeOffset(1L << 40))).lowWatermarks().get(tp).get());
        admin.alterPartitionReassignments(Map.of(tp, java.util.Optional.of(new NewPartitionReassignment(List.of(1))))).all().get();
        admin.createPartitions(Map.of(topic, NewPartitions.increaseTo(5))).all().get();
        eventually(() -> equal("partitions", admin.describeTopics(List.of(topic)).allTopicNames().get().get(topic).partitions().size(), 5));
        expect(InvalidPartitionsException.class, () -> admin.createPartitions(Map.of(topic, NewPartitions.increaseTo(2))).all().get());
    }

    static void refusedRecords() throws Exception {
        String compacted = topic + "-compacted";
        admin.createTopics(List.of(new NewTopic(compacted, 1, (short) 1).configs(Map.of("cleanup.policy", "compact", "max.message.bytes", "2000")))).all().get();
        try (KafkaProducer<String, String> p = producer("retries", "3")) {
            expect(org.apache.kafka.common.InvalidRecordException.class, () -> p.send(new ProducerRecord<>(compacted, "no key")).get());
            expect(RecordTooLargeException.class, () -> p.send(new ProducerRecord<>(compacted, "k", "x".repeat(5000))).get());
            expect(InvalidTimestampException.class, () -> p.send(new ProducerRecord<>(compacted, 0, System.currentTimeMillis() + 7_200_000, "k", "v")).get());
            p.send(new ProducerRecord<>(compacted, "k", "v")).get();
        }
        admin.deleteTopics(List.of(compacted)).all().get();
    }

    static void deleteTopic() throws Exception {
        admin.deleteTopics(List.of(topic)).all().get();
        eventually(() -> equal("listed", admin.listTopics().names().get().contains(topic), false));
    }

    public static void main(String[] args) throws Exception {
        try (FileInputStream in = new FileInputStream(args[0])) { base.load(in); }
        prefix = args[1];
        topic = "java-" + prefix.replace('/', '-') + "-" + System.currentTimeMillis();
        base.put("default.api.timeout.ms", "30000");
        base.put("request.timeout.ms", "20000");
        Properties forAdmin = new Properties();
        forAdmin.putAll(base);
        admin = Admin.create(forAdmin);
        check("topics", Clients::topics);
        for (String codec : List.of("none", "gzip", "snappy", "lz4", "zstd")) check("produce-" + codec, () -> produce(codec));
        for (String p : List.of("classic", "consumer")) {
            check("consume-" + p, () -> equal("values", consume(topic + "-" + p, p, values.size(), 20_000), sorted()));
            check("resume-" + p, () -> equal("values", consume(topic + "-" + p, p, 0, 3_000), List.of()));
            check("two-members-" + p, () -> twoMembers(p));
            check("transactions-" + p, () -> transactions(p));
        }
        check("group-changes-protocol", Clients::migrate);
        check("static-member", Clients::staticMember);
        check("producers-are-fenced", Clients::fence);
        check("open-transaction", Clients::openTransaction);
        check("offsets-for-times", Clients::offsetsForTimes);
        check("configs", Clients::configs);
        check("quotas", Clients::quotas);
        check("acls", Clients::acls);
        check("scram-users", Clients::scramUsers);
        check("describe", Clients::describe);
        check("groups", Clients::groups);
        check("refused-records", Clients::refusedRecords);
        check("partitions-and-records", Clients::partitionsAndRecords);
        check("delete-topic", Clients::deleteTopic);
        admin.close();
        System.exit(0);
    }
}
