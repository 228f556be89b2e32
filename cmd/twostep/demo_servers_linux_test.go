package main

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/twostep-mq/twostep/cmd/internal/database"
)

// serverKinds are the databases of the demo's tests on servers: bank A's and bank B's.
func serverKinds() [][2]database.Kind {
	return [][2]database.Kind{{database.Postgres, database.Postgres}, {database.MySQL, database.MySQL}, {database.Postgres, database.MySQL}}
}

func kindsFlag(kinds [2]database.Kind) string {
	if kinds[0] == kinds[1] {
		return string(kinds[0])
	}
	return string(kinds[0]) + "," + string(kinds[1])
}

// TestDemoOnServers: the demo adds up on every kind of server and on two kinds, and leaves no database behind.
func TestDemoOnServers(t *testing.T) {
	t.Parallel()
	for _, kinds := range serverKinds() {
		t.Run(kindsFlag(kinds), func(t *testing.T) {
			t.Parallel()
			folder := t.TempDir()
			env := []string{"TMPDIR=" + folder, envDSN + "=" + serverDSN(t, kinds[0]), envDSNB + "=" + serverDSN(t, kinds[1])}
			p := begin(t, env, executable(t, "twostep"), "demo", "--transfers", "300", "--seed", "7", "--json", "--db", kindsFlag(kinds))
			var planned []demoDatabase
			eventually(t, demoLimit, func() (bool, string) {
				plans, _ := filepath.Glob(filepath.Join(folder, "*", demoPlanFile))
				if len(plans) == 1 {
					planned = plannedDatabases(t, plans[0])
				}
				return len(planned) == 2, "there is no plan"
			})
			if code := p.exit(t, demoLimit); code != 0 {
				t.Fatalf("exit code %d", code)
			}
			r := decodeReport(t, p.stdout.String())
			if !r.OK || r.Committed+r.Refused+r.RolledBack != 300 || r.Credited+r.DeadLetters != r.Committed || r.MoneyBefore != r.MoneyAfter {
				t.Errorf("the numbers do not fit: %+v", r)
			}
			if r.RelayKills != 1 || r.DeadLetters == 0 || r.DuplicatesAbsorbed == 0 || r.Retries == 0 || r.Commits == 0 {
				t.Errorf("the run did not have what it is to show: %+v", r)
			}
			if left, err := os.ReadDir(folder); err != nil || len(left) > 0 {
				t.Errorf("left in the temporary folder: %v, %v", left, err)
			}
			for i, kind := range kinds {
				if names := databases(t, kind, serverDSN(t, kind), planned[i].Name); planned[i].Kind != kind || len(names) > 0 {
					t.Errorf("%+v is left", planned[i])
				}
			}
		})
	}
}

// askedFor counts the transfers in the log of a demo's folder.
func askedFor(folder string) int {
	raw, _ := os.ReadFile(filepath.Join(folder, demoLogFile))
	return bytes.Count(raw, []byte(`"event":"asked"`))
}

// awaitAsked waits until the demo has asked for so many transfers.
func awaitAsked(t *testing.T, p *process, folder string, wanted int) {
	t.Helper()
	eventually(t, demoLimit, func() (bool, string) {
		asked := askedFor(folder)
		return asked >= wanted || p.ended(), strconv.Itoa(asked) + " transfers asked for"
	})
	if p.ended() {
		t.Fatal("the demo ended too early")
	}
}

// TestDemoServerKilled kills the database servers (kill -9) in the middle of the demo and starts them again: it ends with 0 all the same,
// without a restart of its own.
func TestDemoServerKilled(t *testing.T) {
	t.Parallel()
	const transfers = 1000
	for _, kinds := range serverKinds() {
		t.Run(kindsFlag(kinds), func(t *testing.T) {
			t.Parallel()
			servers := []*ownServer{startOwnServer(t, kinds[0])}
			env := []string{envDSN + "=" + servers[0].dsn}
			if kinds[1] != kinds[0] {
				servers = append(servers, startOwnServer(t, kinds[1]))
				env = append(env, envDSNB+"="+servers[1].dsn)
			}
			folder := filepath.Join(t.TempDir(), "demo")
			p := begin(t, env, executable(t, "twostep"), "demo", "--transfers", strconv.Itoa(transfers), "--data", folder, "--json", "--db", kindsFlag(kinds))
			for n, fraction := range []int{4, 2} {
				awaitAsked(t, p, folder, transfers/fraction)
				s := servers[n%len(servers)]
				s.kill()
				s.start(t)
			}
			if code := p.exit(t, demoLimit); code != 0 {
				raw, _ := os.ReadFile(filepath.Join(folder, demoProcessLog))
				t.Fatalf("exit code %d\n%s", code, tail(string(raw)))
			}
			r := decodeReport(t, p.stdout.String())
			if !r.OK || len(r.Problems) != 0 || r.Transfers != transfers || r.Starts != 1 || r.RelayKills != 1 {
				t.Errorf("%+v", r)
			}
			t.Logf("%d committed, %d retries, %.1f s", r.Committed, r.Retries, r.Seconds)
		})
	}
}

