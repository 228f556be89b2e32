package storage

import "github.com/twostep-mq/twostep/outbox"

// EmptyParts are the parts of a gap without a row; rows are in order. Where the read was cut off by its limit, only what lies before its
// last row counts.
func EmptyParts(g outbox.Gap, rows []outbox.Row, cut bool) (empty []outbox.Gap) {
	from, to := g.From, g.To
	if cut {
		if len(rows) == 0 {
			return nil
		}
		to = min(to, rows[len(rows)-1].Seq)
	}
	for _, row := range rows {
		if row.Seq < from || row.Seq > to {
			continue
		}
		if row.Seq > from {
			empty = append(empty, outbox.Gap{From: from, To: row.Seq - 1, Age: g.Age, Mark: g.Mark})
		}
		from = row.Seq + 1
	}
	if from <= to {
		empty = append(empty, outbox.Gap{From: from, To: to, Age: g.Age, Mark: g.Mark})
	}
	return empty
}
