package topics_test

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// The model: one seed is one random schedule of the production code (outbox.Relay, the dispatcher, topics.Owner) over stores and a
// broker in memory. Everything that happens, happens in one of the world's steps, chosen by the seed; every process stops at random
// between any two calls of its store or broker, is resumed, overtaken or killed there. Then all faults end, and after a bounded
// time everything that was promised must hold.
//
//	TWOSTEP_SEED=n     one seed, with a trace
//	TWOSTEP_SEEDS=n    that many seeds
//	TWOSTEP_LONG=1     20,000 seeds

const (
	modelSeeds     = 2_000
	modelSeedsLong = 20_000
)

var modelFirst = flag.Int64("model.first", 1, "first seed of TestModel")

func TestModel(t *testing.T) {
	if s := os.Getenv("TWOSTEP_SEED"); s != "" {
		seed, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			t.Fatalf("TWOSTEP_SEED: %v", err)
		}
		w := newWorld(seed, func(format string, args ...any) { fmt.Printf(format+"\n", args...) })
		if err := w.run(); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		t.Logf("seed %d: %s", seed, w.counts)
		return
	}
	seeds := int64(modelSeeds)
	switch {
	case os.Getenv("TWOSTEP_SEEDS") != "":
		n, err := strconv.ParseInt(os.Getenv("TWOSTEP_SEEDS"), 10, 64)
		if err != nil {
			t.Fatalf("TWOSTEP_SEEDS: %v", err)
		}
		seeds = n
	case os.Getenv("TWOSTEP_LONG") != "":
		seeds = modelSeedsLong
	case testing.Short():
		seeds = 200
	}
	began := time.Now()
	total := runSeeds(t, *modelFirst, seeds)
	t.Logf("%d seeds in %s: %s", seeds, time.Since(began).Round(time.Millisecond), total)
	if !t.Failed() {
		total.demand(t, seeds)
	}
}

// runSeeds runs seeds on all processors and stops at the first few that fail.
func runSeeds(t *testing.T, first, seeds int64) counts {
	var next, failed atomic.Int64
	next.Store(first - 1)
	var mu sync.Mutex
	var total counts
	var workers sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() {
			for failed.Load() < 3 {
				seed := next.Add(1)
				if seed >= first+seeds {
					return
				}
				w := newWorld(seed, nil)
				err := w.run()
				mu.Lock()
				total.add(&w.counts)
				if err != nil {
					failed.Add(1)
					t.Errorf("seed %d: %v\nreplay with: TWOSTEP_SEED=%d go test ./topics -run 'TestModel$'", seed, err, seed)
				}
				mu.Unlock()
			}
		})
	}
	workers.Wait()
	return total
}

// TestModelIsDeterministic: a seed that fails must fail again.
func TestModelIsDeterministic(t *testing.T) {
	t.Parallel()
	for seed := int64(1); seed <= 20; seed++ {
		var traces [2][]string
		for i := range traces {
			w := newWorld(seed, func(format string, args ...any) { traces[i] = append(traces[i], fmt.Sprintf(format, args...)) })
			if err := w.run(); err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
		}
		for i := range min(len(traces[0]), len(traces[1])) {
			if traces[0][i] != traces[1][i] {
				t.Fatalf("seed %d: step %d differs:\n%s\n%s", seed, i, traces[0][i], traces[1][i])
			}
		}
		if len(traces[0]) != len(traces[1]) {
			t.Fatalf("seed %d: %d and %d steps", seed, len(traces[0]), len(traces[1]))
		}
	}
}
