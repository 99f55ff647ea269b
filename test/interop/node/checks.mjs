// What both clients' checks share: the broker's address from the environment, and
// one line for each check.
import { readFileSync } from 'node:fs'

export const brokers = [process.env.BROKER]
export const secure = process.env.SECURE === '1'
export const tls = secure ? { ca: readFileSync(process.env.CA, 'utf8'), servername: 'localhost' } : undefined
export const user = process.env.SUITE_USER
export const password = process.env.SUITE_PASSWORD
export const topicOf = (client) => `${client}-${secure ? 'secure' : 'plain'}-${Date.now()}`

const prefix = process.env.PREFIX
let failed = 0

/** check runs f, which throws when something is not as it should be, for a minute at most. */
export async function check(name, f) {
  let timer
  const late = new Promise((_, reject) => { timer = setTimeout(() => reject(new Error('a minute is over')), 60_000) })
  try {
    await Promise.race([f(), late])
    console.log(`PASS ${prefix}/${name}`)
  } catch (e) {
    failed++
    console.log(`FAIL ${prefix}/${name}`)
    console.error(`${prefix}/${name}:`, e.message, (e.errors ?? []).map((x) => x.message).join('; '), e.stack)
  } finally {
    clearTimeout(timer)
  }
}

export function equal(what, got, want) {
  const show = (v) => JSON.stringify(v, (_, x) => (typeof x === 'bigint' ? Number(x) : x))
  if (show(got) !== show(want)) throw new Error(`${what}: got ${show(got)}, want ${show(want)}`)
}

export const finish = () => process.exit(failed === 0 ? 0 : 1)
