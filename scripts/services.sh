#!/usr/bin/env bash
# Real servers for the tests, on loopback, on ports and in a folder (.services) of this project's own. compose.yaml starts the same
# ones where Docker is.
#
#   scripts/services.sh start   start PostgreSQL, MariaDB, MySQL and Redis, installing what is missing where that is possible (Debian, as
#                               root); also PgBouncer and an older NATS server, which tests start themselves
#   scripts/services.sh stop    stop exactly those; their data stays for the next start
#   scripts/services.sh env     print what tells the tests where they are: eval "$(scripts/services.sh env)"
#
# Started twice they run once. Every commit goes to the disk, as the promises of twostep need it. What cannot be started is
# said and does not stop the others from being; the exit code is then 1.
set -euo pipefail
cd "$(dirname "$0")/.."

folder="${TWOSTEP_SERVICES:-$PWD/.services}"
postgres_port="${TWOSTEP_POSTGRES_PORT:-26541}"
mysql_port="${TWOSTEP_MYSQL_PORT:-26306}"
redis_port="${TWOSTEP_REDIS_PORT:-26379}"
patience=60 # seconds until a server must answer

say() { echo "services: $*" >&2; }

# as USER COMMAND… runs a command as the server's own user: both servers refuse root.
as() {
	local user="$1"
	shift
	if [ "$(id -u)" -ne 0 ]; then
		"$@"
	elif command -v runuser >/dev/null; then
		runuser -u "$user" -- "$@"
	else
		setpriv --reuid "$user" --regid "$user" --init-groups -- "$@"
	fi
}

# install PACKAGE… installs Debian packages without starting the services they bring.
install() {
	if ! command -v apt-get >/dev/null; then
		say "cannot install $*: there is no apt-get here. Install them by hand and try again."
		return 1
	fi
	if [ "$(id -u)" -ne 0 ]; then
		say "cannot install $*: not root. Run: sudo apt-get install $*"
		return 1
	fi
	say "installing $*"
	if [ -z "${updated:-}" ]; then
		apt-get update -qq >&2 || say "apt-get update failed: trying with the lists there are"
		updated=yes
	fi
	RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "$@" >&2
}

# system_user NAME makes the user a server runs as, where its package did not.
system_user() {
	if [ "$(id -u)" -eq 0 ] && ! getent passwd "$1" >/dev/null; then
		useradd --system --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin "$1"
	fi
}

# home USER NAME makes the folder of a server and checks that its user can reach it.
home() {
	mkdir -p "$folder/$2"
	if [ "$(id -u)" -eq 0 ]; then
		chown "$1:" "$folder/$2"
	fi
	chmod 700 "$folder/$2"
	if ! as "$1" test -w "$folder/$2"; then
		say "user $1 cannot reach $folder/$2: let others pass through the folders above it (chmod o+x), or set TWOSTEP_SERVICES to another folder"
		return 1
	fi
}

# password prints the servers' password, made once.
password() {
	mkdir -p "$folder"
	if [ ! -s "$folder/password" ]; then
		(umask 077 && head -c 16 /dev/urandom | od -An -tx1 | tr -d ' \n' >"$folder/password")
	fi
	cat "$folder/password"
}

# dsn KIND TEXT notes where a server is, for twostep demo, bench and doctor: they read it when no DSN is given.
dsn() { (umask 077 && echo "$2" >"$folder/$1.dsn"); }

# wait_for WHAT COMMAND… tries a command until it succeeds.
wait_for() {
	local what="$1" until=$((SECONDS + patience))
	shift
	until "$@" >/dev/null 2>&1; do
		if [ "$SECONDS" -ge "$until" ]; then
			say "$what does not answer after $patience s"
			return 1
		fi
		sleep 0.2
	done
}

# --- PostgreSQL

