package main

import (
	"regexp"
	"strings"
)

// module is what the paths of all packages begin with.
const module = "github.com/twostep-mq/twostep/"

// none stands for a database or a broker that has no part in a suite.
const none = "-"

// databases are the columns of the table. Mixed is PostgreSQL and MariaDB, a service on each.
func databases() []string {
	return []string{none, "memory", "sqlite", "postgres", "mariadb", "mysql", "mixed"}
}

// row is a suite: on what it has to run, and which tests are its runs.
type row struct {
	name      string
	databases []string
	brokers   []string
	sources   []source
}

// source are tests that run a suite. A test is one of them if its name, or the beginning of it up to a slash, matches. The groups
// (?P<database>…) and (?P<broker>…) of the pattern say on what it ran, where database and broker do not.
type source struct {
	pkg              string // without module
	tests            string
	database, broker string
}

// matrix is every suite that runs on more than one database or broker, or needs a server. What ran is read from the tests' results;
// here stands only which tests to look at.
func matrix() []row {
	sql := []string{"sqlite", "postgres", "mariadb", "mysql"}
	rows := []row{
		{"outboxtest", append([]string{"memory"}, sql...), []string{none}, adapters("TestOutboxConformance[A-Za-z]*")},
		{"topicstest", append([]string{"memory"}, sql...), []string{none}, adapters("TestConsumerConformance[A-Za-z]*")},
		{"topicstest, registry", append([]string{"memory"}, sql...), []string{none}, adapters("TestRegistryConformance[A-Za-z]*")},
		{"brokertest", []string{none}, []string{"memory", "nats", "nats, old", "kafka", "kfake", "watermill"}, []source{
			{pkg: "broker/nats", tests: "TestSuite", broker: "nats"},
			{pkg: "broker/nats", tests: "TestSuiteOldServer", broker: "nats, old"},
			{pkg: "broker/kafka", tests: "TestSuite", broker: "kafka"},
			{pkg: "broker/kafka/kfaketest", tests: "TestSuite", broker: "kfake"},
			{pkg: "adapters/watermill", tests: "TestBrokerSuite", broker: "watermill"},
		}},
		{"schedules and simulation", []string{"memory"}, []string{"memory"}, []source{
			{pkg: "outbox", tests: "TestSchedule[0-9][A-Za-z0-9]*", database: "memory", broker: "memory"},
			{pkg: "topics", tests: "TestModel|TestSchedule[0-9][A-Za-z0-9]*", database: "memory", broker: "memory"},
		}},
		// Whatever else stands there: also what starts and kills servers of its own, or needs a pooler.
		{"all tests of the adapter", sql, []string{none}, adapters("[^/]+")},
		{"behind PgBouncer", []string{"postgres"}, []string{none}, []source{
			{pkg: "adapters/postgres", tests: "TestBehindPgBouncer", database: "postgres"},
		}},
		{"server killed", []string{"postgres", "mariadb", "mysql"}, []string{none}, []source{
			{pkg: "adapters/postgres", tests: "TestServerKilled", database: "postgres"},
			{pkg: "adapters/mysql", tests: "TestServerKilled/(?P<database>mariadb|mysql)"},
		}},
		{"unsafe server refused", []string{"postgres", "mariadb", "mysql"}, []string{none}, []source{
			{pkg: "adapters/postgres", tests: "TestUnsafeServer", database: "postgres"},
			{pkg: "adapters/mysql", tests: "TestServersThatAreRefused/(?P<database>mariadb|mysql)"},
		}},
		{"demo", append([]string{"mixed"}, sql...), []string{"nats"}, append(commands("TestDemoOnServers"),
			source{pkg: "cmd/twostep", tests: "TestDemoAddsUp|TestDemoContinuesAfterKill", database: "sqlite", broker: "nats"},
			source{pkg: "cmd/twostep", tests: "TestDemoContinuesOnServers", database: "mixed", broker: "nats"},
		)},
		{"demo, server killed", []string{"postgres", "mariadb", "mysql", "mixed"}, []string{"nats"}, commands("TestDemoServerKilled|TestDemoLosesTheAnswerToCommit")},
		{"bench", []string{"sqlite", "mixed"}, []string{"nats"}, []source{
			{pkg: "cmd/twostep", tests: "TestBench(Transfer|Publish|Relay)", database: "sqlite", broker: "nats"},
			{pkg: "cmd/twostep", tests: "TestBenchOnServers", database: "mixed", broker: "nats"},
		}},
		{"serve and doctor", []string{"postgres", "mariadb"}, []string{"nats"}, commands("TestStoreOnServers|TestTwoServersOnOneStore|TestDoctorOnServers")},
	}
	for _, orm := range []struct{ name, tests string }{
		{"GORM", "TestGORM(Prepared)?"}, {"sqlx", "TestSQLX"}, {"bun", "TestBun"}, {"ent", "TestEnt"},
	} {
		rows = append(rows, row{orm.name, sql, []string{"nats"}, []source{
			{pkg: "adapters/orm", tests: orm.tests + "/(?P<database>sqlite|postgres|mariadb|mysql)", broker: "nats"},
		}})
	}
	return rows
}

// adapters are the tests of one suite in the adapters of the databases.
func adapters(tests string) []source {
	return []source{
		{pkg: "adapters/sqlite", tests: tests, database: "sqlite"},
		{pkg: "adapters/postgres", tests: tests, database: "postgres"},
		{pkg: "adapters/mysql", tests: tests + "/(?P<database>mariadb|mysql)"},
	}
}

// commands are the runs of the command line's tests on servers. Its name for MariaDB and MySQL is mysql; the server that these tests give
// it is a MariaDB.
func commands(tests string) []source {
	tests = "(?:" + tests + ")"
	return []source{
		{pkg: "cmd/twostep", tests: tests + "/postgres", database: "postgres", broker: "nats"},
		{pkg: "cmd/twostep", tests: tests + "/mysql", database: "mariadb", broker: "nats"},
		{pkg: "cmd/twostep", tests: tests + "/postgres,mysql", database: "mixed", broker: "nats"},
	}
}

// ownReasons begin what a suite says when it leaves out what a database or broker of its kind cannot do. Skipped for any other reason, a
// suite has not run.
func ownReasons() []string {
	return []string{"the harness ", "this harness ", "on this store ", "rows of this database ", "readers of this broker ", "MySQL has no ", "MySQL draws "}
}

func own(reason string) bool {
	for _, begin := range ownReasons() {
		if strings.HasPrefix(reason, begin) {
			return true
		}
	}
	return false
}

// matcher finds what a source's tests ran on.
type matcher struct {
	source
	pattern *regexp.Regexp
}

func (s source) matcher() matcher {
	return matcher{s, regexp.MustCompile(`^(?:` + s.tests + `)(?:/|$)`)}
}

// match tells whether a test is one of the source's, and on what it ran.
func (m matcher) match(test string) (database, broker string, ok bool) {
	found := m.pattern.FindStringSubmatch(test)
	if found == nil {
		return "", "", false
	}
	database, broker = m.database, m.broker
	for i, group := range m.pattern.SubexpNames() {
		switch group {
		case "database":
			database = found[i]
		case "broker":
			broker = found[i]
		}
	}
	if database == "" {
		database = none
	}
	if broker == "" {
		broker = none
	}
	return database, broker, true
}