// TestDemoContinuesOnServers: the demo is killed with its processes and started again. The second process finds the databases of the first.
func TestDemoContinuesOnServers(t *testing.T) {
	t.Parallel()
	const transfers = 600
	kinds := [2]database.Kind{database.Postgres, database.MySQL}
	folder := filepath.Join(t.TempDir(), "demo")
	env := []string{envDSN + "=" + serverDSN(t, kinds[0]), envDSNB + "=" + serverDSN(t, kinds[1])}
	p := begin(t, env, executable(t, "twostep"), "demo", "--transfers", strconv.Itoa(transfers), "--data", folder, "--db", kindsFlag(kinds))
	awaitAsked(t, p, folder, transfers/3)
	p.kill()
	t.Cleanup(func() { dropDemo(t, folder, kinds) })
	p = begin(t, env, executable(t, "twostep"), "demo", "--data", folder, "--json")
	if code := p.exit(t, demoLimit); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	if r := decodeReport(t, p.stdout.String()); !r.OK || r.Transfers != transfers || r.Starts != 2 {
		t.Errorf("%+v", r)
	}
	other := begin(t, env, executable(t, "twostep"), "demo", "--data", folder, "--db", "mysql")
	if code := other.exit(t, demoLimit); code != exitUsage || !strings.Contains(other.stderr.String(), "holds a run on postgres,mysql") {
		t.Errorf("another kind: exit code %d, %s", code, other.stderr.String())
	}
}

// plannedDatabases are those of a run, by its plan.
func plannedDatabases(t *testing.T, file string) []demoDatabase {
	t.Helper()
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var plan demoPlan
	if err := json.Unmarshal(raw, &plan); err != nil {
		t.Fatal(err)
	}
	return plan.Databases
}

// dropDemo drops the databases of a run with a folder.
func dropDemo(t *testing.T, folder string, kinds [2]database.Kind) {
	t.Helper()
	for i, d := range plannedDatabases(t, filepath.Join(folder, demoPlanFile)) {
		c := database.Config{Kind: d.Kind, DSN: serverDSN(t, kinds[i]), Name: d.Name}
		if err := database.Drop(context.WithoutCancel(t.Context()), c); err != nil {
			t.Error(err)
		}
	}
}

// TestDemoLosesTheAnswerToCommit puts a proxy before the server that lets every so many a COMMIT through and then cuts the connection
// instead of handing the answer on: whether the transfer was made the sender has to find out.
func TestDemoLosesTheAnswerToCommit(t *testing.T) {
	t.Parallel()
	for _, kind := range []database.Kind{database.Postgres, database.MySQL} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			cutter := startCommitCutter(t, serverAddress(t, kind), 15)
			dsn := strings.Replace(serverDSN(t, kind), serverAddress(t, kind), cutter.address(), 1)
			p := begin(t, []string{"TMPDIR=" + t.TempDir(), envDSN + "=" + dsn}, executable(t, "twostep"), "demo", "--transfers", "400", "--json", "--db", string(kind))
			if code := p.exit(t, demoLimit); code != 0 {
				t.Fatalf("exit code %d", code)
			}
			if r := decodeReport(t, p.stdout.String()); !r.OK || r.Transfers != 400 {
				t.Errorf("%+v", r)
			}
			if n := cutter.cuts.Load(); n < 3 {
				t.Errorf("%d answers were lost: the test has not met its faults", n)
			} else {
				t.Logf("%d answers to COMMIT were lost", n)
			}
		})
	}
}

// serverAddress is host:port of the shared server.
func serverAddress(t *testing.T, kind database.Kind) string {
	t.Helper()
	match := regexp.MustCompile(`127\.0\.0\.1:\d+`).FindString(serverDSN(t, kind))
	if match == "" {
		t.Skip("the server's DSN names no address on loopback")
	}
	return match
}

// commitCutter is a proxy that loses the answer to every so many a COMMIT, and the connection with it.
type commitCutter struct {
	listener      net.Listener
	server        string
	every         int64
	commits, cuts atomic.Int64
}

func startCommitCutter(t *testing.T, server string, every int64) *commitCutter {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &commitCutter{listener: l, server: server, every: every}
	var connections sync.WaitGroup
	connections.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			connections.Go(func() { c.serve(client) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		connections.Wait()
	})
	return c
}

func (c *commitCutter) address() string { return c.listener.Addr().String() }

// serve passes bytes on, until a COMMIT whose answer is to be lost has been answered.
func (c *commitCutter) serve(client net.Conn) {
	defer func() { _ = client.Close() }()
	server, err := net.Dial("tcp", c.server)
	if err != nil {
		return
	}
	defer func() { _ = server.Close() }()
	var lose atomic.Bool
	go func() {
		defer func() { _, _ = server.Close(), client.Close() }()
		buffer := make([]byte, 64<<10)
		for {
			n, err := client.Read(buffer)
			if n > 0 {
				if bytes.Contains(bytes.ToUpper(buffer[:n]), []byte("COMMIT")) && c.commits.Add(1)%c.every == 0 {
					lose.Store(true)
				}
				if _, err := server.Write(buffer[:n]); err != nil {
					return
				}
			}
			if err != nil {
				return
			}
		}
	}()
	buffer := make([]byte, 64<<10)
	for {
		n, err := server.Read(buffer)
		if n > 0 && lose.Load() {
			c.cuts.Add(1)
			return
		}
		if n > 0 {
			if _, err := client.Write(buffer[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}
