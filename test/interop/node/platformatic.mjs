// @platformatic/kafka: produce with every codec, consume with both group protocols,
// transactions, admin.
import { Admin, Consumer, Producer, stringDeserializers, stringSerializers } from '@platformatic/kafka'
import { brokers, check, equal, finish, password, secure, tls, topicOf, user } from './checks.mjs'

const base = {
  clientId: 'interop', bootstrapBrokers: brokers, tls,
  sasl: secure ? { mechanism: 'SCRAM-SHA-512', username: user, password } : undefined,
}
const topic = topicOf('platformatic')
const admin = new Admin(base)
const producer = new Producer({ ...base, idempotent: true, acks: -1, serializers: stringSerializers })

/** consume reads committed records until count have come, then one more second. */
async function consume(groupId, groupProtocol, count) {
  const consumer = new Consumer({
    ...base, groupId, groupProtocol, deserializers: stringDeserializers, isolationLevel: 1, maxWaitTime: 500,
    ...(groupProtocol === 'classic' ? { sessionTimeout: 10_000, heartbeatInterval: 1_000 } : {}),
  })
  const stream = await consumer.consume({ topics: [topic], mode: 'committed', fallbackMode: 'earliest', autocommit: true })
  const values = []
  let timer
  for await (const message of stream) {
    values.push(message.value)
    if (values.length === count) timer = setTimeout(() => stream.close(), 1_000)
  }
  clearTimeout(timer)
  await consumer.close(true)
  return values.sort()
}

await check('create-topic', async () => equal('created', (await admin.createTopics({ topics: [topic], partitions: 3, replicas: 1 })).length, 1))
const values = []
for (const compression of ['none', 'gzip', 'snappy', 'lz4', 'zstd']) {
  await check(`produce-${compression}`, async () => {
    const part = Array.from({ length: 100 }, (_, i) => `${compression}-${i}`)
    await producer.send({ compression, messages: part.map((value, i) => ({ topic, key: `k${i}`, value, headers: { h: 'x' } })) })
    values.push(...part)
  })
}
values.sort()
for (const protocol of ['classic', 'consumer']) {
  await check(`consume-${protocol}`, async () => equal('values', await consume(`${topic}-${protocol}`, protocol, values.length), values))
}
await check('list-groups', async () => {
  const groups = await admin.listGroups({ types: ['classic', 'consumer'] })
  equal('types', ['classic', 'consumer'].map((p) => groups.get(`${topic}-${p}`)?.groupType), ['classic', 'consumer'])
})
await check('group-offsets', async () => {
  const [{ topics }] = await admin.listConsumerGroupOffsets({ groups: [`${topic}-classic`] })
  equal('committed', topics[0].partitions.reduce((sum, p) => sum + Number(p.committedOffset), 0), values.length)
})
await check('transactions', async () => {
  const tx = new Producer({ ...base, idempotent: true, transactionalId: `${topic}-tx`, serializers: stringSerializers, retries: 20, retryDelay: 100 })
  const aborted = await tx.beginTransaction()
  await aborted.send({ messages: [{ topic, key: 'k', value: 'aborted' }] })
  await aborted.abort()
  const committed = await tx.beginTransaction()
  await committed.send({ messages: [{ topic, key: 'k', value: 'committed' }] })
  await committed.commit()
  await tx.close()
  equal('values', await consume(`${topic}-tx`, 'classic', values.length + 1), [...values, 'committed'].sort())
})
await check('configs', async () => {
  await admin.incrementalAlterConfigs({ resources: [{ resourceType: 2, resourceName: topic, configs: [{ name: 'retention.ms', configOperation: 0, value: '123456789' }] }] })
  const [{ configs }] = await admin.describeConfigs({ resources: [{ resourceType: 2, resourceName: topic, configurationKeys: ['retention.ms'] }] })
  equal('retention.ms', configs.map((c) => c.value), ['123456789'])
})
await check('quotas', async () => {
  const entity = [{ entityType: 'client-id', entityName: topic }]
  await admin.alterClientQuotas({ entries: [{ entities: entity, ops: [{ key: 'producer_byte_rate', value: 1e6, remove: false }] }] })
  const [{ values: quotas }] = await admin.describeClientQuotas({ components: [{ entityType: 'client-id', matchType: 0, match: topic }], strict: true })
  equal('quotas', quotas.map((q) => [q.key, q.value]), [['producer_byte_rate', 1e6]])
})
await check('log-dirs', async () => {
  const [{ results }] = await admin.describeLogDirs({ topics: [{ name: topic, partitions: [0, 1, 2] }] })
  equal('partitions', results.flatMap((r) => r.topics.flatMap((t) => t.partitions)).length, 3)
})
await check('acls', async () => {
  const rule = { resourceType: 2, resourceName: topic, resourcePatternType: 3, principal: 'User:somebody', host: '*', operation: 3, permissionType: 3 }
  const filter = { resourceType: 2, resourceName: topic, resourcePatternType: 3, principal: 'User:somebody', host: '*', operation: 3, permissionType: 3 }
  await admin.createAcls({ creations: [rule] })
  equal('rules', (await admin.describeAcls({ filter })).flatMap((r) => r.acls).length, 1)
  equal('deleted', (await admin.deleteAcls({ filters: [filter] })).length, 1)
})
await check('delete-records', async () => {
  const [{ partitions }] = await admin.deleteRecords({ topics: [{ name: topic, partitions: [{ partition: 0, offset: 2n }] }] })
  equal('low watermark', partitions[0].lowWatermark, 2n)
})
await check('create-partitions', async () => {
  await admin.createPartitions({ topics: [{ name: topic, count: 5, assignments: null }] })
})
await check('delete-groups', async () => {
  await admin.deleteGroups({ groups: [`${topic}-classic`] })
  equal('listed', (await admin.listGroups()).has(`${topic}-classic`), false)
})
await check('delete-topic', async () => {
  await admin.deleteTopics({ topics: [topic] })
  equal('listed', (await admin.listTopics()).includes(topic), false)
})
await Promise.all([producer.close(), admin.close()])
finish()