# postgres_bin prints the folder of the newest complete installation.
postgres_bin() {
	local dir
	for dir in $(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -t/ -k5 -rn) "$(dirname "$(command -v initdb || echo /none/initdb)")"; do
		if [ -x "$dir/initdb" ] && [ -x "$dir/postgres" ] && [ -x "$dir/pg_ctl" ] && [ -x "$dir/psql" ]; then
			echo "$dir"
			return 0
		fi
	done
	return 1
}

postgres_make() {
	local bin="$1" data="$2"
	say "making a PostgreSQL cluster in $data"
	password | (umask 077 && as postgres tee "$folder/postgres/password" >/dev/null)
	(cd / && as postgres "$bin/initdb" -D "$data" -U twostep -E UTF8 --locale=C.UTF-8 --auth=scram-sha-256 \
		--pwfile="$folder/postgres/password") >"$folder/postgres.init.log" 2>&1 || {
		say "initdb failed: see $folder/postgres.init.log"
		return 1
	}
	as postgres tee -a "$data/postgresql.conf" >/dev/null <<-CONF
		listen_addresses = '127.0.0.1'
		unix_socket_directories = ''
		fsync = on
		full_page_writes = on
		synchronous_commit = on
		max_prepared_transactions = 200
		max_connections = 200
		shared_buffers = 64MB
		max_wal_size = 512MB
		log_min_messages = warning
		log_min_error_statement = panic
	CONF
}

postgres_start() {
	local bin data="$folder/postgres/data"
	bin="$(postgres_bin)" || { install postgresql && bin="$(postgres_bin)"; } || { say "no PostgreSQL"; return 1; }
	system_user postgres
	home postgres postgres || return 1
	if ! as postgres test -s "$data/PG_VERSION"; then
		postgres_make "$bin" "$data" || return 1
	fi
	if ! as postgres "$bin/pg_ctl" status -D "$data" >/dev/null; then
		if ! (cd / && as postgres "$bin/pg_ctl" start -D "$data" -w -t "$patience" -l "$folder/postgres/log" -o "-p $postgres_port") >/dev/null; then
			say "PostgreSQL did not start: see $folder/postgres/log"
			return 1
		fi
	fi
	export PGPASSWORD
	PGPASSWORD="$(password)"
	local ask=("$bin/psql" -X -q -h 127.0.0.1 -p "$postgres_port" -U twostep)
	wait_for PostgreSQL "${ask[@]}" -d postgres -c 'SELECT 1' || return 1
	if [ "$("${ask[@]}" -d postgres -tA -c "SELECT count(*) FROM pg_database WHERE datname = 'twostep'")" = 0 ]; then
		"${ask[@]}" -d postgres -c 'CREATE DATABASE twostep'
	fi
	dsn postgres "postgres://twostep:$(password)@127.0.0.1:$postgres_port/twostep?sslmode=disable"
	say "PostgreSQL $("${ask[@]}" -d postgres -tA -c 'SHOW server_version') on 127.0.0.1:$postgres_port"
}

postgres_stop() {
	local bin data="$folder/postgres/data"
	if bin="$(postgres_bin)" && [ -d "$folder/postgres" ] && as postgres "$bin/pg_ctl" status -D "$data" >/dev/null; then
		(cd / && as postgres "$bin/pg_ctl" stop -D "$data" -m fast -w -t "$patience") >/dev/null
		say "PostgreSQL stopped"
	fi
}

# --- MariaDB

mysql_data() { echo "$folder/mysql/data"; }

# mysql_pid prints the process id of our own server, if it runs.
mysql_pid() { mysqld_pid mysql; }

# mysqld_pid NAME does so for the MariaDB or MySQL server in the folder of that name.
mysqld_pid() {
	local pid
	pid="$(as mysql cat "$folder/$1/pid" 2>/dev/null)" || return 1
	# A number in a file may be another process's by now.
	if [ -r "/proc/$pid/cmdline" ] && tr '\0' '\n' <"/proc/$pid/cmdline" | grep -qxF -- "--datadir=$folder/$1/data"; then
		echo "$pid"
	elif [ ! -d /proc/self ] && kill -0 "$pid" 2>/dev/null; then
		echo "$pid"
	else
		return 1
	fi
}

