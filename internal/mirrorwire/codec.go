package mirrorwire

// The fields of every message, in their order on the wire.

func (r *AppendRequest) fields(c *coder) {
	c.int32(&r.TimeoutMillis)
	array(c, &r.Topics)
}

func (t *AppendRequestTopic) fields(c *coder) {
	c.uuid(&t.TopicID)
	c.string(&t.Source)
	array(c, &t.Partitions)
}

func (p *AppendRequestPartition) fields(c *coder) {
	c.int32(&p.Partition)
	c.int64(&p.WriterEpoch)
	c.int64(&p.ExpectedEnd)
	c.int32(&p.ExpectedEpoch)
	c.int64(&p.TruncateTo)
	c.int64(&p.SourceStart)
	c.bytes(&p.Batches)
}

func (r *AppendResponse) fields(c *coder) {
	c.int32(&r.ThrottleMillis)
	array(c, &r.Topics)
}

func (t *AppendResponseTopic) fields(c *coder) {
	c.uuid(&t.TopicID)
	array(c, &t.Partitions)
}

func (p *AppendResponsePartition) fields(c *coder) {
	c.int32(&p.Partition)
	c.int16(&p.ErrorCode)
	c.nullable(&p.ErrorMessage)
	c.int64(&p.LogStart)
	c.int64(&p.LogEnd)
	c.int32(&p.LastEpoch)
	c.int64(&p.WriterEpoch)
	c.int8(&p.State)
}

func (r *DescribeRequest) fields(c *coder) { array(c, &r.Topics) }

func (t *TopicRef) fields(c *coder) {
	c.uuid(&t.TopicID)
	c.string(&t.Topic)
}

func (r *DescribeResponse) fields(c *coder) {
	c.int32(&r.ThrottleMillis)
	array(c, &r.Topics)
}

func (r *AlterResponse) fields(c *coder) {
	c.int32(&r.ThrottleMillis)
	array(c, &r.Topics)
}

func (t *DescribeResponseTopic) fields(c *coder) {
	c.uuid(&t.TopicID)
	c.string(&t.Topic)
	c.int16(&t.ErrorCode)
	c.nullable(&t.ErrorMessage)
	c.string(&t.Source)
	c.int8(&t.State)
	c.string(&t.Reason)
	array(c, &t.Partitions)
}

func (p *DescribeResponsePartition) fields(c *coder) {
	c.int32(&p.Partition)
	c.int64(&p.LogStart)
	c.int64(&p.LogEnd)
	c.int64(&p.LastStable)
	c.int32(&p.LastEpoch)
	c.int32(&p.LeaderEpoch)
	c.int64(&p.WriterEpoch)
	c.int64(&p.PromotedAt)
	array(c, &p.Ended)
}

func (t *EndedTransaction) fields(c *coder) {
	c.int64(&t.ProducerID)
	c.int16(&t.ProducerEpoch)
	c.int64(&t.FirstOffset)
}

func (r *AlterRequest) fields(c *coder) { array(c, &r.Topics) }

func (t *AlterRequestTopic) fields(c *coder) {
	c.uuid(&t.TopicID)
	c.string(&t.Topic)
	c.int8(&t.Op)
	c.string(&t.Reason)
	c.string(&t.Source)
	array(c, &t.Cuts)
}

func (p *Cut) fields(c *coder) {
	c.int32(&p.Partition)
	c.int64(&p.TruncateTo)
	c.int64(&p.ExpectedEnd)
	c.int32(&p.ExpectedEpoch)
}
