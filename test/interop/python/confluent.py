"""confluent-kafka (librdkafka): produce, consume with both group protocols, transactions, admin."""
import time

from confluent_kafka import (
    Consumer, ConsumerGroupTopicPartitions, ConsumerGroupType, ElectionType, IsolationLevel, KafkaError, KafkaException, Producer, TopicCollection, TopicPartition,
)
from confluent_kafka.admin import (
    AclBinding, AclBindingFilter, AclOperation, AclPermissionType, AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, NewPartitions,
    NewTopic, OffsetSpec, ResourcePatternType, ResourceType, ScramCredentialInfo, ScramMechanism, UserScramCredentialUpsertion,
)

from checks import BROKER, CA, PASSWORD, SECURE, USER, check, equal, eventually, finish, topic_of

base = {"bootstrap.servers": BROKER}
if SECURE:
    base |= {"security.protocol": "SASL_SSL", "ssl.ca.location": CA, "sasl.mechanism": "SCRAM-SHA-256", "sasl.username": USER, "sasl.password": PASSWORD}
topic = topic_of("confluent")
admin = AdminClient(base)
values = []


def results(futures):
    return {key: future.result(20) for key, future in futures.items()}


def consume(group, protocol, count, quiet=20.0, **extra):
    """Reads with a group until it has count records, then one more second; commits."""
    consumer = Consumer(base | {"group.id": group, "group.protocol": protocol, "auto.offset.reset": "earliest", "enable.auto.commit": False} | extra)
    consumer.subscribe([topic])
    got, deadline = [], time.monotonic() + quiet
    while time.monotonic() < deadline:
        m = consumer.poll(0.2)
        if m is None:
            continue
        if m.error():
            raise KafkaException(m.error())
        got.append(m.value().decode())
        deadline = time.monotonic() + (1.0 if len(got) >= count else quiet)
    if got:
        consumer.commit(asynchronous=False)
    consumer.close()
    return sorted(got)


def create_topic():
    results(admin.create_topics([NewTopic(topic, num_partitions=3, replication_factor=1)]))
    try:
        results(admin.create_topics([NewTopic(topic, num_partitions=3, replication_factor=1)]))
        raise AssertionError("created twice")
    except KafkaException as e:
        equal("code", e.args[0].code(), KafkaError.TOPIC_ALREADY_EXISTS)


def produce(codec):
    part = [f"{codec}-{i}" for i in range(200)]
    errors = []
    p = Producer(base | {"compression.type": codec, "enable.idempotence": True, "linger.ms": 20})
    for i, v in enumerate(part):
        p.produce(topic, v, key=f"k{i}", headers={"h": "x"}, on_delivery=lambda err, _: errors.append(err) if err else None)
    equal("not delivered", p.flush(30), 0)
    equal("errors", errors, [])
    values.extend(part)


def transactions():
    p = Producer(base | {"transactional.id": f"{topic}-tx", "transaction.timeout.ms": 20000})
    p.init_transactions(30)
    p.begin_transaction()
    p.produce(topic, "aborted")
    p.flush(10)
    p.abort_transaction(30)
    p.begin_transaction()
    p.produce(topic, "committed")
    c = Consumer(base | {"group.id": f"{topic}-classic"})
    p.send_offsets_to_transaction([TopicPartition(topic, 0, 1)], c.consumer_group_metadata(), 30)
    p.commit_transaction(30)
    c.close()
    values.append("committed")
    equal("values", consume(f"{topic}-tx", "classic", len(values), **{"isolation.level": "read_committed"}), sorted(values))
    equal("offset", offsets(f"{topic}-classic")[0], 1)


def fenced():
    first = Producer(base | {"transactional.id": f"{topic}-fenced"})
    first.init_transactions(30)
    first.begin_transaction()
    first.produce(topic, "fenced")
    first.flush(10)
    second = Producer(base | {"transactional.id": f"{topic}-fenced"})
    second.init_transactions(30)
    try:
        first.commit_transaction(30)
        raise AssertionError("a fenced producer committed")
    except KafkaException as e:
        equal("fatal", e.args[0].fatal(), True)


def offsets(group):
    result = results(admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)]))[group]
    return {p.partition: p.offset for p in result.topic_partitions}


def group_offsets():
    equal("committed", sum(offsets(f"{topic}-classic").values()), len(values))
    results(admin.alter_consumer_group_offsets([ConsumerGroupTopicPartitions(f"{topic}-classic", [TopicPartition(topic, 1, 7)])]))
    equal("altered", offsets(f"{topic}-classic")[1], 7)


def describe_groups():
    described = results(admin.describe_consumer_groups([f"{topic}-classic", f"{topic}-consumer"]))
    equal("states", [g.state.name for g in described.values()], ["EMPTY", "EMPTY"])
    listed = {g.group_id: g.type for g in admin.list_consumer_groups().result(20).valid}
    equal("types", [listed[f"{topic}-{p}"] for p in ("classic", "consumer")], [ConsumerGroupType.CLASSIC, ConsumerGroupType.CONSUMER])


def live_group(protocol):
    """Two members share the partitions; when one leaves, the other has all."""
    def member():
        c = Consumer(base | {"group.id": f"{topic}-live-{protocol}", "group.protocol": protocol, "auto.offset.reset": "earliest"})
        c.subscribe([topic])
        return c
    a, b = member(), member()

    def assigned(want):
        def look():
            a.poll(0.05), b.poll(0.05)
            have = [len(a.assignment()), len(b.assignment())]
            if sorted(have) != want:
                raise AssertionError(f"assigned {have}, want {want}")
        eventually(look, 40)
    assigned([1, 2])
    described = results(admin.describe_consumer_groups([f"{topic}-live-{protocol}"]))[f"{topic}-live-{protocol}"]
    equal("members", len(described.members), 2)
    equal("state", described.state.name, "STABLE")
    b.close()

    def look():
        a.poll(0.05)
        equal("assigned", len(a.assignment()), 3)
    eventually(look, 40)
    a.close()


