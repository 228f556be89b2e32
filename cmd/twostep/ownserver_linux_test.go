package main

import (
	"database/sql"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twostep-mq/twostep/cmd/internal/database"
)

// ownServer is a database server that a test started itself: it may be killed, its settings be changed, and nobody else's commits
// are in its counters.
type ownServer struct {
	kind database.Kind
	// dsn of its database, as its only and mightiest user.
	dsn     string
	folder  string
	command func() *exec.Cmd
	process *exec.Cmd
	// answered is when it last began to answer.
	answered time.Time
}

// startOwnServer starts a PostgreSQL or a MariaDB, with a test's own settings if any are given. Without the programs on this machine the
// test is skipped.
func startOwnServer(t *testing.T, kind database.Kind, settings ...string) *ownServer {
	t.Helper()
	serverDSN(t, kind) // tests with servers are wanted
	// Not t.TempDir: its parent is not reachable by another user.
	folder, err := os.MkdirTemp("", "twostep-"+string(kind)+"-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(folder) })
	s := &ownServer{kind: kind, folder: folder}
	port := freePort(t)
	if kind == database.Postgres {
		s.makePostgres(t, port, settings)
	} else {
		s.makeMariaDB(t, port, settings)
	}
	s.start(t)
	t.Cleanup(s.kill)
	return s
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().(*net.TCPAddr).Port
}

// asServerUser makes a program end with this process, and run as the server's own user where this one is root, whom servers refuse.
func (s *ownServer) asServerUser(t *testing.T, name string) func(*exec.Cmd) {
	t.Helper()
	attr := &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if os.Getuid() == 0 {
		other, err := user.Lookup(name)
		if err != nil {
			t.Skipf("root cannot run a server, and there is no user %s: %v", name, err)
		}
		uid, _ := strconv.ParseUint(other.Uid, 10, 32)
		gid, _ := strconv.ParseUint(other.Gid, 10, 32)
		attr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		if err := os.Chown(s.folder, int(uid), int(gid)); err != nil {
			t.Fatal(err)
		}
	}
	return func(cmd *exec.Cmd) { cmd.Dir, cmd.SysProcAttr = "/", attr }
}

func (s *ownServer) makePostgres(t *testing.T, port int, settings []string) {
	t.Helper()
	installed, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if path, err := exec.LookPath("initdb"); err == nil {
		installed = append(installed, path)
	}
	if len(installed) == 0 {
		t.Skip("initdb is not installed here: this test starts a server of its own")
	}
	slices.Sort(installed)
	bin, data := filepath.Dir(installed[len(installed)-1]), filepath.Join(s.folder, "data")
	sandbox := s.asServerUser(t, "postgres")
	made := exec.Command(filepath.Join(bin, "initdb"), "-D", data, "-U", "twostep", "-E", "UTF8", "--locale=C.UTF-8", "--auth=trust", "--no-sync")
	sandbox(made)
	if out, err := made.CombinedOutput(); err != nil {
		t.Fatalf("initdb: %v\n%s", err, out)
	}
	s.dsn = fmt.Sprintf("postgres://twostep@127.0.0.1:%d/postgres?sslmode=disable&connect_timeout=5", port)
	s.command = func() *exec.Cmd {
		args := []string{"-D", data, "-p", strconv.Itoa(port), "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=", "-c", "shared_buffers=32MB"}
		for _, setting := range settings {
			args = append(args, "-c", setting)
		}
		cmd := exec.Command(filepath.Join(bin, "postgres"), args...)
		sandbox(cmd)
		return cmd
	}
}

func (s *ownServer) makeMariaDB(t *testing.T, port int, settings []string) {
	t.Helper()
	look := func(name string) string {
		path, err := exec.LookPath(name)
		if err != nil {
			path, err = exec.LookPath(filepath.Join("/usr/sbin", name))
		}
		if err != nil {
			t.Skipf("no %s on this machine, to start a server of the test's own: %v", name, err)
		}
		return path
	}
	server, install := look("mariadbd"), look("mariadb-install-db")
	sandbox := s.asServerUser(t, "mysql")
	data := filepath.Join(s.folder, "data")
	// A MariaDB that starts removes what others have in a common folder for temporary tables.
	made := exec.Command(install, "--no-defaults", "--datadir="+data, "--tmpdir="+s.folder, "--auth-root-authentication-method=normal", "--skip-test-db")
	sandbox(made)
	if out, err := made.CombinedOutput(); err != nil {
		t.Fatalf("mariadb-install-db: %v\n%s", err, out)
	}
	init := filepath.Join(s.folder, "init.sql")
	if err := os.WriteFile(init, []byte("CREATE OR REPLACE USER 'twostep'@'127.0.0.1' IDENTIFIED BY 'secret';\n"+
		"GRANT ALL PRIVILEGES ON *.* TO 'twostep'@'127.0.0.1' WITH GRANT OPTION;\nCREATE DATABASE IF NOT EXISTS twostep;\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	s.dsn = fmt.Sprintf("twostep:secret@tcp(127.0.0.1:%d)/twostep", port)
	s.command = func() *exec.Cmd {
		cmd := exec.Command(server, append([]string{"--no-defaults", "--datadir=" + data, "--tmpdir=" + s.folder, "--init-file=" + init,
			fmt.Sprint("--port=", port), "--bind-address=127.0.0.1", "--skip-name-resolve", "--socket=" + filepath.Join(s.folder, "socket"),
			"--pid-file=" + filepath.Join(s.folder, "pid"), "--log-error=" + filepath.Join(s.folder, "log"), "--innodb-buffer-pool-size=32M",
			"--innodb-log-file-size=32M", "--performance-schema=OFF", "--innodb-flush-log-at-trx-commit=1"}, settings...)...)
		sandbox(cmd)
		return cmd
	}
}

// start starts the server, as it is or after kill, and waits until it answers.
func (s *ownServer) start(t *testing.T) {
	t.Helper()
	if s.kind == database.MySQL {
		// It knows when it was started to the second. Lives within one second would look like one.
		eventually(t, 2*time.Second, func() (bool, string) {
			return time.Since(s.answered.Truncate(time.Second)) > time.Second, "the second has not passed"
		})
	}
	s.process = s.command()
	if err := s.process.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Minute, func() (bool, string) {
		db, err := database.Open(t.Context(), database.Config{Kind: s.kind, DSN: s.dsn})
		if err != nil {
			return false, err.Error()
		}
		_ = db.Close()
		return true, ""
	})
	s.answered = time.Now()
}

// kill is kill -9 of the server, and waits until its children have noticed.
func (s *ownServer) kill() {
	_ = s.process.Process.Kill()
	_ = s.process.Wait()
	// A PostgreSQL refuses to start while a child of the old one still uses its shared memory.
	for deadline := time.Now().Add(20 * time.Second); s.childrenLive() && time.Now().Before(deadline); {
		time.Sleep(5 * time.Millisecond)
	}
}

// childrenLive tells whether a process still runs in the server's folder.
func (s *ownServer) childrenLive() bool {
	processes, _ := filepath.Glob("/proc/[0-9]*/cwd")
	for _, cwd := range processes {
		if target, err := os.Readlink(cwd); err == nil && strings.HasPrefix(target, s.folder) {
			return true
		}
	}
	return false
}

// databases lists those whose names begin with a prefix.
func databases(t *testing.T, kind database.Kind, dsn, prefix string) (names []string) {
	t.Helper()
	db, err := database.Open(t.Context(), database.Config{Kind: kind, DSN: dsn})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	query := "SELECT schema_name FROM information_schema.schemata"
	if kind == database.Postgres {
		query = "SELECT datname FROM pg_database"
	}
	rows, err := db.QueryContext(t.Context(), query)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var name sql.NullString
		if err := rows.Scan(&name); err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(name.String, prefix) {
			names = append(names, name.String)
		}
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return names
}
