package broker

import (
	"math"
	"strings"
	"sync"
	"time"

	"github.com/waybillhq/waybill/broker/controller"
)

// The limits that a quota can set, by Kafka's names.
const (
	producerByteRate       = "producer_byte_rate"       // bytes/s of Produce requests
	consumerByteRate       = "consumer_byte_rate"       // bytes/s of Fetch answers
	requestPercentage      = "request_percentage"       // of one processor's time, KIP-124
	controllerMutationRate = "controller_mutation_rate" // partitions/s made or deleted, KIP-599
	connectionCreationRate = "connection_creation_rate" // connections/s from an address, KIP-612
)

const (
	// quotaWindow is over how long a client may be uneven: who was idle for so
	// long may do as much at once (quota.window.num of quota.window.size.seconds).
	quotaWindow = 10 * time.Second
	// maxShortThrottle bounds the throttle for request_percentage, which a client
	// cannot plan for, and how long a refused connection is held.
	maxShortThrottle = time.Second
	// sweepQuotas is how many clients are counted before the idle are forgotten.
	sweepQuotas = 4096
)

// quotas counts what clients use, and says how long they are to wait. The limits
// are the metadata's, so a change counts at once; who is over is not read for the
// throttle time. It is safe for concurrent use.
type quotas struct {
	ctl *controller.Controller

	mu      sync.Mutex
	buckets map[bucketKey]*bucket
	sweepAt int
}

// bucketKey is who shares a limit: the parts of a client that the quota names, by
// a name or as a default. A user's default is one user's share, not all users'.
type bucketKey struct{ limit, user, clientID, ip string }

func newQuotas(ctl *controller.Controller) *quotas {
	return &quotas{ctl: ctl, buckets: map[bucketKey]*bucket{}, sweepAt: sweepQuotas}
}

// bucket holds what may be used now. It fills at the rate, up to a window's worth,
// and may be overdrawn: that is what the throttle pays back.
type bucket struct {
	tokens float64
	rate   float64 // per second
	at     time.Time
}

// refill brings the bucket to a moment, and to a rate that may have changed.
func (b *bucket) refill(rate float64, now time.Time) {
	full := rate * quotaWindow.Seconds()
	if b.at.IsZero() {
		b.tokens, b.rate, b.at = full, rate, now
		return
	}
	if elapsed := now.Sub(b.at); elapsed > 0 {
		b.tokens += elapsed.Seconds() * rate
		b.at = now
	}
	b.rate, b.tokens = rate, min(b.tokens, full)
}

// debt is how long it takes until the bucket is no longer overdrawn.
func (b *bucket) debt() time.Duration {
	if b.tokens >= 0 {
		return 0
	}
	seconds := -b.tokens / b.rate
	if seconds > math.MaxInt32/1000 {
		seconds = math.MaxInt32 / 1000 // what the protocol can say
	}
	return time.Duration(seconds * float64(time.Second))
}

func (b *bucket) idle(now time.Time) bool {
	return now.Sub(b.at) > quotaWindow+b.debt()
}

// any says whether there is a quota at all.
func (q *quotas) any() bool { return len(q.ctl.Image().Quotas) > 0 }

// limitOf is the rate that a client is held to and with whom it shares it. Of the
// quotas that fit, the most particular one counts, in Apache Kafka's order.
func limitOf(all map[controller.QuotaEntity]map[string]float64, limit, user, clientID string) (rate float64, key bucketKey, found bool) {
	name, def, none := controller.QuotaFor, controller.QuotaDefault, controller.QuotaName{}
	for _, c := range [...]struct{ user, client controller.QuotaName }{
		{name(user), name(clientID)},
		{name(user), def},
		{name(user), none},
		{def, name(clientID)},
		{def, def},
		{def, none},
		{none, name(clientID)},
		{none, def},
	} {
		rate, found = all[controller.QuotaEntity{User: c.user, ClientID: c.client}][limit]
		if !found {
			continue
		}
		key.limit = limit
		if c.user.Part {
			key.user = user
		}
		if c.client.Part {
			key.clientID = clientID
		}
		return rate, key, true
	}
	return 0, key, false
}

// of is the limit that holds for a client now.
func (q *quotas) of(c *Client, limit string) (rate float64, key bucketKey, found bool) {
	all := q.ctl.Image().Quotas
	if len(all) == 0 {
		return 0, key, false
	}
	return limitOf(all, limit, strings.TrimPrefix(c.Principal, "User:"), c.ClientID)
}

// limited says whether anything that a client does may cost it time; of one that is
// not known yet it may.
func (q *quotas) limited(c *Client) bool {
	if c == nil {
		return true
	}
	for _, limit := range []string{producerByteRate, consumerByteRate, requestPercentage, controllerMutationRate} {
		if _, _, found := q.of(c, limit); found {
			return true
		}
	}
	return false
}

