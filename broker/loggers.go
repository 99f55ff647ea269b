package broker

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// rootLogger is the logger that the others follow.
const rootLogger = "root"

// loggerNames are the loggers whose level may be changed while the broker runs
// (KIP-412). Like Kafka's the levels are forgotten by a restart.
var loggerNames = []string{"broker", "broker.group", "broker.txn", rootLogger}

// logLevels are Kafka's names of levels. There is none finer than DEBUG and none
// worse than ERROR here.
var logLevels = map[string]slog.Level{
	"TRACE": slog.LevelDebug, "DEBUG": slog.LevelDebug, "INFO": slog.LevelInfo,
	"WARN": slog.LevelWarn, "ERROR": slog.LevelError, "FATAL": slog.LevelError + 1, "OFF": slog.LevelError + 100,
}

// loggers give every part of the broker a logger with a level of its own.
type loggers struct {
	handler slog.Handler

	mu     sync.RWMutex
	levels map[string]string // by name of logger, as they were set
}

func newLoggers(log *slog.Logger) *loggers {
	return &loggers{handler: log.Handler(), levels: map[string]string{}}
}

// logger returns a logger of loggerNames.
func (l *loggers) logger(name string) *slog.Logger {
	return slog.New(levelHandler{l.handler, l, name})
}

// level is the level of a logger by name, and whether it was set for it.
func (l *loggers) level(name string) (level string, set bool) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if level, set = l.levels[name]; set {
		return level, true
	}
	if level, set = l.levels[rootLogger]; set {
		return level, false
	}
	for _, level := range []string{"DEBUG", "INFO", "WARN", "ERROR"} {
		if l.handler.Enabled(context.Background(), logLevels[level]) {
			return level, false
		}
	}
	return "OFF", false
}

func (l *loggers) enabled(ctx context.Context, name string, level slog.Level) bool {
	l.mu.RLock()
	untouched := len(l.levels) == 0
	l.mu.RUnlock()
	if untouched {
		return l.handler.Enabled(ctx, level)
	}
	least, _ := l.level(name)
	return level >= logLevels[least]
}

// levelHandler is a handler whose level is its logger's.
type levelHandler struct {
	slog.Handler

	loggers *loggers
	name    string
}

func (h levelHandler) Enabled(ctx context.Context, level slog.Level) bool {
	return h.loggers.enabled(ctx, h.name, level)
}

func (h levelHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	h.Handler = h.Handler.WithAttrs(attrs)
	return h
}

func (h levelHandler) WithGroup(name string) slog.Handler {
	h.Handler = h.Handler.WithGroup(name)
	return h
}

// alterLoggers sets and deletes levels.
func (b *Broker) alterLoggers(name string, validateOnly bool, ops []kmsg.IncrementalAlterConfigsRequestResourceConfig) error {
	if name != b.nodeName() {
		return refuse(kerr.InvalidRequest, fmt.Sprintf("Unexpected broker id, expected %s, but received %q", b.nodeName(), name))
	}
	b.loggers.mu.Lock()
	defer b.loggers.mu.Unlock()
	next := maps.Clone(b.loggers.levels)
	for _, op := range ops {
		if !slices.Contains(loggerNames, op.Name) {
			return refuse(kerr.InvalidConfig, fmt.Sprintf("Logger %s does not exist! There are %v", op.Name, loggerNames))
		}
		switch op.Op {
		case kmsg.IncrementalAlterConfigOpSet:
			if _, ok := logLevels[text(op.Value)]; !ok {
				return refuse(kerr.InvalidConfig, fmt.Sprintf("Cannot set the log level of %s to %q: want one of %v", op.Name, text(op.Value), slices.Sorted(maps.Keys(logLevels))))
			}
			next[op.Name] = *op.Value
		case kmsg.IncrementalAlterConfigOpDelete:
			if op.Name == rootLogger {
				return refuse(kerr.InvalidRequest, fmt.Sprintf("Removing the log level of the %s logger is not allowed", rootLogger))
			}
			delete(next, op.Name)
		default:
			return refuse(kerr.InvalidRequest, "a level is set or deleted, nothing else")
		}
	}
	if !validateOnly {
		b.loggers.levels = next
	}
	return nil
}

func (b *Broker) describeLoggers() []kmsg.DescribeConfigsResponseResourceConfig {
	var out []kmsg.DescribeConfigsResponseResourceConfig
	for _, name := range loggerNames {
		level, _ := b.loggers.level(name)
		c := kmsg.NewDescribeConfigsResponseResourceConfig()
		c.Name, c.Value, c.ConfigType = name, &level, kmsg.ConfigTypeString
		c.Source = kmsg.ConfigSourceDynamicBrokerLoggerConfig
		c.Documentation = kmsg.StringPtr("The least level that is logged.")
		c.ConfigSynonyms = synonyms(name, []layer{{c.Source, level}})
		out = append(out, c)
	}
	return out
}
