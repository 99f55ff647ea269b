// kafkajs: produce, consume in a group, transactions, admin.
import kafkajs from 'kafkajs'
import { brokers, check, equal, finish, password, secure, tls, topicOf, user } from './checks.mjs'

const { Kafka, logLevel, CompressionTypes, AclResourceTypes, AclOperationTypes, AclPermissionTypes, ResourcePatternTypes, ConfigResourceTypes } = kafkajs
const kafka = new Kafka({
  clientId: 'interop', brokers, logLevel: logLevel.NOTHING, ssl: tls,
  sasl: secure ? { mechanism: 'scram-sha-512', username: user, password } : undefined,
})
const topic = topicOf('kafkajs')
const group = `${topic}-group`
const admin = kafka.admin()
const producer = kafka.producer({ idempotent: true, maxInFlightRequests: 1 })
await check('connect', () => Promise.all([admin.connect(), producer.connect()]))

/** consume reads with a group until it has count records or `quiet` ms bring none. */
async function consume(groupId, count, quiet) {
  const values = []
  const consumer = kafka.consumer({ groupId, sessionTimeout: 10_000 })
  await consumer.connect()
  await consumer.subscribe({ topics: [topic], fromBeginning: true })
  await new Promise((resolve, reject) => {
    let timer = setTimeout(resolve, quiet)
    consumer.on(consumer.events.CRASH, ({ payload }) => reject(payload.error))
    consumer.run({
      eachMessage: async ({ message }) => {
        values.push(message.value.toString())
        clearTimeout(timer)
        timer = setTimeout(resolve, values.length >= count ? 300 : quiet)
      },
    }).catch(reject)
  })
  await consumer.disconnect()
  return values
}

