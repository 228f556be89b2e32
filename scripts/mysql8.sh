# MySQL (8 or newer) for the tests, beside MariaDB. Sourced by services.sh, whose functions it uses.
# shellcheck shell=bash disable=SC2154 # folder and patience are the sourcing script's
#
# Debian's stable releases have MariaDB alone. MySQL is in unstable, with libraries newer than this machine's. So its packages are
# unpacked into a folder of their own and run with the loader that came with them. apt fetches them with lists and a cache of its own, and
# checks what Debian signed, as always; the machine's packages and sources stay as they are. A mysqld that is installed goes first.

mysql8_port="${TWOSTEP_MYSQL8_PORT:-26308}"
mysql8_keys=/usr/share/keyrings/debian-archive-keyring.gpg

mysql8_home() { echo "$folder/mysql8"; }

# mysql8_get makes the program $folder/mysql8/mysqld, which starts MySQL without anybody's configuration.
mysql8_get() {
	local home installed
	home="$(mysql8_home)"
	if as mysql test -x "$home/mysqld"; then
		return 0
	fi
	# Where MariaDB is installed, mysqld is another name of it.
	if installed="$(PATH="$PATH:/usr/sbin" command -v mysqld)" && ! "$installed" --no-defaults --version | grep -qi mariadb; then
		printf '#!/bin/sh\nexec %q --no-defaults --secure-file-priv=NULL "$@"\n' "$installed" | mysql8_program
		return 0
	fi
	if ! command -v apt-get >/dev/null || ! command -v dpkg-deb >/dev/null || [ ! -r "$mysql8_keys" ]; then
		say "cannot get MySQL: there is no mysqld here, and no apt with Debian's keys. Install mysql-server and try again."
		return 1
	fi
	mysql8_unpack || return 1
	local root="$home/root" loader libraries
	loader="$(as mysql find "$root/usr" -name 'ld-linux*.so.*' -path '*/lib*' | sort | head -n 1)"
	libraries="$(dirname "$(as mysql find "$root/usr/lib" -name libc.so.6 | head -n 1)")"
	printf '#!/bin/sh\nexec %q --library-path %q %q --no-defaults --basedir=%q --lc-messages-dir=%q --character-sets-dir=%q --plugin-dir=%q --secure-file-priv=NULL "$@"\n' \
		"$loader" "$libraries" "$root/usr/sbin/mysqld" "$root/usr" "$root/usr/share/mysql" "$root/usr/share/mysql/charsets" "$root/usr/lib/mysql/plugin" | mysql8_program
}

# mysql8_program writes the program once it is whole and works.
mysql8_program() {
	local home
	home="$(mysql8_home)"
	as mysql tee "$home/mysqld.new" >/dev/null
	as mysql chmod 700 "$home/mysqld.new"
	as mysql "$home/mysqld.new" --version >/dev/null || { say "the mysqld that was found does not run here"; return 1; }
	as mysql mv "$home/mysqld.new" "$home/mysqld"
}

# mysql8_unpack puts Debian's mysql-server-core and all it depends on into $folder/mysql8/root.
mysql8_unpack() {
	local home apt package mirror
	home="$(mysql8_home)"
	# Where this machine has its own packages from.
	mirror="${TWOSTEP_DEBIAN:-$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep -m 1 -E '/debian/?$' || true)}"
	if [ -z "$mirror" ]; then
		say "no mirror of Debian is known here: name one in TWOSTEP_DEBIAN"
		return 1
	fi
	apt="$(mktemp -d)"
	mkdir -p "$apt"/{state/lists/partial,cache/archives/partial,etc/apt.conf.d,etc/preferences.d,etc/sources.list.d}
	: >"$apt/state/status" # nothing is installed: everything is wanted
	printf 'Types: deb\nURIs: %s\nSuites: unstable\nComponents: main\nSigned-By: %s\n' \
		"$mirror" "$mysql8_keys" >"$apt/etc/sources.list.d/unstable.sources"
	# A mirror may be some weeks behind: what Debian signed then is as good.
	cat >"$apt/apt.conf" <<-CONF
		Dir::State "$apt/state";
		Dir::State::status "$apt/state/status";
		Dir::Cache "$apt/cache";
		Dir::Etc "$apt/etc";
		Acquire::Languages "none";
		Acquire::Check-Valid-Until "false";
		APT::Install-Recommends "false";
		APT::Sandbox::User "";
		Debug::NoLocking "true";
	CONF
	say "fetching MySQL from Debian unstable (about 70 MB, once)"
	if ! (
		set -e
		export APT_CONFIG="$apt/apt.conf"
		apt-get update -qq
		apt-get install -qq -y --download-only mysql-server-core
	) >"$folder/mysql8.get.log" 2>&1; then
		rm -rf "$apt"
		say "cannot get MySQL: see $folder/mysql8.get.log. Install mysql-server by hand where there is one, or go without: its tests are then skipped"
		return 1
	fi
	chmod -R go+rX "$apt"
	as mysql rm -rf "$home/root"
	as mysql mkdir "$home/root"
	for package in "$apt"/cache/archives/*.deb; do
		case "${package##*/}" in
		perl* | libperl* | openssl* | *-doc_*) ;; # for its scripts, which nobody runs
		*) as mysql dpkg-deb -x "$package" "$home/root" || return 1 ;;
		esac
	done
	rm -rf "$apt"
}