mysql_make() {
	local data
	data="$(mysql_data)"
	say "making a MariaDB data folder in $data"
	as mysql mkdir -p "$data"
	(cd / && as mysql mariadb-install-db --no-defaults --datadir="$data" --tmpdir="$folder/mysql" --auth-root-authentication-method=normal --skip-test-db) >"$folder/mysql.init.log" 2>&1 || {
		say "mariadb-install-db failed: see $folder/mysql.init.log"
		return 1
	}
}

mysql_start() {
	local data server
	if ! command -v mariadb-install-db >/dev/null || ! command -v mariadb >/dev/null; then
		install mariadb-server mariadb-client || { say "no MariaDB"; return 1; }
	fi
	server="$(PATH="$PATH:/usr/sbin" command -v mariadbd)" || { say "no MariaDB: there is no mariadbd"; return 1; }
	system_user mysql
	home mysql mysql || return 1
	data="$(mysql_data)"
	if ! as mysql test -d "$data/mysql"; then
		mysql_make || return 1
	fi
	if ! mysql_pid >/dev/null; then
		# The one account, made anew at each start. Those that come with a new server have no password.
		local init="$folder/mysql/init.sql"
		(umask 077 && as mysql tee "$init" >/dev/null) <<-SQL
			DELETE FROM mysql.global_priv WHERE User IN ('', 'root', 'mysql');
			FLUSH PRIVILEGES;
			CREATE OR REPLACE USER 'twostep'@'127.0.0.1' IDENTIFIED BY '$(password)';
			GRANT ALL PRIVILEGES ON *.* TO 'twostep'@'127.0.0.1' WITH GRANT OPTION;
			CREATE DATABASE IF NOT EXISTS twostep;
		SQL
		(
			cd /
			as mysql setsid "$server" --no-defaults --datadir="$data" --init-file="$init" \
				--port="$mysql_port" --bind-address=127.0.0.1 --skip-name-resolve --socket=server.sock --pid-file="$folder/mysql/pid" \
				--innodb-flush-log-at-trx-commit=1 --innodb-doublewrite=1 --innodb-buffer-pool-size=64M --innodb-log-file-size=96M \
				--max-connections=200 --performance-schema=OFF --tmpdir="$folder/mysql" --log-error="$folder/mysql/log.err" </dev/null >/dev/null 2>&1 &
		)
	fi
	local ask=(mariadb --no-defaults --protocol=tcp -h 127.0.0.1 -P "$mysql_port" -u twostep)
	export MYSQL_PWD
	MYSQL_PWD="$(password)"
	wait_for MariaDB "${ask[@]}" -e 'SELECT 1' || { say "see $folder/mysql/log.err"; return 1; }
	dsn mysql "twostep:$(password)@tcp(127.0.0.1:$mysql_port)/twostep"
	say "MariaDB $("${ask[@]}" -N -e 'SELECT version()') on 127.0.0.1:$mysql_port"
}

mysql_stop() {
	local pid
	if [ -d "$folder/mysql" ] && pid="$(mysql_pid)"; then
		kill -TERM "$pid"
		stopped() { ! mysql_pid; }
		wait_for "MariaDB's end" stopped
		say "MariaDB stopped"
	fi
}

# --- MySQL

. scripts/mysql8.sh

# --- Redis

# redis COMMAND… asks our server. The password does not stand on the command line.
redis() { REDISCLI_AUTH="$(password)" redis-cli -h 127.0.0.1 -p "$redis_port" "$@"; }