// use takes n from what a client may use, and returns how long it is to wait.
func (q *quotas) use(c *Client, limit string, n float64, now time.Time) time.Duration {
	rate, key, found := q.of(c, limit)
	if !found {
		return 0
	}
	return q.take(key, rate, n, now)
}

// giveBack undoes a use.
func (q *quotas) giveBack(c *Client, limit string, n float64, now time.Time) {
	if rate, key, found := q.of(c, limit); found {
		q.take(key, rate, -n, now)
	}
}

// useUnlessOver is use, but takes nothing while the client has to wait.
func (q *quotas) useUnlessOver(c *Client, limit string, n float64, now time.Time) time.Duration {
	rate, key, found := q.of(c, limit)
	if !found {
		return 0
	}
	if wait := q.take(key, rate, 0, now); wait > 0 {
		return wait
	}
	q.take(key, rate, n, now)
	return 0
}

func (q *quotas) take(key bucketKey, rate, n float64, now time.Time) time.Duration {
	q.mu.Lock()
	defer q.mu.Unlock()
	b := q.buckets[key]
	if b == nil {
		q.sweep(now)
		b = &bucket{}
		q.buckets[key] = b
	}
	b.refill(rate, now)
	b.tokens -= n
	return b.debt()
}

// sweep forgets buckets that are full again, so that clients which invent ids do
// not fill the memory.
func (q *quotas) sweep(now time.Time) {
	if len(q.buckets) < q.sweepAt {
		return
	}
	for key, b := range q.buckets {
		if b.idle(now) {
			delete(q.buckets, key)
		}
	}
	q.sweepAt = max(sweepQuotas, 2*len(q.buckets))
}

// connect counts a connection from an address. If it is one too many it is not
// counted, and the caller holds it for the time returned and closes it.
func (q *quotas) connect(ip string, now time.Time) time.Duration {
	all := q.ctl.Image().Quotas
	if len(all) == 0 {
		return 0
	}
	rate, found := all[controller.QuotaEntity{IP: controller.QuotaFor(ip)}][connectionCreationRate]
	if !found {
		if rate, found = all[controller.QuotaEntity{IP: controller.QuotaDefault}][connectionCreationRate]; !found {
			return 0
		}
	}
	key := bucketKey{limit: connectionCreationRate, ip: ip}
	wait := q.take(key, rate, 1, now)
	if wait > 0 {
		q.take(key, rate, -1, now)
	}
	return min(wait, maxShortThrottle)
}

// throttled notes that the client is to wait. The answer says so, and meanwhile no
// request of the connection is served, and no large one read (KIP-219).
func (r *request) throttled(wait time.Duration) {
	r.throttle = max(r.throttle, wait)
}

// throttleProduce counts the bytes of a Produce request.
func (r *request) throttleProduce(bytes int) {
	if r.broker.quotas.any() {
		r.throttled(r.broker.quotas.use(r.client, producerByteRate, float64(bytes), time.Now()))
	}
}

// throttleFetch counts the bytes of a Fetch answer. If the client is to wait it
// does not get them, and they do not count.
func (r *request) throttleFetch(bytes int) bool {
	if bytes == 0 || !r.broker.quotas.any() {
		return false
	}
	now := time.Now()
	wait := r.broker.quotas.use(r.client, consumerByteRate, float64(bytes), now)
	if wait > 0 {
		r.broker.quotas.giveBack(r.client, consumerByteRate, float64(bytes), now)
		r.throttled(wait)
	}
	return wait > 0
}

// fetchBudget is how many bytes of an answer a client's quota can ever allow: no
// more than a window's worth, or it would wait for ever.
func (r *request) fetchBudget(bytes int) int {
	rate, _, found := r.broker.quotas.of(r.client, consumerByteRate)
	if !found {
		return bytes
	}
	return int(min(float64(bytes), rate*quotaWindow.Seconds()))
}

// throttleTime counts the time that a request took of a processor, as far as that
// can be told: all of it but what it waited.
func (r *request) throttleTime(took time.Duration) {
	if !r.broker.quotas.any() {
		return
	}
	percent := float64(max(0, took-r.waited)) * 100 / float64(time.Second)
	wait := r.broker.quotas.use(r.client, requestPercentage, percent, time.Now())
	r.throttled(min(wait, maxShortThrottle))
}

// throttleMutation counts partitions that the client makes or deletes, and says
// whether it has to be refused. Versions before KIP-599 are not refused but wait.
func (r *request) throttleMutation(partitions int, strict bool) (refused bool) {
	if !r.broker.quotas.any() {
		return false
	}
	q, now := r.broker.quotas, time.Now()
	if !strict {
		r.throttled(q.use(r.client, controllerMutationRate, float64(partitions), now))
		return false
	}
	wait := q.useUnlessOver(r.client, controllerMutationRate, float64(partitions), now)
	r.throttled(wait)
	return wait > 0
}