# mysql8_pid prints the process id of our own server, if it runs.
mysql8_pid() { mysqld_pid mysql8; }

mysql8_make() {
	local home
	home="$(mysql8_home)"
	say "making a MySQL data folder in $home/data"
	(cd / && as mysql "$home/mysqld" --initialize-insecure --datadir="$home/data.new" --tmpdir="$home") >"$folder/mysql8.init.log" 2>&1 || {
		as mysql rm -rf "$home/data.new"
		say "mysqld --initialize failed: see $folder/mysql8.init.log"
		return 1
	}
	as mysql mv "$home/data.new" "$home/data"
}

mysql8_start() {
	local home
	home="$(mysql8_home)"
	system_user mysql
	home mysql mysql8 || return 1
	mysql8_get || return 1
	as mysql test -d "$home/data" || mysql8_make || return 1
	if ! mysql8_pid >/dev/null; then
		# The one account, made anew at each start. The one that comes with a new server has no password.
		(umask 077 && as mysql tee "$home/init.sql" >/dev/null) <<-SQL
			DROP USER IF EXISTS 'root'@'localhost';
			CREATE USER IF NOT EXISTS 'twostep'@'127.0.0.1';
			ALTER USER 'twostep'@'127.0.0.1' IDENTIFIED BY '$(password)';
			GRANT ALL PRIVILEGES ON *.* TO 'twostep'@'127.0.0.1' WITH GRANT OPTION;
			CREATE DATABASE IF NOT EXISTS twostep;
		SQL
		as mysql rm -f "$home/log.err"
		(
			cd /
			as mysql setsid "$home/mysqld" --datadir="$home/data" --init-file="$home/init.sql" \
				--port="$mysql8_port" --bind-address=127.0.0.1 --skip-name-resolve --mysqlx=OFF --socket="$home/data/server.sock" \
				--pid-file="$home/pid" --tmpdir="$home" --innodb-flush-log-at-trx-commit=1 --innodb-doublewrite=ON --sync-binlog=1 \
				--innodb-buffer-pool-size=64M --max-connections=200 --log-error="$home/log.err" </dev/null >/dev/null 2>&1 &
		)
	fi
	ready() { as mysql grep -q 'ready for connections' "$home/log.err" && mysql8_pid; }
	wait_for MySQL ready || { say "see $home/log.err"; return 1; }
	say "MySQL $(as mysql "$home/mysqld" --version | sed 's/.*Ver \([^ ]*\).*/\1/') on 127.0.0.1:$mysql8_port"
}

mysql8_stop() {
	local pid
	if [ -d "$(mysql8_home)" ] && pid="$(mysql8_pid)"; then
		kill -TERM "$pid"
		stopped8() { ! mysql8_pid; }
		wait_for "MySQL's end" stopped8
		say "MySQL stopped"
	fi
}

# mysql8_env tells where it is, and by which program tests start servers of their own.
mysql8_env() {
	if mysql8_pid >/dev/null; then
		echo "export TWOSTEP_TEST_MYSQL8='twostep:$(password)@tcp(127.0.0.1:$mysql8_port)/twostep'"
		echo "export TWOSTEP_TEST_MYSQLD='$(mysql8_home)/mysqld'"
	else
		say "MySQL does not run: scripts/services.sh start"
	fi
}
