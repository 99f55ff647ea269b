"""kafka-python: produce, consume in groups, transactions, admin."""
import threading
import time

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import ACL, ACLFilter, ACLOperation, ACLPermissionType, ConfigResource, ConfigResourceType, NewPartitions, NewTopic, OffsetSpec, ResourcePattern, ResourceType, ScramMechanism, UserScramCredentialUpsertion
from kafka.errors import KafkaTimeoutError, SaslAuthenticationFailedError, TopicAlreadyExistsError
from kafka.structs import OffsetAndMetadata

from checks import BROKER, CA, PASSWORD, SECURE, USER, check, equal, eventually, finish, topic_of

base = {"bootstrap_servers": BROKER}
if SECURE:
    base |= {"security_protocol": "SASL_SSL", "ssl_cafile": CA, "sasl_mechanism": "PLAIN", "sasl_plain_username": USER, "sasl_plain_password": PASSWORD}
topic = topic_of("kafkapython")
group = f"{topic}-group"
admin = KafkaAdminClient(**base)
values = []


def consume(name, count, quiet=20.0, **extra):
    """Reads with a group until it has count records, then one more second; commits."""
    c = KafkaConsumer(topic, group_id=name, auto_offset_reset="earliest", enable_auto_commit=False, **base, **extra)
    got, deadline = [], time.monotonic() + quiet
    while time.monotonic() < deadline:
        for records in c.poll(200).values():
            got += [r.value.decode() for r in records]
            deadline = time.monotonic() + (1.0 if len(got) >= count else quiet)
    if got:
        c.commit()
    c.close()
    return sorted(got)


def create_topic():
    admin.create_topics([NewTopic(topic, num_partitions=3, replication_factor=1)])
    try:
        admin.create_topics([NewTopic(topic, num_partitions=3, replication_factor=1)])
        raise AssertionError("created twice")
    except TopicAlreadyExistsError:
        pass


def produce(codec):
    part = [f"{codec}-{i}" for i in range(200)]
    p = KafkaProducer(compression_type=None if codec == "none" else codec, enable_idempotence=True, acks="all", linger_ms=20, **base)
    futures = [p.send(topic, v.encode(), key=f"k{i}".encode(), headers=[("h", b"x")]) for i, v in enumerate(part)]
    for f in futures:
        f.get(30)
    p.close()
    values.extend(part)


def transactions():
    p = KafkaProducer(transactional_id=f"{topic}-tx", **base)
    p.init_transactions()
    p.begin_transaction()
    p.send(topic, b"aborted").get(30)
    p.abort_transaction()
    p.begin_transaction()
    p.send(topic, b"committed")
    p.send_offsets_to_transaction({TopicPartition(topic, 0): OffsetAndMetadata(1, "", -1)}, group)
    p.commit_transaction()
    p.close()
    values.append("committed")
    equal("values", consume(f"{topic}-tx", len(values), isolation_level="read_committed"), sorted(values))
    equal("offset", offsets()[0], 1)


def offsets():
    return {tp.partition: o.offset for tp, o in admin.list_group_offsets({group: None})[group].items()}


def group_offsets():
    equal("committed", sum(offsets().values()), len(values))
    admin.alter_group_offsets(group, {TopicPartition(topic, 1): OffsetAndMetadata(7, "", -1)})
    equal("altered", offsets()[1], 7)
    admin.delete_group_offsets(group, [TopicPartition(topic, 2)])
    equal("deleted", 2 in offsets(), False)


def two_members():
    cs = [KafkaConsumer(topic, group_id=f"{topic}-two", auto_offset_reset="earliest", **base) for _ in range(2)]

    # One thread each, as members have: a join that ends between two short polls of one
    # member is lost to this client, which then joins again, for ever if they take turns.
    done = threading.Event()

    def member(c):
        while not done.is_set():
            c.poll(500)
        c.close()
    threads = [threading.Thread(target=member, args=(c,)) for c in cs]
    for t in threads:
        t.start()
    try:
        eventually(lambda: equal("assigned", sorted(len(c.assignment()) for c in cs), [1, 2]), 40)
        equal("members", len(admin.describe_groups([f"{topic}-two"])[f"{topic}-two"]["members"]), 2)
    finally:
        done.set()
        for t in threads:
            t.join()


def groups():
    equal("listed", group in {g["group_id"] for g in admin.list_groups()}, True)
    equal("state", admin.describe_groups([group])[group]["group_state"], "Empty")