await check('create-topic', async () => {
  equal('created', await admin.createTopics({ waitForLeaders: true, topics: [{ topic, numPartitions: 3, replicationFactor: 1 }] }), true)
  equal('again', await admin.createTopics({ topics: [{ topic, numPartitions: 3, replicationFactor: 1 }] }), false)
})
await check('describe-cluster', async () => {
  const cluster = await admin.describeCluster()
  equal('brokers', cluster.brokers.map((b) => `${b.host}:${b.port}`), brokers)
})
const values = Array.from({ length: 600 }, (_, i) => `value-${i}`)
await check('produce', async () => {
  for (const [i, compression] of [CompressionTypes.None, CompressionTypes.GZIP].entries()) {
    const part = values.slice(i * 300, (i + 1) * 300)
    await producer.send({ topic, acks: -1, compression, messages: part.map((value, j) => ({ key: `k${j}`, value, headers: { h: 'x' } })) })
  }
})
await check('list-offsets', async () => {
  const offsets = await admin.fetchTopicOffsets(topic)
  equal('ends', offsets.reduce((sum, p) => sum + Number(p.high), 0), values.length)
})
await check('group-consume', async () => equal('values', (await consume(group, values.length, 30_000)).sort(), [...values].sort()))
await check('group-resumes', async () => equal('values', await consume(group, 0, 5_000), []))
await check('fetch-offsets', async () => {
  const [{ partitions }] = await admin.fetchOffsets({ groupId: group, topics: [topic] })
  equal('committed', partitions.reduce((sum, p) => sum + Number(p.offset), 0), values.length)
})
await check('two-members', async () => {
  const seen = [new Set(), new Set()]
  const consumers = seen.map(() => kafka.consumer({ groupId: `${group}-two`, sessionTimeout: 10_000, rebalanceTimeout: 20_000 }))
  const joined = consumers.map((c) => new Promise((resolve) => c.on(c.events.GROUP_JOIN, ({ payload }) => {
    if ((payload.memberAssignment[topic] ?? []).length < 3) resolve()
  })))
  for (const [i, c] of consumers.entries()) {
    await c.connect()
    await c.subscribe({ topics: [topic], fromBeginning: true })
    await c.run({ eachMessage: async ({ message }) => { seen[i].add(message.value.toString()) } })
  }
  await Promise.all(joined)
  while (new Set([...seen[0], ...seen[1]]).size < values.length) await new Promise((r) => setTimeout(r, 50))
  await Promise.all(consumers.map((c) => c.disconnect()))
})
await check('transactions', async () => {
  const tx = kafka.producer({ transactionalId: `${topic}-tx`, idempotent: true, maxInFlightRequests: 1 })
  await tx.connect()
  let t = await tx.transaction()
  await t.send({ topic, messages: [{ value: 'aborted' }] })
  await t.abort()
  t = await tx.transaction()
  await t.send({ topic, messages: [{ value: 'committed' }] })
  await t.sendOffsets({ consumerGroupId: group, topics: [{ topic, partitions: [{ partition: 0, offset: '1' }] }] })
  await t.commit()
  await tx.disconnect()
  const got = await consume(`${group}-committed`, values.length + 1, 10_000)
  equal('values', got.sort(), [...values, 'committed'].sort())
  const [{ partitions }] = await admin.fetchOffsets({ groupId: group, topics: [topic] })
  equal('offset in the transaction', partitions.find((p) => p.partition === 0).offset, '1')
})
await check('describe-group', async () => equal('state', (await admin.describeGroups([group])).groups[0].state, 'Empty'))
await check('list-groups', async () => equal('listed', (await admin.listGroups()).groups.some((g) => g.groupId === group), true))
await check('set-offsets', async () => {
  await admin.setOffsets({ groupId: group, topic, partitions: [{ partition: 1, offset: '7' }] })
  const [{ partitions }] = await admin.fetchOffsets({ groupId: group, topics: [topic] })
  equal('offset', partitions.find((p) => p.partition === 1).offset, '7')
})
await check('configs', async () => {
  await admin.alterConfigs({ resources: [{ type: ConfigResourceTypes.TOPIC, name: topic, configEntries: [{ name: 'retention.ms', value: '123456789' }] }] })
  const { resources } = await admin.describeConfigs({ resources: [{ type: ConfigResourceTypes.TOPIC, name: topic, configNames: ['retention.ms'] }] })
  equal('retention.ms', resources[0].configEntries.map((e) => e.configValue), ['123456789'])
})
await check('acls', async () => {
  const rule = {
    resourceType: AclResourceTypes.TOPIC, resourceName: topic, resourcePatternType: ResourcePatternTypes.LITERAL,
    principal: 'User:somebody', host: '*', operation: AclOperationTypes.READ, permissionType: AclPermissionTypes.ALLOW,
  }
  await admin.createAcls({ acl: [rule] })
  const { resources } = await admin.describeAcls(rule)
  equal('rules', resources.flatMap((r) => r.acls.map((a) => a.principal)), ['User:somebody'])
  const { filterResponses } = await admin.deleteAcls({ filters: [rule] })
  equal('deleted', filterResponses[0].matchingAcls.length, 1)
})
await check('delete-records', async () => {
  await admin.deleteTopicRecords({ topic, partitions: [{ partition: 0, offset: '5' }] })
  equal('start', (await admin.fetchTopicOffsets(topic)).find((p) => p.partition === 0).low, '5')
})
await check('create-partitions', async () => {
  await admin.createPartitions({ topicPartitions: [{ topic, count: 5 }] })
  equal('partitions', (await admin.fetchTopicMetadata({ topics: [topic] })).topics[0].partitions.length, 5)
})
await check('delete-groups', async () => {
  await admin.deleteGroups([group])
  equal('listed', (await admin.listGroups()).groups.some((g) => g.groupId === group), false)
})
await check('delete-topic', async () => {
  await admin.deleteTopics({ topics: [topic] })
  equal('listed', (await admin.listTopics()).includes(topic), false)
})
await Promise.all([producer.disconnect(), admin.disconnect()])
finish()