# redis_pid prints the process id of our own server, if it runs.
redis_pid() {
	local pid
	pid="$(as redis cat "$folder/redis/pid" 2>/dev/null)" || return 1
	# A number in a file may be another process's by now; ours runs in its folder.
	if [ "$(readlink "/proc/$pid/cwd" 2>/dev/null)" = "$(realpath "$folder/redis" 2>/dev/null)" ]; then
		echo "$pid"
	elif [ ! -d /proc/self ] && kill -0 "$pid" 2>/dev/null; then
		echo "$pid"
	else
		return 1
	fi
}

redis_start() {
	local conf="$folder/redis/redis.conf"
	if ! command -v redis-server >/dev/null || ! command -v redis-cli >/dev/null; then
		install redis-server redis-tools || { say "no Redis"; return 1; }
	fi
	system_user redis
	home redis redis || return 1
	if ! redis_pid >/dev/null; then
		(umask 077 && as redis tee "$conf" >/dev/null) <<-CONF
			bind 127.0.0.1
			port $redis_port
			requirepass $(password)
			dir $folder/redis
			pidfile $folder/redis/pid
			logfile $folder/redis/log
			daemonize yes
			appendonly yes
			appendfsync always
			maxmemory-policy noeviction
			save ""
		CONF
		if ! (cd / && as redis redis-server "$conf") >/dev/null; then
			say "Redis did not start: see $folder/redis/log"
			return 1
		fi
	fi
	answers() { [ "$(redis PING)" = PONG ]; }
	wait_for Redis answers || { say "see $folder/redis/log"; return 1; }
	say "Redis $(redis INFO server | sed -n 's/^redis_version:\([0-9.]*\).*/\1/p') on 127.0.0.1:$redis_port"
}

redis_stop() {
	local pid
	if [ -d "$folder/redis" ] && pid="$(redis_pid)"; then
		kill -TERM "$pid"
		gone() { ! redis_pid; }
		wait_for "Redis's end" gone
		say "Redis stopped"
	fi
}

# programs installs what tests start themselves: a pooler, and a NATS server as old as Debian's.
programs() {
	local program status=0
	for program in pgbouncer nats-server; do
		if ! PATH="$PATH:/usr/sbin" command -v "$program" >/dev/null; then
			install "$program" || { say "no $program"; status=1; }
		fi
	done
	return "$status"
}

# print_env names the servers that run, and fails if one does not.
print_env() {
	local bin missing=0
	if bin="$(postgres_bin)" && as postgres "$bin/pg_ctl" status -D "$folder/postgres/data" >/dev/null 2>&1; then
		echo "export TWOSTEP_TEST_POSTGRES='postgres://twostep:$(password)@127.0.0.1:$postgres_port/twostep?sslmode=disable'"
	else
		say "PostgreSQL does not run: scripts/services.sh start"
		missing=1
	fi
	if mysql_pid >/dev/null; then
		echo "export TWOSTEP_TEST_MYSQL='twostep:$(password)@tcp(127.0.0.1:$mysql_port)/twostep'"
	else
		say "MariaDB does not run: scripts/services.sh start"
		missing=1
	fi
	mysql8_env
	mysql8_pid >/dev/null || missing=1
	if redis_pid >/dev/null; then
		echo "export TWOSTEP_TEST_REDIS='redis://:$(password)@127.0.0.1:$redis_port/0'"
	else
		say "Redis does not run: scripts/services.sh start"
		missing=1
	fi
	return "$missing"
}

status=0
case "${1:-}" in
start)
	mkdir -p "$folder"
	password >/dev/null
	postgres_start || status=1
	mysql_start || status=1
	mysql8_start || status=1
	redis_start || status=1
	programs || status=1
	;;
stop)
	postgres_stop || status=1
	mysql_stop || status=1
	mysql8_stop || status=1
	redis_stop || status=1
	;;
env) print_env || status=1 ;;
*)
	say "use: scripts/services.sh start|stop|env"
	exit 2
	;;
esac
exit "$status"