def list_offsets():
    got = admin.list_partition_offsets({TopicPartition(topic, p): OffsetSpec.LATEST for p in range(3)})
    equal("at least", sum(o.offset for o in got.values()) >= len(values), True)


def configs():
    admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, {"retention.ms": "123456789"})])
    def described():
        got = admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)])["topic"][topic]
        equal("retention.ms", got["retention.ms"]["value"], "123456789")
    eventually(described)


def acls():
    pattern = ResourcePattern(ResourceType.TOPIC, topic)
    rule = ACL("User:somebody", "*", ACLOperation.READ, ACLPermissionType.ALLOW, pattern)
    equal("failed", admin.create_acls([rule])["failed"], [])
    by = ACLFilter("User:somebody", "*", ACLOperation.READ, ACLPermissionType.ALLOW, pattern)
    eventually(lambda: equal("rules", len(admin.describe_acls(by)[0]), 1))
    equal("deleted", len(admin.delete_acls([by])[0][1]), 1)


def scram_users():
    name = f"user-{topic}"
    admin.alter_user_scram_credentials([UserScramCredentialUpsertion(name, ScramMechanism.SCRAM_SHA_256, "password", iterations=8192)])
    eventually(lambda: equal("iterations", [i["iterations"] for i in admin.describe_user_scram_credentials([name])[name]["credential_infos"]], [8192]))


def describe_producers():
    p = KafkaProducer(transactional_id=f"{topic}-open", **base)
    p.init_transactions()
    p.begin_transaction()
    p.send(topic, b"open", partition=0).get(30)
    state = admin.describe_producers([TopicPartition(topic, 0)])[TopicPartition(topic, 0)]
    equal("open", any(s.current_transaction_start_offset not in (None, -1) for s in state.active_producers), True)
    equal("listed", [t.transactional_id for ts in admin.list_transactions().values() for t in ts if t.transactional_id == f"{topic}-open"], [f"{topic}-open"])
    described = admin.describe_transactions([f"{topic}-open"])[f"{topic}-open"]
    equal("partitions", list(described.topic_partitions), [TopicPartition(topic, 0)])
    p.abort_transaction()
    p.close()


def describe():
    equal("brokers", [f"{b['host']}:{b['port']}" for b in admin.describe_cluster()["brokers"]], [BROKER])
    got = admin.describe_topic_partitions([topic])["topics"][0]
    equal("leaders", [p["leader_id"] for p in got["partitions"]], [1, 1, 1])
    equal("transaction.version", admin.describe_features()["transaction.version"]["finalized"], (2, 2))
    admin.describe_log_dirs()
    equal("reassignments", admin.list_partition_reassignments(), {})


def delete_records():
    equal("low watermark", admin.delete_records({TopicPartition(topic, 0): 3})[TopicPartition(topic, 0)]["low_watermark"], 3)


def create_partitions():
    admin.create_partitions({topic: NewPartitions(5)})
    eventually(lambda: equal("partitions", len(admin.describe_topics([topic])[0]["partitions"]), 5))


def delete_groups():
    admin.delete_groups([group])
    equal("listed", group in {g["group_id"] for g in admin.list_groups()}, False)


def delete_topic():
    admin.delete_topics([topic])
    eventually(lambda: equal("listed", topic in admin.list_topics(), False))


def wrong_password():
    # This client tries again until it is out of time.
    try:
        KafkaAdminClient(bootstrap_timeout_ms=5000, **(base | {"sasl_plain_password": "wrong"}))
        raise AssertionError("let in")
    except (SaslAuthenticationFailedError, KafkaTimeoutError):
        pass


check("create-topic", create_topic)
for codec in ("none", "gzip", "snappy", "lz4", "zstd"):
    check(f"produce-{codec}", lambda: produce(codec))
check("consume", lambda: equal("values", consume(group, len(values)), sorted(values)))
check("resume", lambda: equal("values", consume(group, 0, quiet=4.0), []))
for name, f in {
    "two-members": two_members, "groups": groups, "group-offsets": group_offsets, "transactions": transactions, "list-offsets": list_offsets,
    "configs": configs, "acls": acls, "scram-users": scram_users, "describe-producers": describe_producers, "describe": describe,
    "delete-records": delete_records, "create-partitions": create_partitions, "delete-groups": delete_groups, "delete-topic": delete_topic,
}.items():
    check(name, f)
if SECURE:
    check("wrong-password", wrong_password)
finish()