def list_offsets():
    latest = results(admin.list_offsets({TopicPartition(topic, p): OffsetSpec.latest() for p in range(3)}))
    equal("at least", sum(r.offset for r in latest.values()) >= len(values), True)
    results(admin.list_offsets({TopicPartition(topic, 0): OffsetSpec.earliest()}, isolation_level=IsolationLevel.READ_COMMITTED))


def configs():
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic)
    resource.add_incremental_config(ConfigEntry("retention.ms", "123456789", incremental_operation=AlterConfigOpType.SET))
    resource.add_incremental_config(ConfigEntry("cleanup.policy", "compact", incremental_operation=AlterConfigOpType.APPEND))
    results(admin.incremental_alter_configs([resource]))

    def described():
        got = list(results(admin.describe_configs([ConfigResource(ConfigResource.Type.TOPIC, topic)])).values())[0]
        equal("configs", (got["retention.ms"].value, sorted(got["cleanup.policy"].value.split(","))), ("123456789", ["compact", "delete"]))
    eventually(described)
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic)
    resource.add_incremental_config(ConfigEntry("cleanup.policy", "compact", incremental_operation=AlterConfigOpType.SUBTRACT))
    results(admin.incremental_alter_configs([resource]))


def broker_configs():
    got = list(results(admin.describe_configs([ConfigResource(ConfigResource.Type.BROKER, "1")])).values())[0]
    equal("broker.id", got["node.id"].value, "1")


def acls():
    rule = AclBinding(ResourceType.TOPIC, topic, ResourcePatternType.PREFIXED, "User:somebody", "*", AclOperation.READ, AclPermissionType.ALLOW)
    results(admin.create_acls([rule]))
    by = AclBindingFilter(ResourceType.TOPIC, topic, ResourcePatternType.PREFIXED, None, None, AclOperation.ANY, AclPermissionType.ANY)
    eventually(lambda: equal("rules", [a.principal for a in admin.describe_acls(by).result(20)], ["User:somebody"]))
    equal("deleted", [len(r) for r in results(admin.delete_acls([by])).values()], [1])


def scram_users():
    name = f"user-{topic}"
    info = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 8192)
    results(admin.alter_user_scram_credentials([UserScramCredentialUpsertion(name, info, b"password")]))

    def described():
        got = admin.describe_user_scram_credentials([name])[name].result(20)
        equal("iterations", [i.iterations for i in got.scram_credential_infos], [8192])
    eventually(described)


def describe():
    cluster = admin.describe_cluster().result(20)
    equal("brokers", [f"{n.host}:{n.port}" for n in cluster.nodes], [BROKER])
    got = results(admin.describe_topics(TopicCollection([topic])))[topic]
    equal("leaders", [p.leader.id for p in got.partitions], [1, 1, 1])


def elect():
    got = admin.elect_leaders(ElectionType.PREFERRED, [TopicPartition(topic, 0)]).result(20)
    equal("codes", [e.code() if e else 0 for e in got.values()], [KafkaError.ELECTION_NOT_NEEDED])


def delete_records():
    results(admin.delete_records([TopicPartition(topic, 0, 3)]))
    first = results(admin.list_offsets({TopicPartition(topic, 0): OffsetSpec.earliest()}))
    equal("start", [r.offset for r in first.values()], [3])


def create_partitions():
    results(admin.create_partitions([NewPartitions(topic, 5)]))
    eventually(lambda: equal("partitions", len(admin.list_topics(topic, 10).topics[topic].partitions), 5))


def delete_groups():
    def delete():
        results(admin.delete_consumer_groups([f"{topic}-classic", f"{topic}-consumer"]))
    delete()
    listed = {g.group_id for g in admin.list_consumer_groups().result(20).valid}
    equal("listed", listed & {f"{topic}-classic", f"{topic}-consumer"}, set())


def delete_topic():
    results(admin.delete_topics([topic]))
    eventually(lambda: equal("listed", topic in admin.list_topics(timeout=10).topics, False))


def wrong_password():
    refused = []
    c = AdminClient(base | {"sasl.password": "wrong", "error_cb": lambda e: refused.append(e.code())})
    deadline = time.monotonic() + 20
    while KafkaError._AUTHENTICATION not in refused and time.monotonic() < deadline:
        c.poll(0.1)
    equal("refused", KafkaError._AUTHENTICATION in refused, True)


check("create-topic", create_topic)
for codec in ("none", "gzip", "snappy", "lz4", "zstd"):
    check(f"produce-{codec}", lambda: produce(codec))
for protocol in ("classic", "consumer"):
    check(f"consume-{protocol}", lambda: equal("values", consume(f"{topic}-{protocol}", protocol, len(values)), sorted(values)))
    check(f"resume-{protocol}", lambda: equal("values", consume(f"{topic}-{protocol}", protocol, 0, quiet=4.0), []))
    check(f"two-members-{protocol}", lambda: live_group(protocol))
check("group-offsets", group_offsets)
check("describe-groups", describe_groups)
check("transactions", transactions)
check("transactions-fence", fenced)
for name, f in {
    "list-offsets": list_offsets, "configs": configs, "broker-configs": broker_configs, "acls": acls, "scram-users": scram_users,
    "describe": describe, "elect-leaders": elect, "delete-records": delete_records, "create-partitions": create_partitions,
    "delete-groups": delete_groups, "delete-topic": delete_topic,
}.items():
    check(name, f)
if SECURE:
    check("wrong-password", wrong_password)
finish()
