package main

import (
	"math"
	"time"

	"github.com/waybillhq/waybill/api"
)

// unknownProgress is that of which nothing has been heard.
func unknownProgress() api.Progress {
	return api.Progress{LagRecords: -1, LagBytes: -1, LagSeconds: -1, ETASeconds: -1, RPOSeconds: -1}
}

// together is the progress of two parts as one. The whole has arrived when the
// last part has, so its outlook is that of the part that takes longest.
func together(a, b api.Progress) api.Progress {
	sum := api.Progress{
		LagRecords: sumKnown(a.LagRecords, b.LagRecords), LagBytes: sumKnown(a.LagBytes, b.LagBytes),
		LagSeconds: maxKnown(a.LagSeconds, b.LagSeconds), RPOSeconds: maxKnown(a.RPOSeconds, b.RPOSeconds),
		ETASeconds: a.ETASeconds, ETABasis: a.ETABasis,
		RecordsPerSecond: a.RecordsPerSecond + b.RecordsPerSecond, BytesPerSecond: a.BytesPerSecond + b.BytesPerSecond,
		Records: a.Records + b.Records, Bytes: a.Bytes + b.Bytes,
	}
	if a.ETASeconds >= 0 && (b.ETASeconds < 0 || b.ETASeconds > a.ETASeconds) {
		sum.ETASeconds, sum.ETABasis = b.ETASeconds, b.ETABasis
	}
	return sum
}

// sumKnown and maxKnown are -1, not known, if one part is.
func sumKnown(a, b int64) int64 {
	if a < 0 || b < 0 {
		return -1
	}
	return a + b
}

func maxKnown(a, b float64) float64 {
	if a < 0 || b < 0 {
		return -1
	}
	return math.Max(a, b)
}

func secondsKnown(d time.Duration) float64 {
	if d < 0 {
		return -1
	}
	return d.Seconds()
}
