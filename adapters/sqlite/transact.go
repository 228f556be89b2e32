package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"time"

	"github.com/twostep-mq/twostep/outbox"
)

const (
	// maxGroup bounds how many functions share a commit.
	maxGroup = 256
	// A group takes in functions for as long as the last commit took, but no shorter and no longer than this.
	minGroupTime = time.Millisecond
	maxGroupTime = 20 * time.Millisecond
)

// Transact runs fn in a transaction and commits it if fn returns nil. Concurrent calls share transactions and so commits: each
// fn runs within a savepoint, one after the other, on its caller's goroutine, and the last one commits for all.
// Each call returns after its own commit.
//
// Where fn ended the transaction itself, nothing of it is committed and the error is ErrEnded. fn may run a second time,
// when the transaction it shared was lost through another's fault. It must not begin another writing transaction on the
// same file: that would wait for itself until the busy timeout.
func (o *Outbox) Transact(ctx context.Context, fn func(outbox.Tx) error) error {
	return o.group.transact(ctx, fn)
}

// groupCommit hands one baton from caller to caller. Who holds it runs; with it goes the open group, or none: then the
// receiver begins one. There is no goroutine of its own, and a panic or Goexit in fn stays where it belongs.
type groupCommit struct {
	db  *sql.DB
	drv *fileDriver

	mu         sync.Mutex
	taken      bool // somebody holds the baton
	waiting    []*caller
	lastCommit time.Duration
}

// caller is a call of Transact that waits for the baton.
type caller struct {
	baton chan *group // one, when it is its turn
	alone bool        // shares with nobody: it was in a group that broke
}

// group is one transaction and who shares it.
type group struct {
	tx      *sql.Tx
	begun   time.Time
	ran     int
	kept    int  // functions whose work stands in the transaction
	alone   bool // takes nobody else
	broken  bool // the transaction is gone: the others have to run again
	done    chan struct{}
	failure error // of the commit; set before done is closed
}

func newGroupCommit(db *sql.DB, drv *fileDriver) *groupCommit {
	return &groupCommit{db: db, drv: drv}
}

var errAgain = errors.New("sqlite: the shared transaction was lost")

func (c *groupCommit) transact(ctx context.Context, fn func(outbox.Tx) error) error {
	err := c.once(ctx, fn, false)
	if errors.Is(err, errAgain) {
		err = c.once(ctx, fn, true)
	}
	return err
}

// once runs fn in one group; errAgain if the group broke after fn had done its part.
func (c *groupCommit) once(ctx context.Context, fn func(outbox.Tx) error, alone bool) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	g, err := c.wait(ctx, alone)
	if err != nil {
		return err
	}
	if g == nil {
		sqlTx, err := beginManaged(ctx, c.db)
		if err != nil {
			c.passOn()
			return err
		}
		g = &group{tx: sqlTx, begun: time.Now(), alone: alone, done: make(chan struct{})}
	}
	if err := c.run(ctx, g, fn); err != nil {
		return err
	}
	// From here on ctx does not count: only the commit knows the answer, and it is under way.
	<-g.done
	if g.broken {
		return errAgain
	}
	return g.failure
}

// wait takes the baton, with the open group if there is one.
func (c *groupCommit) wait(ctx context.Context, alone bool) (*group, error) {
	c.mu.Lock()
	if !c.taken {
		c.taken = true
		c.mu.Unlock()
		return nil, nil
	}
	self := &caller{baton: make(chan *group, 1), alone: alone}
	c.waiting = append(c.waiting, self)
	c.mu.Unlock()

	timeout := time.NewTimer(c.drv.busyTimeout)
	defer timeout.Stop()
	var err error
	select {
	case g := <-self.baton:
		return g, nil
	case <-ctx.Done():
		err = ctx.Err()
	case <-timeout.C:
		err = fmt.Errorf("%w: Transact waited %v for others of this process. A Transact within a Transact waits for itself; otherwise try again",
			ErrBusy, c.drv.busyTimeout)
	}
	if !c.leave(self) {
		c.pass(<-self.baton) // it was given the baton meanwhile
	}
	return nil, err
}

// leave takes a caller out of the queue; false if it is its turn already.
func (c *groupCommit) leave(self *caller) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, w := range c.waiting {
		if w == self {
			c.waiting = append(c.waiting[:i], c.waiting[i+1:]...)
			return true
		}
	}
	return false
}

// run runs fn within a savepoint and passes the baton on, whatever fn does. nil: fn's work stands in g.
func (c *groupCommit) run(ctx context.Context, g *group, fn func(outbox.Tx) error) (err error) {
	handed := &managedTx{tx: g.tx}
	returned := false
	g.ran++
	defer func() {
		handed.over.Store(true)
		switch {
		case g.broken:
		case returned && err == nil:
			if releaseErr := c.savepoint(g, "RELEASE twostep_transact"); releaseErr != nil {
				err, g.broken = fmt.Errorf("sqlite: transact: nothing was committed: %w", releaseErr), true
			} else {
				g.kept++
			}
		default: // an error, a panic, or runtime.Goexit
			if c.savepoint(g, "ROLLBACK TO twostep_transact; RELEASE twostep_transact") != nil {
				g.broken = true
			}
		}
		c.pass(g)
	}()
	if err := c.savepoint(g, "SAVEPOINT twostep_transact"); err != nil {
		g.broken = true
		returned = true
		return explain("savepoint", c.drv.path, err)
	}
	err = fn(handed)
	if err == nil {
		err = ctx.Err() // whoever asked has given up: it must not be surprised by a commit
	}
	returned = true
	return err
}

func (c *groupCommit) savepoint(g *group, statement string) error {
	_, err := g.tx.ExecContext(context.Background(), statement)
	return err
}

// pass gives the baton to the next caller: with g where it may take more, else after ending g.
func (c *groupCommit) pass(g *group) {
	if g == nil {
		c.passOn()
		return
	}
	if next := c.nextFor(g); next != nil {
		next.baton <- g
		return
	}
	var took time.Duration
	switch {
	case g.broken || g.kept == 0:
		_ = g.tx.Rollback()
	default:
		start := time.Now()
		g.failure = g.tx.Commit()
		took = time.Since(start)
	}
	c.mu.Lock()
	c.lastCommit = took
	c.mu.Unlock()
	c.passOn()
	close(g.done)
}

// nextFor takes the next caller out of the queue if it may join g.
func (c *groupCommit) nextFor(g *group) *caller {
	if g.broken || g.alone || g.ran >= maxGroup {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.waiting) == 0 {
		// Others may be about to come: those whose commit has just been answered.
		c.mu.Unlock()
		runtime.Gosched()
		c.mu.Lock()
	}
	if len(c.waiting) == 0 || c.waiting[0].alone {
		return nil
	}
	if time.Since(g.begun) > min(max(c.lastCommit, minGroupTime), maxGroupTime) {
		return nil
	}
	return c.pop()
}

// passOn gives the baton without a group to the next caller, or puts it down.
func (c *groupCommit) passOn() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.waiting) == 0 {
		c.taken = false
		return
	}
	c.pop().baton <- nil
}

func (c *groupCommit) pop() *caller {
	next := c.waiting[0]
	c.waiting[0] = nil
	c.waiting = c.waiting[1:]
	return next
}
