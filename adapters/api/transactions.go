package api

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"sync"

	"github.com/twostep-mq/twostep/outbox"
	"github.com/twostep-mq/twostep/topics"
)

// States of a Transaction.
const (
	// TransactionUnpublished: the broker has not acknowledged the message.
	TransactionUnpublished = "unpublished"
	// TransactionUnconfirmed: it is published, and subscriptions have not confirmed it.
	TransactionUnconfirmed = "unconfirmed"
	// TransactionParked: its outbox has released it; subscriptions keep it parked.
	TransactionParked = "parked"
)

func (s *Server) listTransactions(r *http.Request) (int, any, error) {
	q, err := query(r, "topic", "limit")
	if err != nil {
		return 0, nil, err
	}
	limit, err := limitOf(q)
	if err != nil {
		return 0, nil, err
	}
	rows := outbox.RowsRequest{Op: "list", Topic: q["topic"], Limit: limit}
	list, err := s.transactions(r.Context(), rows, limit, func(topics.ParkedInfo) bool { return true })
	return http.StatusOK, list, err
}

func (s *Server) showTransaction(r *http.Request) (int, any, error) {
	if _, err := query(r); err != nil {
		return 0, nil, err
	}
	gid := r.PathValue("gid")
	rows := outbox.RowsRequest{Op: "list", GID: gid, Limit: maxLimit}
	list, err := s.transactions(r.Context(), rows, maxLimit, func(p topics.ParkedInfo) bool { return p.GID == gid })
	if err != nil {
		return 0, nil, err
	}
	if len(list.Transactions) == 0 {
		if len(list.Unreachable) > 0 {
			first := list.Unreachable[0]
			return 0, nil, &Problem{
				Code:    CodeUnavailable,
				Message: fmt.Sprintf("nothing is known of global transaction %s, but %d could not be asked, %s %s among them (%s)", gid, len(list.Unreachable), first.Kind, first.Name, first.Reason),
				Hint:    "start the services, then ask again",
			}
		}
		if list.Truncated {
			return 0, nil, &Problem{
				Code:    CodeUnavailable,
				Message: fmt.Sprintf("global transaction %s is not among the oldest messages, and there are more than one request searches", gid),
				Hint:    "ask again when the backlog is smaller (twostep outbox list)",
			}
		}
		return 0, nil, notFound("it was executed by all, rolled back, or never published", "no message of global transaction %s is unreleased or parked", gid)
	}
	return http.StatusOK, list, nil
}

// transactions asks every outbox for rows and every subscription for parked messages, and puts together what belongs to one message.
func (s *Server) transactions(ctx context.Context, q outbox.RowsRequest, limit int, keep func(topics.ParkedInfo) bool) (TransactionList, error) {
	list := TransactionList{Transactions: []Transaction{}, Unreachable: []Unreachable{}}
	names, err := s.subscriptionNames(ctx)
	if err != nil {
		return list, err
	}
	parked, more, unreachable, err := s.parkedEverywhere(ctx, q.Topic, "", limit, keep)
	if err != nil {
		return list, err
	}
	byID := map[string]*Transaction{}
	rowsMore, silent, err := s.rowsEverywhere(ctx, q, func(o outbox.Report, row outbox.RowInfo) {
		byID[row.ID] = transactionOf(o.Outbox, row, names)
	})
	if err != nil {
		return list, err
	}
	for _, p := range parked {
		t := byID[p.ID]
		if t == nil {
			t = &Transaction{GID: p.GID, Mode: "msg", ID: p.ID, Topic: p.Topic, Key: p.Key, State: TransactionParked, CreatedAtMS: madeAt(p.ID, p.ParkedAtMS), Size: p.Size}
			byID[p.ID] = t
		}
		t.Parked = append(t.Parked, p)
	}
	for _, t := range byID {
		list.Transactions = append(list.Transactions, *t)
	}
	slices.SortFunc(list.Transactions, func(a, b Transaction) int {
		return cmp.Or(cmp.Compare(a.CreatedAtMS, b.CreatedAtMS), cmp.Compare(a.ID, b.ID))
	})
	list.Truncated = more || rowsMore || len(list.Transactions) > limit
	list.Transactions = list.Transactions[:min(limit, len(list.Transactions))]
	list.Unreachable = append(append(list.Unreachable, unreachable...), silent...)
	sortUnreachable(list.Unreachable)
	return list, nil
}

// rowsEverywhere asks the relays of all outboxes that report rows, and hands each row to take, one at a time.
func (s *Server) rowsEverywhere(ctx context.Context, q outbox.RowsRequest, take func(outbox.Report, outbox.RowInfo)) (more bool, unreachable []Unreachable, err error) {
	reports, err := s.owner.Reports(ctx)
	if err != nil {
		return false, nil, err
	}
	var mu sync.Mutex
	forEach(len(reports), func(i int) {
		rows, further, err := s.askRows(ctx, reports[i].Outbox, q)
		mu.Lock()
		defer mu.Unlock()
		for _, row := range rows {
			take(reports[i], row)
		}
		more = more || further
		if err != nil {
			unreachable = append(unreachable, Unreachable{Kind: "outbox", ID: reports[i].Outbox, Name: reports[i].Name, Reason: err.Error()})
		}
	})
	return more, unreachable, nil
}

func transactionOf(outboxUUID string, row outbox.RowInfo, names map[string]string) *Transaction {
	t := &Transaction{
		GID: row.GID, Mode: "msg", ID: row.ID, Topic: row.Topic, Key: row.Key, State: TransactionUnconfirmed,
		CreatedAtMS: row.CreatedAt, Size: row.Size, Outbox: outboxUUID, Seq: row.Seq,
	}
	if !row.Published {
		t.State = TransactionUnpublished
	}
	for _, confirmer := range row.WaitingFor {
		t.WaitingFor = append(t.WaitingFor, cmp.Or(names[confirmer], confirmer))
	}
	slices.Sort(t.WaitingFor)
	return t
}

// madeAt is when a message was made: a UUIDv7 says so in its first 48 bits; else the fallback.
func madeAt(id string, fallback int64) int64 {
	if len(id) == 36 && id[14] == '7' {
		if ms, err := strconv.ParseInt(id[:8]+id[9:13], 16, 64); err == nil {
			return ms
		}
	}
	return fallback
}
