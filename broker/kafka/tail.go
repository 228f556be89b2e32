package kafka

import (
	"context"
	"fmt"
)

// tail reads the one partition of a topic from an offset on, without a group: what every process is to see.
type tail struct {
	b    *Broker
	info topicInfo
	next int64
}

// read returns the next records, or none when nothing came for a while, and the offset that the next record will get.
func (t *tail) read(ctx context.Context) ([]record, int64, error) {
	info, err := t.b.topics.look(ctx, t.info.name)
	if err != nil {
		return nil, 0, err
	}
	if info.id != t.info.id {
		return nil, 0, errAnew
	}
	if len(info.leaders) == 0 || info.leaders[0] < 0 {
		return nil, 0, fmt.Errorf("%w: topic %s", errMoved, info.name)
	}
	all, err := t.b.fetch(ctx, info.leaders[0], info.name, map[int]int64{0: t.next})
	if err != nil {
		return nil, 0, err
	}
	for _, f := range all {
		if f.partition != 0 {
			continue
		}
		if f.err != nil {
			return nil, 0, f.err
		}
		t.next = f.next
		return f.records, f.end, nil
	}
	return nil, 0, nil
}
